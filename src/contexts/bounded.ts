/**
 * What is kept in memory of many contexts, bounded by the sum of its sizes: who is over it lets go the contexts that were
 * used longest ago. What is kept may grow while it is used; `keep` takes it into account as it is then.
 *
 * The order of use is a list of its own. A Map's order would do, but to find its first entry takes a step for every one
 * that was deleted before it.
 */

interface Kept<T> {
  readonly context: string;
  value: T;
  /** The value's size when it was last taken into account. */
  counted: number;
  older: Kept<T> | null;
  newer: Kept<T> | null;
}

export class BoundedContexts<T> {
  readonly #contexts = new Map<string, Kept<T>>();
  readonly #sizeMax: number;
  readonly #sizeOf: (value: T) => number;
  #size = 0;
  #oldest: Kept<T> | null = null;
  #newest: Kept<T> | null = null;

  constructor(sizeMax: number, sizeOf: (value: T) => number) {
    this.#sizeMax = sizeMax;
    this.#sizeOf = sizeOf;
  }

  /** The sum of the sizes as far as they were taken into account. */
  get size(): number {
    return this.#size;
  }

  /** What is kept of `context`, and nothing changes. */
  peek(context: string): T | undefined {
    return this.#contexts.get(context)?.value;
  }

  /** What is kept of `context`, which becomes the most recently used. */
  get(context: string): T | undefined {
    const kept = this.#contexts.get(context);
    if (kept === undefined) return undefined;
    if (kept !== this.#newest) {
      this.#unlink(kept);
      this.#link(kept);
    }
    return kept.value;
  }

  /** Takes `value` as it is now into account; of a context that is not kept it is the most recently used, of another it takes the place. */
  keep(context: string, value: T): void {
    const size = this.#sizeOf(value);
    const kept = this.#contexts.get(context);
    this.#size += size - (kept?.counted ?? 0);
    if (kept === undefined) {
      const added: Kept<T> = { context, value, counted: size, older: null, newer: null };
      this.#contexts.set(context, added);
      this.#link(added);
    } else {
      kept.value = value;
      kept.counted = size;
    }
    while (this.#size > this.#sizeMax && this.#oldest !== null) this.delete(this.#oldest.context);
  }

  delete(context: string): void {
    const kept = this.#contexts.get(context);
    if (kept === undefined) return;
    this.#size -= kept.counted;
    this.#contexts.delete(context);
    this.#unlink(kept);
  }

  clear(): void {
    this.#contexts.clear();
    this.#size = 0;
    this.#oldest = null;
    this.#newest = null;
  }

  /** Makes `kept`, which is in no list, the most recently used. */
  #link(kept: Kept<T>): void {
    kept.older = this.#newest;
    kept.newer = null;
    if (this.#newest === null) this.#oldest = kept;
    else this.#newest.newer = kept;
    this.#newest = kept;
  }

  #unlink({ older, newer }: Kept<T>): void {
    if (older === null) this.#oldest = newer;
    else older.newer = newer;
    if (newer === null) this.#newest = older;
    else newer.older = older;
  }
}
