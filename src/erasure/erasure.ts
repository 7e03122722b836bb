/**
 * Finishes purges. Each node does so for the groups it leads, from what the state itself says (`purging` lists the
 * contexts), so whatever interrupts it, the next leader goes on: rows are deleted step by step through the log, the
 * archive is erased, and when every replica of the group says that no trace is left on its disk, `purge_done` is
 * proposed. A replica that is down keeps the purge incomplete, never a reader's 404.
 *
 * One group at a time; a group that has to wait is looked at again after a pause. No timers and no memory per context.
 */
import type { GroupId, NodeId } from '../../raft/types.ts';
import { ERASED_TABLES, encodeCommand } from '../contexts/commands.ts';
import { PURGE_STEP_ROWS_MAX } from '../contexts/purge.ts';
import type { RowKey, Table } from '../contexts/types.ts';
import type { Logger } from '../log.ts';
import type { ErasureQuestion, Trace } from './wire.ts';

/** Contexts that are finished together: they share the work on each replica. */
const ROUND_CONTEXTS_MAX = 64;
const AGAIN_MS = 500;
/** A round that waits longer than this says for what. */
const SAY_AFTER_MS = 10_000;

export interface ErasureOptions {
  /** Rows of the groups hosted here (src/storage). */
  readonly rows: {
    listed(group: GroupId, table: 'purging', range: { limit: number }): Promise<readonly string[]>;
    keys(group: GroupId, table: Table, context: string, range: { after: RowKey | null; limit: number }): Promise<readonly RowKey[]>;
  };
  readonly leads: (group: GroupId) => boolean;
  /** Until this replica has applied all that was committed; false: it cannot be found out. */
  readonly barrier: (group: GroupId) => Promise<boolean>;
  readonly applied: (group: GroupId) => number;
  /** Commits a command; rejects where that is not certain. */
  readonly propose: (group: GroupId, command: Uint8Array) => Promise<unknown>;
  /** Nodes with a replica of the group, this one among them, learners too; null while one of them is not known. */
  readonly replicas: (group: GroupId) => readonly NodeId[] | null;
  /** Asks a node's Cleaner, or this node's own. False also for: no answer. */
  readonly ask: (node: NodeId, question: ErasureQuestion) => Promise<boolean>;
  /** Erases a context in the archive, with true once that is done; null where there is no archive. */
  readonly eraseArchived: ((context: string) => Promise<boolean>) | null;
  readonly logger: Pick<Logger, 'info' | 'warn'>;
  /** Pause before a group that had to wait is looked at again; for tests. */
  readonly againMs?: number;
}

interface Round {
  readonly trace: Trace;
  isArchiveErased: boolean;
  /** performance.now() of its beginning, and what was last said of why it waits. */
  readonly startedAt: number;
  said: string;
}

export class Erasure {
  private readonly options: ErasureOptions;
  /** Groups to look at, in turn. */
  private readonly queue = new Set<GroupId>();
  /** What replicas were asked to clean. It stays the same until they have, or their work would never end. */
  private readonly rounds = new Map<GroupId, Round>();
  private running: Promise<void> | null = null;
  private wake: (() => void) | null = null;
  private isClosed = false;

  constructor(options: ErasureOptions) {
    this.options = options;
  }

  async close(): Promise<void> {
    this.isClosed = true;
    this.wake?.();
    await this.running;
  }

  /** A context of the group was purged, or this node leads the group from now on. Returns at once. */
  look(group: GroupId): void {
    if (this.isClosed) return;
    this.queue.add(group);
    this.running ??= this.run().finally(() => {
      this.running = null;
    });
  }

  private async run(): Promise<void> {
    // Called while an entry is applied: nothing may happen before that is over.
    await this.pause(0);
    while (this.queue.size > 0 && !this.isClosed) {
      let isWaiting = false;
      for (const group of [...this.queue]) {
        if (this.isClosed) return;
        this.queue.delete(group);
        if (await this.advanced(group)) continue;
        this.queue.add(group);
        isWaiting = true;
      }
      if (isWaiting) await this.pause(this.options.againMs ?? AGAIN_MS);
    }
  }

