/** Frames as bytes, one transport at a time, and what a stream's request may say. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { ApiError, ERROR_STATUS } from '../../src/errors.ts';
import { Batch, compactionFrame, contextFrame, decodePeerFrame, encodeFrame, gapFrame, resetFrame, textFrame, tombstonedFrame } from '../../src/streams/frames.ts';
import { BEHIND_BYTES_MAX, BEHIND_MS_MAX } from '../../src/streams/hub.ts';
import { parsePeerStreamTarget, parseStreamRequest, peerStreamTarget, streamTarget } from '../../src/streams/request.ts';
import { CloseCode } from '../../src/streams/sink.ts';
import { CLIENT_HEARTBEAT } from '../../src/streams/socket.ts';

const sse = (json: string, isLast = true): string => {
  const out: Uint8Array[] = [];
  encodeFrame(out, 'sse', Buffer.from(json), { version: 7, isLast });
  return Buffer.concat(out).toString();
};

/** As the HTML standard reads it (§9.2.6): the data of one event, or null where it is not one event. */
function readEvent(text: string): { id: string | null; data: string } | null {
  const lines = text.split(/\r\n|\n|\r/);
  if (lines.filter((line) => line === '').length !== 2 || !text.endsWith('\n\n')) return null;
  const field = (name: string): string[] => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
  return { id: field('id')[0] ?? null, data: field('data').join('\n') };
}

describe('frames', () => {
  test('have the documented shapes', () => {
    const frames = [compactionFrame(4, 1, 3), contextFrame(4, true, 12), tombstonedFrame(5), resetFrame(6), gapFrame(2, 9)];
    assert.deepEqual(frames.map(({ json }) => JSON.parse(json.toString()) as unknown), [
      { type: 'compaction', version: 4, range: { from_seq: 1, to_seq: 3 } },
      { type: 'context', version: 4, needs_compaction: true, used_tokens: 12 },
      { type: 'tombstoned', version: 5 },
      { type: 'reset', version: 6 },
      { type: 'gap', expected: 2, actual: 9 },
    ]);
  });

  test('text frames have the header of RFC 6455 at every length', () => {
    for (const length of [0, 1, 125, 126, 65_535, 65_536, 70_000]) {
      const frame = textFrame(Buffer.alloc(length, 0x61));
      assert.equal(frame[0], 0x81);
      const [named, head] = length < 126 ? [frame[1], 2] : length < 65_536 ? [frame.readUInt16BE(2), 4] : [Number(frame.readBigUInt64BE(2)), 10];
      assert.deepEqual([named, frame.length], [length, head + length]);
      if (length >= 126) assert.equal(frame[1], length < 65_536 ? 126 : 127);
    }
  });

  test('what a peer is sent reads back, cut short it does not', () => {
    const out: Uint8Array[] = [];
    encodeFrame(out, 'peer', Buffer.from('{"a":1}'), { version: 2 ** 53 - 1, isLast: true });
    const bytes = Buffer.concat(out);
    const payload = bytes.subarray(2);
    assert.deepEqual([bytes[0], bytes[1]], [0x82, payload.length]);
    const frame = decodePeerFrame(payload);
    assert.deepEqual([frame?.version, frame?.isLast, frame?.json.toString()], [2 ** 53 - 1, true, '{"a":1}']);
    for (let length = 0; length <= 9; length++) assert.equal(decodePeerFrame(payload.subarray(0, length)), null);
  });

  test('an event keeps the meaning of JSON with any white space', () => {
    const value = { a: 'line\nbreak', b: [1, 2] };
    for (const json of [JSON.stringify(value), JSON.stringify(value, null, 2), JSON.stringify(value, null, 2).replaceAll('\n', '\r\n'), JSON.stringify(value, null, 2).replaceAll('\n', '\r')]) {
      const event = readEvent(sse(json));
      assert.deepEqual(JSON.parse(event?.data ?? ''), value, json);
      assert.equal(event?.id, '7');
    }
    assert.equal(readEvent(sse('{}', false))?.id, null);
  });

  test('only the last frame of a version carries an id, and a gap none', () => {
    const batch = new Batch([gapFrame(2, 3), compactionFrame(3, 1, 2), contextFrame(3, false, 1), compactionFrame(4, 1, 2), contextFrame(4, false, 1)]);
    const ids = batch.encode('sse', true).toString().split('\n\n').slice(0, -1).map((text) => /^id: (\d+)/.exec(text)?.[1] ?? null);
    assert.deepEqual(ids, [null, null, '3', null, '4']);
    assert.equal(batch.encode('sse', true), batch.encode('sse', true), 'encoded once');
    assert.deepEqual([batch.firstChange, batch.lastVersion, batch.isEnd], [3, 4, false]);
  });
});

