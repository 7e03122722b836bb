/**
 * The durable log of one group as Raft reads it: bounds, terms and sizes in memory, entries from a bounded cache of
 * recent ones or from LevelDB, each with its checksum. Reflects completed writes only; store.ts tells it of them.
 */
import { entryBytes } from '../../raft/log.ts';
import type { ConfState, Entry, GroupId, HardState, LogReader } from '../../raft/types.ts';
import { DamageError } from './checksum.ts';
import { logKey } from './keys.ts';
import { entryTerm, readEntry } from './records.ts';
import type { GroupRecord } from './records.ts';
import { readSync } from './writer.ts';
import type { Database } from './writer.ts';

export class GroupLog implements LogReader {
  private readonly group: GroupId;
  private readonly db: Database;
  private readonly cache: EntryCache;
  private readonly onDamage: (group: GroupId, reason: string) => void;
  private record: GroupRecord;
  private readonly terms: TermRuns;
  private readonly sizes = new EntrySizes();

  constructor(group: GroupId, record: GroupRecord, ports: { db: Database; cache: CacheBudget; onDamage: (group: GroupId, reason: string) => void }) {
    this.group = group;
    this.record = record;
    this.db = ports.db;
    this.onDamage = ports.onDamage;
    this.cache = new EntryCache(ports.cache);
    this.terms = new TermRuns(record.startIndex, record.startTerm);
  }

  get hardState(): HardState {
    return { term: this.record.term, vote: this.record.vote, commit: this.record.commit };
  }

  get conf(): ConfState {
    return this.record.conf;
  }

  get appliedIndex(): number {
    return this.record.appliedIndex;
  }

  firstIndex(): number {
    return this.record.startIndex + 1;
  }

  lastIndex(): number {
    return this.record.lastIndex;
  }

  term(index: number): number {
    if (index < this.record.startIndex || index > this.record.lastIndex) return -1;
    return this.terms.at(index);
  }

  entries(from: number, to: number, bytesMax: number): Entry[] {
    if (from >= to || from < this.firstIndex() || to > this.record.lastIndex + 1) {
      throw new RangeError(`entries [${from}, ${to}) of group ${this.group} are outside [${this.firstIndex()}, ${this.record.lastIndex + 1})`);
    }
    const entries: Entry[] = [];
    let bytes = 0;
    for (let index = from; index < to; index++) {
      const entry = this.cache.get(index) ?? this.load(index);
      bytes += entryBytes(entry);
      if (bytes > bytesMax && entries.length > 0) break;
      entries.push(entry);
    }
    return entries;
  }

  /** Approximate bytes of the log on disk. */
  bytes(): number {
    return this.sizes.total();
  }

  /** The smallest first index that leaves at most `bytes`. */
  firstIndexKeeping(bytes: number): number {
    return this.firstIndex() + this.sizes.dropToKeep(bytes);
  }

  /**
   * A completed write: `entries` replaced the tail from their first index on, then the log was compacted to
   * record.startIndex, or restarted there if `restarted` (a snapshot became the state).
   */
  advance(record: GroupRecord, entries: readonly Entry[], restarted: boolean): void {
    if (restarted) {
      this.terms.reset(record.startIndex, record.startTerm);
      this.sizes.reset();
      this.cache.clear();
      this.record = { ...record, lastIndex: record.startIndex };
    }
    const first = entries[0];
    if (first !== undefined) {
      this.truncate(first.index);
      for (const entry of entries) this.append(entry.index, entry.term, entryBytes(entry));
      this.cache.append(entries);
    }
    const dropped = record.startIndex - this.record.startIndex;
    if (dropped > 0) {
      this.terms.dropBefore(record.startIndex);
      this.sizes.dropFront(dropped);
      this.cache.dropBefore(record.startIndex + 1);
    }
    this.record = record;
  }

  /** An entry found by verification at open, in order. */
  append(index: number, term: number, bytes: number): void {
    this.terms.append(index, term);
    this.sizes.append(bytes);
  }

  /** The group left this node. */
  close(): void {
    this.cache.clear();
  }

  private truncate(from: number): void {
    if (from > this.record.lastIndex) return;
    this.terms.truncate(from);
    this.sizes.keep(from - this.firstIndex());
    this.cache.truncate(from);
  }

  private load(index: number): Entry {
    const key = logKey(this.group, this.record.slot, index);
    const value = readSync(this.db, key);
    const term = value === undefined || value === null ? -1 : entryTerm(key, value);
    if (value === undefined || value === null || term !== this.terms.at(index)) {
      const reason = `log entry ${index} of group ${this.group} is ${value === undefined ? 'missing' : 'damaged'}`;
      this.onDamage(this.group, reason);
      throw new DamageError(this.group, reason);
    }
    return readEntry(index, value);
  }
}

/** Terms of a log by runs: a term changes with each election, not with each entry. */
class TermRuns {
  private starts: number[];
  private terms: number[];

  constructor(startIndex: number, startTerm: number) {
    this.starts = [startIndex];
    this.terms = [startTerm];
  }

  reset(startIndex: number, startTerm: number): void {
    this.starts = [startIndex];
    this.terms = [startTerm];
  }

  append(index: number, term: number): void {
    if (term === this.terms[this.terms.length - 1]) return;
    this.starts.push(index);
    this.terms.push(term);
  }

  /** Term at `index`, which lies within the log. Recent indexes are found first. */
  at(index: number): number {
    let run = this.starts.length - 1;
    while (run > 0 && (this.starts[run] ?? 0) > index) run--;
    return this.terms[run] ?? -1;
  }

