/**
 * Checksums of everything stored, and the error that says a stored thing is not what was written.
 * LevelDB's own checksums are not verified by the binding and a flipped bit is silent, so each value carries its own.
 */
import { crc32 } from 'node:zlib';
import { readU32, writeU32 } from './integers.ts';

/** Bytes that a checksum adds to a value; it stands at the end, so that one pass covers key and value in place. */
export const CHECKSUM_BYTES = 4;

/** Stored data is not what was written. `group` is null when the damage cannot be laid at one group's door. */
export class DamageError extends Error {
  readonly group: number | null;

  constructor(group: number | null, message: string) {
    super(message);
    this.name = 'DamageError';
    this.group = group;
  }
}

/** CRC-32 of `bytes`, continuing from `seed` (the checksum of what stands before them). */
export function checksum(bytes: Uint8Array, seed = 0): number {
  return crc32(bytes, seed);
}

/** True when `value` ends in the checksum of `key` followed by the rest of `value`, continuing from `seed`. */
export function isIntact(key: Uint8Array, value: Uint8Array, seed = 0): boolean {
  const end = value.length - CHECKSUM_BYTES;
  if (end < 0) return false;
  return checksum(value.subarray(0, end), checksum(key, seed)) === readU32(value, end);
}

/** `payload` followed by the checksum of `key` and `payload`. */
export function sealed(key: Uint8Array, payload: Uint8Array, seed = 0): Uint8Array {
  const value = new Uint8Array(payload.length + CHECKSUM_BYTES);
  value.set(payload);
  writeU32(value, payload.length, checksum(payload, checksum(key, seed)));
  return value;
}

/** What `sealed` was given, as a view. */
export function unsealed(value: Uint8Array): Uint8Array {
  return value.subarray(0, value.length - CHECKSUM_BYTES);
}
