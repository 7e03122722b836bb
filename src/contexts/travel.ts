/**
 * Time travel: the stored window as it stood at any version, with the settings then in force. Between two cuts a window
 * only grows at its end, so the window at a version is the one just before the next cut (or the present one) less what
 * came later; its sums are in the row of the message that made the version. A few reads, however long the log.
 *
 * A version inside one append was never the newest by itself: it is told as if the append had ended there, before its
 * policy ran.
 */
import { Cuts } from './cuts.ts';
import type { CutRecord } from './cuts.ts';
import { revisionAt, revisionOf } from './revisions.ts';
import type { Revision } from './revisions.ts';
import { decodeMessageRow } from './rows.ts';
import type { ContextHeader, Rows, WindowState } from './types.ts';

/** A stored window and all that an answer from it depends on, at one version. */
export interface WindowView {
  readonly version: number;
  readonly window: WindowState;
  readonly lastSeq: number;
  readonly leadingCount: number;
  readonly settings: Revision;
}

/** No window can be told for that version: it is above `version`, or below `from`. */
export interface NotKept {
  readonly code: 'version_not_kept';
  readonly from: number;
  readonly version: number;
}

/** The window as it is now; null when there is no such context. */
export function windowNow(rows: Rows, context: string): WindowView | null {
  const header = rows.header(context);
  const config = rows.config(context);
  if (header === undefined || config === undefined) return null;
  const { version, window, lastSeq, leadingCount } = header;
  return { version, window, lastSeq, leadingCount, settings: revisionOf(header, config) };
}

/** The window as it stood at `version`; null when there is no such context. */
export function windowAt(rows: Rows, context: string, version: number): WindowView | NotKept | null {
  const header = rows.header(context);
  if (header === undefined) return null;
  if (version === header.version) return windowNow(rows, context);
  const settings = revisionAt(rows, context, version);
  if (settings === null) return null;
  const notKept: NotKept = { code: 'version_not_kept', from: header.historyFrom, version: header.version };
  if (!Number.isSafeInteger(version) || version < header.historyFrom || version > header.version) return notKept;
  const cuts = new Cuts(rows, context, header.cutCount);
  const next = cuts.first((cut) => cut.version > version);
  const made = cuts.at(next - 1);
  const { window: grown, lastSeq } = windowBefore(cuts.at(next), header, version);
  const sums = version === made?.version ? { tokens: made.tokensAfter, count: made.countAfter } : grownSums(rows, context, { version, seq: lastSeq });
  if (sums === null) return notKept;
  const window: WindowState = { ...grown, ...sums, excluded: grown.excluded.filter((seq) => seq <= lastSeq) };
  return { version, window, lastSeq, leadingCount: Math.min(header.leadingCount, lastSeq), settings };
}

/** The window that grew until the cut (or until now), and how far the log reached at `version`. */
function windowBefore(cut: CutRecord | null, header: ContextHeader, version: number): { window: WindowState; lastSeq: number } {
  // Every version since the cut before is a message, but for the last when that is the tombstone or a compact.
  if (cut === null) return { window: header.window, lastSeq: header.lastSeq - Math.max(0, newestMessageVersion(header) - version) };
  const grownTo = cut.kind === 'compact' ? cut.version - 1 : cut.version;
  return { window: cut.before, lastSeq: cut.lastSeq - (grownTo - version) };
}

function newestMessageVersion(header: ContextHeader): number {
  return header.status === 'tombstoned' ? header.version - 1 : header.version;
}

/** Sums of the window once the message that made `version` was in it; null where they are not kept. */
function grownSums(rows: Rows, context: string, at: { readonly version: number; readonly seq: number }): { tokens: number; count: number } | null {
  if (at.seq === 0) return { tokens: 0, count: 0 };
  const bytes = rows.get('message', context, at.seq);
  const row = bytes === undefined ? null : decodeMessageRow(bytes);
  if (row === null || row.version !== at.version || row.windowCount < 0) return null;
  return { tokens: row.windowTokens, count: row.windowCount };
}
