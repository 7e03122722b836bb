import assert from 'node:assert/strict';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { Tiktoken, getEncodingNameForModel } from 'js-tiktoken/lite';
import type { TiktokenBPE } from 'js-tiktoken/lite';
import cl100k from 'js-tiktoken/ranks/cl100k_base';
import gpt2 from 'js-tiktoken/ranks/gpt2';
import o200k from 'js-tiktoken/ranks/o200k_base';
import p50kEdit from 'js-tiktoken/ranks/p50k_edit';
import { Encoding, SLICE_BYTES } from '../../src/contexts/tokens.ts';
import { BYTE_BIAS, HASH_FACTOR, RankTable, buildRankTable } from '../../src/contexts/tokens-table.ts';
import { CountingError, TokenCounter } from '../../src/tokens/counter.ts';
import { encodingOf, isKnownModel, KNOWN_MODELS } from '../../src/tokens/models.ts';

interface Pair {
  readonly name: string;
  readonly ours: Encoding;
  readonly reference: (text: string) => number;
}

function pair(name: string, ranks: TiktokenBPE, cacheEntries: number): Pair {
  const reference = new Tiktoken(ranks);
  return {
    name,
    ours: new Encoding(ranks.pat_str, buildRankTable(ranks.bpe_ranks, (bytes) => new ArrayBuffer(bytes)), cacheEntries),
    reference: (text) => reference.encode(text, [], []).length,
  };
}

const O200K = pair('o200k_base', o200k, 64);
const PAIRS: readonly Pair[] = [O200K, pair('cl100k_base', cl100k, 64), pair('gpt2', gpt2, 1), pair('p50k_edit', p50kEdit, 4096)];

