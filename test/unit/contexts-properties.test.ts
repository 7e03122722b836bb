/**
 * Windows under generated conversations (reused ids, parallel calls, late results, orphans, system prefixes, changing
 * policies, compactions), held against a slow model that knows the log as a list and pairs it from scratch.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { MemoryRows, append, call, compact, message, policy, put, reasoning, result, text } from './contexts-fixture.ts';
import type { Part } from './contexts-fixture.ts';
import { classifyPart } from '../../src/contexts/pairs.ts';
import type { Projection } from '../../src/contexts/project.ts';
import { decodeMessageRow } from '../../src/contexts/rows.ts';
import { PartRole } from '../../src/contexts/types.ts';
import type { Command, NewMessage } from '../../src/contexts/types.ts';

const id = fc.constantFrom('a', 'b', 'c', 'd');
const layouts: ((id: string) => [Part, Part])[] = [
  (i) => [call(i), result(i)],
  (i) => [{ type: 'tool_use', id: i }, { type: 'tool_result', tool_use_id: i }],
  (i) => [{ type: 'function_call', call_id: i }, { type: 'function_call_output', call_id: i }],
  (i) => [{ type: 'tool-call', toolCallId: i }, { type: 'tool-error', toolCallId: i }],
];
const part: fc.Arbitrary<Part> = fc.oneof(
  { weight: 3, arbitrary: fc.constant(text()) },
  { weight: 1, arbitrary: fc.constant(reasoning) },
  { weight: 6, arbitrary: fc.tuple(id, fc.constantFrom(...layouts), fc.boolean()).map(([i, layout, first]) => layout(i)[first ? 0 : 1]) },
  { weight: 1, arbitrary: id.map((i): Part => ({ type: 'tool-x', toolCallId: i, output: 1 })) },
);
const anyMessage: fc.Arbitrary<NewMessage> = fc
  .record({
    role: fc.constantFrom('user', 'assistant', 'tool', 'system'),
    parts: fc.array(part, { maxLength: 3 }),
    each: fc.nat(30),
    given: fc.option(fc.nat(120), { nil: undefined, freq: 3 }),
  })
  .map(({ role, parts, each, given }) => message(role, parts, given === undefined ? { each } : { each, given }));
const anyPolicy = fc
  .record({
    strategy: fc.constantFrom('last_n', 'last_n', 'skip_parts', 'skip_parts', 'manual'),
    limit: fc.integer({ min: 1, max: 20 }),
    skipKinds: fc.constantFrom(['tool', 'reasoning'], ['tool'], ['tool_result'], ['text', 'function']),
    targetRatio: fc.constantFrom(0.2, 0.5, 0.7, 1),
    pin: fc.boolean(),
  })
  .map((change) => policy(change));
const anyPut = fc.record({ tokenBudget: fc.integer({ min: 1, max: 800 }), policy: anyPolicy, triggerRatio: fc.constantFrom(0.3, 0.7, 1) }).map((settings) => put(settings));
const commands: fc.Arbitrary<Command[]> = fc.tuple(
  fc.array(fc.nat(40), { maxLength: 3 }).map((tokens) => append([message('user', []), ...tokens.map((n) => message('system', [text()], { each: n }))].slice(tokens.length === 0 ? 0 : 1))),
  fc.array(
    fc.oneof(
      { weight: 12, arbitrary: fc.array(anyMessage, { minLength: 1, maxLength: 5 }).map((messages) => append(messages)) },
      { weight: 1, arbitrary: anyPut },
      { weight: 2, arbitrary: fc.tuple(fc.array(anyMessage, { maxLength: 3 }), fc.nat(30)).map(([r, keepFromSeq]) => compact(r, { keepFromSeq })) },
    ),
    { maxLength: 40, size: 'max' },
  ),
).map(([first, rest]) => [first, ...rest]);

/** The log and its pairs, found again from nothing. A place is a seq, or `version:position` in a replacement. */
class Model {
  readonly log: NewMessage[] = [];
  /** result part -> call part, as `place/part`. */
  readonly answers = new Map<string, string>();
  readonly #history: { id: string; at: string; answered: boolean; order: number }[] = [];
  #order = 0;

