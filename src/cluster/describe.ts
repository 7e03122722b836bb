/** The answer of GET /v1/cluster: the topology table joined with what this node's replicas and its peers know right now. */
import type { RaftHost } from '../../raft/host.ts';
import type { GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';
import type { Formats } from './formats.ts';
import type { NodeStatus } from './peer-status.ts';
import type { PeerNetwork } from './ports.ts';
import type { Topology, TopologyNode } from './topology.ts';

export interface ClusterDescription {
  readonly cluster_id: string | null;
  readonly coordinator: NodeId | null;
  /** The versions that all members speak and that are used. */
  readonly formats: Formats | null;
  readonly nodes: readonly NodeDescription[];
  readonly groups: readonly {
    readonly id: GroupId;
    readonly leader: NodeId | null;
    readonly term: number | null;
    readonly replicas: readonly NodeId[];
    readonly commit: number | null;
    readonly applied: number | null;
    /** Of this node's replica: `ok`, `damaged`, `joining` before its first snapshot, or `remote` where it hosts none. */
    readonly state: 'ok' | 'damaged' | 'joining' | 'remote';
  }[];
  /** Replicas on their way into a group or out of it. */
  readonly moves: readonly { readonly group: GroupId; readonly node: NodeId; readonly replica: ReplicaId; readonly phase: 'joining' | 'leaving'; readonly waits_for: string | null }[];
  /** Replicas that took themselves out and are to be replaced. */
  readonly damaged: readonly { readonly node: NodeId; readonly group: GroupId; readonly replica: ReplicaId; readonly reason: string }[];
  /** What should be done and cannot be, one line each. */
  readonly waiting: readonly string[];
}

export interface NodeDescription {
  readonly id: NodeId;
  readonly address: string;
  /** As the table has it, but `unreachable` for one that is not linked, and `drained` once a draining one hosts nothing. */
  readonly state: 'active' | 'draining' | 'drained' | 'removed' | 'unreachable';
  /** Why it is not as it should be, or null. */
  readonly reason: string | null;
  readonly groups: number;
  readonly leaders: number;
}

export interface DescribeSource {
  /** null while the cluster is not founded. */
  readonly topology: Topology | null;
  readonly host: RaftHost;
  readonly network: PeerNetwork;
  readonly self: NodeId;
  /** What this node tells its peers. */
  readonly status: NodeStatus;
  /** What linked peers said last. */
  readonly peers: ReadonlyMap<NodeId, NodeStatus>;
  /** Milliseconds since a node was heard; null for one that is not known. */
  readonly silentMs: (node: NodeId) => number | null;
  /** Why a move of a group led here does not go on, or null. */
  readonly waitOf: (group: GroupId) => string | null;
  readonly waiting: readonly string[];
}

/** Pure join; `term`, `commit` and `applied` are those of this node's replica, null where it hosts none. */
export function describeCluster(source: DescribeSource): ClusterDescription {
  const { topology, host, self, status: own, peers } = source;
  if (topology === null) return { cluster_id: null, coordinator: null, formats: null, nodes: [], groups: [], moves: [], damaged: [], waiting: [] };
  const statuses = new Map([...peers, [self, own] as const]);
  const damaged = [...statuses].flatMap(([node, status]) => status.damaged.map(({ group, replica, reason }) => ({ node, group, replica, reason })));
  const damagedHere = new Set(own.damaged.map(({ group }) => group));
  const leaderElsewhere = new Map<GroupId, NodeId>();
  for (const [node, { leads }] of peers) for (const group of leads) leaderElsewhere.set(group, node);
  const leaders = new Map<NodeId, number>();
  const hosted = new Map<NodeId, number>();
  const dataHosted = new Set<NodeId>();
  const groups = topology.groups.map((placement, id) => {
    const status = host.status(id);
    const known = placement.replicas.find((replica) => replica.id === status?.leader)?.node;
    const leader = known ?? leaderElsewhere.get(id) ?? null;
    if (leader !== null) leaders.set(leader, (leaders.get(leader) ?? 0) + 1);
    const staying = placement.replicas.filter((replica) => replica.phase !== 'leaving');
    for (const { node } of staying) {
      hosted.set(node, (hosted.get(node) ?? 0) + 1);
      if (id !== TOPOLOGY_GROUP) dataHosted.add(node);
    }
    const state: ClusterDescription['groups'][number]['state'] = damagedHere.has(id) ? 'damaged' : status === undefined ? 'remote' : host.serves(id) ? 'ok' : 'joining';
    return { id, leader, term: status?.term ?? null, replicas: staying.map((replica) => replica.node), commit: status?.commit ?? null, applied: status?.applied ?? null, state };
  });
  const moves = topology.groups.flatMap(({ replicas }, group) =>
    replicas.flatMap(({ id, node, phase }) => (phase === 'settled' ? [] : [{ group, node, replica: id, phase: phase === 'changing' ? ('joining' as const) : phase, waits_for: source.waitOf(group) }])),
  );
  const nodes = topology.nodes.map((node): NodeDescription => ({
    id: node.name,
    address: node.address,
    ...stateOf(node, source, dataHosted.has(node.name)),
    groups: hosted.get(node.name) ?? 0,
    leaders: leaders.get(node.name) ?? 0,
  }));
  return { cluster_id: topology.clusterId, coordinator: topology.coordinator, formats: topology.formats, nodes, groups, moves, damaged, waiting: source.waiting };
}

function stateOf({ name, state }: TopologyNode, { self, network, peers, silentMs }: DescribeSource, hostsData: boolean): Pick<NodeDescription, 'state' | 'reason'> {
  if (state === 'removed') return { state, reason: 'its last replicas are leaving their groups' };
  const refused = [...peers].flatMap(([by, status]) => status.refused.filter(({ node }) => node === name).map(({ reason }) => `node '${by}': ${reason}`));
  const isUp = name === self || network.isUp(name);
  if (!isUp) {
    const silent = silentMs(name);
    const heard = silent === null ? 'never heard' : silent < 1000 ? 'heard by other nodes only' : `not heard for ${Math.round(silent / 1000)} s`;
    return { state: state === 'active' ? 'unreachable' : state, reason: [heard, ...refused].join('; ') };
  }
  if (state === 'draining') return hostsData ? { state, reason: 'its replicas are moving to other nodes' } : { state: 'drained', reason: null };
  return { state, reason: refused.length === 0 ? null : refused.join('; ') };
}