  /** True when there is nothing left to do for the group here. */
  private async advanced(group: GroupId): Promise<boolean> {
    const { leads, logger } = this.options;
    try {
      if (leads(group)) return await this.advance(group);
      this.rounds.delete(group);
      return true;
    } catch (error) {
      // No leader just now, a disk that is full, a replica that was taken out: later, or somewhere else.
      logger.warn({ type: 'erasure_waits', group, reason: error instanceof Error ? error.message : String(error) }, 'the erasure of contexts is interrupted and goes on later');
      return false;
    }
  }

  private async advance(group: GroupId): Promise<boolean> {
    const round = this.rounds.get(group) ?? (await this.begin(group));
    if (round === null) return true;
    if (round === 'later') return false;
    this.rounds.set(group, round);
    const { trace } = round;
    round.isArchiveErased ||= await this.eraseArchive(trace);
    const missing = (await this.missing(trace)) ?? (round.isArchiveErased ? null : 'the archive has not erased its part');
    if (missing !== null) {
      this.say(round, missing);
      return false;
    }
    for (const context of trace.contexts) await this.options.propose(group, encodeCommand({ type: 'purge_done', context }));
    this.rounds.delete(group);
    this.options.logger.info({ type: 'erased', group, contexts: trace.contexts.length }, 'contexts are erased: no replica holds a trace of them');
    // There may be more than one round's.
    return false;
  }

  /** Deletes all rows of the group's purged contexts; answers what is then to be cleaned, null for nothing. */
  private async begin(group: GroupId): Promise<Round | null | 'later'> {
    const { rows, barrier, applied } = this.options;
    const find = (): Promise<readonly string[]> => rows.listed(group, 'purging', { limit: ROUND_CONTEXTS_MAX });
    // One that is committed and not yet applied is told of when it is.
    if ((await find()).length === 0) return null;
    if (!(await barrier(group))) return 'later';
    const contexts = await find();
    if (contexts.length === 0) return null;
    for (const context of contexts) for (const table of ERASED_TABLES) if (!(await this.deleteRows(group, context, table))) return 'later';
    return { trace: { group, upTo: applied(group), contexts }, isArchiveErased: false, startedAt: performance.now(), said: '' };
  }

  /** False when it was interrupted. */
  private async deleteRows(group: GroupId, context: string, table: Table): Promise<boolean> {
    const { rows, leads, propose } = this.options;
    // Each step begins where the one before ended, so that none walks over what is deleted already.
    for (let after: RowKey | null = null; ; ) {
      const keys: readonly RowKey[] = (await rows.keys(group, table, context, { after, limit: PURGE_STEP_ROWS_MAX })).slice(0, PURGE_STEP_ROWS_MAX);
      const last = keys.at(-1);
      if (last === undefined) return true;
      if (this.isClosed || !leads(group)) return false;
      await propose(group, encodeCommand({ type: 'purge_step', context, rows: keys.map((key) => ({ table, key })) }));
      after = last;
    }
  }

  private async eraseArchive({ contexts }: Trace): Promise<boolean> {
    const { eraseArchived } = this.options;
    if (eraseArchived === null) return true;
    for (const context of contexts) if (!(await eraseArchived(context))) return false;
    return true;
  }

  /** What is missing of clean disks, in words; null for nothing. Nobody is asked to clean before all have applied. */
  private async missing(trace: Trace): Promise<string | null> {
    const nodes = this.options.replicas(trace.group);
    if (nodes === null) return 'the node of a replica is not known';
    const behind = await this.denied(nodes, { ...trace, ask: 'applied' });
    if (behind.length > 0) return `not reached, or behind: ${behind.join(', ')}`;
    const unclean = await this.denied(nodes, { ...trace, ask: 'clean' });
    return unclean.length > 0 ? `not clean yet: ${unclean.join(', ')}` : null;
  }

  /** The nodes that do not say yes. */
  private async denied(nodes: readonly NodeId[], question: ErasureQuestion): Promise<NodeId[]> {
    const answers = await Promise.all(nodes.map((node) => this.options.ask(node, question)));
    return nodes.filter((_, i) => answers[i] !== true);
  }

  /** Once for each reason, and only where it takes longer than the work itself. */
  private say(round: Round, reason: string): void {
    if (performance.now() - round.startedAt < SAY_AFTER_MS || reason === round.said) return;
    round.said = reason;
    this.options.logger.warn({ type: 'erasure_waits', group: round.trace.group, contexts: round.trace.contexts.length, reason }, 'the erasure of contexts is not complete and goes on');
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
