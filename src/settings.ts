/**
 * A context's settings as clients write them: the body of PUT and of PATCH metadata, checked and completed, and how new
 * settings meet the ones in force. Used by the HTTP layer (parse) and by the store (merge), so it belongs to neither.
 */
import { isUtf8 } from 'node:buffer';
import { ApiError } from './errors.ts';
import { DEFAULT_POLICY, DEFAULT_SKIP_KINDS, POLICY_LIMIT_MAX, SKIP_KINDS_MAX } from './contexts/policies.ts';
import { DEFAULT_CONFIG } from './contexts/put.ts';
import type { ContextConfig, Policy, Strategy } from './contexts/types.ts';
import type { PutSettings } from './http/ports.ts';
import { assertNumbersSurvive } from './ingest/metadata.ts';
import { invalidJson, JsonScanner } from './ingest/scanner.ts';
import { isKnownModel, KNOWN_MODELS } from './tokens/models.ts';

export const TOKEN_BUDGET_MAX = 100_000_000;
export const LIMIT_MAX = POLICY_LIMIT_MAX;
export { SKIP_KINDS_MAX };
/** As long as a part's type may be: a longer prefix could match nothing. */
export const SKIP_KIND_BYTES_MAX = 128;
export const METADATA_BYTES_MAX = 64 * 1024;
export const MODEL_BYTES_MAX = 128;
/** Ten years: what should live longer has no ttl. */
export const TTL_SECONDS_MAX = 315_360_000;
/** Body limit of PUT and PATCH: metadata, a generous policy and white space. */
export const SETTINGS_BODY_BYTES_MAX = 256 * 1024;

// The state machine completes a creation with its own defaults: what is checked here must be what is applied there.
export const DEFAULT_TOKEN_BUDGET = DEFAULT_CONFIG.tokenBudget;
export const DEFAULT_TRIGGER_RATIO = DEFAULT_CONFIG.triggerRatio;
export const DEFAULT_LIMIT = DEFAULT_POLICY.limit;
export const DEFAULT_TARGET_RATIO = DEFAULT_POLICY.targetRatio;
export { DEFAULT_SKIP_KINDS };

type JsonObject = Readonly<Record<string, unknown>>;

/** Settings each strategy understands in `policy.config`; anything else is refused by name. */
const POLICY_CONFIG: Readonly<Record<Strategy, readonly string[]>> = {
  last_n: ['limit', 'target_ratio', 'pin'],
  skip_parts: ['limit', 'skip_kinds', 'target_ratio', 'pin'],
  manual: ['pin'],
};

const PUT_FIELDS = ['token_budget', 'trigger_ratio', 'policy', 'metadata', 'model', 'ttl_seconds'] as const;
const PATCH_FIELDS = ['metadata'] as const;

/**
 * Validates the body of PUT /v1/contexts/:id. An empty body means `{}`: all defaults, or nothing to change.
 * Throws ApiError: invalid_json, invalid_request (with `path`), payload_too_large (depth).
 */
export function parsePut(body: Buffer, limits: { readonly depthMax: number }): PutSettings {
  if (body.length === 0) return {};
  const { fields, texts } = parseFields(body, PUT_FIELDS, limits.depthMax);
  const settings: {
    tokenBudget?: number;
    triggerRatio?: number;
    policy?: Policy;
    targetRatioGiven?: boolean;
    metadataText?: Uint8Array;
    model?: string;
    ttlSeconds?: number;
  } = {};
  const budget = fields['token_budget'];
  if (budget !== undefined) settings.tokenBudget = integer(budget, 'token_budget', 1, TOKEN_BUDGET_MAX);
  const trigger = fields['trigger_ratio'];
  if (trigger !== undefined) settings.triggerRatio = ratio(trigger, 'trigger_ratio');
  const policy = fields['policy'];
  if (policy !== undefined) {
    const parsed = parsePolicy(policy);
    settings.policy = parsed.policy;
    settings.targetRatioGiven = parsed.targetRatioGiven;
  }
  const model = fields['model'];
  if (model !== undefined) settings.model = modelName(model);
  const ttl = fields['ttl_seconds'];
  if (ttl !== undefined) settings.ttlSeconds = ttl === null ? 0 : integer(ttl, 'ttl_seconds', 1, TTL_SECONDS_MAX);
  const metadata = fields['metadata'];
  if (metadata !== undefined) {
    assertMetadata(metadata);
    const text = texts.get('metadata') ?? body.subarray(0, 0);
    assertMetadataFits(text.length);
    assertNumbersSurvive(text.toString('utf8'), 'metadata');
    // Copied: a view would keep the request's body alive as long as the context's cached config.
    settings.metadataText = Uint8Array.from(text);
  }
  if (settings.triggerRatio !== undefined && settings.policy !== undefined) {
    settings.policy = fitTarget(settings.policy, settings.triggerRatio, settings.targetRatioGiven === true);
  }
  return settings;
}

