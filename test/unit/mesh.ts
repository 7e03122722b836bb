/**
 * Nodes in one process for tests of the parts above Raft: real storage, state machine, Raft host, router and store;
 * only the network between them is a stand-in, which can cut links and lose requests or their answers.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { HOST_DEFAULTS, RaftHost } from '../../raft/host.ts';
import type { SnapshotFetcher } from '../../raft/ports.ts';
import type { GroupId, NodeId } from '../../raft/types.ts';
import { ColdReads } from '../../src/archive/cold.ts';
import { Health } from '../../src/cluster/health.ts';
import { groupOf } from '../../src/cluster/placement.ts';
import { RequestKind, type PeerNetwork, type RequestFailure } from '../../src/cluster/ports.ts';
import { Router } from '../../src/cluster/router.ts';
import { encodeTopology } from '../../src/cluster/topology-codec.ts';
import { foundingConf, foundingTopology, replicaOn, type Topology } from '../../src/cluster/topology.ts';
import { TOPOLOGY_GROUP } from '../../src/constants.ts';
import type { ContextEvent } from '../../src/contexts/types.ts';
import { Machine, TOPOLOGY_ROW } from '../../src/machine.ts';
import { createMetrics } from '../../src/metrics.ts';
import { Storage } from '../../src/storage/store.ts';
import { Store } from '../../src/store.ts';
import { TokenCounter } from '../../src/tokens/counter.ts';

const TICK_MS = 5;

/** Polls until `condition` holds; throws after a bound. */
export async function until(what: string, condition: () => boolean | Promise<boolean>, ms = 30_000): Promise<void> {
  const deadline = performance.now() + ms;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`timed out waiting for: ${what}`);
    await delay(5);
  }
}

/** What becomes of a request: delivered, never delivered, or delivered and its answer lost with the link. */
export type Fate = 'deliver' | 'swallow' | 'lose answer';

class MeshNetwork implements PeerNetwork {
  private readonly self: NodeId;
  private readonly mesh: Mesh;

  constructor(self: NodeId, mesh: Mesh) {
    this.self = self;
    this.mesh = mesh;
  }

  send(to: NodeId, frame: Uint8Array): boolean {
    if (!this.isUp(to)) return false;
    const copy = frame.slice();
    setImmediate(() => this.isUp(to) && this.mesh.running(to)?.host.receive(this.self, copy));
    return true;
  }

  bufferedBytes(): number {
    return 0;
  }

  request(to: NodeId, kind: RequestKind, body: Uint8Array, timeoutMs: number, done: (failure: RequestFailure | null, answer: Uint8Array | null) => void): void {
    if (!this.isUp(to)) {
      setImmediate(done, 'link_down', null);
      return;
    }
    this.mesh.requests.push({ from: this.self, to, kind });
    const fate = this.mesh.fate(this.self, to, kind);
    let settled = false;
    const settle = (failure: RequestFailure | null, answer: Uint8Array | null): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      done(failure, answer);
    };
    const timer = setTimeout(() => settle('lost', null), timeoutMs);
    if (fate === 'swallow') return;
    const copy = body.slice();
    setImmediate(() => {
      try {
        this.mesh.running(to)?.answer(kind, copy, (answer) => {
          if (fate === 'deliver') setImmediate(settle, null, answer);
          else setImmediate(settle, 'lost', null);
        });
      } catch {
        settle('remote_error', null);
      }
    });
  }

  isUp(to: NodeId): boolean {
    return to !== this.self && this.mesh.running(to) !== undefined && !this.mesh.isCut(this.self, to);
  }

  up(): readonly NodeId[] {
    return [...this.mesh.nodes.keys()].filter((name) => this.isUp(name));
  }
}

export interface MeshOptions {
  /** The groups that exist here; hosting all 257 would only cost time. */
  readonly groups: readonly GroupId[];
  readonly timeoutMs?: number;
}

