/**
 * One WebSocket to one peer, from its upgrade to its end: handshake, frames, requests in flight, liveness. Which links
 * exist, and which of two survives, is links.ts' business.
 *
 * Handshake: both send hello at once; each admits the other through its ledger and sends welcome (or refused). A link
 * is up at a side that has both admitted and been welcomed; since a welcome precedes whatever its sender sends later,
 * no frame ever arrives at a side that is not up.
 */
import type { Socket } from 'node:net';
import type { WebSocket } from 'ws';
import { DocumentError, decodeBeat, decodeLinkHello, encodeDocument, parseDocument } from './hello.ts';
import type { Beat, LinkHello } from './hello.ts';
import { decodeRefusal } from './identity.ts';
import type { Refusal } from './identity.ts';
import {
  AnswerStatus,
  BATCH_BYTES_FLUSH,
  BODY_BYTES_MAX,
  BatchWriter,
  FRAME_BYTES_MAX,
  FrameError,
  FrameKind,
  decodePing,
  encodeFrame,
  encodePing,
  readBatch,
  requestKindOf,
} from './link-frames.ts';
import type { RequestKind } from './ports.ts';
import { answerOnce, WaitingRequests } from './requests.ts';
import type { RequestDone } from './requests.ts';
import type { TimeoutWheel } from './timeouts.ts';
import type { Turn } from './turn.ts';

/**
 * Bytes a link holds for its socket. At the bound frames are dropped, requests fail with 'link_down' and answers become
 * 'remote_error'. One frame larger than the bound still goes on a link that holds nothing.
 */
export const LINK_BUFFER_BYTES_MAX = 32 * 1024 * 1024;
/** Requests in flight on one link. At the bound requests fail with 'link_down'. */
export const LINK_REQUESTS_MAX = 65_536;
/** Judgements (see PeerLinks) without a byte received after which a peer counts as dead. */
const SILENT_TURNS_MAX = 4;
/** Judgements that a handshake may take; it contains a synced write at both ends. */
const HANDSHAKE_TURNS_MAX = 20;
/** Close code for a peer that was not admitted; the reason went before it in a refused frame. */
const CLOSE_REFUSED = 4403;
const EMPTY = new Uint8Array(0);

/** What a link tells its owner, and asks of it. */
export interface LinkOwner {
  readonly wheel: TimeoutWheel;
  /** Frames of one turn leave together at its end. */
  readonly turn: Turn;
  hello(): LinkHello;
  /** Decides about the peer; null admits it. */
  admit(link: Link, peer: LinkHello): Promise<Refusal | null>;
  /** Both sides admitted each other. False: another link took its place and this one must end. */
  up(link: Link, peer: LinkHello): boolean;
  /** The peer refused us, at once or later. */
  refusedBy(link: Link, refusal: Refusal): void;
  /** The peer's beat; only while the link is up. */
  beat(link: Link, beat: Beat): void;
  frame(link: Link, frame: Uint8Array): void;
  request(link: Link, kind: RequestKind, body: Uint8Array, reply: (answer: Uint8Array) => void): void;
  /** The peer sent what no peer of this cluster sends; the link ends. */
  broken(reason: 'malformed' | 'too_large'): void;
  /** The link ended; called once. `why` for the log. Requests in flight fail right after. */
  down(link: Link, why: string): void;
}

type LinkState = 'handshake' | 'up' | 'closed';

export class Link {
  /** Order of creation: of two links of one process pair the later is the one that the dialer still wants. */
  readonly order: number;
  /** The node dialed, or null when the peer dialed us. */
  readonly dialed: string | null;
  readonly #ws: WebSocket;
  readonly #socket: Socket;
  readonly #owner: LinkOwner;
  #state: LinkState = 'handshake';
  #peer: LinkHello | null = null;
  #admitted = false;
  #welcomed = false;

  readonly #requests = new BatchWriter(FrameKind.requests);
  readonly #answers = new BatchWriter(FrameKind.answers);
  readonly #waiting: WaitingRequests;
  /** The batch that gathers: requests of an earlier one have been handed to the socket. */
  #batch = 0;
  #ending = false;
  /** The socket holds frames back until the end of the turn. */
  #corked = false;

  #bytesSeen = 0;
  #silentTurns = 0;
  #turns = 0;
  readonly #offsets = [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY];

  constructor(owner: LinkOwner, options: { ws: WebSocket; socket: Socket; dialed: string | null; order: number }) {
    this.#owner = owner;
    this.#waiting = new WaitingRequests(owner.wheel);
    this.#ws = options.ws;
    this.#socket = options.socket;
    this.dialed = options.dialed;
    this.order = options.order;
  }