describe('requests', () => {
  const parse = (url: string, headers = {}) => parseStreamRequest(url, headers);

  test('say which context, from where, with what', () => {
    assert.deepEqual(parse('/v1/contexts/a%2Fb%20%C3%A9/stream?cursor=12&include_messages=false'), { context: 'a/b é', cursor: 12, withMessages: false });
    assert.deepEqual(parse('/v1/contexts/c/stream'), { context: 'c', cursor: null, withMessages: true });
    assert.equal(parse('/v1/contexts/c/stream?cursor=1', { 'last-event-id': '9' }).cursor, 9, 'what was seen since goes before the URL');
    assert.equal(parse('/v1/contexts/c/stream?cursor=1', { 'last-event-id': '' }).cursor, 1);
  });

  test('are known by their path alone', () => {
    assert.equal(streamTarget('/v1/contexts/c/stream?x=/v1'), 'c');
    for (const url of ['/', '/v1/contexts/c/streams', '/v1/contexts/a/b/stream', '/v1/contexts/c', '/v2/contexts/c/stream']) assert.equal(streamTarget(url), null, url);
  });

  test('that are wrong name what is wrong', () => {
    const wrong: readonly (readonly [url: string, headers: Record<string, string>, code: string])[] = [
      ['/v1/contexts/%/stream', {}, 'invalid_context_id'],
      ['/v1/contexts/%C3%28/stream', {}, 'invalid_context_id'],
      [`/v1/contexts/${'a'.repeat(257)}/stream`, {}, 'invalid_context_id'],
      ['/v1/contexts//stream', {}, 'invalid_context_id'],
      ['/v1/contexts/c/stream?cursor=1.5', {}, 'invalid_request'],
      ['/v1/contexts/c/stream?cursor=1e3', {}, 'invalid_request'],
      ['/v1/contexts/c/stream?cursor=9999999999999999', {}, 'invalid_request'],
      ['/v1/contexts/c/stream', { 'last-event-id': '-1' }, 'invalid_request'],
      ['/v1/contexts/c/stream?__proto__=1', {}, 'invalid_request'],
    ];
    for (const [url, headers, code] of wrong) assert.throws(() => parse(url, headers), (error) => error instanceof ApiError && error.code === code, url);
  });

  test('reach another node as they were meant', () => {
    for (const cursor of [null, 0, 41]) {
      const wanted = { context: 'a&b=ü/é?#', cursor, withMessages: cursor === null };
      assert.deepEqual(parsePeerStreamTarget(peerStreamTarget(wanted, true)), { ...wanted, isEvents: true });
    }
  });
});

describe('docs/api/websocket.md', () => {
  const page = readFileSync(new URL('../../docs/api/websocket.md', import.meta.url), 'utf8');

  test('names every close code and every bound as they are', () => {
    const codes = [...page.matchAll(/^\| (\d{4}) \|/gm)].map(([, code]) => Number(code));
    for (const code of Object.values(CloseCode)) assert.ok(codes.includes(code), String(code));
    assert.ok(page.includes(`Every ${CLIENT_HEARTBEAT.pingMs / 1000} s`));
    assert.ok(page.includes(`for ${CLIENT_HEARTBEAT.silenceMs / 1000} s`));
    assert.ok(page.includes(`over ${BEHIND_BYTES_MAX / 2 ** 20} MiB of changes waited for more than ${BEHIND_MS_MAX / 1000} s`));
  });

  test('lists only refusals of the catalogue, with their status', () => {
    const refusals = [...page.matchAll(/^\| (\d{3}) \| `([a-z_]+)` \|/gm)];
    assert.ok(refusals.length >= 7);
    for (const [, status, code = ''] of refusals) assert.equal(Object.entries(ERROR_STATUS).find(([name]) => name === code)?.[1], Number(status), code);
  });
});
