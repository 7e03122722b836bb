/**
 * What trimming costs appends: one rate of appends before, and again while a large archived backlog leaves hot storage as
 * fast as it goes. The backlog is archived first, by nodes that keep all of it hot, and then starts over with nodes that
 * keep little: so Postgres and the reading for it have no part in what is measured.
 */
import { PostgresServer } from '../test/unit/archiver-postgres.ts';
import type { ContextSet, Endpoint, LoadResult } from './load/job.ts';
import { runLoad, runPrepare } from './load/run.ts';
import { scrape } from './measure/prometheus.ts';
import type { ProbeFigure, ProbeOptions } from './probes.ts';
import { onSubject } from './runner.ts';
import { fastpaca } from './subjects/fastpaca.ts';
import type { RunningSubject } from './subjects/types.ts';

/** Far below what the machine can do: what is measured is waiting, not load. */
const RATE = 300;
const CLIENTS = 64;
const MESSAGE_BYTES = 440;
const LOAD: ContextSet = { prefix: 'trimming-load', count: 1000 };
const BACKLOG_CONTEXTS = 100;
const TAIL_KEEP = 100;
const TAIL_KEEP_ALL = 10_000_000;
const SETTINGS = '{"token_budget":8000,"policy":{"strategy":"last_n","config":{"limit":50}}}';
const FLUSH_MS = 500;
const ARCHIVED_MS = 600_000;
/** Windows end with the trimming, at most after so long. */
const TRIMMING_SECONDS_MAX = 60;
const SAMPLE_MS = 250;
/** Nodes have just started: code is compiled, tables of tokens are loaded. */
const WARMUPS = 2;

type Phase = 'without' | 'while trimming';

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Figures of one pass, on one server or several. */
export async function trimming(run: number, options: ProbeOptions): Promise<ProbeFigure[]> {
  const postgres = await PostgresServer.start();
  try {
    const env = { ...options.env, FASTPACA_ARCHIVER_ENABLED: 'true', DATABASE_URL: postgres.url, FASTPACA_ARCHIVE_FLUSH_INTERVAL_MS: String(FLUSH_MS), FASTPACA_TAIL_KEEP: String(TAIL_KEEP_ALL) };
    return await onSubject(fastpaca(), options.nodes, { ...options, env }, async (running, directory) => {
      const title = `trimming, ${options.nodes} ${options.nodes === 1 ? 'node' : 'nodes'}, run ${run}`;
      const each = Math.max(TAIL_KEEP + 1, Math.round(options.messages / BACKLOG_CONTEXTS));
      const backlog: ContextSet = { prefix: 'trimming', count: BACKLOG_CONTEXTS };
      const endpoints = (await running.endpoints(LOAD, 'spread')) ?? [];
      const fill = (contexts: ContextSet, messagesEach: number): Promise<void> =>
        runPrepare({ kind: 'prepare', endpoints, contexts, messagesEach, messageBytes: MESSAGE_BYTES, settings: SETTINGS }, (done, total) => options.say(`${title}: filling, ${Math.floor((done / total) * 100)}%`, true));
      await fill(LOAD, 1);
      await fill(backlog, each);
      await archived(postgres, LOAD.count + backlog.count * each, (left) => options.say(`${title}: ${left} to be archived`, true));
      await running.restart?.('SIGTERM', { FASTPACA_TAIL_KEEP: String(TAIL_KEEP) });
      // One message makes each context pending again, and the mark of that one lets go all the others.
      return compare(running, directory, { run, options, endpoints, backlog, rows: backlog.count * (each + 1 - TAIL_KEEP), title });
    });
  } finally {
    await postgres.remove();
  }
}

interface Comparison {
  readonly run: number;
  readonly options: ProbeOptions;
  readonly endpoints: readonly Endpoint[];
  readonly backlog: ContextSet;
  /** Messages to be trimmed. */
  readonly rows: number;
  readonly title: string;
}

