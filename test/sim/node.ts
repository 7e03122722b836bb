/**
 * A simulated server: a disk that outlives it, and between start and crash a real RaftHost over modelled storage,
 * transport and state machine. Everything a dead process still had under way is ignored.
 */
import type { HostPorts } from '../../raft/ports.ts';
import { RaftHost } from '../../raft/host.ts';
import type { HostOptions } from '../../raft/host.ts';
import { Inbox } from '../../raft/inbox.ts';
import type { ConfState, Entry, GroupId, Message, NodeId, ReplicaId, SnapshotMeta } from '../../raft/types.ts';
import { decodeFrame } from '../../raft/wire.ts';
import { REST_STEPS } from '../../src/cluster/ticker.ts';
import { applyTopology, type Topology } from '../../src/cluster/topology.ts';
import { TOPOLOGY_GROUP } from '../../src/constants.ts';
import type { Chance, Clock } from './clock.ts';
import type { DiskFaults } from './disk.ts';
import { Disk, DiskGroup, MemoryStorage } from './disk.ts';
import type { History, State } from './history.ts';
import { EMPTY_STATE, Violation } from './history.ts';
import type { Memberships } from './memberships.ts';
import type { Mutant } from './mutants.ts';
import type { Network } from './network.ts';
import { Steward } from './steward.ts';

/** Of the times that applied state could wait for a later write, so many it does. */
const STATE_WAITS = 0.8;

/** Of the writes that could start, so many do; the others wait a little. */
const WRITES_AT_ONCE = 0.7;

/** Small limits, so that every one of them is met in a short run. */
export const SMALL_LIMITS: Omit<HostOptions, 'node' | 'random'> = {
  electionTicks: 12, heartbeatTicks: 2, messageBytesMax: 300, inflightMessagesMax: 4, inflightBytesMax: 1500, uncommittedBytesMax: 3000,
  committedBytesMax: 400, waitingMax: 200, applyEntriesMax: 8, applyBytesMax: 500, nodeInflightBytesMax: 3000, frameBytesMax: 800,
  logKeepBytesMax: 400, logKeepBytesNodeMax: 1500, compactEntriesMin: 4, compactTicks: 10, readRetryTicks: 4, linkDownSpreadTicks: 6,
  writeStallTicks: 12,
};

/** What the nodes of a run share. */
export interface World {
  readonly clock: Clock;
  readonly chance: Chance;
  readonly network: Network;
  readonly history: History;
  readonly memberships: Memberships;
  readonly nodes: Map<NodeId, SimNode>;
  /** The groups that are run, the table's own the last. */
  readonly groups: readonly GroupId[];
  readonly mutant: Mutant | undefined;
  /** A number for a proposal. */
  nextId(): number;
  readonly diskFaults: ((node: SimNode) => DiskFaults<State>) | null;
  /** Whether a disk that forgot what was promised is itself a violation, or only what follows from it. */
  readonly checksReopen: boolean;
  /** `message` is about to leave `node`: the moment to crash it if what it promises is not on disk. */
  leaves(node: SimNode, message: Message): void;
  trace(text: () => string): void;
}

/** How often a node looks at the table and at what it should do about it. */
const STEWARD_MS = 100;
const SNAPSHOT_CHUNKS = 3;
const CHUNK_TRIES = 3;

/** One life of a process. */
export interface Life {
  readonly host: RaftHost;
  readonly storage: MemoryStorage<State>;
  readonly states: Map<GroupId, State>;
  /** Refused by its peers: it runs, but nobody listens. */
  readonly outcast: boolean;
  readonly steward: Steward;
  /** The latest table that a peer told of. */
  told: Topology | null;
}

export class SimNode {
  readonly id: NodeId;
  disk: Disk<State>;
  /** The disk is an older one than it was: what is on it was contradicted since. */
  isRolledBack = false;
  life: Life | null = null;
  pausedUntil = 0;
  slowDiskUntil = 0;
  /** Replicas that found themselves damaged; they take no part until they are replaced. */
  readonly damaged = new Set<GroupId>();
  readonly #world: World;

