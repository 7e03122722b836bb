/** Tables of a report. */
import type { ProbeFigure } from '../probes.ts';
import { median } from './summary.ts';
import type { Range, Ratio, Row } from './summary.ts';

const NONE = '–';

/** Three digits that matter; whole numbers from 100 on. */
export function figure(value: number | null): string {
  if (value === null) return NONE;
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en');
  return Math.abs(value) >= 10 ? value.toFixed(1) : Math.abs(value) >= 1 ? value.toFixed(2) : value.toFixed(3);
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map((_, i) => (i < 2 ? '--' : '--:'))), ...rows.map(line)].join('\n');
}

interface Column {
  readonly head: string;
  readonly cell: (row: Row) => string;
  /** A column that no row has anything for is left out. */
  readonly has: (row: Row) => boolean;
}

const always = (): boolean => true;
const known = (head: string, field: (row: Row) => number | null): Column => ({ head, cell: (row) => figure(field(row)), has: (row) => field(row) !== null });

const NAMES: readonly Column[] = [
  { head: 'load', cell: ({ point }) => point.label, has: always },
  { head: 'subject', cell: ({ subject }) => subject, has: always },
];

const SPEED: readonly Column[] = [
  ...NAMES,
  { head: '/s', cell: ({ perSecond }) => figure(perSecond), has: always },
  { head: '±', cell: ({ spread }) => `${Math.round(spread * 100)}%`, has: ({ runs }) => runs > 1 },
  known('frames/s', (row) => row.framesPerSecond),
  known('frame p50 ms', (row) => row.frameP50),
  known('frame p99', (row) => row.frameP99),
  known('p50 ms', (row) => row.p50),
  known('p95', (row) => row.p95),
  known('p99', (row) => row.p99),
  known('p99.9', (row) => row.p999),
  known('max', (row) => row.max),
  known('CPU s per 1,000', (row) => row.cpuPer1000),
  { head: 'unanswered', cell: ({ unanswered }) => String(unanswered), has: ({ unanswered }) => unanswered > 0 },
  { head: 'errors', cell: ({ errors }) => String(errors), has: ({ errors }) => errors > 0 },
];

const COST: readonly Column[] = [
  ...NAMES,
  known('server cores', (row) => row.serverCores),
  known('generator cores', (row) => row.generatorCores),
  known('other cores', (row) => row.otherCores),
  known('disk flushes each', (row) => row.flushesEach),
  known('synced batches each', (row) => row.syncsEach),
  known('ms of one', (row) => row.syncMs),
  known('bytes written per byte', (row) => row.writtenPerByte),
  known('RSS MiB', (row) => row.residentMiB),
  known('loop lag p99 ms', (row) => row.loopLagP99Ms),
];

/** All rows of one scenario; `speed`: what clients see, `cost`: what it takes. */
export function rowTable(rows: readonly Row[], which: 'speed' | 'cost'): string {
  const columns = (which === 'speed' ? SPEED : COST).filter(({ has }) => rows.some(has));
  return table(columns.map(({ head }) => head), rows.map((row) => columns.map(({ cell }) => cell(row))));
}

/** How the product stands against each yardstick; '' where there is none. */
export function ratioTable(ratios: readonly Ratio[]): string {
  if (ratios.length === 0) return '';
  return table(
    ['load', 'against', 'throughput', 'CPU per 1,000', 'p50', 'p99'],
    ratios.map(({ label, yardstick, throughput, cpu, p50, p99 }) => [label, yardstick, rangeCell(throughput), rangeCell(cpu), rangeCell(p50), rangeCell(p99)]),
  );
}

/** Figures of a probe: median, least and greatest over nodes and passes. */
export function probeTable(figures: readonly ProbeFigure[]): string {
  const whats = [...new Set(figures.map(({ what }) => what))];
  return table(
    ['what', 'unit', 'median', 'least', 'greatest'],
    whats.map((what) => {
      const of = figures.filter((one) => one.what === what);
      const values = of.map(({ value }) => value);
      return [what, of[0]?.unit ?? '', figure(median(values)), figure(Math.min(...values)), figure(Math.max(...values))];
    }),
  );
}

function rangeCell(range: Range | null): string {
  if (range === null) return NONE;
  const { median: middle, least, greatest } = range;
  return least === greatest ? `${middle.toFixed(2)}×` : `${middle.toFixed(2)}× (${least.toFixed(2)}–${greatest.toFixed(2)})`;
}
