/**
 * The product's verbs: settings, messages, windows, compaction and what goes with it. Each write is one command
 * through Raft, each read a barrier and a look at local rows; where this node hosts no replica of the context's group,
 * the verb travels to a node that does. Owns the way from a request to a command and from a reply to an answer.
 */
import type { ColdReads } from './archive/cold.ts';
import { encodeCommand } from './contexts/commands.ts';
import type { Command, ContextConfig, NewMessage, Reply } from './contexts/types.ts';
import { groupOf } from './cluster/placement.ts';
import { RequestKind, type PeerNetwork } from './cluster/ports.ts';
import type { Router, Urgency } from './cluster/router.ts';
import { ApiError, type ErrorCode, type ErrorFields, ERROR_STATUS } from './errors.ts';
import { decodeClaimToken, encodeClaimToken } from './claims.ts';
import type { ClaimRequest, CompactionsQuery, Consistency, ExplainQuery, MessagesQuery, PutSettings, ReadAnswer, StoreApi, UsageReport, WindowAnswer, WindowQuery } from './http/ports.ts';
import { estimate } from './ingest/estimate.ts';
import { parseAppend, parseCompact, type IngestLimits, type MessageDraft } from './ingest/messages.ts';
import type { Machine } from './machine.ts';
import type { Metrics } from './metrics.ts';
import { packCommand } from './packing.ts';
import { bodyDigest, contextNotFound, decodeSettings, isReadVerb, readThrough, type ReadResult, type ReadVerb, type SliceQuery } from './reads.ts';
import { timestamp } from './render.ts';
import { mergeSettings, patchMetadataText } from './settings.ts';
import { DamageError } from './storage/checksum.ts';
import type { TokenCounter } from './tokens/counter.ts';
import { calibrationRatio } from './windows.ts';

/** A context's model can change between counting and applying; a few rounds settle any race a person can make. */
const MODEL_RETRIES = 5;
/** Read-modify-write of settings against concurrent writers. */
const SETTINGS_RETRIES = 10;

export interface StoreOptions {
  readonly machine: Machine;
  readonly router: Router;
  readonly network: PeerNetwork;
  readonly counter: TokenCounter;
  readonly cold: ColdReads;
  readonly metrics: Metrics;
  readonly limits: IngestLimits;
  readonly timeoutMs: number;
  readonly appliedIndex: (group: number) => number;
}

export class Store implements StoreApi {
  private readonly options: StoreOptions;

  constructor(options: StoreOptions) {
    this.options = options;
  }

  async put(id: string, settings: PutSettings): Promise<{ created: boolean; body: Buffer }> {
    for (let attempt = 0; attempt < SETTINGS_RETRIES; attempt++) {
      const current = await this.config(id);
      // Checked against what is in force, and applied only if that is still so.
      const changes = settingsToApply(settings, mergeSettings(current?.config ?? null, settings));
      const reply = await this.propose({ type: 'put', context: id, settings: changes, ifConfigRevision: current?.revision ?? -1, mustExist: current !== null });
      if (reply.ok) return { created: reply.type === 'put' && reply.created, body: await this.readBack(id) };
      if (reply.code !== 'revision_conflict') throw replyError(id, reply);
    }
    throw settingsContended();
  }

  get(id: string, consistency: Consistency): Promise<ReadAnswer> {
    return this.read(id, { verb: 'get' }, consistency);
  }

  async remove(id: string): Promise<void> {
    const reply = await this.propose({ type: 'tombstone', context: id }, 'essential');
    if (!reply.ok) throw replyError(id, reply);
  }

  async purge(id: string): Promise<{ complete: boolean }> {
    const reply = await this.propose({ type: 'purge', context: id }, 'essential');
    if (!reply.ok) throw replyError(id, reply);
    return { complete: reply.type === 'purge' && reply.complete };
  }

  async append(id: string, body: Buffer, idempotencyKey: string | null): Promise<{ body: string; replayed: boolean }> {
    const parsed = parseAppend(body, this.options.limits);
    const idempotency = idempotencyKey === null ? null : { key: idempotencyKey, digest: bodyDigest(body) };
    const reply = await this.withEstimates(id, parsed.messages, (messages, model) => ({ type: 'append', context: id, messages, ifVersion: parsed.ifVersion, idempotency, model }));
    if (!reply.ok) throw replyError(id, reply);
    if (reply.type !== 'append') throw new Error(`append was answered with ${reply.type}`);
    const { firstSeq, firstVersion, tokens } = reply;
    if (!reply.replayed) this.countAppended(parsed.messages, tokens, parsed.many);
    const answer = (i: number): string => `{"seq":${firstSeq + i},"version":${firstVersion + i},"token_estimate":${tokens[i] ?? 0}}`;
    const text = parsed.many ? `{"messages":[${tokens.map((_, i) => answer(i)).join(',')}],"version":${firstVersion + tokens.length - 1}}` : answer(0);
    return { body: text, replayed: reply.replayed };
  }

