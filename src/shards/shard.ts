/**
 * One shard among its siblings, as its node (node.ts) uses it: which groups it runs, how a call for another shard gets
 * there, and the few figures that all threads of a node share. A node that is not divided has none of this.
 *
 * A sibling stands in the router, the store and the listing where a peer stands that hosts a group: the same calls go to
 * it, through a message port instead of a link. It answers like a node that was asked by a client, so it may pass a call
 * on to other nodes; a node never passes on what a peer asks, so that nothing can go in circles.
 */
import type { MessagePort } from 'node:worker_threads';
import type { NodeId } from '../../raft/types.ts';
import type { PeerNetwork } from '../cluster/ports.ts';
import { owns, shardOf, siblingIndex, siblingName, type Seat } from '../cluster/seat.ts';
import { Siblings } from './siblings.ts';

/** What a thread is given to sit down with; travels as its workerData. */
export interface ShardData extends Seat {
  /** To each sibling, by index; null at its own. */
  readonly ports: readonly (MessagePort | null)[];
  /** See Slot. */
  readonly shared: SharedArrayBuffer;
  /** Of the doors through which streams pass between shards, and of entries; known to this process alone. */
  readonly doorKey: string;
  /** Clients reach this shard through the thread that started it (front.ts): the system does not let shards share a port. */
  readonly isForwarded: boolean;
}

/** What a shard tells the thread that started it: the port of the loopback interface at which it takes connections, or null. */
export interface ShardNotice {
  readonly entry: number | null;
}

/** Numbers of each shard that the others read, in an Int32Array of SLOTS for each. */
const Slot = {
  /** Streams of clients that are open on it. */
  streams: 0,
  /** 1 while it is not known to have nothing under way. */
  busy: 1,
  /** Port of its door (stream-door.ts); 0 while it has none. */
  door: 2,
  /** 1 once it has failed, whether its thread has ended or hangs while it ends. */
  failed: 3,
} as const;
const SLOTS = 4;

/** Shared memory for `count` shards, in which each counts as busy. */
export function sharedSlots(count: number): SharedArrayBuffer {
  const shared = new SharedArrayBuffer(count * SLOTS * Int32Array.BYTES_PER_ELEMENT);
  const slots = new Int32Array(shared);
  for (let index = 0; index < count; index++) slots[index * SLOTS + Slot.busy] = 1;
  return shared;
}

/** The first shard that has failed, by index; null while none has. */
export function failedShard(shared: SharedArrayBuffer, count: number): number | null {
  const slots = new Int32Array(shared);
  for (let index = 0; index < count; index++) if (Atomics.load(slots, index * SLOTS + Slot.failed) === 1) return index;
  return null;
}

export class Shard implements Seat {
  readonly index: number;
  readonly count: number;
  readonly siblings: Siblings;
  readonly doorKey: string;
  readonly isForwarded: boolean;
  private readonly slots: Int32Array;
  private readonly tell: (notice: ShardNotice) => void;

  constructor({ index, count, ports, shared, doorKey, isForwarded }: ShardData, tell: (notice: ShardNotice) => void) {
    this.index = index;
    this.count = count;
    this.doorKey = doorKey;
    this.isForwarded = isForwarded;
    this.tell = tell;
    this.slots = new Int32Array(shared);
    this.siblings = new Siblings(new Map(ports.flatMap((port, at) => (port === null ? [] : [[at, port] as const]))));
  }

  owns(group: number): boolean {
    return owns(this, group);
  }

  /** The sibling that runs a group, by its name among nodes; null for a group of this shard. */
  siblingOf(group: number): NodeId | null {
    return owns(this, group) ? null : siblingName(shardOf(group, this.count));
  }

  /** Peers and siblings as one network: siblings answer requests and nothing else, and are always up. */
  network(peers: PeerNetwork): PeerNetwork {
    return {
      send: (node, frame) => peers.send(node, frame),
      bufferedBytes: (node) => peers.bufferedBytes(node),
      up: () => peers.up(),
      isUp: (node) => siblingIndex(node) !== null || peers.isUp(node),
      request: (node, kind, body, timeoutMs, done) => {
        const sibling = siblingIndex(node);
        if (sibling === null) peers.request(node, kind, body, timeoutMs, done);
        else this.siblings.request(sibling, kind, body, timeoutMs, done);
      },
    };
  }

  /** Streams of clients open on the other shards. */
  get streamsElsewhere(): number {
    return this.siblings.indices.reduce((sum, index) => sum + this.read(index, Slot.streams), 0);
  }

  /** Tells the others how many streams of clients are open here. */
  noteStreams(open: number): void {
    this.write(Slot.streams, open);
  }

  /**
   * A stopping shard asks this again and again: whether it or another one still has requests under way. One that waits
   * for nobody answers its siblings until none of them needs it.
   */
  isAnyBusy(isBusyHere: boolean): boolean {
    this.write(Slot.busy, isBusyHere ? 1 : 0);
    return isBusyHere || this.siblings.indices.some((index) => this.read(index, Slot.busy) === 1);
  }

  /** This shard can not go on: the process is to end. */
  noteFailure(): void {
    this.write(Slot.failed, 1);
  }

  /** Tells where connections of clients are to be brought; null: nowhere any more. */
  noteEntry(port: number | null): void {
    this.tell({ entry: port });
  }

  noteDoor(port: number): void {
    this.write(Slot.door, port);
  }

  /** host:port of the door of the sibling that runs a group; null for a group of this shard. */
  doorOf(group: number): string | null {
    return owns(this, group) ? null : `127.0.0.1:${this.read(shardOf(group, this.count), Slot.door)}`;
  }

  private read(index: number, slot: number): number {
    return Atomics.load(this.slots, index * SLOTS + slot);
  }

  private write(slot: number, value: number): void {
    Atomics.store(this.slots, this.index * SLOTS + slot, value);
  }
}
