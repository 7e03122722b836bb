/**
 * One step of one group from the membership it has to the one the table wants, as its leader takes it: a pure function
 * of both. Order: newcomers learn; when they have caught up, one joint change makes them voters and takes the leavers
 * out; then the table is told. Interrupted anywhere, the next leader goes on from what it finds.
 *
 * Why no quorum is lost on the way: voters are taken out only by a change that leaves three at least, with the new ones
 * caught up and a majority of the whole answering.
 */
import { ConfChangeType } from '../../raft/types.ts';
import type { ConfChange, RaftStatus, ReplicaId } from '../../raft/types.ts';
import { REPLICATION_FACTOR } from './placement.ts';
import type { PlacedReplica, Placement, SettledGroup } from './topology.ts';

/** A learner this close to the commit index has caught up: what is left is what is under way to everyone. */
const CAUGHT_UP_ENTRIES = 256;

export type Step =
  | { readonly type: 'none' }
  | { readonly type: 'wait'; readonly reason: string }
  | { readonly type: 'change'; readonly change: ConfChange }
  /** This leader is to go: another one goes on. */
  | { readonly type: 'transfer'; readonly to: ReplicaId }
  | { readonly type: 'settled'; readonly report: Omit<SettledGroup, 'group'> };

const NO_CONTEXT = new Uint8Array(0);

/** What the leader of a group does next. `status` is its own, as leader. */
export function nextStep(status: RaftStatus, placement: Placement): Step {
  const { conf } = status;
  if (conf.votersOutgoing.length > 0) return { type: 'wait', reason: 'a membership change is under way' };
  const members = [...conf.voters, ...conf.learners];
  if (members.some((id) => id >= placement.nextReplica)) return { type: 'wait', reason: 'this node has an older table than made that membership' };
  const staying = placement.replicas.filter(({ phase }) => phase !== 'leaving');
  const stays = new Set(staying.map(({ id }) => id));

  const newcomer = staying.find(({ id }) => !members.includes(id));
  if (newcomer !== undefined) return single(ConfChangeType.addLearner, newcomer.id);
  const leaver = conf.learners.find((id) => !stays.has(id));
  if (leaver !== undefined) return single(ConfChangeType.remove, leaver);
  const behind = staying.filter(({ id, voter }) => voter && conf.learners.includes(id) && !isCaughtUp(status, id));
  // Until all have caught up, nobody who still has its rows goes; what is lost is replaced meanwhile.
  const kept = behind.length === 0 ? [] : placement.replicas.filter((replica) => replica.phase === 'leaving' && replica.lost !== true && conf.voters.includes(replica.id));
  const step = changeVoters(status, [...staying.filter((replica) => !behind.includes(replica)), ...kept]) ?? catchingUp(behind);
  if (step !== null && step.type !== 'wait') return step;
  // What is reached is told even while the rest waits: the wait may be for what follows from it.
  return reached(status, placement) ?? step ?? { type: 'none' };
}

function catchingUp(behind: readonly PlacedReplica[]): Step | null {
  return behind.length === 0 ? null : { type: 'wait', reason: `replica ${behind.map(({ id }) => id).join(', ')} is catching up` };
}

function single(type: ConfChangeType, replica: ReplicaId): Step {
  return { type: 'change', change: { changes: [{ type, replica }], joint: false, autoLeave: false, context: NO_CONTEXT } };
}

function isCaughtUp({ progress, commit }: RaftStatus, id: ReplicaId): boolean {
  const member = progress.find(({ replica }) => replica === id);
  return member !== undefined && member.active && member.state === 'replicate' && commit - member.match <= CAUGHT_UP_ENTRIES;
}

function isAnswering({ id: self, progress }: RaftStatus, id: ReplicaId): boolean {
  return id === self || progress.some((member) => member.replica === id && member.active);
}

/** The joint change to the voters that the table wants, or null when they are the voters. All of them are members. */
function changeVoters(status: RaftStatus, staying: readonly PlacedReplica[]): Step | null {
  const { conf, id: self } = status;
  const wanted = staying.filter(({ voter }) => voter).map(({ id }) => id);
  const promoted = wanted.filter((id) => !conf.voters.includes(id));
  const dropped = conf.voters.filter((id) => !wanted.includes(id));
  if (promoted.length + dropped.length === 0) return null;
  // Below three there is the way of a group of one from node to node, over two; the table sees to the rest.
  if (wanted.length < (conf.voters.length >= REPLICATION_FACTOR ? REPLICATION_FACTOR : 1)) return { type: 'wait', reason: `only ${wanted.length} voters would stay` };
  const answering = wanted.filter((id) => isAnswering(status, id)).length;
  if (answering <= wanted.length >> 1) return { type: 'wait', reason: `only ${answering} of the ${wanted.length} voters to be answer` };
  const leaving = dropped.includes(self) ? dropped.filter((id) => id !== self) : dropped;
  if (leaving.length < dropped.length) {
    const successor = bestSuccessor(status, wanted);
    if (successor !== null) return { type: 'transfer', to: successor };
    // Nobody who stays votes yet: first let the newcomers vote, then hand over to one of them.
    if (promoted.length === 0) return { type: 'wait', reason: 'no voter who stays could lead' };
  }
  const stays = new Set(staying.map(({ id }) => id));
  const changes = [
    ...promoted.map((replica) => ({ type: ConfChangeType.addVoter, replica })),
    // A voter that becomes a learner stays a member.
    ...leaving.map((replica) => ({ type: stays.has(replica) ? ConfChangeType.addLearner : ConfChangeType.remove, replica })),
  ];
  return { type: 'change', change: { changes, joint: changes.length > 1, autoLeave: changes.length > 1, context: NO_CONTEXT } };
}

function bestSuccessor({ conf, progress, id: self }: RaftStatus, wanted: readonly ReplicaId[]): ReplicaId | null {
  const able = progress.filter(({ replica, active, state }) => replica !== self && active && state === 'replicate' && conf.voters.includes(replica) && wanted.includes(replica));
  return able.sort((a, b) => b.match - a.match)[0]?.replica ?? null;
}

/** What the table still has as changing or leaving, and is not any more; null if there is nothing to tell. */
function reached({ conf }: RaftStatus, { replicas }: Placement): Step | null {
  const isReached = ({ id, voter, phase }: PlacedReplica): boolean => phase === 'changing' && (voter ? conf.voters : conf.learners).includes(id);
  const members = replicas.filter(isReached).map(({ id, voter }) => ({ id, voter }));
  const gone = replicas.filter(({ id, phase }) => phase === 'leaving' && !conf.voters.includes(id) && !conf.learners.includes(id)).map(({ id }) => id);
  return members.length + gone.length === 0 ? null : { type: 'settled', report: { members, gone } };
}
