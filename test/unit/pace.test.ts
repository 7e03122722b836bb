/** When writes start: at once on a calm loop, apart from each other on a busy one. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { WritePace } from '../../src/pace.ts';

describe('the pace of writes', () => {
  /** Moments at which writes start that are asked for every millisecond, one after the other. */
  function starts({ busy, groups, ms }: { busy: number; groups: number; ms: number }): number[] {
    let now = 1000;
    const due: { at: number; work: () => void }[] = [];
    const pace = new WritePace({ now: () => now, utilization: () => busy, after: (wait, work) => void due.push({ at: now + wait, work }) });
    const started: number[] = [];
    const end = now + ms;
    for (; now < end; now += 1) {
      const [waiting] = due;
      if (waiting === undefined) pace.pace(groups, () => void started.push(now));
      else if (waiting.at <= now) due.shift()?.work();
    }
    return started;
  }

  it('a calm loop starts each at once', () => assert.equal(starts({ busy: 0.4, groups: 50, ms: 100 }).length, 100));

  it('a busy loop keeps them apart', () => {
    const at = starts({ busy: 0.95, groups: 50, ms: 100 });
    for (let i = 1; i < at.length; i++) assert.ok((at[i] ?? 0) - (at[i - 1] ?? 0) >= 6, `${at.join(' ')}`);
    assert.ok(at.length >= 12, 'and delays none for longer than that');
  });

  it('a write for few groups has nothing to wait for', () => assert.equal(starts({ busy: 0.95, groups: 2, ms: 100 }).length, 100));
});
