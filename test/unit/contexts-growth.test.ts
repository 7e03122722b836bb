/** What a long context costs: rows read by an answer, an append, a compaction, whatever lies behind them. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { explain } from '../../src/contexts/explain.ts';
import { windowNow } from '../../src/contexts/travel.ts';
import { MemoryRows, append, assistant, call, compact, message, policy, put, result, system, text, tool, user } from './contexts-fixture.ts';
import type { Command, NewMessage } from '../../src/contexts/types.ts';

/** A manual context of `count` messages after the given ones. */
function long(count: number, first: readonly NewMessage[] = [system()]): MemoryRows {
  const rows = new MemoryRows();
  rows.run(put({ tokenBudget: 800, policy: policy({ strategy: 'manual' }) }));
  rows.run(append(first));
  for (let left = count - first.length; left > 0; left -= 1000) rows.run(append(Array.from({ length: Math.min(left, 1000) }, () => user())));
  assert.equal(rows.head.lastSeq, count);
  return rows;
}

function readsOf(rows: MemoryRows, act: () => void): number {
  rows.reads.clear();
  act();
  let sum = 0;
  for (const reads of rows.reads.values()) sum += reads;
  return sum;
}

describe('a window of 20,000 messages', () => {
  it('is read, appended to and compacted at the cost of one of 200', () => {
    const short = long(200);
    const tall = long(20_000);
    const acts: ((rows: MemoryRows) => void)[] = [
      (rows) => assert.equal(rows.window().elements.length, 80),
      (rows) => void rows.run(append([user(), user()])),
      (rows) => void rows.run(append([assistant(call('a')), tool('a')])),
      (rows) => void rows.run(compact([user()], { keepFromSeq: rows.head.lastSeq - 20 })),
    ];
    for (const [i, act] of acts.entries()) {
      const few = readsOf(short, () => act(short));
      const many = readsOf(tall, () => act(tall));
      assert.equal(many, few, `act ${i}`);
      assert.ok(few < 200, `act ${i} reads ${few}`);
    }
  });

  it('shows the whole of a unit that reaches far back, its middle too, and what is pinned with its answer', () => {
    const rows = long(10_000, [system(), message('system', [text(), call('pinned')]), tool('pinned'), assistant(call('old'), call('other'))]);
    const shown = (): string => rows.shown(70, false);
    assert.equal(shown(), '1,2,3,9998,9999,10000');
    rows.run(append([tool('old')]));
    for (let i = 0; i < 200; i++) rows.run(append([user()]));
    rows.run(append([message('tool', [result('other')])]));
    assert.equal(rows.shown(89, false), '1,2,3,4,10001,10202');
    assert.ok(readsOf(rows, () => void rows.window(89)) < 200);
    rows.run(append([user()]));
    // Its unit began long before what fits.
    assert.equal(shown(), '1,2,3,10200,10201,10203');
  });

  it('lets late results go with all they are tied to without reading the rest', () => {
    const rows = long(10_000, [assistant(call('gone'))]);
    rows.run(compact([], { keepFromSeq: 2 }));
    rows.run(append([assistant(call('here'))]));
    const late: Command = append([message('user', [result('gone'), result('here')])]);
    assert.ok(readsOf(rows, () => void rows.run(late)) < 100);
    assert.deepEqual([rows.head.window.excluded, rows.head.window.count, rows.head.window.stableSinceVersion], [[10_001, 10_002], 9_999, rows.head.version]);
  });

  it('is refused whole where it is too large to send', () => {
    const rows = new MemoryRows();
    rows.run(put({ policy: policy({ strategy: 'manual' }) }));
    const big = message('user', [text('x'.repeat(1 << 20))], { each: 100 });
    for (let i = 0; i < 70; i++) rows.run(append([big]));
    const whole = rows.window(null, true);
    assert.deepEqual([whole.tooLarge, whole.elements], [true, []]);
    const some = rows.window(2000);
    assert.deepEqual([some.tooLarge, some.elements.length], [false, 20]);
    const view = windowNow(rows, 'c');
    assert.ok(view !== null);
    const page = { fromSeq: 1, limit: 5 };
    const explained = explain(rows, 'c', view, { ...page, budgetTokens: null, full: true });
    assert.deepEqual([explained.tooLarge, explained.messages], [true, []]);
    const explainedSome = explain(rows, 'c', view, { ...page, budgetTokens: 2000, full: false });
    assert.deepEqual([explainedSome.tooLarge, explainedSome.messages.length], [false, 5]);
  });
});
