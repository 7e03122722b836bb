/**
 * The archiver's source over plain maps, by the rules that the state machine keeps: marks are clamped and never go back,
 * a context is pending until all of it is confirmed, and nothing above the mark may be trimmed.
 */
import type { Ack, ArchiveCompaction, ArchiveContext, ArchiveMessage, ArchiverLog, ArchiverMetrics, ArchiveSource, ContextSlice, PendingPage } from '../../archiver/ports.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

interface Stored {
  state: ArchiveContext;
  messages: ArchiveMessage[];
  compactions: ArchiveCompaction[];
  archivedSeq: number;
  archivedVersion: number;
  archivedRevision: number;
}

export interface NewArchiveMessage {
  readonly role?: string;
  /** JSON texts, so that escapes are the test's. */
  readonly roleText?: string;
  readonly partsText?: string;
  readonly metadataText?: string;
  readonly idText?: string;
  readonly tokens?: number;
  readonly stampMs?: number;
}

export class MemorySource implements ArchiveSource {
  readonly contexts = new Map<string, Stored>();
  /** Of marks proposed, this share is lost, as when leadership moves: nothing is applied and nothing is known. */
  loseAcks: () => boolean = () => false;
  /** Contexts of groups led elsewhere. */
  readonly elsewhere = new Set<string>();
  messagesReadMax = 0;
  /** All messages handed out so far. */
  messagesRead = 0;
  onRead: () => void = () => undefined;

  create(context: string, over: Partial<ArchiveContext> = {}): void {
    const state: ArchiveContext = {
      status: 'active', version: 0, configRevision: 1, lastSeq: 0, tokenBudget: 8000, triggerRatio: 0.7,
      policyText: '{"strategy":"last_n","config":{"limit":400}}', model: '', metadataText: bytes('{}'), windowTokens: 0, createdAtMs: 1_770_000_000_000, updatedAtMs: 1_770_000_000_000, ...over,
    };
    this.contexts.set(context, { state, messages: [], compactions: [], archivedSeq: 0, archivedVersion: 0, archivedRevision: 0 });
  }

  append(context: string, message: NewArchiveMessage = {}): ArchiveMessage {
    const stored = this.stored(context);
    const seq = stored.state.lastSeq + 1;
    const version = stored.state.version + 1;
    const stampMs = message.stampMs ?? stored.state.updatedAtMs + 1;
    const roleText = message.roleText ?? JSON.stringify(message.role ?? 'user');
    const partsText = message.partsText ?? `[{"type":"text","text":"message ${seq} of ${context}"}]`;
    const metadataText = message.metadataText ?? '{}';
    const tokens = message.tokens ?? 7;
    const body = `{"seq":${seq},"version":${version},"role":${roleText},"parts":${partsText},"token_count":${tokens},"metadata":${metadataText},"inserted_at":"${new Date(stampMs).toISOString()}"}`;
    const archived = { seq, version, stampMs, tokens, roleText: bytes(roleText), idText: bytes(message.idText ?? ''), partsText: bytes(partsText), metadataText: bytes(metadataText), body: bytes(body), rowHead: bytes(`head of ${seq}`) };
    stored.messages.push(archived);
    stored.state = { ...stored.state, version, lastSeq: seq, updatedAtMs: stampMs, windowTokens: stored.state.windowTokens + tokens };
    return archived;
  }

  change(context: string, over: Partial<ArchiveContext>): void {
    const stored = this.stored(context);
    stored.state = { ...stored.state, ...over };
  }

  compact(context: string, compaction: Omit<ArchiveCompaction, 'version'>): void {
    const stored = this.stored(context);
    const version = stored.state.version + 1;
    stored.compactions.push({ ...compaction, version });
    stored.state = { ...stored.state, version };
  }

  stored(context: string): Stored {
    const stored = this.contexts.get(context);
    if (stored === undefined) throw new Error(`no context ${context}`);
    return stored;
  }

  /** Whether nothing is left to archive. */
  get done(): boolean {
    return [...this.contexts.values()].every(isConfirmed);
  }

