/**
 * Runs load scenarios: passes over all subjects, each on servers of its own, so that what the machine does meanwhile falls
 * on everybody. Owns the order and the progress line; knows nothing of how a subject starts or how a report looks.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LoadJob, LoadResult } from './load/job.ts';
import { runLoad, runPrepare } from './load/run.ts';
import { sampleMachine } from './measure/proc.ts';
import { contextSetOf, operationOf } from './scenarios.ts';
import type { LoadScenario, Point } from './scenarios.ts';
import type { RunningSubject, Subject, SubjectOptions } from './subjects/types.ts';

export interface Measurement {
  readonly scenario: string;
  readonly point: Point;
  readonly subject: string;
  readonly run: number;
  readonly result: LoadResult;
}

export interface RunOptions {
  readonly seconds: number;
  readonly warmupSeconds: number;
  readonly settleSeconds: number;
  readonly env: Readonly<Record<string, string>>;
  readonly profileDirectory: string | null;
  /** One line; a transient one is overwritten by the next. */
  readonly say: (line: string, isTransient?: boolean) => void;
}

/** Contexts of a load never fill their budget by tokens; the default policy keeps their windows at 400 messages. */
const SETTINGS = '{"token_budget":1000000}';
/** How many times longer the warm-up of a subject's first load is. */
const FIRST_WARMUP = 3;
/** Cores that other work on the machine may use when a window begins. */
const BUSY_CORES_MAX = 0.15;
const SETTLE_POLL_MS = 500;

/** One pass over one scenario with one subject. Empty where the subject is not installed. */
export async function measureSubject(scenario: LoadScenario, points: readonly Point[], subject: Subject, run: number, options: RunOptions): Promise<Measurement[]> {
  const able = points.filter((point) => isAble(subject, point));
  if (able.length === 0) return [];
  return onSubject(subject, scenario.nodes, options, async (running, directory) => {
    const measured: Measurement[] = [];
    const prepared = new Set<string>();
    for (const point of able) {
      const title = `${scenario.name}, ${subject.name}, ${point.label}, run ${run}`;
      await prepareFor(point, subject, running, prepared, options, title);
      // The first load of a fresh server also pays for code not yet compiled and tables not yet loaded.
      const warmupSeconds = options.warmupSeconds * (measured.length === 0 ? FIRST_WARMUP : 1);
      const job = await jobOf(point, subject, running, directory, { ...options, warmupSeconds });
      if (job === null) continue;
      await settle(options.settleSeconds);
      const result = await runLoad(job, (done, total) => options.say(`${title}: ${Math.round(done)} of ${total} s`, true));
      measured.push({ scenario: scenario.name, point, subject: subject.name, run, result });
      options.say(`${title}: ${lineOf(result)}`);
    }
    return measured;
  });
}

/** Starts a subject in a directory of its own, hands it to `use`, and leaves nothing of it. */
export async function onSubject<T>(subject: Subject, nodes: number, options: Pick<SubjectOptions, 'env' | 'profileDirectory'> & Pick<RunOptions, 'say'>, use: (running: RunningSubject, directory: string) => Promise<T[]>): Promise<T[]> {
  const directory = mkdtempSync(join(tmpdir(), 'fastpaca-bench-'));
  // A run that is interrupted leaves neither servers (subjects/processes.ts) nor their files.
  const remove = (): void => rmSync(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  process.once('exit', remove);
  try {
    const { env, profileDirectory } = options;
    const running = await subject.start({ nodes, env, directory, profileDirectory });
    if (running === null) {
      options.say(`${subject.name}: not installed, left out`);
      return [];
    }
    try {
      return await use(running, directory);
    } finally {
      await running.stop();
    }
  } finally {
    process.off('exit', remove);
    remove();
  }
}

function isAble({ speaks }: Subject, { operation, batch, subscribers, route }: Point): boolean {
  if (speaks === 'everything') return true;
  if (subscribers > 0 || route !== 'spread') return false;
  return speaks === 'reads' ? operation === 'tail' || operation === 'window' : operation === 'append' && batch === 1;
}

async function prepareFor(point: Point, { speaks }: Subject, running: RunningSubject, prepared: Set<string>, { say }: RunOptions, title: string): Promise<void> {
  const contexts = contextSetOf(point);
  if (speaks === 'puts' || prepared.has(contexts.prefix)) return;
  prepared.add(contexts.prefix);
  const endpoints = await running.endpoints(contexts, 'spread');
  if (endpoints === null) return;
  const { messagesEach, messageBytes } = point;
  await runPrepare({ kind: 'prepare', endpoints, contexts, messagesEach, messageBytes, settings: SETTINGS }, (done, total) => say(`${title}: filling, ${Math.floor((done / total) * 100)}%`, true));
}

async function jobOf(point: Point, { speaks }: Subject, running: RunningSubject, directory: string, { seconds, warmupSeconds }: RunOptions): Promise<LoadJob | null> {
  const contexts = contextSetOf(point);
  const endpoints = await running.endpoints(contexts, point.route);
  if (endpoints === null) return null;
  const { clients, rate, subscribers, messageBytes } = point;
  const operation = speaks === 'puts' ? ({ kind: 'put', messageBytes } as const) : operationOf(point);
  const { metricsUrls } = running;
  const pids = running.pids();
  return { kind: 'load', endpoints, contexts, operation, clients, rate, subscribers, warmupSeconds, seconds, pids, metricsUrls, directory };
}

/** Waits until the machine has nothing else to do, for a while at most. */
async function settle(seconds: number): Promise<void> {
  const deadline = performance.now() + seconds * 1000;
  while (performance.now() < deadline) {
    const before = sampleMachine('/');
    await new Promise((resolve) => setTimeout(resolve, SETTLE_POLL_MS));
    const after = sampleMachine('/');
    if (before === null || after === null) return;
    if ((after.busySeconds - before.busySeconds) / (SETTLE_POLL_MS / 1000) <= BUSY_CORES_MAX) return;
  }
}

function lineOf({ units, seconds, latency, serverCpuSeconds, errors, errorKinds, frames }: LoadResult): string {
  const rate = Math.round(units / seconds).toLocaleString('en');
  const cpu = serverCpuSeconds === null || units === 0 ? '' : `, ${((serverCpuSeconds / units) * 1000).toFixed(3)} CPU s per 1,000`;
  const times = latency === null ? '' : `, p50 ${latency.p50.toFixed(2)} p99 ${latency.p99.toFixed(1)} ms`;
  const delivered = frames === 0 ? '' : `, ${Math.round(frames / seconds).toLocaleString('en')} frames/s`;
  return `${rate}/s${times}${cpu}${delivered}${errors === 0 ? '' : `, ${errors} errors: ${JSON.stringify(errorKinds)}`}`;
}
