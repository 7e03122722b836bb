/**
 * One timer for what a node does many times a second. Intervals that each had a timer of their own would fall due at
 * different moments, and an idle node pays for each moment it is woken at far more than for what it then does. Owns
 * when, not what.
 */

/** Calls `work` every `ms` milliseconds until the function that is returned is called. */
export type Every = (ms: number, work: () => void) => () => void;

/** An interval with a timer of its own, which keeps no process alive: for parts that run outside a node. */
export const everyAlone: Every = (ms, work) => {
  const timer = setInterval(work, ms);
  timer.unref();
  return () => clearInterval(timer);
};

/**
 * Steps that are made in one awakening while nothing waits for them. With Raft's ticks of 50 ms an idle leader is heard every
 * 200 ms, three times in the shortest election timeout; whoever misses one of these beats is at rest no more.
 */
export const REST_STEPS = 4;

export interface TickerOptions {
  readonly stepMs: number;
  /** True if nothing waits for the next steps: up to REST_STEPS may be made together. Asked after each awakening. */
  readonly mayDefer: () => boolean;
  /** Told at each awakening how many milliseconds later than due it was. */
  readonly onLate: (ms: number) => void;
}

interface Task {
  readonly steps: number;
  readonly work: () => void;
}

export class Ticker {
  readonly #options: TickerOptions;
  readonly #tasks = new Set<Task>();
  #timer: NodeJS.Timeout | null = null;
  /** When the timer is due, and the steps to be made then. */
  #dueAt = 0;
  #due = 1;
  #steps = 0;

  constructor(options: TickerOptions) {
    this.#options = options;
  }

  /** As `Every`; `ms` counts as the nearest multiple of the ticker's step. Tasks due together run in the order they came. */
  readonly every: Every = (ms, work) => {
    const task = { steps: Math.max(1, Math.round(ms / this.#options.stepMs)), work };
    this.#tasks.add(task);
    if (this.#timer === null) this.#arm(1);
    return () => this.#end(task);
  };

  #arm(steps: number): void {
    const { stepMs } = this.#options;
    const ms = steps === 1 ? stepMs : untilNextMultiple(steps * stepMs, stepMs / 2);
    this.#due = Math.min(steps, Math.round(ms / stepMs));
    this.#dueAt = performance.now() + ms;
    this.#timer = setTimeout(this.#wake, ms);
  }

  readonly #wake = (): void => {
    this.#options.onLate(Math.max(0, performance.now() - this.#dueAt));
    // A step that was put off is made all the same: whoever counts steps counts them all.
    for (let left = this.#due; left > 0; left--) this.#step();
    if (this.#timer !== null) this.#arm(this.#options.mayDefer() ? REST_STEPS : 1);
  };

  #step(): void {
    this.#steps += 1;
    for (const task of this.#tasks) if (this.#steps % task.steps === 0) task.work();
  }

  #end(task: Task): void {
    this.#tasks.delete(task);
    if (this.#tasks.size > 0 || this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
  }
}

/**
 * Milliseconds until the wall clock next shows a multiple of `ms`, at least `least`. Nodes at rest thus wake up at about the
 * same moment, and take each other's heartbeats in few awakenings. Clocks that differ only make them wake up more often.
 */
function untilNextMultiple(ms: number, least: number): number {
  const until = ms - (Date.now() % ms);
  return until < least ? until + ms : until;
}
