/**
 * How fast archived messages leave hot storage. What a command trims is applied in one go, and written with whatever else
 * a batch holds, on every replica: so few rows are under way at a time, and none begins while the disk has enough to tidy
 * up. Owns the waiting only; how many rows one command may trim is part of the state machine (contexts/archive.ts).
 */
import { setTimeout as sleep } from 'node:timers/promises';

/** Rows under way in all commands of a node together; one command may pass it. */
export const TRIM_ROWS_AT_ONCE = 1024;
/** At this many files at level 0 LevelDB is about to slow all writes down. */
const LEVEL0_FILES_MAX = 6;
const LOOK_MS = 20;
/** Marks wait no longer than this for the disk: what is in no archive yet must not wait behind what is. */
const DISK_WAIT_MS = 1000;

export class TrimPace {
  private readonly level0Files: () => number;
  private rows = 0;
  private readonly waiting: { readonly rows: number; readonly go: () => void }[] = [];

  constructor(level0Files: () => number) {
    this.level0Files = level0Files;
  }

  /** Runs `work`, which trims up to `rows` messages, once that is few enough with what is under way. In the order of the calls; at once where there is nothing to trim. */
  async run<T>(rows: number, work: () => Promise<T>): Promise<T> {
    if (rows === 0) return work();
    await this.enter(rows);
    try {
      for (let waited = 0; waited < DISK_WAIT_MS && this.level0Files() >= LEVEL0_FILES_MAX; waited += LOOK_MS) await sleep(LOOK_MS);
      return await work();
    } finally {
      this.rows -= rows;
      this.admit();
    }
  }

  private enter(rows: number): Promise<void> {
    return new Promise((go) => {
      this.waiting.push({ rows, go });
      this.admit();
    });
  }

  private admit(): void {
    for (;;) {
      const [next] = this.waiting;
      if (next === undefined || (this.rows > 0 && this.rows + next.rows > TRIM_ROWS_AT_ONCE)) return;
      this.waiting.shift();
      this.rows += next.rows;
      next.go();
    }
  }
}
