/**
 * The storage of a node: one LevelDB for the logs and states of all its groups. Owns opening and closing, the groups,
 * and what is read and written; the parts are the writer (order, sync, errors), the group stores (what a write makes
 * of a group), verification at open, snapshots, the sweeper and the scrub.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassicLevel } from 'classic-level';
import type { GroupWrite, HostStorage } from '../../raft/ports.ts';
import type { ConfState, GroupId, LogReader, ReplicaId } from '../../raft/types.ts';
import type { RowKey, Table, Write } from '../contexts/types.ts';
import { DamageError, sealed, unsealed } from './checksum.ts';
import { LogBounds } from './bounds.ts';
import { Facts } from './facts.ts';
import { CacheBudget, GroupLog } from './group-log.ts';
import { GroupStore, RowEncoder } from './group.ts';
import type { GroupChange, StateMark } from './group.ts';
import { BOUNDS_KEY, groupKey, isRowIntact, NODE_KEY, Space, stateKeyBytesMax, writeStateKey } from './keys.ts';
import { scanContexts, scanKeys, scanListed, scanRows } from './scan.ts';
import type { ContextRow, ListTable, StateRow } from './scan.ts';
import type { GroupRecord } from './records.ts';
import { Scrub } from './scrub.ts';
import { StagedSnapshot, StateSnapshot } from './snapshots.ts';
import { scour } from './scour.ts';
import { SpaceWatch } from './space.ts';
import type { SpaceState } from './space.ts';
import { Sweeper } from './sweeper.ts';
import { isFormatted, nodeRecord, readGroups, readSlots, verifyLog } from './verify.ts';
import { checkWriteAheadLogs } from './wal-check.ts';
import { readSync, Writer } from './writer.ts';
import type { Database } from './writer.ts';

export interface StorageOptions {
  /** LevelDB's block cache. */
  readonly cacheBytes: number;
  /** LevelDB's write buffer: twice this much memory, and this much log to replay at open. */
  readonly writeBufferBytes: number;
  /** Recent log entries kept in memory for one group, and for all of them. */
  readonly entryCacheGroupBytes: number;
  readonly entryCacheBytes: number;
  /** How long applied state may wait for company in a write; the log repeats it after a crash. 0: it goes with the next. */
  readonly stateFlushMs: number;
  /** Below this much free space the state is 'soft', below the lower one 'hard'. */
  readonly freeSoftBytes: number;
  readonly freeHardBytes: number;
  /** Size of a file that holds space back for the hard case; 0 for none. */
  readonly ballastBytes: number;
  /** Rows per second that the background scrub reads; 0 turns it off. */
  readonly scrubRowsPerSecond: number;
  /** All writing has ended: the process must stop serving. Called at most once. */
  readonly onError: (error: Error) => void;
  /** A group's rows are not what was written. It is marked; its replica must stop voting and serving at once. */
  readonly onDamage: (group: GroupId, reason: string) => void;
  /** Milliseconds that a synced batch took, for every batch. */
  readonly onSynced: (ms: number) => void;
}

export const STORAGE_DEFAULTS: StorageOptions = {
  cacheBytes: 64 * 1024 * 1024,
  writeBufferBytes: 64 * 1024 * 1024,
  entryCacheGroupBytes: 4 * 1024 * 1024,
  entryCacheBytes: 64 * 1024 * 1024,
  stateFlushMs: 0,
  freeSoftBytes: 0,
  freeHardBytes: 0,
  ballastBytes: 0,
  scrubRowsPerSecond: 0,
  onError: () => undefined,
  onDamage: () => undefined,
  onSynced: () => undefined,
};

/** A group to be founded on this node: an empty log behind (index, term), and the state at that point. */
export interface NewGroup {
  readonly group: GroupId;
  readonly replica: ReplicaId;
  readonly conf: ConfState;
  readonly index: number;
  readonly term: number;
  readonly rows?: readonly Write[];
}

export interface GroupInfo {
  readonly group: GroupId;
  /** 0 when the group's record is unreadable. */
  readonly replica: ReplicaId;
  /** Why this replica took itself out, or null. */
  readonly damaged: string | null;
}

