/**
 * Getting deleted rows out of LevelDB's files. A deletion is only a newer row that hides the older one until a
 * compaction happens to merge both, which for a quiet range may be never. A compaction of the range does it now.
 *
 * LevelDB's own compaction of a range (DBImpl::CompactRange) writes the memtable out and merges level by level down to
 * the deepest one that has the range, but rewrites no file that already lies there: one that was written with a row and
 * its deletion side by side would stay as it is. So each pass begins with fresh deletions around the range, which
 * lie above all else and take the deepest files along, and there are two: the first may be what brings such a file about.
 */
import type { GroupId } from '../../raft/types.ts';
import { contextsRange, slotKey, Space, TABLES } from './keys.ts';
import type { Database, Writer } from './writer.ts';

const PASSES = 2;
const FENCE_BYTES = 128;

interface Range {
  readonly start: Uint8Array;
  readonly end: Uint8Array;
}

export interface ScourInput {
  readonly db: Database;
  readonly writer: Writer;
  readonly group: GroupId;
  /** The live one. */
  readonly slot: number;
  /** At least one. Everything between the first and the last in id order is rewritten. */
  readonly contexts: readonly string[];
}

/** Resolves when no file holds a deleted row of the contexts, of the group's log or of its former slots any more. */
export async function scour({ db, writer, group, slot, contexts }: ScourInput): Promise<void> {
  const ranges = rangesOf(group, slot, contexts);
  for (let pass = 0; pass < PASSES; pass++) {
    await writer.run(ranges.length * 2 * FENCE_BYTES, (sink) => {
      for (const { start, end } of ranges) {
        sink.del(start);
        sink.del(end);
      }
    });
    for (const { start, end } of ranges) await db.compactRange(start, end);
  }
}

/** No row has a bound for its key, so that nothing is deleted by a fence. */
function rangesOf(group: GroupId, slot: number, contexts: readonly string[]): Range[] {
  const sorted = contexts.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  const between = { first: sorted[0] ?? '', last: sorted.at(-1) ?? '' };
  return [
    { start: slotKey(Space.log, group, 0), end: slotKey(Space.log, group, slot + 1) },
    { start: slotKey(Space.state, group, 0), end: slotKey(Space.state, group, slot) },
    ...TABLES.map((table) => contextsRange(group, slot, table, between)),
  ];
}
