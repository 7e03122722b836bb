/**
 * Reading as much of a window as fits a budget, from its newest message back, so that an answer costs what it shows and
 * not what is stored. Units must be whole to be judged: those that reach further back than what was read, and the
 * pinned ones at the window's start, are put together along their calls and answers, message by message.
 */
import { isFar, NEAR_MESSAGES } from './answers.ts';
import { SPAN_MAX } from './cut.ts';
import type { Place } from './rows.ts';
import type { WindowState } from './types.ts';
import { UnitSet, WindowItem, inWindow, joinUnits, readWindow, replacementPlaces, strip } from './units.ts';
import type { RowSource } from './units.ts';

/** Most messages that an answer reads beyond those it shows. */
export const LOOK_BACK_MAX = 16_384;
/** The first step back; further ones double what was read. */
const CHUNK = 8;

/** Messages of a window, taken in bit by bit; their units can be completed. */
export class Reach {
  /** Live messages from here on have all been taken in. */
  cursor: number;
  readonly #source: RowSource;
  readonly #window: WindowState;
  readonly #lastSeq: number;
  readonly #read = new Map<Place, WindowItem | null>();
  readonly #members = new Map<Place, WindowItem>();
  /** Members whose unit may have more. */
  #fresh: WindowItem[] = [];
  /** Messages that may still be read to complete units. */
  #left = LOOK_BACK_MAX;

  constructor(source: RowSource, window: WindowState, lastSeq: number) {
    this.#source = source;
    this.#window = window;
    this.#lastSeq = lastSeq;
    this.cursor = lastSeq + 1;
  }

  get size(): number {
    return this.#members.size;
  }

  /** Takes in the message at `place`, if the window holds it; answers what it costs unstripped. */
  take(place: Place): number {
    if (place > this.#lastSeq || this.#members.has(place) || !inWindow(this.#window, place)) return 0;
    const item = this.#item(place);
    if (item === null) return 0;
    this.#members.set(place, item);
    this.#fresh.push(item);
    return item.row.tokens;
  }

  /** Takes in live messages below the cursor: at most `count`, and none once they cost more than `tokens`. */
  takeTail(count: number, tokens: number): void {
    let cost = 0;
    for (let left = count; left > 0 && cost <= tokens && this.cursor > this.#window.firstSeq; left--) cost += this.take(--this.cursor);
  }

  /** Takes in whatever belongs to a unit of what was taken in. */
  complete(): void {
    for (let item = this.#fresh.pop(); item !== undefined; item = this.#fresh.pop()) {
      for (const link of item.links) this.#join(link.target);
      if (item.row.calls && item.place < this.cursor) this.#joinAnswers(item.place);
    }
  }

  /** What was taken in, in the window's order, its units formed. */
  items(): WindowItem[] {
    const items = [...this.#members.values()].sort((a, b) => inOrder(a.place, b.place));
    const indexOf = new Map<Place, number>();
    for (let index = 0; index < items.length; index++) {
      const item = items[index];
      if (item === undefined) continue;
      item.unit = index;
      indexOf.set(item.place, index);
    }
    joinUnits(items, indexOf);
    return items;
  }

  #join(place: Place): void {
    if (this.#left <= 0 || this.#members.has(place)) return;
    this.#left--;
    this.take(place);
  }

  /** Answers to the calls of a message: those close behind it, then those its row of far answers names. */
  #joinAnswers(place: Place): void {
    if (place > 0) {
      const end = Math.min(place + NEAR_MESSAGES, this.cursor - 1);
      for (let seq = place + 1; seq <= end && this.#left > 0; seq++) {
        if (this.#members.has(seq) || !inWindow(this.#window, seq)) continue;
        if (!this.#read.has(seq)) this.#left--;
        const item = this.#item(seq);
        if (item !== null && item.links.some((link) => link.target === place)) this.take(seq);
      }
    }
    for (const seq of this.#source.answers(place)) if (isFar(place, seq)) this.#join(seq);
  }

  #item(place: Place): WindowItem | null {
    let item = this.#read.get(place);
    if (item === undefined) {
      const row = this.#source.message(place);
      item = row === null ? null : new WindowItem(place, row, 0);
      this.#read.set(place, item);
    }
    return item;
  }
}

/** The replacement first, then the log. */
function inOrder(a: Place, b: Place): number {
  if (a < 0 && b < 0) return b - a;
  return a - b;
}

export interface ReachInput {
  readonly source: RowSource;
  readonly window: WindowState;
  readonly lastSeq: number;
  readonly leadingCount: number;
  readonly pin: boolean;
  /** Counted tokens that the answer may cost; infinite for the whole window. */
  readonly tokensMax: number;
}

/**
 * The window's units, stripped: all of them, or where they would cost more than `tokensMax` at least those of them that
 * fit, with those that do not for sure dropped already.
 */
export function readWithin(input: ReachInput): UnitSet {
  const { source, window, lastSeq, leadingCount, tokensMax } = input;
  // Where skip_parts has run the policy has kept the window short, and what it hides is told only by reading all.
  const short = window.stripped.length > 0 && lastSeq - window.firstSeq < 2 * SPAN_MAX;
  if (window.tokens <= tokensMax || short) {
    const items = readWindow(source, window, lastSeq);
    strip(items, window.stripped, leadingCount);
    return new UnitSet(items, pinnedThrough(input));
  }
  const reach = new Reach(source, window, lastSeq);
  for (const place of replacementPlaces(window)) reach.take(place);
  for (const seq of window.pinned) reach.take(seq);
  for (let seq = window.firstSeq; seq <= leadingCount; seq++) reach.take(seq);
  let units = new UnitSet([], -1);
  for (let chunk = CHUNK; ; chunk = Math.max(CHUNK, reach.size)) {
    const left = tokensMax - units.tokens;
    // What is pinned may cost more than the budget by itself, and the newest is shown all the same.
    reach.takeTail(chunk, left < 0 && !holdsNewest(units, reach.cursor) ? Number.POSITIVE_INFINITY : left);
    reach.complete();
    units = unitsOf(input, reach);
    const unused = reach.size - units.count;
    if (reach.cursor <= window.firstSeq || (units.tokens > tokensMax && holdsNewest(units, reach.cursor)) || unused > LOOK_BACK_MAX) return units;
  }
}

/** Whether the newest message of the window is among the units: those from the cursor on may all have left it. */
function holdsNewest({ items }: UnitSet, cursor: number): boolean {
  return (items.findLast((item) => !item.hidden && !item.gone)?.place ?? 0) >= cursor;
}

function unitsOf(input: ReachInput, reach: Reach): UnitSet {
  const items = reach.items();
  strip(items, input.window.stripped, input.leadingCount);
  const units = new UnitSet(items, pinnedThrough(input));
  if (reach.cursor <= input.window.firstSeq) return units;
  // The oldest go first, so a unit that began before what has not been read cannot stay where any of that must go.
  for (const item of items) {
    const begins = items[item.unit]?.place ?? 0;
    if (begins < reach.cursor && item.unit !== units.newest && !units.isPinned(item.unit)) units.drop(item.unit);
  }
  return units;
}

function pinnedThrough({ pin, leadingCount }: ReachInput): number {
  return pin ? leadingCount : -1;
}
