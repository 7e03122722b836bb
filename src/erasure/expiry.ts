/**
 * Finds contexts whose ttl is over and proposes to end them. Each node looks through the groups it leads, lap after
 * lap, at the contexts that have a ttl and at no other (the table `expiring`); whether one is over is decided by the
 * command itself, so that a write that comes before it keeps the context alive. No timers per context; and a group in
 * which nothing was applied since is not read again before the first of its contexts can be over.
 */
import type { GroupId } from '../../raft/types.ts';
import { encodeCommand } from '../contexts/commands.ts';
import { decodeConfig, decodeHeader } from '../contexts/rows.ts';
import type { Logger } from '../log.ts';

/** From the end of one lap to the next. */
const LAP_MS = 5000;
/** Contexts looked at in one piece, and the pause behind a full one: some 10,000 a second. */
const PAGE = 100;
const PAGE_PAUSE_MS = 10;

export interface ExpiryOptions {
  /** Rows of the groups hosted here (src/storage). */
  readonly rows: {
    listed(group: GroupId, table: 'expiring', range: { after?: string; limit: number }): Promise<readonly string[]>;
    get(group: GroupId, table: 'header' | 'config', context: string, key: ''): Uint8Array | undefined;
  };
  /** Groups that this node leads. */
  readonly led: () => readonly GroupId[];
  /** The last entry of the group that is applied here: while it stays the same, so do the rows. */
  readonly applied: (group: GroupId) => number;
  /** Commits a command; rejects where that is not certain. */
  readonly propose: (group: GroupId, command: Uint8Array) => Promise<unknown>;
  readonly logger: Pick<Logger, 'warn'>;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** For tests. */
  readonly lapMs?: number;
}

/** What a whole look through a group found: with the entries up to `applied`, nothing is over before `dueAt`. */
interface Found {
  readonly applied: number;
  readonly dueAt: number;
}

export class Expiry {
  private readonly options: ExpiryOptions;
  private readonly found = new Map<GroupId, Found>();
  private running: Promise<void> = Promise.resolve();
  private wake: (() => void) | null = null;
  private isClosed = false;

  constructor(options: ExpiryOptions) {
    this.options = options;
  }

  open(): void {
    this.running = this.run();
  }

  async close(): Promise<void> {
    this.isClosed = true;
    this.wake?.();
    await this.running;
  }

  private async run(): Promise<void> {
    while (!this.isClosed) {
      for (const group of this.options.led()) {
        if (this.isClosed) return;
        try {
          await this.lookThrough(group);
        } catch (error) {
          // No leader just now, a disk that is full, a replica that was taken out: the next lap looks again.
          this.options.logger.warn({ type: 'expiry_waits', group, reason: error instanceof Error ? error.message : String(error) }, 'contexts whose ttl is over could not be ended; it is tried again');
        }
      }
      await this.pause(this.options.lapMs ?? LAP_MS);
    }
  }

  private async lookThrough(group: GroupId): Promise<void> {
    const { rows, propose, now } = this.options;
    const applied = this.options.applied(group);
    const last = this.found.get(group);
    if (last !== undefined && last.applied === applied && now() < last.dueAt) return;
    this.found.delete(group);
    let dueAt = Number.POSITIVE_INFINITY;
    for (let after: string | undefined; !this.isClosed; ) {
      const page: readonly string[] = await rows.listed(group, 'expiring', { ...(after === undefined ? {} : { after }), limit: PAGE });
      for (const context of page) {
        if (this.isClosed) return;
        const endsAt = this.endsAt(group, context);
        dueAt = Math.min(dueAt, endsAt);
        if (now() >= endsAt) await propose(group, encodeCommand({ type: 'expire', context }));
      }
      after = page.at(-1);
      if (page.length < PAGE) {
        this.found.set(group, { applied, dueAt });
        return;
      }
      await this.pause(PAGE_PAUSE_MS);
    }
  }

  /** When the context is over as its rows are now, in milliseconds since the epoch. */
  private endsAt(group: GroupId, context: string): number {
    const { rows } = this.options;
    const headerRow = rows.get(group, 'header', context, '');
    const configRow = rows.get(group, 'config', context, '');
    const header = headerRow === undefined ? null : decodeHeader(headerRow);
    const config = configRow === undefined ? null : decodeConfig(configRow);
    return header !== null && config !== null && config.ttlSeconds > 0 ? header.updatedAt + config.ttlSeconds * 1000 : Number.POSITIVE_INFINITY;
  }

  private pause(ms: number): Promise<void> {
    if (this.isClosed) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
