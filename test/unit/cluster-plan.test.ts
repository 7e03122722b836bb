/**
 * The coordinator's plan and the leaders' steps, together on a model of a cluster: any sequence of joins, deaths,
 * returns, wiped disks, damage and drains converges, and no group is ever without a quorum that it could have kept.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { changedConf, LEAVE_JOINT } from '../../raft/confchange.ts';
import type { ConfState, GroupId, NodeId, RaftStatus, ReplicaId } from '../../raft/types.ts';
import { balancedLeaders } from '../../src/cluster/leaders.ts';
import { topologyVoterCount, Weights } from '../../src/cluster/placement.ts';
import { MOVES_MAX, MOVES_PER_NODE, plan, type DamagedReplica } from '../../src/cluster/plan.ts';
import { nextStep } from '../../src/cluster/reconcile.ts';
import { applyTopology, foundingConf, foundingTopology, type SettledGroup, type Topology, type TopologyCommand, type TopologyReply } from '../../src/cluster/topology.ts';
import { TOPOLOGY_GROUP } from '../../src/constants.ts';

const NAMES = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
/** Shared: weights only depend on names, and they are what a plan costs. */
const WEIGHTS = new Weights();

/** A cluster without time: a membership change happens at once where a quorum is alive, and not at all elsewhere. */
class Model {
  topology: Topology;
  readonly confs: ConfState[];
  readonly up = new Set<NodeId>();
  readonly dead = new Set<NodeId>();
  /** Replicas that can do nothing any more: their rows are gone or rotten. */
  readonly lost = new Set<string>();
  private stores = 0;
  moves = 0;
  private transfers = 0;

  constructor(size: number) {
    const members = NAMES.slice(0, size).map((name) => ({ name, storeId: `store-${name}`, address: `${name}:1` }));
    this.topology = foundingTopology({ clusterId: 'cluster', members, mintedKey: '00' });
    this.confs = this.topology.groups.map(foundingConf);
    for (const { name } of members) this.up.add(name);
  }

  apply(command: TopologyCommand): TopologyReply {
    // The table is a group like any other: without a quorum it takes no command.
    if (!this.hasQuorum(TOPOLOGY_GROUP)) return { ok: false, code: 'invalid_command' };
    const { topology, reply } = applyTopology(this.topology, command);
    this.topology = topology;
    return reply;
  }

  join(name: NodeId): TopologyReply {
    if (this.up.has(name)) return { ok: false, code: 'invalid_command' };
    for (const [group, { replicas }] of this.topology.groups.entries()) for (const { id, node } of replicas) if (node === name) this.lost.add(`${group}/${id}`);
    const reply = this.apply({ type: 'join', name, storeId: `store-${++this.stores}`, address: `${name}:1` });
    if (reply.ok) {
      this.up.add(name);
      this.dead.delete(name);
    }
    return reply;
  }

  damaged(): DamagedReplica[] {
    return this.topology.groups.flatMap(({ replicas }, group) => replicas.filter(({ id, node }) => this.up.has(node) && this.lost.has(`${group}/${id}`)).map(({ id }) => ({ group, replica: id })));
  }

  isAlive(group: GroupId, replica: ReplicaId): boolean {
    const node = this.topology.groups[group]?.replicas.find(({ id }) => id === replica)?.node;
    return node !== undefined && this.up.has(node) && !this.lost.has(`${group}/${replica}`);
  }

  private alive(group: GroupId, voters: readonly ReplicaId[]): boolean {
    return voters.length === 0 || voters.filter((id) => this.isAlive(group, id)).length > voters.length >> 1;
  }

  hasQuorum(group: GroupId): boolean {
    const conf = this.confs[group] ?? assert.fail();
    return this.alive(group, conf.voters) && this.alive(group, conf.votersOutgoing);
  }

  /** What the leader of `group` does now; `leader` picks among the voters that could lead. */
  step(group: GroupId, leader: number): SettledGroup | null {
    const conf = this.confs[group] ?? assert.fail();
    if (!this.hasQuorum(group)) return null;
    if (conf.votersOutgoing.length > 0) {
      this.change(group, changedConf(conf, LEAVE_JOINT));
      return null;
    }
    const able = conf.voters.filter((id) => this.isAlive(group, id));
    const self = able[leader % able.length] ?? assert.fail();
    const step = nextStep(this.status(group, self), this.topology.groups[group] ?? assert.fail());
    if (step.type === 'transfer') {
      assert.ok(able.includes(step.to) && step.to !== self);
      this.transfers++;
    }
    if (step.type === 'change') this.change(group, changedConf(conf, step.change));
    return step.type === 'settled' ? { group, ...step.report } : null;
  }

