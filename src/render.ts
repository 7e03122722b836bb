/**
 * Stored rows -> the JSON bytes that clients read. Text that clients sent is spliced in verbatim, never re-encoded.
 * Owns the shape of a message, a context and a window on the wire; http/ owns headers and status codes.
 */
import { usedTokens } from './contexts/policies.ts';
import { decodeMessageRow, rowParts, type MessageRow } from './contexts/rows.ts';
import type { ContextConfig, ContextHeader, Policy } from './contexts/types.ts';

const COMMA = Buffer.from(',');
const OPEN = Buffer.from('[');
const CLOSE = Buffer.from(']');
const ROLE_NEXT = Buffer.from(',"role":');
const PARTS = Buffer.from(',"parts":');

/** RFC 3339 in UTC with milliseconds. */
export function timestamp(ms: number): string {
  return new Date(ms).toISOString();
}

const DAY_MS = 86_400_000;
/** From here on a year takes more than four digits. */
const YEAR_10000_MS = 253_402_300_800_000;
const TIMESTAMP_BYTES = 24;

/** Writes `timestamp(ms)`; returns where it ends. Digit by digit: a Date and its string cost more than the rest of a message. */
function writeTimestamp(target: Buffer, at: number, ms: number): number {
  if (!(ms >= 0 && ms < YEAR_10000_MS)) return at + target.write(timestamp(ms), at, 'latin1');
  const days = Math.floor(ms / DAY_MS);
  // Days to a date by eras of 400 years that begin in March (H. Hinnant, "chrono-compatible low-level date algorithms").
  const shifted = days + 719_468;
  const era = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - era * 146_097;
  const yearOfEra = Math.floor((dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365);
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const monthFromMarch = Math.floor((5 * dayOfYear + 2) / 153);
  const month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9;
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0);
  const ofDay = Math.floor(ms) - days * DAY_MS;
  writeDigits(target, at, year, 4);
  target[at + 4] = 0x2d;
  writeDigits(target, at + 5, month, 2);
  target[at + 7] = 0x2d;
  writeDigits(target, at + 8, dayOfYear - Math.floor((153 * monthFromMarch + 2) / 5) + 1, 2);
  target[at + 10] = 0x54;
  writeDigits(target, at + 11, Math.floor(ofDay / 3_600_000), 2);
  target[at + 13] = 0x3a;
  writeDigits(target, at + 14, Math.floor(ofDay / 60_000) % 60, 2);
  target[at + 16] = 0x3a;
  writeDigits(target, at + 17, Math.floor(ofDay / 1000) % 60, 2);
  target[at + 19] = 0x2e;
  writeDigits(target, at + 20, ofDay % 1000, 3);
  target[at + 23] = 0x5a;
  return at + TIMESTAMP_BYTES;
}

function writeDigits(target: Buffer, at: number, value: number, digits: number): void {
  let rest = value;
  for (let i = at + digits - 1; i >= at; i--) {
    target[i] = 0x30 + (rest % 10);
    rest = Math.floor(rest / 10);
  }
}

/** A stored message; a row that passed its checksum and does not decode is a bug, and serving on would hide it. */
export function messageRow(bytes: Uint8Array): MessageRow {
  const row = decodeMessageRow(bytes);
  if (row === null) throw new Error('a message row does not decode');
  return row;
}

/**
 * Appends one message's JSON to `out`. `seq` null: a compaction's replacement, which has no place in the log.
 * `kept`: indices of the parts to show; null shows all, verbatim.
 */
export function renderMessage(out: Uint8Array[], seq: number | null, row: MessageRow, kept: readonly number[] | null, tokens: number): void {
  const { bytes } = row;
  const head = seq === null ? `{"version":${row.version},` : `{"seq":${seq},"version":${row.version},`;
  if (row.idEnd > row.idStart) out.push(Buffer.from(`${head}"id":`), bytes.subarray(row.idStart, row.idEnd), ROLE_NEXT);
  else out.push(Buffer.from(`${head}"role":`));
  out.push(bytes.subarray(row.roleStart, row.roleEnd), PARTS);
  if (kept === null) out.push(bytes.subarray(row.partsStart, row.partsEnd));
  else renderParts(out, row, kept);
  out.push(
    Buffer.from(`,"token_count":${tokens},"metadata":`),
    bytes.subarray(row.metadataStart, row.metadataEnd),
    Buffer.from(`,"inserted_at":"${timestamp(row.stampMs)}"}`),
  );
}

