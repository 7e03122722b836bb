/**
 * A cluster for the golden scripts: real Raft machines, a disk each, and a network that delivers in order, one step at a
 * time, writing down everything that happens. Nothing moves unless a command moves it.
 */
import { decodeConfChange } from '../../raft/confchange.ts';
import { Raft } from '../../raft/raft.ts';
import { EntryType } from '../../raft/types.ts';
import type { ConfState, Entry, Message, RaftOptions, Ready, ReplicaId } from '../../raft/types.ts';
import { describeConf, describeData, describeMessage, describeWrite } from './describe.ts';
import { Disk } from './disk.ts';
import type { State, Write } from './disk.ts';

export type Limits = Pick<
  RaftOptions,
  'messageBytesMax' | 'inflightMessagesMax' | 'inflightBytesMax' | 'uncommittedBytesMax' | 'committedBytesMax'
>;

const ELECTION_TICKS = 10;
const HEARTBEAT_TICKS = 2;
const STEPS_MAX = 1000;

interface Node {
  readonly id: ReplicaId;
  readonly disk: Disk;
  raft: Raft;
  up: boolean;
  /** The disk is stalled: writes wait. */
  held: boolean;
  writes: Write[];
  applied: number;
  conf: ConfState;
  state: State;
  /** Rows fetched and not yet current. */
  staged: State | null;
  role: string;
}

export class Cluster {
  readonly trace: string[] = [];
  /** While set, only changes of role and refusals are written down. */
  quiet = false;
  readonly #nodes = new Map<ReplicaId, Node>();
  readonly #cuts = new Set<string>();
  readonly #limits: Limits;
  #network: Message[] = [];
  #reads = 0;

  constructor(ids: readonly ReplicaId[], conf: ConfState, limits: Limits) {
    this.#limits = limits;
    for (const id of ids) this.add(id, conf);
  }

  /** A replica with an empty disk. */
  add(id: ReplicaId, conf: ConfState): void {
    const disk = new Disk(conf);
    const raft = this.#start(id, disk);
    const node = { id, disk, raft, up: true, held: false, writes: [], applied: 0, conf, state: [], staged: null, role: '' };
    this.#nodes.set(id, node);
    this.#noteRole(node);
  }

