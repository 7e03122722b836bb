/**
 * From the raw body of an append or a compact to validated messages: the values are judged by JSON.parse and the rules
 * below, what is stored is the bytes that came in. Nothing after this module looks at client JSON again; whatever it
 * lets through, every replica can apply.
 */
import { isUtf8 } from 'node:buffer';
import { classifyPart } from '../contexts/pairs.ts';
import { RoleKind } from '../contexts/types.ts';
import type { PartRole } from '../contexts/types.ts';
import { ApiError } from '../errors.ts';
import { scanEnvelope } from './envelope.ts';
import type { Envelope, EnvelopeKind, MessageSpans } from './envelope.ts';
import { invalidJson } from './scanner.ts';

export const MESSAGES_MAX = 1000;
export const PARTS_MAX = 10_000;
export const ROLE_BYTES_MAX = 64;
export const ID_BYTES_MAX = 256;
/** Bounds a part's `type`, which windows compare with skip_kinds. */
export const PART_TYPE_BYTES_MAX = 128;
/** Ten million: above any model's window, and a million such messages still sum to a safe integer. */
export const TOKEN_COUNT_MAX = 10_000_000;
export const CLAIM_BYTES_MAX = 200;

/** Soft limits, from configuration. */
export interface IngestLimits {
  /** FASTPACA_MAX_MESSAGE_BYTES: bytes of one message's JSON text. */
  readonly messageBytesMax: number;
  /** FASTPACA_MAX_DEPTH: objects and arrays around a value, the body's own object included. */
  readonly depthMax: number;
}

/** A part before its tokens are known. `value` is the parsed part, from which estimate.ts takes what it counts. */
export interface PartDraft {
  readonly start: number;
  readonly end: number;
  readonly kind: string;
  readonly role: PartRole;
  readonly callId: string;
  readonly value: Readonly<Record<string, unknown>>;
}

/** A validated message before its tokens are known. The texts are views into the request body. */
export interface MessageDraft {
  readonly roleText: Uint8Array;
  readonly roleKind: RoleKind;
  readonly idText: Uint8Array;
  readonly partsText: Uint8Array;
  readonly metadataText: Uint8Array;
  readonly parts: readonly PartDraft[];
  /** The client's `token_count`; -1: not given. */
  readonly tokenCount: number;
}

export interface ParsedAppend {
  readonly messages: readonly MessageDraft[];
  /** -1: not given. */
  readonly ifVersion: number;
  /** The body said `messages`, so the answer is a list too. */
  readonly many: boolean;
}

export interface ParsedCompact {
  readonly replacement: readonly MessageDraft[];
  /** -1: not given. */
  readonly ifVersion: number;
  /** 0: not given, nothing of the log stays. */
  readonly keepFromSeq: number;
  readonly claim: string | null;
}

const EMPTY = new Uint8Array(0);
const EMPTY_OBJECT = new Uint8Array([0x7b, 0x7d]);

/**
 * Parses and validates the body of POST …/messages.
 * Throws ApiError: invalid_json, invalid_request (with `path`), payload_too_large.
 */
export function parseAppend(body: Buffer, limits: IngestLimits): ParsedAppend {
  const { envelope, root } = parseBody(body, 'append', limits);
  const many = 'messages' in root;
  if (many === 'message' in root) {
    throw invalid(many ? 'messages' : 'message', 'Send either "message" (one object) or "messages" (a list), and not both.');
  }
  const ifVersion = optionalInteger(root['if_version'], 'if_version', { min: 0, max: Number.MAX_SAFE_INTEGER, absent: -1 });
  if (!many) return { messages: [draft(body, envelope.messages[0], root['message'], 'message', limits)], ifVersion, many };
  return { messages: drafts(body, envelope, root['messages'], { name: 'messages', min: 1 }, limits), ifVersion, many };
}

/**
 * Parses and validates the body of POST …/compact. An empty `replacement` is allowed: the window is then only what
 * keep_from_seq keeps. Throws as parseAppend does.
 */
export function parseCompact(body: Buffer, limits: IngestLimits): ParsedCompact {
  const { envelope, root } = parseBody(body, 'compact', limits);
  const replacement = drafts(body, envelope, root['replacement'], { name: 'replacement', min: 0 }, limits);
  const claim = root['claim'];
  if (claim !== undefined && (typeof claim !== 'string' || claim === '' || Buffer.byteLength(claim) > CLAIM_BYTES_MAX)) {
    throw invalid('claim', `claim must be the string that …/compact/claim returned (at most ${CLAIM_BYTES_MAX} bytes).`);
  }
  return {
    replacement,
    ifVersion: optionalInteger(root['if_version'], 'if_version', { min: 0, max: Number.MAX_SAFE_INTEGER, absent: -1 }),
    keepFromSeq: optionalInteger(root['keep_from_seq'], 'keep_from_seq', { min: 1, max: Number.MAX_SAFE_INTEGER, absent: 0 }),
    claim: claim ?? null,
  };
}

