/** Frames: what goes in comes out, and no bytes whatsoever make decoding throw or read outside them. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { HeartbeatReceiver, HeartbeatSender, isPlain } from '../../raft/heartbeats.ts';
import { Inbox } from '../../raft/inbox.ts';
import type { Entry, Message } from '../../raft/types.ts';
import { EntryType, MessageType } from '../../raft/types.ts';
import type { ListName } from '../../raft/wire.ts';
import { decodeFrame, FRAME_VERSION, FrameWriter, LIST_SLOTS, ListStream } from '../../raft/wire.ts';

const BASE: Message = {
  type: MessageType.append, to: 1, from: 2, term: 3, index: 0, logTerm: 0, commit: 0, entries: [], reject: false, rejectHint: 0, context: 0,
};

function bytes(...values: number[]): Uint8Array {
  return Uint8Array.from(values);
}

function roundTrip(fill: (frame: FrameWriter) => void): Inbox {
  const writer = new FrameWriter(8);
  fill(writer);
  const inbox = new Inbox();
  assert.equal(decodeFrame(writer.finish(), inbox), null);
  return inbox;
}

/** Values without views into frames, so that they compare by content. */
function plain(message: Message): object {
  return { ...message, entries: message.entries.map((entry) => ({ ...entry, data: [...entry.data] })) };
}

const number = fc.oneof(fc.nat(300), fc.maxSafeNat());
const arbitraryMessage: fc.Arbitrary<Message> = fc
  .record({
    type: fc.constantFrom(...Object.values(MessageType)), to: number, from: number, term: number, index: fc.nat(1e9), logTerm: number,
    commit: number, reject: fc.boolean(), rejectHint: number, context: number,
    entries: fc.array(fc.record({ term: number, type: fc.constantFrom(...Object.values(EntryType)), data: fc.uint8Array({ maxLength: 40 }) }), { maxLength: 5 }),
  })
  .map((fields) => ({ ...fields, entries: fields.entries.map((entry, i): Entry => ({ ...entry, index: fields.index + 1 + i })) }));

/** One frame that uses every section. */
function fullFrame(): Uint8Array {
  const writer = new FrameWriter();
  const name: ListName = { stream: ListStream.response, slot: 3, session: 2 ** 31, epoch: 7 };
  writer.message(5, { ...BASE, index: 8, logTerm: 2, commit: 300, entries: [{ term: 2, index: 9, type: EntryType.normal, data: bytes(1, 2, 3) }, { term: 3, index: 10, type: EntryType.confChange, data: bytes() }] });
  writer.list(name, [1, 2, 3, 4, 5, 256, 2 ** 40, 3, 4, 5]);
  writer.listUse(name);
  writer.listAck(name);
  writer.listNeed({ ...name, stream: ListStream.heartbeat });
  writer.message(6, { ...BASE, type: MessageType.appendResponse, reject: true, rejectHint: 12, index: 20 });
  return writer.finish();
}

