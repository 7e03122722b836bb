/** The order within a turn of the event loop. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Turn } from '../../src/cluster/turn.ts';

it('work runs first, then what it sends leaves, then what waited for that; what is asked for on the way has a turn of its own', { timeout: 5_000 }, async () => {
  const turn = new Turn();
  const seen: string[] = [];
  await new Promise<void>((resolve) => {
    turn.afterSends(() => {
      seen.push('last');
      turn.atEnd(() => {
        seen.push('end of the next');
        resolve();
      });
    });
    turn.atEnd(() => void seen.push('end'));
    turn.soon(() => {
      seen.push('work');
      turn.atEnd(() => void seen.push('end, asked for by work'));
      turn.soon(() => void seen.push('work of the next'));
      turn.afterSends(() => void seen.push('last, asked for by work'));
    });
    assert.deepEqual(seen, [], 'nothing runs inside the call');
  });
  assert.deepEqual(seen, ['work', 'end', 'end, asked for by work', 'last', 'last, asked for by work', 'work of the next', 'end of the next']);
});
