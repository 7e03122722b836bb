/**
 * Bytes in and out for the codecs of this folder: variable-length integers, doubles, UTF-8. Written by hand because
 * this code must run without any platform API and give the same bytes everywhere.
 *
 * Reading is total: past the end or over malformed input a Reader turns `ok` false and answers zeros from then on,
 * so a decoder checks once, at its end.
 */

const EMPTY = new Uint8Array(0);

const SLAB_BYTES = 64 * 1024;
/** A record with room for more is worth an allocation of its own. */
const SHARED_BYTES_MAX = 4 * 1024;

/**
 * Appends to a buffer that grows by doubling. `done()` hands out exactly what was written, and ends the writer. Small
 * results share slabs: an array of its own for each would cost more than writing it, and again when it is collected.
 * So whoever keeps one for long copies it.
 */
export class Writer {
  /** What is handed out of it is never written again. */
  static #slab = new Uint8Array(SLAB_BYTES);
  static #slabAt = 0;
  static readonly #number = new DataView(new ArrayBuffer(8));

  #bytes: Uint8Array;
  #start: number;
  #at: number;
  /** End of what this writer may use without growing. */
  #end: number;

  constructor(capacity: number) {
    if (capacity > SHARED_BYTES_MAX) {
      this.#bytes = new Uint8Array(capacity);
      this.#start = 0;
    } else {
      if (Writer.#slabAt + capacity > SLAB_BYTES) {
        Writer.#slab = new Uint8Array(SLAB_BYTES);
        Writer.#slabAt = 0;
      }
      this.#bytes = Writer.#slab;
      this.#start = Writer.#slabAt;
      Writer.#slabAt += capacity;
    }
    this.#at = this.#start;
    this.#end = this.#start + capacity;
  }

  #reserve(count: number): void {
    const needed = this.#at + count;
    if (needed > this.#end) this.#grow(needed - this.#start);
  }

