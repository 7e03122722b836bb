import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DocumentError, SIGHTINGS_MAX, decodeBeat, decodeLinkHello, encodeDocument, parseDocument } from '../../src/cluster/hello.ts';
import { decodeRefusal } from '../../src/cluster/identity.ts';
import {
  BATCH_BYTES_FLUSH,
  BatchWriter,
  FrameError,
  FrameKind,
  RECORD_HEADER_BYTES,
  decodePing,
  encodeFrame,
  encodePing,
  readBatch,
  requestKindOf,
} from '../../src/cluster/link-frames.ts';
import { RequestKind } from '../../src/cluster/ports.ts';

interface Row {
  readonly id: number;
  readonly tag: number;
  readonly body: string;
}

function batchOf(rows: readonly Row[], kind: typeof FrameKind.requests | typeof FrameKind.answers = FrameKind.requests): Buffer {
  const writer = new BatchWriter(kind);
  for (const { id, tag, body } of rows) writer.add(id, tag, Buffer.from(body));
  return writer.take();
}

function rowsOf(frame: Buffer): Row[] {
  const rows: Row[] = [];
  readBatch(frame, (id, tag, body) => rows.push({ id, tag, body: Buffer.from(body).toString() }));
  return rows;
}

const ROWS: readonly Row[] = [
  { id: 1, tag: 1, body: 'one' },
  { id: 0, tag: 0, body: '' },
  { id: 0xffffffff, tag: 255, body: 'x'.repeat(300) },
];

test('the bytes of each frame are what they always were', () => {
  const cases: [frame: Buffer, hex: string][] = [
    [encodeFrame(FrameKind.raft, Buffer.from('ab')), '016162'],
    [encodeFrame(FrameKind.welcome, Buffer.alloc(0)), '05'],
    [encodePing(1), '073ff0000000000000'],
    [batchOf([{ id: 7, tag: 2, body: 'hi' }]), '0200000007' + '02' + '00000002' + '6869'],
    [batchOf([{ id: 7, tag: 0, body: '' }, { id: 8, tag: 1, body: 'z' }], FrameKind.answers), '03' + '000000070000000000' + '000000080100000001' + '7a'],
  ];
  for (const [frame, hex] of cases) assert.equal(frame.toString('hex'), hex);
  assert.deepEqual(Object.values(FrameKind), [1, 2, 3, 4, 5, 6, 7, 8]);
});

test('a batch gives back its records in order, across growth and after it was taken', () => {
  assert.deepEqual(rowsOf(batchOf(ROWS)), ROWS);
  const many = Array.from({ length: 2000 }, (_, i) => ({ id: i, tag: i % 256, body: 'y'.repeat(i % 700) }));
  assert.deepEqual(rowsOf(batchOf(many)), many);
  const writer = new BatchWriter(FrameKind.requests);
  assert.equal(writer.length, 0);
  writer.add(1, 1, Buffer.from('first'));
  const first = writer.take();
  assert.equal(writer.length, 0);
  writer.add(2, 1, Buffer.alloc(BATCH_BYTES_FLUSH, 0x61));
  assert.equal(writer.length, 1 + RECORD_HEADER_BYTES + BATCH_BYTES_FLUSH);
  assert.equal(rowsOf(writer.take())[0]?.id, 2);
  assert.deepEqual(rowsOf(first), [{ id: 1, tag: 1, body: 'first' }]);
});

test('a batch cut at any byte gives whole records and then an error, never a wrong record', () => {
  const frame = batchOf(ROWS);
  const ends = [1];
  for (const { body } of ROWS) ends.push((ends.at(-1) ?? 0) + RECORD_HEADER_BYTES + body.length);
  assert.equal(ends.at(-1), frame.length);
  for (let length = 1; length <= frame.length; length++) {
    const seen: number[] = [];
    const read = (): void => readBatch(frame.subarray(0, length), (id) => seen.push(id));
    const whole = ends.filter((end) => end <= length).length - 1;
    if (ends.includes(length)) read();
    else assert.throws(read, FrameError, `cut at ${length}`);
    assert.deepEqual(seen, ROWS.slice(0, whole).map(({ id }) => id), `cut at ${length}`);
  }
});

