/**
 * Counting tokens of text under one byte pair encoding, with the counts of js-tiktoken, special tokens taken as plain
 * text. Text is split into pieces by the encoding's own pattern; a piece is one token if the table has it, else the
 * number of parts left when no two neighbours can be merged any more (lowest rank first, leftmost among equals).
 *
 * Bound: a piece longer than SLICE_BYTES of UTF-8 is cut between code points into slices of at most that, counted one by
 * one. Up to there counts are exact; beyond (a megabyte of one letter) each cut adds at most a few tokens, and the cost
 * stays O(n log SLICE_BYTES) where exact merging would be quadratic or worse. Texts of more than STRETCH_UNITS (only under
 * a raised message limit) go to the pattern in stretches, cut between words; without words, a cut may add a token or two.
 */
import { BYTE_BIAS, HASH_FACTOR } from './tokens-table.ts';
import type { RankTable } from './tokens-table.ts';

export const SLICE_BYTES = 16_384;
/** The pattern sees no more than this at once: on tens of millions of ideographs in a row its engine runs out of stack. */
const STRETCH_UNITS = 1024 * 1024;
/** How far back from there a harmless place to cut is looked for. */
const STRETCH_SEARCH_UNITS = 16_384;
/** Up to here scanning all neighbours for the lowest rank beats keeping a heap. */
const SCAN_BYTES_MAX = 96;
/** Pieces of more UTF-16 units are rare enough to merge anew each time. */
const CACHED_UNITS_MAX = 48;
/** Above this, a substring would keep its whole text alive, so the cache stores a copy. */
const SUBSTRING_COPIED_UNITS = 12;
/** No pair: above every rank. */
const NO_RANK = 0x7fffffff;
/** Heap keys are rank * SLICE_BYTES + position: 18 + 14 bits. */
const POSITION_BITS = 14;

/**
 * Counter for one encoding in one thread. Keeps scratch memory (about 400 KiB) and a cache of at most
 * 2 * cacheEntries pieces. Not re-entrant, which synchronous code cannot be anyway.
 */
export class Encoding {
  readonly #pattern: RegExp;
  readonly #table: RankTable;
  readonly #cacheEntries: number;
  /** Two generations: when the young one is full it becomes the old one, and what is still asked for moves back. */
  #young: Map<string, number>;
  #old: Map<string, number>;
  /** The slice at hand, and its length. */
  readonly #bytes: Uint8Array;
  #length: number;
  /** #prefix[i]: hash of bytes[0, i). */
  readonly #prefix: Int32Array;
  /** #power[n]: HASH_FACTOR to the n. */
  readonly #power: Int32Array;
  /** The parts: end of the part that starts here, start of the part before, rank of joining it with the next. */
  readonly #end: Int32Array;
  readonly #before: Int32Array;
  readonly #rank: Int32Array;
  readonly #heap: Uint32Array;
  #heapSize: number;

  /** `pattern` is the encoding's own regular expression source, read with the u flag. */
  constructor(pattern: string, table: RankTable, cacheEntries: number) {
    this.#pattern = new RegExp(pattern, 'uy');
    this.#table = table;
    this.#cacheEntries = cacheEntries;
    this.#young = new Map();
    this.#old = new Map();
    this.#bytes = new Uint8Array(SLICE_BYTES + 4);
    this.#prefix = new Int32Array(SLICE_BYTES + 1);
    this.#power = new Int32Array(SLICE_BYTES + 1);
    this.#power[0] = 1;
    for (let i = 1; i <= SLICE_BYTES; i++) this.#power[i] = Math.imul(this.#power[i - 1] as number, HASH_FACTOR);
    this.#end = new Int32Array(SLICE_BYTES + 1);
    this.#before = new Int32Array(SLICE_BYTES + 1);
    this.#rank = new Int32Array(SLICE_BYTES + 1);
    this.#heap = new Uint32Array(3 * SLICE_BYTES);
    this.#heapSize = 0;
    this.#length = 0;
  }

