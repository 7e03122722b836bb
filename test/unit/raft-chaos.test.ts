/**
 * One group under random schedules: loss, duplication, reordering, stalled disks, crashes that lose unfinished writes,
 * membership changes, compaction, transfers. No host and no frames (test/sim has those): what breaks here is Raft.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeConfChange } from '../../raft/confchange.ts';
import { Raft } from '../../raft/raft.ts';
import { ConfChangeType, EntryType } from '../../raft/types.ts';
import type { ConfState, Entry, Message, Random, Ready, ReplicaId } from '../../raft/types.ts';
import { Disk } from '../golden/disk.ts';
import type { State, Write } from '../golden/disk.ts';

const SEEDS = 150;
const STEPS = 4000;
const SETTLE_TICKS = 300;
const FOUNDERS: readonly ReplicaId[] = [1, 2, 3];
const MEMBERS_MAX = 5;

const founding: ConfState = { voters: FOUNDERS, votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const unknown: ConfState = { voters: [], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const text = new TextDecoder();
const bytes = new TextEncoder();

interface Node {
  readonly id: ReplicaId;
  readonly disk: Disk;
  raft: Raft;
  writes: Write[];
  applied: number;
  conf: ConfState;
  state: State;
  staged: State | null;
  stalled: boolean;
  pendingReads: Map<number, number>;
}

/** xorshift32, so that a seed repeats its run. */
function randomFrom(seed: number): Random {
  let x = (seed * 2654435761) >>> 0 || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    x >>>= 0;
    return x / 0x1_0000_0000;
  };
}

class Chaos {
  readonly #random: Random;
  readonly #nodes = new Map<ReplicaId, Node>();
  #network: Message[] = [];
  readonly #leaders = new Map<number, ReplicaId>();
  readonly #committed: string[] = [];
  #proposed = 0;
  #reads = 0;
  #faults = true;
  readsServed = 0;

  constructor(seed: number) {
    this.#random = randomFrom(seed);
    for (const id of FOUNDERS) this.#add(id, founding);
  }

  get commits(): number {
    return this.#committed.length;
  }

