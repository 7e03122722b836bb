/**
 * Where things live: which group a context belongs to, which nodes host a group, which of them should lead it.
 * Pure functions of their arguments, so that every node computes the same answer. Owns no state.
 */
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { GROUP_COUNT } from '../constants.ts';

/** Replicas of a data group, where there are that many nodes. */
export const REPLICATION_FACTOR = 3;

/**
 * The data group of a context: CRC-32 (ISO-HDLC, the one of zlib and PNG) of the id's UTF-8 bytes, modulo 256.
 * Part of the stored layout: it never changes, and any client may compute it.
 */
export function groupOf(contextId: string): number {
  return crc32(contextId) % GROUP_COUNT;
}

/** Voters of the topology group: 3, or 5 from five nodes on; everyone else learns. */
export function topologyVoterCount(nodeCount: number): number {
  if (nodeCount >= 5) return 5;
  return Math.min(nodeCount, 3);
}

/** Rendezvous weight of a node for a group (Thaler & Ravishankar 1996): 48 bits of SHA-256 over "name/group". */
function weight(node: string, group: number): number {
  return createHash('sha256').update(`${node}/${group}`).digest().readUIntBE(0, 6);
}

/**
 * The `count` nodes that host `group`, heaviest first. Computed over members, never over who is connected right now,
 * so that a blip cannot move data.
 */
export function rendezvous(nodes: readonly string[], group: number, count: number): string[] {
  return nodes
    .map((name) => ({ name, weight: weight(name, group) }))
    .sort((a, b) => b.weight - a.weight || (a.name < b.name ? -1 : 1))
    .slice(0, count)
    .map(({ name }) => name);
}

/** Rendezvous orders that are asked for again and again: each weight is computed once. */
export class Weights {
  private readonly known = new Map<string, number[]>();

  /** All of `nodes`, heaviest for `group` first: `rendezvous` takes a beginning of it. */
  order(nodes: readonly string[], group: number): string[] {
    const by = new Map(nodes.map((name) => [name, this.of(name, group)]));
    return [...nodes].sort((a, b) => (by.get(b) ?? 0) - (by.get(a) ?? 0) || (a < b ? -1 : 1));
  }

  private of(node: string, group: number): number {
    let weights = this.known.get(node);
    if (weights === undefined) {
      weights = [];
      this.known.set(node, weights);
    }
    return (weights[group] ??= weight(node, group));
  }
}

/**
 * One preferred leader for each group such that counts differ as little as the placement allows: each group in turn
 * takes the host with the fewest groups so far, the heavier one on a tie.
 */
export function spreadLeaders(hostsByGroup: readonly (readonly string[])[]): string[] {
  const load = new Map<string, number>();
  return hostsByGroup.map((hosts) => {
    let best = hosts[0] ?? '';
    for (const host of hosts) if ((load.get(host) ?? 0) < (load.get(best) ?? 0)) best = host;
    load.set(best, (load.get(best) ?? 0) + 1);
    return best;
  });
}

/**
 * The place of `node` in the line of hosts that could take over `group` when `lost` went away; every host computes the
 * same line, and it begins elsewhere for each group, so that the load of a lost node spreads over the others.
 */
export function successorRank(hosts: readonly string[], group: number, lost: string, node: string): number {
  const line = [...new Set(hosts)].filter((host) => host !== lost).sort();
  const place = line.indexOf(node);
  return place < 0 ? line.length : (place + group) % line.length;
}
