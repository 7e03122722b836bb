/**
 * Large commands, compressed for the log. A log entry is written by every replica and rewritten as LevelDB sorts it, until
 * the log is trimmed, so that what it takes in processor time to make it smaller comes back several times over; small ones
 * are not worth it. Every replica holds the same bytes, whichever library made them.
 *
 *   bytes 0-9     as of any command: format, type (PACKED_COMMAND), stamp
 *   bytes 10-13   length of the command, big-endian
 *   the rest      the command with its own first bytes, stamp aside, as a zstd frame
 */
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { BODY_AT, formatOf, PACKED_COMMAND, typeCodeOf } from './contexts/commands.ts';

/** Below this a command is written as it is: the calls cost more than the bytes. */
const PACKED_BYTES_MIN = 8 * 1024;
/** Above this as well, since nothing else happens meanwhile. */
const PACKED_BYTES_MAX = 1024 * 1024;
/** What is saved must be worth an unpacking by each replica. */
const SAVED_MIN = 0.25;
const FRAME_AT = BODY_AT + 4;
/** The fastest of the usual levels: whatever is compressed here, requests wait for it. */
export const ZSTD_OPTIONS = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

/** `command` for the log: packed if it is large and that makes it much smaller. */
export function packCommand(command: Uint8Array): Uint8Array {
  if (command.length < PACKED_BYTES_MIN || command.length > PACKED_BYTES_MAX) return command;
  const frame = zstdCompressSync(command, ZSTD_OPTIONS);
  if (FRAME_AT + frame.length > command.length * (1 - SAVED_MIN)) return command;
  const packed = new Uint8Array(FRAME_AT + frame.length);
  packed[0] = formatOf(command);
  packed[1] = PACKED_COMMAND;
  new DataView(packed.buffer).setUint32(BODY_AT, command.length);
  packed.set(frame, FRAME_AT);
  return packed;
}

/** The command that `data` holds, which is `data` itself where it is not packed; null for what is packed and cannot be unpacked. */
export function unpackCommand(data: Uint8Array): Uint8Array | null {
  if (typeCodeOf(data) !== PACKED_COMMAND) return data;
  const length = commandBytes(data);
  if (length > PACKED_BYTES_MAX) return null;
  try {
    const command = zstdDecompressSync(data.subarray(FRAME_AT), { maxOutputLength: Math.max(1, length) });
    return command.length === length && typeCodeOf(command) !== PACKED_COMMAND ? command : null;
  } catch {
    return null;
  }
}

/** Bytes of the command that `data` holds, unpacked; of what is no command, anything. */
export function commandBytes(data: Uint8Array): number {
  if (typeCodeOf(data) !== PACKED_COMMAND || data.length < FRAME_AT) return data.length;
  return new DataView(data.buffer, data.byteOffset, data.byteLength).getUint32(BODY_AT);
}
