/**
 * A client that follows the documented retry rule (docs/api/rest.md, Retrying) and nothing more, and writers that use
 * it: whatever they count as failed, an application would have seen.
 */
import assert from 'node:assert/strict';
import { type Answer, call } from './processes.ts';

/** A request is given up after this long. */
const GIVE_UP_MS = 30_000;
const BACKOFF_MS = 100;
const BACKOFF_MS_MAX = 2000;

/** A request that the rule could not save. */
export class RequestFailed extends Error {}

export interface RequestCounts {
  requests: number;
  /** Of these, sent again after no answer arrived, by the error's code; and after a 503 or 429, by its `error`. */
  readonly retries: Map<string, number>;
  readonly failures: string[];
  /** Milliseconds of each request, retries included. */
  readonly durations: number[];
}

export class RetryingClient {
  readonly counts: RequestCounts = { requests: 0, retries: new Map(), failures: [], durations: [] };
  private readonly urls: readonly string[];
  private current: number;
  /** When each node may be asked again. */
  private readonly notBefore: number[];

  /** `first`: index of the node to begin with. */
  constructor(urls: readonly string[], first = 0) {
    this.urls = urls;
    this.current = first % urls.length;
    this.notBefore = urls.map(() => 0);
  }

  /** Sends until there is an answer other than 503 and 429. Throws RequestFailed. */
  async send(path: string, method = 'GET', body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
    const { counts } = this;
    const started = performance.now();
    counts.requests++;
    for (let attempt = 0; ; attempt++) {
      const node = this.current;
      const answer = await call(`${this.urls[node] ?? ''}${path}`, method, body, headers).catch(codeOf);
      if (typeof answer !== 'string' && answer.status !== 503 && answer.status !== 429) {
        counts.durations.push(performance.now() - started);
        return answer;
      }
      const why = typeof answer === 'string' ? answer : `${answer.status} ${String(answer.json['error'])}`;
      counts.retries.set(why, (counts.retries.get(why) ?? 0) + 1);
      const backoff = Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** attempt);
      this.notBefore[node] = performance.now() + (typeof answer === 'string' ? backoff : 1000 * Number(answer.headers.get('retry-after')));
      this.current = (node + 1) % this.urls.length;
      const waitMs = (this.notBefore[this.current] ?? 0) - performance.now();
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
      if (performance.now() - started < GIVE_UP_MS) continue;
      counts.failures.push(why);
      throw new RequestFailed(why);
    }
  }
}

function codeOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return typeof cause === 'object' && cause !== null && 'code' in cause ? String(cause.code) : String(cause);
}

/** Each appends to a context of its own, one message after the other, and now and then reads it back. */
export class Writers {
  readonly acked = new Map<string, string[]>();
  readonly clients: readonly RetryingClient[];
  /** Reads that missed what was acknowledged before them. */
  readonly staleReads: string[] = [];
  private stopped = false;
  private readonly running: Promise<void>[];

  /** The contexts must exist. `pauseMs` between two requests of one writer. */
  constructor(urls: readonly string[], contexts: readonly string[], pauseMs = 0) {
    this.clients = contexts.map((_, i) => new RetryingClient(urls, i));
    this.running = contexts.map((id, i) => this.write(id, this.clients[i] ?? new RetryingClient(urls), pauseMs));
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await Promise.all(this.running);
  }

  get count(): number {
    let count = 0;
    for (const list of this.acked.values()) count += list.length;
    return count;
  }

  /** Sums over all writers. */
  totals(): RequestCounts {
    const retries = new Map<string, number>();
    const parts = this.clients.map((client) => client.counts);
    for (const part of parts) for (const [why, count] of part.retries) retries.set(why, (retries.get(why) ?? 0) + count);
    return {
      requests: parts.reduce((sum, part) => sum + part.requests, 0),
      retries,
      failures: parts.flatMap((part) => part.failures),
      durations: parts.flatMap((part) => part.durations),
    };
  }

  private async write(id: string, client: RetryingClient, pauseMs: number): Promise<void> {
    const acked: string[] = [];
    this.acked.set(id, acked);
    for (let n = 0; !this.stopped; n++) {
      const text = `${id}#${n}`;
      const message = { message: { role: 'user', parts: [{ type: 'text', text }] } };
      try {
        const answer = await client.send(`/v1/contexts/${id}/messages`, 'POST', message, { 'idempotency-key': text });
        assert.equal(answer.status, 201, answer.text);
        assert.equal(answer.json['seq'], acked.length + 1, `${text} got another place in the log`);
        acked.push(text);
        if (n % 10 === 9) {
          const read = await client.send(`/v1/contexts/${id}`);
          if (Number(read.json['last_seq']) !== acked.length) this.staleReads.push(`${id} at ${String(read.json['last_seq'])} instead of ${acked.length}`);
        }
      } catch (error) {
        if (!(error instanceof RequestFailed)) throw error;
        // Counted. What became of it is not known, so this context is written no further.
        return;
      }
      if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }
}

/** Creates contexts `prefix-0` …; resolves to their ids. */
export async function createContexts(url: string, prefix: string, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, (_, i) => `${prefix}-${i}`);
  const client = new RetryingClient([url]);
  for (const id of ids) assert.ok((await client.send(`/v1/contexts/${id}`, 'PUT', { token_budget: 1_000_000 })).status < 300);
  return ids;
}

/** Texts of a context's messages in order, with their seqs checked to be 1, 2, 3 … */
export async function textsOf(url: string, id: string, query = ''): Promise<string[]> {
  const out: string[] = [];
  let from = 1;
  for (;;) {
    const { status, text } = await call(`${url}/v1/contexts/${id}/messages?from_seq=${from}&limit=1000${query}`);
    assert.equal(status, 200, text);
    const page = JSON.parse(text) as { messages: { seq: number; parts: { text: string }[] }[]; next_seq: number | null };
    for (const message of page.messages) {
      assert.equal(message.seq, out.length + 1);
      out.push(message.parts[0]?.text ?? '');
    }
    if (page.next_seq === null) return out;
    from = page.next_seq;
  }
}

/** Every message that was acknowledged is there once, in order, and no other. */
export async function assertNothingLost(writers: Writers, url: string): Promise<void> {
  for (const [id, acked] of writers.acked) assert.deepEqual(await textsOf(url, id), acked, `context ${id} read through ${url}`);
}
