/**
 * Who listens to which context on this node, and what they are sent. A stream is either filling (reading the log from
 * storage behind its cursor) or following (given every change as it is applied). It passes from one to the other in one
 * turn of the event loop, at a moment when its cursor is the version of the context, so nothing falls between.
 *
 * Bounds: a connection buffers BUFFERED_BYTES_MAX and one batch. A follower that is beyond that falls back to filling,
 * at the pace of its client; what it waits for is storage's, not memory's. One that owes BEHIND_BYTES_MAX and still has
 * not caught up after BEHIND_MS_MAX is closed with 1013. COLD_AT_ONCE streams read the archive at a time, the others
 * wait for their turn. A context without streams costs one Map lookup a change.
 */
import type { ColdReads } from '../archive/cold.ts';
import { decodeMessageRow } from '../contexts/rows.ts';
import type { MessageRow } from '../contexts/rows.ts';
import type { ContextEvent, Rows } from '../contexts/types.ts';
import { Batch, compactionFrame, contextFrame, messageFrame, purgedFrame, resetFrame, tombstonedFrame } from './frames.ts';
import type { Frame } from './frames.ts';
import { LogReplay } from './replay.ts';
import type { Chunk } from './replay.ts';
import { BUFFERED_BYTES_MAX, CloseCode } from './sink.ts';
import type { Sink } from './sink.ts';

/** One turn sends and reads for about this long, then lets everybody else have the event loop. */
const SLICE_MS = 4;
/** Looking at the clock costs as much as a small write. */
const DELIVERIES_BETWEEN_CLOCKS = 16;
const CHUNK = { rows: 128, bytes: 128 * 1024 } as const;
/** Changes of one turn are sent in batches of about this much. */
const BATCH_BYTES_MAX = 256 * 1024;
export const BEHIND_BYTES_MAX = 1024 * 1024;
export const BEHIND_MS_MAX = 2_000;
const TICK_MS = 1_000;
/** Requests have the archive's other connections. */
const COLD_AT_ONCE = 4;
const COLD_MS_MAX = 10_000;
/** A replica that has heard of no leader for this long may be the one that is cut off: its streams go elsewhere. */
const LEADERLESS_MS_MAX = 10_000;

export interface HubSource {
  /** Rows of a context whose group has a replica here; current to the last change that `changed` was told. */
  readonly rows: (context: string) => Rows;
  /** Whether the replica of the group knows a leader. */
  readonly isLed: (group: number) => boolean;
  /** For what hot storage no longer has. */
  readonly archive: ColdReads;
  /** A context could not be read; its streams are closed. */
  readonly readFailed: (context: string, error: unknown) => void;
}

export interface Subscription {
  readonly context: string;
  readonly group: number;
  /** The last version processed; null: only what comes. */
  readonly cursor: number | null;
  readonly withMessages: boolean;
  readonly sink: Sink;
}

interface Stream {
  readonly topic: Topic;
  readonly sink: Sink;
  readonly withMessages: boolean;
  /** The client was sent everything up to this version. */
  cursor: number;
  state: 'filling' | 'following' | 'ended';
  /** Following: batches from this ordinal on are for this stream, earlier ones were read from storage. */
  followsFrom: number;
  replay: LogReplay | null;
  /** It has caught up before, so being behind now is the client's doing. */
  wasCurrent: boolean;
  behindSinceMs: number;
  /** Bytes of changes since it fell behind. */
  behindBytes: number;
  /** What it waits for from the archive. */
  miss: NonNullable<Chunk['miss']> | null;
}

interface Topic {
  readonly context: string;
  readonly group: number;
  readonly streams: Set<Stream>;
  /** Changes that are not frames yet: of this turn, or of the time that the last round of deliveries takes. */
  pending: ContextEvent[];
  /** Batches on their way to the streams. */
  deliveries: number;
}

/** A batch on its way to the streams of a topic; big audiences take several turns. */
interface Delivery {
  readonly topic: Topic;
  readonly batch: Batch;
  readonly ordinal: number;
  readonly streams: Iterator<Stream>;
}

