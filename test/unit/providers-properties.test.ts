/** Whatever was stored, under any policy, budget and compaction: every provider would take what the window renders to. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { modelMessageSchema } from 'ai';
import { MemoryRows, append, message, policy, put, textOf } from './contexts-fixture.ts';
import type { Part } from './contexts-fixture.ts';
import { anyHistory, properTurn } from './providers-histories.ts';
import { assertAiSdk, assertAnthropic, assertOpenAI, requestOf } from './providers-rules.ts';
import { rowParts } from '../../src/contexts/rows.ts';
import { PROVIDERS, membersOf, renderFor } from '../../src/providers/rendering.ts';
import type { Provider } from '../../src/providers/rendering.ts';
import type { WindowElement } from '../../src/providers/arrange.ts';
import type { Rendering } from '../../src/providers/conversation.ts';

const RULES = { openai: assertOpenAI, anthropic: assertAnthropic, 'ai-sdk': assertAiSdk };

function assertValid(elements: readonly WindowElement[]): void {
  for (const provider of PROVIDERS) {
    const rendering = renderFor(provider, elements);
    const request = requestOf(rendering);
    try {
      RULES[provider](request);
      if (provider === 'ai-sdk') for (const one of request.messages) modelMessageSchema.parse(one);
    } catch (error) {
      throw new Error(`for=${provider}: ${String(error)}\n${JSON.stringify(request, null, 1)}`, { cause: error });
    }
    assert.doesNotThrow(() => JSON.parse(`{${membersOf(rendering)}}`));
  }
}

describe('windows of generated conversations', () => {
  it('are valid requests for every provider, at every budget', () => {
    fc.assert(
      fc.property(anyHistory, fc.nat(400), (history, budget) => {
        const rows = new MemoryRows();
        for (const command of history) {
          rows.run(command);
          assertValid(rows.window(null, true).elements);
          assertValid(rows.window(budget).elements);
        }
      }),
      { numRuns: 150 },
    );
  });

  it('hold everything that was said or called in what the window shows', () => {
    fc.assert(
      fc.property(anyHistory, fc.nat(400), (history, budget) => {
        const rows = new MemoryRows();
        for (const command of history) rows.run(command);
        for (const { elements } of [rows.window(null, true), rows.window(budget)]) {
          const marks = elements.flatMap(({ row, kept }) =>
            rowParts(row)
              .filter((_, index) => kept === null || kept.includes(index))
              .flatMap(({ start, end }) => textOf(row.bytes, row.partsStart + start, row.partsStart + end).match(/\bm\d+\b/g) ?? []),
          );
          for (const provider of PROVIDERS) {
            const shown = new Set(membersOf(renderFor(provider, elements)).match(/\bm\d+\b/g));
            assert.deepEqual(marks.filter((mark) => !shown.has(mark)), [], provider);
          }
        }
      }),
      { numRuns: 100 },
    );
  });

  it('render to the same bytes every time', () => {
    fc.assert(
      fc.property(anyHistory, (history) => {
        const [one, other] = [new MemoryRows(), new MemoryRows()];
        for (const command of history) for (const rows of [one, other]) rows.run(structuredClone(command));
        for (const provider of PROVIDERS) assert.deepEqual(renderFor(provider, one.window().elements), renderFor(provider, other.window().elements));
      }),
      { numRuns: 30 },
    );
  });

  it('keep what was rendered before when whole turns are appended', () => {
    fc.assert(
      fc.property(anyHistory, fc.array(properTurn, { maxLength: 3 }), (history, turns) => {
        const rows = new MemoryRows();
        for (const command of history) rows.run(command);
        rows.run(put({ tokenBudget: 1_000_000, policy: policy({ strategy: 'manual' }) }));
        // A user's word ends whatever was open, so that from here on nothing earlier may change.
        rows.run(append([message('user', [{ type: 'text', text: 'go on' }])]));
        for (const turn of turns) {
          const before = PROVIDERS.map((provider) => renderFor(provider, rows.window().elements));
          for (const one of turn) rows.run(append([one]));
          for (const [i, provider] of PROVIDERS.entries()) assertKept(provider, before[i] ?? assert.fail(), renderFor(provider, rows.window().elements));
        }
      }),
      { numRuns: 100 },
    );
  });
});

/** The same bytes, but that Anthropic's last message may have grown at its end. */
function assertKept(provider: Provider, before: Rendering, after: Rendering): void {
  assert.equal(after.system, before.system);
  const last = before.messages.length - 1;
  assert.deepEqual(after.messages.slice(0, last), before.messages.slice(0, last));
  const [was, is] = [before.messages[last] ?? '', after.messages[last] ?? ''];
  if (provider === 'anthropic') assert.ok(is.startsWith(was.slice(0, -']}'.length)));
  else assert.equal(is, was);
}

const file = process.env['FASTPACA_CONVERSATIONS'] ?? '';

describe('windows of real conversations', { skip: !existsSync(file) && 'FASTPACA_CONVERSATIONS names no file' }, () => {
  for (const strategy of ['last_n', 'skip_parts', 'manual'] as const) {
    it(`${strategy}: valid after every message, whole and within a budget`, () => {
      for (const line of readFileSync(file, 'utf8').trim().split('\n')) {
        const conversation: { messages: { role: string; parts: Part[] }[] } = JSON.parse(line);
        const rows = new MemoryRows();
        rows.run(put({ tokenBudget: 2500, policy: policy({ strategy, limit: 40, skipKinds: ['tool', 'reasoning'] }) }));
        for (const { role, parts } of conversation.messages) {
          rows.run(append([message(role, parts, { each: 100 })]));
          assertValid(rows.window(null, true).elements);
          assertValid(rows.window(600).elements);
        }
      }
    });
  }
});
