/**
 * Both ends of a snapshot: reading a group's durable state in chunks that check themselves and can be asked for again,
 * and writing them beside the state of the receiver. Owns the chunk format; how chunks travel is cluster/snapshots.ts.
 *
 *   chunk  = crc32 u32 (over the rest), SNAPSHOT_FORMAT u8, group u16, sequence u32, flags u8 (1: last), rows
 *   first  : index u64, term u64, state hash u64, conf — before the rows
 *   last   : rows in the whole snapshot u64 — after the rows
 *   row    = key length u16, value length u32, key (from its table on), value with the row's own checksum
 *   cursor = crc32 u32 (over the rest), sequence u32, rows u64, key of the last row before, as base64url
 */
import { Buffer } from 'node:buffer';
import type { ConfState, SnapshotMeta } from '../../raft/types.ts';
import { CHECKSUM_BYTES, checksum, DamageError } from './checksum.ts';
import type { GroupStore } from './group.ts';
import { readU16, readU32, readU64, writeU16, writeU32, writeU64 } from './integers.ts';
import { isRowIntact, slotKey, Space, STATE_PREFIX_BYTES } from './keys.ts';
import { confBytes, readConf, readRecord, writeConf } from './records.ts';
import type { GroupRecord } from './records.ts';
import type { Sweeper } from './sweeper.ts';
import type { Database, Writer } from './writer.ts';

const SNAPSHOT_FORMAT = 1;
const HEADER_BYTES = CHECKSUM_BYTES + 1 + 2 + 4 + 1;
const FLAG_LAST = 1;
const ROW_HEADER_BYTES = 6;
const META_FIXED_BYTES = 24;
const ROWS_PER_READ = 256;
const JOB_BYTES = 256 * 1024;

/** A chunk is not what its sender made, does not follow the last one, or the transfer is not complete. */
export class SnapshotError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'SnapshotError';
  }
}

/** Bytes of a chunk changed on their way; its sender still has the right ones. */
export class DamagedChunkError extends SnapshotError {}

export class StateSnapshot {
  /** Read inside the same LevelDB snapshot as the rows. */
  readonly meta: SnapshotMeta;
  private readonly db: Database;
  private readonly group: GroupStore;
  private readonly record: GroupRecord;
  private readonly snapshot: ReturnType<Database['snapshot']>;
  private readonly onDamage: (reason: string) => void;
  private readonly onClosed: () => void;

  constructor(db: Database, group: GroupStore, { onDamage, onClosed }: { onDamage: (reason: string) => void; onClosed: () => void }) {
    this.db = db;
    this.group = group;
    this.onDamage = onDamage;
    this.onClosed = onClosed;
    this.snapshot = db.snapshot();
    const stored = db.getSync(group.key, { snapshot: this.snapshot });
    if (stored === undefined) throw new RangeError(`group ${group.id} is not on this node`);
    this.record = readRecord(group.id, group.key, stored);
    this.meta = { index: this.record.appliedIndex, term: this.record.appliedTerm, conf: this.record.conf };
  }

  /**
   * The chunk at `cursor` ('' for the first) of about `bytesMax`, and the cursor of the next, null after the last. The
   * same cursor may be read again. Throws SnapshotError for a cursor that is not one, DamageError for rotten rows.
   */
  async read(cursor: string, bytesMax: number): Promise<{ chunk: Uint8Array; next: string | null }> {
    const from = decodeCursor(cursor);
    const prefix = slotKey(Space.state, this.group.id, this.record.slot);
    const rows: [Uint8Array, Uint8Array][] = [];
    let bytes = HEADER_BYTES + META_FIXED_BYTES + confBytes(this.record.conf) + 8;
    let isLast = true;
    const iterator = this.db.iterator({ gt: Buffer.concat([prefix, from.after]), lt: slotKey(Space.state, this.group.id, this.record.slot + 1), snapshot: this.snapshot, highWaterMarkBytes: bytesMax });
    try {
      read: for (;;) {
        const pairs = await iterator.nextv(ROWS_PER_READ);
        if (pairs.length === 0) break;
        for (const [key, value] of pairs) {
          const size = ROW_HEADER_BYTES + key.length - STATE_PREFIX_BYTES + value.length;
          if (bytes + size > bytesMax && rows.length > 0) {
            isLast = false;
            break read;
          }
          // Rot must not be handed on as if it were the group's state.
          if (!isRowIntact(key, value, this.group.seed)) throw this.damage(key);
          rows.push([key.subarray(STATE_PREFIX_BYTES), value]);
          bytes += size;
        }
      }
    } finally {
      await iterator.close();
    }
    const rowsSent = from.rows + rows.length;
    const chunk = this.encode(from.sequence, rows, { isLast, rowsSent });
    const after = rows[rows.length - 1]?.[0] ?? from.after;
    return { chunk, next: isLast ? null : encodeCursor({ sequence: from.sequence + 1, rows: rowsSent, after }) };
  }

