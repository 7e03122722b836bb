/**
 * Reads that reach below hot storage. A read of rows is synchronous and made at one moment; where it meets a message
 * that only the archive has, it says so by throwing ColdMiss, what it lacks is fetched, and the read is made anew with
 * what was fetched so far. Messages never change, so what was fetched fits every later moment; what was trimmed
 * meanwhile is lacking in the next round. So there is no hole and no repeat at the seam, whatever trims.
 */
import type { ArchiveRead } from '../../archiver/reader.ts';
import type { ContextHeader, RowKey, Rows, Table } from '../contexts/types.ts';
import { ApiError } from '../errors.ts';
import { putTogether, type ColdMessage } from './rows.ts';

/** Messages and bytes of one fetch for a window; the bytes of all fetches for one. */
const BLOCK_MESSAGES_MIN = 64;
const BLOCK_MESSAGES_MAX = 2048;
const BLOCK_BYTES = 8 * 1024 * 1024;
const WINDOW_BYTES_MAX = 64 * 1024 * 1024;

/** What a read lacks. */
export type ColdNeed =
  | { readonly what: 'messages'; readonly from: number; readonly to: number; readonly bytesMax: number }
  /** The first message up to `to` whose version is above `version`. */
  | { readonly what: 'seqAfter'; readonly version: number; readonly to: number };

/** The read cannot be finished without `need`. */
export class ColdMiss extends Error {
  readonly need: ColdNeed;

  constructor(need: ColdNeed) {
    super('the archive must be read first');
    this.need = need;
  }
}

/** The archive as reads need it (ArchiveReader of archiver/). */
export interface ColdStore {
  readRange(context: string, query: { readonly from: number; readonly to: number; readonly limit: number; readonly bytesMax: number }): Promise<ArchiveRead<readonly ColdMessage[]>>;
  firstSeqAfter(context: string, version: number, archivedSeq: number): Promise<ArchiveRead<number>>;
}

/** What one read has fetched from the archive so far. */
export class Fetched {
  private readonly messages = new Map<number, ColdMessage>();
  private readonly seqsAfter = new Map<number, number>();
  /** A page ended before these, because it had its bytes. */
  private readonly stops = new Set<number>();
  private bytes = 0;
  private blockMessages = BLOCK_MESSAGES_MIN;
  private missed = 0;

  /** The message, or null where the page is full before it. Throws ColdMiss; the fetch will go up to `to`. */
  message(seq: number, to: number, bytesMax: number): ColdMessage | null {
    const message = this.messages.get(seq);
    if (message !== undefined) return message;
    if (this.stops.has(seq)) return null;
    throw new ColdMiss({ what: 'messages', from: seq, to, bytesMax: Math.max(1, bytesMax) });
  }

  /** The same for a read that goes to and fro: what is fetched lies around `seq`. Throws ColdMiss, ApiError payload_too_large. */
  nearby(seq: number, to: number): ColdMessage {
    const message = this.messages.get(seq);
    if (message !== undefined) return message;
    if (this.bytes > WINDOW_BYTES_MAX) throw new ApiError('payload_too_large', `This answer takes more than ${WINDOW_BYTES_MAX} bytes from the archive. Ask for fewer tokens (budget_tokens), or a later version.`);
    const half = this.blockMessages / 2;
    this.blockMessages = Math.min(BLOCK_MESSAGES_MAX, this.blockMessages * 2);
    // A block that had its bytes before it came to this message: this one begins with it.
    const from = this.missed === seq ? seq : Math.max(1, seq - half);
    this.missed = seq;
    throw new ColdMiss({ what: 'messages', from, to: Math.min(to, seq + half), bytesMax: BLOCK_BYTES });
  }

  /** The smallest seq whose version is above `version`, for one that is below the version of message to + 1. Throws ColdMiss. */
  seqAfter(version: number, to: number): number {
    const found = this.seqsAfter.get(version);
    if (found === undefined) throw new ColdMiss({ what: 'seqAfter', version, to });
    return found;
  }

