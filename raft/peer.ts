/**
 * Another node, as this host speaks with it: the frame being filled for it, and the heartbeat lists both sides hold.
 * Owns what leaves and in which frame; knows neither Raft state nor who is leader.
 */
import type { Transport } from './ports.ts';
import type { GroupId, Message, NodeId, Random } from './types.ts';
import { MessageType } from './types.ts';
import { HeartbeatReceiver, HeartbeatSender, isPlain } from './heartbeats.ts';
import { FrameWriter, ListStream } from './wire.ts';

/** Plain counters of a host, for metrics and tests. They only grow. */
export interface HostStats {
  elections: number;
  termChanges: number;
  proposals: number;
  readRounds: number;
  framesIn: number;
  framesOut: number;
  bytesIn: number;
  bytesOut: number;
  /** Frames that could not be decoded. */
  malformedFrames: number;
  /** Messages for a replica that is not here, or from one that does not live where they came from. */
  strayMessages: number;
  /** Frames that the transport did not take. */
  droppedFrames: number;
  /** Append messages withheld because too much was already on its way to their node. */
  withheldAppends: number;
  writes: number;
  entriesPersisted: number;
  entriesApplied: number;
  snapshotsInstalled: number;
  compactions: number;
}

export interface PeerLimits {
  /** Above this many buffered bytes to a node, appends with entries are withheld: heartbeats must not queue behind them. */
  readonly nodeInflightBytesMax: number;
  /** A frame is closed once it is this long. */
  readonly frameBytesMax: number;
}

/** What a flush may leave for later; see Peer.flush. */
export interface FlushOptions {
  readonly heartbeatSlot: number;
  readonly mayWait: boolean;
  readonly answers: boolean;
}

/** Told when an append did not leave, so that Raft probes instead of counting on it. */
export type Unreachable = (group: GroupId, replica: number) => void;

/** May stay in the frame until the write in flight is done. */
function keepsForWrite(message: Message): boolean {
  return message.type === MessageType.commit || message.type === MessageType.append;
}

export class Peer {
  readonly node: NodeId;
  readonly frame = new FrameWriter();
  readonly sent: readonly [HeartbeatSender, HeartbeatSender];
  readonly held: readonly [HeartbeatReceiver, HeartbeatReceiver];
  /** Slot of the last heartbeat list from there: its answers repeat in the same rhythm. */
  responseSlot = 0;
  /** The frame holds something whose sender or receiver waits for it right now. */
  #urgent = false;
  /** (group, replica) pairs of the appends in `frame`. */
  #appends: number[] = [];
  readonly #transport: Transport;
  readonly #limits: PeerLimits;
  readonly #stats: HostStats;
  readonly #random: Random;

  constructor(node: NodeId, transport: Transport, limits: PeerLimits, stats: HostStats, random: Random) {
    this.node = node;
    this.#transport = transport;
    this.#limits = limits;
    this.#stats = stats;
    this.#random = random;
    this.sent = [new HeartbeatSender(ListStream.heartbeat, this.#session()), new HeartbeatSender(ListStream.response, this.#session())];
    this.held = [new HeartbeatReceiver(), new HeartbeatReceiver()];
  }

  /** The link went down or came up: lists agreed over the old one no longer count. */
  reset(): void {
    for (const sender of this.sent) sender.reset(this.#session());
    for (const receiver of this.held) receiver.reset();
  }

  /** Puts a message on its way: plain heartbeats into a list, all else into the frame. */
  add(group: GroupId, message: Message, unreachable: Unreachable): void {
    if (isPlain(message)) {
      this.sent[message.type === MessageType.heartbeat ? ListStream.heartbeat : ListStream.response].gather(group, message);
      return;
    }
    if (message.type === MessageType.append && message.entries.length > 0) {
      if (this.#transport.bufferedBytes(this.node) + this.frame.size > this.#limits.nodeInflightBytesMax) {
        this.#stats.withheldAppends += 1;
        unreachable(group, message.to);
        return;
      }
      this.#appends.push(group, message.to);
    }
    if (!keepsForWrite(message)) this.#urgent = true;
    this.frame.message(group, message);
    if (this.frame.size >= this.#limits.frameBytesMax) this.#send(unreachable);
  }

  /**
   * Sends what was gathered, if anything, as one frame. `mayWait`: a write is in flight, so that appends, which cannot
   * be committed before a later write here or there, and commits, which nobody waits for, may gather until it is done:
   * fewer, larger frames exactly when there is much to send. `answers`: plain answers to heartbeats leave even if nothing
   * else does. At other times they wait for company: nobody waits for them, and each frame wakes a node up.
   */
  flush({ heartbeatSlot, mayWait, answers }: FlushOptions, unreachable: Unreachable): void {
    this.sent[ListStream.heartbeat].flush(this.frame, heartbeatSlot);
    if (answers || this.frame.size > 0) this.sent[ListStream.response].flush(this.frame, this.responseSlot);
    if (this.frame.size > 0 && (this.#urgent || !mayWait)) this.#send(unreachable);
  }

  #send(unreachable: Unreachable): void {
    const frame = this.frame.finish();
    this.#urgent = false;
    const appends = this.#appends;
    if (appends.length > 0) this.#appends = [];
    this.#stats.framesOut += 1;
    this.#stats.bytesOut += frame.length;
    if (this.#transport.send(this.node, frame)) return;
    this.#stats.droppedFrames += 1;
    for (let i = 0; i < appends.length; i += 2) unreachable(appends[i] ?? 0, appends[i + 1] ?? 0);
  }

  #session(): number {
    return Math.floor(this.#random() * 2 ** 32);
  }
}
