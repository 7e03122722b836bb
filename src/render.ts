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
