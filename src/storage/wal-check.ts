/**
 * Looks at LevelDB's write-ahead logs before LevelDB does: it skips a damaged record silently, and with it batches that
 * were synced and acknowledged. Owns no other part of LevelDB's files. Format: LevelDB's doc/log_format.md.
 *
 * A batch is one record, split into fragments (first, middle, last) at blocks of 32 KiB. As one synced batch is in
 * flight at a time, a batch that another one follows was acknowledged: a bad fragment before the start of a later
 * record is damage. A bad end that no later record follows is the unacknowledged tail of a crash.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DamageError } from './checksum.ts';

const BLOCK_BYTES = 32 * 1024;
const HEADER_BYTES = 7;
const RecordType = { full: 1, first: 2, last: 4 } as const;

/** Throws DamageError when a log holds damage that is followed by later records. */
export async function checkWriteAheadLogs(directory: string): Promise<void> {
  const names = (await readdir(directory)).filter((name) => /^\d+\.log$/.test(name)).sort();
  for (const name of names) {
    const offset = findDamage(await readFile(join(directory, name)));
    if (offset !== -1) {
      throw new DamageError(null, `${join(directory, name)} is damaged at byte ${offset}, before later records: acknowledged writes are lost, this data directory cannot be trusted any more`);
    }
  }
}

/** Offset of the first bad record that a later one follows; -1 if there is none. */
export function findDamage(log: Uint8Array): number {
  const view = new DataView(log.buffer, log.byteOffset, log.byteLength);
  let bad = -1;
  for (let block = 0; block < log.length; block += BLOCK_BYTES) {
    const end = Math.min(block + BLOCK_BYTES, log.length);
    let at = block;
    // Fewer bytes than a header at a block's end are padding.
    while (at + HEADER_BYTES <= end) {
      const length = view.getUint16(at + 4, true);
      const type = view.getUint8(at + 6);
      const next = at + HEADER_BYTES + length;
      const valid = type >= RecordType.full && type <= RecordType.last && next <= end && unmasked(view.getUint32(at, true)) === crc32c(log, at + 6, next);
      if (!valid) {
        if (bad === -1) bad = at;
        // The length cannot be trusted, but where it leads to a valid record that is one. Else on to the next block.
        if (length === 0 || next + HEADER_BYTES > end) break;
      } else if (bad !== -1 && (type === RecordType.full || type === RecordType.first)) {
        return bad;
      }
      at = next;
    }
  }
  return -1;
}

/** LevelDB rotates and shifts stored checksums, so that a checksum over data that holds checksums stays strong. */
function unmasked(masked: number): number {
  const rotated = (masked - 0xa282ead8) >>> 0;
  return ((rotated >>> 17) | (rotated << 15)) >>> 0;
}

const TABLES = crc32cTables();

/** CRC-32C (Castagnoli) of log[from, to), eight bytes at a time; Node's zlib has only the other polynomial. */
export function crc32c(log: Uint8Array, from: number, to: number): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = TABLES;
  let crc = 0xffffffff;
  let at = from;
  for (; at + 8 <= to; at += 8) {
    const low = crc ^ ((log[at] ?? 0) | ((log[at + 1] ?? 0) << 8) | ((log[at + 2] ?? 0) << 16) | ((log[at + 3] ?? 0) << 24));
    crc =
      (t7[low & 255] ?? 0) ^
      (t6[(low >>> 8) & 255] ?? 0) ^
      (t5[(low >>> 16) & 255] ?? 0) ^
      (t4[low >>> 24] ?? 0) ^
      (t3[log[at + 4] ?? 0] ?? 0) ^
      (t2[log[at + 5] ?? 0] ?? 0) ^
      (t1[log[at + 6] ?? 0] ?? 0) ^
      (t0[log[at + 7] ?? 0] ?? 0);
  }
  for (; at < to; at++) crc = (t0[(crc ^ (log[at] ?? 0)) & 255] ?? 0) ^ (crc >>> 8);
  return ~crc >>> 0;
}

type Tables = readonly [Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array];

function crc32cTables(): Tables {
  const table = (): Uint32Array => new Uint32Array(256);
  const tables: Tables = [table(), table(), table(), table(), table(), table(), table(), table()];
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
    tables[0][byte] = crc;
  }
  for (let position = 1; position < 8; position++) {
    for (let byte = 0; byte < 256; byte++) {
      const crc = tables[position - 1]?.[byte] ?? 0;
      const target = tables[position];
      if (target !== undefined) target[byte] = (tables[0][crc & 255] ?? 0) ^ (crc >>> 8);
    }
  }
  return tables;
}
