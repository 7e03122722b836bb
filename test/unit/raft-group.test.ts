/** One replica fed by hand, where a schedule that shows the rule is rare or a story would hide the point. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeConfChange } from '../../raft/confchange.ts';
import { InvariantError } from '../../raft/invariants.ts';
import { RaftLog } from '../../raft/log.ts';
import { Raft } from '../../raft/raft.ts';
import { ConfChangeType, EntryType, MessageType } from '../../raft/types.ts';
import type { ConfState, Entry, Message, Ready } from '../../raft/types.ts';
import { Disk } from '../golden/disk.ts';

const conf: ConfState = { voters: [1, 2, 3], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const applied = { index: 0, conf, state: [] };

function entry(term: number, index: number, data = 'x'): Entry {
  return { term, index, type: EntryType.normal, data: new TextEncoder().encode(data) };
}

function message(type: MessageType, from: number, term: number, rest: Partial<Message> = {}): Message {
  return {
    type, to: 1, from, term, index: 0, logTerm: 0, commit: 0, entries: [], reject: false, rejectHint: 0, context: 0, ...rest,
  };
}

function open(disk: Disk, id = 1): Raft {
  return new Raft({
    id, log: disk, random: () => 0, electionTicks: 10, heartbeatTicks: 2, messageBytesMax: 1000, inflightMessagesMax: 8,
    inflightBytesMax: 10_000, uncommittedBytesMax: 10_000, committedBytesMax: 1000,
  });
}

/** A disk that holds `entries` in `term`. */
function diskWith(term: number, entries: readonly Entry[], commit = 0): Disk {
  const disk = new Disk(conf);
  persist(disk, { hardState: { term, vote: 0, commit }, entries });
  return disk;
}

function persist(disk: Disk, ready: Pick<Ready, 'hardState' | 'entries'>): void {
  disk.apply({
    ready: { snapshot: null, sync: true, messages: [], messagesAfterPersist: [], committed: [], readStates: [], fetchSnapshot: null, persist: null, ...ready },
    token: null, applied, restored: null,
  });
}

/** Elects replica 1 with the vote of 2. */
function elect(raft: Raft, disk: Disk): void {
  raft.campaign();
  for (const type of [MessageType.preVoteResponse, MessageType.voteResponse]) {
    const ready = raft.ready();
    persist(disk, ready);
    if (ready.persist !== null) raft.persisted(ready.persist);
    for (const own of ready.messagesAfterPersist.filter(({ to }) => to === 1)) raft.step(own);
    raft.step(message(type, 2, raft.term + (type === MessageType.preVoteResponse ? 1 : 0)));
  }
  assert.ok(raft.isLeader);
}

test('a completed write vouches for nothing once a term began, though index and term read the same again', () => {
  // Entry 1/1 is handed to the writer, replaced by 2/1, and that by 1/1 of a leader that has it from the first.
  const log = new RaftLog(new Disk(conf));
  log.append([entry(1, 1)]);
  log.takeUnhanded();
  const token = { term: 1, lastIndex: 1, lastTerm: 1, snapshotIndex: 0 };
  assert.ok(log.merge(0, 0, [entry(2, 1)]));
  assert.ok(log.merge(0, 0, [entry(1, 1)]));
  log.takeUnhanded();
  log.persisted(token, false);
  assert.equal(log.stable, 0);
});

test('a completed write does not vouch for entries that were not handed out', () => {
  const log = new RaftLog(new Disk(conf));
  log.append([entry(1, 1), entry(1, 2)]);
  log.persisted({ term: 1, lastIndex: 2, lastTerm: 1, snapshotIndex: 0 }, true);
  assert.equal(log.stable, 0);
  log.takeUnhanded();
  log.persisted({ term: 1, lastIndex: 2, lastTerm: 2, snapshotIndex: 0 }, true);
  assert.equal(log.stable, 0, 'another term');
  log.persisted({ term: 1, lastIndex: 2, lastTerm: 1, snapshotIndex: 0 }, true);
  assert.equal(log.stable, 2);
});

test('an append that agrees only up to its own end commits nothing beyond it', () => {
  // Entries 2 and 3 are left over from another leader: the commit index of the message is not about them.
  const raft = open(diskWith(2, [entry(1, 1), entry(2, 2), entry(2, 3)]));
  raft.step(message(MessageType.append, 2, 3, { index: 1, logTerm: 1, commit: 3 }));
  assert.equal(raft.commit, 1);
});

test('an old append takes nothing back', () => {
  const raft = open(diskWith(1, [entry(1, 1), entry(1, 2), entry(1, 3)]));
  raft.step(message(MessageType.append, 2, 1, { entries: [entry(1, 1)] }));
  assert.equal(raft.status().lastIndex, 3);
});

test('a replica with a committed, unapplied membership change does not campaign', () => {
  const change = encodeConfChange({
    changes: [{ type: ConfChangeType.addVoter, replica: 4 }], joint: false, autoLeave: false, context: new Uint8Array(0),
  });
  const log = [entry(1, 1), { term: 1, index: 2, type: EntryType.confChange, data: change }];
  const raft = open(diskWith(1, log, 2));
  raft.campaign();
  assert.equal(raft.role, 'follower');
  raft.ready();
  raft.appliedTo(2);
  raft.campaign();
  assert.equal(raft.role, 'preCandidate');
});