/** Bytes that suffice for what `writeMessage` writes of `row`. */
export function messageBytesMax(row: MessageRow): number {
  return row.metadataEnd - row.roleStart + MESSAGE_FRAME_BYTES_MAX;
}

/** Names and punctuation of a message (94 bytes), its numbers (16 digits at most) and its time. */
const MESSAGE_FRAME_BYTES_MAX = 192;
const ID_NAME = Buffer.from('"id":');
const ROLE_NAME = Buffer.from('"role":');

/** Writes what renderMessage gives of a message of the log, all its parts verbatim, at `at` of `target`; returns where it ends. */
export function writeMessage(target: Buffer, at: number, seq: number, row: MessageRow): number {
  const { bytes } = row;
  let end = at + target.write(`{"seq":${seq},"version":${row.version},`, at, 'latin1');
  if (row.idEnd > row.idStart) {
    end = put(target, end, ID_NAME);
    end = put(target, end, bytes, row.idStart, row.idEnd);
    end = put(target, end, ROLE_NEXT);
  } else {
    end = put(target, end, ROLE_NAME);
  }
  end = put(target, end, bytes, row.roleStart, row.roleEnd);
  end = put(target, end, PARTS);
  end = put(target, end, bytes, row.partsStart, row.partsEnd);
  end += target.write(`,"token_count":${row.tokens},"metadata":`, end, 'latin1');
  end = put(target, end, bytes, row.metadataStart, row.metadataEnd);
  end = put(target, end, INSERTED_AT);
  end = writeTimestamp(target, end, row.stampMs);
  return put(target, end, MESSAGE_END);
}

const INSERTED_AT = Buffer.from(',"inserted_at":"');
const MESSAGE_END = Buffer.from('"}');
/** Below this a loop is faster than a call into the runtime. */
const LOOP_BYTES_MAX = 24;

function put(target: Buffer, at: number, bytes: Uint8Array, start = 0, end = bytes.length): number {
  const length = end - start;
  if (length > LOOP_BYTES_MAX) {
    target.set(length === bytes.length ? bytes : bytes.subarray(start, end), at);
  } else {
    for (let i = 0; i < length; i++) target[at + i] = bytes[start + i] ?? 0;
  }
  return at + length;
}

function renderParts(out: Uint8Array[], row: MessageRow, kept: readonly number[]): void {
  const parts = rowParts(row);
  out.push(OPEN);
  let first = true;
  for (const index of kept) {
    const part = parts[index];
    if (part === undefined) continue;
    if (!first) out.push(COMMA);
    first = false;
    out.push(row.bytes.subarray(row.partsStart + part.start, row.partsStart + part.end));
  }
  out.push(CLOSE);
}

/** A policy as JSON text. */
export function policyText(policy: Policy): string {
  const config = {
    ...(policy.strategy === 'manual' ? {} : { limit: policy.limit }),
    ...(policy.strategy === 'skip_parts' ? { skip_kinds: policy.skipKinds } : {}),
    ...(policy.strategy === 'manual' ? {} : { target_ratio: policy.targetRatio }),
    pin: policy.pin,
  };
  return JSON.stringify({ strategy: policy.strategy, config });
}

/** The context as `GET /v1/contexts/:id` returns it. */
export function renderContext(id: string, config: ContextConfig, header: ContextHeader, needsCompaction: boolean): Buffer {
  const text = (value: unknown): string => JSON.stringify(value);
  return Buffer.concat([
    Buffer.from(
      `{"id":${text(id)},"status":"${header.status}","token_budget":${config.tokenBudget},"trigger_ratio":${config.triggerRatio},` +
        `"policy":${policyText(config.policy)},"model":${config.model === '' ? 'null' : text(config.model)},"metadata":`,
    ),
    config.metadataText,
    Buffer.from(
      `,"ttl_seconds":${config.ttlSeconds === 0 ? 'null' : config.ttlSeconds},"version":${header.version},"config_revision":${header.configRevision},"last_seq":${header.lastSeq},"archived_seq":${header.archivedSeq},"trimmed_seq":${header.trimmedSeq},` +
        `"used_tokens":${usedTokens(header.window.tokens, header.calibration)},"needs_compaction":${needsCompaction},` +
        `"created_at":"${timestamp(header.createdAt)}","updated_at":"${timestamp(header.updatedAt)}"}`,
    ),
  ]);
}