test('a record that claims more than its frame holds is an error', () => {
  const frame = batchOf([{ id: 1, tag: 1, body: 'abc' }]);
  for (const claimed of [4, 0x7fffffff, 0xffffffff]) {
    frame.writeUInt32BE(claimed, 6);
    assert.throws(() => rowsOf(frame), FrameError);
  }
});

test('a ping has one length and a clock that is a number', () => {
  const ping = encodePing(1_700_000_000_123.5);
  assert.equal(decodePing(ping), 1_700_000_000_123.5);
  for (let length = 0; length < ping.length; length++) assert.throws(() => decodePing(ping.subarray(0, length)), FrameError);
  assert.throws(() => decodePing(Buffer.concat([ping, Buffer.alloc(1)])), FrameError);
  for (const clock of [Number.NaN, Number.POSITIVE_INFINITY]) assert.throws(() => decodePing(encodePing(clock)), FrameError);
});

test('every request kind has its own tag; others are of another version', () => {
  for (const kind of Object.values(RequestKind)) assert.equal(requestKindOf(kind), kind);
  for (const tag of [0, 200, 255]) assert.equal(requestKindOf(tag), null);
});

const HELLO = {
  name: 'a', storeId: 's', clusterId: '', generation: 2, nonce: 'n2', address: 'h:1', wireFormat: 1,
  lineage: [{ nonce: 'n1', beats: 4 }, { nonce: 'n2', beats: 0 }],
  seen: [{ storeId: 't', generation: 3, nonce: 'n', beats: 9 }],
  clockMs: 5,
};

test('documents of the handshake survive the way there and back', () => {
  assert.deepEqual(decodeLinkHello(parseDocument(encodeDocument(HELLO), 'hello')), HELLO);
  const beat = { beats: 3, seen: HELLO.seen };
  assert.deepEqual(decodeBeat(parseDocument(encodeDocument(beat), 'beat')), beat);
  assert.deepEqual(decodeRefusal({ code: 'rolled_back', reason: 'r' }), { code: 'rolled_back', reason: 'r' });
  // A code of a later version must not make this one step back.
  assert.deepEqual(decodeRefusal({ code: 'unheard_of', reason: 'r' }), { code: 'failed', reason: 'r' });
});

test('a document cut at any byte is refused as a document', () => {
  for (const [document, decode] of [[HELLO, decodeLinkHello], [{ beats: 3, seen: HELLO.seen }, decodeBeat], [{ code: 'stale', reason: 'r' }, decodeRefusal]] as const) {
    const bytes = encodeDocument(document);
    for (let length = 0; length < bytes.length; length++) {
      assert.throws(() => decode(parseDocument(bytes.subarray(0, length), 'document')), DocumentError);
    }
  }
});

test('a field that is wrong is named', () => {
  const cases: [change: object, path: RegExp][] = [
    [{ name: '' }, /^name:/],
    [{ generation: -1 }, /^generation:/],
    [{ generation: 1.5 }, /^generation:/],
    [{ generation: 1 }, /^lineage: .*no more opens/],
    [{ lineage: [] }, /^lineage:/],
    [{ lineage: ['n1', 'n2'] }, /^lineage\[0\]:/],
    [{ lineage: [{ nonce: 'n1', beats: 0 }] }, /^lineage: .*end with the nonce/],
    [{ lineage: [{ nonce: 'n2' }] }, /^beats:/],
    [{ lineage: [{ nonce: 'n2', beats: '1' }] }, /^beats:/],
    [{ seen: undefined }, /^seen:/],
    [{ seen: [null] }, /^seen\[0\]:/],
    [{ seen: [{ storeId: 't', generation: 3, nonce: '', beats: 9 }] }, /^nonce:/],
    [{ seen: Array.from({ length: SIGHTINGS_MAX + 1 }, () => HELLO.seen[0]) }, /^seen: .*at most/],
    [{ clockMs: Number.NaN }, /^clockMs:/],
  ];
  for (const [change, message] of cases) {
    assert.throws(() => decodeLinkHello({ ...HELLO, ...change }), (error: Error) => error instanceof DocumentError && message.test(error.message), JSON.stringify(change));
  }
});
