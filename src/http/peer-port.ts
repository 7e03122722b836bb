/**
 * The second port of a shard, for the other nodes alone: on the public one a connection may land on any shard, and a
 * peer means a certain one. Owns which calls are taken where: those between nodes here, all others there.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { FastifyInstance } from 'fastify';
import { Connections } from './connections.ts';
import type { ServerTls } from './ports.ts';

export interface PeerPortOptions {
  readonly app: FastifyInstance;
  readonly tls: ServerTls | null;
  readonly host: string;
  readonly port: number;
  /** Made by PeerPort.guard. */
  readonly arrived: WeakSet<IncomingMessage>;
  /** Takes the upgrades of peers. */
  readonly upgrade: (request: IncomingMessage, socket: IncomingMessage['socket'], head: Buffer) => void;
}

export class PeerPort {
  private readonly server: Server;
  private readonly connections: Connections;

  /** Listens. Rejects when the port cannot be had. */
  static async open({ app, tls, host, port, arrived, upgrade }: PeerPortOptions): Promise<PeerPort> {
    const handler: RequestListener = (request, response) => {
      if (!isBetweenNodes(request.url)) {
        response.writeHead(404, { 'content-type': 'application/json' }).end('{"error":"not_found","message":"This port is for the other nodes of the cluster. The API is at PORT."}');
        return;
      }
      arrived.add(request);
      app.routing(request, response);
    };
    const server = tls === null ? createServer(handler) : tls.createServer({}, handler);
    server.on('upgrade', (request: IncomingMessage, socket: IncomingMessage['socket'], head: Buffer) => {
      if (isBetweenNodes(request.url)) upgrade(request, socket, head);
      else socket.destroy();
    });
    const peers = new PeerPort(server);
    server.listen(port, host);
    await once(server, 'listening');
    return peers;
  }

  private constructor(server: Server) {
    this.server = server;
    this.connections = new Connections(server);
  }

  /**
   * From now on `app` turns away calls between nodes that come to its own port, with `reason`: whoever makes them takes
   * this node for one that is not divided, or is divided otherwise itself. Returns who did come to the right port.
   */
  static guard(app: FastifyInstance, reason: string): WeakSet<IncomingMessage> {
    const arrived = new WeakSet<IncomingMessage>();
    app.addHook('onRequest', async (request, reply) => {
      if (!isBetweenNodes(request.raw.url) || arrived.has(request.raw)) return;
      await reply.code(409).header('content-type', 'application/json').send(JSON.stringify({ error: 'conflict', message: reason }));
    });
    return arrived;
  }

  /** Stops listening and cuts what is left; links and snapshots have been closed before. */
  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.connections.destroyAll();
    await closed;
  }
}

export function isBetweenNodes(url: string | undefined): boolean {
  return url?.startsWith('/_peer') === true;
}
