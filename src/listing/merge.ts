/** Merging sorted runs of context ids: their order, and the heap that tells which run is next. Pure. */

/** A sorted run of ids and the place of the next one; at the end `at` is `ids.length`. */
export interface IdRun {
  readonly ids: readonly string[];
  at: number;
}

/**
 * Order of ids as storage has them: by their UTF-8 bytes. UTF-16 units are in the same order, except that surrogates
 * stand before U+E000 to U+FFFF and belong behind.
 */
export function compareIds(a: string, b: string): number {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return rank(x) - rank(y);
  }
  return a.length - b.length;
}

function rank(unit: number): number {
  if (unit < 0xd800) return unit;
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}

/** A binary heap of runs by their next id. Runs that are at their end must not be given, and leave when they get there. */
export class IdHeap<T extends IdRun> {
  private readonly runs: T[];

  constructor(runs: readonly T[]) {
    this.runs = [...runs];
    for (let i = (this.runs.length >> 1) - 1; i >= 0; i--) this.sink(i);
  }

  /** The run with the smallest next id. */
  get first(): T | undefined {
    return this.runs[0];
  }

  /** The first run has moved on, or is at its end. */
  moved(): void {
    const first = this.runs[0];
    if (first !== undefined && first.at === first.ids.length) {
      const last = this.runs.pop();
      if (last === undefined || this.runs.length === 0) return;
      this.runs[0] = last;
    }
    this.sink(0);
  }

  private sink(start: number): void {
    const moving = this.runs[start];
    if (moving === undefined) return;
    let at = start;
    for (;;) {
      const left = this.runs[2 * at + 1];
      const right = this.runs[2 * at + 2];
      if (left === undefined) break;
      const rightIsLess = right !== undefined && compareNext(right, left) < 0;
      const child = rightIsLess ? right : left;
      if (compareNext(child, moving) >= 0) break;
      this.runs[at] = child;
      at = 2 * at + (rightIsLess ? 2 : 1);
    }
    this.runs[at] = moving;
  }
}

function compareNext(a: IdRun, b: IdRun): number {
  return compareIds(a.ids[a.at] ?? '', b.ids[b.at] ?? '');
}
