/** The seam between streams and connections: what the hub needs of a WebSocket, an SSE answer or a peer's connection. */
import type { Encoding } from './frames.ts';

/** Close codes of RFC 6455 §7.4.1 and its registry, as streams use them. */
export const CloseCode = {
  /** The context has ended. */
  normal: 1000,
  /** The client said nothing for too long. */
  silent: 1001,
  /** This node cannot go on with the stream; another can, or this one later. */
  restart: 1012,
  /** The client reads too slowly. */
  slow: 1013,
  /** What comes next cannot be had just now. */
  later: 1013,
} as const;
export type CloseCode = (typeof CloseCode)[keyof typeof CloseCode];

/**
 * A connection holds at most this much that its client has not taken, plus what is written in one go: beyond it a
 * stream waits, and what it waits for stays in storage.
 */
export const BUFFERED_BYTES_MAX = 256 * 1024;

export interface SinkOwner {
  /** Everything buffered was taken. */
  drained(): void;
  /** The connection is over; called once. */
  closed(): void;
}

export interface Sink {
  readonly encoding: Encoding;
  /** Bytes that were written and not yet taken by the operating system. */
  readonly bufferedBytes: number;
  /** Called once, before anything is written. */
  attach(owner: SinkOwner): void;
  /** Sends bytes in the sink's encoding; nothing once closing has begun. */
  write(bytes: Buffer): void;
  /** Ends the connection behind what was written; a peer that does not take that is cut off after a few seconds. */
  close(code: CloseCode, reason: string): void;
  /** Cuts the connection. */
  terminate(): void;
  /** Once a second: pings, and ends the connection if the client is silent. `nowMs` is performance.now(). */
  tick(nowMs: number): void;
}
