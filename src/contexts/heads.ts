/**
 * Heads of message rows, which is all of a row but its texts, kept from a context's first message on or from a cut of its
 * window: a cut looks at every message of the window, and at none of their texts. A row never changes, so what is kept can
 * be incomplete and never wrong; what is lacking is read from the rows. Bounded in bytes: contexts that were begun or cut
 * longest ago go first.
 */
import { BoundedContexts } from './bounded.ts';
import { decodeMessageRow } from './rows.ts';
import type { Write } from './types.ts';

/** Of one node (or shard), everything included: full windows of about two thousand contexts. */
const HEADS_BYTES_MAX = 32 * 1024 * 1024;
/** A context here without its heads: about what the runtime takes. */
const ENTRY_BYTES = 512;
const START_BYTES = 8;
/** A message with a larger part table is read from its row. */
const HEAD_BYTES_MAX = 1024;
const CAPACITY_MIN = 1024;

/** One context's heads, from seq `first` on. One that is not kept takes no bytes. */
export class ContextHeads {
  #first = 0;
  /** Where the head of seq `first + i` starts; it ends where the next does, or at `#used`. */
  #starts: number[] = [];
  #bytes = new Uint8Array(0);
  #used = 0;

  get size(): number {
    return ENTRY_BYTES + this.#bytes.length + this.#starts.length * START_BYTES;
  }

  /** The head of message `seq`; undefined where it is not kept. */
  get(seq: number): Uint8Array | undefined {
    const i = seq - this.#first;
    const start = this.#starts[i];
    if (start === undefined) return undefined;
    const end = this.#starts[i + 1] ?? this.#used;
    return end === start ? undefined : this.#bytes.subarray(start, end);
  }

  /** Keeps the head of `row`, message `seq`; one that does not lie behind all others is passed over. */
  add(seq: number, row: Uint8Array): void {
    if (this.#starts.length === 0) this.#first = seq;
    if (seq < this.#first + this.#starts.length) return;
    // Messages between the two are not in the window.
    while (this.#first + this.#starts.length < seq) this.#starts.push(this.#used);
    this.#starts.push(this.#used);
    const length = decodeMessageRow(row)?.roleStart ?? 0;
    if (length > HEAD_BYTES_MAX) return;
    if (this.#used + length > this.#bytes.length) this.#move(Math.max(CAPACITY_MIN, 2 * (this.#used + length)), 0);
    this.#bytes.set(row.subarray(0, length), this.#used);
    this.#used += length;
  }

  /** Messages before `seq` have left the window. They go once they are half of all: the others are moved. */
  dropBefore(seq: number): void {
    const count = Math.min(seq - this.#first, this.#starts.length);
    if (count < 1 || count * 2 < this.#starts.length) return;
    const from = this.#starts[count] ?? this.#used;
    this.#starts = this.#starts.slice(count).map((start) => start - from);
    this.#first += count;
    this.#move(2 * (this.#used - from), from);
  }

  #move(capacity: number, from: number): void {
    const bytes = new Uint8Array(capacity);
    bytes.set(this.#bytes.subarray(from, this.#used));
    this.#bytes = bytes;
    this.#used -= from;
  }
}

export class MessageHeads {
  readonly #contexts: BoundedContexts<ContextHeads>;

  constructor(bytesMax = HEADS_BYTES_MAX) {
    this.#contexts = new BoundedContexts(bytesMax, (heads) => heads.size);
  }

  /** Those of `context`, for a cut: what it reads besides, it adds. */
  forCut(context: string): ContextHeads {
    return this.#contexts.get(context) ?? this.#begin(context);
  }

  /** A command changed `context`: messages were added, or left its window, which now starts at `firstSeq`. */
  applied(context: string, firstSeq: number, writes: readonly Write[]): void {
    const isFirst = writes[0]?.table === 'message' && writes[0].key === 1;
    const heads = this.#contexts.peek(context) ?? (isFirst ? this.#begin(context) : undefined);
    if (heads === undefined) return;
    for (const { table, key, value } of writes) if (table === 'message' && typeof key === 'number' && value !== null) heads.add(key, value);
    heads.dropBefore(firstSeq);
    this.#contexts.keep(context, heads);
  }

  delete(context: string): void {
    this.#contexts.delete(context);
  }

  clear(): void {
    this.#contexts.clear();
  }

  #begin(context: string): ContextHeads {
    const heads = new ContextHeads();
    this.#contexts.keep(context, heads);
    return heads;
  }
}