/**
 * Validates the body of PATCH /v1/contexts/:id/metadata; returns the merge patch.
 * Throws ApiError: invalid_json, invalid_request (with `path`), payload_too_large (depth).
 */
export function parseMetadataPatch(body: Buffer, limits: { readonly depthMax: number }): Record<string, unknown> {
  const { fields, texts } = parseFields(body, PATCH_FIELDS, limits.depthMax);
  const patch = fields['metadata'];
  if (patch === undefined) throw invalid('metadata', 'metadata is missing: send {"metadata":{…}}, where null removes a key.');
  assertMetadata(patch);
  assertNumbersSurvive((texts.get('metadata') ?? Buffer.alloc(0)).toString('utf8'), 'metadata');
  return { ...patch };
}

/**
 * What a context's settings become when `settings` are put over those in force (null: the context is being created).
 * A target_ratio that this call does not name follows trigger_ratio down; one that it names must fit.
 * Throws ApiError invalid_request when the settings named do not fit together.
 */
export function mergeSettings(current: ContextConfig | null, settings: PutSettings): ContextConfig {
  const before = current ?? DEFAULT_CONFIG;
  const triggerRatio = settings.triggerRatio ?? before.triggerRatio;
  return {
    tokenBudget: settings.tokenBudget ?? before.tokenBudget,
    triggerRatio,
    policy: fitTarget(settings.policy ?? before.policy, triggerRatio, settings.policy !== undefined && settings.targetRatioGiven === true),
    metadataText: settings.metadataText ?? before.metadataText,
    model: settings.model ?? before.model,
    ttlSeconds: settings.ttlSeconds ?? before.ttlSeconds,
  };
}

/**
 * JSON merge patch (RFC 7396) of a context's metadata, given and returned as JSON object text. Keys are copied as own
 * properties, so that a key named __proto__ is data like any other.
 * Throws ApiError payload_too_large when the result is larger than metadata may be.
 */
export function patchMetadataText(current: Uint8Array, patch: Readonly<Record<string, unknown>>): Buffer {
  const target: unknown = JSON.parse(Buffer.from(current.buffer, current.byteOffset, current.byteLength).toString('utf8'));
  const text = Buffer.from(JSON.stringify(mergePatch(target, patch)));
  assertMetadataFits(text.length);
  return text;
}

function parsePolicy(value: unknown): { policy: Policy; targetRatioGiven: boolean } {
  if (!isObject(value)) throw invalid('policy', 'policy must be an object: {"strategy":"last_n","config":{"limit":400}}.');
  refuseUnknown(value, ['strategy', 'config'], 'policy');
  const strategy = value['strategy'];
  if (strategy !== 'last_n' && strategy !== 'skip_parts' && strategy !== 'manual') {
    throw invalid('policy.strategy', 'policy.strategy must be one of last_n, skip_parts, manual.');
  }
  const config = value['config'] ?? {};
  if (!isObject(config)) throw invalid('policy.config', 'policy.config must be an object.');
  refuseUnknown(config, POLICY_CONFIG[strategy], 'policy.config');
  const limit = config['limit'];
  const kinds = config['skip_kinds'];
  const target = config['target_ratio'];
  const pin = config['pin'];
  if (pin !== undefined && typeof pin !== 'boolean') throw invalid('policy.config.pin', 'policy.config.pin must be true or false.');
  return {
    policy: {
      strategy,
      limit: limit === undefined ? DEFAULT_LIMIT : integer(limit, 'policy.config.limit', 1, LIMIT_MAX),
      skipKinds: strategy !== 'skip_parts' ? [] : kinds === undefined ? DEFAULT_SKIP_KINDS : skipKinds(kinds),
      targetRatio: target === undefined ? DEFAULT_TARGET_RATIO : ratio(target, 'policy.config.target_ratio'),
      pin: pin ?? true,
    },
    targetRatioGiven: target !== undefined,
  };
}

function fitTarget(policy: Policy, triggerRatio: number, given: boolean): Policy {
  if (policy.targetRatio <= triggerRatio) return policy;
  if (given) {
    throw invalid('policy.config.target_ratio', `policy.config.target_ratio (${policy.targetRatio}) must not exceed trigger_ratio (${triggerRatio}).`);
  }
  return { ...policy, targetRatio: triggerRatio };
}

