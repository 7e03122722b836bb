/**
 * Messages as answers show them, kept for contexts that are read again and again: per context one run of the log, each
 * message rendered once and stored one behind the other, commas between, so that a page or a window is a stretch of
 * bytes. A message never changes, so a text can be too short and never wrong: whoever asks says up to where, and what is
 * lacking is read from the rows. What may be shown at all (a context that was purged, messages that were trimmed) is
 * for the caller to know; `delete` and `clear` are for the memory, and for state that was replaced as a whole.
 *
 * Bounded in bytes, least recently used first. What is handed out is a view of bytes that are never written again.
 */
import { BoundedContexts } from './contexts/bounded.ts';
import type { MessageRow } from './contexts/rows.ts';
import type { Rows } from './contexts/types.ts';
import type { WholeWindow } from './whole-windows.ts';
import { messageBytesMax, messageRow, writeMessage } from './render.ts';

/** Of one node (or shard), everything included. */
export const TEXTS_BYTES_MAX = 64 * 1024 * 1024;
/** Of one context: more is rendered for each answer, as a few of that size would drive out all others. */
const CONTEXT_BYTES_MAX = 8 * 1024 * 1024;
/** A context here without its bytes: about what the runtime takes. */
const ENTRY_BYTES = 1024;
const START_BYTES = 8;
const CAPACITY_MIN = 1024;
const GUESS_BYTES = 16 * 1024;
/** A place more than this many times too large, and a guess besides, is changed for one that fits. */
const SPARE_MAX = 2;
const COMMA = 0x2c;
const NOTHING = Buffer.alloc(0);

/** An answer that was made for one state of a context. */
export interface MadeAnswer {
  /** Names that state and the query. */
  readonly etag: string;
  readonly body: Buffer;
}

/** One context's texts. `first` to `last` without a gap; none where `last` is below `first`. */
export class ContextText {
  first = 1;
  last = 0;
  /** What a window of this context needs besides texts, for the next one; see whole-windows.ts. */
  whole: WholeWindow | null = null;
  made: MadeAnswer | null = null;
  /** Smallest seq that was asked for since there was last no room: what lies below has had its time. */
  private askedFrom = Number.MAX_SAFE_INTEGER;
  private bytes = NOTHING;
  private used = 0;
  private starts: number[] = [];

  get size(): number {
    return ENTRY_BYTES + this.bytes.length + this.starts.length * START_BYTES + (this.whole?.lead.length ?? 0) + (this.made?.body.length ?? 0);
  }

  holds(from: number, to: number): boolean {
    return from >= this.first && to <= this.last;
  }

  /** Bytes of the text of message `seq`, which is held. */
  message(seq: number): Buffer {
    return this.text(seq, seq);
  }

  /** Messages `from` to `to`, all held, commas between. */
  text(from: number, to: number): Buffer {
    if (from > to) return NOTHING;
    return this.bytes.subarray(this.starts[from - this.first], this.endOf(to));
  }

  /** Makes this hold `from` to `to`, all of which the rows have; false, and then nothing is held, where that is too much. */
  reach(rows: Rows, id: string, from: number, to: number): boolean {
    this.askedFrom = Math.min(this.askedFrom, from);
    if (this.last < this.first || from > this.last + 1 || to < this.first - 1) this.begin(from);
    // Read before it is added to, as reading may throw.
    if (from < this.first && !this.prepend(rows, id, from)) return false;
    while (this.last < to) {
      const row = messageRow(storedRow(rows, id, 'message', this.last + 1));
      const more = 1 + messageBytesMax(row);
      if (this.used + more > CONTEXT_BYTES_MAX) return this.giveUp();
      if (this.used + more > this.bytes.length) {
        this.drop(from);
        this.move(this.roomFor(more, to - this.last));
      }
      this.append(row);
    }
    if (this.bytes.length > SPARE_MAX * this.used + GUESS_BYTES) this.move(this.used);
    return true;
  }

