/**
 * The background scrub: reads every log entry and state row at a limited rate, round after round, and reports those
 * that are not what was written. Rot in rows that nobody reads would otherwise be found when the good copies are gone.
 */
import type { GroupId } from '../../raft/types.ts';
import { isIntact } from './checksum.ts';
import type { GroupStore } from './group.ts';
import { isRowIntact, readGroup, readLogIndex, readSlot, Space } from './keys.ts';
import type { Database } from './writer.ts';

const ROWS_PER_STEP_MAX = 1000;
const STEP_MS = 100;
const READ_AHEAD_BYTES = 1024 * 1024;

export interface ScrubPorts {
  /** 0: never. */
  readonly rowsPerSecond: number;
  readonly group: (group: GroupId) => GroupStore | undefined;
  readonly onDamage: (group: GroupId, reason: string) => void;
}

export class Scrub {
  /** Rows read since open, and completed rounds. */
  rows = 0;
  rounds = 0;
  private readonly db: Database;
  private readonly ports: ScrubPorts;
  /** Everything before it was read in this round. */
  private position: Uint8Array = Uint8Array.of(Space.log);
  private timer: NodeJS.Timeout | null = null;
  private running: Promise<void> = Promise.resolve();
  private isClosed = false;

  constructor(db: Database, ports: ScrubPorts) {
    this.db = db;
    this.ports = ports;
  }

  start(): void {
    const { rowsPerSecond } = this.ports;
    if (rowsPerSecond === 0 || this.isClosed) return;
    const rows = Math.max(1, Math.min(ROWS_PER_STEP_MAX, Math.round((rowsPerSecond * STEP_MS) / 1000)));
    this.timer = setTimeout(() => {
      this.running = this.step(rows).then(() => this.start());
    }, Math.max(STEP_MS, (rows * 1000) / rowsPerSecond));
    this.timer.unref();
  }

  async close(): Promise<void> {
    this.isClosed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    await this.running;
  }

  /** Reads up to `limit` further rows; from the start again after the last. */
  async step(limit: number): Promise<void> {
    const iterator = this.db.iterator({ gt: this.position, lt: Uint8Array.of(Space.state + 1), limit, fillCache: false, highWaterMarkBytes: READ_AHEAD_BYTES });
    try {
      const rows = await iterator.nextv(limit);
      for (const [key, value] of rows) this.check(key, value);
      this.rows += rows.length;
      const last = rows[rows.length - 1];
      if (last !== undefined) this.position = last[0];
      else {
        this.position = Uint8Array.of(Space.log);
        this.rounds++;
      }
    } catch (error) {
      const group = this.position.length >= 3 ? readGroup(this.position) : -1;
      this.ports.onDamage(group, `rows of group ${group} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
      this.position = Uint8Array.of(Space.log);
    } finally {
      await iterator.close();
    }
  }

  /** What nobody can read any more may be damaged: it is on its way out. */
  private check(key: Uint8Array, value: Uint8Array): void {
    if (key.length < 7 || (key[0] !== Space.log && key[0] !== Space.state)) return;
    const group = this.ports.group(readGroup(key));
    if (group === undefined || group.damaged !== null || group.record.slot !== readSlot(key)) return;
    if (key[0] === Space.state) {
      if (!isRowIntact(key, value, group.seed)) this.ports.onDamage(group.id, `a state row of group ${group.id} is damaged: key ${Buffer.from(key).toString('hex')}`);
      return;
    }
    const index = readLogIndex(key);
    if (index >= group.log.firstIndex() && !isIntact(key, value)) this.ports.onDamage(group.id, `log entry ${index} of group ${group.id} is damaged`);
  }
}
