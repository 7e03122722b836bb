/**
 * A context's log as frames, read from the local replica in chunks: what a stream sends until it has caught up. Every
 * version is exactly one message, one compaction or the tombstone, so a reader knows which versions it has and which
 * are gone. Synchronous: a chunk and the header it was read against are of one moment. What only the archive has it
 * asks for (state `cold`), and goes on once that was fetched.
 */
import { ColdMiss, Fetched, type ColdNeed } from '../archive/cold.ts';
import type { ColdMessage } from '../archive/rows.ts';
import { needsCompaction, usedTokens } from '../contexts/policies.ts';
import { decodeCompaction, decodeMessageRow } from '../contexts/rows.ts';
import type { MessageRow } from '../contexts/rows.ts';
import type { ContextHeader, Rows } from '../contexts/types.ts';
import { archivedFrame, compactionFrame, contextFrame, gapFrame, messageFrame, purgedFrame, tombstonedFrame } from './frames.ts';
import type { Frame } from './frames.ts';

/** Bounds of one chunk: rows are read without yielding, so together they are well under a millisecond. */
export interface ChunkLimits {
  readonly rows: number;
  readonly bytes: number;
}

export interface Chunk {
  readonly frames: readonly Frame[];
  /**
   * `more`: there is more to read. `current`: the frames reach the newest version there is at this moment and end with
   * the state of the window. `ended`: they end with the tombstone or the purge. `gone`: there is no such context here.
   * `cold`: what comes next must be fetched from the archive first (`miss`).
   */
  readonly state: 'more' | 'current' | 'ended' | 'gone' | 'cold';
  /** Set with `cold`. */
  readonly miss?: { readonly need: ColdNeed; readonly fetched: Fetched };
}

export class LogReplay {
  private readonly rows: Rows;
  private readonly context: string;
  private readonly withMessages: boolean;
  /** false: what was trimmed cannot be had, and is a gap. */
  private readonly hasArchive: boolean;
  /** From the archive; of one fetch, then the next. */
  private fetched = new Fetched();
  /** Every version up to here has been read. */
  private version: number;
  /** The message that comes next; 0 while not known. */
  private nextSeq = 0;

  /** Starts behind `cursor`, which must not be above the context's version. */
  constructor(rows: Rows, options: { readonly context: string; readonly cursor: number; readonly withMessages: boolean; readonly hasArchive: boolean }) {
    this.rows = rows;
    this.context = options.context;
    this.version = options.cursor;
    this.withMessages = options.withMessages;
    this.hasArchive = options.hasArchive;
  }

  next(limits: ChunkLimits): Chunk {
    const frames: Frame[] = [];
    try {
      return { frames, state: this.read(frames, limits) };
    } catch (error) {
      if (!(error instanceof ColdMiss)) throw error;
      // What was fetched before is in frames by now.
      this.fetched = new Fetched();
      return { frames, state: 'cold', miss: { need: error.need, fetched: this.fetched } };
    }
  }

  /** Appends frames. Throws ColdMiss between two of them. */
  private read(frames: Frame[], limits: ChunkLimits): Exclude<Chunk['state'], 'cold'> {
    const header = this.rows.header(this.context);
    const config = this.rows.config(this.context);
    if (header?.status === 'purged') {
      // What there was before is gone with it.
      frames.push(purgedFrame(header.version));
      return 'ended';
    }
    if (header === undefined || config === undefined) return 'gone';
    if (this.nextSeq === 0) this.nextSeq = this.version === 0 ? 1 : this.firstSeqAfter(this.version, header);
    let bytes = 0;
    const tombstone = header.status === 'tombstoned' ? header.version : 0;
    const last = tombstone > 0 ? tombstone - 1 : header.version;
    for (let read = 0; this.version < last; read++) {
      if (read >= limits.rows || bytes >= limits.bytes) return 'more';
      const frame = this.frameOf(this.version + 1, header, limits);
      if (frame !== null) {
        bytes += frame.json.length;
        frames.push(frame);
      }
    }
    if (tombstone > 0) {
      frames.push(tombstonedFrame(tombstone));
      return 'ended';
    }
    const { calibration, window } = header;
    frames.push(contextFrame(header.version, needsCompaction(config, window.tokens, calibration), usedTokens(window.tokens, calibration)));
    return 'current';
  }

  /** Reads one version and moves past it: its frame, or null where it is a message and none are wanted. Throws ColdMiss. */
  private frameOf(version: number, header: ContextHeader, limits: ChunkLimits): Frame | null {
    const seq = this.nextSeq;
    const cold = this.hasArchive && seq <= header.trimmedSeq ? this.cold(seq, header, limits) : null;
    if (cold?.version === version) {
      this.nextSeq++;
      this.version = version;
      return this.withMessages ? archivedFrame(seq, version, cold.body) : null;
    }
    const message = seq <= header.lastSeq && seq > header.trimmedSeq ? this.message(seq) : null;
    if (message !== null && message.version === version) {
      this.nextSeq++;
      this.version = version;
      return this.withMessages ? messageFrame(seq, message) : null;
    }
    const row = this.rows.get('compaction', this.context, version);
    const record = row === undefined ? null : decodeCompaction(row);
    if (record !== null) {
      this.version = version;
      return compactionFrame(version, record.fromSeq, record.toSeq);
    }
    return this.gap(version, header);
  }

  /** Throws ColdMiss. */
  private cold(seq: number, header: ContextHeader, { rows, bytes }: ChunkLimits): ColdMessage {
    const to = Math.min(header.trimmedSeq, seq + rows - 1);
    const message = this.fetched.message(seq, to, bytes);
    // A page that ended here had its bytes: the next one begins here.
    if (message === null) throw new ColdMiss({ what: 'messages', from: seq, to, bytesMax: bytes });
    return message;
  }

  /** What is missing is the oldest part of the log: reading goes on with the oldest message that is there. */
  private gap(expected: number, header: ContextHeader): Frame {
    let low = Math.max(this.nextSeq, header.trimmedSeq + 1);
    let high = header.lastSeq + 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.message(middle) === null) low = middle + 1;
      else high = middle;
    }
    this.nextSeq = low;
    const actual = this.message(low)?.version ?? header.version + 1;
    this.version = actual - 1;
    return gapFrame(expected, actual);
  }

  private message(seq: number): MessageRow | null {
    const row = this.rows.get('message', this.context, seq);
    if (row === undefined) return null;
    const message = decodeMessageRow(row);
    // It passed its checksum, so this program wrote it: serving on would hide a bug.
    if (message === null) throw new Error('a message row does not decode');
    return message;
  }

  /** Smallest seq whose message is above `version`; versions rise with seqs, and one that is missing is an old one. Throws ColdMiss. */
  private firstSeqAfter(version: number, header: ContextHeader): number {
    const hot = header.trimmedSeq + 1;
    const hotVersion = this.message(hot)?.version ?? header.version + 1;
    if (this.hasArchive && hot > 1 && version < hotVersion - 1) {
      const seq = this.fetched.seqAfter(version, header.trimmedSeq);
      if (seq < hot) return seq;
    }
    let low = hot;
    let high = header.lastSeq + 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const message = this.message(middle);
      if (message === null || message.version <= version) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
