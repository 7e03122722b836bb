/**
 * Counts of our own against js-tiktoken's, on generated texts of every kind, in every encoding:
 *
 *   node test/property/tokens.ts [--cases 100000] [--seconds 60] [--seed N]
 *
 * Stops at whichever of the two comes first. A text that counts otherwise is shortened while it still does, and printed
 * with the seed that repeats it. Exit code 0 only if all counts were equal.
 */
import { parseArgs } from 'node:util';
import { Tiktoken } from 'js-tiktoken/lite';
import type { TiktokenBPE } from 'js-tiktoken/lite';
import cl100k from 'js-tiktoken/ranks/cl100k_base';
import gpt2 from 'js-tiktoken/ranks/gpt2';
import o200k from 'js-tiktoken/ranks/o200k_base';
import p50kEdit from 'js-tiktoken/ranks/p50k_edit';
import { Encoding } from '../../src/contexts/tokens.ts';
import { buildRankTable } from '../../src/contexts/tokens-table.ts';
import { TEXT_KINDS, mixedText, seeded, textOf } from './texts.ts';

interface Pair {
  readonly name: string;
  readonly ours: Encoding;
  readonly reference: (text: string) => number;
}

/** r50k_base is gpt2, and p50k_base is p50k_edit, as far as plain text goes. A small cache, so that it turns over. */
const PAIRS: readonly Pair[] = Object.entries<TiktokenBPE>({ o200k_base: o200k, cl100k_base: cl100k, p50k_edit: p50kEdit, gpt2 }).map(([name, ranks]) => {
  const reference = new Tiktoken(ranks);
  return {
    name,
    ours: new Encoding(ranks.pat_str, buildRankTable(ranks.bpe_ranks, (bytes) => new ArrayBuffer(bytes)), 500),
    reference: (text) => reference.encode(text, [], []).length,
  };
});

const { values } = parseArgs({ options: { cases: { type: 'string', default: '100000' }, seconds: { type: 'string', default: '60' }, seed: { type: 'string' } } });
const cases = Number(values.cases);
const first = values.seed === undefined ? Date.now() % 0x7fffffff : Number(values.seed);
const began = performance.now();
const ends = began + Number(values.seconds) * 1000;

let done = 0;
let units = 0;
let seed = first;
for (; done < cases && performance.now() < ends; done++, seed++) {
  const text = generate(seed);
  units += text.length;
  for (const pair of PAIRS) {
    if (pair.ours.count(text) === pair.reference(text)) continue;
    const shortest = shortened(text, pair);
    console.error(`${pair.name}: ${pair.ours.count(shortest)} tokens, js-tiktoken says ${pair.reference(shortest)}: ${JSON.stringify(shortest)}`);
    console.error(`repeat it: node test/property/tokens.ts --cases 1 --seed ${seed}`);
    process.exit(1);
  }
}
const seconds = (performance.now() - began) / 1000;
console.log(`${done} texts (${(units / 1e6).toFixed(1)} M units) count as js-tiktoken counts them in ${PAIRS.map(({ name }) => name).join(', ')}; ${seconds.toFixed(0)} s; seeds ${first} to ${seed - 1}`);

/** Mostly short mixed texts, where most boundaries are; some long ones of one kind. */
function generate(from: number): string {
  const pick = seeded(from);
  if (pick(4) > 0) return mixedText(pick, 40);
  if (pick(8) > 0) return mixedText(pick, 400);
  return textOf(TEXT_KINDS[pick(TEXT_KINDS.length)] ?? 'english', pick, 4000);
}

/** A shorter text that still counts otherwise: pieces are taken out, ever smaller ones, as long as it does. */
function shortened(text: string, { ours, reference }: Pair): string {
  let shortest = text;
  for (let piece = Math.ceil(text.length / 2); piece >= 1; piece = piece === 1 ? 0 : Math.ceil(piece / 2)) {
    for (let at = 0; at < shortest.length; ) {
      const without = shortest.slice(0, at) + shortest.slice(at + piece);
      if (ours.count(without) !== reference(without)) shortest = without;
      else at += piece;
    }
  }
  return shortest;
}
