/**
 * Which log entries a replica may forget. A leader keeps what its slowest member still needs, so that nobody needs a
 * snapshot for a short absence; everybody keeps no more than a bound of bytes, per group and per node.
 * Owns the choice only; the host carries it out.
 */
import type { HostStorage } from './ports.ts';
import type { Raft } from './raft.ts';
import type { GroupId } from './types.ts';

export interface CompactionLimits {
  readonly logKeepBytesMax: number;
  readonly logKeepBytesNodeMax: number;
  /** Fewer entries than this are not worth a round of deletions. */
  readonly compactEntriesMin: number;
}

/** Bytes of log each group may keep: the full bound, or an even share while the node holds too much in all. */
export function keepBytes(storage: HostStorage, groups: readonly GroupId[], limits: CompactionLimits): number {
  let total = 0;
  for (const group of groups) total += storage.logBytes(group);
  if (total <= limits.logKeepBytesNodeMax) return limits.logKeepBytesMax;
  return Math.min(limits.logKeepBytesMax, Math.floor(limits.logKeepBytesNodeMax / groups.length));
}

/**
 * The new first index for the log of `raft`, or 0 to leave it. Never past the durable applied index + 1: a restart
 * must find every entry that its state does not contain.
 */
export function compactionTarget(storage: HostStorage, group: GroupId, raft: Raft, keep: number, limits: CompactionLimits): number {
  // Asked of every group each second: most have next to nothing.
  if (raft.logLength < limits.compactEntriesMin && storage.logBytes(group) <= keep) return 0;
  const status = raft.status();
  let wanted = storage.firstIndexKeeping(group, keep);
  if (status.role === 'leader') {
    let slowest = status.commit;
    for (const member of status.progress) if (member.replica !== status.id) slowest = Math.min(slowest, member.match);
    wanted = Math.max(wanted, slowest + 1);
  }
  const target = Math.min(wanted, storage.durableApplied(group) + 1);
  if (target <= status.firstIndex) return 0;
  // Few but large entries are worth it as well: the bound is in bytes.
  const worthwhile = target - status.firstIndex >= limits.compactEntriesMin || storage.logBytes(group) > keep;
  return worthwhile ? target : 0;
}

/**
 * The new first index for a log of which nothing up to `index` is to stay, or 0 to leave it. For whoever made sure that
 * every member has applied it; even so a leader keeps what the slowest is not known to hold, and nobody goes past the
 * durable applied index + 1.
 */
export function trimTarget(storage: HostStorage, group: GroupId, raft: Raft, index: number): number {
  const status = raft.status();
  let target = Math.min(index, storage.durableApplied(group)) + 1;
  for (const member of status.progress) if (member.replica !== status.id) target = Math.min(target, member.match + 1);
  return target <= status.firstIndex ? 0 : target;
}
