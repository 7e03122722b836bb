/**
 * One group's replica as the host keeps it: its Raft, what it gathered for the next write, what waits for the write in
 * flight, what is committed but not applied, and who waits for an answer. Owns this bookkeeping; host.ts owns the order.
 */
import type { GroupWrite } from './ports.ts';
import type { Raft } from './raft.ts';
import type { Entry, GroupId, HardState, Message, PersistToken, Ready, ReplicaId, SnapshotMeta } from './types.ts';
import type { ProposeDone } from './proposals.ts';
import { Proposals } from './proposals.ts';
import { Reads } from './reads.ts';

/** What one write persists for a group, and what may happen only after it. */
export interface Gathered {
  /** The write must happen soon: messages, commitment or a snapshot depend on it. */
  sync: boolean;
  entries: readonly Entry[];
  snapshot: SnapshotMeta | null;
  compactTo: number;
  tokens: readonly PersistToken[];
  after: readonly Message[];
}

const NO_ENTRIES: readonly Entry[] = [];
const NO_TOKENS: readonly PersistToken[] = [];
const NO_MESSAGES: readonly Message[] = [];

interface Queued {
  readonly data: Uint8Array;
  readonly done: ProposeDone;
}

export class HostedReplica {
  readonly group: GroupId;
  readonly raft: Raft;
  readonly proposals = new Proposals();
  readonly reads: Reads;
  /** Has input whose consequences were not collected yet; then it is in the host's dirty list exactly once. */
  dirty = false;
  /** No longer hosted: whatever still refers to this object must let it be. */
  removed = false;
  /** Joins the next write; null while there is nothing for it. */
  next: Gathered | null = null;
  /** Part of the write in flight. */
  inFlight: Gathered | null = null;
  /** Committed and durable here, not yet applied; `backlogAt` is the next one. */
  backlog: Entry[] = [];
  backlogAt = 0;
  /** From gathering a snapshot until its write is done nothing is applied: the state is about to be replaced. */
  installing = false;
  fetching = false;
  /** The hard state as of a commit index that no write has taken yet. */
  #unwritten: HardState | null = null;
  /** What observers were last told. */
  seenLeader: ReplicaId = 0;
  seenTerm = 0;
  #queue: Queued[] = [];
  #queuedBytes = 0;

  constructor(group: GroupId, raft: Raft, reads: Reads) {
    this.group = group;
    this.raft = raft;
    this.reads = reads;
    this.seenTerm = raft.term;
  }

  get hasBacklog(): boolean {
    return this.backlogAt < this.backlog.length;
  }

  /** True if nobody waits for anything here: neither a caller nor, for want of a leader, the group. */
  get isAtRest(): boolean {
    return this.raft.isSettled && this.reads.count === 0 && this.proposals.count === 0 && this.#queue.length === 0 && !this.hasBacklog && !this.installing && !this.fetching;
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get queued(): number {
    return this.#queue.length;
  }

  enqueue(data: Uint8Array, done: ProposeDone): void {
    this.#queue.push({ data, done });
    this.#queuedBytes += data.length;
  }

  /** Proposes everything queued as one run of entries; where only part of it fits, the rest is refused in order. */
  submitQueued(): void {
    if (this.#queue.length === 0) return;
    const queue = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    const result = this.raft.propose(queue.map((queued) => queued.data));
    if (result.ok) {
      let index = result.index;
      for (const queued of queue) this.proposals.wait(index++, result.term, queued.done);
      return;
    }
    const oneByOne = result.reason === 'overloaded' && queue.length > 1;
    for (const queued of queue) {
      const single = oneByOne ? this.raft.propose([queued.data]) : result;
      if (single.ok) this.proposals.wait(single.index, single.term, queued.done);
      else queued.done({ status: 'not_applied', reason: single.reason, leader: this.raft.leader });
    }
  }

  /**
   * Takes what a Ready wants persisted into the next write. A later tail or snapshot replaces what it overrides. A commit
   * index alone is worth no share of a write: it may be lost (thesis fig. 3.1: it is volatile), so it rides with what comes
   * next for this group.
   */
  gather(ready: Ready): void {
    if (ready.hardState !== null) this.#unwritten = ready.hardState;
    if (!ready.sync) return;
    const next = this.#next();
    if (ready.snapshot !== null) {
      next.snapshot = ready.snapshot;
      next.entries = NO_ENTRIES;
      next.compactTo = 0;
      this.installing = true;
      // The snapshot's state holds the effects of all of these already.
      this.backlog = [];
      this.backlogAt = 0;
    }
    if (next.entries.length === 0) next.entries = ready.entries;
    else next.entries = replacing(next.entries, ready.entries);
    if (ready.persist !== null) next.tokens = next.tokens.length === 0 ? [ready.persist] : [...next.tokens, ready.persist];
    next.sync = true;
  }

  /** Asks that the log start at `index` from the next write on. */
  gatherCompaction(index: number): void {
    const next = this.#next();
    next.compactTo = Math.max(next.compactTo, index);
  }

  /** `messages` leave when everything that something earlier waits for is durable. False: it is, they may leave now. */
  holdBack(messages: readonly Message[]): boolean {
    const write = this.next !== null && this.next.sync ? this.next : this.inFlight;
    if (write === null) return false;
    write.after = write.after.length === 0 ? messages : [...write.after, ...messages];
    return true;
  }

  addCommitted(entries: readonly Entry[]): void {
    if (this.hasBacklog) this.backlog.push(...entries);
    else {
      this.backlog = entries.slice();
      this.backlogAt = 0;
    }
  }

  /** Moves what was gathered into the write about to start. */
  startWrite(): GroupWrite | null {
    const next = this.next;
    if (next === null) return null;
    this.next = null;
    this.inFlight = next;
    const hardState = this.#unwritten;
    this.#unwritten = null;
    return { group: this.group, hardState, entries: next.entries, snapshot: next.snapshot, compactTo: next.compactTo };
  }

  /** Answers everyone who waits, because nothing more will be learnt here. */
  abandon(reason: 'removed' | 'stopped' | 'failed'): void {
    const queue = this.#queue;
    this.#queue = [];
    for (const queued of queue) queued.done({ status: 'not_applied', reason: reason === 'removed' ? 'no_group' : 'stopped', leader: 0 });
    this.proposals.abandon(reason);
    this.reads.abandon();
  }

  #next(): Gathered {
    this.next ??= { sync: false, entries: NO_ENTRIES, snapshot: null, compactTo: 0, tokens: NO_TOKENS, after: NO_MESSAGES };
    return this.next;
  }
}

/** `held` with `entries` behind it, which replace whatever it has from their first index on. */
function replacing(held: readonly Entry[], entries: readonly Entry[]): readonly Entry[] {
  const first = entries[0];
  if (first === undefined) return held;
  let keep = held.length;
  while (keep > 0 && (held[keep - 1]?.index ?? 0) >= first.index) keep -= 1;
  return [...held.slice(0, keep), ...entries];
}
