/**
 * Windows that are answered whole, message by message as stored: most of them, as a window is cut long before it
 * outgrows its budget. Such an answer is what message-texts.ts keeps with a head before it and sums behind it, so it
 * costs what was appended since the last one. Windows that leave something out, or are put in a provider's shape, are
 * windows.ts' matter; the bytes are the same either way.
 */
import { createHash, type Hash } from 'node:crypto';
import { countedBudget, needsCompaction, usedTokens } from './contexts/policies.ts';
import type { ProjectionQuery, Segment } from './contexts/project.ts';
import { decodeCompaction } from './contexts/rows.ts';
import type { WindowView } from './contexts/travel.ts';
import type { Rows, WindowState } from './contexts/types.ts';
import { replacementPlaces, sameNumbers } from './contexts/units.ts';
import { storedRow } from './message-texts.ts';
import type { ContextText, MessageTexts } from './message-texts.ts';
import { messageRow, renderMessage } from './render.ts';

/** What windows with one and the same beginning share. */
export interface WholeWindow {
  /** The window that it was made for: another is like it where sameBeginning says so. */
  readonly window: WindowState;
  /** The replacement and the pinned messages, as JSON with commas between. */
  readonly lead: Buffer;
  /** What stands in for the log's beginning, or null. */
  readonly summary: Segment | null;
  /** Over the messages of lead, and those of the log up to hashedTo. */
  readonly prefix: Hash;
  hashedTo: number;
}

/** All that an answer says of a window, in the order of its members. */
export interface WindowFacts {
  readonly version: number;
  readonly configRevision: number;
  readonly usedTokens: number;
  readonly needsCompaction: boolean;
  readonly tokenBudget: number;
  readonly segments: readonly Segment[];
  readonly truncated: boolean;
  readonly overBudget: boolean;
  readonly prefixHash: string;
  readonly stableSinceVersion: number;
}

/** The window's facts and its messages, `"messages":[` to `]`, in pieces. */
export interface WholeAnswer {
  readonly facts: WindowFacts;
  readonly members: readonly Uint8Array[];
}

const OPEN = Buffer.from('"messages":[');
const COMMA = Buffer.from(',');
const CLOSE = Buffer.from(']');

/**
 * The answer to `query` from the present window `view`; null where it would not be the whole window in plain text, or
 * that is too large to be kept. Throws what reading rows throws.
 */
export function wholeAnswer(rows: Rows, id: string, view: WindowView, query: ProjectionQuery, texts: MessageTexts): WholeAnswer | null {
  const { window, lastSeq, settings } = view;
  const { calibration } = settings;
  const budget = query.budgetTokens ?? settings.tokenBudget;
  const isWhole = query.full || window.tokens <= countedBudget(budget, calibration);
  const { firstSeq, excluded } = window;
  if (!isWhole || window.stripped.length > 0 || firstSeq > lastSeq || excluded.at(-1) === lastSeq) return null;
  const text = texts.reach(rows, id, firstSeq, lastSeq);
  if (text === null) return null;
  const whole = beginning(rows, id, view, text);
  const used = usedTokens(window.tokens, calibration);
  const answer: WholeAnswer = {
    facts: {
      version: view.version,
      configRevision: settings.revision,
      usedTokens: used,
      needsCompaction: needsCompaction(settings, window.tokens, calibration),
      tokenBudget: settings.tokenBudget,
      segments: segmentsOf(whole, window, lastSeq),
      truncated: false,
      overBudget: used > budget,
      prefixHash: prefixHash(whole, window, text, lastSeq),
      stableSinceVersion: window.stableSinceVersion,
    },
    members: membersOf(whole, window, text, lastSeq),
  };
  texts.keep(id, text);
  return answer;
}