  #add(id: ReplicaId, conf: ConfState): void {
    const disk = new Disk(conf);
    const raft = this.#open(id, disk);
    this.#nodes.set(id, { id, disk, raft, writes: [], applied: 0, conf, state: [], staged: null, stalled: false, pendingReads: new Map() });
  }

  #open(id: ReplicaId, log: Disk): Raft {
    return new Raft({
      id, log, random: this.#random, electionTicks: 8, heartbeatTicks: 2, messageBytesMax: 120,
      inflightMessagesMax: 3, inflightBytesMax: 1000, uncommittedBytesMax: 1000, committedBytesMax: 200,
    });
  }

  #pick(): Node {
    const nodes = [...this.#nodes.values()];
    const node = nodes[Math.floor(this.#random() * nodes.length)];
    assert.ok(node);
    return node;
  }

  step(): void {
    const node = this.#pick();
    const dice = this.#random();
    if (dice < 0.1) node.raft.tick();
    else if (dice < 0.4) this.#process(node);
    else if (dice < 0.85) this.#deliver();
    else if (dice < 0.93) this.#propose(node);
    else if (dice < 0.95) this.#read(node);
    else if (dice < 0.96) node.stalled = !node.stalled;
    else if (dice < 0.965) this.#crash(node);
    else if (dice < 0.975) this.#compact(node);
    else if (dice < 0.985) this.#changeMembership(node);
    else if (dice < 0.988) node.raft.transferLeadership(this.#pick().id);
    else if (dice < 0.992) node.raft.reportUnreachable(this.#pick().id);
    else if (dice < 0.995) node.raft.forgetLeader();
    else if (dice < 0.998) node.raft.campaign();
    else this.#network = this.#network.filter(() => this.#random() < 0.5);
  }

  /** Faults stop: all must come to agree, and proposals must commit. */
  settle(): void {
    this.#faults = false;
    for (const node of this.#nodes.values()) node.stalled = false;
    for (let tick = 0; tick < SETTLE_TICKS; tick++) {
      for (const node of this.#nodes.values()) node.raft.tick();
      for (const node of this.#nodes.values()) if (node.raft.isLeader) this.#propose(node);
      for (let turn = 0; turn < 20; turn++) {
        for (const node of this.#nodes.values()) this.#process(node);
        const count = this.#network.length;
        for (let i = 0; i < count; i++) this.#deliver();
      }
    }
    const leader = [...this.#nodes.values()].filter((node) => node.raft.isLeader).sort((a, b) => b.raft.term - a.raft.term)[0];
    assert.ok(leader, 'a leader is found once faults stop');
    assert.ok(leader.raft.commit >= leader.raft.status().lastIndex - 1, 'everything proposed commits once faults stop');
    for (const { replica, match, state } of leader.raft.status().progress) {
      assert.equal(state, 'replicate');
      assert.ok(match >= leader.raft.commit - 1, `replica ${replica} has caught up`);
    }
  }

  #propose(node: Node): void {
    node.raft.propose([bytes.encode(`p${++this.#proposed}`)]);
  }

  #read(node: Node): void {
    // What is committed anywhere now must be covered by the answer.
    const context = ++this.#reads;
    node.pendingReads.set(context, this.#committed.length);
    node.raft.readIndex(context);
  }

  #crash(node: Node): void {
    // A prefix of the unfinished writes may have made it.
    while (node.writes.length > 0 && this.#random() < 0.3) {
      const write = node.writes.shift();
      if (write !== undefined) node.disk.apply(write);
    }
    const { hardState } = node.disk;
    node.writes = [];
    node.staged = null;
    node.stalled = false;
    node.pendingReads.clear();
    node.raft = this.#open(node.id, node.disk);
    node.applied = node.disk.appliedIndex;
    node.conf = node.disk.conf;
    node.state = node.disk.state;
    assert.ok(node.raft.term >= hardState.term);
  }

  #compact(node: Node): void {
    const first = node.disk.appliedIndex + 1 - Math.floor(this.#random() * 3);
    if (first <= node.disk.firstIndex() || node.writes.length > 0) return;
    node.disk.compactTo(first);
    node.raft.compactedTo(first);
  }

  #changeMembership(node: Node): void {
    if (!node.raft.isLeader) return;
    const { conf } = node.raft.status();
    if (conf.votersOutgoing.length > 0) {
      node.raft.proposeConfChange({ changes: [], joint: false, autoLeave: false, context: new Uint8Array(0) });
      return;
    }
    const replica = this.#nodes.size < MEMBERS_MAX ? this.#nodes.size + 1 : this.#pick().id;
    const joint = this.#random() < 0.5;
    const isVoter = conf.voters.includes(replica);
    if (isVoter && conf.voters.length <= 3) return;
    const add = this.#random() < 0.5 ? ConfChangeType.addVoter : ConfChangeType.addLearner;
    const type = isVoter ? ConfChangeType.addLearner : add;
    const changes = [{ type, replica }];
    const swapped = conf.voters.find((voter) => voter !== replica);
    if (joint && type === ConfChangeType.addVoter && swapped !== undefined) changes.push({ type: ConfChangeType.addLearner, replica: swapped });
    const result = node.raft.proposeConfChange({ changes, joint, autoLeave: true, context: new Uint8Array(0) });
    if (result.ok && !this.#nodes.has(replica)) this.#add(replica, unknown);
  }

  #deliver(): void {
    if (this.#network.length === 0) return;
    const at = this.#faults && this.#random() < 0.2 ? Math.floor(this.#random() * this.#network.length) : 0;
    const message = this.#network[at];
    if (message === undefined) return;
    if (!this.#faults || this.#random() > 0.05) this.#network.splice(at, 1);
    if (this.#faults && this.#random() < 0.05) return;
    this.#nodes.get(message.to)?.raft.step(message);
  }

  #process(node: Node): void {
    if (node.raft.hasReady()) this.#handle(node, node.raft.ready());
    if (node.raft.isLeader) {
      const known = this.#leaders.get(node.raft.term) ?? node.id;
      assert.equal(node.id, known, `two leaders in term ${node.raft.term}`);
      this.#leaders.set(node.raft.term, node.id);
    }
    while (node.writes.length > 0 && !node.stalled && (!this.#faults || this.#random() < 0.7)) this.#completeWrite(node);
  }

  #handle(node: Node, ready: Ready): void {
    this.#network.push(...ready.messages);
    for (const entry of ready.committed) this.#apply(node, entry);
    for (const { context, index } of ready.readStates) {
      const least = node.pendingReads.get(context);
      node.pendingReads.delete(context);
      if (least === undefined || index < 0) continue;
      assert.ok(index >= least, `read at ${index} misses what was committed at ${least} when it began`);
      this.readsServed++;
    }
    const applied = { index: node.applied, conf: node.conf, state: node.state };
    node.writes.push({ ready, token: ready.persist, applied, restored: ready.snapshot === null ? null : node.staged });
    if (ready.fetchSnapshot !== null) this.#fetch(node, ready.fetchSnapshot.from);
  }

  #completeWrite(node: Node): void {
    const write = node.writes.shift();
    if (write === undefined) return;
    node.disk.apply(write);
    if (write.token !== null) node.raft.persisted(write.token);
    if (write.ready.snapshot !== null) {
      node.applied = node.disk.appliedIndex;
      node.conf = node.disk.conf;
      node.state = node.disk.state;
    }
    for (const message of write.ready.messagesAfterPersist) {
      if (message.to === node.id) node.raft.step(message);
      else this.#network.push(message);
    }
  }

  #apply(node: Node, entry: Entry): void {
    const command = `${entry.term}/${entry.type}/${text.decode(entry.data)}`;
    const known = this.#committed[entry.index - 1];
    if (known === undefined) {
      assert.equal(entry.index, this.#committed.length + 1, 'commits without a hole');
      this.#committed.push(command);
    } else {
      assert.equal(command, known, `entry ${entry.index} differs`);
    }
    node.state = [...node.state, command];
    if (entry.type === EntryType.confChange) {
      const change = decodeConfChange(entry.data);
      assert.ok(change);
      node.conf = node.raft.applyConfChange(change);
    }
    node.applied = entry.index;
    node.raft.appliedTo(entry.index);
  }

  #fetch(node: Node, from: ReplicaId): void {
    const disk = this.#nodes.get(from)?.disk;
    if (disk === undefined || (this.#faults && this.#random() < 0.3) || node.writes.some((write) => write.ready.snapshot !== null)) return;
    const staged = disk.state;
    const meta = { index: disk.appliedIndex, term: disk.term(disk.appliedIndex), conf: disk.conf };
    if (node.raft.installSnapshot(meta)) {
      node.staged = staged;
      assert.deepEqual(staged, this.#committed.slice(0, meta.index));
    }
  }
}

test('random schedules break no invariant, and the group recovers once faults stop', () => {
  let commits = 0;
  let reads = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    try {
      const chaos = new Chaos(seed);
      for (let step = 0; step < STEPS; step++) chaos.step();
      commits += chaos.commits;
      chaos.settle();
      reads += chaos.readsServed;
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
  // A run in which nothing happens proves nothing.
  assert.ok(commits > SEEDS * 10, `${commits} commits under faults`);
  assert.ok(reads > SEEDS, `${reads} reads served`);
});
