/** From measurements of several passes to one row for each subject and point: medians, with their spread. */
import type { Measurement } from '../runner.ts';
import type { Point } from '../scenarios.ts';
import type { LoadResult } from '../load/job.ts';

/** Medians over the passes. What a subject or machine does not tell is null. */
export interface Row {
  readonly scenario: string;
  readonly point: Point;
  readonly subject: string;
  readonly runs: number;
  /** Messages appended a second, or requests where the point reads. */
  readonly perSecond: number;
  /** Half the range over the passes, as a share of the median. */
  readonly spread: number;
  readonly p50: number | null;
  readonly p95: number | null;
  readonly p99: number | null;
  readonly p999: number | null;
  /** Of all passes. */
  readonly max: number | null;
  /** CPU seconds of the server processes for 1,000 messages appended, or requests. */
  readonly cpuPer1000: number | null;
  readonly serverCores: number | null;
  readonly generatorCores: number;
  readonly otherCores: number | null;
  /** Cache flushes that the disk completed, all nodes together. */
  readonly flushesEach: number | null;
  /** Synced storage batches by the nodes' own count, all nodes together. */
  readonly syncsEach: number | null;
  readonly syncMs: number | null;
  /** Bytes that reached the disks of all nodes for one byte of message text. */
  readonly writtenPerByte: number | null;
  readonly residentMiB: number | null;
  readonly loopLagP99Ms: number | null;
  readonly framesPerSecond: number | null;
  readonly frameP50: number | null;
  readonly frameP99: number | null;
  readonly errors: number;
  readonly unanswered: number;
}

export function median(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null).toSorted((a, b) => a - b);
  const middle = known.length >> 1;
  const upper = known[middle];
  if (upper === undefined) return null;
  return known.length % 2 === 1 ? upper : ((known[middle - 1] ?? upper) + upper) / 2;
}

/** By scenario, point and subject; the points in the order in which they were first measured, their subjects together. */
function groupBy(measurements: readonly Measurement[]): Measurement[][] {
  const groups = new Map<string, Measurement[]>();
  for (const measurement of measurements) {
    const key = [measurement.scenario, measurement.point.label, measurement.subject].join('\n');
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [measurement]);
    else group.push(measurement);
  }
  const points = new Map<string, number>();
  for (const { point } of measurements) if (!points.has(point.label)) points.set(point.label, points.size);
  const place = ([first]: readonly Measurement[]): number => points.get(first?.point.label ?? '') ?? 0;
  return [...groups.values()].toSorted((a, b) => place(a) - place(b));
}

/** One row for each point and subject of a scenario's measurements. */
export function summarise(measurements: readonly Measurement[]): Row[] {
  return groupBy(measurements).flatMap((group) => {
    const [first] = group;
    return first === undefined ? [] : [rowOf(first, group.map(({ result }) => result))];
  });
}

function rowOf({ scenario, point, subject }: Measurement, results: readonly LoadResult[]): Row {
  const over = (field: (result: LoadResult) => number | null): number | null => median(results.map(field));
  const sum = (field: (result: LoadResult) => number): number => results.reduce((total, result) => total + field(result), 0);
  const rates = results.map(({ units, seconds }) => units / seconds);
  const perSecond = median(rates) ?? 0;
  const appends = point.operation === 'append';
  return {
    scenario,
    point,
    subject,
    runs: results.length,
    perSecond,
    spread: perSecond === 0 ? 0 : (Math.max(...rates) - Math.min(...rates)) / 2 / perSecond,
    p50: over(({ latency }) => latency?.p50 ?? null),
    p95: over(({ latency }) => latency?.p95 ?? null),
    p99: over(({ latency }) => latency?.p99 ?? null),
    p999: over(({ latency }) => latency?.p999 ?? null),
    max: results.some(({ latency }) => latency !== null) ? Math.max(...results.map(({ latency }) => latency?.max ?? 0)) : null,
    cpuPer1000: over(cpuPer1000),
    serverCores: over(({ serverCpuSeconds, seconds }) => (serverCpuSeconds === null ? null : serverCpuSeconds / seconds)),
    generatorCores: over(({ generatorCpuSeconds, seconds }) => generatorCpuSeconds / seconds) ?? 0,
    otherCores: over(({ otherCpuSeconds, seconds }) => (otherCpuSeconds === null ? null : otherCpuSeconds / seconds)),
    flushesEach: appends ? over(({ diskFlushes, units }) => (diskFlushes === null || units === 0 ? null : diskFlushes / units)) : null,
    syncsEach: appends ? over(({ nodes }) => (nodes === null || nodes.appended === 0 ? null : nodes.syncs / nodes.appended)) : null,
    syncMs: appends ? over(({ nodes }) => nodes?.syncMsEach ?? null) : null,
    writtenPerByte: appends ? over(({ serverWrittenBytes, units }) => (serverWrittenBytes === null || units === 0 ? null : serverWrittenBytes / (units * point.messageBytes))) : null,
    residentMiB: over(({ serverResidentBytes }) => (serverResidentBytes === null ? null : serverResidentBytes / 1024 ** 2)),
    loopLagP99Ms: over(({ nodes }) => nodes?.loopLagP99Ms ?? null),
    framesPerSecond: point.subscribers === 0 ? null : over(({ frames, seconds }) => frames / seconds),
    frameP50: over(({ frameLatency }) => frameLatency?.p50 ?? null),
    frameP99: over(({ frameLatency }) => frameLatency?.p99 ?? null),
    errors: sum(({ errors }) => errors),
    unanswered: sum(({ unanswered }) => unanswered),
  };
}

