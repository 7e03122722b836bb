/**
 * `compact`: the client replaces the window by messages of its own, keeping the live messages from keepFromSeq on. The
 * log is untouched and earlier replacements stay stored: what the window was at an older version can still be told.
 */
import { pendingRows, validMessages } from './append.ts';
import { trimUnpinned } from './archive.ts';
import { CallTracker } from './calls.ts';
import { heldByAnother, isLost } from './claims.ts';
import { NO_REPLACEMENT } from './cut.ts';
import { encodeCut } from './cuts.ts';
import { answer, refuse } from './outcome.ts';
import { needsCompaction, usedTokens } from './policies.ts';
import { Reach } from './reach.ts';
import { encodeCompaction, encodeHeader, encodeMessageRow, replacementKey } from './rows.ts';
import { RowSource, readWindow, strip } from './units.ts';
import type { Command, ContextConfig, ContextHeader, NewMessage, Outcome, Rows, WindowState, Write } from './types.ts';

type Compact = Extract<Command, { readonly type: 'compact' }>;

/** `stampMs` must not be below the header's updatedAt. */
export function compact(rows: Rows, stampMs: number, command: Compact): Outcome {
  const { context, keepFromSeq, ifVersion } = command;
  const header = rows.header(context);
  const config = rows.config(context);
  if (header === undefined || config === undefined) return refuse('context_not_found');
  if (header.status !== 'active') return refuse('context_tombstoned');
  if (ifVersion >= 0 && ifVersion !== header.version) {
    return answer({ ok: false, code: 'conflict', expected: ifVersion, found: header.version });
  }
  // 0 says the same as lastSeq + 1: keep nothing.
  if (!Number.isSafeInteger(keepFromSeq) || keepFromSeq < 0 || keepFromSeq > header.lastSeq + 1) {
    return answer({ ok: false, code: 'invalid_keep_from_seq', lastSeq: header.lastSeq });
  }
  if (!validMessages(command.replacement, 0)) return refuse('invalid_command');
  const token = command.claim ?? null;
  const held = heldByAnother(header, stampMs, token);
  if (held !== null) return answer({ ok: false, code: 'claim_held', expiresAt: held.expiresAt });
  if (isLost(header, token)) return answer({ ok: false, code: 'claim_lost', version: header.version });
  return replace(rows, stampMs, { command, header, config });
}

function replace(rows: Rows, stampMs: number, given: { command: Compact; header: ContextHeader; config: ContextConfig }): Outcome {
  const { command, header, config } = given;
  const { context, replacement } = command;
  const version = header.version + 1;
  const writes = replacementWrites(rows, { context, version, stampMs, replacement });
  const source = new RowSource(rows, context, pendingRows(writes));
  const keepFrom = command.keepFromSeq === 0 ? header.lastSeq + 1 : command.keepFromSeq;
  const window = replacedWindow({ source, header, version, keepFrom, replacementCount: replacement.length });

  const toSeq = Math.min(window.firstSeq, window.pinned[0] ?? window.firstSeq) - 1;
  const fromSeq = Math.min(1, toSeq);
  const record = {
    version,
    stampMs,
    fromSeq,
    toSeq,
    replacementCount: replacement.length,
    countBefore: header.window.count,
    countAfter: window.count,
    tokensBefore: header.window.tokens,
    tokensAfter: window.tokens,
  };
  writes.push({ table: 'compaction', context, key: version, value: encodeCompaction(record) });
  const cutCount = header.cutCount + 1;
  const cut = {
    kind: 'compact',
    version,
    stampMs,
    configRevision: header.configRevision,
    lastSeq: header.lastSeq,
    fromSeq,
    toSeq,
    replacementCount: replacement.length,
    late: [],
    countAfter: window.count,
    tokensAfter: window.tokens,
    before: header.window,
  } as const;
  writes.push({ table: 'cut', context, key: cutCount, value: encodeCut(cut) });
  if (header.trimmedSeq > 0) writes.push(...trimUnpinned(context, header, window));
  // Whoever held the claim has what it was for; one that is over is forgotten too.
  const next: ContextHeader = { ...header, version, updatedAt: stampMs, window, cutCount, claim: null };
  writes.push({ table: 'header', context, key: '', value: encodeHeader(next) });
  const { calibration } = header;
  return {
    reply: { ok: true, type: 'compact', version },
    events: [
      { type: 'compaction', context, version, fromSeq, toSeq },
      { type: 'context', context, version, needsCompaction: needsCompaction(config, window.tokens, calibration), usedTokens: usedTokens(window.tokens, calibration) },
    ],
    writes,
    header: next,
    config: null,
  };
}

