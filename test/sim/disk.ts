/**
 * A modelled disk: HostStorage in memory. What a write contains becomes visible and durable when it completes, all of
 * it or nothing; a crash decides the fate of the write in flight and forgets everything that was only put.
 * `S` is the state machine's whole state of a group, immutable, riding in writes like rows do.
 */
import type { GroupWrite, HostStorage } from '../../raft/ports.ts';
import type { ConfState, Entry, GroupId, HardState, LogReader, ReplicaId, SnapshotMeta } from '../../raft/types.ts';
import { EntryType } from '../../raft/types.ts';

/** How a group begins: an empty log behind (index, term). */
export interface Founding<S> {
  readonly replica: ReplicaId;
  readonly conf: ConfState;
  readonly index: number;
  readonly term: number;
  readonly state: S;
}

/** What a disk may do wrong on purpose, to see the checks notice. */
export interface DiskFaults<S> {
  /** True: this write is reported done before it is durable. */
  reportsEarly(writes: readonly GroupWrite[]): boolean;
  /** Completed writes that a crash still takes back. */
  readonly unsyncedWrites: number;
  /** Changes what a group looks like after a crash. */
  afterCrash(group: DiskGroup<S>): void;
}

export class DamageError extends Error {}

/** One group's durable image, and the reader over it. */
export class DiskGroup<S> implements LogReader {
  readonly replica: ReplicaId;
  hardState: HardState;
  /** The commit index that a crash leaves: writes that only append do not take it along. */
  durableCommit: number;
  conf: ConfState;
  appliedIndex: number;
  state: S;
  /** Position behind which the log starts. */
  start: number;
  startTerm: number;
  log: Entry[] = [];
  /** Index of an entry whose bytes rotted, 0 if none. Found when it is read, or at the next open. */
  rotten = 0;
  onDamage: (() => void) | null = null;

  constructor(founding: Founding<S>) {
    this.replica = founding.replica;
    this.hardState = { term: founding.term, vote: 0, commit: founding.index };
    this.durableCommit = founding.index;
    this.conf = founding.conf;
    this.appliedIndex = founding.index;
    this.state = founding.state;
    this.start = founding.index;
    this.startTerm = founding.term;
  }

  firstIndex(): number {
    return this.start + 1;
  }

  lastIndex(): number {
    return this.start + this.log.length;
  }

  term(index: number): number {
    return index === this.start ? this.startTerm : (this.log[index - this.start - 1]?.term ?? -1);
  }

  entries(from: number, to: number, bytesMax: number): Entry[] {
    if (from <= this.start || to > this.lastIndex() + 1 || from >= to) throw new RangeError(`entries [${from}, ${to}) outside the log`);
    const found: Entry[] = [];
    let bytes = 0;
    for (const entry of this.log.slice(from - this.start - 1, to - this.start - 1)) {
      bytes += entry.data.length;
      if (found.length > 0 && bytes > bytesMax) break;
      if (entry.index === this.rotten) this.damaged();
      found.push(entry);
    }
    return found;
  }

  damaged(): never {
    this.onDamage?.();
    throw new DamageError(`entry ${this.rotten} is damaged`);
  }

  copy(): DiskGroup<S> {
    const copy = new DiskGroup<S>({ replica: this.replica, conf: this.conf, index: this.start, term: this.startTerm, state: this.state });
    copy.hardState = this.hardState;
    copy.durableCommit = this.durableCommit;
    copy.appliedIndex = this.appliedIndex;
    copy.log = this.log.slice();
    copy.rotten = this.rotten;
    return copy;
  }

  append(entries: readonly Entry[]): void {
    const first = entries[0];
    if (first === undefined) return;
    if (first.index <= this.start || first.index > this.lastIndex() + 1) throw new Error(`entry ${first.index} leaves a gap behind ${this.lastIndex()}`);
    this.log.length = first.index - this.start - 1;
    if (this.rotten >= first.index) this.rotten = 0;
    for (const entry of entries) {
      if (entry.index !== this.lastIndex() + 1) throw new Error(`entry ${entry.index} written behind ${this.lastIndex()}`);
      this.log.push(entry);
    }
  }

  compact(first: number): void {
    if (first > this.appliedIndex + 1) throw new Error(`compacting to ${first} beyond applied ${this.appliedIndex}`);
    if (first <= this.start + 1) return;
    const term = this.term(first - 1);
    this.log.splice(0, first - 1 - this.start);
    this.start = first - 1;
    this.startTerm = term;
    if (this.rotten < first) this.rotten = 0;
  }
}

interface Applied<S> {
  index: number;
  conf: ConfState | null;
  state: S | undefined;
}