  tail(id: string, query: { offset: number; limit: number }, consistency: Consistency): Promise<ReadAnswer> {
    return this.read(id, { verb: 'tail', ...query }, consistency);
  }

  messages(id: string, query: MessagesQuery, consistency: Consistency): Promise<ReadAnswer> {
    return this.read(id, { verb: 'messages', query }, consistency);
  }

  /** A slice of an export; `isHere`: this node's own replica can go on with it, which only moves forward. */
  async slice(id: string, query: SliceQuery, consistency: Consistency): Promise<ReadAnswer & { isHere: boolean }> {
    const answer = await this.read(id, { verb: 'slice', query }, consistency);
    return { ...answer, isHere: this.options.router.hosts(groupOf(id)) };
  }

  window(id: string, query: WindowQuery, consistency: Consistency): Promise<WindowAnswer> {
    return this.read(id, { verb: 'window', query }, consistency);
  }

  explain(id: string, query: ExplainQuery, consistency: Consistency): Promise<ReadAnswer> {
    return this.read(id, { verb: 'explain', query }, consistency);
  }

  compactions(id: string, query: CompactionsQuery, consistency: Consistency): Promise<ReadAnswer> {
    return this.read(id, { verb: 'compactions', query }, consistency);
  }

  async compact(id: string, body: Buffer): Promise<{ body: Buffer }> {
    const parsed = parseCompact(body, this.options.limits);
    const claim = parsed.claim === null ? {} : { claim: decodeClaimToken(parsed.claim) };
    // The command carries no model that apply could check, so the model is read like a client reads it: a count
    // must not depend on which node was asked.
    const current = await this.config(id);
    if (current === null) throw await this.absent(id);
    const replacement = await estimate(parsed.replacement, this.options.counter, current.config.model);
    const reply = await this.propose({ type: 'compact', context: id, replacement, ifVersion: parsed.ifVersion, keepFromSeq: parsed.keepFromSeq, ...claim });
    if (!reply.ok) throw replyError(id, reply);
    if (reply.type !== 'compact') throw new Error(`compact was answered with ${reply.type}`);
    return { body: Buffer.from(`{"version":${reply.version}}`) };
  }

  async claim(id: string, { ttlSeconds, token }: ClaimRequest): Promise<{ body: Buffer }> {
    const reply = await this.propose({ type: 'claim', context: id, ttlSeconds, token });
    if (!reply.ok) throw replyError(id, reply);
    if (reply.type !== 'claim') throw new Error(`claim was answered with ${reply.type}`);
    const expiresAt = reply.expiresAt === 0 ? 'null' : `"${timestamp(reply.expiresAt)}"`;
    return { body: Buffer.from(`{"claim":"${encodeClaimToken(token)}","expires_at":${expiresAt}}`) };
  }

  async usage(id: string, { version, inputTokens }: UsageReport): Promise<{ body: Buffer }> {
    const reply = await this.propose({ type: 'usage', context: id, version, inputTokens });
    if (!reply.ok) throw replyError(id, reply);
    if (reply.type !== 'usage') throw new Error(`usage was answered with ${reply.type}`);
    return { body: Buffer.from(`{"calibration":${calibrationRatio(reply.calibration)},"changed":${reply.changed}}`) };
  }

  async patchMetadata(id: string, patch: Record<string, unknown>): Promise<{ body: Buffer }> {
    for (let attempt = 0; attempt < SETTINGS_RETRIES; attempt++) {
      const current = await this.config(id);
      if (current === null) throw await this.absent(id);
      const metadataText = patchMetadataText(current.config.metadataText, patch);
      const reply = await this.propose({ type: 'put', context: id, settings: { metadataText }, ifConfigRevision: current.revision, mustExist: true });
      if (reply.ok) return { body: await this.readBack(id) };
      if (reply.code !== 'revision_conflict') throw replyError(id, reply);
    }
    throw settingsContended();
  }

