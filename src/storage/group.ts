/**
 * One group's storage in memory: its durable record, its log, its overlay, and how a host's write changes them.
 * Owns the order of things inside a write; knows nothing of batches in flight (writer.ts) nor of files.
 */
import type { GroupWrite } from '../../raft/ports.ts';
import type { ConfState, Entry, GroupId, HardState, SnapshotMeta } from '../../raft/types.ts';
import { EntryType } from '../../raft/types.ts';
import type { Write } from '../contexts/types.ts';
import type { LogBounds } from './bounds.ts';
import { CHECKSUM_BYTES, checksum } from './checksum.ts';
import type { GroupLog } from './group-log.ts';
import { writeU32 } from './integers.ts';
import { groupKey, groupSeed, LOG_KEY_BYTES, logKey, Space, STATE_PREFIX_BYTES, stateKeyBytesMax, writeLogKey, writeStateKey } from './keys.ts';
import { Overlay } from './overlay.ts';
import type { CapturedRows } from './overlay.ts';
import { entryValueBytes, recordBytes, writeEntryValue, writeRecord } from './records.ts';
import type { GroupRecord } from './records.ts';
import type { RowSink } from './writer.ts';

/** A completely received snapshot, waiting to be made current. */
export interface StagedState {
  readonly slot: number;
  readonly meta: SnapshotMeta;
  readonly stateHash: number;
}

/** The rolling hash of a replica's state after the entry at `index`: the same on every replica of the group. */
export interface StateMark {
  readonly index: number;
  readonly hash: number;
}

/** Marks are kept at these indexes, so that replicas which are never at the same one can be compared; a power of two. */
const MARK_EVERY = 64;
const MARKS_KEPT = 4;

/** A group's share of the write in flight: what the group will be once it is durable. */
export interface GroupChange {
  readonly group: GroupStore;
  readonly record: GroupRecord;
  readonly entries: readonly Entry[];
  /** Log rows beyond the new last index: (deleteFrom .. deleteTo], in the live slot. */
  readonly deleteFrom: number;
  readonly deleteTo: number;
  readonly rows: CapturedRows | null;
  readonly restarted: boolean;
  /** Nothing but entries behind the last: the record on disk stays as it is, and what is applied waits for a later write. */
  readonly appends: boolean;
}

const NO_ENTRIES: readonly Entry[] = [];

export class GroupStore {
  readonly id: GroupId;
  readonly key: Uint8Array;
  /** Checksum of `key`. */
  readonly keySeed: number;
  readonly seed: number;
  readonly log: GroupLog;
  readonly overlay = new Overlay();
  /** Durable, though not all of it in the record on disk (GroupChange.appends). */
  record: GroupRecord;
  /** Why this replica took itself out, or null. */
  damaged: string | null;
  staged: StagedState | null = null;
  /** Rolling hash after the last applied command, durable or not. */
  stateHash: number;
  /** False once the group left this node: a write that was in flight then changes nothing any more. */
  isOpen = true;
  /** When the oldest of what is applied and not written was applied; only of meaning while there is such. */
  pendingSinceMs = 0;
  /** Last index applied, durable or not. */
  appliedIndex: number;
  /** Since open or the last snapshot, newest first. */
  private marks: readonly StateMark[] = [];
  private applied: { index: number; term: number; conf: ConfState | null } | null = null;

  constructor(id: GroupId, record: GroupRecord, log: GroupLog, damaged: string | null) {
    this.id = id;
    this.key = groupKey(Space.group, id);
    this.keySeed = checksum(this.key);
    this.seed = groupSeed(id);
    this.record = record;
    this.log = log;
    this.damaged = damaged;
    this.stateHash = record.stateHash;
    this.appliedIndex = record.appliedIndex;
  }

  /** Rides in the next write; a membership change stays due until then. */
  setApplied(applied: { index: number; term: number; conf: ConfState | null }): void {
    const conf = applied.conf ?? this.applied?.conf ?? null;
    this.appliedIndex = applied.index;
    this.applied = { index: applied.index, term: applied.term, conf };
    if ((applied.index & (MARK_EVERY - 1)) === 0) this.marks = [{ index: applied.index, hash: this.stateHash }, ...this.marks.slice(0, MARKS_KEPT - 1)];
  }

  /** The state as it is, and as it was at some indexes before, newest first. */
  stateMarks(): StateMark[] {
    return [{ index: this.appliedIndex, hash: this.stateHash }, ...this.marks];
  }