export interface StorageStats {
  readonly batches: number;
  readonly rows: number;
  readonly bytes: number;
  readonly lastBatchMs: number;
  /** How long the batch in flight has been under way; 0 without one. */
  readonly stalledMs: number;
  readonly level0Files: number;
  readonly freeBytes: number;
  /** What the data takes on disk, about a second ago. */
  readonly sizeBytes: number;
  readonly scrubbedRows: number;
}

/** Applied rows in memory beyond which none waits any longer. */
export const PENDING_BYTES_MAX = 8 * 1024 * 1024;
/** Applied rows that one write takes along before the rest waits for the next: appends wait for all of a write. One group may pass it. */
export const STATE_BYTES_MAX = 512 * 1024;
/** How often a caller that waits for applied state to become durable looks. */
const FLUSH_LOOK_MS = 20;
/** Entries deleted along with a write: more than it adds, so that deletion keeps up, and bounded. */
export const RIDE_ROWS_MIN = 64;

export class Storage implements HostStorage {
  /** Small synced facts about this node itself. */
  readonly facts: Facts;
  private readonly db: Database;
  private readonly options: StorageOptions;
  private readonly writer: Writer;
  private readonly sweeper: Sweeper;
  private readonly scrub: Scrub;
  private readonly space: SpaceWatch;
  private readonly cache: CacheBudget;
  private readonly encoder = new RowEncoder();
  private readonly groupStores = new Map<GroupId, GroupStore>();
  /** Damaged so badly that not even a record is left. */
  private readonly lost = new Map<GroupId, string>();
  private readonly creating = new Set<GroupId>();
  /** Highest slot ever seen per group: a new one never meets rows of an old one. */
  private readonly slots = new Map<GroupId, number>();
  /** Each keeps what was deleted since in the files. */
  private readonly openSnapshots = new Set<StateSnapshot>();
  private readonly bounds = new LogBounds();
  /** Groups with applied rows or positions that no write has taken yet, those that have waited longest first. */
  private readonly dirty = new Set<GroupStore>();
  private pendingBytes = 0;
  private readKey = Buffer.allocUnsafe(4096);
  private isWriting = false;
  private isClosing = false;

  private constructor(db: Database, directory: string, options: StorageOptions) {
    this.db = db;
    this.options = options;
    this.writer = new Writer(db, options.onError, options.onSynced);
    this.facts = new Facts(db, this.writer);
    this.sweeper = new Sweeper(db, this.writer, (group, slot) => this.groupStores.get(group)?.record.slot === slot);
    this.cache = new CacheBudget(options.entryCacheGroupBytes, options.entryCacheBytes);
    this.scrub = new Scrub(db, { rowsPerSecond: options.scrubRowsPerSecond, groups: this.groupStores, onDamage: (group, reason) => this.damage(group, reason) });
    this.space = new SpaceWatch(directory, options, () => db.approximateSize(Uint8Array.of(0), Uint8Array.of(0xff)));
  }

  /**
   * Opens or creates the data directory and verifies it: every group record, every log entry. Damage of a group marks
   * that group and does not fail the open. Throws DamageError when the node as a whole cannot be trusted, Error when
   * the disk is of another format or in use.
   */
  static async open(directory: string, options: Partial<StorageOptions> = {}): Promise<Storage> {
    const complete = { ...STORAGE_DEFAULTS, ...options };
    const location = join(directory, 'db');
    await mkdir(location, { recursive: true });
    await checkWriteAheadLogs(location);
    const db = new ClassicLevel<Uint8Array, Uint8Array>(location, {
      keyEncoding: 'view',
      valueEncoding: 'view',
      // Message text compresses, but at the price of the CPU that is this platform's bottleneck.
      compression: false,
      cacheSize: complete.cacheBytes,
      writeBufferSize: complete.writeBufferBytes,
      maxFileSize: 8 * 1024 * 1024,
    });
    await db.open();
    const storage = new Storage(db, directory, complete);
    try {
      await storage.load(directory);
    } catch (error) {
      await db.close();
      throw error;
    }
    return storage;
  }

