/**
 * Idempotency keys in memory. Nearly every key is new, and to find that out in LevelDB is dear: a row that is not there is
 * looked for on each level, and files that are looked into often are compacted for it. A context is kept here with all its
 * keys or not at all; which keys those are its header says, so that what is kept is never taken for more than it is.
 * Bounded; contexts that wrote longest ago go first.
 */

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
  /** What KeyMemory counts for this. */
  counted = 0;
  #oldest: number;
  #ring: RingEntry[] = [];
  /** `#ring[#head]` is at `#oldest`; what is before it is cut off once it is half. */
  #head = 0;
  /** Newest place of each key. */
  readonly #places = new Map<string, number>();

  constructor(oldest: number) {
    this.#oldest = oldest;
  }

  get size(): number {
    return this.#ring.length - this.#head;
  }

  /** Whether this is the ring from `oldest` to `newest`. */
  covers(oldest: number, newest: number): boolean {
    return this.#oldest === oldest && this.#oldest + this.size - 1 === newest;
  }

  /** The newest place of `key`; undefined of one that is not in the ring. */
  placeOf(key: string): number | undefined {
    return this.#places.get(key);
  }

  at(place: number): RingEntry | undefined {
    return this.#ring[this.#head + place - this.#oldest];
  }

  add(entry: RingEntry): void {
    this.#places.set(entry.key, this.#oldest + this.size);
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

export class KeyMemory {
  readonly #contexts = new Map<string, ContextKeys>();
  readonly #entriesMax: number;
  #entries = 0;

  constructor(entriesMax = ENTRIES_MAX) {
    this.#entriesMax = entriesMax;
  }

  get(context: string): ContextKeys | undefined {
    return this.#contexts.get(context);
  }

  /** Keeps `keys`, as the newest to have written, or what they have become. */
  keep(context: string, keys: ContextKeys): void {
    this.delete(context);
    this.#contexts.set(context, keys);
    keys.counted = CONTEXT_ENTRIES + keys.size;
    this.#entries += keys.counted;
    for (const oldest of this.#contexts.keys()) {
      if (this.#entries <= this.#entriesMax) return;
      this.delete(oldest);
    }
  }

  delete(context: string): void {
    this.#entries -= this.#contexts.get(context)?.counted ?? 0;
    this.#contexts.delete(context);
  }

  clear(): void {
    this.#contexts.clear();
    this.#entries = 0;
  }
}
