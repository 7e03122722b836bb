import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Progress, Vote } from '../../raft/progress.ts';
import { majorityValue, Members } from '../../raft/quorum.ts';
import type { ConfState } from '../../raft/types.ts';

const limits = { inflightMessagesMax: 4, inflightBytesMax: 100 };

function members(voters: number[], votersOutgoing: number[] = [], learners: number[] = []): Members {
  const conf: ConfState = { voters, votersOutgoing, learners, learnersNext: [], autoLeave: false };
  return new Members(conf, (id) => new Progress(id, limits));
}

function setMatches(group: Members, matches: Readonly<Record<number, number>>): void {
  for (const member of group.all) member.match = matches[member.id] ?? 0;
}

test('the majority value is what more than half have reached', () => {
  fc.assert(fc.property(fc.array(fc.nat({ max: 20 }), { minLength: 1, maxLength: 9 }), (values) => {
    const value = majorityValue([...values], values.length);
    const reached = values.filter((other) => other >= value).length;
    const beyond = values.filter((other) => other > value).length;
    assert.ok(reached > values.length / 2 && beyond <= values.length / 2);
  }));
});

test('a larger configuration used before leaves nothing behind in a smaller one', () => {
  const group = members([1, 2, 3, 4, 5], [6]);
  setMatches(group, { 1: 9, 2: 9, 3: 9, 4: 9, 5: 9, 6: 3 });
  assert.equal(group.committedIndex(), 3);
});

test('both halves of a joint configuration must hold an entry; learners count in neither', () => {
  const group = members([1, 4, 5], [1, 2, 3], [6]);
  setMatches(group, { 1: 7, 4: 7, 5: 7, 6: 7 });
  assert.equal(group.committedIndex(), 0);
  setMatches(group, { 1: 7, 2: 5, 4: 6, 6: 9 });
  assert.equal(group.committedIndex(), 5);
});

test('an election is won in both halves, lost in either, and open while answers are missing', () => {
  const group = members([1, 4, 5], [1, 2, 3]);
  const vote = (id: number, value: Vote): void => {
    const member = group.get(id);
    assert.ok(member);
    member.vote = value;
  };
  vote(1, Vote.granted);
  assert.equal(group.tally(), 'pending');
  vote(4, Vote.granted);
  assert.equal(group.tally(), 'pending');
  vote(2, Vote.granted);
  assert.equal(group.tally(), 'won');
  vote(2, Vote.rejected);
  vote(3, Vote.rejected);
  assert.equal(group.tally(), 'lost');
});

test('the quorum is active if enough voters answered since it was asked last', () => {
  const group = members([1, 2, 3], [], [4]);
  const learner = group.get(4);
  const voter = group.get(2);
  assert.ok(learner && voter);
  learner.active = true;
  assert.equal(group.takeActiveQuorum(1), false);
  voter.active = true;
  assert.equal(group.takeActiveQuorum(1), true);
  assert.equal(group.takeActiveQuorum(1), false);
});

test('the in-flight window closes by messages and by bytes, and opens as answers come', () => {
  const progress = new Progress(2, limits);
  progress.restart(0, 1);
  progress.acknowledge(0);
  progress.becomeReplicate();
  for (let sent = 0; sent < 4; sent++) progress.sent(1, 1, 0);
  assert.ok(progress.isFull() && progress.isPaused());
  assert.equal(progress.next, 5);
  assert.ok(progress.acknowledge(2));
  progress.freeInflights(2);
  assert.ok(!progress.isFull() && !progress.isPaused());
  progress.sent(10, 100, 0);
  assert.ok(progress.isFull());
  progress.acknowledge(14);
  progress.freeInflights(14);
  assert.ok(!progress.isFull());
});

test('the in-flight ring keeps its order as it grows and wraps', () => {
  const progress = new Progress(2, { inflightMessagesMax: 100, inflightBytesMax: 1000 });
  progress.restart(0, 1);
  progress.becomeReplicate();
  for (let round = 0; round < 20; round++) {
    const before = progress.match;
    for (let sent = 0; sent < 10; sent++) progress.sent(1, 10, 0);
    progress.acknowledge(before + 9);
    progress.freeInflights(before + 9);
    assert.ok(!progress.isFull(), `round ${round}`);
    progress.acknowledge(before + 10);
    progress.freeInflights(before + 10);
  }
  for (let sent = 0; sent < 100; sent++) progress.sent(1, 1, 0);
  assert.ok(progress.isFull());
});