interface Batch<S> {
  /** The images it is meant for: one that was deleted meanwhile is not to be found again under its group's number. */
  readonly images: ReadonlyMap<GroupId, DiskGroup<S>>;
  readonly writes: readonly GroupWrite[];
  /** Groups that only get entries: neither their commit index nor what is applied goes along. */
  readonly appends: ReadonlySet<GroupId>;
  readonly applied: ReadonlyMap<GroupId, Applied<S>>;
  readonly staged: ReadonlyMap<GroupId, { readonly meta: SnapshotMeta; readonly state: S }>;
}

/** What survives a process: the images, and what a lying disk would take back. */
export class Disk<S> {
  /** Tells this disk from any other, whatever node it is in. */
  readonly storeId: string;
  /** Highest replica number that ever lived here, by group. */
  highest = new Map<GroupId, ReplicaId>();
  /** A nonce for every open of this disk, so that peers can tell whether it is the disk they last spoke with. */
  opens: number[] = [];
  groups = new Map<GroupId, DiskGroup<S>>();
  /** Images before the last writes, oldest first; only filled when the disk is told to lie. */
  undo: Map<GroupId, DiskGroup<S>>[] = [];

  constructor(storeId: string) {
    this.storeId = storeId;
  }

  copy(): Disk<S> {
    const copy = new Disk<S>(this.storeId);
    copy.highest = new Map(this.highest);
    copy.opens = this.opens.slice();
    for (const [group, image] of this.groups) copy.groups.set(group, image.copy());
    return copy;
  }
}

export class MemoryStorage<S> implements HostStorage {
  readonly disk: Disk<S>;
  readonly #complete: (work: () => void) => void;
  readonly #faults: DiskFaults<S> | null;
  readonly #waits: () => boolean;
  #applied = new Map<GroupId, Applied<S>>();
  readonly #staged = new Map<GroupId, { meta: SnapshotMeta; state: S }>();
  #inFlight: Batch<S> | null = null;
  #crashed = false;

  /** `complete` runs the completion of a write when the disk gets to it; applied state `waits` for a later write at will. */
  constructor(disk: Disk<S>, complete: (work: () => void) => void, faults: DiskFaults<S> | null = null, waits: () => boolean = () => false) {
    this.disk = disk;
    this.#complete = complete;
    this.#faults = faults;
    this.#waits = waits;
  }

  createGroup(group: GroupId, founding: Founding<S>): void {
    this.disk.groups.set(group, new DiskGroup(founding));
  }

  deleteGroup(group: GroupId): void {
    this.disk.groups.delete(group);
    this.#applied.delete(group);
    this.#staged.delete(group);
  }

