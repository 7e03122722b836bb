/**
 * The API described for the OpenAPI document: one entry per operation; the shapes they name are components.ts.
 * Validation is done by the code that knows (input.ts, settings.ts, ingest/), because a client's bytes must be judged
 * without being re-encoded; a test holds the two together.
 */
import type { FastifySchema } from 'fastify';
import { ERROR_STATUS } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { CLAIM_TOKEN_BYTES, CLAIM_TTL_SECONDS_MAX } from '../contexts/claims.ts';
import { INPUT_TOKENS_MAX } from '../contexts/usage.ts';
import { MESSAGES_MAX } from '../ingest/messages.ts';
import { anyObject, calibration, closed, count, EXAMPLE_MESSAGE, instant } from './components.ts';
import type { Schema } from './components.ts';
import { QUERY_PARAMETERS } from './input.ts';
import type { QueryName } from './input.ts';

const MEANING: Readonly<Record<number, string>> = { 200: 'Done.', 201: 'Created.', 202: 'Under way.', 204: 'Done; no body.', 304: 'Not modified.', 503: 'Not ready.' };

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
  /** Of the path, where it is not a context's. */
  readonly params?: Schema;
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
const CLAIM_PATTERN = `^[0-9a-f]{${CLAIM_TOKEN_BYTES * 2}}$`;
const READ_ERRORS: readonly ErrorCode[] = ['invalid_request', 'invalid_context_id', 'unauthorized', 'context_not_found', 'rate_limited', 'raft_unavailable', 'timeout', 'internal'];
const WRITE_ERRORS: readonly ErrorCode[] = [...READ_ERRORS, 'invalid_json', 'context_tombstoned', 'context_purged', 'payload_too_large', 'unsupported_media_type', 'overloaded', 'read_only'];

const CHANGE_ERRORS: readonly ErrorCode[] = ['invalid_request', 'unauthorized', 'not_found', 'conflict', 'would_lose_quorum', 'rate_limited', 'overloaded', 'raft_unavailable', 'timeout', 'internal'];
const nodeParams = { type: 'object', required: ['node'], properties: { node: { type: 'string', minLength: 1 } } } as const;

