import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startApp } from './http-double.ts';

type Started = Awaited<ReturnType<typeof startApp>>;
let started: Started;

before(async () => {
  started = await startApp({ FASTPACA_MAX_BODY_BYTES: '8192', FASTPACA_MAX_MESSAGE_BYTES: '4096', FASTPACA_MAX_DEPTH: '16' });
});
after(() => started.app.close());

type Method = 'GET' | 'PUT' | 'POST' | 'PATCH' | 'DELETE' | 'HEAD';
interface Request {
  method: Method;
  url: string;
  body?: string | Buffer;
  headers?: Record<string, string>;
}

async function send({ method, url, body, headers = {} }: Request) {
  const type = body === undefined ? {} : { 'content-type': 'application/json' };
  return started.app.inject({ method, url, headers: { ...type, ...headers }, ...(body === undefined ? {} : { payload: body }) });
}

const ONE = '{"message":{"role":"user","parts":[]}}';
const C = '/v1/contexts/c';
const put = (body: string | Buffer): Request => ({ method: 'PUT', url: C, body });
const append = (body: string | Buffer, headers: Record<string, string> = {}): Request => ({ method: 'POST', url: `${C}/messages`, body, headers });
const list = (query: string): Request => ({ method: 'GET', url: `/v1/contexts${query}` });
const get = (path: string): Request => ({ method: 'GET', url: `/v1/contexts/${path}` });