  /** The process is gone. The write in flight is durable afterwards or it never was. */
  crash(writeSurvives: boolean): void {
    this.#crashed = true;
    if (this.#inFlight !== null && writeSurvives) this.#perform(this.#inFlight);
    this.#inFlight = null;
    for (const image of this.disk.groups.values()) image.hardState = { ...image.hardState, commit: image.durableCommit };
    const faults = this.#faults;
    if (faults === null) return;
    for (const images of this.disk.undo.reverse()) {
      for (const [group, image] of images) if (this.disk.groups.get(group)?.replica === image.replica) this.disk.groups.set(group, image);
    }
    this.disk.undo = [];
    for (const image of this.disk.groups.values()) faults.afterCrash(image);
  }

  log(group: GroupId): DiskGroup<S> {
    const image = this.disk.groups.get(group);
    if (image === undefined) throw new Error(`no group ${group} on this disk`);
    return image;
  }

  write(writes: readonly GroupWrite[], done: (error: Error | null) => void): void {
    if (this.#inFlight !== null) throw new Error('a second write while one is in flight');
    const staged = new Map<GroupId, { meta: SnapshotMeta; state: S }>();
    for (const { group, snapshot } of writes) {
      const stage = this.#staged.get(group);
      if (snapshot === null) continue;
      if (stage === undefined || stage.meta.index !== snapshot.index) throw new Error(`group ${group}: snapshot ${snapshot.index} is not staged`);
      staged.set(group, stage);
      this.#staged.delete(group);
      this.#applied.delete(group);
    }
    const appends = new Set<GroupId>();
    const waiting = new Map<GroupId, Applied<S>>();
    if (writes.length > 0) {
      for (const write of writes) if (this.#onlyAppends(write) && this.#waits()) appends.add(write.group);
      for (const [group, applied] of this.#applied) {
        if (appends.has(group) || (!writes.some((write) => write.group === group) && this.#waits())) waiting.set(group, applied);
      }
      for (const group of waiting.keys()) this.#applied.delete(group);
    }
    const batch: Batch<S> = { images: new Map(this.disk.groups), writes, appends, applied: this.#applied, staged };
    this.#applied = waiting;
    if (this.#faults?.reportsEarly(writes) === true) {
      this.#perform(batch);
      const undo = this.disk.undo;
      this.#complete(() => {
        if (!this.#crashed) undo.shift();
      });
      done(null);
      return;
    }
    this.#inFlight = batch;
    this.#complete(() => {
      if (this.#crashed) return;
      this.#inFlight = null;
      this.#perform(batch);
      while (this.disk.undo.length > (this.#faults?.unsyncedWrites ?? 0)) this.disk.undo.shift();
      done(null);
    });
  }

  hasPendingState(): boolean {
    return this.#applied.size > 0 && !this.#waits();
  }

  /** The state that goes with the next `setApplied` of the group. */
  putState(group: GroupId, state: S): void {
    const applied = this.#applied.get(group);
    if (applied === undefined) this.#applied.set(group, { index: 0, conf: null, state });
    else applied.state = state;
  }

  setApplied(group: GroupId, { index, conf }: { index: number; term: number; conf: ConfState | null }): void {
    const applied = this.#applied.get(group);
    if (applied === undefined) {
      this.#applied.set(group, { index, conf, state: undefined });
      return;
    }
    applied.index = index;
    if (conf !== null) applied.conf = conf;
  }

  logBytes(group: GroupId): number {
    let bytes = 0;
    for (const entry of this.log(group).log) bytes += entry.data.length;
    return bytes;
  }

  firstIndexKeeping(group: GroupId, bytes: number): number {
    const image = this.log(group);
    let kept = 0;
    let at = image.log.length;
    while (at > 0 && kept + (image.log[at - 1]?.data.length ?? 0) <= bytes) {
      at -= 1;
      kept += image.log[at]?.data.length ?? 0;
    }
    return image.start + 1 + at;
  }

  durableApplied(group: GroupId): number {
    return this.log(group).appliedIndex;
  }

  stage(group: GroupId, meta: SnapshotMeta, state: S): void {
    this.#staged.set(group, { meta, state });
  }

  discard(group: GroupId): void {
    this.#staged.delete(group);
  }

  /** Nothing but client commands behind the last entry, as src/storage/group.ts has it. */
  #onlyAppends({ group, hardState, entries, snapshot, compactTo }: GroupWrite): boolean {
    const image = this.log(group);
    const keepsVote = hardState === null || (hardState.term === image.hardState.term && hardState.vote === image.hardState.vote);
    return snapshot === null && compactTo === 0 && keepsVote && (entries[0]?.index ?? 0) === image.lastIndex() + 1 && entries.every(({ type }) => type === EntryType.normal);
  }

  #image(batch: Batch<S>, group: GroupId): DiskGroup<S> | undefined {
    const image = this.disk.groups.get(group);
    return image === batch.images.get(group) ? image : undefined;
  }

  #perform(batch: Batch<S>): void {
    if (this.#faults !== null) this.#remember(batch);
    for (const { group, hardState, entries, snapshot, compactTo } of batch.writes) {
      const image = this.#image(batch, group);
      if (image === undefined) continue;
      const stage = batch.staged.get(group);
      if (snapshot !== null && stage !== undefined) {
        image.start = stage.meta.index;
        image.startTerm = stage.meta.term;
        image.log = [];
        image.rotten = 0;
        image.conf = stage.meta.conf;
        image.appliedIndex = stage.meta.index;
        image.state = stage.state;
      }
      if (hardState !== null) image.hardState = hardState;
      if (!batch.appends.has(group)) image.durableCommit = image.hardState.commit;
      image.append(entries);
      if (compactTo !== 0) image.compact(compactTo);
    }
    for (const [group, { index, conf, state }] of batch.applied) {
      const image = this.#image(batch, group);
      if (image === undefined) continue;
      if (index > image.lastIndex()) throw new Error(`group ${group}: applied ${index} ahead of the log's ${image.lastIndex()}`);
      image.appliedIndex = index;
      image.durableCommit = image.hardState.commit;
      if (conf !== null) image.conf = conf;
      if (state !== undefined) image.state = state;
    }
  }

  #remember(batch: Batch<S>): void {
    const images = new Map<GroupId, DiskGroup<S>>();
    const touched = new Set([...batch.writes.map((write) => write.group), ...batch.applied.keys()]);
    for (const group of touched) {
      const image = this.disk.groups.get(group);
      if (image !== undefined) images.set(group, image.copy());
    }
    this.disk.undo.push(images);
  }
}
