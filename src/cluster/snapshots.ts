/**
 * Moves a group's state to a node whose log no longer reaches: the receiver pulls chunks over HTTP connections of its
 * own (never the peer link, so heartbeats are not delayed), each chunk checks itself, a broken transfer resumes at its
 * cursor while the sender still holds the snapshot. Owns sessions and pacing; rows and staging are storage's.
 */
import { randomUUID } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import { request } from 'undici';
import type { SnapshotFetcher } from '../../raft/ports.ts';
import type { ConfState, GroupId, NodeId, SnapshotMeta } from '../../raft/types.ts';
import type { Storage } from '../storage/store.ts';
import type { Logger } from '../log.ts';
import type { PeerKeys } from './auth.ts';

/** A snapshot pins old LevelDB files: an idle session is dropped after this long and the transfer restarts. */
const SESSION_IDLE_MS = 30_000;
const SESSIONS_MAX = 8;
const FETCHES_MAX = 4;
const CHUNK_BYTES = 512 * 1024;
const CHUNK_RETRIES = 10;

type StateSnapshot = ReturnType<Storage['openSnapshot']>;

export interface SnapshotAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

const NOTHING = new Uint8Array();

/** The sending side: `GET /_peer/snapshot?group=&session=&cursor=`. */
export class SnapshotSender {
  private readonly storage: Storage;
  private readonly sessions = new Map<string, { group: GroupId; snapshot: StateSnapshot; usedAt: number }>();
  private readonly sweeper: ReturnType<typeof setInterval>;
  private readonly now: () => number;
  /** Transfers begun, for metrics. */
  sent = 0;

  constructor(storage: Storage, now: () => number) {
    this.storage = storage;
    this.now = now;
    this.sweeper = setInterval(() => this.sweep(), 1000);
    this.sweeper.unref();
  }

  /**
   * One chunk. Without `session` a new one is opened (header x-session names it). Headers: x-next (cursor of the next
   * chunk, absent at the end), x-meta (JSON SnapshotMeta). 410: the session is gone, start over; 429: too many.
   */
  async answer(group: GroupId, session: string, cursor: string): Promise<SnapshotAnswer> {
    let id = session;
    if (id === '') {
      if (this.sessions.size >= SESSIONS_MAX) return { status: 429, headers: {}, body: NOTHING };
      id = randomUUID();
      this.sent++;
      this.sessions.set(id, { group, snapshot: this.storage.openSnapshot(group), usedAt: this.now() });
    }
    const open = this.sessions.get(id);
    if (open === undefined || open.group !== group) return { status: 410, headers: {}, body: NOTHING };
    open.usedAt = this.now();
    const { chunk, next } = await open.snapshot.read(cursor, CHUNK_BYTES);
    open.usedAt = this.now();
    const headers: Record<string, string> = { 'x-session': id, 'x-meta': JSON.stringify(open.snapshot.meta) };
    if (next !== null) headers['x-next'] = next;
    return { status: 200, headers, body: chunk };
  }

  /** The receiver is done; a session not ended so is swept when idle. */
  async end(session: string): Promise<void> {
    const open = this.sessions.get(session);
    this.sessions.delete(session);
    await open?.snapshot.close();
  }

  async close(): Promise<void> {
    clearInterval(this.sweeper);
    await Promise.all([...this.sessions.keys()].map((session) => this.end(session)));
  }

  private sweep(): void {
    for (const [session, { usedAt }] of this.sessions) if (this.now() - usedAt > SESSION_IDLE_MS) void this.end(session);
  }
}

/** Serves SnapshotSender at GET /_peer/snapshot, to peers only. */
export function mountSnapshots(app: FastifyInstance, sender: SnapshotSender, keys: PeerKeys): void {
  app.get<{ Querystring: Record<string, string | undefined> }>('/_peer/snapshot', { schema: { hide: true } }, async (request, reply) => {
    if (!keys.accepts(request.headers.authorization)) return reply.code(401).send();
    const { group, session = '', cursor = '' } = request.query;
    const answer = await sender.answer(Number(group), session, cursor);
    return reply.code(answer.status).headers(answer.headers).header('content-type', 'application/octet-stream').send(answer.body);
  });
}

export interface FetcherOptions {
  readonly storage: Storage;
  /** host:port of a node, or undefined while unknown. */
  readonly address: (node: NodeId) => string | undefined;
  /** Headers that authenticate this node to peers. */
  readonly headers: () => Record<string, string>;
  readonly logger: Logger;
}