interface ReplacementInput {
  readonly context: string;
  readonly version: number;
  readonly stampMs: number;
  readonly replacement: readonly NewMessage[];
}

/** Rows of the replacement. Its calls and results pair among themselves; a call it leaves open may be answered later. */
function replacementWrites(rows: Rows, { context, version, stampMs, replacement }: ReplacementInput): Write[] {
  const writes: Write[] = [];
  const own = new CallTracker(null, context);
  for (let position = 0; position < replacement.length; position++) {
    const message = replacement[position];
    if (message === undefined) continue;
    const key = replacementKey(version, position);
    const links = own.add(message.parts, -key);
    writes.push({ table: 'replacement', context, key, value: encodeMessageRow(message, { version, stampMs, links, windowTokens: 0, windowCount: 0 }) });
  }
  const calls = new CallTracker(rows, context);
  calls.addAll(own);
  calls.flush(writes);
  return writes;
}

interface ReplacedInput {
  readonly source: RowSource;
  readonly header: ContextHeader;
  readonly version: number;
  readonly keepFrom: number;
  readonly replacementCount: number;
}

/** The replacement, then what stays of the live messages; sums are taken from the rows. */
function replacedWindow({ source, header, version, keepFrom, replacementCount }: ReplacedInput): WindowState {
  const old = header.window;
  const nothingKept = keepFrom > header.lastSeq;
  const from = nothingKept ? keepFrom : movedBack(source, withoutReplacement(old), { lastSeq: header.lastSeq, keepFrom });
  const base: WindowState = {
    ...NO_REPLACEMENT,
    replacementVersion: replacementCount === 0 ? 0 : version,
    replacementCount,
    firstSeq: Math.max(from, old.firstSeq),
    pinned: old.pinned.filter((seq) => seq >= from),
    excluded: old.excluded.filter((seq) => seq >= from),
    stripped: old.stripped.filter((run) => run.before > from),
    tokens: 0,
    count: 0,
    stableSinceVersion: version,
  };
  const items = readWindow(source, base, header.lastSeq);
  strip(items, base.stripped, header.leadingCount);
  let tokens = 0;
  let count = 0;
  for (const item of items) {
    if (item.hidden) continue;
    tokens += item.tokens;
    count++;
  }
  return { ...base, tokens, count };
}

function withoutReplacement(window: WindowState): WindowState {
  return { ...window, ...NO_REPLACEMENT };
}

/** The greatest seq, at most keepFrom, before which no unit reaches over. Reads what is kept and little more. */
function movedBack(source: RowSource, window: WindowState, { lastSeq, keepFrom }: { lastSeq: number; keepFrom: number }): number {
  const reach = new Reach(source, window, lastSeq);
  let from = keepFrom;
  for (;;) {
    while (reach.cursor > Math.max(from, window.firstSeq)) reach.take(--reach.cursor);
    for (const seq of window.pinned) if (seq >= from) reach.take(seq);
    reach.complete();
    let lowest = from;
    for (const item of reach.items()) lowest = Math.min(lowest, item.place);
    if (lowest === from) return from;
    from = lowest;
  }
}
