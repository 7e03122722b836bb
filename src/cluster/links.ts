/**
 * PeerNetwork over ws: one WebSocket per node pair on the node's own HTTP port, path `/_peer`. The node with the lower
 * name dials; a link is authenticated before its upgrade is accepted, and both ends admit each other through their
 * ledgers before anything else passes (link.ts). Snapshots do not travel here.
 *
 * Links also carry the beats (standing.ts, ledger.ts), and act on them: a peer that others remember better loses its
 * link, and a node that a peer remembers better than it does itself steps back: it ends every link and makes no more.
 */
import { STATUS_CODES } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocket, WebSocketServer } from 'ws';
import type { PeerKeys } from './auth.ts';
import { Beats } from './beats.ts';
import { DocumentError, compareNames, objectAt, parseDocument, seatProblem, stringAt } from './hello.ts';
import type { Beat, LinkHello } from './hello.ts';
import type { Refusal } from './identity.ts';
import type { PeerLedger } from './ledger.ts';
import { WIRE_FORMAT, WIRE_FORMAT_MIN } from '../constants.ts';
import { FRAME_BYTES_MAX } from './link-frames.ts';
import { Link } from './link.ts';
import type { LinkOwner } from './link.ts';
import type { PeerEvents, PeerInfo, PeerNetwork, PeerRefusal, PeerTlsSource, RequestKind } from './ports.ts';
import type { Seat } from './seat.ts';
import { isForGood } from './standing.ts';
import type { RequestDone } from './requests.ts';
import type { Standing, SteppedBack } from './standing.ts';
import { TimeoutWheel } from './timeouts.ts';
import { everyAlone } from './ticker.ts';
import type { Every } from './ticker.ts';
import { Turn } from './turn.ts';

export const PEER_PATH = '/_peer';
/** One timer drives redials, deadlines, pings and liveness. */
const TICK_MS = 50;
/** Ticks between two judgements of liveness: a ping every 250 ms, four silent judgements are the end. */
const JUDGE_TICKS = 5;
const REDIAL_MS_MIN = 100;
const REDIAL_MS_MAX = 1000;
const DIAL_TIMEOUT_MS = 1000;
/** A link that lived this long was a success: the next redial is immediate. */
const STEADY_MS = 1000;
const REFUSAL_BODY_BYTES_MAX = 4096;
const NAME_HEADER = 'x-fastpaca-node';
const STEPPED_BACK_LINE = 'this node steps back: its data directory is not that of the member any more, and takes no part in the cluster';

/** The part of a pino logger that links use. */
export interface PeerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface PeerLinksOptions {
  /** When to do what is done again and again; absent: by a timer of its own. */
  readonly every?: Every;
  /** This node now; the links add what `standing`, `ledger` and the clock say. */
  readonly self: () => PeerInfo;
  /** Absent: not divided. */
  readonly seat?: Seat;
  /** The wire format that the cluster uses, once that is known: who speaks less is refused. */
  readonly wireFormatInUse?: () => number;
  readonly standing: Standing;
  readonly ledger: PeerLedger;
  readonly keys: PeerKeys;
  readonly events: PeerEvents;
  /** Called once if this node steps back (Standing), now or in an earlier open; a line for its operator. */
  readonly onSteppedBack: (reason: string) => void;
  /** Called once if it did so for good, when the mark is durable: the next start sets the data aside (rebirth.ts). */
  readonly onSentenced: () => void;
  readonly log: PeerLog;
  /** Null: plain TCP. */
  readonly tls: PeerTlsSource | null;
  /** Told of everyone who is turned away, once for each time; those without a key are the keys' to tell of. */
  readonly onRefused: (reason: PeerRefusal) => void;
  /** The turn whose end frames leave at; absent: one of their own. */
  readonly turn?: Turn;
}

/** Why there is no link to a node. `refused by` it, or `refused` here; for readiness. */
export interface LinkRefusal {
  readonly node: string;
  readonly reason: string;
}

