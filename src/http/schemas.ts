/**
 * The API described for the OpenAPI document: components, and one entry per operation. Validation is done by the code
 * that knows (input.ts, settings.ts, ingest/), because a client's bytes must be judged without being re-encoded; a test
 * holds the two together.
 */
import type { FastifySchema } from 'fastify';
import { ERROR_STATUS } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { ID_BYTES_MAX, MESSAGES_MAX, PART_TYPE_BYTES_MAX, PARTS_MAX, ROLE_BYTES_MAX, TOKEN_COUNT_MAX } from '../ingest/messages.ts';
import {
  DEFAULT_LIMIT,
  DEFAULT_TARGET_RATIO,
  DEFAULT_TOKEN_BUDGET,
  DEFAULT_TRIGGER_RATIO,
  LIMIT_MAX,
  SKIP_KINDS_MAX,
  TOKEN_BUDGET_MAX,
} from '../settings.ts';
import { QUERY_PARAMETERS } from './input.ts';
import type { QueryName } from './input.ts';

type Schema = Readonly<Record<string, unknown>>;

const count = { type: 'integer', minimum: 0 } as const;
const ratio = { type: 'number', exclusiveMinimum: 0, maximum: 1 } as const;
const flag = { type: 'boolean' } as const;
const text = { type: 'string', minLength: 1 } as const;
const anyObject = { type: 'object', additionalProperties: true } as const;
const instant = { type: 'string', format: 'date-time', description: 'RFC 3339, UTC, milliseconds.' } as const;

const targetRatio = {
  target_ratio: { ...ratio, default: DEFAULT_TARGET_RATIO, description: 'Share of token_budget that a compaction cuts to; at most trigger_ratio.' },
} as const;
const pin = {
  pin: { ...flag, default: true, description: 'Keep leading system messages and a replacement until everything else is gone.' },
} as const;
const limit = { type: 'integer', minimum: 1, maximum: LIMIT_MAX, default: DEFAULT_LIMIT } as const;
const skipKinds = { type: 'array', minItems: 1, maxItems: SKIP_KINDS_MAX, items: text, default: ['tool', 'reasoning'] } as const;

function policy(strategy: string, config: Schema): Schema {
  return closed({ strategy: { type: 'string', enum: [strategy] }, config: closed({ ...config, ...pin }, []) }, ['strategy']);
}

function closed(properties: Schema, required: readonly string[] = Object.keys(properties)): Schema {
  return { type: 'object', additionalProperties: false, properties, required };
}

const part = { type: 'object', properties: { type: { type: 'string', maxLength: PART_TYPE_BYTES_MAX } }, required: ['type'], additionalProperties: true } as const;

const EXAMPLE_MESSAGE = { role: 'user', parts: [{ type: 'text', text: 'Where is my order?' }] };
const EXAMPLE_STORED = { seq: 1, version: 1, ...EXAMPLE_MESSAGE, token_count: 5, metadata: {}, inserted_at: '2026-01-05T09:30:00.000Z' };
const EXAMPLE_POLICY = { strategy: 'last_n', config: { limit: DEFAULT_LIMIT, target_ratio: DEFAULT_TARGET_RATIO, pin: true } };