  /** Number of tokens of `text`; lone surrogates count as U+FFFD. Never throws. */
  count(text: string): number {
    if (text.length <= STRETCH_UNITS) return this.#stretch(text);
    let tokens = 0;
    for (let start = 0; start < text.length; ) {
      const end = stretchEnd(text, start);
      tokens += this.#stretch(text.slice(start, end));
      start = end;
    }
    return tokens;
  }

  #stretch(text: string): number {
    const pattern = this.#pattern;
    let tokens = 0;
    let start = 0;
    while (start < text.length) {
      pattern.lastIndex = start;
      if (!pattern.test(text)) {
        // The patterns cover every character; should one not, it is left out, as the reference does.
        start += 1;
        continue;
      }
      const end = pattern.lastIndex;
      tokens += this.#piece(text, start, end);
      start = end;
    }
    return tokens;
  }

  #piece(text: string, start: number, end: number): number {
    const next = this.#fill(text, start, end);
    if (next === end) return this.#whole(text, start, end);
    let tokens = this.#slice();
    let from = next;
    while (from < end) {
      from = this.#fill(text, from, end);
      tokens += this.#slice();
    }
    return tokens;
  }

  /** Tokens of the piece text[start, end), which #bytes holds. */
  #whole(text: string, start: number, end: number): number {
    const length = this.#length;
    if (this.#table.rank(this.#bytes, 0, length, this.#prefix[length] as number) !== -1) return 1;
    if (end - start > CACHED_UNITS_MAX) return this.#merge(length);
    const key = text.slice(start, end);
    const young = this.#young.get(key);
    if (young !== undefined) return young;
    const tokens = this.#old.get(key) ?? this.#merge(length);
    if (this.#young.size >= this.#cacheEntries) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(key.length > SUBSTRING_COPIED_UNITS ? copied(key) : key, tokens);
    return tokens;
  }

  #slice(): number {
    const length = this.#length;
    return this.#table.rank(this.#bytes, 0, length, this.#prefix[length] as number) !== -1 ? 1 : this.#merge(length);
  }

  /**
   * Encodes text[start, end) as UTF-8 into #bytes, with prefix hashes, as far as a slice reaches.
   * Returns the index of the first unit left out; #length is the bytes written.
   */
  #fill(text: string, start: number, end: number): number {
    const bytes = this.#bytes;
    const prefix = this.#prefix;
    let hash = 0;
    let length = 0;
    let at = start;
    while (at < end) {
      let code = text.charCodeAt(at);
      let units = 1;
      let size = 1;
      if (code >= 0x80) {
        if ((code & 0xf800) === 0xd800) {
          const low = at + 1 < end ? text.charCodeAt(at + 1) : 0;
          if (code < 0xdc00 && (low & 0xfc00) === 0xdc00) {
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            units = 2;
          } else code = 0xfffd;
        }
        size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
      }
      if (length + size > SLICE_BYTES) break;
      if (size === 1) bytes[length] = code;
      else {
        for (let i = size - 1; i > 0; i--) {
          bytes[length + i] = 0x80 | (code & 0x3f);
          code >>= 6;
        }
        bytes[length] = (size === 2 ? 0xc0 : size === 3 ? 0xe0 : 0xf0) | code;
      }
      for (const filled = length + size; length < filled; length++) {
        hash = (Math.imul(hash, HASH_FACTOR) + (bytes[length] as number) + BYTE_BIAS) | 0;
        prefix[length + 1] = hash;
      }
      at += units;
    }
    this.#length = length;
    return at;
  }

  /** Number of parts of bytes[0, length) when nothing can be merged any more. */
  #merge(length: number): number {
    const end = this.#end;
    const rank = this.#rank;
    for (let i = 0; i < length; i++) end[i] = i + 1;
    for (let i = 0; i + 2 <= length; i++) rank[i] = this.#rankOf(i, i + 2);
    rank[length - 1] = NO_RANK;
    return length <= SCAN_BYTES_MAX ? this.#mergeByScan(length) : this.#mergeByHeap(length);
  }

  /** Rank of bytes[start, stop) as one token, or NO_RANK. */
  #rankOf(start: number, stop: number): number {
    const prefix = this.#prefix;
    const hash = ((prefix[stop] as number) - Math.imul(prefix[start] as number, this.#power[stop - start] as number)) | 0;
    const rank = this.#table.rank(this.#bytes, start, stop, hash);
    return rank === -1 ? NO_RANK : rank;
  }

  #mergeByScan(length: number): number {
    const end = this.#end;
    const rank = this.#rank;
    let parts = length;
    for (;;) {
      let lowest = NO_RANK;
      let at = 0;
      let before = -1;
      for (let i = 0, previous = -1; i < length; previous = i, i = end[i] as number) {
        if ((rank[i] as number) < lowest) {
          lowest = rank[i] as number;
          at = i;
          before = previous;
        }
      }
      if (lowest === NO_RANK) return parts;
      parts -= 1;
      const joined = end[end[at] as number] as number;
      end[at] = joined;
      rank[at] = joined < length ? this.#rankOf(at, end[joined] as number) : NO_RANK;
      if (before !== -1) rank[before] = this.#rankOf(before, joined);
    }
  }

  /** The same by a heap of (rank, position); an entry whose rank is no longer its position's is stale and skipped. */
  #mergeByHeap(length: number): number {
    const end = this.#end;
    const rank = this.#rank;
    const before = this.#before;
    this.#heapSize = 0;
    for (let i = 0; i < length; i++) {
      before[i] = i - 1;
      if (rank[i] !== NO_RANK) this.#push(i);
    }
    let parts = length;
    while (this.#heapSize > 0) {
      const key = this.#pop();
      const at = key & (SLICE_BYTES - 1);
      if (rank[at] !== key >>> POSITION_BITS) continue;
      parts -= 1;
      const absorbed = end[at] as number;
      const joined = end[absorbed] as number;
      end[at] = joined;
      rank[absorbed] = NO_RANK;
      rank[at] = NO_RANK;
      if (joined < length) {
        before[joined] = at;
        rank[at] = this.#rankOf(at, end[joined] as number);
        if (rank[at] !== NO_RANK) this.#push(at);
      }
      const previous = before[at] as number;
      if (previous !== -1) {
        rank[previous] = this.#rankOf(previous, joined);
        if (rank[previous] !== NO_RANK) this.#push(previous);
      }
    }
    return parts;
  }

  #push(position: number): void {
    const heap = this.#heap;
    const key = (((this.#rank[position] as number) << POSITION_BITS) | position) >>> 0;
    let at = this.#heapSize++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] as number;
      if (above <= key) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = key;
  }

  #pop(): number {
    const heap = this.#heap;
    const lowest = heap[0] as number;
    const size = --this.#heapSize;
    const moved = heap[size] as number;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && (heap[child + 1] as number) < (heap[child] as number)) child += 1;
      if ((heap[child] as number) >= moved) break;
      heap[at] = heap[child] as number;
      at = child;
    }
    heap[at] = moved;
    return lowest;
  }
}

/**
 * Where a stretch from `start` ends: at a space between two ASCII letters if one is near, since every encoding starts a
 * piece there; else anywhere but within a surrogate pair.
 */
function stretchEnd(text: string, start: number): number {
  const limit = start + STRETCH_UNITS;
  if (limit >= text.length) return text.length;
  for (let at = limit; at > limit - STRETCH_SEARCH_UNITS; at--) {
    if (text.charCodeAt(at) === 0x20 && isLetter(text.charCodeAt(at - 1)) && isLetter(text.charCodeAt(at + 1))) return at;
  }
  return (text.charCodeAt(limit) & 0xfc00) === 0xdc00 ? limit - 1 : limit;
}

function isLetter(unit: number): boolean {
  const lower = unit | 0x20;
  return lower >= 0x61 && lower <= 0x7a;
}

/** A string of its own with the same units. */
function copied(text: string): string {
  const units: number[] = [];
  for (let i = 0; i < text.length; i++) units.push(text.charCodeAt(i));
  return String.fromCharCode(...units);
}
