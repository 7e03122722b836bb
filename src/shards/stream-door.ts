/**
 * The door of a shard through which the streams of its groups go to clients of the other shards: WebSockets between two
 * threads of one process, over the loopback interface, behind a key that only this process knows. Frames, pace and end
 * of a stream are the same as between nodes (src/streams).
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { Server as NetServer } from 'node:net';
import type { Duplex } from 'node:stream';

export class StreamDoor {
  readonly port: number;
  private readonly server: Server;
  private readonly sockets = new Set<Duplex>();

  /** Listens on a port that the system chooses. `enter` gets the upgrades of siblings, and no other. */
  static async open(key: string, enter: (request: IncomingMessage, socket: Duplex, head: Buffer) => void): Promise<StreamDoor> {
    const server = createServer((_request, response) => response.writeHead(404).end());
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new StreamDoor(server, portOf(server), key, enter);
  }

  private constructor(server: Server, port: number, key: string, enter: (request: IncomingMessage, socket: Duplex, head: Buffer) => void) {
    this.server = server;
    this.port = port;
    server.on('upgrade', (request, socket, head) => {
      this.sockets.add(socket);
      socket.once('close', () => this.sockets.delete(socket));
      if (isKey(request.headers.authorization ?? '', doorHeaders(key).authorization)) enter(request, socket, head);
      else socket.destroy();
    });
  }

  /** Streams have been told to end before; what is left of them is cut. */
  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.server.closeAllConnections();
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }
}

/** Of a server that listens for TCP. */
export function portOf(server: NetServer): number {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('a TCP server has no port');
  return address.port;
}

/** Whether `shown` is the key. Hashed first, so that both sides have one length and the time tells nothing of the key. */
export function isKey(shown: string, key: string): boolean {
  const hash = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(hash(shown), hash(key));
}

/** What opens the door. */
export function doorHeaders(key: string): { readonly authorization: string } {
  return { authorization: `Bearer ${key}` };
}
