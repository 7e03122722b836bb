/**
 * A StoreApi that remembers what it was asked and answers fixed bytes, for tests of the HTTP layer alone: what reaches
 * the store, and what its answers and errors become. Appends and compacts run the real ingest, as the real store does.
 */
import { loadConfig } from '../../src/config.ts';
import type { Config } from '../../src/config.ts';
import { buildApp } from '../../src/http/app.ts';
import type { AppDeps } from '../../src/http/app.ts';
import type { ClaimRequest, CompactionsQuery, ExplainQuery, ExportApi, HealthApi, ListingApi, ListQuery, MessageExport, MessagesQuery, PutSettings, ReadAnswer, StoreApi, UsageReport, WindowAnswer, WindowQuery } from '../../src/http/ports.ts';
import { parseAppend, parseCompact } from '../../src/ingest/messages.ts';
import type { Logger, LogFields } from '../../src/log.ts';
import { createMetrics } from '../../src/metrics.ts';

export type Call =
  | { verb: 'put'; id: string; settings: PutSettings }
  | { verb: 'get' | 'remove' | 'purge'; id: string; consistency?: string }
  | { verb: 'append'; id: string; body: Buffer; idempotencyKey: string | null }
  | { verb: 'tail'; id: string; query: { offset: number; limit: number }; consistency: string }
  | { verb: 'messages'; id: string; query: MessagesQuery; consistency: string }
  | { verb: 'list'; query: ListQuery; consistency: string; id?: string }
  | { verb: 'export'; id: string; query: Omit<MessagesQuery, 'limit'>; consistency: string }
  | { verb: 'window'; id: string; query: WindowQuery; consistency: string }
  | { verb: 'explain'; id: string; query: ExplainQuery; consistency: string }
  | { verb: 'compactions'; id: string; query: CompactionsQuery; consistency: string }
  | { verb: 'compact'; id: string; body: Buffer }
  | { verb: 'claim'; id: string; request: ClaimRequest }
  | { verb: 'usage'; id: string; report: UsageReport }
  | { verb: 'patch'; id: string; patch: Record<string, unknown> };

const ANSWER = Buffer.from('{"ok":true}');
export const ETAG = '"v1"';

export class StoreDouble implements StoreApi, ListingApi, ExportApi {
  readonly calls: Call[] = [];
  readonly ids = new Set<string>();
  /** Thrown by every verb while set. */
  failure: Error | null = null;
  replayed = false;
  /** What a purge answers. */
  complete = false;
  /** What an export answers. */
  slices: () => AsyncIterable<Buffer> = async function* () {
    yield ANSWER;
  };
  readonly #config: Config;

  constructor(config: Config) {
    this.#config = config;
  }

  async put(id: string, settings: PutSettings): Promise<{ created: boolean; body: Buffer }> {
    this.#called({ verb: 'put', id, settings });
    const created = !this.ids.has(id);
    this.ids.add(id);
    return { created, body: ANSWER };
  }

  async get(id: string, consistency: 'linearizable' | 'stale'): Promise<ReadAnswer> {
    this.#called({ verb: 'get', id, consistency });
    return read(consistency);
  }

  async remove(id: string): Promise<void> {
    this.#called({ verb: 'remove', id });
  }

  async purge(id: string): Promise<{ complete: boolean }> {
    this.#called({ verb: 'purge', id });
    return { complete: this.complete };
  }

