/**
 * The part of a simulated server that changes memberships: the real decisions (plan.ts, reconcile.ts, topology.ts) over
 * modelled links. Each node acts on what it has heard, as in production: it makes and drops its replicas as the table
 * says, leads its groups towards the table, records the coordinator or is it, and asks to be let in when its disk is new.
 */
import type { GroupStatus } from '../../raft/host.ts';
import type { GroupId, NodeId } from '../../raft/types.ts';
import { plan, type DamagedReplica, type Plan } from '../../src/cluster/plan.ts';
import { nextStep } from '../../src/cluster/reconcile.ts';
import { placedOn, type SettledGroup, type Topology, type TopologyCommand } from '../../src/cluster/topology.ts';
import { TOPOLOGY_GROUP } from '../../src/constants.ts';
import { WEIGHTS } from './memberships.ts';
import type { Life, SimNode, World } from './node.ts';
import { proposal } from './node.ts';

/** A node not heard for so long is up no more, and for so long is to be replaced. */
const DOWN_MS = 350;
const DEAD_MS = 5000;
/** After so long an answer is not waited for. */
const ANSWER_MS = 500;
/** The mutant's idea of being alone in the world. */
const ALONE_MS = 1000;

export class Steward {
  readonly #node: SimNode;
  readonly #world: World;
  readonly #bornAt: number;
  readonly #heardAt = new Map<NodeId, number>();
  /** Until when an answer is waited for, by kind of command and by group with a change. */
  readonly #waits = new Map<string | GroupId, number>();
  #last: { readonly table: Topology; readonly key: string; readonly plan: Plan } | null = null;

  constructor(node: SimNode, world: World) {
    this.#node = node;
    this.#world = world;
    this.#bornAt = world.clock.now;
  }

  /** Nodes heard just now, this one among them. */
  up(): Set<NodeId> {
    const { now } = this.#world.clock;
    return new Set([this.#node.id, ...[...this.#heardAt].filter(([, at]) => now - at < DOWN_MS).map(([name]) => name)]);
  }

  /** Replicas that the table has here and that are not there. */
  damaged(table: Topology): DamagedReplica[] {
    const { id, disk, damaged } = this.#node;
    return this.#world.groups.flatMap((group) => {
      const placed = placedOn(table, group, id);
      if (placed === undefined || placed.phase === 'leaving') return [];
      const image = disk.groups.get(group);
      const isSound = image?.replica === placed.id && !damaged.has(group);
      return isSound || placed.id > (disk.highest.get(group) ?? 0) ? [] : [{ group, replica: placed.id }];
    });
  }

