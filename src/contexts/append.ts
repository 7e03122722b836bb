/**
 * `append`: messages to the end of the log, all or nothing. One that only adds to the window writes the header and the
 * messages and reads neither; the policy runs once, after the whole append, and only when it is due.
 */
import { trimUnpinned } from './archive.ts';
import { equalBytes } from './bytes.ts';
import { CallTracker } from './calls.ts';
import { DESCRIPTOR_MAX, settle } from './cut.ts';
import type { Settled } from './cut.ts';
import { encodeCut } from './cuts.ts';
import type { CutRecord } from './cuts.ts';
import { findKeyed, remember } from './idempotency.ts';
import type { Ring } from './idempotency.ts';
import { settleLate } from './late.ts';
import { answer, refuse } from './outcome.ts';
import { compactionDue, needsCompaction, usedTokens } from './policies.ts';
import { encodeHeader, encodeMessageRow } from './rows.ts';
import type { Link, Place } from './rows.ts';
import { RowSource, inWindow, sameNumbers } from './units.ts';
import type { Pending } from './units.ts';
import { RoleKind } from './types.ts';
import type { Command, ContextConfig, ContextEvent, ContextHeader, NewMessage, Outcome, Rows, WindowState, Write } from './types.ts';

/** Messages in one append or one replacement. */
export const MESSAGES_MAX = 1000;
/** Leading system messages that can be pinned; further ones are ordinary messages. */
export const LEADING_MAX = 64;
/** Of one message: sums over any log that fits a disk stay exact integers. */
const TOKENS_MAX = 100_000_000;
const KEY_UNITS_MAX = 256;
const DIGEST_BYTES_MAX = 64;

type Append = Extract<Command, { readonly type: 'append' }>;

/** `stampMs` must not be below the header's updatedAt. */
export function append(rows: Rows, stampMs: number, command: Append): Outcome {
  const { context, idempotency } = command;
  const header = rows.header(context);
  const config = rows.config(context);
  if (header === undefined || config === undefined) return refuse('context_not_found');
  if (idempotency !== null) {
    const first = findKeyed(rows, context, { key: idempotency.key, stampMs, ring: header });
    if (first !== null) {
      if (!equalBytes(first.digest, idempotency.digest)) return refuse('idempotency_conflict');
      const { firstSeq, firstVersion, tokens } = first;
      return answer({ ok: true, type: 'append', firstSeq, firstVersion, tokens, replayed: true });
    }
  }
  if (header.status !== 'active') return refuse('context_tombstoned');
  if (command.model !== config.model) return answer({ ok: false, code: 'model_mismatch', model: config.model });
  if (command.ifVersion >= 0 && command.ifVersion !== header.version) {
    return answer({ ok: false, code: 'conflict', expected: command.ifVersion, found: header.version });
  }
  if (!validMessages(command.messages, 1) || !validKey(idempotency)) return refuse('invalid_command');
  return add(rows, stampMs, { command, header, config });
}

