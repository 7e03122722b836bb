/**
 * The whole layout of a node's LevelDB, in one table. All integers are big-endian.
 *
 *   n                                               node: DISK_FORMAT u32
 *   f  name                                         fact about this node (identity, promises, peers' generations)
 *   b                                               where logs end whose records say less (bounds.ts)
 *   g  group u16                                    group record (records.ts): log bounds, hard state, applied, conf
 *   d  group u16                                    damage mark: why this replica took itself out (UTF-8)
 *   l  group u16  slot u32  index u64               log entry: term u64, type u8, data
 *   s  group u16  slot u32  table u8  id 00  key    state row: value as the state machine wrote it (of messages, some in
 *                                                   blocks: message-blocks.ts)
 *
 * Every value ends in a CRC-32 over its key and what precedes (a state row's leaves the slot out, so that the row can
 * travel in a snapshot as it is). `slot` is the generation of a group's data: the group record names the live one, an
 * installed snapshot is written under a fresh one and becomes live by rewriting the record; rows of any other slot are
 * garbage. Context ids hold no control characters, so a zero byte ends them and keys sort in id order. A row's key is
 * u64 for numbers, UTF-8 for strings, nothing for ''.
 */
import type { GroupId } from '../../raft/types.ts';
import type { RowKey, Table } from '../contexts/types.ts';
import { checksum, isIntact } from './checksum.ts';
import { readU16, readU32, readU64, writeU16, writeU32, writeU64 } from './integers.ts';

export const Space = { node: 0x6e, bounds: 0x62, fact: 0x66, group: 0x67, damage: 0x64, log: 0x6c, state: 0x73 } as const;

/** Codes are on disk: append only. A total Record, so that a new table cannot be forgotten here. */
const TABLE_CODE: Record<Table, number> = {
  config: 1,
  header: 2,
  message: 3,
  replacement: 4,
  compaction: 5,
  openCall: 6,
  keyed: 7,
  keyedRing: 8,
  cut: 9,
  revision: 10,
  answers: 11,
  unarchived: 12,
  expiring: 13,
  purging: 14,
};

/** Whether the rows of a table are named by numbers. */
const NUMERIC: Record<Table, boolean> = {
  config: false,
  header: false,
  message: true,
  replacement: true,
  compaction: true,
  openCall: false,
  keyed: false,
  keyedRing: true,
  cut: true,
  revision: true,
  answers: true,
  unarchived: false,
  expiring: false,
  purging: false,
};

export const TABLES: readonly Table[] = Object.keys(TABLE_CODE).filter(isTable);

function isTable(name: string): name is Table {
  return name in TABLE_CODE;
}

export function hasNumericKeys(table: Table): boolean {
  return NUMERIC[table];
}

export const GROUP_MAX = 0xffff;
export const LOG_KEY_BYTES = 15;
/** Space, group, slot: what a snapshot leaves out of a state row's key. */
export const STATE_PREFIX_BYTES = 7;
const NUMBER_BYTES = 8;

export const NODE_KEY: Uint8Array = Uint8Array.of(Space.node);
export const BOUNDS_KEY: Uint8Array = Uint8Array.of(Space.bounds);

export function factKey(name: string): Uint8Array {
  return Buffer.concat([Uint8Array.of(Space.fact), Buffer.from(name)]);
}

/** Key of a group's record or damage mark. */
export function groupKey(space: typeof Space.group | typeof Space.damage, group: GroupId): Uint8Array {
  const key = new Uint8Array(3);
  key[0] = space;
  writeU16(key, 1, group);
  return key;
}

/** Start of everything a group holds under one slot; with slot + 1, its end. */
export function slotKey(space: typeof Space.log | typeof Space.state, group: GroupId, slot: number): Uint8Array {
  const key = new Uint8Array(STATE_PREFIX_BYTES);
  key[0] = space;
  writeU16(key, 1, group);
  writeU32(key, 3, slot);
  return key;
}

export function readGroup(key: Uint8Array): GroupId {
  return readU16(key, 1);
}

/** Slot of a log or state key. */
export function readSlot(key: Uint8Array): number {
  return readU32(key, 3);
}

