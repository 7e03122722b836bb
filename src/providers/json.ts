/**
 * JSON text as clients sent it: finding a member's own text, so that tool inputs and outputs are passed on with their
 * digits and key order, and writing text that any strict reader accepts. Works on text that JSON.parse has accepted.
 */

/** A parsed JSON object. */
export type JsonObject = Readonly<Record<string, unknown>>;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** As deep as a stored message may nest by default: deeper text is passed on as a string, so that no reader refuses it. */
const DEPTH_MAX = 64;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A string member, or '' where there is none. */
export function stringOf(object: JsonObject, name: string): string {
  const value = object[name];
  return typeof value === 'string' ? value : '';
}

/** An object member, or null. */
export function objectOf(object: JsonObject, name: string): JsonObject | null {
  const value = object[name];
  return isObject(value) ? value : null;
}

/**
 * `text` as a JSON string literal. Half a surrogate pair becomes U+FFFD: providers answer 400 to a body that holds one,
 * and the log keeps what was sent.
 */
export function quote(text: string): string {
  return JSON.stringify(text.isWellFormed() ? text : text.toWellFormed());
}

/** The text of the member `name` of the JSON object `text` (of the last, where it is repeated, as JSON.parse takes it). */
export function memberText(text: string, name: string): string | null {
  let found: string | null = null;
  let at = afterSpace(text, afterSpace(text, 0) + 1);
  while (at < text.length && text.charCodeAt(at) === QUOTE) {
    const keyEnd = stringEnd(text, at);
    const matches = keyIs(text, at, keyEnd, name);
    // Past the colon.
    const start = afterSpace(text, afterSpace(text, keyEnd) + 1);
    const end = valueEnd(text, start);
    if (matches) found = text.slice(start, end);
    at = afterSpace(text, end);
    if (text.charCodeAt(at) !== COMMA) break;
    at = afterSpace(text, at + 1);
  }
  return found === null ? null : wellFormed(found);
}

/**
 * The text of a JSON object that `text` holds, e.g. the `arguments` of a call; null where it holds anything else or
 * nests too deep to be passed on.
 */
export function objectText(text: string): string | null {
  const trimmed = text.trim();
  if (trimmed.charCodeAt(0) !== OPEN_OBJECT || depth(trimmed) > DEPTH_MAX) return null;
  try {
    JSON.parse(trimmed);
  } catch {
    return null;
  }
  return wellFormed(trimmed);
}

function depth(text: string): number {
  let open = 0;
  let deepest = 0;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit === QUOTE) {
      at = stringEnd(text, at) - 1;
    } else if (unit === OPEN_OBJECT || unit === OPEN_ARRAY) {
      open += 1;
      if (open > deepest) deepest = open;
    } else if (unit === CLOSE_OBJECT || unit === CLOSE_ARRAY) {
      open -= 1;
    }
  }
  return deepest;
}

/** An escaped backslash, an escaped surrogate pair, or an escaped half of one: only the last is replaced. */
const ESCAPES = /\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}/g;
const HALF_UNITS = '\\ud800'.length;

/** JSON text without escaped or bare halves of surrogate pairs; everything else stays as it is. */
function wellFormed(text: string): string {
  const whole = text.isWellFormed() ? text : text.toWellFormed();
  if (!whole.includes('\\ud') && !whole.includes('\\uD')) return whole;
  return whole.replace(ESCAPES, (match) => (match.length === HALF_UNITS ? '\\ufffd' : match));
}

function afterSpace(text: string, from: number): number {
  let at = from;
  while (at < text.length) {
    const unit = text.charCodeAt(at);
    if (unit !== 0x20 && unit !== 0x0a && unit !== 0x0d && unit !== 0x09) break;
    at += 1;
  }
  return at;
}

/** Behind the closing quote of the string that starts at `start`. */
function stringEnd(text: string, start: number): number {
  let from = start + 1;
  for (;;) {
    const at = text.indexOf('"', from);
    if (at === -1) return text.length;
    let backslashes = 0;
    while (at - 1 - backslashes >= from && text.charCodeAt(at - 1 - backslashes) === BACKSLASH) backslashes += 1;
    if (backslashes % 2 === 0) return at + 1;
    from = at + 1;
  }
}

function valueEnd(text: string, start: number): number {
  const first = text.charCodeAt(start);
  if (first === QUOTE) return stringEnd(text, start);
  let at = start;
  if (first === OPEN_OBJECT || first === OPEN_ARRAY) {
    let open = 0;
    while (at < text.length) {
      const unit = text.charCodeAt(at);
      if (unit === QUOTE) {
        at = stringEnd(text, at);
        continue;
      }
      at += 1;
      if (unit === OPEN_OBJECT || unit === OPEN_ARRAY) open += 1;
      else if ((unit === CLOSE_OBJECT || unit === CLOSE_ARRAY) && --open === 0) return at;
    }
    return at;
  }
  while (at < text.length) {
    const unit = text.charCodeAt(at);
    if (unit === COMMA || unit === CLOSE_OBJECT || unit === CLOSE_ARRAY || unit <= 0x20) break;
    at += 1;
  }
  return at;
}

function keyIs(text: string, start: number, end: number, name: string): boolean {
  if (end - start - 2 === name.length) return text.startsWith(name, start + 1);
  // An escape makes a key longer, never shorter.
  if (end - start - 2 < name.length) return false;
  const literal = text.slice(start, end);
  return literal.includes('\\') && JSON.parse(literal) === name;
}
