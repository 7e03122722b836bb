/**
 * The read verbs over one replica's rows. Synchronous, on state that is already current for the caller (store.ts made
 * the read linearizable). Owns the paging of messages, over the seam between hot storage and the archive too
 * (archive/cold.ts); windows are windows.ts, what bytes look like is render.ts.
 */
import { hash } from 'node:crypto';
import { ColdMiss, Fetched, ReachingRows, type ColdReads } from './archive/cold.ts';
import { decodeConfig, encodeConfig } from './contexts/rows.ts';
import type { ContextConfig, ContextHeader, Rows } from './contexts/types.ts';
import { needsCompaction } from './contexts/policies.ts';
import { ApiError } from './errors.ts';
import type { CompactionsQuery, ExplainQuery, MessagesQuery, WindowQuery } from './http/ports.ts';
import { storedRow } from './message-texts.ts';
import type { MessageTexts } from './message-texts.ts';
import { messageRow, renderContext, renderMessage } from './render.ts';
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

/** What `readThrough` reads besides rows. */
export interface ReadAccess {
  /** Of the machine whose rows are read. */
  readonly texts: MessageTexts;
  readonly cold: ColdReads;
  /** Between two rounds: whether the rows may still be read. */
  readonly isHere: () => boolean;
  /** performance.now() at which the archive is given up. */
  readonly deadline: number;
}

/**
 * Runs a verb, with what it needs from the archive; null: the rows may no longer be read here.
 * Throws what `read` throws, and ApiError archive_unavailable.
 */
export async function readThrough(rows: Rows, id: string, verb: ReadVerb, { texts, cold, isHere, deadline }: ReadAccess): Promise<ReadResult | null> {
  const fetched = new Fetched();
  for (;;) {
    try {
      return read(rows, id, verb, { fetched, texts });
    } catch (error) {
      if (!(error instanceof ColdMiss)) throw error;
      const failure = await cold.fetch(id, error.need, fetched, deadline - performance.now());
      if (!isHere()) return null;
      // A context that was purged meanwhile is not there, rather than not in reach.
      if (failure !== null && rows.config(id) !== undefined) throw failure;
    }
  }
}

/** What spares a read its rows: messages of the archive, and texts that were made before. */
export interface ReadSources {
  readonly fetched: Fetched;
  readonly texts: MessageTexts;
}