function skipKinds(value: unknown): string[] {
  const path = 'policy.config.skip_kinds';
  if (!Array.isArray(value) || value.length < 1 || value.length > SKIP_KINDS_MAX) {
    throw invalid(path, `${path} must be a list of 1 to ${SKIP_KINDS_MAX} part type prefixes.`);
  }
  return value.map((kind: unknown, at) => {
    if (typeof kind !== 'string' || kind === '' || !kind.isWellFormed() || Buffer.byteLength(kind) > SKIP_KIND_BYTES_MAX) {
      throw invalid(`${path}[${at}]`, `${path}[${at}] must be a non-empty string of at most ${SKIP_KIND_BYTES_MAX} bytes.`);
    }
    return kind;
  });
}

/** The bound keeps the row of settings small; a fine-tuned model's name is the client's own. */
function modelName(value: unknown): string {
  if (typeof value === 'string' && value.length <= MODEL_BYTES_MAX && isKnownModel(value)) return value;
  const given = typeof value === 'string' ? `model ${JSON.stringify(shown(value))} is not known.` : 'model must be a string.';
  const other = 'For a model of another vendor name an encoding, such as o200k_base, and calibrate with POST …/usage.';
  throw invalid('model', `${given} Known are: ${KNOWN_MODELS.join(', ')}. ${other}`);
}

/**
 * The values of the body's fields and the bytes each was written with; unknown and repeated fields are refused.
 * Throws ApiError: invalid_json, invalid_request (with `path`), payload_too_large (depth).
 */
export function parseFields(body: Buffer, known: readonly string[], depthMax: number): { fields: JsonObject; texts: ReadonlyMap<string, Buffer> } {
  if (body.length === 0) throw invalidJson('it is empty');
  if (!isUtf8(body)) throw invalidJson('it is not UTF-8');
  if (body[0] === 0xef) throw invalidJson('it starts with a byte order mark');
  const texts = new Map<string, Buffer>();
  let repeated: string | null = null;
  const scanner = new JsonScanner(body, depthMax);
  if (scanner.peekIsObject()) {
    scanner.open();
    while (scanner.nextMember()) {
      const key = scanner.key();
      const start = scanner.position;
      scanner.skipValue();
      if (texts.has(key)) repeated ??= key;
      texts.set(key, body.subarray(start, scanner.position));
    }
  } else {
    scanner.skipValue();
  }
  scanner.end();
  let fields: unknown;
  try {
    fields = JSON.parse(body.toString('utf8'));
  } catch (error) {
    throw invalidJson(error instanceof Error ? error.message : 'it does not parse');
  }
  if (!isObject(fields)) throw invalid('', 'The body must be a JSON object.');
  if (repeated !== null) throw invalid(repeated, `${shown(repeated)} is given twice.`);
  refuseUnknown(fields, known, '');
  return { fields, texts };
}

function refuseUnknown(value: JsonObject, known: readonly string[], path: string): void {
  for (const key of Object.keys(value)) {
    if (known.includes(key)) continue;
    const where = path === '' ? key : `${path}.${key}`;
    throw invalid(where, `${shown(where)} is not a known field. Known here: ${known.join(', ')}.`);
  }
}

function assertMetadata(value: unknown): asserts value is JsonObject {
  if (!isObject(value)) throw invalid('metadata', 'metadata must be a JSON object.');
}

function assertMetadataFits(bytes: number): void {
  if (bytes > METADATA_BYTES_MAX) {
    throw new ApiError('payload_too_large', `metadata would be ${bytes} bytes; at most ${METADATA_BYTES_MAX} are allowed.`, { path: 'metadata' });
  }
}

/** Throws ApiError invalid_request for anything but an integer from `min` to `max`. */
export function integer(value: unknown, path: string, min: number, max: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    throw invalid(path, `${path} must be an integer from ${min} to ${max}.`);
  }
  return value;
}

function ratio(value: unknown, path: string): number {
  if (typeof value !== 'number' || !(value > 0) || value > 1) throw invalid(path, `${path} must be a number above 0 and at most 1.`);
  return value;
}

function mergePatch(target: unknown, patch: JsonObject): JsonObject {
  const merged = new Map<string, unknown>(isObject(target) ? Object.entries(target) : []);
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) merged.delete(key);
    else merged.set(key, isObject(value) ? mergePatch(merged.get(key), value) : value);
  }
  // fromEntries defines own properties, unlike assignment, which would run the __proto__ setter.
  return Object.fromEntries(merged);
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A client's own words, short enough to repeat in a message. */
function shown(text: string): string {
  return text.length <= 80 ? text : `${text.slice(0, 80)}…`;
}

function invalid(path: string, message: string): ApiError {
  return new ApiError('invalid_request', message, { path: shown(path) });
}
