/**
 * Who answers whom: the open calls of a context, by call id. A result belongs to the nearest earlier unanswered call of
 * its id, since real logs reuse ids. A further result of a call that has its answer joins it (calls stand together
 * with all their results); a result whose id was never called is an ordinary part.
 *
 * The row of an id stays after the answer, so that such a further result still finds its call.
 */
import { FAR_ANSWERS_MAX, answersKey, decodeAnswers, encodeAnswers, isFar } from './answers.ts';
import { Reader, Writer } from './bytes.ts';
import type { Link, Place } from './rows.ts';
import { PartRole } from './types.ts';
import type { PartInfo, Rows, Write } from './types.ts';

/** Unanswered calls remembered of one id; the oldest beyond are never answered. */
export const OPEN_PER_ID_MAX = 16;

const FORMAT = 1;

interface Spot {
  readonly place: Place;
  readonly part: number;
}

/** Oldest first; the nearest earlier call is the last. */
interface Calls {
  open: Spot[];
  answered: Spot | null;
}

const NO_LINKS: readonly Link[] = [];

/** Pairs the parts of the messages that one command adds, over what `rows` remembers of earlier ones. */
export class CallTracker {
  readonly #rows: Rows | null;
  readonly #context: string;
  /** Ids that this command touched; null until the first. */
  #touched: Map<string, Calls> | null = null;
  /** Far answers that this command added, with those there were, by the place of the call's message. */
  #answers: Map<Place, number[]> | null = null;

  /** Without rows the tracker pairs only what is added through it: a replacement is a world of its own. */
  constructor(rows: Rows | null, context: string) {
    this.#rows = rows;
    this.#context = context;
  }

  /** Adds the message that stands at `place`; answers which calls its results belong to. */
  add(parts: readonly PartInfo[], place: Place): readonly Link[] {
    let links: Link[] | null = null;
    for (let i = 0; i < parts.length; i++) {
      const part = parts[i];
      // `both` carries its own result: nothing can be torn from it.
      if (part === undefined || part.role === PartRole.none || part.role === PartRole.both) continue;
      const calls = this.#callsOf(part.callId);
      if (part.role === PartRole.call) {
        calls.open.push({ place, part: i });
        if (calls.open.length > OPEN_PER_ID_MAX) calls.open.shift();
        continue;
      }
      const spot = calls.open.pop() ?? calls.answered;
      if (spot === null) continue;
      calls.answered = spot;
      if (isFar(spot.place, place)) this.#addAnswer(spot.place, place);
      links ??= [];
      links.push({ part: i, target: spot.place, targetPart: spot.part });
    }
    return links ?? NO_LINKS;
  }

  /** Hands the calls of a replacement to the log that follows it: its open ones are the nearest from now on. */
  addAll(other: CallTracker): void {
    if (other.#touched === null) return;
    for (const [id, theirs] of other.#touched) {
      if (theirs.open.length === 0 && theirs.answered === null) continue;
      const calls = this.#callsOf(id);
      calls.open = [...calls.open, ...theirs.open].slice(-OPEN_PER_ID_MAX);
      calls.answered = theirs.answered ?? calls.answered;
    }
  }

  /** Adds the rows that changed. */
  flush(writes: Write[]): void {
    if (this.#touched === null) return;
    if (this.#answers !== null) {
      for (const [place, seqs] of this.#answers) writes.push({ table: 'answers', context: this.#context, key: answersKey(place), value: encodeAnswers(seqs) });
    }
    for (const [id, calls] of this.#touched) {
      if (calls.open.length === 0 && calls.answered === null) continue;
      writes.push({ table: 'openCall', context: this.#context, key: id, value: encodeCalls(calls) });
    }
  }

  #addAnswer(call: Place, seq: number): void {
    this.#answers ??= new Map();
    let seqs = this.#answers.get(call);
    if (seqs === undefined) {
      const row = this.#rows?.get('answers', this.#context, answersKey(call));
      seqs = row === undefined ? [] : decodeAnswers(row);
      this.#answers.set(call, seqs);
    }
    // A message with several results for one call is named once.
    if (seqs.length < FAR_ANSWERS_MAX && seqs[seqs.length - 1] !== seq) seqs.push(seq);
  }

  #callsOf(id: string): Calls {
    this.#touched ??= new Map();
    let calls = this.#touched.get(id);
    if (calls === undefined) {
      const row = this.#rows?.get('openCall', this.#context, id);
      calls = row === undefined ? { open: [], answered: null } : decodeCalls(row);
      this.#touched.set(id, calls);
    }
    return calls;
  }
}

function encodeCalls(calls: Calls): Uint8Array {
  const writer = new Writer(16 + calls.open.length * 8);
  writer.byte(FORMAT);
  writer.uint(calls.answered === null ? 0 : 1);
  if (calls.answered !== null) writeSpot(writer, calls.answered);
  writer.uint(calls.open.length);
  for (const spot of calls.open) writeSpot(writer, spot);
  return writer.done();
}

function decodeCalls(bytes: Uint8Array): Calls {
  const reader = new Reader(bytes);
  const known = reader.byte() === FORMAT;
  const answered = reader.uint() === 0 ? null : readSpot(reader);
  const open: Spot[] = [];
  const count = reader.count();
  for (let i = 0; i < count && reader.ok; i++) open.push(readSpot(reader));
  return known && reader.ok ? { open, answered } : { open: [], answered: null };
}

/** The low bit of the part says which of the two kinds of place follows. */
function writeSpot(writer: Writer, spot: Spot): void {
  writer.uint(spot.part * 2 + (spot.place < 0 ? 1 : 0));
  writer.uint(Math.abs(spot.place));
}

function readSpot(reader: Reader): Spot {
  const head = reader.uint();
  const place = reader.uint();
  return { part: Math.floor(head / 2), place: head % 2 === 1 ? -place : place };
}
