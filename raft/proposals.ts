/**
 * Who waits for which entry of one group. A proposal is answered when the entry at its index applies here, whoever
 * leads by then: the same term means it was this proposal's entry, another term that it was overwritten. It is also
 * answered as overwritten once an entry of a later term applies below it.
 */
import type { ProposeRefusal, ReplicaId } from './types.ts';

/**
 * What became of a proposal. `not_applied` is certain: the entry is not and will never be in the log. `unknown` is
 * not: it may have been applied, or may be later.
 */
export type ProposeOutcome =
  | { readonly status: 'applied'; readonly index: number; readonly term: number; readonly reply: unknown }
  | { readonly status: 'not_applied'; readonly reason: ProposeRefusal | 'superseded' | 'no_group' | 'stopped'; readonly leader: ReplicaId }
  | { readonly status: 'unknown'; readonly reason: 'snapshot' | 'removed' | 'stopped' | 'failed' };

export type ProposeDone = (outcome: ProposeOutcome) => void;

interface Waiting {
  readonly term: number;
  readonly done: ProposeDone;
  /** An earlier proposal of an older term at the same index: it may still win, so it keeps waiting too. */
  readonly earlier: Waiting | undefined;
}

/** Proposals of one group that were appended here and wait for their index to apply. */
export class Proposals {
  readonly #waiting = new Map<number, Waiting>();
  #count = 0;
  /** Term of the last applied entry. */
  #appliedTerm = 0;

  /** Callers that wait. Bounded by the host, which refuses to propose beyond its limit. */
  get count(): number {
    return this.#count;
  }

  wait(index: number, term: number, done: ProposeDone): void {
    this.#waiting.set(index, { term, done, earlier: this.#waiting.get(index) });
    this.#count += 1;
  }

  /**
   * The entry of `term` at `index` was applied here with `reply`. Terms never decrease along the committed log, so
   * whatever older terms still wait for behind it can never be committed: they are answered at once instead of when
   * the log grows that far, which in a quiet group may be never.
   */
  applied(index: number, term: number, reply: unknown, leader: ReplicaId): void {
    const first = this.#waiting.get(index);
    if (first !== undefined) {
      this.#waiting.delete(index);
      for (let waiting: Waiting | undefined = first; waiting !== undefined; waiting = waiting.earlier) {
        this.#count -= 1;
        waiting.done(waiting.term === term ? { status: 'applied', index, term, reply } : { status: 'not_applied', reason: 'superseded', leader });
      }
    }
    if (term > this.#appliedTerm) this.#supersede(term, leader);
  }

  /** A snapshot replaced the state up to (index, term): what was applied on the way there is not known here. */
  jumped(index: number, term: number, leader: ReplicaId): void {
    for (const [at, first] of [...this.#waiting]) {
      if (at <= index) this.#unknown(at, first, 'snapshot');
    }
    if (term > this.#appliedTerm) this.#supersede(term, leader);
  }

  /** An entry of `term` is committed below all that wait. */
  #supersede(term: number, leader: ReplicaId): void {
    this.#appliedTerm = term;
    for (const [at, first] of [...this.#waiting]) {
      let kept: Waiting | undefined;
      const lost: Waiting[] = [];
      for (let waiting: Waiting | undefined = first; waiting !== undefined; waiting = waiting.earlier) {
        if (waiting.term < term) lost.push(waiting);
        else kept = { term: waiting.term, done: waiting.done, earlier: kept };
      }
      if (lost.length === 0) continue;
      if (kept === undefined) this.#waiting.delete(at);
      else this.#waiting.set(at, kept);
      this.#count -= lost.length;
      for (const { done } of lost) done({ status: 'not_applied', reason: 'superseded', leader });
    }
  }

  /** The replica goes away, or stops acknowledging. */
  abandon(reason: 'removed' | 'stopped' | 'failed'): void {
    for (const [at, first] of [...this.#waiting]) this.#unknown(at, first, reason);
  }

  #unknown(index: number, first: Waiting, reason: 'snapshot' | 'removed' | 'stopped' | 'failed'): void {
    this.#waiting.delete(index);
    for (let waiting: Waiting | undefined = first; waiting !== undefined; waiting = waiting.earlier) {
      this.#count -= 1;
      waiting.done({ status: 'unknown', reason });
    }
  }
}
