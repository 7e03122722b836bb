/** What an idle node does not do: wake up for each part by itself, load what it has no use for, read what did not change. */
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { REST_STEPS, Ticker } from '../../src/cluster/ticker.ts';
import { Expiry } from '../../src/erasure/expiry.ts';
import { TokenCounter } from '../../src/tokens/counter.ts';

describe('ticker', () => {
  const counting = (mayDefer: () => boolean): { ticker: Ticker; wakes: () => number } => {
    let wakes = 0;
    return { ticker: new Ticker({ stepMs: 50, mayDefer, onLate: () => void wakes++ }), wakes: () => wakes };
  };

  /** One call a step, from `now` on; the first was made. */
  const stepping = (t: TestContext, now: number, mayDefer: () => boolean): { calls: () => number; wakes: () => number; stop: () => void } => {
    t.mock.timers.enable({ apis: ['setTimeout', 'Date'], now });
    const { ticker, wakes } = counting(mayDefer);
    let calls = 0;
    const stop = ticker.every(50, () => void calls++);
    t.mock.timers.tick(50);
    return { calls: () => calls, wakes, stop };
  };

  it('wakes once for all that is due, and no more when nothing is left to do', (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { ticker, wakes } = counting(() => false);
    const calls = { often: 0, seldom: 0 };
    const stops = [ticker.every(50, () => void calls.often++), ticker.every(100, () => void calls.seldom++)];
    for (let i = 0; i < 4; i++) t.mock.timers.tick(50);
    assert.deepEqual(calls, { often: 4, seldom: 2 });
    assert.equal(wakes(), 4);
    for (const stop of stops) stop();
    t.mock.timers.tick(1000);
    assert.equal(wakes(), 4);
  });

  it('at rest wakes at multiples of its longest rest, and makes up for every step that it put off', (t) => {
    let isAtRest = true;
    const { calls, wakes, stop } = stepping(t, 1_000_000, () => isAtRest);
    t.mock.timers.tick(149);
    assert.equal(calls(), 1);
    t.mock.timers.tick(1);
    assert.equal(calls(), 4);
    t.mock.timers.tick(199);
    assert.equal(calls(), 4);
    t.mock.timers.tick(1);
    assert.equal(calls(), 4 + REST_STEPS);
    assert.equal(wakes(), 3);
    isAtRest = false;
    t.mock.timers.tick(REST_STEPS * 50);
    t.mock.timers.tick(50);
    assert.equal(calls(), 5 + 2 * REST_STEPS);
    assert.equal(wakes(), 5);
    stop();
  });

  it('does not wake just before such a moment and at it, nor makes more steps than that', (t) => {
    const { calls, wakes, stop } = stepping(t, 1_000_140, () => true);
    t.mock.timers.tick(209);
    assert.equal(calls(), 1);
    t.mock.timers.tick(1);
    assert.equal(calls(), 1 + REST_STEPS);
    assert.equal(wakes(), 2);
    stop();
  });
});

it('a token counter starts its worker with the first count', async (t) => {
  let workers = 0;
  const count = (): void => void workers++;
  process.on('worker', count);
  t.after(() => process.off('worker', count));
  const counter = await TokenCounter.open({ defaultModel: 'gpt-4o' });
  t.after(() => counter.close());
  // The event comes a moment after the worker.
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(workers, 0);
  assert.deepEqual(await counter.count('', ['Hello, world!']), [4]);
  assert.equal(workers, 1);
});

it('a group in which nothing was applied is searched for expired contexts once', async (t) => {
  let applied = 5;
  const searched: number[] = [];
  let laps = 0;
  const { promise: enough, resolve } = Promise.withResolvers<void>();
  const expiry = new Expiry({
    rows: {
      listed: async (group) => {
        searched.push(group);
        return [];
      },
      get: () => undefined,
    },
    led: () => {
      laps++;
      if (laps === 4) applied++;
      if (laps === 8) resolve();
      return [7];
    },
    applied: () => applied,
    propose: async () => undefined,
    logger: { warn: () => undefined },
    now: () => 0,
    lapMs: 1,
  });
  expiry.open();
  t.after(() => expiry.close());
  await enough;
  assert.deepEqual(searched, [7, 7], 'in the first lap, and in the one after something was applied');
});
