/**
 * What a leader knows of one replica and how it sends to it. The three states and their transitions follow etcd/raft's
 * tracker: probe (one message per heartbeat interval until the logs are known to agree), replicate (optimistic
 * pipelining within the in-flight limits), snapshot (nothing is sent until the replica has fetched one).
 * Owns no messages: raft.ts builds them and reports here what it sent.
 */
import type { ReplicaId } from './types.ts';

export const ProgressState = { probe: 0, replicate: 1, snapshot: 2 } as const;
export type ProgressState = (typeof ProgressState)[keyof typeof ProgressState];

export const Vote = { missing: 0, granted: 1, rejected: 2 } as const;
export type Vote = (typeof Vote)[keyof typeof Vote];

/** Sent and not yet acknowledged appends, oldest first: a ring that grows to what is really in flight. */
class Inflights {
  readonly #messagesMax: number;
  readonly #bytesMax: number;
  #lastIndexes: number[] = [0, 0, 0, 0];
  #sizes: number[] = [0, 0, 0, 0];
  #start = 0;
  #count = 0;
  #bytes = 0;

  constructor(messagesMax: number, bytesMax: number) {
    this.#messagesMax = messagesMax;
    this.#bytesMax = bytesMax;
  }

  /** True when nothing more may be sent. One message may pass the byte limit, so that a large entry is not stuck. */
  full(): boolean {
    return this.#count >= this.#messagesMax || this.#bytes >= this.#bytesMax;
  }

  add(lastIndex: number, bytes: number): void {
    if (this.#count === this.#sizes.length) this.#grow();
    const slot = (this.#start + this.#count) & (this.#sizes.length - 1);
    this.#lastIndexes[slot] = lastIndex;
    this.#sizes[slot] = bytes;
    this.#count++;
    this.#bytes += bytes;
  }

  /** Forgets every message whose last entry is at or below `index`. */
  freeThrough(index: number): void {
    while (this.#count > 0 && (this.#lastIndexes[this.#start] ?? 0) <= index) {
      this.#bytes -= this.#sizes[this.#start] ?? 0;
      this.#start = (this.#start + 1) & (this.#sizes.length - 1);
      this.#count--;
    }
  }

  clear(): void {
    this.#start = 0;
    this.#count = 0;
    this.#bytes = 0;
  }

  /** Doubles the ring; its size stays a power of two. */
  #grow(): void {
    const size = this.#sizes.length;
    const lastIndexes: number[] = [];
    const sizes: number[] = [];
    for (let i = 0; i < size; i++) {
      const slot = (this.#start + i) & (size - 1);
      lastIndexes.push(this.#lastIndexes[slot] ?? 0);
      sizes.push(this.#sizes[slot] ?? 0);
    }
    for (let i = 0; i < size; i++) {
      lastIndexes.push(0);
      sizes.push(0);
    }
    this.#lastIndexes = lastIndexes;
    this.#sizes = sizes;
    this.#start = 0;
  }
}

/** A leader's view of one replica, itself included. Meaningless on a follower except for `vote` during an election. */
export class Progress {
  readonly id: ReplicaId;
  /** Counted in no majority; set by the configuration. */
  learner = false;
  state: ProgressState = ProgressState.probe;
  /** Highest index known to be durable on the replica. Never decreases within a term; always below `next`. */
  match = 0;
  /** Index of the next entry to send. In probe it is a guess; in snapshot it lies behind the pending snapshot. */
  next = 1;
  /** Highest commit index sent, with entries or alone; what a rejection showed to be lost is taken back. */
  sentCommit = 0;
  /** In snapshot: the index without which the replica cannot be served from the log. 0 otherwise. */
  pendingSnapshot = 0;
  /** In snapshot: ticks since it was asked to fetch one. */
  snapshotTicks = 0;
  /** The replica answered in this term since the last check of the quorum. */
  active = false;
  /** In probe or with the in-flight window full: nothing is sent until an answer or a heartbeat response arrives. */
  paused = false;
  /** Something may have to be sent at the next `ready()`: proposals and commits in between share one message. */
  sendPending = false;
  /** Latest read round the replica confirmed; 0 none. */
  readRound = 0;
  /** Answer to the (pre-)vote under way. */
  vote: Vote = Vote.missing;
  readonly #inflights: Inflights;

  constructor(id: ReplicaId, limits: { readonly inflightMessagesMax: number; readonly inflightBytesMax: number }) {
    this.id = id;
    this.#inflights = new Inflights(limits.inflightMessagesMax, limits.inflightBytesMax);
  }

  /** Start of a term, or of membership: nothing is known. */
  restart(match: number, next: number): void {
    this.#enter(ProgressState.probe);
    this.match = match;
    this.next = next;
    this.sentCommit = 0;
    this.active = false;
    this.sendPending = false;
    this.readRound = 0;
  }

  becomeProbe(): void {
    // A snapshot that was fetched moves `next` behind it; the leader clears pendingSnapshot when it failed.
    const next = Math.max(this.match, this.pendingSnapshot) + 1;
    this.#enter(ProgressState.probe);
    this.next = next;
    this.sentCommit = Math.min(this.sentCommit, next - 1);
  }

  becomeReplicate(): void {
    this.#enter(ProgressState.replicate);
    this.next = this.match + 1;
  }

  becomeSnapshot(index: number): void {
    this.#enter(ProgressState.snapshot);
    this.pendingSnapshot = index;
    this.next = index + 1;
    this.sentCommit = index;
  }

  #enter(state: ProgressState): void {
    this.state = state;
    this.paused = false;
    this.pendingSnapshot = 0;
    this.snapshotTicks = 0;
    this.#inflights.clear();
  }

  /** The replica acknowledged `index`. False if that was known. */
  acknowledge(index: number): boolean {
    if (index <= this.match) return false;
    this.match = index;
    this.next = Math.max(this.next, index + 1);
    this.paused = false;
    return true;
  }

  /** Frees the window through `index`, which the replica acknowledged. */
  freeInflights(index: number): void {
    this.#inflights.freeThrough(index);
  }

  /** An append at `rejected` was refused, and the logs may agree at `hint`. False if the refusal is stale. */
  backOff(rejected: number, hint: number): boolean {
    if (this.state === ProgressState.replicate) {
      // Acknowledged entries never vanish, so a refusal at or below match belongs to an earlier probe.
      if (rejected <= this.match) return false;
      this.next = this.match + 1;
    } else {
      if (this.next - 1 !== rejected) return false;
      this.next = Math.max(Math.min(rejected, hint + 1), this.match + 1);
    }
    this.sentCommit = Math.min(this.sentCommit, this.next - 1);
    this.paused = false;
    return true;
  }

  /** True while nothing may be sent, not even an empty append. */
  isPaused(): boolean {
    return this.paused || this.state === ProgressState.snapshot;
  }

  /** True while the in-flight window has no room for entries; an empty append may still go to find out what was lost. */
  isFull(): boolean {
    return this.state === ProgressState.replicate && this.#inflights.full();
  }

  /** An append with `count` entries of `bytes` was sent, carrying `commit`. */
  sent(count: number, bytes: number, commit: number): void {
    this.sentCommit = commit;
    if (this.state !== ProgressState.replicate) {
      this.paused = true;
      return;
    }
    if (count > 0) {
      this.next += count;
      this.#inflights.add(this.next - 1, bytes);
    }
    this.paused = this.#inflights.full();
  }
}
