/** Bad input of every kind against a real node: the documented 4xx, no change of state, and nothing reaches Raft. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses } from './processes.ts';

const text = (value: string) => ({ type: 'text', text: value });
const message = (extra: object = {}) => ({ message: { role: 'user', parts: [text('hi')], ...extra } });
const deep = (levels: number): string => `{"message":{"role":"user","parts":[{"type":"x","a":${'['.repeat(levels)}${']'.repeat(levels)}}]}}`;

interface Bad {
  readonly name: string;
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
  readonly status: number;
  readonly error: string;
  /** Expected `path` of the field. */
  readonly at?: string;
}

const put = (name: string, body: unknown, at: string): Bad => ({ name, method: 'PUT', path: '/v1/contexts/bad', body, status: 400, error: 'invalid_request', at });
const post = (name: string, body: unknown, at: string): Bad => ({ name, method: 'POST', path: '/v1/contexts/bad/messages', body, status: 400, error: 'invalid_request', at });

const CASES: readonly Bad[] = [
  put('a budget of zero', { token_budget: 0 }, 'token_budget'),
  put('a budget that is text', { token_budget: '8000' }, 'token_budget'),
  put('a fractional budget', { token_budget: 1.5 }, 'token_budget'),
  put('a ratio of zero', { trigger_ratio: 0 }, 'trigger_ratio'),
  put('a ratio above one', { trigger_ratio: 1.1 }, 'trigger_ratio'),
  put('an unknown field', { budget: 1 }, 'budget'),
  put('an unknown strategy', { policy: { strategy: 'newest' } }, 'policy.strategy'),
  put('a limit of zero', { policy: { strategy: 'last_n', config: { limit: 0 } } }, 'policy.config.limit'),
  put('an unknown policy option', { policy: { strategy: 'last_n', config: { limits: 5 } } }, 'policy.config.limits'),
  put('a target above the trigger', { trigger_ratio: 0.5, policy: { strategy: 'last_n', config: { target_ratio: 0.6 } } }, 'policy.config.target_ratio'),
  put('metadata that is a list', { metadata: [] }, 'metadata'),
  post('no message', {}, 'message'),
  post('both forms', { ...message(), messages: [] }, 'messages'),
  post('an empty list', { messages: [] }, 'messages'),
  post('1001 messages', { messages: Array.from({ length: 1001 }, () => message().message) }, 'messages'),
  post('an empty role', message({ role: '' }), 'message.role'),
  post('a role that is a number', message({ role: 1 }), 'message.role'),
  post('no parts', { message: { role: 'user' } }, 'message.parts'),
  post('parts that are text', message({ parts: 'hi' }), 'message.parts'),
  post('a part that is text', message({ parts: ['hi'] }), 'message.parts[0]'),
  post('a part without a type', message({ parts: [text('a'), { text: 'b' }] }), 'message.parts[1].type'),
  post('a type that is null', message({ parts: [{ type: null }] }), 'message.parts[0].type'),
  post('metadata that is text', message({ metadata: 'x' }), 'message.metadata'),
  post('a negative token count', message({ token_count: -1 }), 'message.token_count'),
  post('a fractional token count', message({ token_count: 0.5 }), 'message.token_count'),
  post('an unknown field of a message', message({ content: 'hi' }), 'message.content'),
  post('an unknown field', { ...message(), force: true }, 'force'),
  post('a negative if_version', { ...message(), if_version: -1 }, 'if_version'),
  post('the second message of a list is bad', { messages: [message().message, { role: 'user', parts: [{}] }] }, 'messages[1].parts[0].type'),
  { name: 'not JSON', method: 'POST', path: '/v1/contexts/bad/messages', body: '{"message":', status: 400, error: 'invalid_json' },
  { name: 'an empty body', method: 'POST', path: '/v1/contexts/bad/messages', body: '', status: 400, error: 'invalid_json' },
  { name: 'another content type', method: 'POST', path: '/v1/contexts/bad/messages', body: 'hi', headers: { 'content-type': 'text/plain' }, status: 415, error: 'unsupported_media_type' },
  { name: 'nesting of 100', method: 'POST', path: '/v1/contexts/bad/messages', body: deep(100), status: 413, error: 'payload_too_large' },
  { name: 'nesting of 200,000', method: 'POST', path: '/v1/contexts/bad/messages', body: deep(200_000), status: 413, error: 'payload_too_large' },
  { name: 'a message of over 1 MiB', method: 'POST', path: '/v1/contexts/bad/messages', body: message({ parts: [text('x'.repeat(1_100_000))] }), status: 413, error: 'payload_too_large' },
  { name: 'a version that does not hold', method: 'POST', path: '/v1/contexts/bad/messages', body: { ...message(), if_version: 99 }, status: 409, error: 'conflict' },
  { name: 'a context that is not there', method: 'POST', path: '/v1/contexts/none/messages', body: message(), status: 404, error: 'context_not_found' },
  { name: 'reading a context that is not there', method: 'GET', path: '/v1/contexts/none/context', status: 404, error: 'context_not_found' },
  { name: 'an id that is too long', method: 'GET', path: `/v1/contexts/${'x'.repeat(257)}`, status: 400, error: 'invalid_context_id' },
  { name: 'an id with a control character', method: 'GET', path: '/v1/contexts/a%0Ab', status: 400, error: 'invalid_context_id' },
  { name: 'an id that is not UTF-8', method: 'GET', path: '/v1/contexts/%ff', status: 400, error: 'invalid_context_id' },
  { name: 'an unknown query parameter', method: 'GET', path: '/v1/contexts/bad/tail?page=1', status: 400, error: 'invalid_request', at: 'page' },
  { name: 'a limit that is text', method: 'GET', path: '/v1/contexts/bad/tail?limit=ten', status: 400, error: 'invalid_request', at: 'limit' },
  { name: 'a negative offset', method: 'GET', path: '/v1/contexts/bad/tail?offset=-1', status: 400, error: 'invalid_request', at: 'offset' },
  { name: 'an unknown consistency', method: 'GET', path: '/v1/contexts/bad?consistency=eventual', status: 400, error: 'invalid_request', at: 'consistency' },
  { name: 'a budget of zero for a read', method: 'GET', path: '/v1/contexts/bad/context?budget_tokens=0', status: 400, error: 'invalid_request', at: 'budget_tokens' },
  { name: 'compact without a replacement', method: 'POST', path: '/v1/contexts/bad/compact', body: {}, status: 400, error: 'invalid_request', at: 'replacement' },
  { name: 'keep_from_seq past the end', method: 'POST', path: '/v1/contexts/bad/compact', body: { replacement: [], keep_from_seq: 99 }, status: 400, error: 'invalid_request', at: 'keep_from_seq' },
  { name: 'a metadata patch that is a list', method: 'PATCH', path: '/v1/contexts/bad/metadata', body: { metadata: [] }, status: 400, error: 'invalid_request', at: 'metadata' },
  { name: 'a metadata number that a double cannot hold', method: 'PATCH', path: '/v1/contexts/bad/metadata', body: '{"metadata":{"n":9007199254740993}}', status: 400, error: 'invalid_request', at: 'metadata.n' },
  { name: 'an idempotency key that is too long', method: 'POST', path: '/v1/contexts/bad/messages', body: message(), headers: { 'idempotency-key': 'k'.repeat(201) }, status: 400, error: 'invalid_request' },
  { name: 'a path that is not there', method: 'GET', path: '/v1/conversations', status: 404, error: 'not_found' },
];