  private change(group: GroupId, next: ConfState | null): void {
    assert.ok(next !== null, 'a leader proposes only what is allowed');
    this.confs[group] = next;
    assert.ok(this.hasQuorum(group), `group ${group} lost its quorum to its own change: ${JSON.stringify(next)}`);
  }

  private status(group: GroupId, self: ReplicaId): RaftStatus {
    const conf = this.confs[group] ?? assert.fail();
    const progress = [...conf.voters, ...conf.learners].filter((id) => id !== self).map((replica) => {
      const active = this.isAlive(group, replica);
      return { replica, match: active ? 1000 : 0, next: 1001, state: active ? 'replicate' : 'probe', active, learner: conf.learners.includes(replica) } as const;
    });
    return { id: self, role: 'leader', term: 1, vote: self, leader: self, commit: 1000, applied: 1000, lastIndex: 1000, firstIndex: 1, conf, progress };
  }

  plan(): ReturnType<typeof plan> {
    return plan(this.topology, { up: this.up, dead: this.dead, damaged: this.damaged() }, WEIGHTS);
  }

  /** One round of everyone. True if anything happened. */
  round(seed: number): boolean {
    const before = this.topology;
    const { command } = this.plan();
    if (command !== null) {
      const reply = this.apply(command);
      if (this.hasQuorum(TOPOLOGY_GROUP)) assert.ok(reply.ok, `a plan for the present table was refused: ${JSON.stringify(reply)}`);
      this.moves += command.moves.length;
    }
    const reports: SettledGroup[] = [];
    const { transfers } = this;
    let changed = this.topology !== before;
    for (const [group, { replicas }] of this.topology.groups.entries()) {
      const conf = this.confs[group];
      if (conf?.votersOutgoing.length === 0 && replicas.every(({ phase }) => phase === 'settled')) continue;
      const report = this.step(group, seed + group);
      if (report !== null) reports.push(report);
      changed ||= this.confs[group] !== conf;
    }
    if (reports.length > 0) changed = this.apply({ type: 'settled', groups: reports }).ok || changed;
    // Another leader leads in the next round, and goes on.
    return changed || this.transfers !== transfers;
  }

  /** Rounds until nothing happens any more. */
  settle(seed = 0): void {
    for (let round = 0; this.round(seed + round); round++) assert.ok(round < 2000, 'the plan does not come to an end');
  }

  /** What must hold of a cluster at rest. */
  assertSound(): void {
    const active = this.topology.nodes.filter(({ name, state }) => state === 'active' && !this.dead.has(name)).map(({ name }) => name);
    const leaders = new Map(active.map((name) => [name, 0]));
    for (const [group, { replicas, preferred }] of this.topology.groups.entries()) {
      const conf = this.confs[group] ?? assert.fail();
      assert.deepEqual(conf.voters, replicas.filter(({ voter }) => voter).map(({ id }) => id).sort((x, y) => x - y), `group ${group}: the membership is what the table says`);
      assert.equal(new Set(replicas.map(({ node }) => node)).size, replicas.length, `group ${group}: one replica a node`);
      for (const { id, node, phase } of replicas) {
        assert.equal(phase, 'settled', `group ${group}`);
        assert.ok(!this.lost.has(`${group}/${id}`) || !this.up.has(node), `group ${group}: what is damaged was replaced`);
      }
      if (active.length >= 3) for (const { node } of replicas) assert.ok(group === TOPOLOGY_GROUP || active.includes(node), `group ${group} left ${node}`);
      leaders.set(preferred, (leaders.get(preferred) ?? 0) + 1);
      if (active.length > 0) assert.ok(active.includes(preferred), `group ${group} is to be led by ${preferred}`);
    }
    const table = this.topology.groups[TOPOLOGY_GROUP]?.replicas ?? [];
    if (active.length >= 3) assert.equal(table.filter(({ voter }) => voter).length, topologyVoterCount(active.length));
    assert.deepEqual(table.map(({ node }) => node).sort(), this.topology.nodes.filter(({ state }) => state !== 'removed').map(({ name }) => name));
    const counts = active.map((name) => leaders.get(name) ?? 0);
    if (active.length >= 3) assert.ok(Math.max(...counts) - Math.min(...counts) <= 2, `leaders are even: ${counts.join(', ')}`);
  }
}

