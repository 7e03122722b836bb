/**
 * What is told of a context's window: the window itself, now or at an older version, plain or in a provider's shape;
 * the account of it, message by message; and the list of what cut it. Reads of one replica's rows, as in reads.ts. What
 * a window holds is decided in src/contexts, what a provider takes in src/providers; here it becomes an answer.
 */
import { createHash } from 'node:crypto';
import { listCuts, type CutRecord } from './contexts/cuts.ts';
import { explain, type ExplainedMessage, type Explanation, type Sum } from './contexts/explain.ts';
import { CALIBRATION_ONE } from './contexts/policies.ts';
import { ANSWER_BYTES_MAX, projectView, type Projection } from './contexts/project.ts';
import { windowAt, windowNow, type WindowView } from './contexts/travel.ts';
import type { ContextHeader, Rows } from './contexts/types.ts';
import { ApiError } from './errors.ts';
import type { CompactionsQuery, ExplainQuery, WindowQuery, WindowSelection } from './http/ports.ts';
import type { MessageTexts } from './message-texts.ts';
import { messageOverheadTokens } from './providers/overheads.ts';
import { membersOf, renderFor, type Provider } from './providers/rendering.ts';
import { renderMessage, timestamp } from './render.ts';
import { wholeAnswer, type WindowFacts } from './whole-windows.ts';

export interface WindowAnswerBody {
  readonly body: Buffer;
  /** Strong, quotes included. */
  readonly etag: string;
  /** `body` is empty: the caller has it. */
  readonly notModified: boolean;
}

/**
 * The LLM window. What `texts` keeps of the context saves work and changes no byte.
 * Throws ApiError conflict, invalid_request (at_version), payload_too_large.
 */
export function windowAnswer(rows: Rows, id: string, header: ContextHeader, query: WindowQuery, texts: MessageTexts): WindowAnswerBody {
  const view = selected(rows, id, header, query);
  const etag = etagOf(view, query);
  if (query.ifNoneMatch !== null && matches(query.ifNoneMatch, etag)) return { body: Buffer.alloc(0), etag, notModified: true };
  // Windows of the past may need messages that are kept no more, and are asked for too seldom to be kept.
  const isPresent = query.atVersion === null;
  if (isPresent && query.provider === null) {
    const whole = wholeAnswer(rows, id, view, query, texts);
    if (whole !== null) return { body: bodyOf(whole.facts, whole.members, null), etag, notModified: false };
  }
  const made = isPresent ? texts.get(id)?.made : null;
  if (made?.etag === etag) return { body: made.body, etag, notModified: false };
  const window = projectView(rows, id, view, query);
  if (window.tooLarge) throw windowTooLarge();
  if (window.missing > 0) throw notWhole(id, query, window.missing);
  const { members, prefixHash, overheadTokens } = query.provider === null ? plainMessages(window) : providerMessages(window, query.provider);
  const body = bodyOf({ ...window, prefixHash }, members, overheadTokens);
  if (isPresent) texts.remember(id, { etag, body });
  return { body, etag, notModified: false };
}

function bodyOf(facts: WindowFacts, members: readonly Uint8Array[], overheadTokens: number | null): Buffer {
  const segments = facts.segments.map(({ type, fromSeq, toSeq }) => ({ type, from_seq: fromSeq, to_seq: toSeq }));
  const head = `{"version":${facts.version},"config_revision":${facts.configRevision},`;
  const rest =
    `,"used_tokens":${facts.usedTokens},"needs_compaction":${facts.needsCompaction},"token_budget":${facts.tokenBudget},` +
    `"segments":${JSON.stringify(segments)},"truncated":${facts.truncated},"over_budget":${facts.overBudget},` +
    `"prefix_hash":"${facts.prefixHash}","stable_since_version":${facts.stableSinceVersion}` +
    `${overheadTokens === null ? '' : `,"overhead_tokens":${overheadTokens}`}}`;
  return Buffer.concat([Buffer.from(head), ...members, Buffer.from(rest)]);
}

/** A page of the log with what became of each message, and the sums. Throws as windowAnswer does. */
export function explainAnswer(rows: Rows, id: string, header: ContextHeader, query: ExplainQuery): Buffer {
  const explanation = explain(rows, id, selected(rows, id, header, query), query);
  if (explanation.tooLarge) throw windowTooLarge();
  return Buffer.from(JSON.stringify(explanationJson(explanation)));
}

function windowTooLarge(): ApiError {
  return new ApiError('payload_too_large', `The window takes more than ${ANSWER_BYTES_MAX} bytes. Ask for fewer tokens (budget_tokens), or compact the context.`);
}

/** A page of what cut the window, oldest first. */
export function compactionsAnswer(rows: Rows, id: string, query: CompactionsQuery): Buffer {
  const page = listCuts(rows, id, query);
  const compactions = (page?.cuts ?? []).map(cutJson);
  const next = page?.nextVersion ?? null;
  return Buffer.from(JSON.stringify({ compactions, next_cursor: next === null ? null : String(next) }));
}

