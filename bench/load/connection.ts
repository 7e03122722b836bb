/**
 * One keep-alive HTTP/1.1 connection on a raw socket, one request outstanding. It reads no more of an answer than its
 * status and length, so that the generator takes as little as it can of the cores it shares with the servers.
 */
import { connect } from 'node:net';
import type { Socket } from 'node:net';

export interface Target {
  readonly host: string;
  readonly port: number;
}

export interface Answer {
  readonly status: number;
  readonly bytes: number;
  /** Start of the body where the status is no success, else ''. */
  readonly text: string;
}

const READ_BYTES = 64 * 1024;
const HEAD_END = Buffer.from('\r\n\r\n');
const CHUNKS_END = Buffer.from('\r\n0\r\n\r\n');
const LINE_END = Buffer.from('\r\n');
const EMPTY = Buffer.alloc(0);
const EXCERPT_BYTES = 200;

/** `onAnswer` gets every answer; `onLost` is called once, when the connection ends before it was closed here. */
export class Connection {
  readonly #target: Target;
  readonly #onAnswer: (answer: Answer) => void;
  readonly #onLost: (reason: string) => void;
  #socket: Socket | null = null;
  /** Head of an answer that came in pieces; null once it is complete. */
  #head: Buffer | null = EMPTY;
  #status = 0;
  #bytes = 0;
  #text = '';
  /** Body bytes still to come; -1 while the end is to be found by its closing chunk. */
  #left = 0;
  #tail: Buffer = LINE_END;

  constructor(target: Target, onAnswer: (answer: Answer) => void, onLost: (reason: string) => void) {
    this.#target = target;
    this.#onAnswer = onAnswer;
    this.#onLost = onLost;
  }

  /** Resolves when connected; rejects where nobody listens. */
  open(): Promise<void> {
    return new Promise((resolve, reject) => {
      const onread = { buffer: Buffer.allocUnsafeSlow(READ_BYTES), callback: (length: number, buffer: Uint8Array) => this.#read(buffer, length) };
      const socket = connect({ host: this.#target.host, port: this.#target.port, noDelay: true, onread });
      let reason = 'connection closed';
      socket.once('connect', resolve);
      socket.on('error', (error) => {
        reason = error.message;
        reject(error);
      });
      socket.once('close', () => {
        if (this.#socket !== socket) return;
        this.#socket = null;
        this.#onLost(reason);
      });
      this.#socket = socket;
    });
  }

  /** The bytes must stay as they are until the answer is in. */
  send(request: Buffer): void {
    this.#socket?.write(request);
  }

  close(): void {
    const socket = this.#socket;
    this.#socket = null;
    socket?.destroy();
  }

  #read(array: Uint8Array, length: number): boolean {
    const chunk = Buffer.from(array.buffer, array.byteOffset, length);
    if (this.#head === null) this.#readBody(chunk, 0);
    else this.#readHead(chunk);
    return true;
  }

  #readHead(chunk: Buffer): void {
    const before = this.#head?.length ?? 0;
    // Almost always the head is in the first chunk and nothing is copied.
    const all = before === 0 ? chunk : Buffer.concat([this.#head ?? chunk, chunk]);
    const end = all.indexOf(HEAD_END);
    if (end < 0) {
      this.#head = Buffer.from(all);
      return;
    }
    const head = all.toString('latin1', 0, end);
    this.#head = null;
    this.#status = Number(head.slice(9, 12));
    this.#bytes = 0;
    this.#text = '';
    const length = /\r\ncontent-length: *(\d+)/i.exec(head);
    this.#tail = LINE_END;
    this.#left = length !== null ? Number(length[1]) : this.#status === 204 || this.#status === 304 ? 0 : -1;
    this.#readBody(all, end + HEAD_END.length);
  }

  #readBody(chunk: Buffer, from: number): void {
    const length = chunk.length - from;
    this.#bytes += length;
    if (this.#status >= 300 && this.#text.length < EXCERPT_BYTES) this.#text += chunk.toString('latin1', from, from + EXCERPT_BYTES);
    if (this.#left >= 0) {
      this.#left -= length;
      if (this.#left > 0) return;
    } else {
      // A body in chunks ends the answer, because only one is outstanding: its last bytes tell.
      const last = chunk.subarray(Math.max(from, chunk.length - CHUNKS_END.length));
      this.#tail = Buffer.concat([this.#tail, last]).subarray(-CHUNKS_END.length);
      if (!this.#tail.equals(CHUNKS_END)) return;
    }
    this.#head = EMPTY;
    this.#onAnswer({ status: this.#status, bytes: this.#bytes, text: this.#text });
  }
}