  constructor(id: NodeId, world: World) {
    this.id = id;
    this.#world = world;
    this.disk = new Disk<State>(world.memberships.newStore(id));
  }

  get host(): RaftHost | null {
    return this.life === null ? null : this.life.host;
  }

  /** Opens the disk and starts. */
  start(): void {
    const { clock, chance, network, history } = this.#world;
    const { disk } = this;
    disk.opens.push(chance.int(0, 2 ** 31));
    const storage = new MemoryStorage<State>(disk, (work) => clock.after(this.#diskMs(), work), this.#world.diskFaults?.(this) ?? null, () => chance.float() < STATE_WAITS);
    const host = new RaftHost({ ...SMALL_LIMITS, node: this.id, random: chance.float }, this.#ports(storage));
    const life: Life = { host, storage, states: new Map(), outcast: !network.introduces(disk.storeId, disk.opens), steward: new Steward(this, this.#world), told: null };
    this.life = life;
    for (const [group, image] of disk.groups) {
      if (image.rotten !== 0) this.damaged.add(group);
      if (this.damaged.has(group)) continue;
      if (!this.isRolledBack && this.#world.checksReopen) history.reopened(group, image);
      this.hostGroup(group);
    }
    this.#world.trace(() => `${this.id} starts, open ${disk.opens.length}${life.outcast ? ', refused by its peers' : ''}`);
    clock.after(chance.float() * 50, () => this.#tick(life));
    clock.after(chance.float() * STEWARD_MS, () => this.#look(life));
  }

  /** The latest table this node knows of: its own replica's, or what it was told. */
  table(): Topology | null {
    if (this.life === null) return null;
    const own = this.life.states.get(TOPOLOGY_GROUP)?.table ?? null;
    const { told } = this.life;
    return own === null || (told !== null && told.revision > own.revision) ? told : own;
  }

  /** True if this node takes `peer` for a member: the disk it came with is the one that the table knows. */
  admits(peer: SimNode): boolean {
    if (peer.life === null || peer.life.outcast) return false;
    const table = this.table();
    return table === null || table.nodes.some(({ name, storeId }) => name === peer.id && storeId === peer.disk.storeId);
  }

  /** A new and empty disk takes the place of the one it had. */
  replaceDisk(): void {
    this.crash(false);
    this.disk = new Disk<State>(this.#world.memberships.newStore(this.id));
    this.isRolledBack = false;
    this.damaged.clear();
  }

  /** Lets the running host run a group that is on disk. */
  hostGroup(group: GroupId): void {
    const life = this.life;
    if (life === null) return;
    const image = life.storage.log(group);
    life.states.set(group, image.state);
    image.onDamage = () => {
      this.#world.trace(() => `${this.id} group ${group}: damage found`);
      this.damaged.add(group);
      life.host.removeGroup(group);
    };
    life.host.addGroup(group, image.replica);
  }

  /** Makes room for a new replica that knows nothing yet; a snapshot will tell it all. */
  createReplica(group: GroupId, replica: ReplicaId): void {
    const life = this.life;
    if (life === null) return;
    this.dropReplica(group);
    const conf: ConfState = { voters: [], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
    this.disk.highest.set(group, replica);
    life.storage.createGroup(group, { replica, conf, index: 0, term: 0, state: EMPTY_STATE });
    this.hostGroup(group);
  }

  /** A replica that has the group for itself, from the beginning. */
  foundReplica(group: GroupId, replica: ReplicaId): void {
    this.disk.groups.set(group, founded(replica, { voters: [replica], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false }, null));
    this.hostGroup(group);
  }

  dropReplica(group: GroupId): void {
    this.damaged.delete(group);
    if (this.life === null) {
      this.disk.groups.delete(group);
      return;
    }
    this.life.host.removeGroup(group);
    this.life.storage.deleteGroup(group);
  }

  replica(group: GroupId): ReplicaId {
    return this.disk.groups.get(group)?.replica ?? 0;
  }

  crash(writeSurvives: boolean): void {
    const life = this.life;
    if (life === null) return;
    this.life = null;
    life.storage.crash(writeSurvives);
    this.#world.trace(() => `${this.id} crashes, its write ${writeSurvives ? 'survives' : 'is lost'}`);
  }

  receive(from: NodeId, sender: Life, frame: Uint8Array): void {
    const life = this.life;
    const { clock } = this.#world;
    const peer = this.#world.nodes.get(from);
    if (life === null || life.outcast || sender.outcast || peer === undefined || peer.life !== sender || !this.admits(peer) || !peer.admits(this)) return;
    if (this.pausedUntil > clock.now) {
      clock.after(this.pausedUntil - clock.now, () => this.receive(from, sender, frame));
      return;
    }
    clock.note(frame.length);
    life.host.receive(from, frame);
  }

  /** As the product's ticker: while the host is at rest, several ticks are made together. */
  #tick(life: Life, due = 1): void {
    if (this.life !== life) return;
    const { clock } = this.#world;
    const isPaused = this.pausedUntil > clock.now;
    if (!isPaused) for (let left = due; left > 0; left--) life.host.tick();
    const next = !isPaused && life.host.isAtRest ? REST_STEPS : 1;
    clock.after(50 * next, () => this.#tick(life, next));
  }

  #look(life: Life): void {
    if (this.life !== life) return;
    const { clock } = this.#world;
    clock.after(STEWARD_MS, () => this.#look(life));
    if (this.pausedUntil <= clock.now && !life.outcast) life.steward.round(life);
  }

  #diskMs(): number {
    const { clock, chance } = this.#world;
    const slow = this.slowDiskUntil > clock.now;
    return slow ? 100 + chance.float() * 1400 : 0.5 + chance.float() * 3;
  }

  /** Runs `work` in this life only, and not while the process is stopped. */
  #later(life: () => Life | null, ms: number, work: () => void): void {
    const { clock } = this.#world;
    const born = life();
    clock.after(ms, () => {
      if (this.life === null || (born !== null && this.life !== born)) return;
      if (this.pausedUntil > clock.now) this.#later(() => born, this.pausedUntil - clock.now, work);
      else work();
    });
  }

  #ports(storage: MemoryStorage<State>): HostPorts {
    const { clock, chance, network, history, memberships, nodes } = this.#world;
    const own = (): Life | null => (this.life?.storage === storage ? this.life : null);
    const inbox = new Inbox();
    return {
      storage,
      directory: { node: (group, replica) => this.table()?.groups[group]?.replicas.find(({ id }) => id === replica)?.node },
      transport: {
        send: (to, frame) => {
          const life = own();
          const peer = nodes.get(to);
          if (life === null || peer === undefined || network.bufferedBytes(this.id, to) > 20_000) return false;
          if (!life.outcast) {
            inbox.clear();
            if (decodeFrame(frame, inbox) !== null) throw new Violation(`${this.id} sent a frame that cannot be decoded`);
            for (let i = 0; i < inbox.messages.length; i++) {
              const message = inbox.messages[i];
              if (message === undefined) continue;
              if (this.#world.checksReopen) history.sent(inbox.groups[i] ?? 0, message);
              this.#world.leaves(this, message);
            }
          }
          network.send(this.id, to, frame.length, () => peer.receive(this.id, life, frame));
          return true;
        },
        bufferedBytes: (to) => network.bufferedBytes(this.id, to),
      },
      machine: {
        apply: (group, entry) => this.#apply(storage, group, entry),
        applyConf: (group, entry, conf) => {
          clock.note(entry.index);
          memberships.applied(group, entry.index, conf);
          this.#world.trace(() => `${this.id} group ${group}: membership ${JSON.stringify(conf)} at ${entry.index}`);
        },
        restored: (group, meta) => {
          this.life?.states.set(group, storage.log(group).state);
          this.#world.trace(() => `${this.id} group ${group}: snapshot ${meta.index} installed`);
        },
      },
      snapshots: {
        fetch: (group, from, index, done) => this.#fetch({ storage, group, from, index, done }),
        discard: (group) => storage.discard(group),
      },
      schedule: (work) => this.#later(own, 0, work),
      pace: (_groups, start) => (chance.float() < WRITES_AT_ONCE ? start() : this.#later(own, chance.int(1, 5), start)),
      afterSends: (work) => this.#later(own, 0, work),
      fatal: (error) => {
        if (error instanceof Violation) throw error;
        throw new Violation(`${this.id} stopped itself: ${error.stack ?? error.message}`);
      },
      onLeader: (group, leader, term, isSelf) => {
        if (isSelf) history.leader(group, term, leader);
        if (isSelf) this.#world.trace(() => `${this.id} group ${group}: replica ${leader} leads term ${term}`);
      },
    };
  }

  #apply(storage: MemoryStorage<State>, group: GroupId, entry: Entry): number {
    const states = this.life?.states;
    if (states === undefined) return 0;
    const id = entryId(entry.data);
    const { history, memberships } = this.#world;
    const state = this.#applied(group, id, history.apply(group, { index: entry.index, term: entry.term, id }, states.get(group) ?? EMPTY_STATE));
    if (state.table !== null) memberships.tableIs(state.table);
    states.set(group, state);
    storage.putState(group, state);
    this.#world.clock.note(state.hash);
    return id;
  }

  #applied(group: GroupId, id: number, state: State): State {
    const command = this.#world.memberships.commands.get(id);
    if (group !== TOPOLOGY_GROUP || state.table === null || command === undefined) return state;
    return { ...state, table: applyTopology(state.table, command).topology };
  }

  /** Chunk by chunk, each of which may be lost a few times; what is fetched is the source's durable state at the start. */
  #fetch(fetch: { storage: MemoryStorage<State>; group: GroupId; from: NodeId; index: number; done: (error: Error | null, meta: SnapshotMeta | null) => void }): void {
    const { network, nodes } = this.#world;
    const { storage, group, from, index, done } = fetch;
    const life = this.life;
    const replica = this.replica(group);
    const source = nodes.get(from);
    const sourceLife = source?.life ?? null;
    let snapshot: { meta: SnapshotMeta; state: State } | null = null;
    let chunks = 0;
    let tries = 0;
    const next = (): void => {
      if (source === undefined || source.life === null || source.life !== sourceLife || source.life.outcast || tries >= CHUNK_TRIES) {
        done(new Error('the source is gone'), null);
        return;
      }
      if (!network.passes(this.id, from)) {
        tries += 1;
        this.#later(() => life, 20, next);
        return;
      }
      if (snapshot === null) {
        const image = source.damaged.has(group) ? undefined : source.disk.groups.get(group);
        if (image === undefined || image.appliedIndex < index) {
          done(new Error('the source has no such snapshot'), null);
          return;
        }
        snapshot = { meta: { index: image.appliedIndex, term: image.term(image.appliedIndex), conf: image.conf }, state: image.state };
      }
      chunks += 1;
      if (chunks < SNAPSHOT_CHUNKS) {
        this.#later(() => life, network.delay(), next);
        return;
      }
      if (this.replica(group) !== replica || replica === 0) {
        done(new Error('the replica is gone'), null);
        return;
      }
      storage.stage(group, snapshot.meta, snapshot.state);
      done(null, snapshot.meta);
    };
    this.#later(() => life, network.delay(), next);
  }
}

const HEADER_BYTES = 4;

/** A proposal: its id, and padding so that sizes differ. */
export function proposal(id: number, padding: number): Uint8Array {
  const data = new Uint8Array(HEADER_BYTES + padding);
  new DataView(data.buffer).setUint32(0, id);
  return data;
}

function entryId(data: Uint8Array): number {
  return new DataView(data.buffer, data.byteOffset, data.byteLength).getUint32(0);
}

/** A replica as founding makes it. */
export function founded(replica: ReplicaId, conf: ConfState, table: Topology | null): DiskGroup<State> {
  return new DiskGroup<State>({ replica, conf, index: 1, term: 1, state: { ...EMPTY_STATE, table } });
}
