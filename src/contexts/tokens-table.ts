/**
 * The ranks of one byte pair encoding as a flat table over raw memory: byte sequence -> rank. One buffer, so that a
 * worker can build it and every thread of the process can read it without a copy (300 MB of Map become 8 MB).
 *
 *   Int32 header[8] | Int32 slots[2 * slotCount]: (hash, rank + 1), open addressing | Uint32 offsets[ranks + 1] | bytes
 *
 * The hash is a polynomial over the bytes, so that merging can hash any stretch of a piece from prefix hashes in O(1).
 * A collision costs a comparison of bytes, never a wrong answer.
 */

const MAGIC = 0x46_50_54_31;
const HEADER_INTS = 8;
/** Odd and large, so that every byte reaches every bit within a few steps. */
export const HASH_FACTOR = 0x01_00_01_93;
/** Keeps a leading zero byte, and length, from vanishing in the polynomial. */
export const BYTE_BIAS = 1;

export class RankTable {
  readonly buffer: ArrayBufferLike;
  /** Bytes of the longest token: nothing longer needs a lookup. */
  readonly tokenBytesMax: number;
  readonly #slots: Int32Array;
  readonly #slotMask: number;
  readonly #offsets: Uint32Array;
  readonly #bytes: Uint8Array;

  /** Wraps a buffer made by buildRankTable, in this thread or another. Throws on anything else. */
  constructor(buffer: ArrayBufferLike) {
    const header = new Int32Array(buffer, 0, HEADER_INTS);
    const [magic, slotCount, rankCount, byteCount, tokenBytesMax] = header;
    if (magic !== MAGIC || slotCount === undefined || rankCount === undefined || byteCount === undefined || tokenBytesMax === undefined) {
      throw new Error('not a rank table');
    }
    const slotsAt = HEADER_INTS * 4;
    const offsetsAt = slotsAt + slotCount * 8;
    this.buffer = buffer;
    this.tokenBytesMax = tokenBytesMax;
    this.#slots = new Int32Array(buffer, slotsAt, slotCount * 2);
    this.#slotMask = slotCount - 1;
    this.#offsets = new Uint32Array(buffer, offsetsAt, rankCount + 1);
    this.#bytes = new Uint8Array(buffer, offsetsAt + (rankCount + 1) * 4, byteCount);
  }

