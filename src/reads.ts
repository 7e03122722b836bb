/**
 * The read verbs over one replica's rows. Synchronous, on state that is already current for the caller (store.ts made
 * the read linearizable). Owns the paging of messages; windows are windows.ts, what bytes look like is render.ts.
 */
import { hash } from 'node:crypto';
import { decodeConfig, encodeConfig } from './contexts/rows.ts';
import type { ContextConfig, ContextHeader, Rows } from './contexts/types.ts';
import { needsCompaction } from './contexts/policies.ts';
import { ApiError } from './errors.ts';
import type { CompactionsQuery, ExplainQuery, MessagesQuery, WindowQuery } from './http/ports.ts';
import { messageRow, renderContext, renderMessages } from './render.ts';
import { compactionsAnswer, explainAnswer, windowAnswer } from './windows.ts';

/** A page stops before its messages pass this many bytes, so that no answer can hold the memory of a node. */
const PAGE_BYTES_MAX = 32 * 1024 * 1024;
/** Slices of an export are read in one turn of the event loop each. */
const SLICE_BYTES_MAX = 256 * 1024;
const SLICE_MESSAGES_MAX = 256;

/** A verb as it travels to a node that hosts the group. */
export type ReadVerb =
  | { readonly verb: 'get' }
  /** Settings and their revision in the form of decodeSettings, for read-modify-write. */
  | { readonly verb: 'settings' }
  | { readonly verb: 'tail'; readonly offset: number; readonly limit: number }
  | { readonly verb: 'messages'; readonly query: MessagesQuery }
  /** A slice of an export, in the form of decodeSlice. */
  | { readonly verb: 'slice'; readonly query: SliceQuery }
  | { readonly verb: 'window'; readonly query: WindowQuery }
  | { readonly verb: 'explain'; readonly query: ExplainQuery }
  | { readonly verb: 'compactions'; readonly query: CompactionsQuery };

const VERBS: ReadonlySet<string> = new Set<ReadVerb['verb']>(['get', 'settings', 'tail', 'messages', 'slice', 'window', 'explain', 'compactions']);

/** Whether this version knows the verb: a request of another node may be of a newer one. */
export function isReadVerb(name: string): boolean {
  return VERBS.has(name);
}

export interface SliceQuery extends Omit<MessagesQuery, 'limit'> {
  /** The last seq of the whole export once it is fixed, else null. */
  readonly lastSeq: number | null;
}

export interface ReadResult {
  readonly body: Buffer;
  /** Window reads: the strong ETag; otherwise ''. */
  readonly etag: string;
  readonly notModified: boolean;
}

/** Runs a verb. Throws ApiError context_not_found, conflict. */
export function read(rows: Rows, id: string, verb: ReadVerb): ReadResult {
  const config = rows.config(id);
  const header = rows.header(id);
  if (config === undefined || header === undefined) throw contextNotFound(id);
  switch (verb.verb) {
    case 'get':
      return plain(renderContext(id, config, header, needsCompaction(config, header.window.tokens, header.calibration)));
    case 'settings':
      return plain(encodeSettings(config, header.configRevision));
    case 'tail':
      return plain(tail(rows, id, header, verb.offset, verb.limit));
    case 'messages':
      return plain(messages(rows, id, header, verb.query));
    case 'slice':
      return plain(slice(rows, id, header, verb.query));
    case 'window':
      return windowAnswer(rows, id, header, verb.query);
    case 'explain':
      return plain(explainAnswer(rows, id, header, verb.query));
    case 'compactions':
      return plain(compactionsAnswer(rows, id, verb.query));
  }
}

function encodeSettings(config: ContextConfig, revision: number): Buffer {
  const head = Buffer.alloc(8);
  head.writeDoubleBE(revision);
  return Buffer.concat([head, encodeConfig(config)]);
}

/** The answer of the verb `settings`. */
export function decodeSettings(body: Buffer): { config: ContextConfig; revision: number } {
  const config = decodeConfig(body.subarray(8));
  if (config === null) throw new Error('settings do not decode');
  return { config, revision: body.readDoubleBE(0) };
}

export function contextNotFound(id: string): ApiError {
  return new ApiError('context_not_found', `There is no context ${JSON.stringify(id)}. Create it with PUT /v1/contexts/:id first.`);
}

function plain(body: Buffer): ReadResult {
  return { body, etag: '', notModified: false };
}

