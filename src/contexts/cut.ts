/**
 * Cutting the stored window: what the policy lets go, and the descriptor of what is left. Reads every message of the
 * window once, which the policy has kept short (late.ts settles manual windows, which may be long). The descriptor is bounded by DESCRIPTOR_MAX and SPAN_MAX; where a log is so entangled that the policy's
 * cut would not fit, it is cut further (the oldest units first, as always), which the header can always describe.
 */
import type { CutKind } from './cuts.ts';
import { compactionDue, cutTarget, triggerTokens } from './policies.ts';
import { REPLACEMENT_SPAN } from './rows.ts';
import { UnitSet, goesAlone, inWindow, readWindow, strip } from './units.ts';
import type { RowSource, WindowItem } from './units.ts';
import type { ContextConfig, Stripped, WindowState } from './types.ts';

/** Most seqs that a descriptor lists one by one. */
export const DESCRIPTOR_MAX = 2048;
/** Most log messages between the window's first and the newest one: what one cut may have to read next time. */
export const SPAN_MAX = 16_384;
/** A unit longer than this is no longer kept whole when it is all that is left of a window over its limits. */
export const UNIT_MESSAGES_MAX = 1024;
const RUNS_MAX = 4;
const RUN_KINDS_MAX = 256;

export interface CutInput {
  readonly source: RowSource;
  readonly config: ContextConfig;
  /** As the append left it, before any cut. */
  readonly window: WindowState;
  readonly lastSeq: number;
  readonly leadingCount: number;
  /** The context's version after the command. */
  readonly version: number;
  /** Seqs that must leave with everything they are joined to: late results tied to messages still in the window. */
  readonly late: readonly number[];
  readonly calibration: number;
}

/** What became of a window, for its record (cuts.ts). */
export interface Settled {
  readonly window: WindowState;
  readonly kind: CutKind;
  /** Seqs that left because of a late result, ascending. */
  readonly late: readonly number[];
}

/** The window after the policy, if it is due; its sums are computed anew from the rows. */
export function settle(input: CutInput): Settled {
  const { config, version, lastSeq, leadingCount, calibration } = input;
  const { items, window, clipped } = read(input);
  strip(items, window.stripped, leadingCount);
  const late = leaveTogether(items, input.late);
  const pinnedThrough = config.policy.pin ? leadingCount : -1;

  let units = new UnitSet(items, pinnedThrough);
  let runs = window.stripped;
  let changed = late.length > 0 || clipped;
  const due = compactionDue(config, units, calibration);
  if (due && config.policy.strategy === 'skip_parts') {
    const shown = items.map((item) => item.kept);
    runs = takeOut({ before: newestTurn(items, units), through: lastSeq, kinds: config.policy.skipKinds }, runs, items, leadingCount);
    if (items.some((item, index) => item.kept?.length !== shown[index]?.length)) changed = true;
    units = new UnitSet(items, pinnedThrough);
  }
  if (due) {
    const target = cutTarget(config, calibration);
    units.dropUnpinned(target.tokens, target.count);
    // What is pinned goes only where the window would otherwise be due again at once.
    units.dropPinned(triggerTokens(config, calibration), config.policy.limit);
    if (units.count > config.policy.limit) shortenNewestUnit(items, units);
  }
  const spanMax = config.policy.strategy === 'manual' ? Number.MAX_SAFE_INTEGER : SPAN_MAX;
  let bounded = clipped;
  let next = describe({ items, units, window, lastSeq, spanMax, runs });
  while (next.pinned.length + next.excluded.length > DESCRIPTOR_MAX || lastSeq - next.firstSeq >= spanMax) {
    if (!units.dropOlderHalf()) break;
    bounded = true;
    next = describe({ items, units, window, lastSeq, spanMax, runs });
  }
  if (items.some((item) => !item.hidden && !units.keeps(item))) changed = true;
  const lowest = next.pinned[0] ?? next.firstSeq;
  return {
    window: {
      ...next,
      stripped: runs.some((run) => run.before <= lowest) ? runs.filter((run) => run.before > lowest) : runs,
      stableSinceVersion: changed ? version : window.stableSinceVersion,
    },
    kind: due ? policyKind(config) : bounded ? 'bounds' : late.length > 0 ? 'late_result' : 'recount',
    late,
  };
}

