/**
 * The small duties that keep a cluster in shape, run by a slow timer: the topology leader records the lowest live node
 * as coordinator, each node keeps its address and its formats current in the table, and leaders drift back to the nodes they are
 * spread over. Every change is compare-and-set on the topology's epoch. Owns no table: topology.ts does.
 */
import type { RaftHost } from '../../raft/host.ts';
import type { GroupId, ReplicaId } from '../../raft/types.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';
import type { Logger } from '../log.ts';
import { everyAlone } from './ticker.ts';
import type { Every } from './ticker.ts';
import { isSaid, OWN_FORMATS, raisable } from './formats.ts';
import { compareNames } from './hello.ts';
import type { NodeIdentity, PeerNetwork } from './ports.ts';
import type { Router } from './router.ts';
import { encodeTopologyCommand } from './topology-codec.ts';
import { replicaOn, type Topology, type TopologyCommand } from './topology.ts';

const INTERVAL_MS = 250;
/** Leadership transfers begun in one round; each costs its group a few milliseconds without a leader. */
const TRANSFERS_MAX = 16;
/** A node must have been up this many rounds before leaders move to it, so that a flapping link moves nothing. */
const STEADY_ROUNDS = 4;
/**
 * A leadership that came here while its preferred node was up was handed over, not lost: that node is stopping, or its
 * clock or disk is ill. It is given back only if the node is still there this many rounds later.
 */
const HANDED_OVER_ROUNDS = 40;

/** A handover that has not succeeded by then is begun anew, maybe with another target: Raft has given it up (12 ticks). */
const HANDOVER_RETRY_MS = 700;

export interface CoordinatorOptions {
  /** When to do what is done again and again; absent: by a timer of its own. */
  readonly every?: Every;
  readonly identity: NodeIdentity;
  /** host:port under which peers reach this node. */
  readonly address: string;
  readonly host: RaftHost;
  readonly network: PeerNetwork;
  readonly router: Router;
  readonly topology: () => Topology | null;
  /** False for a node whose clock is off: it should lead nothing. */
  readonly isClockTrusted: (name: string) => boolean;
  /** True for a node whose disk hangs: its groups would wait for it. */
  readonly isSlow: (name: string) => boolean;
  readonly logger: Logger;
}

export class Coordinator {
  private readonly options: CoordinatorOptions;
  private readonly stopRounds: () => void;
  private rounds = 0;
  /** Round since which a node has been up without a break, or 0. */
  private readonly upSince = new Map<string, number>();
  /** Term in which this node leads a group, and the round at which that was first seen. */
  private readonly led = new Map<GroupId, { readonly term: number; readonly since: number }>();
  /** The node that the table wants as leader, and the round at which that was decided; 0: before this node looked. */
  private readonly assigned = new Map<GroupId, { readonly node: string; readonly since: number }>();
  /** The table that `assigned` was last brought in line with. */
  private noted: Topology | null = null;
  /** Transfers begun by handOver: in which term of the group, and when. */
  private readonly handedOver = new Map<GroupId, { readonly term: number; readonly atMs: number }>();
  /** One change of ours is on its way; the next round looks again. */
  private proposing = false;

  constructor(options: CoordinatorOptions) {
    this.options = options;
    this.stopRounds = (options.every ?? everyAlone)(INTERVAL_MS, () => this.round());
  }

  close(): void {
    this.stopRounds();
  }

  /** Hands every leadership to another live replica, as before a shutdown. Returns how many are still led here. */
  handOver(): number {
    let led = 0;
    const now = performance.now();
    for (const group of this.options.host.groups()) {
      const status = this.options.host.status(group);
      if (status?.role !== 'leader' || status.progress.length === 0) continue;
      led++;
      // A second target while the first one campaigns would split the vote between them.
      const begun = this.handedOver.get(group);
      if (begun?.term === status.term && now - begun.atMs < HANDOVER_RETRY_MS) continue;
      const ready = status.progress.filter((p) => p.active && !p.learner && p.match >= status.commit && this.isLinked(group, p.replica));
      const most = Math.max(...ready.map((p) => p.match));
      const best = ready.filter((p) => p.match === most);
      // In turn, so that one survivor does not get them all.
      const target = best[group % best.length];
      if (target === undefined || !this.options.host.transferLeadership(group, target.replica)) continue;
      this.handedOver.set(group, { term: status.term, atMs: now });
      this.options.logger.debug({ type: 'transfer', group, term: status.term }, 'leadership is being handed over');
    }
    return led;
  }

  private isLinked(group: GroupId, replica: ReplicaId): boolean {
    const node = this.options.topology()?.groups[group]?.replicas.find(({ id }) => id === replica)?.node;
    return node !== undefined && this.options.network.isUp(node);
  }

  private round(): void {
    const topology = this.options.topology();
    if (topology === null) return;
    const { network, identity } = this.options;
    this.rounds++;
    for (const { name } of topology.nodes) {
      if (!network.isUp(name)) this.upSince.set(name, 0);
      else if ((this.upSince.get(name) ?? 0) === 0) this.upSince.set(name, this.rounds);
    }
    this.noteAssigned(topology);
    this.recordCoordinator(topology);
    this.keepAddress(topology, identity);
    this.keepFormats(topology, identity);
    this.spreadLeaders(topology, identity.name);
  }

