/**
 * One group's log as Raft sees it: the durable part (read through a LogReader) and behind it a tail in memory.
 * Owns which entry may be handed to the writer, which is durable here, which is committed and which may be applied.
 *
 *   firstIndex ........ tailStart ...... stable ...... handed ...... lastIndex
 *   |---- LogReader ----|------------------- tail (memory) ---------------|
 *                       durable, kept    being        not yet given
 *                       until applied    written      to the writer
 *
 * The tail keeps durable entries until they were handed out for applying, so that in steady state neither replication
 * nor apply reads the store.
 */
import { invariant } from './invariants.ts';
import type { Entry, LogReader, PersistToken, SnapshotMeta } from './types.ts';

/** Index, term and framing of an entry, roughly: keeps floods of tiny entries inside the byte limits. */
const ENTRY_OVERHEAD_BYTES = 24;
/** Durable entries that wait for their commit are dropped from memory beyond this; they can be read back. */
const TAIL_BYTES_MAX = 8 << 20;
const NO_ENTRIES: readonly Entry[] = [];

/** What an entry counts for in every byte limit. */
export function entryBytes(entry: Entry): number {
  return entry.data.length + ENTRY_OVERHEAD_BYTES;
}

/** Sum of `entryBytes`. */
export function entriesBytes(entries: readonly Entry[]): number {
  let bytes = 0;
  for (const entry of entries) bytes += entryBytes(entry);
  return bytes;
}

export class RaftLog {
  readonly #reader: LogReader;
  #tail: Entry[] = [];
  #tailBytes = 0;
  /** Index of #tail[0]; everything below is in the reader. Never beyond #stable + 1. */
  #tailStart: number;
  /** Last index durable on this replica. */
  #stable: number;
  /** Last index given to the writer; at least #stable. */
  #handed: number;
  #commit: number;
  /** Last index handed out for applying. */
  #applying: number;
  #applied: number;
  /** Installed but not yet durable. While set the log starts behind it and nothing is handed out for applying. */
  #snapshot: SnapshotMeta | null = null;
  #snapshotHanded = false;