/** Named shapes: `#/components/schemas/…`. */
export const COMPONENTS: readonly (Schema & { readonly $id: string })[] = [
  {
    $id: 'Error',
    type: 'object',
    additionalProperties: true,
    required: ['error', 'message'],
    properties: {
      error: { type: 'string', enum: Object.keys(ERROR_STATUS) },
      message: { type: 'string', description: 'What was wrong and what to do.' },
      path: { type: 'string', description: 'The field, parameter or header at fault.' },
      expected: { ...count, description: 'conflict: the version the call named.' },
      found: { ...count, description: 'conflict: the version the context has.' },
      outcome: { type: 'string', enum: ['unknown', 'not_applied'], description: 'Whether a write that failed may have been applied.' },
    },
    examples: [{ error: 'conflict', message: 'Context version changed (expected 83, found 84)', expected: 83, found: 84 }],
  },
  {
    $id: 'Policy',
    oneOf: [policy('last_n', { limit, ...targetRatio }), policy('skip_parts', { limit, skip_kinds: skipKinds, ...targetRatio }), policy('manual', {})],
    examples: [EXAMPLE_POLICY],
  },
  {
    $id: 'Settings',
    ...closed(
      {
        token_budget: { type: 'integer', minimum: 1, maximum: TOKEN_BUDGET_MAX, description: `${DEFAULT_TOKEN_BUDGET} when creating without.` },
        trigger_ratio: { ...ratio, description: `${DEFAULT_TRIGGER_RATIO} when creating without.` },
        policy: { $ref: 'Policy#' },
        metadata: anyObject,
        model: { type: 'string', pattern: '^[\\x21-\\x7e]{1,128}$', description: "Whose tokenizer counts; the server's default when absent." },
      },
      [],
    ),
    examples: [{ token_budget: 8000, metadata: { user: 'u-17' } }],
  },
  {
    $id: 'Context',
    ...closed({
      id: { type: 'string' },
      status: { type: 'string', enum: ['active', 'tombstoned'] },
      token_budget: count,
      trigger_ratio: ratio,
      policy: { type: 'object', properties: { strategy: { type: 'string' }, config: anyObject }, required: ['strategy', 'config'] },
      model: { type: ['string', 'null'] },
      metadata: anyObject,
      version: count,
      config_revision: count,
      last_seq: count,
      archived_seq: count,
      used_tokens: count,
      needs_compaction: flag,
      created_at: instant,
      updated_at: instant,
    }),
    additionalProperties: true,
  },
  {
    $id: 'NewMessage',
    ...closed(
      {
        role: { type: 'string', minLength: 1, maxLength: ROLE_BYTES_MAX },
        parts: { type: 'array', maxItems: PARTS_MAX, items: part },
        metadata: anyObject,
        token_count: { ...count, maximum: TOKEN_COUNT_MAX, description: 'Used verbatim in place of an estimate.' },
        id: { type: 'string', maxLength: ID_BYTES_MAX, description: "The client's own id." },
        seq: { description: 'Ignored.' },
        version: { description: 'Ignored.' },
        inserted_at: { description: 'Ignored.' },
      },
      ['role', 'parts'],
    ),
    examples: [EXAMPLE_MESSAGE],
  },
  {
    $id: 'Message',
    ...closed(
      {
        seq: count,
        version: count,
        id: { type: 'string' },
        role: { type: 'string' },
        parts: { type: 'array', items: part },
        token_count: count,
        metadata: anyObject,
        inserted_at: instant,
      },
      ['role', 'parts', 'token_count', 'metadata', 'inserted_at'],
    ),
    additionalProperties: true,
    examples: [EXAMPLE_STORED],
  },
  { $id: 'Appended', ...closed({ seq: count, version: count, token_estimate: count }), examples: [{ seq: 1, version: 1, token_estimate: 5 }] },
];

const MEANING: Readonly<Record<number, string>> = { 200: 'Done.', 201: 'Created.', 204: 'Done; no body.', 304: 'Not modified.', 503: 'Not ready.' };

/** Context operations take the id in the path. */
const pathParams = {
  type: 'object',
  required: ['id'],
  properties: { id: { type: 'string', minLength: 1, description: 'Context id: 1 to 256 bytes of UTF-8 without control characters, percent-encoded.' } },
} as const;

interface Operation {
  readonly id: string;
  readonly summary: string;
  readonly description?: string;
  readonly tag?: 'contexts' | 'cluster' | 'node';
  /** False: under /contexts, but of no one context. */
  readonly byId?: boolean;
  readonly query?: readonly QueryName[];
  readonly headers?: Schema;
  readonly body?: Schema;
  readonly success: Readonly<Record<number, Schema | null>>;
  /** What a line of the 200 answer as application/x-ndjson is. */
  readonly lines?: Schema;
  readonly errors: readonly ErrorCode[];
}

const REFERENCE = (name: string): Schema => ({ $ref: `${name}#` });
const READ_ERRORS: readonly ErrorCode[] = ['invalid_request', 'invalid_context_id', 'unauthorized', 'context_not_found', 'rate_limited', 'raft_unavailable', 'timeout', 'internal'];
const WRITE_ERRORS: readonly ErrorCode[] = [...READ_ERRORS, 'invalid_json', 'context_tombstoned', 'payload_too_large', 'unsupported_media_type', 'overloaded', 'read_only'];

/** Query parameters an operation takes: what `Query.read` is given and what the document shows. */
export const OPERATION_QUERY = {
  listContexts: ['limit', 'cursor', 'prefix', 'status', 'consistency'],
  getContext: ['consistency'],
  getTail: ['offset', 'limit', 'consistency'],
  getMessages: ['from_seq', 'to_seq', 'after_version', 'limit', 'consistency'],
  getWindow: ['budget_tokens', 'if_version', 'full', 'consistency'],
} as const satisfies Readonly<Record<string, readonly QueryName[]>>;

