/**
 * What the archiver needs from the node, and the shapes it works with. The archiver imports nothing of the rest of the
 * house: whoever builds a node supplies these. Texts are the bytes that clients sent, never parsed here.
 */

/** A context whose archive is behind: messages, settings, a compaction or the tombstone are not in Postgres yet. */
export interface PendingContext {
  readonly context: string;
  readonly version: number;
  readonly configRevision: number;
  readonly lastSeq: number;
  readonly archivedSeq: number;
  /** Messages in hot storage, archived or not. */
  readonly tailSize: number;
  /** Tokens of the stored window. */
  readonly windowTokens: number;
}

export interface PendingPage {
  readonly contexts: readonly PendingContext[];
  /** Where the next page begins; null after the last one. Opaque to the archiver. */
  readonly cursor: string | null;
}

/** One message on its way into the archive. */
export interface ArchiveMessage {
  readonly seq: number;
  readonly version: number;
  /** Milliseconds since the epoch: `inserted_at`. */
  readonly stampMs: number;
  readonly tokens: number;
  /** JSON string literal of the role. */
  readonly roleText: Uint8Array;
  /** JSON string literal of the client's id; empty where there is none. */
  readonly idText: Uint8Array;
  /** JSON array text. */
  readonly partsText: Uint8Array;
  /** JSON object text. */
  readonly metadataText: Uint8Array;
  /** What cold reads return, byte for byte. Opaque to the archiver. */
  readonly body: Uint8Array;
  /** What the node needs besides the body to have its own row again. Opaque to the archiver. */
  readonly rowHead: Uint8Array;
}

/** A compaction that a client asked for. */
export interface ArchiveCompaction {
  readonly version: number;
  readonly stampMs: number;
  readonly fromSeq: number;
  readonly toSeq: number;
  readonly replacementCount: number;
  readonly countBefore: number;
  readonly countAfter: number;
  readonly tokensBefore: number;
  readonly tokensAfter: number;
}

/** A context as it stands: the row of the table `contexts`. */
export interface ArchiveContext {
  readonly status: 'active' | 'tombstoned';
  readonly version: number;
  readonly configRevision: number;
  readonly lastSeq: number;
  readonly tokenBudget: number;
  readonly triggerRatio: number;
  /** JSON object text, as GET shows it. */
  readonly policyText: string;
  /** '' for the server's default. */
  readonly model: string;
  readonly metadataText: Uint8Array;
  readonly windowTokens: number;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

/** A context and some of its messages, read at one applied index. */
export interface ContextSlice {
  readonly state: ArchiveContext;
  /** Ascending without a hole, beginning at the seq asked for; empty when there is none from there on. */
  readonly messages: readonly ArchiveMessage[];
  /** Those that the archive has not confirmed yet. */
  readonly compactions: readonly ArchiveCompaction[];
}

/** What is durably in Postgres. */
export interface Ack {
  readonly context: string;
  /** All messages up to here. 0: says nothing about messages. */
  readonly upto: number;
  /** The state that the row in `contexts` has; compactions up to that version are there. Says nothing about messages. */
  readonly version: number;
  readonly configRevision: number;
}

/** The node's contexts, as the archiver sees them. Only of groups that this node leads. */
export interface ArchiveSource {
  /** At most `limit` contexts whose archive is behind, in a fixed order, from `cursor` on; null begins a new lap. */
  pending(cursor: string | null, limit: number): Promise<PendingPage>;
  /**
   * The context and its messages from the later of `fromSeq` and archivedSeq + 1: at most `countMax`, and no more than
   * the one that reaches `bytesMax`. Never above what is committed. null: not led here any more, or purged.
   */
  read(context: string, options: { readonly fromSeq: number; readonly countMax: number; readonly bytesMax: number }): Promise<ContextSlice | null>;
  /**
   * Proposes the marks. Answers for each, in their order, whether it has been applied here, so that `pending` and `read`
   * know of it; false: it failed or nothing is known. Never rejects.
   */
  ack(acks: readonly Ack[]): Promise<readonly boolean[]>;
}

/** Who records what happens; the counters and gauges of the node's metrics fit as they are. */
export interface ArchiverMetrics {
  readonly pendingRows: { set(value: number): void };
  readonly pendingContexts: { set(value: number): void };
  readonly flushDuration: { observe(milliseconds: number): void };
  readonly attempted: { inc(count: number): void };
  readonly inserted: { inc(count: number): void };
  readonly bytesAttempted: { inc(count: number): void };
  readonly bytesInserted: { inc(count: number): void };
  /** Messages archived by their bytes alone, because Postgres takes no jsonb of them. */
  readonly jsonRefused: { inc(count: number): void };
  readonly lag: ContextGauge;
  readonly tailSize: ContextGauge;
  readonly llmTokenCount: ContextGauge;
}

export interface ContextGauge {
  reset(): void;
  set(labels: { context_id: string }, value: number): void;
}

export interface ArchiverLog {
  info(fields: Readonly<{ type: string } & Record<string, unknown>>, message: string): void;
  warn(fields: Readonly<{ type: string } & Record<string, unknown>>, message: string): void;
  error(fields: Readonly<{ type: string } & Record<string, unknown>>, message: string): void;
}

export interface ArchiverOptions {
  /** Postgres connection URL. */
  readonly url: string;
  /** The archive belongs to this cluster; one that another cluster has claimed is refused. */
  readonly clusterId: string;
  /** Connections at most, at least 2: one writes, the rest read. */
  readonly poolSize: number;
  readonly flushIntervalMs: number;
  /** Messages in one statement at most. */
  readonly batchSize: number;
  readonly migrate: boolean;
  readonly source: ArchiveSource;
  readonly metrics: ArchiverMetrics;
  readonly log: ArchiverLog;
  /** In [0, 1): spreads retries. */
  readonly random: () => number;
}