  async pending(cursor: string | null, limit: number): Promise<PendingPage> {
    await Promise.resolve();
    const ids = [...this.contexts.keys()].sort().filter((id) => (cursor === null || id > cursor) && !this.elsewhere.has(id) && !isConfirmed(this.stored(id)));
    const page = ids.slice(0, limit);
    const contexts = page.map((context) => {
      const { state, archivedSeq } = this.stored(context);
      return { context, version: state.version, configRevision: state.configRevision, lastSeq: state.lastSeq, archivedSeq, tailSize: state.lastSeq, windowTokens: state.windowTokens };
    });
    return { contexts, cursor: ids.length > limit ? (page.at(-1) ?? null) : null };
  }

  async read(context: string, options: { fromSeq: number; countMax: number; bytesMax: number }): Promise<ContextSlice | null> {
    await Promise.resolve();
    if (this.elsewhere.has(context)) return null;
    const stored = this.stored(context);
    const messages: ArchiveMessage[] = [];
    let size = 0;
    for (let seq = Math.max(options.fromSeq, stored.archivedSeq + 1); seq <= stored.state.lastSeq && messages.length < options.countMax && size < options.bytesMax; seq++) {
      const message = stored.messages[seq - 1];
      if (message === undefined) throw new Error(`message ${seq} was trimmed before it was archived`);
      messages.push(message);
      size += message.body.length;
    }
    this.messagesRead += messages.length;
    this.onRead();
    this.messagesReadMax = Math.max(this.messagesReadMax, messages.length);
    return { state: stored.state, messages, compactions: stored.compactions.filter(({ version }) => version > stored.archivedVersion) };
  }

  async ack(acks: readonly Ack[]): Promise<readonly boolean[]> {
    await Promise.resolve();
    return acks.map(({ context, upto, version, configRevision }) => {
      if (this.loseAcks() || this.elsewhere.has(context)) return false;
      const stored = this.stored(context);
      stored.archivedSeq = Math.max(stored.archivedSeq, Math.min(upto, stored.state.lastSeq));
      stored.archivedVersion = Math.max(stored.archivedVersion, Math.min(version, stored.state.version));
      stored.archivedRevision = Math.max(stored.archivedRevision, Math.min(configRevision, stored.state.configRevision));
      return true;
    });
  }
}

function isConfirmed({ state, archivedSeq, archivedVersion, archivedRevision }: Stored): boolean {
  return archivedSeq === state.lastSeq && archivedVersion === state.version && archivedRevision === state.configRevision;
}

/** Counts what the archiver reports. */
export class CountingMetrics implements ArchiverMetrics {
  readonly values: Record<string, number> = {};
  readonly lags = new Map<string, number>();
  readonly pendingRows = this.gauge('pendingRows');
  readonly pendingContexts = this.gauge('pendingContexts');
  readonly flushDuration = { observe: (): void => this.add('flushes', 1) };
  readonly attempted = this.counter('attempted');
  readonly inserted = this.counter('inserted');
  readonly bytesAttempted = this.counter('bytesAttempted');
  readonly bytesInserted = this.counter('bytesInserted');
  readonly jsonRefused = this.counter('jsonRefused');
  readonly lag = { reset: (): void => this.lags.clear(), set: ({ context_id: id }: { context_id: string }, value: number): void => void this.lags.set(id, value) };
  readonly tailSize = { reset: (): void => undefined, set: (): void => undefined };
  readonly llmTokenCount = { reset: (): void => undefined, set: (): void => undefined };

  of(name: string): number {
    return this.values[name] ?? 0;
  }

  private add(name: string, count: number): void {
    this.values[name] = this.of(name) + count;
  }

  private counter(name: string): { inc(count: number): void } {
    return { inc: (count) => this.add(name, count) };
  }

  private gauge(name: string): { set(value: number): void } {
    return { set: (value) => void (this.values[name] = value) };
  }
}

/** Keeps log lines. */
export class KeptLog implements ArchiverLog {
  readonly lines: { type: string; message: string }[] = [];

  info = (fields: { type: string }, message: string): void => void this.lines.push({ type: fields.type, message });
  warn = this.info;
  error = this.info;

  has(type: string): boolean {
    return this.lines.some((line) => line.type === type);
  }
}
