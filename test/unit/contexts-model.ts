/**
 * Generated conversations (reused ids, parallel calls, late results, orphans, system prefixes, changing policies,
 * compactions, calibrations), and a slow model to hold windows against: it knows the log as a list and pairs it from
 * scratch.
 */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { MemoryRows, append, call, compact, message, policy, put, reasoning, result, text } from './contexts-fixture.ts';
import type { Part } from './contexts-fixture.ts';
import { countedBudget } from '../../src/contexts/policies.ts';
import { explain } from '../../src/contexts/explain.ts';
import { projectView } from '../../src/contexts/project.ts';
import type { Projection } from '../../src/contexts/project.ts';
import { REPLACEMENT_SPAN } from '../../src/contexts/rows.ts';
import { windowAt, windowNow } from '../../src/contexts/travel.ts';
import { PartRole } from '../../src/contexts/types.ts';
import type { Command, NewMessage, WindowState } from '../../src/contexts/types.ts';
import { NOTHING_PENDING, RowSource, UnitSet, inWindow, readWindow, strip } from '../../src/contexts/units.ts';

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
export const anyMessage: fc.Arbitrary<NewMessage> = fc
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
export const commands: fc.Arbitrary<Command[]> = fc.tuple(
  fc.array(fc.nat(40), { maxLength: 3 }).map((tokens) => append([message('user', []), ...tokens.map((n) => message('system', [text()], { each: n }))].slice(tokens.length === 0 ? 0 : 1))),
  fc.array(
    fc.oneof(
      // So much in between that calls, answers and cuts lie far apart.
      { weight: 1, arbitrary: fc.integer({ min: 20, max: 90 }).map((count) => append(Array.from({ length: count }, () => message('user', [text()], { each: 3 })))) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant('usage'), context: fc.constant('c'), version: fc.nat(120), inputTokens: fc.integer({ min: 1, max: 900 }) }) },
      { weight: 12, arbitrary: fc.array(anyMessage, { minLength: 1, maxLength: 5 }).map((messages) => append(messages)) },
      { weight: 1, arbitrary: anyPut },
      { weight: 2, arbitrary: fc.tuple(fc.array(anyMessage, { maxLength: 3 }), fc.nat(30)).map(([r, keepFromSeq]) => compact(r, { keepFromSeq })) },
    ),
    { maxLength: 40, size: 'max' },
  ),
).map(([first, rest]) => [first, ...rest]);

