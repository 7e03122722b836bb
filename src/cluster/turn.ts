/**
 * One turn of the event loop as the cluster's parts share it: work that was asked for while sockets were read runs
 * once, and what it and they want to send leaves at its end, so that a peer gets one write a turn instead of one for
 * each kind of frame. Owns the order within a turn; knows nothing of what runs.
 */

export class Turn {
  #scheduled = false;
  #works: (() => void)[] = [];
  #ends: (() => void)[] = [];

  readonly #run = (): void => {
    this.#scheduled = false;
    const works = this.#works;
    this.#works = [];
    for (const work of works) work();
    const ends = this.#ends;
    this.#ends = [];
    for (const end of ends) end();
  };

  /** Runs `work` once the events at hand were read, after the current call stack. */
  soon(work: () => void): void {
    this.#works.push(work);
    this.#schedule();
  }

  /** Runs `end` after all work of the turn, also when there is none. */
  atEnd(end: () => void): void {
    this.#ends.push(end);
    this.#schedule();
  }

  /**
   * setImmediate, not a microtask: a microtask runs after each callback, so requests that arrived on different client
   * sockets in one turn would each pay for a frame; setImmediate runs once all of them were read.
   */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#run);
  }
}