function parseBody(body: Buffer, kind: EnvelopeKind, limits: IngestLimits): { envelope: Envelope; root: Readonly<Record<string, unknown>> } {
  if (body.length === 0) throw invalidJson('it is empty');
  if (!isUtf8(body)) throw invalidJson('it is not UTF-8');
  if (body[0] === 0xef) throw invalidJson('it starts with a byte order mark');
  // Scanning first bounds the depth before anything is allocated for it.
  const envelope = scanEnvelope(body, kind, { depthMax: limits.depthMax, messagesMax: MESSAGES_MAX, partsMax: PARTS_MAX });
  let root: unknown;
  try {
    root = JSON.parse(body.toString('utf8'));
  } catch (error) {
    throw invalidJson(error instanceof Error ? error.message : 'it does not parse');
  }
  if (!isObject(root)) throw invalid('', 'The body must be a JSON object.');
  if (envelope.problem !== null) throw invalid(envelope.problem.path, envelope.problem.message);
  return { envelope, root };
}

function drafts(body: Buffer, envelope: Envelope, values: unknown, field: { name: string; min: number }, limits: IngestLimits): MessageDraft[] {
  if (!Array.isArray(values) || values.length < field.min || values.length > MESSAGES_MAX) {
    throw invalid(field.name, `${field.name} must be a list of ${field.min} to ${MESSAGES_MAX} messages.`);
  }
  const list: MessageDraft[] = [];
  for (let i = 0; i < values.length; i++) list.push(draft(body, envelope.messages[i], values[i], `${field.name}[${i}]`, limits));
  return list;
}

function draft(body: Buffer, spans: MessageSpans | undefined, value: unknown, path: string, limits: IngestLimits): MessageDraft {
  if (!isObject(value)) throw invalid(path, `${path} must be an object with "role" and "parts".`);
  if (spans === undefined) throw new ApiError('internal', `The scanner lost ${path}.`);
  const bytes = spans.end - spans.start;
  if (bytes > limits.messageBytesMax) {
    throw new ApiError('payload_too_large', `${path} is ${bytes} bytes of JSON; at most ${limits.messageBytesMax} are allowed. Split it, or store large content elsewhere and send a reference.`, { path });
  }
  const role = value['role'];
  if (typeof role !== 'string' || role === '' || overBytes(role, ROLE_BYTES_MAX)) {
    throw invalid(`${path}.role`, `role must be a non-empty string of at most ${ROLE_BYTES_MAX} bytes.`);
  }
  const id = value['id'];
  if (id !== undefined && (typeof id !== 'string' || overBytes(id, ID_BYTES_MAX))) {
    throw invalid(`${path}.id`, `id must be a string of at most ${ID_BYTES_MAX} bytes.`);
  }
  const metadata = value['metadata'];
  if (metadata !== undefined && !isObject(metadata)) throw invalid(`${path}.metadata`, 'metadata must be a JSON object.');
  return {
    roleText: body.subarray(spans.roleStart, spans.roleEnd),
    roleKind: roleKindOf(role),
    idText: id === undefined ? EMPTY : body.subarray(spans.idStart, spans.idEnd),
    partsText: body.subarray(spans.partsStart, spans.partsEnd),
    metadataText: metadata === undefined ? EMPTY_OBJECT : body.subarray(spans.metadataStart, spans.metadataEnd),
    parts: partDrafts(spans, value['parts'], path),
    tokenCount: optionalInteger(value['token_count'], `${path}.token_count`, { min: 0, max: TOKEN_COUNT_MAX, absent: -1 }),
  };
}

function partDrafts(spans: MessageSpans, values: unknown, path: string): PartDraft[] {
  if (!Array.isArray(values)) throw invalid(`${path}.parts`, 'parts must be a list of objects, each with a string "type"; it may be empty.');
  if (values.length > PARTS_MAX) throw invalid(`${path}.parts`, `parts may hold at most ${PARTS_MAX} elements.`);
  const bounds = spans.partBounds;
  const base = spans.partsStart;
  const list: PartDraft[] = [];
  for (let i = 0; i < values.length; i++) {
    const value: unknown = values[i];
    if (!isObject(value)) throw invalid(`${path}.parts[${i}]`, 'A part must be an object with a string "type".');
    const kind = value['type'];
    if (typeof kind !== 'string' || overBytes(kind, PART_TYPE_BYTES_MAX)) {
      throw invalid(`${path}.parts[${i}].type`, `A part's type must be a string of at most ${PART_TYPE_BYTES_MAX} bytes.`);
    }
    const { role, callId } = classifyPart(value);
    const start = bounds[2 * i];
    const end = bounds[2 * i + 1];
    if (start === undefined || end === undefined) throw new ApiError('internal', `The scanner lost ${path}.parts[${i}].`);
    list.push({ start: start - base, end: end - base, kind, role, callId, value });
  }
  return list;
}

function roleKindOf(role: string): RoleKind {
  switch (role) {
    case 'system':
    case 'developer':
      return RoleKind.system;
    case 'user':
      return RoleKind.user;
    case 'assistant':
      return RoleKind.assistant;
    case 'tool':
      return RoleKind.tool;
    default:
      return RoleKind.other;
  }
}

function optionalInteger(value: unknown, path: string, range: { min: number; max: number; absent: number }): number {
  if (value === undefined) return range.absent;
  if (typeof value === 'number' && Number.isInteger(value) && value >= range.min && value <= range.max) return value;
  throw invalid(path, `${path} must be an integer from ${range.min} to ${range.max}.`);
}

/** UTF-8 length above `max`? One UTF-16 unit is at most three bytes, so most strings need no counting. */
function overBytes(text: string, max: number): boolean {
  return text.length * 3 > max && Buffer.byteLength(text) > max;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(path: string, message: string): ApiError {
  return new ApiError('invalid_request', message, path === '' ? {} : { path });
}
