/**
 * Metadata of a context passes through parsed values on its way (merge patches, the archive), unlike a message's, which
 * stays text. So numbers that a double would change are refused here rather than silently altered.
 */
import { ApiError } from '../errors.ts';

/** Integers up to here are exact and print as they were written (-0 prints as 0, which no reader of JSON tells apart). */
const DIGITS_ALWAYS_EXACT = 15;

/**
 * Throws ApiError invalid_request, with the path of the first offender below `rootPath`, when JSON text holds an integer
 * whose digits a double would change or a number beyond its range (1e400). Text that is not JSON is left to JSON.parse.
 */
export function assertNumbersSurvive(json: string, rootPath: string): void {
  const number = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
  // One frame per open object or array: the key or index where the scan is. No recursion.
  const path: (string | number)[] = [];
  let at = 0;
  /** A string that ends at a colon was a key. */
  let lastString = '';
  while (at < json.length) {
    const char = json.charCodeAt(at);
    if (char === 0x22) {
      const end = stringEnd(json, at);
      lastString = json.slice(at, end);
      at = end;
    } else if (char === 0x3a) {
      if (path.length > 0) path[path.length - 1] = lastString;
      at += 1;
    } else if (char === 0x7b || char === 0x5b) {
      path.push(char === 0x7b ? '""' : 0);
      at += 1;
    } else if (char === 0x7d || char === 0x5d) {
      path.pop();
      at += 1;
    } else if (char === 0x2c) {
      const top = path.at(-1);
      if (typeof top === 'number') path[path.length - 1] = top + 1;
      at += 1;
    } else if (char === 0x2d || (char >= 0x30 && char <= 0x39)) {
      number.lastIndex = at;
      const match = number.exec(json);
      if (match === null) return;
      if (!survives(match[0], match[1] === undefined && match[2] === undefined)) {
        const where = rootPath + path.map(step).join('');
        throw new ApiError('invalid_request', `The number ${shown(match[0])} at ${where} would not come back as it was sent. Send it as a string.`, { path: where });
      }
      at += match[0].length;
    } else {
      at += 1;
    }
  }
}

/**
 * Parses JSON text that must be an object whose numbers survive (context metadata).
 * Throws ApiError invalid_json or invalid_request with `path`.
 */
export function parseMetadataObject(json: string, path: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new ApiError('invalid_json', `${path} is not valid JSON: ${error instanceof Error ? error.message : 'it does not parse'}.`);
  }
  if (!isObject(value)) throw new ApiError('invalid_request', `${path} must be a JSON object.`, { path });
  assertNumbersSurvive(json, path);
  return value;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function survives(literal: string, isInteger: boolean): boolean {
  if (isInteger && literal.length <= DIGITS_ALWAYS_EXACT) return true;
  const value = Number(literal);
  if (!Number.isFinite(value)) return false;
  // What counts is the text that comes back: 2^60 fits a double exactly, yet a double prints as 1152921504606847000.
  return !isInteger || String(value) === literal;
}

function stringEnd(json: string, start: number): number {
  let at = start + 1;
  while (at < json.length) {
    const char = json.charCodeAt(at);
    if (char === 0x22) return at + 1;
    at += char === 0x5c ? 2 : 1;
  }
  return json.length;
}

function step(part: string | number): string {
  if (typeof part === 'number') return `[${part}]`;
  try {
    return `.${String(JSON.parse(part))}`;
  } catch {
    return `.${part}`;
  }
}

function shown(literal: string): string {
  return literal.length <= 40 ? literal : `${literal.slice(0, 40)}…`;
}
