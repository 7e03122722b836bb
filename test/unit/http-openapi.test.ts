/** The OpenAPI document is well-formed, complete, and says what the code accepts. */
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import fastify from 'fastify';
import type { FastifyInstance } from 'fastify';
import fc from 'fast-check';
import { ApiError, ERROR_STATUS } from '../../src/errors.ts';
import { parseAppend } from '../../src/ingest/messages.ts';
import { COMPONENTS } from '../../src/http/components.ts';
import { parsePut } from '../../src/settings.ts';
import { startApp } from './http-double.ts';

interface Operation {
  operationId: string;
  summary: string;
  tags: string[];
  parameters?: { name: string; in: string; required: boolean; schema: unknown }[];
  requestBody?: { content: Record<string, { schema: unknown; examples?: Record<string, { value: unknown }>; example?: unknown }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: unknown }> }>;
}
interface Document {
  openapi: string;
  info: { title: string; version: string };
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, unknown>; securitySchemes: Record<string, { type: string }> };
  security: Record<string, string[]>[];
}

let document: Document;
let operations: { path: string; method: string; operation: Operation }[];

before(async () => {
  const { app } = await startApp();
  document = (await app.inject('/openapi.json')).json();
  await app.close();
  operations = Object.entries(document.paths).flatMap(([path, calls]) => Object.entries(calls).map(([method, operation]) => ({ path, method, operation })));
});

test('the document is OpenAPI 3 with every route and unique operation ids', () => {
  assert.match(document.openapi, /^3\.1\.\d$/);
  assert.ok(document.info.title !== '' && document.info.version !== '');
  assert.deepEqual(Object.entries(document.components.securitySchemes).map(([name, { type }]) => [name, type]), [['apiKey', 'http'], ['clientCertificate', 'mutualTLS']]);
  for (const name of Object.keys(document.components.securitySchemes)) assert.ok(document.security.some((way) => name in way), name);
  const ids = operations.map(({ operation }) => operation.operationId);
  assert.equal(new Set(ids).size, ids.length);
  assert.deepEqual([...ids].sort(), [
    'appendMessages', 'claimCompaction', 'compact', 'deleteContext', 'drainNode', 'getCluster', 'getContext', 'getMessages', 'getTail', 'getWindow',
    'listCompactions', 'listContexts', 'live', 'metrics', 'patchMetadata', 'ping', 'putContext', 'ready', 'removeNode', 'reportUsage',
    'transferGroup', 'undrainNode',
  ]);
});

test('every operation is described: summary, tag, path parameters, responses, errors in their one shape', () => {
  for (const { path, method, operation } of operations) {
    const name = `${method} ${path}`;
    assert.ok(operation.summary !== '' && operation.tags.length === 1, name);
    const inPath = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
    const declared = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path');
    assert.deepEqual(declared.map((parameter) => parameter.name), inPath, name);
    assert.ok(declared.every((parameter) => parameter.required), name);
    // To be drained needs no words.
    assert.equal(operation.requestBody !== undefined, ['put', 'post', 'patch'].includes(method) && operation.operationId !== 'drainNode', name);
    for (const [status, response] of Object.entries(operation.responses)) {
      assert.match(status, /^[2345]\d\d$/, name);
      assert.ok(response.description !== '', `${name} ${status}`);
      if (Number(status) < 400 || path === '/health/ready') continue;
      assert.deepEqual(response.content?.['application/json']?.schema, { $ref: '#/components/schemas/Error' }, `${name} ${status}`);
      for (const [, code = ''] of response.description.matchAll(/`(\w+)`/g)) {
        assert.equal(Object.entries(ERROR_STATUS).find(([known]) => known === code)?.[1], Number(status), `${name} ${code}`);
      }
    }
  }
});

test('every reference in the document resolves', () => {
  const text = JSON.stringify(document);
  const references = [...text.matchAll(/"\$ref":"([^"]+)"/g)].map((match) => match[1] ?? '');
  assert.ok(references.length > 20);
  for (const reference of references) {
    const name = /^#\/components\/schemas\/(\w+)$/.exec(reference)?.[1] ?? '';
    assert.ok(name in document.components.schemas, reference);
  }
  assert.ok(!text.includes('"$id"') && !text.includes('#"'), 'nothing of the way it was made is left');
});

/** Compiles a schema of the document's components with fastify's own validator, without coercion. */
async function validatorOf(schema: Record<string, unknown>): Promise<{ accepts: (value: unknown) => boolean; app: FastifyInstance }> {
  const app = fastify({ ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false } } });
  for (const component of COMPONENTS) app.addSchema(component);
  let accepts: ((value: unknown) => boolean) | undefined;
  app.get('/', async (request) => {
    const compiled = request.compileValidationSchema(schema);
    accepts = (value) => compiled(value);
    return 'ok';
  });
  await app.inject('/');
  assert.ok(accepts !== undefined);
  return { accepts, app };
}

/** Mostly a good value, so that one bad one decides. */
function mostly(good: readonly unknown[], bad: readonly unknown[]): fc.Arbitrary<unknown> {
  return fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...good) }, { weight: 1, arbitrary: fc.constantFrom(...bad) });
}

