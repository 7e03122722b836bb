import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApiError, ERROR_STATUS } from '../../src/errors.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { ETAG, startApp } from './http-double.ts';

const JSON_BODY = { 'content-type': 'application/json' };
const ONE = '{"message":{"role":"user","parts":[]}}';
const APPEND = { method: 'POST', url: '/v1/contexts/c/messages', headers: JSON_BODY, payload: ONE } as const;

test('every call answers its documented status and the bytes of the store', async (t) => {
  const { app, store } = await startApp();
  t.after(() => app.close());
  const cases = [
    [{ method: 'PUT', url: '/v1/contexts/c', headers: JSON_BODY, payload: '{}' }, 201],
    [{ method: 'PUT', url: '/v1/contexts/c', headers: JSON_BODY, payload: '{}' }, 200],
    [{ method: 'PUT', url: '/v1/contexts/c' }, 200],
    [APPEND, 201],
    [{ method: 'GET', url: '/v1/contexts/c' }, 200],
    [{ method: 'GET', url: '/v1/contexts/c/tail' }, 200],
    [{ method: 'GET', url: '/v1/contexts/c/messages' }, 200],
    [{ method: 'GET', url: '/v1/contexts/c/context' }, 200],
    [{ method: 'POST', url: '/v1/contexts/c/compact', headers: JSON_BODY, payload: '{"replacement":[]}' }, 200],
    [{ method: 'GET', url: '/v1/contexts/c/context?explain=true' }, 200],
    [{ method: 'GET', url: '/v1/contexts/c/compactions' }, 200],
    [{ method: 'POST', url: '/v1/contexts/c/compact/claim', headers: JSON_BODY, payload: '{"ttl_seconds":60}' }, 200],
    [{ method: 'POST', url: '/v1/contexts/c/usage', headers: JSON_BODY, payload: '{"version":1,"input_tokens":5}' }, 200],
    [{ method: 'PATCH', url: '/v1/contexts/c/metadata', headers: JSON_BODY, payload: '{"metadata":{}}' }, 200],
  ] as const;
  for (const [request, status] of cases) {
    const response = await app.inject({ ...request });
    assert.equal(response.statusCode, status, `${request.method} ${request.url} ${response.body}`);
    assert.equal(response.body, '{"ok":true}');
    assert.equal(response.headers['content-type'], 'application/json; charset=utf-8');
    assert.equal(response.headers['content-length'], '11');
  }
  const gone = await app.inject({ method: 'DELETE', url: '/v1/contexts/c' });
  assert.deepEqual([gone.statusCode, gone.body, store.calls.at(-1)?.verb], [204, '', 'remove']);
  const cluster = await app.inject('/v1/cluster');
  assert.deepEqual([cluster.statusCode, cluster.json()], [200, { cluster_id: 'c', coordinator: null, nodes: [], groups: [], moves: [], damaged: [], waiting: [] }]);
});

test('HEAD answers what GET would, without the body', async (t) => {
  const { app } = await startApp();
  t.after(() => app.close());
  for (const path of ['/v1/contexts/c', '/v1/contexts/c/tail', '/v1/contexts/c/context', '/health/ready', '/metrics', '/openapi.json']) {
    const head = await app.inject({ method: 'HEAD', url: path });
    assert.deepEqual([head.statusCode, head.body], [200, ''], path);
    const get = await app.inject({ method: 'GET', url: path });
    assert.equal(head.headers['content-type'], get.headers['content-type'], path);
  }
});

test('a replayed append says so, any other does not', async (t) => {
  const { app, store } = await startApp();
  t.after(() => app.close());
  assert.equal((await app.inject({ ...APPEND })).headers['idempotent-replayed'], undefined);
  store.replayed = true;
  assert.equal((await app.inject({ ...APPEND })).headers['idempotent-replayed'], 'true');
});