export class MeshNode {
  readonly name: NodeId;
  readonly storage: Storage;
  readonly machine: Machine;
  readonly host: RaftHost;
  readonly router: Router;
  readonly store: Store;
  readonly health: Health;
  readonly network: MeshNetwork;
  readonly events: ContextEvent[] = [];
  readonly damage: string[] = [];
  readonly fatals: Error[] = [];
  isLowOnSpace = false;
  /** Stands between this node and whoever asks it; null: answers as a node does. */
  answering: ((kind: RequestKind, body: Uint8Array, reply: (answer: Uint8Array) => void) => void) | null = null;
  private readonly ticker: ReturnType<typeof setInterval>;
  private readonly counter: TokenCounter;

  static async open(mesh: Mesh, name: NodeId, directory: string): Promise<MeshNode> {
    let node: MeshNode | null = null;
    const takeOut = (group: GroupId, reason: string): void => {
      node?.damage.push(reason);
      node?.host.removeGroup(group);
    };
    const storage = await Storage.open(directory, { onDamage: takeOut });
    if (storage.groups().length === 0) {
      await storage.createGroups(
        mesh.options.groups.flatMap((group) => {
          const placement = mesh.topology.groups[group];
          const replica = replicaOn(mesh.topology, group, name);
          if (replica === undefined || placement === undefined) return [];
          const rows = group === TOPOLOGY_GROUP ? [{ ...TOPOLOGY_ROW, value: encodeTopology(mesh.topology) }] : [];
          return [{ group, replica, conf: foundingConf(placement), index: 1, term: 1, rows }];
        }),
      );
    }
    node = new MeshNode(mesh, name, storage, await TokenCounter.open({ defaultModel: 'gpt-4o' }), takeOut);
    return node;
  }

  private constructor(mesh: Mesh, name: NodeId, storage: Storage, counter: TokenCounter, takeOut: (group: GroupId, reason: string) => void) {
    this.name = name;
    this.storage = storage;
    this.counter = counter;
    this.network = new MeshNetwork(name, mesh);
    this.machine = new Machine(storage, {
      onEvent: (_group, event) => void this.events.push(event),
      onRestored: () => undefined,
      onTopology: () => undefined,
      onDamage: (group, reason) => {
        storage.markDamaged(group, reason).catch(() => undefined);
        takeOut(group, reason);
      },
    });
    const noSnapshots: SnapshotFetcher = { fetch: (_group, _from, _index, done) => done(new Error('no snapshots here'), null) };
    this.host = new RaftHost(
      { ...HOST_DEFAULTS, node: name, random: Math.random },
      {
        storage,
        transport: this.network,
        machine: this.machine,
        snapshots: noSnapshots,
        directory: { node: (group, replica) => mesh.topology.groups[group]?.replicas.find(({ id }) => id === replica)?.node },
        schedule: setImmediate,
        fatal: (error) => void this.fatals.push(error),
        onLeader: (group) => this.router.onLeader(group),
      },
    );
    const timeoutMs = mesh.options.timeoutMs ?? 5000;
    this.router = new Router(this.host, this.network, { self: name, timeoutMs, isReadOnly: () => this.isLowOnSpace, topology: () => mesh.topology, now: Date.now });
    this.store = new Store({
      machine: this.machine,
      router: this.router,
      network: this.network,
      counter,
      cold: new ColdReads(null),
      metrics: createMetrics(),
      limits: { messageBytesMax: 1024 * 1024, depthMax: 64 },
      timeoutMs,
      appliedIndex: (group) => this.host.status(group)?.applied ?? 0,
    });
    this.health = new Health({ host: this.host, router: this.router, starting: () => null });
    for (const { group, replica, damaged } of storage.groups()) if (damaged === null) this.host.addGroup(group, replica);
    this.ticker = setInterval(() => this.host.tick(), TICK_MS);
  }

  answer(kind: RequestKind, body: Uint8Array, reply: (answer: Uint8Array) => void): void {
    if (this.answering !== null) return this.answering(kind, body, reply);
    if (kind === RequestKind.propose) return this.router.answerPropose(body, reply);
    this.store.answerRead(body).then(reply, () => reply(new Uint8Array()));
  }

