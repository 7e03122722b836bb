/**
 * The state machine: one command on the rows of one context. Pure and total: whatever a decoded command holds, there is
 * an answer, the same on every replica, and nothing throws; a refusal writes nothing.
 */
import { append } from './append.ts';
import { ackArchived, isPending, listing } from './archive.ts';
import { claim } from './claims.ts';
import { compact } from './compact.ts';
import { refuse } from './outcome.ts';
import { expire, purge, purgeDone, purgeStep } from './purge.ts';
import { put } from './put.ts';
import { encodeHeader } from './rows.ts';
import type { Command, ContextHeader, Outcome, Rows } from './types.ts';
import { usage } from './usage.ts';

type Change = Exclude<Command, { readonly type: 'ack_archived' | 'purge' | 'purge_step' | 'purge_done' | 'expire' }>;

const CONTEXT_UNITS_MAX = 256;
/** The last millisecond that can be written as a date. */
const STAMP_MAX = 8_640_000_000_000_000;

/**
 * Applies `command`. `stampMs` is the larger of the group's last stamp and the proposer's clock, in milliseconds since
 * the epoch; a stamp that would take a context's time back counts as the context's last.
 */
export function apply(rows: Rows, stampMs: number, command: Command): Outcome {
  const { context } = command;
  if (context === '' || context.length > CONTEXT_UNITS_MAX) return refuse('invalid_command');
  const before = rows.header(context);
  const stamp = Math.max(validStamp(stampMs), before?.updatedAt ?? 0);
  const outcome = decide(rows, stamp, command, before);
  // Whoever archives must come to know of the context; while it is behind already, it does.
  if (outcome.header === null || !isPending(outcome.header) || (before !== undefined && isPending(before))) return outcome;
  return { ...outcome, writes: [...outcome.writes, listing(context)] };
}

function decide(rows: Rows, stamp: number, command: Command, header: ContextHeader | undefined): Outcome {
  const { context } = command;
  switch (command.type) {
    case 'ack_archived':
      return ackArchived(rows, command);
    case 'purge':
      return purge(rows, stamp, context);
    case 'purge_step':
      return purgeStep(rows, command);
    case 'purge_done':
      return purgeDone(rows, context);
    case 'expire':
      return expire(rows, stamp, context);
    default:
      return header?.status === 'purged' ? refuse('context_purged') : change(rows, stamp, command);
  }
}

/** Commands that change a conversation. */
function change(rows: Rows, stamp: number, command: Change): Outcome {
  switch (command.type) {
    case 'append':
      return append(rows, stamp, command);
    case 'put':
      return put(rows, stamp, command);
    case 'compact':
      return compact(rows, stamp, command);
    case 'claim':
      return claim(rows, stamp, command);
    case 'usage':
      return usage(rows, stamp, command);
    case 'tombstone':
      return tombstone(rows, stamp, command.context);
  }
}

function validStamp(stampMs: number): number {
  return Number.isSafeInteger(stampMs) && stampMs > 0 && stampMs <= STAMP_MAX ? stampMs : 0;
}

/** Ends the context: reads go on, writes are refused. A second one changes nothing. */
function tombstone(rows: Rows, stampMs: number, context: string): Outcome {
  const header = rows.header(context);
  if (header === undefined) return refuse('context_not_found');
  const reply = { ok: true, type: 'tombstone' } as const;
  if (header.status !== 'active') return { reply, events: [], writes: [], header: null, config: null };
  const version = header.version + 1;
  const next: ContextHeader = { ...header, status: 'tombstoned', version, updatedAt: stampMs };
  return {
    reply,
    events: [{ type: 'tombstoned', context, version }],
    writes: [{ table: 'header', context, key: '', value: encodeHeader(next) }],
    header: next,
    config: null,
  };
}
