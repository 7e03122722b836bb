/**
 * Erasing a context. `purge` ends it in one entry: for readers it is gone, and all that is left of it is a header
 * without content, which keeps its id from being used again. The rows that a purge must delete are not known from the
 * header (call ids and idempotency keys are a client's own words), so the leader lists them and names them in `purge_step`s.
 * A row in `purging` lists the context until the last trace is gone from every replica, which the leader finds out.
 */
import { ERASED_TABLES } from './commands.ts';
import { EMPTY_WINDOW } from './descriptor.ts';
import { answer, refuse } from './outcome.ts';
import { CALIBRATION_ONE } from './policies.ts';
import { encodeHeader } from './rows.ts';
import type { Command, ContextHeader, Outcome, Rows, Table, Write } from './types.ts';

/** Rows that one step deletes: no entry may be a stall. */
export const PURGE_STEP_ROWS_MAX = 1000;
/** With the purge itself go the rows of which a context has one. */
const SINGLE_TABLES: readonly Table[] = ['config', 'unarchived', 'expiring'];

const PURGING = new Uint8Array([1]);

/** `stampMs` must not be below the header's updatedAt. */
export function purge(rows: Rows, stampMs: number, context: string): Outcome {
  const header = rows.header(context);
  if (header === undefined) return refuse('context_not_found');
  if (header.status === 'purged') return answer({ ok: true, type: 'purge', complete: rows.get('purging', context, '') === undefined });
  return { ...erased(context, header, stampMs), reply: { ok: true, type: 'purge', complete: false } };
}

/** Purges the context if it has a ttl that has passed since its last write. `stampMs` as for purge. */
export function expire(rows: Rows, stampMs: number, context: string): Outcome {
  const header = rows.header(context);
  const ttlSeconds = rows.config(context)?.ttlSeconds ?? 0;
  const isDue = header !== undefined && header.status !== 'purged' && ttlSeconds > 0 && stampMs >= header.updatedAt + ttlSeconds * 1000;
  if (!isDue) return answer({ ok: true, type: 'expire', purged: false });
  return { ...erased(context, header, stampMs), reply: { ok: true, type: 'expire', purged: true } };
}

/** Deletes rows of a purged context. */
export function purgeStep(rows: Rows, command: Extract<Command, { readonly type: 'purge_step' }>): Outcome {
  const { context } = command;
  const header = rows.header(context);
  if (header === undefined) return refuse('context_not_found');
  if (header.status !== 'purged' || command.rows.length > PURGE_STEP_ROWS_MAX) return refuse('invalid_command');
  const writes: Write[] = [];
  for (const { table, key } of command.rows) if (ERASED_TABLES.includes(table)) writes.push({ table, context, key, value: null });
  return { reply: { ok: true, type: 'purge_step' }, events: [], writes, header: null, config: null };
}

/** Nothing is left of the context but its header. */
export function purgeDone(rows: Rows, context: string): Outcome {
  const header = rows.header(context);
  if (header === undefined) return refuse('context_not_found');
  if (header.status !== 'purged') return refuse('invalid_command');
  return { reply: { ok: true, type: 'purge_done' }, events: [], writes: [{ table: 'purging', context, key: '', value: null }], header: null, config: null };
}

function erased(context: string, before: ContextHeader, stampMs: number): Omit<Outcome, 'reply'> {
  const version = before.version + 1;
  const header: ContextHeader = {
    status: 'purged',
    version,
    configRevision: 0,
    lastSeq: 0,
    leadingCount: 0,
    archivedSeq: 0,
    archivedVersion: version,
    archivedRevision: 0,
    trimmedSeq: 0,
    createdAt: stampMs,
    updatedAt: stampMs,
    window: EMPTY_WINDOW,
    keyedNewest: 0,
    keyedOldest: 1,
    cutCount: 0,
    historyFrom: version,
    calibration: CALIBRATION_ONE,
    claim: null,
  };
  return {
    events: [{ type: 'purged', context, version }],
    writes: [
      ...SINGLE_TABLES.map((table): Write => ({ table, context, key: '', value: null })),
      { table: 'purging', context, key: '', value: PURGING },
      { table: 'header', context, key: '', value: encodeHeader(header) },
    ],
    header,
    config: null,
  };
}
