/**
 * What open() checks before anything is served: the disk's format, every group record, every log entry's checksum and
 * that each log is contiguous up to the last index its record, or the row of log ends, names. Damage of one group is reported as that group's;
 * only damage of what concerns the whole node stops the open. Changes nothing on disk.
 */
import { entryBytes } from '../../raft/log.ts';
import type { GroupId } from '../../raft/types.ts';
import { DISK_FORMAT } from '../constants.ts';
import { DamageError, isIntact, sealed, unsealed } from './checksum.ts';
import type { GroupLog } from './group-log.ts';
import { readU32, writeU32 } from './integers.ts';
import { GROUP_MAX, NODE_KEY, readGroup, readLogIndex, readSlot, slotKey, Space } from './keys.ts';
import { entryTerm, readEntry, readRecord } from './records.ts';
import type { GroupRecord } from './records.ts';
import type { Database } from './writer.ts';

const ROWS_PER_READ = 1000;
const READ_AHEAD_BYTES = 1024 * 1024;

/** The value under NODE_KEY of a disk in this program's format. */
export function nodeRecord(): Uint8Array {
  const format = new Uint8Array(4);
  writeU32(format, 0, DISK_FORMAT);
  return sealed(NODE_KEY, format);
}

/** True for a disk in this program's format, false for an empty one; throws for any other. */
export async function isFormatted(db: Database, directory: string): Promise<boolean> {
  const value = db.getSync(NODE_KEY);
  if (value === undefined) {
    const [key] = await db.keys({ limit: 1 }).all();
    if (key !== undefined) throw new DamageError(null, `${directory} holds rows but not the record that names its format`);
    return false;
  }
  if (!isIntact(NODE_KEY, value)) throw new DamageError(null, `the record that names the format of ${directory} is damaged`);
  const format = readU32(unsealed(value), 0);
  if (format !== DISK_FORMAT) {
    throw new Error(`${directory} is in disk format ${format}, this program reads format ${DISK_FORMAT}: run the version that wrote it, or a later one`);
  }
  return true;
}

export interface FoundGroup {
  readonly group: GroupId;
  /** Null when the record itself is damaged. */
  readonly record: GroupRecord | null;
  readonly damaged: string | null;
}

/** All groups by their records and damage marks. */
export async function readGroups(db: Database): Promise<FoundGroup[]> {
  const marks = new Map<GroupId, string>();
  for (const [key, value] of await db.iterator({ gte: Uint8Array.of(Space.damage), lt: Uint8Array.of(Space.damage + 1) }).all()) {
    // A mark whose reason cannot be read is still a mark.
    marks.set(readGroup(key), isIntact(key, value) ? Buffer.from(unsealed(value)).toString('utf8') : 'the reason is unreadable');
  }
  const found: FoundGroup[] = [];
  for (const [key, value] of await db.iterator({ gte: Uint8Array.of(Space.group), lt: Uint8Array.of(Space.group + 1) }).all()) {
    const group = readGroup(key);
    const mark = marks.get(group) ?? null;
    try {
      found.push({ group, record: readRecord(group, key, value), damaged: mark });
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      found.push({ group, record: null, damaged: mark ?? error.message });
    }
    marks.delete(group);
  }
  // A mark without a record: the record itself rotted away.
  for (const [group, reason] of marks) found.push({ group, record: null, damaged: reason });
  return found;
}

/**
 * Reads a whole log, tells `log` of every entry, and returns what is wrong with it, or null. `leftover` is called with
 * the first index of compacted entries that were not deleted yet.
 */
export async function verifyLog(db: Database, group: GroupId, record: GroupRecord, log: GroupLog, leftover: (from: number) => void): Promise<string | null> {
  const { slot, startIndex, lastIndex, appliedIndex } = record;
  if (appliedIndex < startIndex || appliedIndex > lastIndex) return `the record of group ${group} contradicts itself: applied ${appliedIndex}, log (${startIndex}, ${lastIndex}]`;
  const iterator = db.iterator({ gte: slotKey(Space.log, group, slot), lt: slotKey(Space.log, group, slot + 1), highWaterMarkBytes: READ_AHEAD_BYTES });
  let expected = startIndex + 1;
  let term = record.startTerm;
  let first = true;
  try {
    for (;;) {
      const rows = await iterator.nextv(ROWS_PER_READ);
      if (rows.length === 0) break;
      for (const [key, value] of rows) {
        const index = readLogIndex(key);
        if (first && index <= startIndex) leftover(index);
        first = false;
        if (index <= startIndex) continue;
        if (index !== expected) return `log entry ${expected} of group ${group} is missing: the next one is ${index}`;
        const found = entryTerm(key, value);
        if (found === -1) return `log entry ${index} of group ${group} is damaged`;
        if (found < term) return `log entry ${index} of group ${group} has term ${found} after term ${term}`;
        term = found;
        log.append(index, term, entryBytes(readEntry(index, value)));
        expected++;
      }
    }
  } catch (error) {
    return `the log of group ${group} cannot be read: ${error instanceof Error ? error.message : String(error)}`;
  } finally {
    await iterator.close();
  }
  if (expected !== lastIndex + 1) return `the log of group ${group} ends at ${expected - 1} instead of ${lastIndex}`;
  if (record.term < term) return `the record of group ${group} is at term ${record.term}, its log at ${term}`;
  return null;
}

/** Every (group, slot) that has rows, found with one seek each. */
export async function readSlots(db: Database): Promise<{ group: GroupId; slot: number }[]> {
  const found: { group: GroupId; slot: number }[] = [];
  for (const space of [Space.log, Space.state] as const) {
    const keys = db.keys({ gte: slotKey(space, 0, 0), lt: Uint8Array.of(space + 1) });
    try {
      for (;;) {
        const key = await keys.next();
        if (key === undefined) break;
        const group = readGroup(key);
        const slot = readSlot(key);
        found.push({ group, slot });
        if (group === GROUP_MAX) break;
        keys.seek(slotKey(space, group, slot + 1));
      }
    } finally {
      await keys.close();
    }
  }
  return found;
}
