/**
 * Groups on their way from the database of one data directory into that of another, row by row as they are stored, so
 * that every checksum goes along; and the proof that they arrived: counts and a digest over all rows, of what was read
 * and of what is there. Owns no decision about which group goes where.
 */
import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ClassicLevel } from 'classic-level';
import type { Entry, GroupId } from '../../raft/types.ts';
import { LogBounds } from './bounds.ts';
import { checksum, sealed, unsealed } from './checksum.ts';
import { RowEncoder } from './group.ts';
import { BOUNDS_KEY, groupKey, groupSeed, isRowIntact, logKey, NODE_KEY, slotKey, Space, stateKey } from './keys.ts';
import type { RowName } from './keys.ts';
import { openOffline, readRange } from './offline.ts';
import { entryTerm, readEntry } from './records.ts';
import { nodeRecord, readGroups } from './verify.ts';
import type { FoundGroup } from './verify.ts';
import { readSync } from './writer.ts';
import type { Database } from './writer.ts';

const BATCH_BYTES = 4 * 1024 * 1024;

/** All there is of a group, and whether it is the same elsewhere. */
export interface GroupSum {
  /** Its record, with the end of its log as it is; null where that cannot be read. */
  readonly record: FoundGroup['record'];
  /** Its damage mark, or null. */
  readonly damaged: string | null;
  readonly logRows: number;
  readonly stateRows: number;
  readonly bytes: number;
  /** Over every row with its key, hex. */
  readonly digest: string;
}

/** What was copied: its sum, and what of it was found not to be what was written. */
export interface CopiedGroup {
  readonly sum: GroupSum;
  /** Null for rows that are whole, and for a group that was known to be damaged. */
  readonly rot: string | null;
}

/** A database that no node has open, held so that none can open it. */
export class MovingStore {
  readonly facts: ReadonlyMap<string, Uint8Array>;
  private readonly db: Database;
  private readonly found = new Map<GroupId, FoundGroup>();

  private constructor(db: Database, facts: ReadonlyMap<string, Uint8Array>) {
    this.db = db;
    this.facts = facts;
  }

  /** Null where nothing was ever stored, 'in_use' where a node has it open. Throws Error with one line for the operator. */
  static open(directory: string): Promise<MovingStore | 'in_use' | null> {
    return openOffline(directory, async (db, facts) => {
      const store = new MovingStore(db, facts);
      const bounds = new LogBounds();
      bounds.load(readSync(db, BOUNDS_KEY));
      for (const group of await readGroups(db)) store.found.set(group.group, group.record === null ? group : { ...group, record: bounds.completed(group.group, group.record) });
      return store;
    });
  }

  close(): Promise<void> {
    return this.db.close();
  }

  /** Every group that has left anything here, in order of their numbers. */
  groups(): readonly FoundGroup[] {
    return [...this.found.values()].sort((a, b) => a.group - b.group);
  }

  /** A row of a group's applied state as it is stored; undefined where there is none, null where it is damaged. */
  row(group: GroupId, name: RowName): Uint8Array | undefined | null {
    const record = this.found.get(group)?.record;
    if (record === undefined || record === null) return undefined;
    const key = stateKey(group, record.slot, name);
    const value = readSync(this.db, key);
    return value === undefined ? undefined : value === null || !isRowIntact(key, value, groupSeed(group)) ? null : unsealed(value);
  }

  /** The log of a group behind its applied state; null where it is damaged or not whole. */
  async unapplied(group: GroupId): Promise<Entry[] | null> {
    const record = this.found.get(group)?.record;
    if (record === undefined || record === null) return null;
    const entries: Entry[] = [];
    for await (const [key, value] of readRange(this.db, logKey(group, record.slot, record.appliedIndex + 1), logKey(group, record.slot, record.lastIndex + 1))) {
      if (entryTerm(key, value) === -1) return null;
      entries.push(readEntry(record.appliedIndex + 1 + entries.length, value.slice()));
    }
    return entries.length === record.lastIndex - record.appliedIndex ? entries : null;
  }

  /** Copies the group, damaged or not, into an open target. Rejects when that cannot be written. */
  async copy(group: GroupId, target: MovingTarget): Promise<CopiedGroup> {
    const found = this.foundGroup(group);
    const sum = new Summing(found);
    const seed = groupSeed(group);
    let rot: string | null = null;
    const rows = rowsOf(this.db, found);
    for (;;) {
      let next: IteratorResult<[Uint8Array, Uint8Array]>;
      try {
        next = await rows.next();
      } catch (error) {
        rot ??= `its rows cannot be read: ${error instanceof Error ? error.message : String(error)}`;
        break;
      }
      if (next.done === true) break;
      const [key, value] = next.value;
      const isIntact = key[0] === Space.log ? entryTerm(key, value) !== -1 : isRowIntact(key, value, seed);
      if (!isIntact) rot ??= `a row is damaged: key ${Buffer.from(key).toString('hex')}`;
      sum.add(key, value);
      await target.put(key, value);
    }
    target.name(found, this.db);
    return { sum: sum.done(), rot: found.damaged === null ? rot : null };
  }

