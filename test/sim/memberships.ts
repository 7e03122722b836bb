/**
 * What is known from outside of who belongs to which group: the table, the memberships that came into force, where each
 * replica number lives. Checks that nobody votes before it has caught up, and that no group is ever without a majority
 * of voters whose disks are sound, however many of them happen to be down.
 */
import type { ConfState, GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { foundingTopology, type Topology, type TopologyCommand } from '../../src/cluster/topology.ts';
import { Weights } from '../../src/cluster/placement.ts';
import { TOPOLOGY_GROUP } from '../../src/constants.ts';
import { expect } from './history.ts';
import type { SimNode } from './node.ts';

export class Memberships {
  /** Changes of the table under way or made, by proposal: what their entries hold. */
  readonly commands = new Map<number, TopologyCommand>();
  /** The latest table that any node has applied. */
  table: Topology;
  /** Memberships that came into force. */
  changes = 0;
  readonly #nodes: ReadonlyMap<NodeId, SimNode>;
  readonly #confs = new Map<GroupId, { readonly index: number; readonly conf: ConfState }>();
  readonly #homes = new Map<GroupId, Map<ReplicaId, NodeId>>();
  #stores = 0;

  constructor(nodes: ReadonlyMap<NodeId, SimNode>) {
    this.#nodes = nodes;
    this.table = NO_TABLE;
  }

  /** Names a disk. */
  newStore(node: NodeId): string {
    this.#stores += 1;
    return `${node}/${this.#stores}`;
  }

  found(table: Topology, confs: ReadonlyMap<GroupId, ConfState>): void {
    this.tableIs(table);
    for (const [group, conf] of confs) this.#confs.set(group, { index: 0, conf });
  }

  tableIs(table: Topology): void {
    if (table.revision <= this.table.revision) return;
    this.table = table;
    for (const [group, { replicas }] of table.groups.entries()) {
      if (replicas.length === 0) continue;
      const homes = this.#homes.get(group) ?? new Map<ReplicaId, NodeId>();
      for (const { id, node } of replicas) {
        expect((homes.get(id) ?? node) === node, `group ${group}: replica ${id} was issued to ${homes.get(id)} and to ${node}`);
        homes.set(id, node);
      }
      this.#homes.set(group, homes);
    }
  }

  /** A membership was applied somewhere. */
  applied(group: GroupId, index: number, conf: ConfState): void {
    const before = this.#confs.get(group);
    if (before === undefined || index <= before.index) return;
    this.changes += 1;
    this.#confs.set(group, { index, conf });
    for (const replica of conf.voters) {
      if (before.conf.voters.includes(replica)) continue;
      const image = this.#node(group, replica)?.disk.groups.get(group);
      expect(image === undefined || image.replica !== replica || image.conf.voters.length > 0, `group ${group}: replica ${replica} votes from ${index} on, but it has not even a snapshot`);
    }
  }

  /** The node that a replica was issued to. */
  home(group: GroupId, replica: ReplicaId): NodeId | undefined {
    return this.#homes.get(group)?.get(replica);
  }

  /** The membership in force, as far as any node has applied. */
  conf(group: GroupId): ConfState | undefined {
    return this.#confs.get(group)?.conf;
  }

  /** No group may be without a majority of sound voters: nobody could bring it back. */
  check(): void {
    for (const [group, { conf }] of this.#confs) {
      for (const voters of [conf.voters, conf.votersOutgoing]) {
        const sound = voters.filter((replica) => this.#isSound(group, replica)).length;
        expect(voters.length === 0 || sound > voters.length >> 1, `group ${group}: of its voters ${voters.join(', ')} only ${sound} have a sound disk`);
      }
    }
  }

  /**
   * True while nothing is lost anywhere that has not been made good. A voter that does not know yet of the membership in
   * force would still ask those of the one before, of which one is lost: it is made good when all know.
   */
  isSound(): boolean {
    for (const [group, { conf }] of this.#confs) {
      if (![...conf.voters, ...conf.votersOutgoing].every((replica) => this.#isSound(group, replica) && this.#knows(group, replica, conf))) return false;
    }
    return true;
  }

  #knows(group: GroupId, replica: ReplicaId, { voters, votersOutgoing }: ConfState): boolean {
    const known = this.#node(group, replica)?.disk.groups.get(group)?.conf;
    return known !== undefined && known.voters.join() === voters.join() && known.votersOutgoing.join() === votersOutgoing.join();
  }

  #isSound(group: GroupId, replica: ReplicaId): boolean {
    const node = this.#node(group, replica);
    const image = node?.disk.groups.get(group);
    return node !== undefined && image !== undefined && image.replica === replica && image.rotten === 0 && image.conf.voters.length > 0 && !node.damaged.has(group) && !node.isRolledBack;
  }

  #node(group: GroupId, replica: ReplicaId): SimNode | undefined {
    const home = this.home(group, replica);
    return home === undefined ? undefined : this.#nodes.get(home);
  }
}

/** Shared by all runs of a thread: pure, and slow to compute. */
export const WEIGHTS = new Weights();
const tables = new Map<string, Topology>();
const NO_TABLE: Topology = { epoch: 0, revision: 0, clusterId: '', coordinator: '', nodes: [], retired: [], groups: [], formats: { disk: 0, wire: 0, command: 0 } };

/** The table that `names` found with; only `groups`, and the table's own, are run. */
export function foundedTable(names: readonly NodeId[], stores: readonly string[], groups: readonly GroupId[]): Topology {
  const key = names.join();
  const whole = tables.get(key) ?? foundingTopology({ clusterId: 'c', mintedKey: '', members: names.map((name) => ({ name, storeId: '', address: name })) });
  tables.set(key, whole);
  return {
    ...whole,
    nodes: whole.nodes.map((node, at) => ({ ...node, storeId: stores[at] ?? '' })),
    groups: whole.groups.map((placement, group) => (group === TOPOLOGY_GROUP || groups.includes(group) ? placement : { replicas: [], nextReplica: 1, preferred: '' })),
  };
}