export class StreamHub {
  /** Streams closed because their clients read too slowly, ever. */
  evicted = 0;
  private readonly source: HubSource;
  private readonly topics = new Map<string, Topic>();
  private readonly streams = new Set<Stream>();
  private readonly changedTopics = new Set<Topic>();
  private deliveries: Delivery[] = [];
  /** First of `deliveries` that is not done. */
  private delivering = 0;
  /** Streams that can take a chunk now, in turn. */
  private readonly fills = new Set<Stream>();
  /** Streams that wait to read the archive, in turn, and how many read it. */
  private readonly misses = new Set<Stream>();
  private fetching = 0;
  private ordinal = 0;
  private isScheduled = false;
  private readonly leaderlessSinceMs = new Map<number, number>();
  private readonly ticker: NodeJS.Timeout;

  constructor(source: HubSource) {
    this.source = source;
    // Timers run before what has arrived is read: a client must not be judged by a stall of this process.
    this.ticker = setInterval(() => setImmediate(() => this.tick(performance.now())), TICK_MS);
    this.ticker.unref();
  }

  close(): void {
    clearInterval(this.ticker);
  }

  /** The machine applied a change; its rows are readable. Called in log order. */
  changed(event: ContextEvent): void {
    const topic = this.topics.get(event.context);
    if (topic === undefined) return;
    topic.pending.push(event);
    this.changedTopics.add(topic);
    this.schedule();
  }

  /** The state of a group jumped (a snapshot was installed): what was skipped is in storage. */
  jumped(group: number): void {
    for (const topic of this.topics.values()) if (topic.group === group) this.refill(topic);
  }

  /** The replica of a group is no longer here or not to be trusted: its streams go on elsewhere. */
  removed(group: number): void {
    for (const topic of this.topics.values()) {
      if (topic.group === group) for (const stream of topic.streams) this.end(stream, CloseCode.restart, 'this node no longer hosts the context');
    }
  }

  /** Closes every stream with 1012. */
  closeAll(reason: string): void {
    for (const stream of this.streams) this.end(stream, CloseCode.restart, reason);
  }

  /** Starts a stream; its sink has not been written to. The context must exist here, at or above all that is acknowledged. */
  open(subscription: Subscription): void {
    const { context, group, sink, withMessages, cursor } = subscription;
    const topic = this.topics.get(context) ?? { context, group, streams: new Set(), pending: [], deliveries: 0 };
    this.topics.set(context, topic);
    const header = this.source.rows(context).header(context);
    const version = header?.version ?? 0;
    const stream: Stream = {
      topic,
      sink,
      withMessages,
      cursor: Math.min(cursor ?? version, version),
      state: 'filling',
      followsFrom: 0,
      replay: null,
      wasCurrent: false,
      behindSinceMs: 0,
      behindBytes: 0,
      miss: null,
    };
    topic.streams.add(stream);
    this.streams.add(stream);
    sink.attach({ drained: () => this.drained(stream), closed: () => this.forget(stream) });
    if (cursor !== null && cursor > version) this.send(stream, new Batch([resetFrame(version)]));
    if (cursor === null && header?.status === 'active') this.follow(stream);
    else this.fill(stream);
  }

  private schedule(): void {
    if (this.isScheduled) return;
    this.isScheduled = true;
    setImmediate(() => this.work());
  }

  private work(): void {
    this.isScheduled = false;
    // One round at a time: under load rounds get larger, not more, and what waits is events, not bytes.
    for (const topic of this.changedTopics) if (topic.deliveries === 0) this.flush(topic);
    const until = performance.now() + SLICE_MS;
    this.deliver(until);
    do {
      const [stream] = this.fills;
      if (stream === undefined) break;
      this.fills.delete(stream);
      this.fillOnce(stream);
    } while (performance.now() < until);
    if (this.fills.size > 0 || this.deliveries.length > 0 || this.changedTopics.size > 0) this.schedule();
  }

  // ---- Following

