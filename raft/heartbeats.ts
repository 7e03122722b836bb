/**
 * Heartbeat compression for one peer link. With hundreds of groups, most heartbeats repeat the previous ones, so a
 * full list is sent once, and while nothing in it changes only its name. This is transparent to Raft: the receiver
 * steps exactly the messages that the list stands for, so term, leader and CheckQuorum are judged per group as ever.
 * Owns what was sent and what is held; a name is only used once the peer acknowledged holding that list.
 */
import type { GroupId, Message } from './types.ts';
import { MessageType } from './types.ts';
import type { FrameWriter, ListName } from './wire.ts';
import { LIST_SLOTS, LIST_STRIDE, ListStream } from './wire.ts';

/** True for a heartbeat (or its response) that a list can stand for: no read rides on it and no field is unusual. */
export function isPlain(message: Message): boolean {
  return (
    message.context === 0 && message.index === 0 && message.logTerm === 0 && message.rejectHint === 0 && !message.reject &&
    message.entries.length === 0 && (message.type === MessageType.heartbeat || message.type === MessageType.heartbeatResponse)
  );
}

interface SentList {
  epoch: number;
  items: readonly number[];
  acknowledged: boolean;
}

/** What this node sends one peer on one stream. */
export class HeartbeatSender {
  readonly #stream: ListStream;
  #session: number;
  #epoch = 0;
  readonly #sent: (SentList | undefined)[] = new Array<SentList | undefined>(LIST_SLOTS).fill(undefined);
  #gathered: number[] = [];
  /** Where in `#gathered` each group stands last: a later one between the same replicas takes the place of an earlier one. */
  readonly #places = new Map<GroupId, number>();

  constructor(stream: ListStream, session: number) {
    this.#stream = stream;
    this.#session = session;
  }

  /** The link was lost or is new: nothing the peer held counts any more. Gathered heartbeats of the old link go too. */
  reset(session: number): void {
    this.#session = session;
    this.#sent.fill(undefined);
    this.#gathered = [];
    this.#places.clear();
  }

  get isEmpty(): boolean {
    return this.#gathered.length === 0;
  }

  /** Adds a plain heartbeat to what the next `flush` sends. */
  gather(group: GroupId, message: Message): void {
    const items = this.#gathered;
    const at = this.#places.get(group);
    if (at !== undefined && items[at + 1] === message.from && items[at + 2] === message.to) {
      items[at + 3] = message.term;
      items[at + 4] = message.commit;
      return;
    }
    this.#places.set(group, items.length);
    items.push(group, message.from, message.to, message.term, message.commit);
  }

  /** Writes what was gathered, by name if the peer is known to hold that very list in `slot`. */
  flush(frame: FrameWriter, slot: number): void {
    const items = this.#gathered;
    if (items.length === 0) return;
    this.#places.clear();
    const sent = this.#sent[slot];
    if (sent !== undefined && sameNumbers(sent.items, items)) {
      this.#gathered.length = 0;
      const name = this.#name(slot, sent.epoch);
      if (sent.acknowledged) frame.listUse(name);
      else frame.list(name, sent.items);
      return;
    }
    this.#epoch += 1;
    this.#sent[slot] = { epoch: this.#epoch, items, acknowledged: false };
    this.#gathered = [];
    frame.list(this.#name(slot, this.#epoch), items);
  }

  /** The peer holds the list of that name; one that was replaced meanwhile stays unacknowledged. */
  acknowledged(name: ListName): void {
    const sent = this.#sent[name.slot];
    if (sent !== undefined && name.session === this.#session && name.epoch === sent.epoch) sent.acknowledged = true;
  }

  /** The peer does not hold that list: the next flush sends it in full. That one heartbeat counts as lost. */
  needed(name: ListName): void {
    const sent = this.#sent[name.slot];
    if (sent !== undefined && name.session === this.#session && name.epoch === sent.epoch) sent.acknowledged = false;
  }

  #name(slot: number, epoch: number): ListName {
    return { stream: this.#stream, slot, session: this.#session, epoch };
  }
}

/** One heartbeat as it is stepped. */
export interface HeldHeartbeat {
  readonly group: GroupId;
  readonly message: Message;
}

interface HeldList {
  readonly session: number;
  readonly epoch: number;
  readonly heartbeats: readonly HeldHeartbeat[];
}

/** What this node holds of one peer's lists on one stream. */
export class HeartbeatReceiver {
  readonly #held: (HeldList | undefined)[] = new Array<HeldList | undefined>(LIST_SLOTS).fill(undefined);

  reset(): void {
    this.#held.fill(undefined);
  }

  /** Holds a full list and returns its heartbeats. A list older than the one held is stepped, but not held. */
  hold(name: ListName, items: readonly number[]): readonly HeldHeartbeat[] {
    const type = name.stream === ListStream.heartbeat ? MessageType.heartbeat : MessageType.heartbeatResponse;
    const heartbeats: HeldHeartbeat[] = [];
    for (let at = 0; at + LIST_STRIDE <= items.length; at += LIST_STRIDE) {
      heartbeats.push({ group: items[at] ?? 0, message: heartbeat(type, items, at) });
    }
    const held = this.#held[name.slot];
    if (held === undefined || held.session !== name.session || held.epoch <= name.epoch) {
      this.#held[name.slot] = { session: name.session, epoch: name.epoch, heartbeats };
    }
    return heartbeats;
  }

  /** The heartbeats of a list held earlier, or undefined when it is not (or no longer) held. */
  use(name: ListName): readonly HeldHeartbeat[] | undefined {
    const held = this.#held[name.slot];
    return held !== undefined && held.session === name.session && held.epoch === name.epoch ? held.heartbeats : undefined;
  }
}

const NO_ENTRIES: Message['entries'] = [];

function heartbeat(type: MessageType, items: readonly number[], at: number): Message {
  return {
    type, to: items[at + 2] ?? 0, from: items[at + 1] ?? 0, term: items[at + 3] ?? 0, index: 0, logTerm: 0,
    commit: items[at + 4] ?? 0, entries: NO_ENTRIES, reject: false, rejectHint: 0, context: 0,
  };
}

function sameNumbers(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