  /**
   * Answers RequestKind.read of another node: u32 length of the JSON head, the head, the body. Empty: not from here,
   * ask another node. Rejects only where there is a bug; whoever serves the request answers it with nothing then.
   */
  answerRead(request: Uint8Array): Promise<Uint8Array> {
    return this.answered(request, (id, verb, consistency, waitMs) => this.readHere(id, verb, consistency, waitMs));
  }

  /** The same for another shard of this node, which speaks for a client: from here or from another node. */
  answerSibling(request: Uint8Array): Promise<Uint8Array> {
    return this.answered(request, (id, verb, consistency, waitMs) => this.read(id, verb, consistency, waitMs));
  }

  private async answered(request: Uint8Array, read: (id: string, verb: ReadVerb, consistency: Consistency, waitMs: number) => Promise<WindowAnswer | null>): Promise<Uint8Array> {
    const { id, verb, consistency, waitMs } = decodeReadRequest(request);
    try {
      const answer = await read(id, verb, consistency, Math.min(waitMs, this.options.timeoutMs));
      if (answer === null) return NOT_FROM_HERE;
      const { body, etag, notModified, appliedIndex } = answer;
      return encodeReadAnswer({ etag, notModified, appliedIndex, error: null }, body);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      return encodeReadAnswer({ etag: '', notModified: false, appliedIndex: null, error: { code: error.code, message: error.message, fields: error.fields, ...(error.retryAfterSeconds === null ? {} : { retryAfterSeconds: error.retryAfterSeconds }) } }, Buffer.alloc(0));
    }
  }

  private async read(id: string, verb: ReadVerb, consistency: Consistency, timeoutMs: number = this.options.timeoutMs): Promise<WindowAnswer> {
    const deadline = performance.now() + timeoutMs;
    return (await this.readHere(id, verb, consistency, timeoutMs)) ?? this.readElsewhere(id, verb, consistency, deadline);
  }

  /** From this node's replica, and from the archive what that no longer has; null where there is none, or none that is sound. */
  private async readHere(id: string, verb: ReadVerb, consistency: Consistency, waitMs: number): Promise<(ReadResult & { appliedIndex: number | null }) | null> {
    const { router, machine, cold } = this.options;
    const group = groupOf(id);
    const deadline = performance.now() + waitMs;
    if (consistency === 'linearizable' && router.hosts(group) && !(await router.barrier(group, waitMs))) return null;
    if (!router.hosts(group)) return null;
    try {
      const answer = await readThrough(machine.rowsOf(id), id, verb, { texts: machine.texts, cold, isHere: () => router.hosts(group), deadline });
      return answer === null ? null : { ...answer, appliedIndex: consistency === 'stale' ? this.options.appliedIndex(group) : null };
    } catch (error) {
      // Found just now, by this very read: the replica is out already, and others hold the same rows.
      if (error instanceof DamageError) return null;
      throw error;
    }
  }

  /** One host after the other; each gets a share of the time, so that one that hangs leaves some for the next. */
  private async readElsewhere(id: string, verb: ReadVerb, consistency: Consistency, deadline: number): Promise<WindowAnswer> {
    const group = groupOf(id);
    const nodes = this.options.router.hostsOf(group);
    let refusal: ApiError | null = null;
    for (const [i, node] of nodes.entries()) {
      const waitMs = Math.floor((deadline - performance.now()) / (nodes.length - i));
      if (waitMs <= 0) break;
      const answer = await this.ask(node, { id, verb, consistency, waitMs });
      if (answer === null) continue;
      const { head, body } = answer;
      if (head.error === null) return { body, etag: head.etag, notModified: head.notModified, appliedIndex: head.appliedIndex };
      const error = new ApiError(head.error.code, head.error.message, head.error.fields, head.error.retryAfterSeconds);
      // A host that is cut off from its leader says nothing about the others.
      if (error.code !== 'raft_unavailable') throw error;
      refusal = error;
    }
    throw refusal ?? new ApiError('raft_unavailable', `No node that hosts Raft group ${group} can be reached. Retry.`, { outcome: 'not_applied' });
  }

  /** null: no answer from there. */
  private ask(node: string, request: ReadRequest): Promise<{ head: ReadHead; body: Buffer } | null> {
    return new Promise((resolve) => {
      const body = Buffer.from(JSON.stringify(request));
      this.options.network.request(node, RequestKind.read, body, request.waitMs, (failure, answer) => resolve(failure === null && answer !== null ? decodeReadAnswer(answer) : null));
    });
  }

