/**
 * What is held against an archive while a cluster runs, and afterwards: that marks never run ahead of Postgres nor trims
 * ahead of marks, on any node at any moment, and that Postgres has each acknowledged message once, with the bytes that
 * the API returned.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import pg from 'pg';
import { call, type ClusterProcesses, type NodeProcess } from './processes.ts';

/** Contexts of a listing page. */
const PAGE = 1000;

export interface Marks {
  readonly id: string;
  readonly last_seq: number;
  readonly archived_seq: number;
  readonly trimmed_seq: number;
}

/** All contexts of one node as it has them itself, or null where it does not answer. */
export async function marksOf(node: NodeProcess): Promise<Marks[] | null> {
  const all: Marks[] = [];
  for (let cursor = ''; ; ) {
    const answer = await call(`${node.url}/v1/contexts?limit=${PAGE}&consistency=stale${cursor}`).catch(() => null);
    if (answer?.status !== 200) return null;
    const { contexts, next_cursor: next } = answer.json as unknown as { contexts: Marks[]; next_cursor: string | null };
    all.push(...contexts);
    if (next === null) return all;
    cursor = `&cursor=${encodeURIComponent(next)}`;
  }
}

/** Runs beside a test and checks the marks of every node against Postgres again and again. */
export class MarksWatch {
  checks = 0;
  private readonly cluster: ClusterProcesses;
  private readonly options: { readonly url: string; readonly tailKeep: number; readonly sample: number; readonly pauseMs: number };
  private readonly running: Promise<void>;
  private stopped = false;

  /** `sample`: contexts that are counted in Postgres each time, of each node. */
  constructor(cluster: ClusterProcesses, options: { url: string; tailKeep: number; sample: number; pauseMs: number }) {
    this.cluster = cluster;
    this.options = options;
    this.running = this.run();
    this.running.catch(() => undefined);
  }

  /** Ends the watch; throws what it found. */
  async stop(): Promise<void> {
    this.stopped = true;
    await this.running;
    assert.ok(this.checks > 0, 'nothing was checked');
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      for (const node of this.cluster.nodes) if (node.running) await this.check(node);
      await new Promise((resolve) => setTimeout(resolve, this.options.pauseMs));
    }
  }

  private async check(node: NodeProcess): Promise<void> {
    const marks = await marksOf(node);
    if (marks === null) return;
    for (const { id, last_seq: last, archived_seq: archived, trimmed_seq: trimmed } of marks) {
      assert.ok(trimmed <= archived, `${node.name}: ${id} is trimmed to ${trimmed}, archived to ${archived}`);
      assert.ok(archived <= last && trimmed <= Math.max(0, last - this.options.tailKeep), `${node.name}: ${id}: last ${last}, archived ${archived}, trimmed ${trimmed}`);
    }
    const sample = marks.filter(({ archived_seq: archived }) => archived > 0).sort(() => Math.random() - 0.5).slice(0, this.options.sample);
    // Asked after the marks were read: Postgres only ever has more.
    const counts = await archivedCounts(this.options.url, sample.map(({ id }) => id)).catch(() => null);
    if (counts === null) return;
    for (const { id, archived_seq: archived } of sample) {
      assert.ok((counts.get(id) ?? 0) >= archived, `${node.name}: ${id} is marked as archived up to ${archived}, and Postgres has ${counts.get(id) ?? 0} messages`);
    }
    this.checks++;
  }
}

async function archivedCounts(url: string, ids: readonly string[]): Promise<Map<string, number>> {
  const rows = await queryOnce<{ context_id: string; count: number }>(url, 'SELECT context_id, count(*)::int AS count FROM messages WHERE context_id = ANY($1::text[]) GROUP BY context_id', [ids]);
  return new Map(rows.map(({ context_id: id, count }) => [id, count]));
}

async function queryOnce<Row extends pg.QueryResultRow>(url: string, text: string, values: readonly unknown[]): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2000, query_timeout: 60_000 });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<Row>(text, [...values])).rows;
  } finally {
    await client.end();
  }
}

/** What a message's bytes are known by. */
export function digest(bytes: Uint8Array | string): string {
  return createHash('sha1').update(bytes).digest('base64');
}

/** Holds a context's rows in Postgres to the digests of its acknowledged messages, in order of seq. */
export async function assertArchived(url: string, context: string, digests: readonly string[]): Promise<void> {
  const rows = await queryOnce<{ seq: number; body: Buffer }>(url, 'SELECT seq::int AS seq, body FROM messages WHERE context_id = $1 ORDER BY seq', [context]);
  assert.deepEqual(rows.map(({ seq }) => seq), digests.map((_, i) => i + 1), `${context}: seqs in Postgres`);
  for (const [i, { body }] of rows.entries()) assert.equal(digest(body), digests[i], `${context}: message ${i + 1} in Postgres: ${body.toString()}`);
}

/** The lines of an export. */
export async function linesOf(url: string, context: string, query = ''): Promise<string[]> {
  const { status, text } = await call(`${url}/v1/contexts/${encodeURIComponent(context)}/messages${query}`, 'GET', undefined, { accept: 'application/x-ndjson' });
  assert.equal(status, 200, text);
  return text.split('\n').slice(0, -1);
}
