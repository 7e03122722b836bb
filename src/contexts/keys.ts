/**
 * Idempotency keys in memory. Nearly every key is new, and to find that out in LevelDB is dear: a row that is not there is
 * looked for on each level, and files that are looked into often are compacted for it. A context is kept here with all its
 * keys or not at all; which keys those are its header says, so that what is kept is never taken for more than it is.
 * Bounded; contexts that wrote longest ago go first.
 */
import { BoundedContexts } from './bounded.ts';

/** Of one node (or shard): about 40 MiB. */
const ENTRIES_MAX = 200_000;
/** What a context takes besides its keys, in entries. */
const CONTEXT_ENTRIES = 4;

/** A place in the ring (idempotency.ts). */
export interface RingEntry {
  readonly key: string;
  readonly stampMs: number;
}

/** All keys of one context, by place in its ring. */
export class ContextKeys {
  #oldest: number;
  #ring: RingEntry[] = [];
  /** `#ring[#head]` is at `#oldest`; what is before it is cut off once it is half. */
  #head = 0;
  /** Newest place of each key. */
  readonly #places = new Map<string, number>();

  constructor(oldest: number) {
    this.#oldest = oldest;
  }

  /** In entries. */
  get size(): number {
    return CONTEXT_ENTRIES + this.#count;
  }

  get #count(): number {
    return this.#ring.length - this.#head;
  }

  /** Whether this is the ring from `oldest` to `newest`. */
  covers(oldest: number, newest: number): boolean {
    return this.#oldest === oldest && this.#oldest + this.#count - 1 === newest;
  }

  /** The newest place of `key`; undefined of one that is not in the ring. */
  placeOf(key: string): number | undefined {
    return this.#places.get(key);
  }

  at(place: number): RingEntry | undefined {
    return this.#ring[this.#head + place - this.#oldest];
  }

  add(entry: RingEntry): void {
    this.#places.set(entry.key, this.#oldest + this.#count);
    this.#ring.push(entry);
  }

  dropOldest(): void {
    const entry = this.#ring[this.#head];
    if (entry === undefined) return;
    if (this.#places.get(entry.key) === this.#oldest) this.#places.delete(entry.key);
    this.#oldest++;
    this.#head++;
    if (this.#head * 2 > this.#ring.length) {
      this.#ring.splice(0, this.#head);
      this.#head = 0;
    }
  }
}

export class KeyMemory extends BoundedContexts<ContextKeys> {
  constructor(entriesMax = ENTRIES_MAX) {
    super(entriesMax, (keys) => keys.size);
  }
}
