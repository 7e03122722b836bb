/**
 * Who waits for which entry of one group. A proposal is answered when the entry at its index applies here, whoever
 * leads by then: the same term means it was this proposal's entry, another term that it was overwritten.
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

  /** Callers that wait. Bounded by the host, which refuses to propose beyond its limit. */
  get count(): number {
    return this.#count;
  }

  wait(index: number, term: number, done: ProposeDone): void {
    this.#waiting.set(index, { term, done, earlier: this.#waiting.get(index) });
    this.#count += 1;
  }

  has(index: number): boolean {
    return this.#waiting.has(index);
  }

  /** The entry of `term` at `index` was applied here with `reply`. */
  applied(index: number, term: number, reply: unknown, leader: ReplicaId): void {
    const first = this.#waiting.get(index);
    if (first === undefined) return;
    this.#waiting.delete(index);
    for (let waiting: Waiting | undefined = first; waiting !== undefined; waiting = waiting.earlier) {
      this.#count -= 1;
      waiting.done(waiting.term === term ? { status: 'applied', index, term, reply } : { status: 'not_applied', reason: 'superseded', leader });
    }
  }

  /** A snapshot replaced the state up to `index`: what was applied on the way there is not known here. */
  jumped(index: number): void {
    for (const [at, first] of [...this.#waiting]) {
      if (at <= index) this.#unknown(at, first, 'snapshot');
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
