/**
 * A stream as server-sent events (WHATWG HTML §9.2) over one HTTP answer. The client only reads, so what it takes off
 * the connection is its only sign of life.
 */
import type { ServerResponse } from 'node:http';
import { SSE_PING } from './frames.ts';
import { CLIENT_HEARTBEAT } from './socket.ts';
import { BUFFERED_BYTES_MAX } from './sink.ts';
import type { CloseCode, Sink, SinkOwner } from './sink.ts';

/** An answer that was ended and is not taken to its end is cut off after this long. */
const CLOSE_TIMEOUT_MS = 5_000;

export class SseSink implements Sink {
  readonly encoding = 'sse';
  private readonly response: ServerResponse;
  private takenMs = performance.now();
  private pingedMs = performance.now();
  private takenBytes = 0;
  private cut: NodeJS.Timeout | null = null;

  constructor(response: ServerResponse) {
    this.response = response;
  }

  get bufferedBytes(): number {
    return this.response.writableLength;
  }

  /** Also sends the head of the answer, so that the client knows that it is listening. */
  attach(owner: SinkOwner): void {
    const { response } = this;
    response.writeHead(200, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-store',
      // nginx would gather events into its buffers.
      'x-accel-buffering': 'no',
    });
    response.flushHeaders();
    response.on('error', () => undefined);
    response.on('drain', () => owner.drained());
    response.once('close', () => {
      if (this.cut !== null) clearTimeout(this.cut);
      owner.closed();
    });
  }

  write(bytes: Buffer): void {
    if (!this.response.writableEnded && !this.response.destroyed) this.response.write(bytes);
  }

  close(_code: CloseCode, _reason: string): void {
    if (this.response.writableEnded || this.response.destroyed) return;
    this.response.end();
    // The connection would wait for a next request.
    this.response.req.socket.destroySoon();
    this.cut ??= setTimeout(() => this.terminate(), CLOSE_TIMEOUT_MS);
  }

  terminate(): void {
    this.response.destroy();
  }

  tick(nowMs: number): void {
    const { socket } = this.response;
    const taken = (socket?.bytesWritten ?? 0) - this.bufferedBytes;
    if (this.bufferedBytes === 0 || taken !== this.takenBytes) {
      this.takenBytes = taken;
      this.takenMs = nowMs;
    } else if (nowMs - this.takenMs >= CLIENT_HEARTBEAT.silenceMs) {
      return this.terminate();
    }
    if (nowMs - this.pingedMs < CLIENT_HEARTBEAT.pingMs || this.bufferedBytes >= BUFFERED_BYTES_MAX) return;
    this.pingedMs = nowMs;
    this.write(SSE_PING);
  }
}
