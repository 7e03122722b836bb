/**
 * What a request carries besides its body: the context id in the path, query parameters, headers. Everything a client
 * can get wrong here is answered 400 with words that say how to put it right.
 */
import type { FastifyRequest } from 'fastify';
import type { ContextStatus } from '../contexts/types.ts';
import { ApiError } from '../errors.ts';
import { PROVIDERS } from '../providers/rendering.ts';
import type { Consistency } from './ports.ts';

export const CONTEXT_ID_BYTES_MAX = 256;
export const IDEMPOTENCY_KEY_BYTES_MAX = 200;
/** Largest page; a larger `limit` is taken for it. */
export const PAGE_LIMIT_MAX = 1000;
export const PAGE_LIMIT_DEFAULT = 100;

const EMPTY = Buffer.alloc(0);

/**
 * The context id of a request, percent-decoded by the router: 1 to 256 bytes of UTF-8 without control characters.
 * Throws ApiError invalid_context_id.
 */
export function contextId(request: FastifyRequest<{ Params: { id: string } }>): string {
  return checkContextId(request.params.id);
}

/** The same for an id that was decoded elsewhere. Throws ApiError invalid_context_id. */
export function checkContextId(id: string): string {
  if (id.length === 0) throw new ApiError('invalid_context_id', 'The context id is empty.');
  for (let i = 0; i < id.length; i++) {
    const unit = id.charCodeAt(i);
    if (unit < 0x20 || unit === 0x7f) throw controlCharacter();
    if (unit > 0x7f) return nonAsciiContextId(id);
  }
  if (id.length > CONTEXT_ID_BYTES_MAX) throw tooLong(id.length);
  return id;
}

/** Only reached percent-encoded: the HTTP parser refuses a request target with raw bytes outside ASCII. */
function nonAsciiContextId(id: string): string {
  if (/\p{Cc}/u.test(id)) throw controlCharacter();
  const bytes = Buffer.byteLength(id);
  if (bytes > CONTEXT_ID_BYTES_MAX) throw tooLong(bytes);
  return id;
}

function controlCharacter(): ApiError {
  return new ApiError('invalid_context_id', 'The context id holds a control character.');
}

function tooLong(bytes: number): ApiError {
  return new ApiError('invalid_context_id', `The context id is ${bytes} bytes; at most ${CONTEXT_ID_BYTES_MAX} are allowed.`);
}

/** The Idempotency-Key header, or null when absent. Throws ApiError invalid_request. */
export function idempotencyKey(request: FastifyRequest): string | null {
  const key = request.headers['idempotency-key'];
  if (key === undefined) return null;
  if (typeof key !== 'string' || key.length > IDEMPOTENCY_KEY_BYTES_MAX || !/^[\x21-\x7e]+$/.test(key)) {
    throw invalid('Idempotency-Key', `Idempotency-Key must be 1 to ${IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters, sent once.`);
  }
  return key;
}

/** The raw body; empty when the request had none. */
export function rawBody(request: FastifyRequest): Buffer {
  return Buffer.isBuffer(request.body) ? request.body : EMPTY;
}

interface QueryParameter {
  readonly type: 'string' | 'integer' | 'boolean';
  readonly description: string;
  readonly enum?: readonly string[];
  readonly default?: string | number | boolean;
  readonly minimum?: number;
  readonly maximum?: number;
}

/** Every query parameter of the API, as the OpenAPI document shows it. What a call takes is a list of these names. */
export const QUERY_PARAMETERS = {
  consistency: {
    type: 'string',
    enum: ['linearizable', 'stale'],
    default: 'linearizable',
    description: '`stale` answers from the local replica, also while quorum is lost; X-Applied-Index says how far it is.',
  },
  offset: { type: 'integer', minimum: 0, default: 0, description: 'Messages to pass over, counted from the newest.' },
  limit: { type: 'integer', minimum: 1, default: PAGE_LIMIT_DEFAULT, description: `Entries a page holds; more than ${PAGE_LIMIT_MAX} is taken for ${PAGE_LIMIT_MAX}.` },
  from_seq: { type: 'integer', minimum: 1, default: 1, description: 'First seq wanted.' },
  to_seq: { type: 'integer', minimum: 0, description: 'Last seq wanted; absent: to the end.' },
  after_version: { type: 'integer', minimum: 0, description: 'Only messages with a version above it: what a reader missed.' },
  budget_tokens: { type: 'integer', minimum: 1, maximum: 100_000_000, description: 'Budget for this answer instead of token_budget.' },
  if_version: { type: 'integer', minimum: 0, description: 'Answer 409 unless the context is at this version.' },
  cursor: { type: 'string', description: 'next_cursor of the page before; absent: from the start.' },
  prefix: { type: 'string', default: '', description: 'Only contexts whose id starts with it.' },
  status: { type: 'string', enum: ['active', 'tombstoned'], description: 'Only contexts of this status; absent: all.' },
  full: { type: 'boolean', default: false, description: 'The stored window whole, whatever the budget.' },
  for: { type: 'string', enum: PROVIDERS, description: "Messages in this provider's request shape; absent: as they are stored." },
  at_version: { type: 'integer', minimum: 0, description: 'The window as it stood at this version, with the settings then in force.' },
  purge: { type: 'boolean', default: false, description: 'Erase the content for good instead.' },
  explain: { type: 'boolean', default: false, description: 'Instead of the window: what became of each message of the log, page by page (from_seq, limit).' },
} as const satisfies Readonly<Record<string, QueryParameter>>;