describe('frames', () => {
  it('carry every kind of message', () => {
    for (const type of Object.values(MessageType)) {
      const message = { ...BASE, type, index: 9, logTerm: 2, commit: 4, reject: true, rejectHint: 5, context: 6 };
      const inbox = roundTrip((frame) => frame.message(77, message));
      assert.deepEqual(inbox.groups, [77]);
      assert.deepEqual(inbox.messages, [message]);
    }
  });

  it('carry numbers up to 2^53 - 1, and an index of -1', () => {
    for (const value of [0, 1, 127, 128, 16_383, 16_384, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 49 - 1, 2 ** 49, Number.MAX_SAFE_INTEGER]) {
      const message = { ...BASE, term: value, index: value, commit: value, logTerm: value, rejectHint: value, context: value };
      assert.deepEqual(roundTrip((frame) => frame.message(value, message)).messages, [message]);
    }
    assert.equal(roundTrip((frame) => frame.message(1, { ...BASE, index: -1 })).messages[0]?.index, -1);
  });

  it('refuse to carry what is no number of theirs, or entries with a gap', () => {
    const writer = new FrameWriter();
    assert.throws(() => writer.message(1, { ...BASE, term: 1.5 }), RangeError);
    assert.throws(() => writer.message(1, { ...BASE, term: 2 ** 53 }), RangeError);
    assert.throws(() => writer.message(-1, BASE), RangeError);
    const gap = [{ term: 1, index: 3, type: EntryType.normal, data: bytes(1) }];
    assert.throws(() => writer.message(1, { ...BASE, index: 1, entries: gap }), RangeError);
  });

  it('give back any sequence of messages', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(number, arbitraryMessage), { minLength: 1, maxLength: 6 }), (sent) => {
        const inbox = roundTrip((frame) => sent.forEach(([group, message]) => frame.message(group, message)));
        assert.deepEqual(inbox.groups, sent.map(([group]) => group));
        assert.deepEqual(inbox.messages.map(plain), sent.map(([, message]) => plain(message)));
      }),
    );
  });

  it('hold entries as views of the received bytes, not copies', () => {
    const frame = fullFrame();
    const inbox = new Inbox();
    decodeFrame(frame, inbox);
    const data = inbox.messages[0]?.entries[0]?.data;
    assert.equal(data?.buffer, frame.buffer);
    assert.deepEqual([...(data ?? [])], [1, 2, 3]);
  });

  it('cut short anywhere are an error or a shorter frame, never a throw', () => {
    const frame = fullFrame();
    let wholeSections = 0;
    for (let length = 0; length < frame.length; length++) {
      // A copy of exactly this length: nothing lies behind it that could be read by mistake.
      if (decodeFrame(frame.slice(0, length), new Inbox()) === null) wholeSections += 1;
    }
    // The bare version, and the ends of all sections but the last.
    assert.equal(wholeSections, 6);
    assert.equal(decodeFrame(frame, new Inbox()), null);
  });

  it('with any byte changed never throw', () => {
    const frame = fullFrame();
    for (let at = 0; at < frame.length; at++) {
      for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
        const damaged = frame.slice();
        damaged[at] = value;
        decodeFrame(damaged, new Inbox());
      }
    }
  });

  it('of random bytes never throw', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (tail) => void decodeFrame(Uint8Array.from([FRAME_VERSION, ...tail]), new Inbox())), { numRuns: 2000 });
  });

  it('of another version, with unknown parts or impossible counts are refused', () => {
    const refused: readonly (readonly [string, Uint8Array])[] = [
      ['empty', bytes()],
      ['version', bytes(FRAME_VERSION + 1)],
      ['section', bytes(FRAME_VERSION, 99)],
      ['message type', bytes(FRAME_VERSION, 1, 1, 99, 0, 1, 1, 1)],
      ['entry count', bytes(FRAME_VERSION, 1, 1, 0, 32, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f)],
      ['list count', bytes(FRAME_VERSION, 2, 0, 0, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f)],
      ['list slot', bytes(FRAME_VERSION, 3, 0, LIST_SLOTS, 1, 1)],
      ['list stream', bytes(FRAME_VERSION, 3, 2, 0, 1, 1)],
      ['number beyond 2^53', bytes(FRAME_VERSION, 3, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1)],
      ['number without end', bytes(FRAME_VERSION, 3, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1)],
    ];
    for (const [what, frame] of refused) assert.notEqual(decodeFrame(frame, new Inbox()), null, what);
  });
});

