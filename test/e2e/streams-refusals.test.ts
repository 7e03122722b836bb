/** What refuses a call refuses a stream, over both transports, with the same status, headers and body, before the upgrade. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses, until } from './processes.ts';
import { refusal, SseClient, StreamClient } from './stream-client.ts';

const bearer = (key: string): Record<string, string> => ({ authorization: `Bearer ${key}` });

interface Refused {
  readonly status: number;
  readonly body: Record<string, unknown>;
  readonly contentType: string | null;
  readonly authenticate: string | null;
  readonly canRetry: boolean;
}

type Ask = (url: string, headers: Record<string, string>) => Promise<Refused>;

/** Seconds pass between two answers. */
const settled = (body: Record<string, unknown>): Record<string, unknown> => ({ ...body, message: String(body['message']).replace(/Retry in \d+ s/, 'Retry in N s') });

const rest: Ask = async (url, headers) => {
  const { status, json, headers: answered } = await call(url, 'GET', undefined, headers);
  return { status, body: settled(json), contentType: answered.get('content-type'), authenticate: answered.get('www-authenticate'), canRetry: /^\d+$/.test(answered.get('retry-after') ?? '') };
};
const events: Ask = (url, headers) => rest(url, { accept: 'text/event-stream', ...headers });
const upgrade: Ask = async (url, headers) => {
  const { status, json, headers: answered } = await refusal(url, headers);
  assert.equal(answered.connection, 'close');
  return { status, body: settled(json), contentType: answered['content-type'] ?? null, authenticate: answered['www-authenticate'] ?? null, canRetry: /^\d+$/.test(answered['retry-after'] ?? '') };
};

interface Case {
  readonly name: string;
  /** Path and query of the stream, and of the call that is refused alike. */
  readonly stream: string;
  readonly call: string;
  readonly headers?: Record<string, string>;
  readonly status: number;
  readonly error: string;
  /** `path` of the streams' answer. Where it is given, the message names what a stream takes, and only code and path compare with REST. */
  readonly at?: string;
  readonly callAt?: string;
}

const same = (name: string, id: string, status: number, error: string, headers?: Record<string, string>): Case => ({
  name, stream: `/v1/contexts/${id}/stream`, call: `/v1/contexts/${id}`, status, error, ...(headers === undefined ? {} : { headers }),
});

const CASES: readonly Case[] = [
  same('no key', 'c', 401, 'unauthorized', {}),
  same('a wrong key', 'c', 401, 'unauthorized', bearer('guess')),
  same('a key of another scheme', 'c', 401, 'unauthorized', { authorization: 'Basic a2V5' }),
  same('no key, to a context that is not there', 'nobody', 401, 'unauthorized', {}),
  same('a context that is not there', 'nobody', 404, 'context_not_found'),
  same('an id with a control character', 'a%00b', 400, 'invalid_context_id'),
  same('an id that is too long', 'x'.repeat(1000), 400, 'invalid_context_id'),
  same('an id that is not percent-encoded', '%zz', 400, 'invalid_context_id'),
  same('an id that is not UTF-8', '%ff', 400, 'invalid_context_id'),
  { name: 'a cursor that is no number', stream: '/v1/contexts/c/stream?cursor=x', call: '/v1/contexts/c/messages?from_seq=x', status: 400, error: 'invalid_request', at: 'cursor', callAt: 'from_seq' },
  { name: 'a negative cursor', stream: '/v1/contexts/c/stream?cursor=-1', call: '/v1/contexts/c/messages?from_seq=-1', status: 400, error: 'invalid_request', at: 'cursor', callAt: 'from_seq' },
  { name: 'a query parameter that is not known', stream: '/v1/contexts/c/stream?what=1', call: '/v1/contexts/c?what=1', status: 400, error: 'invalid_request', at: 'what', callAt: 'what' },
  { name: 'a query parameter given twice', stream: '/v1/contexts/c/stream?cursor=1&cursor=2', call: '/v1/contexts/c/messages?from_seq=1&from_seq=2', status: 400, error: 'invalid_request', at: 'cursor', callAt: 'from_seq' },
];

