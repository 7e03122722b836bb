/**
 * Why a window is what it is: for every message of a page of the log what became of it, by which rule and at which
 * version, and the arithmetic of the answer that the same query to project.ts would give. What left the window stays
 * out of it, so the cut that took a message out is found by a binary search over the records of cuts.
 */
import { Cuts } from './cuts.ts';
import type { CutKind, CutRecord } from './cuts.ts';
import { cutTarget, triggerTokens, usedTokens } from './policies.ts';
import { choose } from './project.ts';
import type { Chosen, ProjectionQuery } from './project.ts';
import { decodeMessageRow, rowParts } from './rows.ts';
import type { MessageRow } from './rows.ts';
import type { WindowView } from './travel.ts';
import { inWindow } from './units.ts';
import type { WindowItem } from './units.ts';
import type { Rows, WindowState } from './types.ts';

export interface ExplainQuery extends ProjectionQuery {
  /** First message of the page. */
  readonly fromSeq: number;
  /** Messages of a page. */
  readonly limit: number;
}

/**
 * in: shown as it came. stripped: shown without some of its parts. dropped: not shown. summarised: not shown, and a
 * replacement stands for it.
 */
export type MessageState = 'in' | 'stripped' | 'dropped' | 'summarised';

/** Why a message is not shown, or not whole. `budget`: this answer left it out; the stored window still holds it. */
export type MessageRule = Exclude<CutKind, 'recount'> | 'budget';

export interface PartTaken {
  readonly index: number;
  readonly kind: string;
  readonly tokens: number;
}

export interface ExplainedMessage {
  readonly seq: number;
  /** That added it. */
  readonly version: number;
  readonly state: MessageState;
  /** null for a message that is in. */
  readonly rule: MessageRule | null;
  /** At which the rule took effect (for `summarised`: the compaction's); 0 for a message that is in. */
  readonly atVersion: number;
  /** As stored, and as shown: 0 for a message that is not. */
  readonly tokensCounted: number;
  readonly tokensShown: number;
  /** What skip_parts took out of it, while it is in the window. */
  readonly partsTaken: readonly PartTaken[];
}

/** Messages and their counted tokens. */
export interface Sum {
  readonly messages: number;
  readonly tokens: number;
}

/** Counted tokens throughout, but for `used`: what a budget allows is divided by the calibration before. */
export interface Arithmetic {
  readonly tokenBudget: number;
  /** What this answer may cost. */
  readonly budget: number;
  /** In 1/1024. */
  readonly calibration: number;
  /** Compaction is due above it, and cuts to the target. */
  readonly triggerTokens: number;
  readonly targetTokens: number;
  /** The stored window, and of it what this answer leaves out. */
  readonly stored: Sum;
  readonly leftOut: Sum;
  /** Of the answer: the replacement, pinned system messages, everything else; their sum, and what that costs. */
  readonly replacement: Sum;
  readonly pinned: Sum;
  readonly rest: Sum;
  readonly sum: Sum;
  readonly used: number;
}

export interface Explanation {
  readonly version: number;
  readonly configRevision: number;
  readonly messages: readonly ExplainedMessage[];
  /** null at the end of the log. */
  readonly nextSeq: number | null;
  readonly arithmetic: Arithmetic;
  /** The answer explained would take more than ANSWER_BYTES_MAX: it is not given, and nothing is explained. */
  readonly tooLarge: boolean;
}

/** Explains a page of the log as of `view` (see travel.ts). Reads what project reads, the page, and a few cuts. */
export function explain(rows: Rows, context: string, view: WindowView, query: ExplainQuery): Explanation {
  const chosen = choose(rows, context, view, query);
  const shown = new Map<number, WindowItem>();
  for (const item of chosen.units.items) if (item.place > 0) shown.set(item.place, item);
  const past = new Past(rows, context, view);
  const messages: ExplainedMessage[] = [];
  const from = Math.max(1, query.fromSeq);
  const to = Math.min(view.lastSeq, from + query.limit - 1);
  const tooLarge = chosen.source.exhausted;
  for (let seq = from; !tooLarge && seq <= to; seq++) {
    const bytes = rows.get('message', context, seq);
    const row = bytes === undefined ? null : decodeMessageRow(bytes);
    if (row !== null) messages.push(explained({ seq, row, item: shown.get(seq), chosen, past, view }));
  }
  return {
    version: view.version,
    configRevision: view.settings.revision,
    messages,
    nextSeq: to < view.lastSeq ? to + 1 : null,
    arithmetic: arithmeticOf(view, chosen),
    tooLarge,
  };
}

interface MessageInput {
  readonly seq: number;
  readonly row: MessageRow;
  /** The message as the answer read it; undefined where it did not need to. */
  readonly item: WindowItem | undefined;
  readonly chosen: Chosen;
  readonly past: Past;
  readonly view: WindowView;
}