  #grow(length: number): void {
    const grown = new Uint8Array(Math.max(length, 2 * (this.#end - this.#start)));
    grown.set(this.#bytes.subarray(this.#start, this.#at));
    this.#bytes = grown;
    this.#at -= this.#start;
    this.#start = 0;
    this.#end = grown.length;
  }

  byte(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#at++] = value;
  }

  /** Non-negative safe integer, 7 bits a byte, low bits first: 1 to 8 bytes. */
  uint(value: number): void {
    this.#reserve(8);
    let rest = value;
    while (rest > 0x7fff_ffff) {
      this.#bytes[this.#at++] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    while (rest > 0x7f) {
      this.#bytes[this.#at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.#bytes[this.#at++] = rest;
  }

  double(value: number): void {
    this.#reserve(8);
    Writer.#number.setFloat64(0, value);
    for (let i = 0; i < 8; i++) this.#bytes[this.#at++] = Writer.#number.getUint8(i);
  }

  /** Length, then the bytes. */
  bytes(value: Uint8Array): void {
    this.uint(value.length);
    this.raw(value);
  }

  /** The bytes alone. */
  raw(value: Uint8Array): void {
    this.#reserve(value.length);
    this.#bytes.set(value, this.#at);
    this.#at += value.length;
  }

  /** Length in bytes, then UTF-8. A lone surrogate becomes U+FFFD. */
  string(value: string): void {
    const length = utf8Length(value);
    this.uint(length);
    this.#reserve(length);
    if (length === value.length) {
      for (let i = 0; i < length; i++) this.#bytes[this.#at + i] = value.charCodeAt(i);
    } else {
      writeUtf8(value, this.#bytes, this.#at);
    }
    this.#at += length;
  }

  /** Ascending integers as their differences. */
  ascending(values: readonly number[]): void {
    this.uint(values.length);
    let last = 0;
    for (const value of values) {
      this.uint(value - last);
      last = value;
    }
  }

  /** Length of what was written so far. */
  get length(): number {
    return this.#at - this.#start;
  }

  done(): Uint8Array {
    if (this.#bytes !== Writer.#slab) return this.#at === this.#bytes.length ? this.#bytes : this.#bytes.slice(this.#start, this.#at);
    // What was reserved and not needed goes back, unless another writer stands behind it.
    if (Writer.#slabAt === this.#end) Writer.#slabAt = this.#at;
    return this.#bytes.subarray(this.#start, this.#at);
  }
}

/** Reads what a Writer wrote, without copying. */
export class Reader {
  /** False once anything was malformed; every value read since is meaningless. */
  ok = true;
  at: number;
  readonly #bytes: Uint8Array;
  readonly #end: number;

  constructor(bytes: Uint8Array, at = 0, end = bytes.length) {
    this.#bytes = bytes;
    this.at = at;
    this.#end = end;
  }

  get atEnd(): boolean {
    return this.at === this.#end;
  }

  #fail(): void {
    this.ok = false;
    this.at = this.#end;
  }

  byte(): number {
    const value = this.at < this.#end ? this.#bytes[this.at] : undefined;
    if (value === undefined) {
      this.#fail();
      return 0;
    }
    this.at++;
    return value;
  }

  uint(): number {
    const first = this.byte();
    if (first < 0x80) return first;
    let value = first & 0x7f;
    let scale = 128;
    for (let i = 1; i < 8; i++) {
      const next = this.byte();
      value += (next & 0x7f) * scale;
      if (next < 0x80) {
        if (Number.isSafeInteger(value)) return value;
        break;
      }
      scale *= 128;
    }
    this.#fail();
    return 0;
  }

  double(): number {
    if (this.at + 8 > this.#end) {
      this.#fail();
      return 0;
    }
    const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset + this.at, 8);
    this.at += 8;
    return view.getFloat64(0);
  }

  /** Skips a length and that many bytes; answers where they start. They end at `at`. */
  span(): number {
    const length = this.uint();
    if (length > this.#end - this.at) this.#fail();
    const start = this.at;
    if (this.ok) this.at += length;
    return start;
  }

  bytes(): Uint8Array {
    const start = this.span();
    return this.ok ? this.#bytes.subarray(start, this.at) : EMPTY;
  }

  string(): string {
    const start = this.span();
    if (!this.ok) return '';
    const text = readUtf8(this.#bytes, start, this.at);
    if (text === null) this.#fail();
    return text ?? '';
  }

  /** A count of items that take at least one byte each, so that a damaged count cannot make a giant loop. */
  count(): number {
    const count = this.uint();
    if (count > this.#end - this.at) {
      this.#fail();
      return 0;
    }
    return count;
  }

  ascending(): number[] {
    const count = this.count();
    const values: number[] = [];
    let last = 0;
    for (let i = 0; i < count && this.ok; i++) {
      last += this.uint();
      values.push(last);
    }
    if (!Number.isSafeInteger(last)) this.#fail();
    return values;
  }
}

/** Bytes that `value` takes in UTF-8, a lone surrogate counting as U+FFFD (3 bytes). */
export function utf8Length(value: string): number {
  let length = value.length;
  for (let i = 0; i < value.length; i++) {
    const unit = value.charCodeAt(i);
    if (unit < 0x80) continue;
    if (unit < 0x800) {
      length += 1;
    } else {
      length += 2;
      // A pair is two units and four bytes.
      if (isPair(value, i)) i++;
    }
  }
  return length;
}

function isPair(value: string, i: number): boolean {
  const unit = value.charCodeAt(i);
  if (unit < 0xd800 || unit > 0xdbff || i + 1 >= value.length) return false;
  const next = value.charCodeAt(i + 1);
  return next >= 0xdc00 && next <= 0xdfff;
}

function writeUtf8(value: string, into: Uint8Array, start: number): void {
  let at = start;
  for (let i = 0; i < value.length; i++) {
    let point = value.charCodeAt(i);
    if (point < 0x80) {
      into[at++] = point;
      continue;
    }
    if (point < 0x800) {
      into[at++] = 0xc0 | (point >> 6);
      into[at++] = 0x80 | (point & 0x3f);
      continue;
    }
    if (isPair(value, i)) {
      point = 0x10000 + ((point - 0xd800) << 10) + (value.charCodeAt(++i) - 0xdc00);
      into[at++] = 0xf0 | (point >> 18);
      into[at++] = 0x80 | ((point >> 12) & 0x3f);
    } else {
      if (point >= 0xd800 && point <= 0xdfff) point = 0xfffd;
      into[at++] = 0xe0 | (point >> 12);
    }
    into[at++] = 0x80 | ((point >> 6) & 0x3f);
    into[at++] = 0x80 | (point & 0x3f);
  }
}

/** Strict UTF-8 (no overlong forms, no surrogates); null when malformed. */
function readUtf8(bytes: Uint8Array, start: number, end: number): string | null {
  let text = '';
  let at = start;
  while (at < end) {
    const lead = bytes[at] ?? 0;
    if (lead < 0x80) {
      text += String.fromCharCode(lead);
      at++;
      continue;
    }
    const size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || at + size > end) return null;
    let point = size === 2 ? lead & 0x1f : size === 3 ? lead & 0x0f : lead & 0x07;
    for (let i = 1; i < size; i++) {
      const next = bytes[at + i] ?? 0;
      if ((next & 0xc0) !== 0x80) return null;
      point = (point << 6) | (next & 0x3f);
    }
    const overlong = (size === 3 && point < 0x800) || (size === 4 && point < 0x10000);
    if (overlong || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) return null;
    text += String.fromCodePoint(point);
    at += size;
  }
  return text;
}

/** True when both hold the same bytes. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