test('the window carries an ETag and answers 304 to the same one', async (t) => {
  const { app } = await startApp();
  t.after(() => app.close());
  const first = await app.inject('/v1/contexts/c/context');
  assert.deepEqual([first.statusCode, first.headers.etag], [200, ETAG]);
  const again = await app.inject({ method: 'GET', url: '/v1/contexts/c/context', headers: { 'if-none-match': ETAG } });
  assert.deepEqual([again.statusCode, again.body, again.headers.etag], [304, '', ETAG]);
});

test('a stale read names the applied index, a linearizable one does not', async (t) => {
  const { app } = await startApp();
  t.after(() => app.close());
  for (const path of ['', '/tail', '/messages', '/context']) {
    assert.equal((await app.inject(`/v1/contexts/c${path}?consistency=stale`)).headers['x-applied-index'], '42');
    assert.equal((await app.inject(`/v1/contexts/c${path}`)).headers['x-applied-index'], undefined);
  }
});

test('every error of the catalogue keeps its status, code, message and fields', async (t) => {
  const { app, store, logger } = await startApp();
  t.after(() => app.close());
  for (const [code, status] of Object.entries(ERROR_STATUS)) {
    if (!isCode(code) || code === 'internal') continue;
    store.failure = new ApiError(code, `about ${code}`, { expected: 83, found: 84, outcome: 'unknown' });
    const response = await app.inject('/v1/contexts/c');
    assert.equal(response.statusCode, status, code);
    assert.deepEqual(response.json(), { error: code, message: `about ${code}`, expected: 83, found: 84, outcome: 'unknown' });
    assert.equal(response.headers['retry-after'], status === 429 || status === 503 ? '1' : undefined, code);
    assert.equal(response.headers['www-authenticate'], status === 401 ? 'Bearer' : undefined, code);
  }
  assert.deepEqual(logger.lines, [], 'answers meant for clients are not errors of the node');
});

test('an unexpected failure is logged with its stack and tells the client nothing of it', async (t) => {
  const { app, store, logger } = await startApp();
  t.after(() => app.close());
  store.failure = new TypeError('secret detail');
  for (const request of [{ method: 'GET', url: '/v1/contexts/c' } as const, APPEND]) {
    const response = await app.inject({ ...request });
    assert.equal(response.statusCode, 500);
    assert.equal(response.json<{ error: string }>().error, 'internal');
    assert.ok(!response.body.includes('secret detail'));
    const line = logger.lines.pop();
    assert.equal(line?.level, 'error');
    assert.equal(line?.fields['err'], store.failure);
  }
});

test('with API keys, everything under /v1 and nothing else wants one of them', async (t) => {
  const { app, store } = await startApp({ FASTPACA_API_KEY: 'new-key,old-key' });
  t.after(() => app.close());
  const status = async (url: string, authorization?: string): Promise<number> =>
    (await app.inject({ method: 'GET', url, headers: authorization === undefined ? {} : { authorization } })).statusCode;
  for (const key of ['new-key', 'old-key']) assert.equal(await status('/v1/contexts/c', `Bearer ${key}`), 200);
  for (const header of [undefined, '', 'Bearer', 'Bearer ', 'Bearer wrong', 'Bearer new-key,old-key', 'Basic new-key', 'new-key', 'Bearer new-key x']) {
    assert.equal(await status('/v1/contexts/c', header), 401, String(header));
    assert.equal(await status('/v1/cluster', header), 401, String(header));
  }
  assert.equal((await app.inject({ ...APPEND })).statusCode, 401);
  assert.equal(store.calls.length, 2);
  for (const path of ['/health/live', '/health/ready', '/health/ping', '/metrics', '/openapi.json']) assert.equal(await status(path), 200);
});

test('readiness says why not, and asks to be tried again', async (t) => {
  const { app, health } = await startApp();
  t.after(() => app.close());
  assert.deepEqual((await app.inject('/health/ready')).json(), { status: 'ready' });
  health.state = { ready: false, status: 'starting', reason: 'waiting for node-3' };
  const response = await app.inject('/health/ready?probe=1');
  assert.deepEqual([response.statusCode, response.json()], [503, { status: 'starting', reason: 'waiting for node-3' }]);
  assert.equal(response.headers['retry-after'], '1');
  assert.equal((await app.inject('/health/live')).statusCode, 200);
});