/** Messages [from, to], ascending, stopping before the page's byte bound. That each is there, machine.ts sees to. */
function range(rows: Rows, id: string, from: number, to: number, bytesMax = PAGE_BYTES_MAX): { seq: number; row: Uint8Array }[] {
  const page: { seq: number; row: Uint8Array }[] = [];
  let bytes = 0;
  for (let seq = from; seq <= to; seq++) {
    const row = rows.get('message', id, seq);
    if (row === undefined) throw new Error(`message ${seq} of context ${JSON.stringify(id)} is missing from storage`);
    bytes += row.length;
    if (bytes > bytesMax && page.length > 0) break;
    page.push({ seq, row });
  }
  return page;
}

function tail(rows: Rows, id: string, header: ContextHeader, offset: number, limit: number): Buffer {
  const to = header.lastSeq - offset;
  const from = Math.max(1, to - limit + 1);
  const page = range(rows, id, from, to);
  // Offsets count messages, so a short page would make the next one skip some: say so instead.
  if (to >= from && page.length < to - from + 1) {
    throw new ApiError('payload_too_large', `${limit} messages from offset ${offset} are more than ${PAGE_BYTES_MAX} bytes. Ask for a smaller limit.`);
  }
  return Buffer.concat([Buffer.from('{"messages":['), ...renderMessages(page), Buffer.from(']}')]);
}

function messages(rows: Rows, id: string, header: ContextHeader, query: MessagesQuery): Buffer {
  const first = query.afterVersion === null ? query.fromSeq : Math.max(query.fromSeq, firstSeqAfter(rows, id, header, query.afterVersion));
  const last = Math.min(query.toSeq ?? header.lastSeq, header.lastSeq);
  const page = range(rows, id, Math.max(1, first), Math.min(last, Math.max(1, first) + query.limit - 1));
  const next = (page.at(-1)?.seq ?? last) + 1;
  return Buffer.concat([
    Buffer.from('{"messages":['),
    ...renderMessages(page),
    Buffer.from(`],"version":${header.version},"next_seq":${page.length > 0 && next <= last ? next : 'null'}}`),
  ]);
}

/** f64 last seq of the export, f64 seq to go on from (0: this was all), then one message a line. */
function slice(rows: Rows, id: string, header: ContextHeader, query: SliceQuery): Buffer {
  const last = query.lastSeq ?? Math.min(query.toSeq ?? header.lastSeq, header.lastSeq);
  if (last > header.lastSeq) throw new ApiError('raft_unavailable', `This replica has messages up to ${header.lastSeq}, not yet ${last}. Retry.`);
  const first = Math.max(query.fromSeq, query.afterVersion === null ? 1 : firstSeqAfter(rows, id, header, query.afterVersion));
  const page = range(rows, id, first, Math.min(last, first + SLICE_MESSAGES_MAX - 1), SLICE_BYTES_MAX);
  const next = (page.at(-1)?.seq ?? last) + 1;
  const head = Buffer.alloc(16);
  head.writeDoubleBE(last);
  head.writeDoubleBE(next <= last ? next : 0, 8);
  return Buffer.concat([head, ...page.flatMap((message) => [asLine(Buffer.concat(renderMessages([message]))), LINE_END])]);
}

const LINE_END = Buffer.from('\n');

/** Line breaks between the tokens of a client's JSON become spaces; inside strings JSON has none. */
function asLine(json: Buffer): Buffer {
  if (!json.includes(0x0a) && !json.includes(0x0d)) return json;
  for (let i = 0; i < json.length; i++) if (json[i] === 0x0a || json[i] === 0x0d) json[i] = 0x20;
  return json;
}

/** The answer of the verb `slice`. */
export function decodeSlice(body: Buffer): { lastSeq: number; nextSeq: number | null; lines: Buffer } {
  const next = body.readDoubleBE(8);
  return { lastSeq: body.readDoubleBE(0), nextSeq: next === 0 ? null : next, lines: body.subarray(16) };
}

/** Smallest seq whose message has a version above `version`; versions rise with seqs, so a binary search finds it. */
function firstSeqAfter(rows: Rows, id: string, header: ContextHeader, version: number): number {
  if (version >= header.version) return header.lastSeq + 1;
  let low = 1;
  let high = header.lastSeq + 1;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const row = rows.get('message', id, middle);
    if (row === undefined) throw new Error(`message ${middle} of context ${JSON.stringify(id)} is missing from storage`);
    if (messageRow(row).version > version) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** First 16 bytes of the body's SHA-256: what "same key, same body" means. */
export function bodyDigest(body: Buffer): Uint8Array {
  return hash('sha256', body, 'buffer').subarray(0, 16);
}
