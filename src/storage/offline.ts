/**
 * A data directory in the hands of an operator's command, with no node on it: what each group on it is good for, read
 * whole and checked, and a change of many groups and facts in one synced batch, so that a crash leaves either the
 * directory as it was or the whole change. Owns no decision about what to change: src/restore does.
 */
import type { GroupId, ReplicaId } from '../../raft/types.ts';
import { EntryType } from '../../raft/types.ts';
import { formatOf, stampOf } from '../contexts/commands.ts';
import { decodeHeader } from '../contexts/rows.ts';
import type { Write } from '../contexts/types.ts';
import { LogBounds } from './bounds.ts';
import { checksum, DamageError, isIntact, sealed, unsealed } from './checksum.ts';
import { RowEncoder } from './group.ts';
import { openStored } from './inspect.ts';
import { BOUNDS_KEY, factKey, groupKey, groupSeed, isRowIntact, logKey, readLogIndex, slotKey, Space, stateKey, tablePrefix } from './keys.ts';
import type { RowName } from './keys.ts';
import { entryTerm, readEntry } from './records.ts';
import type { GroupRecord } from './records.ts';
import { readGroups, readSlots } from './verify.ts';
import { readSync } from './writer.ts';
import type { Database } from './writer.ts';

const ROWS_PER_READ = 1000;
const READ_AHEAD_BYTES = 1024 * 1024;
const NO_DATA = new Uint8Array(0);

/** An entry behind the applied state, without what it says. */
export interface Unapplied {
  readonly index: number;
  readonly term: number;
  readonly isConfChange: boolean;
}

/** What is there of a group whose state is sound. */
export interface SoundGroup {
  readonly group: GroupId;
  readonly record: GroupRecord;
  /** Entries behind the applied state, all of them sound and in sequence. */
  readonly unapplied: readonly Unapplied[];
  /** The first index at which the log is damaged or missing before its end; null for a whole one. */
  readonly damagedFrom: number | null;
  /** Highest format of a command among the unapplied entries; 0 without one. */
  readonly commandFormat: number;
  /** Contexts that were not purged, and messages they were ever given, as of the applied state. */
  readonly contexts: number;
  readonly messages: number;
  /** Stamp of the newest write, applied or not, in milliseconds since the epoch; 0 without one. */
  readonly newestAt: number;
}

/** A group that a directory has rows of, and of which nothing can be used. */
export interface UselessGroup {
  readonly group: GroupId;
  /** 0 when not even its record can be read. */
  readonly replica: ReplicaId;
  readonly reason: string;
}

export interface Survey {
  readonly sound: readonly SoundGroup[];
  readonly useless: readonly UselessGroup[];
}

/** A group as it is to be: its log begins at its applied state and goes on with what was not applied. */
export interface KeptGroup {
  readonly from: SoundGroup;
  readonly conf: GroupRecord['conf'];
  /** Unapplied entries that are to say nothing: they keep their index and term. */
  readonly blank: readonly Unapplied[];
  readonly rows: readonly Write[];
}

/** A group that begins anew; whatever is there of it is swept when a node opens the directory. */
export interface FreshGroup {
  readonly group: GroupId;
  readonly replica: ReplicaId;
  readonly conf: GroupRecord['conf'];
  readonly rows: readonly Write[];
}

export interface Change {
  readonly kept: readonly KeptGroup[];
  readonly fresh: readonly FreshGroup[];
  /** Facts about the node to be set; null: to be deleted. */
  readonly facts: ReadonlyMap<string, Uint8Array | null>;
}

export class OfflineStore {
  private readonly db: Database;
  private readonly facts: ReadonlyMap<string, Uint8Array>;

  private constructor(db: Database, facts: ReadonlyMap<string, Uint8Array>) {
    this.db = db;
    this.facts = facts;
  }

  /** Null where nothing was ever stored, 'in_use' where a node has it open. Throws Error with one line for the operator. */
  static open(directory: string): Promise<OfflineStore | 'in_use' | null> {
    return openOffline(directory, (db, facts) => new OfflineStore(db, facts));
  }

  close(): Promise<void> {
    return this.db.close();
  }

  /** A fact about the node. */
  get(key: string): Uint8Array | undefined {
    return this.facts.get(key);
  }

