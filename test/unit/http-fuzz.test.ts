/** Whatever is sent, the answer is a documented one: never a 5xx, never anything but the one shape of errors. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ERROR_STATUS } from '../../src/errors.ts';
import { QUERY_PARAMETERS } from '../../src/http/input.ts';
import { startApp } from './http-double.ts';

const RUNS = Number(process.env['FUZZ_RUNS'] ?? 800);

const id = fc.oneof(
  fc.constantFrom('c', 'a%2Fb', '%00', '%ff', '%', '%e2%82', '__proto__', '%25', '%2e%2e', 'x'.repeat(300)),
  fc.string().map((text) => encodeURIComponent(text.toWellFormed())),
  fc.stringMatching(/^[A-Za-z0-9%_~.-]{0,20}$/),
);
const oddPath = fc.oneof(
  fc.constantFrom('/health/ready', '/metrics', '/openapi.json', '/v1/cluster', '/v1/contexts', '/v1', '/'),
  fc.tuple(id, fc.constantFrom('', '/messages', '/tail', '/context', '/compact', '/compact/claim', '/compactions', '/metadata', '/usage')).map(([name, verb]) => `/v1/contexts/${name}${verb}`),
);
const target = fc.oneof(
  fc.constantFrom(
    ...['PUT ', 'GET ', 'DELETE ', 'POST /messages', 'GET /messages', 'GET /tail', 'GET /context', 'POST /compact', 'POST /compact/claim', 'GET /compactions', 'POST /usage', 'PATCH /metadata'].map((call) => {
      const [method = '', verb = ''] = call.split(' ');
      return { method, path: `/v1/contexts/c${verb}` };
    }),
  ),
  fc.record({ method: fc.constantFrom('GET', 'PUT', 'POST', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS'), path: oddPath }),
);
const queryValue = fc.oneof(fc.constantFrom('1', '0', '-1', 'true', 'false', 'stale', '1e9', '%00', '99999999999999999999'), fc.stringMatching(/^[A-Za-z0-9%._-]{0,8}$/));
const query = fc.array(fc.tuple(fc.oneof(fc.constantFrom(...Object.keys(QUERY_PARAMETERS), 'purge', '__proto__'), fc.stringMatching(/^[a-z_%]{0,8}$/)), queryValue), { maxLength: 2, size: '-1' });

const tricky = fc.oneof(
  fc.constantFrom<unknown>(null, '', 0, -1, 1.5, 1e308, true, [], {}, 'user', '\ud800', '\u0000', 9007199254740993),
  fc.jsonValue({ maxDepth: 1 }),
);
const field = fc.constantFrom(
  'message', 'messages', 'if_version', 'replacement', 'keep_from_seq', 'claim', 'token_budget', 'trigger_ratio', 'policy', 'metadata', 'model', 'ttl_seconds', 'version', 'input_tokens', '__proto__',
);
const message = fc.dictionary(fc.constantFrom('role', 'parts', 'metadata', 'token_count', 'id', 'seq', 'x'), fc.oneof(tricky, fc.array(fc.dictionary(fc.constantFrom('type', 'text', 'x'), tricky))));
const policy = fc.record({
  strategy: fc.oneof(tricky, fc.constantFrom('last_n', 'skip_parts', 'manual')),
  config: fc.oneof(tricky, fc.dictionary(fc.constantFrom('limit', 'skip_kinds', 'target_ratio', 'pin', 'x'), tricky)),
});
const structured = fc.dictionary(field, fc.oneof(tricky, message, fc.array(message), policy)).map((value) => Buffer.from(JSON.stringify(value)));
const body = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom('{}', '{"message":{"role":"user","parts":[]}}', '{"replacement":[]}', '{"metadata":{}}').map((text) => Buffer.from(text)) },
  { weight: 4, arbitrary: structured },
  { weight: 2, arbitrary: fc.tuple(structured, fc.nat(), fc.nat({ max: 255 })).map(([bytes, at, byte]) => flip(bytes, at, byte)) },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)) },
  { weight: 1, arbitrary: fc.nat({ max: 300 }).map((depth) => Buffer.from(`${'{"a":['.repeat(depth)}${']}'.repeat(depth)}`)) },
);
const headers = fc.record(
  {
    'content-type': fc.oneof(
      { weight: 4, arbitrary: fc.constantFrom('application/json', 'application/json; charset=utf-8') },
      fc.constantFrom('application/json;charset=x', 'text/plain', ';', 'a/b;c'),
    ),
    'idempotency-key': fc.oneof(fc.constant('key'), fc.stringMatching(/^[ -~]{0,20}$/)),
    'if-none-match': fc.stringMatching(/^[ -~]{0,20}$/),
    'content-encoding': fc.constantFrom('gzip', 'identity', 'identity', 'identity'),
  },
  { requiredKeys: [] },
);

function flip(bytes: Buffer, at: number, byte: number): Buffer {
  const copy = Buffer.from(bytes);
  if (copy.length > 0) copy[at % copy.length] = byte;
  return copy;
}

test('no request, however odd, is answered outside the contract', async (t) => {
  const { app, logger } = await startApp();
  t.after(() => app.close());
  const statuses = new Map<number, number>();
  await fc.assert(
    fc.asyncProperty(target, query, headers, fc.option(body), async ({ method, path }, parameters, given, payload) => {
      const url = `${path}${parameters.length === 0 ? '' : '?'}${parameters.map(([name, value]) => `${name}=${value}`).join('&')}`;
      const likely = payload !== null && given['content-type'] === undefined ? { 'content-type': 'application/json' } : {};
      const response = await app.inject({ method: httpMethod(method), url, headers: { ...likely, ...given }, ...(payload === null ? {} : { payload }) });
      statuses.set(response.statusCode, (statuses.get(response.statusCode) ?? 0) + 1);
      assert.ok(response.statusCode < 500, `${method} ${url} ${response.body}`);
      if (response.statusCode < 400 || method === 'HEAD') return;
      const answer: { error?: unknown; message?: unknown } = response.json();
      const expected = Object.entries(ERROR_STATUS).find(([code]) => code === answer.error)?.[1];
      assert.equal(response.statusCode, expected, response.body);
      assert.equal(typeof answer.message, 'string');
    }),
    { numRuns: RUNS },
  );
  assert.deepEqual(logger.lines, []);
  for (const status of [200, 201, 204, 400, 404, 415]) assert.ok((statuses.get(status) ?? 0) > 0, `the fuzz never met ${status}: ${JSON.stringify([...statuses])}`);
});

function httpMethod(method: string): 'GET' | 'PUT' | 'POST' | 'PATCH' | 'DELETE' | 'HEAD' | 'OPTIONS' {
  switch (method) {
    case 'PUT':
    case 'POST':
    case 'PATCH':
    case 'DELETE':
    case 'HEAD':
    case 'OPTIONS':
      return method;
    default:
      return 'GET';
  }
}