  /** The context after a change that was applied. A failure from here on must not read as if nothing had been. */
  private async readBack(id: string): Promise<Buffer> {
    try {
      return (await this.get(id, 'linearizable')).body;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 503) throw error;
      throw new ApiError('timeout', 'The change was made, but the context could not be read back in time. Read it again before repeating the call.', { outcome: 'unknown' });
    }
  }

  private countAppended(drafts: readonly MessageDraft[], tokens: readonly number[], many: boolean): void {
    // Without its quotes; a role with escapes is none of the known ones and counts as `other`.
    for (const [i, draft] of drafts.entries()) this.options.metrics.messageAppended(asciiOf(draft.roleText), many ? 'batch' : 'single', tokens[i] ?? 0);
  }

  /** A guess at the context's model that costs nothing; apply checks it. '' is the server's default. */
  private localModel(id: string): string {
    if (!this.options.router.hosts(groupOf(id))) return '';
    try {
      return this.options.machine.rowsOf(id).config(id)?.model ?? '';
    } catch (error) {
      if (error instanceof DamageError) return '';
      throw error;
    }
  }

  /** Why a context that cannot be read cannot be changed: there never was one, or it was erased. */
  private async absent(id: string): Promise<ApiError> {
    const reply = await this.propose({ type: 'put', context: id, settings: {}, ifConfigRevision: -1, mustExist: true });
    return reply.ok ? contextNotFound(id) : replyError(id, reply);
  }

  /** Settings in force and their revision, or null where there is no such context. */
  private async config(id: string): Promise<{ config: ContextConfig; revision: number } | null> {
    try {
      const { body } = await this.read(id, { verb: 'settings' }, 'linearizable');
      return decodeSettings(body);
    } catch (error) {
      if (error instanceof ApiError && error.code === 'context_not_found') return null;
      throw error;
    }
  }

  /** Counts for the model this node believes the context has; apply refuses a wrong belief and names the right one. */
  private async withEstimates(id: string, drafts: readonly MessageDraft[], command: (messages: readonly NewMessage[], model: string) => Command): Promise<Reply> {
    let model = this.localModel(id);
    for (let attempt = 0; ; attempt++) {
      const counted = estimate(drafts, this.options.counter, model);
      const messages = counted instanceof Promise ? await counted : counted;
      const reply = await this.propose(command(messages, model));
      if (reply.ok || reply.code !== 'model_mismatch' || attempt === MODEL_RETRIES) return reply;
      model = reply.model;
    }
  }

  private async propose(command: Command, urgency: Urgency = 'normal'): Promise<Reply> {
    const reply = await this.options.router.propose(groupOf(command.context), packCommand(encodeCommand(command, this.options.router.commandFormat)), urgency);
    if (!isReply(reply)) throw new Error('the state machine answered with something that is no reply');
    return reply;
  }
}

/** The inside of a JSON string literal, byte by byte. */
function asciiOf(literal: Uint8Array): string {
  return Buffer.from(literal.buffer, literal.byteOffset, literal.byteLength).toString('latin1', 1, literal.length - 1);
}

function isReply(value: unknown): value is Reply {
  return typeof value === 'object' && value !== null && 'ok' in value && (value.ok === true ? 'type' in value : 'code' in value);
}

/** A refusal of the state machine as the documented error. */
function replyError(id: string, reply: Extract<Reply, { ok: false }>): ApiError {
  switch (reply.code) {
    case 'context_not_found':
      return contextNotFound(id);
    case 'context_tombstoned':
      return new ApiError('context_tombstoned', `Context ${JSON.stringify(id)} was deleted. Reads go on; it takes no more changes.`);
    case 'context_purged':
      return new ApiError('context_purged', `Context ${JSON.stringify(id)} was erased. Its id is not used again; take another.`);
    case 'idempotency_conflict':
      return new ApiError('idempotency_conflict', 'This Idempotency-Key was used with another body. Use a new key for a new message.');
    case 'conflict':
      return new ApiError('conflict', `Context version changed (expected ${reply.expected}, found ${reply.found})`, { expected: reply.expected, found: reply.found });
    case 'revision_conflict':
      return new ApiError('conflict', `Context configuration changed (expected revision ${reply.expected}, found ${reply.found})`, { expected: reply.expected, found: reply.found });
    case 'invalid_keep_from_seq':
      return new ApiError('invalid_request', `keep_from_seq must be between 1 and ${reply.lastSeq + 1} (last_seq + 1).`, { path: 'keep_from_seq' });
    case 'claim_held':
      return claimHeld(reply.expiresAt);
    case 'claim_lost':
      return new ApiError('conflict', `This claim is no longer held: it was used or given back, or another worker claimed since. Nothing was applied; claim again and read the window anew (its version is now ${reply.version}).`, { found: reply.version });
    case 'version_not_kept':
      return new ApiError('invalid_request', `There is no window of that version to compare with: ${reply.version} is the newest and ${reply.from} the oldest that can be told.`, { path: 'version' });
    case 'model_mismatch':
      return new ApiError('raft_unavailable', 'The context’s model kept changing while this message was counted. Nothing was applied; retry.', { outcome: 'not_applied' });
    case 'invalid_command':
      throw new Error('the state machine refused a command that the edge had validated');
  }
}

