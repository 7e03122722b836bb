/**
 * What of a client's JSON Postgres can hold. jsonb and text refuse U+0000, and lone surrogates are no characters; both
 * are legal JSON escapes, so such texts live in `body` alone. Numbers beyond `numeric` are found by trying (writer.ts).
 */

const BACKSLASH = 0x5c;
const LOWER_U = 0x75;

/** Whether jsonb takes the escapes of this JSON text (valid UTF-8, valid JSON). */
export function isJsonbText(text: Uint8Array): boolean {
  let at = text.indexOf(BACKSLASH);
  while (at !== -1) {
    if (text[at + 1] !== LOWER_U) {
      at = text.indexOf(BACKSLASH, at + 2);
      continue;
    }
    const unit = hexUnit(text, at + 2);
    if (unit === 0) return false;
    let next = at + 6;
    if (unit >= 0xd800 && unit <= 0xdfff) {
      if (unit >= 0xdc00 || text[next] !== BACKSLASH || text[next + 1] !== LOWER_U) return false;
      const low = hexUnit(text, next + 2);
      if (low < 0xdc00 || low > 0xdfff) return false;
      next += 6;
    }
    at = text.indexOf(BACKSLASH, next);
  }
  return true;
}

function hexUnit(text: Uint8Array, at: number): number {
  let unit = 0;
  for (let i = at; i < at + 4; i++) {
    const byte = text[i] ?? 0x30;
    unit = unit * 16 + (byte <= 0x39 ? byte - 0x30 : (byte | 0x20) - 0x57);
  }
  return unit;
}

/** The value of a JSON string literal as `text`; null for an empty literal, or when `text` cannot hold it. */
export function textOfLiteral(literal: Uint8Array): Uint8Array | null {
  if (literal.length < 2) return null;
  const inner = literal.subarray(1, literal.length - 1);
  if (inner.indexOf(BACKSLASH) === -1) return inner;
  if (!isJsonbText(literal)) return null;
  const value: unknown = JSON.parse(Buffer.from(literal).toString('utf8'));
  return typeof value === 'string' ? Buffer.from(value) : null;
}

/** A string as `text`; null when `text` cannot hold it. */
export function textOf(value: string): Uint8Array | null {
  return value.includes('\u0000') || !value.isWellFormed() ? null : Buffer.from(value);
}
