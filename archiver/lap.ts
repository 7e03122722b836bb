/**
 * One walk after the other over the contexts whose archive is behind, in the source's own order, a page in memory at a
 * time. What it passes it counts, so that the gauges cost no walk of their own.
 */
import type { ArchiverMetrics, ArchiveSource, PendingContext } from './ports.ts';

/** Contexts read at a time. */
const PAGE = 500;
/** Bound of the series by context: those with the most messages waiting. */
const WORST = 20;

export class Laps {
  private readonly source: ArchiveSource;
  private readonly metrics: ArchiverMetrics;
  private page: readonly PendingContext[] = [];
  private at = 0;
  private cursor: string | null = null;
  /** The page in memory is the lap's last. */
  private lastPage = false;
  private rows = 0;
  private contexts = 0;
  private worst: PendingContext[] = [];

  constructor(source: ArchiveSource, metrics: ArchiverMetrics) {
    this.source = source;
    this.metrics = metrics;
  }

  /** The next context; null at the end of a lap, after which the next one begins. */
  async next(): Promise<PendingContext | null> {
    for (;;) {
      const pending = this.page[this.at];
      if (pending !== undefined) {
        this.at++;
        this.count(pending);
        return pending;
      }
      if (this.lastPage) {
        this.publish();
        this.restart();
        return null;
      }
      const { contexts, cursor } = await this.source.pending(this.cursor, PAGE);
      this.page = contexts;
      this.at = 0;
      this.cursor = cursor;
      this.lastPage = cursor === null;
    }
  }

  /** Begins a lap anew. */
  restart(): void {
    this.page = [];
    this.at = 0;
    this.cursor = null;
    this.lastPage = false;
    this.rows = 0;
    this.contexts = 0;
    this.worst = [];
  }

  private count(pending: PendingContext): void {
    const lag = pending.lastSeq - pending.archivedSeq;
    this.rows += lag;
    this.contexts++;
    if (lag === 0) return;
    const least = this.worst.at(-1);
    if (this.worst.length === WORST && least !== undefined && least.lastSeq - least.archivedSeq >= lag) return;
    const place = this.worst.findIndex((other) => other.lastSeq - other.archivedSeq < lag);
    this.worst.splice(place === -1 ? this.worst.length : place, 0, pending);
    if (this.worst.length > WORST) this.worst.pop();
  }

  private publish(): void {
    const { pendingRows, pendingContexts, lag, tailSize, llmTokenCount } = this.metrics;
    pendingRows.set(this.rows);
    pendingContexts.set(this.contexts);
    for (const gauge of [lag, tailSize, llmTokenCount]) gauge.reset();
    for (const { context, lastSeq, archivedSeq, tailSize: tail, windowTokens } of this.worst) {
      lag.set({ context_id: context }, lastSeq - archivedSeq);
      tailSize.set({ context_id: context }, tail);
      llmTokenCount.set({ context_id: context }, windowTokens);
    }
  }
}
