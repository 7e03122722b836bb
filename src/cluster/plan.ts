/**
 * What the coordinator wants changed: one pure step from the table and what is seen of the nodes to the next command.
 * Decides who is replaced, where replicas go, who votes on the table, who should lead; a few groups at a time. It only
 * ever wishes: a replica leaves its group after its successor has caught up, and the group's leader sees to that
 * (reconcile.ts). Knows no clock: who counts as dead is told.
 */
import { TOPOLOGY_GROUP } from '../constants.ts';
import type { GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { balancedLeaders } from './leaders.ts';
import { REPLICATION_FACTOR, topologyVoterCount, Weights } from './placement.ts';
import type { Move, PlaceCommand, PlacedReplica, Placement, Topology } from './topology.ts';

/**
 * Groups on the move at once: new replicas that one node receives, and in all. Each costs its sender a read of the
 * group's state and its group two membership changes; more at once would end sooner and be felt by every request.
 */
export const MOVES_PER_NODE = 8;
export const MOVES_MAX = 16;

export interface Observed {
  /** Nodes heard just now, this one among them. */
  readonly up: ReadonlySet<NodeId>;
  /** Nodes silent for so long that they are to be replaced. */
  readonly dead: ReadonlySet<NodeId>;
  /** Replicas that took themselves out, or whose rows are gone. */
  readonly damaged: readonly DamagedReplica[];
}

export interface DamagedReplica {
  readonly group: GroupId;
  readonly replica: ReplicaId;
}

export interface Plan {
  /** Null: there is nothing to do, or nothing that can be done. */
  readonly command: PlaceCommand | null;
  /** What should be done and cannot: one line each. */
  readonly waiting: readonly string[];
}

/** Most urgent first. */
const Urgency = { damaged: 0, missing: 1, dead: 2, draining: 3, misplaced: 4 } as const;

/** Stands for no node in particular. */
const NOBODY = '';

interface Wish {
  readonly group: GroupId;
  readonly urgency: number;
  readonly remove: ReplicaId | null;
  readonly add: NodeId;
}

interface View {
  readonly topology: Topology;
  readonly observed: Observed;
  readonly weights: Weights;
  /** Members that may have replicas: active and not dead, whether heard just now or not, so that a blip moves nothing. */
  readonly eligible: readonly NodeId[];
  /** Replicas that a data group is to have. */
  readonly wanted: number;
  isDamaged(group: GroupId, replica: PlacedReplica): boolean;
}

/** Pure; `weights` only remembers. Called again with the table that its command made, it goes on from there. */
export function plan(topology: Topology, observed: Observed, weights: Weights = new Weights()): Plan {
  const damaged = new Set(observed.damaged.map(({ group, replica }) => `${group}/${replica}`));
  const members = topology.nodes.filter((node) => node.state !== 'removed');
  const view: View = {
    topology,
    observed,
    weights,
    eligible: topology.nodes.filter((node) => node.state === 'active' && !observed.dead.has(node.name)).map((node) => node.name),
    // Two voters are no safer than one and stand still twice as often: a cluster grows from one to three at once.
    wanted: members.length >= REPLICATION_FACTOR ? REPLICATION_FACTOR : 0,
    isDamaged: (group, { id }) => damaged.has(`${group}/${id}`),
  };
  const wishes: Wish[] = [];
  const stuck = new Map<NodeId, number>();
  for (const [group, placement] of topology.groups.entries()) if (group !== TOPOLOGY_GROUP) wishesOf(view, group, placement, wishes, stuck);
  const moves = chosen(topology, wishes);
  const table = planTable(view);
  const isAtRest = wishes.length === 0 && topology.groups.every((placement, group) => group === TOPOLOGY_GROUP || placement.replicas.every(({ phase }) => phase === 'settled'));
  const preferred = balancedLeaders(topology.groups.map(({ preferred }) => preferred), topology.groups.map((placement, group) => leadersOf(view, group, placement)), isAtRest);
  const command: PlaceCommand = { type: 'place', ifEpoch: topology.epoch, moves: [...moves, ...table.moves], roles: table.roles, preferred };
  const isEmpty = command.moves.length + command.roles.length + command.preferred.length === 0;
  return { command: isEmpty ? null : command, waiting: [...stuck].map(([node, count]) => stuckLine(topology, node, count)) };
}

function stuckLine(topology: Topology, node: NodeId, count: number): string {
  if (node === NOBODY) return `${count} groups have fewer replicas than they should, and no node that is up could take another`;
  const state = topology.nodes.find(({ name }) => name === node)?.state;
  const why = state === 'active' ? 'has been silent for too long' : `is ${state ?? 'unknown'}`;
  return `node '${node}' ${why}, but no other node can take ${count} of its replicas now: each node has at most one of a group; add a node`;
}

function wishesOf(view: View, group: GroupId, placement: Placement, wishes: Wish[], stuck: Map<NodeId, number>): void {
  const { observed, weights, eligible } = view;
  // Never founded: a group that this cluster does not run.
  if (placement.nextReplica === 1) return;
  const staying = placement.replicas.filter(({ phase }) => phase !== 'leaving');
  const isEligible = (node: NodeId): boolean => eligible.includes(node);
  const hosts = new Set(staying.map(({ node }) => node));
  const order = weights.order(eligible, group);
  const left = new Set(placement.replicas.filter((replica) => replica.phase === 'leaving' && replica.lost !== true).map(({ node }) => node));
  const able = order.filter((node) => !hosts.has(node) && observed.up.has(node));
  // One that is on its way out is kept only where nobody else could be had.
  const free = [...able.filter((node) => !left.has(node)), ...able.filter((node) => left.has(node))];
  const isBusy = placement.replicas.some(({ phase }) => phase !== 'settled');
  // One change at a time, but one that cannot end gives way to another.
  const open = staying.filter(({ phase }) => !isBusy || phase === 'changing');

  const rotten = open.find((replica) => view.isDamaged(group, replica) && isEligible(replica.node));
  if (rotten !== undefined) {
    if (observed.up.has(rotten.node)) wishes.push({ group, urgency: Urgency.damaged, remove: rotten.id, add: rotten.node });
    return;
  }
  if (staying.length < view.wanted) {
    for (const add of free.slice(0, view.wanted - staying.length)) wishes.push({ group, urgency: Urgency.missing, remove: null, add });
    if (free.length === 0) stuck.set(NOBODY, (stuck.get(NOBODY) ?? 0) + 1);
    return;
  }
  const lost = open.find(({ node, phase }) => (phase === 'changing' ? observed.dead.has(node) : !isEligible(node)));
  if (lost !== undefined) {
    const add = free[0];
    if (add === undefined) stuck.set(lost.node, (stuck.get(lost.node) ?? 0) + 1);
    else wishes.push({ group, urgency: observed.dead.has(lost.node) ? Urgency.dead : Urgency.draining, remove: lost.id, add });
    return;
  }
  if (isBusy || view.wanted === 0) return;
  const ideal = order.slice(0, staying.length);
  const add = ideal.find((node) => !hosts.has(node));
  if (add === undefined || !observed.up.has(add)) return;
  const extra = staying.filter(({ node }) => !ideal.includes(node)).sort((a, b) => order.indexOf(b.node) - order.indexOf(a.node))[0];
  if (extra !== undefined) wishes.push({ group, urgency: Urgency.misplaced, remove: extra.id, add });
}

/** The most urgent wishes that the limits allow beside what is under way. */
function chosen(topology: Topology, wishes: readonly Wish[]): Move[] {
  const receiving = new Map<NodeId, number>();
  const moving = new Set<GroupId>();
  for (const [group, { replicas }] of topology.groups.entries()) {
    if (group === TOPOLOGY_GROUP) continue;
    for (const { node, phase } of replicas) {
      if (phase !== 'changing') continue;
      moving.add(group);
      receiving.set(node, (receiving.get(node) ?? 0) + 1);
    }
  }
  const moves: Move[] = [];
  for (const { group, remove, add } of [...wishes].sort((a, b) => a.urgency - b.urgency || a.group - b.group)) {
    const received = receiving.get(add) ?? 0;
    if (received >= MOVES_PER_NODE || (moving.size >= MOVES_MAX && !moving.has(group))) continue;
    moving.add(group);
    receiving.set(add, received + 1);
    moves.push({ group, remove, add });
  }
  return moves;
}

/** The table's own group: a replica on every member, and as many voters as befit the number of nodes. */
function planTable(view: View): { moves: Move[]; roles: { id: ReplicaId; voter: boolean }[] } {
  const { topology, observed, weights, eligible } = view;
  const placement = topology.groups[TOPOLOGY_GROUP];
  if (placement === undefined) return { moves: [], roles: [] };
  const staying = placement.replicas.filter(({ phase }) => phase !== 'leaving');
  const moves: Move[] = [];
  for (const { name, state } of topology.nodes) {
    const own = staying.find(({ node }) => node === name);
    if (state === 'removed' || (own !== undefined && !(view.isDamaged(TOPOLOGY_GROUP, own) && observed.up.has(name)))) continue;
    moves.push({ group: TOPOLOGY_GROUP, remove: own?.id ?? null, add: name });
  }
  // Never along with a replacement: both would count on the same replicas.
  if (moves.length > 0) return { moves, roles: [] };
  const order = weights.order(staying.map(({ node }) => node), TOPOLOGY_GROUP);
  const place = (replica: PlacedReplica): number => order.indexOf(replica.node);
  const isSound = (replica: PlacedReplica): boolean => eligible.includes(replica.node) && !view.isDamaged(TOPOLOGY_GROUP, replica);
  const voters = staying.filter(({ voter }) => voter);
  const wanted = eligible.length >= REPLICATION_FACTOR ? topologyVoterCount(eligible.length) : Math.max(voters.length, view.wanted);
  const others = staying.filter((replica) => !replica.voter && isSound(replica) && observed.up.has(replica.node)).sort((a, b) => place(a) - place(b));
  const candidates = [
    ...voters.filter(isSound).sort((a, b) => place(a) - place(b)),
    ...others.filter(({ phase }) => phase === 'settled'),
    // Newcomers, and voters on their way out: who cannot go before there are enough others is to stay instead.
    ...others.filter(({ phase }) => phase === 'changing'),
    // Who is gone keeps its vote until there is somebody to take it.
    ...voters.filter((replica) => !isSound(replica)),
  ];
  const chosen = new Set(candidates.slice(0, wanted));
  // One change of voters at a time; only who is missing comes on top, since without enough of them none can end.
  const isChanging = voters.some(({ phase }) => phase === 'changing');
  const roles = staying.filter((replica) => replica.voter !== chosen.has(replica) && !(isChanging && (replica.voter || voters.length >= wanted)));
  return { moves, roles: roles.map(({ id, voter }) => ({ id, voter: !voter })) };
}

/** Nodes that may lead the group: settled voters on eligible nodes, and not damaged. */
function leadersOf(view: View, group: GroupId, { replicas }: Placement): NodeId[] {
  return replicas
    .filter((replica) => replica.voter && replica.phase === 'settled' && view.eligible.includes(replica.node) && !view.isDamaged(group, replica))
    .map(({ node }) => node);
}