export function writeLogKey(target: Uint8Array, offset: number, group: GroupId, slot: number, index: number): number {
  target[offset] = Space.log;
  writeU16(target, offset + 1, group);
  writeU32(target, offset + 3, slot);
  writeU64(target, offset + 7, index);
  return offset + LOG_KEY_BYTES;
}

export function logKey(group: GroupId, slot: number, index: number): Uint8Array {
  const key = new Uint8Array(LOG_KEY_BYTES);
  writeLogKey(key, 0, group, slot, index);
  return key;
}

export function readLogIndex(key: Uint8Array): number {
  return readU64(key, 7);
}

/** Names one row of a group, whatever slot it lives in. */
export interface RowName {
  readonly table: Table;
  readonly context: string;
  readonly key: RowKey;
}

/** Bytes that suffice for the key of `row` (UTF-8 takes at most 3 per UTF-16 unit). */
export function stateKeyBytesMax(row: RowName): number {
  return STATE_PREFIX_BYTES + 2 + row.context.length * 3 + (typeof row.key === 'number' ? NUMBER_BYTES : row.key.length * 3);
}

/** Writes the key of `row` at the start of `target`, which must have room; returns its length. */
export function writeStateKey(target: Buffer, group: GroupId, slot: number, row: RowName): number {
  let offset = writeContextPrefix(target, group, slot, row.table, row.context);
  if (typeof row.key === 'number') {
    writeU64(target, offset, row.key);
    offset += NUMBER_BYTES;
  } else if (row.key !== '') {
    offset += target.write(row.key, offset, 'utf8');
  }
  return offset;
}

export function stateKey(group: GroupId, slot: number, row: RowName): Buffer {
  const key = Buffer.allocUnsafe(stateKeyBytesMax(row));
  return key.subarray(0, writeStateKey(key, group, slot, row));
}

/** Start of the rows of one table of a group; with `next`, its end. */
export function tablePrefix(group: GroupId, slot: number, table: Table, next = 0): Buffer {
  const key = Buffer.allocUnsafe(STATE_PREFIX_BYTES + 1);
  key.set(slotKey(Space.state, group, slot));
  key[STATE_PREFIX_BYTES] = TABLE_CODE[table] + next;
  return key;
}

/** Bounds of all rows of one table whose contexts lie between two ids, both included. No row has these keys themselves. */
export function contextsRange(group: GroupId, slot: number, table: Table, between: { readonly first: string; readonly last: string }): { start: Buffer; end: Buffer } {
  // The terminator 00 follows every id, so an id alone sorts right before its rows, and 01 in its place right behind.
  const start = stateKey(group, slot, { table, context: between.first, key: '' }).subarray(0, -1);
  const end = Buffer.from(stateKey(group, slot, { table, context: between.last, key: '' }));
  end[end.length - 1] = 1;
  return { start, end };
}

/** The context id inside a state key. */
export function readContext(key: Uint8Array): string {
  const start = STATE_PREFIX_BYTES + 1;
  const end = key.indexOf(0, start);
  return Buffer.from(key.buffer, key.byteOffset + start, end - start).toString('utf8');
}

/** What a row's checksum covers besides its key's bytes after the slot. */
export function groupSeed(group: GroupId): number {
  const bytes = new Uint8Array(2);
  writeU16(bytes, 0, group);
  return checksum(bytes);
}

/** True when a state row is as it was written; `seed` is its group's. */
export function isRowIntact(key: Uint8Array, value: Uint8Array, seed: number): boolean {
  return isIntact(key.subarray(STATE_PREFIX_BYTES), value, seed);
}

function writeContextPrefix(target: Buffer, group: GroupId, slot: number, table: Table, context: string): number {
  target[0] = Space.state;
  writeU16(target, 1, group);
  writeU32(target, 3, slot);
  target[STATE_PREFIX_BYTES] = TABLE_CODE[table];
  const start = STATE_PREFIX_BYTES + 1;
  const end = start + target.write(context, start, 'utf8');
  if (context.includes('\0')) throw new RangeError('a context id cannot hold a zero byte');
  target[end] = 0;
  return end + 1;
}
