/**
 * The archive under load, on three real nodes and a real Postgres: `npm run bench:archive -- flow|cost|read`.
 *
 * flow   many messages over many contexts: Postgres ends with each once and byte for byte, hot storage falls to the
 *        tail, memory stays flat, marks are never ahead. `--faults`: the same while nodes and Postgres die and return.
 * cost   append throughput with and without the archive, window by window in one run, and how the lag goes.
 * read   one long context from its first message to the last, through both tiers.
 */
import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';
import { assertArchived, digest, linesOf, marksOf, MarksWatch } from '../test/e2e/archive-watch.ts';
import { call, ClusterProcesses, until } from '../test/e2e/processes.ts';
import { RetryingClient } from '../test/e2e/retrying.ts';
import { PostgresServer } from '../test/unit/archiver-postgres.ts';
import { measureCost } from './archive-cost.ts';
import { residentMegabytes } from './measure/resident.ts';

const BATCH = 100;
const WRITERS = 12;
const TAIL_KEEP = 100;
const WINDOW_LIMIT = 50;
const SAMPLE_MS = 1000;
const DRAINED_MS = 600_000;
/** A paragraph of a conversation; the whole message takes some 400 bytes. */
const TEXT = 'The brakes squeal after rain, although I cleaned the rims and sanded the pads as you said. Could the pads be too hard for these rims, and is there a day this week when somebody could have a look at the bike while I wait?';

interface Run {
  readonly postgres: PostgresServer;
  readonly cluster: ClusterProcesses;
}

async function withCluster(env: Record<string, string>, work: (run: Run) => Promise<void>): Promise<void> {
  const postgres = await PostgresServer.start();
  try {
    const archive = { FASTPACA_ARCHIVER_ENABLED: 'true', DATABASE_URL: postgres.url, FASTPACA_ARCHIVE_FLUSH_INTERVAL_MS: '1000', FASTPACA_TAIL_KEEP: String(TAIL_KEEP), FASTPACA_LOG_LEVEL: 'warn' };
    const cluster = await ClusterProcesses.start(3, { ...archive, ...env });
    try {
      await work({ postgres, cluster });
    } finally {
      await cluster.stop();
    }
  } finally {
    await postgres.remove();
  }
}

/** Appends `count` messages in batches, reads each batch back at once, and keeps what its bytes are known by. */
async function fill(client: RetryingClient, id: string, count: number, onBatch: (count: number) => void): Promise<string[]> {
  const digests: string[] = [];
  for (let from = 1; from <= count; from += BATCH) {
    const many = Math.min(BATCH, count - from + 1);
    const messages = Array.from({ length: many }, (_, i) => `{"role":"${(from + i) % 2 === 0 ? 'assistant' : 'user'}","parts":[{"type":"text","text":"${id} ${from + i}. ${TEXT}"}],"metadata":{"n":${from + i}.0}}`);
    const answer = await client.send(`/v1/contexts/${id}/messages`, 'POST', `{"messages":[${messages.join(',')}]}`, { 'idempotency-key': `${id}-${from}` });
    assert.equal(answer.status, 201, answer.text);
    const lines = await client.send(`/v1/contexts/${id}/messages?from_seq=${from}&to_seq=${from + many - 1}`, 'GET', undefined, { accept: 'application/x-ndjson' });
    const back = lines.text.split('\n').slice(0, -1);
    assert.equal(back.length, many);
    digests.push(...back.map(digest));
    onBatch(many);
  }
  return digests;
}

/** RSS of each node and the messages waiting, once a second; written to standard error as it goes. */
class Sampler {
  readonly rows: { readonly second: number; readonly written: number; readonly resident: readonly number[]; readonly pending: number }[] = [];
  private readonly timer: ReturnType<typeof setInterval>;

  constructor({ cluster }: Run, written: () => number) {
    const started = performance.now();
    this.timer = setInterval(() => {
      void pendingRows(cluster).then((pending) => {
        const resident = cluster.nodes.map((node) => (node.running ? residentMegabytes(node.pid) : 0));
        this.rows.push({ second: Math.round((performance.now() - started) / 1000), written: written(), resident, pending });
        if (this.rows.length % 10 === 0) console.error(JSON.stringify(this.rows.at(-1)));
      });
    }, SAMPLE_MS);
  }

