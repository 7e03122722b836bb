/**
 * What the model is sent: the stored window, or as much of it as fits a budget. A pure read; the stored window is never
 * changed by it. Units are left out whole, the oldest unpinned first, then what is pinned (the opening of the
 * conversation last of all); the newest unit always stays, alone and flagged where even that is over the budget.
 */
import { needsCompaction } from './policies.ts';
import { REPLACEMENT_SPAN, decodeCompaction } from './rows.ts';
import type { MessageRow } from './rows.ts';
import { RowSource, UnitSet, readWindow, strip } from './units.ts';
import type { WindowItem } from './units.ts';
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
  /** Sum over the elements. */
  readonly usedTokens: number;
  /** Of the stored window, whatever this answer holds. */
  readonly needsCompaction: boolean;
  readonly tokenBudget: number;
  readonly segments: readonly Segment[];
  /** Some of the stored window was left out. */
  readonly truncated: boolean;
  /** The answer costs more than the budget: its newest unit alone does, or the whole was asked for. */
  readonly overBudget: boolean;
  readonly stableSinceVersion: number;
}

const NOTHING_PENDING: ReadonlyMap<number, Uint8Array> = new Map();

/** The window of `context` within the query's budget; null when there is no such context. */
export function project(rows: Rows, context: string, query: ProjectionQuery): Projection | null {
  const header = rows.header(context);
  const config = rows.config(context);
  if (header === undefined || config === undefined) return null;
  const { window, lastSeq, leadingCount } = header;
  const items = readWindow(new RowSource(rows, context, NOTHING_PENDING), window, lastSeq);
  strip(items, window.stripped, leadingCount);
  const units = new UnitSet(items, config.policy.pin ? leadingCount : -1);
  const budget = query.budgetTokens ?? config.tokenBudget;
  const countBefore = units.count;
  if (!query.full) {
    units.dropUnpinned(budget, Number.MAX_SAFE_INTEGER);
    units.dropPinned(budget, Number.MAX_SAFE_INTEGER);
  }
  const elements: ProjectionElement[] = [];
  for (const item of items) if (units.keeps(item)) elements.push(elementOf(item));
  return {
    version: header.version,
    configRevision: header.configRevision,
    elements,
    usedTokens: units.tokens,
    needsCompaction: needsCompaction(config, window.tokens),
    tokenBudget: config.tokenBudget,
    segments: segmentsOf({ rows, context, window, items, units }),
    truncated: units.count < countBefore,
    overBudget: units.tokens > budget,
    stableSinceVersion: window.stableSinceVersion,
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
  readonly items: readonly WindowItem[];
  readonly units: UnitSet;
}

/** Runs of messages without a gap; one that skip_parts left nothing of makes none. */
function segmentsOf({ rows, context, window, items, units }: SegmentsInput): Segment[] {
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
