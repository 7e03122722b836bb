import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { changedConf, decodeConfChange, encodeConfChange, LEAVE_JOINT } from '../../raft/confchange.ts';
import { ConfChangeType } from '../../raft/types.ts';
import type { ConfChange, ConfState } from '../../raft/types.ts';

const { addVoter, addLearner, remove } = ConfChangeType;
const none = new Uint8Array(0);

function conf(voters: number[], rest: Partial<ConfState> = {}): ConfState {
  return { voters, votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false, ...rest };
}

function change(steps: readonly (readonly [ConfChangeType, number])[], rest: Partial<ConfChange> = {}): ConfChange {
  return { changes: steps.map(([type, replica]) => ({ type, replica })), joint: false, autoLeave: false, context: none, ...rest };
}

const anyChange = fc.record({
  changes: fc.array(fc.record({
    type: fc.constantFrom(addVoter, addLearner, remove),
    replica: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
  }, { noNullPrototype: true }), { maxLength: 8 }),
  joint: fc.boolean(),
  autoLeave: fc.boolean(),
  context: fc.uint8Array({ maxLength: 16 }),
}, { noNullPrototype: true });

test('a membership change survives its bytes', () => {
  fc.assert(fc.property(anyChange, (value) => {
    assert.deepEqual(decodeConfChange(encodeConfChange(value)), value);
  }));
});

test('a membership change cut short is refused, never read past its end', () => {
  const bytes = encodeConfChange(change([[addVoter, 7], [remove, 2 ** 40]], { joint: true }));
  for (let length = 0; length < bytes.length; length++) assert.equal(decodeConfChange(bytes.subarray(0, length)), null);
});

test('bytes of another format, unknown flags, types and ids are refused', () => {
  const bytes = encodeConfChange(change([[addVoter, 7]]));
  for (const [at, value] of [[0, 2], [1, 4], [4, 3]] as const) {
    const bad = bytes.slice();
    bad[at] = value;
    assert.equal(decodeConfChange(bad), null, `byte ${at}`);
  }
  assert.equal(decodeConfChange(bytes.slice().fill(0, 5, 13)), null, 'replica 0');
  assert.equal(decodeConfChange(bytes.slice().fill(255, 5, 13)), null, 'replica beyond 2^53');
  assert.throws(() => encodeConfChange(change([[addVoter, 0]])), RangeError);
});

test('one voter may change at a time without a joint configuration', () => {
  assert.deepEqual(changedConf(conf([1, 2]), change([[addVoter, 3]])), conf([1, 2, 3]));
  assert.deepEqual(changedConf(conf([1, 2], { learners: [3] }), change([[addVoter, 3]])), conf([1, 2, 3]));
  assert.deepEqual(changedConf(conf([1, 2]), change([[addLearner, 3]])), conf([1, 2], { learners: [3] }));
  assert.deepEqual(changedConf(conf([1, 2]), change([[addLearner, 2]])), conf([1], { learners: [2] }));
  assert.deepEqual(changedConf(conf([1, 2], { learners: [3] }), change([[remove, 3]])), conf([1, 2]));
});

test('several changes go through a joint configuration, and demoted voters stay voters until it is left', () => {
  const joint = changedConf(conf([1, 2, 3]), change([[addVoter, 4], [addLearner, 2], [remove, 3]], { autoLeave: true }));
  assert.deepEqual(joint, conf([1, 4], { votersOutgoing: [1, 2, 3], learnersNext: [2], autoLeave: true }));
  assert.ok(joint);
  assert.deepEqual(changedConf(joint, LEAVE_JOINT), conf([1, 4], { learners: [2] }));
});

test('changes that would lose every voter, nest or leave what was not entered are refused', () => {
  const joint = conf([1, 4], { votersOutgoing: [1, 2] });
  assert.equal(changedConf(conf([1]), change([[remove, 1]])), null);
  assert.equal(changedConf(conf([1, 2]), change([[addLearner, 1], [remove, 2]])), null);
  assert.equal(changedConf(joint, change([[addVoter, 5]])), null);
  assert.equal(changedConf(conf([1]), LEAVE_JOINT), null);
  assert.equal(changedConf(conf([1]), change([], { joint: true })), null);
});
