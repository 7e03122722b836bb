/**
 * The disk of one replica in the golden scripts: what is durable, and writes that are not yet. A crash loses the latter.
 */
import type { ConfState, Entry, HardState, LogReader, PersistToken, Ready, SnapshotMeta } from '../../raft/types.ts';

/** The replicated state: the commands applied so far. */
export type State = readonly string[];

/** One Ready's share of the disk, and the messages that wait for it. */
export interface Write {
  readonly ready: Ready;
  readonly token: PersistToken | null;
  /** Applied position and state when the write was made: they ride in the same batch. */
  readonly applied: { readonly index: number; readonly conf: ConfState; readonly state: State };
  /** Rows of the snapshot that the write makes current. */
  readonly restored: State | null;
}

export class Disk implements LogReader {
  hardState: HardState = { term: 0, vote: 0, commit: 0 };
  conf: ConfState;
  appliedIndex = 0;
  state: State = [];
  #first = 1;
  #firstTerm = 0;
  #entries: Entry[] = [];

  constructor(conf: ConfState) {
    this.conf = conf;
  }

  firstIndex(): number {
    return this.#first;
  }

  lastIndex(): number {
    return this.#first + this.#entries.length - 1;
  }

  term(index: number): number {
    if (index === this.#first - 1) return this.#firstTerm;
    return this.#entries[index - this.#first]?.term ?? -1;
  }

  entries(from: number, to: number, bytesMax: number): Entry[] {
    if (from < this.#first || to > this.lastIndex() + 1) {
      throw new RangeError(`[${from}, ${to}) of [${this.#first}, ${this.lastIndex()}]`);
    }
    const found: Entry[] = [];
    let bytes = 0;
    for (const entry of this.#entries.slice(from - this.#first, to - this.#first)) {
      bytes += entry.data.length;
      if (found.length > 0 && bytes > bytesMax) break;
      found.push(entry);
    }
    return found;
  }

  /** Makes a write durable. */
  apply(write: Write): void {
    const { hardState, entries, snapshot } = write.ready;
    if (hardState !== null) this.hardState = hardState;
    if (snapshot !== null) this.#restore(snapshot, write.restored ?? []);
    const first = entries[0];
    if (first !== undefined) {
      this.#entries.length = first.index - this.#first;
      this.#entries.push(...entries);
    }
    if (write.applied.index > this.appliedIndex) {
      this.appliedIndex = write.applied.index;
      this.conf = write.applied.conf;
      this.state = write.applied.state;
    }
  }

  #restore(snapshot: SnapshotMeta, state: State): void {
    this.#first = snapshot.index + 1;
    this.#firstTerm = snapshot.term;
    this.#entries = [];
    this.appliedIndex = snapshot.index;
    this.conf = snapshot.conf;
    this.state = state;
  }

  compactTo(firstIndex: number): void {
    this.#firstTerm = this.term(firstIndex - 1);
    this.#entries = this.#entries.slice(firstIndex - this.#first);
    this.#first = firstIndex;
  }
}
