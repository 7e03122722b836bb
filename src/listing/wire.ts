/** A listing as it travels between nodes: JSON request; answer of u32 length, JSON head, then the contexts' bytes. */
import type { ContextStatus } from '../contexts/types.ts';
import { ApiError, ERROR_STATUS, type ErrorCode } from '../errors.ts';
import type { Consistency } from '../http/ports.ts';

export interface ListRequest {
  readonly groups: readonly number[];
  readonly after: string | null;
  readonly prefix: string;
  readonly status: ContextStatus | null;
  readonly limit: number;
  readonly consistency: Consistency;
  /** How long the asker will wait. */
  readonly waitMs: number;
}

/** Contexts in id order. `through`: the groups were looked at up to this id; null: to their end. */
export interface ListPage {
  readonly ids: readonly string[];
  /** Their JSON, one for each id. */
  readonly contexts: readonly Buffer[];
  readonly through: string | null;
}

type Head =
  | { readonly ids: readonly string[]; readonly lengths: readonly number[]; readonly through: string | null }
  | { readonly error: { readonly code: ErrorCode; readonly message: string } };

/** Throws RangeError for a request in a form this version does not know. */
export function decodeListRequest(request: Uint8Array): ListRequest {
  const value: unknown = JSON.parse(Buffer.from(request).toString());
  if (!isListRequest(value)) throw new RangeError('malformed list request');
  return value;
}

export function encodeListAnswer(answer: ListPage | ApiError): Uint8Array {
  const head: Head =
    answer instanceof ApiError
      ? { error: { code: answer.code, message: answer.message } }
      : { ids: answer.ids, lengths: answer.contexts.map((context) => context.length), through: answer.through };
  const text = Buffer.from(JSON.stringify(head));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(text.length);
  return Buffer.concat([length, text, ...(answer instanceof ApiError ? [] : answer.contexts)]);
}

/** Throws RangeError for an answer in a form this version does not know. */
export function decodeListAnswer(answer: Uint8Array): ListPage | ApiError {
  const bytes = Buffer.from(answer.buffer, answer.byteOffset, answer.byteLength);
  const start = 4 + bytes.readUInt32BE(0);
  const head: unknown = JSON.parse(bytes.toString('utf8', 4, start));
  if (!isHead(head)) throw new RangeError('malformed list answer');
  if ('error' in head) return new ApiError(head.error.code, head.error.message);
  const contexts: Buffer[] = [];
  let at = start;
  for (const length of head.lengths) contexts.push(bytes.subarray(at, (at += length)));
  if (at !== bytes.length || contexts.length !== head.ids.length) throw new RangeError('malformed list answer');
  return { ids: head.ids, contexts, through: head.through };
}

function isListRequest(value: unknown): value is ListRequest {
  return (
    isRecord(value) &&
    Array.isArray(value['groups']) &&
    value['groups'].every((group) => Number.isInteger(group)) &&
    isStringOrNull(value['after']) &&
    typeof value['prefix'] === 'string' &&
    (value['status'] === null || value['status'] === 'active' || value['status'] === 'tombstoned') &&
    typeof value['limit'] === 'number' &&
    typeof value['waitMs'] === 'number' &&
    (value['consistency'] === 'linearizable' || value['consistency'] === 'stale')
  );
}

function isHead(value: unknown): value is Head {
  if (!isRecord(value)) return false;
  const { error } = value;
  if (error !== undefined) return isRecord(error) && typeof error['message'] === 'string' && String(error['code']) in ERROR_STATUS;
  return (
    Array.isArray(value['ids']) &&
    value['ids'].every((id) => typeof id === 'string') &&
    Array.isArray(value['lengths']) &&
    value['lengths'].every((length) => Number.isInteger(length)) &&
    isStringOrNull(value['through'])
  );
}

function isStringOrNull(value: unknown): boolean {
  return value === null || typeof value === 'string';
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
