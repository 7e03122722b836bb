/**
 * The connections of clients to this node's server, so that a stop can wait for the requests on them and for nothing
 * else. Owns who is still connected; the server accepts and fastify answers. Costs nothing per request until a stop.
 */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';

/** A connection without a byte for this long has no request on its way. */
const SILENT_MS = 250;

/** How a connection came: one that was led in (src/shards/entry.ts) has bytes behind it that are not its client's. */
interface Accepted {
  readonly atMs: number;
  readonly bytes: number;
}

export class Connections {
  private readonly server: Server;
  /** Every TCP connection, upgraded ones too. */
  private readonly all = new Map<Socket, Accepted>();
  /** Those that speak HTTP: not upgraded to a stream or a peer link. */
  private readonly http = new Map<Socket, Accepted>();

  /** Call before the server listens. `server` may be one for TLS. */
  constructor(server: Server) {
    this.server = server;
    const track = (sockets: Map<Socket, Accepted>) => (socket: Socket) => {
      sockets.set(socket, { atMs: performance.now(), bytes: socket.bytesRead });
      socket.once('close', () => sockets.delete(socket));
    };
    server.on('connection', track(this.all));
    // Of a TLS server, requests come on the decrypted socket; a plain server has no such event.
    server.on('setSecureContext' in server ? 'secureConnection' : 'connection', track(this.http));
    server.prependListener('upgrade', ({ socket }) => this.http.delete(socket));
  }

  /** Connections that carry a request, or may. */
  get open(): number {
    return this.http.size;
  }

  /** From now on every answer says `Connection: close`, so that clients go elsewhere without losing a request to a closing socket. */
  announceClose(): void {
    this.server.prependListener('request', (_request, response) => {
      response.shouldKeepAlive = false;
    });
  }

  /** Closes connections without a request under way. Call again until `open` is 0: a busy one becomes idle later. */
  closeIdle(): void {
    this.server.closeIdleConnections();
    // The server counts a connection on which nothing was ever sent as busy, until its headers are overdue.
    const before = performance.now() - SILENT_MS;
    for (const [socket, { atMs, bytes }] of this.http) if (socket.bytesRead === bytes && atMs < before) socket.destroy();
  }

  /** Cuts off whoever still speaks HTTP. */
  destroyHttp(): void {
    for (const socket of this.http.keys()) socket.destroy();
  }

  /** Cuts off everyone, so that the server can close. */
  destroyAll(): void {
    for (const socket of this.all.keys()) socket.destroy();
  }
}
