/**
 * Reads from the archive: pages by seq, whole ranges page by page, and the erasure of a context. Reads never wait for
 * a database that is known to be down, and never take the connection that writes.
 */
import pg from 'pg';
import { Breaker } from './breaker.ts';
import { connectionSettings } from './connection.ts';
import { describe } from './failures.ts';
import type { ArchiverLog, ArchiverOptions } from './ports.ts';

/** A read that waits longer than this for rows is answered as unavailable. */
const STATEMENT_MS = 4000;
/** Reads that wait for a connection; more are refused at once. */
const WAITING_MAX = 64;
/** Deletes are bounded transactions, so that erasing a long context holds no lock for long. */
const DELETE_ROWS = 5000;
/** Rows and bytes of one page of a stream. */
const STREAM_ROWS = 1000;
const STREAM_BYTES = 4 * 1024 * 1024;

export interface ArchivedMessage {
  readonly seq: number;
  readonly version: number;
  /** What was archived, byte for byte. */
  readonly body: Buffer;
  readonly rowHead: Buffer;
}

/** A read or erasure that cannot be had now; 503 archive_unavailable. */
export interface ArchiveUnavailable {
  readonly ok: false;
  readonly code: 'archive_unavailable';
  readonly message: string;
  readonly retryAfterSeconds: number;
}

export type ArchiveRead<T> = { readonly ok: true; readonly value: T } | ArchiveUnavailable;

/** Thrown by `stream`, whose pages cannot be values of two kinds. */
export class ArchiveReadError extends Error {
  readonly unavailable: ArchiveUnavailable;

  constructor(unavailable: ArchiveUnavailable) {
    super(unavailable.message);
    this.name = 'ArchiveReadError';
    this.unavailable = unavailable;
  }
}

export interface RangeQuery {
  /** Both inclusive. The caller asks only for what is archived: a seq in between that is not there is an error. */
  readonly from: number;
  readonly to: number;
  readonly limit: number;
  /** The page ends before the message that would pass it, but holds at least one. */
  readonly bytesMax: number;
}

/** Sizes are known without reading the bodies, so Postgres sends no more than fits. */
const RANGE = `
SELECT seq::float8 AS seq, version::float8 AS version, body, row_head AS "rowHead" FROM (
  SELECT seq, version, body, row_head, sum(octet_length(body)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS upto
  FROM messages WHERE context_id = $1 AND seq BETWEEN $2 AND $3 ORDER BY seq LIMIT $4) AS page
WHERE upto <= $5 OR seq = $2 ORDER BY seq`;

/** Versions rise with seqs and seqs have no hole: a binary search over the primary key. */
const FIRST_AFTER = `
WITH RECURSIVE search(low, high) AS (
  SELECT 1::bigint, $3::bigint + 1
  UNION ALL
  SELECT CASE WHEN m.version > $2 THEN s.low ELSE (s.low + s.high) / 2 + 1 END, CASE WHEN m.version > $2 THEN (s.low + s.high) / 2 ELSE s.high END
  FROM search s JOIN messages m ON m.context_id = $1 AND m.seq = (s.low + s.high) / 2 WHERE s.low < s.high
)
SELECT low::float8 AS low, high::float8 AS high FROM search ORDER BY high - low LIMIT 1`;

const MARK_PURGED = `
INSERT INTO contexts AS c (id, status, version, config_revision, last_seq) VALUES ($1, 'purged', 0, 0, 0)
ON CONFLICT (id) DO UPDATE SET status = 'purged', token_budget = NULL, trigger_ratio = NULL, policy = NULL, model = NULL, metadata = NULL, window_tokens = NULL`;
/** Each step starts where the one before ended, so that none walks over rows that are deleted already. */
const NEXT_DELETE = `SELECT max(seq)::float8 AS upto FROM (SELECT seq FROM messages WHERE context_id = $1 AND seq > $2 ORDER BY seq LIMIT ${DELETE_ROWS}) AS step`;
const DELETE_MESSAGES = 'DELETE FROM messages WHERE context_id = $1 AND seq > $2 AND seq <= $3';

export class ArchiveReader {
  private readonly pool: pg.Pool;
  private readonly breaker: Breaker;
  private readonly log: ArchiverLog;

  constructor(options: Pick<ArchiverOptions, 'url' | 'poolSize' | 'log' | 'random'>) {
    this.log = options.log;
    this.breaker = new Breaker({ stepMs: 100, stepMsMax: 2000, random: options.random, now: () => performance.now() });
    this.pool = new pg.Pool({ ...connectionSettings(options.url, { role: 'reader', statementMs: STATEMENT_MS }), max: Math.max(1, options.poolSize - 1), idleTimeoutMillis: 30_000 });
    // A connection that breaks while idle is replaced when it is next needed.
    this.pool.on('error', () => undefined);
  }