  async close(): Promise<void> {
    await this.snapshot.close();
    this.onClosed();
  }

  private encode(sequence: number, rows: readonly [Uint8Array, Uint8Array][], end: { isLast: boolean; rowsSent: number }): Uint8Array {
    let bytes = HEADER_BYTES + (sequence === 0 ? META_FIXED_BYTES + confBytes(this.record.conf) : 0) + (end.isLast ? 8 : 0);
    for (const [key, value] of rows) bytes += ROW_HEADER_BYTES + key.length + value.length;
    const chunk = new Uint8Array(bytes);
    chunk[4] = SNAPSHOT_FORMAT;
    writeU16(chunk, 5, this.group.id);
    writeU32(chunk, 7, sequence);
    chunk[11] = end.isLast ? FLAG_LAST : 0;
    let at = HEADER_BYTES;
    if (sequence === 0) {
      writeU64(chunk, at, this.meta.index);
      writeU64(chunk, at + 8, this.meta.term);
      writeU64(chunk, at + 16, this.record.stateHash);
      at = writeConf(chunk, at + META_FIXED_BYTES, this.meta.conf);
    }
    for (const [key, value] of rows) {
      writeU16(chunk, at, key.length);
      writeU32(chunk, at + 2, value.length);
      chunk.set(key, at + ROW_HEADER_BYTES);
      chunk.set(value, at + ROW_HEADER_BYTES + key.length);
      at += ROW_HEADER_BYTES + key.length + value.length;
    }
    if (end.isLast) writeU64(chunk, at, end.rowsSent);
    writeU32(chunk, 0, checksum(chunk.subarray(CHECKSUM_BYTES)));
    return chunk;
  }

  private damage(key: Uint8Array): DamageError {
    const reason = `a state row of group ${this.group.id} is damaged: key ${Buffer.from(key).toString('hex')}`;
    this.onDamage(reason);
    return new DamageError(this.group.id, reason);
  }
}

export class StagedSnapshot {
  private readonly group: GroupStore;
  private readonly slot: number;
  private readonly writer: Writer;
  private readonly sweeper: Sweeper;
  private sequence = 0;
  private rows = 0;
  private lastKey: Uint8Array = new Uint8Array(0);
  private received: { meta: SnapshotMeta; stateHash: number } | null = null;
  private isComplete = false;
  private isEnded = false;

  constructor(group: GroupStore, slot: number, writer: Writer, sweeper: Sweeper) {
    this.group = group;
    this.slot = slot;
    this.writer = writer;
    this.sweeper = sweeper;
  }

  /**
   * Checks a chunk and writes its rows, synced. One at a time, in order. Throws SnapshotError for a chunk that is of
   * another group or format or out of order, DamagedChunkError for one that is not as it was sent: nothing of it is
   * written, and the right one may follow.
   */
  async write(chunk: Uint8Array): Promise<void> {
    if (this.isEnded || this.isComplete) throw new SnapshotError('the snapshot is complete: no further chunk belongs to it');
    const { rows, isLast, total, received } = this.decode(chunk);
    for (let from = 0; from < rows.length; ) {
      let to = from;
      for (let bytes = 0; to < rows.length && bytes < JOB_BYTES; to++) bytes += rows[to]?.[1].length ?? 0;
      const part = rows.slice(from, to);
      await this.writer.run(JOB_BYTES, (sink) => part.forEach(([key, value]) => sink.put(key, value)), 'bulk');
      from = to;
    }
    this.sequence++;
    this.rows += rows.length;
    this.lastKey = rows[rows.length - 1]?.[0] ?? this.lastKey;
    this.received = received;
    if (isLast && total !== this.rows) throw new SnapshotError(`the snapshot has ${total} rows, ${this.rows} came`);
    this.isComplete = isLast;
  }

  /**
   * All chunks are here: from now on a write may make `meta` current. Returns it as the chunks have it, under their
   * checksum. Throws SnapshotError when chunks miss or describe another position. Nothing on disk points to the rows
   * yet; after a crash they are swept.
   */
  async finish(meta: SnapshotMeta): Promise<SnapshotMeta> {
    const { received, group } = this;
    if (!this.isComplete || this.isEnded || received === null) throw new SnapshotError('the snapshot is not complete');
    if (received.meta.index !== meta.index || received.meta.term !== meta.term) {
      throw new SnapshotError(`the chunks are of a snapshot at index ${received.meta.index}, not ${meta.index}`);
    }
    if (!group.isOpen) throw new SnapshotError(`group ${group.id} left this node`);
    this.isEnded = true;
    if (group.staged !== null) this.sweeper.addSlot(group.id, group.staged.slot);
    group.staged = { slot: this.slot, meta: received.meta, stateHash: received.stateHash };
    return received.meta;
  }