/** Runs a verb. Throws ApiError context_not_found, conflict; ColdMiss where `fetched` lacks something. */
export function read(rows: Rows, id: string, verb: ReadVerb, { fetched, texts }: ReadSources): ReadResult {
  const config = rows.config(id);
  const header = rows.header(id);
  if (config === undefined || header === undefined) throw contextNotFound(id);
  switch (verb.verb) {
    case 'get':
      return plain(renderContext(id, config, header, needsCompaction(config, header.window.tokens, header.calibration)));
    case 'settings':
      return plain(encodeSettings(config, header.configRevision));
    case 'tail':
      return plain(tail({ rows, id, header, fetched, texts }, verb.offset, verb.limit));
    case 'messages':
      return plain(messages({ rows, id, header, fetched, texts }, verb.query));
    case 'slice':
      return plain(slice({ rows, id, header, fetched, texts }, verb.query));
    case 'window':
      return windowAnswer(new ReachingRows(rows, fetched), id, header, verb.query, texts);
    case 'explain':
      return plain(explainAnswer(new ReachingRows(rows, fetched), id, header, verb.query));
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

/** The log of one context at one moment, in both its tiers. */
interface Log {
  readonly rows: Rows;
  readonly id: string;
  readonly header: ContextHeader;
  readonly fetched: Fetched;
  readonly texts: MessageTexts;
}

/** Messages [from, to] as JSON, ascending, stopping before the page's byte bound. That each is there, machine.ts sees to. Throws ColdMiss. */
function range({ rows, id, header, fetched }: Log, from: number, to: number, bytesMax = PAGE_BYTES_MAX): Uint8Array[][] {
  const page: Uint8Array[][] = [];
  let bytes = 0;
  for (let seq = from; seq <= to; seq++) {
    const message: Uint8Array[] = [];
    if (seq <= header.trimmedSeq) {
      const cold = fetched.message(seq, Math.min(to, header.trimmedSeq), bytesMax - bytes);
      if (cold === null) break;
      bytes += cold.body.length;
      message.push(cold.body);
    } else {
      const row = storedRow(rows, id, 'message', seq);
      bytes += row.length;
      const decoded = messageRow(row);
      renderMessage(message, seq, decoded, null, decoded.tokens);
    }
    if (bytes > bytesMax && page.length > 0) break;
    page.push(message);
  }
  return page;
}

/**
 * Messages [from, to] as the inside of a JSON array, of those kept as texts; null where they are not: the newest ones
 * are then made so, for they will be asked for again.
 */
function keptText({ rows, id, header, texts }: Log, from: number, to: number): Buffer | null {
  // What was trimmed is the archive's to answer, kept or not.
  if (from > to || from <= header.trimmedSeq) return null;
  const kept = texts.get(id);
  if (kept?.holds(from, to) === true) return kept.text(from, to);
  return to === header.lastSeq ? (texts.reach(rows, id, from, to)?.text(from, to) ?? null) : null;
}

const TAIL_OPEN = Buffer.from('{"messages":[');
const TAIL_CLOSE = Buffer.from(']}');

function tail(log: Log, offset: number, limit: number): Buffer {
  const to = log.header.lastSeq - offset;
  const from = Math.max(1, to - limit + 1);
  const kept = keptText(log, from, to);
  if (kept !== null) return Buffer.concat([TAIL_OPEN, kept, TAIL_CLOSE]);
  const page = range(log, from, to);
  // Offsets count messages, so a short page would make the next one skip some: say so instead.
  if (to >= from && page.length < to - from + 1) {
    throw new ApiError('payload_too_large', `${limit} messages from offset ${offset} are more than ${PAGE_BYTES_MAX} bytes. Ask for a smaller limit.`);
  }
  return Buffer.concat([TAIL_OPEN, ...joined(page), TAIL_CLOSE]);
}

function messages(log: Log, query: MessagesQuery): Buffer {
  const { header } = log;
  const first = Math.max(1, query.afterVersion === null ? query.fromSeq : Math.max(query.fromSeq, firstSeqAfter(log, query.afterVersion)));
  const last = Math.min(query.toSeq ?? header.lastSeq, header.lastSeq);
  const page = range(log, first, Math.min(last, first + query.limit - 1));
  const next = first + page.length;
  return Buffer.concat([
    Buffer.from('{"messages":['),
    ...joined(page),
    Buffer.from(`],"version":${header.version},"next_seq":${page.length > 0 && next <= last ? next : 'null'}}`),
  ]);
}

const COMMA = Buffer.from(',');

/** The inside of a JSON array. */
function joined(page: readonly (readonly Uint8Array[])[]): Uint8Array[] {
  const out: Uint8Array[] = [];
  for (const [i, message] of page.entries()) {
    if (i > 0) out.push(COMMA);
    for (const piece of message) out.push(piece);
  }
  return out;
}

/** f64 last seq of the export, f64 seq to go on from (0: this was all), then one message a line. */
function slice(log: Log, query: SliceQuery): Buffer {
  const { header } = log;
  const last = query.lastSeq ?? Math.min(query.toSeq ?? header.lastSeq, header.lastSeq);
  if (last > header.lastSeq) throw new ApiError('raft_unavailable', `This replica has messages up to ${header.lastSeq}, not yet ${last}. Retry.`);
  const first = Math.max(query.fromSeq, query.afterVersion === null ? 1 : firstSeqAfter(log, query.afterVersion));
  const page = range(log, first, Math.min(last, first + SLICE_MESSAGES_MAX - 1), SLICE_BYTES_MAX);
  const next = first + page.length;
  const head = Buffer.alloc(16);
  head.writeDoubleBE(last);
  head.writeDoubleBE(page.length > 0 && next <= last ? next : 0, 8);
  return Buffer.concat([head, ...page.flatMap((message) => [asLine(Buffer.concat(message)), LINE_END])]);
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

/** Smallest seq whose message has a version above `version`; versions rise with seqs, so a binary search finds it. Throws ColdMiss. */
function firstSeqAfter({ rows, id, header, fetched }: Log, version: number): number {
  if (version >= header.version) return header.lastSeq + 1;
  const hot = header.trimmedSeq + 1;
  // What comes before the oldest hot message has a version below that one's.
  const hotVersion = hot > header.lastSeq ? header.version + 1 : messageRow(storedRow(rows, id, 'message', hot)).version;
  if (hot > 1 && version < hotVersion - 1) {
    const seq = fetched.seqAfter(version, header.trimmedSeq);
    if (seq < hot) return seq;
  }
  let low = hot;
  let high = header.lastSeq + 1;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (messageRow(storedRow(rows, id, 'message', middle)).version > version) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** First 16 bytes of the body's SHA-256: what "same key, same body" means. */
export function bodyDigest(body: Buffer): Uint8Array {
  return hash('sha256', body, 'buffer').subarray(0, 16);
}