  /** A row of a sound group's applied state. */
  row({ group, record }: SoundGroup, name: RowName): Uint8Array | undefined {
    const value = this.db.getSync(stateKey(group, record.slot, name));
    return value === undefined ? undefined : unsealed(value);
  }

  /** Reads everything once, group by group: a state that is restored must be known to be whole. Throws DamageError when no log's end is certain. */
  async survey(): Promise<Survey> {
    const sound: SoundGroup[] = [];
    const useless: UselessGroup[] = [];
    const bounds = new LogBounds();
    bounds.load(readSync(this.db, BOUNDS_KEY));
    for (const { group, record: stored, damaged } of await readGroups(this.db)) {
      const record = stored === null ? null : bounds.completed(group, stored);
      if (record === null) useless.push({ group, replica: 0, reason: damaged ?? 'its record is damaged' });
      else if (damaged !== null) useless.push({ group, replica: record.replica, reason: damaged });
      else if (record.conf.voters.length + record.conf.learners.length === 0) useless.push({ group, replica: record.replica, reason: 'its replica had not received its first snapshot' });
      else {
        const found = await this.read(group, record);
        if (typeof found === 'string') useless.push({ group, replica: record.replica, reason: found });
        else sound.push(found);
      }
    }
    return { sound, useless };
  }

  /** Makes the change, all of it or nothing; resolves when it is synced. */
  async commit({ kept, fresh, facts }: Change): Promise<void> {
    const slots = new Map<GroupId, number>();
    for (const { group, slot } of await readSlots(this.db)) slots.set(group, Math.max(slot, slots.get(group) ?? 0));
    const encoder = new RowEncoder();
    const batch = this.db.batch();
    for (const { from, conf, blank, rows } of kept) {
      const { group } = from;
      const { slot, lastIndex, appliedIndex, appliedTerm } = from.record;
      const last = from.unapplied.at(-1)?.index ?? appliedIndex;
      const record = { ...from.record, conf, startIndex: appliedIndex, startTerm: appliedTerm, lastIndex: last, commit: Math.min(Math.max(from.record.commit, appliedIndex), last) };
      for (const { index, term } of blank) encoder.entry(batch, group, slot, { index, term, type: EntryType.normal, data: NO_DATA });
      for (let index = last + 1; index <= lastIndex; index++) batch.del(logKey(group, slot, index));
      for (const row of rows) encoder.row(batch, group, groupSeed(group), slot, row);
      encoder.record(batch, named(group), record);
    }
    for (const { group, replica, conf, rows } of fresh) {
      // Behind every slot that has rows, so that none of theirs is taken for the new group's.
      const slot = (slots.get(group) ?? 0) + 1;
      const start = { startIndex: 1, startTerm: 1, lastIndex: 1, term: 1, commit: 1, appliedIndex: 1, appliedTerm: 1 };
      for (const row of rows) encoder.row(batch, group, groupSeed(group), slot, row);
      encoder.record(batch, named(group), { replica, slot, ...start, vote: 0, stateHash: 0, conf });
      batch.del(groupKey(Space.damage, group));
    }
    // Every record says by itself where its log ends.
    batch.del(BOUNDS_KEY);
    for (const [name, value] of facts) {
      const key = factKey(name);
      if (value === null) batch.del(key);
      else batch.put(key, sealed(key, value));
    }
    const write: (options: { sync: boolean }) => Promise<void> = batch.write.bind(batch);
    await write({ sync: true });
  }

