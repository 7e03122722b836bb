/**
 * The values behind the keys: group records and log entries as bytes. Each is sealed with a checksum over its key.
 * A group record is rewritten whenever applied state of its group is written, so it is small and encoded without allocation.
 */
import type { ConfState, Entry, GroupId, ReplicaId } from '../../raft/types.ts';
import { EntryType } from '../../raft/types.ts';
import { CHECKSUM_BYTES, checksum, DamageError, isIntact, unsealed } from './checksum.ts';
import { readU16, readU32, readU64, writeU16, writeU32, writeU64 } from './integers.ts';

/**
 * All that a group is besides its log entries and state rows; replaced as a whole. On disk `lastIndex` and `commit` may
 * lag behind entries that were appended since: the row of log ends (bounds.ts) then says where the log ends.
 */
export interface GroupRecord {
  readonly replica: ReplicaId;
  /** Generation of the group's rows that is live. */
  readonly slot: number;
  /** The log holds (startIndex, lastIndex]; startTerm is the term of the entry at startIndex, compacted or snapshotted. */
  readonly startIndex: number;
  readonly startTerm: number;
  readonly lastIndex: number;
  readonly term: number;
  readonly vote: ReplicaId;
  readonly commit: number;
  /** The state rows are exactly the result of applying the log up to here: startIndex <= appliedIndex <= lastIndex. */
  readonly appliedIndex: number;
  readonly appliedTerm: number;
  /** Rolling hash of applied commands at appliedIndex. */
  readonly stateHash: number;
  /** Membership as of appliedIndex. */
  readonly conf: ConfState;
}

const FIXED_BYTES = 4 + 10 * 8;

export function recordBytes(record: GroupRecord): number {
  return FIXED_BYTES + confBytes(record.conf) + CHECKSUM_BYTES;
}

/** Writes bytes sealed with a key whose checksum is `keySeed` at `offset`; returns the end. */
export function writeRecord(target: Uint8Array, offset: number, keySeed: number, record: GroupRecord): number {
  writeU32(target, offset, record.slot);
  let at = offset + 4;
  at = put(target, at, record.replica);
  at = put(target, at, record.startIndex);
  at = put(target, at, record.startTerm);
  at = put(target, at, record.lastIndex);
  at = put(target, at, record.term);
  at = put(target, at, record.vote);
  at = put(target, at, record.commit);
  at = put(target, at, record.appliedIndex);
  at = put(target, at, record.appliedTerm);
  at = put(target, at, record.stateHash);
  at = writeConf(target, at, record.conf);
  writeU32(target, at, checksum(target.subarray(offset, at), keySeed));
  return at + CHECKSUM_BYTES;
}

/** Throws DamageError when the bytes are not a record as it was written. */
export function readRecord(group: GroupId, key: Uint8Array, value: Uint8Array): GroupRecord {
  if (!isIntact(key, value) || value.length < FIXED_BYTES) throw new DamageError(group, `the record of group ${group} is damaged`);
  const field = (position: number): number => readU64(value, 4 + position * 8);
  return {
    slot: readU32(value, 0),
    replica: field(0),
    startIndex: field(1),
    startTerm: field(2),
    lastIndex: field(3),
    term: field(4),
    vote: field(5),
    commit: field(6),
    appliedIndex: field(7),
    appliedTerm: field(8),
    stateHash: field(9),
    conf: readConf(unsealed(value), FIXED_BYTES),
  };
}

export function confBytes(conf: ConfState): number {
  return 1 + 4 * 2 + 8 * (conf.voters.length + conf.votersOutgoing.length + conf.learners.length + conf.learnersNext.length);
}

export function writeConf(target: Uint8Array, offset: number, conf: ConfState): number {
  target[offset] = conf.autoLeave ? 1 : 0;
  let at = offset + 1;
  at = writeReplicas(target, at, conf.voters);
  at = writeReplicas(target, at, conf.votersOutgoing);
  at = writeReplicas(target, at, conf.learners);
  return writeReplicas(target, at, conf.learnersNext);
}

/** Throws RangeError when the bytes end early. */
export function readConf(source: Uint8Array, offset: number): ConfState {
  let at = offset + 1;
  const replicas = (): ReplicaId[] => {
    const list: ReplicaId[] = [];
    const count = readU16(source, at);
    at += 2;
    for (let i = 0; i < count; i++, at += 8) list.push(readU64(source, at));
    return list;
  };
  return { autoLeave: source[offset] === 1, voters: replicas(), votersOutgoing: replicas(), learners: replicas(), learnersNext: replicas() };
}

const ENTRY_HEADER_BYTES = 9;

/** Bytes of an entry's value. */
export function entryValueBytes(entry: Entry): number {
  return ENTRY_HEADER_BYTES + entry.data.length + CHECKSUM_BYTES;
}

/** Writes the value of `entry` at `offset`, right behind its key, which starts at `keyStart`; returns the end. */
export function writeEntryValue(target: Uint8Array, keyStart: number, offset: number, entry: Entry): number {
  writeU64(target, offset, entry.term);
  target[offset + 8] = entry.type;
  target.set(entry.data, offset + ENTRY_HEADER_BYTES);
  const end = offset + ENTRY_HEADER_BYTES + entry.data.length;
  writeU32(target, end, checksum(target.subarray(keyStart, end)));
  return end + CHECKSUM_BYTES;
}

/** Term of an intact entry value, or -1 when its checksum is wrong. */
export function entryTerm(key: Uint8Array, value: Uint8Array): number {
  if (value.length < ENTRY_HEADER_BYTES + CHECKSUM_BYTES || !isIntact(key, value)) return -1;
  return readU64(value, 0);
}

/** The entry in a value that `entryTerm` found intact; its data is a view into `value`. */
export function readEntry(index: number, value: Uint8Array): Entry {
  return {
    term: readU64(value, 0),
    index,
    type: value[8] === EntryType.confChange ? EntryType.confChange : EntryType.normal,
    data: value.subarray(ENTRY_HEADER_BYTES, value.length - CHECKSUM_BYTES),
  };
}

function put(target: Uint8Array, offset: number, value: number): number {
  writeU64(target, offset, value);
  return offset + 8;
}

function writeReplicas(target: Uint8Array, offset: number, replicas: readonly ReplicaId[]): number {
  writeU16(target, offset, replicas.length);
  let at = offset + 2;
  for (const replica of replicas) at = put(target, at, replica);
  return at;
}
