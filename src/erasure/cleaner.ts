/**
 * A replica's part of an erasure: forgets the group's log up to where the leader says, waits until what is deleted is
 * deleted, and has the storage take it out of its files. One group at a time, with rests between, because a compaction
 * costs as much disk as what lies in its range; the rest is four times what the work took, whoever asks for how much.
 */
import type { GroupId } from '../../raft/types.ts';
import type { Logger } from '../log.ts';
import type { ErasureQuestion, Trace } from './wire.ts';

const POLL_MS = 50;
/** Where the log does not move or a snapshot holds the files for this long, the work is given up until asked again. */
const WAIT_MS_MAX = 10_000;
const REST_FACTOR = 4;
const REST_MS_MAX = 60_000;
/** Traces that wait or are done, at most one a group in use; there are not more groups than this. */
const TRACES_MAX = 512;

export interface CleanerOptions {
  readonly host: {
    trimLog(group: GroupId, index: number): void;
    status(group: GroupId): { readonly firstIndex: number; readonly fetchingSnapshot: boolean } | undefined;
  };
  readonly storage: {
    durableApplied(group: GroupId): number;
    scour(group: GroupId, contexts: readonly string[]): Promise<boolean>;
  };
  readonly logger: Pick<Logger, 'warn'>;
}

interface Work {
  readonly trace: Trace;
  readonly name: string;
  isDone: boolean;
}

export class Cleaner {
  private readonly options: CleanerOptions;
  /** The newest trace of each group. */
  private readonly works = new Map<GroupId, Work>();
  private isRunning = false;
  private isClosed = false;
  private running: Promise<void> = Promise.resolve();
  private wake: (() => void) | null = null;

  constructor(options: CleanerOptions) {
    this.options = options;
  }

  /** Stops after the step at work. */
  async close(): Promise<void> {
    this.isClosed = true;
    this.wake?.();
    await this.running;
  }

  /** Whether it is so here; see wire.ts. */
  answer({ ask, ...trace }: ErasureQuestion): boolean {
    const { host, storage } = this.options;
    if (this.isClosed || host.status(trace.group) === undefined || storage.durableApplied(trace.group) < trace.upTo) return false;
    return ask === 'applied' || this.isClean(trace);
  }

  private isClean(trace: Trace): boolean {
    const name = JSON.stringify([trace.upTo, trace.contexts]);
    const known = this.works.get(trace.group);
    if (known?.name === name) return known.isDone;
    if (known === undefined && this.works.size >= TRACES_MAX) return false;
    this.works.set(trace.group, { trace, name, isDone: false });
    if (!this.isRunning) this.running = this.run();
    return false;
  }

  private async run(): Promise<void> {
    this.isRunning = true;
    for (let work = this.next(); work !== undefined && !this.isClosed; work = this.next()) {
      const startedAt = performance.now();
      try {
        work.isDone = await this.clean(work.trace);
      } catch (error) {
        // The replica went away or is damaged, or writing has ended, which stops the node by itself.
        this.options.logger.warn({ type: 'erasure_failed', group: work.trace.group, reason: String(error) }, 'traces of erased contexts could not be removed here; it is tried again');
      }
      // One that was given up is begun anew when it is asked for again.
      if (!work.isDone && this.works.get(work.trace.group) === work) this.works.delete(work.trace.group);
      await this.pause(Math.min(REST_MS_MAX, (performance.now() - startedAt) * REST_FACTOR));
    }
    this.isRunning = false;
  }

  private next(): Work | undefined {
    for (const work of this.works.values()) if (!work.isDone) return work;
    return undefined;
  }

  private async clean({ group, upTo, contexts }: Trace): Promise<boolean> {
    const { host, storage } = this.options;
    const deadline = performance.now() + WAIT_MS_MAX;
    while (!this.isClosed && performance.now() < deadline) {
      const status = host.status(group);
      if (status === undefined) return false;
      if (status.firstIndex <= upTo) host.trimLog(group, upTo);
      else if (!status.fetchingSnapshot && (await storage.scour(group, contexts))) return true;
      await this.pause(POLL_MS);
    }
    return false;
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
