/** Windows of the past and their explanation: what was live at a version is what is told of it later. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { MemoryRows, TOMBSTONE, append, assistant, call, compact, message, policy, put, reasoning, system, text, tool, user } from './contexts-fixture.ts';
import { checkHistory, commands } from './contexts-model.ts';
import { listCuts } from '../../src/contexts/cuts.ts';
import { explain } from '../../src/contexts/explain.ts';
import type { Explanation } from '../../src/contexts/explain.ts';
import { projectAt } from '../../src/contexts/project.ts';
import { windowAt, windowNow } from '../../src/contexts/travel.ts';
import type { ContextConfig } from '../../src/contexts/types.ts';

function created(settings: Partial<ContextConfig> = {}): MemoryRows {
  const rows = new MemoryRows();
  assert.equal(rows.run(put(settings)).reply.ok, true);
  return rows;
}

function explained(rows: MemoryRows, budgetTokens: number | null = null, page: { fromSeq?: number; limit?: number } = {}): Explanation {
  const { fromSeq = 1, limit = 100 } = page;
  return explain(rows, 'c', windowNow(rows, 'c') ?? assert.fail(), { budgetTokens, full: false, fromSeq, limit });
}

/** seq:state:rule@version, as shown/counted. */
function lines(of: Explanation): string[] {
  return of.messages.map((m) => `${m.seq} ${m.state}${m.rule === null ? '' : ` ${m.rule}@${m.atVersion}`} ${m.tokensShown}/${m.tokensCounted}`);
}

describe('generated histories', () => {
  it('are told at every version as they were live, and explained so', () => {
    fc.assert(fc.property(commands, fc.nat(300), (given, budget) => void checkHistory(given, budget)), { numRuns: 300 });
  });
});

describe('at_version', () => {
  const at = (rows: MemoryRows, version: number) => {
    const told = projectAt(rows, 'c', version, { budgetTokens: null, full: true });
    assert.ok(told !== null && !('code' in told));
    return told;
  };
  const seqs = (rows: MemoryRows, version: number): string =>
    at(rows, version)
      .elements.map((e) => (e.source === 'message' ? `${e.seq}` : `r${e.position}`))
      .join(',');

  it('goes back over cuts and compactions, with the settings then in force', () => {
    const rows = created({ policy: policy({ limit: 4 }) });
    for (let i = 0; i < 6; i++) rows.run(append([user()]));
    rows.run(put({ tokenBudget: 500 }));
    rows.run(compact([user(3)], { keepFromSeq: 6 }));
    rows.run(append([user()]));
    rows.run(TOMBSTONE);
    assert.deepEqual([0, 1, 4, 5, 6, 7, 8, 9].map((version) => seqs(rows, version)), ['', '1', '1,2,3,4', '4,5', '4,5,6', 'r0,6', 'r0,6,7', 'r0,6,7']);
    assert.deepEqual([5, 6].map((version) => at(rows, version).tokenBudget), [8000, 500]);
    assert.deepEqual([5, 6].map((version) => at(rows, version).configRevision), [0, 1]);
    assert.deepEqual([at(rows, 7).stableSinceVersion, at(rows, 6).stableSinceVersion], [7, 5]);
  });

  it('inside one append tells what the messages before would have made', () => {
    const rows = created({ policy: policy({ limit: 4 }) });
    rows.run(append([user(), user(), user(), user(), user(), user()]));
    assert.deepEqual([3, 5, 6].map((version) => seqs(rows, version)), ['1,2,3', '1,2,3,4,5', '5,6']);
  });

  it('refuses versions that are not there, and those before the history of a context began', () => {
    const rows = created();
    rows.run(append([user()]));
    assert.deepEqual(windowAt(rows, 'c', 2), { code: 'version_not_kept', from: 0, version: 1 });
    assert.deepEqual(windowAt(rows, 'c', -1), { code: 'version_not_kept', from: 0, version: 1 });
    assert.deepEqual(windowAt(rows, 'c', 0.5), { code: 'version_not_kept', from: 0, version: 1 });
    assert.equal(windowAt(rows, 'none', 0), null);
  });

  it('costs a few reads, however long the log', () => {
    const rows = created({ policy: policy({ strategy: 'manual' }) });
    for (let i = 0; i < 20; i++) rows.run(append(Array.from({ length: 1000 }, () => user())));
    rows.reads.clear();
    assert.ok(windowAt(rows, 'c', 7_777));
    assert.ok((rows.reads.get('message') ?? 0) <= 1);
  });
});

describe('compactions', () => {
  it('are listed with what they took and left, in pages', () => {
    const rows = created({ policy: policy({ limit: 4 }) });
    for (let i = 0; i < 5; i++) rows.run(append([user()]));
    rows.run(compact([user(3)]));
    for (let i = 0; i < 5; i++) rows.run(append([user()]));
    const all = listCuts(rows, 'c', { fromVersion: 0, limit: 10 }) ?? assert.fail();
    assert.deepEqual(
      all.cuts.map((c) => [c.kind, c.version, c.fromSeq, c.toSeq, c.before.count, c.countAfter, c.before.tokens, c.tokensAfter]),
      [
        ['last_n', 5, 1, 3, 5, 2, 50, 20],
        ['compact', 6, 1, 5, 2, 1, 20, 3],
        ['last_n', 10, 6, 8, 5, 2, 43, 13],
      ],
    );
    const first = listCuts(rows, 'c', { fromVersion: 0, limit: 2 }) ?? assert.fail();
    assert.deepEqual([first.cuts.length, first.nextVersion], [2, 10]);
    assert.deepEqual(listCuts(rows, 'c', { fromVersion: 10, limit: 2 })?.cuts.map((c) => c.version), [10]);
    assert.equal(listCuts(rows, 'none', { fromVersion: 0, limit: 1 }), null);
  });
});

