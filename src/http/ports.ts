/**
 * What the HTTP layer needs from the rest of the node; node.ts supplies it. All failures are thrown as ApiError.
 * JSON bodies that may carry client text are Buffers: the stored bytes are spliced in, never re-serialised.
 */
import type { RequestListener, Server, ServerOptions } from 'node:http';
import type { Duplex } from 'node:stream';
import type { ContextStatus, Policy } from '../contexts/types.ts';
import type { Provider } from '../providers/rendering.ts';

export type Consistency = 'linearizable' | 'stale';

/** PUT body after validation; absent fields stay as they are. */
export interface PutSettings {
  readonly tokenBudget?: number;
  readonly triggerRatio?: number;
  /** Complete, defaults filled in and checked against trigger_ratio as far as the request tells. */
  readonly policy?: Policy;
  /** The client named policy.config.target_ratio itself, so mergeSettings (src/settings.ts) may not lower it. */
  readonly targetRatioGiven?: boolean;
  /** JSON object text whose numbers survive a double (checked). */
  readonly metadataText?: Uint8Array;
  readonly model?: string;
  readonly ttlSeconds?: number;
}

/** A read's answer. `appliedIndex` is set for stale reads (header X-Applied-Index). */
export interface ReadAnswer {
  readonly body: Buffer;
  readonly appliedIndex: number | null;
}

/** Which window is asked for, and how much of it. */
export interface WindowSelection {
  readonly budgetTokens: number | null;
  readonly full: boolean;
  /** Refuse with `conflict` unless the context is at this version. */
  readonly ifVersion: number | null;
  /** The window as it stood then; null: as it is. */
  readonly atVersion: number | null;
}

export interface WindowQuery extends WindowSelection {
  /** Whose request shape; null: messages as they are stored. */
  readonly provider: Provider | null;
  /** If-None-Match values as sent, or null. */
  readonly ifNoneMatch: string | null;
}

export interface ExplainQuery extends WindowSelection {
  /** The page of the log. */
  readonly fromSeq: number;
  readonly limit: number;
}

export interface CompactionsQuery {
  readonly fromVersion: number;
  readonly limit: number;
}

export interface ClaimRequest {
  /** 0 gives the claim back. */
  readonly ttlSeconds: number;
  /** Whoever shows it holds the claim. */
  readonly token: Uint8Array;
}

export interface UsageReport {
  readonly version: number;
  /** As the provider counted them. */
  readonly inputTokens: number;
}

export interface WindowAnswer extends ReadAnswer {
  /** Strong ETag, quotes included. */
  readonly etag: string;
  /** True: answer 304 without a body. */
  readonly notModified: boolean;
}

export interface MessagesQuery {
  readonly fromSeq: number;
  /** null: to the end. */
  readonly toSeq: number | null;
  /** null: no such filter. Messages with a version above it. */
  readonly afterVersion: number | null;
  readonly limit: number;
}

export interface ListQuery {
  readonly limit: number;
  /** A next_cursor as sent, or null for the first page. */
  readonly cursor: string | null;
  /** '' for all. */
  readonly prefix: string;
  readonly status: ContextStatus | null;
}

export interface ListingApi {
  /** The answer of GET /v1/contexts. */
  page(query: ListQuery, consistency: Consistency): Promise<Buffer>;
}

/** A range of messages on its way out, one JSON object a line. */
export interface MessageExport {
  readonly appliedIndex: number | null;
  /** Whole lines; never many bytes at a time. Throws when the rest cannot be had: the answer must then not look complete. */
  readonly slices: AsyncIterable<Buffer>;
}

export interface ExportApi {
  /** Failures before the first message are thrown here, as ApiError. The end of the range is fixed by then. */
  open(id: string, query: Omit<MessagesQuery, 'limit'>, consistency: Consistency): Promise<MessageExport>;
}

