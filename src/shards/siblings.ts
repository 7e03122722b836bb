/**
 * Calls between the shards of one node, over message ports: what a client asked of one shard and another owns. Frames are
 * those of the peer links (link-frames.ts), so that requests made in one turn of the event loop share a message. There is
 * no handshake and no liveness: threads of one process live and die together.
 *
 * Owns the port and the bounds of what is in flight; what is asked for is for peer-requests.ts and node-calls.ts to say.
 */
import type { MessagePort } from 'node:worker_threads';
import { AnswerStatus, BATCH_BYTES_FLUSH, BatchWriter, FrameKind, readBatch } from '../cluster/link-frames.ts';
import type { RequestFailure } from '../cluster/ports.ts';
import { answerOnce, WaitingRequests } from '../cluster/requests.ts';
import type { RequestDone } from '../cluster/requests.ts';
import { TimeoutWheel } from '../cluster/timeouts.ts';

/** Requests in flight to one sibling, and the bytes of their bodies; beyond either a request fails with 'link_down'. */
const REQUESTS_MAX = 65_536;
const REQUEST_BYTES_MAX = 256 * 1024 * 1024;
const TICK_MS = 50;
const EMPTY = new Uint8Array(0);
/** Beside those of AnswerStatus: nobody looked at the request, so that it is as if it had never been sent. */
const NOT_SERVED = 2;

/** Answers a request of a sibling by calling `reply` once; what throws or rejects is answered 'remote_error'. */
export type SiblingServer = (tag: number, body: Uint8Array, reply: (answer: Uint8Array) => void) => void;

/** The port to one sibling. */
class SiblingPort {
  readonly #port: MessagePort;
  /** Null while this shard does not run. */
  readonly #server: () => SiblingServer | null;
  readonly #requests = new BatchWriter(FrameKind.requests);
  readonly #answers = new BatchWriter(FrameKind.answers);
  readonly #waiting: WaitingRequests;
  #flushing = false;

  constructor(port: MessagePort, wheel: TimeoutWheel, server: () => SiblingServer | null) {
    this.#port = port;
    this.#waiting = new WaitingRequests(wheel);
    this.#server = server;
    port.on('message', (frame: unknown) => this.#receive(frame));
  }

  /** False: not accepted, certainly not delivered, and `done` will not be called. */
  request(tag: number, body: Uint8Array, timeoutMs: number, done: RequestDone): boolean {
    if (this.#waiting.size >= REQUESTS_MAX || (this.#waiting.bytes > 0 && this.#waiting.bytes + body.length > REQUEST_BYTES_MAX)) return false;
    this.#requests.add(this.#waiting.add({ bytes: body.length, batch: 0, timeoutMs, done }), tag, body);
    this.#scheduleFlush();
    return true;
  }

  #receive(frame: unknown): void {
    // Both ends are this very program.
    if (!(frame instanceof Uint8Array)) throw new Error('a sibling shard sent what is no frame');
    const bytes = Buffer.from(frame.buffer, frame.byteOffset, frame.length);
    if (bytes[0] === FrameKind.requests) readBatch(bytes, (id, tag, body) => this.#serve(id, tag, body));
    else readBatch(bytes, (id, tag, body) => this.#waiting.settle(id, failureOf(tag), body));
  }

  #serve(id: number, tag: number, body: Uint8Array): void {
    const serve = this.#server();
    if (serve === null) return this.#answer(id, NOT_SERVED, EMPTY);
    answerOnce(
      (reply) => serve(tag, body, reply),
      (answer) => (answer === null ? this.#answer(id, AnswerStatus.remoteError, EMPTY) : this.#answer(id, AnswerStatus.ok, answer)),
    );
  }

  #answer(id: number, status: number, body: Uint8Array): void {
    this.#answers.add(id, status, body);
    this.#scheduleFlush();
  }

  /** Behind everything that arrived in this turn, as on a peer link. */
  #scheduleFlush(): void {
    if (this.#requests.length >= BATCH_BYTES_FLUSH || this.#answers.length >= BATCH_BYTES_FLUSH) return this.#flush();
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#answers.length > 0) this.#post(this.#answers.take());
    if (this.#requests.length > 0) this.#post(this.#requests.take());
  }

  #post(frame: Buffer): void {
    // Into memory of its own, handed over rather than cloned: a Buffer may be a view of a pool.
    const own = new Uint8Array(frame);
    this.#port.postMessage(own, [own.buffer]);
  }
}

function failureOf(status: number): RequestFailure | null {
  if (status === AnswerStatus.ok) return null;
  return status === NOT_SERVED ? 'link_down' : 'remote_error';
}

/** The siblings of a shard, by index. */
export class Siblings {
  readonly #ports: ReadonlyMap<number, SiblingPort>;
  readonly #wheel = new TimeoutWheel(performance.now());
  #server: SiblingServer | null = null;

  /** `ports`: to each sibling, by index. They live as long as the thread. */
  constructor(ports: ReadonlyMap<number, MessagePort>) {
    this.#ports = new Map([...ports].map(([index, port]) => [index, new SiblingPort(port, this.#wheel, () => this.#server)]));
    // Deadlines are judged behind what had arrived, so that a stall of this thread lets none pass.
    setInterval(() => setImmediate(() => this.#wheel.advance(performance.now())), TICK_MS).unref();
  }

  get indices(): readonly number[] {
    return [...this.#ports.keys()];
  }

  /** From now on requests of siblings are answered by `server`; null: by nobody. */
  serve(server: SiblingServer | null): void {
    this.#server = server;
  }

  /** `done` is called once, and never before this returns. */
  request(index: number, tag: number, body: Uint8Array, timeoutMs: number, done: RequestDone): void {
    const isAccepted = this.#ports.get(index)?.request(tag, body, timeoutMs, done) ?? false;
    if (!isAccepted) setImmediate(done, 'link_down', null);
  }
}