describe('explain', () => {
  it('names the rule and the version of everything that is not there', () => {
    const rows = created({ policy: policy({ limit: 7 }) });
    rows.run(append([system(), assistant(call('a')), user(), user()]));
    rows.run(append([user(), user(), user(), user()]));
    rows.run(append([tool('a')]));
    assert.deepEqual(lines(explained(rows)), [
      '1 in 10/10',
      '2 dropped last_n@8 0/10',
      '3 dropped last_n@8 0/10',
      '4 dropped last_n@8 0/10',
      '5 in 10/10',
      '6 in 10/10',
      '7 in 10/10',
      '8 in 10/10',
      '9 dropped late_result@9 0/10',
    ]);
    rows.run(compact([user(5)], { keepFromSeq: 8 }));
    assert.deepEqual(lines(explained(rows)).slice(4, 8), ['5 summarised compact@10 0/10', '6 summarised compact@10 0/10', '7 summarised compact@10 0/10', '8 in 10/10']);
    rows.run(compact([]));
    assert.equal(lines(explained(rows))[7], '8 dropped compact@11 0/10');
  });

  it('tells parts that were taken out, and messages that lost all', () => {
    const rows = created({ tokenBudget: 100, policy: policy({ strategy: 'skip_parts', skipKinds: ['tool', 'reasoning'], targetRatio: 0.7 }) });
    rows.run(append([message('assistant', [text(), reasoning, call('a')]), tool('a'), user(25), user(15)]));
    const told = explained(rows);
    assert.deepEqual(lines(told), ['1 stripped skip_parts@4 10/30', '2 dropped skip_parts@4 0/10', '3 in 25/25', '4 in 15/15']);
    assert.deepEqual(told.messages[0]?.partsTaken, [
      { index: 1, kind: 'reasoning', tokens: 10 },
      { index: 2, kind: 'tool_call', tokens: 10 },
    ]);
  });

  it('tells a result that came after skip_parts had hidden its call, also where the policy is manual now', () => {
    const rows = created({ tokenBudget: 100, policy: policy({ strategy: 'skip_parts', skipKinds: ['tool'], targetRatio: 0.7 }) });
    rows.run(append([user(5), assistant(call('a')), user(30), user(31)]));
    rows.run(put({ policy: policy({ strategy: 'manual' }) }));
    rows.run(append([tool('a')]));
    assert.deepEqual(lines(explained(rows)), ['1 in 5/5', '2 dropped skip_parts@4 0/10', '3 in 30/30', '4 in 31/31', '5 dropped skip_parts@5 0/10']);
    // It has left by name, so that it neither holds its call in the window nor comes back without it.
    rows.run(compact([user(1)], { keepFromSeq: 5 }));
    assert.equal(rows.shown(), 'r0');
  });

  it('tells a result that came after its call was taken out by its own version', () => {
    const rows = created({ tokenBudget: 100, policy: policy({ strategy: 'skip_parts', skipKinds: ['tool'], targetRatio: 0.7 }) });
    rows.run(append([user(5), assistant(call('a')), user(30), user(31)]));
    rows.run(append([message('tool', [{ type: 'tool_result', toolCallId: 'a' }, text()], { each: 1 })]));
    rows.run(append([user(60)]));
    const view = windowAt(rows, 'c', 5);
    assert.ok(view !== null && !('code' in view));
    assert.equal(lines(explain(rows, 'c', view, { budgetTokens: null, full: false, fromSeq: 5, limit: 1 }))[0], '5 stripped skip_parts@5 1/2');
  });

  it('does the sum: what is stored, what the budget left out, what is shown', () => {
    const rows = created({ tokenBudget: 1000, policy: policy({ strategy: 'manual' }) });
    rows.run(append([system(7), user(), user()]));
    rows.run(compact([user(5)], { keepFromSeq: 1 }));
    const told = explained(rows, 25);
    assert.deepEqual(lines(told), ['1 in 7/7', '2 dropped budget@4 0/10', '3 in 10/10']);
    assert.deepEqual(told.arithmetic, {
      tokenBudget: 1000,
      budget: 25,
      calibration: 1024,
      triggerTokens: 700,
      targetTokens: 500,
      stored: { messages: 4, tokens: 32 },
      leftOut: { messages: 1, tokens: 10 },
      replacement: { messages: 1, tokens: 5 },
      pinned: { messages: 1, tokens: 7 },
      rest: { messages: 1, tokens: 10 },
      sum: { messages: 3, tokens: 22 },
      used: 22,
    });
  });

  it('pages through the log', () => {
    const rows = created();
    rows.run(append([user(), user(), user()]));
    const page = explained(rows, null, { fromSeq: 2, limit: 1 });
    assert.deepEqual([page.messages.map((m) => m.seq), page.nextSeq], [[2], 3]);
    assert.deepEqual([explained(rows, null, { fromSeq: 3 }).nextSeq, explained(rows, null, { fromSeq: 9 }).messages.length], [null, 0]);
  });

  it('explains the past too', () => {
    const rows = created({ policy: policy({ limit: 4 }) });
    for (let i = 0; i < 9; i++) rows.run(append([user()]));
    const view = windowAt(rows, 'c', 6);
    assert.ok(view !== null && !('code' in view));
    assert.deepEqual(lines(explain(rows, 'c', view, { budgetTokens: null, full: false, fromSeq: 1, limit: 100 })), [
      '1 dropped last_n@5 0/10',
      '2 dropped last_n@5 0/10',
      '3 dropped last_n@5 0/10',
      '4 in 10/10',
      '5 in 10/10',
      '6 in 10/10',
    ]);
  });
});