  add(need: Extract<ColdNeed, { what: 'messages' }>, messages: readonly ColdMessage[]): void {
    for (const message of messages) {
      this.messages.set(message.seq, message);
      this.bytes += message.body.length;
    }
    const end = need.from + messages.length;
    if (end <= need.to) this.stops.add(end);
  }

  addSeqAfter(need: Extract<ColdNeed, { what: 'seqAfter' }>, seq: number): void {
    this.seqsAfter.set(need.version, seq);
  }
}

/** A context's rows, with those of its log that are only in the archive. */
export class ReachingRows implements Rows {
  private readonly rows: Rows;
  private readonly fetched: Fetched;

  constructor(rows: Rows, fetched: Fetched) {
    this.rows = rows;
    this.fetched = fetched;
  }

  header(context: string): ContextHeader | undefined {
    return this.rows.header(context);
  }

  config(context: string): ReturnType<Rows['config']> {
    return this.rows.config(context);
  }

  /** Throws ColdMiss. */
  get(table: Table, context: string, key: RowKey): Uint8Array | undefined {
    const row = this.rows.get(table, context, key);
    if (row !== undefined || table !== 'message' || typeof key !== 'number') return row;
    const trimmedSeq = this.rows.header(context)?.trimmedSeq ?? 0;
    return key < 1 || key > trimmedSeq ? undefined : putTogether(this.fetched.nearby(key, trimmedSeq));
  }
}

/** The archive for the reads of this node; without one, what is only there cannot be had. */
export class ColdReads {
  private readonly store: ColdStore | null;

  constructor(store: ColdStore | null) {
    this.store = store;
  }

  /** Whether there is an archive to ask. */
  get available(): boolean {
    return this.store !== null;
  }

  /** Fetches what a read lacks; null: done. Otherwise why not, archive_unavailable. Takes at most `timeoutMs`. */
  async fetch(context: string, need: ColdNeed, fetched: Fetched, timeoutMs: number): Promise<ApiError | null> {
    if (this.store === null) return unavailable('The archive is off on this node (FASTPACA_ARCHIVER_ENABLED), and older messages are only there.', OFF_RETRY_SECONDS);
    switch (need.what) {
      case 'messages': {
        const { from, to, bytesMax } = need;
        const page = await within(this.store.readRange(context, { from, to, limit: to - from + 1, bytesMax }), timeoutMs);
        if (!page.ok) return unavailable(page.message, page.retryAfterSeconds);
        fetched.add(need, page.value);
        return null;
      }
      case 'seqAfter': {
        const found = await within(this.store.firstSeqAfter(context, need.version, need.to), timeoutMs);
        if (!found.ok) return unavailable(found.message, found.retryAfterSeconds);
        fetched.addSeqAfter(need, found.value);
        return null;
      }
    }
  }
}

const OFF_RETRY_SECONDS = 60;

function unavailable(message: string, retryAfterSeconds: number): ApiError {
  return new ApiError('archive_unavailable', message, {}, retryAfterSeconds);
}

/** A request has its own bound; the archive's may be longer, and then it goes on by itself and frees its connection. */
function within<T>(read: Promise<ArchiveRead<T>>, timeoutMs: number): Promise<ArchiveRead<T>> {
  return new Promise((resolve, reject) => {
    const late = { ok: false, code: 'archive_unavailable', message: 'The archive (Postgres) did not answer in time, and older messages are only there. Try again later.', retryAfterSeconds: 1 } as const;
    const timer = setTimeout(() => resolve(late), Math.max(0, timeoutMs));
    read.then(
      (answer) => {
        clearTimeout(timer);
        resolve(answer);
      },
      (error: unknown) => {
        clearTimeout(timer);
        reject(error instanceof Error ? error : new Error(String(error)));
      },
    );
  });
}
