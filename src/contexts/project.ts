/**
 * What the model is sent: the stored window, or as much of it as fits a budget. A pure read; the stored window is never
 * changed by it. Units are left out whole, the oldest unpinned first, then what is pinned (the opening of the
 * conversation last of all); the newest unit always stays, alone and flagged where even that is over the budget.
 */
import { countedBudget, needsCompaction, usedTokens } from './policies.ts';
import { readWithin } from './reach.ts';
import { REPLACEMENT_SPAN, decodeCompaction } from './rows.ts';
import type { MessageRow } from './rows.ts';
import { windowAt, windowNow } from './travel.ts';
import type { NotKept, WindowView } from './travel.ts';
import { NOTHING_PENDING, RowSource } from './units.ts';
import type { UnitSet, WindowItem } from './units.ts';
import type { Rows, WindowState } from './types.ts';

export interface ProjectionQuery {
  /** Instead of the context's token_budget; null for that. */
  readonly budgetTokens: number | null;
  /** The stored window whole, whatever it costs. */
  readonly full: boolean;
}

/** One message of the answer, in the order the model sees it. */
export interface ProjectionElement {
  readonly source: 'replacement' | 'message';
  /** 0 for a replacement message. */
  readonly seq: number;
  /** Position in the replacement; 0 for a log message. */
  readonly position: number;
  readonly row: MessageRow;
  /** Indices of the parts to show; null: all, verbatim. */
  readonly kept: readonly number[] | null;
  /** What it costs as shown. */
  readonly tokens: number;
}

export interface Segment {
  readonly type: 'summary' | 'live';
  /** Log messages that it stands for (summary) or that it holds (live). */
  readonly fromSeq: number;
  readonly toSeq: number;
}

export interface Projection {
  readonly version: number;
  readonly configRevision: number;
  readonly elements: readonly ProjectionElement[];
  /** What the elements cost: their sum, calibrated. */
  readonly usedTokens: number;
  /** The sum over the elements. */
  readonly countedTokens: number;
  /** What a counted token costs, in 1/1024. */
  readonly calibration: number;
  /** Of the stored window, whatever this answer holds. */
  readonly needsCompaction: boolean;
  readonly tokenBudget: number;
  readonly segments: readonly Segment[];
  /** Some of the stored window was left out. */
  readonly truncated: boolean;
  /** The answer costs more than the budget: its newest unit alone does, or the whole was asked for. */
  readonly overBudget: boolean;
  readonly stableSinceVersion: number;
  /** The answer would take more than ANSWER_BYTES_MAX: it is not given, `elements` is empty. */
  readonly tooLarge: boolean;
  /** Messages that should have been looked at and are no longer in storage. Not 0: the answer is not what it was. */
  readonly missing: number;
}

/** Most bytes of message rows that one answer may be made of: more than any provider takes in one request. */
export const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

/**
 * The window of `context` within the query's budget; null when there is no such context. Reads what it shows, and at
 * most LOOK_BACK_MAX messages more.
 */
export function project(rows: Rows, context: string, query: ProjectionQuery): Projection | null {
  const view = windowNow(rows, context);
  return view === null ? null : projectView(rows, context, view, query);
}

/** The same as the window stood at `version`, with the settings then in force. */
export function projectAt(rows: Rows, context: string, version: number, query: ProjectionQuery): Projection | NotKept | null {
  const view = windowAt(rows, context, version);
  return view === null || 'code' in view ? view : projectView(rows, context, view, query);
}

/** What an answer shows of a window: its units, less those that were left out. */
export interface Chosen {
  readonly units: UnitSet;
  readonly source: RowSource;
  /** What the answer may cost. */
  readonly budget: number;
}

/** Chooses what fits the query's budget. */
export function choose(rows: Rows, context: string, view: WindowView, query: ProjectionQuery): Chosen {
  const { window, lastSeq, leadingCount, settings } = view;
  const budget = query.budgetTokens ?? settings.tokenBudget;
  const tokensMax = query.full ? Number.POSITIVE_INFINITY : countedBudget(budget, settings.calibration);
  const source = new RowSource(rows, context, NOTHING_PENDING, { bytesMax: ANSWER_BYTES_MAX });
  const units = readWithin({ source, window, lastSeq, leadingCount, pin: settings.policy.pin, tokensMax });
  units.dropUnpinned(tokensMax, Number.MAX_SAFE_INTEGER);
  units.dropPinned(tokensMax, Number.MAX_SAFE_INTEGER);
  return { units, source, budget };
}

export function projectView(rows: Rows, context: string, view: WindowView, query: ProjectionQuery): Projection {
  const { window, settings } = view;
  const { calibration } = settings;
  const { units, source, budget } = choose(rows, context, view, query);
  const elements: ProjectionElement[] = [];
  if (!source.exhausted) for (const item of units.items) if (units.keeps(item)) elements.push(elementOf(item));
  const used = usedTokens(units.tokens, calibration);
  return {
    version: view.version,
    configRevision: settings.revision,
    elements,
    usedTokens: used,
    countedTokens: units.tokens,
    calibration,
    needsCompaction: needsCompaction(settings, window.tokens, calibration),
    tokenBudget: settings.tokenBudget,
    segments: segmentsOf({ rows, context, window, units }),
    truncated: units.count < window.count,
    overBudget: used > budget,
    stableSinceVersion: window.stableSinceVersion,
    tooLarge: source.exhausted,
    missing: source.exhausted ? 0 : source.missing,
  };
}

function elementOf({ place, row, kept, tokens }: WindowItem): ProjectionElement {
  if (place > 0) return { source: 'message', seq: place, position: 0, row, kept, tokens };
  return { source: 'replacement', seq: 0, position: -place % REPLACEMENT_SPAN, row, kept, tokens };
}

interface SegmentsInput {
  readonly rows: Rows;
  readonly context: string;
  readonly window: WindowState;
  readonly units: UnitSet;
}

/** Runs of messages without a gap; one that skip_parts left nothing of makes none. */
function segmentsOf({ rows, context, window, units }: SegmentsInput): Segment[] {
  const { items } = units;
  const segments: Segment[] = [];
  const first = items.find((item) => units.keeps(item));
  if (first !== undefined && first.place < 0) {
    const row = rows.get('compaction', context, window.replacementVersion);
    const record = row === undefined ? null : decodeCompaction(row);
    segments.push({ type: 'summary', fromSeq: record?.fromSeq ?? 0, toSeq: record?.toSeq ?? 0 });
  }
  let from = 0;
  let to = 0;
  // `reached` runs ahead of `to` over hidden messages.
  let reached = 0;
  for (const item of items) {
    if (item.place < 0) continue;
    const kept = units.keeps(item);
    if (kept && from > 0 && item.place === reached + 1) {
      to = item.place;
    } else if (kept) {
      if (from > 0) segments.push({ type: 'live', fromSeq: from, toSeq: to });
      from = item.place;
      to = item.place;
    }
    if (kept || (item.hidden && item.place === reached + 1)) reached = item.place;
  }
  if (from > 0) segments.push({ type: 'live', fromSeq: from, toSeq: to });
  return segments;
}
