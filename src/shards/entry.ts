/**
 * Where a shard takes connections that another thread accepted for it (front.ts): its server listens on the loopback
 * interface, and each connection begins with one line that says who the client is, behind a key that only this process
 * knows. The shard answers with one byte; what follows is the client's, and so is the address from then on, for rate
 * limits among others. A connection without the line is closed: who can reach the port is not who may pretend an address.
 */
import type { Server, Socket } from 'node:net';
import { isKey } from './stream-door.ts';

/** Where entries listen: on a port that the system chooses. */
export const ENTRY_HOST = '127.0.0.1';
/** The line has to be there in this time; it is sent at once. */
const LINE_MS = 5_000;
/** The key and an address with its zone are shorter. */
const LINE_BYTES_MAX = 256;
const TAKEN = Buffer.from('\n');

/** The line that leads a connection of the client at `address` in. */
export function introduction(key: string, address: string): string {
  return `${key} ${address}\n`;
}

/** Whether a shard answered that it takes the connection; nothing of a client may be sent before. */
export function isTaken(answer: Buffer): boolean {
  return answer.equals(TAKEN);
}

export class Entry {
  private readonly server: Server;
  private readonly key: string;
  private readonly listeners: readonly Function[];
  /** Not taken yet. */
  private readonly waiting = new Set<Socket>();
  /** Addresses of clients by the port that their connection comes from: a socket for TLS tells that of the one below. */
  private readonly clients = new Map<number, string>();
  private isClosing = false;

  /** From now on `server`, which may be one for TLS, is given connections that were led in, and no other. Call when it has all its listeners. */
  constructor(server: Server, key: string) {
    this.server = server;
    this.key = key;
    this.listeners = server.listeners('connection');
    server.removeAllListeners('connection');
    server.on('connection', (socket: Socket) => this.receive(socket));
    server.prependListener('secureConnection', (socket: Socket) => {
      const address = this.clients.get(socket.remotePort ?? 0);
      if (address !== undefined) setAddress(socket, address);
    });
  }

  /** The server is about to close: whoever waits is sent to another shard. */
  close(): void {
    this.isClosing = true;
    for (const socket of this.waiting) socket.destroy();
  }

  private receive(socket: Socket): void {
    if (this.isClosing) return void socket.destroy();
    const close = (): void => void socket.destroy();
    const read: Buffer[] = [];
    const onReadable = (): void => {
      for (let chunk: Buffer | null; (chunk = socket.read()) !== null;) read.push(chunk);
      const line = Buffer.concat(read);
      const end = line.indexOf('\n');
      if (end < 0 && line.length <= LINE_BYTES_MAX) return;
      const address = end === line.length - 1 ? this.addressOf(line.toString('latin1', 0, end)) : null;
      if (address === null) return close();
      socket.off('readable', onReadable);
      socket.off('end', close);
      socket.off('timeout', close);
      socket.setTimeout(0);
      this.waiting.delete(socket);
      this.take(socket, address, close);
    };
    this.waiting.add(socket);
    socket.once('close', () => this.waiting.delete(socket));
    socket.on('error', close);
    socket.once('end', close);
    socket.setTimeout(LINE_MS, close);
    socket.on('readable', onReadable);
  }

  private take(socket: Socket, address: string, onError: () => void): void {
    const from = socket.remotePort ?? 0;
    this.clients.set(from, address);
    socket.once('close', () => this.clients.delete(from));
    socket.write(TAKEN, () => {
      if (socket.destroyed) return;
      socket.off('error', onError);
      setAddress(socket, address);
      for (const listener of this.listeners) Reflect.apply(listener, this.server, [socket]);
    });
  }

  /** Of the client; null when the line is not one of this process. */
  private addressOf(line: string): string | null {
    const space = line.indexOf(' ');
    return space > 0 && isKey(line.slice(0, space), this.key) ? line.slice(space + 1) : null;
  }
}

/** Whoever asks the socket gets the client's address, not that of the thread in between. */
function setAddress(socket: Socket, address: string): void {
  Object.defineProperty(socket, 'remoteAddress', { value: address, configurable: true });
}