export function cpuPer1000({ serverCpuSeconds, units }: LoadResult): number | null {
  return serverCpuSeconds === null || units === 0 ? null : (serverCpuSeconds / units) * 1000;
}

/** Something against a yardstick, each ratio taken within one pass: median, least and greatest. */
export interface Ratio {
  readonly label: string;
  readonly yardstick: string;
  readonly throughput: Range;
  readonly cpu: Range | null;
  readonly p50: Range | null;
  readonly p99: Range | null;
}

export interface Range {
  readonly median: number;
  readonly least: number;
  readonly greatest: number;
}

function rangeOf(values: readonly (number | null)[]): Range | null {
  const known = values.filter((value) => value !== null);
  const middle = median(known);
  return middle === null ? null : { median: middle, least: Math.min(...known), greatest: Math.max(...known) };
}

/** The product against every other subject of each point. */
export function ratios(measurements: readonly Measurement[], subject = 'fastpaca'): Ratio[] {
  const groups = groupBy(measurements);
  return groups.flatMap((theirs) => {
    const [first] = theirs;
    if (first === undefined || first.subject === subject) return [];
    const ours = groups.find(([one]) => one?.subject === subject && one.scenario === first.scenario && one.point.label === first.point.label) ?? [];
    return ratioOf(ours, theirs, first.point.label, first.subject);
  });
}

/** Each point against the one of the same operation with the least on `axis`: what growth costs. */
export function growths(measurements: readonly Measurement[], axis: 'contexts' | 'messagesEach', subject = 'fastpaca'): Ratio[] {
  const groups = groupBy(measurements.filter((one) => one.subject === subject));
  return groups.flatMap((grown) => {
    const [first] = grown;
    if (first === undefined) return [];
    const alike = groups.filter(([one]) => one?.point.operation === first.point.operation && one.point.clients === first.point.clients);
    const [least] = alike.toSorted(([a], [b]) => (a?.point[axis] ?? 0) - (b?.point[axis] ?? 0));
    if (least === undefined || least === grown) return [];
    return ratioOf(grown, least, first.point.label, least[0]?.point.label ?? '');
  });
}

function ratioOf(ours: readonly Measurement[], theirs: readonly Measurement[], label: string, yardstick: string): Ratio[] {
  const over = (field: (result: LoadResult) => number | null): Range | null =>
    rangeOf(
      ours.map(({ run, result }) => {
        const theirResult = theirs.find((one) => one.run === run)?.result;
        const [a, b] = [field(result), theirResult === undefined ? null : field(theirResult)];
        return a === null || b === null || b === 0 ? null : a / b;
      }),
    );
  const throughput = over(({ units, seconds }) => units / seconds);
  if (throughput === null) return [];
  const at = (field: 'p50' | 'p99'): Range | null => over(({ latency }) => latency?.[field] ?? null);
  return [{ label, yardstick, throughput, cpu: over(cpuPer1000), p50: at('p50'), p99: at('p99') }];
}
