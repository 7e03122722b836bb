/**
 * A window read into memory: its messages in order, which of them form a unit (calls together with all their results,
 * or a message alone), what skip_parts leaves of each. Reading happens at a cut and for an answer, never for an
 * append that merely adds. cut.ts and project.ts choose among the units; what is chosen and why is theirs.
 */
import { answersKey, decodeAnswers } from './answers.ts';
import type { ContextHeads } from './heads.ts';
import { decodeMessageHead, decodeMessageRow, replacementKey, rowLinks, rowParts } from './rows.ts';
import type { Link, MessageRow, Place } from './rows.ts';
import type { PartInfo, Rows, Stripped, WindowState } from './types.ts';

/** One message of the window. */
export class WindowItem {
  readonly place: Place;
  readonly row: MessageRow;
  readonly links: readonly Link[];
  /** Index of the first item of its unit: the unit's name and its position. */
  unit: number;
  /** What the message costs as it is shown. */
  tokens: number;
  /** Indices of the parts that are shown; null: all of them, the text as it came in. */
  kept: readonly number[] | null = null;
  /** skip_parts left nothing of it: it is not in the window. */
  hidden = false;
  /** It has to leave whatever the bounds say, e.g. with the late result of a call that left before. */
  gone = false;

  constructor(place: Place, row: MessageRow, unit: number) {
    this.place = place;
    this.row = row;
    this.links = rowLinks(row);
    this.unit = unit;
    this.tokens = row.tokens;
  }
}

/** Rows that the command at work has made and not yet stored. */
export interface Pending {
  readonly messages: ReadonlyMap<Place, Uint8Array>;
  /** By answersKey. */
  readonly answers: ReadonlyMap<number, Uint8Array>;
}

export const NOTHING_PENDING: Pending = { messages: new Map(), answers: new Map() };

/** Reads message rows, among them pending ones, and keeps count of what it read. */
export class RowSource {
  /** Bytes of all rows handed out. */
  bytes = 0;
  /** Rows that the window names and storage no longer has, or that lie beyond bytesMax. */
  missing = 0;
  readonly #rows: Rows;
  readonly #context: string;
  readonly #pending: Pending;
  readonly #bytesMax: number;
  readonly #heads: ContextHeads | undefined;

  /** With `heads`, rows may come without their texts. */
  constructor(rows: Rows, context: string, pending: Pending, { bytesMax = Number.MAX_SAFE_INTEGER, heads }: { bytesMax?: number; heads?: ContextHeads | undefined } = {}) {
    this.#rows = rows;
    this.#context = context;
    this.#pending = pending;
    this.#bytesMax = bytesMax;
    this.#heads = heads;
  }

  /** More was asked for than may be read: from then on every message is null. */
  get exhausted(): boolean {
    return this.bytes > this.#bytesMax;
  }

  message(place: Place): MessageRow | null {
    const head = this.#heads?.get(place);
    if (head !== undefined) return decodeMessageHead(head);
    const bytes = this.exhausted ? undefined : (this.#pending.messages.get(place) ?? this.#stored(place));
    const row = bytes === undefined ? null : decodeMessageRow(bytes);
    if (row === null) this.missing++;
    else this.bytes += row.bytes.length;
    return row;
  }

  /** Seqs of the far answers to the calls of the message at `place` (see answers.ts). */
  answers(place: Place): readonly number[] {
    const key = answersKey(place);
    const bytes = this.#pending.answers.get(key) ?? this.#rows.get('answers', this.#context, key);
    return bytes === undefined ? [] : decodeAnswers(bytes);
  }

  #stored(place: Place): Uint8Array | undefined {
    if (place < 0) return this.#rows.get('replacement', this.#context, -place);
    const row = this.#rows.get('message', this.#context, place);
    if (row !== undefined) this.#heads?.add(place, row);
    return row;
  }
}

/** Whether two lists of a window name the same messages; both ascend. */
export function sameNumbers(a: readonly number[], b: readonly number[]): boolean {
  return a === b || (a.length === b.length && a.every((value, i) => value === b[i]));
}

/** Whether the window holds the message at `place` (skip_parts aside). */
export function inWindow(window: WindowState, place: Place): boolean {
  if (place < 0) {
    const position = -place - replacementKey(window.replacementVersion, 0);
    if (window.replacementVersion === 0 || position < window.replacementFirst || position >= window.replacementCount) return false;
    return !holds(window.replacementExcluded, position);
  }
  return place >= window.firstSeq ? !holds(window.excluded, place) : holds(window.pinned, place);
}

