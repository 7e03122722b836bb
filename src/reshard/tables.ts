/**
 * The tables of resharded clusters. Each shard of a node is a cluster of its own with the same shard of the other nodes,
 * so other shards are other clusters, and every node must come to the same ones by itself, with nobody to ask: all that
 * is new (cluster ids, stores, keys, tables) is computed from what the former tables say. Nodes whose tables say
 * different things get different cluster ids, and refuse each other instead of going on with different tables.
 *
 * The data groups are the same Raft groups as before, each with its log, votes and membership; only the tables' own group
 * begins anew. So a former table must be at rest: no replica on its way, no node about to leave, and nothing in the log
 * behind it that would change where replicas live. Pure: reads and writes nothing.
 */
import { createHash } from 'node:crypto';
import type { NodeId } from '../../raft/types.ts';
import { tooOldFor, type Formats } from '../cluster/formats.ts';
import { compareNames } from '../cluster/hello.ts';
import { archivedAs } from '../cluster/identity.ts';
import { spreadLeaders } from '../cluster/placement.ts';
import type { FoundingRecord } from '../cluster/ports.ts';
import { owns, shardOf } from '../cluster/seat.ts';
import { applyTopology, foundingTopology, type Placement, type Topology, type TopologyCommand, type TopologyNode } from '../cluster/topology.ts';
import { GROUP_COUNT, TOPOLOGY_GROUP } from '../constants.ts';

/** What one shard knows of its cluster. */
export interface FormerTable {
  readonly record: FoundingRecord;
  /** As applied. */
  readonly table: Topology;
  /** Commands in the log behind it, of which nobody knows here whether they count; null for what is none. */
  readonly unapplied: readonly (TopologyCommand | null)[];
}

/** One shard of all nodes, as it is to be. */
export interface NewCluster {
  readonly record: FoundingRecord;
  readonly table: Topology;
}

/** The clusters of `count` shards; `former` are those of the shards that there were, in order. A string says in one line why there are none. */
export function reshardedClusters(former: readonly FormerTable[], count: number): readonly NewCluster[] | string {
  for (const [shard, { table, unapplied }] of former.entries()) {
    const reason = tooOldFor(table.formats) ?? unrest(table, unapplied);
    if (reason !== null) return former.length === 1 ? reason : `shard ${shard}: ${reason}`;
  }
  const nodes = commonNodes(former);
  if (typeof nodes === 'string') return nodes;
  const said = digest('said', String(count), ...former.map(({ table }) => placed(table)));
  return Array.from({ length: count }, (_, index) => newCluster(former, nodes, { said, index, count }));
}

/** Why nobody can tell from this table alone how the groups are placed; null if one can. */
function unrest(table: Topology, unapplied: FormerTable['unapplied']): string | null {
  const leaving = table.nodes.find(({ state }) => state === 'removed');
  if (leaving !== undefined) return `node '${leaving.name}' is leaving the cluster: ${WAIT}`;
  const moving = table.groups.findIndex(({ replicas }, group) => group !== TOPOLOGY_GROUP && replicas.some(({ phase }) => phase !== 'settled'));
  if (moving !== -1) return `replicas of group ${moving} are on the move: ${WAIT}`;
  let next = table;
  for (const command of unapplied) {
    if (command === null) continue;
    next = applyTopology(next, command).topology;
    if (placed(next) !== placed(table)) return `the table of the cluster was being changed (${command.type}) when the node stopped: ${WAIT}`;
  }
  return null;
}

const WAIT = 'start all nodes as they were, wait until GET /v1/cluster has every replica in place, and stop them all';

/** What new tables depend on, as text that is the same on every node. Who coordinates and leads is not part of it. */
function placed({ clusterId, nodes, groups, formats }: Topology): string {
  return JSON.stringify([
    clusterId,
    [...nodes].sort((a, b) => compareNames(a.name, b.name)).map(({ name, storeId, address, state }) => [name, storeId, address, state]),
    groups.slice(0, GROUP_COUNT).map(({ replicas, nextReplica }) => [nextReplica, ...[...replicas].sort((a, b) => a.id - b.id).map(({ id, node, voter, phase }) => [id, node, voter, phase])]),
    [formats.disk, formats.wire, formats.command],
  ]);
}

/** The members, which every shard must have alike; a drain goes for a whole node. */
function commonNodes(former: readonly FormerTable[]): readonly TopologyNode[] | string {
  const [first] = former;
  const nodes = [...(first?.table.nodes ?? [])].sort((a, b) => compareNames(a.name, b.name));
  const names = nodes.map(({ name }) => name);
  for (const [shard, { table }] of former.entries()) {
    const others = table.nodes.map(({ name }) => name).sort(compareNames);
    if (others.join('\n') !== names.join('\n')) return `the members of shard 0 are ${names.join(', ')} and those of shard ${shard} ${others.join(', ')}: ${WAIT}`;
  }
  const isDraining = (name: NodeId): boolean => former.some(({ table }) => table.nodes.some((node) => node.name === name && node.state === 'draining'));
  return nodes.map((node) => ({ ...node, state: isDraining(node.name) ? 'draining' : 'active' }));
}

function newCluster(former: readonly FormerTable[], nodes: readonly TopologyNode[], { said, index, count }: { said: string; index: number; count: number }): NewCluster {
  const clusterId = uuid(digest('cluster', said, String(index)));
  const members = nodes.map(({ name, address }) => ({ name, storeId: uuid(digest('store', clusterId, name)), address }));
  const [first] = former;
  const record: FoundingRecord = {
    clusterId,
    members,
    // Known to members alone, as the keys were that it is made of.
    mintedKey: digest('key', clusterId, ...former.map(({ record }) => record.mintedKey)),
    ...(first === undefined ? {} : { archivedAs: archivedAs(first.record) }),
  };
  const seat = { index, count };
  // Its own group is the founding one's; the data groups are those that were there.
  const founding = foundingTopology(record, (group) => owns(seat, group));
  const groups = founding.groups.map((placement, group) => (group < GROUP_COUNT && owns(seat, group) ? (former[shardOf(group, former.length)]?.table.groups[group] ?? placement) : placement));
  const leaders = spreadLeaders(groups.map(({ replicas }) => replicas.filter(({ voter }) => voter).map(({ node }) => node).sort(compareNames)));
  const table: Topology = {
    ...founding,
    nodes: members.map((member, i) => ({ ...member, state: nodes[i]?.state ?? 'active' })),
    groups: groups.map(({ replicas, nextReplica }, group): Placement => ({ replicas: [...replicas].sort((a, b) => a.id - b.id), nextReplica, preferred: leaders[group] ?? '' })),
    formats: former.reduce((formats, { table }) => highest(formats, table.formats), founding.formats),
  };
  return { record, table };
}

function highest(a: Formats, b: Formats): Formats {
  return { disk: Math.max(a.disk, b.disk), wire: Math.max(a.wire, b.wire), command: Math.max(a.command, b.command) };
}

/** SHA-256 over a list of texts, hex. */
function digest(...texts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(['fastpaca reshard', ...texts])).digest('hex');
}

/** The beginning of a digest as a UUID of version 8 (RFC 9562: made by a rule of one's own). */
function uuid(hex: string): string {
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