/** What is known of one node that there should be a link to. */
interface Target {
  readonly name: string;
  address: string;
  /** The socket being opened, before it is a link. */
  dialing: WebSocket | null;
  dialed: Link | null;
  backoffMs: number;
  dialAtMs: number;
  /** Why the last dial failed; logged when it changes. Null after a success. */
  failure: string | null;
}

export class PeerLinks implements PeerNetwork {
  readonly #options: PeerLinksOptions;
  readonly #server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: FRAME_BYTES_MAX,
    skipUTF8Validation: true,
  });
  readonly #targets = new Map<string, Target>();
  /** Every link that has not ended, in handshake or up. */
  readonly #links = new Set<Link>();
  /** The link in use for each node. */
  readonly #up = new Map<string, Link>();
  readonly #upSinceMs = new Map<string, number>();
  readonly #refusals = new Map<string, string>();
  readonly #wheel = new TimeoutWheel(performance.now());
  readonly #owner: LinkOwner;
  readonly #beats: Beats;
  #stopTicks: (() => void) | null = null;
  #ticks = 0;
  #order = 0;
  #closed = false;

  constructor(options: PeerLinksOptions) {
    this.#options = options;
    this.#beats = new Beats(options.standing, options.ledger, (beat) => {
      for (const link of this.#up.values()) link.sendBeat(beat);
    });
    this.#owner = {
      wheel: this.#wheel,
      turn: options.turn ?? new Turn(),
      hello: () => ({ ...options.self(), ...(options.seat === undefined ? {} : { seat: options.seat }), lineage: options.standing.lineage(), former: options.standing.former, seen: options.ledger.sightings(), clockMs: Date.now() }),
      admit: (link, peer) => this.#admit(link, peer),
      up: (link, peer) => this.#linkUp(link, peer),
      refusedBy: (link, refusal) => this.#refusedBy(link, refusal),
      beat: (link, beat) => this.#beatHeard(link, beat),
      frame: (link, frame) => {
        if (!this.#closed) options.events.onFrame(nameOf(link), frame);
      },
      request: (link, kind, body, reply) => this.#serve(link, kind, body, reply),
      broken: (reason) => options.onRefused(reason),
      down: (link, why) => this.#linkDown(link, why),
    };
  }

  /** Starts the ticks; nothing is dialed before `setPeers`, or by a node that stepped back in an earlier open. */
  open(): void {
    this.#saySteppedBack();
    this.#stopTicks ??= (this.#options.every ?? everyAlone)(TICK_MS, () => this.#tick());
  }

  /**
   * Ends every link, sending what is gathered. Requests in flight fail with 'lost'. No event follows. Frames are refused
   * from the call on, and the last beat follows what they promised: of a node that was stopped, peers that were linked
   * know a directory rolled back to any moment before. Resolves when what peers told is durable too.
   */
  async close(): Promise<void> {
    this.#closed = true;
    this.#stopTicks?.();
    this.#stopTicks = null;
    for (const target of this.#targets.values()) target.dialing?.terminate();
    this.#targets.clear();
    if (this.#up.size > 0) await this.#beats.last();
    await Promise.all([...this.#links].map((link) => link.close()));
    await this.#options.ledger.settled();
  }

  /**
   * The nodes to be linked with, by name, and the host:port each is reached at. Links to others end; a changed address
   * counts from the next dial on. This node's own name is ignored.
   */
  setPeers(peers: ReadonlyMap<string, string>): void {
    if (this.#closed) return;
    const self = this.#options.self().name;
    // Whose store is a member no more is told so before its link ends for want of a target.
    this.#endDoubted();
    for (const name of [...this.#targets.keys()]) if (!peers.has(name)) this.#forget(name);
    for (const [name, address] of peers) {
      if (name === self) continue;
      const target = this.#targets.get(name);
      if (target !== undefined) {
        if (target.address !== address) target.dialAtMs = 0;
        target.address = address;
        continue;
      }
      const fresh = { name, address, dialing: null, dialed: null, backoffMs: REDIAL_MS_MIN, dialAtMs: 0, failure: null };
      this.#targets.set(name, fresh);
      this.#dial(fresh);
    }
  }

  /** Takes an HTTP upgrade of PEER_PATH: answers 401 or 403 with a JSON reason, or makes it a link. */
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    if (!this.#options.keys.accepts(request.headers.authorization)) {
      const name = this.#claimedName(request);
      // Anyone can claim a name: what they say must not speak against a peer whose link is up.
      if (!this.#up.has(name)) this.#noteRefusal(name, 'refused here: it presented no key of this cluster');
      return refuseUpgrade(socket, 401, 'unauthorized', 'no key of this cluster was presented (FASTPACA_CLUSTER_SECRET, FASTPACA_API_KEY)');
    }
    const steppedBack = this.#options.standing.steppedBack;
    if (steppedBack !== null) {
      this.#options.onRefused('stepped_back');
      return refuseUpgrade(socket, 403, 'stepped_back', `it has stepped back, because node '${steppedBack.by}' remembers: ${steppedBack.reason}`);
    }
    if (this.#closed || this.#options.self().clusterId === '') {
      this.#options.onRefused('not_founded');
      return refuseUpgrade(socket, 403, 'not_founded', this.#closed ? 'this node is closing' : 'this node belongs to no cluster yet');
    }
    // Upgrades of an HTTP server come on a net.Socket (a TLSSocket is one).
    if (!(socket instanceof Socket)) return refuseUpgrade(socket, 403, 'forbidden', 'not a TCP connection');
    this.#server.handleUpgrade(request, socket, head, (ws) => this.#adopt(ws, socket, null));
  }

  send(node: string, frame: Uint8Array): boolean {
    if (this.#closed) return false;
    return this.#up.get(node)?.sendFrame(frame) ?? false;
  }

  bufferedBytes(node: string): number {
    return this.#up.get(node)?.bufferedBytes ?? 0;
  }

  /** `done` is never called before this returns. */
  request(node: string, kind: RequestKind, body: Uint8Array, timeoutMs: number, done: RequestDone): void {
    const accepted = !this.#closed && (this.#up.get(node)?.request(kind, body, timeoutMs, done) ?? false);
    if (!accepted) setImmediate(done, 'link_down', null);
  }

  isUp(node: string): boolean {
    return this.#up.has(node);
  }

  up(): readonly string[] {
    return [...this.#up.keys()];
  }

  /** Nodes that refuse this node or that it refuses, until a link to them comes up. First, and for good, why it stepped back. */
  refusals(): readonly LinkRefusal[] {
    const { steppedBack } = this.#options.standing;
    if (steppedBack !== null) return [{ node: steppedBack.by, reason: steppedBackReason(steppedBack) }];
    return [...this.#refusals].map(([node, reason]) => ({ node, reason }));
  }

  /** Each live peer's clock minus this node's, in milliseconds. */
  clockOffsets(): ReadonlyMap<string, number> {
    const offsets = new Map<string, number>();
    for (const [name, link] of this.#up) {
      const offset = link.clockOffsetMs;
      if (offset !== null) offsets.set(name, offset);
    }
    return offsets;
  }

  /** The peer that an unauthenticated upgrade says it is; bounded to the names that are expected. */
  #claimedName(request: IncomingMessage): string {
    const header = request.headers[NAME_HEADER];
    for (const name of this.#targets.keys()) if (header === encodeURIComponent(name)) return name;
    return 'unknown';
  }

  #tick(): void {
    this.#ticks += 1;
    const judging = this.#ticks % JUDGE_TICKS === 0;
    // Timers run before the poll phase, immediates after it: by then what had arrived while this process was busy has
    // been read, so neither a peer nor a deadline is judged by our own stall. In the turn that is on its way: what is
    // said here leaves with what Raft says at its tick.
    this.#owner.turn.soon(() => {
      if (this.#closed) return;
      const now = performance.now();
      this.#wheel.advance(now);
      if (judging) for (const link of this.#links) link.judge();
      for (const target of this.#targets.values()) if (target.dialAtMs <= now) this.#dial(target);
      if (this.#up.size > 0) this.#beats.tick(now);
    });
  }

  /** What a peer tells may speak against this node, or against another one whose link is up. */
  #beatHeard(link: Link, beat: Beat): void {
    const { peer } = link;
    if (peer === null) return;
    const { standing, ledger } = this.#options;
    const own = standing.judge(beat.seen, peer.name);
    if (own !== null) return this.stepBack(peer.name, own);
    ledger.heard(peer, beat);
    this.#endDoubted();
  }

  #endDoubted(): void {
    for (const link of [...this.#up.values()]) {
      const doubt = link.peer === null ? null : this.#options.ledger.doubt(link.peer);
      if (doubt === null) continue;
      this.#noteRefusal(nameOf(link), `refused here: ${doubt.reason}`);
      this.#options.onRefused(doubt.code);
      link.refuse(doubt);
    }
  }

  #refusedBy(link: Link, refusal: Refusal): void {
    const node = link.peer?.name ?? link.dialed ?? 'unknown';
    if (speaksAgainstDisk(refusal)) this.stepBack(node, refusal);
    else this.#noteRefusal(node, `it refused this node: ${refusal.reason}`);
  }

  /**
   * This node's memory is not the member's any more. One peer that knows is enough: others that do not would let it
   * vote on what it has forgotten.
   */
  stepBack(by: string, refusal: Refusal): void {
    const { standing } = this.#options;
    if (standing.steppedBack !== null) return;
    // A write that fails stops the node elsewhere; until then what was set in memory holds.
    standing.stepBack(by, refusal).then(() => this.#saySentenced(), () => undefined);
    this.#saySteppedBack();
    for (const target of this.#targets.values()) {
      target.dialing?.terminate();
      target.dialing = null;
    }
    for (const link of [...this.#links]) link.end(STEPPED_BACK_LINE);
  }

  #saySteppedBack(): void {
    const { steppedBack } = this.#options.standing;
    if (steppedBack === null) return;
    this.#options.log.warn({ node: steppedBack.by, reason: steppedBack.reason }, STEPPED_BACK_LINE);
    this.#options.onSteppedBack(steppedBackReason(steppedBack));
  }

  #saySentenced(): void {
    const { steppedBack } = this.#options.standing;
    if (steppedBack !== null && isForGood(steppedBack) && !this.#closed) this.#options.onSentenced();
  }

  #dial(target: Target): void {
    if (target.dialing !== null || target.dialed !== null || this.#up.has(target.name)) return;
    if (this.#options.standing.steppedBack !== null) return;
    const self = this.#options.self();
    // A node without a cluster would be refused; it asks again at every tick, which costs nothing.
    if (self.clusterId === '' || compareNames(self.name, target.name) > 0) return;
    const ws = this.#connect(target.address, self.name);
    if (ws === null) return this.#dialFailed(target, `'${target.address}' is not an address`);
    target.dialing = ws;
    let socket: Socket | null = null;
    const failed = (reason: string): void => {
      if (target.dialing !== ws) return;
      target.dialing = null;
      ws.terminate();
      this.#dialFailed(target, reason);
    };
    ws.on('upgrade', (response) => {
      socket = response.socket;
    });
    ws.on('unexpected-response', (request, response) => {
      readRefusal(response, (reason) => {
        request.destroy();
        if (target.dialing === ws) this.#noteRefusal(target.name, `it refused this node: ${reason}`);
        failed(reason);
      });
    });
    ws.on('error', (error) => failed(error.message));
    ws.on('close', () => failed('closed'));
    ws.on('open', () => {
      if (target.dialing !== ws || socket === null) return ws.terminate();
      target.dialing = null;
      target.dialed = this.#adopt(ws, socket, target.name);
    });
  }

  /** Null when the address cannot be part of a URL. */
  #connect(address: string, self: string): WebSocket | null {
    const { tls, keys } = this.#options;
    const url = `${tls === null ? 'ws' : 'wss'}://${address}${PEER_PATH}`;
    if (!URL.canParse(url)) return null;
    return new WebSocket(url, {
      perMessageDeflate: false,
      maxPayload: FRAME_BYTES_MAX,
      skipUTF8Validation: true,
      handshakeTimeout: DIAL_TIMEOUT_MS,
      // Masking protects caches between browsers and servers (RFC 6455 10.3); between two of ours it only costs.
      generateMask: (mask) => mask.fill(0),
      headers: { ...keys.headers(), [NAME_HEADER]: encodeURIComponent(self) },
      ...tls?.(),
    });
  }

  #dialFailed(target: Target, reason: string): void {
    if (this.#closed) return;
    const jitter = 0.75 + Math.random() / 2;
    target.dialAtMs = performance.now() + target.backoffMs * jitter;
    target.backoffMs = Math.min(target.backoffMs * 1.5, REDIAL_MS_MAX);
    if (target.failure === reason) return;
    target.failure = reason;
    this.#options.log.info({ node: target.name, address: target.address, reason }, 'peer not reached');
  }

  #adopt(ws: WebSocket, socket: Socket, dialed: string | null): Link {
    const link = new Link(this.#owner, { ws, socket, dialed, order: this.#order++ });
    this.#links.add(link);
    link.open();
    return link;
  }

  async #admit(link: Link, peer: LinkHello): Promise<Refusal | null> {
    const refusal = await this.#judge(link, peer);
    if (refusal !== null) this.#options.onRefused(refusal.code);
    return refusal;
  }

  async #judge(link: Link, peer: LinkHello): Promise<Refusal | null> {
    const misdirected = this.#misdirected(link, peer);
    // Peers of one cluster tell the truth about what they have seen, whether they can be admitted or not.
    const own = misdirected === null && peer.clusterId === this.#options.self().clusterId ? this.#options.standing.judge(peer.seen, peer.name) : null;
    if (own !== null) {
      this.stepBack(peer.name, own);
      return own;
    }
    const refusal = misdirected ?? (await this.#options.ledger.admit(peer));
    if (refusal !== null && refusal.code !== 'not_founded') this.#noteRefusal(peer.name, `refused here: ${refusal.reason}`);
    return refusal;
  }

  #misdirected(link: Link, peer: LinkHello): Refusal | null {
    const self = this.#options.self();
    // A newer node knows what it still understands and decides by itself.
    const lowest = Math.max(WIRE_FORMAT_MIN, this.#options.wireFormatInUse?.() ?? 0);
    if (peer.wireFormat < lowest) {
      return { code: 'version', reason: `node '${peer.name}' speaks wire format ${peer.wireFormat}, node '${self.name}' ${lowest} to ${WIRE_FORMAT}: upgrade it` };
    }
    const divided = seatProblem({ ...self, ...(this.#options.seat === undefined ? {} : { seat: this.#options.seat }) }, peer);
    if (divided !== null) return { code: 'version', reason: divided };
    if (peer.name === self.name) {
      const reason = peer.storeId === self.storeId ? 'this node reached itself' : `two nodes are named '${self.name}' (stores ${self.storeId} and ${peer.storeId})`;
      // Not 'duplicate': that would speak against the directory of whoever is told.
      return { code: 'stale', reason };
    }
    if (link.dialed !== null && link.dialed !== peer.name) {
      return { code: 'stale', reason: `node '${link.dialed}' was expected at this address, node '${peer.name}' answered` };
    }
    if (link.dialed === null && compareNames(self.name, peer.name) < 0) {
      return { code: 'stale', reason: `'${self.name}' dials '${peer.name}', not the other way round` };
    }
    return null;
  }

  #linkUp(link: Link, peer: LinkHello): boolean {
    const before = this.#up.get(peer.name);
    // The ledger admitted both in some order; whoever is not the latest open of the store, or the older of two links
    // to the same process, gives way.
    if (!this.#options.ledger.isCurrent(peer) || (before !== undefined && isSameOpen(before.peer, peer) && before.order > link.order)) {
      return false;
    }
    before?.end('a newer link of the same node took its place');
    this.#up.set(peer.name, link);
    this.#upSinceMs.set(peer.name, performance.now());
    this.#refusals.delete(peer.name);
    const target = this.#targets.get(peer.name);
    if (target !== undefined) target.failure = null;
    this.#options.log.info({ node: peer.name, address: peer.address, generation: peer.generation }, 'peer link up');
    this.#options.events.onUp(peer);
    // It has told of others in its hello.
    this.#endDoubted();
    return true;
  }

  #linkDown(link: Link, why: string): void {
    this.#links.delete(link);
    const name = link.peer?.name ?? link.dialed;
    const wasUp = name !== null && this.#up.get(name) === link;
    const target = link.dialed === null ? undefined : this.#targets.get(link.dialed);
    const steady = wasUp && performance.now() - (this.#upSinceMs.get(name) ?? 0) >= STEADY_MS;
    if (wasUp) {
      this.#up.delete(name);
      this.#upSinceMs.delete(name);
    }
    if (this.#closed) return;
    if (wasUp) {
      this.#options.log.info({ node: name, why }, 'peer link down');
      this.#options.events.onDown(name);
    }
    if (target === undefined || target.dialed !== link) return;
    target.dialed = null;
    if (!steady) return this.#dialFailed(target, why);
    target.backoffMs = REDIAL_MS_MIN;
    target.dialAtMs = 0;
    setImmediate(() => {
      if (this.#targets.get(target.name) === target) this.#dial(target);
    });
  }

  #serve(link: Link, kind: RequestKind, body: Uint8Array, reply: (answer: Uint8Array) => void): void {
    // The asker is told 'lost' when the link ends.
    if (this.#closed) return;
    try {
      this.#options.events.onRequest(nameOf(link), kind, body, reply);
    } catch (error) {
      this.#options.log.warn({ node: nameOf(link), kind, err: error }, 'a request of a peer failed');
      throw error;
    }
  }

  #forget(name: string): void {
    const target = this.#targets.get(name);
    this.#targets.delete(name);
    this.#refusals.delete(name);
    target?.dialing?.terminate();
    for (const link of [...this.#links]) if (link.dialed === name || link.peer?.name === name) link.end('the node is no longer a peer');
  }

  /** Logged when it changes, not at every try. */
  #noteRefusal(node: string, reason: string): void {
    if (this.#refusals.get(node) === reason) return;
    this.#refusals.set(node, reason);
    this.#options.log.warn({ node, reason }, 'peer link refused');
  }
}

function steppedBackReason({ by, reason }: SteppedBack): string {
  return `${STEPPED_BACK_LINE}; node '${by}' remembers: ${reason}`;
}

/** True when a peer's refusal means that this directory is not the member any more; the others may pass by themselves. */
function speaksAgainstDisk({ code }: Refusal): boolean {
  return code === 'rolled_back' || code === 'duplicate' || code === 'store_changed' || code === 'removed';
}

function isSameOpen(a: LinkHello | null, b: LinkHello): boolean {
  return a !== null && a.storeId === b.storeId && a.generation === b.generation && a.nonce === b.nonce;
}

/** Only for links that are up, whose peer is known. */
function nameOf(link: Link): string {
  return link.peer?.name ?? '';
}

/** Answers an upgrade between nodes with a JSON reason, and closes the connection. */
export function refuseUpgrade(socket: Duplex, status: 401 | 403, error: string, message: string): void {
  const body = JSON.stringify({ error, message });
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nConnection: close\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

/** Reads the JSON reason of a refused upgrade; falls back to the status. */
function readRefusal(response: IncomingMessage, done: (reason: string) => void): void {
  const chunks: Buffer[] = [];
  let bytes = 0;
  const finish = (): void => {
    const status = `HTTP ${response.statusCode ?? 0}`;
    try {
      done(`${status}: ${stringAt(objectAt(parseDocument(Buffer.concat(chunks), 'refusal'), 'refusal'), 'message')}`);
    } catch (error) {
      if (!(error instanceof DocumentError)) throw error;
      done(status);
    }
  };
  response.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= REFUSAL_BODY_BYTES_MAX) chunks.push(chunk);
    else response.destroy();
  });
  response.on('error', finish);
  response.on('end', finish);
}