test('votes are asked for only after the term and the log they vouch for are durable', () => {
  const disk = new Disk(conf);
  const raft = open(disk);
  raft.campaign();
  for (const own of raft.ready().messagesAfterPersist.filter(({ to }) => to === 1)) raft.step(own);
  raft.step(message(MessageType.preVoteResponse, 2, 1));
  const ready = raft.ready();
  assert.equal(raft.role, 'candidate');
  assert.deepEqual(ready.hardState, { term: 1, vote: 1, commit: 0 });
  assert.ok(ready.sync);
  assert.deepEqual(ready.messages, []);
  assert.deepEqual(ready.messagesAfterPersist.map(({ type, to }) => [type, to]), [
    [MessageType.voteResponse, 1], [MessageType.vote, 2], [MessageType.vote, 3],
  ]);
});

test('a candidate that restarts keeps its vote and gives the term to nobody else', () => {
  const disk = new Disk(conf);
  persist(disk, { hardState: { term: 5, vote: 1, commit: 0 }, entries: [] });
  const raft = open(disk);
  raft.step(message(MessageType.vote, 2, 5));
  assert.equal(raft.ready().messagesAfterPersist[0]?.reject, true);
});

test('a grant left over from an earlier campaign does not count', () => {
  const raft = open(diskWith(4, []));
  raft.campaign();
  for (const own of raft.ready().messagesAfterPersist.filter(({ to }) => to === 1)) raft.step(own);
  raft.step(message(MessageType.preVoteResponse, 2, 4));
  assert.equal(raft.role, 'preCandidate');
  raft.step(message(MessageType.preVoteResponse, 2, 5));
  assert.equal(raft.role, 'candidate');
});

test('a read is confirmed only by a round that began after it arrived', () => {
  const disk = new Disk(conf);
  const raft = open(disk);
  elect(raft, disk);
  const noOp = raft.ready();
  persist(disk, noOp);
  if (noOp.persist !== null) raft.persisted(noOp.persist);
  raft.step(message(MessageType.appendResponse, 2, 1, { index: 1 }));
  assert.equal(raft.commit, 1);
  raft.readIndex(7);
  const round = raft.ready().messages.find(({ type }) => type === MessageType.heartbeat)?.context;
  assert.ok(round);
  raft.readIndex(8);
  assert.notEqual(raft.ready().messages.find(({ type }) => type === MessageType.heartbeat)?.context, round);
  raft.step(message(MessageType.heartbeatResponse, 2, 1, { context: round }));
  assert.deepEqual(raft.ready().readStates, [{ context: 7, index: 1 }]);
  raft.step(message(MessageType.heartbeatResponse, 2, 1, { context: round + 1 }));
  assert.deepEqual(raft.ready().readStates, [{ context: 8, index: 1 }]);
});

test('a hurried campaign is called off by any sign of a leader', () => {
  const raft = open(diskWith(1, []));
  raft.campaignWithin(3);
  raft.tick();
  raft.step(message(MessageType.heartbeat, 2, 1));
  for (let tick = 0; tick < 9; tick++) raft.tick();
  assert.equal(raft.role, 'follower');
  raft.campaignWithin(0);
  raft.tick();
  assert.equal(raft.role, 'preCandidate');
});

test('nothing is asked of the host twice', () => {
  const disk = new Disk(conf);
  const raft = open(disk);
  elect(raft, disk);
  raft.propose([new Uint8Array(3)]);
  assert.equal(raft.ready().entries.length, 2);
  assert.equal(raft.hasReady(), false);
  assert.equal(raft.ready().persist, null);
});

const broken: readonly (readonly [string, string, () => void])[] = [
  ['a second leader in a term', 'I1', () => {
    const raft = open(new Disk(conf));
    raft.step(message(MessageType.heartbeat, 2, 1));
    raft.step(message(MessageType.heartbeat, 3, 1));
  }],
  ['a hole between entries', 'I3', () => {
    open(new Disk(conf)).step(message(MessageType.append, 2, 1, { entries: [entry(1, 1), entry(1, 3)] }));
  }],
  ['terms that decrease', 'I3', () => {
    open(new Disk(conf)).step(message(MessageType.append, 2, 2, { entries: [entry(2, 1), entry(1, 2)] }));
  }],
  ['a commit index beyond the log', 'I8', () => {
    open(new Disk(conf)).step(message(MessageType.heartbeat, 2, 1, { commit: 1 }));
  }],
  ['an append that would replace a committed entry', 'I10', () => {
    new RaftLog(diskWith(1, [entry(1, 1)], 1)).merge(0, 0, [entry(2, 1)]);
  }],
  ['an acknowledgement beyond the leader\'s log', 'I4', () => {
    const disk = new Disk(conf);
    const raft = open(disk);
    elect(raft, disk);
    raft.step(message(MessageType.appendResponse, 3, 1, { index: 9 }));
  }],
  ['applying what was not handed out', 'I9', () => open(diskWith(1, [entry(1, 1)], 1)).appliedTo(1)],
  ['compaction past the applied index', 'I15', () => open(diskWith(1, [entry(1, 1)], 1)).compactedTo(2)],
  ['a disk that committed more than it holds', 'I8', () => open(diskWith(1, [], 3))],
  ['a disk whose entries are of a later term than its own', 'I6', () => open(diskWith(1, [entry(2, 1)]))],
];

for (const [what, id, run] of broken) {
  test(`stops on ${what} (${id})`, () => {
    assert.throws(run, (error) => error instanceof InvariantError && error.invariant === id);
  });
}
