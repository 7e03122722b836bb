/**
 * Streams of one node, from the request to the end: who may open one, whether its context is here or elsewhere, over
 * which transport. A client's upgrade goes through the framework's router like any call, to the same route as SSE, so
 * that keys, rate limits, traces and refusals are those of every call under /v1.
 */
import { ServerResponse, STATUS_CODES } from 'node:http';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { SecureContext } from 'node:tls';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { WebSocketServer } from 'ws';
import type { WebSocket } from 'ws';
import { groupOf } from '../cluster/placement.ts';
import type { ContextHeader } from '../contexts/types.ts';
import { ApiError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { contextNotFound } from '../reads.ts';
import { StreamHub } from './hub.ts';
import type { HubSource } from './hub.ts';
import { dialPeer, Relay } from './relay.ts';
import { parsePeerStreamTarget, parseStreamRequest, pathOf, PEER_STREAM_PATH, peerStreamTarget, streamTarget } from './request.ts';
import type { StreamRequest } from './request.ts';
import { SseSink } from './sse.ts';
import { SocketSink } from './socket.ts';
import { CloseCode } from './sink.ts';
import type { Sink } from './sink.ts';

/** Clients say little: pongs. */
const INBOUND_BYTES_MAX = 4 * 1024;
/** A connection that is being closed and whose client does not take part is cut after this long. */
const CLOSE_TIMEOUT_MS = 5_000;
const WEB_SOCKETS = {
  noServer: true,
  clientTracking: false,
  perMessageDeflate: false,
  maxPayload: INBOUND_BYTES_MAX,
  // The sink answers pings, as far as the client reads the answers.
  autoPong: false,
  closeTimeout: CLOSE_TIMEOUT_MS,
};
/** The same when the node stops. */
const STOP_TIMEOUT_MS = 1_000;
const TICK_MS = 1_000;

export interface StreamServerOptions extends HubSource {
  readonly hosts: (group: number) => boolean;
  /** host:port of the nodes with a replica of the group, the likeliest to answer first. */
  readonly hostAddresses: (group: number) => readonly string[];
  /** How to reach the shard of this node that runs the group; null: this one, or the node is not divided. */
  readonly siblingDoor?: (group: number) => { readonly address: string; readonly headers: Readonly<Record<string, string>> } | null;
  /** Where the node is divided: told how many clients' streams are open here, and asked how many are on its other shards. */
  readonly places?: { noteStreams(open: number): void; readonly streamsElsewhere: number } | null;
  /** Resolves to true when the local replica holds all that was acknowledged before the call, to false when there is none; throws ApiError. */
  readonly barrier: (group: number) => Promise<boolean>;
  /** False: pages of any origin could open streams here unless their origin is checked. */
  readonly isAuthRequired: boolean;
  /** Origins whose pages may, besides this host's own; `*` is any. */
  readonly origins: readonly string[];
  readonly peerAccepts: (authorization: string | undefined) => boolean;
  readonly peerHeaders: () => Readonly<Record<string, string>>;
  /** Asked at every connection; null: plain TCP. */
  readonly peerTls: (() => { readonly secureContext: SecureContext }) | null;
  readonly connectionsMax: number;
  readonly timeoutMs: number;
  readonly requestAnswered: (status: number) => void;
  readonly logger: Logger;
}

/** Where a stream's frames come from. */
type Origin = { readonly at: 'here'; readonly header: ContextHeader } | { readonly at: 'peer'; readonly ws: WebSocket } | { readonly at: 'nowhere' };

export class StreamServer {
  readonly hub: StreamHub;
  private readonly options: StreamServerOptions;
  private readonly server = new WebSocketServer(WEB_SOCKETS);
  private readonly relays = new Set<Relay>();
  /** Connections of clients that have a stream or wait for one. */
  private readonly connections = new Set<Duplex>();
  private readonly peerConnections = new Set<Duplex>();
  /** Upgrades on their way through the router, with the bytes that followed them. */
  private readonly upgrades = new WeakMap<IncomingMessage, Buffer>();
  /** The framework's router; null until `mount`. */
  private route: ((request: IncomingMessage, response: ServerResponse) => void) | null = null;
  private relaysEvicted = 0;
  private isClosing = false;
  private readonly ticker: NodeJS.Timeout;

  constructor(options: StreamServerOptions) {
    this.options = options;
    this.hub = new StreamHub(options);
    this.server.on('wsClientError', (error, socket, request) => this.refuseUpgrade(request, socket, new ApiError('invalid_request', `This is not a WebSocket handshake: ${error.message}.`, { path: 'Upgrade' })));
    // Behind what has arrived, as in the hub.
    this.ticker = setInterval(() => setImmediate(() => this.tick(performance.now())), TICK_MS);
    this.ticker.unref();
  }

  /** Streams of clients that are open or being opened. */
  get open(): number {
    return this.connections.size;
  }

  get evicted(): number {
    return this.hub.evicted + this.relaysEvicted;
  }

  /** Closes every stream with 1012 and waits, briefly, until the connections are gone. New ones are refused. */
  async close(): Promise<void> {
    this.isClosing = true;
    this.disconnect('the node is stopping');
    const until = performance.now() + STOP_TIMEOUT_MS;
    while (this.connections.size + this.peerConnections.size > 0 && performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 10));
    for (const socket of [...this.connections, ...this.peerConnections]) socket.destroy();
    clearInterval(this.ticker);
    this.hub.close();
  }

  /** Closes every stream with 1012: this node cannot serve them now. */
  disconnect(reason: string): void {
    this.hub.closeAll(reason);
    for (const relay of this.relays) relay.end(CloseCode.restart, reason);
  }

  /** Takes an upgrade of another shard of this node, which is known to be one: a stream from here or from another node. */
  handleSibling(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    this.upgradeSibling(request, socket, head).catch((error: unknown) => this.refuseUpgrade(request, socket, error));
  }

  /** Takes an upgrade: a client's stream, or one that another node relays. Anything else is answered 404. */
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    const url = request.url ?? '';
    if (pathOf(url) === PEER_STREAM_PATH) {
      this.upgradePeer(request, socket, head).catch((error: unknown) => this.refuseUpgrade(request, socket, error));
    } else if (request.method !== 'GET' || streamTarget(url) === null) {
      this.refuseUpgrade(request, socket, new ApiError('not_found', 'There is no WebSocket at this path. Streams are at GET /v1/contexts/:id/stream.'));
    } else {
      if (this.route === null) throw new Error('mount comes before the first upgrade');
      this.upgrades.set(request, head);
      this.route(request, responseTo(request));
    }
  }

  /** Mounts the path of streams for both transports. `api` has the prefix /v1 and what holds for all calls under it. */
  mount(api: FastifyInstance): void {
    this.route = (request, response) => api.routing(request, response);
    api.get('/contexts/:id/stream', { schema: { hide: true }, exposeHeadRoute: false }, (request, reply) => {
      const head = this.upgrades.get(request.raw);
      return head === undefined ? this.openEvents(request, reply) : this.openSocket(reply, head);
    });
  }

  /** Server-sent events. Throws ApiError. */
  private async openEvents(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    if (!/\btext\/event-stream\b/i.test(request.headers.accept ?? '')) {
      throw new ApiError('invalid_request', 'A stream is a WebSocket (Upgrade: websocket) or server-sent events (Accept: text/event-stream).', { path: 'Accept' });
    }
    const wanted = parseStreamRequest(request.raw.url ?? '', request.headers);
    const origin = await this.enterAndFind(request.raw.socket, wanted, true);
    if (origin.at === 'nowhere' || (origin.at === 'here' && origin.header.status === 'tombstoned' && (wanted.cursor ?? -1) >= origin.header.version)) {
      this.leave(request.raw.socket);
      this.options.requestAnswered(204);
      // The one answer that keeps an EventSource from coming back for ever.
      return reply.code(204).send();
    }
    reply.hijack();
    this.options.requestAnswered(200);
    for (const [name, value] of Object.entries(reply.getHeaders())) if (value !== undefined) reply.raw.setHeader(name, value);
    this.events(reply.raw, wanted, origin);
    return reply;
  }

  /** A WebSocket. Throws ApiError. */
  private async openSocket(reply: FastifyReply, head: Buffer): Promise<FastifyReply> {
    const response = reply.raw;
    const request = response.req;
    this.checkOrigin(request);
    const wanted = parseStreamRequest(request.url ?? '', request.headers);
    const { socket } = request;
    socket.once('close', () => this.leave(socket));
    const origin = await this.enterAndFind(socket, wanted, false);
    if (origin.at === 'nowhere') throw new Error('a WebSocket stream always has an origin');
    reply.hijack();
    // From here on the socket carries frames, and the answer is nothing that must live as long as they do.
    response.detachSocket(socket);
    let isTaken = false;
    this.server.handleUpgrade(request, socket, head, (ws) => {
      isTaken = true;
      this.options.requestAnswered(101);
      this.start(new SocketSink(ws, socket, 'client'), wanted, origin);
    });
    // The handshake was refused, or the client has left meanwhile.
    if (!isTaken && origin.at === 'peer') origin.ws.terminate();
    // Without its socket the answer would not tell those who wait for its end (traces).
    response.statusCode = isTaken ? 101 : 400;
    response.emit('close');
    return reply;
  }

  /** Takes a place for the connection, kept unless this throws ApiError, and finds its stream. */
  private async enterAndFind(socket: Duplex, wanted: StreamRequest, isEvents: boolean): Promise<Origin> {
    this.enter(socket);
    try {
      return await this.find(wanted, isEvents);
    } catch (error) {
      this.leave(socket);
      throw error;
    }
  }

  private events(response: ServerResponse, wanted: StreamRequest, origin: Exclude<Origin, { at: 'nowhere' }>): void {
    const { socket } = response.req;
    response.once('close', () => this.leave(socket));
    if (response.destroyed || socket.destroyed) {
      if (origin.at === 'peer') origin.ws.terminate();
      return this.leave(socket);
    }
    this.start(new SseSink(response), wanted, origin);
  }

  private start(sink: Sink, wanted: StreamRequest, origin: Exclude<Origin, { at: 'nowhere' }>): void {
    if (origin.at === 'here') {
      this.hub.open({ ...wanted, group: groupOf(wanted.context), sink });
    } else {
      const relay = new Relay(origin.ws, sink, () => this.relays.delete(relay));
      this.relays.add(relay);
    }
    if (this.isClosing) this.disconnect('the node is stopping');
  }

  /** The local replica after a barrier, or a connection to a node that has one. Throws ApiError. */
  private async find(wanted: StreamRequest, isEvents: boolean): Promise<Origin> {
    const group = groupOf(wanted.context);
    const { timeoutMs } = this.options;
    if (this.options.hosts(group)) {
      const header = await this.headerHere(wanted.context, group);
      if (header !== null) return { at: 'here', header };
    }
    let refused = new ApiError('raft_unavailable', `No node that hosts Raft group ${group} can be reached. Retry.`);
    const door = this.options.siblingDoor?.(group) ?? null;
    for (const address of door === null ? this.options.hostAddresses(group) : [door.address]) {
      const dialing = door === null ? { headers: this.options.peerHeaders(), tls: this.options.peerTls?.() ?? null, timeoutMs } : { headers: door.headers, tls: null, timeoutMs };
      const outcome = await dialPeer(address, peerStreamTarget(wanted, isEvents), dialing);
      if ('ws' in outcome) return { at: 'peer', ws: outcome.ws };
      if ('ended' in outcome) return { at: 'nowhere' };
      refused = outcome.refused;
      // Another node may know better only where this one could not tell.
      if (refused.status !== 503) break;
    }
    throw refused;
  }

  /** Null when the replica is gone, or so damaged that reading took it out. Throws ApiError context_not_found, raft_unavailable. */
  private async headerHere(context: string, group: number): Promise<ContextHeader | null> {
    if (!(await this.options.barrier(group)) || !this.options.hosts(group)) return null;
    let header;
    try {
      header = this.options.rows(context).header(context);
    } catch (error) {
      if (this.options.hosts(group)) throw error;
      return null;
    }
    if (header === undefined || header.status === 'purged') throw contextNotFound(context);
    return header;
  }

  private async upgradeSibling(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    if (this.isClosing) throw stopping();
    const wanted = parsePeerStreamTarget(request.url ?? '');
    this.serveNode(request, socket, head, wanted, await this.find(wanted, wanted.isEvents));
  }

  private async upgradePeer(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    if (!this.options.peerAccepts(request.headers.authorization)) throw new ApiError('unauthorized', 'No key of this cluster was presented.');
    if (this.isClosing) throw stopping();
    const wanted = parsePeerStreamTarget(request.url ?? '');
    const group = groupOf(wanted.context);
    // Never relayed twice, or two nodes with old news could send a client round and round.
    const header = this.options.hosts(group) ? await this.headerHere(wanted.context, group) : null;
    if (header === null) throw new ApiError('raft_unavailable', `This node hosts no replica of Raft group ${group}. Retry.`);
    this.serveNode(request, socket, head, wanted, { at: 'here', header });
  }

  /** A stream in the encoding of nodes. */
  private serveNode(request: IncomingMessage, socket: Duplex, head: Buffer, wanted: StreamRequest & { readonly isEvents: boolean }, origin: Origin): void {
    this.peerConnections.add(socket);
    socket.once('close', () => this.peerConnections.delete(socket));
    const isEnded = origin.at === 'nowhere' || (origin.at === 'here' && wanted.isEvents && origin.header.status === 'tombstoned' && (wanted.cursor ?? -1) >= origin.header.version);
    if (isEnded) {
      socket.end('HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n');
      return;
    }
    let isTaken = false;
    this.server.handleUpgrade(request, socket, head, (ws) => {
      isTaken = true;
      this.start(new SocketSink(ws, socket, 'peer'), wanted, origin);
    });
    if (!isTaken && origin.at === 'peer') origin.ws.terminate();
  }

  /**
   * A browser sends cookies and nothing else with a cross-site WebSocket, and no preflight before it: where no key is
   * asked for, only pages of this very host may open one.
   */
  private checkOrigin(request: IncomingMessage): void {
    const { origin, host } = request.headers;
    const { isAuthRequired, origins } = this.options;
    if (isAuthRequired || origin === undefined || origins.includes(origin) || origins.includes('*')) return;
    if (URL.canParse(origin) && new URL(origin).host === host) return;
    throw new ApiError('invalid_request', 'Without FASTPACA_API_KEY, only pages of FASTPACA_CORS_ORIGINS may open streams here.', { path: 'Origin' });
  }

  private enter(socket: Duplex): void {
    if (this.isClosing) throw stopping();
    const { connectionsMax, places } = this.options;
    if (this.connections.size + (places?.streamsElsewhere ?? 0) >= connectionsMax) {
      throw new ApiError('overloaded', `This node has ${connectionsMax} streams open, as many as FASTPACA_STREAM_MAX_CONNECTIONS allows. Use another node, or retry later.`);
    }
    this.connections.add(socket);
    places?.noteStreams(this.connections.size);
  }

  private leave(socket: Duplex): void {
    this.connections.delete(socket);
    this.options.places?.noteStreams(this.connections.size);
  }

  private tick(nowMs: number): void {
    for (const relay of this.relays) if (relay.tick(nowMs)) this.relaysEvicted++;
  }

  private refuseUpgrade(request: IncomingMessage, socket: Duplex, error: unknown): void {
    let known: ApiError;
    if (error instanceof ApiError) {
      known = error;
    } else {
      this.options.logger.error({ type: 'request_failed', err: error, method: request.method, url: request.url }, 'a stream failed to open in a way that is a bug');
      known = new ApiError('internal', 'Something went wrong here; it has been logged.');
    }
    this.options.requestAnswered(known.status);
    refuse(socket, known);
  }
}

function stopping(): ApiError {
  return new ApiError('raft_unavailable', 'This node is stopping. Use another node.');
}

/** What the router answers an upgrade with when it is refused: written to its socket, which is then closed. */
function responseTo(request: IncomingMessage): ServerResponse {
  const { socket } = request;
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(socket);
  response.once('finish', () => {
    cutIfOpen(socket);
    socket.end();
  });
  return response;
}

/** Answers an upgrade that never reached the router, and closes the connection. */
function refuse(socket: Duplex, error: ApiError): void {
  if (socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const body = JSON.stringify(error.toBody());
  const headers = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? ''}`,
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...(error.retryAfterSeconds === null ? [] : [`Retry-After: ${error.retryAfterSeconds}`]),
    ...(error.status === 401 ? ['WWW-Authenticate: Bearer'] : []),
    'Connection: close',
  ];
  cutIfOpen(socket);
  socket.end(`${headers.join('\r\n')}\r\n\r\n${body}`);
}

/** A client that neither reads nor closes must not keep the connection. */
function cutIfOpen(socket: Duplex): void {
  const cut = setTimeout(() => socket.destroy(), CLOSE_TIMEOUT_MS);
  socket.once('close', () => clearTimeout(cut));
}