/** [what, request, status, error, path] */
const BAD: readonly [string, Request, number, string, string?][] = [
  ['id with bad percent-encoding', get('%zz'), 400, 'invalid_context_id'],
  ['id cut in its percent-encoding', get('a%2'), 400, 'invalid_context_id'],
  ['id that is not UTF-8', get('%ff'), 400, 'invalid_context_id'],
  ['id with an encoded surrogate', get('%ed%a0%80'), 400, 'invalid_context_id'],
  ['id with NUL', get('a%00'), 400, 'invalid_context_id'],
  ['id with a newline', get('a%0a'), 400, 'invalid_context_id'],
  ['id with DEL', get('a%7f'), 400, 'invalid_context_id'],
  ['id with a C1 control', get('%c2%85'), 400, 'invalid_context_id'],
  ['id of 257 bytes', get('x'.repeat(257)), 400, 'invalid_context_id'],
  ['id of 86 three-byte characters', get('%e2%82%ac'.repeat(86)), 400, 'invalid_context_id'],
  ['id of 4000 bytes', get('x'.repeat(4000)), 400, 'invalid_context_id'],
  ['empty id', get('/tail'), 400, 'invalid_context_id'],

  ['unknown query parameter', get('c?x=1'), 400, 'invalid_request', 'x'],
  ['query parameter given twice', get('c/tail?limit=1&limit=1'), 400, 'invalid_request', 'limit'],
  ['query parameter named __proto__', get('c?__proto__=1'), 400, 'invalid_request', '__proto__'],
  ['query on a write', { ...append(ONE), url: `${C}/messages?consistency=stale` }, 400, 'invalid_request', 'consistency'],
  ['unknown consistency', get('c?consistency=eventual'), 400, 'invalid_request', 'consistency'],
  ['purge neither true nor false', { method: 'DELETE', url: `${C}?purge=yes` }, 400, 'invalid_request', 'purge'],
  ['purge of something else', get('c?purge=true'), 400, 'invalid_request', 'purge'],
  ['an unknown provider', get('c/context?for=gemini'), 400, 'invalid_request', 'for'],
  ['no provider', get('c/context?for='), 400, 'invalid_request', 'for'],
  ['explain neither true nor false', get('c/context?explain=yes'), 400, 'invalid_request', 'explain'],
  ['explain in a provider shape', get('c/context?explain=true&for=openai'), 400, 'invalid_request', 'for'],
  ['at_version with if_version', get('c/context?at_version=1&if_version=1'), 400, 'invalid_request', 'if_version'],
  ['at_version below 0', get('c/context?at_version=-1'), 400, 'invalid_request', 'at_version'],
  ['a page of a window', get('c/context?limit=5'), 400, 'invalid_request', 'limit'],
  ['a page of a window from a seq', get('c/context?from_seq=5&explain=false'), 400, 'invalid_request', 'from_seq'],
  ['a cursor that is none', get('c/compactions?cursor=abc'), 400, 'invalid_request', 'cursor'],
  ['a cursor past all versions', get('c/compactions?cursor=99999999999999999999'), 400, 'invalid_request', 'cursor'],
  ...['-1', '1.0', '1e3', '0x10', ' 1', '+1', '', 'NaN', '99999999999999999999', '%31%00'].map(
    (value): [string, Request, number, string, string] => [`offset=${value}`, get(`c/tail?offset=${value}`), 400, 'invalid_request', 'offset'],
  ),
  ['limit 0', get('c/tail?limit=0'), 400, 'invalid_request', 'limit'],
  ['from_seq 0', get('c/messages?from_seq=0'), 400, 'invalid_request', 'from_seq'],
  ['budget_tokens 0', get('c/context?budget_tokens=0'), 400, 'invalid_request', 'budget_tokens'],
  ['budget_tokens too large', get('c/context?budget_tokens=100000001'), 400, 'invalid_request', 'budget_tokens'],
  ['full=1', get('c/context?full=1'), 400, 'invalid_request', 'full'],

  ['empty idempotency key', append(ONE, { 'idempotency-key': '' }), 400, 'invalid_request', 'Idempotency-Key'],
  ['idempotency key with a space', append(ONE, { 'idempotency-key': 'a b' }), 400, 'invalid_request', 'Idempotency-Key'],
  ['idempotency key outside ASCII', append(ONE, { 'idempotency-key': 'é' }), 400, 'invalid_request', 'Idempotency-Key'],
  ['idempotency key of 201 bytes', append(ONE, { 'idempotency-key': 'k'.repeat(201) }), 400, 'invalid_request', 'Idempotency-Key'],

  ['text body', append(ONE, { 'content-type': 'text/plain' }), 415, 'unsupported_media_type'],
  ['form body', append('a=b', { 'content-type': 'application/x-www-form-urlencoded' }), 415, 'unsupported_media_type'],
  ['other charset', append(ONE, { 'content-type': 'application/json; charset=utf-16' }), 415, 'unsupported_media_type'],
  ['JSON-like type', append(ONE, { 'content-type': 'application/json-seq' }), 415, 'unsupported_media_type'],
  ['nonsense type', append(ONE, { 'content-type': '///' }), 415, 'unsupported_media_type'],
  ['compressed body', append(ONE, { 'content-encoding': 'gzip' }), 415, 'unsupported_media_type'],

  ['append without a body', { method: 'POST', url: `${C}/messages` }, 400, 'invalid_json'],
  ['append of garbage', append('{'), 400, 'invalid_json'],
  ['append of an array', append('[]'), 400, 'invalid_request'],
  ['append with an unknown field', append('{"message":{"role":"user","parts":[]},"x":1}'), 400, 'invalid_request', 'x'],
  ['append body over the limit', append(`{"message":{"role":"user","parts":[],"metadata":{"x":"${'x'.repeat(9000)}"}}}`), 413, 'payload_too_large'],
  ['append message over the limit', append(`{"message":{"role":"user","parts":[],"metadata":{"x":"${'x'.repeat(5000)}"}}}`), 413, 'payload_too_large', 'message'],
  ['compact without replacement', { method: 'POST', url: `${C}/compact`, body: '{}' }, 400, 'invalid_request', 'replacement'],

  ['settings that are garbage', put('{"token_budget":'), 400, 'invalid_json'],
  ['settings that are not UTF-8', put(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])), 400, 'invalid_json'],
  ['settings with a byte order mark', put('\ufeff{}'), 400, 'invalid_json'],
  ['settings that are an array', put('[]'), 400, 'invalid_request'],
  ['settings that are null', put('null'), 400, 'invalid_request'],
  ['unknown setting', put('{"budget":1}'), 400, 'invalid_request', 'budget'],
  ['setting named __proto__', put('{"__proto__":{}}'), 400, 'invalid_request', '__proto__'],
  ['setting given twice', put('{"token_budget":1,"token_budget":2}'), 400, 'invalid_request', 'token_budget'],
  ['setting given twice, once with escapes', put('{"token_budget":1,"token\\u005fbudget":2}'), 400, 'invalid_request', 'token_budget'],
  ...['0', '-1', '1.5', '315360001', '"60"', 'true', '1e400'].map(
    (value): [string, Request, number, string, string] => [`ttl_seconds ${value}`, put(`{"ttl_seconds":${value}}`), 400, 'invalid_request', 'ttl_seconds'],
  ),
  ...['0', '-1', '1.5', '100000001', '"8000"', 'null', 'true', '1e400'].map(
    (value): [string, Request, number, string, string] => [`token_budget ${value}`, put(`{"token_budget":${value}}`), 400, 'invalid_request', 'token_budget'],
  ),
  ...['0', '-0.5', '1.01', '"0.5"', 'null', '1e400'].map(
    (value): [string, Request, number, string, string] => [`trigger_ratio ${value}`, put(`{"trigger_ratio":${value}}`), 400, 'invalid_request', 'trigger_ratio'],
  ),
  ['policy null', put('{"policy":null}'), 400, 'invalid_request', 'policy'],
  ['policy without strategy', put('{"policy":{}}'), 400, 'invalid_request', 'policy.strategy'],
  ['policy of another strategy', put('{"policy":{"strategy":"summarise"}}'), 400, 'invalid_request', 'policy.strategy'],
  ['policy with an unknown field', put('{"policy":{"strategy":"manual","limit":5}}'), 400, 'invalid_request', 'policy.limit'],
  ['policy with an unknown config key', put('{"policy":{"strategy":"last_n","config":{"limits":5}}}'), 400, 'invalid_request', 'policy.config.limits'],
  ['skip_kinds for last_n', put('{"policy":{"strategy":"last_n","config":{"skip_kinds":["tool"]}}}'), 400, 'invalid_request', 'policy.config.skip_kinds'],
  ['limit for manual', put('{"policy":{"strategy":"manual","config":{"limit":5}}}'), 400, 'invalid_request', 'policy.config.limit'],
  ['target_ratio for manual', put('{"policy":{"strategy":"manual","config":{"target_ratio":0.5}}}'), 400, 'invalid_request', 'policy.config.target_ratio'],
  ['policy limit 0', put('{"policy":{"strategy":"last_n","config":{"limit":0}}}'), 400, 'invalid_request', 'policy.config.limit'],
  ['policy limit 10001', put('{"policy":{"strategy":"last_n","config":{"limit":10001}}}'), 400, 'invalid_request', 'policy.config.limit'],
  ['empty skip_kinds', put('{"policy":{"strategy":"skip_parts","config":{"skip_kinds":[]}}}'), 400, 'invalid_request', 'policy.config.skip_kinds'],
  ['33 skip_kinds', put(`{"policy":{"strategy":"skip_parts","config":{"skip_kinds":${JSON.stringify(Array(33).fill('t'))}}}}`), 400, 'invalid_request', 'policy.config.skip_kinds'],
  ['empty skip kind', put('{"policy":{"strategy":"skip_parts","config":{"skip_kinds":["a",""]}}}'), 400, 'invalid_request', 'policy.config.skip_kinds[1]'],
  ['lone surrogate in a skip kind', put('{"policy":{"strategy":"skip_parts","config":{"skip_kinds":["\\ud800"]}}}'), 400, 'invalid_request', 'policy.config.skip_kinds[0]'],
  ['pin that is not a boolean', put('{"policy":{"strategy":"last_n","config":{"pin":1}}}'), 400, 'invalid_request', 'policy.config.pin'],
  ['target above trigger', put('{"trigger_ratio":0.5,"policy":{"strategy":"last_n","config":{"target_ratio":0.6}}}'), 400, 'invalid_request', 'policy.config.target_ratio'],
  ['model with a space', put('{"model":"gpt 4"}'), 400, 'invalid_request', 'model'],
  ['empty model', put('{"model":""}'), 400, 'invalid_request', 'model'],
  ['metadata that is an array', put('{"metadata":[]}'), 400, 'invalid_request', 'metadata'],
  ['metadata with an integer that a double cannot hold', put('{"metadata":{"a":[9007199254740993]}}'), 400, 'invalid_request', 'metadata.a[0]'],
  ['metadata with an infinite number', put('{"metadata":{"a":1e400}}'), 400, 'invalid_request', 'metadata.a'],
  ['metadata nested too deep', put(`{"metadata":${'{"a":'.repeat(20)}1${'}'.repeat(20)}}`), 413, 'payload_too_large'],
  ['patch without metadata', { method: 'PATCH', url: `${C}/metadata`, body: '{}' }, 400, 'invalid_request', 'metadata'],
  ['patch of null', { method: 'PATCH', url: `${C}/metadata`, body: '{"metadata":null}' }, 400, 'invalid_request', 'metadata'],
  ['patch without a body', { method: 'PATCH', url: `${C}/metadata` }, 400, 'invalid_json'],

  ['unknown path', { method: 'GET', url: '/v2/contexts' }, 404, 'not_found'],
  ['unknown path with a body', { method: 'POST', url: '/nothing', body: '{' }, 404, 'not_found'],
  ['unknown path with another body', { method: 'POST', url: '/nothing', body: '<a/>', headers: { 'content-type': 'text/xml' } }, 404, 'not_found'],
  ['known path, other method', { method: 'DELETE', url: `${C}/tail` }, 404, 'not_found'],
  ['a listing of an unknown status', list('?status=deleted'), 400, 'invalid_request', 'status'],
  ['a listing by a prefix with a control character', list('?prefix=a%00'), 400, 'invalid_request', 'prefix'],
  ['a listing by a prefix longer than any id', list(`?prefix=${'%C3%A9'.repeat(129)}`), 400, 'invalid_request', 'prefix'],
  ['a listing with limit 0', list('?limit=0'), 400, 'invalid_request', 'limit'],
  ['a listing by offset', list('?offset=5'), 400, 'invalid_request', 'offset'],
  ['creating in the list', { method: 'POST', url: '/v1/contexts', body: '{}' }, 404, 'not_found'],
  ['lines with a limit', { method: 'GET', url: `${C}/messages?limit=5`, headers: { accept: 'application/x-ndjson' } }, 400, 'invalid_request', 'limit'],
  ['lines from seq 0', { method: 'GET', url: `${C}/messages?from_seq=0`, headers: { accept: 'application/x-ndjson' } }, 400, 'invalid_request', 'from_seq'],
  ['bad percent-encoding elsewhere', { method: 'GET', url: '/health/%zz' }, 400, 'invalid_request', 'path'],
];