  constructor(reader: LogReader) {
    const last = reader.lastIndex();
    this.#reader = reader;
    this.#tailStart = last + 1;
    this.#stable = last;
    this.#handed = last;
    this.#applied = reader.appliedIndex;
    this.#applying = reader.appliedIndex;
    // The commit index may be written lazily, so what was applied can be ahead of it.
    this.#commit = Math.max(reader.hardState.commit, reader.appliedIndex);
    invariant(this.#commit <= last, 'I8', this.#commit, last);
    invariant(reader.firstIndex() <= this.#applied + 1, 'I15', reader.firstIndex(), this.#applied);
  }

  get commit(): number {
    return this.#commit;
  }

  get applied(): number {
    return this.#applied;
  }

  /** Last index durable on this replica. */
  get stable(): number {
    return this.#stable;
  }

  /** Last index given to the writer. */
  get handed(): number {
    return this.#handed;
  }

  /** True while an installed snapshot is not durable. */
  get hasSnapshot(): boolean {
    return this.#snapshot !== null;
  }

  firstIndex(): number {
    return this.#snapshot === null ? this.#reader.firstIndex() : this.#snapshot.index + 1;
  }

  lastIndex(): number {
    return this.#tailStart + this.#tail.length - 1;
  }

  lastTerm(): number {
    return this.term(this.lastIndex());
  }

  /** Term of `index` in [firstIndex - 1, lastIndex]; -1 outside. */
  term(index: number): number {
    if (index >= this.#tailStart) return this.#tail[index - this.#tailStart]?.term ?? -1;
    if (this.#snapshot !== null) return index === this.#snapshot.index ? this.#snapshot.term : -1;
    return this.#reader.term(index);
  }

  matches(index: number, term: number): boolean {
    return term >= 0 && this.term(index) === term;
  }

  /** True if a log ending in (index, term) holds everything this one may have committed (thesis §3.6.1). */
  isUpToDate(index: number, term: number): boolean {
    const lastTerm = this.lastTerm();
    return term > lastTerm || (term === lastTerm && index >= this.lastIndex());
  }

  /**
   * The greatest index at or below `index` whose term is at most `term`: entries above it cannot be in a log whose
   * entry at `index` has `term`. Lets both sides of a conflict skip whole terms (etcd's findConflictByTerm).
   */
  findConflictByTerm(index: number, term: number): { readonly index: number; readonly term: number } {
    for (let at = index; at > 0; at--) {
      const own = this.term(at);
      if (own <= term) return { index: at, term: Math.max(own, 0) };
    }
    return { index: 0, term: 0 };
  }

  /** Entries [from, to), at least one, stopping before `bytesMax` is passed. All of it must be in the log. */
  entries(from: number, to: number, bytesMax: number): readonly Entry[] {
    if (from >= to) return NO_ENTRIES;
    const durable = from < this.#tailStart ? this.#reader.entries(from, Math.min(to, this.#tailStart), bytesMax) : [];
    if (from + durable.length < Math.min(to, this.#tailStart)) return durable;
    let bytes = entriesBytes(durable);
    for (let index = from + durable.length; index < to; index++) {
      const entry = this.#tail[index - this.#tailStart];
      if (entry === undefined) break;
      bytes += entryBytes(entry);
      if (bytes > bytesMax && durable.length > 0) break;
      durable.push(entry);
    }
    return durable;
  }

  /** Leader: adds entries behind the last one. */
  append(entries: readonly Entry[]): void {
    for (const entry of entries) this.#push(entry);
  }

  /**
   * Follower: makes the log agree with the leader's entries behind (prevIndex, prevTerm), dropping its own from the
   * first that differs. False if it does not hold (prevIndex, prevTerm). An entry that agrees is never dropped, so
   * that an old, delayed append takes nothing back.
   */
  merge(prevIndex: number, prevTerm: number, entries: readonly Entry[]): boolean {
    if (!this.matches(prevIndex, prevTerm)) return false;
    let expected = prevIndex;
    let fresh = 0;
    for (const entry of entries) {
      invariant(entry.index === ++expected, 'I3', entry.index, expected);
      if (!this.matches(entry.index, entry.term)) break;
      fresh++;
    }
    const first = entries[fresh];
    if (first === undefined) return true;
    if (first.index <= this.lastIndex()) this.#truncate(first.index);
    for (let i = fresh; i < entries.length; i++) {
      const entry = entries[i];
      if (entry !== undefined) this.#push(entry);
    }
    return true;
  }

  #push(entry: Entry): void {
    const last = this.lastIndex();
    invariant(entry.index === last + 1, 'I3', entry.index, last);
    const lastTerm = this.term(last);
    invariant(entry.term >= lastTerm, 'I3', entry.term, lastTerm);
    this.#tail.push(entry);
    this.#tailBytes += entryBytes(entry);
  }

  #truncate(from: number): void {
    invariant(from > this.#commit, 'I10', from, this.#commit);
    if (from <= this.#tailStart) {
      this.#tail = [];
      this.#tailStart = from;
    } else {
      this.#tail.length = from - this.#tailStart;
    }
    this.#tailBytes = entriesBytes(this.#tail);
    // What was written or is being written from here on belongs to a log that is no more.
    this.#stable = Math.min(this.#stable, from - 1);
    this.#handed = Math.min(this.#handed, from - 1);
  }

  /** Raises the commit index; a lower one is old news. */
  commitTo(index: number): void {
    if (index <= this.#commit) return;
    invariant(index <= this.lastIndex(), 'I8', index, this.lastIndex());
    this.#commit = index;
  }

  /** True if entries wait to be given to the writer. */
  get hasUnhanded(): boolean {
    return this.#handed < this.lastIndex();
  }

  /** Entries to write next; they count as handed out. */
  takeUnhanded(): readonly Entry[] {
    if (!this.hasUnhanded) return NO_ENTRIES;
    const entries = this.#tail.slice(this.#handed + 1 - this.#tailStart);
    this.#handed = this.lastIndex();
    return entries;
  }

  /** The snapshot to write next, once. */
  takeSnapshot(): SnapshotMeta | null {
    if (this.#snapshot === null || this.#snapshotHanded) return null;
    this.#snapshotHanded = true;
    return this.#snapshot;
  }

  get hasUnhandedSnapshot(): boolean {
    return this.#snapshot !== null && !this.#snapshotHanded;
  }

  /** Replaces the whole log by a snapshot beyond the commit index. */
  restore(snapshot: SnapshotMeta): void {
    invariant(snapshot.index > this.#commit, 'I8', snapshot.index, this.#commit);
    this.#snapshot = snapshot;
    this.#snapshotHanded = false;
    this.#tail = [];
    this.#tailBytes = 0;
    this.#tailStart = snapshot.index + 1;
    this.#stable = snapshot.index;
    this.#handed = snapshot.index;
    this.#commit = snapshot.index;
  }

  /**
   * What `token` names is durable. `sameTerm`: no term began since it was handed out. If one did, the entries may have
   * been replaced by others of the same index and term and back again, so the token vouches for no entry: the Ready
   * that persists the new term carries another. Within a term a log is replaced at most once per index, by entries of
   * another term, and a replacement that was not handed out yet lies beyond #handed.
   */
  persisted(token: PersistToken, sameTerm: boolean): void {
    const snapshot = this.#snapshot;
    if (snapshot !== null && this.#snapshotHanded && snapshot.index === token.snapshotIndex) {
      this.#snapshot = null;
      this.#applied = Math.max(this.#applied, snapshot.index);
      this.#applying = Math.max(this.#applying, snapshot.index);
    }
    if (!sameTerm || token.lastIndex <= this.#stable || token.lastIndex > this.#handed) return;
    if (this.term(token.lastIndex) !== token.lastTerm) return;
    this.#stable = token.lastIndex;
    this.#trim();
  }

  /** True if committed entries may be handed out. */
  get hasCommitted(): boolean {
    return this.#snapshot === null && this.#applying < Math.min(this.#commit, this.#stable);
  }

  /** Committed entries that are durable here, in order, each once. */
  takeCommitted(bytesMax: number): readonly Entry[] {
    if (!this.hasCommitted) return NO_ENTRIES;
    const entries = this.entries(this.#applying + 1, Math.min(this.#commit, this.#stable) + 1, bytesMax);
    for (const entry of entries) {
      invariant(entry.index === this.#applying + 1, 'I5', entry.index, this.#applying);
      this.#applying = entry.index;
    }
    invariant(this.#applying <= Math.min(this.#commit, this.#stable), 'I12', this.#applying, this.#stable);
    this.#trim();
    return entries;
  }

  /** The host applied through `index`. Entries that a snapshot overtook may still be reported. */
  appliedTo(index: number): void {
    if (index <= this.#applied) return;
    invariant(index <= this.#applying && index <= this.#commit, 'I9', index, this.#applying);
    this.#applied = index;
  }

  /** Drops from memory what is durable and needs no more applying. */
  #trim(): void {
    const through = this.#tailBytes > TAIL_BYTES_MAX ? this.#stable : Math.min(this.#stable, this.#applying);
    const drop = Math.min(through - this.#tailStart + 1, this.#tail.length);
    if (drop <= 0) return;
    const kept = this.#tail.length - drop;
    for (let i = 0; i < drop; i++) {
      const entry = this.#tail[i];
      if (entry !== undefined) this.#tailBytes -= entryBytes(entry);
    }
    for (let i = 0; i < kept; i++) {
      const entry = this.#tail[i + drop];
      if (entry !== undefined) this.#tail[i] = entry;
    }
    this.#tail.length = kept;
    this.#tailStart += drop;
  }
}
