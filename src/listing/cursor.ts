/** The cursor of a listing: opaque to clients, of one version, and good only for the query it came from. */
import { createHash } from 'node:crypto';
import type { ContextStatus } from '../contexts/types.ts';
import { ApiError } from '../errors.ts';

const VERSION = 1;
const TIE_BYTES = 8;

/** A cursor that goes on behind `id`: base64url of version u8, tie 8 bytes, id. */
export function writeCursor(id: string, prefix: string, status: ContextStatus | null): string {
  return Buffer.concat([Uint8Array.of(VERSION), tieOf(id, prefix, status), Buffer.from(id)]).toString('base64url');
}

/** The id that a cursor goes on behind. Throws ApiError invalid_request. */
export function readCursor(cursor: string, prefix: string, status: ContextStatus | null): string {
  const bytes = Buffer.from(cursor, 'base64url');
  const id = bytes.toString('utf8', 1 + TIE_BYTES);
  if (bytes[0] !== VERSION || bytes.length <= 1 + TIE_BYTES || bytes.toString('base64url') !== cursor || !bytes.subarray(1, 1 + TIE_BYTES).equals(tieOf(id, prefix, status))) {
    throw new ApiError('invalid_request', 'cursor is not a next_cursor of this query. Use it with the prefix and status it came from, or start anew without one.', { path: 'cursor' });
  }
  return id;
}

/** Over the id as well, so that a cursor that was cut or edited is refused rather than followed. */
function tieOf(id: string, prefix: string, status: ContextStatus | null): Buffer {
  return createHash('sha256').update(JSON.stringify([VERSION, prefix, status, id])).digest().subarray(0, TIE_BYTES);
}
