/**
 * Which shard of a node owns what. A node with FASTPACA_SHARDS=N is N nodes in one process, each on a thread of its own
 * with a data directory, Raft groups and peer links of its own; shard i of every node together with the shards i of the
 * others is a cluster by itself. Pure arithmetic: nothing here knows of threads.
 *
 * Everything that names a node (seeds, FASTPACA_ADVERTISE, the table, GET /v1/cluster) has the address of its public
 * port. Shard i is dialed at that port + 1 + i, so that no stored address ever depends on the number of shards.
 */
import type { GroupId, NodeId } from '../../raft/types.ts';
import { GROUP_COUNT } from '../constants.ts';

/** More threads than this on one machine would each own too few groups to be worth their memory. */
export const SHARDS_MAX = 64;

export interface Seat {
  readonly index: number;
  readonly count: number;
}

/** The seat of a node that is not divided. */
export const WHOLE: Seat = { index: 0, count: 1 };

/** The seat alone, as it travels. */
export function seatOf({ index, count }: Seat): Seat {
  return { index, count };
}

/** The shard that runs a data group. The topology group is run by each. */
export function shardOf(group: GroupId, count: number): number {
  return group % count;
}

/** True if the seat runs the group. */
export function owns({ index, count }: Seat, group: GroupId): boolean {
  return group >= GROUP_COUNT || shardOf(group, count) === index;
}

/** Where the seat of a node is dialed by its peers, of the address (host:port) of that node. */
export function dialedAt({ index, count }: Seat, address: string): string {
  if (count === 1) return address;
  const colon = address.lastIndexOf(':');
  return `${address.slice(0, colon)}:${Number(address.slice(colon + 1)) + 1 + index}`;
}

/** What a sibling shard is called where nodes have names; no node can be called that. */
export function siblingName(index: number): NodeId {
  return `shard/${index}`;
}

/** The sibling of that name; null for the name of a node. */
export function siblingIndex(name: NodeId): number | null {
  return name.startsWith('shard/') ? Number(name.slice('shard/'.length)) : null;
}
