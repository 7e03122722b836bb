/**
 * Moves a group's state to a node whose log no longer reaches: the receiver pulls chunks over HTTP connections of its
 * own (never the peer link, so heartbeats are not delayed), each chunk checks itself, a broken transfer resumes at its
 * cursor while the sender still holds the snapshot. Owns sessions and pacing; rows and staging are storage's.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { Agent, request } from 'undici';
import type { SnapshotFetcher } from '../../raft/ports.ts';
import type { ConfState, GroupId, NodeId, SnapshotMeta } from '../../raft/types.ts';
import { DamageError } from '../storage/checksum.ts';
import { DamagedChunkError, SnapshotError } from '../storage/snapshots.ts';
import type { StagedSnapshot } from '../storage/snapshots.ts';
import type { Storage } from '../storage/store.ts';
import type { Logger } from '../log.ts';
import type { PeerKeys } from './auth.ts';
import { peerConnector } from './connector.ts';
import type { PeerTlsSource } from './ports.ts';

/** A snapshot pins old LevelDB files: an idle session is dropped after this long and the transfer restarts. */
const SESSION_IDLE_MS = 30_000;
/** Sessions open at once; whoever asks for one more is told to come back. */
export const SESSIONS_MAX = 8;
/** Transfers to this node at once; further groups stand in line, each at most once. */
export const FETCHES_MAX = 4;
const CHUNK_BYTES = 512 * 1024;
/** What a node sends in all, whoever asks: moving groups must not take the disk and the network from its clients. */
const SEND_BYTES_PER_SECOND = 64 * 1024 * 1024;
/** How long a sender waits for its own disk to reach the position that is asked for: applied state waits half of it (stateFlushMs), then a tick and a write. */
const REACH_MS = 1000;
const REACH_STEP_MS = 10;
/** A chunk ends with the row that passes its size; no row comes near this. */
const CHUNK_BYTES_MAX = 64 * 1024 * 1024;
/** A transfer that gets no chunk for this long is given up: by now another node may lead, and be told so. */
const NO_PROGRESS_MS = 10_000;
const CONNECT_MS = 2000;
/** A chunk that comes damaged this often in a row is not damaged by chance. */
const DAMAGED_MAX = 5;
const RETRY_MS = 100;
const RETRY_MS_MAX = 1000;

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
  /** When what was sent so far is paid for at SEND_BYTES_PER_SECOND. */
  private paidAt = 0;
  /** Transfers begun, for metrics. */
  sent = 0;

  constructor(storage: Storage, now: () => number) {
    this.storage = storage;
    this.now = now;
    this.sweeper = setInterval(() => this.sweep(), 1000);
    this.sweeper.unref();
  }

  /** Sessions that hold a snapshot open. */
  get open(): number {
    return this.sessions.size;
  }

  /**
   * One chunk. Without `session` a new one is opened (header x-session names it), once the state here reaches `index`
   * or has had time to. Headers: x-next (cursor of the next
   * chunk, absent at the end), x-meta (JSON SnapshotMeta). 404: no such group here; 409: its replica is damaged; 410:
   * the session is gone, start over; 429: too many.
   */
  async answer(group: GroupId, session: string, cursor: string, index = 0): Promise<SnapshotAnswer> {
    if (session === '') await this.reach(group, index);
    const id = session === '' ? this.begin(group) : session;
    if (typeof id === 'number') return refusal(id);
    const open = this.sessions.get(id);
    if (open === undefined || open.group !== group) return refusal(410);
    open.usedAt = this.now();
    try {
      const { chunk, next } = await open.snapshot.read(cursor, CHUNK_BYTES);
      await this.pace(chunk.length);
      open.usedAt = this.now();
      const headers: Record<string, string> = { 'x-session': id, 'x-meta': JSON.stringify(open.snapshot.meta) };
      if (next !== null) headers['x-next'] = next;
      return { status: 200, headers, body: chunk };
    } catch (error) {
      // Swept or ended while it was read.
      if (!this.sessions.has(id)) return refusal(410);
      await this.end(id);
      if (error instanceof DamageError) return refusal(409);
      if (error instanceof SnapshotError) return refusal(410);
      throw error;
    }
  }

  /** The receiver is done with the session; one not ended so is swept when idle. */
  async end(session: string): Promise<void> {
    const open = this.sessions.get(session);
    this.sessions.delete(session);
    await open?.snapshot.close();
  }

  async close(): Promise<void> {
    clearInterval(this.sweeper);
    await Promise.all([...this.sessions.keys()].map((session) => this.end(session)));
  }

  /** The new session's name, or the status of a refusal. */
  private begin(group: GroupId): string | number {
    if (this.sessions.size >= SESSIONS_MAX) return 429;
    const replica = this.storage.groups().find((info) => info.group === group);
    if (replica === undefined) return 404;
    if (replica.damaged !== null) return 409;
    const session = randomUUID();
    this.sessions.set(session, { group, snapshot: this.storage.openSnapshot(group), usedAt: this.now() });
    this.sent++;
    return session;
  }

  /** The state is durable a while after it is applied; a snapshot of now would lack what the receiver joined for. */
  private async reach(group: GroupId, index: number): Promise<void> {
    const hosted = (): boolean => this.storage.groups().some((info) => info.group === group && info.damaged === null);
    for (let waited = 0; waited < REACH_MS && hosted() && this.storage.durableApplied(group) < index; waited += REACH_STEP_MS) await delay(REACH_STEP_MS);
  }

  /** Resolves when the bytes may leave. */
  private async pace(bytes: number): Promise<void> {
    const now = this.now();
    const waitMs = this.paidAt - now;
    this.paidAt = Math.max(now, this.paidAt) + (bytes * 1000) / SEND_BYTES_PER_SECOND;
    if (waitMs > 1) await delay(waitMs);
  }

  private sweep(): void {
    for (const [session, { usedAt }] of this.sessions) if (this.now() - usedAt > SESSION_IDLE_MS) void this.end(session);
  }
}

