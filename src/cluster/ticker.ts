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

interface Task {
  readonly steps: number;
  readonly work: () => void;
}

export class Ticker {
  readonly #stepMs: number;
  readonly #tasks = new Set<Task>();
  #timer: NodeJS.Timeout | null = null;
  #steps = 0;

  constructor(stepMs: number) {
    this.#stepMs = stepMs;
  }

  /** As `Every`; `ms` counts as the nearest multiple of the ticker's step. Tasks due together run in the order they came. */
  readonly every: Every = (ms, work) => {
    const task = { steps: Math.max(1, Math.round(ms / this.#stepMs)), work };
    this.#tasks.add(task);
    this.#timer ??= setInterval(() => this.#step(), this.#stepMs);
    return () => this.#end(task);
  };

  #step(): void {
    this.#steps += 1;
    for (const task of this.#tasks) if (this.#steps % task.steps === 0) task.work();
  }

  #end(task: Task): void {
    this.#tasks.delete(task);
    if (this.#tasks.size > 0 || this.#timer === null) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }
}
