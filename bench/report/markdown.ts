/** Tables of a report. */
import { ratios, summarise } from './summary.ts';
import type { Range, Row } from './summary.ts';
import type { Measurement } from '../runner.ts';

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

const COLUMNS: readonly Column[] = [
  { head: 'load', cell: ({ point }) => point.label, has: always },
  { head: 'subject', cell: ({ subject }) => subject, has: always },
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
  known('server cores', (row) => row.serverCores),
  known('generator cores', (row) => row.generatorCores),
  known('other cores', (row) => row.otherCores),
  known('flushes each', (row) => row.flushesEach),
  known('syncs each', (row) => row.syncsEach),
  known('sync ms', (row) => row.syncMs),
  known('written per byte', (row) => row.writtenPerByte),
  known('RSS MiB', (row) => row.residentMiB),
  known('loop lag p99 ms', (row) => row.loopLagP99Ms),
  { head: 'unanswered', cell: ({ unanswered }) => String(unanswered), has: ({ unanswered }) => unanswered > 0 },
  { head: 'errors', cell: ({ errors }) => String(errors), has: ({ errors }) => errors > 0 },
];

/** All rows of one scenario. */
export function loadTable(measurements: readonly Measurement[]): string {
  const rows = summarise(measurements).toSorted((a, b) => order(measurements, a) - order(measurements, b));
  const columns = COLUMNS.filter(({ has }) => rows.some(has));
  return table(columns.map(({ head }) => head), rows.map((row) => columns.map(({ cell }) => cell(row))));
}

/** Rows of one point stand together, points in the order of the scenario. */
function order(measurements: readonly Measurement[], { point }: Row): number {
  return measurements.findIndex((measurement) => measurement.point.label === point.label);
}

/** How the product stands against each yardstick; '' where there is none. */
export function ratioTable(measurements: readonly Measurement[]): string {
  const rows = ratios(measurements);
  if (rows.length === 0) return '';
  return table(
    ['load', 'against', 'throughput', 'CPU per 1,000', 'p50', 'p99'],
    rows.map(({ label, yardstick, throughput, cpu, p50, p99 }) => [label, yardstick, rangeCell(throughput), rangeCell(cpu), rangeCell(p50), rangeCell(p99)]),
  );
}

function rangeCell(range: Range | null): string {
  if (range === null) return NONE;
  const { median, least, greatest } = range;
  return least === greatest ? `${median.toFixed(2)}×` : `${median.toFixed(2)}× (${least.toFixed(2)}–${greatest.toFixed(2)})`;
}
