/**
 * The frame: what one node sends another in one go, holding messages of many groups. Pure bytes in, values out.
 * Owns the layout and its version; knows nothing of links, groups or who may speak.
 *
 *   frame    = version u8, section*
 *   section  = kind u8, body
 *   message  = group, type u8, present u8, to, from, term, [index] [logTerm] [commit] [rejectHint] [context] [entries]
 *   entries  = count, (term, type u8, length, bytes)*          indexes follow from message.index
 *   list     = stream u8, slot u8, session, epoch, count, (group, from, to, term, commit)*
 *   listUse, listAck, listNeed = stream u8, slot u8, session, epoch
 *
 * Numbers without a width are LEB128 varints of at most 2^53 - 1. Entry data is copied once into the frame when
 * encoding and never when decoding: decoded entries are views into the received frame.
 */
import type { Entry, GroupId, Message } from './types.ts';
import { EntryType, MessageType } from './types.ts';

/** Version of the layout above; a frame of another version is refused as a whole. */
export const FRAME_VERSION = 1;

const Section = { message: 1, list: 2, listUse: 3, listAck: 4, listNeed: 5 } as const;

/** Bits of a message's `present` byte. A field whose bit is unset is 0 (index: 0, or -1 with its own bit). */
const Present = { reject: 1, logTerm: 2, commit: 4, rejectHint: 8, context: 16, entries: 32, index: 64, indexNone: 128 } as const;

/** Which of a peer's two lists of plain heartbeats is meant: those it sends as leader, or its answers as follower. */
export const ListStream = { heartbeat: 0, response: 1 } as const;
export type ListStream = (typeof ListStream)[keyof typeof ListStream];

/** Lists are kept per slot, so that groups whose heartbeats fall on different ticks do not displace each other. */
export const LIST_SLOTS = 16;

/** Names one full list of one sender. `session` is drawn anew when a link comes up, so that epochs of two lives never meet. */
export interface ListName {
  readonly stream: ListStream;
  readonly slot: number;
  readonly session: number;
  readonly epoch: number;
}

/** Numbers per item of a heartbeat list: group, from, to, term, commit. */
export const LIST_STRIDE = 5;

/** Receives the parts of a decoded frame, in the order in which they were written. */
export interface FrameSink {
  message(group: GroupId, message: Message): void;
  /** `items` holds LIST_STRIDE numbers per heartbeat and is the sink's to keep. */
  list(name: ListName, items: readonly number[]): void;
  listUse(name: ListName): void;
  listAck(name: ListName): void;
  listNeed(name: ListName): void;
}

const VARINT_BYTES_MAX = 8;
/** kind, type, present, and nine numbers: more than any message takes without its entries. */
const MESSAGE_BYTES_MAX = 3 + 9 * VARINT_BYTES_MAX;
const ENTRY_BYTES_MAX = 1 + 2 * VARINT_BYTES_MAX;
const LIST_BYTES_MAX = 3 + 3 * VARINT_BYTES_MAX;
const NO_ENTRIES: readonly Entry[] = [];
const INITIAL_BYTES_MIN = 256;
const INITIAL_BYTES_MAX = 256 * 1024;

/** Builds one frame. Reusable: `finish` hands the bytes out and starts the next frame. */
export class FrameWriter {
  #bytes: Uint8Array;
  #at = 0;
  /** What the last frame took, and a little: the next is likely to be of its size. */
  #initialBytes: number;

  constructor(initialBytes = 1024) {
    this.#initialBytes = initialBytes;
    this.#bytes = new Uint8Array(0);
  }

  /** Bytes written since the last `finish`; 0 while the frame is empty. */
  get size(): number {
    return this.#at;
  }

  message(group: GroupId, message: Message): void {
    let bound = MESSAGE_BYTES_MAX;
    for (const entry of message.entries) bound += ENTRY_BYTES_MAX + entry.data.length;
    this.#reserve(bound);
    this.#u8(Section.message);
    this.#varint(group);
    this.#u8(message.type);
    this.#u8(presence(message));
    this.#varint(message.to);
    this.#varint(message.from);
    this.#varint(message.term);
    if (message.index > 0) this.#varint(message.index);
    if (message.logTerm !== 0) this.#varint(message.logTerm);
    if (message.commit !== 0) this.#varint(message.commit);
    if (message.rejectHint !== 0) this.#varint(message.rejectHint);
    if (message.context !== 0) this.#varint(message.context);
    if (message.entries.length !== 0) this.#entries(message.index, message.entries);
  }