  stop(): void {
    clearInterval(this.timer);
  }

  /** The highest RSS of any node in each quarter of the run, in MiB. */
  quarters(): number[] {
    const quarter = Math.ceil(this.rows.length / 4);
    return [0, 1, 2, 3].map((i) => Math.max(0, ...this.rows.slice(i * quarter, (i + 1) * quarter).flatMap(({ resident }) => resident)));
  }
}

async function pendingRows(cluster: ClusterProcesses): Promise<number> {
  let sum = 0;
  for (const node of cluster.nodes) {
    const text = await fetch(`${node.url}/metrics`).then((response) => response.text(), () => '');
    sum += Number(/^fastpaca_archive_pending_rows (\d+)/m.exec(text)?.[1] ?? 0);
  }
  return sum;
}

async function flow(messages: number, contexts: number, faults: boolean): Promise<void> {
  await withCluster({}, async (run) => {
    const { postgres, cluster } = run;
    const each = messages / contexts;
    const ids = Array.from({ length: contexts }, (_, i) => `flow-${i}`);
    const digests = new Map<string, string[]>();
    let written = 0;
    await until('the tables', () => postgres.query('SELECT 1 FROM messages LIMIT 1').then(() => true, () => false));
    const watch = new MarksWatch(cluster, { url: postgres.url, tailKeep: TAIL_KEEP, sample: 20, pauseMs: 100 });
    const sampler = new Sampler(run, () => written);
    const started = performance.now();
    const queue = ids.values();
    const urls = cluster.nodes.map(({ url }) => url);
    const writer = async (first: number): Promise<void> => {
      const client = new RetryingClient(urls, first);
      for (const id of queue) {
        const settings = { token_budget: 8000, policy: { strategy: 'last_n', config: { limit: WINDOW_LIMIT } } };
        // 200: a first try was answered by nobody, and had created it.
        const { status, text } = await client.send(`/v1/contexts/${id}`, 'PUT', settings);
        assert.ok(status === 201 || status === 200, text);
        digests.set(id, await fill(client, id, each, (many) => void (written += many)));
      }
    };
    let over = false;
    const writing = Promise.all(Array.from({ length: WRITERS }, (_, i) => writer(i))).finally(() => (over = true));
    // Awaited below; until then a failure only ends the faults.
    writing.catch(() => undefined);
    const happened = faults ? await breakThings(run, (share) => until(`${share}`, () => over || written >= share * messages, DRAINED_MS)) : [];
    await writing;
    const writtenAt = performance.now();
    await until('every message to be archived, and trimmed to the tail, on every node', () => isSettled(cluster, contexts), DRAINED_MS);
    const settledAt = performance.now();
    await watch.stop();
    sampler.stop();
    for (const id of ids) await assertArchived(postgres.url, id, digests.get(id) ?? []);
    const [{ rows } = { rows: -1 }] = await postgres.query<{ rows: number }>('SELECT count(*)::int AS rows FROM messages');
    assert.equal(rows, messages);
    const hot = (await marksOf(cluster.node(0)))?.reduce((sum, { last_seq: last, trimmed_seq: trimmed }) => sum + last - trimmed, 0);
    const seconds = (ms: number): number => Math.round(ms / 100) / 10;
    console.log(
      JSON.stringify({
        messages, contexts, faults: happened, writtenSeconds: seconds(writtenAt - started), settledSeconds: seconds(settledAt - writtenAt), rowsInPostgres: rows, hotRows: hot,
        marksChecked: watch.checks, residentByQuarter: sampler.quarters(), pendingMax: Math.max(...sampler.rows.map(({ pending }) => pending)),
      }),
    );
  });
}

async function isSettled(cluster: ClusterProcesses, contexts: number): Promise<boolean> {
  for (const node of cluster.nodes) {
    const marks = await marksOf(node);
    if (marks?.length !== contexts) return false;
    if (!marks.every(({ last_seq: last, archived_seq: archived, trimmed_seq: trimmed }) => archived === last && trimmed === Math.max(0, last - TAIL_KEEP))) return false;
  }
  await new Promise((resolve) => setTimeout(resolve, 200));
  return true;
}

