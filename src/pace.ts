/**
 * When the node's next write may start. A write costs about the same whatever it holds, so a node whose event loop is
 * busy does better with fewer and fuller ones; a node with time to spare starts each at once and adds no delay. Owns
 * only the moment; knows nothing of what is written.
 */
import { performance } from 'node:perf_hooks';

/** The longest time from the start of one write to that of the next, reached when the loop is this busy. */
const GAP_MS = 6;
const BUSY = 0.7;
/** Below this share of time at work nothing waits. */
const CALM = 0.4;
/** A write for fewer groups has no company worth waiting for. */
const GROUPS_MIN = 4;
/** How often the loop's work is looked at. */
const LOOK_MS = 100;
/** Timers do not count finer. */
const WAIT_MS_MIN = 0.5;

export interface PaceClock {
  readonly now: () => number;
  /** Share of the time since the last call that the event loop was at work, 0 to 1. */
  readonly utilization: () => number;
  readonly after: (ms: number, work: () => void) => void;
}

/** The clock of this process. */
export function processClock(): PaceClock {
  let last = performance.eventLoopUtilization();
  const utilization = (): number => {
    const now = performance.eventLoopUtilization();
    const share = performance.eventLoopUtilization(now, last).utilization;
    last = now;
    return share;
  };
  return { now: () => performance.now(), utilization, after: (ms, work) => void setTimeout(work, ms) };
}

export class WritePace {
  readonly #clock: PaceClock;
  #gapMs = 0;
  #lookedMs = 0;
  #startedMs = -Infinity;

  constructor(clock: PaceClock = processClock()) {
    this.#clock = clock;
  }

  /** HostPorts.pace (raft/ports.ts). */
  readonly pace = (groups: number, start: () => void): void => {
    const now = this.#clock.now();
    if (now - this.#lookedMs >= LOOK_MS) {
      this.#lookedMs = now;
      this.#gapMs = GAP_MS * Math.min(1, Math.max(0, (this.#clock.utilization() - CALM) / (BUSY - CALM)));
    }
    const wait = groups < GROUPS_MIN ? 0 : this.#startedMs + this.#gapMs - now;
    if (wait >= WAIT_MS_MIN) return this.#clock.after(wait, () => this.#begin(start));
    this.#begin(start);
  };

  #begin(start: () => void): void {
    this.#startedMs = this.#clock.now();
    start();
  }
}
