/**
 * What a stream's request asks for, from its raw target and headers: the same for upgrades, which the framework's router
 * never sees, and for SSE. Everything a client can get wrong here is answered 400 before any state is touched.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { ApiError } from '../errors.ts';
import { checkContextId } from '../http/input.ts';

export interface StreamRequest {
  readonly context: string;
  /** The last version processed; null: only what comes. */
  readonly cursor: number | null;
  readonly withMessages: boolean;
}

const CLIENT_PATH = /^\/v1\/contexts\/([^/?#]*)\/stream$/;
/** Ends in the version of what travels there: frames of the encoding `peer`. */
export const PEER_STREAM_PATH = '/_peer/stream/1';
/** Above any version there can be, and exact in a double. */
const CURSOR = /^\d{1,15}$/;

/** The encoded context id if the request target is a stream of a client, else null. */
export function streamTarget(url: string): string | null {
  return CLIENT_PATH.exec(pathOf(url))?.[1] ?? null;
}

/** Throws ApiError invalid_context_id, invalid_request. `url` must be a streamTarget. */
export function parseStreamRequest(url: string, headers: IncomingHttpHeaders): StreamRequest {
  const context = checkContextId(decoded(streamTarget(url) ?? ''));
  const query = new Map<string, string>();
  for (const [name, value] of searchOf(url)) {
    if (name !== 'cursor' && name !== 'include_messages') {
      const shown = JSON.stringify(name.slice(0, 80));
      throw invalid(name.slice(0, 80), `The query parameter ${shown} is not known. A stream takes: cursor, include_messages.`);
    }
    if (query.has(name)) throw invalid(name, `The query parameter ${name} is given twice.`);
    query.set(name, value);
  }
  const include = query.get('include_messages') ?? 'true';
  if (include !== 'true' && include !== 'false') throw invalid('include_messages', 'The query parameter include_messages must be true or false.');
  // A client that reconnects repeats its first URL, so what it has seen since goes first.
  const seen = headers['last-event-id'];
  const cursor = typeof seen === 'string' && seen !== '' ? cursorOf('Last-Event-ID', seen) : query.has('cursor') ? cursorOf('cursor', query.get('cursor') ?? '') : null;
  return { context, cursor, withMessages: include === 'true' };
}

function cursorOf(name: string, text: string): number {
  if (!CURSOR.test(text)) throw invalid(name, `${name} must be a version: an integer of at least 0, in digits.`);
  return Number(text);
}

/** The target of a relayed stream on another node. `isEvents`: its client reads server-sent events. */
export function peerStreamTarget(request: StreamRequest, isEvents: boolean): string {
  const query = new URLSearchParams({ context: request.context, include_messages: String(request.withMessages), events: String(isEvents) });
  if (request.cursor !== null) query.set('cursor', String(request.cursor));
  return `${PEER_STREAM_PATH}?${query}`;
}

/** Reads what peerStreamTarget wrote. Throws ApiError for what it cannot have written. */
export function parsePeerStreamTarget(url: string): StreamRequest & { readonly isEvents: boolean } {
  const query = searchOf(url);
  const cursor = query.get('cursor');
  return {
    context: checkContextId(query.get('context') ?? ''),
    cursor: cursor === null ? null : cursorOf('cursor', cursor),
    withMessages: query.get('include_messages') === 'true',
    isEvents: query.get('events') === 'true',
  };
}

export function pathOf(url: string): string {
  const end = url.search(/[?#]/);
  return end < 0 ? url : url.slice(0, end);
}

function searchOf(url: string): URLSearchParams {
  const start = url.indexOf('?');
  return new URLSearchParams(start < 0 ? '' : url.slice(start + 1));
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new ApiError('invalid_context_id', 'The context id is not valid percent-encoded UTF-8 (encodeURIComponent makes it so).');
  }
}

function invalid(path: string, message: string): ApiError {
  return new ApiError('invalid_request', message, { path });
}