function policyKind({ policy }: ContextConfig): CutKind {
  return policy.strategy === 'skip_parts' ? 'skip_parts' : 'last_n';
}

/**
 * Reads the window, but no more than two spans of it. Only a manual window grows beyond that; when its policy then
 * becomes one that cuts, or its descriptor is full, no cut could keep what lies further back.
 */
function read(input: CutInput): { items: WindowItem[]; window: WindowState; clipped: boolean } {
  const { source, window, lastSeq, leadingCount } = input;
  const span = 2 * SPAN_MAX;
  if (lastSeq - window.firstSeq < span) {
    return { items: readWindow(source, window, lastSeq), window, clipped: false };
  }
  const firstSeq = lastSeq - span + 1;
  const pinned = window.pinned.filter((seq) => seq <= leadingCount);
  for (let seq = window.firstSeq; seq <= leadingCount; seq++) pinned.push(seq);
  const clipped: WindowState = { ...window, firstSeq, pinned, excluded: window.excluded.filter((seq) => seq >= firstSeq) };
  const items = readWindow(source, clipped, lastSeq);
  const newest = items[items.length - 1]?.unit;
  const torn = new Set<number>();
  for (const item of items) {
    for (const link of item.links) {
      if (item.unit !== newest && inWindow(window, link.target) && !inWindow(clipped, link.target)) torn.add(item.unit);
    }
  }
  for (const item of items) item.gone = torn.has(item.unit);
  return { items, window: clipped, clipped: true };
}

/** Marks everything joined to the `late` seqs; answers which log messages that takes out. */
export function leaveTogether(items: readonly WindowItem[], late: readonly number[]): number[] {
  const out: number[] = [];
  if (late.length === 0) return out;
  const leaving = new Set<number>();
  for (const item of items) if (late.includes(item.place)) leaving.add(item.unit);
  for (const item of items) {
    if (!leaving.has(item.unit)) continue;
    item.gone = true;
    if (item.place > 0) out.push(item.place);
  }
  return out;
}

/** Place where the newest turn starts: the last message that begins one, else the newest unit. */
function newestTurn(items: readonly WindowItem[], units: UnitSet): number {
  for (let i = items.length - 1; i >= 0; i--) {
    const item = items[i];
    if (item !== undefined && item.place > 0 && item.row.beginsTurn && units.keeps(item)) return item.place;
  }
  return Math.max(0, items[units.newest]?.place ?? 0);
}

/**
 * Strips `items` by one more run of skip_parts and answers all the runs. They are few, but nothing that had gone may be
 * shown again for it: runs become one only where that brings nothing back.
 */
function takeOut(run: Stripped, runs: readonly Stripped[], items: readonly WindowItem[], leadingCount: number): readonly Stripped[] {
  const last = runs[runs.length - 1];
  const before = Math.max(run.before, last?.before ?? 0);
  const same = last !== undefined && sameKinds(last.kinds, run.kinds);
  // Within one turn the first run stands, and with it what it took out: a late result cannot bring its call back.
  if (same && before === last.before) return runs;
  const next = { ...run, before };
  const shown = items.map((item) => item.kept);
  const choices = [...(same ? [[...runs.slice(0, -1), next]] : []), ...fewEnough([...runs, next])];
  let taken = runs;
  for (const choice of choices) {
    taken = choice;
    strip(items, taken, leadingCount);
    if (!items.some((item, index) => comesBack(item, shown[index] ?? null))) break;
  }
  return taken;
}

function sameKinds(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((kind, i) => kind === b[i]);
}

/** `shown`: what was shown of the item before. */
function comesBack({ kept }: WindowItem, shown: readonly number[] | null): boolean {
  return shown !== null && (kept === null || kept.some((part) => !shown.includes(part)));
}

/**
 * The runs as they are, or where they are too many the two oldest as one: first so that results count for their calls as
 * far as the second run let them, then as far as the first did, which takes out more and brings nothing back.
 */
function fewEnough(runs: readonly Stripped[]): (readonly Stripped[])[] {
  const [first, second] = runs;
  if (runs.length <= RUNS_MAX || first === undefined || second === undefined) return [runs];
  const kinds = [...new Set([...second.kinds, ...first.kinds])].slice(0, RUN_KINDS_MAX);
  return [second, first].map(({ through }) => [{ before: second.before, through, kinds }, ...runs.slice(2)]);
}

