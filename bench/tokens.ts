/**
 * Counting tokens: this server's counter against js-tiktoken's own `encode`, which it replaces, in one run.
 *
 *   npm run bench:tokens -- [FILE] [--seconds 2]
 *
 * Counts the texts of a JSONL file of conversations (what an append counts: text, and other parts as JSON; any other
 * file line by line), then seeded texts of every kind. Both counters take turns on the same texts, and their counts must
 * be equal: a difference ends the run. The cache of pieces is as large as the server's. It has seen the texts in an
 * earlier round, which flatters it; with an empty one each text is new. A server lies between the two. Prints markdown tables. Exit code 0 only if counts are equal and the file is counted at least 10 times as fast.
 */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { Tiktoken } from 'js-tiktoken/lite';
import o200k from 'js-tiktoken/ranks/o200k_base';
import { Encoding } from '../src/contexts/tokens.ts';
import { buildRankTable } from '../src/contexts/tokens-table.ts';
import { estimate } from '../src/ingest/estimate.ts';
import { parseAppend } from '../src/ingest/messages.ts';
import { readConversations } from '../scripts/replay-file.ts';
import { TEXT_KINDS, seeded, textOf } from '../test/property/texts.ts';

/** As the server's main thread has it. */
const CACHE_ENTRIES = 32_768;
/** A message's length, and so many of a kind. */
const KIND_UNITS = 2000;
const KIND_TEXTS = 100;
const COLD_ROUNDS = 3;
const RATIO_MIN = 10;

interface Speed {
  readonly tokens: number;
  readonly megabytes: number;
  /** MB of UTF-8 a second; `cold`: with a cache that has seen nothing yet. */
  readonly cold: number;
  readonly ours: number;
  readonly theirs: number;
}

const { values, positionals } = parseArgs({ allowPositionals: true, options: { seconds: { type: 'string', default: '2' } } });
const file = positionals[0] ?? 'samples/conversations.jsonl';
const secondsEach = Number(values.seconds);

const reference = new Tiktoken(o200k);
const theirs = (text: string): number => reference.encode(text, [], []).length;
const table = buildRankTable(o200k.bpe_ranks, (bytes) => new ArrayBuffer(bytes));

/** Texts as an append counts them. */
async function textsOf(path: string): Promise<string[]> {
  if (!path.endsWith('.jsonl')) return (await readFile(path, 'utf8')).split('\n');
  const texts: string[] = [];
  const counter = { count: (_model: string, more: readonly string[]): number[] => more.map((text) => (texts.push(text), 0)) };
  for (const { messages } of await readConversations(path)) {
    for (const { body } of messages) await estimate(parseAppend(body, { messageBytesMax: body.length, depthMax: 1000 }).messages, counter, '');
  }
  return texts;
}

/** Counts all texts once; answers the milliseconds and puts the counts into `counts`. */
function round(count: (text: string) => number, texts: readonly string[], counts: number[]): number {
  const began = performance.now();
  for (let i = 0; i < texts.length; i++) counts[i] = count(texts[i] ?? '');
  return performance.now() - began;
}

/** Both counters in turns, ours as often as it takes to fill the same time. The best round of each counts. */
function measure(name: string, texts: readonly string[]): Speed {
  const encoding = new Encoding(o200k.pat_str, table, CACHE_ENTRIES);
  const ours = (text: string): number => encoding.count(text);
  const megabytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0) / 1e6;
  const counts: number[] = [];
  const expected: number[] = [];
  let best = Number.POSITIVE_INFINITY;
  let bestTheirs = Number.POSITIVE_INFINITY;
  const ends = performance.now() + secondsEach * 1000;
  do {
    const took = round(theirs, texts, expected);
    bestTheirs = Math.min(bestTheirs, took);
    for (let spent = 0; spent < took; ) {
      const one = round(ours, texts, counts);
      best = Math.min(best, one);
      spent += one;
    }
    const differs = counts.findIndex((count, i) => count !== expected[i]);
    if (differs !== -1) throw new Error(`${name}: ${counts[differs]} tokens, js-tiktoken says ${expected[differs]}: ${JSON.stringify(texts[differs])}`);
  } while (performance.now() < ends);
  let cold = Number.POSITIVE_INFINITY;
  for (let i = 0; i < COLD_ROUNDS; i++) {
    const fresh = new Encoding(o200k.pat_str, table, CACHE_ENTRIES);
    cold = Math.min(cold, round((text) => fresh.count(text), texts, counts));
  }
  const speed = (milliseconds: number): number => (megabytes * 1000) / milliseconds;
  return { tokens: counts.reduce((sum, count) => sum + count, 0), megabytes, cold: speed(cold), ours: speed(best), theirs: speed(bestTheirs) };
}

const row = (name: string, { tokens, megabytes, cold, ours, theirs: slow }: Speed): string =>
  `| ${name} | ${megabytes.toFixed(2)} MB | ${tokens.toLocaleString('en')} | ${slow.toFixed(1)} | ${cold.toFixed(1)} | ${ours.toFixed(1)} | ${(ours / slow).toFixed(1)} |`;
const HEAD = '| Text | size | tokens, equal | js-tiktoken MB/s | ours, empty cache | ours MB/s | ratio |\n|---|--:|--:|--:|--:|--:|--:|';

const whole = measure(file, await textsOf(file));
console.log(`${HEAD}\n${row('the file', whole)}`);
const pick = seeded(1);
for (const kind of TEXT_KINDS) {
  const texts = Array.from({ length: KIND_TEXTS }, () => textOf(kind, pick, KIND_UNITS));
  console.log(row(kind, measure(kind, texts)));
}
if (whole.ours < RATIO_MIN * whole.theirs) {
  console.error(`the file is counted ${(whole.ours / whole.theirs).toFixed(1)} times as fast as by js-tiktoken; at least ${RATIO_MIN} are wanted`);
  process.exitCode = 1;
}
