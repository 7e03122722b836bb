import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Deadline, TimeoutWheel } from '../../src/cluster/timeouts.ts';

/** Milliseconds of one slot and of one turn of the wheel. */
const SLOT_MS = 50;
const TURN_MS = 1024 * SLOT_MS;

/** A deadline that records when it expired, on the clock `now` reads. */
function recorded(expired: number[], now: () => number): Deadline {
  return new Deadline(() => expired.push(now()));
}

test('each deadline expires once, not before its time and at most a slot late', () => {
  const timeouts = [0, 1, 49, 50, 51, 99, 1000, 30_000, TURN_MS - 1, TURN_MS, TURN_MS + 1, 3 * TURN_MS + 7];
  for (const start of [0, 7, 49.5, 123_456.7]) {
    const wheel = new TimeoutWheel(start);
    let now = start;
    const expiries = timeouts.map((timeoutMs) => {
      const expired: number[] = [];
      wheel.add(recorded(expired, () => now), now, timeoutMs);
      return expired;
    });
    for (; now < start + 4 * TURN_MS; now += 10) wheel.advance(now);
    for (const [i, timeoutMs] of timeouts.entries()) {
      const [at, ...again] = expiries[i] ?? [];
      assert.deepEqual(again, []);
      // The next slot after now at the earliest, and judged at a step of 10 ms.
      const late = (at ?? Number.NaN) - start - timeoutMs;
      assert.ok(late >= 0 && late <= SLOT_MS + 10, `timeout ${timeoutMs} from ${start} was ${late} ms late`);
    }
    assert.equal(wheel.size, 0);
  }
});

test('a cancelled deadline never expires, and cancelling it again changes nothing', () => {
  const wheel = new TimeoutWheel(0);
  const expired: number[] = [];
  const [kept, cancelled] = [recorded(expired, () => 1), recorded(expired, () => 2)];
  wheel.add(cancelled, 0, 100);
  wheel.add(kept, 0, 100);
  assert.equal(wheel.size, 2);
  wheel.cancel(cancelled);
  wheel.cancel(cancelled);
  wheel.cancel(new Deadline(null));
  assert.equal(wheel.size, 1);
  wheel.advance(1000);
  wheel.cancel(kept);
  assert.deepEqual([expired, wheel.size], [[1], 0]);
});

test('a long sleep expires what is due, whole turns included, and keeps what is not', () => {
  const wheel = new TimeoutWheel(0);
  const expired: string[] = [];
  for (const [name, timeoutMs] of [['short', 100], ['turn', TURN_MS + 100], ['far', 5 * TURN_MS + 100]] as const) {
    wheel.add(new Deadline(() => expired.push(name)), 0, timeoutMs);
  }
  wheel.advance(5 * TURN_MS);
  assert.deepEqual(expired.sort(), ['short', 'turn']);
  wheel.advance(5 * TURN_MS + 200);
  assert.deepEqual([expired.at(-1), wheel.size], ['far', 0]);
});

test('two deadlines in one slot, a turn apart, expire a turn apart', () => {
  const wheel = new TimeoutWheel(0);
  const expired: string[] = [];
  wheel.add(new Deadline(() => expired.push('later')), 0, TURN_MS + 500);
  wheel.add(new Deadline(() => expired.push('sooner')), 0, 500);
  for (let now = 0; now <= TURN_MS; now += SLOT_MS) wheel.advance(now);
  assert.deepEqual(expired, ['sooner']);
  for (let now = TURN_MS; now <= TURN_MS + 600; now += SLOT_MS) wheel.advance(now);
  assert.deepEqual(expired, ['sooner', 'later']);
});

test('what expires may cancel others of its moment and add new ones', () => {
  const wheel = new TimeoutWheel(0);
  const expired: string[] = [];
  const victim = new Deadline(() => expired.push('victim'));
  const added = new Deadline(() => expired.push('added'));
  wheel.add(new Deadline(() => {
    expired.push('first');
    wheel.cancel(victim);
    wheel.add(added, 100, 0);
  }), 0, 100);
  wheel.add(victim, 0, 100);
  wheel.advance(100);
  assert.deepEqual([expired, wheel.size], [['first'], 1]);
  wheel.advance(150);
  assert.deepEqual([expired, wheel.size], [['first', 'added'], 0]);
});

test('time that stands still or goes back expires nothing', () => {
  const wheel = new TimeoutWheel(1000);
  const expired: number[] = [];
  wheel.add(recorded(expired, () => 0), 1000, 10);
  wheel.advance(1000);
  wheel.advance(500);
  assert.deepEqual([expired, wheel.size], [[], 1]);
});