function refusal(status: number): SnapshotAnswer {
  return { status, headers: {}, body: NOTHING };
}

/** Serves SnapshotSender at GET and DELETE /_peer/snapshot, to peers only. */
export function mountSnapshots(app: FastifyInstance, sender: SnapshotSender, keys: PeerKeys): void {
  app.get<{ Querystring: Record<string, string | undefined> }>('/_peer/snapshot', { schema: { hide: true } }, async (request, reply) => {
    if (!keys.accepts(request.headers.authorization)) return reply.code(401).send();
    const { group, session = '', cursor = '', index = '0' } = request.query;
    const answer = await sender.answer(Number(group), session, cursor, Number(index));
    return reply.code(answer.status).headers(answer.headers).header('content-type', 'application/octet-stream').send(answer.body);
  });
  app.delete<{ Querystring: Record<string, string | undefined> }>('/_peer/snapshot', { schema: { hide: true } }, async (request, reply) => {
    if (!keys.accepts(request.headers.authorization)) return reply.code(401).send();
    await sender.end(request.query['session'] ?? '');
    return reply.code(204).send();
  });
}

export interface FetcherOptions {
  readonly storage: Storage;
  /** host:port of a node, or undefined while unknown. */
  readonly address: (node: NodeId) => string | undefined;
  /** Headers that authenticate this node to peers. */
  readonly headers: () => Record<string, string>;
  /** Null: plain TCP. */
  readonly tls: PeerTlsSource | null;
  readonly logger: Logger;
}

interface Chunk {
  readonly body: Uint8Array;
  readonly next: string | null;
  readonly meta: SnapshotMeta;
}

/** A transfer under way: what is asked for next. */
interface Wanted {
  readonly group: GroupId;
  /** '' until the sender named one. */
  session: string;
  cursor: string;
  /** The least position that is of use. */
  readonly index: number;
}

/** The receiving side; implements Raft's SnapshotFetcher. */
export class SnapshotReceiver implements SnapshotFetcher {
  private readonly options: FetcherOptions;
  private readonly agent: Agent;
  /** Groups with a transfer under way or in line. */
  private readonly groups = new Set<GroupId>();
  private readonly line: (() => void)[] = [];
  private readonly underWay = new Set<Promise<void>>();
  private readonly abort = new AbortController();
  /** Finished transfers, for metrics. */
  installed = 0;
  failed = 0;

  constructor(options: FetcherOptions) {
    this.options = options;
    this.agent = new Agent({ connect: peerConnector(options.tls, CONNECT_MS) });
  }

  fetch(group: GroupId, from: NodeId, index: number, done: (error: Error | null, meta: SnapshotMeta | null) => void): void {
    if (this.groups.has(group)) return done(new Error(`group ${group} is being fetched`), null);
    if (this.abort.signal.aborted) return done(new Error('the node is closing'), null);
    this.groups.add(group);
    // A refusal would cost the group an election timeout or two until its leader tells it again; a node that comes back
    // after a long time needs all its groups.
    this.line.push(() => this.start(group, from, index, done));
    this.next();
  }

  /** Raft had no use for a finished transfer: nothing of it stays. */
  discard(group: GroupId): void {
    this.options.storage.discardStaged(group);
  }

  /** Gives up what is under way; resolves when nothing touches the storage any more. */
  async close(): Promise<void> {
    this.abort.abort(new Error('the node is closing'));
    this.next();
    await Promise.all(this.underWay);
    await this.agent.destroy();
  }

  private next(): void {
    while (this.line.length > 0 && (this.underWay.size < FETCHES_MAX || this.abort.signal.aborted)) this.line.shift()?.();
  }

