/**
 * A stream whose context has no replica on this node: a WebSocket to a node that has one carries its frames, one
 * connection for each client, so that order, cursor and pace are the other node's matter. When it ends, so does the
 * client's, with the same code or with 1012: the client comes back with its cursor.
 */
import type { IncomingMessage } from 'node:http';
import type { SecureContext } from 'node:tls';
import { WebSocket } from 'ws';
import { ApiError, ERROR_STATUS } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { decodePeerFrame, encodeFrame } from './frames.ts';
import { BUFFERED_BYTES_MAX, CloseCode } from './sink.ts';
import type { Sink } from './sink.ts';
import { PEER_HEARTBEAT } from './socket.ts';

/** One frame holds one message, whose size the configuration bounds far below this. */
const FRAME_BYTES_MAX = 256 * 1024 * 1024;
const REFUSAL_BYTES_MAX = 64 * 1024;
/** A client that takes nothing for this long while frames wait for it is too slow. */
const PAUSED_MS_MAX = 10_000;

/** `ended`: the context is tombstoned and the reader knows (only asked for by readers of events). */
export type DialOutcome = { readonly ws: WebSocket } | { readonly refused: ApiError } | { readonly ended: true };

/** How the other node is dialed; `tls` null: plain TCP. */
export interface DialOptions {
  readonly headers: Readonly<Record<string, string>>;
  readonly tls: { readonly secureContext: SecureContext } | null;
  readonly timeoutMs: number;
}

/** Opens a stream on another node. The socket is paused until `Relay` reads it. Never rejects. */
export function dialPeer(address: string, target: string, { headers, tls, timeoutMs }: DialOptions): Promise<DialOutcome> {
  return new Promise((resolve) => {
    const url = `${tls === null ? 'ws' : 'wss'}://${address}${target}`;
    const ws = new WebSocket(url, { headers, perMessageDeflate: false, maxPayload: FRAME_BYTES_MAX, handshakeTimeout: timeoutMs, skipUTF8Validation: true, ...tls });
    const refused = (reason: string): void => resolve({ refused: new ApiError('raft_unavailable', `No node that hosts this context can be reached (${reason}). Retry.`) });
    ws.once('error', (error) => refused(error.message));
    ws.once('unexpected-response', (request, response) => {
      readRefusal(response, (outcome) => {
        request.destroy();
        resolve(outcome);
      });
    });
    ws.once('open', () => {
      ws.pause();
      resolve({ ws });
    });
  });
}

function readRefusal(response: IncomingMessage, done: (outcome: DialOutcome) => void): void {
  if (response.statusCode === 204) return done({ ended: true });
  const chunks: Buffer[] = [];
  let bytes = 0;
  const finish = (): void => done({ refused: refusalOf(response.statusCode ?? 0, Buffer.concat(chunks)) });
  response.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= REFUSAL_BYTES_MAX) chunks.push(chunk);
    else response.destroy();
  });
  response.on('error', finish);
  response.on('end', finish);
}

/** The other node's refusal in its own words; what is not one of the catalogue is a problem between nodes. */
function refusalOf(status: number, body: Buffer): ApiError {
  try {
    const value: unknown = JSON.parse(body.toString('utf8'));
    // `unauthorized` and `not_found` speak of this node's own request, not of the client's.
    const isOwn = (code: ErrorCode): boolean => code === 'unauthorized' || code === 'not_found';
    if (typeof value === 'object' && value !== null && 'error' in value && 'message' in value && isErrorCode(value.error) && !isOwn(value.error)) {
      return new ApiError(value.error, String(value.message));
    }
  } catch {
    // Answered below.
  }
  return new ApiError('raft_unavailable', `A node that hosts this context answered ${status}. Retry.`);
}

function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERROR_STATUS, value);
}

export class Relay {
  private readonly ws: WebSocket;
  private readonly sink: Sink;
  private heardMs = performance.now();
  private pausedSinceMs = 0;
  private isOver = false;

  /** Passes on what `ws` sends to `sink` until either ends; `over` is called once when the sink's connection is closed. */
  constructor(ws: WebSocket, sink: Sink, over: () => void) {
    this.ws = ws;
    this.sink = sink;
    const heard = (): void => {
      this.heardMs = performance.now();
    };
    sink.attach({
      drained: () => this.resume(),
      closed: () => {
        this.isOver = true;
        ws.terminate();
        over();
      },
    });
    ws.on('error', () => undefined);
    ws.on('ping', heard);
    ws.on('message', (data) => {
      heard();
      if (Buffer.isBuffer(data)) this.pass(data);
    });
    ws.on('close', (code, reason) => this.end(codeOf(code), reason.toString()));
    if (ws.readyState === ws.CLOSED) this.end(CloseCode.restart, 'the node that serves this context has gone');
    else ws.resume();
  }

  end(code: CloseCode, reason: string): void {
    if (this.isOver) return;
    this.isOver = true;
    this.sink.close(code, reason);
    this.ws.terminate();
  }

  /** Once a second. Returns whether the client was given up for reading too slowly. */
  tick(nowMs: number): boolean {
    if (this.isOver) return false;
    this.sink.tick(nowMs);
    if (this.pausedSinceMs > 0) {
      // Nothing is heard while the connection is paused.
      this.heardMs = nowMs;
      if (nowMs - this.pausedSinceMs < PAUSED_MS_MAX) return false;
      this.end(CloseCode.slow, 'the client reads too slowly');
      return true;
    }
    if (nowMs - this.heardMs >= PEER_HEARTBEAT.silenceMs) this.end(CloseCode.restart, 'the node that serves this context is silent');
    return false;
  }

  private pass(data: Buffer): void {
    const frame = decodePeerFrame(data);
    if (frame === null) return this.end(CloseCode.restart, 'the node that serves this context speaks another version');
    const out: Uint8Array[] = [];
    encodeFrame(out, this.sink.encoding, frame.json, frame);
    this.sink.write(Buffer.concat(out));
    if (this.sink.bufferedBytes <= BUFFERED_BYTES_MAX || this.pausedSinceMs > 0) return;
    this.pausedSinceMs = performance.now();
    this.ws.pause();
  }

  private resume(): void {
    if (this.pausedSinceMs === 0) return;
    this.pausedSinceMs = 0;
    this.heardMs = performance.now();
    this.ws.resume();
  }
}

function codeOf(code: number): CloseCode {
  switch (code) {
    case CloseCode.normal:
    case CloseCode.slow:
      return code;
    default:
      return CloseCode.restart;
  }
}
