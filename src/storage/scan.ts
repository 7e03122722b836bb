/** Ranges of state rows as they are now: a consistent view of LevelDB merged with the rows not yet written. */
import type { RowKey, Table } from '../contexts/types.ts';
import { DamageError, unsealed } from './checksum.ts';
import type { GroupStore } from './group.ts';
import { readU64 } from './integers.ts';
import { hasNumericKeys, isRowIntact, readContext, stateKey, tablePrefix } from './keys.ts';
import type { Database } from './writer.ts';

/** A row's key is what follows the context id: 8 bytes for a number. */
export interface StateRow {
  readonly key: number;
  readonly value: Uint8Array;
}

/** Tables that list contexts. */
export type ListTable = 'unarchived' | 'expiring' | 'purging';

export interface ContextRow {
  readonly context: string;
  readonly header: Uint8Array;
}

interface Range {
  readonly table: Table;
  readonly context: string | null;
  readonly gte: Uint8Array;
  readonly lt: Uint8Array;
  readonly limit: number;
}

type Pair = [key: Uint8Array, value: Uint8Array];

const READ_AHEAD_BYTES = 1024 * 1024;

export async function scanRows(db: Database, group: GroupStore, range: { table: Table; context: string; gte?: number; lt?: number; limit: number }, onDamage: (reason: string) => void): Promise<StateRow[]> {
  const { table, context, limit } = range;
  const { slot } = group.record;
  const gte = stateKey(group.id, slot, { table, context, key: range.gte ?? 0 });
  const lt = stateKey(group.id, slot, { table, context, key: range.lt ?? Number.MAX_SAFE_INTEGER });
  const pairs = await scan(db, group, { table, context, gte, lt, limit }, onDamage);
  return pairs.map(([key, value]) => ({ key: readU64(key, key.length - 8), value }));
}

export async function scanContexts(db: Database, group: GroupStore, range: { after?: string; prefix?: string; limit: number }, onDamage: (reason: string) => void): Promise<ContextRow[]> {
  const { slot } = group.record;
  const table = 'header';
  // The key of a context's header ends in the id's terminator 00: 01 in its place is right behind it, and ids hold neither.
  const after = range.after === undefined ? null : following(stateKey(group.id, slot, { table, context: range.after, key: '' }));
  const prefix = range.prefix === undefined || range.prefix === '' ? null : stateKey(group.id, slot, { table, context: range.prefix, key: '' });
  const start = prefix === null ? tablePrefix(group.id, slot, table) : prefix.subarray(0, -1);
  const gte = after !== null && Buffer.compare(after, start) > 0 ? after : start;
  // FF never occurs in UTF-8, so it stands behind every id that continues the prefix.
  const lt = prefix === null ? tablePrefix(group.id, slot, table, 1) : Buffer.concat([prefix.subarray(0, -1), Uint8Array.of(0xff)]);
  if (Buffer.compare(gte, lt) >= 0) return [];
  const pairs = await scan(db, group, { table, context: null, gte, lt, limit: range.limit }, onDamage);
  return pairs.map(([key, value]) => ({ context: readContext(key), header: value }));
}

/** Ids of the contexts that have a row in a table of which a context has one row, in id order, after `after`. */
export async function scanListed(db: Database, group: GroupStore, range: { table: ListTable; after?: string; limit: number }, onDamage: (reason: string) => void): Promise<string[]> {
  const { table, after, limit } = range;
  const { slot } = group.record;
  const gte = after === undefined ? tablePrefix(group.id, slot, table) : following(stateKey(group.id, slot, { table, context: after, key: '' }));
  const pairs = await scan(db, group, { table, context: null, gte, lt: tablePrefix(group.id, slot, table, 1), limit }, onDamage);
  return pairs.map(([key]) => readContext(key));
}

/** Keys of rows that one context has in a table, in order, behind `after`; at least `limit` where there are more. Reads no values. */
export async function scanKeys(db: Database, group: GroupStore, range: { table: Table; context: string; after: RowKey | null; limit: number }): Promise<RowKey[]> {
  const { table, context, after, limit } = range;
  const name = (key: RowKey): Buffer => stateKey(group.id, group.record.slot, { table, context, key });
  const start = name('');
  // No key lies between another and the same with a zero byte behind it.
  const gte = after === null ? start : Buffer.concat([name(after), Uint8Array.of(0)]);
  const lt = following(Buffer.from(start));
  // Both views are taken in this one turn, as in scan.
  const unwritten = unwrittenRows(group, { table, context, gte, lt, limit });
  const stored = await db.keys({ gte, lt, limit: limit + unwritten.length }).all();
  const found = new Map<string, Uint8Array>();
  for (const key of stored) found.set(Buffer.from(key).toString('latin1'), key);
  const end = stored.length === limit + unwritten.length ? stored.at(-1) : undefined;
  for (const { key, value } of unwritten) {
    // What lies behind the part that was read comes with the next one.
    if (end !== undefined && Buffer.compare(key, end) > 0) break;
    const latin = Buffer.from(key).toString('latin1');
    if (value === null) found.delete(latin);
    else found.set(latin, key);
  }
  const keys = [...found.values()].sort((a, b) => Buffer.compare(a, b));
  return keys.map((key) => (hasNumericKeys(table) ? readU64(key, start.length) : Buffer.from(key.subarray(start.length)).toString('utf8')));
}

/** Throws DamageError after telling `onDamage`. */
async function scan(db: Database, group: GroupStore, range: Range, onDamage: (reason: string) => void): Promise<Pair[]> {
  // Both views are taken in this one turn, so that a write completing meanwhile can neither hide nor double a row.
  const iterator = db.iterator({ gte: range.gte, lt: range.lt, highWaterMarkBytes: READ_AHEAD_BYTES });
  const unwritten = unwrittenRows(group, range);
  const result: Pair[] = [];
  let position = 0;
  try {
    let stored: Pair[] = [];
    let storedAt = 0;
    while (result.length < range.limit) {
      if (storedAt === stored.length) {
        stored = await iterator.nextv(Math.min(1000, range.limit - result.length + 1));
        storedAt = 0;
      }
      const row = stored[storedAt];
      const fresh = unwritten[position];
      if (row === undefined && fresh === undefined) break;
      const order = row === undefined ? 1 : fresh === undefined ? -1 : Buffer.compare(row[0], fresh.key);
      if (order >= 0 && fresh !== undefined) {
        position++;
        if (fresh.value !== null) result.push([fresh.key, fresh.value]);
      }
      if (order <= 0 && row !== undefined) {
        storedAt++;
        if (order < 0) result.push([row[0], intact(group, row, onDamage)]);
      }
    }
  } finally {
    await iterator.close();
  }
  return result;
}

function unwrittenRows(group: GroupStore, range: Range): { key: Uint8Array; value: Uint8Array | null }[] {
  return group.overlay
    .select(range.table, range.context)
    .map((write) => ({ key: stateKey(group.id, group.record.slot, write), value: write.value }))
    .filter(({ key }) => Buffer.compare(key, range.gte) >= 0 && Buffer.compare(key, range.lt) < 0)
    .sort((a, b) => Buffer.compare(a.key, b.key));
}

function intact(group: GroupStore, [key, value]: Pair, onDamage: (reason: string) => void): Uint8Array {
  if (!isRowIntact(key, value, group.seed)) {
    const reason = `row ${Buffer.from(key).toString('hex')} of group ${group.id} is damaged`;
    onDamage(reason);
    throw new DamageError(group.id, reason);
  }
  return unsealed(value);
}

function following(key: Buffer): Buffer {
  key[key.length - 1] = 1;
  return key;
}