export type QueryName = keyof typeof QUERY_PARAMETERS;

/** The query of one request, of which only the parameters named to `read` may be present. */
export class Query {
  readonly #values: ReadonlyMap<string, string>;

  private constructor(values: ReadonlyMap<string, string>) {
    this.#values = values;
  }

  /** Throws ApiError invalid_request for a parameter that is unknown here or given twice. */
  static read(request: FastifyRequest, known: readonly QueryName[]): Query {
    const values = new Map<string, string>();
    for (const [name, value] of queryEntries(request)) {
      if (!known.some((candidate) => candidate === name)) throw unknownParameter(name, known);
      if (typeof value !== 'string') throw invalid(name, `The query parameter ${name} is given twice.`);
      values.set(name, value);
    }
    return new Query(values);
  }

  /** Digits only: no sign, space, exponent or fraction. */
  integer(name: QueryName): number | null {
    const text = this.#values.get(name);
    if (text === undefined) return null;
    const rule: QueryParameter = QUERY_PARAMETERS[name];
    const value = Number(text);
    const min = rule.minimum ?? 0;
    const max = rule.maximum ?? Number.MAX_SAFE_INTEGER;
    if (!/^\d+$/.test(text) || value < min || value > max) {
      const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
      throw invalid(name, `The query parameter ${name} must be an integer ${range}, in digits.`);
    }
    return value;
  }

  limit(): number {
    return Math.min(this.integer('limit') ?? PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX);
  }

  has(name: QueryName): boolean {
    return this.#values.has(name);
  }

  /** As sent, percent-decoded; null when absent. */
  text(name: QueryName): string | null {
    return this.#values.get(name) ?? null;
  }

  /** The start of an id: what an id may hold, or nothing. */
  prefix(): string {
    const prefix = this.#values.get('prefix') ?? '';
    if (/\p{Cc}/u.test(prefix) || Buffer.byteLength(prefix) > CONTEXT_ID_BYTES_MAX) {
      throw invalid('prefix', `The query parameter prefix must be the start of a context id: at most ${CONTEXT_ID_BYTES_MAX} bytes without control characters.`);
    }
    return prefix;
  }

  status(): ContextStatus | null {
    const text = this.#values.get('status');
    if (text === undefined || text === 'active' || text === 'tombstoned') return text ?? null;
    throw invalid('status', 'The query parameter status must be active or tombstoned.');
  }

  boolean(name: QueryName): boolean {
    const text = this.#values.get(name);
    if (text === undefined || text === 'false') return false;
    if (text === 'true') return true;
    throw invalid(name, `The query parameter ${name} must be true or false.`);
  }

  /** Where a listing by version goes on: the version that next_cursor gave, 0 at the start. */
  versionCursor(): number {
    const text = this.text('cursor') ?? '0';
    const version = Number(text);
    if (!/^\d+$/.test(text) || !Number.isSafeInteger(version)) throw invalid('cursor', 'cursor must be a next_cursor as it was answered.');
    return version;
  }

  consistency(): Consistency {
    const text = this.#values.get('consistency');
    if (text === undefined || text === 'linearizable') return 'linearizable';
    if (text === 'stale') return 'stale';
    throw invalid('consistency', 'The query parameter consistency must be linearizable or stale.');
  }
}

/** Throws ApiError invalid_request if the request has any query parameter. */
export function refuseQuery(request: FastifyRequest): void {
  if (hasQuery(request)) Query.read(request, []);
}

function hasQuery(request: FastifyRequest): boolean {
  const query = request.query;
  if (typeof query !== 'object' || query === null) return false;
  for (const _name in query) return true;
  return false;
}

function queryEntries(request: FastifyRequest): [string, unknown][] {
  const query = request.query;
  return typeof query === 'object' && query !== null ? Object.entries(query) : [];
}

function unknownParameter(name: string, known: readonly QueryName[]): ApiError {
  const shown = name.length <= 80 ? name : `${name.slice(0, 80)}…`;
  const takes = known.length === 0 ? 'This call takes none.' : `This call takes: ${known.join(', ')}.`;
  return invalid(shown, `The query parameter ${JSON.stringify(shown)} is not known. ${takes}`);
}

function invalid(path: string, message: string): ApiError {
  return new ApiError('invalid_request', message, { path });
}
