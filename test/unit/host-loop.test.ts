/** RaftHost over the modelled disk: what leaves when, who is answered how, and what a failure stops. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { HostOptions, ProposeOutcome } from '../../raft/host.ts';
import { HOST_DEFAULTS, RaftHost } from '../../raft/host.ts';
import { Inbox } from '../../raft/inbox.ts';
import type { HostPorts } from '../../raft/ports.ts';
import type { ConfState, Entry, Message, NodeId } from '../../raft/types.ts';
import { ConfChangeType, EntryType, MessageType } from '../../raft/types.ts';
import { decodeFrame, FrameWriter } from '../../raft/wire.ts';
import { Disk, MemoryStorage } from '../sim/disk.ts';
import { seededRandom } from '../sim/clock.ts';

const GROUP = 7;

function votersOnly(...voters: number[]): ConfState {
  return { voters, votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
}

function text(data: Uint8Array): string {
  return Buffer.from(data).toString();
}

/** One host whose disk, scheduler and network are moved by hand. Replica n lives on node `n{n}`; this one is 1. */
class Bench {
  readonly disk: Disk<null>;
  readonly storage: MemoryStorage<null>;
  readonly host: RaftHost;
  readonly applied: string[] = [];
  readonly confs: ConfState[] = [];
  readonly fatals: Error[] = [];
  readonly sent: { to: NodeId; message: Message }[] = [];
  frames = 0;
  linkUp = true;
  buffered = 0;
  /** Throws in apply when set. */
  poison: (() => void) | null = null;
  /** Writes that wait for their time; null: each starts at once. */
  paced: (() => void)[] | null = null;
  /** Writes that wait until what was sent has left; null: nothing waits. */
  behindSends: (() => void)[] | null = null;
  readonly #turns: (() => void)[] = [];
  readonly #writes: (() => void)[] = [];

