/**
 * One client of a cluster, as an application should be written: any node answers any call, so a call that is refused
 * for now (429, 503) or breaks is tried again on another node after a jittered wait, with the same Idempotency-Key and
 * bounded by a deadline. What the server answers otherwise is final.
 */
import { Pool } from 'undici';

const BACKOFF_FIRST_MS = 25;
const BACKOFF_MAX_MS = 2000;
const RESPONSE_TIMEOUT_MS = 15_000;

export interface Call {
  readonly method: 'GET' | 'PUT' | 'POST';
  readonly path: string;
  readonly body: Buffer | null;
  readonly idempotencyKey: string | null;
}

export interface Answer {
  readonly status: number;
  readonly body: Buffer;
  /** Index of the node that gave it. */
  readonly node: number;
}

/** Thrown when a call has found no answer by its deadline; says what the last try met. */
export class DeadlineError extends Error {}

export class ReplayClient {
  readonly urls: readonly string[];
  retries: number;
  readonly #pools: readonly Pool[];
  readonly #deadlineMs: number;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(urls: readonly string[], options: { connections: number; deadlineMs: number; apiKey: string | null }) {
    this.urls = urls;
    this.retries = 0;
    this.#deadlineMs = options.deadlineMs;
    this.#headers = options.apiKey === null ? {} : { authorization: `Bearer ${options.apiKey}` };
    this.#pools = urls.map(
      (url) => new Pool(url, { connections: options.connections, headersTimeout: RESPONSE_TIMEOUT_MS, bodyTimeout: RESPONSE_TIMEOUT_MS, connect: { timeout: 3000 } }),
    );
  }

  /** Calls node `first`, then others until one answers for good. Throws DeadlineError. */
  async call(call: Call, first: number): Promise<Answer> {
    const deadline = performance.now() + this.#deadlineMs;
    let last = 'no try';
    for (let attempt = 0; ; attempt++) {
      const node = (first + attempt) % this.urls.length;
      let waitMs = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** attempt) * (0.5 + Math.random() / 2);
      try {
        const answer = await this.#once(call, node);
        if (answer.status !== 429 && answer.status !== 503) return answer;
        last = `${this.urls[node]} answered ${answer.status} ${answer.body.toString('utf8').slice(0, 200)}`;
        // Too many requests is about the client, not the node: wait as long as told.
        if (answer.status === 429) waitMs = Math.max(waitMs, answer.retryAfterMs);
      } catch (error) {
        last = `${this.urls[node]}: ${reason(error)}`;
      }
      if (performance.now() + waitMs > deadline) {
        throw new DeadlineError(`${call.method} ${call.path} found no answer within ${this.#deadlineMs / 1000} s; last: ${last}`);
      }
      this.retries += 1;
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  }

  /** Asks every node once whether it is ready: null, or why not. */
  async readiness(): Promise<{ reachable: boolean; problem: string | null }[]> {
    return Promise.all(
      this.urls.map(async (_url, node) => {
        try {
          const answer = await this.#once({ method: 'GET', path: '/health/ready', body: null, idempotencyKey: null }, node);
          return { reachable: true, problem: answer.status === 200 ? null : answer.body.toString('utf8').slice(0, 200) };
        } catch (error) {
          return { reachable: false, problem: reason(error) };
        }
      }),
    );
  }

  async close(): Promise<void> {
    await Promise.all(this.#pools.map((pool) => pool.destroy()));
  }

  async #once(call: Call, node: number): Promise<Answer & { retryAfterMs: number }> {
    const pool = this.#pools[node];
    if (pool === undefined) throw new Error(`no node ${node}`);
    const response = await pool.request({
      method: call.method,
      path: call.path,
      body: call.body,
      headers: {
        ...this.#headers,
        ...(call.body === null ? {} : { 'content-type': 'application/json' }),
        ...(call.idempotencyKey === null ? {} : { 'idempotency-key': call.idempotencyKey }),
      },
    });
    const body = Buffer.from(await response.body.arrayBuffer());
    return { status: response.statusCode, body, node, retryAfterMs: Number(response.headers['retry-after'] ?? 0) * 1000 || 0 };
  }
}

/** Connection failures come without a message, or as a bundle of one failure per address. */
function reason(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(reason).join(', ');
  if (!(error instanceof Error)) return String(error);
  return error.message === '' && 'code' in error ? String(error.code) : error.message;
}