/** A record in which fields of `rare` seldom appear. */
function sparse(fields: Record<string, fc.Arbitrary<unknown>>, rare: Record<string, fc.Arbitrary<unknown>>): fc.Arbitrary<Record<string, unknown>> {
  const common = fc.record(fields, { requiredKeys: [] });
  return fc.oneof({ weight: 9, arbitrary: common }, { weight: 1, arbitrary: fc.tuple(common, fc.record(rare)).map(([a, b]) => ({ ...a, ...b })) });
}

function taken(work: () => unknown): boolean {
  try {
    work();
    return true;
  } catch (error) {
    assert.ok(error instanceof ApiError, String(error));
    return false;
  }
}

test('the schema of settings and the code that reads them accept the same bodies', async (t) => {
  const { accepts, app } = await validatorOf({ $ref: 'Settings#' });
  t.after(() => app.close());
  const config = sparse(
    { limit: mostly([1, 400, 10_000], [0, 10_001, 1.5, '5', null]), pin: mostly([true, false], [1, null]), target_ratio: mostly([0.2, 0.3], [0, 2, 'x', null]) },
    { skip_kinds: mostly([['tool'], ['a', 'b']], [[], [''], [5], 'tool', Array(33).fill('t')]), x: fc.constant(1) },
  );
  const policy = sparse({ config }, { x: fc.constant(1) }).chain((value) => mostly(['last_n', 'skip_parts', 'manual'], ['x', null, 5]).map((strategy) => ({ ...value, strategy })));
  const body = sparse(
    {
      token_budget: mostly([1, 8000, 1e8], [0, -1, 1.5, 1e9, '5', null]),
      trigger_ratio: mostly([0.3, 0.5, 1], [0, 1.1, 'x', null]),
      policy: fc.oneof({ weight: 9, arbitrary: policy }, fc.constantFrom<unknown>(null, {}, 'last_n')),
      metadata: mostly([{}, { a: { b: [1] } }], [[], null, 'x']),
      model: mostly(['gpt-4o', 'gpt-4.1-nano', 'o200k_base', 'ft:gpt-4o-mini:org::id'], ['claude-x', 'gpt-4-', 'gpt-4x1', 'ft:ada2', 'ft:', '', 'a b', 5, 'é', 'x'.repeat(129)]),
    },
    { x: fc.constant(1) },
  );
  let agreed = 0;
  fc.assert(
    fc.property(body, (value) => {
      const sent: unknown = JSON.parse(JSON.stringify(value));
      const bytes = Buffer.from(JSON.stringify(value));
      const byCode = taken(() => parsePut(bytes, { depthMax: 64 }));
      assert.equal(accepts(sent), byCode, JSON.stringify(value));
      if (byCode) agreed += 1;
    }),
    { numRuns: 2000 },
  );
  assert.ok(agreed > 200, `only ${agreed} bodies were acceptable at all`);
});

test('the schema of a message and the code that reads it accept the same bodies', async (t) => {
  const { accepts, app } = await validatorOf({ $ref: 'NewMessage#' });
  t.after(() => app.close());
  const part = mostly([{ type: 'text', text: 'x' }, { type: 'x', a: { b: [1] } }], [{}, { type: '' }, { type: 5 }, 5, null]);
  const message = sparse(
    {
      metadata: mostly([{}, { a: 1 }], [[], null, 5]),
      token_count: mostly([0, 5], [-1, 1.5, '5', null]),
      id: mostly(['m-1'], [5, null]),
      seq: mostly([1], ['x', null]),
      inserted_at: mostly(['x'], [5]),
    },
    { x: fc.constant(1) },
  ).chain((value) =>
    fc.tuple(mostly(['user', 'x'.repeat(64)], ['', 5, 'x'.repeat(65)]), fc.oneof({ weight: 9, arbitrary: fc.array(part, { maxLength: 2 }) }, fc.constantFrom<unknown>({}, 'x', null))).map(([role, parts]) => ({ ...value, role, parts })),
  );
  let agreed = 0;
  fc.assert(
    fc.property(message, (value) => {
      const sent: unknown = JSON.parse(JSON.stringify(value));
      const byCode = taken(() => parseAppend(Buffer.from(JSON.stringify({ message: value })), { messageBytesMax: 1 << 20, depthMax: 64 }));
      assert.equal(accepts(sent), byCode, JSON.stringify(value));
      if (byCode) agreed += 1;
    }),
    { numRuns: 1500 },
  );
  assert.ok(agreed > 200, `only ${agreed} messages were acceptable at all`);
});

test('every example in the document is accepted by the code it is an example for', () => {
  const bodies = operations.flatMap(({ operation }) => {
    const media = operation.requestBody?.content['application/json'];
    const values = [...Object.values(media?.examples ?? {}).map(({ value }) => value), ...(media?.example === undefined ? [] : [media.example])];
    return values.map((value) => ({ id: operation.operationId, body: Buffer.from(JSON.stringify(value)) }));
  });
  const appended = bodies.filter(({ id }) => id === 'appendMessages');
  assert.equal(appended.length, 2);
  for (const { body } of appended) parseAppend(body, { messageBytesMax: 1 << 20, depthMax: 64 });
  for (const { id, body } of bodies) if (id === 'putContext') parsePut(body, { depthMax: 64 });
  for (const id of ['appendMessages', 'compact', 'patchMetadata']) assert.ok(bodies.some((body) => body.id === id), `${id} has no example`);
});
