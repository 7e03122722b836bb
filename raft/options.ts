/** What a host can be told: its limits and rhythm, with the values that production uses; and what it tells of a group. */
import type { CompactionLimits } from './compaction.ts';
import type { PeerLimits } from './peer.ts';
import type { NodeId, RaftOptions, RaftStatus } from './types.ts';

/** Limits and rhythm of a host. Bytes and ticks; every bound says what happens at it. */
export interface HostOptions extends Omit<RaftOptions, 'id' | 'log'>, PeerLimits, CompactionLimits {
  readonly node: NodeId;
  /** Per group, queued and proposed but uncommitted; beyond it proposals are refused as `overloaded`. */
  readonly uncommittedBytesMax: number;
  /** Callers waiting per group, proposals and reads each; beyond it they are refused (`overloaded`, -1). */
  readonly waitingMax: number;
  /** Entries and bytes applied in one turn of the event loop; the rest goes on in the next. */
  readonly applyEntriesMax: number;
  readonly applyBytesMax: number;
  /** Ticks between looks at which logs can be compacted. */
  readonly compactTicks: number;
  /** A ReadIndex round unanswered for this long is asked again. */
  readonly readRetryTicks: number;
  /** When a link drops, replicas of the groups led from there campaign this many ticks apart, so that votes are not split. */
  readonly linkDownSpreadTicks: number;
  /** A write in flight for this long means a disk that hangs: this node hands its leaderships to others. */
  readonly writeStallTicks: number;
}

/** What production uses; `node` and `random` are the caller's. */
export const HOST_DEFAULTS: Omit<HostOptions, 'node' | 'random'> = Object.freeze({
  electionTicks: 12,
  heartbeatTicks: 2,
  messageBytesMax: 256 * 1024,
  inflightMessagesMax: 256,
  inflightBytesMax: 4 * 1024 * 1024,
  uncommittedBytesMax: 16 * 1024 * 1024,
  committedBytesMax: 1024 * 1024,
  waitingMax: 65_536,
  applyEntriesMax: 256,
  applyBytesMax: 1024 * 1024,
  nodeInflightBytesMax: 32 * 1024 * 1024,
  frameBytesMax: 1024 * 1024,
  logKeepBytesMax: 16 * 1024 * 1024,
  logKeepBytesNodeMax: 1024 * 1024 * 1024,
  compactEntriesMin: 128,
  compactTicks: 20,
  readRetryTicks: 4,
  linkDownSpreadTicks: 6,
  writeStallTicks: 20,
});

/** A group as seen from this node. */
export interface GroupStatus extends RaftStatus {
  /** Proposals and reads whose callers wait. */
  readonly proposalsWaiting: number;
  readonly readsWaiting: number;
  /** Committed here, not yet applied. */
  readonly backlog: number;
  readonly fetchingSnapshot: boolean;
}