  #start(id: ReplicaId, log: Disk): Raft {
    // Timeouts are fixed and differ by id, so that a script can say who times out first.
    const random = (): number => (id % ELECTION_TICKS) / ELECTION_TICKS;
    return new Raft({ id, log, random, electionTicks: ELECTION_TICKS, heartbeatTicks: HEARTBEAT_TICKS, ...this.#limits });
  }

  raft(id: ReplicaId): Raft {
    return this.node(id).raft;
  }

  node(id: ReplicaId): Node {
    const node = this.#nodes.get(id);
    if (node === undefined) throw new Error(`no replica ${id}`);
    return node;
  }

  ids(): readonly ReplicaId[] {
    return [...this.#nodes.keys()];
  }

  note(line: string): void {
    if (!this.quiet) this.trace.push(line);
  }

  read(id: ReplicaId): void {
    this.raft(id).readIndex(++this.#reads);
  }

  // ---------------------------------------------------------------- faults

  cut(from: ReplicaId, to: ReplicaId): void {
    this.#cuts.add(`${from}>${to}`);
  }

  heal(): void {
    this.#cuts.clear();
  }

  crash(id: ReplicaId): void {
    const node = this.node(id);
    node.up = false;
    if (node.writes.length > 0) this.note(`${id} loses ${node.writes.map((write) => describeWrite(write.ready)).join('; ')}`);
    node.writes = [];
    node.staged = null;
    this.#network = this.#network.filter((message) => message.from !== id && message.to !== id);
  }

  restart(id: ReplicaId): void {
    const node = this.node(id);
    node.up = true;
    node.held = false;
    node.raft = this.#start(id, node.disk);
    node.applied = node.disk.appliedIndex;
    node.conf = node.disk.conf;
    node.state = node.disk.state;
    node.role = '';
    this.#noteRole(node);
  }

  /** Loses everything on the network. */
  dropAll(): void {
    for (const message of this.#network) this.note(`  lost ${describeMessage(message)}`);
    this.#network = [];
  }

  // ---------------------------------------------------------------- steps

  /** One Ready of one replica, and its writes unless the disk is stalled. */
  process(id: ReplicaId): boolean {
    const node = this.node(id);
    if (!node.up) return false;
    const busy = node.raft.hasReady();
    this.#noteRole(node);
    if (busy) this.#handle(node, node.raft.ready());
    return this.#flush(node) || busy;
  }

  /** Delivers what is on the network now, in order; answers wait for the next call. */
  deliver(): boolean {
    const messages = this.#network;
    this.#network = [];
    for (const message of messages) this.#deliver(message);
    return messages.length > 0;
  }

  /** Runs until nothing moves. */
  stabilize(): void {
    for (let step = 0; step < STEPS_MAX; step++) {
      let moved = false;
      for (const id of this.#nodes.keys()) moved = this.process(id) || moved;
      if (!this.deliver() && !moved) return;
    }
    throw new Error('does not come to rest');
  }

  #deliver(message: Message): void {
    const target = this.#nodes.get(message.to);
    const lost = target === undefined || !target.up || this.#cuts.has(`${message.from}>${message.to}`);
    this.note(`  ${lost ? 'lost ' : ''}${describeMessage(message)}`);
    if (lost) return;
    target.raft.step(message);
    this.#noteRole(target);
  }

  /** persist -> send -> apply, as a host does it. */
  #handle(node: Node, ready: Ready): void {
    this.#network.push(...ready.messages);
    for (const entry of ready.committed) this.#apply(node, entry);
    for (const { context, index } of ready.readStates) {
      this.note(index < 0 ? `${node.id} read ${context} refused` : `${node.id} read ${context} is served at ${index}`);
    }
    const applied = { index: node.applied, conf: node.conf, state: node.state };
    const restored = ready.snapshot === null ? null : node.staged;
    node.writes.push({ ready, token: ready.persist, applied, restored });
    if (node.held && ready.persist !== null) this.note(`${node.id} waits to write ${describeWrite(ready)}`);
    if (ready.fetchSnapshot !== null) this.#fetch(node, ready.fetchSnapshot.from, ready.fetchSnapshot.index);
  }

  #flush(node: Node): boolean {
    if (node.held || node.writes.length === 0) return false;
    while (node.writes.length > 0) this.completeWrite(node.id);
    return true;
  }

  /** The oldest write of a replica becomes durable, be its disk stalled or not. */
  completeWrite(id: ReplicaId): void {
    const node = this.node(id);
    const write = node.writes.shift();
    if (write === undefined) throw new Error(`replica ${id} writes nothing`);
    node.disk.apply(write);
    if (write.token !== null) {
      this.note(`${id} writes ${describeWrite(write.ready)}`);
      node.raft.persisted(write.token);
    }
    if (write.ready.snapshot !== null) this.#restored(node, write);
    for (const message of write.ready.messagesAfterPersist) {
      if (message.to === id) node.raft.step(message);
      else this.#network.push(message);
    }
    this.#noteRole(node);
  }

  #restored(node: Node, write: Write): void {
    node.applied = node.disk.appliedIndex;
    node.conf = node.disk.conf;
    node.state = node.disk.state;
    node.staged = null;
    this.note(`${node.id} restores [${node.state.join(' ')}] at ${write.ready.snapshot?.index ?? 0}`);
  }

  #apply(node: Node, entry: Entry): void {
    if (entry.type === EntryType.confChange) {
      const change = decodeConfChange(entry.data);
      if (change !== null) node.conf = node.raft.applyConfChange(change);
      this.note(`${node.id} applies ${entry.index}: ${describeConf(node.conf)}`);
    } else {
      if (entry.data.length > 0) node.state = [...node.state, describeData(entry)];
      this.note(`${node.id} applies ${entry.index}: ${describeData(entry)}`);
    }
    node.applied = entry.index;
    node.raft.appliedTo(entry.index);
    this.#noteRole(node);
  }

  #fetch(node: Node, from: ReplicaId, index: number): void {
    const source = this.#nodes.get(from);
    if (source === undefined || !source.up || this.#cuts.has(`${from}>${node.id}`)) {
      this.note(`${node.id} cannot fetch a snapshot from ${from}`);
      return;
    }
    const { disk } = source;
    const meta = { index: disk.appliedIndex, term: disk.term(disk.appliedIndex), conf: disk.conf };
    node.staged = disk.state;
    const installed = node.raft.installSnapshot(meta);
    this.note(`${node.id} fetches snapshot ${meta.term}/${meta.index} from ${from} (asked for ${index})${installed ? '' : ': of no use'}`);
  }

  #noteRole(node: Node): void {
    const { raft } = node;
    const leader = raft.role === 'follower' ? ` of ${raft.leader === 0 ? 'nobody' : raft.leader}` : '';
    const role = `${raft.role}${leader} in term ${raft.term}`;
    if (role === node.role) return;
    node.role = role;
    this.trace.push(`${node.id} is ${role}`);
  }
}
