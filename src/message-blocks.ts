/**
 * Messages that were appended together, many in one row and compressed. A message row is written once to LevelDB's log
 * and again with each sorting; in one row with its neighbours it takes a third of the bytes and no key of its own, and
 * whoever reads a window has most of it at once. What apply decides knows nothing of this: rows are put together on
 * their way into storage and taken apart on their way out (machine.ts).
 *
 * A block lies within one span of SPAN seqs, at its lower end or its upper one, and is stored under the seq at that end,
 * so that any message is found without an index: under its own key, or in one of the two rows at the ends of its span.
 *
 *   byte 0    BLOCK_FORMAT, which no row of a single message begins with
 *   first     uint: seq of the first message
 *   count     uint
 *   the rest  a zstd frame: the length of each row as uint, then the rows
 *
 * A row at an end of a span is kept until the whole span has been deleted; what is there all the same, the header says.
 */
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { BoundedContexts } from './contexts/bounded.ts';
import { Reader, Writer } from './contexts/bytes.ts';
import type { ContextHeader, Write } from './contexts/types.ts';
import { ZSTD_OPTIONS } from './packing.ts';

// What is a block depends on these and the messages alone, never on what compressing them came to: every replica has the
// same rows, and a purge names rows.
const SPAN = 64;
const BLOCK_FORMAT = 128;
/** Fewer, or less than these bytes, are not worth the call that compresses them. */
const COUNT_MIN = 8;
const PLAIN_BYTES_MIN = 4 * 1024;
/** One message of a block is had by unpacking all of it. */
const PLAIN_BYTES_MAX = 128 * 1024;
/** Lengths in front of the rows. */
const LENGTHS_BYTES_MAX = SPAN * 8;
/** Of blocks kept unpacked, by one node or shard. */
const RECENT_BYTES_MAX = 16 * 1024 * 1024;
/** A block, and a row in it, without its bytes: about what the runtime takes. */
const BLOCK_BYTES = 512;
const ROW_BYTES = 100;
/** A row that somebody keeps must not keep all of its block: so many are copied, and who asks for more is reading the block. */
const COPIES = 8;

/** Messages `first` to `first + rows.length - 1` of a context, without a gap. */
export interface MessageBlock {
  readonly first: number;
  readonly rows: readonly Uint8Array[];
}

/** Seqs of the two rows that may hold a block with message `seq`, the lower one first. */
export function endsOfSpan(seq: number): readonly [number, number] {
  const first = spanStart(seq);
  return [first, first + SPAN - 1];
}

/** Whether a row under this key may hold more than message `seq`, or stay behind when that is deleted. */
export function endsSpan(seq: number): boolean {
  const within = (seq - 1) % SPAN;
  return within === 0 || within === SPAN - 1;
}

/**
 * The rows to store for what a command wrote: the same, but for runs of messages that make a block, and deletions at the
 * ends of spans. `headerAfter`: of a context, once the command is applied.
 */
export function storedWrites(writes: readonly Write[], headerAfter: (context: string) => ContextHeader | undefined): readonly Write[] {
  if (!writes.some(isDeletion)) return writes.length < COUNT_MIN ? writes : withBlocks(writes);
  return withBlocks(withSpansDeleted(writes, headerAfter));
}

/** Whether a message's row is a block. */
export function isBlock(row: Uint8Array): boolean {
  return row[0] === BLOCK_FORMAT;
}

/** Whether `row` is a block with message `seq`, without unpacking it. */
export function blockHolds(row: Uint8Array, seq: number): boolean {
  if (!isBlock(row)) return false;
  const { first, count } = extentOf(new Reader(row));
  return seq >= first && seq < first + count;
}

/** Throws for what passed its checksum and is no block: serving on would hide a bug. */
export function openBlock(row: Uint8Array): MessageBlock {
  const head = new Reader(row);
  const { first, count } = extentOf(head);
  const plain = zstdDecompressSync(row.subarray(head.at), { maxOutputLength: PLAIN_BYTES_MAX + LENGTHS_BYTES_MAX });
  const reader = new Reader(plain);
  const lengths = Array.from({ length: count }, () => reader.uint());
  let at = reader.at;
  const rows = lengths.map((length) => plain.subarray(at, (at += length)));
  if (!head.ok || !reader.ok || at !== plain.length) throw new Error('a block of messages does not decode');
  return { first, rows };
}

/** The messages in a stored row, which is one message's or a block; views, not copies. */
export function messagesIn(key: number, row: Uint8Array): MessageBlock {
  return isBlock(row) ? openBlock(row) : { first: key, rows: [row] };
}

function spanStart(seq: number): number {
  return seq - ((seq - 1) % SPAN);
}

function extentOf(reader: Reader): { readonly first: number; readonly count: number } {
  reader.byte();
  const first = reader.uint();
  return { first, count: Math.min(reader.uint(), SPAN) };
}

function isDeletion({ table, value }: Write): boolean {
  return table === 'message' && value === null;
}