for (const [what, request, status, code, path] of BAD) {
  test(`${what} is answered ${status} ${code}`, async () => {
    const before = started.store.calls.length;
    const response = await send(request);
    const body: { error?: unknown; message?: unknown; path?: unknown } = response.json();
    assert.equal(response.statusCode, status, response.body);
    assert.equal(body.error, code, response.body);
    assert.equal(typeof body.message, 'string');
    if (path !== undefined) assert.equal(body.path, path, response.body);
    assert.equal(response.headers['content-type'], 'application/json; charset=utf-8');
    const reached = started.store.calls.slice(before).map((call) => call.verb);
    const judgedByIngest = request.method === 'POST' && code !== 'unsupported_media_type';
    if (!judgedByIngest) assert.deepEqual(reached, [], 'bad input must not reach the store');
  });
}

test('ids arrive as they were meant, whatever characters they hold', async () => {
  const ids = ['a', 'a/b', 'a%b', '%2F', 'a?b#c', 'ü€🦙', 'a b', ';x=1', '__proto__', 'x'.repeat(256), '€'.repeat(85)];
  for (const id of ids) {
    const response = await send(get(encodeURIComponent(id)));
    assert.equal(response.statusCode, 200, id);
    assert.equal(started.store.calls.at(-1)?.id, id);
  }
});

