/** `put`: creates a context or changes its settings. The window is not touched: the next append applies them. */
import { equalBytes } from './bytes.ts';
import { EMPTY_WINDOW } from './descriptor.ts';
import { answer, refuse } from './outcome.ts';
import { CALIBRATION_ONE, DEFAULT_POLICY, needsCompaction, usedTokens, validSettings } from './policies.ts';
import { revisionOf, revisionWrites } from './revisions.ts';
import { encodeConfig, encodeHeader } from './rows.ts';
import type { Revision } from './revisions.ts';
import type { Command, ContextConfig, ContextEvent, ContextHeader, Outcome, Policy, Rows, Write } from './types.ts';

/** What a context is created with where `put` does not say. */
export const DEFAULT_CONFIG: ContextConfig = {
  tokenBudget: 8000,
  triggerRatio: 0.7,
  policy: DEFAULT_POLICY,
  // `{}`
  metadataText: new Uint8Array([0x7b, 0x7d]),
  model: '',
  ttlSeconds: 0,
};

const EXPIRING = new Uint8Array([1]);

type Put = Extract<Command, { readonly type: 'put' }>;

/** `stampMs` must not be below the header's updatedAt. */
export function put(rows: Rows, stampMs: number, command: Put): Outcome {
  const { context, settings, ifConfigRevision, mustExist } = command;
  const header = rows.header(context);
  const config = rows.config(context);
  if (header === undefined || config === undefined) {
    if (mustExist) return refuse('context_not_found');
    if (ifConfigRevision > 0) return answer({ ok: false, code: 'revision_conflict', expected: ifConfigRevision, found: 0 });
    return validSettings(settings) ? create(rows, context, stampMs, merged(DEFAULT_CONFIG, settings)) : refuse('invalid_command');
  }
  if (header.status !== 'active') return refuse('context_tombstoned');
  if (ifConfigRevision >= 0 && ifConfigRevision !== header.configRevision) {
    return answer({ ok: false, code: 'revision_conflict', expected: ifConfigRevision, found: header.configRevision });
  }
  if (!validSettings(settings)) return refuse('invalid_command');
  const next = merged(config, settings);
  if (sameConfig(config, next)) return answer({ ok: true, type: 'put', created: false });
  return update(rows, context, stampMs, { header, config, next });
}

function create(rows: Rows, context: string, stampMs: number, config: ContextConfig): Outcome {
  const header: ContextHeader = {
    status: 'active',
    version: 0,
    configRevision: 0,
    lastSeq: 0,
    leadingCount: 0,
    archivedSeq: 0,
    archivedVersion: 0,
    archivedRevision: -1,
    trimmedSeq: 0,
    createdAt: stampMs,
    updatedAt: stampMs,
    window: EMPTY_WINDOW,
    keyedNewest: 0,
    keyedOldest: 1,
    cutCount: 0,
    historyFrom: 0,
    calibration: CALIBRATION_ONE,
    claim: null,
  };
  return stored(rows, context, { header, config, last: null, ttlBefore: 0, created: true, events: [] });
}

function update(rows: Rows, context: string, stampMs: number, change: { header: ContextHeader; config: ContextConfig; next: ContextConfig }): Outcome {
  const { config, next } = change;
  const { version, configRevision, window, calibration } = change.header;
  const header: ContextHeader = { ...change.header, configRevision: configRevision + 1, updatedAt: stampMs };
  const due = needsCompaction(next, window.tokens, calibration);
  const events: ContextEvent[] = [];
  // Listeners learn of a new budget only where it changes what they were told.
  if (due !== needsCompaction(config, window.tokens, calibration)) {
    const event = { type: 'context', context, version, needsCompaction: due, usedTokens: usedTokens(window.tokens, calibration) } as const;
    events.push(due ? { ...event, turnedDue: { tokenBudget: next.tokenBudget } } : event);
  }
  return stored(rows, context, { header, config: next, last: revisionOf(change.header, config), ttlBefore: config.ttlSeconds, created: false, events });
}

interface Stored {
  readonly header: ContextHeader;
  readonly config: ContextConfig;
  /** The settings before; null for a new context. */
  readonly last: Revision | null;
  /** 0 for a new context. */
  readonly ttlBefore: number;
  readonly created: boolean;
  readonly events: readonly ContextEvent[];
}

function stored(rows: Rows, context: string, { header, config, last, ttlBefore, created, events }: Stored): Outcome {
  return {
    reply: { ok: true, type: 'put', created },
    events,
    writes: [
      { table: 'config', context, key: '', value: encodeConfig(config) },
      ...revisionWrites(rows, context, last, revisionOf(header, config)),
      ...expiryWrites(context, ttlBefore, config.ttlSeconds),
      { table: 'header', context, key: '', value: encodeHeader(header) },
    ],
    header,
    config,
  };
}

/** The row that lists the contexts with a ttl, so that finding what is over looks at no other. Appends never touch it. */
function expiryWrites(context: string, before: number, now: number): Write[] {
  if ((before > 0) === (now > 0)) return [];
  return [{ table: 'expiring', context, key: '', value: now > 0 ? EXPIRING : null }];
}

function merged(base: ContextConfig, settings: Partial<ContextConfig>): ContextConfig {
  return {
    tokenBudget: settings.tokenBudget ?? base.tokenBudget,
    triggerRatio: settings.triggerRatio ?? base.triggerRatio,
    policy: settings.policy ?? base.policy,
    // Copied: the command's bytes are those of a whole log entry, which a cached config must not hold.
    metadataText: settings.metadataText?.slice() ?? base.metadataText,
    model: settings.model ?? base.model,
    ttlSeconds: settings.ttlSeconds ?? base.ttlSeconds,
  };
}

function sameConfig(a: ContextConfig, b: ContextConfig): boolean {
  return (
    a.tokenBudget === b.tokenBudget &&
    a.triggerRatio === b.triggerRatio &&
    samePolicy(a.policy, b.policy) &&
    equalBytes(a.metadataText, b.metadataText) &&
    a.model === b.model &&
    a.ttlSeconds === b.ttlSeconds
  );
}

function samePolicy(a: Policy, b: Policy): boolean {
  return (
    a.strategy === b.strategy &&
    a.limit === b.limit &&
    a.targetRatio === b.targetRatio &&
    a.pin === b.pin &&
    a.skipKinds.length === b.skipKinds.length &&
    a.skipKinds.every((kind, i) => kind === b.skipKinds[i])
  );
}