/** A small generator with a fixed seed: the same texts in every run. */
function seeded(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const TEXTS: readonly string[] = [
  '', ' ', '\n', 'a', 'Hello, world!', "I'm sure they'LL've done it, won't they?", 'HTTPServer parseJSON CamelCase snake_case SCREAMING_CASE',
  'The 12345678 quick 3.14159 brown 1e-9 foxes', '   leading\n\n\n  and \t trailing   \r\n ', '<|endoftext|> and <|fim_prefix|> are plain text here',
  '日本語のテキストと한국어 텍스트와 中文文本。', 'Привет, мир! Γειά σου Κόσμε', 'שלום עולם مرحبا بالعالم नमस्ते दुनिया', '👩‍👩‍👧‍👦🇩🇪👍🏽 emoji — “quotes” … ½ ² ①',
  'e\u0301 o\u0308 combining', '\u0000\u0001\u007f\u0080\u00ff', 'lone \ud800 surrogates \udfff\ud83d', 'function f(x) {\n\treturn x ** 2; // square\n}\n',
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  '{"type":"tool_call","toolCallId":"call_1","input":{"a":[1,2,{"b":null}]}}', `${'ab'.repeat(60)} ${'='.repeat(200)}\n${'-'.repeat(97)}`,
];

test('counts equal the reference on texts of every kind, in every encoding, cold and cached', () => {
  for (const { name, ours, reference } of PAIRS) {
    for (const round of ['cold', 'cached']) for (const text of TEXTS) assert.equal(ours.count(text), reference(text), `${name} ${round}: ${text.slice(0, 60)}`);
  }
});

test('counts equal the reference on arbitrary strings', () => {
  const unit = fc.oneof(fc.constantFrom(...'aAbeEtz09 \n\r\t\'"/._-<|>sS', "'s", "'Re", 'ing', ' the', '中', 'é', '\u0301', 'ǅ', 'ʰ', '٣', '\u00a0', '\u2028', '😀', '\ud800', '\udc00'), fc.string({ unit: 'binary', maxLength: 3 }));
  for (const { name, ours, reference } of PAIRS) {
    fc.assert(fc.property(fc.array(unit, { maxLength: 60 }), (units) => assert.equal(ours.count(units.join('')), reference(units.join('')), name)), { numRuns: 400 });
  }
});

test('long pieces without a break are exact up to the slice, through the scan and through the heap', () => {
  const pick = seeded(7);
  const letters = (length: number): string => Array.from({ length }, () => String.fromCharCode(97 + pick(26))).join('');
  for (const length of [95, 96, 97, 98, 300, 1500]) {
    for (const text of [letters(length), 'a'.repeat(length), 'ab'.repeat(length / 2), '='.repeat(length), ' '.repeat(length)]) {
      assert.equal(O200K.ours.count(text), O200K.reference(text), `${length} of ${text.slice(0, 8)}`);
    }
  }
  const ideographs = Array.from({ length: 500 }, () => String.fromCharCode(0x4e00 + pick(3000))).join('');
  assert.equal(O200K.ours.count(ideographs), O200K.reference(ideographs));
});

test('pieces above the slice are the sum of their slices, cut between characters', () => {
  const slice = 'xq'.repeat(SLICE_BYTES / 2);
  const one = O200K.ours.count(slice);
  assert.equal(O200K.ours.count(slice + slice + 'xq'), 2 * one + O200K.ours.count('xq'));
  // 3-byte characters do not divide the slice: 5461 of them fit.
  const wide = '中'.repeat(Math.floor(SLICE_BYTES / 3));
  assert.equal(O200K.ours.count(wide + wide), 2 * O200K.ours.count(wide));
});

test('texts of many megabytes neither fail nor change at the cuts between words', () => {
  const words = 'some words in a row '.repeat(200_000);
  const one = O200K.ours.count('some words in a row ');
  // The last space stands alone; all others belong to the word behind them.
  assert.equal(O200K.ours.count(words), 200_000 * (one - 1) + 1);
  assert.ok(O200K.ours.count('中'.repeat(8 << 20)) > 0);
  assert.equal(O200K.ours.count('😀'.repeat((1 << 20) + 1)), O200K.ours.count('😀'.repeat(1 << 19)) * 2 + O200K.ours.count('😀'));
});

test('a sequence that shares a hash with a token is not taken for it', () => {
  const table = buildRankTable(o200k.bpe_ranks, (bytes) => new ArrayBuffer(bytes));
  const pick = seeded(3);
  const bytes = new Uint8Array(8);
  // Bytes that UTF-8 never uses, so no such token exists; among so many, some share length and hash with one.
  for (let round = 0; round < 1_500_000; round++) {
    const length = 4 + pick(5);
    let hash = 0;
    for (let i = 0; i < length; i++) {
      bytes[i] = 0xf8 + pick(8);
      hash = (Math.imul(hash, HASH_FACTOR) + (bytes[i] ?? 0) + BYTE_BIAS) | 0;
    }
    if (table.rank(bytes, 0, length, hash) !== -1) assert.fail(`found ${bytes.slice(0, length).join()}`);
  }
});

test('a table from another thread reads the same, and anything else is refused', () => {
  const built = buildRankTable(gpt2.bpe_ranks, (bytes) => new SharedArrayBuffer(bytes));
  const again = new Encoding(gpt2.pat_str, new RankTable(built.buffer), 16);
  assert.equal(again.count('Hello, world!'), 4);
  assert.throws(() => new RankTable(new ArrayBuffer(64)));
  assert.throws(() => buildRankTable('IQ== Ig==', (bytes) => new ArrayBuffer(bytes)));
});

test('every model of the reference maps to its encoding; others to the fallback', () => {
  const models = [
    'gpt2', 'davinci', 'text-davinci-003', 'code-davinci-edit-001', 'babbage-002', 'davinci-002', 'gpt-4', 'gpt-4-0314', 'gpt-4-32k', 'gpt-4-turbo', 'gpt-4-vision-preview',
    'gpt-3.5-turbo', 'gpt-3.5-turbo-instruct', 'gpt-35-turbo', 'text-embedding-3-large', 'gpt-4o', 'gpt-4o-mini', 'gpt-4.1', 'gpt-4.1-nano', 'gpt-4.5-preview', 'gpt-5', 'gpt-5-mini', 'o1', 'o3-mini',
  ] as const;
  for (const model of models) assert.equal(encodingOf(model), getEncodingNameForModel(model), model);
  for (const model of models) assert.ok(isKnownModel(model), model);
  assert.equal(encodingOf('some-model-of-2031'), 'o200k_base');
  assert.equal(encodingOf('ft:gpt-3.5-turbo-0125:org::id'), 'cl100k_base');
  assert.equal(encodingOf('r50k_base'), 'r50k_base');
});

test('the counter answers at once when ready, by promise for long texts and other encodings', async (t) => {
  const counter = await TokenCounter.open({ defaultModel: 'gpt-4o' });
  t.after(() => counter.close());
  const early = counter.count('', ['Hello, world!']);
  assert.ok(early instanceof Promise);
  assert.deepEqual(await early, [4]);
  await counter.load();
  assert.deepEqual(counter.count('', ['Hello, world!', '']), [4, 0]);
  const words = 'one two three '.repeat(5000);
  const late = counter.count('gpt-4o', [words, 'Hello']);
  assert.ok(late instanceof Promise);
  assert.deepEqual(await late, [O200K.reference(words), 1]);
  assert.deepEqual(await counter.count('gpt2', ['日本語']), [PAIRS[2]?.reference('日本語')]);
  assert.ok(Array.isArray(counter.count('gpt2', ['日本語'])));
});

test('megabytes of one character, several at once, do not hold the event loop', async (t) => {
  const counter = await TokenCounter.open({ defaultModel: 'gpt-4o' });
  t.after(() => counter.close());
  await counter.load();
  const delay = monitorEventLoopDelay({ resolution: 5 });
  const texts = ['a', ' ', '中', '='].map((unit) => unit.repeat(1 << 20));
  delay.enable();
  const counts = await Promise.all(texts.map((text) => counter.count('', [text])));
  delay.disable();
  for (const [count] of counts) assert.ok(count !== undefined && count > 1000);
  // The loop's own work here is handing over a few strings; counting them took the worker far longer.
  assert.ok(delay.max / 1e6 < 200, `${delay.max / 1e6} ms`);
});

test('text waiting for the worker is bounded, and what is above is refused at once', async (t) => {
  const counter = await TokenCounter.open({ defaultModel: 'gpt-4o' });
  t.after(() => counter.close());
  await counter.load();
  const chunk = 'word '.repeat((4 << 20) / 5);
  const all = Array.from({ length: 17 }, () => counter.count('', [chunk]));
  const last = all.at(-1);
  await assert.rejects(async () => last, (error) => error instanceof CountingError && error.reason === 'overloaded');
  const waiting = Promise.allSettled(all);
  await counter.close();
  assert.equal((await waiting).filter((one) => one.status === 'rejected').length, 17);
});

test('a closed counter rejects what waits and what comes', async () => {
  const counter = await TokenCounter.open({ defaultModel: 'gpt-4o' });
  const waiting = assert.rejects(async () => counter.count('', ['x']), CountingError);
  await counter.close();
  await waiting;
  await assert.rejects(async () => counter.count('', ['x']), CountingError);
});

test('every model that the reference lists is known by a name or a family; what is only like one is not', () => {
  const source = readFileSync(new URL('../../node_modules/js-tiktoken/dist/lite.cjs', import.meta.url), 'utf8');
  const listed = [...source.matchAll(/case "([^"]+)"/g)].map((match) => match[1] ?? '');
  assert.ok(listed.length > 90, String(listed.length));
  for (const model of listed) assert.ok(isKnownModel(model) && isKnownModel(`ft:${model}:org::id`), model);
  for (const name of KNOWN_MODELS) assert.ok(isKnownModel(name.replace('…', '2026')), name);
  for (const other of ['', 'claude-x', 'gpt-4-', 'gpt-4x1', 'xgpt-4', 'gpt-4 ', 'gpt-4\n', 'gpt-4o-é', 'ft:', 'ft:claude-x', 'ft:ft:gpt-4', 'gpt-4:o', 'o2']) assert.ok(!isKnownModel(other), other);
});
