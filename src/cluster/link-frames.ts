/**
 * Bytes of a peer link. Every WebSocket message is one frame: a kind byte and a body. Batches of requests and answers
 * are records of id u32, tag u8, length u32, body (big-endian); the tag is the request kind or the answer's status.
 * Pure but for Buffer; knows nothing of sockets.
 */
import { RequestKind } from './ports.ts';

export const FrameKind = {
  /** Opaque to the link. */
  raft: 1,
  requests: 2,
  answers: 3,
  /** LinkHello, JSON; the first frame each way. */
  hello: 4,
  /** Empty: the receiver was admitted; frames of the kinds above may follow. */
  welcome: 5,
  /** Refusal, JSON; the link closes after it. It may come late, when the sender learns more about the peer. */
  refused: 6,
  /** Sender's clock, f64 milliseconds. Keeps the link alive. */
  ping: 7,
  /** Beat, JSON. */
  beat: 8,
} as const;
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];

export const AnswerStatus = { ok: 0, remoteError: 1 } as const;

/** A frame larger than this breaks the link (ws closes it with 1009). */
export const FRAME_BYTES_MAX = 64 * 1024 * 1024;
/** A batch is sent early once it holds this much, so that no batch grows without bound. */
export const BATCH_BYTES_FLUSH = 1024 * 1024;
export const RECORD_HEADER_BYTES = 9;
/** Largest body of one request or answer: with a batch just short of its flush it still fits a frame. */
export const BODY_BYTES_MAX = FRAME_BYTES_MAX - BATCH_BYTES_FLUSH - RECORD_HEADER_BYTES;
const BATCH_BYTES_INITIAL = 4096;

/** Bytes that are not a frame of this protocol: the link must close. */
export class FrameError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'FrameError';
  }
}

/** A kind byte followed by a copy of `body`: the caller may reuse its buffer at once. */
export function encodeFrame(kind: FrameKind, body: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(1 + body.length);
  frame[0] = kind;
  frame.set(body, 1);
  return frame;
}

export function encodePing(clockMs: number): Buffer {
  const frame = Buffer.allocUnsafe(9);
  frame[0] = FrameKind.ping;
  frame.writeDoubleBE(clockMs, 1);
  return frame;
}

/** The clock in a ping frame. Throws FrameError. */
export function decodePing(frame: Buffer): number {
  if (frame.length !== 9) throw new FrameError('a ping of the wrong length');
  const clockMs = frame.readDoubleBE(1);
  if (!Number.isFinite(clockMs)) throw new FrameError('a ping without a clock');
  return clockMs;
}

/** Gathers records into one frame. Bodies are copied, so that callers may reuse theirs. */
export class BatchWriter {
  readonly #kind: FrameKind;
  #buffer: Buffer = Buffer.alloc(0);
  #length = 0;

  constructor(kind: typeof FrameKind.requests | typeof FrameKind.answers) {
    this.#kind = kind;
  }

  /** Bytes gathered since the last `take`; 0 when there is nothing to send. */
  get length(): number {
    return this.#length;
  }

  add(id: number, tag: number, body: Uint8Array): void {
    const start = this.#length === 0 ? 1 : this.#length;
    const end = start + RECORD_HEADER_BYTES + body.length;
    if (end > this.#buffer.length) this.#grow(end);
    const buffer = this.#buffer;
    buffer.writeUInt32BE(id, start);
    buffer[start + 4] = tag;
    buffer.writeUInt32BE(body.length, start + 5);
    buffer.set(body, start + RECORD_HEADER_BYTES);
    this.#length = end;
  }

  /** The gathered frame; the writer starts anew. Call only when `length` is not 0. */
  take(): Buffer {
    const frame = this.#buffer.subarray(0, this.#length);
    frame[0] = this.#kind;
    // The socket may still hold the old bytes: the next batch gets its own.
    this.#buffer = Buffer.alloc(0);
    this.#length = 0;
    return frame;
  }

  #grow(needed: number): void {
    const grown = Buffer.allocUnsafe(Math.max(BATCH_BYTES_INITIAL, needed, Math.min(2 * this.#buffer.length, 2 * BATCH_BYTES_FLUSH)));
    grown.set(this.#buffer.subarray(0, this.#length), 0);
    this.#buffer = grown;
  }
}

/** Calls `visit` for each record of a batch frame, in order; bodies are views. Throws FrameError on a torn record. */
export function readBatch(frame: Buffer, visit: (id: number, tag: number, body: Uint8Array) => void): void {
  let at = 1;
  while (at < frame.length) {
    if (frame.length - at < RECORD_HEADER_BYTES) throw new FrameError('a batch that ends inside a record header');
    const id = frame.readUInt32BE(at);
    const tag = frame.readUInt8(at + 4);
    const start = at + RECORD_HEADER_BYTES;
    const end = start + frame.readUInt32BE(at + 5);
    if (end > frame.length) throw new FrameError('a batch that ends inside a record');
    visit(id, tag, frame.subarray(start, end));
    at = end;
  }
}

const REQUEST_KINDS: ReadonlyMap<number, RequestKind> = new Map(Object.values(RequestKind).map((kind) => [kind, kind]));

/** The request kind a tag stands for, or null for one that this version does not know. */
export function requestKindOf(tag: number): RequestKind | null {
  return REQUEST_KINDS.get(tag) ?? null;
}