  /** Writes what is still pending in a last synced batch, unless writing has failed, and closes. */
  async close(): Promise<void> {
    if (this.isClosing) return;
    this.isClosing = true;
    await this.scrub.close();
    await this.sweeper.close();
    this.space.close();
    await this.writer.drained();
    while (this.dirty.size > 0 && this.writer.failure === null) await new Promise<void>((resolve) => this.write([], () => resolve()));
    await this.writer.drained();
    this.writer.end();
    await this.db.close();
  }

  // ---- Groups

  groups(): GroupInfo[] {
    const groups: GroupInfo[] = [];
    for (const [group, store] of this.groupStores) groups.push({ group, replica: store.record.replica, damaged: store.damaged });
    for (const [group, reason] of this.lost) groups.push({ group, replica: 0, damaged: reason });
    return groups;
  }

  /** True if that replica of the group is here and nothing of it is known to be damaged. */
  isSound(group: GroupId, replica: ReplicaId): boolean {
    const store = this.groupStores.get(group);
    return store !== undefined && store.damaged === null && store.record.replica === replica;
  }

  createGroup(group: GroupId, start: Omit<NewGroup, 'group' | 'rows'>, rows: readonly Write[] = []): Promise<void> {
    return this.createGroups([{ ...start, group, rows }]);
  }

  /** Founds groups, all in one synced batch. Throws RangeError for a group that this node already has. */
  async createGroups(groups: readonly NewGroup[]): Promise<void> {
    const created: GroupStore[] = [];
    for (const { group, replica, conf, index, term } of groups) {
      if (this.groupStores.has(group) || this.lost.has(group) || this.creating.has(group)) throw new RangeError(`group ${group} already exists`);
      const record: GroupRecord = {
        replica,
        conf,
        slot: this.newSlot(group),
        startIndex: index,
        startTerm: term,
        lastIndex: index,
        term,
        vote: 0,
        commit: index,
        appliedIndex: index,
        appliedTerm: term,
        stateHash: 0,
      };
      created.push(this.groupStore(group, record, null));
    }
    for (const store of created) this.creating.add(store.id);
    await this.writer.run(0, (sink) => {
      created.forEach((store, i) => {
        for (const row of groups[i]?.rows ?? []) this.encoder.row(sink, store.id, store.seed, store.record.slot, row);
        this.encoder.record(sink, store, store.record);
        this.bounds.delete(store.id);
      });
      this.bounds.write(sink);
    });
    for (const store of created) {
      this.creating.delete(store.id);
      this.groupStores.set(store.id, store);
    }
  }

  /** Forgets a group, mark included, in a synced write; its rows are deleted later, bit by bit. */
  async deleteGroup(group: GroupId): Promise<void> {
    const store = this.groupStores.get(group);
    if (store !== undefined) {
      store.isOpen = false;
      store.log.close();
      this.settle(store);
    }
    this.groupStores.delete(group);
    this.lost.delete(group);
    await this.writer.run(0, (sink) => {
      this.bounds.delete(group);
      this.bounds.write(sink);
      sink.del(groupKey(Space.group, group));
      sink.del(groupKey(Space.damage, group));
    });
    for (let slot = 1; slot <= (this.slots.get(group) ?? 0); slot++) this.sweeper.addSlot(group, slot);
  }

  /** Takes the replica out for good: the mark survives restarts and goes only with the group. Resolves when synced. */
  async markDamaged(group: GroupId, reason: string): Promise<void> {
    const store = this.groupStores.get(group);
    if (store !== undefined) {
      if (store.damaged !== null) return;
      store.damaged = reason;
    }
    const key = groupKey(Space.damage, group);
    await this.writer.run(0, (sink) => sink.put(key, sealed(key, Buffer.from(reason))));
  }

  // ---- HostStorage

  /** Throws DamageError for a damaged group: its log must not be voted on. */
  log(group: GroupId): LogReader {
    const store = this.group(group);
    if (store.damaged !== null) throw new DamageError(group, store.damaged);
    return store.log;
  }