export interface StoreApi {
  /** Creates or updates; body is the context as GET returns it. */
  put(id: string, settings: PutSettings): Promise<{ created: boolean; body: Buffer }>;
  get(id: string, consistency: Consistency): Promise<ReadAnswer>;
  /** Tombstone; idempotent. */
  remove(id: string): Promise<void>;
  /** Erases the context; idempotent. `complete`: the last trace is gone. */
  purge(id: string): Promise<{ complete: boolean }>;
  /** `body` is the raw request body: {"message":…} or {"messages":[…]}, validated here in one pass. */
  append(id: string, body: Buffer, idempotencyKey: string | null): Promise<{ body: string; replayed: boolean }>;
  tail(id: string, query: { offset: number; limit: number }, consistency: Consistency): Promise<ReadAnswer>;
  messages(id: string, query: MessagesQuery, consistency: Consistency): Promise<ReadAnswer>;
  window(id: string, query: WindowQuery, consistency: Consistency): Promise<WindowAnswer>;
  /** Page of the log with what became of each message, and the sums. */
  explain(id: string, query: ExplainQuery, consistency: Consistency): Promise<ReadAnswer>;
  /** What cut the window, oldest first. */
  compactions(id: string, query: CompactionsQuery, consistency: Consistency): Promise<ReadAnswer>;
  /** `body` is the raw request body: {"replacement":[…],"if_version"?,"keep_from_seq"?,"claim"?}. */
  compact(id: string, body: Buffer): Promise<{ body: Buffer }>;
  /** The sole right to compact for a while; body says until when. */
  claim(id: string, request: ClaimRequest): Promise<{ body: Buffer }>;
  /** Calibrates the context's estimate; body says to what. */
  usage(id: string, report: UsageReport): Promise<{ body: Buffer }>;
  /** JSON merge patch (RFC 7396) of the metadata object; body is the context. */
  patchMetadata(id: string, patch: Record<string, unknown>): Promise<{ body: Buffer }>;
}

/** ready: null reason. Otherwise {"status":"starting"|"draining"|…,"reason":…}. */
export interface Readiness {
  readonly ready: boolean;
  readonly status: string;
  readonly reason: string | null;
}

export interface HealthApi {
  ready(): Readiness | Promise<Readiness>;
}

export interface ClusterApi {
  /** The answer of GET /v1/cluster. */
  describe(): Promise<unknown>;
  /** Takes leaderships and replicas away from a node, or lets it have some again. ApiError not_found, would_lose_quorum. */
  drain(node: string, drain: boolean): Promise<void>;
  /** Removes a node for good. ApiError not_found, conflict, would_lose_quorum. */
  remove(node: string): Promise<void>;
  /** Makes a node the preferred leader of a group. ApiError not_found, conflict. */
  transfer(group: number, to: string): Promise<void>;
}

/** Counts requests where more than one server takes those of a client. */
export interface RateCounter {
  /** One more request of a client: how many it made in its window of so many milliseconds, and how long that lasts. Never rejects. */
  count(client: string, windowMs: number): Promise<{ current: number; ttl: number }>;
}

/** Whose calls a route takes: other nodes', health probes', or everybody else's. */
export type Audience = 'peer' | 'probe' | 'client';

/** TLS of the port, where it is wanted. */
export interface ServerTls {
  createServer(options: ServerOptions, handler: RequestListener): Server;
  /** Why a connection may not make a call of that kind, or null. */
  refusal(socket: Duplex, audience: Audience): string | null;
}

/** Traces of requests, where they are wanted. */
export interface RequestTraces {
  begin(request: TracedRequest): RequestSpan;
}

export interface TracedRequest {
  readonly method: string;
  /** As it was registered, with its parameters' names. */
  readonly route: string;
  readonly contextId: string | null;
  /** The header of the caller, as sent. */
  readonly traceparent: string | undefined;
}

export interface RequestSpan {
  /** Runs what handles the request; what that causes is traced under it. */
  run(work: () => void): void;
  /** Called once. `isComplete`: the answer went out whole. */
  end(status: number, isComplete: boolean): void;
}