/** The stored window that a query is about. */
function selected(rows: Rows, id: string, header: ContextHeader, query: WindowSelection): WindowView {
  const { ifVersion, atVersion } = query;
  if (ifVersion !== null && ifVersion !== header.version) {
    throw new ApiError('conflict', `Context version changed (expected ${ifVersion}, found ${header.version})`, { expected: ifVersion, found: header.version });
  }
  const view = atVersion === null ? windowNow(rows, id) : windowAt(rows, id, atVersion);
  if (view === null) throw new Error(`context ${JSON.stringify(id)} has a header and no settings`);
  if ('code' in view) {
    const known = view.from === view.version ? `only version ${view.version}` : `versions ${view.from} to ${view.version}`;
    throw new ApiError('invalid_request', `The window of version ${atVersion} cannot be told: ${known} of this context can.`, { path: 'at_version' });
  }
  return view;
}

/**
 * Names a window answer exactly: version, revision and everything of the query that shapes it. A version that is asked
 * for by at_version is named as it was when it was the newest: the bytes are the same.
 */
function etagOf(view: WindowView, query: WindowQuery): string {
  const shape = query.provider === null ? '' : `-${query.provider}`;
  return `"${view.version}-${view.settings.revision}-${query.budgetTokens ?? 'default'}${query.full ? '-full' : ''}${shape}"`;
}

/** RFC 9110 If-None-Match: `*` or a list; the comparison is weak. */
function matches(header: string, etag: string): boolean {
  if (header.trim() === '*') return true;
  return header.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag);
}

/** A window that would leave out, unsaid, what it held is not answered. */
function notWhole(id: string, query: WindowQuery, missing: number): Error {
  if (query.atVersion === null) return new Error(`${missing} messages of the window of context ${JSON.stringify(id)} are missing from storage`);
  return new ApiError('invalid_request', `The window of version ${query.atVersion} can no longer be told: ${missing} of its messages are no longer in hot storage.`, { path: 'at_version' });
}

interface Members {
  /** `"messages":[…]` and what goes with it. */
  readonly members: readonly Uint8Array[];
  /** SHA-256 over what comes before the newest message. */
  readonly prefixHash: string;
  /** What the provider's format adds to used_tokens, as far as it is published; null without a provider. */
  readonly overheadTokens: number | null;
}

const OPEN = Buffer.from('"messages":[');
const COMMA = Buffer.from(',');
const CLOSE = Buffer.from(']');

function plainMessages({ elements }: Projection): Members {
  const prefix = createHash('sha256');
  const members: Uint8Array[] = [OPEN];
  for (const [i, element] of elements.entries()) {
    const rendered: Uint8Array[] = [];
    renderMessage(rendered, element.source === 'message' ? element.seq : null, element.row, element.kept, element.tokens);
    if (i < elements.length - 1) for (const piece of rendered) prefix.update(piece);
    if (i > 0) members.push(COMMA);
    for (const piece of rendered) members.push(piece);
  }
  members.push(CLOSE);
  return { members, prefixHash: prefix.digest('hex'), overheadTokens: null };
}

/** What a provider caches begins with the system text, wherever its request puts it. */
function providerMessages({ elements }: Projection, provider: Provider): Members {
  const rendering = renderFor(provider, elements);
  const prefix = createHash('sha256').update(rendering.system ?? '');
  for (const message of rendering.messages.slice(0, -1)) prefix.update(message);
  return { members: [Buffer.from(membersOf(rendering))], prefixHash: prefix.digest('hex'), overheadTokens: messageOverheadTokens(provider, rendering) };
}

function explanationJson({ version, configRevision, messages, nextSeq, arithmetic: sums }: Explanation): object {
  return {
    version,
    config_revision: configRevision,
    messages: messages.map(explainedJson),
    next_seq: nextSeq,
    arithmetic: {
      token_budget: sums.tokenBudget,
      budget: sums.budget,
      calibration: calibrationRatio(sums.calibration),
      trigger_tokens: sums.triggerTokens,
      target_tokens: sums.targetTokens,
      stored: sumJson(sums.stored),
      left_out: sumJson(sums.leftOut),
      replacement: sumJson(sums.replacement),
      pinned: sumJson(sums.pinned),
      rest: sumJson(sums.rest),
      sum: sumJson(sums.sum),
      used_tokens: sums.used,
    },
  };
}

function explainedJson({ seq, version, state, rule, atVersion, tokensCounted, tokensShown, partsTaken }: ExplainedMessage): object {
  return {
    seq,
    version,
    state,
    rule,
    at_version: rule === null ? null : atVersion,
    token_count: tokensCounted,
    tokens_shown: tokensShown,
    parts_taken: partsTaken.map(({ index, kind, tokens }) => ({ index, type: kind, tokens })),
  };
}

function sumJson({ messages, tokens }: Sum): object {
  return { messages, tokens };
}

function cutJson(cut: CutRecord): object {
  return {
    version: cut.version,
    rule: cut.kind,
    config_revision: cut.configRevision,
    made_at: timestamp(cut.stampMs),
    from_seq: cut.fromSeq,
    to_seq: cut.toSeq,
    late_seqs: cut.late,
    replacement_messages: cut.replacementCount,
    before: { messages: cut.before.count, tokens: cut.before.tokens },
    after: { messages: cut.countAfter, tokens: cut.tokensAfter },
  };
}

/** What a counted token costs at the provider. 1/1024s are exact in a double and print in full. */
export function calibrationRatio(calibration: number): number {
  return calibration / CALIBRATION_ONE;
}