  /** Makes frames of what changed and sends them on their way. */
  private flush(topic: Topic): void {
    this.changedTopics.delete(topic);
    const { pending } = topic;
    topic.pending = [];
    if (topic.streams.size === 0) return;
    let frames: Frame[] = [];
    let bytes = 0;
    for (const [i, event] of pending.entries()) {
      const frame = this.frameOf(event);
      // Filling says what is wrong with the row, to the log and to each client.
      if (frame === null) return this.refill(topic);
      frames.push(frame);
      bytes += frame.json.length;
      if (bytes < BATCH_BYTES_MAX || pending[i + 1]?.version === event.version) continue;
      this.enqueue(topic, frames);
      frames = [];
      bytes = 0;
    }
    if (frames.length > 0) this.enqueue(topic, frames);
  }

  private enqueue(topic: Topic, frames: readonly Frame[]): void {
    topic.deliveries++;
    this.deliveries.push({ topic, batch: new Batch(frames), ordinal: this.ordinal++, streams: topic.streams.values() });
    this.schedule();
  }

  /** Null when the message cannot be read. */
  private frameOf(event: ContextEvent): Frame | null {
    switch (event.type) {
      case 'message': {
        const message = this.message(event.context, event.seq);
        return message === null ? null : messageFrame(event.seq, message);
      }
      case 'compaction':
        return compactionFrame(event.version, event.fromSeq, event.toSeq);
      case 'context':
        return contextFrame(event.version, event.needsCompaction, event.usedTokens);
      case 'tombstoned':
        return tombstonedFrame(event.version);
      case 'purged':
        return purgedFrame(event.version);
    }
  }

  private message(context: string, seq: number): MessageRow | null {
    try {
      const row = this.source.rows(context).get('message', context, seq);
      return row === undefined ? null : decodeMessageRow(row);
    } catch (error) {
      this.source.readFailed(context, error);
      return null;
    }
  }

  private deliver(untilMs: number): void {
    let count = 0;
    for (let delivery = this.deliveries[this.delivering]; delivery !== undefined; delivery = this.deliveries[this.delivering]) {
      for (let next = delivery.streams.next(); next.done !== true; next = delivery.streams.next()) {
        this.deliverTo(next.value, delivery);
        if (++count % DELIVERIES_BETWEEN_CLOCKS === 0 && performance.now() >= untilMs) return;
      }
      delivery.topic.deliveries--;
      this.delivering++;
    }
    this.deliveries = [];
    this.delivering = 0;
  }

  private deliverTo(stream: Stream, { batch, ordinal }: Delivery): void {
    if (stream.state === 'filling') {
      if (stream.wasCurrent) stream.behindBytes += batch.encode(stream.sink.encoding, stream.withMessages).length;
      return;
    }
    if (stream.state === 'ended' || ordinal < stream.followsFrom) return;
    // Whatever went wrong before, a client never sees a hole or a repetition.
    const fits = batch.firstChange === 0 ? batch.lastVersion === stream.cursor : batch.firstChange === stream.cursor + 1;
    if (!fits || stream.sink.bufferedBytes > BUFFERED_BYTES_MAX) return this.fallBack(stream, batch.encode(stream.sink.encoding, stream.withMessages).length);
    this.send(stream, batch);
    if (batch.isEnd) this.end(stream, CloseCode.normal, 'the context has ended');
  }

  private follow(stream: Stream): void {
    // What is pending was applied before this moment, so this stream's log has it already.
    this.flush(stream.topic);
    stream.followsFrom = this.ordinal;
    stream.state = 'following';
    stream.replay = null;
    stream.wasCurrent = true;
  }

  /** Followers look in storage for what they cannot be given. */
  private refill(topic: Topic): void {
    for (const stream of topic.streams) if (stream.state === 'following') this.fallBack(stream, 0);
  }

  private fallBack(stream: Stream, behindBytes: number): void {
    stream.state = 'filling';
    stream.behindSinceMs = performance.now();
    stream.behindBytes = behindBytes;
    this.fill(stream);
  }

  // ---- Filling

  private fill(stream: Stream): void {
    // A sink with more than that tells when it has drained.
    if (stream.sink.bufferedBytes > BUFFERED_BYTES_MAX) return;
    this.fills.add(stream);
    this.schedule();
  }

  private drained(stream: Stream): void {
    if (stream.state === 'filling') this.fill(stream);
  }

