/**
 * Simulated time and chance: events run one by one in order of time, those of the same instant in the order they were
 * made, and every random choice comes from one seed. Nothing here waits, so a run is a pure function of its seed.
 */

/** Floats in [0, 1) from a 32-bit seed (sfc32). */
export function seededRandom(seed: number): () => number {
  let a = seed | 0;
  let b = 0x9e3779b9 ^ seed;
  let c = Math.imul(seed, 0x85ebca6b);
  let counter = 1;
  const next = (): number => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    return (sum >>> 0) / 4294967296;
  };
  for (let i = 0; i < 15; i++) next();
  return next;
}

/** Choices made with one source of randomness. */
export class Chance {
  readonly float: () => number;

  constructor(seed: number) {
    this.float = seededRandom(seed);
  }

  /** An integer in [from, to]. */
  int(from: number, to: number): number {
    return from + Math.floor(this.float() * (to - from + 1));
  }

  yes(probability: number): boolean {
    return this.float() < probability;
  }

  pick<T>(from: readonly T[]): T | undefined {
    return from[Math.floor(this.float() * from.length)];
  }
}

interface Event {
  readonly at: number;
  readonly order: number;
  readonly run: () => void;
}

/** Events by time, in a binary heap. Times are milliseconds. */
export class Clock {
  now = 0;
  steps = 0;
  /** Mixes what happened when; equal seeds must give equal hashes. */
  hash = 0x811c9dc5;
  readonly #heap: Event[] = [];
  #order = 0;

  after(ms: number, run: () => void): void {
    const event = { at: this.now + ms, order: this.#order++, run };
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || isBefore(above, event)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  /** Runs the next event; false when there is none. */
  step(): boolean {
    const heap = this.#heap;
    const next = heap[0];
    const last = heap.pop();
    if (next === undefined || last === undefined) return false;
    if (heap.length > 0) {
      let at = 0;
      for (;;) {
        let child = 2 * at + 1;
        const left = heap[child];
        if (left === undefined) break;
        const right = heap[child + 1];
        let least = left;
        if (right !== undefined && isBefore(right, left)) {
          child += 1;
          least = right;
        }
        if (isBefore(last, least)) break;
        heap[at] = least;
        at = child;
      }
      heap[at] = last;
    }
    this.now = next.at;
    this.steps += 1;
    next.run();
    return true;
  }

  /** Notes something that happened into the hash. */
  note(what: number): void {
    this.hash = Math.imul(this.hash ^ what ^ Math.floor(this.now * 8), 0x01000193);
    this.hash ^= this.hash >>> 15;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
