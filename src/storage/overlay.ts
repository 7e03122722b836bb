/**
 * State rows that were applied but are not durable yet. Reads look here first: rows waiting for the next write, then
 * rows of the write in flight, then LevelDB. Owns no bytes on disk.
 */
import type { RowKey, Table, Write } from '../contexts/types.ts';

/** A row here besides its value. */
const ROW_BYTES = 200;

/** Rows of a context up to which looking through them is cheaper than a map of them. */
const FEW_ROWS = 8;

/** Rows of one context. Most writes hold a header and a message or two of each. */
class ContextRows {
  /** Null once there are too many. */
  private few: Write[] | null;
  private readonly many = new Map<Table, Map<RowKey, Write>>();

  constructor(first: Write) {
    this.few = [first];
  }

  get(table: Table, key: RowKey): Write | undefined {
    if (this.few === null) return this.many.get(table)?.get(key);
    for (const write of this.few) if (write.key === key && write.table === table) return write;
    return undefined;
  }

  /** True if the row is a new one. */
  set(write: Write): boolean {
    const { few } = this;
    if (few === null) return this.setAmongMany(write);
    for (let i = 0; i < few.length; i++) {
      const held = few[i];
      if (held?.key !== write.key || held.table !== write.table) continue;
      few[i] = write;
      return false;
    }
    if (few.length < FEW_ROWS) {
      few.push(write);
      return true;
    }
    this.few = null;
    for (const held of few) this.setAmongMany(held);
    return this.setAmongMany(write);
  }

  *of(table: Table): Generator<Write> {
    if (this.few === null) yield* this.many.get(table)?.values() ?? [];
    else for (const write of this.few) if (write.table === table) yield write;
  }

  forEach(visit: (write: Write) => void): void {
    if (this.few !== null) this.few.forEach(visit);
    else for (const rows of this.many.values()) rows.forEach(visit);
  }

  private setAmongMany(write: Write): boolean {
    let rows = this.many.get(write.table);
    if (rows === undefined) {
      rows = new Map();
      this.many.set(write.table, rows);
    }
    const { size } = rows;
    rows.set(write.key, write);
    return rows.size > size;
  }
}

/** By context: a name put together from context, table and key would have to be hashed anew for every row. */
class PendingRows {
  size = 0;
  private readonly contexts = new Map<string, ContextRows>();

  get(table: Table, context: string, key: RowKey): Write | undefined {
    return this.size === 0 ? undefined : this.contexts.get(context)?.get(table, key);
  }

  set(write: Write): void {
    const rows = this.contexts.get(write.context);
    if (rows === undefined) this.contexts.set(write.context, new ContextRows(write));
    else if (!rows.set(write)) return;
    this.size++;
  }

  clear(): void {
    if (this.size === 0) return;
    this.contexts.clear();
    this.size = 0;
  }

  forEach(visit: (write: Write) => void): void {
    if (this.size > 0) this.contexts.forEach((rows) => rows.forEach(visit));
  }

  /** Rows of `table`, of one context unless null. */
  *of(table: Table, context: string | null): Generator<Write> {
    if (context !== null) {
      yield* this.contexts.get(context)?.of(table) ?? [];
      return;
    }
    for (const rows of this.contexts.values()) yield* rows.of(table);
  }
}

/** Rows to be written, each once. */
export interface CapturedRows {
  forEach(visit: (write: Write) => void): void;
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
  capture(): CapturedRows {
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