/** The log and its pairs, found again from nothing. A place is a seq, or `version:position` in a replacement. */
export class Model {
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

/**
 * What an answer should be, the slow way: the whole window read, its units dropped one by one. Elements as text, and
 * the tokens counted.
 */
export function reference(rows: MemoryRows, budgetTokens: number | null): { shown: string; tokens: number } {
  const view = windowNow(rows, 'c') ?? assert.fail();
  const { window, lastSeq, leadingCount, settings } = view;
  const items = readWindow(new RowSource(rows, 'c', NOTHING_PENDING), window, lastSeq);
  strip(items, window.stripped, leadingCount);
  const units = new UnitSet(items, settings.policy.pin ? leadingCount : -1);
  const budget = countedBudget(budgetTokens ?? settings.tokenBudget, settings.calibration);
  units.dropUnpinned(budget, Number.MAX_SAFE_INTEGER);
  units.dropPinned(budget, Number.MAX_SAFE_INTEGER);
  const shown = items.filter((item) => units.keeps(item)).map((item) => `${item.place > 0 ? item.place : `r${-item.place % REPLACEMENT_SPAN}`}${item.kept === null ? '' : `[${item.kept.join(' ')}]`}`);
  return { shown: shown.join(','), tokens: units.tokens };
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

export function check(model: Model, rows: MemoryRows, budget: number, why: string): void {
  const whole = rows.window(null, true);
  const sum = (w: Projection): number => w.elements.reduce((total, e) => total + e.tokens, 0);
  const cost = (w: Projection): number => Math.ceil((sum(w) * w.calibration) / 1024);
  assert.equal(rows.head.window.tokens, sum(whole), `${why}: tokens of the header`);
  assert.equal(rows.head.window.count, whole.elements.length, `${why}: count of the header`);
  assert.equal(whole.truncated, false);
  assertPairsWhole(model, rows, whole, why);
  for (const budgetTokens of [null, budget]) {
    const answer = rows.window(budgetTokens);
    assert.equal(answer.usedTokens, cost(answer));
    assert.equal(answer.countedTokens, sum(answer));
    assert.equal(answer.missing, 0);
    assert.deepEqual({ shown: rows.shown(budgetTokens, false), tokens: answer.countedTokens }, reference(rows, budgetTokens), `${why} within ${budgetTokens}`);
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

export function replay(given: readonly Command[], budget: number): MemoryRows {
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
export function assertNotDue(rows: MemoryRows, why: string): void {
  const config = rows.config('c') ?? assert.fail();
  const { tokens, count } = rows.head.window;
  if (config.policy.strategy === 'manual') return;
  const { calibration } = rows.head;
  if ((tokens * calibration) / 1024 <= config.tokenBudget * config.triggerRatio && count <= config.policy.limit) return;
  // Nothing but the newest unit: asking for one token gives the same.
  assert.equal(rows.window(1).elements.length, count, why);
}

/** A window as it was answered, rows by their bytes. */
function answered(window: Projection): unknown {
  const { elements, version, ...rest } = window;
  return { ...rest, elements: elements.map(({ row, ...element }) => ({ ...element, row: row.bytes })) };
}

interface Lived {
  readonly answers: unknown[];
  readonly window: WindowState;
  readonly lastSeq: number;
  /** Shown by the stored window, with what is kept of it. */
  readonly shown: ReadonlyMap<number, readonly number[] | null>;
}

/** Runs the commands, keeps what was live at each version, and holds time travel and explanations against it. */
export function checkHistory(given: readonly Command[], budget: number): MemoryRows {
  const rows = new MemoryRows();
  const lived = new Map<number, Lived>();
  const queries = [
    { budgetTokens: null, full: false },
    { budgetTokens: budget, full: false },
    { budgetTokens: null, full: true },
  ];
  for (const command of [put({ tokenBudget: 300, policy: policy({ limit: 12 }) }), ...given]) {
    rows.run(command);
    const { version, window, lastSeq } = rows.head;
    const shown = new Map(rows.window(null, true).elements.filter((e) => e.source === 'message').map((e) => [e.seq, e.kept]));
    const answers = queries.map(({ budgetTokens, full }) => answered(rows.window(budgetTokens, full)));
    lived.set(version, { answers, window, lastSeq, shown });
  }
  for (const [version, then] of lived) {
    const view = windowAt(rows, 'c', version);
    assert.ok(view !== null && !('code' in view), `version ${version} is told`);
    assert.deepEqual({ ...view.window }, { ...then.window }, `the stored window at ${version}`);
    for (const [i, query] of queries.entries()) assert.deepEqual(answered(projectView(rows, 'c', view, query)), then.answers[i], `version ${version}, query ${i}`);
  }
  for (const version of [...lived.keys()].slice(-3)) checkExplained(rows, lived, { version, budget });
  return rows;
}

function checkExplained(rows: MemoryRows, lived: ReadonlyMap<number, Lived>, at: { version: number; budget: number }): void {
  const view = windowAt(rows, 'c', at.version);
  assert.ok(view !== null && !('code' in view));
  const query = { budgetTokens: at.budget, full: false };
  const shown = new Map(projectView(rows, 'c', view, query).elements.map((e) => [e.seq, e]));
  const told = explain(rows, 'c', view, { ...query, fromSeq: 1, limit: 10_000 });
  assert.equal(told.messages.length, view.lastSeq);
  const versions = [...lived.keys()].filter((version) => version <= at.version);
  for (const m of told.messages) {
    const why = `message ${m.seq} at ${at.version}: ${m.state} ${m.rule}@${m.atVersion}`;
    const element = shown.get(m.seq);
    assert.equal(m.state === 'in' || m.state === 'stripped', element !== undefined, why);
    assert.equal(m.tokensShown, element?.tokens ?? 0, why);
    assert.equal(m.state === 'stripped', element !== undefined && element.kept !== null, why);
    if (m.state === 'in' || m.rule === 'budget') continue;
    const known = versions.filter((version) => (lived.get(version)?.lastSeq ?? 0) >= m.seq);
    const gone = known.find((version) => {
      const then = lived.get(version);
      return then !== undefined && (m.rule === 'skip_parts' ? then.shown.get(m.seq) !== null : !inWindow(then.window, m.seq));
    });
    assert.ok(gone !== undefined, why);
    assert.ok(m.atVersion <= gone, `${why}, but it was gone at ${gone}`);
    const before = Math.max(-1, ...versions.filter((version) => version < gone));
    if (m.rule !== 'skip_parts') assert.ok(m.atVersion > before, `${why}, but it was there at ${before}`);
  }
  const { sum, stored, leftOut, replacement, pinned, rest } = told.arithmetic;
  assert.deepEqual([stored.tokens - leftOut.tokens, stored.messages - leftOut.messages], [sum.tokens, sum.messages]);
  assert.deepEqual([replacement.tokens + pinned.tokens + rest.tokens, replacement.messages + pinned.messages + rest.messages], [sum.tokens, sum.messages]);
}
