/**
 * The small duties that keep a cluster in shape, run by a slow timer: the topology leader records the lowest live node
 * as coordinator, each node keeps its address current in the table, and leaders drift back to the nodes they are
 * spread over. Every change is compare-and-set on the topology's epoch. Owns no table: topology.ts does.
 */
import type { RaftHost } from '../../raft/host.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';
import type { Logger } from '../log.ts';
import type { NodeIdentity, PeerNetwork } from './ports.ts';
import type { Router } from './router.ts';
import { encodeTopologyCommand, replicaOn, type Topology, type TopologyCommand } from './topology.ts';

const INTERVAL_MS = 250;
/** Leadership transfers begun in one round; each costs its group a few milliseconds without a leader. */
const TRANSFERS_MAX = 16;
/** A node must have been up this many rounds before leaders move to it, so that a flapping link moves nothing. */
const STEADY_ROUNDS = 4;

export interface CoordinatorOptions {
  readonly identity: NodeIdentity;
  /** host:port under which peers reach this node. */
  readonly address: string;
  readonly host: RaftHost;
  readonly network: PeerNetwork;
  readonly router: Router;
  readonly topology: () => Topology | null;
  /** False for a node whose clock is off: it should lead nothing. */
  readonly isClockTrusted: (name: string) => boolean;
  readonly logger: Logger;
}

export class Coordinator {
  private readonly options: CoordinatorOptions;
  private readonly timer: ReturnType<typeof setInterval>;
  private readonly steady = new Map<string, number>();
  /** One change of ours is on its way; the next round looks again. */
  private proposing = false;

  constructor(options: CoordinatorOptions) {
    this.options = options;
    this.timer = setInterval(() => this.round(), INTERVAL_MS);
    this.timer.unref();
  }

  close(): void {
    clearInterval(this.timer);
  }

  /** Hands every leadership to another live replica, as before a shutdown. Returns how many are still led here. */
  handOver(): number {
    let led = 0;
    for (const group of this.options.host.groups()) {
      const status = this.options.host.status(group);
      if (status?.role !== 'leader' || status.progress.length === 0) continue;
      led++;
      const target = status.progress.filter((p) => p.active && !p.learner && p.match >= status.commit).sort((a, b) => b.match - a.match)[0];
      if (target !== undefined) this.options.host.transferLeadership(group, target.replica);
    }
    return led;
  }

  private round(): void {
    const topology = this.options.topology();
    if (topology === null) return;
    const { network, identity } = this.options;
    for (const { name } of topology.nodes) this.steady.set(name, network.isUp(name) ? (this.steady.get(name) ?? 0) + 1 : 0);
    this.recordCoordinator(topology);
    this.keepAddress(topology, identity);
    this.spreadLeaders(topology, identity.name);
  }

  private recordCoordinator(topology: Topology): void {
    const { host, network, identity } = this.options;
    if (host.status(TOPOLOGY_GROUP)?.role !== 'leader') return;
    const live = topology.nodes.filter((node) => node.state !== 'removed' && (node.name === identity.name || network.isUp(node.name)));
    const lowest = live.map((node) => node.name).sort()[0];
    if (lowest === undefined || lowest === topology.coordinator) return;
    this.change({ type: 'coordinator', ifEpoch: topology.epoch, name: lowest });
  }

  private keepAddress(topology: Topology, identity: NodeIdentity): void {
    const mine = topology.nodes.find((node) => node.name === identity.name);
    if (mine === undefined || mine.storeId !== identity.storeId || mine.address === this.options.address) return;
    this.change({ type: 'address', name: identity.name, storeId: identity.storeId, address: this.options.address });
  }

  private spreadLeaders(topology: Topology, self: string): void {
    let moved = 0;
    for (const group of this.options.host.groups()) {
      const preferred = topology.groups[group]?.preferred;
      if (preferred === undefined || preferred === self || (this.steady.get(preferred) ?? 0) < STEADY_ROUNDS || !this.options.isClockTrusted(preferred)) continue;
      const status = this.options.host.status(group);
      if (status?.role !== 'leader') continue;
      const replica = replicaOn(topology, group, preferred);
      const progress = status.progress.find((p) => p.replica === replica);
      if (progress === undefined || !progress.active || progress.learner || progress.match < status.commit) continue;
      if (this.options.host.transferLeadership(group, progress.replica)) moved++;
      if (moved === TRANSFERS_MAX) return;
    }
  }

  private change(command: TopologyCommand): void {
    if (this.proposing) return;
    this.proposing = true;
    this.options.router.propose(TOPOLOGY_GROUP, encodeTopologyCommand(command), 'essential').then(
      (reply) => {
        this.proposing = false;
        this.options.logger.info({ type: 'topology_changed', command: command.type, reply }, 'topology change committed');
      },
      (error: unknown) => {
        this.proposing = false;
        this.options.logger.warn({ type: 'topology_change_failed', command: command.type, reason: String(error) }, 'topology change failed; the next round tries again');
      },
    );
  }
}