/** Every operation; routes.ts mounts each under the name it has here. */
export const OPERATIONS = {
  listContexts: describe({
    id: 'listContexts',
    summary: 'Contexts in id order, page by page',
    description: 'No page skips or repeats a context that was there throughout. A page may hold fewer than limit, even none, and still have a next.',
    byId: false,
    query: OPERATION_QUERY.listContexts,
    success: { 200: closed({ contexts: { type: 'array', items: REFERENCE('Context') }, next_cursor: { type: ['string', 'null'] } }) },
    errors: ['invalid_request', 'unauthorized', 'rate_limited', 'overloaded', 'raft_unavailable', 'internal'],
  }),
  putContext: describe({
    id: 'putContext',
    summary: 'Create or update a context',
    description: 'On update, what is absent stays as it is. A target_ratio that the call does not name follows trigger_ratio down.',
    body: REFERENCE('Settings'),
    success: { 200: REFERENCE('Context'), 201: REFERENCE('Context') },
    errors: WRITE_ERRORS,
  }),
  getContext: describe({ id: 'getContext', summary: 'Read a context', query: OPERATION_QUERY.getContext, success: { 200: REFERENCE('Context') }, errors: READ_ERRORS }),
  deleteContext: describe({
    id: 'deleteContext',
    summary: 'Tombstone a context',
    description: 'Reads go on, appends answer 409. Doing it again changes nothing.',
    success: { 204: null },
    errors: [...READ_ERRORS, 'overloaded'],
  }),
  appendMessages: describe({
    id: 'appendMessages',
    summary: 'Append one message or many',
    description: 'Answered once the entry is synced on a majority of its group. A list is appended whole or not at all.',
    headers: { 'Idempotency-Key': { type: 'string', maxLength: 200, description: 'Visible ASCII. The same key with the same body replays the first answer.' } },
    body: {
      oneOf: [
        closed({ message: REFERENCE('NewMessage'), if_version: count }, ['message']),
        closed({ messages: { type: 'array', minItems: 1, maxItems: MESSAGES_MAX, items: REFERENCE('NewMessage') }, if_version: count }, ['messages']),
      ],
      examples: [{ message: EXAMPLE_MESSAGE }, { messages: [EXAMPLE_MESSAGE], if_version: 0 }],
    },
    success: { 201: { oneOf: [REFERENCE('Appended'), closed({ messages: { type: 'array', items: REFERENCE('Appended') }, version: count })] } },
    errors: [...WRITE_ERRORS, 'conflict', 'idempotency_conflict'],
  }),
  getTail: describe({
    id: 'getTail',
    summary: 'The newest messages, oldest first',
    query: OPERATION_QUERY.getTail,
    success: { 200: closed({ messages: { type: 'array', items: REFERENCE('Message') } }) },
    errors: [...READ_ERRORS, 'payload_too_large'],
  }),
  getMessages: describe({
    id: 'getMessages',
    summary: 'Messages by seq',
    description: 'With Accept: application/x-ndjson the whole range, one message a line; limit is then not taken. An answer that is cut off ends without the last chunk.',
    query: OPERATION_QUERY.getMessages,
    success: { 200: closed({ messages: { type: 'array', items: REFERENCE('Message') }, version: count, next_seq: { type: ['integer', 'null'] } }) },
    lines: REFERENCE('Message'),
    errors: [...READ_ERRORS, 'overloaded'],
  }),
  getWindow: describe({
    id: 'getWindow',
    summary: 'The LLM window: what to send to the model',
    query: OPERATION_QUERY.getWindow,
    headers: { 'If-None-Match': { type: 'string', description: 'ETag of an earlier answer.' } },
    success: {
      200: {
        ...closed({
          version: count,
          config_revision: count,
          messages: { type: 'array', items: REFERENCE('Message') },
          used_tokens: count,
          needs_compaction: flag,
          token_budget: count,
          segments: { type: 'array', items: closed({ type: { type: 'string', enum: ['summary', 'live'] }, from_seq: count, to_seq: count }) },
          truncated: flag,
          over_budget: flag,
          prefix_hash: { type: 'string' },
          stable_since_version: count,
        }),
        additionalProperties: true,
      },
      304: null,
    },
    errors: [...READ_ERRORS, 'conflict'],
  }),
  compact: describe({
    id: 'compact',
    summary: 'Replace the LLM window',
    description: 'The message log is untouched.',
    body: {
      ...closed(
        {
          replacement: { type: 'array', maxItems: MESSAGES_MAX, items: REFERENCE('NewMessage') },
          if_version: count,
          keep_from_seq: { type: 'integer', minimum: 1, description: 'Live messages from here on stay behind the replacement; moved back rather than split a unit.' },
        },
        ['replacement'],
      ),
      examples: [{ replacement: [{ role: 'system', parts: [{ type: 'text', text: 'The customer asked about order 1042.' }] }], keep_from_seq: 41 }],
    },
    success: { 200: closed({ version: count }) },
    errors: [...WRITE_ERRORS, 'conflict'],
  }),
  patchMetadata: describe({
    id: 'patchMetadata',
    summary: 'Change metadata by JSON merge patch (RFC 7396)',
    body: { ...closed({ metadata: anyObject }), examples: [{ metadata: { topic: 'delivery', draft: null } }] },
    success: { 200: REFERENCE('Context') },
    errors: WRITE_ERRORS,
  }),
  getCluster: describe({
    id: 'getCluster',
    tag: 'cluster',
    summary: 'Nodes and groups as this node sees them',
    success: { 200: { ...anyObject, properties: { cluster_id: { type: 'string' }, coordinator: { type: ['string', 'null'] }, nodes: { type: 'array' }, groups: { type: 'array' } } } },
    errors: ['invalid_request', 'unauthorized', 'rate_limited', 'raft_unavailable', 'internal'],
  }),
  live: describe({ id: 'live', tag: 'node', summary: 'The process answers', success: { 200: closed({ status: { type: 'string' } }) }, errors: [] }),
  ready: describe({
    id: 'ready',
    tag: 'node',
    summary: 'The node serves',
    success: {
      200: closed({ status: { type: 'string' } }),
      503: closed({ status: { type: 'string', examples: ['starting'] }, reason: { type: ['string', 'null'] } }),
    },
    errors: [],
  }),
  ping: describe({ id: 'ping', tag: 'node', summary: 'Same as live', success: { 200: closed({ status: { type: 'string' } }) }, errors: [] }),
  metrics: {
    ...describe({ id: 'metrics', tag: 'node', summary: 'Prometheus metrics', success: {}, errors: ['unauthorized'] }),
    response: {
      200: { description: 'Text exposition format.', content: { 'text/plain': { schema: { type: 'string' } } } },
      ...errorResponses(['unauthorized']),
    },
  },
} as const satisfies Readonly<Record<string, FastifySchema>>;