  truncate(from: number): void {
    while (this.starts.length > 1 && (this.starts[this.starts.length - 1] ?? 0) >= from) {
      this.starts.pop();
      this.terms.pop();
    }
  }

  /** `startIndex` becomes the first index whose term is known. */
  dropBefore(startIndex: number): void {
    let runs = 0;
    while (runs + 1 < this.starts.length && (this.starts[runs + 1] ?? 0) <= startIndex) runs++;
    this.starts.splice(0, runs);
    this.terms.splice(0, runs);
    this.starts[0] = startIndex;
  }
}

/** Sizes of a log's entries as running sums: 8 bytes of memory per entry, exact truncation, binary search from the back. */
class EntrySizes {
  /** ends[head + i]: bytes of all entries ever appended up to the i-th held, less what truncation took back. */
  private ends = new Float64Array(0);
  private head = 0;
  private count = 0;
  private base = 0;

  total(): number {
    return this.end(this.count) - this.base;
  }

  append(bytes: number): void {
    if (this.head + this.count === this.ends.length) this.makeRoom();
    this.ends[this.head + this.count] = this.end(this.count) + bytes;
    this.count++;
  }

  keep(count: number): void {
    this.count = count;
  }

  dropFront(count: number): void {
    this.base = this.end(count);
    this.head += count;
    this.count -= count;
  }

  reset(): void {
    this.ends = new Float64Array(0);
    this.head = 0;
    this.count = 0;
    this.base = 0;
  }

  /** How many entries must leave the front so that at most `bytes` stay. */
  dropToKeep(bytes: number): number {
    const limit = this.end(this.count) - bytes;
    let low = 0;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.end(middle) >= limit) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Running sum after `count` held entries. */
  private end(count: number): number {
    return count === 0 ? this.base : (this.ends[this.head + count - 1] ?? 0);
  }

  /** Doubles, or only moves to the front when half of the room is behind the head. */
  private makeRoom(): void {
    const room = Math.max(16, this.count * 2);
    const ends = room > this.ends.length || this.head < this.ends.length / 2 ? new Float64Array(room) : this.ends;
    ends.set(this.ends.subarray(this.head, this.head + this.count));
    this.ends = ends;
    this.head = 0;
  }
}

/** Bytes of recent entries held by all groups of a node, and the most that one may hold. */
export class CacheBudget {
  readonly groupBytesMax: number;
  private readonly totalBytesMax: number;
  private used = 0;
  /** Caches that hold entries, least recently started first: they give way when the total is reached. */
  private readonly holders = new Set<EntryCache>();

  constructor(groupBytesMax: number, totalBytesMax: number) {
    this.groupBytesMax = groupBytesMax;
    this.totalBytesMax = totalBytesMax;
  }

  changed(holder: EntryCache, bytes: number): void {
    this.used += bytes;
    if (bytes > 0) this.holders.add(holder);
    else if (holder.isEmpty) this.holders.delete(holder);
    while (this.used > this.totalBytesMax) {
      const victim = this.holders.values().next().value;
      if (victim === undefined) return;
      // Behind the others, so that all give way in turn.
      this.holders.delete(victim);
      this.holders.add(victim);
      victim.dropOldestHalf();
    }
  }
}

/** The newest entries of one group, contiguous up to its last index. */
class EntryCache {
  private readonly budget: CacheBudget;
  private entries: Entry[] = [];
  /** entries[head] is the oldest held; what is before it was dropped and is cut off once it is half. */
  private head = 0;
  private bytes = 0;

  constructor(budget: CacheBudget) {
    this.budget = budget;
  }

  get isEmpty(): boolean {
    return this.head === this.entries.length;
  }

  get(index: number): Entry | undefined {
    const oldest = this.entries[this.head];
    return oldest === undefined || index < oldest.index ? undefined : this.entries[this.head + index - oldest.index];
  }

  append(entries: readonly Entry[]): void {
    let added = 0;
    for (const entry of entries) {
      this.entries.push(entry);
      added += entryBytes(entry);
    }
    this.bytes += added;
    this.budget.changed(this, added);
    let excess = this.bytes - this.budget.groupBytesMax;
    let count = 0;
    while (excess > 0 && this.head + count < this.entries.length) excess -= this.sizeAt(this.head + count++);
    this.dropOldest(count);
  }

  truncate(from: number): void {
    let removed = 0;
    while (this.entries.length > this.head && (this.entries[this.entries.length - 1]?.index ?? 0) >= from) {
      removed += this.sizeAt(this.entries.length - 1);
      this.entries.pop();
    }
    this.release(removed);
  }

  dropBefore(index: number): void {
    const oldest = this.entries[this.head];
    if (oldest !== undefined && oldest.index < index) this.dropOldest(Math.min(index - oldest.index, this.entries.length - this.head));
  }

  dropOldestHalf(): void {
    this.dropOldest(Math.ceil((this.entries.length - this.head) / 2));
  }

  clear(): void {
    const removed = this.bytes;
    this.entries = [];
    this.head = 0;
    this.release(removed);
  }

  private dropOldest(count: number): void {
    let removed = 0;
    for (let i = 0; i < count; i++) removed += this.sizeAt(this.head + i);
    this.head += count;
    if (this.head * 2 >= this.entries.length) {
      this.entries.splice(0, this.head);
      this.head = 0;
    }
    this.release(removed);
  }

  private release(bytes: number): void {
    if (bytes === 0) return;
    this.bytes -= bytes;
    this.budget.changed(this, -bytes);
  }

  private sizeAt(position: number): number {
    const entry = this.entries[position];
    return entry === undefined ? 0 : entryBytes(entry);
  }
}