function explained({ seq, row, item, chosen, past, view }: MessageInput): ExplainedMessage {
  const base = { seq, version: row.version, tokensCounted: row.tokens };
  if (!inWindow(view.window, seq)) {
    const { rule, atVersion, summarised } = past.left(seq, row.version);
    return { ...base, state: summarised ? 'summarised' : 'dropped', rule, atVersion, tokensShown: 0, partsTaken: [] };
  }
  const kept = item?.kept ?? null;
  const partsTaken = kept === null ? [] : takenOf(row, kept);
  const strippedAt = kept === null ? 0 : Math.max(row.version, past.strippedAt(item === undefined ? seq : reachedFrom(item)));
  if (item?.hidden === true) return { ...base, state: 'dropped', rule: 'skip_parts', atVersion: strippedAt, tokensShown: 0, partsTaken };
  if (item === undefined || !chosen.units.keeps(item)) {
    return { ...base, state: 'dropped', rule: 'budget', atVersion: view.version, tokensShown: 0, partsTaken };
  }
  if (kept !== null) return { ...base, state: 'stripped', rule: 'skip_parts', atVersion: strippedAt, tokensShown: item.tokens, partsTaken };
  return { ...base, state: 'in', rule: null, atVersion: 0, tokensShown: item.tokens, partsTaken };
}

/** Where skip_parts first touches a message: at itself, or at a call that it answers. */
function reachedFrom(item: WindowItem): number {
  let lowest = item.place;
  for (const link of item.links) if (link.target > 0) lowest = Math.min(lowest, link.target);
  return lowest;
}

function takenOf(row: MessageRow, kept: readonly number[]): PartTaken[] {
  const taken: PartTaken[] = [];
  for (const [index, { kind, tokens }] of rowParts(row).entries()) if (!kept.includes(index)) taken.push({ index, kind, tokens });
  return taken;
}

/** What cuts did to messages. */
class Past {
  readonly #cuts: Cuts;
  readonly #view: WindowView;
  /** Cuts up to the version looked at are numbered from 1 to this. */
  readonly #last: number;

  constructor(rows: Rows, context: string, view: WindowView) {
    this.#cuts = new Cuts(rows, context, rows.header(context)?.cutCount ?? 0);
    this.#view = view;
    this.#last = this.#cuts.first((cut) => cut.version > view.version) - 1;
  }

  /** By which rule a message that is not in the window left it. */
  left(seq: number, added: number): { rule: MessageRule; atVersion: number; summarised: boolean } {
    const number = this.#cuts.first((cut, at) => cut.lastSeq >= seq && !inWindow(this.#after(at), seq), this.#last);
    const cut = number > this.#last ? null : this.#cuts.at(number);
    // No cut took it out: it never came in, because its call had left before.
    if (cut === null || !inWindow(cut.before, seq)) return { rule: 'late_result', atVersion: added, summarised: false };
    return { rule: ruleOf(cut, seq), atVersion: cut.version, summarised: cut.kind === 'compact' && cut.replacementCount > 0 };
  }

  /** The version at which skip_parts first reached over `seq`; 0 where it took out a call that `seq` answered later. */
  strippedAt(seq: number): number {
    const number = this.#cuts.first((_, at) => this.#after(at).stripped.some((run) => run.before > seq), this.#last);
    return number > this.#last ? 0 : (this.#cuts.at(number)?.version ?? 0);
  }

  /** The window that a cut left; what it grew by until the next one makes no difference to older messages. */
  #after(number: number): WindowState {
    return number < this.#last ? (this.#cuts.at(number + 1)?.before ?? this.#view.window) : this.#view.window;
  }
}

function ruleOf(cut: CutRecord, seq: number): MessageRule {
  if (cut.late.includes(seq)) return 'late_result';
  // All that a recount takes out by name is what skip_parts leaves nothing of.
  if (cut.kind === 'recount') return 'skip_parts';
  // Whole units go by skip_parts as they go by last_n; what it empties stays in the window, hidden.
  return cut.kind === 'skip_parts' ? 'last_n' : cut.kind;
}

function arithmeticOf(view: WindowView, { units, budget }: Chosen): Arithmetic {
  const { settings, window, leadingCount } = view;
  const { calibration, tokenBudget } = settings;
  const replacement = { messages: 0, tokens: 0 };
  const pinned = { messages: 0, tokens: 0 };
  const rest = { messages: 0, tokens: 0 };
  for (const item of units.items) {
    if (!units.keeps(item)) continue;
    const sum = item.place < 0 ? replacement : settings.policy.pin && item.place <= leadingCount ? pinned : rest;
    sum.messages++;
    sum.tokens += item.tokens;
  }
  return {
    tokenBudget,
    budget,
    calibration,
    triggerTokens: triggerTokens(settings, calibration),
    targetTokens: cutTarget(settings, calibration).tokens,
    stored: { messages: window.count, tokens: window.tokens },
    leftOut: { messages: window.count - units.count, tokens: window.tokens - units.tokens },
    replacement,
    pinned,
    rest,
    sum: { messages: units.count, tokens: units.tokens },
    used: usedTokens(units.tokens, calibration),
  };
}