describe('heartbeat lists', () => {
  const heartbeat: Message = { ...BASE, type: MessageType.heartbeat, commit: 9 };

  /** Sends what the sender gathered to the receiver and back; returns the heartbeats it stood for, or undefined. */
  function exchange(sender: HeartbeatSender, receiver: HeartbeatReceiver, slot: number, delivered: { ack: boolean }): { stepped: number | undefined; bytes: number } {
    const writer = new FrameWriter();
    sender.flush(writer, slot);
    const size = writer.size;
    const inbox = new Inbox();
    assert.equal(decodeFrame(writer.finish(), inbox), null);
    const [list] = inbox.lists;
    if (list !== undefined) {
      const held = receiver.hold(list.name, list.items);
      if (delivered.ack) sender.acknowledged(list.name);
      return { stepped: held.length, bytes: size };
    }
    const [name] = inbox.uses;
    assert.ok(name !== undefined);
    const held = receiver.use(name);
    if (held === undefined) sender.needed(name);
    return { stepped: held?.length, bytes: size };
  }

  function gather(sender: HeartbeatSender, groups: number, term = 3): void {
    for (let group = 0; group < groups; group++) sender.gather(group, { ...heartbeat, term });
  }

  it('stand for exactly the messages that were gathered', () => {
    const sender = new HeartbeatSender(ListStream.heartbeat, 1);
    const receiver = new HeartbeatReceiver();
    for (const round of [0, 1]) {
      sender.gather(4, heartbeat);
      const writer = new FrameWriter();
      sender.flush(writer, 0);
      const inbox = new Inbox();
      decodeFrame(writer.finish(), inbox);
      const [list] = inbox.lists;
      const [use] = inbox.uses;
      const held = list !== undefined ? receiver.hold(list.name, list.items) : use !== undefined ? receiver.use(use) : undefined;
      assert.deepEqual(held, [{ group: 4, message: heartbeat }]);
      assert.equal(inbox.uses.length, round, 'the first time in full, then by name');
      if (list !== undefined) sender.acknowledged(list.name);
    }
  });

  it('travel by name only once acknowledged, and in full as soon as anything in them changes', () => {
    const sender = new HeartbeatSender(ListStream.heartbeat, 1);
    const receiver = new HeartbeatReceiver();
    gather(sender, 85);
    assert.ok(exchange(sender, receiver, 0, { ack: false }).bytes > 400);
    gather(sender, 85);
    assert.ok(exchange(sender, receiver, 0, { ack: true }).bytes > 400, 'not acknowledged: in full again');
    gather(sender, 85);
    const named = exchange(sender, receiver, 0, { ack: true });
    assert.ok(named.bytes < 20);
    assert.equal(named.stepped, 85);
    gather(sender, 85, 4);
    assert.ok(exchange(sender, receiver, 0, { ack: true }).bytes > 400);
  });

  it('of different slots do not displace each other', () => {
    const sender = new HeartbeatSender(ListStream.heartbeat, 1);
    const receiver = new HeartbeatReceiver();
    for (const round of [0, 1, 2]) {
      gather(sender, 40);
      const even = exchange(sender, receiver, 0, { ack: true });
      gather(sender, 50);
      const odd = exchange(sender, receiver, 1, { ack: true });
      if (round > 0) assert.deepEqual([even.stepped, odd.stepped, even.bytes < 20, odd.bytes < 20], [40, 50, true, true]);
    }
  });

  it('that the receiver lost are asked for, and come in full', () => {
    const sender = new HeartbeatSender(ListStream.response, 1);
    const receiver = new HeartbeatReceiver();
    gather(sender, 10);
    exchange(sender, receiver, 0, { ack: true });
    receiver.reset();
    gather(sender, 10);
    assert.equal(exchange(sender, receiver, 0, { ack: true }).stepped, undefined);
    gather(sender, 10);
    assert.equal(exchange(sender, receiver, 0, { ack: true }).stepped, 10);
  });

  it('of another session are never mistaken for one of this', () => {
    const before = new HeartbeatSender(ListStream.heartbeat, 1);
    const after = new HeartbeatSender(ListStream.heartbeat, 2);
    const receiver = new HeartbeatReceiver();
    gather(before, 10);
    exchange(before, receiver, 0, { ack: true });
    gather(after, 10, 9);
    exchange(after, new HeartbeatReceiver(), 0, { ack: true });
    gather(after, 10, 9);
    // The receiver holds epoch 1 of the other session: the name must not match it.
    assert.equal(exchange(after, receiver, 0, { ack: true }).stepped, undefined);
  });

  it('hold plain heartbeats only', () => {
    assert.ok(isPlain(heartbeat));
    assert.ok(isPlain({ ...heartbeat, type: MessageType.heartbeatResponse }));
    assert.ok(!isPlain({ ...heartbeat, context: 1 }));
    assert.ok(!isPlain({ ...heartbeat, index: 1 }));
    assert.ok(!isPlain({ ...heartbeat, reject: true }));
    assert.ok(!isPlain(BASE));
  });
});