  private begin(from: number): void {
    this.first = from;
    this.last = from - 1;
    this.used = 0;
    this.bytes = NOTHING;
    this.starts = [];
    this.askedFrom = from;
  }

  private append(row: MessageRow): void {
    let at = this.used;
    if (this.last >= this.first) this.bytes[at++] = COMMA;
    this.starts.push(at);
    this.used = writeMessage(this.bytes, at, ++this.last, row);
  }

  /** Room for `count` messages of which the next takes `more`: as large as those before, and no more than a guess may cost. */
  private roomFor(more: number, count: number): number {
    const held = this.last - this.first + 1;
    const each = held === 0 ? more : Math.max(more, this.used / held);
    const guess = Math.min(each * count, more + 4 * Math.max(this.used, GUESS_BYTES));
    // A sixteenth to spare: a text that grows is moved once for many messages, and little is kept for nothing.
    return Math.ceil(this.used + Math.max(guess, CAPACITY_MIN) + this.used / 16);
  }

  /** Lets go of what nobody has asked for since the last time, but nothing from message `from` on. */
  private drop(from: number): void {
    const first = Math.min(this.askedFrom, from);
    this.askedFrom = from;
    if (first <= this.first || first > this.last) return;
    const offset = this.starts[first - this.first] ?? 0;
    this.starts = this.starts.slice(first - this.first).map((start) => start - offset);
    this.bytes = this.bytes.subarray(offset);
    this.used -= offset;
    this.first = first;
  }

  private move(capacity: number): void {
    const moved = Buffer.allocUnsafeSlow(capacity);
    moved.set(this.bytes.subarray(0, this.used));
    this.bytes = moved;
  }

  private prepend(rows: Rows, id: string, from: number): boolean {
    const older = new ContextText();
    if (!older.reach(rows, id, from, this.first - 1) || older.used + this.used >= CONTEXT_BYTES_MAX) return this.giveUp();
    const joined = Buffer.allocUnsafeSlow(older.used + 1 + this.used);
    joined.set(older.bytes.subarray(0, older.used));
    joined[older.used] = COMMA;
    joined.set(this.bytes.subarray(0, this.used), older.used + 1);
    const shift = older.used + 1;
    this.starts = [...older.starts, ...this.starts.map((start) => start + shift)];
    this.used += shift;
    this.bytes = joined;
    this.first = from;
    return true;
  }

  private giveUp(): false {
    this.begin(1);
    this.whole = null;
    return false;
  }

  private endOf(seq: number): number {
    return seq === this.last ? this.used : (this.starts[seq - this.first + 1] ?? 0) - 1;
  }
}

/** A row that the context's header says is there. Throws Error where it is not, and what reading it throws. */
export function storedRow(rows: Rows, id: string, table: 'message' | 'replacement', key: number): Uint8Array {
  const row = rows.get(table, id, key);
  if (row === undefined) throw new Error(`${table} ${key} of context ${JSON.stringify(id)} is missing from storage`);
  return row;
}

export class MessageTexts extends BoundedContexts<ContextText> {
  constructor(bytesMax = TEXTS_BYTES_MAX) {
    super(bytesMax, (text) => text.size);
  }

  /**
   * A context's text that holds messages `from` to `to`, all of which the rows must have; null where that is more than
   * is kept of one context. Throws what reading rows throws.
   */
  reach(rows: Rows, id: string, from: number, to: number): ContextText | null {
    const text = this.get(id) ?? new ContextText();
    try {
      return text.reach(rows, id, from, to) ? text : null;
    } finally {
      this.keep(id, text);
    }
  }

  /** `made` for as long as the context is kept and no other takes its place. */
  remember(id: string, made: MadeAnswer): void {
    if (made.body.length > CONTEXT_BYTES_MAX) return;
    const text = this.get(id) ?? new ContextText();
    text.made = made;
    this.keep(id, text);
  }
}
