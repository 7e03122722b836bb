/**
 * Token counts for the server: small texts at once on this thread, everything that could hold the event loop on a
 * worker. The worker builds each encoding's table (about 0.1 s for the largest) into memory that both threads read, so
 * this thread never does; until a table is there, counting goes to the worker. Neither exists before the first count: a
 * node that counts nothing has no use for their memory.
 */
import { Worker } from 'node:worker_threads';
import { Encoding } from '../contexts/tokens.ts';
import { RankTable } from '../contexts/tokens-table.ts';
import { encodingOf } from './models.ts';
import type { EncodingName } from './models.ts';
import type { CountAnswer, CountRequest } from './worker.ts';

/**
 * UTF-16 units one call counts on this thread. Worst case (random characters of rare scripts, none of them a token) is
 * 3 MB of UTF-8 a second on a busy core: under 10 ms.
 */
const SYNC_UNITS_MAX = 8192;
/** Units waiting for the worker; beyond, requests are refused with `overloaded` rather than queued in memory. */
const PENDING_UNITS_MAX = 64 * 1024 * 1024;
/** Pieces remembered per generation and encoding: a few MB. */
const CACHE_ENTRIES = 32_768;

export interface TokenCounterOptions {
  /** Model whose encoding counts where `count` is given ''. */
  readonly defaultModel: string;
}

/** Why texts could not be counted. `overloaded`: too much is waiting, try later. `failed`: the worker broke or is closed. */
export class CountingError extends Error {
  readonly reason: 'overloaded' | 'failed';

  constructor(reason: 'overloaded' | 'failed', message: string) {
    super(message);
    this.name = 'CountingError';
    this.reason = reason;
  }
}

interface Pending {
  readonly units: number;
  readonly resolve: (counts: number[]) => void;
  readonly reject: (error: Error) => void;
}

export class TokenCounter {
  readonly #defaultEncoding: EncodingName;
  readonly #encodings: Map<EncodingName, Encoding>;
  readonly #pending: Map<number, Pending>;
  #pendingUnits: number;
  #nextId: number;
  /** Null before the first request, after close, and between a crash and the next request. */
  #worker: Worker | null;
  #closed: boolean;

  /** A counter that has loaded nothing yet: what it needs comes with the first count. */
  static open(options: TokenCounterOptions): Promise<TokenCounter> {
    return Promise.resolve(new TokenCounter(encodingOf(options.defaultModel)));
  }

  private constructor(defaultEncoding: EncodingName) {
    this.#defaultEncoding = defaultEncoding;
    this.#encodings = new Map();
    this.#pending = new Map();
    this.#pendingUnits = 0;
    this.#nextId = 1;
    this.#worker = null;
    this.#closed = false;
  }

  /** Builds the default encoding's table now; resolves when it counts on this thread, rejects with CountingError. */
  async load(): Promise<void> {
    if (!this.#encodings.has(this.#defaultEncoding)) await this.#ask(this.#defaultEncoding, [], 0);
  }

  /**
   * Tokens of each text under the model's encoding (`''`: the default model). An array when the texts are small and the
   * table is there, else a promise of one.
   * Never throws; the promise rejects with CountingError.
   */
  count(model: string, texts: readonly string[]): number[] | Promise<number[]> {
    let units = 0;
    for (const text of texts) units += text.length;
    const name = model === '' ? this.#defaultEncoding : encodingOf(model);
    const encoding = this.#encodings.get(name);
    if (encoding === undefined || units > SYNC_UNITS_MAX) return this.#ask(name, texts, units);
    const counts: number[] = [];
    for (const text of texts) counts.push(encoding.count(text));
    return counts;
  }

  /** Ends the worker; what is still being counted is rejected. */
  async close(): Promise<void> {
    this.#closed = true;
    const worker = this.#worker;
    this.#worker = null;
    this.#failAll('the token counter is closed');
    await worker?.terminate();
  }

  #ask(encoding: EncodingName, texts: readonly string[], units: number): Promise<number[]> {
    if (this.#closed) return Promise.reject(new CountingError('failed', 'the token counter is closed'));
    // A single text larger than the bound may pass alone, so that no legal body is refused for ever.
    if (this.#pendingUnits > 0 && this.#pendingUnits + units > PENDING_UNITS_MAX) {
      return Promise.reject(new CountingError('overloaded', 'Too much text is waiting to be counted. Retry after a moment.'));
    }
    const worker = this.#worker ?? this.#start();
    const request: CountRequest = { id: this.#nextId++, encoding, texts };
    const { promise, resolve, reject } = Promise.withResolvers<number[]>();
    this.#pending.set(request.id, { units, resolve, reject });
    this.#pendingUnits += units;
    // The worker keeps the process alive only while somebody waits for it.
    worker.ref();
    worker.postMessage(request);
    return promise;
  }

  #start(): Worker {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), { name: 'fastpaca-tokens' });
    worker.on('message', (answer: CountAnswer) => this.#answered(worker, answer));
    worker.on('error', (error: unknown) => this.#broke(worker, error instanceof Error ? error.message : String(error)));
    worker.on('exit', (code) => this.#broke(worker, `it ended with code ${code}`));
    this.#worker = worker;
    return worker;
  }

  #answered(worker: Worker, answer: CountAnswer): void {
    if (answer.table !== null) {
      this.#encodings.set(answer.table.encoding, new Encoding(answer.table.pattern, new RankTable(answer.table.buffer), CACHE_ENTRIES));
    }
    const waiting = this.#pending.get(answer.id);
    if (waiting === undefined) return;
    this.#pending.delete(answer.id);
    this.#pendingUnits -= waiting.units;
    if (this.#pending.size === 0) worker.unref();
    if (answer.failure === null) waiting.resolve([...answer.counts]);
    else waiting.reject(new CountingError('failed', `Counting tokens failed: ${answer.failure}`));
  }

  /** The next request starts a new worker; those under way are answered with an error, as one of them may be the cause. */
  #broke(worker: Worker, reason: string): void {
    if (this.#worker !== worker) return;
    this.#worker = null;
    this.#failAll(`the token worker broke: ${reason}`);
  }

  #failAll(reason: string): void {
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    this.#pendingUnits = 0;
    for (const pending of waiting) pending.reject(new CountingError('failed', reason));
  }
}
