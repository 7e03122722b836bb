/**
 * This node's part in the cluster's shape, in one place: the table as it was last seen, its replicas (replicas.ts), the
 * groups it leads (mover.ts), the plan while it coordinates (planner.ts), who may join, and what operators may ask.
 * Owns how these hang together and the copy of the table; decides nothing that plan.ts and topology.ts do not.
 */
import type { RaftHost } from '../../raft/host.ts';
import type { GroupId, NodeId } from '../../raft/types.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';
import { ApiError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Storage } from '../storage/store.ts';
import { everyAlone } from './ticker.ts';
import type { Every } from './ticker.ts';
import { StateComparison, type ComparisonStats } from './comparison.ts';
import { describeCluster, type ClusterDescription } from './describe.ts';
import type { RouteAnswer } from './founding.ts';
import { admissionBody, readTable, writeTable, type JoinRequest } from './joining.ts';
import { Mover } from './mover.ts';
import type { DamagedStatus, NodeStatus, PeerStatuses } from './peer-status.ts';
import { Planner } from './planner.ts';
import { RequestKind, type FoundingRecord, type NodeIdentity, type PeerNetwork } from './ports.ts';
import { Replicas, type ReplicasOptions } from './replicas.ts';
import type { Router } from './router.ts';
import { foundingTopology, hostsData, type Topology, type TopologyCommand, type TopologyRefusal } from './topology.ts';
import { decodeTopology, encodeTopology, encodeTopologyCommand } from './topology-codec.ts';

/** The plan is looked at this often, and at once when the table changed. */
const PLAN_MS = 100;
/** A node without a readable table of its own asks for one this often. */
const FETCH_MS = 1000;
/** An admitted node waits no longer for this node to see it in the table; it asks again. */
const SEEN_MS = 800;
/** A node not heard for this long is down as far as an operator's call is concerned. */
const DOWN_MS = 3000;
/** Groups named in an answer. */
const NAMED_MAX = 5;

export interface MembershipOptions {
  /** When to do what is done again and again; absent: by a timer of its own. */
  readonly every?: Every;
  readonly identity: Pick<NodeIdentity, 'name' | 'storeId'>;
  readonly storage: Storage;
  readonly host: RaftHost;
  readonly network: PeerNetwork;
  readonly router: Router;
  readonly statuses: PeerStatuses;
  readonly tableRow: ReplicasOptions['tableRow'];
  readonly deadAfterMs: number;
  /** Which groups this cluster runs: all, unless its nodes are divided. */
  readonly runs: (group: GroupId) => boolean;
  /** The table as this node's own replica of it has it, or null. */
  readonly ownTable: () => Topology | null;
  readonly record: () => FoundingRecord | null;
  /** What this node tells its peers. */
  readonly status: () => NodeStatus;
  /** A later table than before: whom to link with, where replicas live. */
  readonly onTable: (topology: Topology) => void;
  /** A replica left this node. */
  readonly onRemoved: (group: GroupId) => void;
  /** This node is a member no more. */
  readonly onOut: (reason: string) => void;
  readonly logger: Logger;
  readonly fatal: (error: Error) => void;
}

export class Membership {
  private readonly options: MembershipOptions;
  private readonly mover: Mover;
  private readonly replicas: Replicas;
  private readonly planner: Planner;
  private readonly comparison: StateComparison;
  private table: Topology | null = null;
  private readonly stops: (() => void)[] = [];
  private planScheduled = false;
  private isOut = false;
  private closed = false;