function add(rows: Rows, stampMs: number, given: { command: Append; header: ContextHeader; config: ContextConfig }): Outcome {
  const { command, header, config } = given;
  const { context, messages, idempotency } = command;
  const writes: Write[] = [];
  const events: ContextEvent[] = [];
  const grown = new Growth(header);
  const calls = new CallTracker(rows, context);
  const tokens: number[] = [];
  let seq = header.lastSeq;
  let version = header.version;
  for (const message of messages) {
    seq++;
    version++;
    const links = calls.add(message.parts, seq);
    grown.add(message, seq, links);
    const value = encodeMessageRow(message, { version, stampMs, links, windowTokens: grown.tokens, windowCount: grown.count });
    writes.push({ table: 'message', context, key: seq, value });
    events.push({ type: 'message', context, seq, version, tokens: message.tokens, roleKind: message.roleKind });
    tokens.push(message.tokens);
  }
  calls.flush(writes);

  const before = grown.window();
  const settled = settledWindow(rows, { context, header, config, grown, before, writes, version, lastSeq: seq });
  const window = settled?.window ?? before;
  let { cutCount } = header;
  if (settled !== null && !sameWindow(before, window)) {
    const record = cutRecord({ settled, before, version, stampMs, configRevision: header.configRevision, lastSeq: seq });
    writes.push({ table: 'cut', context, key: ++cutCount, value: encodeCut(record) });
  }
  const firstSeq = header.lastSeq + 1;
  const firstVersion = header.version + 1;
  let ring: Ring = header;
  if (idempotency !== null) {
    const { key, digest } = idempotency;
    const first = { position: header.keyedNewest + 1, stampMs, digest, firstSeq, firstVersion, tokens };
    ring = remember(rows, context, { key, answer: first, ring, writes });
  }
  if (header.trimmedSeq > 0) writes.push(...trimUnpinned(context, header, window));
  const next: ContextHeader = {
    ...header,
    version,
    lastSeq: seq,
    leadingCount: grown.leadingCount,
    updatedAt: stampMs,
    window,
    keyedNewest: ring.keyedNewest,
    keyedOldest: ring.keyedOldest,
    cutCount,
  };
  writes.push({ table: 'header', context, key: '', value: encodeHeader(next) });
  const { calibration } = header;
  const due = needsCompaction(config, window.tokens, calibration);
  const event = { type: 'context', context, version, needsCompaction: due, usedTokens: usedTokens(window.tokens, calibration) } as const;
  const turned = due && !needsCompaction(config, header.window.tokens, calibration);
  events.push(turned ? { ...event, turnedDue: { tokenBudget: config.tokenBudget } } : event);
  return { reply: { ok: true, type: 'append', firstSeq, firstVersion, tokens, replayed: false }, events, writes, header: next, config: null };
}

interface SettleInput {
  readonly context: string;
  readonly header: ContextHeader;
  readonly config: ContextConfig;
  readonly grown: Growth;
  readonly before: WindowState;
  readonly writes: readonly Write[];
  readonly version: number;
  readonly lastSeq: number;
}

/** The window once the policy has run and late results have left; null where there is nothing to do but grow. */
function settledWindow(rows: Rows, input: SettleInput): Settled | null {
  const { header, config, grown, before, writes, version, lastSeq } = input;
  const { late, doubtful, leadingCount } = grown;
  const { calibration } = header;
  const full = before.excluded.length > DESCRIPTOR_MAX;
  const doubt = late.length > 0 || doubtful.length > 0;
  if (!doubt && !full && !compactionDue(config, before, calibration)) return null;
  const source = new RowSource(rows, input.context, pendingRows(writes), { heads: rows.heads?.(input.context) });
  const given = { source, config, window: before, lastSeq, leadingCount, version, late, calibration };
  if (full || config.policy.strategy !== 'manual') return settle(given);
  const settled = settleLate({ ...given, doubtful, lastSeqBefore: header.lastSeq });
  return settled.window.excluded.length > DESCRIPTOR_MAX ? settle(given) : settled;
}

interface RecordInput {
  readonly settled: Settled;
  readonly before: WindowState;
  readonly version: number;
  readonly stampMs: number;
  readonly configRevision: number;
  readonly lastSeq: number;
}

function cutRecord({ settled, before, version, stampMs, configRevision, lastSeq }: RecordInput): CutRecord {
  const { window, kind, late } = settled;
  const moved = window.firstSeq > before.firstSeq;
  return {
    kind,
    version,
    stampMs,
    configRevision,
    lastSeq,
    fromSeq: moved ? before.firstSeq : 0,
    toSeq: moved ? window.firstSeq - 1 : 0,
    replacementCount: 0,
    late,
    countAfter: window.count,
    tokensAfter: window.tokens,
    before,
  };
}

