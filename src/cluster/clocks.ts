/** Whose clock can be believed. */
import type { NodeId } from '../../raft/types.ts';

/** A clock this far from the median of its peers would stamp messages with a wrong time. */
export const CLOCK_SKEW_MS_MAX = 5000;

/**
 * False when a node's clock is far from the median of all clocks that `self` can see; with two clocks nobody can say.
 * `offsets`: of each live peer's clock from that of `self`, in milliseconds.
 */
export function isClockTrusted(name: NodeId, self: NodeId, offsets: ReadonlyMap<NodeId, number>): boolean {
  const all = new Map([...offsets, [self, 0]]);
  const sorted = [...all.values()].sort((a, b) => a - b);
  if (sorted.length < 3) return true;
  const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
  return Math.abs((all.get(name) ?? median) - median) <= CLOCK_SKEW_MS_MAX;
}
