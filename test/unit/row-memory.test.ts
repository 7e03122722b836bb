/** Rows in little memory are those kept last, or not known; what is used stays, and the bound holds. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { hashOf, RowMemory, type KeptRow } from '../../src/row-memory.ts';

/** So that a few thousand rows go round. */
const SLAB = 32 * 1024;

/** Against a map of everything that was ever kept. */
class Checked {
  readonly memory: RowMemory;
  readonly kept = new Map<string, Buffer>();

  constructor(slabs: number, slabBytes = SLAB) {
    this.memory = new RowMemory(slabs * slabBytes, slabBytes);
  }

  keep(context: string, which: KeptRow, row: Buffer | null): void {
    this.memory.keep(context, which, row);
    if (row === null) this.kept.delete(`${which}|${context}`);
    else this.kept.set(`${which}|${context}`, row);
  }

  /** Whether the row is known; it is the right one then. */
  knows(context: string, which: KeptRow): boolean {
    const row = this.memory.get(context, which);
    if (row !== undefined) assert.deepEqual(Buffer.from(row), this.kept.get(`${which}|${context}`), context);
    return row !== undefined;
  }

  count(contexts: readonly string[]): number {
    return contexts.filter((context) => Number(this.knows(context, 'header')) + Number(this.knows(context, 'config')) > 0).length;
  }
}

const names = (count: number, prefix = 'context'): string[] => Array.from({ length: count }, (_, i) => `${prefix}-${i}`);

