/**
 * A long run of the rules that test/unit/providers-properties.test.ts holds for a few seconds:
 *
 *   node test/property/providers.ts [--windows 1000000] [--seed N]
 *
 * Prints what it did; a failure prints the smallest history that shows it and the seed that repeats it. Exit code 0
 * only if every rendering was valid.
 */
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { MemoryRows } from '../unit/contexts-fixture.ts';
import { anyHistory } from '../unit/providers-histories.ts';
import { assertAiSdk, assertAnthropic, assertOpenAI, requestOf } from '../unit/providers-rules.ts';
import { PROVIDERS, renderFor } from '../../src/providers/rendering.ts';

const RULES = { openai: assertOpenAI, anthropic: assertAnthropic, 'ai-sdk': assertAiSdk };
const BATCH = 200;

const { values } = parseArgs({ options: { windows: { type: 'string', default: '1000000' }, seed: { type: 'string' } } });
const wanted = Number(values.windows);
let seed = values.seed === undefined ? Date.now() % 0x7fffffff : Number(values.seed);
const began = performance.now();
let windows = 0;
let overBudget = 0;

while (windows < wanted) {
  fc.assert(
    fc.property(anyHistory, fc.nat(400), (history, budget) => {
      const rows = new MemoryRows();
      for (const command of history) {
        rows.run(command);
        for (const view of [rows.window(null, true), rows.window(budget)]) {
          if (view.overBudget) overBudget += 1;
          else if (view.usedTokens > Math.max(budget, view.tokenBudget)) throw new Error(`${view.usedTokens} tokens and not flagged over_budget`);
          for (const provider of PROVIDERS) RULES[provider](requestOf(renderFor(provider, view.elements)));
          windows += PROVIDERS.length;
        }
      }
    }),
    { numRuns: BATCH, seed },
  );
  seed += 1;
}
console.log(`${windows} windows valid (${overBudget} projections flagged over_budget) in ${Math.round((performance.now() - began) / 1000)} s; next seed ${seed}`);