/** Ten faults spread over the run; each waits for its share of the messages. */
async function breakThings({ postgres, cluster }: Run, reached: (share: number) => Promise<void>): Promise<string[]> {
  const happened: string[] = [];
  const step = async (share: number, what: string, act: () => Promise<void>): Promise<void> => {
    await reached(share);
    happened.push(what);
    console.error(what);
    await act();
  };
  const crash = async (): Promise<void> => {
    await postgres.stop('crash');
    await new Promise((resolve) => setTimeout(resolve, 2000));
    await postgres.run();
  };
  const restart = (i: number, signal: 'SIGKILL' | 'SIGTERM') => async (): Promise<void> => {
    await cluster.node(i).kill(signal);
    cluster.node(i).start();
    await cluster.node(i).ready();
  };
  await step(0.05, 'Postgres killed', crash);
  await step(0.15, 'node-1 killed', restart(0, 'SIGKILL'));
  await step(0.25, 'Postgres killed', crash);
  await step(0.35, 'node-2 stopped, its leaderships moved', restart(1, 'SIGTERM'));
  await step(0.45, 'node-3 killed', restart(2, 'SIGKILL'));
  await step(0.55, 'Postgres killed', crash);
  await step(0.65, 'node-1 stopped, its leaderships moved', restart(0, 'SIGTERM'));
  await step(0.75, 'node-2 killed, Postgres killed', async () => void (await Promise.all([restart(1, 'SIGKILL')(), crash()])));
  await step(0.85, 'node-3 stopped, its leaderships moved', restart(2, 'SIGTERM'));
  await step(0.95, 'Postgres killed', crash);
  return happened;
}

async function read(messages: number): Promise<void> {
  await withCluster({}, async ({ cluster }) => {
    const id = 'long';
    const client = new RetryingClient(cluster.nodes.map(({ url }) => url));
    assert.equal((await client.send(`/v1/contexts/${id}`, 'PUT', { policy: { strategy: 'last_n', config: { limit: WINDOW_LIMIT } } })).status, 201);
    const digests = await fill(client, id, messages, () => undefined);
    await until('all to be archived', () => isSettled(cluster, 1), DRAINED_MS);
    const { url, pid } = cluster.node(2);
    let started = performance.now();
    let seen = 0;
    for (let next: unknown = 1; next !== null; ) {
      const { json } = await call(`${url}/v1/contexts/${id}/messages?limit=1000&from_seq=${String(next)}`);
      const page = json['messages'] as { seq: number }[];
      for (const { seq } of page) assert.equal(seq, ++seen);
      next = json['next_seq'];
    }
    assert.equal(seen, messages);
    const pagedMs = performance.now() - started;
    const before = residentMegabytes(pid);
    started = performance.now();
    const lines = await linesOf(url, id);
    const exportMs = performance.now() - started;
    assert.deepEqual(lines.map(digest), digests);
    console.log(JSON.stringify({ messages, pagedMs: Math.round(pagedMs), exportMs: Math.round(exportMs), exportMegabytes: Math.round(lines.join('\n').length / 2 ** 20), residentBefore: before, residentAfter: residentMegabytes(pid) }));
  });
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { messages: { type: 'string' }, contexts: { type: 'string', default: '2000' }, faults: { type: 'boolean', default: false }, rounds: { type: 'string', default: '4' }, seconds: { type: 'string', default: '15' } },
});
switch (positionals[0]) {
  case 'flow':
    await flow(Number(values.messages ?? 1_000_000), Number(values.contexts), values.faults);
    break;
  case 'cost':
    await measureCost({ rounds: Number(values.rounds), seconds: Number(values.seconds) });
    break;
  case 'read':
    await read(Number(values.messages ?? 100_000));
    break;
  default:
    console.error('usage: npm run bench:archive -- flow [--messages N] [--contexts N] [--faults] | cost [--rounds N] [--seconds N] | read [--messages N]');
    process.exitCode = 2;
}