function describe(operation: Operation): FastifySchema {
  const tag = operation.tag ?? 'contexts';
  const query = operation.query ?? [];
  return {
    operationId: operation.id,
    summary: operation.summary,
    ...(operation.description === undefined ? {} : { description: operation.description }),
    tags: [tag],
    ...(tag === 'contexts' && operation.byId !== false ? { params: pathParams } : {}),
    ...(query.length === 0 ? {} : { querystring: closed(Object.fromEntries(query.map((name) => [name, QUERY_PARAMETERS[name]])), []) }),
    ...(operation.headers === undefined ? {} : { headers: { type: 'object', properties: operation.headers } }),
    ...(operation.body === undefined ? {} : { body: operation.body }),
    response: { ...successResponses(operation.success, operation.lines), ...errorResponses(operation.errors) },
  };
}

function successResponses(success: Readonly<Record<number, Schema | null>>, lines: Schema | undefined): Record<string, Schema> {
  return Object.fromEntries(
    Object.entries(success).map(([status, schema]) => {
      const description = MEANING[Number(status)] ?? '';
      if (schema === null) return [status, { description, type: 'null' }];
      const asLines = lines === undefined ? {} : { 'application/x-ndjson': { schema: lines } };
      return [status, { description, content: { 'application/json': { schema }, ...asLines } }];
    }),
  );
}

/** One response per status, naming the codes that answer with it. */
function errorResponses(codes: readonly ErrorCode[]): Record<string, Schema> {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of codes) byStatus.set(ERROR_STATUS[code], [...(byStatus.get(ERROR_STATUS[code]) ?? []), code]);
  return Object.fromEntries(
    [...byStatus].map(([status, list]) => [
      status,
      { description: list.map((code) => `\`${code}\``).join(', '), content: { 'application/json': { schema: REFERENCE('Error') } } },
    ]),
  );
}