/** Decided by the state machine, on purpose: only it knows the version and the log. */
const DECIDED_BY_APPLY = new Set(['a version that does not hold', 'a context that is not there', 'keep_from_seq past the end']);

describe('bad input', () => {
  let cluster: ClusterProcesses;
  before(async () => {
    cluster = await ClusterProcesses.start(1);
    assert.equal((await call(`${cluster.node(0).url}/v1/contexts/bad`, 'PUT', {})).status, 201);
    assert.equal((await call(`${cluster.node(0).url}/v1/contexts/bad/messages`, 'POST', message())).status, 201);
  });
  after(() => cluster.stop());

  async function state(): Promise<string> {
    const { url } = cluster.node(0);
    return (await call(`${url}/v1/contexts/bad`)).text + (await call(`${url}/v1/contexts/bad/messages`)).text;
  }

  async function proposals(): Promise<number> {
    const found = /^fastpaca_raft_proposals_total(?:\{[^}]*\})? (\d+)/m.exec((await call(`${cluster.node(0).url}/metrics`)).text);
    assert.ok(found, 'the proposals metric is there');
    return Number(found[1]);
  }

  for (const bad of CASES) {
    test(`${bad.name}: ${bad.status} ${bad.error}`, async () => {
      const stateBefore = await state();
      const proposalsBefore = await proposals();
      const answer = await call(cluster.node(0).url + bad.path, bad.method, bad.body, bad.headers);
      assert.deepEqual({ status: answer.status, error: answer.json['error'] }, { status: bad.status, error: bad.error }, answer.text);
      if (bad.at !== undefined) assert.equal(answer.json['path'], bad.at, answer.text);
      assert.equal(typeof answer.json['message'], 'string');
      assert.equal(await state(), stateBefore, 'state is unchanged');
      if (!DECIDED_BY_APPLY.has(bad.name)) assert.equal(await proposals(), proposalsBefore, 'nothing was proposed');
    });
  }

  test('a body of over 8 MiB is refused by its announced length, before it is sent', async () => {
    const socket = connect(cluster.node(0).port, '127.0.0.1');
    socket.write('POST /v1/contexts/bad/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n');
    const answer = (await once(socket, 'data')).toString();
    socket.destroy();
    assert.match(answer, /^HTTP\/1\.1 413 /);
    assert.match(answer, /"error":"payload_too_large"/);
  });

  test('a tombstoned context takes no change and goes on to be read', async () => {
    const { url } = cluster.node(0);
    await call(`${url}/v1/contexts/gone`, 'PUT', {});
    await call(`${url}/v1/contexts/gone/messages`, 'POST', message());
    assert.equal((await call(`${url}/v1/contexts/gone`, 'DELETE')).status, 204);
    assert.equal((await call(`${url}/v1/contexts/gone`, 'DELETE')).status, 204);
    for (const [method, path, body] of [
      ['POST', '/messages', message()],
      ['POST', '/compact', { replacement: [] }],
      ['PUT', '', {}],
      ['PATCH', '/metadata', { metadata: { a: 1 } }],
    ] as const) {
      const answer = await call(`${url}/v1/contexts/gone${path}`, method, body);
      assert.deepEqual([answer.status, answer.json['error']], [409, 'context_tombstoned'], `${method} ${path}`);
    }
    assert.equal((await call(`${url}/v1/contexts/gone/tail`)).status, 200);
  });

  test('an idempotency key replays its first answer and refuses another body', async () => {
    const { url } = cluster.node(0);
    const send = (body: unknown) => call(`${url}/v1/contexts/bad/messages`, 'POST', body, { 'idempotency-key': 'once' });
    const first = await send(message());
    const again = await send(message());
    assert.deepEqual([again.status, again.text, again.headers.get('idempotent-replayed')], [201, first.text, 'true']);
    const other = await send(message({ role: 'assistant' }));
    assert.deepEqual([other.status, other.json['error']], [409, 'idempotency_conflict']);
  });
});