  async close(): Promise<void> {
    this.health.close();
    this.router.close();
    clearInterval(this.ticker);
    this.host.stop();
    await this.counter.close();
    await this.storage.close();
  }
}

export class Mesh {
  readonly options: MeshOptions;
  readonly topology: Topology;
  readonly nodes = new Map<NodeId, MeshNode>();
  readonly requests: { from: NodeId; to: NodeId; kind: RequestKind }[] = [];
  fate: (from: NodeId, to: NodeId, kind: RequestKind) => Fate = () => 'deliver';
  private readonly cuts = new Set<string>();
  private readonly directory: string;

  private constructor(size: number, directory: string, options: MeshOptions) {
    this.options = options;
    this.directory = directory;
    const members = Array.from({ length: size }, (_, i) => ({ name: `node-${i + 1}`, storeId: `store-${i + 1}`, address: `127.0.0.1:${i + 1}` }));
    this.topology = foundingTopology({ clusterId: 'cluster', members, mintedKey: '00' });
  }

  /** `size` running nodes with a leader in every group. */
  static async start(size: number, options: MeshOptions): Promise<Mesh> {
    const mesh = new Mesh(size, await mkdtemp(join(tmpdir(), 'mesh-')), options);
    for (const { name } of mesh.topology.nodes) await mesh.open(name);
    for (const group of options.groups) await mesh.leader(group);
    return mesh;
  }

  directoryOf(name: NodeId): string {
    return join(this.directory, name);
  }

  async open(name: NodeId): Promise<MeshNode> {
    const node = await MeshNode.open(this, name, this.directoryOf(name));
    this.nodes.set(name, node);
    return node;
  }

  /** Stops a node; it can be opened again. */
  async stop(name: NodeId): Promise<void> {
    const node = this.node(name);
    this.nodes.delete(name);
    for (const other of this.nodes.values()) other.host.peerDown(name);
    await node.close();
  }

  async close(): Promise<void> {
    for (const name of [...this.nodes.keys()]) await this.stop(name);
    await rm(this.directory, { recursive: true, force: true });
  }

  node(name: NodeId): MeshNode {
    const node = this.nodes.get(name);
    if (node === undefined) throw new Error(`${name} is not running`);
    return node;
  }

  running(name: NodeId): MeshNode | undefined {
    return this.nodes.get(name);
  }

  /** Cuts all links of `name`, or the one to `other`. */
  cut(name: NodeId, other: NodeId | null = null): void {
    for (const to of this.nodes.keys()) if (to !== name && (other === null || other === to)) this.cuts.add([name, to].sort().join(' '));
  }

  heal(): void {
    this.cuts.clear();
  }

  isCut(a: NodeId, b: NodeId): boolean {
    return this.cuts.has([a, b].sort().join(' '));
  }

  /** Waits until a majority follows one leader, and answers with its node. */
  async leader(group: GroupId): Promise<MeshNode> {
    let found: MeshNode | undefined;
    await until(`a leader of group ${group}`, () => {
      found = [...this.nodes.values()].find((node) => node.host.isLeader(group) && [...this.nodes.values()].filter((other) => other.host.leader(group) === node.host.leader(group)).length * 2 > this.hosts(group).length);
      return found !== undefined;
    });
    if (found === undefined) throw new Error('no leader');
    return found;
  }

  /** Names of the nodes with a replica of the group. */
  hosts(group: GroupId): NodeId[] {
    return this.topology.groups[group]?.replicas.map(({ node }) => node) ?? [];
  }

  /** Running nodes without a replica of the group. */
  strangers(group: GroupId): MeshNode[] {
    return [...this.nodes.values()].filter((node) => !this.hosts(group).includes(node.name));
  }
}

/** The group that the tests' one context lives in. */
export const GROUP = groupOf('c');
