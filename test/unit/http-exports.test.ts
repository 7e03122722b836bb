/** Messages as lines: negotiation, backpressure, and that a cut-off answer never looks complete. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { ApiError } from '../../src/errors.ts';
import { startApp } from './http-double.ts';

const LINES = { accept: 'application/x-ndjson' };
const PATH = '/v1/contexts/c/messages';

async function listen(t: TestContext) {
  const started = await startApp();
  await started.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => started.app.close());
  const address = started.app.server.address();
  assert.ok(address !== null && typeof address === 'object');
  return { ...started, port: address.port };
}

function ask(port: number, version = '1.1'): Socket {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write(`GET ${PATH} HTTP/${version}\r\nHost: a\r\nAccept: application/x-ndjson\r\n\r\n`);
  return socket;
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (condition()) return;
    await delay(10);
  }
  assert.fail(what);
}

test('lines are answered to a client that asks for them and not for JSON', async (t) => {
  const { app, store } = await startApp();
  t.after(() => app.close());
  for (const [accept, verb, type] of [
    ['application/x-ndjson', 'export', 'application/x-ndjson'],
    ['text/html, application/X-NDJSON;q=0.5', 'export', 'application/x-ndjson'],
    ['application/json, application/x-ndjson', 'messages', 'application/json; charset=utf-8'],
    ['*/*', 'messages', 'application/json; charset=utf-8'],
  ] as const) {
    const response = await app.inject({ url: `${PATH}?from_seq=3&to_seq=9&after_version=1&consistency=stale`, headers: { accept } });
    const call = store.calls.at(-1);
    assert.deepEqual([response.statusCode, call?.verb, response.headers['content-type']], [200, verb, type], accept);
    assert.equal(response.headers['x-applied-index'], '42');
    assert.equal(response.headers['vary'], 'accept');
    if (call?.verb === 'export') assert.deepEqual(call.query, { fromSeq: 3, toSeq: 9, afterVersion: 1 });
  }
  const head = await app.inject({ method: 'HEAD', url: PATH, headers: LINES });
  assert.deepEqual([head.statusCode, head.body, head.headers['content-type']], [200, '', 'application/x-ndjson']);
});

test('what fails before the first message is answered like other calls', async (t) => {
  const { app, store } = await startApp();
  t.after(() => app.close());
  store.failure = new ApiError('context_not_found', 'none');
  const response = await app.inject({ url: PATH, headers: LINES });
  assert.deepEqual([response.statusCode, response.json().error, response.headers['content-type']], [404, 'context_not_found', 'application/json; charset=utf-8']);
});

test('slices come through whole and in order', async (t) => {
  const { port, store } = await listen(t);
  const slices = Array.from({ length: 300 }, (_, i) => Buffer.from(`{"seq":${i},"x":"${'é'.repeat(i * 7)}"}\n`));
  store.slices = async function* () {
    yield* slices;
  };
  const response = await fetch(`http://127.0.0.1:${port}${PATH}`, { headers: LINES });
  assert.equal(Buffer.compare(Buffer.from(await response.arrayBuffer()), Buffer.concat(slices)), 0);
});

test('a failure in the middle ends the connection without the last chunk', async (t) => {
  const { port, store, logger } = await listen(t);
  store.slices = async function* () {
    yield Buffer.from('{"seq":1}\n');
    await delay(20);
    throw new ApiError('raft_unavailable', 'the rest cannot be read');
  };
  const response = await fetch(`http://127.0.0.1:${port}${PATH}`, { headers: LINES });
  assert.equal(response.status, 200);
  await assert.rejects(response.text(), 'a client must see that this is not all');
  let raw = '';
  const socket = ask(port);
  socket.setEncoding('latin1').on('data', (chunk: string) => { raw += chunk; });
  await once(socket, 'close');
  assert.match(raw, /transfer-encoding: chunked/i);
  assert.match(raw, /\{"seq":1\}/);
  assert.doesNotMatch(raw, /\r\n0\r\n\r\n$/);
  assert.deepEqual(logger.lines.map(({ fields }) => [fields.type, fields['context_id']]), [['export_cut_off', 'c'], ['export_cut_off', 'c']]);
});

test('without chunks, a failure in the middle resets the connection', async (t) => {
  const { port, store } = await listen(t);
  store.slices = async function* () {
    yield Buffer.from('{"seq":1}\n');
    await delay(20);
    throw new Error('broken');
  };
  const socket = ask(port, '1.0');
  socket.resume();
  const [error] = await once(socket, 'error');
  assert.equal(error.code, 'ECONNRESET');
});

test('a client that does not read makes the node wait, and one that leaves ends the export', async (t) => {
  const { port, store } = await listen(t);
  let given = 0;
  let isEnded = false;
  store.slices = async function* () {
    try {
      for (;;) {
        given++;
        yield Buffer.alloc(256 * 1024, 'x');
      }
    } finally {
      isEnded = true;
    }
  };
  const socket = ask(port);
  socket.pause();
  await until('the export to begin', () => given > 0);
  let before = -1;
  // Whatever fits into the sockets' buffers is taken; then nothing moves any more.
  for (let still = 0; still < 10; still = before === given ? still + 1 : 0) {
    before = given;
    await delay(20);
  }
  assert.ok(given < 200, `${given} slices for a client that reads nothing`);
  assert.equal(isEnded, false);
  socket.destroy();
  await until('the export to end', () => isEnded);
});

test('exports under way are bounded, and places come free', async (t) => {
  const { port, store } = await listen(t);
  const gate = Promise.withResolvers<void>();
  store.slices = async function* () {
    yield Buffer.from('{}\n');
    await gate.promise;
  };
  const url = `http://127.0.0.1:${port}${PATH}`;
  const open = await Promise.all(Array.from({ length: 64 }, () => fetch(url, { headers: LINES })));
  const refused = await fetch(url, { headers: LINES });
  assert.deepEqual([refused.status, ((await refused.json()) as { error: string }).error], [429, 'overloaded']);
  gate.resolve();
  await Promise.all(open.map((response) => response.text()));
  const again = await fetch(url, { headers: LINES });
  assert.equal(again.status, 200);
  await again.text();
});

test('a node that stops cuts exports off after a grace', async () => {
  const { app, store } = await startApp();
  await app.listen({ host: '127.0.0.1', port: 0 });
  const address = app.server.address();
  assert.ok(address !== null && typeof address === 'object');
  store.slices = async function* () {
    for (;;) {
      yield Buffer.from('{}\n');
      await delay(10);
    }
  };
  const response = await fetch(`http://127.0.0.1:${address.port}${PATH}`, { headers: LINES });
  const body = assert.rejects(response.text());
  await app.close();
  await body;
});