  constructor(options: MembershipOptions) {
    const { identity, storage, host, network, statuses, logger, fatal, tableRow, onRemoved } = options;
    this.options = options;
    const propose = (command: TopologyCommand): Promise<boolean> => this.propose(command).then((refusal) => refusal === null);
    this.replicas = new Replicas({ self: identity.name, storage, host, tableRow, onRemoved, logger, fatal });
    this.comparison = new StateComparison({
      host,
      storage,
      network,
      nodeOf: (group, replica) => this.table?.groups[group]?.replicas.find(({ id }) => id === replica)?.node,
      logger,
    });
    this.mover = new Mover({ host, propose, logger });
    this.planner = new Planner({
      self: identity.name,
      deadAfterMs: options.deadAfterMs,
      up: () => network.up(),
      heardByOthers: () => new Set([...statuses.linked().values()].flatMap(({ up }) => up)),
      damaged: () => [...this.replicas.damaged(), ...[...statuses.linked().values()].flatMap(({ damaged }) => damaged)],
      propose,
      logger,
      now: () => performance.now(),
    });
  }

  /** The latest table seen; null before this node belongs to a cluster. */
  get topology(): Topology | null {
    return this.table;
  }

  /**
   * This directory belongs to the record's cluster: makes the founding replicas if it founds and never had any, takes
   * up the latest table it knows of, and runs its replicas.
   */
  async open(record: FoundingRecord): Promise<void> {
    const { storage, identity, ownTable } = this.options;
    const { facts } = storage;
    const isFounder = record.members.some((member) => member.name === identity.name && member.storeId === identity.storeId);
    // Never twice: a founder whose replicas all left must not begin anew.
    if (isFounder && !Replicas.areKnown({ facts, storage })) await this.replicas.found(foundingTopology(record, this.options.runs));
    const copy = readTable(facts);
    const own = ownTable();
    const table = own !== null && (copy === null || own.revision >= copy.revision) ? own : copy;
    this.follow(table ?? foundingTopology(record, this.options.runs));
    if (this.table !== null) await this.replicas.open(this.table);
    this.comparison.open();
    const every = this.options.every ?? everyAlone;
    this.stops.push(every(PLAN_MS, () => this.plan()), every(FETCH_MS, () => this.fetchTable()));
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const stop of this.stops) stop();
    this.comparison.close();
    this.mover.close();
    await this.replicas.close();
  }

  /** A table was applied here, or came from a peer; one that is not later than the last is ignored. */
  follow(topology: Topology): void {
    const before = this.table;
    if (this.closed || (before !== null && topology.revision <= before.revision)) return;
    this.table = topology;
    this.options.onTable(topology);
    this.replicas.follow(topology);
    this.mover.follow(topology);
    if (before?.nodes !== topology.nodes) this.nodesChanged(topology);
    if (this.planScheduled) return;
    this.planScheduled = true;
    setImmediate(() => {
      this.planScheduled = false;
      this.plan();
    });
  }

  /** Replicas of this node that cannot serve and are to be replaced. */
  damaged(): readonly DamagedStatus[] {
    return this.replicas.damaged();
  }

  /** The answer of GET /v1/cluster. */
  async describe(): Promise<ClusterDescription> {
    const { host, network, identity, statuses, status } = this.options;
    return describeCluster({
      topology: this.table,
      host,
      network,
      self: identity.name,
      status: status(),
      peers: statuses.linked(),
      silentMs: (node) => this.planner.silentMs(node),
      waitOf: (group) => this.mover.waitOf(group),
      waiting: this.table === null ? [] : [...this.planner.waiting(this.table), ...this.comparison.undecided()],
    });
  }

  /** How often replicas were compared, and found to differ. */
  get compared(): ComparisonStats {
    return this.comparison.stats;
  }

  /** Answers RequestKind.topology, with the latest table or nothing, and RequestKind.compare. */
  answerPeer(kind: typeof RequestKind.topology | typeof RequestKind.compare, body: Uint8Array): Uint8Array {
    if (kind === RequestKind.compare) return this.comparison.answer(body);
    return this.table === null ? new Uint8Array(0) : encodeTopology(this.table);
  }

  /** Decides about a node with an empty disk (Founding's `admit`); the caller proved that it has the cluster's key. */
  async admit({ name, storeId, address }: JoinRequest): Promise<RouteAnswer> {
    const { identity, network, statuses } = this.options;
    const record = this.options.record();
    const known = this.table?.nodes.find((node) => node.name === name);
    if (this.table === null || record === null) return notYet('this node has no table yet');
    const isNew = known?.storeId !== storeId;
    if (isNew && (name === identity.name || network.isUp(name) || [...statuses.linked().values()].some(({ up }) => up.includes(name)))) {
      return refusedJoin(`a node named '${name}' is up with another data directory; two nodes cannot have one name`);
    }
    if (isNew || known.address !== address) {
      let refusal: TopologyRefusal | null;
      try {
        refusal = await this.propose({ type: 'join', name, storeId, address });
      } catch (error) {
        return notYet(`the table could not be changed: ${error instanceof Error ? error.message : String(error)}`);
      }
      if (refusal === 'retired') return refusedJoin(`data directory ${storeId} was a member once and was replaced or removed; start node '${name}' with an empty one`);
      if (refusal !== null) return notYet(`the last replicas of the '${name}' that was removed are still leaving their groups`);
    }
    const deadline = performance.now() + SEEN_MS;
    for (;;) {
      const table = this.table;
      if (table.nodes.some((node) => node.name === name && node.storeId === storeId)) return { status: 200, body: admissionBody({ record, table }) };
      if (performance.now() > deadline || this.closed) return notYet('this node does not see the change of the table yet');
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /**
   * Takes a node's leaderships and replicas away, or lets it have some again. Throws ApiError not_found,
   * would_lose_quorum, raft_unavailable.
   */
  async drain(name: NodeId, drain: boolean): Promise<void> {
    this.member(name);
    this.answer(await this.propose({ type: 'drain', name, drain }), name);
  }

  /**
   * Removes a node for good, once it hosts nothing or while it is down. Throws ApiError not_found, conflict (it is up
   * and not drained), would_lose_quorum, raft_unavailable.
   */
  async remove(name: NodeId): Promise<void> {
    const topology = this.member(name);
    const silentMs = this.planner.silentMs(name) ?? 0;
    const isDown = name !== this.options.identity.name && silentMs >= DOWN_MS;
    if (hostsData(topology, name)) {
      if (!isDown) throw notDrained(name);
      this.refuseLoss(topology, name);
    }
    this.answer(await this.propose({ type: 'remove', name, lost: isDown }), name);
  }

  /** Makes `to` the preferred leader of the group, and so its leader. Throws ApiError not_found, conflict. */
  async transfer(group: GroupId, to: NodeId): Promise<void> {
    const topology = this.member(to);
    const placement = topology.groups[group];
    if (placement === undefined) throw new ApiError('not_found', `There is no group ${group}.`);
    const isAble = placement.replicas.some(({ node, voter, phase }) => node === to && voter && phase === 'settled');
    if (!isAble || topology.nodes.find((node) => node.name === to)?.state !== 'active') {
      throw new ApiError('conflict', `Node '${to}' cannot lead group ${group}: only an active node with a voting replica of it can.`);
    }
    this.answer(await this.propose({ type: 'place', ifEpoch: topology.epoch, moves: [], roles: [], preferred: [{ group, node: to }] }), to);
  }

  private member(name: NodeId): Topology {
    if (this.table === null) throw new ApiError('raft_unavailable', 'This node belongs to no cluster yet. Nothing was changed; retry.', { outcome: 'not_applied' });
    if (!this.table.nodes.some((node) => node.name === name && node.state !== 'removed')) throw new ApiError('not_found', `There is no node '${name}' in the cluster.`);
    return this.table;
  }

  /** Throws would_lose_quorum if a group could not replace its replica on a node that is down. */
  private refuseLoss(topology: Topology, name: NodeId): void {
    const { network, identity } = this.options;
    const lost = topology.groups.flatMap(({ replicas }, group) => {
      const voters = replicas.filter(({ voter }) => voter);
      const left = voters.filter(({ node }) => node !== name && (node === identity.name || network.isUp(node)));
      return voters.some(({ node }) => node === name) && left.length <= voters.length >> 1 ? [group] : [];
    });
    if (lost.length === 0) return;
    const named = lost.slice(0, NAMED_MAX).join(', ') + (lost.length > NAMED_MAX ? ', …' : '');
    throw new ApiError('would_lose_quorum', `${lost.length} groups (${named}) have no majority of replicas that are up beside '${name}', so they could not replace the one there. Bring other nodes back first.`, { groups: lost.length });
  }

  private answer(refusal: TopologyRefusal | null, name: NodeId): void {
    switch (refusal) {
      case null:
        return;
      case 'unknown_node':
        throw new ApiError('not_found', `There is no node '${name}' in the cluster.`);
      case 'not_drained':
        throw notDrained(name);
      case 'would_lose_quorum': {
        const active = this.table?.nodes.filter((node) => node.state === 'active' && node.name !== name).length ?? 0;
        throw new ApiError('would_lose_quorum', `Without '${name}' ${active} active nodes are left, and every group would have fewer replicas than now. Add a node first.`, { active_nodes: active });
      }
      case 'stale_epoch':
      case 'invalid_command':
      case 'retired':
        throw new ApiError('conflict', 'The table changed meanwhile. Nothing was changed; look again and retry.');
    }
  }

  /** Null when the command was applied, else why not. Throws ApiError when it could not be committed. */
  private async propose(command: TopologyCommand): Promise<TopologyRefusal | null> {
    const reply = await this.options.router.propose(TOPOLOGY_GROUP, encodeTopologyCommand(command), 'essential');
    if (typeof reply !== 'object' || reply === null || !('ok' in reply)) return 'invalid_command';
    if (reply.ok === true) return null;
    const code = 'code' in reply ? reply.code : null;
    return REFUSALS.find((known) => known === code) ?? 'invalid_command';
  }

  private plan(): void {
    // The one who decides must know what was decided: not from hearsay, and not before it caught up.
    if (this.closed || this.table === null || this.isOut || !this.options.host.serves(TOPOLOGY_GROUP)) return;
    this.planner.round(this.table);
  }

  /** The node's own replica of the table tells every change; while there is none, peers are asked. */
  private fetchTable(): void {
    const { host, network } = this.options;
    if (this.closed || host.serves(TOPOLOGY_GROUP)) return;
    const up = network.up();
    const node = up[Math.floor(performance.now() / FETCH_MS) % up.length];
    if (node === undefined) return;
    network.request(node, RequestKind.topology, new Uint8Array(0), FETCH_MS, (failure, answer) => {
      if (failure === null && answer !== null && answer.length > 0) this.follow(decodeTopology(answer));
    });
  }

  private nodesChanged(topology: Topology): void {
    const { identity, storage, onOut } = this.options;
    // A write that fails stops the node by itself.
    writeTable(storage.facts, topology).catch(() => undefined);
    const own = topology.nodes.find((node) => node.name === identity.name);
    if (own?.storeId === identity.storeId && own.state !== 'removed') return;
    if (!topology.retired.includes(identity.storeId) || this.isOut) return;
    this.isOut = true;
    onOut(`node '${identity.name}' was removed from the cluster, or replaced by one with another data directory; it may come back with an empty one`);
  }
}

const REFUSALS: readonly TopologyRefusal[] = ['stale_epoch', 'unknown_node', 'invalid_command', 'retired', 'would_lose_quorum', 'not_drained'];

function notYet(message: string): RouteAnswer {
  return { status: 503, body: { error: 'raft_unavailable', message } };
}

function refusedJoin(message: string): RouteAnswer {
  return { status: 409, body: { error: 'conflict', message } };
}

function notDrained(name: NodeId): ApiError {
  return new ApiError('conflict', `Node '${name}' is up and hosts groups. Drain it first (POST /v1/cluster/nodes/${encodeURIComponent(name)}/drain) and wait until it hosts none.`);
}
