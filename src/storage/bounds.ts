/**
 * Where logs end whose group records say less: one row for all groups, in the batch that appends the entries. A write
 * that only appends changes nothing else of a group, so it costs its entries and a share of this row; the record
 * follows with the applied state. Owns the row; a group that it names ends where it says, any other where its record does.
 *
 *   value = (group u16, last index varint)*, checksum
 */
import type { GroupId } from '../../raft/types.ts';
import { Reader, Writer } from '../contexts/bytes.ts';
import { DamageError, isIntact, sealed, unsealed } from './checksum.ts';
import { BOUNDS_KEY } from './keys.ts';
import type { GroupRecord } from './records.ts';
import type { RowSink } from './writer.ts';

/** Group and the longest varint of a safe integer. */
const ITEM_BYTES_MAX = 2 + 8;

export class LogBounds {
  /** As of the last batch put together. */
  readonly #ends = new Map<GroupId, number>();
  #changed = false;

  /** The stored row, if there is one. Throws DamageError: without it no log's end is certain. */
  load(value: Uint8Array | undefined | null): void {
    if (value === undefined) return;
    const reader = value === null || !isIntact(BOUNDS_KEY, value) ? null : new Reader(unsealed(value));
    while (reader?.atEnd === false) this.#ends.set(reader.byte() * 256 + reader.byte(), reader.uint());
    if (reader?.ok !== true) throw new DamageError(null, 'the row that says where the logs end is damaged');
  }

  /** The record of a group as it is stored, with the end of its log as it is. */
  completed(group: GroupId, stored: GroupRecord): GroupRecord {
    return { ...stored, lastIndex: this.#ends.get(group) ?? stored.lastIndex };
  }

  /** The batch at hand appends to the log and leaves the record as it is. */
  set(group: GroupId, lastIndex: number): void {
    this.#ends.set(group, lastIndex);
    this.#changed = true;
  }

  /** The batch at hand writes or deletes the group's record. */
  delete(group: GroupId): void {
    if (this.#ends.delete(group)) this.#changed = true;
  }

  /** Puts the row into the batch at hand, if that changes it. */
  write(sink: RowSink): void {
    if (!this.#changed) return;
    this.#changed = false;
    const writer = new Writer(this.#ends.size * ITEM_BYTES_MAX);
    this.#ends.forEach((last, group) => {
      writer.byte(group >>> 8);
      writer.byte(group);
      writer.uint(last);
    });
    sink.put(BOUNDS_KEY, sealed(BOUNDS_KEY, writer.done()));
  }
}
