/** The calls that change the cluster's shape, over HTTP: what is passed on, and what is refused before. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { ApiError } from '../../src/errors.ts';
import { startApp } from './http-double.ts';

let app: FastifyInstance;
let calls: unknown[][] = [];
let refusal: ApiError | null = null;

beforeEach(async () => {
  calls = [];
  refusal = null;
  const took = (...call: unknown[]): Promise<void> => {
    calls.push(call);
    return refusal === null ? Promise.resolve() : Promise.reject(refusal);
  };
  const cluster = {
    describe: async () => ({}),
    drain: (node: string, drain: boolean) => took('drain', node, drain),
    remove: (node: string) => took('remove', node),
    transfer: (group: number, to: string) => took('transfer', group, to),
  };
  ({ app } = await startApp({}, { cluster }));
});
afterEach(() => app.close());

test('nodes are drained, taken back and removed by name, groups handed over by number', async () => {
  const drained = await app.inject({ method: 'POST', url: '/v1/cluster/nodes/node%2F4/drain' });
  assert.deepEqual([drained.statusCode, drained.json()], [202, { node: 'node/4', state: 'draining' }]);
  assert.equal((await app.inject({ method: 'DELETE', url: '/v1/cluster/nodes/node-4/drain' })).statusCode, 200);
  assert.equal((await app.inject({ method: 'DELETE', url: '/v1/cluster/nodes/node-4' })).statusCode, 200);
  const handed = await app.inject({ method: 'POST', url: '/v1/cluster/groups/7/transfer', payload: { to: 'node-2' } });
  assert.deepEqual([handed.statusCode, handed.json()], [202, { group: 7, to: 'node-2' }]);
  assert.deepEqual(calls, [['drain', 'node/4', true], ['drain', 'node-4', false], ['remove', 'node-4'], ['transfer', 7, 'node-2']]);
});

test('what the cluster refuses is told as it said it', async () => {
  refusal = new ApiError('would_lose_quorum', 'Without it 2 nodes are left.', { active_nodes: 2 });
  const answer = await app.inject({ method: 'DELETE', url: '/v1/cluster/nodes/node-1' });
  assert.deepEqual([answer.statusCode, answer.json()], [409, { error: 'would_lose_quorum', message: 'Without it 2 nodes are left.', active_nodes: 2 }]);
});

test('a transfer needs a number and a name', async () => {
  const cases: [string, string, string][] = [
    ['x', '{"to":"a"}', 'invalid_request'], ['-1', '{"to":"a"}', 'invalid_request'], ['1', '{}', 'invalid_request'], ['1', '{"to":7}', 'invalid_request'],
    ['1', '{"to":"a","now":true}', 'invalid_request'], ['1', '{"to":', 'invalid_json'], ['1', 'null', 'invalid_request'],
  ];
  for (const [group, payload, code] of cases) {
    const answer = await app.inject({ method: 'POST', url: `/v1/cluster/groups/${group}/transfer`, payload, headers: { 'content-type': 'application/json' } });
    assert.deepEqual([answer.statusCode, answer.json().error], [400, code], `${group} ${payload}`);
  }
  assert.deepEqual(calls, []);
});
