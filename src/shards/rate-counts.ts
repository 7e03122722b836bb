/**
 * How many requests each client made in its minute, counted once for all shards of a node: a client's requests are
 * counted by the shard that its key hashes to, wherever they came in. Fixed windows, as where there is one shard.
 */
import { crc32 } from 'node:zlib';
import type { RateCounter } from '../http/ports.ts';
import type { Shard } from './shard.ts';

/** The tag of such questions among the kinds of requests (RequestKind). */
export const RATE_TAG = 65;
/** A shard that does not answer in this time has the request counted where it came in. */
const ASK_MS = 500;
/** Clients remembered at a time; beyond it the one not heard of for longest starts anew. */
const CLIENTS_MAX = 10_000;
/** f64 window, key. */
const HEAD_BYTES = 8;

interface Window {
  count: number;
  readonly endsMs: number;
}

export class RateCounts implements RateCounter {
  private readonly shard: Shard;
  /** The client heard of last is the last. */
  private readonly windows = new Map<string, Window>();

  constructor(shard: Shard) {
    this.shard = shard;
  }

  count(client: string, windowMs: number): Promise<{ current: number; ttl: number }> {
    const owner = crc32(client) % this.shard.count;
    if (owner === this.shard.index) return Promise.resolve(this.countHere(client, windowMs));
    const body = Buffer.concat([Buffer.alloc(HEAD_BYTES), Buffer.from(client)]);
    body.writeDoubleBE(windowMs);
    return new Promise((resolve) => {
      this.shard.siblings.request(owner, RATE_TAG, body, ASK_MS, (failure, answer) => {
        if (failure !== null || answer === null) return resolve(this.countHere(client, windowMs));
        const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength);
        resolve({ current: view.getFloat64(0), ttl: view.getFloat64(8) });
      });
    });
  }

  /** Answers a sibling. */
  answer(body: Uint8Array, reply: (answer: Uint8Array) => void): void {
    const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
    const { current, ttl } = this.countHere(bytes.toString('utf8', HEAD_BYTES), bytes.readDoubleBE(0));
    const answer = Buffer.alloc(16);
    answer.writeDoubleBE(current, 0);
    answer.writeDoubleBE(ttl, 8);
    reply(answer);
  }

  private countHere(client: string, windowMs: number): { current: number; ttl: number } {
    const now = performance.now();
    const before = this.windows.get(client);
    const window = before === undefined || before.endsMs <= now ? { count: 0, endsMs: now + windowMs } : before;
    window.count++;
    this.windows.delete(client);
    this.windows.set(client, window);
    const [oldest] = this.windows.keys();
    if (this.windows.size > CLIENTS_MAX && oldest !== undefined) this.windows.delete(oldest);
    return { current: window.count, ttl: Math.max(0, window.endsMs - now) };
  }
}
