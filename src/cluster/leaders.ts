/**
 * Who should lead what, changed as little as possible: a leader that may stay stays, unless moving it makes the counts
 * more even. Pure. The first assignment, at founding, is placement.ts'.
 */
import type { GroupId, NodeId } from '../../raft/types.ts';

export interface PreferredChange {
  readonly group: GroupId;
  readonly node: NodeId;
}

/**
 * The changes to `preferred` that give every group a leader among its `candidates` (a group without any keeps what it
 * has); with `even`, also those that make the counts per node differ by one at most, where the placement allows it.
 */
export function balancedLeaders(preferred: readonly NodeId[], candidates: readonly (readonly NodeId[])[], even: boolean): PreferredChange[] {
  const leaders = [...preferred];
  const loads = new Map<NodeId, number>(candidates.flat().map((node) => [node, 0]));
  const add = (node: NodeId, by: number): void => void loads.set(node, (loads.get(node) ?? 0) + by);
  const load = (node: NodeId): number => loads.get(node) ?? 0;
  const orphans: GroupId[] = [];
  for (const [group, leader] of leaders.entries()) {
    const nodes = candidates[group] ?? [];
    if (nodes.includes(leader)) add(leader, 1);
    else if (nodes.length > 0) orphans.push(group);
  }
  for (const group of orphans) {
    const node = leastLoaded(candidates[group] ?? [], load);
    leaders[group] = node;
    add(node, 1);
  }
  if (even) {
    for (;;) {
      const chain = shorteningChain(leaders, candidates, loads);
      if (chain === null) break;
      for (const { group, node } of chain) {
        add(leaders[group] ?? '', -1);
        add(node, 1);
        leaders[group] = node;
      }
    }
  }
  return leaders.flatMap((node, group) => (node === preferred[group] ? [] : [{ group, node }]));
}

function leastLoaded(nodes: readonly NodeId[], load: (node: NodeId) => number): NodeId {
  return nodes.reduce((best, node) => (load(node) < load(best) ? node : best));
}

/**
 * Breadth first from a most loaded node over "leads a group that the other could lead" to one with at least two groups
 * less: shifting one group along each step takes one from the first and gives one to the last. Null when there is none,
 * from any node: then no assignment is more even (the argument of augmenting paths).
 */
function shorteningChain(leaders: readonly NodeId[], candidates: readonly (readonly NodeId[])[], loads: ReadonlyMap<NodeId, number>): PreferredChange[] | null {
  const led = new Map<NodeId, GroupId[]>();
  for (const [group, node] of leaders.entries()) {
    // A group that nobody can lead now stays where it is.
    if (candidates[group]?.includes(node) !== true) continue;
    const groups = led.get(node);
    if (groups === undefined) led.set(node, [group]);
    else groups.push(group);
  }
  for (const [from, most] of [...loads].sort((a, b) => b[1] - a[1])) {
    /** How each node was reached: by the group that would move to it, from the node that leads it now. */
    const reached = new Map<NodeId, { readonly group: GroupId; readonly from: NodeId } | null>([[from, null]]);
    const queue = [from];
    for (let node = queue.shift(); node !== undefined; node = queue.shift()) {
      if ((loads.get(node) ?? 0) <= most - 2) return chainTo(node, reached);
      for (const group of led.get(node) ?? []) {
        for (const next of candidates[group] ?? []) {
          if (reached.has(next)) continue;
          reached.set(next, { group, from: node });
          queue.push(next);
        }
      }
    }
  }
  return null;
}

function chainTo(end: NodeId, reached: ReadonlyMap<NodeId, { readonly group: GroupId; readonly from: NodeId } | null>): PreferredChange[] {
  const chain: PreferredChange[] = [];
  let node = end;
  for (let step = reached.get(node); step != null; step = reached.get(node)) {
    chain.push({ group: step.group, node });
    node = step.from;
  }
  return chain;
}