function claimHeld(expiresAt: number): ApiError {
  const until = timestamp(expiresAt);
  return new ApiError('claim_held', `Another worker is compacting this context. Its claim ends at ${until}, or sooner with its compact.`, { expires_at: until });
}

function settingsContended(): ApiError {
  return new ApiError('raft_unavailable', 'The settings of this context kept changing under this call. Nothing was applied; retry.', { outcome: 'not_applied' });
}

/** Only what the call names, so that a concurrent writer of other fields is not undone; ratios go together. */
function settingsToApply(settings: PutSettings, merged: ContextConfig): Partial<ContextConfig> {
  const { tokenBudget, triggerRatio, policy, metadataText, model, ttlSeconds } = settings;
  return {
    ...(tokenBudget === undefined ? {} : { tokenBudget }),
    ...(triggerRatio === undefined ? {} : { triggerRatio }),
    ...(policy === undefined && triggerRatio === undefined ? {} : { policy: merged.policy }),
    ...(metadataText === undefined ? {} : { metadataText }),
    ...(model === undefined ? {} : { model }),
    ...(ttlSeconds === undefined ? {} : { ttlSeconds }),
  };
}

/** What one node asks another: the verb, and how long the asker will wait. */
interface ReadRequest {
  readonly id: string;
  readonly verb: ReadVerb;
  readonly consistency: Consistency;
  readonly waitMs: number;
}

const NOT_FROM_HERE = new Uint8Array(0);

interface ReadHead {
  readonly etag: string;
  readonly notModified: boolean;
  readonly appliedIndex: number | null;
  readonly error: { readonly code: ErrorCode; readonly message: string; readonly fields: ErrorFields; readonly retryAfterSeconds?: number } | null;
}

function encodeReadAnswer(head: ReadHead, body: Buffer): Uint8Array {
  const text = Buffer.from(JSON.stringify(head));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(text.length);
  return Buffer.concat([length, text, body]);
}

/** null for an answer of no use: empty, or in a form that this version does not know. */
function decodeReadAnswer(answer: Uint8Array): { head: ReadHead; body: Buffer } | null {
  const bytes = Buffer.from(answer.buffer, answer.byteOffset, answer.byteLength);
  if (bytes.length < 4) return null;
  const end = 4 + bytes.readUInt32BE(0);
  let head: unknown;
  try {
    head = JSON.parse(bytes.toString('utf8', 4, end));
  } catch {
    return null;
  }
  return isReadHead(head) ? { head, body: bytes.subarray(end) } : null;
}

function isReadHead(value: unknown): value is ReadHead {
  if (typeof value !== 'object' || value === null) return false;
  const { etag, notModified, appliedIndex, error } = value as Record<string, unknown>;
  if (typeof etag !== 'string' || typeof notModified !== 'boolean' || !(appliedIndex === null || typeof appliedIndex === 'number')) return false;
  return error === null || (typeof error === 'object' && error !== undefined && 'code' in error && String(error.code) in ERROR_STATUS);
}

function decodeReadRequest(request: Uint8Array): ReadRequest {
  const value: unknown = JSON.parse(Buffer.from(request.buffer, request.byteOffset, request.byteLength).toString());
  if (!isReadRequest(value)) throw new Error('malformed read request');
  return value;
}

function isReadRequest(value: unknown): value is ReadRequest {
  if (typeof value !== 'object' || value === null) return false;
  const { id, verb, consistency, waitMs } = value as Record<string, unknown>;
  return (
    typeof id === 'string' &&
    typeof verb === 'object' &&
    verb !== null &&
    'verb' in verb &&
    isReadVerb(String(verb.verb)) &&
    (consistency === 'linearizable' || consistency === 'stale') &&
    typeof waitMs === 'number'
  );
}
