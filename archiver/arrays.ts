/**
 * Arrays as Postgres receives them in binary (`array_recv`): a batch travels as one parameter a column, each text copied
 * once and never escaped. The driver's own text form doubles every byte of a bytea to hex and builds one string of it all.
 *
 * Layout: dimensions i32 = 1, has nulls i32, element type oid u32, length i32, lower bound i32 = 1,
 * then for each element its length i32 (-1: null) and bytes.
 */

const OID = { bytea: 17, int8: 20, text: 25, float8: 701 } as const;
const HEADER_BYTES = 20;

/** UTF-8 text or bytes; null is SQL's NULL. */
export function bytesArray(type: 'bytea' | 'text', values: readonly (Uint8Array | null)[]): Buffer {
  let size = HEADER_BYTES;
  for (const value of values) size += 4 + (value === null ? 0 : value.length);
  const out = Buffer.allocUnsafe(size);
  writeHeader(out, OID[type], values.length, true);
  let at = HEADER_BYTES;
  for (const value of values) {
    at = out.writeInt32BE(value === null ? -1 : value.length, at);
    if (value === null) continue;
    out.set(value, at);
    at += value.length;
  }
  return out;
}

/** Integers that a double holds exactly. */
export function int8Array(values: readonly number[]): Buffer {
  const out = Buffer.allocUnsafe(HEADER_BYTES + values.length * 12);
  writeHeader(out, OID.int8, values.length, false);
  let at = HEADER_BYTES;
  for (const value of values) {
    at = out.writeInt32BE(8, at);
    at = out.writeInt32BE(Math.floor(value / 2 ** 32), at);
    at = out.writeUInt32BE(value - Math.floor(value / 2 ** 32) * 2 ** 32, at);
  }
  return out;
}

export function float8Array(values: readonly number[]): Buffer {
  const out = Buffer.allocUnsafe(HEADER_BYTES + values.length * 12);
  writeHeader(out, OID.float8, values.length, false);
  let at = HEADER_BYTES;
  for (const value of values) {
    at = out.writeInt32BE(8, at);
    at = out.writeDoubleBE(value, at);
  }
  return out;
}

function writeHeader(out: Buffer, oid: number, length: number, nulls: boolean): void {
  out.writeInt32BE(1, 0);
  out.writeInt32BE(nulls ? 1 : 0, 4);
  out.writeUInt32BE(oid, 8);
  out.writeInt32BE(length, 12);
  out.writeInt32BE(1, 16);
}