test('metrics: every documented name, bounded labels, and a token where one is set', async (t) => {
  const { app, metrics } = await startApp({ FASTPACA_METRICS_TOKEN: 'scrape' });
  t.after(() => app.close());
  assert.equal((await app.inject('/metrics')).statusCode, 401);
  metrics.messageAppended('user', 'single', 10);
  for (let i = 0; i < 100; i++) metrics.messageAppended(`role-${i}`, 'batch', 1);
  metrics.sampleFrom(() => ({
    raftGroups: 257, raftLeaders: 86, raftApplyLagEntries: 1, raftTermChangesTotal: 2, raftElectionsTotal: 3, raftProposalsTotal: 4,
    raftSnapshotsSentTotal: 5, raftSnapshotsInstalledTotal: 6, stateComparisonsTotal: 14, stateMismatchesTotal: 0, peersUp: 2, peerBytesSentTotal: 7, peerBytesReceivedTotal: 8,
    certificateExpiresAt: 0, streamsOpen: 9, streamsEvictedTotal: 10, levelZeroFiles: 11, storageBytes: 12, diskFreeBytes: 13,
  }));
  await app.inject('/nothing');
  const { statusCode, body, headers } = await app.inject({ method: 'GET', url: '/metrics', headers: { authorization: 'Bearer scrape' } });
  assert.equal(statusCode, 200);
  assert.match(String(headers['content-type']), /^text\/plain; version=0\.0\.4/);
  const names = [
    'messages_append_total', 'messages_token_count', 'archive_pending_rows', 'archive_pending_contexts', 'archive_flush_duration_ms',
    'archive_attempted_total', 'archive_inserted_total', 'archive_bytes_attempted_total', 'archive_bytes_inserted_total', 'archive_lag',
    'archive_tail_size', 'archive_json_refused_total', 'archive_trimmed_total', 'archive_llm_token_count', 'append_duration_ms', 'fsync_duration_ms', 'commit_duration_ms',
  ];
  for (const name of names) assert.match(body, new RegExp(`^# TYPE fastpaca_${name} `, 'm'), name);
  const appended = body.split('\n').filter((line) => line.startsWith('fastpaca_messages_append_total{'));
  assert.deepEqual(appended.sort(), ['fastpaca_messages_append_total{role="other",source="batch"} 100', 'fastpaca_messages_append_total{role="user",source="single"} 1']);
  assert.match(body, /^fastpaca_raft_leaders 86$/m);
  assert.match(body, /^fastpaca_raft_elections_total 3$/m);
  assert.match(body, /^fastpaca_http_requests_total\{status="404"\} 1$/m);
  const again = await app.inject({ method: 'GET', url: '/metrics', headers: { authorization: 'Bearer scrape' } });
  assert.match(again.body, /^fastpaca_raft_elections_total 3$/m, 'a scrape must not add up totals');
});

test('calls between nodes are mounted as they are given', async (t) => {
  const seen: unknown[] = [];
  const route = {
    method: 'POST',
    path: '/_peer/hello',
    handler: async (body: unknown, headers: Readonly<Record<string, string | string[] | undefined>>) => {
      seen.push(body, headers['authorization']);
      return { status: 202, body: { name: 'node-1' } };
    },
  };
  const { app } = await startApp({ FASTPACA_API_KEY: 'key' }, { peerRoutes: [route] });
  t.after(() => app.close());
  const response = await app.inject({ method: 'POST', url: '/_peer/hello', headers: { ...JSON_BODY, authorization: 'Bearer peer' }, payload: '{"a":1}' });
  assert.deepEqual([response.statusCode, response.json()], [202, { name: 'node-1' }]);
  assert.deepEqual(seen, [{ a: 1 }, 'Bearer peer']);
  assert.equal((await app.inject({ method: 'POST', url: '/_peer/hello', headers: JSON_BODY, payload: '{' })).statusCode, 400);
});

function isCode(code: string): code is ErrorCode {
  return code in ERROR_STATUS;
}
