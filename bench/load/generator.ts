/**
 * The load generator's process: takes one job by IPC, does it, reports, ends. A process of its own so that what it costs
 * is known and nothing of the runner's falls into the window. It samples the servers itself, at the window's edges.
 */
import { sampleMachine, sampleProcesses } from '../measure/proc.ts';
import { scrape } from '../measure/prometheus.ts';
import { ClosedClient } from './closed.ts';
import { deltaOf } from './job.ts';
import type { Job, LoadJob, LoadResult, Over, Report } from './job.ts';
import { OpenLoop } from './open.ts';
import { prepare } from './prepare.ts';
import { scattered, sourceOf } from './requests.ts';
import type { RequestSource } from './requests.ts';
import { Subscriber } from './subscribers.ts';
import { Window } from './window.ts';

const SUBSCRIBE_AT_ONCE = 50;
const PROGRESS_MS = 1000;

function report(message: Report): void {
  process.send?.(message);
}

/** Either loop: connected, running, with a window that opens and closes. */
interface Load {
  open(): Promise<void>;
  start(): void;
  openWindow(): void;
  /** Requests of the window that stayed unanswered. */
  closeWindow(): Promise<number>;
  close(): void;
}

/** Cycles through a list. */
function inTurn<T>(list: readonly T[]): (i: number) => T {
  return (i) => {
    const item = list[i % list.length];
    if (item === undefined) throw new Error('a load needs an endpoint');
    return item;
  };
}

function loadOf(job: LoadJob, window: Window): Load {
  const endpoint = inTurn(job.endpoints);
  // Clients of one endpoint share a source, so that they go through the contexts together.
  const sources = job.endpoints.map((one): RequestSource => sourceOf(job.operation, one, job.contexts, job.subscribers > 0));
  const source = inTurn(sources);
  if (job.rate !== null) {
    const loop = new OpenLoop(job.rate, window);
    for (let i = 0; i < job.clients; i++) loop.add(endpoint(i), source(i));
    return loop;
  }
  const clients = Array.from({ length: job.clients }, (_, i) => new ClosedClient(endpoint(i), source(i), window));
  return {
    open: async () => void (await Promise.all(clients.map((client) => client.open()))),
    start: () => clients.forEach((client) => client.start()),
    openWindow: () => void (window.isOpen = true),
    closeWindow: () => {
      window.isOpen = false;
      return Promise.resolve(0);
    },
    close: () => clients.forEach((client) => client.close()),
  };
}

async function subscribe(job: LoadJob, window: Window): Promise<Subscriber[]> {
  const endpoint = inTurn(job.endpoints);
  const order = scattered(job.contexts.count);
  const open: Subscriber[] = [];
  while (open.length < job.subscribers) {
    const step = Math.min(SUBSCRIBE_AT_ONCE, job.subscribers - open.length);
    open.push(...(await Promise.all(Array.from({ length: step }, (_, i) => Subscriber.open(endpoint(i), `${job.contexts.prefix}-${order.next().value}`, window)))));
  }
  return open;
}

const pause = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

async function load(job: LoadJob, over: Promise<void>): Promise<LoadResult> {
  const window = new Window();
  const running = loadOf(job, window);
  const subscribers = await subscribe(job, window);
  await running.open();
  running.start();
  await pause(job.warmupSeconds);
  const nodesBefore = await scrape(job.metricsUrls);

  const start = performance.now();
  const before = { own: process.cpuUsage(), servers: sampleProcesses(job.pids), machine: sampleMachine(job.directory) };
  running.openWindow();
  report({ kind: 'progress', done: 0, total: job.seconds });
  const timer = setInterval(() => report({ kind: 'progress', done: (performance.now() - start) / 1000, total: job.seconds }), PROGRESS_MS);
  await Promise.race([pause(job.seconds), over]);
  clearInterval(timer);
  const closing = running.closeWindow();
  const seconds = (performance.now() - start) / 1000;
  const own = process.cpuUsage(before.own);
  const servers = sampleProcesses(job.pids);
  const machine = sampleMachine(job.directory);
  const nodesAfter = await scrape(job.metricsUrls);
  const unanswered = await closing;

  const lost = subscribers.filter((subscriber) => !subscriber.isOpen).length;
  if (lost > 0) window.failed(`${lost} streams were closed`);
  for (const subscriber of subscribers) subscriber.close();
  running.close();

  const generatorCpuSeconds = (own.user + own.system) / 1e6;
  const grown = <T>(last: T | null, first: T | null, field: (sample: T) => number | null): number | null => {
    const [to, from] = [last === null ? null : field(last), first === null ? null : field(first)];
    return to === null || from === null ? null : to - from;
  };
  const serverCpuSeconds = grown(servers, before.servers, (sample) => sample.cpuSeconds);
  const busy = grown(machine, before.machine, (sample) => sample.busySeconds);
  return {
    seconds,
    requests: window.latencies.count - unanswered,
    units: window.units,
    answerBytes: window.answerBytes,
    latency: window.latencies.percentiles(),
    sendDelay: window.sendDelays.percentiles(),
    unanswered,
    errors: window.errors,
    errorKinds: window.errorKinds,
    frames: window.frames,
    frameLatency: window.frameLatencies.percentiles(),
    serverCpuSeconds,
    generatorCpuSeconds,
    otherCpuSeconds: busy === null ? null : Math.max(0, busy - (serverCpuSeconds ?? 0) - generatorCpuSeconds),
    serverWrittenBytes: grown(servers, before.servers, (sample) => sample.writtenBytes),
    serverResidentBytes: servers?.residentBytes ?? null,
    diskFlushes: grown(machine, before.machine, (sample) => sample.flushes),
    nodes: deltaOf(nodesBefore, nodesAfter),
  };
}

async function perform(job: Job, over: Promise<void>): Promise<Report> {
  switch (job.kind) {
    case 'prepare':
      await prepare(job, (done, total) => report({ kind: 'progress', done, total }));
      return { kind: 'prepared' };
    case 'load':
      return { kind: 'result', result: await load(job, over) };
  }
}

process.once('message', (message) => {
  // Only the runner of this very version speaks to this process.
  const over = new Promise<void>((resolve) => process.once('message', (later) => void ((later as Over).kind === 'over' && resolve())));
  perform(message as Job, over).then(
    (done) => process.send?.(done, () => process.exit(0)),
    (error: unknown) => process.send?.({ kind: 'failed', reason: error instanceof Error ? error.message : String(error) } satisfies Report, () => process.exit(1)),
  );
});
// A runner that is gone leaves no generator behind.
process.once('disconnect', () => process.exit(1));