  private noteAssigned(topology: Topology): void {
    if (topology === this.noted) return;
    this.noted = topology;
    for (const [group, { preferred }] of topology.groups.entries()) {
      const known = this.assigned.get(group);
      if (known?.node !== preferred) this.assigned.set(group, { node: preferred, since: known === undefined ? 0 : this.rounds });
    }
  }

  private isSteady(name: string): boolean {
    const since = this.upSince.get(name) ?? 0;
    return since > 0 && this.rounds - since >= STEADY_ROUNDS;
  }

  private recordCoordinator(topology: Topology): void {
    const { host, network, identity } = this.options;
    if (!host.isLeader(TOPOLOGY_GROUP)) return;
    const members = topology.nodes.filter((node) => node.state !== 'removed').map((node) => node.name);
    // Steadiness keeps a flapping link out of the log; one who is up stays coordinator while others prove theirs.
    const lowest = members.filter((name) => name === identity.name || this.isSteady(name)).sort(compareNames)[0];
    if (lowest === undefined || lowest === topology.coordinator) return;
    const isHeard = members.includes(topology.coordinator) && (topology.coordinator === identity.name || network.isUp(topology.coordinator));
    if (isHeard && compareNames(topology.coordinator, lowest) < 0) return;
    this.change({ type: 'coordinator', ifEpoch: topology.epoch, name: lowest });
  }

  private keepAddress(topology: Topology, identity: NodeIdentity): void {
    const mine = topology.nodes.find((node) => node.name === identity.name);
    if (mine === undefined || mine.storeId !== identity.storeId || mine.address === this.options.address) return;
    this.change({ type: 'address', name: identity.name, storeId: identity.storeId, address: this.options.address });
  }

  /** Says what this program speaks; the leader of the table raises what is used once everyone speaks more. */
  private keepFormats(topology: Topology, { name, storeId }: NodeIdentity): void {
    const mine = topology.nodes.find((node) => node.name === name);
    if (mine?.storeId === storeId && !isSaid(mine)) this.change({ type: 'speaks', name, storeId, formats: OWN_FORMATS });
    const formats = this.options.host.isLeader(TOPOLOGY_GROUP) ? raisable(topology) : null;
    if (formats !== null) this.change({ type: 'formats', ifEpoch: topology.epoch, formats });
  }

  private spreadLeaders(topology: Topology, self: string): void {
    let moved = 0;
    const { host } = this.options;
    for (const group of host.groups()) {
      if (!host.isLeader(group)) {
        this.led.delete(group);
        continue;
      }
      // By term, for a leadership may have gone and come back between two rounds.
      const term = host.term(group);
      const known = this.led.get(group);
      const led = known?.term === term ? known : { term, since: this.rounds };
      if (led !== known) this.led.set(group, led);
      const preferred = topology.groups[group]?.preferred;
      if (moved === TRANSFERS_MAX || preferred === undefined || preferred === self || !this.mayLead(group, preferred, led.since)) continue;
      const replica = replicaOn(topology, group, preferred);
      const status = host.status(group);
      const progress = status?.progress.find((p) => p.replica === replica);
      if (status === undefined || progress === undefined || !progress.active || progress.learner || progress.match < status.commit) continue;
      if (!host.transferLeadership(group, progress.replica)) continue;
      moved++;
      this.options.logger.debug({ type: 'transfer', group, term }, 'leadership goes back to the preferred node');
    }
  }

  /** Whether `preferred` may have a leadership that is held here since round `ledSince`. */
  private mayLead(group: GroupId, preferred: string, ledSince: number): boolean {
    if (!this.isSteady(preferred) || !this.options.isClockTrusted(preferred) || this.options.isSlow(preferred)) return false;
    // Decided since: this is no return.
    if ((this.assigned.get(group)?.since ?? 0) > ledSince) return true;
    return (this.upSince.get(preferred) ?? 0) >= ledSince || this.rounds - ledSince >= HANDED_OVER_ROUNDS;
  }

  private change(command: TopologyCommand): void {
    if (this.proposing) return;
    this.proposing = true;
    this.options.router.propose(TOPOLOGY_GROUP, encodeTopologyCommand(command), 'essential').then(
      (reply) => {
        this.proposing = false;
        const isMade = typeof reply === 'object' && reply !== null && 'ok' in reply && reply.ok === true;
        if (isMade) this.options.logger.info({ type: 'topology_changed', command: command.type, reply }, 'topology change committed');
        else this.options.logger.info({ type: 'topology_change_refused', command: command.type, reply }, 'the table had changed meanwhile; the next round looks again');
      },
      (error: unknown) => {
        this.proposing = false;
        this.options.logger.warn({ type: 'topology_change_failed', command: command.type, reason: String(error) }, 'topology change failed; the next round tries again');
      },
    );
  }
}