describe('plan', () => {
  it('a cluster at rest needs nothing', () => {
    for (const size of [1, 2, 3, 5]) {
      const model = new Model(size);
      assert.deepEqual(model.plan(), { command: null, waiting: [] });
      model.assertSound();
    }
  });

  it('a node that joins gets its share and no more, a few groups at a time', () => {
    const model = new Model(3);
    assert.ok(model.join('d').ok);
    const first = model.plan().command ?? assert.fail();
    assert.equal(first.moves.length, MOVES_PER_NODE);
    model.settle();
    model.assertSound();
    const hosted = model.topology.groups.slice(0, TOPOLOGY_GROUP).filter(({ replicas }) => replicas.some(({ node }) => node === 'd')).length;
    assert.ok(hosted > 160 && hosted < 225, `${hosted} of 256, for three in four were to move`);
    assert.equal(model.moves, hosted, 'nothing else moved');
  });

  it('grows from one node to three at once, so that no group ever stands on two', () => {
    const model = new Model(1);
    assert.ok(model.join('b').ok);
    model.settle();
    assert.ok(model.confs.slice(0, TOPOLOGY_GROUP).every(({ voters }) => voters.length === 1), 'two nodes are no safer than one');
    assert.ok(model.join('c').ok);
    model.settle();
    model.assertSound();
    assert.ok(model.confs.every(({ voters }) => voters.length === 3));
  });

  it('a wiped node gets new numbers for all it had, and its old store never returns', () => {
    const model = new Model(3);
    model.up.delete('a');
    assert.ok(model.join('a').ok);
    assert.deepEqual(model.apply({ type: 'join', name: 'a', storeId: 'store-a', address: 'a:1' }), { ok: false, code: 'retired' });
    model.settle();
    model.assertSound();
    for (const { replicas, nextReplica } of model.topology.groups) {
      assert.equal(replicas.find(({ node }) => node === 'a')?.id, 4);
      assert.equal(nextReplica, 5);
    }
    assert.equal(model.topology.groups[TOPOLOGY_GROUP]?.replicas.find(({ node }) => node === 'a')?.voter, true);
  });

  it('a dead node is replaced where others can take its groups, and waited for where not', () => {
    const model = new Model(4);
    model.up.delete('b');
    model.settle();
    assert.equal(model.moves, 0, 'silence alone moves nothing');
    model.dead.add('b');
    model.settle();
    model.assertSound();
    model.up.delete('c');
    model.dead.add('c');
    const { command, waiting } = model.plan();
    assert.deepEqual(command?.moves ?? [], []);
    assert.match(waiting.join(), /^node 'c' has been silent for too long, but no other node can take 256 of its replicas/);
  });

  it('a drained node leads nothing at once, hosts nothing in the end, and can then be removed', () => {
    const model = new Model(5);
    assert.ok(model.apply({ type: 'drain', name: 'b', drain: true }).ok);
    assert.deepEqual(model.apply({ type: 'remove', name: 'b', lost: false }), { ok: false, code: 'not_drained' });
    const led = model.topology.groups.filter(({ preferred }) => preferred === 'b').length;
    assert.ok(led > 0);
    assert.equal(model.plan().command?.preferred.length, led);
    model.settle();
    assert.ok(model.topology.groups.slice(0, TOPOLOGY_GROUP).every(({ replicas }) => replicas.every(({ node }) => node !== 'b')));
    assert.ok(model.apply({ type: 'remove', name: 'b', lost: false }).ok);
    model.settle();
    model.assertSound();
    assert.ok(!model.topology.nodes.some(({ name }) => name === 'b'));
    assert.deepEqual(model.apply({ type: 'join', name: 'b', storeId: 'store-b', address: 'b:1' }), { ok: false, code: 'retired' });
    model.up.delete('b');
    assert.ok(model.join('b').ok, 'the name may come back with an empty disk');
  });

  it('a voter of the table on its way out is kept where too few others are left', () => {
    for (const second of ['b', 'c', 'd', 'e']) {
      const model = new Model(5);
      assert.ok(model.apply({ type: 'drain', name: 'a', drain: true }).ok);
      // Decided, and none of it done yet.
      const { command } = model.plan();
      assert.ok(command !== null && command.roles.length > 0 && model.apply(command).ok);
      assert.ok(model.apply({ type: 'drain', name: second, drain: true }).ok);
      model.up.delete(second);
      assert.ok(model.join(second).ok);
      model.settle();
      model.assertSound();
    }
  });

  it('what would leave a group with fewer voters is refused', () => {
    const model = new Model(3);
    for (const command of [{ type: 'drain', name: 'a', drain: true }, { type: 'remove', name: 'a', lost: true }] as const) {
      assert.deepEqual(model.apply(command), { ok: false, code: 'would_lose_quorum' });
    }
    const { epoch } = model.topology;
    assert.deepEqual(model.apply({ type: 'place', ifEpoch: epoch, moves: [{ group: 7, remove: 1, add: null }], roles: [], preferred: [] }), { ok: false, code: 'invalid_command' });
    assert.equal(model.topology.epoch, epoch);
  });

  it('any sequence of joins, deaths, returns, wipes, damage and drains converges and keeps every quorum it can', () => {
    const event = fc.record({
      kind: fc.constantFrom('join', 'down', 'dead', 'back', 'wipe', 'damage', 'drain', 'undrain', 'remove', 'round', 'round'),
      node: fc.constantFrom(...NAMES),
      group: fc.nat(TOPOLOGY_GROUP),
      rounds: fc.nat(12),
    });
    fc.assert(
      fc.property(fc.constantFrom(1, 3, 4, 5), fc.array(event, { maxLength: 14 }), fc.nat(1000), (size, events, seed) => {
        const model = new Model(size);
        for (const event of events) happen(model, event);
        model.settle(seed);
        // Everyone returns who may: then the cluster must come to what it should be.
        for (const { name, state } of model.topology.nodes) {
          if (state !== 'removed') model.up.add(name);
          model.dead.delete(name);
        }
        model.settle(seed);
        if (model.confs.every((_, group) => model.hasQuorum(group))) model.assertSound();
        function happen(model: Model, { kind, node, group, rounds }: { kind: string; node: NodeId; group: GroupId; rounds: number }): void {
          apply(model, kind, node, group);
          for (let round = 0; round < rounds; round++) model.round(seed + round);
          const changing = model.topology.groups.slice(0, TOPOLOGY_GROUP).filter(({ replicas }) => replicas.some(({ phase }) => phase === 'changing')).length;
          assert.ok(changing <= MOVES_MAX, `${changing} groups on the move`);
        }
      }),
      { numRuns: Number(process.env["RUNS"] ?? 80) },
    );
  });

  function apply(model: Model, kind: string, node: NodeId, group: GroupId): void {
    const member = model.topology.nodes.find(({ name }) => name === node);
    /** Faults are kept to what a majority of every group survives, as long as every group has one. */
    const survives = (replica: (group: GroupId) => ReplicaId | undefined, groups: readonly GroupId[]): boolean =>
      groups.every((group) => {
        const conf = model.confs[group] ?? assert.fail();
        const left = (voters: readonly ReplicaId[]): number => voters.filter((id) => id !== replica(group) && model.isAlive(group, id)).length;
        return [conf.voters, conf.votersOutgoing].every((voters) => voters.length === 0 || left(voters) > voters.length >> 1);
      });
    const all = model.confs.map((_, group) => group);
    const on = (group: GroupId): ReplicaId | undefined => model.topology.groups[group]?.replicas.find((replica) => replica.node === node && model.isAlive(group, replica.id))?.id;
    switch (kind) {
      case 'join':
        if (member === undefined) model.join(node);
        return;
      case 'down':
      case 'dead':
        if (member === undefined || !survives(on, all)) return;
        model.up.delete(node);
        if (kind === 'dead') model.dead.add(node);
        return;
      case 'back':
        if (member === undefined || member.state === 'removed') return;
        model.up.add(node);
        model.dead.delete(node);
        return;
      case 'wipe':
        if (member === undefined || !survives(on, all)) return;
        model.up.delete(node);
        model.join(node);
        return;
      case 'damage': {
        const replica = on(group);
        if (replica !== undefined && survives(on, [group])) model.lost.add(`${group}/${replica}`);
        return;
      }
      case 'drain':
      case 'undrain':
        model.apply({ type: 'drain', name: node, drain: kind === 'drain' });
        return;
      case 'remove':
        if (model.apply({ type: 'remove', name: node, lost: !model.up.has(node) }).ok) model.up.delete(node);
        return;
    }
  }
});

describe('leaders', () => {
  it('come out even from any start, where every node can lead enough, and move no more than needed', () => {
    fc.assert(
      fc.property(fc.integer({ min: 3, max: 7 }), fc.infiniteStream(fc.nat(1000)), (count, numbers) => {
        const nodes = NAMES.slice(0, count);
        const pick = (below: number): number => Number(numbers.next().value) % below;
        const candidates = Array.from({ length: 60 }, (_, group) => WEIGHTS.order(nodes, group).slice(0, 3));
        const preferred = candidates.map((hosts) => hosts[pick(3)] ?? '');
        const leaders = [...preferred];
        for (const { group, node } of balancedLeaders(preferred, candidates, true)) leaders[group] = node;
        const counts = nodes.map((node) => leaders.filter((leader) => leader === node).length);
        assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, counts.join(', '));
        for (const [group, leader] of leaders.entries()) assert.ok(candidates[group]?.includes(leader));
        assert.deepEqual(balancedLeaders(leaders, candidates, true), []);
      }),
      { numRuns: 200 },
    );
  });
});
