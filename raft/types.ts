/**
 * The vocabulary of one Raft group: entries, messages, what must be persisted, and what a step asks the host to do.
 * Owns no behaviour. Terms, indexes and replica ids are safe integers; 0 means "none" for all three.
 */

/** Names a Raft group on a node. */
export type GroupId = number;
/** Names a member of one group. Issued once, never reused, so that a wiped disk can never speak as its old self. */
export type ReplicaId = number;
/** Names a process that hosts replicas. */
export type NodeId = string;

export const EntryType = { normal: 0, confChange: 1 } as const;
export type EntryType = (typeof EntryType)[keyof typeof EntryType];

/** One slot of the replicated log. `data` is opaque (normal) or an encoded ConfChange. A leader's no-op is normal with no data. */
export interface Entry {
  readonly term: number;
  readonly index: number;
  readonly type: EntryType;
  readonly data: Uint8Array;
}

/** What a replica must never forget. `vote` and `term` are synced before any message that relies on them leaves. */
export interface HardState {
  readonly term: number;
  readonly vote: ReplicaId;
  readonly commit: number;
}

/** Membership in force. `votersOutgoing` is non-empty only while a joint change is under way (Raft thesis §4.3). */
export interface ConfState {
  readonly voters: readonly ReplicaId[];
  readonly votersOutgoing: readonly ReplicaId[];
  readonly learners: readonly ReplicaId[];
  /** Voters of the outgoing set that become learners when the joint configuration is left. */
  readonly learnersNext: readonly ReplicaId[];
  readonly autoLeave: boolean;
}

export const ConfChangeType = { addVoter: 0, addLearner: 1, remove: 2 } as const;
export type ConfChangeType = (typeof ConfChangeType)[keyof typeof ConfChangeType];

/**
 * A membership change. More than one change, or `joint: true`, goes through a joint configuration;
 * `autoLeave` lets the leader leave it by itself. An empty `changes` leaves a joint configuration.
 */
export interface ConfChange {
  readonly changes: readonly { readonly type: ConfChangeType; readonly replica: ReplicaId }[];
  readonly joint: boolean;
  readonly autoLeave: boolean;
  /** Opaque to Raft: handed to the state machine with the applied change. */
  readonly context: Uint8Array;
}

/** A snapshot's position; its rows travel outside the Raft messages, in chunks. */
export interface SnapshotMeta {
  readonly index: number;
  readonly term: number;
  readonly conf: ConfState;
}

export const MessageType = {
  append: 0,
  appendResponse: 1,
  vote: 2,
  voteResponse: 3,
  preVote: 4,
  preVoteResponse: 5,
  heartbeat: 6,
  heartbeatResponse: 7,
  /** Leader to follower: "your next entry is compacted here; fetch a snapshot of at least `index` from me". */
  snapshot: 8,
  /** Leader to its chosen successor: campaign at once. */
  timeoutNow: 9,
  /** Follower to leader: "which index must I have applied to serve a linearizable read?" (`context` names the read). */
  readIndex: 10,
  readIndexResponse: 11,
  /** Leader to follower whose log is known to agree: "this much is committed". Not answered: heartbeats repeat it. */
  commit: 12,
} as const;
export type MessageType = (typeof MessageType)[keyof typeof MessageType];

/** One message between two replicas of a group. One shape for all types, so that the hot path stays monomorphic. */
export interface Message {
  readonly type: MessageType;
  readonly to: ReplicaId;
  readonly from: ReplicaId;
  readonly term: number;
  /** append: index before `entries`; responses: what is acknowledged; vote: candidate's last index; snapshot: least useful index; readIndexResponse: read index. */
  readonly index: number;
  /** Term of the entry at `index` (append, vote), or the hinted term of a rejection. */
  readonly logTerm: number;
  readonly commit: number;
  readonly entries: readonly Entry[];
  readonly reject: boolean;
  /** Rejected append: the follower's best guess where the logs may agree. */
  readonly rejectHint: number;
  /** heartbeat(Response), readIndex(Response): the read it confirms, 0 if none. vote: 1 if the campaign is a leadership transfer. */
  readonly context: number;
}

/** A read that may be served once the state machine has applied `index`; `index` -1: the read was refused (try again). */
export interface ReadState {
  readonly context: number;
  readonly index: number;
}