  write(groups: readonly GroupWrite[], done: (error: Error | null) => void): void {
    if (this.isWriting) throw new Error('a write is in flight: the host waits for it before the next');
    const { failure } = this.writer;
    if (failure !== null) {
      setImmediate(() => done(failure));
      return;
    }
    const changes: GroupChange[] = [];
    let rideRows = RIDE_ROWS_MIN;
    // A write for nobody in particular is there for what waits, as far as one write takes it.
    const dueMs = groups.length === 0 ? Infinity : this.dueMs();
    let stateBytes = 0;
    const hasRoom = (): boolean => stateBytes < STATE_BYTES_MAX || this.pendingBytes > PENDING_BYTES_MAX;
    for (const write of groups) {
      const store = this.group(write.group);
      const change = store.change(write, !this.dirty.has(store) || store.pendingSinceMs > dueMs || !hasRoom());
      if (!change.appends) stateBytes += this.settle(store);
      changes.push(change);
      rideRows += write.entries.length * 2;
    }
    for (const store of this.dirty) {
      if (store.pendingSinceMs > dueMs || !hasRoom()) break;
      stateBytes += this.settle(store);
      changes.push(store.change(null, false));
    }
    this.isWriting = true;
    this.writer.submit({
      bytes: 0,
      encode: (sink) => {
        for (const change of changes) this.encoder.encode(sink, change, this.bounds);
        this.bounds.write(sink);
        this.sweeper.ride(sink, rideRows);
      },
      done: (error) => {
        this.isWriting = false;
        if (error === null) for (const change of changes) this.completed(change);
        done(error);
      },
    });
  }

  hasPendingState(): boolean {
    const { value: oldest } = this.dirty.values().next();
    return oldest !== undefined && oldest.pendingSinceMs <= this.dueMs();
  }

  setApplied(group: GroupId, applied: { index: number; term: number; conf: ConfState | null }): void {
    const store = this.group(group);
    store.setApplied(applied);
    this.wait(store);
  }

  logBytes(group: GroupId): number {
    return this.group(group).log.bytes();
  }

  firstIndexKeeping(group: GroupId, bytes: number): number {
    return this.group(group).log.firstIndexKeeping(bytes);
  }

  durableApplied(group: GroupId): number {
    return this.group(group).record.appliedIndex;
  }

  // ---- State rows

  /**
   * The current version of a row, durable or not; a view that must not be written to. Throws DamageError, after
   * marking the group, when the row is not what was written.
   */
  get(group: GroupId, table: Table, context: string, key: RowKey): Uint8Array | undefined {
    const store = this.group(group);
    const unwritten = store.overlay.get(table, context, key);
    if (unwritten !== undefined) return unwritten.value ?? undefined;
    const name = { table, context, key };
    const room = stateKeyBytesMax(name);
    if (this.readKey.length < room) this.readKey = Buffer.allocUnsafe(room);
    const stored = this.readKey.subarray(0, writeStateKey(this.readKey, group, store.record.slot, name));
    const value = readSync(this.db, stored);
    if (value === undefined) return undefined;
    if (value === null || !isRowIntact(stored, value, store.seed)) {
      const reason = `row ${JSON.stringify(name)} of group ${group} is damaged`;
      this.damage(group, reason);
      throw new DamageError(group, reason);
    }
    return unsealed(value);
  }

  /** Puts or deletes a row. Visible at once; durable with the next write. */
  put(group: GroupId, write: Write): void {
    const store = this.group(group);
    this.pendingBytes += store.overlay.put(write);
    this.wait(store);
  }

  /** Rolling hash of applied commands; rides with the applied position. */
  setStateHash(group: GroupId, hash: number): void {
    this.group(group).stateHash = hash;
  }

  stateHash(group: GroupId): number {
    return this.group(group).stateHash;
  }

  /** The replica of the group here and its states to be compared with those of others, newest first; null without a sound one. */
  stateMarks(group: GroupId): { readonly replica: ReplicaId; readonly marks: readonly StateMark[] } | null {
    const store = this.groupStores.get(group);
    return store === undefined || store.damaged !== null ? null : { replica: store.record.replica, marks: store.stateMarks() };
  }

