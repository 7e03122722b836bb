/**
 * The records of cuts: whatever changed the stored window other than by growing at its end, numbered from 1 in the
 * order it happened. Each holds the window as it was just before, so that the window of any version can be told: between
 * two cuts a window only grows, and what it grew by is in the log.
 *
 * A client's `compact` also has a row of its own under its version (rows.ts), which the segments of a window point to.
 */
import { Reader, Writer } from './bytes.ts';
import { readWindowState, windowSizeHint, writeWindow } from './descriptor.ts';
import type { Rows, WindowState } from './types.ts';

/**
 * What cut: a client's `compact`; the policy, named by its strategy; a late result, which leaves with what it is tied
 * to; a bound of the descriptor. `recount` took nothing out: the sums had to be taken anew (a result of a call that
 * skip_parts had removed).
 */
export type CutKind = 'compact' | 'last_n' | 'skip_parts' | 'late_result' | 'bounds' | 'recount';

export interface CutRecord {
  readonly kind: CutKind;
  /** Of the context after the command that cut. */
  readonly version: number;
  readonly stampMs: number;
  /** The settings it followed. */
  readonly configRevision: number;
  /** Of the log, after the command. */
  readonly lastSeq: number;
  /** Log messages that left: from the window's first to the one before its new first; both 0 when it stayed. */
  readonly fromSeq: number;
  readonly toSeq: number;
  readonly replacementCount: number;
  /** Seqs that left because of a late result, ascending. */
  readonly late: readonly number[];
  readonly countAfter: number;
  readonly tokensAfter: number;
  /** The window before: for `compact` that of the version before, else as the append at work had let it grow. */
  readonly before: WindowState;
}

const FORMAT = 1;
/** Codes are stored: append only. */
const KINDS: readonly CutKind[] = ['compact', 'last_n', 'skip_parts', 'late_result', 'bounds', 'recount'];

export function encodeCut(record: CutRecord): Uint8Array {
  const writer = new Writer(64 + windowSizeHint(record.before) + record.late.length * 2);
  writer.byte(FORMAT);
  writer.byte(KINDS.indexOf(record.kind));
  writer.uint(record.version);
  writer.uint(record.stampMs);
  writer.uint(record.configRevision);
  writer.uint(record.lastSeq);
  writer.uint(record.fromSeq);
  writer.uint(record.toSeq);
  writer.uint(record.replacementCount);
  writer.ascending(record.late);
  writer.uint(record.countAfter);
  writer.uint(record.tokensAfter);
  writeWindow(writer, record.before);
  return writer.done();
}

export function decodeCut(bytes: Uint8Array): CutRecord | null {
  const reader = new Reader(bytes);
  if (reader.byte() !== FORMAT) return null;
  const kind = KINDS[reader.byte()];
  if (kind === undefined) return null;
  const record = {
    kind,
    version: reader.uint(),
    stampMs: reader.uint(),
    configRevision: reader.uint(),
    lastSeq: reader.uint(),
    fromSeq: reader.uint(),
    toSeq: reader.uint(),
    replacementCount: reader.uint(),
    late: reader.ascending(),
    countAfter: reader.uint(),
    tokensAfter: reader.uint(),
    before: readWindowState(reader),
  };
  return reader.ok && reader.atEnd ? record : null;
}

/** The cuts of a context, each decoded once. */
export class Cuts {
  /** Numbers run from 1 to this. */
  readonly count: number;
  readonly #rows: Rows;
  readonly #context: string;
  readonly #decoded = new Map<number, CutRecord | null>();

  constructor(rows: Rows, context: string, count: number) {
    this.#rows = rows;
    this.#context = context;
    this.count = count;
  }

  /** null for a number outside 1 … count. */
  at(number: number): CutRecord | null {
    let record = this.#decoded.get(number);
    if (record === undefined) {
      const row = this.#rows.get('cut', this.#context, number);
      record = row === undefined ? null : decodeCut(row);
      this.#decoded.set(number, record);
    }
    return record;
  }

  /**
   * Number of the first cut up to `last` that `holds` is true of, last + 1 if of none. Once true of one cut it must be
   * true of all later ones.
   */
  first(holds: (cut: CutRecord, number: number) => boolean, last = this.count): number {
    let low = 1;
    let high = last + 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const cut = this.at(middle);
      if (cut !== null && holds(cut, middle)) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

export interface CutsPage {
  /** Oldest first. */
  readonly cuts: readonly CutRecord[];
  /** `fromVersion` of the next page; null at the end. */
  readonly nextVersion: number | null;
}

/**
 * Cuts that took something out of the window or replaced it, from `fromVersion` on, at most `limit`; null when there is
 * no such context.
 */
export function listCuts(rows: Rows, context: string, query: { readonly fromVersion: number; readonly limit: number }): CutsPage | null {
  const header = rows.header(context);
  if (header === undefined) return null;
  const all = new Cuts(rows, context, header.cutCount);
  const cuts: CutRecord[] = [];
  for (let number = all.first((cut) => cut.version >= query.fromVersion); number <= all.count; number++) {
    const cut = all.at(number);
    if (cut === null || cut.kind === 'recount') continue;
    if (cuts.length === query.limit) return { cuts, nextVersion: cut.version };
    cuts.push(cut);
  }
  return { cuts, nextVersion: null };
}
