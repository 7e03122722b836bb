/** Windows by example: policies, pinning, units, late results, budgets. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { MemoryRows, append, assistant, call, compact, message, policy, put, reasoning, result, system, text, tool, user } from './contexts-fixture.ts';
import type { ContextConfig } from '../../src/contexts/types.ts';

function created(settings: Partial<ContextConfig>): MemoryRows {
  const rows = new MemoryRows();
  assert.equal(rows.run(put(settings)).reply.ok, true);
  return rows;
}

const users = (count: number) => Array.from({ length: count }, () => user());

describe('last_n', () => {
  it('compacts above the trigger, not at it, and cuts to the target', () => {
    const rows = created({ tokenBudget: 100 });
    rows.run(append(users(7)));
    assert.equal(rows.shown(), '1,2,3,4,5,6,7');
    rows.run(append([user()]));
    assert.equal(rows.shown(), '4,5,6,7,8');
  });

  it('counts messages against limit and cuts to its share', () => {
    const rows = created({ policy: policy({ limit: 7 }) });
    rows.run(append(users(7)));
    rows.run(append([user()]));
    assert.equal(rows.shown(), '4,5,6,7,8');
  });

  it('slides when target equals trigger', () => {
    const rows = created({ policy: policy({ limit: 3, targetRatio: 0.7 }) });
    for (let i = 0; i < 6; i++) rows.run(append([user()]));
    assert.equal(rows.shown(), '4,5,6');
  });

  it('keeps the newest message, however large', () => {
    const rows = created({ tokenBudget: 100 });
    rows.run(append([user(), user(1000)]));
    assert.equal(rows.shown(), '2');
    const window = rows.window();
    assert.deepEqual([window.overBudget, window.truncated, window.needsCompaction], [true, false, true]);
  });

  it('drops a call with all its results, though messages lie between', () => {
    const rows = created({ policy: policy({ limit: 7 }) });
    rows.run(append([user(), assistant(call('a'), call('b')), tool('a'), user(), user(), tool('b'), user(), user()]));
    assert.equal(rows.shown(), '4,5,7,8');
    assert.deepEqual(rows.head.window.excluded, [6]);
  });
});

describe('pinning', () => {
  it('keeps leading system messages until all else is gone', () => {
    const rows = created({ policy: policy({ limit: 7 }) });
    rows.run(append([system(), system(), ...users(4), system(), user()]));
    assert.equal(rows.shown(), '1,2,6,7,8');
    assert.deepEqual(rows.window().segments.map((s) => [s.fromSeq, s.toSeq]), [[1, 2], [6, 8]]);
  });

  it('keeps a system message larger than the target, but not one that no cut could live with', () => {
    const rows = created({ tokenBudget: 100 });
    rows.run(append([system(55), user(10), user(10)]));
    assert.equal(rows.shown(), '1,3');
    rows.run(append([user(40)]));
    assert.equal(rows.shown(), '4');
  });

  it('can be turned off', () => {
    const rows = created({ policy: policy({ limit: 4, pin: false }) });
    rows.run(append([system(), ...users(4)]));
    assert.equal(rows.shown(), '4,5');
  });

  it('keeps a replacement, and drops its last messages first when even that is too much', () => {
    const rows = created({ tokenBudget: 100 });
    rows.run(append(users(3)));
    rows.run(compact([user(20), user(20), user(20)]));
    rows.run(append([user(5)]));
    assert.equal(rows.shown(), 'r0,r1,r2,4');
    rows.run(append([user(10)]));
    assert.equal(rows.shown(), 'r0,r1,r2,5');
    rows.run(append([user(40)]));
    assert.equal(rows.shown(), 'r0,6');
  });
});

describe('late results', () => {
  it('of a call that left the window stay out of it', () => {
    const rows = created({ policy: policy({ limit: 3 }) });
    rows.run(append([assistant(call('a')), ...users(3)]));
    assert.equal(rows.shown(), '3,4');
    rows.run(append([tool('a')]));
    assert.equal(rows.shown(), '3,4');
    rows.run(append([user()]));
    assert.equal(rows.shown(), '3,4,6');
    assert.equal(rows.head.window.count, 3);
  });

  it('take what they are tied to along', () => {
    const rows = created({ policy: policy({ limit: 4 }) });
    rows.run(append([assistant(call('a')), ...users(4), assistant(call('b'))]));
    assert.equal(rows.shown(), '5,6');
    rows.run(append([message('user', [result('a'), result('b')])]));
    assert.equal(rows.shown(), '5');
    assert.equal(rows.head.window.tokens, 10);
  });

  it('that are all the log ends with do not make an answer end with a replacement', () => {
    const rows = created({ policy: policy({ strategy: 'manual' }) });
    rows.run(append([assistant(call('a'))]));
    rows.run(compact([message('user', [text()], { each: 2 })]));
    rows.run(append([message('user', [text()], { each: 1 })]));
    for (let i = 0; i < 20; i++) rows.run(append([tool('a')]));
    assert.equal(rows.shown(), 'r0,2');
    assert.equal(rows.shown(1), '2');
  });

  it('further results join the call that was answered', () => {
    const rows = created({ policy: policy({ limit: 5 }) });
    rows.run(append([assistant(call('a')), tool('a'), user(), user(), tool('a'), user()]));
    assert.equal(rows.shown(), '3,4,6');
  });

  it('belong to the nearest unanswered call of a reused id', () => {
    const rows = created({ policy: policy({ limit: 5 }) });
    rows.run(append([assistant(call('a')), tool('a'), user(), assistant(call('a')), tool('a'), user()]));
    assert.equal(rows.shown(), '4,5,6');
  });

  it('without any call are ordinary messages', () => {
    const rows = created({});
    rows.run(append([user(), tool('nobody')]));
    assert.equal(rows.shown(), '1,2');
  });

  it('may answer a call that the replacement left open', () => {
    const rows = created({});
    rows.run(append([user(), assistant(call('a'))]));
    rows.run(compact([user(), assistant(call('a'))]));
    rows.run(append([tool('a')]));
    assert.equal(rows.shown(), 'r0,r1,3');
    rows.run(compact([user()]));
    rows.run(append([tool('a')]));
    assert.equal(rows.shown(), 'r0');
  });

  it('are bounded in the descriptor', () => {
    const rows = created({ policy: policy({ strategy: 'manual' }) });
    rows.run(append([user(), assistant(call('a'))]));
    rows.run(compact([], { keepFromSeq: 3 }));
    for (let i = 0; i < 5; i++) rows.run(append(Array.from({ length: 1000 }, (_, n) => (n % 10 === 0 ? user() : tool('a')))));
    assert.ok(rows.head.window.excluded.length <= 4096);
    assert.ok(rows.shown().split(',').every((seq) => (Number(seq) - 3) % 10 === 0));
    assert.equal(rows.head.window.count, rows.window(null, true).elements.length);
  });
});

describe('skip_parts', () => {
  const skipping = (change: Partial<ContextConfig['policy']> = {}) => policy({ strategy: 'skip_parts', skipKinds: ['tool', 'reasoning'], ...change });

  it('removes parts before the newest turn, whole pairs and messages left empty', () => {
    const rows = created({ tokenBudget: 120, policy: skipping() });
    rows.run(append([user(), assistant(text(), reasoning, call('a')), tool('a'), assistant(text()), user(), assistant(call('b')), tool('b')]));
    assert.equal(rows.shown(), '1,2[0],4,5,6,7');
    assert.equal(rows.head.window.tokens, 60);
    assert.deepEqual(rows.window().segments, [{ type: 'live', fromSeq: 1, toSeq: 7 }]);
  });

  it('keeps a pair that reaches into the newest turn, and one whose partner is of another kind', () => {
    const rows = created({ tokenBudget: 110, policy: skipping({ targetRatio: 0.7 }) });
    const other = { type: 'function_call_output', call_id: 'b' };
    rows.run(append([assistant(call('a')), assistant(call('b')), message('tool', [other]), assistant(reasoning, text()), user(), tool('a'), assistant()]));
    assert.equal(rows.shown(), '1,2,3,4[1],5,6,7');
  });

  it('a user message of results alone begins no turn', () => {
    const rows = created({ tokenBudget: 100, policy: skipping({ targetRatio: 0.7 }) });
    rows.run(append([assistant(call('a')), tool('a'), user(), assistant(call('b')), message('user', [result('b')]), assistant(call('c'), reasoning), message('user', [result('c')])]));
    rows.run(append([assistant(text())]));
    assert.equal(rows.shown(), '3,4,5,6,7,8');
  });

  it('scales a client token_count by the share that stays, rounded up', () => {
    const rows = created({ tokenBudget: 200, policy: skipping() });
    rows.run(append([message('assistant', [text(), reasoning, reasoning], { given: 100 }), user(), user(35)]));
    assert.equal(rows.shown(), '1[0],2,3');
    assert.equal(rows.head.window.tokens, 34 + 45);
  });

  it('hides a result that comes after its call was removed', () => {
    const rows = created({ tokenBudget: 105, policy: skipping({ targetRatio: 0.7 }) });
    rows.run(append([assistant(text(), call('a')), user(30), user(31)]));
    assert.equal(rows.shown(), '1[0],2,3');
    rows.run(append([message('tool', [result('a'), text()], { each: 0 })]));
    assert.equal(rows.shown(), '1[0],2,3,4[1]');
    rows.run(append([tool('a')]));
    assert.equal(rows.shown(), '1[0],2,3,4[1]');
    // Also where no compaction is due that would take the sums anew.
    rows.run(put({ tokenBudget: 1000 }));
    rows.run(append([tool('a')]));
    assert.equal(rows.shown(), '1[0],2,3,4[1]');
    assert.deepEqual([rows.head.window.count, rows.head.window.tokens], [4, 71]);
  });

  it('goes on hiding such a result after its call has left the window for good', () => {
    const rows = created({ tokenBudget: 100, policy: skipping() });
    rows.run(append([assistant(call('a')), user(40), user(40)]));
    assert.equal(rows.shown(), '3');
    rows.run(append([message('tool', [result('a'), text()], { each: 5 })]));
    rows.run(append([user(40), user(5)]));
    rows.run(append([user(40)]));
    const withResult = rows.window(null, true).elements.filter((e) => e.seq === 4 && e.kept === null);
    assert.deepEqual(withResult, []);
    assert.equal(rows.head.window.count, rows.window(null, true).elements.length);
  });

  it('a second result in the newest turn does not bring back a call that went without its first', () => {
    const rows = created({ tokenBudget: 35, policy: skipping({ targetRatio: 0.7 }) });
    rows.run(append([assistant(text(), call('a')), user()]));
    assert.equal(rows.shown(), '1[0],2');
    rows.run(append([tool('a')]));
    assert.equal(rows.shown(), '1[0],2');
    rows.run(append([message('user', [result('a'), text()])]));
    assert.equal(rows.shown(), '1[0],4[1]');
    assert.equal(rows.head.window.tokens, 20);
  });

  it('nor a result of another kind whose call went before it came and then left the window', () => {
    const rows = created({ tokenBudget: 1, policy: skipping({ limit: 3, skipKinds: ['text', 'function'], targetRatio: 0.2, pin: false }), triggerRatio: 0.3 });
    const asked = message('user', [{ type: 'function_call', call_id: 'd' }], { each: 0 });
    rows.run(append([message('user', []), message('user', []), asked, message('user', [call('c')], { each: 0 })]));
    rows.run(append([message('user', [result('d')], { each: 0 }), message('user', [result('c'), text()], { given: 1 })]));
    assert.equal(rows.shown(), '4,6');
    assert.equal(rows.head.window.count, 2);
  });

  it('then drops the oldest like last_n', () => {
    const rows = created({ tokenBudget: 100, policy: skipping() });
    rows.run(append([assistant(text(), reasoning), ...users(7)]));
    assert.equal(rows.shown(), '4,5,6,7,8');
  });
});

describe('manual', () => {
  it('drops nothing and says so', () => {
    const rows = created({ tokenBudget: 50, policy: policy({ strategy: 'manual' }) });
    rows.run(append(users(10)));
    assert.equal(rows.shown().split(',').length, 10);
    const window = rows.window();
    assert.equal(window.needsCompaction, true);
    assert.equal(window.usedTokens, 50);
    assert.equal(window.truncated, true);
  });
});

describe('GET context', () => {
  it('leaves out oldest unpinned units, then pinned ones, never splits a unit', () => {
    const rows = created({});
    rows.run(append([system(), user(), assistant(call('a')), tool('a'), user()]));
    assert.equal(rows.shown(50, false), '1,2,3,4,5');
    assert.equal(rows.shown(45, false), '1,3,4,5');
    assert.equal(rows.shown(39, false), '1,5');
    assert.equal(rows.shown(19, false), '5');
    assert.equal(rows.shown(9, false), '5');
    const alone = rows.window(9);
    assert.deepEqual([alone.truncated, alone.overBudget, alone.usedTokens], [true, true, 10]);
  });

  it('answers an empty context with nothing', () => {
    const window = created({}).window();
    assert.deepEqual([window.elements, window.usedTokens, window.segments, window.truncated], [[], 0, [], false]);
  });
});