const WINDOW = { budgetTokens: null, full: false, ifVersion: null, atVersion: null };

test('queries arrive typed, with defaults, and limit clamped', async () => {
  const cases: [string, unknown, string][] = [
    ['c/tail', { offset: 0, limit: 100 }, 'linearizable'],
    ['c/tail?offset=007&limit=5000&consistency=stale', { offset: 7, limit: 1000 }, 'stale'],
    ['c/messages', { fromSeq: 1, toSeq: null, afterVersion: null, limit: 100 }, 'linearizable'],
    ['c/messages?from_seq=2&to_seq=9&after_version=0&limit=3', { fromSeq: 2, toSeq: 9, afterVersion: 0, limit: 3 }, 'linearizable'],
    ['', { limit: 100, cursor: null, prefix: '', status: null }, 'linearizable'],
    ['?limit=2000&cursor=abc&prefix=a%2F%C3%BC&status=tombstoned&consistency=stale', { limit: 1000, cursor: 'abc', prefix: 'a/ü', status: 'tombstoned' }, 'stale'],
    ['c/context', { ...WINDOW, provider: null, ifNoneMatch: null }, 'linearizable'],
    ['c/context?budget_tokens=5&if_version=0&full=true&consistency=linearizable', { ...WINDOW, budgetTokens: 5, ifVersion: 0, full: true, provider: null, ifNoneMatch: null }, 'linearizable'],
    ['c/context?for=ai-sdk&at_version=7&consistency=stale', { ...WINDOW, atVersion: 7, provider: 'ai-sdk', ifNoneMatch: null }, 'stale'],
    ['c/context?explain=true', { ...WINDOW, fromSeq: 1, limit: 100 }, 'linearizable'],
    ['c/context?explain=true&from_seq=5&limit=5000&at_version=0&budget_tokens=9', { ...WINDOW, budgetTokens: 9, atVersion: 0, fromSeq: 5, limit: 1000 }, 'linearizable'],
    ['c/compactions', { fromVersion: 0, limit: 100 }, 'linearizable'],
    ['c/compactions?cursor=12&limit=2&consistency=stale', { fromVersion: 12, limit: 2 }, 'stale'],
  ];
  for (const [path, query, consistency] of cases) {
    assert.equal((await send(path.startsWith('c/') ? get(path) : list(path))).statusCode, 200, path);
    const call = started.store.calls.at(-1);
    assert.ok(call !== undefined && 'query' in call, path);
    assert.deepEqual(call.query, query, path);
    assert.equal(call.consistency, consistency, path);
  }
});

