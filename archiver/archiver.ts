/**
 * The flush loop of a node: reads what is not archived from the state machine itself, writes it in batches across
 * contexts, and only then proposes the marks. It keeps nothing that a crash could lose; a restart, and a new leader,
 * begin from the marks in the state. What is flushed twice is inserted once.
 *
 * At most two batches are in memory: one that Postgres is writing and one that is being read meanwhile. A batch that
 * fails is dropped and read again. Memory does not depend on the backlog.
 */
import type pg from 'pg';
import { Breaker } from './breaker.ts';
import { connectionSettings, LazyClient } from './connection.ts';
import { ArchiveSetupError, describe, isTimeout } from './failures.ts';
import { Laps } from './lap.ts';
import { prepareArchive } from './migrations.ts';
import type { Ack, ArchiverOptions, PendingContext } from './ports.ts';
import { writeBatch, type BatchEntry, type BatchResult } from './writer.ts';

const STATEMENT_MS = 30_000;
/** Bytes of message bodies in a batch; one message may pass it. */
const BATCH_BYTES = 8 * 1024 * 1024;
/** A batch that a slow database does not finish in time is halved, down to so many messages; each that it does adds some. */
const BATCH_ROWS_MIN = 100;
const BATCH_ROWS_STEP = 100;
const RETRY_MS = 200;
const RETRY_MS_MAX = 10_000;
/** Contexts flushed and not yet acknowledged; beyond, the loop pauses for its interval (a group may be without quorum). */
const UNACKED_MAX = 10_000;
/** A context that Postgres rejects is left alone for so long; so many are remembered. */
const REJECTED_MS = 60_000;
const REJECTED_MAX = 10_000;
/** How long close() lets a flush end by itself. */
const CLOSE_MS = 2000;

interface Batch {
  readonly entries: readonly BatchEntry[];
  readonly rows: number;
  readonly bytes: number;
  /** A bound ended it, or cut a context of its lap short: there is more. */
  readonly hasMore: boolean;
  /** What may be said once the batch is in, and for each how far its context has then been read. */
  readonly acks: readonly { readonly ack: Ack; readonly sent: Sent }[];
}

const NOTHING: Batch = { entries: [], rows: 0, bytes: 0, hasMore: false, acks: [] };

/** How far a context has been read in this drain: what the state says lags until the marks are applied. */
interface Sent {
  readonly nextSeq: number;
  readonly version: number;
  readonly configRevision: number;
}

export class Archiver {
  private readonly options: ArchiverOptions;
  private readonly client: LazyClient;
  private readonly breaker: Breaker;
  private readonly laps: Laps;
  private readonly sent = new Map<string, Sent>();
  /** When a rejected context is tried again. */
  private readonly rejected = new Map<string, number>();
  private batchRows: number;
  /** Something of the current lap went into a batch. */
  private foundInLap = false;
  /** A bound cut the messages of one of its contexts short. */
  private cutInLap = false;
  private appended = 0;
  private closed = false;
  private running: Promise<void> = Promise.resolve();
  private wake: () => void = () => undefined;

  constructor(options: ArchiverOptions) {
    this.options = options;
    this.client = new LazyClient(connectionSettings(options.url, { role: 'writer', statementMs: STATEMENT_MS }));
    this.breaker = new Breaker({ stepMs: RETRY_MS, stepMsMax: RETRY_MS_MAX, random: options.random, now: () => performance.now() });
    this.laps = new Laps(options.source, options.metrics);
    this.batchRows = options.batchSize;
  }

  /** Begins to flush. Postgres need not be there. */
  start(): void {
    this.running = this.run();
  }

  /** `count` messages became committed in groups led here: a batch that is full need not wait for the interval. */
  noteAppended(count: number): void {
    this.appended += count;
    if (this.appended >= this.batchRows && !this.breaker.open) this.wake();
  }

