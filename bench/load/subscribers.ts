/**
 * Stream subscribers on raw sockets: they count the frames that come and time some of them by the stamp in the text, and
 * parse nothing else, because they share the machine's cores with the server that they measure.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import type { Target } from './connection.ts';
import { STAMP } from './requests.ts';
import type { Window } from './window.ts';

const MESSAGE = Buffer.from('{"type":"message"');
const STAMP_BYTES = Buffer.from(STAMP);
/** One message frame in so many is timed. */
const TIMED_EVERY = 16;
/** A frame's head has at most 10 bytes without a mask. */
const HEAD_BYTES_MAX = 10;
const PONG_MS = 30_000;
/** The text frame {"type":"pong"}, masked with zeros. */
const PONG = Buffer.concat([Buffer.from([0x81, 0x80 | 15, 0, 0, 0, 0]), Buffer.from('{"type":"pong"}')]);
const READ_BYTES = 64 * 1024;
const EMPTY = Buffer.alloc(0);

export class Subscriber {
  readonly #socket: Socket;
  readonly #window: Window;
  readonly #pongs: NodeJS.Timeout;
  /** Bytes of the current frame's payload still to come. */
  #left = 0;
  /** Start of a frame whose head came in pieces. */
  #rest: Buffer = EMPTY;
  #timedIn = 1;

  private constructor(socket: Socket, window: Window) {
    this.#socket = socket;
    this.#window = window;
    this.#pongs = setInterval(() => socket.write(PONG), PONG_MS);
    socket.on('error', () => undefined);
    socket.on('close', () => clearInterval(this.#pongs));
  }

  /** Resolves when the stream is open; throws what the server answered when it is refused. */
  static async open(target: Target, context: string, window: Window): Promise<Subscriber> {
    let subscriber: Subscriber | null = null;
    let head = '';
    let answered = (): void => undefined;
    const answer = new Promise<void>((resolve) => (answered = resolve));
    const read = (length: number, array: Uint8Array): boolean => {
      const chunk = Buffer.from(array.buffer, array.byteOffset, length);
      if (subscriber !== null) {
        subscriber.#read(chunk);
        return true;
      }
      head += chunk.toString('latin1');
      const end = head.indexOf('\r\n\r\n');
      if (end < 0) return true;
      if (head.startsWith('HTTP/1.1 101')) {
        subscriber = new Subscriber(socket, window);
        subscriber.#read(Buffer.from(head.slice(end + 4), 'latin1'));
      }
      answered();
      return true;
    };
    const socket = connect({ host: target.host, port: target.port, noDelay: true, onread: { buffer: Buffer.allocUnsafeSlow(READ_BYTES), callback: read } });
    await once(socket, 'connect');
    socket.once('close', answered);
    socket.write(
      `GET /v1/contexts/${context}/stream HTTP/1.1\r\nHost: ${target.host}:${target.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n',
    );
    await answer;
    if (subscriber === null) throw new Error(`a stream was refused: ${head.slice(0, 400)}`);
    return subscriber;
  }

  get isOpen(): boolean {
    return !this.#socket.destroyed;
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(chunk: Buffer): void {
    let at = 0;
    let bytes = chunk;
    if (this.#rest.length > 0) {
      bytes = Buffer.concat([this.#rest, chunk]);
      this.#rest = EMPTY;
    }
    while (at < bytes.length) {
      if (this.#left > 0) {
        const step = Math.min(this.#left, bytes.length - at);
        this.#left -= step;
        at += step;
        continue;
      }
      const headBytes = at + 1 < bytes.length ? headBytesOf(bytes, at) : HEAD_BYTES_MAX;
      if (at + headBytes > bytes.length) {
        this.#rest = Buffer.from(bytes.subarray(at));
        return;
      }
      this.#left = payloadBytesOf(bytes, at, headBytes);
      at += headBytes;
      this.#frame(bytes, at);
    }
  }

  #frame(bytes: Buffer, at: number): void {
    const window = this.#window;
    // A frame that is cut within its first bytes is not counted as a message: one in thousands.
    if (!window.isOpen || at + MESSAGE.length > bytes.length || bytes.compare(MESSAGE, 0, MESSAGE.length, at, at + MESSAGE.length) !== 0) return;
    window.frames++;
    if (--this.#timedIn > 0) return;
    this.#timedIn = TIMED_EVERY;
    const stamp = bytes.indexOf(STAMP_BYTES, at);
    const end = stamp < 0 || stamp > at + this.#left ? -1 : bytes.indexOf(59, stamp);
    if (end > 0) window.frameLatencies.add(performance.now() - Number(bytes.toString('latin1', stamp + STAMP_BYTES.length, end)));
  }
}

function headBytesOf(bytes: Buffer, at: number): number {
  const short = (bytes[at + 1] ?? 0) & 0x7f;
  return short === 127 ? 10 : short === 126 ? 4 : 2;
}

function payloadBytesOf(bytes: Buffer, at: number, headBytes: number): number {
  if (headBytes === 2) return (bytes[at + 1] ?? 0) & 0x7f;
  return headBytes === 4 ? bytes.readUInt16BE(at + 2) : Number(bytes.readBigUInt64BE(at + 2));
}