  constructor(conf: ConfState, options: Partial<HostOptions> = {}, disk = new Disk<null>('store'), groups: readonly number[] = [GROUP]) {
    this.disk = disk;
    this.storage = new MemoryStorage<null>(disk, (work) => void this.#writes.push(work));
    for (const group of groups) if (!disk.groups.has(group)) this.storage.createGroup(group, { replica: 1, conf, index: 1, term: 1, state: null });
    const ports: HostPorts = {
      storage: this.storage,
      transport: {
        send: (to, frame) => {
          this.frames += 1;
          const inbox = new Inbox();
          assert.equal(decodeFrame(frame, inbox), null);
          if (this.linkUp) for (const message of inbox.messages) this.sent.push({ to, message });
          return this.linkUp;
        },
        bufferedBytes: () => this.buffered,
      },
      machine: {
        apply: (_group, entry) => {
          this.poison?.();
          this.applied.push(text(entry.data));
          return `did ${text(entry.data)}`;
        },
        applyConf: (_group, _entry, now) => void this.confs.push(now),
        restored: (_group, meta) => void this.applied.push(`snapshot ${meta.index}`),
      },
      snapshots: {
        fetch: (group, _from, index, done) => {
          const meta = { index, term: 2, conf: votersOnly(1, 2, 3) };
          this.storage.stage(group, meta, null);
          done(null, meta);
        },
      },
      directory: { node: (_group, replica) => `n${replica}` },
      schedule: (work) => void this.#turns.push(work),
      pace: (_groups, start) => (this.paced === null ? start() : void this.paced.push(start)),
      afterSends: (work) => (this.behindSends === null ? work() : void this.behindSends.push(work)),
      fatal: (error) => void this.fatals.push(error),
    };
    this.host = new RaftHost({ ...HOST_DEFAULTS, node: 'n1', random: seededRandom(3), ...options }, ports);
    for (const group of groups) this.host.addGroup(group, 1);
  }

  /** Turns of the event loop until nothing is scheduled; the disk stands still. */
  turn(): void {
    for (let work = this.#turns.shift(); work !== undefined; work = this.#turns.shift()) work();
  }

  /** One turn only. */
  step(): void {
    this.#turns.shift()?.();
  }

  get writesInFlight(): number {
    return this.#writes.length;
  }

  /** Completes the write in flight. */
  sync(): void {
    const work = this.#writes.shift();
    assert.ok(work !== undefined, 'no write is in flight');
    work();
    this.turn();
  }

  /** Turns and writes until all is still. */
  settle(): void {
    this.turn();
    while (this.#writes.length > 0) this.sync();
  }

  /** Takes what was sent since the last call. */
  take(type?: MessageType): Message[] {
    return this.sent.splice(0).map(({ message }) => message).filter((message) => type === undefined || message.type === type);
  }

  receive(from: number, message: Partial<Message>, group = GROUP): void {
    const writer = new FrameWriter();
    const base: Message = { type: MessageType.append, to: 1, from, term: 1, index: 0, logTerm: 0, commit: 0, entries: [], reject: false, rejectHint: 0, context: 0 };
    writer.message(group, { ...base, ...message });
    this.host.receive(`n${from}`, writer.finish());
  }

  propose(data: string): ProposeOutcome[] {
    const outcomes: ProposeOutcome[] = [];
    this.host.propose(GROUP, new TextEncoder().encode(data), (outcome) => outcomes.push(outcome));
    return outcomes;
  }

  /** Makes this replica leader with the votes of the others. */
  lead(): void {
    this.host.campaign(GROUP);
    this.settle();
    const { term } = this.status();
    for (const from of [2, 3]) this.receive(from, { type: MessageType.preVoteResponse, term: term + 1 });
    this.settle();
    for (const from of [2, 3]) this.receive(from, { type: MessageType.voteResponse, term: this.status().term });
    this.settle();
    assert.equal(this.status().role, 'leader');
    this.acknowledge(2);
    this.take();
  }

  /** Replica `from` acknowledges everything. */
  acknowledge(from: number): void {
    const { lastIndex, term } = this.status();
    this.receive(from, { type: MessageType.appendResponse, term, index: lastIndex });
    this.settle();
  }

  status(): NonNullable<ReturnType<RaftHost['status']>> {
    const status = this.host.status(GROUP);
    assert.ok(status !== undefined);
    return status;
  }
}

function entry(index: number, term: number, data = `e${index}`): Entry {
  return { index, term, type: EntryType.normal, data: new TextEncoder().encode(data) };
}

const THREE = votersOnly(1, 2, 3);

describe('host: persist, send, apply', () => {
  it('a single node leads, and applies a proposal only once it is durable', () => {
    const bench = new Bench(votersOnly(1));
    bench.host.campaign(GROUP);
    bench.settle();
    assert.equal(bench.host.isLeader(GROUP), true);
    const outcomes = bench.propose('x');
    bench.turn();
    assert.deepEqual(bench.applied, []);
    bench.sync();
    assert.deepEqual(bench.applied, ['x']);
    assert.deepEqual(outcomes, [{ status: 'applied', index: 3, term: 2, reply: 'did x' }]);
  });

  it('a follower acknowledges only after its write, and a leader sends before its own', () => {
    const follower = new Bench(THREE);
    follower.receive(2, { term: 2, index: 1, logTerm: 1, entries: [entry(2, 2)] });
    follower.turn();
    assert.deepEqual(follower.take(MessageType.appendResponse), []);
    follower.sync();
    assert.deepEqual(follower.take(MessageType.appendResponse).map(({ index, reject }) => [index, reject]), [[2, false]]);

    const leader = new Bench(THREE);
    leader.lead();
    leader.acknowledge(3);
    leader.take();
    leader.propose('x');
    leader.turn();
    assert.equal(leader.writesInFlight, 1);
    assert.deepEqual(leader.take(MessageType.append).map(({ to }) => to), [2, 3]);
  });

  it('votes leave only after they are durable', () => {
    const bench = new Bench(THREE);
    bench.receive(2, { type: MessageType.vote, term: 5, index: 1, logTerm: 1 });
    bench.turn();
    assert.deepEqual(bench.take(), []);
    bench.sync();
    assert.equal(bench.disk.groups.get(GROUP)?.hardState.vote, 2);
    assert.deepEqual(bench.take().map(({ type, reject }) => [type, reject]), [[MessageType.voteResponse, false]]);
  });

  it('an acknowledgement without new entries still waits for the write it builds on', () => {
    const bench = new Bench(THREE);
    const append = { term: 2, index: 1, logTerm: 1, entries: [entry(2, 2)] };
    bench.receive(2, append);
    bench.turn();
    bench.receive(2, append);
    bench.turn();
    assert.deepEqual(bench.take(MessageType.appendResponse), []);
    bench.sync();
    assert.equal(bench.take(MessageType.appendResponse).length, 2);
  });

  it('gathers what arrives during a write into the next one, one write at a time', () => {
    const bench = new Bench(votersOnly(1));
    bench.host.campaign(GROUP);
    bench.settle();
    const writes = bench.host.stats.writes;
    const outcomes = [bench.propose('a')];
    bench.turn();
    for (const data of ['b', 'c', 'd']) {
      outcomes.push(bench.propose(data));
      bench.turn();
    }
    assert.equal(bench.writesInFlight, 1);
    bench.sync();
    assert.deepEqual(bench.applied, ['a']);
    bench.sync();
    assert.deepEqual(bench.applied, ['a', 'b', 'c', 'd']);
    assert.equal(bench.host.stats.writes - writes, 2);
    assert.ok(outcomes.every(([outcome]) => outcome?.status === 'applied'));
  });

  it('a paced write starts when it is told to, with what gathered until then; appends wait for it, promises for its end', () => {
    const bench = new Bench(votersOnly(1, 2, 3));
    bench.lead();
    bench.settle();
    const paced: (() => void)[] = (bench.paced = []);
    bench.propose('a');
    bench.turn();
    bench.take();
    bench.propose('b');
    bench.turn();
    assert.equal(paced.length, 1);
    assert.equal(bench.writesInFlight, 0);
    assert.deepEqual(bench.take(MessageType.append), []);
    paced.shift()?.();
    assert.equal(bench.writesInFlight, 1);
    const appended = bench.take(MessageType.append).map(({ entries }) => entries.map(({ data }) => text(data)));
    assert.deepEqual(appended, [['b']], 'what joined while the write waited leaves as it starts, not at its end');
    bench.propose('c');
    bench.turn();
    assert.equal(paced.length, 0, 'the next one is asked for after this one');
    bench.sync();
    assert.equal(paced.length, 1);
    const log = bench.storage.log(GROUP);
    assert.deepEqual(log.entries(log.lastIndex() - 1, log.lastIndex() + 1, Infinity).map(({ data }) => text(data)), ['a', 'b']);
    bench.host.stop();
    paced.shift()?.();
    assert.equal(bench.writesInFlight, 0, 'a host that stopped writes nothing, whenever it is told to');
  });

  it('a write is put together once its entries have left for the followers; what joins until then leaves with it', () => {
    const bench = new Bench(THREE);
    bench.lead();
    bench.settle();
    const behind: (() => void)[] = (bench.behindSends = []);
    const appended = (): string[][] => bench.take(MessageType.append).map(({ entries }) => entries.map(({ data }) => text(data)));
    bench.take();
    bench.propose('a');
    bench.turn();
    assert.deepEqual(appended(), [['a']]);
    assert.equal(bench.writesInFlight, 0);
    bench.propose('b');
    bench.turn();
    assert.deepEqual(appended(), [], 'entries that no write begins with gather');
    assert.equal(behind.length, 1, 'one write at a time');
    behind.shift()?.();
    assert.equal(bench.writesInFlight, 1);
    assert.deepEqual(appended(), [['b']]);
    bench.sync();
    const log = bench.storage.log(GROUP);
    assert.deepEqual(log.entries(log.lastIndex() - 1, log.lastIndex() + 1, Infinity).map(({ data }) => text(data)), ['a', 'b']);
    assert.equal(behind.length, 0);
    bench.propose('c');
    bench.turn();
    assert.equal(behind.length, 1);
    bench.host.stop();
    behind.shift()?.();
    assert.equal(bench.writesInFlight, 0, 'a host that stopped writes nothing');
  });

  it('writes all groups in one batch and sends each peer one frame', () => {
    const groups = [1, 2, 3, 4, 5];
    const bench = new Bench(THREE, {}, new Disk<null>('store'), groups);
    for (const group of groups) bench.receive(2, { term: 2, index: 1, logTerm: 1, entries: [entry(2, 2)] }, group);
    bench.turn();
    assert.equal(bench.writesInFlight, 1);
    bench.frames = 0;
    bench.sync();
    assert.equal(bench.frames, 1);
    assert.equal(bench.take(MessageType.appendResponse).length, groups.length);
    assert.equal(bench.host.stats.writes, 1);
  });

  it('entries replaced while a write is in flight never reach the disk', () => {
    const bench = new Bench(THREE);
    bench.receive(2, { term: 2, index: 1, logTerm: 1, entries: [entry(2, 2)] });
    bench.turn();
    // Both come while the first write is under way; the second takes back what the first said.
    bench.receive(2, { term: 2, index: 2, logTerm: 2, entries: [entry(3, 2), entry(4, 2), entry(5, 2)] });
    bench.turn();
    bench.receive(3, { term: 3, index: 2, logTerm: 2, entries: [entry(3, 3, 'new')] });
    bench.turn();
    bench.settle();
    const log = bench.storage.log(GROUP);
    assert.deepEqual(log.entries(2, log.lastIndex() + 1, 1000).map(({ index, term }) => [index, term]), [[2, 2], [3, 3]]);
    assert.equal(log.hardState.term, 3);
  });

  it('what a snapshot overtakes is not applied on top of it', () => {
    const bench = new Bench(THREE, { applyEntriesMax: 1 });
    const entries = Array.from({ length: 5 }, (_, i) => entry(i + 2, 2));
    bench.receive(2, { term: 2, index: 1, logTerm: 1, entries });
    bench.settle();
    bench.receive(2, { type: MessageType.heartbeat, term: 2, commit: 6 });
    bench.step();
    assert.equal(bench.status().backlog, 4);
    bench.receive(2, { type: MessageType.snapshot, term: 2, index: 50, logTerm: 2, commit: 50 });
    // No turn between: the snapshot is taken up in the same one that would go on applying.
    bench.step();
    const before = bench.applied.length;
    bench.settle();
    assert.deepEqual(bench.applied.slice(before), ['snapshot 50']);
    assert.equal(bench.storage.durableApplied(GROUP), 50);
  });

  it('a commit alone starts no write, and rides with the next', () => {
    const bench = new Bench(THREE);
    bench.receive(2, { term: 2, index: 1, logTerm: 1, entries: [entry(2, 2)] });
    bench.settle();
    bench.receive(2, { type: MessageType.heartbeat, term: 2, commit: 2 });
    bench.turn();
    assert.deepEqual(bench.applied, ['e2']);
    assert.equal(bench.writesInFlight, 0);
    bench.host.tick();
    bench.settle();
    assert.equal(bench.storage.durableApplied(GROUP), 2);
    assert.equal(bench.disk.groups.get(GROUP)?.hardState.commit, 1);
    bench.receive(2, { term: 2, index: 2, logTerm: 2, entries: [entry(3, 2)], commit: 2 });
    bench.settle();
    assert.equal(bench.disk.groups.get(GROUP)?.hardState.commit, 2);
  });

  it('applies a bounded number of entries per turn', () => {
    const bench = new Bench(THREE, { applyEntriesMax: 3 });
    const entries = Array.from({ length: 8 }, (_, i) => entry(i + 2, 2));
    bench.receive(2, { term: 2, index: 1, logTerm: 1, entries, commit: 9 });
    bench.step();
    const perTurn: number[] = [];
    let before = 0;
    const finish = (): void => {
      perTurn.push(bench.applied.length - before);
      before = bench.applied.length;
    };
    // The write's completion runs one turn itself; `sync` would run them all.
    bench.poison = () => assert.ok(bench.applied.length - before < 3, 'more than three in one turn');
    const step = bench.step.bind(bench);
    bench.turn = () => {
      finish();
      for (let i = 0; i < 5; i++) {
        step();
        finish();
      }
    };
    bench.sync();
    assert.deepEqual(perTurn.filter((count) => count > 0), [3, 3, 2]);
  });
});

describe('host: idle', () => {
  const follow = (): Bench => {
    const bench = new Bench(THREE);
    bench.receive(2, { type: MessageType.heartbeat, term: 2 });
    bench.settle();
    bench.host.tick();
    bench.settle();
    // The lazily gathered commit is written, the answer to the first heartbeat gone.
    for (let i = 0; i < 3; i++) {
      bench.host.tick();
      bench.settle();
    }
    bench.frames = 0;
    return bench;
  };

  it('answers to heartbeats leave with the next beat, all in one frame', () => {
    const bench = follow();
    for (let i = 0; i < 3; i++) bench.receive(2, { type: MessageType.heartbeat, term: 2 });
    bench.settle();
    assert.equal(bench.frames, 0);
    bench.host.tick();
    bench.settle();
    assert.equal(bench.frames, 0, 'an odd tick is no beat');
    bench.host.tick();
    bench.settle();
    assert.equal(bench.frames, 1);
  });

  it('answers to heartbeats leave at once with whatever else leaves, and those that a read waits for by themselves', () => {
    const bench = follow();
    bench.receive(2, { type: MessageType.heartbeat, term: 2 });
    bench.receive(2, { term: 2, index: 1, logTerm: 1, entries: [entry(2, 2)] });
    bench.settle();
    assert.equal(bench.frames, 1);
    bench.receive(2, { type: MessageType.heartbeat, term: 2, context: 7 });
    bench.settle();
    assert.equal(bench.frames, 2);
  });

  it('heartbeats of all groups fall due at the same tick, whenever they were led', () => {
    const groups = [1, 2, 3];
    const bench = new Bench(votersOnly(1, 2), {}, new Disk<null>('store'), groups);
    for (const group of groups) {
      bench.host.tick();
      bench.host.campaign(group);
      bench.settle();
      bench.receive(2, { type: MessageType.preVoteResponse, term: 2 }, group);
      bench.settle();
      bench.receive(2, { type: MessageType.voteResponse, term: 2 }, group);
      bench.settle();
      bench.receive(2, { type: MessageType.appendResponse, term: 2, index: 2 }, group);
      bench.settle();
      assert.ok(bench.host.isLeader(group));
    }
    // Commits are written, and told of.
    for (let i = 0; i < 3; i++) {
      bench.host.tick();
      bench.settle();
    }
    const frames = Array.from({ length: 8 }, () => {
      bench.frames = 0;
      bench.host.tick();
      bench.settle();
      return bench.frames;
    });
    assert.deepEqual(frames, [0, 1, 0, 1, 0, 1, 0, 1]);
  });

  it('is at rest while its leaders are heard and nothing is to be done, and not when a leader falls silent', () => {
    const bench = follow();
    bench.receive(2, { type: MessageType.heartbeat, term: 2 });
    bench.settle();
    bench.host.tick();
    bench.settle();
    assert.equal(bench.host.isAtRest, true);
    bench.host.readIndex(GROUP, () => undefined);
    assert.equal(bench.host.isAtRest, false, 'a read waits');
    bench.receive(2, { type: MessageType.heartbeat, term: 2 });
    bench.settle();
    const silent = follow();
    silent.receive(2, { type: MessageType.heartbeat, term: 2 });
    silent.settle();
    const rests = Array.from({ length: 6 }, () => {
      silent.host.tick();
      silent.settle();
      return silent.host.isAtRest;
    });
    assert.deepEqual(rests, [true, true, true, true, false, false]);
  });
});

describe('host: answers', () => {
  it('tells a proposal that was overwritten apart from one that applied', () => {
    const bench = new Bench(THREE);
    bench.lead();
    const { term, lastIndex } = bench.status();
    const lost = bench.propose('lost');
    bench.settle();
    assert.deepEqual(lost, []);
    bench.receive(2, { term: term + 1, index: lastIndex, logTerm: term, entries: [entry(lastIndex + 1, term + 1, 'won')], commit: lastIndex + 1 });
    bench.settle();
    assert.deepEqual(lost.map(({ status }) => status), ['not_applied']);
    assert.deepEqual(bench.applied, ['won']);
  });

  it('answers what an entry of a later term rules out, though the log is not that long yet', () => {
    const bench = new Bench(THREE);
    bench.lead();
    const { term, lastIndex } = bench.status();
    const lost: ProposeOutcome[][] = ['a', 'b', 'c'].map((data) => bench.propose(data));
    bench.settle();
    bench.receive(2, { term: term + 1, index: lastIndex, logTerm: term, entries: [entry(lastIndex + 1, term + 1)], commit: lastIndex });
    bench.settle();
    assert.equal(lost.flat().length, 0, 'not committed: they may still win');
    bench.receive(2, { type: MessageType.heartbeat, term: term + 1, commit: lastIndex + 1 });
    bench.settle();
    assert.deepEqual(lost.map(([outcome]) => outcome?.status === 'not_applied' && outcome.reason), ['superseded', 'superseded', 'superseded']);
    assert.equal(bench.status().proposalsWaiting, 0);
  });

  it('answers a proposal that outlives its leadership', () => {
    const bench = new Bench(THREE);
    bench.lead();
    const { term, lastIndex } = bench.status();
    const kept = bench.propose('kept');
    bench.settle();
    bench.receive(2, { term: term + 1, index: lastIndex + 1, logTerm: term, entries: [entry(lastIndex + 2, term + 1)], commit: lastIndex + 1 });
    bench.settle();
    assert.deepEqual(kept, [{ status: 'applied', index: lastIndex + 1, term, reply: 'did kept' }]);
  });

  it('does not know what became of a proposal that a snapshot jumps over', () => {
    const bench = new Bench(THREE);
    bench.lead();
    const { term } = bench.status();
    const outcomes = bench.propose('x');
    bench.settle();
    bench.receive(2, { type: MessageType.snapshot, term: term + 1, index: 50, logTerm: 2, commit: 50 });
    bench.settle();
    assert.deepEqual(outcomes, [{ status: 'unknown', reason: 'snapshot' }]);
    assert.deepEqual(bench.applied, ['snapshot 50']);
    assert.equal(bench.status().applied, 50);
    assert.equal(bench.storage.log(GROUP).lastIndex(), 50);
  });

  it('refuses with the reason, and names the leader', () => {
    const bench = new Bench(THREE);
    bench.receive(2, { type: MessageType.heartbeat, term: 2 });
    bench.settle();
    const refused = bench.propose('x');
    bench.settle();
    assert.deepEqual(refused, [{ status: 'not_applied', reason: 'not_leader', leader: 2 }]);
    const outcomes: ProposeOutcome[] = [];
    bench.host.propose(99, Uint8Array.of(1), (outcome) => outcomes.push(outcome));
    bench.host.propose(GROUP, new Uint8Array(0), (outcome) => outcomes.push(outcome));
    assert.deepEqual(outcomes.map((outcome) => (outcome.status === 'not_applied' ? outcome.reason : outcome.status)), ['no_group', 'invalid']);
  });

  it('refuses beyond the uncommitted limit, keeping what fits', () => {
    const bench = new Bench(THREE, { uncommittedBytesMax: 300 });
    bench.lead();
    const all = Array.from({ length: 10 }, (_, i) => bench.propose(`${i}`.repeat(60)));
    bench.settle();
    const refused = all.filter(([outcome]) => outcome?.status === 'not_applied' && outcome.reason === 'overloaded').length;
    assert.ok(refused >= 5 && refused < 10, `${refused} of 10 were refused`);
    bench.acknowledge(2);
    assert.equal(all.filter(([outcome]) => outcome?.status === 'applied').length, 10 - refused);
  });

  it('replies to a membership change with the membership', () => {
    const bench = new Bench(votersOnly(1));
    bench.host.campaign(GROUP);
    bench.settle();
    const outcomes: ProposeOutcome[] = [];
    const change = { changes: [{ type: ConfChangeType.addLearner, replica: 9 }], joint: false, autoLeave: false, context: Uint8Array.of(5) };
    bench.host.proposeConfChange(GROUP, change, (outcome) => outcomes.push(outcome));
    bench.settle();
    const expected = { ...votersOnly(1), learners: [9] };
    assert.deepEqual(bench.confs, [expected]);
    assert.deepEqual(outcomes.map((outcome) => (outcome.status === 'applied' ? outcome.reply : outcome)), [expected]);
    bench.host.tick();
    bench.settle();
    assert.deepEqual(bench.storage.log(GROUP).conf, expected);
  });

  it('serves a linearizable read after a round that began after it arrived', () => {
    const bench = new Bench(THREE);
    bench.lead();
    const reads: number[] = [];
    bench.host.readIndex(GROUP, (index) => reads.push(index));
    bench.settle();
    const [first] = bench.take(MessageType.heartbeat);
    assert.ok(first !== undefined && first.context > 0);
    // Arrives while that round is under way: it must not be served by it.
    bench.host.readIndex(GROUP, (index) => reads.push(index));
    bench.turn();
    bench.receive(2, { type: MessageType.heartbeatResponse, term: first.term, context: first.context });
    bench.settle();
    assert.equal(reads.length, 1);
    const second = bench.take(MessageType.heartbeat).find(({ context }) => context > first.context);
    assert.ok(second !== undefined);
    bench.receive(3, { type: MessageType.heartbeatResponse, term: second.term, context: second.context });
    bench.settle();
    assert.equal(reads.length, 2);
    assert.equal(bench.host.stats.readRounds, 2);
  });

  it('asks again when a read round goes unanswered, and refuses when there is nobody to ask', () => {
    const bench = new Bench(THREE);
    const reads: number[] = [];
    bench.host.readIndex(GROUP, (index) => reads.push(index));
    bench.settle();
    assert.deepEqual(reads, [-1]);
    bench.receive(2, { type: MessageType.heartbeat, term: 2 });
    bench.settle();
    bench.take();
    bench.host.readIndex(GROUP, (index) => reads.push(index));
    bench.settle();
    const [asked] = bench.take(MessageType.readIndex);
    assert.ok(asked !== undefined);
    for (let i = 0; i < 5; i++) {
      bench.host.tick();
      bench.settle();
    }
    const [again] = bench.take(MessageType.readIndex);
    assert.ok(again !== undefined && again.context !== asked.context);
    // An answer to the round that was given up counts for nothing.
    bench.receive(2, { type: MessageType.readIndexResponse, term: 2, index: 1, context: asked.context });
    bench.settle();
    assert.deepEqual(reads, [-1]);
    bench.receive(2, { type: MessageType.readIndexResponse, term: 2, index: 1, context: again.context });
    bench.settle();
    assert.deepEqual(reads, [-1, 1]);
  });

  it('answers everyone when a group is removed or the host stops', () => {
    const bench = new Bench(THREE);
    bench.lead();
    const removed = bench.propose('x');
    const reads: number[] = [];
    bench.settle();
    bench.host.readIndex(GROUP, (index) => reads.push(index));
    bench.settle();
    bench.host.removeGroup(GROUP);
    assert.deepEqual(removed, [{ status: 'unknown', reason: 'removed' }]);
    assert.deepEqual(reads, [-1]);
    bench.settle();
    bench.host.stop();
    const late = bench.propose('late');
    assert.deepEqual(late, [{ status: 'not_applied', reason: 'stopped', leader: 0 }]);
  });
});

describe('host: what goes wrong', () => {
  it('ignores frames that are malformed, strange or not from where the replica lives', () => {
    const bench = new Bench(THREE);
    bench.host.receive('n2', Uint8Array.of(1, 1, 200));
    bench.host.receive('n2', new Uint8Array(0));
    assert.equal(bench.host.stats.malformedFrames, 2);
    bench.receive(2, { to: 8, term: 9 });
    bench.receive(2, { term: 9 }, 99);
    const writer = new FrameWriter();
    writer.message(GROUP, { type: MessageType.heartbeat, to: 1, from: 2, term: 9, index: 0, logTerm: 0, commit: 0, entries: [], reject: false, rejectHint: 0, context: 0 });
    bench.host.receive('n3', writer.finish());
    assert.equal(bench.host.stats.strayMessages, 3);
    assert.equal(bench.status().term, 1);
    assert.deepEqual(bench.fatals, []);
  });

  it('stops for good after a failed write, and acknowledges nothing more', () => {
    const bench = new Bench(votersOnly(1));
    bench.host.campaign(GROUP);
    bench.settle();
    const outcomes = bench.propose('x');
    bench.storage.write = (_groups, done) => done(new Error('disk full'));
    bench.turn();
    assert.deepEqual(bench.fatals.map(({ message }) => message), ['disk full']);
    assert.deepEqual(outcomes, [{ status: 'unknown', reason: 'failed' }]);
    assert.deepEqual(bench.applied, []);
    bench.host.tick();
    bench.turn();
    assert.equal(bench.fatals.length, 1);
  });

  it('stops on a throw out of apply, unless the replica was taken out by it', () => {
    const broken = new Bench(votersOnly(1));
    broken.host.campaign(GROUP);
    broken.settle();
    broken.poison = () => {
      throw new Error('poison');
    };
    broken.propose('x');
    broken.settle();
    assert.deepEqual(broken.fatals.map(({ message }) => message), ['poison']);

    const damaged = new Bench(votersOnly(1));
    damaged.host.campaign(GROUP);
    damaged.settle();
    damaged.poison = () => {
      damaged.host.removeGroup(GROUP);
      throw new Error('checksum mismatch');
    };
    const outcomes = damaged.propose('x');
    damaged.settle();
    assert.deepEqual(damaged.fatals, []);
    assert.deepEqual(outcomes, [{ status: 'unknown', reason: 'removed' }]);
  });

  it('withholds entries from a node that has too much on its way, but not heartbeats', () => {
    const bench = new Bench(THREE);
    bench.lead();
    bench.acknowledge(3);
    bench.buffered = HOST_DEFAULTS.nodeInflightBytesMax + 1;
    bench.propose('x');
    bench.turn();
    assert.deepEqual(bench.take(MessageType.append).filter(({ entries }) => entries.length > 0), []);
    assert.ok(bench.host.stats.withheldAppends > 0);
    bench.frames = 0;
    for (let i = 0; i < 2; i++) bench.host.tick();
    bench.turn();
    assert.ok(bench.frames >= 2);
    assert.ok(bench.status().progress.some(({ replica, state }) => replica !== 1 && state === 'probe'));
  });

  it('campaigns soon when the link to the leader drops, and probes followers there', () => {
    const follower = new Bench(THREE);
    follower.receive(2, { type: MessageType.heartbeat, term: 2 });
    follower.settle();
    follower.take();
    follower.host.peerDown('n3');
    assert.equal(follower.host.leader(GROUP), 2);
    follower.host.peerDown('n2');
    assert.equal(follower.host.leader(GROUP), 0);
    for (let i = 0; i < HOST_DEFAULTS.linkDownSpreadTicks; i++) follower.host.tick();
    follower.settle();
    assert.ok(follower.take(MessageType.preVote).length > 0);

    const leader = new Bench(THREE);
    leader.lead();
    leader.acknowledge(3);
    leader.host.peerDown('n3');
    assert.equal(leader.status().progress.find(({ replica }) => replica === 3)?.state, 'probe');
    assert.equal(leader.status().progress.find(({ replica }) => replica === 2)?.state, 'replicate');
  });

  it('hands leadership on when its own disk hangs', () => {
    const bench = new Bench(THREE);
    bench.lead();
    bench.propose('x');
    bench.turn();
    assert.equal(bench.writesInFlight, 1);
    for (let i = 0; i < HOST_DEFAULTS.writeStallTicks + 1; i++) {
      bench.receive(2, { type: MessageType.appendResponse, term: bench.status().term, index: bench.status().lastIndex });
      bench.host.tick();
      bench.turn();
    }
    assert.ok(bench.take(MessageType.timeoutNow).some(({ to }) => to === 2));
  });

  it('compacts what every member has, never beyond the durable state', () => {
    const bench = new Bench(votersOnly(1), { compactEntriesMin: 5, compactTicks: 1 });
    bench.host.campaign(GROUP);
    bench.settle();
    for (let i = 0; i < 20; i++) bench.propose(`p${i}`);
    bench.settle();
    assert.equal(bench.storage.durableApplied(GROUP), 2, 'applied, but no write came since');
    bench.host.tick();
    bench.settle();
    bench.host.tick();
    bench.host.tick();
    bench.settle();
    const log = bench.storage.log(GROUP);
    assert.equal(log.firstIndex(), bench.storage.durableApplied(GROUP) + 1);
    assert.equal(bench.applied.length, 20);
  });

  it('trims its log on demand, but nothing that a member is not known to hold or that is not applied durably', () => {
    const bench = new Bench(THREE);
    bench.lead();
    for (let i = 0; i < 5; i++) bench.propose(`p${i}`);
    bench.settle();
    const { lastIndex, term } = bench.status();
    const acknowledge = (from: number, index: number): void => {
      bench.receive(from, { type: MessageType.appendResponse, term, index });
      bench.settle();
      // What is applied becomes durable with the next write.
      for (let i = 0; i < 2; i++) {
        bench.host.tick();
        bench.settle();
      }
    };
    const trimmed = (): number => {
      bench.host.trimLog(GROUP, lastIndex);
      bench.host.tick();
      bench.settle();
      return bench.status().firstIndex - 1;
    };
    acknowledge(2, lastIndex - 1);
    acknowledge(3, lastIndex - 3);
    assert.equal(trimmed(), lastIndex - 3, 'the slower follower still needs the rest');
    acknowledge(3, lastIndex);
    assert.equal(trimmed(), lastIndex - 1);
    acknowledge(2, lastIndex);
    assert.equal(trimmed(), lastIndex);
    assert.equal(bench.storage.durableApplied(GROUP), lastIndex);
    assert.equal(bench.status().commit, lastIndex, 'and it goes on');
  });

  it('trims nothing beyond what it has durably applied', () => {
    const bench = new Bench(votersOnly(1));
    bench.host.campaign(GROUP);
    bench.settle();
    for (let i = 0; i < 5; i++) bench.propose(`p${i}`);
    bench.settle();
    const durable = bench.storage.durableApplied(GROUP);
    assert.ok(durable < bench.status().applied);
    bench.host.trimLog(GROUP, bench.status().applied);
    bench.host.tick();
    bench.settle();
    assert.equal(bench.storage.log(GROUP).firstIndex(), durable + 1);
  });

  it('comes back from its disk and goes on', () => {
    const first = new Bench(votersOnly(1));
    first.host.campaign(GROUP);
    first.settle();
    first.propose('a');
    first.settle();
    const second = new Bench(votersOnly(1), {}, first.disk);
    second.host.campaign(GROUP);
    second.settle();
    const outcomes = second.propose('b');
    second.settle();
    assert.deepEqual(second.applied, ['a', 'b'], 'the state of the first life was not durable yet');
    assert.equal(outcomes[0]?.status, 'applied');
  });
});