  /**
   * What the next write makes of this group. Captures the overlay rows and the applied position put so far, unless
   * `mayAppend` and the write does no more than append.
   * Throws RangeError when the write contradicts the log: that is a bug of the caller, not an operating error.
   */
  change(write: GroupWrite | null, mayAppend: boolean): GroupChange {
    if (write !== null && write.snapshot !== null) return this.restart(write, write.snapshot);
    const { record } = this;
    const entries = write === null ? NO_ENTRIES : ownEntries(write.entries);
    const first = entries[0];
    if (mayAppend && write !== null && onlyAppends(record, write)) return this.appended(write, entries);
    const { applied } = this;
    this.applied = null;
    if (first !== undefined && (first.index <= record.startIndex || first.index > record.lastIndex + 1)) {
      throw new RangeError(`entry ${first.index} does not continue the log (${record.startIndex}, ${record.lastIndex}] of group ${this.id}`);
    }
    const lastIndex = entries[entries.length - 1]?.index ?? record.lastIndex;
    const appliedIndex = applied?.index ?? record.appliedIndex;
    const startIndex = write === null || write.compactTo === 0 ? record.startIndex : Math.max(record.startIndex, write.compactTo - 1);
    if (appliedIndex > Math.min(record.lastIndex, lastIndex)) throw new RangeError(`group ${this.id} applied ${appliedIndex}, beyond its durable log at ${record.lastIndex}`);
    if (startIndex > appliedIndex) throw new RangeError(`group ${this.id} cannot compact to ${startIndex + 1}: applied is ${appliedIndex}`);
    return {
      group: this,
      entries,
      record: {
        replica: record.replica,
        slot: record.slot,
        startIndex,
        startTerm: startIndex === record.startIndex ? record.startTerm : this.log.term(startIndex),
        lastIndex,
        term: write?.hardState?.term ?? record.term,
        vote: write?.hardState?.vote ?? record.vote,
        commit: write?.hardState?.commit ?? record.commit,
        appliedIndex,
        appliedTerm: applied?.term ?? record.appliedTerm,
        stateHash: applied === null ? record.stateHash : this.stateHash,
        conf: applied?.conf ?? record.conf,
      },
      deleteFrom: lastIndex + 1,
      deleteTo: record.lastIndex,
      rows: this.overlay.capture(),
      restarted: false,
      appends: false,
    };
  }

  /** Entries behind the last and nothing else: what nearly every write under load is for nearly every group in it. */
  private appended({ hardState }: GroupWrite, entries: readonly Entry[]): GroupChange {
    const { record } = this;
    const lastIndex = entries[entries.length - 1]?.index ?? record.lastIndex;
    const next = { ...record, lastIndex, commit: hardState?.commit ?? record.commit };
    return { group: this, entries, record: next, deleteFrom: lastIndex + 1, deleteTo: record.lastIndex, rows: null, restarted: false, appends: true };
  }

  /** The change is durable: readers see it. */
  completed(change: GroupChange): void {
    if (!this.isOpen) return;
    this.record = change.record;
    this.log.advance(change.record, change.entries, change.restarted);
    if (change.appends) return;
    if (change.restarted) {
      // Rows applied to the old state while the write was in flight explain nothing in the new one.
      this.overlay.clear();
      this.applied = null;
      this.stateHash = change.record.stateHash;
      this.marks = [];
      this.appliedIndex = change.record.appliedIndex;
    } else {
      this.overlay.written();
    }
  }

  private restart(write: GroupWrite, meta: SnapshotMeta): GroupChange {
    const { staged, record } = this;
    if (staged === null || staged.meta.index !== meta.index || staged.meta.term !== meta.term) {
      throw new RangeError(`group ${this.id} has no staged snapshot at index ${meta.index}, term ${meta.term}`);
    }
    // From here on the slot belongs to this write: a new transfer must not sweep it away.
    this.staged = null;
    if (meta.index <= record.appliedIndex) throw new RangeError(`a snapshot at ${meta.index} would take group ${this.id} back from ${record.appliedIndex}`);
    const entries = ownEntries(write.entries);
    if ((entries[0]?.index ?? meta.index + 1) !== meta.index + 1) throw new RangeError(`entries of group ${this.id} do not continue its snapshot at ${meta.index}`);
    return {
      group: this,
      entries,
      record: {
        replica: record.replica,
        slot: staged.slot,
        startIndex: meta.index,
        startTerm: meta.term,
        lastIndex: entries[entries.length - 1]?.index ?? meta.index,
        term: write.hardState?.term ?? record.term,
        vote: write.hardState?.vote ?? record.vote,
        commit: Math.max(meta.index, write.hardState?.commit ?? record.commit),
        appliedIndex: meta.index,
        appliedTerm: meta.term,
        stateHash: staged.stateHash,
        conf: staged.meta.conf,
      },
      deleteFrom: 0,
      deleteTo: -1,
      rows: null,
      restarted: true,
      appends: false,
    };
  }
}