test('a body reaches the store as the bytes that were sent', async () => {
  const body = Buffer.from('{ "message" : {"role":"user","parts":[{"type":"text","text":"\\u0000\\ud800 é🦙"}],"metadata":{"n":12345678901234567890}} }');
  assert.equal((await send(append(body, { 'content-type': 'Application/JSON; Charset="UTF-8"' }))).statusCode, 201);
  const call = started.store.calls.at(-1);
  assert.ok(call?.verb === 'append');
  assert.deepEqual(call.body, body);
  assert.equal(call.idempotencyKey, null);
  await send(append(body, { 'idempotency-key': '!~' }));
  const keyed = started.store.calls.at(-1);
  assert.equal(keyed?.verb === 'append' && keyed.idempotencyKey, '!~');
});

test('a key named __proto__ in metadata is data, neither dropped nor dangerous', async () => {
  assert.equal((await send({ method: 'PATCH', url: `${C}/metadata`, body: '{"metadata":{"__proto__":{"admin":true},"constructor":1}}' })).statusCode, 200);
  const call = started.store.calls.at(-1);
  assert.ok(call?.verb === 'patch');
  assert.deepEqual(Object.keys(call.patch), ['__proto__', 'constructor']);
  assert.equal(Object.getPrototypeOf(call.patch), Object.prototype);
  assert.equal('admin' in {}, false);
});
