/**
 * A scanner over the bytes of JSON text that finds where values start and end, so that a client's text can be stored
 * and answered as the very bytes that came in. It walks structure only: it checks nesting depth and what it must to
 * keep its bearings, and leaves the verdict on validity to JSON.parse, which always runs after it.
 * No recursion: hostile nesting costs neither stack nor memory.
 */
import { ApiError } from '../errors.ts';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** Strings shorter than this are walked byte by byte; from there on the native search is faster than the loop. */
const STRING_LOOP_BYTES = 32;

/** Failure of the text as JSON, wherever it is found. */
export function invalidJson(what: string): ApiError {
  return new ApiError('invalid_json', `The body is not valid JSON: ${what}. Send one JSON object encoded as UTF-8.`);
}

export class JsonScanner {
  readonly bytes: Buffer;
  readonly depthMax: number;
  /** Next byte to look at. */
  position: number;
  /** Open objects and arrays around `position`. */
  depth: number;
  /** Span of the key that nextMember found, quotes included. */
  keyStart: number;
  keyEnd: number;
  /** True between an opening bracket and the first value inside: no comma is due there. */
  #fresh: boolean;

  constructor(bytes: Buffer, depthMax: number) {
    this.bytes = bytes;
    this.depthMax = depthMax;
    this.position = 0;
    this.depth = 0;
    this.keyStart = 0;
    this.keyEnd = 0;
    this.#fresh = true;
  }

  /** Skips white space; returns the byte now at `position`, -1 at the end. */
  peek(): number {
    const bytes = this.bytes;
    let at = this.position;
    while (at < bytes.length) {
      const byte = bytes[at] as number;
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) {
        this.position = at;
        return byte;
      }
      at += 1;
    }
    this.position = at;
    return -1;
  }

  peekIsObject(): boolean {
    return this.peek() === OPEN_OBJECT;
  }

  peekIsArray(): boolean {
    return this.peek() === OPEN_ARRAY;
  }

  /** Enters the object or array at `position`. Throws payload_too_large past the depth limit. */
  open(): void {
    this.position += 1;
    this.#deepen();
    this.#fresh = true;
  }

  /**
   * Inside an object: goes to the next member's value and sets keyStart and keyEnd; the caller then consumes the value
   * by skipValue or open. Leaves the object and returns false at its end.
   */
  nextMember(): boolean {
    if (!this.#separate(CLOSE_OBJECT)) return false;
    if (this.peek() !== QUOTE) throw this.#malformed();
    this.keyStart = this.position;
    this.#skipString();
    this.keyEnd = this.position;
    if (this.peek() !== COLON) throw this.#malformed();
    this.position += 1;
    this.peek();
    return true;
  }

  /** Inside an array: goes to the next element, or leaves the array and returns false at its end. */
  nextElement(): boolean {
    if (!this.#separate(CLOSE_ARRAY)) return false;
    this.peek();
    return true;
  }

  /** Skips one value of any kind; afterwards `position` is right behind it. */
  skipValue(): void {
    this.#fresh = false;
    const first = this.peek();
    if (first === QUOTE) return this.#skipString();
    if (first === OPEN_OBJECT || first === OPEN_ARRAY) return this.#skipNested();
    this.#skipScalar();
  }

  /** Throws unless nothing but white space is left. */
  end(): void {
    if (this.peek() !== -1) throw this.#malformed();
  }

  /** Whether the last key is `name`, written plainly. */
  keyIs(name: string): boolean {
    const start = this.keyStart + 1;
    if (this.keyEnd - this.keyStart - 2 !== name.length) return false;
    for (let i = 0; i < name.length; i++) {
      if (this.bytes[start + i] !== name.charCodeAt(i)) return false;
    }
    return true;
  }

  /** The last key, unescaped. For the rare paths: errors, and keys written with escapes. */
  key(): string {
    const text = this.bytes.toString('utf8', this.keyStart, this.keyEnd);
    try {
      return String(JSON.parse(text));
    } catch {
      throw this.#malformed();
    }
  }

  keyHasEscape(): boolean {
    return this.bytes.subarray(this.keyStart, this.keyEnd).includes(BACKSLASH);
  }

  #separate(close: number): boolean {
    const byte = this.peek();
    if (byte === close) {
      this.position += 1;
      this.depth -= 1;
      this.#fresh = false;
      return false;
    }
    if (this.#fresh) {
      this.#fresh = false;
      return true;
    }
    if (byte !== COMMA) throw this.#malformed();
    this.position += 1;
    return true;
  }

  #skipString(): void {
    const bytes = this.bytes;
    const opening = this.position;
    let at = opening + 1;
    const loopEnd = Math.min(bytes.length, at + STRING_LOOP_BYTES);
    while (at < loopEnd) {
      const byte = bytes[at] as number;
      if (byte === QUOTE) {
        this.position = at + 1;
        return;
      }
      at += byte === BACKSLASH ? 2 : 1;
    }
    // From here quotes are found natively; one is the end unless an odd number of backslashes stands before it.
    // `at` may have jumped over an escaped character, so backslashes are counted back to it and no further.
    let from = at;
    for (;;) {
      const quote = bytes.indexOf(QUOTE, from);
      if (quote === -1) throw invalidJson('a string does not end');
      let backslashes = 0;
      while (quote - 1 - backslashes >= at && bytes[quote - 1 - backslashes] === BACKSLASH) backslashes += 1;
      if (backslashes % 2 === 0) {
        this.position = quote + 1;
        return;
      }
      from = quote + 1;
    }
  }

  #skipNested(): void {
    const bytes = this.bytes;
    const outside = this.depth;
    for (;;) {
      if (this.position >= bytes.length) throw invalidJson('it ends inside an object or array');
      const byte = bytes[this.position] as number;
      if (byte === QUOTE) {
        this.#skipString();
        continue;
      }
      this.position += 1;
      if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
        this.#deepen();
      } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
        this.depth -= 1;
        if (this.depth === outside) return;
      }
    }
  }

  #skipScalar(): void {
    const bytes = this.bytes;
    const start = this.position;
    let at = start;
    while (at < bytes.length) {
      const byte = bytes[at] as number;
      if (byte === COMMA || byte === CLOSE_OBJECT || byte === CLOSE_ARRAY || byte <= 0x20) break;
      at += 1;
    }
    if (at === start) throw this.#malformed();
    this.position = at;
  }

  #deepen(): void {
    this.depth += 1;
    if (this.depth > this.depthMax) {
      throw new ApiError('payload_too_large', `The body nests objects and arrays deeper than ${this.depthMax} levels. Flatten it or send the deep value as a string.`);
    }
  }

  #malformed(): ApiError {
    const at = this.position;
    return invalidJson(at >= this.bytes.length ? 'it ends too early' : `unexpected character at byte ${at}`);
  }
}
