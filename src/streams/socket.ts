/**
 * A stream over a WebSocket: of a client (text frames, pings as JSON) or of another node (binary frames, protocol
 * pings). Frames come encoded and go straight to the TCP socket, so that all subscribers share the bytes; the library
 * does the handshake, everything inbound and the closing.
 */
import type { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { PING, PONG, textFrame } from './frames.ts';
import { BUFFERED_BYTES_MAX } from './sink.ts';
import { CloseCode } from './sink.ts';
import type { Sink, SinkOwner } from './sink.ts';

export interface Heartbeat {
  readonly pingMs: number;
  readonly silenceMs: number;
}

export const CLIENT_HEARTBEAT: Heartbeat = { pingMs: 30_000, silenceMs: 90_000 };
/** Between nodes: a node that vanished without a word must not hold its clients up for long. */
export const PEER_HEARTBEAT: Heartbeat = { pingMs: 5_000, silenceMs: 15_000 };

const PING_FRAME = textFrame(PING);
const PONG_FRAME = textFrame(PONG);

export class SocketSink implements Sink {
  readonly encoding: 'text' | 'peer';
  private readonly ws: WebSocket;
  private readonly socket: Duplex;
  private readonly heartbeat: Heartbeat;
  private heardMs = performance.now();
  private pingedMs = performance.now();

  /** `ws` was made on `socket` without compression and without autoPong. */
  constructor(ws: WebSocket, socket: Duplex, kind: 'client' | 'peer') {
    this.ws = ws;
    this.socket = socket;
    this.encoding = kind === 'client' ? 'text' : 'peer';
    this.heartbeat = kind === 'client' ? CLIENT_HEARTBEAT : PEER_HEARTBEAT;
  }

  get bufferedBytes(): number {
    return this.socket.writableLength;
  }

  attach(owner: SinkOwner): void {
    const { ws, socket } = this;
    const heard = (): void => {
      this.heardMs = performance.now();
    };
    // ws answers a protocol error with its close code itself; the close that follows ends the stream.
    ws.on('error', () => undefined);
    ws.on('pong', heard);
    ws.on('ping', (data) => {
      heard();
      // A client that pings and does not read must not fill memory with answers.
      if (ws.readyState === ws.OPEN && this.bufferedBytes < BUFFERED_BYTES_MAX) ws.pong(data);
    });
    ws.on('message', (data, isBinary) => {
      heard();
      if (!isBinary && isPing(data) && this.bufferedBytes < BUFFERED_BYTES_MAX) this.write(PONG_FRAME);
    });
    socket.on('drain', () => owner.drained());
    ws.once('close', () => owner.closed());
  }

  write(bytes: Buffer): void {
    // Behind a close frame nothing may follow.
    if (this.ws.readyState === this.ws.OPEN) this.socket.write(bytes);
  }

  close(code: CloseCode, reason: string): void {
    this.ws.close(code, reason);
  }

  terminate(): void {
    this.ws.terminate();
  }

  tick(nowMs: number): void {
    if (nowMs - this.heardMs >= this.heartbeat.silenceMs) return this.close(CloseCode.silent, 'no sign of life');
    if (nowMs - this.pingedMs < this.heartbeat.pingMs || this.bufferedBytes >= BUFFERED_BYTES_MAX) return;
    this.pingedMs = nowMs;
    if (this.encoding === 'text') this.write(PING_FRAME);
    else if (this.ws.readyState === this.ws.OPEN) this.ws.ping();
  }
}

/** `{"type":"ping"}` from a client; whatever else it says counts only as a sign of life. */
function isPing(data: WebSocket.RawData): boolean {
  if (!Buffer.isBuffer(data)) return false;
  try {
    const value: unknown = JSON.parse(data.toString('utf8'));
    return typeof value === 'object' && value !== null && 'type' in value && value.type === 'ping';
  } catch {
    return false;
  }
}