  /** Stops after the flush under way; one that does not end soon is cut off, and is repeated by whoever leads next. */
  async close(): Promise<void> {
    this.closed = true;
    this.wake();
    const cut = setTimeout(() => this.client.close(), CLOSE_MS);
    await this.running;
    clearTimeout(cut);
    this.client.close();
  }

  private async run(): Promise<void> {
    while (!this.closed) {
      try {
        if (this.breaker.enter()) await this.drain();
        else await this.survey();
      } catch (error) {
        this.trouble(error);
      }
      const { flushIntervalMs } = this.options;
      await this.pause(this.breaker.open ? Math.min(this.breaker.waitMs(), flushIntervalMs) : flushIntervalMs);
    }
  }

  /**
   * Flushes all there was when it began, batch by batch. What comes meanwhile waits for the interval, or for a full
   * batch: the marks of a context cost about as much as an append, so a flush should hold many of its messages.
   */
  private async drain(): Promise<void> {
    this.appended = 0;
    let acking: Promise<void> = Promise.resolve();
    try {
      // Also with nothing to flush: the tables are there from the start on, and a recovery is seen.
      await this.client.get((fresh) => this.prepare(fresh));
      this.recovered();
      let batch = await this.gather();
      while (batch.entries.length > 0 && !this.closed && this.sent.size <= UNACKED_MAX) {
        // Read on while Postgres writes. A failed read counts when its batch is due, not before. A batch without a
        // message is of contexts with more to trim than one mark may, or with nothing but new settings.
        const next = batch.hasMore || batch.rows === 0 ? this.gather() : Promise.resolve(NOTHING);
        next.catch(() => undefined);
        let result: BatchResult;
        try {
          result = await this.flush(batch);
        } catch (error) {
          await next.catch(() => undefined);
          throw error;
        }
        // Marks of a context are proposed in the order of its messages.
        await acking;
        acking = this.acknowledge(batch, result);
        batch = await next;
      }
    } finally {
      await acking;
      this.sent.clear();
      this.laps.restart();
      this.foundInLap = false;
      this.cutInLap = false;
    }
  }

  /** Keeps the gauges true while Postgres is out of reach. */
  private async survey(): Promise<void> {
    while ((await this.laps.next()) !== null);
  }

  /** The next batch; empty once a lap has found nothing. */
  private async gather(): Promise<Batch> {
    const entries = new Map<string, BatchEntry>();
    const acks: { ack: Ack; sent: Sent }[] = [];
    let rows = 0;
    let bytes = 0;
    let hasMore = true;
    while (rows < this.batchRows && entries.size < this.batchRows && bytes < BATCH_BYTES) {
      const pending = await this.laps.next();
      if (pending === null) {
        const over = entries.size > 0 || !this.foundInLap;
        this.foundInLap = entries.size > 0;
        hasMore = this.cutInLap;
        this.cutInLap = false;
        if (over) break;
        hasMore = true;
        continue;
      }
      if (entries.has(pending.context) || this.isSent(pending) || this.isRejected(pending.context)) continue;
      const { context } = pending;
      const before = this.sent.get(context);
      const slice = await this.options.source.read(context, { fromSeq: before?.nextSeq ?? 1, countMax: this.batchRows - rows, bytesMax: BATCH_BYTES - bytes });
      if (slice === null) continue;
      const { state, messages, compactions } = slice;
      const last = messages.at(-1);
      const nextSeq = last === undefined ? state.lastSeq + 1 : last.seq + 1;
      // Said even while messages are missing: the context's row and compactions go in with every slice.
      if (nextSeq <= state.lastSeq) this.cutInLap = true;
      const { version, configRevision } = state;
      entries.set(context, { context, state, messages, compactions });
      const sent = { nextSeq, version, configRevision };
      acks.push({ ack: { context, upto: last?.seq ?? 0, version, configRevision }, sent });
      this.sent.set(context, sent);
      this.foundInLap = true;
      rows += messages.length;
      for (const { body } of messages) bytes += body.length;
    }
    return { entries: [...entries.values()], rows, bytes, hasMore, acks };
  }