/** Lets the oldest messages of an endless newest unit go (see UNIT_MESSAGES_MAX). */
function shortenNewestUnit(items: readonly WindowItem[], units: UnitSet): void {
  let left = UNIT_MESSAGES_MAX;
  for (let i = items.length - 1; i >= 0; i--) {
    const item = items[i];
    if (item === undefined || item.unit !== units.newest || item.hidden) continue;
    if (left === 0) item.gone = true;
    else left--;
  }
}

interface DescribeInput {
  readonly items: readonly WindowItem[];
  readonly units: UnitSet;
  readonly window: WindowState;
  readonly lastSeq: number;
  readonly spanMax: number;
  readonly runs: readonly Stripped[];
}

/**
 * Whether an item must be named if the live part holds its seq. One that is hidden for its call's sake, as a late result
 * of a call that skip_parts took out, would be shown again once that call is gone.
 */
function mustName({ units, runs }: DescribeInput, item: WindowItem): boolean {
  if (item.gone || units.isDropped(item.unit)) return true;
  return item.hidden && !units.needs(item) && !goesAlone(item, runs);
}

/** The shortest descriptor of the items that are kept. */
function describe(input: DescribeInput): WindowState {
  const { items, units, window } = input;
  let tokens = 0;
  let count = 0;
  const inLog: number[] = [];
  const inReplacement: number[] = [];
  for (const item of items) {
    if (!units.needs(item)) continue;
    tokens += item.tokens;
    if (!item.hidden) count++;
    if (item.place > 0) inLog.push(item.place);
    else inReplacement.push(-item.place % REPLACEMENT_SPAN);
  }
  const firstSeq = bestFirstSeq(input, inLog.length);
  return {
    ...window,
    ...describeReplacement(window, inReplacement),
    firstSeq,
    pinned: inLog.filter((seq) => seq < firstSeq),
    excluded: leftOut(input, firstSeq),
    tokens,
    count,
  };
}

/**
 * Where the live part starts so that the fewest seqs need naming: those kept before it, and those from it on that are
 * not. Units that skip_parts hides whole need no naming: reading finds that out again.
 */
function bestFirstSeq(input: DescribeInput, keptCount: number): number {
  const { items, units, window, lastSeq, spanMax } = input;
  let best = lastSeq + 1;
  let cost = keptCount;
  let bestCost = cost;
  let at = items.length - 1;
  for (let seq = lastSeq; seq >= window.firstSeq && lastSeq - seq < spanMax; seq--) {
    const item = items[at];
    if (item === undefined || item.place !== seq) {
      cost++;
      continue;
    }
    at--;
    if (units.needs(item)) cost--;
    else if (mustName(input, item)) cost++;
    if (cost < bestCost) {
      best = seq;
      bestCost = cost;
    }
  }
  return best;
}

/** Seqs from `firstSeq` on that are not in the window, hidden ones aside. */
function leftOut(input: DescribeInput, firstSeq: number): number[] {
  const { items, window, lastSeq } = input;
  const out: number[] = [];
  let at = items.length - 1;
  for (let seq = lastSeq; seq >= Math.max(firstSeq, window.firstSeq); seq--) {
    const item = items[at];
    if (item === undefined || item.place !== seq) {
      out.push(seq);
      continue;
    }
    at--;
    if (mustName(input, item)) out.push(seq);
  }
  return out.reverse();
}

type ReplacementPart = Pick<WindowState, 'replacementVersion' | 'replacementCount' | 'replacementFirst' | 'replacementExcluded'>;

export const NO_REPLACEMENT: ReplacementPart = {
  replacementVersion: 0,
  replacementCount: 0,
  replacementFirst: 0,
  replacementExcluded: [],
};

function describeReplacement(window: WindowState, kept: readonly number[]): ReplacementPart {
  const first = kept[0];
  if (first === undefined) return NO_REPLACEMENT;
  const here = new Set(kept);
  const out: number[] = [];
  for (let position = first; position < window.replacementCount; position++) if (!here.has(position)) out.push(position);
  const { replacementVersion, replacementCount } = window;
  return { replacementVersion, replacementCount, replacementFirst: first, replacementExcluded: out };
}