  /** Messages from `query.from` on, ascending, without a hole; fewer than asked for where a bound was met. */
  readRange(context: string, query: RangeQuery): Promise<ArchiveRead<readonly ArchivedMessage[]>> {
    return this.attempt(async () => {
      const limit = Math.min(query.limit, query.to - query.from + 1);
      if (limit <= 0) return [];
      const { rows } = await this.pool.query<ArchivedMessage>(RANGE, [context, query.from, query.to, limit, query.bytesMax]);
      const wrong = rows.findIndex(({ seq }, i) => seq !== query.from + i);
      if (rows.length === 0 || wrong !== -1) throw new MissingRowsError(context, query.from + Math.max(0, wrong));
      return rows;
    });
  }

  /** The range in pages, holding one at a time and no transaction between them. Throws ArchiveReadError. */
  async *stream(context: string, from: number, to: number): AsyncGenerator<readonly ArchivedMessage[], void, void> {
    for (let next = from; next <= to; ) {
      const page = await this.readRange(context, { from: next, to, limit: STREAM_ROWS, bytesMax: STREAM_BYTES });
      if (!page.ok) throw new ArchiveReadError(page);
      yield page.value;
      next += page.value.length;
    }
  }

  /** The smallest seq up to `archivedSeq` whose version is above `version`; archivedSeq + 1 when there is none. */
  firstSeqAfter(context: string, version: number, archivedSeq: number): Promise<ArchiveRead<number>> {
    return this.attempt(async () => {
      const { rows } = await this.pool.query<{ low: number; high: number }>(FIRST_AFTER, [context, version, archivedSeq]);
      const [found] = rows;
      if (found === undefined || found.low < found.high) throw new MissingRowsError(context, found === undefined ? 1 : Math.floor((found.low + found.high) / 2));
      return found.low;
    });
  }

  /**
   * Erases what the archive holds of a context and keeps its id reserved: no flush that is still under way brings
   * anything back. May be repeated, also after it was interrupted. The value is the number of messages erased.
   */
  erase(context: string): Promise<ArchiveRead<number>> {
    return this.attempt(async () => {
      await this.pool.query(MARK_PURGED, [context]);
      await this.pool.query('DELETE FROM compactions WHERE context_id = $1', [context]);
      let erased = 0;
      for (let from = 0; ; ) {
        const { rows } = await this.pool.query<{ upto: number | null }>(NEXT_DELETE, [context, from]);
        const upto = rows[0]?.upto ?? null;
        if (upto === null) return erased;
        const { rowCount } = await this.pool.query(DELETE_MESSAGES, [context, from, upto]);
        erased += rowCount ?? 0;
        from = upto;
      }
    });
  }

  async close(): Promise<void> {
    await this.pool.end();
  }

  private async attempt<T>(work: () => Promise<T>): Promise<ArchiveRead<T>> {
    if (this.pool.waitingCount >= WAITING_MAX) return unavailable('The archive has more reads waiting than it can answer. Try again.', 1);
    if (!this.breaker.enter()) return unavailable('The archive (Postgres) is not reachable, and older messages are only there. Try again later.', this.breaker.waitMs() / 1000);
    try {
      const value = await work();
      this.breaker.succeeded();
      return { ok: true, value };
    } catch (error) {
      if (error instanceof MissingRowsError) {
        this.breaker.succeeded();
        this.log.error({ type: 'archive_incomplete', context_id: error.context, seq: error.seq }, error.message);
        return unavailable('The archive does not hold all messages of this range. Restore it from a backup.', 60);
      }
      this.breaker.failed();
      this.log.warn({ type: 'archive_read_failed', reason: describe(error) }, 'a read from the archive failed');
      return unavailable('The archive (Postgres) did not answer, and older messages are only there. Try again later.', this.breaker.waitMs() / 1000);
    }
  }
}

/** Rows that were archived are gone: somebody deleted them, or Postgres was set back. */
class MissingRowsError extends Error {
  readonly context: string;
  readonly seq: number;

  constructor(context: string, seq: number) {
    super(`message ${seq} was archived and is not in the archive: it was deleted, or Postgres lost acknowledged rows`);
    this.context = context;
    this.seq = seq;
  }
}

function unavailable(message: string, seconds: number): ArchiveUnavailable {
  return { ok: false, code: 'archive_unavailable', message, retryAfterSeconds: Math.max(1, Math.ceil(seconds)) };
}
