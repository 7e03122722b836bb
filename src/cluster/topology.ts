/**
 * The topology group's state machine: which nodes are members, which replica of which group lives where, who leads
 * where if all is well, who coordinates. Every change is a command in group 256 and compare-and-set on `epoch`, so
 * that two coordinators cannot undo each other. Owns the table and its codec; who proposes changes is coordinator.ts.
 */
import { GROUP_COUNT, TOPOLOGY_GROUP } from '../constants.ts';
import { COMMAND_FORMAT, DISK_FORMAT, WIRE_FORMAT } from '../constants.ts';
import type { ConfState, GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import type { FoundingRecord } from './ports.ts';
import { REPLICATION_FACTOR, rendezvous, spreadLeaders, topologyVoterCount } from './placement.ts';

export type NodeState = 'active' | 'draining' | 'removed';

export interface TopologyNode {
  readonly name: NodeId;
  readonly storeId: string;
  readonly address: string;
  readonly state: NodeState;
}

export interface Placement {
  readonly replicas: readonly { readonly id: ReplicaId; readonly node: NodeId; readonly voter: boolean }[];
  /** Replica numbers below this were issued once and never come back. */
  readonly nextReplica: ReplicaId;
  readonly preferred: NodeId;
}

/** The whole table. `epoch` rises with every change that matters to placement. */
export interface Topology {
  readonly epoch: number;
  readonly clusterId: string;
  readonly coordinator: NodeId;
  readonly nodes: readonly TopologyNode[];
  /** Indexed by group; the topology group itself is the last. */
  readonly groups: readonly Placement[];
  /** The highest versions that all members support; raised by a command. */
  readonly formats: { readonly disk: number; readonly wire: number; readonly command: number };
}

export type TopologyCommand =
  | { readonly type: 'coordinator'; readonly ifEpoch: number; readonly name: NodeId }
  | { readonly type: 'address'; readonly name: NodeId; readonly storeId: string; readonly address: string }
  | { readonly type: 'preferred'; readonly ifEpoch: number; readonly preferred: readonly NodeId[] };

export type TopologyReply = { readonly ok: true; readonly epoch: number } | { readonly ok: false; readonly code: 'stale_epoch' | 'unknown_node' | 'invalid_command' };

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function encodeTopology(topology: Topology): Uint8Array {
  return encoder.encode(JSON.stringify(topology));
}

/** Reads a row this program wrote and checksummed; anything else is a bug and throws. */
export function decodeTopology(row: Uint8Array): Topology {
  const value: unknown = JSON.parse(decoder.decode(row));
  if (!isTopology(value)) throw new Error('the topology row does not hold a topology table');
  return value;
}

function isTopology(value: unknown): value is Topology {
  return typeof value === 'object' && value !== null && 'epoch' in value && 'groups' in value && Array.isArray(value.groups) && value.groups.length === GROUP_COUNT + 1;
}

export function encodeTopologyCommand(command: TopologyCommand): Uint8Array {
  return encoder.encode(JSON.stringify(command));
}

/** null for anything that is not a command: apply must be total, and the bytes came through a peer. */
export function decodeTopologyCommand(data: Uint8Array): TopologyCommand | null {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(data));
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null || !('type' in value)) return null;
  const command = value as Record<string, unknown>;
  const epochOk = typeof command['ifEpoch'] === 'number';
  switch (command['type']) {
    case 'coordinator':
      return epochOk && typeof command['name'] === 'string' ? (value as TopologyCommand) : null;
    case 'address':
      return [command['name'], command['storeId'], command['address']].every((field) => typeof field === 'string') ? (value as TopologyCommand) : null;
    case 'preferred':
      return epochOk && Array.isArray(command['preferred']) && command['preferred'].length === GROUP_COUNT + 1 && command['preferred'].every((name) => typeof name === 'string')
        ? (value as TopologyCommand)
        : null;
    default:
      return null;
  }
}

/** The table every founding member starts from: a pure function of the founding record. */
export function foundingTopology(record: FoundingRecord): Topology {
  const names = record.members.map((member) => member.name);
  const hosts: string[][] = [];
  for (let group = 0; group < GROUP_COUNT; group++) hosts.push(rendezvous(names, group, REPLICATION_FACTOR));
  const voters = rendezvous(names, TOPOLOGY_GROUP, topologyVoterCount(names.length));
  const preferred = spreadLeaders([...hosts, voters]);
  hosts.push(names);
  const groups = hosts.map((nodes, group) => {
    const sorted = [...nodes].sort();
    return {
      replicas: sorted.map((node, i) => ({ id: i + 1, node, voter: group !== TOPOLOGY_GROUP || voters.includes(node) })),
      nextReplica: sorted.length + 1,
      preferred: preferred[group] ?? '',
    };
  });
  return {
    epoch: 1,
    clusterId: record.clusterId,
    coordinator: names[0] ?? '',
    nodes: record.members.map(({ name, storeId, address }) => ({ name, storeId, address, state: 'active' })),
    groups,
    formats: { disk: DISK_FORMAT, wire: WIRE_FORMAT, command: COMMAND_FORMAT },
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
  const refuse = (code: 'stale_epoch' | 'unknown_node' | 'invalid_command') => ({ topology, reply: { ok: false, code } as const });
  const accept = (next: Topology) => ({ topology: next, reply: { ok: true, epoch: next.epoch } as const });
  switch (command.type) {
    case 'coordinator':
      if (command.ifEpoch !== topology.epoch) return refuse('stale_epoch');
      if (!topology.nodes.some((node) => node.name === command.name)) return refuse('unknown_node');
      return accept({ ...topology, epoch: topology.epoch + 1, coordinator: command.name });
    case 'address': {
      const known = topology.nodes.find((node) => node.name === command.name && node.storeId === command.storeId);
      if (known === undefined) return refuse('unknown_node');
      const nodes = topology.nodes.map((node) => (node === known ? { ...node, address: command.address } : node));
      return accept({ ...topology, nodes });
    }
    case 'preferred': {
      if (command.ifEpoch !== topology.epoch) return refuse('stale_epoch');
      const hosted = topology.groups.every((group, i) => group.replicas.some((r) => r.node === command.preferred[i]));
      if (!hosted) return refuse('invalid_command');
      const groups = topology.groups.map((group, i) => ({ ...group, preferred: command.preferred[i] ?? group.preferred }));
      return accept({ ...topology, epoch: topology.epoch + 1, groups });
    }
  }
}

/** Replica of `node` in `group`, or undefined where it hosts none. */
export function replicaOn(topology: Topology, group: GroupId, node: NodeId): ReplicaId | undefined {
  return topology.groups[group]?.replicas.find((replica) => replica.node === node)?.id;
}