  /** Why nothing of the group can be used, or what can. */
  private async read(group: GroupId, record: GroupRecord): Promise<SoundGroup | string> {
    const { startIndex, lastIndex, appliedIndex } = record;
    if (appliedIndex < startIndex || appliedIndex > lastIndex) return `its record contradicts itself: applied ${appliedIndex}, log (${startIndex}, ${lastIndex}]`;
    try {
      const rot = await this.findRot(group, record);
      if (rot !== null) return rot;
      return { group, record, ...(await this.readContexts(group, record, await this.readUnapplied(group, record))) };
    } catch (error) {
      return `its rows cannot be read: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  private async findRot(group: GroupId, { slot }: GroupRecord): Promise<string | null> {
    const seed = groupSeed(group);
    for await (const [key, value] of readRange(this.db, slotKey(Space.state, group, slot), slotKey(Space.state, group, slot + 1))) {
      if (!isRowIntact(key, value, seed)) return `a state row is damaged: key ${Buffer.from(key).toString('hex')}`;
    }
    return null;
  }

  /** The log behind the applied state, as far as it is whole. */
  private async readUnapplied(group: GroupId, { slot, appliedIndex, appliedTerm, lastIndex, term: termMax }: GroupRecord): Promise<Pick<SoundGroup, 'unapplied' | 'damagedFrom' | 'commandFormat' | 'newestAt'>> {
    const unapplied: Unapplied[] = [];
    let commandFormat = 0;
    let newestAt = 0;
    let expected = appliedIndex + 1;
    let term = appliedTerm;
    for await (const [key, value] of readRange(this.db, logKey(group, slot, appliedIndex + 1), logKey(group, slot, lastIndex + 1))) {
      const found = entryTerm(key, value);
      if (readLogIndex(key) !== expected || found < term || found > termMax) break;
      const { type, data } = readEntry(expected, value);
      const isConfChange = type === EntryType.confChange;
      unapplied.push({ index: expected, term: found, isConfChange });
      if (!isConfChange && data.length > 0) {
        commandFormat = Math.max(commandFormat, formatOf(data));
        newestAt = Math.max(newestAt, stampOf(data));
      }
      term = found;
      expected++;
    }
    return { unapplied, damagedFrom: expected > lastIndex ? null : expected, commandFormat, newestAt };
  }

  private async readContexts<T extends Pick<SoundGroup, 'newestAt'>>(group: GroupId, { slot }: GroupRecord, read: T): Promise<T & Pick<SoundGroup, 'contexts' | 'messages'>> {
    let contexts = 0;
    let messages = 0;
    let { newestAt } = read;
    for await (const [, value] of readRange(this.db, tablePrefix(group, slot, 'header'), tablePrefix(group, slot, 'header', 1))) {
      const header = decodeHeader(unsealed(value));
      if (header === null) throw new Error('a header is in a format that this program does not read');
      newestAt = Math.max(newestAt, header.updatedAt);
      if (header.status === 'purged') continue;
      contexts++;
      messages += header.lastSeq;
    }
    return { ...read, contexts, messages, newestAt };
  }
}

function named(group: GroupId): { key: Uint8Array; keySeed: number } {
  const key = groupKey(Space.group, group);
  return { key, keySeed: checksum(key) };
}

/**
 * What `make` makes of the database of a directory and of its facts; null where nothing was ever stored, 'in_use' where a
 * node has it open. The database is closed where `make` throws, and otherwise by what it made. Throws as openStored does.
 */
export async function openOffline<T>(directory: string, make: (db: Database, facts: ReadonlyMap<string, Uint8Array>) => T | Promise<T>): Promise<T | 'in_use' | null> {
  const db = await openStored(directory);
  if (db === 'new') return null;
  if (db === 'in_use') return 'in_use';
  try {
    return await make(db, await readFacts(db));
  } catch (error) {
    await db.close();
    throw error;
  }
}

/** Rows with keys in [gte, lt), in order, read once and kept in no cache. */
export async function* readRange(db: Database, gte: Uint8Array, lt: Uint8Array): AsyncGenerator<[Uint8Array, Uint8Array], void> {
  const iterator = db.iterator({ gte, lt, fillCache: false, highWaterMarkBytes: READ_AHEAD_BYTES });
  try {
    for (;;) {
      const rows = await iterator.nextv(ROWS_PER_READ);
      if (rows.length === 0) return;
      yield* rows;
    }
  } finally {
    await iterator.close();
  }
}

export async function readFacts(db: Database): Promise<Map<string, Uint8Array>> {
  const facts = new Map<string, Uint8Array>();
  for (const [key, value] of await db.iterator({ gte: Uint8Array.of(Space.fact), lt: Uint8Array.of(Space.fact + 1) }).all()) {
    const name = Buffer.from(key.subarray(1)).toString('utf8');
    if (!isIntact(key, value)) throw new DamageError(null, `the node's fact ${name} is damaged`);
    facts.set(name, unsealed(value).slice());
  }
  return facts;
}