  /** Takes the replica out, marked and told as damage found here: its state is not that of the others. */
  condemn(group: GroupId, reason: string): void {
    this.damage(group, reason);
  }

  /** Rows of one context with keys in [gte, lt), in key order, at most `limit`; the overlay is merged. */
  rows(group: GroupId, table: Table, context: string, range: { gte?: number; lt?: number; limit: number }): Promise<StateRow[]> {
    return scanRows(this.db, this.group(group), { table, context, ...range }, (reason) => this.damage(group, reason));
  }

  /** Contexts that have a header, in id order, after `after`, starting with `prefix`; the overlay is merged. */
  contexts(group: GroupId, range: { after?: string; prefix?: string; limit: number }): Promise<ContextRow[]> {
    return scanContexts(this.db, this.group(group), range, (reason) => this.damage(group, reason));
  }

  /** Ids of the contexts listed in `table`, in id order, after `after`; the overlay is merged. */
  listed(group: GroupId, table: ListTable, range: { after?: string; limit: number }): Promise<string[]> {
    return scanListed(this.db, this.group(group), { table, ...range }, (reason) => this.damage(group, reason));
  }

  /** Keys of rows that a context has in `table`, in order, behind `after`; at least `limit` where there are more; the overlay is merged. Values are not read. */
  keys(group: GroupId, table: Table, context: string, range: { after: RowKey | null; limit: number }): Promise<RowKey[]> {
    return scanKeys(this.db, this.group(group), { table, context, ...range });
  }

  // ---- Snapshots

  /** A consistent durable view of a group's state, to be sent in chunks. It pins disk space until closed. */
  openSnapshot(group: GroupId): StateSnapshot {
    const store = this.group(group);
    if (store.damaged !== null) throw new DamageError(group, store.damaged);
    const snapshot: StateSnapshot = new StateSnapshot(this.db, store, { onDamage: (reason) => this.damage(group, reason), onClosed: () => this.openSnapshots.delete(snapshot) });
    this.openSnapshots.add(snapshot);
    return snapshot;
  }

  /** The staged snapshot will not be made current: its rows may go. */
  discardStaged(group: GroupId): void {
    const store = this.group(group);
    if (store.staged !== null) this.sweeper.addSlot(group, store.staged.slot);
    store.staged = null;
  }

  /** Receives a snapshot beside the group's current state. A staged one that was not made current is given up. */
  stage(group: GroupId): StagedSnapshot {
    this.discardStaged(group);
    const store = this.group(group);
    return new StagedSnapshot(store, this.newSlot(group), this.writer, this.sweeper);
  }

  // ---- Erasure

  /**
   * Makes what was deleted of `contexts`, and of the group's log, leave the files too. False when something still keeps
   * it there (deletions to come, a snapshot that is being sent or received): try again.
   */
  async scour(group: GroupId, contexts: readonly string[]): Promise<boolean> {
    const store = this.group(group);
    const { slot } = store.record;
    const isKept = (): boolean => this.sweeper.isSweeping(group) || this.openSnapshots.size > 0 || store.staged !== null || store.record.slot !== slot || !store.isOpen;
    // What was deleted is gone from the files only after it is in them.
    const deletedBy = store.appliedIndex;
    while (store.record.appliedIndex < deletedBy && !isKept() && this.writer.failure === null && !this.isClosing) await sleep(FLUSH_LOOK_MS);
    if (isKept() || store.record.appliedIndex < deletedBy) return false;
    await scour({ db: this.db, writer: this.writer, group, slot, contexts });
    return !isKept();
  }

  // ---- Health

  /** 'soft': refuse new data; 'hard': release the ballast, give up leadership, stop writing. */
  get spaceState(): SpaceState {
    return this.space.state;
  }

  /** True while the disk has room for a node that stopped at the hard mark to start again. */
  get hasRoom(): boolean {
    return this.space.hasRoom;
  }

  /** Gives the space held back to the disk, so that what must still be written can be. */
  releaseBallast(): Promise<void> {
    return this.space.releaseBallast();
  }