  /** `items`: LIST_STRIDE numbers per heartbeat. */
  list(name: ListName, items: readonly number[]): void {
    this.#reserve(LIST_BYTES_MAX + VARINT_BYTES_MAX * (items.length + 1));
    this.#name(Section.list, name);
    this.#varint(items.length / LIST_STRIDE);
    for (const item of items) this.#varint(item);
  }

  listUse(name: ListName): void {
    this.#reserve(LIST_BYTES_MAX);
    this.#name(Section.listUse, name);
  }

  listAck(name: ListName): void {
    this.#reserve(LIST_BYTES_MAX);
    this.#name(Section.listAck, name);
  }

  listNeed(name: ListName): void {
    this.#reserve(LIST_BYTES_MAX);
    this.#name(Section.listNeed, name);
  }

  /** The finished frame, which the caller owns from here on. */
  finish(): Uint8Array {
    const frame = this.#bytes.subarray(0, this.#at);
    this.#initialBytes = Math.min(Math.max(INITIAL_BYTES_MIN, this.#at + (this.#at >> 2)), INITIAL_BYTES_MAX);
    this.#bytes = new Uint8Array(0);
    this.#at = 0;
    return frame;
  }

  #entries(previous: number, entries: readonly Entry[]): void {
    this.#varint(entries.length);
    let index = previous;
    for (const entry of entries) {
      index += 1;
      // The index is not on the wire: a gap here would silently become other entries there.
      if (entry.index !== index) throw new RangeError(`entry ${entry.index} where ${index} must follow`);
      this.#varint(entry.term);
      this.#u8(entry.type);
      this.#varint(entry.data.length);
      this.#bytes.set(entry.data, this.#at);
      this.#at += entry.data.length;
    }
  }

  #name(section: number, name: ListName): void {
    this.#u8(section);
    this.#u8(name.stream);
    this.#u8(name.slot);
    this.#varint(name.session);
    this.#varint(name.epoch);
  }

  #reserve(bytes: number): void {
    const needed = this.#at + bytes + 1;
    if (needed > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(needed, this.#bytes.length * 2, this.#initialBytes));
      grown.set(this.#bytes.subarray(0, this.#at));
      this.#bytes = grown;
    }
    if (this.#at === 0) this.#u8(FRAME_VERSION);
  }

  #u8(value: number): void {
    this.#bytes[this.#at++] = value;
  }

  #varint(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not a frame number: ${value}`);
    let rest = value;
    // Bit operations reach 32 bits only; the high part goes by division, which small numbers never need.
    while (rest > 0x7fffffff) {
      this.#bytes[this.#at++] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    while (rest > 0x7f) {
      this.#bytes[this.#at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.#bytes[this.#at++] = rest;
  }
}

function presence(message: Message): number {
  let present = 0;
  if (message.reject) present |= Present.reject;
  if (message.logTerm !== 0) present |= Present.logTerm;
  if (message.commit !== 0) present |= Present.commit;
  if (message.rejectHint !== 0) present |= Present.rejectHint;
  if (message.context !== 0) present |= Present.context;
  if (message.entries.length !== 0) present |= Present.entries;
  if (message.index > 0) present |= Present.index;
  if (message.index === -1) present |= Present.indexNone;
  return present;
}

/**
 * Reads a frame into `sink`. Returns null, or what is wrong with the frame; a sink that must not act on half a frame
 * collects first and acts on null. Never throws for any bytes and never reads outside them.
 */
export function decodeFrame(frame: Uint8Array, sink: FrameSink): string | null {
  const cursor = new Cursor(frame);
  if (cursor.u8() !== FRAME_VERSION) return 'unknown frame version';
  while (cursor.fault === null && cursor.at < frame.length) {
    const section = cursor.u8();
    switch (section) {
      case Section.message:
        decodeMessage(cursor, sink);
        break;
      case Section.list:
        decodeList(cursor, sink);
        break;
      case Section.listUse:
      case Section.listAck:
      case Section.listNeed: {
        const name = decodeName(cursor);
        if (cursor.fault !== null) break;
        if (section === Section.listUse) sink.listUse(name);
        else if (section === Section.listAck) sink.listAck(name);
        else sink.listNeed(name);
        break;
      }
      default:
        cursor.fail('unknown section');
    }
  }
  return cursor.fault;
}

