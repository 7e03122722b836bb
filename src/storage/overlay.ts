/**
 * State rows that were applied but are not durable yet. Reads look here first: rows waiting for the next write, then
 * rows of the write in flight, then LevelDB. Owns no bytes on disk.
 */
import type { RowKey, Table, Write } from '../contexts/types.ts';

/** A row here besides its value. */
const ROW_BYTES = 200;

/** By context, table and key: a name put together from the three would have to be hashed anew for every row. */
class PendingRows {
  size = 0;
  private readonly contexts = new Map<string, Map<Table, Map<RowKey, Write>>>();

  get(table: Table, context: string, key: RowKey): Write | undefined {
    return this.size === 0 ? undefined : this.contexts.get(context)?.get(table)?.get(key);
  }

  set(write: Write): void {
    let tables = this.contexts.get(write.context);
    if (tables === undefined) {
      tables = new Map();
      this.contexts.set(write.context, tables);
    }
    let rows = tables.get(write.table);
    if (rows === undefined) {
      rows = new Map();
      tables.set(write.table, rows);
    }
    rows.set(write.key, write);
    this.size++;
  }

  clear(): void {
    if (this.size === 0) return;
    this.contexts.clear();
    this.size = 0;
  }

  *[Symbol.iterator](): Iterator<Write> {
    for (const tables of this.contexts.values()) for (const rows of tables.values()) yield* rows.values();
  }

  /** Rows of `table`, of one context unless null. */
  *of(table: Table, context: string | null): Generator<Write> {
    if (context !== null) {
      yield* this.contexts.get(context)?.get(table)?.values() ?? [];
      return;
    }
    for (const tables of this.contexts.values()) yield* tables.get(table)?.values() ?? [];
  }
}

export class Overlay {
  private pending = new PendingRows();
  private inFlight = new PendingRows();
  private pendingBytes = 0;

  get isEmpty(): boolean {
    return this.pending.size === 0 && this.inFlight.size === 0;
  }

  /** The newest unwritten version of a row: undefined if there is none, a null value if it was deleted. */
  get(table: Table, context: string, key: RowKey): Write | undefined {
    return this.pending.get(table, context, key) ?? this.inFlight.get(table, context, key);
  }

  /** Returns what it takes, roughly; a row put twice is counted twice. */
  put(write: Write): number {
    this.pending.set(write);
    const bytes = ROW_BYTES + (write.value === null ? 0 : write.value.length);
    this.pendingBytes += bytes;
    return bytes;
  }

  /** What `put` returned since the last call: the caller stops counting it. */
  takeBytes(): number {
    const bytes = this.pendingBytes;
    this.pendingBytes = 0;
    return bytes;
  }

  /** The pending rows become the ones in flight; rows put from now on belong to the next write. */
  capture(): Iterable<Write> {
    const empty = this.inFlight;
    this.inFlight = this.pending;
    this.pending = empty;
    return this.inFlight;
  }

  /** The captured rows are durable. */
  written(): void {
    this.inFlight.clear();
  }

  /** The state they belonged to is gone. */
  clear(): void {
    this.pending.clear();
    this.inFlight.clear();
  }

  /** Unwritten rows of `table` (of one context, unless null), newest versions only, in no order. */
  select(table: Table, context: string | null): Write[] {
    const rows = [...this.pending.of(table, context)];
    for (const write of this.inFlight.of(table, context)) if (this.pending.get(table, write.context, write.key) === undefined) rows.push(write);
    return rows;
  }
}