  /** Rank of bytes[start, end), or -1. `hash` is their polynomial hash. */
  rank(bytes: Uint8Array, start: number, end: number, hash: number): number {
    const length = end - start;
    if (length > this.tokenBytesMax) return -1;
    const slots = this.#slots;
    const mask = this.#slotMask;
    let slot = spread(hash) & mask;
    for (;;) {
      const entry = slots[2 * slot + 1] as number;
      if (entry === 0) return -1;
      if (slots[2 * slot] === hash && this.#equals(entry - 1, bytes, start, length)) return entry - 1;
      slot = (slot + 1) & mask;
    }
  }

  #equals(rank: number, bytes: Uint8Array, start: number, length: number): boolean {
    const offset = this.#offsets[rank] as number;
    if ((this.#offsets[rank + 1] as number) - offset !== length) return false;
    const own = this.#bytes;
    for (let i = 0; i < length; i++) {
      if (own[offset + i] !== bytes[start + i]) return false;
    }
    return true;
  }
}

/**
 * Builds the table from tiktoken's packed ranks: lines of `! OFFSET TOKEN TOKEN …`, tokens in base64, whose ranks count
 * up from OFFSET. `allocate` supplies the zeroed memory (shared or not). Throws on text of any other form.
 */
export function buildRankTable(packed: string, allocate: (bytes: number) => ArrayBufferLike): RankTable {
  const unpacked = unpack(packed);
  const slotCount = 2 ** Math.ceil(Math.log2(unpacked.rankCount * 2));
  const byteCount = unpacked.offsets[unpacked.rankCount] ?? 0;
  const slotsAt = HEADER_INTS * 4;
  const offsetsAt = slotsAt + slotCount * 8;
  const bytesAt = offsetsAt + (unpacked.rankCount + 1) * 4;
  const buffer = allocate(bytesAt + byteCount);
  const slots = new Int32Array(buffer, slotsAt, slotCount * 2);
  const bytes = unpacked.bytes;
  const mask = slotCount - 1;
  let tokenBytesMax = 0;
  for (let rank = 0; rank < unpacked.rankCount; rank++) {
    const start = unpacked.offsets[rank] as number;
    const end = unpacked.offsets[rank + 1] as number;
    if (start === end) continue;
    let hash = 0;
    for (let i = start; i < end; i++) hash = (Math.imul(hash, HASH_FACTOR) + (bytes[i] as number) + BYTE_BIAS) | 0;
    let slot = spread(hash) & mask;
    while (slots[2 * slot + 1] !== 0) slot = (slot + 1) & mask;
    slots[2 * slot] = hash;
    slots[2 * slot + 1] = rank + 1;
    if (end - start > tokenBytesMax) tokenBytesMax = end - start;
  }
  new Uint32Array(buffer, offsetsAt, unpacked.rankCount + 1).set(unpacked.offsets.subarray(0, unpacked.rankCount + 1));
  new Uint8Array(buffer, bytesAt, byteCount).set(bytes.subarray(0, byteCount));
  new Int32Array(buffer, 0, HEADER_INTS).set([MAGIC, slotCount, unpacked.rankCount, byteCount, tokenBytesMax]);
  return new RankTable(buffer);
}

interface Unpacked {
  readonly bytes: Uint8Array;
  /** Start of each rank's bytes; a rank the encoding leaves out is empty. */
  readonly offsets: Uint32Array;
  readonly rankCount: number;
}

const SPACE = 0x20;
const NEWLINE = 0x0a;
const PADDING = 0x3d;

function unpack(packed: string): Unpacked {
  const sixBits = base64Values();
  // A token takes at least a separator and four characters; an offset line may leave ranks out, hence growth below.
  let offsets = new Uint32Array(packed.length / 5 + 1024);
  const bytes = new Uint8Array(packed.length);
  let used = 0;
  let rank = 0;
  let at = 0;
  while (at < packed.length) {
    if (packed.charCodeAt(at) === NEWLINE) {
      at += 1;
      continue;
    }
    const header = /! (\d+)/y;
    header.lastIndex = at;
    const offset = Number(header.exec(packed)?.[1] ?? Number.NaN);
    if (!Number.isSafeInteger(offset) || offset < rank || offset > 0x3ffff) throw new Error(`ranks out of order at character ${at}`);
    at = header.lastIndex;
    if (offset + packed.length / 5 > offsets.length) {
      const grown = new Uint32Array(offset + packed.length / 5 + 1024);
      grown.set(offsets);
      offsets = grown;
    }
    while (rank < offset) offsets[rank++] = used;
    while (at < packed.length && packed.charCodeAt(at) === SPACE) {
      at += 1;
      offsets[rank++] = used;
      let bits = 0;
      let held = 0;
      for (; at < packed.length; at++) {
        const char = packed.charCodeAt(at);
        if (char === PADDING) continue;
        if (char === SPACE || char === NEWLINE) break;
        bits = (bits << 6) | (sixBits[char & 0x7f] as number);
        held += 6;
        if (held >= 8) {
          held -= 8;
          bytes[used++] = bits >> held;
          bits &= (1 << held) - 1;
        }
      }
    }
  }
  offsets[rank] = used;
  return { bytes, offsets, rankCount: rank };
}

function base64Values(): Uint8Array {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  const values = new Uint8Array(128);
  for (let i = 0; i < alphabet.length; i++) values[alphabet.charCodeAt(i)] = i;
  return values;
}

function spread(hash: number): number {
  const mixed = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return mixed ^ (mixed >>> 13);
}
