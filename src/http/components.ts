/**
 * The named shapes of the OpenAPI document (`#/components/schemas/…`) and the words they are made of. Operations are
 * schemas.ts.
 */
import { ERROR_STATUS } from '../errors.ts';
import { ID_BYTES_MAX, PART_TYPE_BYTES_MAX, PARTS_MAX, ROLE_BYTES_MAX, TOKEN_COUNT_MAX } from '../ingest/messages.ts';
import {
  DEFAULT_LIMIT,
  DEFAULT_TARGET_RATIO,
  DEFAULT_TOKEN_BUDGET,
  DEFAULT_TRIGGER_RATIO,
  LIMIT_MAX,
  MODEL_BYTES_MAX,
  SKIP_KINDS_MAX,
  TOKEN_BUDGET_MAX,
  TTL_SECONDS_MAX,
} from '../settings.ts';
import { KNOWN_MODEL_PATTERN } from '../tokens/models.ts';

export type Schema = Readonly<Record<string, unknown>>;

export const count = { type: 'integer', minimum: 0 } as const;
const ratio = { type: 'number', exclusiveMinimum: 0, maximum: 1 } as const;
export const flag = { type: 'boolean' } as const;
const text = { type: 'string', minLength: 1 } as const;
export const anyObject = { type: 'object', additionalProperties: true } as const;
export const instant = { type: 'string', format: 'date-time', description: 'RFC 3339, UTC, milliseconds.' } as const;

export const calibration = { type: 'number', description: 'What a counted token costs at the provider; 1 before the first report.' } as const;

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

/** An object of these fields and no others. */
export function closed(properties: Schema, required: readonly string[] = Object.keys(properties)): Schema {
  return { type: 'object', additionalProperties: false, properties, required };
}

const part = { type: 'object', properties: { type: { type: 'string', maxLength: PART_TYPE_BYTES_MAX } }, required: ['type'], additionalProperties: true } as const;

export const EXAMPLE_MESSAGE = { role: 'user', parts: [{ type: 'text', text: 'Where is my order?' }] };
const EXAMPLE_STORED = { seq: 1, version: 1, ...EXAMPLE_MESSAGE, token_count: 5, metadata: {}, inserted_at: '2026-01-05T09:30:00.000Z' };
const EXAMPLE_POLICY = { strategy: 'last_n', config: { limit: DEFAULT_LIMIT, target_ratio: DEFAULT_TARGET_RATIO, pin: true } };

const windowHead = { version: count, config_revision: count } as const;
const windowRest = {
  used_tokens: count,
  needs_compaction: flag,
  token_budget: count,
  segments: { type: 'array', items: closed({ type: { type: 'string', enum: ['summary', 'live'] }, from_seq: count, to_seq: count }) },
  truncated: flag,
  over_budget: flag,
  prefix_hash: { type: 'string' },
  stable_since_version: count,
} as const;
const sum = closed({ messages: count, tokens: count });

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
      expires_at: { ...instant, description: 'claim_held: when the claim ends.' },
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
        model: { type: 'string', maxLength: MODEL_BYTES_MAX, pattern: KNOWN_MODEL_PATTERN, description: "Whose tokenizer counts; the server's default when absent." },
        ttl_seconds: { type: ['integer', 'null'], minimum: 1, maximum: TTL_SECONDS_MAX, description: 'The context is erased this long after its last write; null: never.' },
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
      ttl_seconds: { type: ['integer', 'null'] },
      version: count,
      config_revision: count,
      last_seq: count,
      archived_seq: count,
      trimmed_seq: count,
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
  { $id: 'Window', ...closed({ ...windowHead, messages: { type: 'array', items: { $ref: 'Message#' } }, ...windowRest }), additionalProperties: true },
  {
    $id: 'ProviderWindow',
    ...closed({ ...windowHead, system: { description: 'Where the provider takes it apart from the messages.' }, messages: { type: 'array', items: anyObject }, ...windowRest, overhead_tokens: count }, ['version', 'messages', 'overhead_tokens']),
    additionalProperties: true,
    description: "for=…: as Window, with the messages as that provider's request takes them.",
  },
  {
    $id: 'Explanation',
    ...closed({
      ...windowHead,
      messages: {
        type: 'array',
        items: closed({
          seq: count,
          version: { ...count, description: 'That added the message.' },
          state: { type: 'string', enum: ['in', 'stripped', 'dropped', 'summarised'] },
          rule: { type: ['string', 'null'], enum: ['compact', 'last_n', 'skip_parts', 'late_result', 'bounds', 'budget', null] },
          at_version: { type: ['integer', 'null'], description: 'At which the rule took effect.' },
          token_count: count,
          tokens_shown: count,
          parts_taken: { type: 'array', items: closed({ index: count, type: { type: 'string' }, tokens: count }) },
        }),
      },
      next_seq: { type: ['integer', 'null'] },
      arithmetic: closed({
        token_budget: count,
        budget: count,
        calibration,
        trigger_tokens: count,
        target_tokens: { type: 'number' },
        stored: sum,
        left_out: sum,
        replacement: sum,
        pinned: sum,
        rest: sum,
        sum,
        used_tokens: count,
      }),
    }),
    description: 'explain=true: what became of each message, and the sums.',
  },
  {
    $id: 'Compaction',
    ...closed({
      version: count,
      rule: { type: 'string', enum: ['compact', 'last_n', 'skip_parts', 'late_result', 'bounds'] },
      config_revision: count,
      made_at: instant,
      from_seq: count,
      to_seq: count,
      late_seqs: { type: 'array', items: count },
      replacement_messages: count,
      before: sum,
      after: sum,
    }),
    additionalProperties: true,
  },
  { $id: 'Appended', ...closed({ seq: count, version: count, token_estimate: count }), examples: [{ seq: 1, version: 1, token_estimate: 5 }] },
];
