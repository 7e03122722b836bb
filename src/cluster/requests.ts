/**
 * Requests of one connection that wait for their answers: their numbers, their deadlines, and that each is answered
 * once. Owns neither the connection nor how much it may hold; that is link.ts' and shards/siblings.ts'.
 */
import type { RequestFailure } from './ports.ts';
import { Deadline } from './timeouts.ts';
import type { TimeoutWheel } from './timeouts.ts';

export type RequestDone = (failure: RequestFailure | null, answer: Uint8Array | null) => void;

class Waiting extends Deadline {
  readonly done: RequestDone;
  /** Of its body. */
  readonly bytes: number;
  /** The batch that carries it. */
  readonly batch: number;

  constructor(expired: () => void, done: RequestDone, bytes: number, batch: number) {
    super(expired);
    this.done = done;
    this.bytes = bytes;
    this.batch = batch;
  }
}

export class WaitingRequests {
  readonly #wheel: TimeoutWheel;
  readonly #waiting = new Map<number, Waiting>();
  #bytes = 0;
  #nextId = 1;

  constructor(wheel: TimeoutWheel) {
    this.#wheel = wheel;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /** Bytes of the bodies of all that wait. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The number of a new request, a u32. `done` is called once: with its answer, or with 'lost' after `timeoutMs`. */
  add(request: { readonly bytes: number; readonly batch: number; readonly timeoutMs: number; readonly done: RequestDone }): number {
    const id = this.#freeId();
    const waiting = new Waiting(() => this.settle(id, 'lost', null), request.done, request.bytes, request.batch);
    this.#waiting.set(id, waiting);
    this.#bytes += request.bytes;
    this.#wheel.add(waiting, performance.now(), request.timeoutMs);
    return id;
  }

  settle(id: number, failure: RequestFailure | null, answer: Uint8Array | null): void {
    const waiting = this.#waiting.get(id);
    // Answered after its time ran out.
    if (waiting === undefined) return;
    this.#waiting.delete(id);
    this.#bytes -= waiting.bytes;
    this.#wheel.cancel(waiting);
    waiting.done(failure, failure === null ? answer : null);
  }

  /** No answer comes any more. */
  fail(failureOf: (batch: number) => RequestFailure): void {
    for (const [id, { batch }] of this.#waiting) this.settle(id, failureOf(batch), null);
  }

  #freeId(): number {
    while (this.#waiting.has(this.#nextId)) this.#nextId = (this.#nextId + 1) >>> 0;
    const id = this.#nextId;
    this.#nextId = (id + 1) >>> 0;
    return id;
  }
}

/** Runs `serve`, whose first word counts: what it replies, or that it threw before it did. */
export function answerOnce(serve: (reply: (answer: Uint8Array) => void) => void, answered: (answer: Uint8Array | null) => void): void {
  let isAnswered = false;
  const once = (answer: Uint8Array | null): void => {
    if (isAnswered) return;
    isAnswered = true;
    answered(answer);
  };
  try {
    serve(once);
  } catch {
    once(null);
  }
}
