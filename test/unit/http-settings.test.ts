import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ApiError } from '../../src/errors.ts';
import type { PutSettings } from '../../src/http/ports.ts';
import { mergeSettings, METADATA_BYTES_MAX, parseMetadataPatch, parsePut, patchMetadataText } from '../../src/settings.ts';

const LIMITS = { depthMax: 64 };
const put = (value: unknown): PutSettings => parsePut(Buffer.from(JSON.stringify(value)), LIMITS);
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString('utf8');

function refusal(work: () => unknown): ApiError {
  try {
    work();
  } catch (error) {
    assert.ok(error instanceof ApiError, String(error));
    return error;
  }
  return assert.fail('accepted');
}

test('a new context gets the documented defaults', () => {
  const config = mergeSettings(null, put({}));
  assert.deepEqual(
    { ...config, metadataText: text(config.metadataText) },
    {
      tokenBudget: 8000,
      triggerRatio: 0.7,
      policy: { strategy: 'last_n', limit: 400, skipKinds: [], targetRatio: 0.5, pin: true },
      metadataText: '{}',
      model: '',
      ttlSeconds: 0,
    },
  );
  assert.deepEqual(parsePut(Buffer.alloc(0), LIMITS), {}, 'no body means no changes');
});

test('what an update leaves out stays as it is', () => {
  const before = mergeSettings(null, put({ token_budget: 100, trigger_ratio: 0.9, model: 'gpt-4', metadata: { a: 1 }, policy: { strategy: 'manual' } }));
  assert.deepEqual(mergeSettings(before, put({})), before);
  const after = mergeSettings(before, put({ token_budget: 7 }));
  assert.deepEqual(after, { ...before, tokenBudget: 7 });
});

test('a ttl lasts until it is set to null', () => {
  const before = mergeSettings(null, put({ ttl_seconds: 315_360_000 }));
  assert.equal(before.ttlSeconds, 315_360_000);
  assert.equal(mergeSettings(before, put({ token_budget: 7 })).ttlSeconds, 315_360_000);
  assert.equal(mergeSettings(before, put({ ttl_seconds: null })).ttlSeconds, 0);
});

test('a target_ratio that is not named follows trigger_ratio down, one that is named must fit', () => {
  assert.equal(put({ trigger_ratio: 0.3, policy: { strategy: 'last_n' } }).policy?.targetRatio, 0.3);
  assert.equal(mergeSettings(null, put({ trigger_ratio: 0.2 })).policy.targetRatio, 0.2);
  const low = mergeSettings(null, put({ trigger_ratio: 0.4 }));
  assert.equal(mergeSettings(low, put({ policy: { strategy: 'manual' } })).policy.targetRatio, 0.4);
  const refused = refusal(() => mergeSettings(low, put({ policy: { strategy: 'last_n', config: { target_ratio: 0.5 } } })));
  assert.deepEqual([refused.code, refused.fields['path']], ['invalid_request', 'policy.config.target_ratio']);
  const equal = mergeSettings(null, put({ trigger_ratio: 0.6, policy: { strategy: 'last_n', config: { target_ratio: 0.6 } } }));
  assert.equal(equal.policy.targetRatio, 0.6);
});

test('every policy is completed at the edge', () => {
  assert.deepEqual(put({ policy: { strategy: 'skip_parts', config: {} } }).policy, {
    strategy: 'skip_parts',
    limit: 400,
    skipKinds: ['tool', 'reasoning'],
    targetRatio: 0.5,
    pin: true,
  });
  const given = { limit: 10_000, skip_kinds: ['image'], target_ratio: 1, pin: false };
  assert.deepEqual(put({ policy: { strategy: 'skip_parts', config: given } }).policy, {
    strategy: 'skip_parts',
    limit: 10_000,
    skipKinds: ['image'],
    targetRatio: 1,
    pin: false,
  });
});

test('metadata of PUT is kept as the text that was sent, up to its limit', () => {
  const body = Buffer.from('{"metadata": {"b":1.50, "a":"\\ud800","2":0,"1":0} }');
  assert.equal(text(parsePut(body, LIMITS).metadataText ?? Buffer.alloc(0)), '{"b":1.50, "a":"\\ud800","2":0,"1":0}');
  const fits = (length: number): Buffer => Buffer.from(`{"metadata":{"a":"${'x'.repeat(length - 8)}"}}`);
  assert.equal(parsePut(fits(METADATA_BYTES_MAX), LIMITS).metadataText?.length, METADATA_BYTES_MAX);
  const refused = refusal(() => parsePut(fits(METADATA_BYTES_MAX + 1), LIMITS));
  assert.deepEqual([refused.code, refused.fields['path']], ['payload_too_large', 'metadata']);
});

test('a metadata patch follows RFC 7396, its examples included', () => {
  const cases: [string, string, string][] = [
    ['{"a":"b"}', '{"a":"c"}', '{"a":"c"}'],
    ['{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'],
    ['{"a":"b"}', '{"a":null}', '{}'],
    ['{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'],
    ['{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'],
    ['{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'],
    ['{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'],
    ['{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'],
    ['{"e":null}', '{"a":1}', '{"e":null,"a":1}'],
    ['{}', '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'],
    ['{"__proto__":{"x":1}}', '{"__proto__":{"y":2}}', '{"__proto__":{"x":1,"y":2}}'],
  ];
  for (const [target, patch, expected] of cases) {
    const parsed = parseMetadataPatch(Buffer.from(`{"metadata":${patch}}`), LIMITS);
    assert.equal(text(patchMetadataText(Buffer.from(target), parsed)), expected);
  }
  const large = parseMetadataPatch(Buffer.from(`{"metadata":{"a":"${'x'.repeat(METADATA_BYTES_MAX)}"}}`), LIMITS);
  assert.equal(refusal(() => patchMetadataText(Buffer.from('{}'), large)).code, 'payload_too_large');
});

test('any text at all is either taken or refused as an ApiError of status 4xx', () => {
  const taken = (work: () => unknown): void => {
    try {
      work();
    } catch (error) {
      assert.ok(error instanceof ApiError && error.status < 500, String(error));
    }
  };
  fc.assert(
    fc.property(fc.oneof(fc.json(), fc.string({ unit: 'binary' })), (body) => {
      taken(() => parsePut(Buffer.from(body), LIMITS));
      taken(() => parseMetadataPatch(Buffer.from(`{"metadata":${body}}`), LIMITS));
      taken(() => parsePut(Buffer.from(`{"policy":${body},"metadata":${body}}`), LIMITS));
    }),
    { numRuns: 2000 },
  );
});
