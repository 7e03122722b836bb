/** The answers about windows over HTTP and a real store: they are what the document says, and the examples are taken. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import fastify from 'fastify';
import type { FastifyInstance } from 'fastify';
import { parseClaim, parseUsage } from '../../src/claims.ts';
import { COMPONENTS } from '../../src/http/components.ts';
import { OPERATIONS } from '../../src/http/schemas.ts';
import { startApp } from './http-double.ts';
import { Mesh } from './mesh.ts';

const LIMITS = { depthMax: 64 };

describe('windows over HTTP', () => {
  let mesh: Mesh;
  let app: FastifyInstance;
  let validators: FastifyInstance;
  let accepts: (schema: object, value: unknown) => boolean;
  before(async () => {
    mesh = await Mesh.start(1, { groups: Array.from({ length: 256 }, (_, group) => group) });
    ({ app } = await startApp({}, { store: mesh.node('node-1').store }));
    validators = fastify({ ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, allowUnionTypes: true } } });
    for (const component of COMPONENTS) validators.addSchema(component);
    validators.get('/', async (request) => {
      accepts = (schema, value) => request.compileValidationSchema(Object.fromEntries(Object.entries(schema)))(value);
      return 'ok';
    });
    await validators.inject('/');
  });
  after(async () => {
    await validators.close();
    await app.close();
    await mesh.close();
  });

  const ask = async (path: string, method: 'GET' | 'PUT' | 'POST' = 'GET', body?: object): Promise<{ status: number; json: Record<string, unknown> }> => {
    const response = await app.inject({ method, url: `/v1/contexts/${path}`, ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, payload: JSON.stringify(body) }) });
    return { status: response.statusCode, json: response.json() };
  };

  test('every answer is of the shape that the document gives it', async () => {
    const parts = [{ type: 'text', text: 'x'.repeat(200) }, { type: 'tool_call', toolCallId: 'a', toolName: 't', input: {} }];
    const message = { role: 'user', parts, token_count: 30 };
    assert.equal((await ask('c', 'PUT', { token_budget: 100, policy: { strategy: 'skip_parts', config: { limit: 3 } } })).status, 201);
    for (let i = 0; i < 6; i++) assert.equal((await ask('c/messages', 'POST', { message })).status, 201);
    const claimed = await ask('c/compact/claim', 'POST', { ttl_seconds: 5 });
    assert.equal((await ask('c/compact', 'POST', { replacement: [message], keep_from_seq: 6, claim: claimed.json['claim'] })).status, 200);
    const cases: [object, Record<string, unknown>][] = [
      [{ $ref: 'Window#' }, (await ask('c/context')).json],
      [{ $ref: 'ProviderWindow#' }, (await ask('c/context?for=openai')).json],
      [{ $ref: 'Explanation#' }, (await ask('c/context?explain=true')).json],
      [{ $ref: 'Explanation#' }, (await ask('c/context?explain=true&at_version=4&limit=2')).json],
      [successOf(OPERATIONS.listCompactions), (await ask('c/compactions')).json],
      [successOf(OPERATIONS.claimCompaction), claimed.json],
      [successOf(OPERATIONS.reportUsage), (await ask('c/usage', 'POST', { version: 7, input_tokens: 1000 })).json],
    ];
    for (const [schema, answer] of cases) {
      assert.ok(!('error' in answer) && accepts(schema, answer), `${JSON.stringify(schema)}: ${JSON.stringify(answer)}`);
      assert.ok(!accepts(schema, { ...answer, [Object.keys(answer)[0] ?? '']: {} }), 'and the schema refuses what is not');
    }
    const held = await ask('c/compact/claim', 'POST', { ttl_seconds: 5 });
    const refused = await ask('c/compact', 'POST', { replacement: [] });
    assert.deepEqual([refused.status, refused.json['expires_at']], [409, held.json['expires_at']]);
    assert.ok(accepts({ $ref: 'Error#' }, refused.json));
  });

  test('the examples of claims and usage reports are taken as they stand', () => {
    for (const example of examplesOf(OPERATIONS.claimCompaction)) assert.equal(parseClaim(example, LIMITS).token.length, 16);
    for (const example of examplesOf(OPERATIONS.reportUsage)) assert.deepEqual(parseUsage(example, LIMITS), { version: 83, inputTokens: 5120 });
  });

  test('two claims made here are two', () => {
    const [one, two] = [1, 2].map(() => parseClaim(Buffer.from('{"ttl_seconds":1}'), LIMITS).token);
    assert.notDeepEqual(one, two);
  });
});

function member(value: unknown, ...path: string[]): unknown {
  let at: unknown = value;
  for (const name of path) at = typeof at === 'object' && at !== null ? Object.entries(at).find(([key]) => key === name)?.[1] : undefined;
  return at;
}

function successOf(operation: object): object {
  const schema = member(operation, 'response', '200', 'content', 'application/json', 'schema');
  assert.ok(typeof schema === 'object' && schema !== null);
  return schema;
}

function examplesOf(operation: object): Buffer[] {
  const examples = member(operation, 'body', 'examples');
  assert.ok(Array.isArray(examples) && examples.length > 0);
  return examples.map((example) => Buffer.from(JSON.stringify(example)));
}