  private isSent(pending: PendingContext): boolean {
    const sent = this.sent.get(pending.context);
    return sent !== undefined && sent.nextSeq > pending.lastSeq && sent.version >= pending.version && sent.configRevision >= pending.configRevision;
  }

  private async flush(batch: Batch): Promise<BatchResult> {
    const { metrics, log } = this.options;
    const client = await this.client.get((fresh) => this.prepare(fresh));
    const started = performance.now();
    metrics.attempted.inc(batch.rows);
    metrics.bytesAttempted.inc(batch.bytes);
    const result = await writeBatch(client, batch.entries);
    metrics.flushDuration.observe(performance.now() - started);
    metrics.inserted.inc(result.rowsInserted);
    metrics.bytesInserted.inc(result.bytesInserted);
    this.batchRows = Math.min(this.options.batchSize, this.batchRows + BATCH_ROWS_STEP);
    if (result.jsonRefused > 0) {
      metrics.jsonRefused.inc(result.jsonRefused);
      log.warn({ type: 'archive_json_refused', messages: result.jsonRefused }, `${result.jsonRefused} messages were archived by their bytes alone: Postgres takes no jsonb of them`);
    }
    for (const [context, reason] of result.rejected) this.reject(context, reason);
    return result;
  }

  /** Each new connection looks again whether the archive is what it should be: Postgres may have been set up anew. */
  private async prepare(client: pg.Client): Promise<void> {
    await prepareArchive(client, this.options);
    const { rows } = await client.query<{ name: string }>(`SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'`);
    for (const { name } of rows) {
      this.options.log.warn({ type: 'archive_not_durable', setting: name }, `the archive's Postgres runs with ${name}=off: a crash there loses messages that are trimmed here`);
    }
  }

  private async acknowledge(batch: Batch, result: BatchResult): Promise<void> {
    // A context that was rejected in an earlier batch misses messages below those of this one.
    const said = batch.acks.filter(({ ack: { context } }) => !result.rejected.has(context) && !this.rejected.has(context));
    const applied = await this.options.source.ack(said.map(({ ack }) => ack));
    for (const [i, { ack, sent }] of said.entries()) {
      // The state knows as much now. What failed stays, so that this drain does not send it again and again; what was
      // read ahead meanwhile is another batch's.
      if (applied[i] === true && this.sent.get(ack.context) === sent) this.sent.delete(ack.context);
    }
  }

  private reject(context: string, reason: string): void {
    this.options.log.error({ type: 'archive_rejected', context_id: context, reason }, `the archive does not take context ${JSON.stringify(context)}; it stays in hot storage: ${reason}`);
    if (this.rejected.size >= REJECTED_MAX) this.rejected.clear();
    this.rejected.set(context, performance.now() + REJECTED_MS);
  }

  private isRejected(context: string): boolean {
    const until = this.rejected.get(context);
    if (until === undefined) return false;
    if (performance.now() < until) return true;
    this.rejected.delete(context);
    return false;
  }

  private trouble(error: unknown): void {
    this.client.drop();
    if (this.closed) return;
    if (isTimeout(error)) this.batchRows = Math.max(Math.min(BATCH_ROWS_MIN, this.options.batchSize), this.batchRows >> 1);
    this.breaker.failed();
    const fields = { type: error instanceof ArchiveSetupError ? 'archive_unusable' : 'archive_failed', failures: this.breaker.count, retry_ms: Math.round(this.breaker.waitMs()) };
    this.options.log.warn(fields, `the archive failed; messages stay in hot storage until it is back: ${describe(error)}`);
  }

  private recovered(): void {
    if (this.breaker.open) this.options.log.info({ type: 'archive_recovered', failures: this.breaker.count }, 'the archive is back');
    this.breaker.succeeded();
  }

  private pause(ms: number): Promise<void> {
    if (this.closed || (this.appended >= this.batchRows && !this.breaker.open)) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