  stats(): StorageStats {
    const { batches, rows, bytes, lastBatchMs, batchStartedAt } = this.writer.stats;
    return {
      batches,
      rows,
      bytes,
      lastBatchMs,
      stalledMs: batchStartedAt === 0 ? 0 : performance.now() - batchStartedAt,
      level0Files: Number(this.db.getProperty('leveldb.num-files-at-level0')),
      freeBytes: this.space.freeBytes,
      sizeBytes: this.space.dataBytes,
      scrubbedRows: this.scrub.rows,
    };
  }

  // ---- Inside

  private async load(directory: string): Promise<void> {
    if (!(await isFormatted(this.db, directory))) await this.writer.run(0, (sink) => sink.put(NODE_KEY, nodeRecord()));
    await this.facts.load();
    this.bounds.load(readSync(this.db, BOUNDS_KEY));
    for (const { group, record: stored, damaged } of await readGroups(this.db)) {
      if (stored === null) {
        this.lost.set(group, damaged ?? 'its record is damaged');
        continue;
      }
      const record = this.bounds.completed(group, stored);
      const store = this.groupStore(group, record, damaged);
      this.groupStores.set(group, store);
      if (damaged !== null) continue;
      const leftover = (from: number): void => this.sweeper.addLog(group, record.slot, from, record.startIndex + 1);
      const damage = await verifyLog(this.db, group, record, store.log, leftover);
      if (damage !== null) await this.markDamaged(group, damage);
    }
    for (const { group, slot } of await readSlots(this.db)) {
      this.slots.set(group, Math.max(slot, this.slots.get(group) ?? 0));
      // A group whose record is lost keeps its rows until someone deletes it: they may help whoever looks for the cause.
      if (!this.lost.has(group) && this.groupStores.get(group)?.record.slot !== slot) this.sweeper.addSlot(group, slot);
    }
    await this.space.open();
    this.scrub.start();
  }

  private group(id: GroupId): GroupStore {
    const store = this.groupStores.get(id);
    if (store === undefined) throw new RangeError(`group ${id} is not on this node`);
    return store;
  }

  private groupStore(id: GroupId, record: GroupRecord, damaged: string | null): GroupStore {
    this.slots.set(id, Math.max(record.slot, this.slots.get(id) ?? 0));
    const log = new GroupLog(id, record, { db: this.db, cache: this.cache, onDamage: (group, reason) => this.damage(group, reason) });
    return new GroupStore(id, record, log, damaged);
  }

  private newSlot(group: GroupId): number {
    const slot = (this.slots.get(group) ?? 0) + 1;
    this.slots.set(group, slot);
    return slot;
  }

  private completed(change: GroupChange): void {
    const { group, record, restarted } = change;
    const before = group.record;
    if (!group.isOpen) return;
    group.completed(change);
    if (restarted) this.sweeper.addSlot(group.id, before.slot);
    else this.sweeper.addLog(group.id, record.slot, before.startIndex + 1, record.startIndex + 1);
    if (restarted) this.settle(group);
  }

  /** Something was applied that a write must take. */
  private wait(store: GroupStore): void {
    if (this.dirty.has(store)) return;
    store.pendingSinceMs = performance.now();
    this.dirty.add(store);
  }

  /** A write takes all that is applied in the group, or it is void. Returns what that took of memory. */
  private settle(store: GroupStore): number {
    this.dirty.delete(store);
    const bytes = store.overlay.takeBytes();
    this.pendingBytes -= bytes;
    return bytes;
  }

  /** What has waited since then, or longer, goes with the next write. */
  private dueMs(): number {
    return this.pendingBytes > PENDING_BYTES_MAX ? Infinity : performance.now() - this.options.stateFlushMs;
  }

  /** Marks the group and tells the node, which takes the replica out. The write of the mark reports its own failure. */
  private damage(group: GroupId, reason: string): void {
    const store = this.groupStores.get(group);
    if (store === undefined || store.damaged !== null) return;
    this.markDamaged(group, reason).catch(() => undefined);
    this.options.onDamage(group, reason);
  }
}