/** How the window grows while messages are added, without reading any. */
class Growth {
  leadingCount: number;
  /** Late results that are tied to messages in the window, which must leave with them. */
  readonly late: number[] = [];
  /** Results of calls that skip_parts may have taken out: what they cost is told only by reading. */
  readonly doubtful: number[] = [];
  /** Sums of the window as it has grown so far. */
  tokens: number;
  count: number;
  readonly #window: WindowState;
  #excluded: number[] | null = null;
  readonly #strippedBefore: number;

  constructor(header: ContextHeader) {
    const { window } = header;
    this.#window = window;
    this.leadingCount = header.leadingCount;
    this.tokens = window.tokens;
    this.count = window.count;
    let before = 0;
    for (const run of window.stripped) before = Math.max(before, run.before);
    this.#strippedBefore = before;
  }

  add(message: NewMessage, seq: number, links: readonly Link[]): void {
    if (this.leadingCount === seq - 1 && message.roleKind === RoleKind.system && seq <= LEADING_MAX) this.leadingCount = seq;
    let answersOutside = false;
    let answersInside = false;
    let doubtful = false;
    for (const link of links) {
      if (link.target === seq) continue;
      if (!this.#holds(link.target)) answersOutside = true;
      else answersInside = true;
      // skip_parts may have taken the call out, and its late result then goes too.
      if (link.target > 0 && link.target < this.#strippedBefore) doubtful = true;
    }
    if (answersOutside) {
      // Its call has left the window, and one must not be there without the other.
      if (answersInside) {
        this.late.push(seq);
      } else {
        this.#excluded ??= [...this.#window.excluded];
        this.#excluded.push(seq);
        return;
      }
    }
    if (doubtful) this.doubtful.push(seq);
    this.tokens += message.tokens;
    this.count++;
  }

  #holds(place: Place): boolean {
    if (this.late.includes(place)) return false;
    if (this.#excluded !== null && place > 0 && this.#excluded.includes(place)) return false;
    return inWindow(this.#window, place);
  }

  window(): WindowState {
    const excluded = this.#excluded ?? this.#window.excluded;
    return { ...this.#window, tokens: this.tokens, count: this.count, excluded };
  }
}

/** Whether nothing but growth lies between the two. */
function sameWindow(grown: WindowState, settled: WindowState): boolean {
  return (
    grown.tokens === settled.tokens &&
    grown.count === settled.count &&
    grown.stableSinceVersion === settled.stableSinceVersion &&
    grown.firstSeq === settled.firstSeq &&
    grown.replacementCount === settled.replacementCount &&
    grown.replacementFirst === settled.replacementFirst &&
    grown.stripped === settled.stripped &&
    sameNumbers(grown.replacementExcluded, settled.replacementExcluded) &&
    sameNumbers(grown.pinned, settled.pinned) &&
    sameNumbers(grown.excluded, settled.excluded)
  );
}

/** The rows of this command, for reading a window that holds them. */
export function pendingRows(writes: readonly Write[]): Pending {
  const messages = new Map<Place, Uint8Array>();
  const answers = new Map<number, Uint8Array>();
  for (const { table, key, value } of writes) {
    if (typeof key !== 'number' || value === null) continue;
    if (table === 'message') messages.set(key, value);
    if (table === 'replacement') messages.set(-key, value);
    if (table === 'answers') answers.set(key, value);
  }
  return { messages, answers };
}

/** The last look at what the edge has checked: nothing here may break a replica. */
export function validMessages(messages: readonly NewMessage[], countMin: number): boolean {
  if (messages.length < countMin || messages.length > MESSAGES_MAX) return false;
  for (const message of messages) {
    if (!Number.isSafeInteger(message.tokens) || message.tokens < 0 || message.tokens > TOKENS_MAX) return false;
    let last = 0;
    for (const part of message.parts) {
      if (part.start < last || part.end < part.start || part.end > message.partsText.length || part.tokens > TOKENS_MAX) return false;
      last = part.end;
    }
  }
  return true;
}

function validKey(idempotency: Append['idempotency']): boolean {
  return idempotency === null || (idempotency.key.length <= KEY_UNITS_MAX && idempotency.digest.length <= DIGEST_BYTES_MAX);
}
