/**
 * What raft/host.ts needs from the outside: storage, transport, state machine, directory, a scheduler.
 * Everything is callback-based and free of clocks, so that a simulation can own every interleaving.
 */
import type { ConfState, Entry, GroupId, HardState, LogReader, NodeId, ReplicaId, SnapshotMeta } from './types.ts';

/** One group's share of a write. */
export interface GroupWrite {
  readonly group: GroupId;
  readonly hardState: HardState | null;
  /** A first index at or below the group's last index replaces the tail from there, in the same batch. */
  readonly entries: readonly Entry[];
  /** Make the staged snapshot current: its rows become the state, the log restarts behind it. */
  readonly snapshot: SnapshotMeta | null;
  /** New first index of the log (0: unchanged). Entries below it become unreadable at once and are deleted later. */
  readonly compactTo: number;
}

/**
 * The one writer of a node. At most one write is in flight; the host waits for `done` before the next.
 * Besides `groups`, a write carries state rows and applied indexes that the state machine put before the call: all of
 * a group's or none, so that applied state is never durable ahead of the log that explains it, and all of every group
 * when `groups` is empty. What a write leaves waiting is in memory and in the log, and waits for a bounded time.
 */
export interface HostStorage {
  log(group: GroupId): LogReader;
  /** One atomic, synced batch. An error is final: the host stops acknowledging and reports it as fatal. */
  write(groups: readonly GroupWrite[], done: (error: Error | null) => void): void;
  /** True while applied rows have waited long enough for a write: the host then writes within one tick even if no group asks for it. */
  hasPendingState(): boolean;
  /** Applied position of a group; rides in the next write. `conf` when the entry changed the membership. */
  setApplied(group: GroupId, applied: { index: number; term: number; conf: ConfState | null }): void;
  /** Approximate bytes of log held for the group, and of those at or below `index`. */
  logBytes(group: GroupId): number;
  /** The smallest first index that keeps at most `bytes` of log for the group. */
  firstIndexKeeping(group: GroupId, bytes: number): number;
  /** The durable applied index; a log is never compacted past it. */
  durableApplied(group: GroupId): number;
}

/** Best-effort delivery of frames between nodes, in order while a link lives; a lost link loses what was in flight. */
export interface Transport {
  /** False when there is no link or its buffer is full: the frame was dropped. */
  send(to: NodeId, frame: Uint8Array): boolean;
  /** Bytes accepted by `send` that have not left this process. */
  bufferedBytes(to: NodeId): number;
}

/** The replicated state machine. Called with committed entries in order, each exactly once per state. */
export interface StateMachine {
  /**
   * A normal entry with data; a leader's no-op is not shown. Must not throw for any committed data. Returns the reply
   * for whoever proposed it (opaque to Raft).
   */
  apply(group: GroupId, entry: Entry): unknown;
  /** What applying an entry comes to, for the bound of one turn, where that is not the length of its data: it may be compressed. */
  bytesOf?(entry: Entry): number;
  /** A membership change was applied; `context` is what the proposer attached. */
  applyConf(group: GroupId, entry: Entry, conf: ConfState, context: Uint8Array): void;
  /** The group's state was replaced by a snapshot: forget caches. */
  restored(group: GroupId, meta: SnapshotMeta): void;
}

/** Fetches snapshots from another node in chunks that resume, and stages their rows beside the current state. */
export interface SnapshotFetcher {
  /**
   * At most one fetch per group is under way; a second call for it gets an error (it is of a replica that took the
   * place of the first one). `done` gets the staged snapshot's position, or an error after which nothing stays staged.
   */
  fetch(group: GroupId, from: NodeId, index: number, done: (error: Error | null, meta: SnapshotMeta | null) => void): void;
  /** The staged snapshot of `group` came too late to be of use and will not be installed: its rows may go. */
  discard?(group: GroupId): void;
}

/** Where replicas live. */
export interface Directory {
  /** The node hosting `replica` of `group`, or undefined while unknown. */
  node(group: GroupId, replica: ReplicaId): NodeId | undefined;
  /** True of a replica that left the group for good: whatever still comes from it is dropped. Absent: nobody leaves. */
  isGone?(group: GroupId, replica: ReplicaId): boolean;
  /**
   * This node's place in the line of those that could take over `group` from the node just lost: 0 campaigns at once,
   * the others only if nobody before them succeeds. Absent: chance decides, and two may split the votes.
   */
  successorRank?(group: GroupId, lost: NodeId): number;
}

export interface HostPorts {
  readonly storage: HostStorage;
  readonly transport: Transport;
  readonly machine: StateMachine;
  readonly snapshots: SnapshotFetcher;
  readonly directory: Directory;
  /** Run `work` soon, after the current call stack (setImmediate in production). */
  readonly schedule: (work: () => void) => void;
  /**
   * Calls `start`, which starts the next write, at once or a little later, so that more groups join it; `groups` have
   * something for it by now. The next call comes after `start` ran. Absent: at once.
   */
  readonly pace?: (groups: number, start: () => void) => void;
  /**
   * Runs `work`, which puts a write together, once the frames sent before have left: to put it together takes this node
   * about as long as it takes a follower to begin with a frame. Absent: at once.
   */
  readonly afterSends?: (work: () => void) => void;
  /** A write failed or an invariant broke: the process must stop serving. */
  readonly fatal: (error: Error) => void;
  /** Role or leader of a group changed on this node. */
  readonly onLeader?: (group: GroupId, leader: ReplicaId, term: number, isSelf: boolean) => void;
}
