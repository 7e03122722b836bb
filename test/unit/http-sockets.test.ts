import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { startApp } from './http-double.ts';

async function listen(t: TestContext, env: Record<string, string> = {}) {
  const started = await startApp(env);
  await started.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => started.app.close());
  const address = started.app.server.address();
  assert.ok(address !== null && typeof address === 'object');
  return { ...started, port: (address satisfies AddressInfo).port };
}

/** Sends raw bytes and reads until the server closes or `enough` is satisfied. */
async function exchange(port: number, bytes: string | Buffer, enough: (answer: string) => boolean = () => false): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  let answer = '';
  socket.setEncoding('latin1');
  const closed = once(socket, 'close');
  socket.on('error', () => {});
  const satisfied = new Promise<void>((done) => {
    socket.on('data', (chunk: string) => {
      answer += chunk;
      if (enough(answer)) done();
    });
  });
  socket.write(bytes);
  const timer = setTimeout(() => socket.destroy(new Error('no answer in time')), 10_000);
  await Promise.race([closed, satisfied]);
  clearTimeout(timer);
  socket.destroy();
  return answer;
}

function parse(answer: string): { status: number; head: string; body: string } {
  const [head = '', body = ''] = answer.split('\r\n\r\n', 2);
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1]), head, body };
}

const whole = (answer: string): boolean => {
  const { head, body } = parse(answer);
  const length = /content-length: (\d+)/i.exec(head)?.[1];
  return length !== undefined && body.length >= Number(length);
};

test('bytes that are not HTTP are answered 400 in JSON, and the connection closes', async (t) => {
  const { port } = await listen(t);
  const garbage = [
    'hello\r\n\r\n',
    'GET /v1/contexts/c HTTP/9.9\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n',
    'POST /v1/contexts/c/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello',
    'POST /v1/contexts/c/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'POST /v1/contexts/c/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n',
    Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]),
  ];
  for (const bytes of garbage) {
    const { status, head, body } = parse(await exchange(port, bytes));
    assert.equal(status, 400, String(bytes));
    assert.match(head, /content-type: application\/json/i);
    assert.match(head, /connection: close/i);
    assert.equal(JSON.parse(body).error, 'invalid_request');
  }
});

test('a header block over the limit is answered 431 in JSON', async (t) => {
  const { port } = await listen(t);
  const { status, body } = parse(await exchange(port, `GET /health/live HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`));
  assert.deepEqual([status, JSON.parse(body).error], [431, 'invalid_request']);
});

test('raw UTF-8 in a path is refused rather than taken for other characters', async (t) => {
  const { port, store } = await listen(t);
  const { status, body } = parse(await exchange(port, Buffer.from('GET /v1/contexts/é HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')));
  assert.equal(status, 400, body);
  assert.ok(['invalid_context_id', 'invalid_request'].includes(JSON.parse(body).error));
  assert.deepEqual(store.calls, []);
});

test('an id of dots is an id, percent-encoded or not', async (t) => {
  const { port, store } = await listen(t);
  for (const target of ['/v1/contexts/..', '/v1/contexts/%2e%2E', 'http://other.example/v1/contexts/..']) {
    const { status } = parse(await exchange(port, `GET ${target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`));
    assert.equal(status, 200, target);
    assert.equal(store.calls.at(-1)?.id, '..');
  }
});

test('a body over the limit is refused whether announced or streamed, and never reaches the store', async (t) => {
  const { port, store } = await listen(t, { FASTPACA_MAX_BODY_BYTES: '4096', FASTPACA_MAX_MESSAGE_BYTES: '1024' });
  const head = 'POST /v1/contexts/c/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n';
  const announced = parse(await exchange(port, `${head}Content-Length: 1000000\r\n\r\n`, whole));
  assert.deepEqual([announced.status, JSON.parse(announced.body).error], [413, 'payload_too_large']);
  const chunk = `1000\r\n${'x'.repeat(4096)}\r\n`;
  const streamed = parse(await exchange(port, `${head}Transfer-Encoding: chunked\r\n\r\n${chunk}${chunk}`, whole));
  assert.deepEqual([streamed.status, JSON.parse(streamed.body).error], [413, 'payload_too_large']);
  assert.match(streamed.head, /connection: close/i);
  assert.deepEqual(store.calls, []);
});

test('a client that leaves in the middle of a body is not an error of the node', async (t) => {
  const { port, store, logger, app } = await listen(t);
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  const accepted = once(app.server, 'request');
  socket.write('POST /v1/contexts/c/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"mess');
  await accepted;
  socket.destroy();
  const { status } = parse(await exchange(port, 'GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'));
  assert.equal(status, 200);
  assert.deepEqual(store.calls, []);
  assert.deepEqual(logger.lines.filter((line) => line.level === 'error'), []);
});

test('pipelined requests on one connection are answered in order', async (t) => {
  const { port } = await listen(t);
  const body = '{"message":{"role":"user","parts":[]}}';
  const one = `POST /v1/contexts/c/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const answer = await exchange(port, `${one}GET /v1/contexts/c?x=1 HTTP/1.1\r\nHost: a\r\n\r\n${one.replace('Host: a', 'Host: a\r\nConnection: close')}`);
  assert.deepEqual([...answer.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => match[1]), ['201', '400', '201']);
});

test('an upgrade to anything but a WebSocket is answered as if it had not been asked for', async (t) => {
  const { port, app } = await listen(t);
  app.server.on('upgrade', (_request, socket) => socket.end('HTTP/1.1 418 Upgraded\r\n\r\n'));
  const upgrade = (to: string): string => `GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: ${to}\r\n\r\n`;
  assert.equal(parse(await exchange(port, upgrade('h2c'), whole)).status, 200);
  assert.equal(parse(await exchange(port, upgrade('WebSocket'))).status, 418);
});

test('closing lets a request in flight finish', async () => {
  const { app, store } = await startApp();
  await app.listen({ host: '127.0.0.1', port: 0 });
  const address = app.server.address();
  assert.ok(address !== null && typeof address === 'object');
  const gate = Promise.withResolvers<void>();
  const entered = Promise.withResolvers<void>();
  const get = store.get.bind(store);
  store.get = async (id, consistency) => {
    entered.resolve();
    await gate.promise;
    return get(id, consistency);
  };
  const answer = exchange(address.port, 'GET /v1/contexts/c HTTP/1.1\r\nHost: a\r\n\r\n', whole);
  await entered.promise;
  const closed = app.close();
  gate.resolve();
  assert.equal(parse(await answer).status, 200);
  await closed;
});