/** Binary search. */
function holds(ascending: readonly number[], value: number): boolean {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ascending[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return ascending[low] === value;
}

/** Places of the replacement messages that are still in the window, in order. */
export function replacementPlaces(window: WindowState): Place[] {
  const places: Place[] = [];
  for (let position = window.replacementFirst; position < window.replacementCount; position++) {
    if (!holds(window.replacementExcluded, position)) places.push(-replacementKey(window.replacementVersion, position));
  }
  return places;
}

/**
 * Reads the window: the replacement, then the log's messages in order. Messages that are no longer there are left out.
 * Units are formed over everything read; call `strip` for what is shown of them.
 */
export function readWindow(source: RowSource, window: WindowState, lastSeq: number): WindowItem[] {
  const items: WindowItem[] = [];
  const indexOf = new Map<Place, number>();
  const add = (place: Place): void => {
    const row = source.message(place);
    if (row === null) return;
    indexOf.set(place, items.length);
    items.push(new WindowItem(place, row, items.length));
  };
  for (const place of replacementPlaces(window)) add(place);
  for (const seq of window.pinned) add(seq);
  let nextExcluded = 0;
  for (let seq = window.firstSeq; seq <= lastSeq; seq++) {
    if (window.excluded[nextExcluded] === seq) nextExcluded++;
    else add(seq);
  }
  joinUnits(items, indexOf);
  return items;
}

/** Forms the units of `items`, each of which must be its own. Union-find in which the root of a unit is always its first item. */
export function joinUnits(items: readonly WindowItem[], indexOf: ReadonlyMap<Place, number>): void {
  const rootOf = (index: number): number => {
    let root = index;
    for (let item = items[root]; item !== undefined && item.unit !== root; item = items[root]) root = item.unit;
    for (let item = items[index]; item !== undefined && item.unit !== root; ) {
      const next = item.unit;
      item.unit = root;
      item = items[next];
    }
    return root;
  };
  for (let index = 0; index < items.length; index++) {
    const item = items[index];
    if (item === undefined) continue;
    for (const link of item.links) {
      const target = indexOf.get(link.target);
      if (target === undefined) continue;
      const a = rootOf(index);
      const b = rootOf(target);
      const later = items[Math.max(a, b)];
      if (later !== undefined) later.unit = Math.min(a, b);
    }
  }
  for (let index = 0; index < items.length; index++) rootOf(index);
}

/**
 * Applies the runs of skip_parts, one after another: sets what is kept of each item and what it then costs. The log's
 * leading system messages and a replacement (which is what the client wants shown) are never stripped. A pair goes only
 * whole: where either part stays, the other stays too. What an older run took out stays out, whatever came after it: a
 * result that arrived for a call that had gone goes as well, also where a later run would have kept the two.
 */
export function strip(items: readonly WindowItem[], runs: readonly Stripped[], leadingCount: number): void {
  for (const item of items) {
    item.tokens = item.row.tokens;
    item.kept = null;
    item.hidden = false;
  }
  if (runs.length === 0) return;
  let before = 0;
  for (const run of runs) before = Math.max(before, run.before);
  const fates = new Map<Place, PartFates>();
  for (const item of items) {
    if (item.place <= leadingCount || (item.place >= before && item.links.length === 0)) continue;
    const parts = rowParts(item.row);
    fates.set(item.place, { parts, goneBy: parts.map(() => STAYS) });
  }
  const pairs = pairsOf(items, fates);
  for (let index = 0; index < runs.length; index++) {
    const run = runs[index];
    if (run !== undefined) applyRun(run, index, fates, pairs);
  }
  for (const item of items) {
    const own = fates.get(item.place);
    if (own !== undefined) showWithout(item, own);
  }
}

const STAYS = -1;

/** What becomes of a message's parts. */
interface PartFates {
  readonly parts: readonly PartInfo[];
  /** By part index: the run that took the part out, or STAYS. */
  readonly goneBy: number[];
}

/** A result and its call, both of them read; undefined: nothing is stripped from that message. */
interface Pair {
  readonly place: Place;
  readonly result: PartFates | undefined;
  readonly resultPart: number;
  readonly call: PartFates | undefined;
  readonly callPart: number;
}

/** A call outside of `items` decides nothing: its result stands for itself. */
function pairsOf(items: readonly WindowItem[], fates: ReadonlyMap<Place, PartFates>): Pair[] {
  const present = new Set<Place>();
  for (const item of items) present.add(item.place);
  const pairs: Pair[] = [];
  for (const { place, links } of items) {
    for (const { part, target, targetPart } of links) {
      if (present.has(target)) pairs.push({ place, result: fates.get(place), resultPart: part, call: fates.get(target), callPart: targetPart });
    }
  }
  return pairs;
}

function applyRun(run: Stripped, index: number, fates: ReadonlyMap<Place, PartFates>, pairs: readonly Pair[]): void {
  for (const [place, { parts, goneBy }] of fates) {
    if (place >= run.before) continue;
    for (let at = 0; at < parts.length; at++) {
      if (goneBy[at] === STAYS && matches(parts[at]?.kind ?? '', run.kinds)) goneBy[at] = index;
    }
  }
  // First the calls, each over all its results; only then can a result look at what became of its call.
  for (const { place, result, resultPart, call, callPart } of pairs) {
    const resultStays = (result?.goneBy[resultPart] ?? STAYS) === STAYS;
    if (place <= run.through && resultStays && call?.goneBy[callPart] === index) call.goneBy[callPart] = STAYS;
  }
  for (const { result, resultPart, call, callPart } of pairs) {
    if (result !== undefined) result.goneBy[resultPart] = call?.goneBy[callPart] ?? STAYS;
  }
}

/** Whether the runs hide the item also where nothing it is tied to is read with it. */
export function goesAlone(item: WindowItem, runs: readonly Stripped[]): boolean {
  return rowParts(item.row).every(({ kind }) => runs.some((run) => item.place < run.before && matches(kind, run.kinds)));
}

function matches(kind: string, prefixes: readonly string[]): boolean {
  for (const prefix of prefixes) if (kind.startsWith(prefix)) return true;
  return false;
}

function showWithout(item: WindowItem, { parts, goneBy }: PartFates): void {
  if (goneBy.every((run) => run === STAYS)) return;
  const kept: number[] = [];
  let keptTokens = 0;
  let allTokens = 0;
  for (let i = 0; i < parts.length; i++) {
    const tokens = parts[i]?.tokens ?? 0;
    allTokens += tokens;
    if (goneBy[i] !== STAYS) continue;
    kept.push(i);
    keptTokens += tokens;
  }
  item.kept = kept;
  item.hidden = kept.length === 0;
  if (item.hidden) item.tokens = 0;
  else if (!item.row.tokensGiven) item.tokens = keptTokens;
  else if (allTokens > 0) item.tokens = Math.min(item.row.tokens, Math.ceil((item.row.tokens * keptTokens) / allTokens));
}

/** The window's units with their sums, and which of them have been dropped. Indexed by unit (see WindowItem.unit). */
export class UnitSet {
  readonly items: readonly WindowItem[];
  /** Of what is kept. */
  tokens = 0;
  count = 0;
  /** The unit with the newest shown message; -1 in an empty window. It is never dropped. */
  readonly newest: number;
  readonly #tokens: number[];
  readonly #count: number[];
  readonly #pinned: boolean[];
  readonly #dropped: boolean[];

  /** `pinnedThrough`: units that begin with a replacement message or a seq up to this are pinned; -1 for none. */
  constructor(items: readonly WindowItem[], pinnedThrough: number) {
    this.items = items;
    this.#tokens = new Array<number>(items.length).fill(0);
    this.#count = new Array<number>(items.length).fill(0);
    this.#pinned = new Array<boolean>(items.length).fill(false);
    this.#dropped = new Array<boolean>(items.length).fill(false);
    let newest = -1;
    for (const item of items) {
      if (item.hidden || item.gone) continue;
      newest = item.unit;
      this.#tokens[item.unit] = (this.#tokens[item.unit] ?? 0) + item.tokens;
      if (this.#count[item.unit] === 0) this.#pinned[item.unit] = pinnedThrough >= 0 && item.place <= pinnedThrough;
      this.#count[item.unit] = (this.#count[item.unit] ?? 0) + 1;
      this.tokens += item.tokens;
      this.count++;
    }
    this.newest = newest;
  }

  /** Whether the item is still in the window and shown. */
  keeps(item: WindowItem): boolean {
    return !item.hidden && !item.gone && this.#dropped[item.unit] !== true;
  }

  /**
   * Whether the descriptor must keep the item: it is shown, or it is hidden but tied to one that is shown, which needs
   * it to tell what became of a pair.
   */
  needs(item: WindowItem): boolean {
    return !item.gone && this.#dropped[item.unit] !== true && (this.#count[item.unit] ?? 0) > 0;
  }

  isPinned(unit: number): boolean {
    return this.#pinned[unit] === true;
  }

  /** Of its shown messages. */
  tokensOf(unit: number): number {
    return this.#tokens[unit] ?? 0;
  }

  isDropped(unit: number): boolean {
    return this.#dropped[unit] === true;
  }

  drop(unit: number): void {
    if (this.#dropped[unit] === true) return;
    this.#dropped[unit] = true;
    this.tokens -= this.#tokens[unit] ?? 0;
    this.count -= this.#count[unit] ?? 0;
  }

  /** Drops unpinned units, the oldest first and the newest never, until the sums are within the bounds. */
  dropUnpinned(tokensMax: number, countMax: number): void {
    for (let unit = 0; unit < this.items.length; unit++) {
      if (this.tokens <= tokensMax && this.count <= countMax) return;
      if (this.#mayDrop(unit, false)) this.drop(unit);
    }
  }

  /** The same for pinned units, the last first: what a conversation opens with goes last of all. */
  dropPinned(tokensMax: number, countMax: number): void {
    for (let unit = this.items.length - 1; unit >= 0; unit--) {
      if (this.tokens <= tokensMax && this.count <= countMax) return;
      if (this.#mayDrop(unit, true)) this.drop(unit);
    }
  }

  /** Drops the older half of the unpinned units that are left; false when there are none. */
  dropOlderHalf(): boolean {
    const left: number[] = [];
    for (let unit = 0; unit < this.items.length; unit++) if (this.#mayDrop(unit, false)) left.push(unit);
    for (let i = 0; i * 2 < left.length; i++) this.drop(left[i] ?? 0);
    return left.length > 0;
  }

  #mayDrop(unit: number, pinned: boolean): boolean {
    if (unit === this.newest || this.#dropped[unit] === true || this.#count[unit] === 0) return false;
    return this.#pinned[unit] === pinned;
  }
}
