/**
 * Where logs end whose group records say less: one row for all groups, in the batch that appends the entries. A write
 * that only appends changes nothing else of a group, so it costs its entries and a share of this row; the record
 * follows with the applied state. Owns the row; a group that it names ends where it says, any other where its record does.
 *
 *   value = (group u16, last index varint)*, checksum
 */
import type { GroupId } from '../../raft/types.ts';
import { DamageError, isIntact, sealed, unsealed } from './checksum.ts';
import { readU16, writeU16 } from './integers.ts';
import { BOUNDS_KEY } from './keys.ts';
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
    if (value === null || !isIntact(BOUNDS_KEY, value)) throw new DamageError(null, 'the row that says where the logs end is damaged');
    const items = unsealed(value);
    for (let at = 0; at < items.length; ) {
      const group = readU16(items, at);
      at += 2;
      let last = 0;
      for (let scale = 1; ; scale *= 128) {
        const byte = items[at++] ?? 0;
        last += (byte & 0x7f) * scale;
        if (byte < 0x80) break;
      }
      this.#ends.set(group, last);
    }
  }

  /** Last index of the group's log, or undefined where its record says it. */
  lastIndex(group: GroupId): number | undefined {
    return this.#ends.get(group);
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
    const items = new Uint8Array(this.#ends.size * ITEM_BYTES_MAX);
    let at = 0;
    for (const [group, last] of this.#ends) {
      writeU16(items, at, group);
      at += 2;
      let rest = last;
      for (; rest > 0x7f; rest = Math.floor(rest / 128)) items[at++] = (rest % 128) | 0x80;
      items[at++] = rest;
    }
    sink.put(BOUNDS_KEY, sealed(BOUNDS_KEY, items.subarray(0, at)));
  }
}
