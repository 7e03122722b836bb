/**
 * The one writer of a node: every change to LevelDB is a job here, every batch is synced, one batch is in flight.
 * While it is being synced, later jobs gather for the next. Owns order and the rule that an error is final: after a
 * failed write LevelDB may accept and then lose later synced ones, so nothing is ever written or acknowledged again.
 */
import type { ClassicLevel } from 'classic-level';

export type Database = ClassicLevel<Uint8Array, Uint8Array>;

/** A row, undefined if there is none, null if LevelDB finds its own files damaged there. */
export function readSync(db: Database, key: Uint8Array): Uint8Array | undefined | null {
  try {
    return db.getSync(key);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'LEVEL_CORRUPTION') return null;
    throw error;
  }
}

/** Where a job puts its rows; keys and values are copied at once, so that callers may reuse their buffers. */
export interface RowSink {
  put(key: Uint8Array, value: Uint8Array): void;
  del(key: Uint8Array): void;
}

export interface Job {
  /** Rough size, for the bound on bulk work in one batch. */
  readonly bytes: number;
  /** Called once, when the job's batch is put together. */
  encode(sink: RowSink): void;
  /** Called once: the batch is durable, or the error that ended all writing. */
  done(error: Error | null): void;
}

/** Bulk work (snapshot rows, deletions) allowed into a batch that urgent jobs wait for, and into one of its own. */
const BULK_BESIDE_URGENT_BYTES = 256 * 1024;
const BULK_ALONE_BYTES = 1024 * 1024;

export class Writer {
  /** Plain counters; `lastBatchMs` includes the sync, `batchStartedAt` is 0 while nothing is in flight. */
  readonly stats = { batches: 0, rows: 0, bytes: 0, lastBatchMs: 0, batchStartedAt: 0 };
  private readonly db: Database;
  private readonly onError: (error: Error) => void;
  private readonly onSynced: (ms: number) => void;
  private readonly urgent: Job[] = [];
  private readonly bulk: Job[] = [];
  private inFlight: Job[] | null = null;
  private idle: (() => void)[] = [];
  private failed: Error | null = null;

  /** `onError` is told once, before the failed jobs are; `onSynced` how long each batch took, sync included. */
  constructor(db: Database, onError: (error: Error) => void, onSynced: (ms: number) => void) {
    this.db = db;
    this.onError = onError;
    this.onSynced = onSynced;
  }

  /** The error that ended all writing, or null. */
  get failure(): Error | null {
    return this.failed;
  }

  /** Urgent jobs become durable in the order they were submitted. `done` never runs inside this call. */
  submit(job: Job): void {
    this.urgent.push(job);
    this.wake();
  }

  /** Bulk jobs are ordered among themselves only and yield to urgent ones. */
  submitBulk(job: Job): void {
    this.bulk.push(job);
    this.wake();
  }

  /** A job as a promise, for callers that are not on the hot path. */
  run(bytes: number, encode: (sink: RowSink) => void, kind: 'urgent' | 'bulk' = 'urgent'): Promise<void> {
    return new Promise((resolve, reject) => {
      const job = { bytes, encode, done: (error: Error | null) => (error === null ? resolve() : reject(error)) };
      if (kind === 'urgent') this.submit(job);
      else this.submitBulk(job);
    });
  }

  /** Resolves when nothing is queued or in flight, whether it succeeded or not. */
  drained(): Promise<void> {
    if (this.inFlight === null && this.urgent.length + this.bulk.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.idle.push(resolve));
  }

  /** Everything submitted from now on is refused; nobody is told, because nothing went wrong. */
  end(): void {
    this.failed ??= new Error('the storage is closed');
  }

  private wake(): void {
    if (this.failed !== null) {
      setImmediate(() => this.refuse());
    } else if (this.inFlight === null) {
      this.start();
    }
  }

  private start(): void {
    const jobs = this.take();
    this.inFlight = jobs;
    this.stats.batchStartedAt = performance.now();
    try {
      const batch = this.db.batch();
      const sink = new BatchSink(batch);
      for (const job of jobs) job.encode(sink);
      this.stats.batches++;
      this.stats.rows += sink.rows;
      this.stats.bytes += sink.bytes;
      batch.write({ sync: true }).then(
        () => this.completed(jobs),
        (error: unknown) => this.fail(error),
      );
    } catch (error) {
      // Thrown by a closed database or by a job that cannot be encoded: `done` still must not run inside submit().
      setImmediate(() => this.fail(error));
    }
  }

  private take(): Job[] {
    const jobs = this.urgent.splice(0);
    const limit = jobs.length > 0 ? BULK_BESIDE_URGENT_BYTES : BULK_ALONE_BYTES;
    let bytes = 0;
    let count = 0;
    while (count < this.bulk.length && bytes < limit) bytes += this.bulk[count++]?.bytes ?? 0;
    return count === 0 ? jobs : jobs.concat(this.bulk.splice(0, count));
  }

  private completed(jobs: readonly Job[]): void {
    this.stats.lastBatchMs = performance.now() - this.stats.batchStartedAt;
    this.stats.batchStartedAt = 0;
    this.onSynced(this.stats.lastBatchMs);
    // Callbacks may submit; those jobs go together into one batch, started after the last callback.
    this.inFlight = [];
    for (const job of jobs) job.done(null);
    this.inFlight = null;
    if (this.urgent.length + this.bulk.length > 0) this.start();
    else this.announceIdle();
  }

  private fail(cause: unknown): void {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const error = new Error(`writing to disk failed, nothing more will be written: ${reason}`, { cause });
    this.failed = error;
    this.onError(error);
    const jobs = this.inFlight ?? [];
    this.inFlight = null;
    for (const job of jobs) job.done(error);
    this.refuse();
  }

  private refuse(): void {
    const jobs = this.urgent.splice(0).concat(this.bulk.splice(0));
    for (const job of jobs) job.done(this.failed);
    this.announceIdle();
  }

  private announceIdle(): void {
    const waiting = this.idle;
    this.idle = [];
    for (const resolve of waiting) resolve();
  }
}

type ChainedBatch = ReturnType<Database['batch']> & { write(options: { sync: boolean }): Promise<void> };

class BatchSink implements RowSink {
  rows = 0;
  bytes = 0;
  private readonly batch: ChainedBatch;

  constructor(batch: ChainedBatch) {
    this.batch = batch;
  }

  put(key: Uint8Array, value: Uint8Array): void {
    this.batch.put(key, value);
    this.rows++;
    this.bytes += key.length + value.length;
  }

  del(key: Uint8Array): void {
    this.batch.del(key);
    this.rows++;
    this.bytes += key.length;
  }
}