export type Role = 'follower' | 'preCandidate' | 'candidate' | 'leader';

/**
 * Everything a group asks of its host since the last `ready()`.
 * Order: `messages` may leave at once. `snapshot`, `entries`, `hardState` go into one synced write; only when that write
 * and all earlier ones are durable may `messagesAfterPersist` leave (those addressed to the group's own replica are
 * stepped locally). `committed` may be applied at once, in order; every entry in it is durable on this replica.
 */
export interface Ready {
  /** Set when it changed. If only `commit` changed, `sync` is false: it may ride with a later write, or be lost. */
  readonly hardState: HardState | null;
  /** To be appended; a first index at or below the last one replaces the tail from there. */
  readonly entries: readonly Entry[];
  /** A snapshot, already staged by the host, to be made current. The log then restarts at `snapshot.index + 1`. */
  readonly snapshot: SnapshotMeta | null;
  readonly sync: boolean;
  readonly messages: readonly Message[];
  readonly messagesAfterPersist: readonly Message[];
  readonly committed: readonly Entry[];
  readonly readStates: readonly ReadState[];
  /** The leader `from` says that only a snapshot of at least `index` helps: fetch one and call `installSnapshot`. */
  readonly fetchSnapshot: { readonly from: ReplicaId; readonly index: number } | null;
  /** Hand back to `persisted()` when this Ready's write is durable. Null unless `sync`. */
  readonly persist: PersistToken | null;
}

/** Names what one Ready asked to persist, so that a late completion cannot vouch for a log that was since replaced. */
export interface PersistToken {
  readonly term: number;
  readonly lastIndex: number;
  readonly lastTerm: number;
  readonly snapshotIndex: number;
}

export type ProposeRefusal = 'not_leader' | 'overloaded' | 'transferring' | 'conf_change_pending' | 'invalid';
export type ProposeResult =
  | { readonly ok: true; readonly index: number; readonly term: number }
  | { readonly ok: false; readonly reason: ProposeRefusal };

export interface RaftStatus {
  readonly id: ReplicaId;
  readonly role: Role;
  readonly term: number;
  readonly vote: ReplicaId;
  readonly leader: ReplicaId;
  readonly commit: number;
  readonly applied: number;
  readonly lastIndex: number;
  readonly firstIndex: number;
  readonly conf: ConfState;
  /** Leader only: what it knows of every other member. */
  readonly progress: readonly {
    readonly replica: ReplicaId;
    readonly match: number;
    readonly next: number;
    readonly state: 'probe' | 'replicate' | 'snapshot';
    readonly active: boolean;
    readonly learner: boolean;
  }[];
}

/**
 * The durable log of one group, read synchronously. It reflects writes that have completed (Ready.entries that were
 * persisted), never ones in flight: those the Raft log keeps itself until `persisted()`.
 */
export interface LogReader {
  readonly hardState: HardState;
  /** Membership as of `appliedIndex`. */
  readonly conf: ConfState;
  /** Durable applied index at open. */
  readonly appliedIndex: number;
  /** Index after the last compacted one: the log holds [firstIndex, lastIndex], empty when lastIndex = firstIndex - 1. */
  firstIndex(): number;
  lastIndex(): number;
  /** Term of `index` in [firstIndex - 1, lastIndex]; -1 outside. */
  term(index: number): number;
  /** Entries [from, to), at least one, stopping before `bytesMax` is passed. Throws RangeError outside the bounds. */
  entries(from: number, to: number, bytesMax: number): Entry[];
}

/** A seeded source of randomness: a float in [0, 1). */
export type Random = () => number;

export interface RaftOptions {
  readonly id: ReplicaId;
  readonly log: LogReader;
  readonly random: Random;
  /** Timeout is drawn from [electionTicks, 2 * electionTicks). */
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  /** Ticks that the host counted before this replica started; heartbeats are due at its multiples of `heartbeatTicks`. Absent: 0. */
  readonly ticksPassed?: number;
  readonly messageBytesMax: number;
  readonly inflightMessagesMax: number;
  readonly inflightBytesMax: number;
  /** Bytes of proposals not yet committed beyond which propose() answers `overloaded`. */
  readonly uncommittedBytesMax: number;
  /** Bytes of committed entries handed out by one Ready. */
  readonly committedBytesMax: number;
}
