/**
 * What clients of single nodes saw, without retries, and whether it can be true: no read misses what was acknowledged
 * before it began, what was acknowledged stands in the log at its seq, what was said not to be applied is not there.
 */
import assert from 'node:assert/strict';
import { call } from './processes.ts';
import { textsOf } from './retrying.ts';

interface Written {
  readonly id: string;
  readonly text: string;
  readonly via: string;
  /** Acknowledged at this seq; 0: said not to be applied; null: it may be there or not. */
  readonly seq: number | null;
}

export class History {
  /** Reads that missed what was acknowledged before they began. */
  readonly staleReads: string[] = [];
  reads = 0;
  private readonly contexts: readonly string[];
  private readonly written: Written[] = [];
  /** Highest acknowledged seq by context. */
  private readonly acked = new Map<string, number>();
  private number = 0;
  private stopped = false;
  private readonly running: Promise<void>[] = [];

  /** The contexts exist and are empty. */
  constructor(contexts: readonly string[]) {
    this.contexts = contexts;
  }

  get appends(): number {
    return this.written.length;
  }

  /** Acknowledged through the node at `url`, or through any. */
  acknowledged(url?: string): number {
    return this.written.filter(({ seq, via }) => (seq ?? 0) > 0 && (url === undefined || via === url)).length;
  }

  /** Keeps `loops` readers and as many writers busy at the node until `stop`; each takes the contexts in turn. */
  load(url: string, loops: number): void {
    for (let i = 0; i < loops; i++) {
      this.running.push(this.loop(i, (id) => this.read(url, id)), this.loop(i, (id) => this.append(url, id)));
    }
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await Promise.all(this.running);
  }

  async append(url: string, id: string): Promise<void> {
    const text = `${id} ${this.number++}`;
    const body = { message: { role: 'user', parts: [{ type: 'text', text }] } };
    const answer = await call(`${url}/v1/contexts/${id}/messages`, 'POST', body).catch(() => null);
    if (answer?.status === 201) {
      const seq = Number(answer.json['seq']);
      this.written.push({ id, text, via: url, seq });
      this.acked.set(id, Math.max(seq, this.acked.get(id) ?? 0));
      return;
    }
    assert.ok(answer === null || answer.status === 503 || answer.status === 429, `append answered ${answer?.status}: ${answer?.text}`);
    this.written.push({ id, text, via: url, seq: answer?.json['outcome'] === 'not_applied' ? 0 : null });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }

  async read(url: string, id: string): Promise<void> {
    const acked = this.acked.get(id) ?? 0;
    const answer = await call(`${url}/v1/contexts/${id}`).catch(() => null);
    if (answer === null || answer.status !== 200) return;
    this.reads++;
    const seen = Number(answer.json['last_seq']);
    if (seen < acked) this.staleReads.push(`${id} read through ${url} at ${seen}, after ${acked} was acknowledged`);
  }

  /** Call when the cluster is well again and nothing is under way. */
  async check(url: string): Promise<void> {
    assert.deepEqual(this.staleReads, []);
    const logs = new Map<string, string[]>();
    for (const id of this.contexts) logs.set(id, await textsOf(url, id));
    for (const { id, text, seq, via } of this.written) {
      const log = logs.get(id) ?? [];
      if (seq === null) continue;
      if (seq === 0) assert.ok(!log.includes(text), `'${text}' was said not to be applied (by ${via}), and is there`);
      else assert.equal(log[seq - 1], text, `what was acknowledged as seq ${seq} of ${id} by ${via}`);
    }
    for (const [id, log] of logs) assert.equal(new Set(log).size, log.length, `${id} holds something twice`);
  }

  private async loop(first: number, step: (id: string) => Promise<void>): Promise<void> {
    for (let i = first * 7; !this.stopped; i++) await step(this.contexts[i % this.contexts.length] ?? '');
  }
}