describe('rows in little memory', () => {
  it('are those kept last, whatever was let go, moved or removed in between', () => {
    const context = fc.oneof(
      fc.integer({ min: 0, max: 3000 }).map((n) => `c${n}`),
      fc.constantFrom('', 'ä', '文脈', '🐟', 'x'.repeat(256), 'y'.repeat(255), 'ä'.repeat(128)),
    );
    const row = fc.tuple(fc.integer({ min: 1, max: 512 }), fc.nat(255)).map(([length, byte]) => Buffer.alloc(length, byte));
    const step = fc.record({ context, which: fc.constantFrom<KeptRow>('header', 'config'), row: fc.option(row, { freq: 8 }), reads: context });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3 }), fc.array(step, { minLength: 1, maxLength: 4000, size: 'max' }), (slabs, steps) => {
        const checked = new Checked(slabs);
        for (const { context: written, which, row: given, reads } of steps) {
          checked.keep(written, which, given);
          assert.equal(checked.knows(written, which), given !== null, written);
          checked.knows(reads, 'header');
          checked.knows(reads, 'config');
        }
      }),
      { numRuns: 40 },
    );
  });

  it('are of as many contexts as the bound has room for, and of the last ones', () => {
    const checked = new Checked(4);
    const contexts = names(5000);
    for (const context of contexts) {
      checked.keep(context, 'header', Buffer.alloc(44, context));
      checked.keep(context, 'config', Buffer.alloc(28, context));
    }
    const held = checked.count(contexts);
    assert.ok(held > (3 * SLAB) / 120 && held <= (4 * SLAB) / 96, `${held}`);
    assert.equal(checked.count(contexts.slice(-800)), 800);
    // They were used just now; once more contexts were met than there is room for they are gone for all that.
    for (const context of names(5000, 'later')) checked.keep(context, 'header', Buffer.alloc(44));
    assert.equal(checked.count(contexts), 0);
    checked.memory.clear();
    assert.equal(checked.count(names(5000, 'later')), 0);
    for (const context of names(5000, 'again')) checked.keep(context, 'header', Buffer.alloc(44));
    assert.ok(checked.count(names(5000, 'again')) > (3 * SLAB) / 120);
  });

  for (const how of ['read', 'written'] as const) {
    it(`stay while they are ${how}, whatever comes and goes`, () => {
      const checked = new Checked(4);
      const meet = (context: string): void => {
        checked.keep(context, 'config', Buffer.alloc(28, 1));
        checked.keep(context, 'header', Buffer.alloc(44, 1));
      };
      const first = names(600, 'first');
      for (const context of first) meet(context);
      const used = first.filter((_, i) => i % 10 === 0);
      for (const [i, context] of names(20_000).entries()) {
        meet(context);
        const one = used[i % used.length] ?? assert.fail();
        if (how === 'read') checked.knows(one, 'header');
        else checked.keep(one, 'header', Buffer.alloc(44, i));
      }
      // One that was let go and written again would lack what is not written again.
      for (const context of used) assert.ok(checked.knows(context, 'config'), context);
    });
  }

  it('grow in their place or move, and leave no hole that stays', () => {
    const checked = new Checked(8);
    const contexts = names(200);
    for (let round = 1; round <= 2000; round++) {
      const context = contexts[round % contexts.length] ?? assert.fail();
      checked.keep(context, 'header', Buffer.alloc(1 + (round % 500), round % 256));
      if (round % 3 === 0) checked.keep(context, 'config', Buffer.alloc(28, round % 256));
    }
    assert.equal(checked.count(contexts), contexts.length);
  });

  it('are of the context that is asked for, not of another with the same hash', () => {
    const checked = new Checked(1);
    const pair = ['user-129599', 'user-732382'];
    assert.equal(new Set(pair.map((context) => hashOf(Buffer.from(context), context.length))).size, 1);
    for (const context of pair) checked.keep(context, 'header', Buffer.from(context));
    assert.equal(checked.count(pair), 2);
    checked.keep(pair[0] ?? '', 'header', null);
    assert.equal(checked.count(pair), 1);
  });

  it('are right, if not of all, where clients chose ids of one hash', () => {
    // Either of a pair leaves the hash as the other does.
    const pairs = [['105zx', '1bpcd'], ['0k40p', '1c04a'], ['003zx', '0fpad'], ['09vl8', '0apd6'], ['04pvu', '0b3ea'], ['05rnw', '0mpba'], ['07rnw', '0opba'], ['07rnw', '0opba'], ['07rnw', '0opba']];
    const ids = pairs.reduce((heads, pair) => heads.flatMap((head) => pair.map((end) => head + end)), ['']);
    assert.deepEqual([ids.length, new Set(ids.map((id) => hashOf(Buffer.from(id), id.length))).size], [512, 1]);
    const checked = new Checked(8);
    const others = names(200);
    for (const context of others) checked.keep(context, 'header', Buffer.from(context));
    for (let round = 0; round < 3; round++) {
      for (const context of ids) checked.keep(context, 'header', Buffer.from(`${context} ${round}`));
      assert.ok(checked.count(ids) > 64 && checked.count(ids) <= 128);
      for (const context of ids.slice(0, 100)) checked.keep(context, 'header', null);
    }
    assert.equal(checked.count(others), others.length);
    for (const context of names(5000, 'later')) checked.keep(context, 'header', Buffer.alloc(44));
    assert.equal(checked.count(ids), 0);
  });

  it('are not kept if they or the id are too long, nor without room', () => {
    const checked = new Checked(1);
    for (const context of ['x'.repeat(257), 'ä'.repeat(129), '🐟'.repeat(65)]) {
      checked.keep(context, 'header', Buffer.from('row'));
      assert.equal(checked.knows(context, 'header'), false);
    }
    checked.keep('c', 'header', Buffer.alloc(512, 1));
    checked.keep('c', 'config', Buffer.from('row'));
    assert.ok(checked.knows('c', 'header'));
    checked.keep('c', 'header', Buffer.alloc(513, 1));
    assert.deepEqual([checked.knows('c', 'header'), checked.knows('c', 'config')], [false, true]);
    const none = new RowMemory(SLAB - 1, SLAB);
    none.keep('c', 'header', Buffer.from('row'));
    assert.equal(none.get('c', 'header'), undefined);
  });
});