/** The receiving side; implements Raft's SnapshotFetcher. */
export class SnapshotReceiver implements SnapshotFetcher {
  private readonly options: FetcherOptions;
  private readonly active = new Set<GroupId>();
  private readonly abort = new AbortController();
  /** Finished transfers, for metrics. */
  installed = 0;
  failed = 0;

  constructor(options: FetcherOptions) {
    this.options = options;
  }

  fetch(group: GroupId, from: NodeId, index: number, done: (error: Error | null, meta: SnapshotMeta | null) => void): void {
    if (this.active.has(group)) return;
    if (this.active.size >= FETCHES_MAX) return done(new Error('too many snapshot transfers under way'), null);
    this.active.add(group);
    this.transfer(group, from, index).then(
      (meta) => {
        this.active.delete(group);
        this.installed++;
        this.options.logger.info({ type: 'snapshot_received', group, from, index: meta.index }, 'snapshot received');
        done(null, meta);
      },
      (error: unknown) => {
        this.active.delete(group);
        this.failed++;
        this.options.logger.warn({ type: 'snapshot_failed', group, from, reason: String(error) }, 'snapshot transfer failed; it will be tried again');
        done(error instanceof Error ? error : new Error(String(error)), null);
      },
    );
  }

  /** Raft had no use for a finished transfer: nothing of it stays. */
  discard(group: GroupId): void {
    this.options.storage.discardStaged(group);
  }

  close(): void {
    this.abort.abort();
  }

  private async transfer(group: GroupId, from: NodeId, index: number): Promise<SnapshotMeta> {
    const staged = await this.options.storage.stage(group);
    try {
      let session = '';
      let cursor = '';
      for (;;) {
        const answer = await this.chunk(from, group, session, cursor);
        await staged.write(answer.body);
        session = answer.session;
        if (answer.next !== null) {
          cursor = answer.next;
          continue;
        }
        if (answer.meta.index < index) throw new Error(`snapshot of group ${group} ends at ${answer.meta.index}, before ${index}`);
        await staged.finish(answer.meta);
        return answer.meta;
      }
    } catch (error) {
      await staged.abort();
      throw error;
    }
  }

  /** One chunk, tried again over transient failures; the sender's lease decides whether the session survived. */
  private async chunk(from: NodeId, group: GroupId, session: string, cursor: string): Promise<{ body: Uint8Array; session: string; next: string | null; meta: SnapshotMeta }> {
    let failure: unknown;
    for (let attempt = 0; attempt < CHUNK_RETRIES; attempt++) {
      if (attempt > 0) await new Promise((resolve) => setTimeout(resolve, 100 * attempt));
      const address = this.options.address(from);
      if (address === undefined) throw new Error(`no address known for node ${from}`);
      try {
        const query = new URLSearchParams({ group: String(group), session, cursor });
        const response = await request(`http://${address}/_peer/snapshot?${query}`, {
          headers: this.options.headers(),
          headersTimeout: 10_000,
          bodyTimeout: 10_000,
          signal: this.abort.signal,
        });
        const body = new Uint8Array(await response.body.arrayBuffer());
        if (response.statusCode === 410) throw new RestartTransfer(`node ${from} no longer holds the snapshot session`);
        if (response.statusCode !== 200) throw new Error(`node ${from} answered ${response.statusCode}`);
        const next = response.headers['x-next'];
        return { body, session: String(response.headers['x-session'] ?? ''), next: next === undefined ? null : String(next), meta: decodeMeta(String(response.headers['x-meta'])) };
      } catch (error) {
        if (error instanceof RestartTransfer || this.abort.signal.aborted) throw error;
        failure = error;
      }
    }
    throw failure instanceof Error ? failure : new Error(String(failure));
  }
}

/** The sender forgot the session: nothing of this transfer can be continued. */
class RestartTransfer extends Error {}

function decodeMeta(text: string): SnapshotMeta {
  const value: unknown = JSON.parse(text);
  if (typeof value !== 'object' || value === null || !('index' in value) || !('term' in value) || !('conf' in value)) throw new Error('malformed snapshot meta');
  const { index, term, conf } = value;
  if (!Number.isSafeInteger(index) || !Number.isSafeInteger(term) || !isConf(conf)) throw new Error('malformed snapshot meta');
  return { index: Number(index), term: Number(term), conf };
}

function isConf(value: unknown): value is ConfState {
  if (typeof value !== 'object' || value === null) return false;
  const conf = value as Record<string, unknown>;
  const ids = [conf['voters'], conf['votersOutgoing'], conf['learners'], conf['learnersNext']];
  return ids.every((list) => Array.isArray(list) && list.every((id) => Number.isSafeInteger(id))) && typeof conf['autoLeave'] === 'boolean';
}