  take(command: Command, accepted: boolean, version: number): void {
    if (!accepted) return;
    if (command.type === 'append') for (const m of command.messages) this.#pair(m, String(this.log.push(m)), null);
    if (command.type === 'compact') {
      const from = this.#history.length;
      command.replacement.forEach((m, position) => this.#pair(m, `${version}:${position}`, from));
    }
  }

  #pair(m: NewMessage, place: string, from: number | null): void {
    m.parts.forEach((info, index) => {
      const at = `${place}/${index}`;
      if (info.role === PartRole.call) this.#history.push({ id: info.callId, at, answered: false, order: 0 });
      if (info.role !== PartRole.result) return;
      const calls = this.#history.slice(from ?? 0).filter((c) => c.id === info.callId);
      const nearest = calls.findLast((c) => !c.answered) ?? calls.toSorted((x, y) => x.order - y.order).findLast((c) => c.answered);
      if (nearest === undefined) return;
      nearest.answered = true;
      nearest.order = ++this.#order;
      this.answers.set(at, nearest.at);
    });
  }
}

/** Every part shown, as `place/part`. */
function shownParts(rows: MemoryRows, window: Projection): Set<string> {
  const version = rows.head.window.replacementVersion;
  const shown = new Set<string>();
  for (const element of window.elements) {
    const place = element.source === 'message' ? `${element.seq}` : `${version}:${element.position}`;
    const count = element.kept ?? Array.from({ length: 20 }, (_, i) => i);
    for (const index of count) shown.add(`${place}/${index}`);
  }
  return shown;
}

function assertPairsWhole(model: Model, rows: MemoryRows, window: Projection, why: string): void {
  const shown = shownParts(rows, window);
  const inLog = (at: string): boolean => !at.includes(':');
  for (const [answer, asked] of model.answers) {
    if (!inLog(answer) || !inLog(asked)) continue;
    assert.equal(shown.has(answer), shown.has(asked), `${why}: result ${answer} and call ${asked} belong together`);
  }
}

function check(model: Model, rows: MemoryRows, budget: number, why: string): void {
  const whole = rows.window(null, true);
  const sum = (w: Projection): number => w.elements.reduce((total, e) => total + e.tokens, 0);
  assert.equal(rows.head.window.tokens, sum(whole), `${why}: tokens of the header`);
  assert.equal(rows.head.window.count, whole.elements.length, `${why}: count of the header`);
  assert.equal(whole.truncated, false);
  assertPairsWhole(model, rows, whole, why);
  for (const budgetTokens of [null, budget]) {
    const answer = rows.window(budgetTokens);
    assert.equal(answer.usedTokens, sum(answer));
    assertPairsWhole(model, rows, answer, `${why} within ${budgetTokens}`);
    if (answer.usedTokens > (budgetTokens ?? answer.tokenBudget)) assert.ok(answer.overBudget, why);
    assert.equal(answer.truncated, answer.elements.length < whole.elements.length);
    assert.deepEqual(answer.elements.at(-1)?.seq, whole.elements.at(-1)?.seq, `${why}: the newest message is always there`);
    if (answer.overBudget) assertOneUnit(model, answer, `${why}: over budget with more than the newest unit`);
  }
}

/** Messages of the answer are all joined to the newest by calls and results. */
function assertOneUnit(model: Model, answer: Projection, why: string): void {
  const places = answer.elements.map((e) => (e.source === 'message' ? `${e.seq}` : 'r'));
  if (places.includes('r')) return;
  const joined = new Set([places.at(-1)]);
  for (let grown = true; grown; ) {
    const before = joined.size;
    for (const [a, b] of model.answers) {
      const [from, to] = [a.split('/')[0], b.split('/')[0]];
      if (joined.has(from)) joined.add(to);
      if (joined.has(to)) joined.add(from);
    }
    grown = joined.size > before;
  }
  for (const place of places) assert.ok(joined.has(place), why);
}

function replay(given: readonly Command[], budget: number): MemoryRows {
  const rows = new MemoryRows();
  const model = new Model();
  rows.run(put({ tokenBudget: 300, policy: policy({ limit: 12 }) }));
  given.forEach((command, index) => {
    const outcome = rows.run(command);
    model.take(command, outcome.reply.ok, rows.head.version);
    check(model, rows, budget, `after command ${index}`);
    if (command.type === 'append') assertNotDue(rows, `after command ${index}`);
  });
  return rows;
}

