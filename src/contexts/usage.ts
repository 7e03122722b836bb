/**
 * `usage`: what the provider says a window cost. Counts are estimates (another tokenizer, a template around every
 * message, tools that are not in the log), so a context keeps one factor, its calibration, in 1/1024: what a counted
 * token costs at the provider. Sums of counts are multiplied by it wherever they meet a budget or are told as
 * `used_tokens`; counts of single messages stay as they are.
 *
 * All arithmetic is on integers, so that every replica holds the same factor.
 */
import { answer, refuse } from './outcome.ts';
import { CALIBRATION_ONE, needsCompaction, usedTokens } from './policies.ts';
import { projectView } from './project.ts';
import { revisionOf, revisionWrites } from './revisions.ts';
import { encodeHeader } from './rows.ts';
import { windowAt } from './travel.ts';
import type { Command, ContextConfig, ContextEvent, ContextHeader, Outcome, Rows } from './types.ts';

/** A quarter, and six times: beyond that a report is about something else than this window. */
export const CALIBRATION_MIN = 256;
export const CALIBRATION_MAX = 6144;
/** Largest report: as the largest token budget. */
export const INPUT_TOKENS_MAX = 1_000_000_000;
/** A report this near the factor (1/32 of it) changes nothing, so that steady reports do not change the revision. */
const SLACK = 32;
/** Share of the way to a new report that the factor goes, once it has been set by a first. */
const SMOOTHING = 4;

type Usage = Extract<Command, { readonly type: 'usage' }>;

/** `stampMs` must not be below the header's updatedAt. */
export function usage(rows: Rows, stampMs: number, command: Usage): Outcome {
  const { context, version, inputTokens } = command;
  const header = rows.header(context);
  const config = rows.config(context);
  if (header === undefined || config === undefined) return refuse('context_not_found');
  if (header.status !== 'active') return refuse('context_tombstoned');
  if (!Number.isSafeInteger(inputTokens) || inputTokens < 1 || inputTokens > INPUT_TOKENS_MAX) return refuse('invalid_command');
  const view = windowAt(rows, context, version);
  if (view === null) return refuse('context_not_found');
  if ('code' in view) return answer({ ok: false, code: view.code, from: view.from, version: view.version });
  const counted = projectView(rows, context, view, { budgetTokens: null, full: false }).countedTokens;
  const calibration = adjusted(header.calibration, counted, inputTokens);
  if (calibration === header.calibration) {
    return answer({ ok: true, type: 'usage', calibration, changed: false });
  }
  return calibrate(rows, context, stampMs, { header, config, calibration });
}

/** The factor after a report of `inputTokens` for a window of `counted` tokens. */
export function adjusted(calibration: number, counted: number, inputTokens: number): number {
  if (counted === 0) return calibration;
  const measured = Math.min(CALIBRATION_MAX, Math.max(CALIBRATION_MIN, Math.round((inputTokens * CALIBRATION_ONE) / counted)));
  const off = measured - calibration;
  if (Math.abs(off) * SLACK <= calibration) return calibration;
  // Exactly one is a context's state before its first report, which is taken whole.
  return calibration === CALIBRATION_ONE ? measured : calibration + Math.trunc(off / SMOOTHING);
}

function calibrate(rows: Rows, context: string, stampMs: number, change: { header: ContextHeader; config: ContextConfig; calibration: number }): Outcome {
  const { config, calibration } = change;
  const header: ContextHeader = { ...change.header, calibration, configRevision: change.header.configRevision + 1, updatedAt: stampMs };
  const { version, window } = header;
  const due = needsCompaction(config, window.tokens, calibration);
  const turned = due && !needsCompaction(config, window.tokens, change.header.calibration);
  const told: ContextEvent = { type: 'context', context, version, needsCompaction: due, usedTokens: usedTokens(window.tokens, calibration) };
  const event: ContextEvent = turned ? { ...told, turnedDue: { tokenBudget: config.tokenBudget } } : told;
  return {
    reply: { ok: true, type: 'usage', calibration, changed: true },
    events: [event],
    writes: [
      ...revisionWrites(rows, context, revisionOf(change.header, config), revisionOf(header, config)),
      { table: 'header', context, key: '', value: encodeHeader(header) },
    ],
    header,
    config: null,
  };
}
