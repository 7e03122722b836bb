/** The answer of GET /v1/cluster: the topology table joined with what this node's replicas know right now. */
import type { RaftHost } from '../../raft/host.ts';
import type { GroupId, NodeId } from '../../raft/types.ts';
import type { PeerNetwork } from './ports.ts';
import type { Topology } from './topology.ts';

export interface ClusterDescription {
  readonly cluster_id: string | null;
  readonly coordinator: NodeId | null;
  readonly nodes: readonly { readonly id: NodeId; readonly address: string; readonly state: string; readonly groups: number; readonly leaders: number }[];
  readonly groups: readonly {
    readonly id: GroupId;
    readonly leader: NodeId | null;
    readonly term: number | null;
    readonly replicas: readonly NodeId[];
    readonly commit: number | null;
    readonly applied: number | null;
    /** Of this node's replica: `ok`, `damaged`, or `remote` where it hosts none. */
    readonly state: 'ok' | 'damaged' | 'remote';
  }[];
}

export interface DescribeSource {
  /** null while the cluster is not founded. */
  readonly topology: Topology | null;
  readonly host: RaftHost;
  readonly network: PeerNetwork;
  readonly self: NodeId;
  /** Groups whose replica on this node took itself out. */
  readonly damaged: readonly GroupId[];
  /** Who said that it leads a group that has no replica here. */
  readonly leaderElsewhere: (group: GroupId) => NodeId | null;
}

/** Pure join; `term`, `commit` and `applied` are those of this node's replica, null where it hosts none. */
export function describeCluster({ topology, host, network, self, damaged, leaderElsewhere }: DescribeSource): ClusterDescription {
  if (topology === null) return { cluster_id: null, coordinator: null, nodes: [], groups: [] };
  const leaders = new Map<NodeId, number>();
  const hosted = new Map<NodeId, number>();
  const groups = topology.groups.map((placement, id) => {
    const status = host.status(id);
    const leader = status === undefined ? leaderElsewhere(id) : (placement.replicas.find((replica) => replica.id === status.leader)?.node ?? null);
    if (leader !== null) leaders.set(leader, (leaders.get(leader) ?? 0) + 1);
    for (const { node } of placement.replicas) hosted.set(node, (hosted.get(node) ?? 0) + 1);
    const state: 'ok' | 'damaged' | 'remote' = damaged.includes(id) ? 'damaged' : status === undefined ? 'remote' : 'ok';
    return {
      id,
      leader,
      term: status?.term ?? null,
      replicas: placement.replicas.map((replica) => replica.node),
      commit: status?.commit ?? null,
      applied: status?.applied ?? null,
      state,
    };
  });
  const nodes = topology.nodes.map(({ name, address, state }) => ({
    id: name,
    address,
    state: state !== 'active' || name === self || network.isUp(name) ? state : 'unreachable',
    groups: hosted.get(name) ?? 0,
    leaders: leaders.get(name) ?? 0,
  }));
  return { cluster_id: topology.clusterId, coordinator: topology.coordinator, nodes, groups };
}
