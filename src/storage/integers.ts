/** Big-endian integers in byte arrays: stored keys then sort as their numbers do. Owns no layout. */

export function writeU16(target: Uint8Array, offset: number, value: number): void {
  target[offset] = value >>> 8;
  target[offset + 1] = value;
}

export function readU16(source: Uint8Array, offset: number): number {
  return (byte(source, offset) << 8) | byte(source, offset + 1);
}

export function writeU32(target: Uint8Array, offset: number, value: number): void {
  target[offset] = value >>> 24;
  target[offset + 1] = value >>> 16;
  target[offset + 2] = value >>> 8;
  target[offset + 3] = value;
}

export function readU32(source: Uint8Array, offset: number): number {
  return ((byte(source, offset) << 24) | (byte(source, offset + 1) << 16) | (byte(source, offset + 2) << 8) | byte(source, offset + 3)) >>> 0;
}

const TWO_32 = 2 ** 32;

/** Safe integers only: the high word then never exceeds 2^21. */
export function writeU64(target: Uint8Array, offset: number, value: number): void {
  writeU32(target, offset, Math.floor(value / TWO_32));
  writeU32(target, offset + 4, value >>> 0);
}

export function readU64(source: Uint8Array, offset: number): number {
  return readU32(source, offset) * TWO_32 + readU32(source, offset + 4);
}

/** Reading past the end means a length was not checked first: a bug, not damage. */
function byte(source: Uint8Array, offset: number): number {
  const value = source[offset];
  if (value === undefined) throw new RangeError(`read at ${offset} of ${source.length} bytes`);
  return value;
}
