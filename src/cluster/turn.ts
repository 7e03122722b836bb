/**
 * One turn of the event loop as the cluster's parts share it: work that was asked for while sockets were read runs
 * once, and what it and they want to send leaves at its end, so that a peer gets one write a turn instead of one for
 * each kind of frame. Last comes what takes a while and has nothing to send. Owns the order within a turn; knows nothing
 * of what runs.
 */

type Phase = 'work' | 'end' | 'last';
const PHASES: readonly Phase[] = ['work', 'end', 'last'];

export class Turn {
  #scheduled = false;
  readonly #tasks: Record<Phase, (() => void)[]> = { work: [], end: [], last: [] };

  readonly #run = (): void => {
    this.#scheduled = false;
    for (const phase of PHASES) {
      const tasks = this.#tasks[phase];
      this.#tasks[phase] = [];
      for (const task of tasks) task();
    }
  };

  /** Runs `work` once the events at hand were read, after the current call stack. */
  soon(work: () => void): void {
    this.#add('work', work);
  }

  /** Runs `end` after all work of the turn, also when there is none. */
  atEnd(end: () => void): void {
    this.#add('end', end);
  }

  /** Runs `last` when what the turn had to send is on its way; what `last` sends leaves at the end of the next turn. */
  afterSends(last: () => void): void {
    this.#add('last', last);
  }

  /**
   * setImmediate, not a microtask: a microtask runs after each callback, so requests that arrived on different client
   * sockets in one turn would each pay for a frame; setImmediate runs once all of them were read.
   */
  #add(phase: Phase, task: () => void): void {
    this.#tasks[phase].push(task);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#run);
  }
}
