/**
 * Deletes what nobody can read any more: compacted log entries and all rows of dead slots. The decision is durable
 * before a range comes here; a crash loses only the work, and open finds the rest again. Deletions go in small steps,
 * partly along with the host's writes, so that they neither stall a write nor pile up files in level 0.
 */
import type { GroupId } from '../../raft/types.ts';
import { logKey, slotKey, Space } from './keys.ts';
import type { Database, RowSink, Writer } from './writer.ts';

/** Rows that one step deletes. */
export const STEP_ROWS = 512;
const STEP_MS = 20;
/** At this many level-0 files LevelDB is about to slow all writes down: sweeping waits. */
const LEVEL0_FILES_MAX = 6;
const STEP_ROW_BYTES = 64;

interface LogRange {
  readonly group: GroupId;
  readonly slot: number;
  from: number;
  readonly to: number;
}

interface DeadSlot {
  readonly group: GroupId;
  readonly slot: number;
  readonly space: typeof Space.log | typeof Space.state;
}

export class Sweeper {
  private readonly db: Database;
  private readonly writer: Writer;
  private readonly isLive: (group: GroupId, slot: number) => boolean;
  private readonly logRanges: LogRange[] = [];
  private readonly deadSlots: DeadSlot[] = [];
  private timer: NodeJS.Timeout | null = null;
  private running: Promise<void> = Promise.resolve();
  private isClosed = false;

  /** `isLive`: asked again before each step, because a live slot deleted by mistake could not be brought back. */
  constructor(db: Database, writer: Writer, isLive: (group: GroupId, slot: number) => boolean) {
    this.db = db;
    this.isLive = isLive;
    this.writer = writer;
  }

  /** Log entries [from, to) of a live slot, behind the log's first index. */
  addLog(group: GroupId, slot: number, from: number, to: number): void {
    if (from >= to) return;
    this.logRanges.push({ group, slot, from, to });
    this.schedule();
  }

  /** Every row of a slot that is not, and never again will be, live. */
  addSlot(group: GroupId, slot: number): void {
    this.deadSlots.push({ group, slot, space: Space.log }, { group, slot, space: Space.state });
    this.schedule();
  }

  /** Lets up to `rowsMax` deletions of log entries ride in a batch that is being put together anyway. */
  ride(sink: RowSink, rowsMax: number): void {
    let rows = 0;
    for (;;) {
      const range = this.logRanges[0];
      if (range === undefined) return;
      while (range.from < range.to && rows < rowsMax) {
        sink.del(logKey(range.group, range.slot, range.from++));
        rows++;
      }
      if (range.from < range.to) return;
      this.logRanges.shift();
    }
  }

  /** True while anything of the group is left to delete; what has been handed to the writer counts as deleted. */
  isSweeping(group: GroupId): boolean {
    return this.logRanges.some((range) => range.group === group) || this.deadSlots.some((slot) => slot.group === group);
  }

  /** True while there is something left to delete. */
  get isBusy(): boolean {
    return this.logRanges.length + this.deadSlots.length > 0;
  }

  async close(): Promise<void> {
    this.isClosed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    await this.running;
  }

  private schedule(): void {
    if (this.timer !== null || this.isClosed) return;
    this.timer = setTimeout(() => {
      this.running = this.step().then(
        () => {
          this.timer = null;
          if (this.isBusy) this.schedule();
        },
        // The writer reports its own failure; what is left is found again at the next open. Anything else is a bug.
        (error: unknown) => {
          if (this.writer.failure === null) throw error;
        },
      );
    }, STEP_MS);
    this.timer.unref();
  }

  private async step(): Promise<void> {
    if (Number(this.db.getProperty('leveldb.num-files-at-level0')) >= LEVEL0_FILES_MAX) return;
    if (this.logRanges.length > 0) {
      await this.writer.run(STEP_ROWS * STEP_ROW_BYTES, (sink) => this.ride(sink, STEP_ROWS), 'bulk');
      return;
    }
    const dead = this.deadSlots[0];
    if (dead === undefined) return;
    if (this.isLive(dead.group, dead.slot)) throw new Error(`slot ${dead.slot} of group ${dead.group} is live and was to be swept`);
    const range = { gte: slotKey(dead.space, dead.group, dead.slot), lt: slotKey(dead.space, dead.group, dead.slot + 1), limit: STEP_ROWS };
    // Garbage that cannot even be read stays until a later open: it hurts nobody.
    const keys = await this.db.keys(range).all().catch(() => []);
    if (keys.length === 0) this.deadSlots.shift();
    else await this.writer.run(keys.length * STEP_ROW_BYTES, (sink) => keys.forEach((key) => sink.del(key)), 'bulk');
  }
}