  /** What this node does about the table now. */
  round(life: Life): void {
    this.#hear(life);
    const table = this.#node.table();
    if (table === null) {
      if (this.#world.mutant === 'found-from-absence') this.#foundAlone();
      return;
    }
    const { id, disk } = this.#node;
    if (!table.nodes.some(({ name, storeId }) => name === id && storeId === disk.storeId)) {
      this.propose({ type: 'join', name: id, storeId: disk.storeId, address: id });
      return;
    }
    this.#keepReplicas(table);
    this.#lead(life, table);
    this.#coordinate(life, table);
  }

  /** Proposes a command of the table where its leader is, if that can be reached; the answer may be lost. */
  propose(command: TopologyCommand): void {
    const { clock, network, history, memberships } = this.#world;
    if ((this.#waits.get(command.type) ?? 0) > clock.now) return;
    const leader = leaderOf(this.#world, TOPOLOGY_GROUP)?.node;
    const life = leader?.life;
    if (leader === undefined || life == null || (leader !== this.#node && !network.passes(this.#node.id, leader.id))) return;
    const id = this.#world.nextId();
    memberships.commands.set(id, command);
    this.#waits.set(command.type, clock.now + ANSWER_MS);
    clock.after(network.delay(), () => {
      if (leader.life !== life || leader.pausedUntil > clock.now) return;
      life.host.propose(TOPOLOGY_GROUP, proposal(id, 0), (outcome) => {
        if (leader.life !== life) return;
        if (outcome.status === 'applied') history.acknowledged(TOPOLOGY_GROUP, id, outcome.index);
        else if (outcome.status === 'not_applied') history.refused(TOPOLOGY_GROUP, id);
        if (network.passes(leader.id, this.#node.id)) this.#waits.delete(command.type);
      });
    });
  }

  #hear(life: Life): void {
    const { clock, network, nodes } = this.#world;
    const node = this.#node;
    for (const peer of nodes.values()) {
      if (peer === node || peer.life === null || peer.life.outcast || peer.pausedUntil > clock.now || !network.passes(node.id, peer.id)) continue;
      const table = peer.table();
      // Also a node that is no member yet is told what cluster there is.
      if (table !== null && table.revision > (node.table()?.revision ?? 0)) life.told = table;
      if (!node.admits(peer) || !peer.admits(node)) continue;
      this.#heardAt.set(peer.id, clock.now);
    }
  }

  #keepReplicas(table: Topology): void {
    const { disk, id } = this.#node;
    for (const group of this.#world.groups) {
      const placement = table.groups[group];
      if (placement === undefined) continue;
      const placed = placedOn(table, group, id);
      const image = disk.groups.get(group);
      const isNew = placed !== undefined && placed.phase !== 'leaving' && placed.id > (disk.highest.get(group) ?? 0);
      if (image !== undefined && (placed?.id === image.replica || image.replica >= placement.nextReplica)) continue;
      if (isNew) this.#node.createReplica(group, placed.id);
      else if (image !== undefined) this.#node.dropReplica(group);
    }
  }

  #lead({ host }: Life, table: Topology): void {
    const { clock, mutant } = this.#world;
    const reports: SettledGroup[] = [];
    for (const group of host.groups()) {
      const placement = table.groups[group];
      const status = host.isLeader(group) && (this.#waits.get(group) ?? 0) <= clock.now ? host.status(group) : undefined;
      if (placement === undefined || status === undefined) continue;
      const step = nextStep(mutant === 'remove-early' ? withoutPatience(status) : status, placement);
      if (step.type === 'settled') reports.push({ group, ...step.report });
      if (step.type === 'transfer') host.transferLeadership(group, step.to);
      if (step.type !== 'change') continue;
      this.#waits.set(group, clock.now + ANSWER_MS);
      host.proposeConfChange(group, step.change, () => this.#waits.delete(group));
    }
    if (reports.length > 0) this.propose({ type: 'settled', groups: reports });
  }

  #coordinate({ host }: Life, table: Topology): void {
    const { id } = this.#node;
    const up = this.up();
    if (host.isLeader(TOPOLOGY_GROUP)) {
      const lowest = table.nodes.filter(({ name, state }) => state !== 'removed' && up.has(name)).map(({ name }) => name).sort()[0];
      if (lowest !== undefined && lowest !== table.coordinator) this.propose({ type: 'coordinator', ifEpoch: table.epoch, name: lowest });
    }
    const dead = this.#dead(table, up);
    if (table.coordinator !== id) return;
    const observed = { up, dead, damaged: this.#damagedAnywhere(table) };
    const key = [[...up].sort(), [...observed.dead].sort(), observed.damaged.map(({ group, replica }) => `${group}/${replica}`)].map((part) => part.join(' ')).join('|');
    if (this.#last?.table !== table || this.#last.key !== key) this.#last = { table, key, plan: plan(table, observed, WEIGHTS) };
    const { command } = this.#last.plan;
    if (command !== null) this.propose(command);
  }

  /** Silent for long, to this node and to all that it hears. */
  #dead(table: Topology, up: ReadonlySet<NodeId>): Set<NodeId> {
    const { clock, nodes } = this.#world;
    const heard = new Set([...up].flatMap((name) => [...(nodes.get(name)?.life?.steward.up() ?? [])]));
    const dead = new Set<NodeId>();
    for (const { name } of table.nodes) {
      if (heard.has(name) || !this.#heardAt.has(name)) this.#heardAt.set(name, heard.has(name) ? clock.now : Math.max(this.#bornAt, clock.now - DOWN_MS));
      else if (clock.now - (this.#heardAt.get(name) ?? 0) > DEAD_MS) dead.add(name);
    }
    return dead;
  }

  #damagedAnywhere(table: Topology): DamagedReplica[] {
    const { nodes } = this.#world;
    return [...this.up()].sort().flatMap((name) => nodes.get(name)?.life?.steward.damaged(table) ?? []);
  }

  /** The mutant: who hears nobody for a while takes the cluster for its own. */
  #foundAlone(): void {
    const { clock, nodes, groups } = this.#world;
    if (this.#node.disk.groups.size > 0 || clock.now - this.#bornAt < ALONE_MS || [...nodes.values()].some((peer) => peer !== this.#node && this.#world.network.passes(this.#node.id, peer.id))) return;
    this.#world.trace(() => `${this.#node.id} founds a cluster by itself`);
    for (const group of groups) if (group !== TOPOLOGY_GROUP) this.#node.foundReplica(group, 1);
  }
}

/** The node that leads `group` by the highest term, and what it knows. */
export function leaderOf(world: World, group: GroupId): { readonly node: SimNode; readonly status: GroupStatus } | null {
  let found: { readonly node: SimNode; readonly status: GroupStatus } | null = null;
  for (const node of world.nodes.values()) {
    const { life } = node;
    if (life === null || life.outcast || !life.host.isLeader(group)) continue;
    const status = life.host.status(group);
    if (status !== undefined && (found === null || status.term > found.status.term)) found = { node, status };
  }
  return found;
}

/** The mutant: everyone passes for caught up. */
function withoutPatience(status: GroupStatus): GroupStatus {
  return { ...status, progress: status.progress.map((member) => ({ ...member, active: true, state: 'replicate', match: status.commit })) };
}