async function compare(running: RunningSubject, directory: string, { run, options, endpoints, backlog, rows, title }: Comparison): Promise<ProbeFigure[]> {
  const figures: ProbeFigure[] = [];
  const nodes = `${options.nodes} ${options.nodes === 1 ? 'node' : 'nodes'}`;
  const figure = (what: string, unit: ProbeFigure['unit'], value: number): void => void figures.push({ scenario: 'trimming', what: `${nodes}: ${what}`, unit, run, value });
  const warmupSeconds = options.warmupSeconds * WARMUPS;
  const operation = { kind: 'append', messageBytes: MESSAGE_BYTES, batch: 1 } as const;
  const { metricsUrls } = running;
  const job = { kind: 'load', endpoints, contexts: LOAD, operation, clients: CLIENTS, rate: RATE, subscribers: 0, warmupSeconds, pids: running.pids(), metricsUrls, directory } as const;
  /** `meanwhile` begins with the window, and ends it. */
  const load = async (phase: Phase, seconds: number, meanwhile: (nodes: Watch) => Promise<unknown>): Promise<LoadResult> => {
    const watch = new Watch(metricsUrls);
    const { promise: over, resolve: isOver, reject: failed } = Promise.withResolvers<unknown>();
    let begun = false;
    const result = await runLoad(
      { ...job, seconds },
      (done) => {
        options.say(`${title}, ${phase}: ${Math.round(done)} s`, true);
        if (begun) return;
        begun = true;
        watch.reset();
        meanwhile(watch).then(isOver, failed);
      },
      over,
    );
    await over;
    await watch.stop();
    const { latency } = result;
    if (latency === null || result.errors > 0) throw new Error(`appends failed: ${JSON.stringify(result.errorKinds)}`);
    for (const [name, key] of [['p50', 'p50'], ['p99', 'p99'], ['p99.9', 'p999'], ['max', 'max']] as const) figure(`${name} ${phase}`, 'ms', latency[key]);
    figure(`longest delay of an event loop ${phase}`, 'ms', watch.loopLagMaxMs);
    figure(`most files at level 0 ${phase}`, 'files', watch.levelZeroMax);
    options.say(`${title}, ${phase}: ${result.requests} appends, p50 ${latency.p50.toFixed(2)} p99 ${latency.p99.toFixed(1)} p99.9 ${latency.p999.toFixed(1)} max ${latency.max.toFixed(1)} ms, loop ${watch.loopLagMaxMs.toFixed(1)} ms, level 0 ${watch.levelZeroMax}`);
    return result;
  };
  const quiet = await load('without', options.seconds, () => pause(options.seconds * 1000));
  let seconds = 0;
  const trimmed = await load('while trimming', TRIMMING_SECONDS_MAX, async (watch) => {
    await Promise.all(Array.from({ length: backlog.count }, (_, i) => append(running.urls[i % running.urls.length] ?? '', `${backlog.prefix}-${i}`)));
    let started = performance.now();
    const deadline = started + (TRIMMING_SECONDS_MAX - 1) * 1000;
    while (watch.trimmed < rows && performance.now() < deadline) {
      if (watch.trimmed === 0) started = performance.now();
      await watch.next();
    }
    seconds = (performance.now() - started) / 1000;
    figure('messages trimmed', '/s', watch.trimmed / seconds);
    options.say(`${title}: trimmed ${watch.trimmed} of ${rows} messages in ${seconds.toFixed(1)} s`);
  });
  figure('trimming lasted', 's', seconds);
  for (const [name, key] of [['p99', 'p99'], ['p99.9', 'p999']] as const) figure(`${name} while trimming against without`, '×', (trimmed.latency?.[key] ?? 0) / (quiet.latency?.[key] ?? 1));
  return figures;
}

async function append(url: string, context: string): Promise<void> {
  const answer = await fetch(`${url}/v1/contexts/${context}/messages`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"message":{"role":"user","parts":[{"type":"text","text":"One more."}]}}' });
  if (answer.status !== 201) throw new Error(`${context}: ${answer.status} ${await answer.text()}`);
  await answer.arrayBuffer();
}

/** Waits until Postgres holds `messages`, and a flush more, so that their marks are committed. */
async function archived(postgres: PostgresServer, messages: number, progress: (left: number) => void): Promise<void> {
  const deadline = performance.now() + ARCHIVED_MS;
  for (;;) {
    const [{ rows } = { rows: 0 }] = await postgres.query<{ rows: number }>('SELECT count(*)::int AS rows FROM messages');
    if (rows >= messages) break;
    if (performance.now() > deadline) throw new Error(`${messages - rows} messages are not archived after ${ARCHIVED_MS} ms`);
    progress(messages - rows);
    await pause(1000);
  }
  // Its own tidying up falls into neither phase.
  await postgres.query('VACUUM ANALYZE');
  await postgres.query('CHECKPOINT');
  await pause(FLUSH_MS * 4);
}

/** What the nodes say of themselves, asked all along in both phases alike, since asking costs them something too. */
class Watch {
  levelZeroMax = 0;
  loopLagMaxMs = 0;
  /** Messages trimmed since the nodes started, as of the last look. */
  trimmed = 0;
  private readonly urls: readonly string[];
  private readonly looking: Promise<void>;
  private looked = Promise.withResolvers<void>();
  private isOver = false;

  constructor(urls: readonly string[]) {
    this.urls = urls;
    this.looking = this.look();
  }

  reset(): void {
    this.levelZeroMax = 0;
    this.loopLagMaxMs = 0;
  }

  /** The next look. */
  next(): Promise<void> {
    return this.looked.promise;
  }

  async stop(): Promise<void> {
    this.isOver = true;
    await this.looking;
  }

  private async look(): Promise<void> {
    while (!this.isOver) {
      await pause(SAMPLE_MS);
      const nodes = await scrape(this.urls);
      this.levelZeroMax = Math.max(this.levelZeroMax, ...nodes.map(({ levelZeroFiles }) => levelZeroFiles));
      this.loopLagMaxMs = Math.max(this.loopLagMaxMs, ...nodes.map(({ loopLagMaxMs }) => loopLagMaxMs));
      this.trimmed = nodes.reduce((sum, { trimmed }) => sum + trimmed, 0);
      const { resolve } = this.looked;
      this.looked = Promise.withResolvers();
      resolve();
    }
  }
}
