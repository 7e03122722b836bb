/**
 * What is kept in memory of many contexts, bounded by the sum of its sizes: who is over it lets go the contexts that were
 * used longest ago. What is kept grows while it is used; `keep` takes it into account as it is then.
 */

interface Kept<T> {
  readonly value: T;
  /** The value's size when it was last taken into account. */
  counted: number;
}

export class BoundedContexts<T extends { readonly size: number }> {
  readonly #contexts = new Map<string, Kept<T>>();
  readonly #sizeMax: number;
  #size = 0;

  constructor(sizeMax: number) {
    this.#sizeMax = sizeMax;
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
    this.#contexts.delete(context);
    this.#contexts.set(context, kept);
    return kept.value;
  }

  /** Takes `value` as it is now into account; of a context that is not kept it is the most recently used, of another it takes the place. */
  keep(context: string, value: T): void {
    const { size } = value;
    const kept = this.#contexts.get(context);
    this.#size += size - (kept?.counted ?? 0);
    if (kept?.value === value) kept.counted = size;
    else this.#contexts.set(context, { value, counted: size });
    for (const oldest of this.#contexts.keys()) {
      if (this.#size <= this.#sizeMax) return;
      this.delete(oldest);
    }
  }

  delete(context: string): void {
    this.#size -= this.#contexts.get(context)?.counted ?? 0;
    this.#contexts.delete(context);
  }

  clear(): void {
    this.#contexts.clear();
    this.#size = 0;
  }
}
