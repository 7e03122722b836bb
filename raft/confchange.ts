/**
 * Membership changes: their bytes in the log and the configuration that follows from one. Pure functions.
 * Joint consensus as in Ongaro's thesis §4.3; outgoing voters that become learners wait in `learnersNext` until the
 * joint configuration is left, as in etcd/raft, since a replica must not be voter and learner at once.
 */
import { ConfChangeType } from './types.ts';
import type { ConfChange, ConfState, ReplicaId } from './types.ts';

const FORMAT = 1;
const FLAG_JOINT = 1;
const FLAG_AUTO_LEAVE = 2;
const HEADER_BYTES = 4;
const CHANGE_BYTES = 9;
const CHANGES_MAX = 0xffff;
const TWO_POW_32 = 0x1_0000_0000;

/** The change that leaves a joint configuration. */
export const LEAVE_JOINT: ConfChange = { changes: [], joint: false, autoLeave: false, context: new Uint8Array(0) };

/**
 * Bytes of a change: format, flags, count (u16), then per change its type (u8) and replica (u64), then the context.
 * Throws RangeError for a change that cannot be written (too many steps, or an id that is no positive safe integer).
 */
export function encodeConfChange(change: ConfChange): Uint8Array {
  const count = change.changes.length;
  if (count > CHANGES_MAX) throw new RangeError(`a membership change has at most ${CHANGES_MAX} steps, got ${count}`);
  const bytes = new Uint8Array(HEADER_BYTES + count * CHANGE_BYTES + change.context.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, FORMAT);
  view.setUint8(1, (change.joint ? FLAG_JOINT : 0) | (change.autoLeave ? FLAG_AUTO_LEAVE : 0));
  view.setUint16(2, count);
  let at = HEADER_BYTES;
  for (const { type, replica } of change.changes) {
    if (!isReplica(replica)) throw new RangeError(`not a replica id: ${replica}`);
    view.setUint8(at, type);
    view.setUint32(at + 1, Math.floor(replica / TWO_POW_32));
    view.setUint32(at + 5, replica % TWO_POW_32);
    at += CHANGE_BYTES;
  }
  bytes.set(change.context, at);
  return bytes;
}

/** The change in `bytes`, or null if they are none that this version wrote. `context` shares memory with `bytes`. */
export function decodeConfChange(bytes: Uint8Array): ConfChange | null {
  if (bytes.length < HEADER_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const flags = view.getUint8(1);
  const count = view.getUint16(2);
  const end = HEADER_BYTES + count * CHANGE_BYTES;
  if (view.getUint8(0) !== FORMAT || flags > (FLAG_JOINT | FLAG_AUTO_LEAVE) || bytes.length < end) return null;
  const changes: { type: ConfChangeType; replica: ReplicaId }[] = [];
  for (let at = HEADER_BYTES; at < end; at += CHANGE_BYTES) {
    const type = changeType(view.getUint8(at));
    const replica = view.getUint32(at + 1) * TWO_POW_32 + view.getUint32(at + 5);
    if (type === null || !isReplica(replica)) return null;
    changes.push({ type, replica });
  }
  return {
    changes,
    joint: (flags & FLAG_JOINT) !== 0,
    autoLeave: (flags & FLAG_AUTO_LEAVE) !== 0,
    context: bytes.subarray(end),
  };
}

function changeType(byte: number): ConfChangeType | null {
  switch (byte) {
    case ConfChangeType.addVoter:
      return ConfChangeType.addVoter;
    case ConfChangeType.addLearner:
      return ConfChangeType.addLearner;
    case ConfChangeType.remove:
      return ConfChangeType.remove;
    default:
      return null;
  }
}

function isReplica(id: number): boolean {
  return Number.isSafeInteger(id) && id > 0;
}

/** True while two majorities are needed. */
export function isJoint(conf: ConfState): boolean {
  return conf.votersOutgoing.length > 0;
}

/**
 * The configuration after `change`, or null if the change is not allowed in `conf`: leaving a joint configuration that
 * was not entered, any other change while in one, a change of several voters at once without going through one
 * (their majorities need not overlap), or one that leaves no voter.
 */
export function changedConf(conf: ConfState, change: ConfChange): ConfState | null {
  if (change.changes.length === 0) return isJoint(conf) && !change.joint ? leaveJoint(conf) : null;
  if (isJoint(conf)) return null;
  const joint = change.joint || change.changes.length > 1;
  const voters = new Set(conf.voters);
  const learners = new Set(conf.learners);
  const learnersNext = new Set<ReplicaId>();
  for (const { type, replica } of change.changes) {
    if (!isReplica(replica)) return null;
    const wasVoter = conf.voters.includes(replica);
    voters.delete(replica);
    learners.delete(replica);
    learnersNext.delete(replica);
    if (type === ConfChangeType.addVoter) voters.add(replica);
    else if (type === ConfChangeType.addLearner) (joint && wasVoter ? learnersNext : learners).add(replica);
  }
  if (voters.size === 0) return null;
  return {
    voters: sorted(voters),
    votersOutgoing: joint ? sorted(new Set(conf.voters)) : [],
    learners: sorted(learners),
    learnersNext: sorted(learnersNext),
    autoLeave: joint && change.autoLeave,
  };
}

function leaveJoint(conf: ConfState): ConfState {
  return {
    voters: conf.voters,
    votersOutgoing: [],
    learners: sorted(new Set([...conf.learners, ...conf.learnersNext])),
    learnersNext: [],
    autoLeave: false,
  };
}

/** Ascending, so that equal memberships are equal bytes on every replica. */
function sorted(ids: ReadonlySet<ReplicaId>): ReplicaId[] {
  return [...ids].sort((a, b) => a - b);
}