  private fillOnce(stream: Stream): void {
    if (stream.state !== 'filling' || stream.miss !== null) return;
    const { context } = stream.topic;
    let chunk;
    try {
      stream.replay ??= new LogReplay(this.source.rows(context), { context, cursor: stream.cursor, withMessages: stream.withMessages, hasArchive: this.source.archive.available });
      chunk = stream.replay.next(CHUNK);
    } catch (error) {
      // A damaged row has taken its replica out by now; the client gets the log from another.
      this.source.readFailed(context, error);
      return this.end(stream, CloseCode.restart, 'this replica cannot be read');
    }
    if (chunk.frames.length > 0) this.send(stream, new Batch(chunk.frames));
    switch (chunk.state) {
      case 'more':
        return this.fill(stream);
      case 'current':
        return this.follow(stream);
      case 'ended':
        return this.end(stream, CloseCode.normal, 'the context has ended');
      case 'gone':
        return this.end(stream, CloseCode.restart, 'the context is not on this node');
      case 'cold':
        stream.miss = chunk.miss ?? null;
        this.misses.add(stream);
        return this.fetchMisses();
    }
  }

  private fetchMisses(): void {
    for (const stream of this.misses) {
      if (this.fetching >= COLD_AT_ONCE) return;
      this.misses.delete(stream);
      this.fetching++;
      void this.fetchMiss(stream);
    }
  }

  private async fetchMiss(stream: Stream): Promise<void> {
    const { miss, topic } = stream;
    const failure = miss === null ? null : await this.source.archive.fetch(topic.context, miss.need, miss.fetched, COLD_MS_MAX);
    this.fetching--;
    stream.miss = null;
    // It may have been purged meanwhile: filling finds that out.
    if (failure !== null && this.isHere(topic.context)) this.end(stream, CloseCode.later, 'the archive cannot be reached, and what comes next is only there');
    else if (stream.state === 'filling') this.fill(stream);
    this.fetchMisses();
  }

  private isHere(context: string): boolean {
    try {
      return this.source.rows(context).config(context) !== undefined;
    } catch (error) {
      this.source.readFailed(context, error);
      return false;
    }
  }

  // ---- One stream

  private send(stream: Stream, batch: Batch): void {
    const bytes = batch.encode(stream.sink.encoding, stream.withMessages);
    if (bytes.length > 0) stream.sink.write(bytes);
    stream.cursor = Math.max(stream.cursor, batch.lastVersion);
  }

  private end(stream: Stream, code: CloseCode, reason: string): void {
    if (stream.state === 'ended') return;
    stream.state = 'ended';
    stream.sink.close(code, reason);
  }

  private forget(stream: Stream): void {
    const { topic } = stream;
    stream.state = 'ended';
    this.streams.delete(stream);
    this.fills.delete(stream);
    this.misses.delete(stream);
    topic.streams.delete(stream);
    if (topic.streams.size > 0) return;
    this.topics.delete(topic.context);
    this.changedTopics.delete(topic);
  }

  private tick(nowMs: number): void {
    for (const stream of this.streams) {
      if (stream.state === 'ended') continue;
      stream.sink.tick(nowMs);
      const isSlow = stream.state === 'filling' && stream.wasCurrent && stream.behindBytes > BEHIND_BYTES_MAX && nowMs - stream.behindSinceMs > BEHIND_MS_MAX;
      if (!isSlow) continue;
      this.evicted++;
      this.end(stream, CloseCode.slow, 'the client reads too slowly');
    }
    this.leaveLeaderless(nowMs);
  }

  private leaveLeaderless(nowMs: number): void {
    const groups = new Set<number>();
    for (const { group } of this.topics.values()) groups.add(group);
    for (const group of this.leaderlessSinceMs.keys()) if (!groups.has(group)) this.leaderlessSinceMs.delete(group);
    for (const group of groups) {
      const sinceMs = this.leaderlessSinceMs.get(group);
      if (this.source.isLed(group)) this.leaderlessSinceMs.delete(group);
      else if (sinceMs === undefined) this.leaderlessSinceMs.set(group, nowMs);
      else if (nowMs - sinceMs > LEADERLESS_MS_MAX) this.removed(group);
    }
  }
}
