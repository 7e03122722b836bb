/**
 * Policies: their limits, their bytes, and the two questions a window asks of them: is compaction due, and down to
 * what does it cut. Ratios are doubles; the few operations on them are those of IEEE 754 and so the same everywhere.
 */
import type { Reader, Writer } from './bytes.ts';
import { KIND_UNITS_MAX } from './parts.ts';
import type { ContextConfig, Policy, Strategy } from './types.ts';

/** Largest `limit` of a policy: a cut reads the whole window inside one step. */
export const POLICY_LIMIT_MAX = 10_000;
/** Most entries of `skip_kinds`, each at most KIND_UNITS_MAX long. */
export const SKIP_KINDS_MAX = 32;
export const TOKEN_BUDGET_MAX = 1_000_000_000;
/** Ten years. */
export const TTL_SECONDS_MAX = 315_360_000;

export const DEFAULT_POLICY: Policy = { strategy: 'last_n', limit: 400, skipKinds: [], targetRatio: 0.5, pin: true };
/** What `skip_parts` takes out when its config names no `skip_kinds`. */
export const DEFAULT_SKIP_KINDS: readonly string[] = ['tool', 'reasoning'];

const STRATEGIES: readonly Strategy[] = ['last_n', 'skip_parts', 'manual'];

export function writePolicy(writer: Writer, policy: Policy): void {
  writer.byte(STRATEGIES.indexOf(policy.strategy) | (policy.pin ? 8 : 0));
  writer.uint(policy.limit);
  writer.double(policy.targetRatio);
  writer.uint(policy.skipKinds.length);
  for (const kind of policy.skipKinds) writer.string(kind);
}

export function readPolicy(reader: Reader): Policy {
  const head = reader.byte();
  const strategy = STRATEGIES[head & 7] ?? 'manual';
  const limit = reader.uint();
  const targetRatio = reader.double();
  const count = reader.count();
  const skipKinds: string[] = [];
  for (let i = 0; i < count && reader.ok; i++) skipKinds.push(reader.string());
  return { strategy, limit, skipKinds, targetRatio, pin: (head & 8) !== 0 };
}

/** The last check before settings become state: the edge has said no already, in better words. */
export function validSettings(settings: Partial<ContextConfig>): boolean {
  const { tokenBudget, triggerRatio, policy, ttlSeconds } = settings;
  if (tokenBudget !== undefined && !integerWithin(tokenBudget, 1, TOKEN_BUDGET_MAX)) return false;
  if (triggerRatio !== undefined && !isRatio(triggerRatio)) return false;
  if (ttlSeconds !== undefined && !integerWithin(ttlSeconds, 0, TTL_SECONDS_MAX)) return false;
  return policy === undefined || validPolicy(policy);
}

function validPolicy(policy: Policy): boolean {
  if (!isRatio(policy.targetRatio) || policy.skipKinds.length > SKIP_KINDS_MAX) return false;
  for (const kind of policy.skipKinds) if (kind === '' || kind.length > KIND_UNITS_MAX) return false;
  return policy.strategy === 'manual' || integerWithin(policy.limit, 1, POLICY_LIMIT_MAX);
}

function integerWithin(value: number, low: number, high: number): boolean {
  return Number.isSafeInteger(value) && value >= low && value <= high;
}

/** NaN is no ratio. */
function isRatio(value: number): boolean {
  return value > 0 && value <= 1;
}

/** Calibration of a context whose tokens cost what was counted; see usage.ts. */
export const CALIBRATION_ONE = 1024;

/** What `tokens` counted ones cost. */
export function usedTokens(tokens: number, calibration: number): number {
  return Math.ceil((tokens * calibration) / CALIBRATION_ONE);
}

/** Counted tokens that cost `budget`: a sum of counts is within the one exactly when its cost is within the other. */
export function countedBudget(budget: number, calibration: number): number {
  return (budget * CALIBRATION_ONE) / calibration;
}

/** The settings that say when and how far a window is cut. */
export type Limits = Pick<ContextConfig, 'tokenBudget' | 'triggerRatio' | 'policy'>;

/** Counted tokens above which compaction is due and `needs_compaction` is true. */
export function triggerTokens(limits: Limits, calibration: number): number {
  return countedBudget(limits.tokenBudget * limits.triggerRatio, calibration);
}

/** Whether an append that leaves the window like this must run the policy. */
export function compactionDue(limits: Limits, window: { readonly tokens: number; readonly count: number }, calibration: number): boolean {
  if (limits.policy.strategy === 'manual') return false;
  return window.tokens > triggerTokens(limits, calibration) || window.count > limits.policy.limit;
}

/** What `needs_compaction` says of a stored window of so many counted tokens. */
export function needsCompaction(limits: Limits, tokens: number, calibration: number): boolean {
  return tokens > triggerTokens(limits, calibration);
}

/**
 * What a compaction cuts to, in counted tokens and messages. A target_ratio above trigger_ratio (which a later change of
 * the latter can leave behind) counts as equal to it.
 */
export function cutTarget(limits: Limits, calibration: number): { readonly tokens: number; readonly count: number } {
  const { tokenBudget, triggerRatio, policy } = limits;
  if (policy.targetRatio >= triggerRatio) return { tokens: triggerTokens(limits, calibration), count: policy.limit };
  const tokens = countedBudget(tokenBudget * policy.targetRatio, calibration);
  return { tokens, count: Math.max(1, Math.floor((policy.limit * policy.targetRatio) / triggerRatio)) };
}
