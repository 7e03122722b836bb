/**
 * One simulated run from one seed: a cluster is founded, clients, an administrator and faults work on it for a while,
 * then the faults stop and everything must converge within a bound. Which faults a run knows, and how often, is part of
 * its seed.
 */
import type { ConfState, GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { MessageType } from '../../raft/types.ts';
import { foundingConf, hostsData, type TopologyCommand } from '../../src/cluster/topology.ts';
import { TOPOLOGY_GROUP } from '../../src/constants.ts';
import { Chance, Clock } from './clock.ts';
import type { DiskFaults } from './disk.ts';
import { Disk } from './disk.ts';
import type { State } from './history.ts';
import { EMPTY_STATE, expect, History, Violation } from './history.ts';
import { foundedTable, Memberships } from './memberships.ts';
import type { Mutant } from './mutants.ts';
import { CLEAR, Network } from './network.ts';
import type { World } from './node.ts';
import { founded, proposal, SimNode } from './node.ts';
import { leaderOf } from './steward.ts';

export interface RunOptions {
  readonly seed: number;
  readonly mutant?: Mutant | undefined;
  /** Called with what happens, in order. */
  readonly trace?: ((line: string) => void) | undefined;
}

export interface RunResult {
  readonly seed: number;
  readonly hash: number;
  readonly steps: number;
  readonly acks: number;
  readonly reads: number;
  readonly applies: number;
  /** Ticks that convergence took once the faults had stopped. */
  readonly convergeTicks: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly violation: string | null;
}

const TICK_MS = 50;
const CONVERGE_TICKS_MAX = 1200;
const NODES_MAX = 6;

/** Runs one seed to its end or to the first violation. */
export function runSeed(options: RunOptions): RunResult {
  return new Run(options).result();
}

class Run {
  readonly #seed: number;
  readonly #mutant: Mutant | undefined;
  readonly #clock = new Clock();
  readonly #chance: Chance;
  readonly #network: Network;
  readonly #history = new History();
  readonly #nodes = new Map<NodeId, SimNode>();
  readonly #memberships: Memberships;
  readonly #world: World;
  readonly #groups: GroupId[] = [];
  /** With the table's own. */
  readonly #all: GroupId[] = [];
  readonly #faults: Record<string, number> = {};
  /** Probability per tick of each kind of fault in this run. */
  #odds: Readonly<Record<'crash' | 'restart' | 'cut' | 'partition' | 'reset' | 'slowDisk' | 'pause' | 'transfer' | 'campaign' | 'grow' | 'drain' | 'loss' | 'voteCrash' | 'ackCrash', number>>;
  #backup: { node: SimNode; disk: Disk<State> } | null = null;
  /** The node whose disk was rolled back, until it begins anew. */
  #victim: SimNode | null = null;
  #renewAt = 0;
  #proposals = 0;
  #grown = 0;
  /** Until then crashed nodes rarely come back: long enough to be replaced. */
  #longNightUntil = 0;
  #stormy = true;
  #convergeTicks = 0;

  constructor(options: RunOptions) {
    this.#seed = options.seed;
    this.#mutant = options.mutant;
    this.#chance = new Chance(options.seed);
    const chance = this.#chance;
    this.#network = new Network(this.#clock, chance, options.mutant === 'wiped-votes' || options.mutant === 'older-generation');
    this.#memberships = new Memberships(this.#nodes);
    const trace = options.trace;
    this.#world = {
      clock: this.#clock, chance, network: this.#network, history: this.#history, memberships: this.#memberships, nodes: this.#nodes,
      groups: this.#all,
      mutant: options.mutant,
      nextId: () => ++this.#proposals,
      diskFaults: DISK_MUTANTS.includes(options.mutant) ? (node) => this.#brokenDisk(node) : null,
      checksReopen: options.mutant === undefined,
      leaves: (node, { type, reject }) => {
        const odds = type === MessageType.voteResponse && !reject ? this.#odds.voteCrash : type === MessageType.appendResponse ? this.#odds.ackCrash : 0;
        if (this.#stormy && odds > 0 && chance.yes(odds)) this.#blink(node);
      },
      trace: (text) => trace?.(`${this.#clock.now.toFixed(2).padStart(10)} ${text()}`),
    };
    // Not every run knows every fault: some bugs show only where others do not interfere.
    const knows = (odds: number): number => (chance.yes(0.6) ? odds : 0);
    this.#odds = {
      crash: knows(0.02), restart: 0.04, cut: knows(0.03), partition: knows(0.01), reset: knows(0.03), slowDisk: knows(0.03), pause: knows(0.008),
      transfer: knows(0.05), campaign: knows(0.02), grow: knows(0.006), drain: knows(0.012), loss: knows(0.015),
      voteCrash: knows(0.02), ackCrash: knows(0.001),
    };
    this.#network.weather = chance.yes(0.8) ? { drop: knows(0.05), duplicate: knows(0.05), slow: knows(0.08) } : CLEAR;
    if (options.mutant !== undefined) this.#provoke(options.mutant);
  }

  result(): RunResult {
    let violation: string | null = null;
    try {
      this.#found();
      this.#storm(this.#chance.int(200, 360));
      this.#calm();
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      violation = error instanceof Violation ? error.message : (error.stack ?? error.message);
    }
    const { acks, reads, applies } = this.#history;
    const faults = { ...this.#faults, ...this.#network.counts, changes: this.#memberships.changes };
    return { seed: this.#seed, hash: this.#clock.hash >>> 0, steps: this.#clock.steps, acks, reads, applies, convergeTicks: this.#convergeTicks, faults, violation };
  }

  // --- phases -----------------------------------------------------------------------------------------------------

  #found(): void {
    const size = this.#chance.yes(0.5) ? 3 : 5;
    for (let i = 1; i <= size; i++) this.#nodes.set(`n${i}`, new SimNode(`n${i}`, this.#world));
    const groups = this.#chance.int(2, 4);
    for (let group = 0; group < groups; group++) this.#groups.push(group);
    this.#all.push(...this.#groups, TOPOLOGY_GROUP);
    const nodes = [...this.#nodes.values()];
    const table = foundedTable(nodes.map(({ id }) => id), nodes.map(({ disk }) => disk.storeId), this.#groups);
    const confs = new Map(this.#all.map((group) => [group, foundingConf(table.groups[group] ?? NOBODY)]));
    this.#memberships.found(table, confs);
    for (const [group, conf] of confs) {
      for (const { id, node } of table.groups[group]?.replicas ?? []) {
        this.#nodes.get(node)?.disk.groups.set(group, founded(id, conf, group === TOPOLOGY_GROUP ? table : null));
        this.#nodes.get(node)?.disk.highest.set(group, id);
      }
    }
    for (const node of nodes) node.start();
  }

  /** Clients, administrator and faults at work. */
  #storm(ticks: number): void {
    for (let tick = 0; tick < ticks; tick++) {
      const injected = this.#chance.yes(0.5);
      if (injected) this.#injectFaults();
      this.#work(this.#chance.int(0, 6));
      this.#runFor(TICK_MS);
    }
  }

  /** No more faults: everybody must come to one state, and every group must take a new proposal. */
  #calm(): void {
    this.#stormy = false;
    this.#world.trace(() => '--- calm');
    this.#network.heal();
    for (const node of this.#nodes.values()) {
      node.slowDiskUntil = 0;
      node.pausedUntil = 0;
      if (node.life === null) this.#start(node);
    }
    this.#renewAt = 0;
    const marks = new Map(this.#groups.map((group) => [group, -1]));
    let waits = '';
    for (let tick = 0; tick < CONVERGE_TICKS_MAX; tick++) {
      this.#convergeTicks = tick;
      this.#work(0);
      if (tick % 10 === 0) {
        waits = this.#unsettled(marks);
        if (waits === '') break;
        this.#world.trace(() => `waits: ${waits}`);
        if (tick % 20 === 0) this.#groups.forEach((group) => this.#propose(group, (index) => marks.set(group, index)));
      }
      this.#runFor(TICK_MS);
    }
    expect(waits === '', `no convergence within ${CONVERGE_TICKS_MAX} ticks: ${waits}`);
    this.#history.recheck();
    this.#compare();
    for (const group of this.#all) {
      for (const replica of this.#memberships.conf(group)?.voters ?? []) {
        const state = this.#nodeOf(group, replica)?.life?.states.get(group) ?? EMPTY_STATE;
        this.#history.settled(group, state, replica);
      }
    }
  }

  #runFor(ms: number): void {
    const until = this.#clock.now + ms;
    let reached = false;
    this.#clock.after(ms, () => {
      reached = true;
    });
    while (!reached && this.#clock.now <= until && this.#clock.step());
    this.#compare();
  }

  #work(clients: number): void {
    this.#renewVictim();
    this.#forgetRemoved();
    for (let i = 0; i < clients; i++) {
      const group = this.#chance.pick(this.#groups) ?? 0;
      this.#clock.after(this.#chance.float() * TICK_MS, () => (this.#chance.yes(0.7) ? this.#propose(group, () => {}) : this.#read(group)));
    }
  }

  /** What keeps the cluster from being settled, in words; '' when nothing does. */
  #unsettled(marks: ReadonlyMap<GroupId, number>): string {
    const { table } = this.#memberships;
    if (this.#victim !== null) return `${this.#victim.id} has not begun anew`;
    for (const node of this.#nodes.values()) {
      if (!table.nodes.some(({ name, storeId }) => name === node.id && storeId === node.disk.storeId)) return `${node.id} is no member`;
    }
    const lowest = [...this.#nodes.keys()].sort()[0];
    if (table.coordinator !== lowest) return `${table.coordinator} coordinates, not ${lowest}`;
    for (const group of this.#all) {
      const leader = leaderOf(this.#world, group);
      if (leader === null) return `group ${group} has no leader`;
      if (group !== TOPOLOGY_GROUP && (marks.get(group) ?? -1) < 0) return `group ${group} takes no proposal`;
      const { conf, commit } = leader.status;
      if (conf.votersOutgoing.length > 0) return `group ${group} is between two memberships`;
      for (const { id, node, voter, phase } of table.groups[group]?.replicas ?? []) {
        if (phase !== 'settled') return `group ${group}: replica ${id} on ${node} is ${phase}`;
        if (!(voter ? conf.voters : conf.learners).includes(id)) return `group ${group}: replica ${id} is not what the table says`;
        const status = this.#nodes.get(node)?.host?.status(group);
        if (status === undefined || status.id !== id) return `group ${group} misses replica ${id}`;
        if (status.applied !== commit) return `group ${group}: replica ${id} (${status.role}, term ${status.term}) applied ${status.applied} of ${commit}`;
        if (status.readsWaiting > 0 || status.proposalsWaiting > 0) return `group ${group}: callers wait at replica ${id}`;
      }
    }
    return '';
  }

  #compare(): void {
    for (const node of this.#nodes.values()) {
      if (node.isRolledBack) continue;
      for (const [group, image] of node.disk.groups) if (!node.damaged.has(group)) this.#history.compareCommitted(group, image);
    }
    this.#memberships.check();
  }

  // --- clients ----------------------------------------------------------------------------------------------------

  #propose(group: GroupId, acked: (index: number) => void): void {
    const leader = leaderOf(this.#world, group);
    const node = leader !== null && this.#chance.yes(0.8) ? leader.node : this.#chance.pick([...this.#nodes.values()]);
    const life = node?.life;
    if (node === undefined || life == null || node.pausedUntil > this.#clock.now) return;
    const id = this.#world.nextId();
    life.host.propose(group, proposal(id, this.#chance.int(0, 60)), (outcome) => {
      if (node.life !== life || life.outcast) return;
      this.#clock.note(id);
      if (outcome.status === 'applied') {
        expect(outcome.reply === id, `group ${group}: proposal ${id} got the reply of ${String(outcome.reply)}`);
        this.#history.acknowledged(group, id, outcome.index);
        acked(outcome.index);
      } else if (outcome.status === 'not_applied') {
        this.#history.refused(group, id);
      }
    });
  }

  #read(group: GroupId): void {
    const node = this.#chance.pick([...this.#nodes.values()]);
    const life = node?.life;
    if (node === undefined || life == null || node.pausedUntil > this.#clock.now) return;
    const floor = this.#history.floor(group);
    life.host.readIndex(group, (index) => {
      if (node.life !== life || life.outcast || index < 0) return;
      const applied = life.host.status(group)?.applied ?? 0;
      expect(index <= applied, `group ${group}: read answered at ${index}, but only ${applied} is applied`);
      this.#history.read(group, floor, life.states.get(group) ?? EMPTY_STATE);
    });
  }

  // --- faults -----------------------------------------------------------------------------------------------------

  #injectFaults(): void {
    const chance = this.#chance;
    const odds = this.#odds;
    const nodes = [...this.#nodes.values()];
    const node = chance.pick(nodes);
    const other = chance.pick(nodes);
    const group = chance.pick(this.#groups) ?? 1;
    if (node === undefined || other === undefined) return;
    if (chance.yes(odds.crash * 2)) this.#crash(node);
    for (const down of nodes) if (down.life === null && chance.yes(odds.restart * (this.#clock.now < this.#longNightUntil ? 0.2 : 2))) this.#start(down);
    if (chance.yes(0.002)) this.#longNightUntil = this.#clock.now + 8000;
    if (chance.yes(odds.cut * 2) && node !== other) {
      this.#count('cuts');
      this.#network.cut(node.id, other.id, chance.int(100, 3000));
    }
    if (chance.yes(odds.partition * 2)) this.#partition(nodes);
    if (chance.yes(odds.reset * 2) && node !== other) this.#reset(node, other);
    if (chance.yes(odds.slowDisk * 2)) {
      this.#count('slowDisks');
      node.slowDiskUntil = this.#clock.now + chance.int(200, 4000);
    }
    if (chance.yes(odds.pause * 2)) {
      this.#count('pauses');
      node.pausedUntil = this.#clock.now + chance.int(100, 3000);
    }
    if (chance.yes(odds.transfer * 2)) this.#transfer(group);
    if (chance.yes(odds.campaign * 2)) {
      this.#count('campaigns');
      if (chance.yes(0.5)) this.#duel(group, node, other);
      else node.host?.campaignWithin(group, chance.int(1, 5));
    }
    if (chance.yes(odds.grow * 2)) this.#grow();
    if (chance.yes(odds.drain * 2)) this.#administer(node);
    if (chance.yes(odds.loss * 2)) this.#lose(node, group);
    if ((this.#backup === null || this.#backup.disk.storeId !== this.#backup.node.disk.storeId || chance.yes(0.02)) && node.life !== null) this.#backup = { node, disk: node.disk.copy() };
  }

  #count(fault: string): void {
    this.#faults[fault] = (this.#faults[fault] ?? 0) + 1;
  }

  #crash(node: SimNode): void {
    if (node.life === null) return;
    this.#count('crashes');
    node.crash(this.#chance.yes(0.5));
    for (const peer of this.#nodes.values()) {
      if (peer === node) continue;
      this.#network.reset(node.id, peer.id);
      // A process that dies resets its links at once; a machine that dies does not.
      if (this.#chance.yes(0.5)) peer.host?.peerDown(node.id);
    }
  }

  /** Two candidates at once, which perhaps cannot hear each other. */
  #duel(group: GroupId, a: SimNode, b: SimNode): void {
    for (const node of [a, b]) node.host?.campaign(group);
    if (a === b || this.#chance.yes(0.5)) return;
    this.#network.cut(a.id, b.id, 500);
    this.#network.cut(b.id, a.id, 500);
  }

  /** Crashes right after a message left, and comes back soon. */
  #blink(node: SimNode): void {
    const { life } = node;
    this.#count('blinks');
    this.#clock.after(0, () => {
      if (node.life !== life) return;
      this.#crash(node);
      this.#clock.after(this.#chance.int(1, 100), () => this.#start(node));
    });
  }

  #start(node: SimNode): void {
    if (node.life !== null) return;
    node.pausedUntil = 0;
    node.start();
    for (const peer of this.#nodes.values()) {
      if (peer === node) continue;
      peer.host?.peerUp(node.id);
      node.host?.peerUp(peer.id);
    }
  }

  #partition(nodes: readonly SimNode[]): void {
    this.#count('partitions');
    const ms = this.#chance.int(500, 4000);
    const side = new Set(nodes.filter(() => this.#chance.yes(0.5)));
    for (const a of nodes) for (const b of nodes) if (side.has(a) !== side.has(b)) this.#network.cut(a.id, b.id, ms);
  }

  #reset(a: SimNode, b: SimNode): void {
    this.#count('resets');
    this.#network.reset(a.id, b.id);
    a.host?.peerDown(b.id);
    b.host?.peerDown(a.id);
    this.#clock.after(this.#chance.int(1, 300), () => {
      a.host?.peerUp(b.id);
      b.host?.peerUp(a.id);
    });
  }

  #transfer(group: GroupId): void {
    const leader = leaderOf(this.#world, group);
    const to = leader === null ? undefined : this.#chance.pick(leader.status.conf.voters);
    if (leader === null || to === undefined) return;
    if (leader.node.host?.transferLeadership(group, to) === true) this.#count('transfers');
  }

  /** A new node comes with an empty disk; its name may make it the lowest of all. */
  #grow(): void {
    if (this.#nodes.size >= NODES_MAX) return;
    this.#count('joins');
    this.#grown += 1;
    const node = new SimNode(`${this.#chance.yes(0.5) ? 'a' : 'z'}${this.#grown}`, this.#world);
    this.#nodes.set(node.id, node);
    this.#start(node);
  }

  /** Somebody asks for a node to be emptied, kept after all, or removed. */
  #administer(asked: SimNode): void {
    const { table } = this.#memberships;
    const draining = table.nodes.filter(({ state }) => state === 'draining');
    const node = this.#chance.pick(draining.length > 0 && this.#chance.yes(0.7) ? draining : table.nodes);
    if (node === undefined || node.state === 'removed') return;
    const { name } = node;
    let command: TopologyCommand = { type: 'drain', name, drain: node.state !== 'draining' };
    if (node.state === 'draining' && (!hostsData(table, name) || this.#chance.yes(0.5))) command = { type: 'remove', name, lost: this.#nodes.get(name)?.life === null };
    this.#count(command.type === 'drain' ? 'drains' : 'removals');
    asked.life?.steward.propose(command);
  }

  /** A node that was removed has nothing left to do. */
  #forgetRemoved(): void {
    for (const node of this.#nodes.values()) {
      if (!this.#memberships.table.retired.includes(node.disk.storeId) || this.#memberships.table.nodes.some(({ name }) => name === node.id)) continue;
      this.#world.trace(() => `${node.id} was removed`);
      node.crash(false);
      this.#nodes.delete(node.id);
      if (node === this.#victim) this.#victim = null;
      if (node === this.#backup?.node) this.#backup = null;
    }
  }

  /** A disk loses what it acknowledged: one at a time, and the next only when nothing is missing of the last. */
  #lose(node: SimNode, group: GroupId): void {
    if (this.#victim !== null || !this.#memberships.isSound()) return;
    const kind = this.#mutant === 'wiped-votes' ? 3 : this.#mutant === 'older-generation' ? 2 : this.#chance.int(1, 3);
    if (kind === 2) return this.#rollBack();
    const image = node.disk.groups.get(group);
    if (kind === 1 && image !== undefined && image.log.length > 0 && this.#mutant === undefined) {
      this.#count('rots');
      image.rotten = image.start + this.#chance.int(1, image.log.length);
      this.#world.trace(() => `${node.id} group ${group}: entry ${image.rotten} rots`);
      return;
    }
    this.#count('wipes');
    this.#crash(node);
    if (this.#mutant === 'wiped-votes') this.#forgetRows(node);
    else node.replaceDisk();
    this.#world.trace(() => `${node.id} lost its disk`);
    this.#start(node);
  }

  /** A backup comes back in place of the disk it was made from. */
  #rollBack(): void {
    const backup = this.#backup;
    if (backup === null || backup.disk.storeId !== backup.node.disk.storeId || backup.disk.opens.length >= backup.node.disk.opens.length) return;
    const { node, disk } = backup;
    this.#count('rollbacks');
    this.#crash(node);
    node.crash(false);
    node.disk = this.#sameReplicas(disk, node.disk);
    node.isRolledBack = true;
    node.damaged.clear();
    this.#backup = null;
    this.#victim = node;
    this.#renewAt = this.#clock.now + this.#chance.int(500, 5000);
    this.#world.trace(() => `${node.id} rolls back`);
    this.#start(node);
  }

  /** The mutant: the rows are gone, but the node comes back as who it was. */
  #forgetRows(node: SimNode): void {
    const wiped = new Disk<State>(node.disk.storeId);
    for (const [group, { replica, state }] of node.disk.groups) wiped.groups.set(group, founded(replica, this.#memberships.conf(group) ?? NO_CONF, state.table));
    wiped.highest = node.disk.highest;
    node.crash(false);
    node.disk = wiped;
    node.isRolledBack = true;
    this.#victim = node;
    this.#renewAt = this.#clock.now + this.#chance.int(500, 5000);
  }

  /** The rolled-back images of replicas that still exist. */
  #sameReplicas(old: Disk<State>, current: Disk<State>): Disk<State> {
    const disk = old.copy();
    for (const [group, image] of disk.groups) if (current.groups.get(group)?.replica !== image.replica) disk.groups.delete(group);
    return disk;
  }

  /** Who was refused for its old disk begins anew, with an empty one. */
  #renewVictim(): void {
    const victim = this.#victim;
    if (victim === null || this.#clock.now < this.#renewAt) return;
    this.#victim = null;
    this.#crash(victim);
    victim.replaceDisk();
    this.#start(victim);
  }

  #nodeOf(group: GroupId, replica: ReplicaId): SimNode | undefined {
    const home = this.#memberships.home(group, replica);
    return home === undefined ? undefined : this.#nodes.get(home);
  }

  /** Makes what the mutant does wrong matter: without the right faults it would behave. */
  #provoke(mutant: Mutant): void {
    switch (mutant) {
      case 'wiped-votes':
        this.#odds = { ...this.#odds, crash: 0.02, loss: 0.05 };
        return;
      case 'older-generation':
        this.#odds = { ...this.#odds, crash: 0.05, restart: 0.2, cut: 0.06, loss: 0.2 };
        return;
      case 'remove-early':
        this.#odds = { ...this.#odds, grow: 0.03, drain: 0.03, loss: 0.02 };
        return;
      case 'found-from-absence':
        this.#odds = { ...this.#odds, loss: 0.05, partition: 0.05, cut: 0.06 };
        return;
      case 'vote-twice':
        // Two candidates of one term, and one of them does not hear in time that the other has won.
        this.#odds = { ...this.#odds, campaign: 0.4, voteCrash: 0.4, pause: 0 };
        this.#network.weather = { drop: 0.1, duplicate: 0.1, slow: 0.5 };
        return;
      case 'skip-sync':
      case 'count-before-sync':
        this.#odds = { ...this.#odds, crash: 0.05, restart: 0.2 };
        return;
    }
  }

  /** The disks of the mutants. */
  #brokenDisk(node: SimNode): DiskFaults<State> {
    const mutant = this.#mutant;
    return {
      reportsEarly: (writes) => mutant === 'count-before-sync' && writes.length > 0 && writes.every(({ group }) => node.host?.isLeader(group) === true),
      unsyncedWrites: mutant === 'skip-sync' ? 8 : 0,
      afterCrash: (image) => {
        if (mutant === 'vote-twice') image.hardState = { ...image.hardState, vote: 0 };
      },
    };
  }
}

const NO_CONF: ConfState = { voters: [], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const NOBODY = { replicas: [], nextReplica: 1, preferred: '' };
const DISK_MUTANTS: readonly (Mutant | undefined)[] = ['skip-sync', 'count-before-sync', 'vote-twice'];