  /** Reads the group once more and sums it up. */
  async sum(group: GroupId): Promise<GroupSum> {
    const found = this.foundGroup(group);
    const sum = new Summing(found);
    for await (const [key, value] of rowsOf(this.db, found)) sum.add(key, value);
    return sum.done();
  }

  private foundGroup(group: GroupId): FoundGroup {
    const found = this.found.get(group);
    if (found === undefined) throw new RangeError(`group ${group} is not in this directory`);
    return found;
  }
}

/** A new database that takes rows in; nothing else may have it open. */
export class MovingTarget {
  private readonly db: Database;
  private readonly encoder = new RowEncoder();
  private batch: ReturnType<Database['batch']> & { write(options: { sync: boolean }): Promise<void> };
  private bytes = 0;

  private constructor(db: Database) {
    this.db = db;
    this.batch = db.batch();
  }

  static async create(directory: string): Promise<MovingTarget> {
    const location = join(directory, 'db');
    await mkdir(location, { recursive: true });
    const db: Database = new ClassicLevel<Uint8Array, Uint8Array>(location, { keyEncoding: 'view', valueEncoding: 'view', compression: false, errorIfExists: true, maxFileSize: 8 * 1024 * 1024 });
    await db.open();
    const target = new MovingTarget(db);
    await target.put(NODE_KEY, nodeRecord());
    return target;
  }

  async put(key: Uint8Array, value: Uint8Array): Promise<void> {
    this.batch.put(key, value);
    this.bytes += key.length + value.length;
    if (this.bytes >= BATCH_BYTES) await this.flush();
  }

  /** What names a group, after its rows. */
  name({ group, record, damaged }: FoundGroup, from: Database): void {
    const key = groupKey(Space.group, group);
    if (record !== null) this.encoder.record(this.batch, { key, keySeed: checksum(key) }, record);
    else {
      const unreadable = readSync(from, key);
      if (unreadable instanceof Uint8Array) this.batch.put(key, unreadable);
    }
    const mark = groupKey(Space.damage, group);
    if (damaged !== null) this.batch.put(mark, sealed(mark, Buffer.from(damaged)));
  }

  /** Everything that was put is durable when it resolves. */
  async close(): Promise<void> {
    try {
      await this.flush();
    } finally {
      await this.db.close();
    }
  }

  /** Each batch is synced: a later synced one would not make an earlier one durable. */
  private async flush(): Promise<void> {
    const { batch } = this;
    this.batch = this.db.batch();
    this.bytes = 0;
    await batch.write({ sync: true });
  }
}

class Summing {
  private readonly found: FoundGroup;
  private readonly hash = createHash('sha256');
  private logRows = 0;
  private stateRows = 0;
  private bytes = 0;

  constructor(found: FoundGroup) {
    this.found = found;
  }

  add(key: Uint8Array, value: Uint8Array): void {
    if (key[0] === Space.log) this.logRows++;
    else this.stateRows++;
    this.bytes += key.length + value.length;
    this.hash.update(lengths(key.length, value.length)).update(key).update(value);
  }

  done(): GroupSum {
    const { logRows, stateRows, bytes, found: { record, damaged } } = this;
    return { record, damaged, logRows, stateRows, bytes, digest: this.hash.digest('hex') };
  }
}

function lengths(key: number, value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(key, value).buffer);
}

/** The rows of a group that count: of its log and of its state. Of one whose record is lost, all: they may help whoever looks for the cause. */
async function* rowsOf(db: Database, { group, record }: FoundGroup): AsyncGenerator<[Uint8Array, Uint8Array], void> {
  if (record === null) {
    for (const space of [Space.log, Space.state] as const) yield* readRange(db, slotKey(space, group, 0), slotKey(space, group + 1, 0));
    return;
  }
  const { slot, startIndex, lastIndex } = record;
  yield* readRange(db, logKey(group, slot, startIndex + 1), logKey(group, slot, lastIndex + 1));
  yield* readRange(db, slotKey(Space.state, group, slot), slotKey(Space.state, group, slot + 1));
}
