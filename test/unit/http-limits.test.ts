/** Rate limits, CORS and clients that dawdle, over the real application. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { test } from 'node:test';
import { startApp } from './http-double.ts';

const bearer = (key: string): Record<string, string> => ({ authorization: `Bearer ${key}` });

test('a client past its limit gets 429 rate_limited with Retry-After, and nothing of it reaches the store', async (t) => {
  const { app, store } = await startApp({ FASTPACA_RATE_LIMIT: '2' });
  t.after(() => app.close());
  const statuses = [];
  for (let i = 0; i < 3; i++) statuses.push((await app.inject('/v1/contexts/c')).statusCode);
  assert.deepEqual(statuses, [200, 200, 429]);
  const refused = await app.inject({ method: 'POST', url: '/v1/contexts/c/messages', headers: { 'content-type': 'application/json' }, payload: '{' });
  assert.deepEqual([refused.statusCode, refused.json().error], [429, 'rate_limited']);
  const wait = Number(refused.headers['retry-after']);
  assert.ok(wait >= 1 && wait <= 60, String(wait));
  assert.match(refused.json().message, new RegExp(`Retry in ${wait} s`));
  assert.equal(store.calls.length, 2);
});

test('clients are told apart by key, else by address; guesses at keys count for the address', async (t) => {
  const { app } = await startApp({ FASTPACA_RATE_LIMIT: '2', FASTPACA_API_KEY: 'one,two' });
  t.after(() => app.close());
  const status = async (headers: Record<string, string>, remoteAddress = '192.0.2.1'): Promise<number> =>
    (await app.inject({ url: '/v1/contexts/c', headers, remoteAddress })).statusCode;
  assert.deepEqual([await status(bearer('one')), await status(bearer('one')), await status(bearer('one'))], [200, 200, 429]);
  assert.equal(await status(bearer('one'), '192.0.2.9'), 429, 'a key has one limit wherever it is used from');
  assert.equal(await status(bearer('two')), 200);
  assert.deepEqual([await status(bearer('guess-1')), await status(bearer('guess-2')), await status(bearer('guess-3'))], [401, 401, 429]);
  assert.equal(await status({}, '192.0.2.2'), 401);
  assert.deepEqual([await status({}, '2001:db8::1'), await status({}, '2001:db8::2'), await status({}, '2001:db8::3'), await status({}, '2001:db8:0:1::1')], [401, 401, 429, 401], 'an IPv6 network is one client');
});

test('health checks, metrics and peers are not limited', async (t) => {
  const peerRoutes = [{ method: 'POST', path: '/_peer/hello', handler: async () => ({ status: 200, body: {} }) }];
  const { app } = await startApp({ FASTPACA_RATE_LIMIT: '1' }, { peerRoutes });
  t.after(() => app.close());
  assert.deepEqual([(await app.inject('/v1/cluster')).statusCode, (await app.inject('/v1/cluster')).statusCode], [200, 429]);
  for (let i = 0; i < 3; i++) {
    for (const url of ['/health/live', '/health/ready', '/health/ping', '/metrics', '/openapi.json']) assert.equal((await app.inject(url)).statusCode, 200, url);
    assert.equal((await app.inject({ method: 'POST', url: '/_peer/hello' })).statusCode, 200);
  }
});

test('without configured origins no answer carries a CORS header', async (t) => {
  const { app } = await startApp();
  t.after(() => app.close());
  const get = await app.inject({ url: '/v1/contexts/c', headers: { origin: 'https://a.example' } });
  assert.deepEqual(Object.keys(get.headers).filter((name) => name.startsWith('access-control')), []);
  const preflight = await app.inject({ method: 'OPTIONS', url: '/v1/contexts/c', headers: { origin: 'https://a.example', 'access-control-request-method': 'GET' } });
  assert.deepEqual([preflight.statusCode, preflight.json().error], [404, 'not_found']);
});

test('pages of a configured origin may read, and only read; preflights need no key', async (t) => {
  const { app, store } = await startApp({ FASTPACA_CORS_ORIGINS: 'https://a.example,https://b.example', FASTPACA_API_KEY: 'key' });
  t.after(() => app.close());
  const preflight = async (origin: string, method: string) =>
    app.inject({ method: 'OPTIONS', url: '/v1/contexts/c/messages', headers: { origin, 'access-control-request-method': method, 'access-control-request-headers': 'authorization' } });
  for (const method of ['GET', 'POST']) {
    const answer = await preflight('https://b.example', method);
    assert.deepEqual([answer.statusCode, answer.body], [204, '']);
    assert.equal(answer.headers['access-control-allow-origin'], 'https://b.example');
    assert.equal(answer.headers['access-control-allow-methods'], 'GET, HEAD, OPTIONS');
    assert.match(String(answer.headers['access-control-allow-headers']), /Authorization/);
    assert.match(String(answer.headers['vary']), /origin/i);
  }
  assert.equal((await preflight('https://evil.example', 'GET')).headers['access-control-allow-origin'], undefined);
  const read = await app.inject({ url: '/v1/contexts/c', headers: { origin: 'https://a.example', ...bearer('key') } });
  assert.deepEqual([read.statusCode, read.headers['access-control-allow-origin']], [200, 'https://a.example']);
  assert.match(String(read.headers['access-control-expose-headers']), /ETag/);
  const foreign = await app.inject({ url: '/v1/contexts/c', headers: { origin: 'https://evil.example', ...bearer('key') } });
  assert.equal(foreign.headers['access-control-allow-origin'], undefined);
  // An error is readable too, or a page could not tell why it failed.
  const refused = await app.inject({ url: '/v1/contexts/c', headers: { origin: 'https://a.example' } });
  assert.deepEqual([refused.statusCode, refused.headers['access-control-allow-origin']], [401, 'https://a.example']);
  assert.equal(store.calls.length, 2);
});

test('any origin can be allowed', async (t) => {
  const { app } = await startApp({ FASTPACA_CORS_ORIGINS: '*' });
  t.after(() => app.close());
  assert.equal((await app.inject({ url: '/v1/contexts/c', headers: { origin: 'https://x.example' } })).headers['access-control-allow-origin'], '*');
});

test('a client that dribbles its headers or its body is answered 408 and cut, while others are served', async (t) => {
  const { app, store } = await startApp({}, { receive: { headersMs: 300, requestMs: 600, checkMs: 50 } });
  await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => app.close());
  const address = app.server.address();
  assert.ok(address !== null && typeof address === 'object');
  const head = 'POST /v1/contexts/c/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n';
  const dribble = async (start: string, drop: string): Promise<string> => {
    const socket = connect(address.port, '127.0.0.1');
    socket.on('error', () => {});
    let answer = '';
    socket.setEncoding('latin1').on('data', (chunk: string) => { answer += chunk; });
    await once(socket, 'connect');
    socket.write(start);
    // Always something new in less than any idle timeout.
    const timer = setInterval(() => { if (socket.writable) socket.write(drop); }, 20);
    await once(socket, 'close');
    clearInterval(timer);
    return answer;
  };
  const slow = [dribble(head, 'X: y\r\n'), dribble(`${head}\r\n`, ' ')];
  for (let i = 0; i < 5; i++) assert.equal((await fetch(`http://127.0.0.1:${address.port}/v1/contexts/c`)).status, 200);
  for (const answer of await Promise.all(slow)) {
    assert.match(answer, /^HTTP\/1\.1 408 /);
    assert.match(answer, /"error":"invalid_request"/);
  }
  assert.deepEqual(new Set(store.calls.map((call) => call.verb)), new Set(['get']));
});