/** Deletes of each span what lies between its ends as told, and the ends once nothing of it is held. */
function withSpansDeleted(writes: readonly Write[], headerAfter: (context: string) => ContextHeader | undefined): readonly Write[] {
  const stored: Write[] = [];
  let lastContext = '';
  let lastSpan = 0;
  for (const write of writes) {
    const { context, key } = write;
    const header = isDeletion(write) ? headerAfter(context) : undefined;
    // Of a context that is gone, rows are deleted by the names they are stored under.
    if (header === undefined || header.status === 'purged' || typeof key !== 'number') {
      stored.push(write);
      continue;
    }
    const span = spanStart(key);
    if (!endsSpan(key)) stored.push(write);
    if (lastSpan === span && lastContext === context) continue;
    lastSpan = span;
    lastContext = context;
    if (holdsAny(header, span)) continue;
    for (const end of endsOfSpan(span)) stored.push({ table: 'message', context, key: end, value: null });
  }
  return stored;
}

function holdsAny({ trimmedSeq, window }: ContextHeader, span: number): boolean {
  return span + SPAN - 1 > trimmedSeq || window.pinned.some((seq) => seq >= span && seq < span + SPAN);
}

function withBlocks(writes: readonly Write[]): readonly Write[] {
  const stored: Write[] = [];
  for (let at = 0; at < writes.length;) {
    const run = writes.slice(at, runEnd(writes, at));
    const block = blockOf(run);
    if (block === null) stored.push(...run);
    else stored.push(block);
    at += run.length;
  }
  return stored;
}

/** Behind the messages of one span, each the next, that begin at `start`; behind `start` for anything else. */
function runEnd(writes: readonly Write[], start: number): number {
  const begin = writes[start];
  let end = start + 1;
  if (begin === undefined || begin.table !== 'message' || typeof begin.key !== 'number') return end;
  const { context, key } = begin;
  const count = spanStart(key) + SPAN - key;
  for (; end < writes.length && end - start < count; end++) {
    const next = writes[end];
    if (next?.table !== 'message' || next.value === null || next.context !== context || next.key !== key + end - start) break;
  }
  return end;
}

/** One row for all of `run`, or null where they are stored one by one. */
function blockOf(run: readonly Write[]): Write | null {
  const [begin] = run;
  if (run.length < COUNT_MIN || begin === undefined || typeof begin.key !== 'number') return null;
  const first = begin.key;
  const last = first + run.length - 1;
  const key = endsSpan(first) ? first : last;
  if (!endsSpan(key)) return null;
  let bytes = 0;
  for (const { value } of run) bytes += value?.length ?? 0;
  if (bytes < PLAIN_BYTES_MIN || bytes > PLAIN_BYTES_MAX) return null;
  const plain = new Writer(bytes + LENGTHS_BYTES_MAX);
  for (const { value } of run) plain.uint(value?.length ?? 0);
  for (const { value } of run) if (value !== null) plain.raw(value);
  const frame = zstdCompressSync(plain.done(), ZSTD_OPTIONS);
  const row = new Writer(17 + frame.length);
  row.byte(BLOCK_FORMAT);
  row.uint(first);
  row.uint(run.length);
  row.raw(frame);
  return { table: 'message', context: begin.context, key, value: row.done() };
}

/** Blocks that were read last, unpacked, of any context: whoever reads one message mostly goes on with another of its block. */
export class RecentBlocks {
  private readonly kept = new BoundedContexts<MessageBlock>(RECENT_BYTES_MAX, ({ rows }) => BLOCK_BYTES + rows.reduce((sum, row) => sum + ROW_BYTES + row.length, 0));
  private context = '';
  private latest: MessageBlock | null = null;
  /** Messages asked for since `latest` is it. */
  private asked = 0;

  /** From the block that was asked last: costs next to nothing where messages have rows of their own. */
  fromLatest(context: string, seq: number): Uint8Array | undefined {
    const row = this.context === context ? this.latest?.rows[seq - this.latest.first] : undefined;
    if (row === undefined) return undefined;
    return ++this.asked > COPIES ? row : new Uint8Array(row);
  }

  /** From any that is kept. */
  get(context: string, seq: number): Uint8Array | undefined {
    const row = this.fromLatest(context, seq);
    if (row !== undefined) return row;
    for (const end of endsOfSpan(seq)) {
      const block = this.kept.get(named(context, end));
      if (block?.rows[seq - block.first] === undefined) continue;
      this.turnTo(context, block);
      return this.fromLatest(context, seq);
    }
    return undefined;
  }

  /** `block` is stored under `key`. */
  keep(context: string, key: number, block: MessageBlock): void {
    this.turnTo(context, block);
    this.kept.keep(named(context, key), block);
  }

  clear(): void {
    this.latest = null;
    this.kept.clear();
  }

  private turnTo(context: string, block: MessageBlock): void {
    this.context = context;
    this.latest = block;
    this.asked = 0;
  }
}

function named(context: string, key: number): string {
  return `${context}\0${key}`;
}
