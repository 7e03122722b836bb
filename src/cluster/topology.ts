/**
 * The topology group's state machine: which nodes are members, which replica of which group should live where, who
 * should lead where, who coordinates. The table is what is wanted; what is so stands in each group's own Raft
 * membership, and the group's leader moves the one towards the other (reconcile.ts). Decisions are compare-and-set on
 * `epoch`, so that two coordinators cannot undo each other. Owns the table and its rules; bytes are topology-codec.ts,
 * who proposes what is coordinator.ts and its neighbours.
 */
import { GROUP_COUNT, TOPOLOGY_GROUP } from '../constants.ts';
import type { ConfState, GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { FOUNDING_FORMATS, mayRaise, type Formats } from './formats.ts';
import { compareNames } from './hello.ts';
import type { FoundingRecord } from './ports.ts';
import { REPLICATION_FACTOR, rendezvous, spreadLeaders, topologyVoterCount } from './placement.ts';

/**
 * `draining`: leads nothing, and its replicas go elsewhere. `removed`: never comes back; the entry stays only until the
 * last of its replicas has left its group.
 */
export type NodeState = 'active' | 'draining' | 'removed';

export interface TopologyNode {
  readonly name: NodeId;
  readonly storeId: string;
  readonly address: string;
  readonly state: NodeState;
  /** What its program speaks; absent until it said so. */
  readonly formats?: Formats;
}

/**
 * `changing`: new, or in another role than before; its group's membership does not show it yet. `leaving`: to be taken
 * out of its group, where it counts until then: its node keeps its rows, so that it can also be kept after all.
 */
export type ReplicaPhase = 'changing' | 'settled' | 'leaving';

export interface PlacedReplica {
  readonly id: ReplicaId;
  readonly node: NodeId;
  readonly voter: boolean;
  readonly phase: ReplicaPhase;
  /** Leaving because its rows are gone or damaged: nothing is left of it, and its node may have a new one at once. */
  readonly lost?: true;
}

export interface Placement {
  readonly replicas: readonly PlacedReplica[];
  /** Replica numbers below this were issued once and never come back. */
  readonly nextReplica: ReplicaId;
  readonly preferred: NodeId;
}

/** The whole table. */
export interface Topology {
  /** Rises with every decision about nodes and placement. */
  readonly epoch: number;
  /** Rises with every change of the table: of two tables the one with the higher revision is the later. */
  readonly revision: number;
  readonly clusterId: string;
  readonly coordinator: NodeId;
  readonly nodes: readonly TopologyNode[];
  /** Stores that were members once: replaced or removed, they never return. */
  readonly retired: readonly string[];
  /** Indexed by group; the topology group itself is the last. */
  readonly groups: readonly Placement[];
  /** The highest versions that all members support; raised by a command. */
  readonly formats: Formats;
}

/**
 * One step of one group: a replica of it to go, a node to get a new one, or both. A node that still has the rows of a
 * leaving one keeps that one instead of a new one; the one that goes from the node that gets is lost.
 */
export interface Move {
  readonly group: GroupId;
  readonly remove: ReplicaId | null;
  readonly add: NodeId | null;
}

/** What a group's leader found in its membership: these are members in that role, those are gone for good. */
export interface SettledGroup {
  readonly group: GroupId;
  readonly members: readonly { readonly id: ReplicaId; readonly voter: boolean }[];
  readonly gone: readonly ReplicaId[];
}

export interface PlaceCommand {
  readonly type: 'place';
  readonly ifEpoch: number;
  readonly moves: readonly Move[];
  /** New roles in the topology group; elsewhere everyone votes. */
  readonly roles: readonly { readonly id: ReplicaId; readonly voter: boolean }[];
  readonly preferred: readonly { readonly group: GroupId; readonly node: NodeId }[];
}

export type TopologyCommand =
  | { readonly type: 'coordinator'; readonly ifEpoch: number; readonly name: NodeId }
  | { readonly type: 'address'; readonly name: NodeId; readonly storeId: string; readonly address: string }
  /** What the node's program speaks. */
  | { readonly type: 'speaks'; readonly name: NodeId; readonly storeId: string; readonly formats: Formats }
  /** What the cluster uses from now on. */
  | { readonly type: 'formats'; readonly ifEpoch: number; readonly formats: Formats }
  /** A new node, or a known one with a new and empty disk. */
  | { readonly type: 'join'; readonly name: NodeId; readonly storeId: string; readonly address: string }
  | { readonly type: 'drain'; readonly name: NodeId; readonly drain: boolean }
  /** `lost`: it is down, so that its replicas cannot be moved away first. */
  | { readonly type: 'remove'; readonly name: NodeId; readonly lost: boolean }
  | PlaceCommand
  | { readonly type: 'settled'; readonly groups: readonly SettledGroup[] };

export type TopologyRefusal = 'stale_epoch' | 'unknown_node' | 'invalid_command' | 'retired' | 'would_lose_quorum' | 'not_drained';
export type TopologyReply = { readonly ok: true; readonly epoch: number } | { readonly ok: false; readonly code: TopologyRefusal };

/**
 * The table every founding member starts from: a pure function of the founding record. `runs` says which data groups
 * this cluster is to have: all, unless its nodes are divided into shards.
 */
export function foundingTopology(record: FoundingRecord, runs: (group: GroupId) => boolean = () => true): Topology {
  const names = record.members.map((member) => member.name);
  const hosts: string[][] = [];
  for (let group = 0; group < GROUP_COUNT; group++) hosts.push(runs(group) ? rendezvous(names, group, REPLICATION_FACTOR) : []);
  const voters = rendezvous(names, TOPOLOGY_GROUP, topologyVoterCount(names.length));
  const preferred = spreadLeaders([...hosts, voters]);
  hosts.push(names);
  const groups = hosts.map((nodes, group): Placement => {
    const sorted = [...nodes].sort();
    return {
      replicas: sorted.map((node, i) => ({ id: i + 1, node, voter: group !== TOPOLOGY_GROUP || voters.includes(node), phase: 'settled' })),
      nextReplica: sorted.length + 1,
      preferred: preferred[group] ?? '',
    };
  });
  return {
    epoch: 1,
    revision: 1,
    clusterId: record.clusterId,
    coordinator: names[0] ?? '',
    nodes: record.members.map(({ name, storeId, address }) => ({ name, storeId, address, state: 'active' })),
    retired: [],
    groups,
    formats: FOUNDING_FORMATS,
  };
}

/** Membership of a group as the founding table has it. */
export function foundingConf(placement: Placement): ConfState {
  return {
    voters: placement.replicas.filter((r) => r.voter).map((r) => r.id),
    votersOutgoing: [],
    learners: placement.replicas.filter((r) => !r.voter).map((r) => r.id),
    learnersNext: [],
    autoLeave: false,
  };
}

/** Total: every command has an answer; a refused one leaves the table as it was. */
export function applyTopology(topology: Topology, command: TopologyCommand): { topology: Topology; reply: TopologyReply } {
  const next = changed(topology, command);
  if (typeof next === 'string') return { topology, reply: { ok: false, code: next } };
  return { topology: next, reply: { ok: true, epoch: next.epoch } };
}

function changed(topology: Topology, command: TopologyCommand): Topology | TopologyRefusal {
  switch (command.type) {
    case 'coordinator':
      if (command.ifEpoch !== topology.epoch) return 'stale_epoch';
      if (!topology.nodes.some((node) => node.name === command.name)) return 'unknown_node';
      return decided(topology, { coordinator: command.name });
    case 'address': {
      const known = topology.nodes.find((node) => node.name === command.name && node.storeId === command.storeId);
      if (known === undefined) return 'unknown_node';
      return noted(topology, { nodes: withNode(topology.nodes, { ...known, address: command.address }) });
    }
    case 'speaks': {
      const known = topology.nodes.find((node) => node.name === command.name && node.storeId === command.storeId);
      if (known === undefined) return 'unknown_node';
      return noted(topology, { nodes: withNode(topology.nodes, { ...known, formats: command.formats }) });
    }
    case 'formats':
      if (command.ifEpoch !== topology.epoch) return 'stale_epoch';
      return mayRaise(topology, command.formats) ? decided(topology, { formats: command.formats }) : 'invalid_command';
    case 'join':
      return joined(topology, command);
    case 'drain':
      return drained(topology, command);
    case 'remove':
      return removed(topology, command);
    case 'place':
      return placed(topology, command);
    case 'settled':
      return settled(topology, command.groups);
  }
}

/** A change that outdates decisions made on the table before. */
function decided(topology: Topology, change: Partial<Topology>): Topology {
  return noted(topology, { ...change, epoch: topology.epoch + 1 });
}

function noted(topology: Topology, change: Partial<Topology>): Topology {
  return { ...topology, ...change, revision: topology.revision + 1 };
}

function withNode(nodes: readonly TopologyNode[], changed: TopologyNode): TopologyNode[] {
  return nodes.map((node) => (node.name === changed.name ? changed : node));
}

/** The voters that a group is to have. */
export function stayingVoters(placement: Placement): number {
  return placement.replicas.filter((replica) => replica.voter && replica.phase !== 'leaving').length;
}

/** True while the node is to have a replica of a data group. */
export function hostsData(topology: Topology, name: NodeId): boolean {
  return topology.groups.some(({ replicas }, group) => group !== TOPOLOGY_GROUP && replicas.some(({ node, phase }) => node === name && phase !== 'leaving'));
}

/** True if without the node the data groups can have as many voters as they have, and as many as they are to have. */
function canSpare(topology: Topology, name: NodeId): boolean {
  const members = topology.nodes.filter((node) => node.state !== 'removed').length;
  const others = topology.nodes.filter((node) => node.name !== name && node.state === 'active').length;
  const most = topology.groups.reduce((most, placement, group) => (group === TOPOLOGY_GROUP ? most : Math.max(most, stayingVoters(placement))), 1);
  return others >= Math.max(most, members >= REPLICATION_FACTOR ? REPLICATION_FACTOR : 1);
}

type Join = Extract<TopologyCommand, { type: 'join' }>;

/**
 * A node of that name with another store stands in for one whose disk is gone: every replica that lived there is lost
 * and leaves; new ones are issued one after another by whoever coordinates. Only its copy of this very table comes at
 * once, since without it the node would not know what to do.
 */
function joined(topology: Topology, { name, storeId, address }: Join): Topology | TopologyRefusal {
  if (topology.retired.includes(storeId)) return 'retired';
  const known = topology.nodes.find((node) => node.name === name);
  if (known?.storeId === storeId) return known.state === 'removed' ? 'retired' : noted(topology, { nodes: withNode(topology.nodes, { ...known, address }) });
  // Its last replicas are about to leave; after that the name is free.
  if (known?.state === 'removed' || topology.nodes.some((node) => node.storeId === storeId)) return 'invalid_command';
  const nodes = known === undefined ? [...topology.nodes, { name, storeId, address, state: 'active' as const }] : withNode(topology.nodes, { name, storeId, address, state: known.state });
  const groups = withoutReplicasOf(topology.groups, name).map((placement, group) => (group === TOPOLOGY_GROUP ? withNew(placement, name, false) : placement));
  const retired = known === undefined ? topology.retired : [...topology.retired, known.storeId];
  return decided(topology, { nodes: nodes.sort((a, b) => compareNames(a.name, b.name)), groups, retired });
}

function withNew(placement: Placement, node: NodeId, voter: boolean): Placement {
  const replica: PlacedReplica = { id: placement.nextReplica, node, voter, phase: 'changing' };
  return { ...placement, replicas: [...placement.replicas, replica], nextReplica: placement.nextReplica + 1 };
}

function withoutReplicasOf(groups: readonly Placement[], name: NodeId): Placement[] {
  return groups.map((placement) => {
    if (!placement.replicas.some(({ node, phase }) => node === name && phase !== 'leaving')) return placement;
    return { ...placement, replicas: placement.replicas.map((replica) => (replica.node === name ? { ...replica, phase: 'leaving', lost: true } : replica)) };
  });
}

function drained(topology: Topology, { name, drain }: Extract<TopologyCommand, { type: 'drain' }>): Topology | TopologyRefusal {
  const known = topology.nodes.find((node) => node.name === name);
  if (known === undefined || known.state === 'removed') return 'unknown_node';
  const state = drain ? 'draining' : 'active';
  if (known.state === state) return noted(topology, {});
  if (drain && !canSpare(topology, name)) return 'would_lose_quorum';
  return decided(topology, { nodes: withNode(topology.nodes, { ...known, state }) });
}

function removed(topology: Topology, { name, lost }: Extract<TopologyCommand, { type: 'remove' }>): Topology | TopologyRefusal {
  const known = topology.nodes.find((node) => node.name === name);
  if (known === undefined) return 'unknown_node';
  if (known.state === 'removed') return noted(topology, {});
  if (!canSpare(topology, name)) return 'would_lose_quorum';
  if (!lost && hostsData(topology, name)) return 'not_drained';
  if (!topology.nodes.some((node) => node.name !== name && node.state === 'active')) return 'would_lose_quorum';
  const nodes = withNode(topology.nodes, { ...known, state: 'removed' });
  return buried(decided(topology, { nodes, groups: withoutReplicasOf(topology.groups, name), retired: [...topology.retired, known.storeId] }));
}

/** Removed nodes whose last replica left its group are forgotten; their stores stay retired. */
function buried(topology: Topology): Topology {
  const isGone = (node: TopologyNode): boolean => node.state === 'removed' && !topology.groups.some(({ replicas }) => replicas.some((replica) => replica.node === node.name));
  return topology.nodes.some(isGone) ? { ...topology, nodes: topology.nodes.filter((node) => !isGone(node)) } : topology;
}

/** All or nothing. No group is ever told to have fewer than three voters, or than it has. */
function placed(topology: Topology, command: PlaceCommand): Topology | TopologyRefusal {
  if (command.ifEpoch !== topology.epoch) return 'stale_epoch';
  const groups = [...topology.groups];
  const states = new Map(topology.nodes.map((node) => [node.name, node.state]));
  for (const move of command.moves) {
    const placement = groups[move.group];
    const next = placement === undefined ? null : moved(placement, move, states);
    if (next === null) return 'invalid_command';
    groups[move.group] = next;
  }
  const table = groups[TOPOLOGY_GROUP];
  if (table === undefined) return 'invalid_command';
  const roles = new Map(command.roles.map(({ id, voter }) => [id, voter]));
  for (const id of roles.keys()) if (!table.replicas.some((replica) => replica.id === id && replica.phase !== 'leaving')) return 'invalid_command';
  groups[TOPOLOGY_GROUP] = {
    ...table,
    replicas: table.replicas.map((replica) => {
      const voter = roles.get(replica.id) ?? replica.voter;
      return voter === replica.voter ? replica : { ...replica, voter, phase: 'changing' };
    }),
  };
  for (const { group, node } of command.preferred) {
    const placement = groups[group];
    if (placement === undefined || !placement.replicas.some((replica) => replica.node === node && replica.phase !== 'leaving')) return 'invalid_command';
    groups[group] = { ...placement, preferred: node };
  }
  for (const [group, placement] of groups.entries()) {
    const before = topology.groups[group];
    if (placement === before || before === undefined) continue;
    if (stayingVoters(placement) < Math.min(REPLICATION_FACTOR, stayingVoters(before))) return 'invalid_command';
  }
  return decided(topology, { groups });
}

function moved(placement: Placement, { group, remove, add }: Move, states: ReadonlyMap<NodeId, NodeState>): Placement | null {
  const leaver = remove === null ? undefined : placement.replicas.find(({ id, phase }) => id === remove && phase !== 'leaving');
  if (remove !== null && leaver === undefined) return null;
  const gone = leaver?.node === add ? { phase: 'leaving', lost: true } as const : { phase: 'leaving' } as const;
  const replicas = placement.replicas.map((replica): PlacedReplica => (replica === leaver ? { ...replica, ...gone } : replica));
  if (add === null) return { ...placement, replicas };
  const isTable = group === TOPOLOGY_GROUP;
  const state = states.get(add);
  if (isTable ? state === undefined || state === 'removed' : state !== 'active') return null;
  if (replicas.some(({ node, phase }) => node === add && phase !== 'leaving')) return null;
  const kept = replicas.find((replica) => replica.node === add && replica.lost !== true);
  if (kept !== undefined) return { ...placement, replicas: replicas.map((replica) => (replica === kept ? { ...replica, phase: 'changing' } : replica)) };
  return withNew({ ...placement, replicas }, add, !isTable || (leaver?.voter ?? false));
}

/** Compare-and-set replica by replica, so that reports of different groups never get into each other's way. */
function settled(topology: Topology, reports: readonly SettledGroup[]): Topology | TopologyRefusal {
  const groups = [...topology.groups];
  for (const { group, members, gone } of reports) {
    const placement = groups[group];
    if (placement === undefined) return 'invalid_command';
    const roles = new Map(members.map(({ id, voter }) => [id, voter]));
    const replicas = placement.replicas
      .filter(({ id, phase }) => phase !== 'leaving' || !gone.includes(id))
      .map((replica): PlacedReplica => (replica.phase === 'changing' && roles.get(replica.id) === replica.voter ? { ...replica, phase: 'settled' } : replica));
    groups[group] = { ...placement, replicas };
  }
  return buried(noted(topology, { groups }));
}

/** The replica that `node` is to have of `group`, or the one that is leaving it; undefined where it has none. */
export function replicaOn(topology: Topology, group: GroupId, node: NodeId): ReplicaId | undefined {
  return placedOn(topology, group, node)?.id;
}

/** As replicaOn, with its role and phase. */
export function placedOn(topology: Topology, group: GroupId, node: NodeId): PlacedReplica | undefined {
  let leaving: PlacedReplica | undefined;
  for (const replica of topology.groups[group]?.replicas ?? []) {
    if (replica.node !== node) continue;
    if (replica.phase !== 'leaving') return replica;
    leaving ??= replica;
  }
  return leaving;
}

/** True of a number that was issued once and is no replica any more. */
export function isGone(topology: Topology, group: GroupId, replica: ReplicaId): boolean {
  const placement = topology.groups[group];
  return placement !== undefined && replica < placement.nextReplica && !placement.replicas.some(({ id }) => id === replica);
}
