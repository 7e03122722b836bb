/**
 * NodeFacts over a real, fsynced file, for tests of src/cluster: the file survives a "crash" (a new FileFacts over the
 * same path), and `failAt` makes one put throw before or after it reached the disk, as a crash there would.
 */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import type { NodeFacts } from '../../src/cluster/ports.ts';

export class Crash extends Error {}

export interface CrashPoint {
  /** Counted from 0 over the life of this FileFacts. */
  readonly put: number;
  /** 'before': nothing was written. 'after': it was written, the caller never learns. */
  readonly when: 'before' | 'after';
}

export class FileFacts implements NodeFacts {
  readonly #path: string;
  readonly #values: Map<string, string>;
  readonly #crash: CrashPoint | null;
  #crashed = false;
  puts = 0;

  constructor(path: string, crash: CrashPoint | null = null) {
    this.#path = path;
    this.#crash = crash;
    const stored: [string, string][] = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : [];
    this.#values = new Map(stored);
  }

  get crashed(): boolean {
    return this.#crashed;
  }

  get(key: string): Uint8Array | undefined {
    const value = this.#values.get(key);
    return value === undefined ? undefined : Buffer.from(value, 'base64');
  }

  async put(key: string, value: Uint8Array): Promise<void> {
    const here = this.#crash?.put === this.puts ? this.#crash.when : null;
    this.puts += 1;
    if (this.#crashed) throw new Crash('after the crash');
    if (here === 'before') return this.#die();
    await new Promise((resolve) => setImmediate(resolve));
    this.#values.set(key, Buffer.from(value).toString('base64'));
    const file = openSync(`${this.#path}.new`, 'w');
    writeSync(file, JSON.stringify([...this.#values]));
    fsyncSync(file);
    closeSync(file);
    renameSync(`${this.#path}.new`, this.#path);
    if (here === 'after') this.#die();
  }

  #die(): never {
    this.#crashed = true;
    throw new Crash('crash at a put');
  }
}