function decodeMessage(cursor: Cursor, sink: FrameSink): void {
  const group = cursor.varint();
  const type = messageType(cursor.u8());
  if (type === undefined) return cursor.fail('unknown message type');
  const present = cursor.u8();
  const to = cursor.varint();
  const from = cursor.varint();
  const term = cursor.varint();
  const index = present & Present.index ? cursor.varint() : present & Present.indexNone ? -1 : 0;
  const logTerm = present & Present.logTerm ? cursor.varint() : 0;
  const commit = present & Present.commit ? cursor.varint() : 0;
  const rejectHint = present & Present.rejectHint ? cursor.varint() : 0;
  const context = present & Present.context ? cursor.varint() : 0;
  const entries = present & Present.entries ? decodeEntries(cursor, index) : NO_ENTRIES;
  if (cursor.fault !== null) return;
  const reject = (present & Present.reject) !== 0;
  sink.message(group, { type, to, from, term, index, logTerm, commit, entries, reject, rejectHint, context });
}

function decodeEntries(cursor: Cursor, previous: number): readonly Entry[] {
  const count = cursor.varint();
  // Every entry takes at least three bytes, so a count that cannot fit is refused before anything is allocated for it.
  if (count === 0 || count > cursor.left / 3 || previous < 0 || previous + count > Number.MAX_SAFE_INTEGER) {
    cursor.fail('impossible entry count');
    return NO_ENTRIES;
  }
  const entries: Entry[] = [];
  for (let i = 1; i <= count; i++) {
    const term = cursor.varint();
    const type = cursor.u8();
    const data = cursor.take(cursor.varint());
    if (type !== EntryType.normal && type !== EntryType.confChange) cursor.fail('unknown entry type');
    if (cursor.fault !== null) return NO_ENTRIES;
    entries.push({ term, index: previous + i, type: type === EntryType.normal ? EntryType.normal : EntryType.confChange, data });
  }
  return entries;
}

function decodeList(cursor: Cursor, sink: FrameSink): void {
  const name = decodeName(cursor);
  const count = cursor.varint();
  if (count > cursor.left / LIST_STRIDE) return cursor.fail('impossible list count');
  const items: number[] = [];
  for (let i = 0; i < count * LIST_STRIDE; i++) items.push(cursor.varint());
  if (cursor.fault === null) sink.list(name, items);
}

function decodeName(cursor: Cursor): ListName {
  const stream = cursor.u8();
  const slot = cursor.u8();
  if (stream !== ListStream.heartbeat && stream !== ListStream.response) cursor.fail('unknown list stream');
  if (slot >= LIST_SLOTS) cursor.fail('impossible list slot');
  return { stream: stream === ListStream.heartbeat ? ListStream.heartbeat : ListStream.response, slot, session: cursor.varint(), epoch: cursor.varint() };
}

const MESSAGE_TYPES: readonly MessageType[] = Object.values(MessageType);

function messageType(byte: number): MessageType | undefined {
  return MESSAGE_TYPES[byte];
}

/** A reader that fails once and then answers zeros, so that decoding needs no check after every number. */
class Cursor {
  at = 0;
  fault: string | null = null;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.at;
  }

  fail(fault: string): void {
    this.fault ??= fault;
    // Nothing after a fault can be trusted: the rest of the frame reads as exhausted.
    this.at = this.#bytes.length;
  }

  u8(): number {
    const value = this.#bytes[this.at];
    if (value === undefined) {
      this.fail('frame ends early');
      return 0;
    }
    this.at += 1;
    return value;
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < VARINT_BYTES_MAX; i++) {
      const byte = this.u8();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (value > Number.MAX_SAFE_INTEGER) break;
        return value;
      }
      scale *= 128;
    }
    this.fail('number too large');
    return 0;
  }

  take(length: number): Uint8Array {
    if (length > this.left) {
      this.fail('frame ends early');
      return this.#bytes.subarray(0, 0);
    }
    const taken = this.#bytes.subarray(this.at, this.at + length);
    this.at += length;
    return taken;
  }
}