/** Query parameters an operation takes: what `Query.read` is given and what the document shows. */
export const OPERATION_QUERY = {
  listContexts: ['limit', 'cursor', 'prefix', 'status', 'consistency'],
  getContext: ['consistency'],
  deleteContext: ['purge'],
  getTail: ['offset', 'limit', 'consistency'],
  getMessages: ['from_seq', 'to_seq', 'after_version', 'limit', 'consistency'],
  getWindow: ['for', 'budget_tokens', 'full', 'if_version', 'at_version', 'explain', 'from_seq', 'limit', 'consistency'],
  listCompactions: ['limit', 'cursor', 'consistency'],
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
    summary: 'Tombstone or erase a context',
    description: 'Reads go on, appends answer 409. Doing it again changes nothing. With purge the content is erased: there is no such context from then on, and 204 says that its last trace is gone.',
    query: OPERATION_QUERY.deleteContext,
    success: { 202: closed({ status: { type: 'string', enum: ['purging'] } }), 204: null },
    errors: [...READ_ERRORS, 'context_purged', 'overloaded'],
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
    description: 'With explain=true an account of it instead. explain and for exclude each other, as do at_version and if_version.',
    query: OPERATION_QUERY.getWindow,
    headers: { 'If-None-Match': { type: 'string', description: 'ETag of an earlier answer.' } },
    success: {
      200: { oneOf: [REFERENCE('Window'), REFERENCE('ProviderWindow'), REFERENCE('Explanation')] },
      304: null,
    },
    errors: [...READ_ERRORS, 'conflict', 'payload_too_large'],
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
          claim: { type: 'string', pattern: CLAIM_PATTERN, description: 'Under which the replacement was made; the compact ends it.' },
        },
        ['replacement'],
      ),
      examples: [{ replacement: [{ role: 'system', parts: [{ type: 'text', text: 'The customer asked about order 1042.' }] }], keep_from_seq: 41 }],
    },
    success: { 200: closed({ version: count }) },
    errors: [...WRITE_ERRORS, 'conflict', 'claim_held'],
  }),
  claimCompaction: describe({
    id: 'claimCompaction',
    summary: 'Claim the sole right to compact, for a while',
    description: 'Until the claim ends, compact answers 409 claim_held to everyone who does not show it. Appends go on.',
    body: {
      ...closed(
        {
          ttl_seconds: { type: 'integer', minimum: 0, maximum: CLAIM_TTL_SECONDS_MAX, description: '0, with the claim: gives it back.' },
          claim: { type: 'string', pattern: CLAIM_PATTERN, description: 'A claim that is held: to extend it. Or 32 random digits of your own, so that the call can be repeated.' },
        },
        ['ttl_seconds'],
      ),
      examples: [{ ttl_seconds: 120 }],
    },
    success: { 200: closed({ claim: { type: 'string', pattern: CLAIM_PATTERN }, expires_at: { ...instant, type: ['string', 'null'] } }) },
    errors: [...WRITE_ERRORS, 'claim_held'],
  }),
  listCompactions: describe({
    id: 'listCompactions',
    summary: 'What cut the window, oldest first',
    query: OPERATION_QUERY.listCompactions,
    success: { 200: closed({ compactions: { type: 'array', items: REFERENCE('Compaction') }, next_cursor: { type: ['string', 'null'] } }) },
    errors: READ_ERRORS,
  }),
  reportUsage: describe({
    id: 'reportUsage',
    summary: 'Calibrate the estimate by what the provider counted',
    body: {
      ...closed({
        version: { ...count, description: 'Of the window that was sent.' },
        input_tokens: { type: 'integer', minimum: 1, maximum: INPUT_TOKENS_MAX, description: 'As the provider reported them for that call.' },
      }),
      examples: [{ version: 83, input_tokens: 5120 }],
    },
    success: { 200: closed({ calibration, changed: { type: 'boolean' } }) },
    errors: WRITE_ERRORS,
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
    success: {
      200: {
        ...anyObject,
        properties: {
          cluster_id: { type: ['string', 'null'] },
          coordinator: { type: ['string', 'null'] },
          formats: { type: ['object', 'null'] },
          nodes: { type: 'array', items: anyObject },
          groups: { type: 'array', items: anyObject },
          moves: { type: 'array', items: anyObject, description: 'Replicas on their way into a group or out of it.' },
          damaged: { type: 'array', items: anyObject, description: 'Replicas that took themselves out and are to be replaced.' },
          waiting: { type: 'array', items: { type: 'string' }, description: 'What should be done and cannot be.' },
        },
      },
    },
    errors: ['invalid_request', 'unauthorized', 'rate_limited', 'raft_unavailable', 'internal'],
  }),
  drainNode: describe({
    id: 'drainNode',
    tag: 'cluster',
    params: nodeParams,
    summary: 'Move leaderships and replicas away from a node',
    description: 'GET /v1/cluster shows how far it is; a node that hosts nothing any more is `drained` and can be removed.',
    success: { 202: closed({ node: { type: 'string' }, state: { type: 'string' } }) },
    errors: CHANGE_ERRORS,
  }),
  undrainNode: describe({
    id: 'undrainNode',
    tag: 'cluster',
    params: nodeParams,
    summary: 'Let a draining node host groups again',
    success: { 200: closed({ node: { type: 'string' }, state: { type: 'string' } }) },
    errors: CHANGE_ERRORS,
  }),
  removeNode: describe({
    id: 'removeNode',
    tag: 'cluster',
    params: nodeParams,
    summary: 'Remove a drained node, or one that is down, for good',
    description: 'Its data directory can never return; its name can, with an empty one.',
    success: { 200: closed({ node: { type: 'string' }, state: { type: 'string' } }) },
    errors: CHANGE_ERRORS,
  }),
  transferGroup: describe({
    id: 'transferGroup',
    tag: 'cluster',
    params: { type: 'object', required: ['group'], properties: { group: { type: 'integer', minimum: 0 } } },
    summary: 'Hand a group to another leader',
    body: { ...closed({ to: { type: 'string', description: 'An active node with a voting replica of the group.' } }), examples: [{ to: 'node-2' }] },
    success: { 202: closed({ group: { type: 'integer' }, to: { type: 'string' } }) },
    errors: [...CHANGE_ERRORS, 'invalid_json', 'payload_too_large', 'unsupported_media_type'],
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
    ...(operation.params !== undefined ? { params: operation.params } : tag === 'contexts' && operation.byId !== false ? { params: pathParams } : {}),
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