  private start(group: GroupId, from: NodeId, index: number, done: (error: Error | null, meta: SnapshotMeta | null) => void): void {
    const { logger } = this.options;
    const ended = (): void => {
      this.underWay.delete(running);
      this.groups.delete(group);
    };
    const running: Promise<void> = this.transfer(group, from, index)
      .then(
        (meta) => {
          ended();
          this.installed++;
          logger.info({ type: 'snapshot_received', group, from, index: meta.index }, 'snapshot received');
          done(null, meta);
        },
        (error: unknown) => {
          ended();
          this.failed++;
          logger.warn({ type: 'snapshot_failed', group, from, reason: String(error) }, 'snapshot transfer failed; it will be tried again');
          done(error instanceof Error ? error : new Error(String(error)), null);
        },
      )
      .finally(() => this.next());
    this.underWay.add(running);
  }

  private async transfer(group: GroupId, from: NodeId, index: number): Promise<SnapshotMeta> {
    this.abort.signal.throwIfAborted();
    const staged = this.options.storage.stage(group);
    const wanted: Wanted = { group, session: '', cursor: '', index };
    try {
      for (let damaged = 0; ; ) {
        const chunk = await this.chunk(from, wanted);
        if (chunk.meta.index < index) throw new Error(`snapshot of group ${group} ends at ${chunk.meta.index}, before ${index}`);
        const refused = await take(staged, chunk.body);
        this.abort.signal.throwIfAborted();
        if (refused !== null) {
          if (++damaged === DAMAGED_MAX) throw refused;
          this.options.logger.warn({ type: 'snapshot_chunk_damaged', group, from }, 'a snapshot chunk came damaged; it is asked for again');
          continue;
        }
        damaged = 0;
        if (chunk.next === null) return await staged.finish(chunk.meta);
        wanted.cursor = chunk.next;
      }
    } catch (error) {
      await staged.abort();
      throw error;
    } finally {
      if (wanted.session !== '') this.endSession(from, wanted.session);
    }
  }

  /** Best effort: the sender drops an idle session by itself, only later, and has few of them. */
  private endSession(from: NodeId, session: string): void {
    const url = this.url(from, { session });
    if (url === null || this.abort.signal.aborted) return;
    request(url, { dispatcher: this.agent, method: 'DELETE', headers: this.options.headers(), headersTimeout: NO_PROGRESS_MS, signal: this.abort.signal }).then(
      (response) => void response.body.dump().catch(() => undefined),
      () => undefined,
    );
  }

  /** One chunk, tried again over transient failures; the sender's lease decides whether the session survived. */
  private async chunk(from: NodeId, wanted: Wanted): Promise<Chunk> {
    const { signal } = this.abort;
    const deadline = performance.now() + NO_PROGRESS_MS;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.chunkOnce(from, wanted);
      } catch (error) {
        const waitMs = Math.min(RETRY_MS * attempt, RETRY_MS_MAX);
        if (error instanceof HopelessTransfer || signal.aborted || performance.now() + waitMs > deadline) throw error;
        await delay(waitMs, undefined, { signal });
      }
    }
  }

  private async chunkOnce(from: NodeId, wanted: Wanted): Promise<Chunk> {
    const { group, session, cursor, index } = wanted;
    const url = this.url(from, { group: String(group), session, cursor, index: String(index) });
    if (url === null) throw new HopelessTransfer(`no address known for node ${from}`);
    const signal = AbortSignal.any([this.abort.signal, AbortSignal.timeout(NO_PROGRESS_MS)]);
    const { statusCode, headers, body } = await request(url, { dispatcher: this.agent, headers: this.options.headers(), signal });
    const announced = Number(headers['content-length'] ?? 0);
    if (statusCode !== 200 || announced > CHUNK_BYTES_MAX) {
      await body.dump();
      if (statusCode === 200) throw new HopelessTransfer(`node ${from} sent a chunk of ${announced} bytes`);
      const reason = `node ${from} answered ${statusCode}`;
      throw HOPELESS_STATUS.has(statusCode) ? new HopelessTransfer(reason) : new Error(reason);
    }
    // Known before the body is here: should that break, the session is gone on with, not left open beside another.
    wanted.session = String(headers['x-session'] ?? '');
    const chunk = new Uint8Array(await body.arrayBuffer());
    const next = headers['x-next'];
    return { body: chunk, next: next === undefined ? null : String(next), meta: decodeMeta(String(headers['x-meta'])) };
  }

  private url(node: NodeId, query: Record<string, string>): string | null {
    const address = this.options.address(node);
    return address === undefined ? null : `${this.options.tls === null ? 'http' : 'https'}://${address}/_peer/snapshot?${new URLSearchParams(query)}`;
  }
}

/** Null once the chunk is on disk; the refusal of one that changed on its way, of which nothing was written. */
async function take(staged: StagedSnapshot, chunk: Uint8Array): Promise<DamagedChunkError | null> {
  try {
    await staged.write(chunk);
    return null;
  } catch (error) {
    if (error instanceof DamagedChunkError) return error;
    throw error;
  }
}

/** Not authorized, not hosted, damaged, session gone: asking again for the same will not help. */
const HOPELESS_STATUS: ReadonlySet<number> = new Set([401, 404, 409, 410]);

/** Nothing of this transfer can be continued. */
class HopelessTransfer extends Error {}

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