/** After an append the window is within its limits, or all that could go has gone. */
function assertNotDue(rows: MemoryRows, why: string): void {
  const config = rows.config('c') ?? assert.fail();
  const { tokens, count } = rows.head.window;
  if (config.policy.strategy === 'manual') return;
  if (tokens <= config.tokenBudget * config.triggerRatio && count <= config.policy.limit) return;
  // Nothing but the newest unit: asking for one token gives the same.
  assert.equal(rows.window(1).elements.length, count, why);
}

describe('windows of generated conversations', () => {
  it('sums are true, budgets hold, no pair is torn', () => {
    fc.assert(fc.property(commands, fc.nat(300), (given, budget) => void replay(given, budget)), { numRuns: 400 });
  });

  it('are the same bytes wherever the same commands are applied', () => {
    fc.assert(
      fc.property(commands, (given) => {
        const one = new MemoryRows();
        const other = new MemoryRows();
        for (const command of [put(), ...given]) {
          one.run(command);
          other.run(structuredClone(command));
        }
        assert.deepEqual(one.stored, other.stored);
      }),
      { numRuns: 100 },
    );
  });

  it('one batch or one by one: the same seqs, versions and pairs', () => {
    fc.assert(
      fc.property(fc.array(anyMessage, { minLength: 1, maxLength: 40, size: 'max' }), (messages) => {
        const batch = new MemoryRows();
        const single = new MemoryRows();
        for (const rows of [batch, single]) rows.run(put({ tokenBudget: 100_000 }));
        batch.run(append(messages));
        for (const m of messages) single.run(append([m]));
        assert.deepEqual(batch.stored, single.stored);
      }),
      { numRuns: 100 },
    );
  });

  it('last_n is what a list would do', () => {
    const plain = fc.record({ system: fc.nat(3), tokens: fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 60, size: 'max' }), limit: fc.integer({ min: 1, max: 15 }) });
    fc.assert(
      fc.property(plain, ({ system, tokens, limit }) => {
        const rows = new MemoryRows();
        rows.run(put({ tokenBudget: 400, policy: policy({ limit, pin: false }) }));
        let list: [number, number][] = [];
        tokens.forEach((n, index) => {
          rows.run(append([message(index < system ? 'system' : 'user', [text()], { each: n })]));
          list.push([index + 1, n]);
          const sum = (): number => list.reduce((total, [, t]) => total + t, 0);
          if (sum() <= 400 * 0.7 && list.length <= limit) return;
          while (list.length > 1 && (sum() > 200 || list.length > Math.max(1, Math.floor((limit * 0.5) / 0.7)))) list = list.slice(1);
        });
        assert.equal(rows.shown(), list.map(([seq]) => seq).join(','));
      }),
    );
  });
});

const file = process.env['FASTPACA_CONVERSATIONS'] ?? '';

describe('windows of real conversations', { skip: !existsSync(file) && 'FASTPACA_CONVERSATIONS names no file' }, () => {
  for (const strategy of ['last_n', 'skip_parts', 'manual'] as const) {
    it(`${strategy}: sums are true, budgets hold, no pair is torn, texts are verbatim`, () => {
      for (const line of readFileSync(file, 'utf8').trim().split('\n')) {
        const conversation: { messages: { role: string; parts: Part[] }[] } = JSON.parse(line);
        const rows = new MemoryRows();
        const model = new Model();
        rows.run(put({ tokenBudget: 2500, policy: policy({ strategy, limit: 40, skipKinds: ['tool', 'reasoning'] }) }));
        for (const { role, parts } of conversation.messages) {
          const one = message(role, parts);
          const tokens = Math.ceil(JSON.stringify(parts).length / 4);
          const weighed = { ...one, tokens, parts: one.parts.map((info) => ({ ...info, tokens: Math.ceil((info.end - info.start) / 4) })), tokensGiven: true };
          const command = append([weighed]);
          assert.equal(rows.run(command).reply.ok, true);
          model.take(command, true, rows.head.version);
          check(model, rows, 700, line.slice(0, 40));
          assertNotDue(rows, line.slice(0, 40));
          const row = decodeMessageRow(rows.get('message', 'c', model.log.length) ?? assert.fail()) ?? assert.fail();
          assert.deepEqual(row.bytes.slice(row.partsStart, row.partsEnd), weighed.partsText);
        }
        for (const info of parts(conversation)) assert.equal(typeof classifyPart(info).callId, 'string');
      }
    });
  }
});

function parts(conversation: { messages: { parts: Part[] }[] }): Part[] {
  return conversation.messages.flatMap((m) => m.parts);
}
