/** What is kept of many contexts, held against a list in the order of use. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { BoundedContexts } from '../../src/contexts/bounded.ts';

const SIZE_MAX = 20;
const step = fc.record({ what: fc.constantFrom('keep', 'keep', 'get', 'peek', 'grow', 'delete', 'clear'), context: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'), size: fc.integer({ min: 1, max: 12 }) });

it('lets go what was used longest ago, and only for room', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200, size: 'max' }), (steps) => {
      const bounded = new BoundedContexts<{ size: number }>(SIZE_MAX, (value) => value.size);
      let model: { context: string; value: { size: number }; counted: number }[] = [];
      const total = (): number => model.reduce((sum, { counted }) => sum + counted, 0);
      for (const { what, context, size } of steps) {
        const at = model.find((kept) => kept.context === context);
        if (what === 'keep') {
          const value = { size };
          bounded.keep(context, value);
          if (at === undefined) model.push({ context, value, counted: size });
          else Object.assign(at, { value, counted: size });
          while (total() > SIZE_MAX) model.shift();
        } else if (what === 'get') {
          assert.equal(bounded.get(context), at?.value);
          if (at !== undefined) model = [...model.filter((kept) => kept !== at), at];
        } else if (what === 'grow' && at !== undefined) {
          at.value.size += size;
          assert.equal(bounded.size, total(), 'not before it is kept again');
        } else if (what === 'delete') {
          bounded.delete(context);
          model = model.filter((kept) => kept !== at);
        } else if (what === 'clear' && size === 1) {
          bounded.clear();
          model = [];
        }
        assert.equal(bounded.size, total());
        for (const name of 'abcdefgh') assert.equal(bounded.peek(name), model.find((kept) => kept.context === name)?.value);
      }
    }),
    { numRuns: 300 },
  );
});