  /** Starts the handshake; the WebSocket must be open. */
  open(): void {
    this.#ws.on('message', (data) => this.#receive(data));
    this.#ws.on('error', (error) => {
      // Others are of the network.
      if ('code' in error && String(error.code).startsWith('WS_ERR_')) {
        this.#owner.broken(error.code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH' ? 'too_large' : 'malformed');
      }
      this.end(error.message);
    });
    this.#ws.on('close', (code) => this.end(`closed with ${code}`));
    // ws reports a close only after its own shutdown; the first sign of the end must count.
    this.#socket.on('end', () => this.end('the peer closed the connection'));
    this.#socket.on('close', () => this.end('the connection closed'));
    this.#ws.send(encodeFrame(FrameKind.hello, encodeDocument(this.#owner.hello())));
  }

  get state(): LinkState {
    return this.#state;
  }

  /** The peer's hello, once it came. */
  get peer(): LinkHello | null {
    return this.#peer;
  }

  get bufferedBytes(): number {
    return this.#ws.bufferedAmount + this.#requests.length + this.#answers.length;
  }

  /** The peer's clock minus ours in milliseconds, from the least delayed of the latest pings; null before the first. */
  get clockOffsetMs(): number | null {
    const best = Math.max(...this.#offsets);
    return Number.isFinite(best) ? best : null;
  }

  /** Sends a Raft frame with this turn; false when it was dropped. */
  sendFrame(frame: Uint8Array): boolean {
    if (this.#state !== 'up' || frame.length >= FRAME_BYTES_MAX) return false;
    if (this.bufferedBytes + frame.length > LINK_BUFFER_BYTES_MAX && this.bufferedBytes > 0) return false;
    this.#cork();
    this.#ws.send(encodeFrame(FrameKind.raft, frame));
    return true;
  }

  /** Tells the peer this node's beat; nothing happens unless the link is up. */
  sendBeat(beat: Beat): void {
    if (this.#state === 'up') this.#ws.send(encodeFrame(FrameKind.beat, encodeDocument(beat)));
  }

  /** False: not accepted, certainly not delivered, and `done` will not be called. Otherwise `done` is called once. */
  request(kind: RequestKind, body: Uint8Array, timeoutMs: number, done: RequestDone): boolean {
    if (this.#state !== 'up' || body.length > BODY_BYTES_MAX || this.#waiting.size >= LINK_REQUESTS_MAX) return false;
    if (this.bufferedBytes + body.length > LINK_BUFFER_BYTES_MAX && this.bufferedBytes > 0) return false;
    this.#requests.add(this.#waiting.add({ bytes: body.length, batch: this.#batch, timeoutMs, done }), kind, body);
    this.#scheduleFlush();
    return true;
  }

  /**
   * One judgement of liveness; the owner calls it after its event loop has read what had arrived, so that a stall of
   * this process is not held against the peer. Also sends the ping that keeps the other side from judging us dead.
   */
  judge(): void {
    if (this.#state === 'closed') return;
    this.#turns += 1;
    if (this.#socket.bytesRead !== this.#bytesSeen) {
      this.#bytesSeen = this.#socket.bytesRead;
      this.#silentTurns = 0;
    } else {
      this.#silentTurns += 1;
    }
    if (this.#silentTurns >= SILENT_TURNS_MAX) return this.end('no byte from the peer for a second');
    if (this.#state === 'handshake' && this.#turns >= HANDSHAKE_TURNS_MAX) return this.end('the handshake took too long');
    // A peer that does not read leaves our bytes here; more pings would not help it.
    if (this.#ws.bufferedAmount >= LINK_BUFFER_BYTES_MAX) return;
    this.#cork();
    this.#ws.send(encodePing(Date.now()));
  }

  /** Sends the reason, then ends. */
  refuse(refusal: Refusal): void {
    if (this.#state === 'closed') return;
    this.#uncork();
    this.#ws.send(encodeFrame(FrameKind.refused, encodeDocument(refusal)));
    this.#ws.close(CLOSE_REFUSED);
    // The frame must leave before the socket goes, so this end does not terminate it; judge() no longer does either.
    this.#finish(refusal.reason);
    setTimeout(() => this.#ws.terminate(), 1000).unref();
  }

  /** Ends the link at once. Nothing happens when it has ended before. */
  end(why: string): void {
    if (this.#state === 'closed') return;
    this.#ws.terminate();
    this.#finish(why);
  }

  /** Sends what is gathered and says goodbye; resolves when the socket is closed, or terminates it after a moment. */
  async close(): Promise<void> {
    if (this.#state === 'closed') return;
    this.#flush();
    this.#uncork();
    const closed = new Promise<void>((resolve) => this.#socket.once('close', () => resolve()));
    this.#ws.close(1001);
    this.#finish('this node closes the link');
    const timer = setTimeout(() => this.#ws.terminate(), 250);
    await closed;
    clearTimeout(timer);
  }

  #finish(why: string): void {
    this.#state = 'closed';
    this.#owner.down(this, why);
    this.#waiting.fail((batch) => (batch === this.#batch ? 'link_down' : 'lost'));
  }

  #receive(data: unknown): void {
    if (this.#state === 'closed') return;
    try {
      if (!Buffer.isBuffer(data) || data.length === 0) throw new FrameError('an empty frame');
      if (this.#state === 'up') this.#receiveUp(data);
      else this.#receiveHandshake(data);
    } catch (error) {
      if (!(error instanceof FrameError || error instanceof DocumentError)) throw error;
      this.#owner.broken('malformed');
      this.end(`broken frame: ${error.message}`);
    }
  }

  #receiveUp(frame: Buffer): void {
    switch (frame[0]) {
      case FrameKind.raft:
        return this.#owner.frame(this, frame.subarray(1));
      case FrameKind.requests:
        return readBatch(frame, (id, tag, body) => this.#serve(id, tag, body));
      case FrameKind.answers:
        return readBatch(frame, (id, tag, body) => this.#waiting.settle(id, tag === AnswerStatus.ok ? null : 'remote_error', body));
      case FrameKind.ping:
        return this.#observeClock(decodePing(frame));
      case FrameKind.beat:
        return this.#owner.beat(this, decodeBeat(parseDocument(frame.subarray(1), 'beat')));
      case FrameKind.refused:
        return this.#refused(frame);
      default:
        throw new FrameError(`kind ${frame[0]} on a link that is up`);
    }
  }

  #receiveHandshake(frame: Buffer): void {
    switch (frame[0]) {
      case FrameKind.hello:
        return this.#meet(decodeLinkHello(parseDocument(frame.subarray(1), 'hello')));
      case FrameKind.welcome:
        this.#welcomed = true;
        return this.#complete();
      case FrameKind.refused:
        return this.#refused(frame);
      case FrameKind.ping:
        return this.#observeClock(decodePing(frame));
      default:
        throw new FrameError(`kind ${frame[0]} before the handshake is done`);
    }
  }

  #refused(frame: Buffer): void {
    const refusal = decodeRefusal(parseDocument(frame.subarray(1), 'refused'));
    this.#owner.refusedBy(this, refusal);
    this.end(`refused: ${refusal.reason}`);
  }

  #meet(peer: LinkHello): void {
    if (this.#peer !== null) throw new FrameError('a second hello');
    this.#peer = peer;
    this.#observeClock(peer.clockMs);
    void this.#owner.admit(this, peer).then((refusal) => {
      if (this.#state === 'closed') return;
      if (refusal !== null) return this.refuse(refusal);
      this.#admitted = true;
      this.#ws.send(encodeFrame(FrameKind.welcome, EMPTY));
      this.#complete();
    });
  }

  #complete(): void {
    if (!this.#admitted || !this.#welcomed || this.#peer === null) return;
    this.#state = 'up';
    if (!this.#owner.up(this, this.#peer)) this.end('another link to this peer took its place');
  }

  /** Keeps the largest offset of this and the last window: the sample that was delayed least. */
  #observeClock(clockMs: number): void {
    const offset = clockMs - Date.now();
    if (this.#turns % CLOCK_WINDOW_TURNS === 0 || this.#offsets[0] === Number.NEGATIVE_INFINITY) {
      this.#offsets[1] = this.#offsets[0] ?? offset;
      this.#offsets[0] = offset;
    } else {
      this.#offsets[0] = Math.max(this.#offsets[0] ?? offset, offset);
    }
  }

  #serve(id: number, tag: number, body: Uint8Array): void {
    const kind = requestKindOf(tag);
    if (kind === null) return this.#answer(id, AnswerStatus.remoteError, EMPTY);
    answerOnce(
      (reply) => this.#owner.request(this, kind, body, reply),
      (answer) => (answer === null ? this.#answer(id, AnswerStatus.remoteError, EMPTY) : this.#answer(id, AnswerStatus.ok, answer)),
    );
  }

  #answer(id: number, status: number, body: Uint8Array): void {
    // After the link's end the asker has been told 'lost' already.
    if (this.#state !== 'up') return;
    const fits = body.length <= BODY_BYTES_MAX && (this.bufferedBytes + body.length <= LINK_BUFFER_BYTES_MAX || this.bufferedBytes === 0);
    if (!fits && body.length > 0) return this.#answer(id, AnswerStatus.remoteError, EMPTY);
    this.#answers.add(id, status, body);
    this.#scheduleFlush();
  }

  #scheduleFlush(): void {
    if (this.#requests.length >= BATCH_BYTES_FLUSH || this.#answers.length >= BATCH_BYTES_FLUSH) return this.#flush();
    this.#atTurnEnd();
  }

  #atTurnEnd(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#owner.turn.atEnd(() => {
      this.#ending = false;
      this.#flush();
      this.#uncork();
    });
  }

  /** Whatever is sent until the end of the turn becomes one write. */
  #cork(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#socket.cork();
    this.#atTurnEnd();
  }

  #uncork(): void {
    if (!this.#corked) return;
    this.#corked = false;
    this.#socket.uncork();
  }

  #flush(): void {
    if (this.#state !== 'up' || this.#answers.length + this.#requests.length === 0) return;
    this.#cork();
    if (this.#answers.length > 0) this.#ws.send(this.#answers.take());
    if (this.#requests.length > 0) {
      this.#batch += 1;
      this.#ws.send(this.#requests.take());
    }
  }
}

/** Judgements that one window of clock samples spans. */
const CLOCK_WINDOW_TURNS = 20;
