/**
 * The fuller spike: three equal nodes, each owning a third of the contexts. A request for another node's context is
 * forwarded; everything for a peer goes out as one frame a turn of the event loop; an entry's log row is synced on two
 * nodes before it is answered; its message row and its context's header row follow with the next batch. Rounds are as in
 * the store: one batch in flight, the next gathers meanwhile. Still no elections, no recovery, no state, no reads.
 *
 *   node bench/spike/symmetric.ts ME DIRECTORY PORT PORT PORT
 */
import type { ServerResponse } from 'node:http';
import { WebSocket, WebSocketServer } from 'ws';
import { headerRow, logRow, messageRow, openDb } from './disk.ts';
import type { Db, Put } from './disk.ts';
import { decodeFrame, emptyFrame, encodeFrame, isEmpty } from './frames.ts';
import type { Entry, Frame } from './frames.ts';
import { answer, serveAppends } from './http.ts';

const NODES = 3;
/** Committed entries that may wait for a batch with new log rows before they get one of their own. */
const APPLY_WAITING_MAX = 256;
const SOCKET = { perMessageDeflate: false, skipUTF8Validation: true };
/** Masking costs a pass over the bytes and says nothing between trusted peers. */
const CLIENT_SOCKET = { ...SOCKET, generateMask: (mask: Buffer): void => void mask.fill(0) };
const RETRY_MS = 100;

function ownerOf(context: string): number {
  let hash = 2_166_136_261;
  for (let i = 0; i < context.length; i++) hash = Math.imul(hash ^ context.charCodeAt(i), 16_777_619);
  return (hash >>> 0) % NODES;
}

/** An entry of this node's own until two disks hold it. */
interface Waiting {
  readonly entry: Entry;
  synced: number;
  readonly reply: (seq: number) => void;
}

class SpikeNode {
  readonly #me: number;
  readonly #db: Db;
  readonly #links: (WebSocket | null)[] = Array.from({ length: NODES }, () => null);
  readonly #out: Frame[] = Array.from({ length: NODES }, emptyFrame);
  readonly #seqs = new Map<string, number>();
  readonly #waiting = new Map<number, Waiting>();
  /** Entries of other nodes that are not committed yet, by owner. */
  readonly #replicated: Map<number, Entry>[] = Array.from({ length: NODES }, () => new Map());
  readonly #forwarded = new Map<number, ServerResponse>();
  #logged: { readonly owner: number; readonly entry: Entry }[] = [];
  #committed: Entry[] = [];
  #nextIndex = 1;
  #nextRequest = 1;
  #isWriting = false;
  #isScheduled = false;

  constructor(me: number, db: Db) {
    this.#me = me;
    this.#db = db;
  }

  link(peer: number, socket: WebSocket): void {
    this.#links[peer] = socket;
    socket.on('message', (data) => this.#receive(peer, data as Buffer));
  }

  append(context: string, body: Buffer, response: ServerResponse): void {
    const owner = ownerOf(context);
    if (owner === this.#me) {
      this.#propose(context, body, (seq) => answer(response, seq));
      return;
    }
    const request = this.#nextRequest++;
    this.#forwarded.set(request, response);
    this.#out[owner]?.forwards.push({ request, context, body });
    this.#schedule();
  }

  #propose(context: string, body: Buffer, reply: (seq: number) => void): void {
    const seq = (this.#seqs.get(context) ?? 0) + 1;
    this.#seqs.set(context, seq);
    const entry = { index: this.#nextIndex++, seq, context, body };
    this.#waiting.set(entry.index, { entry, synced: 0, reply });
    this.#logged.push({ owner: this.#me, entry });
    this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => this.#turn());
  }

  #turn(): void {
    this.#isScheduled = false;
    if (!this.#isWriting && (this.#logged.length > 0 || this.#committed.length > APPLY_WAITING_MAX)) this.#write();
    this.#send();
  }

  #write(): void {
    const logged = this.#logged;
    const committed = this.#committed;
    this.#logged = [];
    this.#committed = [];
    this.#isWriting = true;
    const rows: Put[] = [];
    for (const { owner, entry } of logged) {
      rows.push(logRow(owner, entry.index, entry.body));
      if (owner !== this.#me) continue;
      for (let peer = 0; peer < NODES; peer++) if (peer !== this.#me) this.#out[peer]?.entries.push(entry);
    }
    for (const { context, seq, body } of committed) rows.push(messageRow(context, seq, body), headerRow(context));
    void this.#db.batch(rows, { sync: true }).then(() => {
      this.#isWriting = false;
      for (const { owner, entry } of logged) {
        if (owner === this.#me) this.#synced(entry.index);
        else this.#out[owner]?.acks.push(entry.index);
      }
      this.#schedule();
    });
  }

  #synced(index: number): void {
    const waiting = this.#waiting.get(index);
    if (waiting === undefined || ++waiting.synced < 2) return;
    this.#waiting.delete(index);
    this.#committed.push(waiting.entry);
    for (let peer = 0; peer < NODES; peer++) if (peer !== this.#me) this.#out[peer]?.commits.push(index);
    waiting.reply(waiting.entry.seq);
  }

  #send(): void {
    for (let peer = 0; peer < NODES; peer++) {
      const frame = this.#out[peer];
      if (frame === undefined || isEmpty(frame)) continue;
      this.#out[peer] = emptyFrame();
      this.#links[peer]?.send(encodeFrame(frame));
    }
  }

  #receive(peer: number, bytes: Buffer): void {
    const { entries, acks, commits, forwards, answers } = decodeFrame(bytes);
    const replicated = this.#replicated[peer];
    for (const entry of entries) {
      this.#logged.push({ owner: peer, entry });
      replicated?.set(entry.index, entry);
    }
    for (const index of acks) this.#synced(index);
    for (const index of commits) {
      const entry = replicated?.get(index);
      if (entry === undefined) continue;
      replicated?.delete(index);
      this.#committed.push(entry);
    }
    for (const { request, context, body } of forwards) {
      this.#propose(context, body, (seq) => {
        this.#out[peer]?.answers.push({ request, seq });
        this.#schedule();
      });
    }
    for (const { request, seq } of answers) {
      const response = this.#forwarded.get(request);
      this.#forwarded.delete(request);
      if (response !== undefined) answer(response, seq);
    }
    this.#schedule();
  }
}

/** A link to a peer that may not listen yet. */
async function connectTo(port: number, me: number): Promise<WebSocket> {
  for (;;) {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/${me}`, CLIENT_SOCKET);
    const isOpen = await new Promise<boolean>((resolve) => socket.once('open', () => resolve(true)).once('error', () => resolve(false)));
    if (isOpen) return socket;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

const [number = '', directory = '', ...ports] = process.argv.slice(2);
const me = Number(number);
const node = new SpikeNode(me, await openDb(directory));
const server = serveAppends((context, body, response) => node.append(context, body, response));
const sockets = new WebSocketServer({ noServer: true, ...SOCKET });
server.on('upgrade', (request, socket, head) => {
  sockets.handleUpgrade(request, socket, head, (link) => node.link(Number(request.url?.slice(1)), link));
});
server.listen(Number(ports[me]), '127.0.0.1');
for (let peer = 0; peer < me; peer++) node.link(peer, await connectTo(Number(ports[peer]), me));