  /** Gives the rows up; they are deleted later. Does nothing once finished. */
  async abort(): Promise<void> {
    if (this.isEnded) return;
    this.isEnded = true;
    this.sweeper.addSlot(this.group.id, this.slot);
  }

  private decode(chunk: Uint8Array): { rows: [Uint8Array, Uint8Array][]; isLast: boolean; total: number; received: { meta: SnapshotMeta; stateHash: number } | null } {
    if (chunk.length < HEADER_BYTES || readU32(chunk, 0) !== checksum(chunk.subarray(CHECKSUM_BYTES))) throw new DamagedChunkError('a snapshot chunk is damaged');
    if (chunk[4] !== SNAPSHOT_FORMAT) throw new SnapshotError(`a snapshot chunk has format ${chunk[4]}, this program reads ${SNAPSHOT_FORMAT}`);
    if (readU16(chunk, 5) !== this.group.id) throw new SnapshotError(`a snapshot chunk of group ${readU16(chunk, 5)} came for group ${this.group.id}`);
    if (readU32(chunk, 7) !== this.sequence) throw new SnapshotError(`snapshot chunk ${readU32(chunk, 7)} came instead of ${this.sequence}`);
    const isLast = ((chunk[11] ?? 0) & FLAG_LAST) !== 0;
    const end = chunk.length - (isLast ? 8 : 0);
    let at = HEADER_BYTES;
    let { received } = this;
    try {
      if (this.sequence === 0) {
        const conf: ConfState = readConf(chunk, at + META_FIXED_BYTES);
        received = { meta: { index: readU64(chunk, at), term: readU64(chunk, at + 8), conf }, stateHash: readU64(chunk, at + 16) };
        at += META_FIXED_BYTES + confBytes(conf);
      }
      const rows: [Uint8Array, Uint8Array][] = [];
      const prefix = slotKey(Space.state, this.group.id, this.slot);
      let last = this.lastKey;
      while (at < end) {
        const keyEnd = at + ROW_HEADER_BYTES + readU16(chunk, at);
        const valueEnd = keyEnd + readU32(chunk, at + 2);
        if (valueEnd > end) throw new SnapshotError('a snapshot chunk ends inside a row');
        const key = Buffer.concat([prefix, chunk.subarray(at + ROW_HEADER_BYTES, keyEnd)]);
        const value = chunk.subarray(keyEnd, valueEnd);
        if (!isRowIntact(key, value, this.group.seed)) throw new SnapshotError('a snapshot chunk holds a damaged row');
        if (last.length > 0 && Buffer.compare(last, key) >= 0) throw new SnapshotError('rows of a snapshot are out of order');
        rows.push([key, value]);
        last = key;
        at = valueEnd;
      }
      return { rows, isLast, total: isLast ? readU64(chunk, end) : 0, received };
    } catch (error) {
      if (error instanceof RangeError) throw new SnapshotError('a snapshot chunk ends early');
      throw error;
    }
  }
}

interface Cursor {
  readonly sequence: number;
  /** Rows in the chunks before. */
  readonly rows: number;
  /** Key, from its table on, of the last row before. */
  readonly after: Uint8Array;
}

const CURSOR_FIXED_BYTES = CHECKSUM_BYTES + 12;

function encodeCursor({ sequence, rows, after }: Cursor): string {
  const bytes = Buffer.alloc(CURSOR_FIXED_BYTES + after.length);
  writeU32(bytes, 4, sequence);
  writeU64(bytes, 8, rows);
  bytes.set(after, CURSOR_FIXED_BYTES);
  writeU32(bytes, 0, checksum(bytes.subarray(CHECKSUM_BYTES)));
  return bytes.toString('base64url');
}

/** A changed key would leave rows out, and the row count would not tell: a cursor counts what was sent, not what there is. */
function decodeCursor(text: string): Cursor {
  if (text === '') return { sequence: 0, rows: 0, after: new Uint8Array(0) };
  const bytes = Buffer.from(text, 'base64url');
  if (bytes.length < CURSOR_FIXED_BYTES || readU32(bytes, 0) !== checksum(bytes.subarray(CHECKSUM_BYTES))) throw new SnapshotError('not a snapshot cursor');
  return { sequence: readU32(bytes, 4), rows: readU64(bytes, 8), after: bytes.subarray(CURSOR_FIXED_BYTES) };
}