/** Encodes rows into a buffer that is reused: the sink copies at once. */
export class RowEncoder {
  private buffer = Buffer.allocUnsafe(64 * 1024);

  /** All rows of a change; what it makes of the end of the log, if its record does not say it, goes to `bounds`. */
  encode(sink: RowSink, change: GroupChange, bounds: LogBounds): void {
    const { group, record } = change;
    for (const entry of change.entries) this.entry(sink, group.id, record.slot, entry);
    if (change.appends) {
      if (change.entries.length > 0) bounds.set(group.id, record.lastIndex);
      return;
    }
    bounds.delete(group.id);
    for (let index = change.deleteFrom; index <= change.deleteTo; index++) sink.del(logKey(group.id, record.slot, index));
    change.rows?.forEach((row) => this.row(sink, group.id, group.seed, record.slot, row));
    this.record(sink, group, record);
  }

  record(sink: RowSink, { key, keySeed }: Pick<GroupStore, 'key' | 'keySeed'>, record: GroupRecord): void {
    const buffer = this.room(recordBytes(record));
    sink.put(key, buffer.subarray(0, writeRecord(buffer, 0, keySeed, record)));
  }

  row(sink: RowSink, group: GroupId, seed: number, slot: number, row: Write): void {
    const buffer = this.room(stateKeyBytesMax(row) + (row.value?.length ?? 0) + CHECKSUM_BYTES);
    const keyEnd = writeStateKey(buffer, group, slot, row);
    const key = buffer.subarray(0, keyEnd);
    if (row.value === null) return sink.del(key);
    buffer.set(row.value, keyEnd);
    const end = keyEnd + row.value.length;
    writeU32(buffer, end, checksum(buffer.subarray(STATE_PREFIX_BYTES, end), seed));
    sink.put(key, buffer.subarray(keyEnd, end + CHECKSUM_BYTES));
  }

  entry(sink: RowSink, group: GroupId, slot: number, entry: Entry): void {
    const buffer = this.room(LOG_KEY_BYTES + entryValueBytes(entry));
    const keyEnd = writeLogKey(buffer, 0, group, slot, entry.index);
    const end = writeEntryValue(buffer, 0, keyEnd, entry);
    sink.put(buffer.subarray(0, keyEnd), buffer.subarray(keyEnd, end));
  }

  private room(bytes: number): Buffer {
    if (this.buffer.length < bytes) this.buffer = Buffer.allocUnsafe(bytes * 2);
    return this.buffer;
  }
}

/**
 * True when the log may grow without its record. An entry that changes the membership takes the record along, and with
 * it the commit index that its leader sent: a leader proposes a change only after it applied the one before, so who
 * starts again with the entry in its log applies that one before it campaigns, and is never two memberships behind.
 */
function onlyAppends(record: GroupRecord, { entries, hardState, compactTo }: GroupWrite): boolean {
  const isNext = (entries[0]?.index ?? record.lastIndex + 1) === record.lastIndex + 1;
  return isNext && compactTo === 0 && keepsVote(record, hardState) && entries.every(isNormal);
}

function isNormal({ type }: Entry): boolean {
  return type === EntryType.normal;
}

function keepsVote(record: GroupRecord, hardState: HardState | null): boolean {
  return hardState === null || (hardState.term === record.term && hardState.vote === record.vote);
}

/**
 * Copies the entries' data into one allocation per group and write, because what comes in is usually a view into a
 * network frame that all groups share: a cached entry must not keep other groups' megabytes alive.
 */
function ownEntries(entries: readonly Entry[]): readonly Entry[] {
  const [only] = entries;
  if (only === undefined) return NO_ENTRIES;
  if (entries.length === 1) return [{ term: only.term, index: only.index, type: only.type, data: only.data.slice() }];
  let bytes = 0;
  for (const entry of entries) bytes += entry.data.length;
  const data = new Uint8Array(bytes);
  const owned: Entry[] = [];
  let offset = 0;
  for (const entry of entries) {
    data.set(entry.data, offset);
    const end = offset + entry.data.length;
    owned.push({ term: entry.term, index: entry.index, type: entry.type, data: data.subarray(offset, end) });
    offset = end;
  }
  return owned;
}