/** What is kept of an earlier answer, if it holds for this window, or made anew. */
function beginning(rows: Rows, id: string, { window, lastSeq }: WindowView, text: ContextText): WholeWindow {
  const kept = text.whole;
  if (kept !== null && kept.hashedTo < lastSeq && sameBeginning(kept.window, window)) return kept;
  const pieces: Uint8Array[] = [];
  const prefix = createHash('sha256');
  const add = (bytes: Uint8Array, seq: number | null): void => {
    const row = messageRow(bytes);
    const rendered: Uint8Array[] = [];
    renderMessage(rendered, seq, row, null, row.tokens);
    for (const piece of rendered) prefix.update(piece);
    if (pieces.length > 0) pieces.push(COMMA);
    pieces.push(...rendered);
  };
  const places = replacementPlaces(window);
  for (const place of places) add(storedRow(rows, id, 'replacement', -place), null);
  for (const seq of window.pinned) add(storedRow(rows, id, 'message', seq), seq);
  const summary = places.length === 0 ? null : summaryOf(rows, id, window);
  const whole: WholeWindow = { window, lead: Buffer.concat(pieces), summary, prefix, hashedTo: window.firstSeq - 1 };
  text.whole = whole;
  return whole;
}

function summaryOf(rows: Rows, id: string, window: WindowState): Segment {
  const row = rows.get('compaction', id, window.replacementVersion);
  const record = row === undefined ? null : decodeCompaction(row);
  return { type: 'summary', fromSeq: record?.fromSeq ?? 0, toSeq: record?.toSeq ?? 0 };
}

/** Whether `next` is `before` grown at its end, if by anything. */
function sameBeginning(before: WindowState, next: WindowState): boolean {
  return (
    before.firstSeq === next.firstSeq &&
    before.replacementVersion === next.replacementVersion &&
    before.replacementFirst === next.replacementFirst &&
    before.replacementCount === next.replacementCount &&
    sameNumbers(before.replacementExcluded, next.replacementExcluded) &&
    sameNumbers(before.pinned, next.pinned) &&
    sameNumbers(before.excluded, next.excluded)
  );
}

/** Runs of live messages [from, to]: those from firstSeq on, less the excluded ones. */
function* liveRuns({ firstSeq, excluded }: WindowState, lastSeq: number): Generator<readonly [from: number, to: number]> {
  let from = firstSeq;
  for (const seq of excluded) {
    if (seq > from) yield [from, seq - 1];
    from = Math.max(from, seq + 1);
  }
  if (from <= lastSeq) yield [from, lastSeq];
}

function segmentsOf({ summary }: WholeWindow, window: WindowState, lastSeq: number): Segment[] {
  const segments: Segment[] = summary === null ? [] : [summary];
  let run: { type: 'live'; fromSeq: number; toSeq: number } | null = null;
  const add = (from: number, to: number): void => {
    if (run !== null && from === run.toSeq + 1) {
      run.toSeq = to;
    } else {
      run = { type: 'live', fromSeq: from, toSeq: to };
      segments.push(run);
    }
  };
  for (const seq of window.pinned) add(seq, seq);
  for (const [from, to] of liveRuns(window, lastSeq)) add(from, to);
  return segments;
}

/** SHA-256 over the messages before the newest, without what stands between them. */
function prefixHash(whole: WholeWindow, window: WindowState, text: ContextText, lastSeq: number): string {
  for (const [from, to] of liveRuns(window, lastSeq - 1)) {
    for (let seq = Math.max(from, whole.hashedTo + 1); seq <= to; seq++) whole.prefix.update(text.message(seq));
  }
  whole.hashedTo = Math.max(whole.hashedTo, lastSeq - 1);
  return whole.prefix.copy().digest('hex');
}

function membersOf({ lead }: WholeWindow, window: WindowState, text: ContextText, lastSeq: number): Uint8Array[] {
  const members: Uint8Array[] = [OPEN];
  if (lead.length > 0) members.push(lead);
  for (const [from, to] of liveRuns(window, lastSeq)) {
    if (members.length > 1) members.push(COMMA);
    members.push(text.text(from, to));
  }
  members.push(CLOSE);
  return members;
}