  async append(id: string, body: Buffer, idempotencyKey: string | null): Promise<{ body: string; replayed: boolean }> {
    this.#called({ verb: 'append', id, body, idempotencyKey });
    parseAppend(body, this.#limits());
    return { body: ANSWER.toString(), replayed: this.replayed };
  }

  async tail(id: string, query: { offset: number; limit: number }, consistency: 'linearizable' | 'stale'): Promise<ReadAnswer> {
    this.#called({ verb: 'tail', id, query, consistency });
    return read(consistency);
  }

  async messages(id: string, query: MessagesQuery, consistency: 'linearizable' | 'stale'): Promise<ReadAnswer> {
    this.#called({ verb: 'messages', id, query, consistency });
    return read(consistency);
  }

  async window(id: string, query: WindowQuery, consistency: 'linearizable' | 'stale'): Promise<WindowAnswer> {
    this.#called({ verb: 'window', id, query, consistency });
    return { ...read(consistency), etag: ETAG, notModified: query.ifNoneMatch === ETAG };
  }

  async explain(id: string, query: ExplainQuery, consistency: 'linearizable' | 'stale'): Promise<ReadAnswer> {
    this.#called({ verb: 'explain', id, query, consistency });
    return read(consistency);
  }

  async compactions(id: string, query: CompactionsQuery, consistency: 'linearizable' | 'stale'): Promise<ReadAnswer> {
    this.#called({ verb: 'compactions', id, query, consistency });
    return read(consistency);
  }

  async claim(id: string, request: ClaimRequest): Promise<{ body: Buffer }> {
    this.#called({ verb: 'claim', id, request });
    return { body: ANSWER };
  }

  async usage(id: string, report: UsageReport): Promise<{ body: Buffer }> {
    this.#called({ verb: 'usage', id, report });
    return { body: ANSWER };
  }

  async compact(id: string, body: Buffer): Promise<{ body: Buffer }> {
    this.#called({ verb: 'compact', id, body });
    parseCompact(body, this.#limits());
    return { body: ANSWER };
  }

  async patchMetadata(id: string, patch: Record<string, unknown>): Promise<{ body: Buffer }> {
    this.#called({ verb: 'patch', id, patch });
    return { body: ANSWER };
  }

  async page(query: ListQuery, consistency: 'linearizable' | 'stale'): Promise<Buffer> {
    this.#called({ verb: 'list', query, consistency });
    return ANSWER;
  }

  async open(id: string, query: Omit<MessagesQuery, 'limit'>, consistency: 'linearizable' | 'stale'): Promise<MessageExport> {
    this.#called({ verb: 'export', id, query, consistency });
    return { appliedIndex: consistency === 'stale' ? 42 : null, slices: this.slices() };
  }

  #called(call: Call): void {
    this.calls.push(call);
    if (this.failure !== null) throw this.failure;
  }

  #limits(): { messageBytesMax: number; depthMax: number } {
    return { messageBytesMax: this.#config.messageBytesMax, depthMax: this.#config.depthMax };
  }
}

function read(consistency: string): ReadAnswer {
  return { body: ANSWER, appliedIndex: consistency === 'stale' ? 42 : null };
}

/** Keeps log lines instead of printing them. */
export class LogDouble implements Logger {
  readonly lines: { level: string; fields: LogFields; message: string }[] = [];

  debug(fields: LogFields, message: string): void {
    this.lines.push({ level: 'debug', fields, message });
  }

  info(fields: LogFields, message: string): void {
    this.lines.push({ level: 'info', fields, message });
  }

  warn(fields: LogFields, message: string): void {
    this.lines.push({ level: 'warn', fields, message });
  }

  error(fields: LogFields, message: string): void {
    this.lines.push({ level: 'error', fields, message });
  }
}

/** The real application over the double. `env` as for loadConfig. */
export async function startApp(env: Record<string, string> = {}, extra: Partial<AppDeps> = {}) {
  const config = loadConfig(env);
  const store = new StoreDouble(config);
  const logger = new LogDouble();
  const metrics = createMetrics();
  const health: HealthApi & { state: { ready: boolean; status: string; reason: string | null } } = {
    state: { ready: true, status: 'ready', reason: null },
    ready() {
      return this.state;
    },
  };
  const cluster = {
    describe: async () => ({ cluster_id: 'c', coordinator: null, nodes: [], groups: [], moves: [], damaged: [], waiting: [] }),
    drain: async () => undefined,
    remove: async () => undefined,
    transfer: async () => undefined,
  };
  const app = await buildApp({ config, store, listing: store, exports: store, logger, metrics, health, cluster, ...extra });
  return { app, store, logger, metrics, health, config };
}