describe('a node with a key and room for one stream', () => {
  let cluster: ClusterProcesses;
  let url: string;
  before(async () => {
    cluster = await ClusterProcesses.start(1, { FASTPACA_API_KEY: 'key', FASTPACA_STREAM_MAX_CONNECTIONS: '1' });
    url = cluster.node(0).url;
    assert.equal((await call(`${url}/v1/contexts/c`, 'PUT', {}, bearer('key'))).status, 201);
  });
  after(() => cluster.stop());

  for (const { name, stream, call: path, headers = bearer('key'), status, error, at, callAt } of CASES) {
    test(`${name}: ${status} ${error}, the same over REST, SSE and the upgrade`, async () => {
      const [called, sse, upgraded] = [await rest(url + path, headers), await events(url + stream, headers), await upgrade(url + stream, headers)];
      assert.deepEqual([upgraded.status, upgraded.body['error'], upgraded.body['path']], [status, error, at]);
      assert.equal(upgraded.authenticate, status === 401 ? 'Bearer' : null);
      assert.deepEqual(sse, upgraded);
      if (callAt === undefined) assert.deepEqual(called, upgraded);
      else assert.deepEqual({ ...called, body: [called.body['error'], called.body['path']] }, { ...upgraded, body: [error, callAt] });
    });
  }

  test('no stream at the path: 404 not_found', async () => {
    const [called, upgraded] = [await rest(`${url}/v1/contexts/c/streams`, bearer('key')), await upgrade(`${url}/v1/contexts/c/streams`, bearer('key'))];
    const code = ({ body, ...rest }: Refused) => ({ ...rest, error: body['error'] });
    assert.deepEqual(code(upgraded), code(called));
    assert.deepEqual(code(upgraded), { status: 404, error: 'not_found', contentType: 'application/json; charset=utf-8', authenticate: null, canRetry: false });
  });

  test('too many streams: 429 overloaded with Retry-After over both transports; refusals take no place', async () => {
    const stream = `${url}/v1/contexts/c/stream`;
    const client = await StreamClient.open(stream.replace('http', 'ws'), bearer('key'));
    const [sse, upgraded] = [await events(stream, bearer('key')), await upgrade(stream, bearer('key'))];
    assert.deepEqual([upgraded.status, upgraded.body['error'], upgraded.canRetry], [429, 'overloaded', true]);
    assert.deepEqual(sse, upgraded);
    client.close();
    await until('the place to be free', async () => /^fastpaca_streams_open 0$/m.test((await call(`${url}/metrics`)).text));
    const next = await SseClient.open(stream, bearer('key'));
    assert.equal(next.status, 200);
    next.close();
  });

  test('each refusal is counted once as a request', async () => {
    const counted = async (): Promise<number> => {
      const text = (await call(`${url}/metrics`)).text;
      return [...text.matchAll(/^fastpaca_http_requests_total\{[^}]*status="4\d\d"[^}]*\} (\d+)$/gm)].reduce((sum, [, count]) => sum + Number(count), 0);
    };
    const start = await counted();
    await upgrade(`${url}/v1/contexts/c/stream`, {});
    await upgrade(`${url}/v1/contexts/nobody/stream`, bearer('key'));
    await upgrade(`${url}/v1/contexts/c/stream`, { ...bearer('key'), 'sec-websocket-version': '7' });
    await upgrade(`${url}/nowhere`, {});
    assert.equal(await counted(), start + 4);
  });
});

describe('a node with a key and a rate limit', () => {
  let cluster: ClusterProcesses;
  let url: string;
  const stream = () => `${url}/v1/contexts/c/stream`;
  before(async () => {
    cluster = await ClusterProcesses.start(1, { FASTPACA_API_KEY: 'one,two', FASTPACA_RATE_LIMIT: '3' });
    url = cluster.node(0).url;
    assert.equal((await call(`${url}/v1/contexts/c`, 'PUT', {}, bearer('two'))).status, 201);
  });
  after(() => cluster.stop());

  test('upgrades count with the calls of the same key, and are refused like them: 429 rate_limited', async (t) => {
    const ws = await StreamClient.open(stream().replace('http', 'ws'), bearer('one'));
    const sse = await SseClient.open(stream(), bearer('one'));
    t.after(() => ws.close());
    t.after(() => sse.close());
    assert.equal((await refusal(`${stream()}?what=1`, bearer('one'))).status, 400, 'the third');
    const refused = [await rest(`${url}/v1/contexts/c`, bearer('one')), await events(stream(), bearer('one')), await upgrade(stream(), bearer('one'))];
    for (const answer of refused) assert.deepEqual(answer, refused[0]);
    assert.deepEqual([refused[0]?.status, refused[0]?.body['error'], refused[0]?.canRetry], [429, 'rate_limited', true]);
    assert.equal((await call(`${url}/v1/contexts/c`, 'GET', undefined, bearer('two'))).status, 200, 'another key has its own');
  });

  test('guesses at keys by upgrade count for the address', async () => {
    const statuses = [];
    for (let i = 0; i < 4; i++) statuses.push((await refusal(stream(), bearer(`guess-${i}`))).status);
    assert.deepEqual(statuses, [401, 401, 401, 429]);
    assert.equal((await call(`${url}/v1/contexts/c`)).status, 429, 'over REST too');
  });
});
