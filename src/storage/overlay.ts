/**
 * State rows that were applied but are not durable yet. Reads look here first: rows waiting for the next write, then
 * rows of the write in flight, then LevelDB. Owns no bytes on disk.
 */
import type { RowKey, Table, Write } from '../contexts/types.ts';

export class Overlay {
  private pending = new Map<string, Write>();
  private inFlight = new Map<string, Write>();

  get isEmpty(): boolean {
    return this.pending.size === 0 && this.inFlight.size === 0;
  }

  /** The newest unwritten version of a row: undefined if there is none, a null value if it was deleted. */
  get(table: Table, context: string, key: RowKey): Write | undefined {
    if (this.isEmpty) return undefined;
    const name = nameOf(table, context, key);
    return this.pending.get(name) ?? this.inFlight.get(name);
  }

  put(write: Write): void {
    this.pending.set(nameOf(write.table, write.context, write.key), write);
  }

  /** The pending rows become the ones in flight; rows put from now on belong to the next write. */
  capture(): Iterable<Write> & { readonly size: number } {
    const empty = this.inFlight;
    this.inFlight = this.pending;
    this.pending = empty;
    return { size: this.inFlight.size, [Symbol.iterator]: () => this.inFlight.values() };
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
    const rows: Write[] = [];
    const matches = (write: Write): boolean => write.table === table && (context === null || write.context === context);
    for (const write of this.pending.values()) if (matches(write)) rows.push(write);
    for (const [name, write] of this.inFlight) if (matches(write) && !this.pending.has(name)) rows.push(write);
    return rows;
  }
}

/** Injective: the length says where the context ends and the key begins. Within a table all keys are of one kind. */
function nameOf(table: Table, context: string, key: RowKey): string {
  return `${table}${context.length}:${context}${key}`;
}
