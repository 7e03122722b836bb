/** Where this node reaches the others: what the table says of them, as this shard dials it. */
import type { GroupId, NodeId } from '../../raft/types.ts';
import { dialedAt, type Seat } from './seat.ts';
import type { PeerNetwork } from './ports.ts';
import type { Router } from './router.ts';
import type { Topology } from './topology.ts';

export interface ReachedOptions {
  readonly self: NodeId;
  readonly seat: Seat;
  readonly topology: () => Topology | null;
  readonly router: () => Router;
  readonly network: Pick<PeerNetwork, 'isUp'>;
}

export class Reached {
  private readonly options: ReachedOptions;
  /** Streams passed on to other nodes so far; they take turns. */
  private relayed = 0;

  constructor(options: ReachedOptions) {
    this.options = options;
  }

  /** host:port of a node; undefined for one that the table does not know. */
  node(name: NodeId): string | undefined {
    const address = this.options.topology()?.nodes.find((known) => known.name === name)?.address;
    return address === undefined ? undefined : dialedAt(this.options.seat, address);
  }

  /** host:port of every member, by name. */
  members(): ReadonlyMap<NodeId, string> {
    const members = this.options.topology()?.nodes.filter((node) => node.state !== 'removed') ?? [];
    return new Map(members.map(({ name, address }) => [name, dialedAt(this.options.seat, address)]));
  }

  /** host:port of the other nodes with a replica of the group, those with a live link first, each in its turn. */
  hosts(group: GroupId): string[] {
    const { self, network, router } = this.options;
    const nodes = router().hostsOf(group).filter((name) => name !== self);
    const live = nodes.filter((name) => network.isUp(name));
    const first = this.relayed++ % Math.max(1, live.length);
    const inTurn = [...live.slice(first), ...live.slice(0, first), ...nodes.filter((name) => !network.isUp(name))];
    return inTurn.flatMap((name) => this.node(name) ?? []);
  }
}
