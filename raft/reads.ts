/**
 * Linearizable reads of one group, batched: one ReadIndex round in flight carries every read that was waiting when it
 * started; a read that arrives later waits for the next round, since a confirmation counts only for reads that were
 * there before it was asked for (Raft thesis §6.4).
 */
import type { ReadState } from './types.ts';

/** Called once: with the index that the state machine has applied (at least), or -1 when the read was refused. */
export type ReadDone = (index: number) => void;

interface Round {
  readonly context: number;
  readonly reads: readonly ReadDone[];
  readonly startedTick: number;
}

interface Confirmed {
  readonly index: number;
  readonly reads: readonly ReadDone[];
}

export class Reads {
  /** Read contexts are never reused, over restarts too: a late answer to an earlier life must not confirm a new round. */
  #context: number;
  readonly #retryTicks: number;
  #arrived: ReadDone[] = [];
  #round: Round | null = null;
  /** Confirmed and waiting to be applied; indexes ascend. */
  #confirmed: Confirmed[] = [];
  #count = 0;

  /** `contextBase`: a random number, distinct for each life of each replica. A round unanswered for `retryTicks` is asked again. */
  constructor(contextBase: number, retryTicks: number) {
    this.#context = contextBase;
    this.#retryTicks = retryTicks;
  }

  get count(): number {
    return this.#count;
  }

  add(done: ReadDone): void {
    this.#arrived.push(done);
    this.#count += 1;
  }

  /** True if reads wait and no round is under way. */
  get wantsRound(): boolean {
    return this.#round === null && this.#arrived.length > 0;
  }

  /** The context of a round to start now, or 0: none is wanted, or one is under way. */
  nextRound(tick: number): number {
    if (!this.wantsRound) return 0;
    this.#context += 1;
    this.#round = { context: this.#context, reads: this.#arrived, startedTick: tick };
    this.#arrived = [];
    return this.#context;
  }

  /** True when the round in flight has gone unanswered for too long; its reads then wait for a new one. */
  expire(tick: number): boolean {
    const round = this.#round;
    if (round === null || tick - round.startedTick < this.#retryTicks) return false;
    this.#arrived = [...round.reads, ...this.#arrived];
    this.#round = null;
    return true;
  }

  /** An answer from Raft. One for a round that was given up is ignored: its reads ride in a later one. */
  answered(state: ReadState): void {
    const round = this.#round;
    if (round === null || round.context !== state.context) return;
    this.#round = null;
    if (state.index < 0) {
      this.#refuse(round.reads);
      return;
    }
    const last = this.#confirmed.at(-1);
    this.#confirmed.push({ index: Math.max(state.index, last === undefined ? 0 : last.index), reads: round.reads });
  }

  /** The state machine has applied up to `applied`: serves the reads that waited for it. */
  applied(applied: number): void {
    let first = this.#confirmed[0];
    while (first !== undefined && first.index <= applied) {
      this.#confirmed.shift();
      this.#count -= first.reads.length;
      for (const done of first.reads) done(applied);
      first = this.#confirmed[0];
    }
  }

  /** Refuses every read: the replica goes away. */
  abandon(): void {
    const round = this.#round;
    const confirmed = this.#confirmed;
    const arrived = this.#arrived;
    this.#round = null;
    this.#confirmed = [];
    this.#arrived = [];
    if (round !== null) this.#refuse(round.reads);
    for (const each of confirmed) this.#refuse(each.reads);
    this.#refuse(arrived);
  }

  #refuse(reads: readonly ReadDone[]): void {
    this.#count -= reads.length;
    for (const done of reads) done(-1);
  }
}
