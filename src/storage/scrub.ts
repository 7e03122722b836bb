/**
 * The background scrub: reads every live log entry and state row at a limited rate, round after round, and reports
 * those that are not what was written. Rot in rows that nobody reads would otherwise be found when the good copies are
 * gone. It goes group by group, so that a range LevelDB cannot even read is laid at the right group's door.
 */
import type { GroupId } from '../../raft/types.ts';
import { isIntact } from './checksum.ts';
import type { GroupStore } from './group.ts';
import { isRowIntact, readLogIndex, slotKey, Space } from './keys.ts';
import type { Database } from './writer.ts';

const ROWS_PER_STEP_MAX = 1000;
const STEP_MS = 100;
const READ_AHEAD_BYTES = 1024 * 1024;
/** What looking at a range costs beside its rows, in rows: most groups of a young node are empty, and not free to ask. */
const RANGE_COST_ROWS = 20;
/** Between two rounds: what was found whole needs no second look at once. */
const REST_MS = 60_000;

export interface ScrubPorts {
  /** 0: never. */
  readonly rowsPerSecond: number;
  readonly groups: ReadonlyMap<GroupId, GroupStore>;
  readonly onDamage: (group: GroupId, reason: string) => void;
}

/** Where a round is: rows of `space` of `group`, in the slot that was live when it began, behind `after`. */
interface Position {
  readonly group: GroupStore;
  readonly space: typeof Space.log | typeof Space.state;
  readonly slot: number;
  readonly after: Uint8Array;
}

export class Scrub {
  /** Rows read since open, and completed rounds. */
  rows = 0;
  rounds = 0;
  private readonly db: Database;
  private readonly ports: ScrubPorts;
  /** What is left of this round; the next one to read stands last. */
  private rest: Position[] = [];
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
    const isBetweenRounds = this.rest.length === 0 && this.rounds > 0;
    this.timer = setTimeout(() => {
      this.running = this.step(rows).then(() => this.start());
    }, isBetweenRounds ? REST_MS : Math.max(STEP_MS, (rows * 1000) / rowsPerSecond));
    this.timer.unref();
  }

  async close(): Promise<void> {
    this.isClosed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    await this.running;
  }

  /** Reads up to `limit` rows, of as many groups as that takes, at most to the end of the round. */
  private async step(limit: number): Promise<void> {
    if (this.rest.length === 0) this.rest = [...this.ports.groups.values()].flatMap(positions).reverse();
    let left = limit;
    while (left > 0 && !this.isClosed) {
      const position = this.rest.pop();
      if (position === undefined) {
        this.rounds++;
        return;
      }
      const { group, slot } = position;
      if (!group.isOpen || group.damaged !== null || group.record.slot !== slot) continue;
      left -= RANGE_COST_ROWS + (await this.read(position, left));
    }
  }

  private async read(position: Position, limit: number): Promise<number> {
    const { group, space, slot } = position;
    const iterator = this.db.iterator({ gt: position.after, lt: slotKey(space, group.id, slot + 1), limit, fillCache: false, highWaterMarkBytes: READ_AHEAD_BYTES });
    try {
      const rows = await iterator.nextv(limit);
      for (const [key, value] of rows) this.check(position, key, value);
      this.rows += rows.length;
      const last = rows[rows.length - 1];
      if (last !== undefined) this.rest.push({ ...position, after: last[0] });
      return rows.length;
    } catch (error) {
      this.ports.onDamage(group.id, `rows of group ${group.id} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
      return 1;
    } finally {
      await iterator.close();
    }
  }

  private check({ group, space, slot }: Position, key: Uint8Array, value: Uint8Array): void {
    // The group may have moved on while the rows were read: what nobody can read any more may be damaged.
    if (!group.isOpen || group.record.slot !== slot) return;
    if (space === Space.state) {
      if (!isRowIntact(key, value, group.seed)) this.ports.onDamage(group.id, `a state row of group ${group.id} is damaged: key ${Buffer.from(key).toString('hex')}`);
      return;
    }
    const index = readLogIndex(key);
    if (index >= group.log.firstIndex() && !isIntact(key, value)) this.ports.onDamage(group.id, `log entry ${index} of group ${group.id} is damaged`);
  }
}

function positions(group: GroupStore): Position[] {
  const { slot } = group.record;
  return ([Space.log, Space.state] as const).map((space) => ({ group, space, slot, after: slotKey(space, group.id, slot) }));
}
