/**
 * Who changes memberships in a simulated cluster, as the coordinator does in production: add a learner under a number
 * never used before, wait until it caught up, swap it for the old replica through a joint configuration, drop the old
 * one. Reads where things stand from whoever leads, so lost answers and new leaders do not confuse it.
 */
import type { GroupStatus } from '../../raft/host.ts';
import { LEAVE_JOINT } from '../../raft/confchange.ts';
import type { ConfChange, GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { ConfChangeType } from '../../raft/types.ts';
import type { SimNode, World } from './node.ts';

interface Job {
  readonly group: GroupId;
  readonly old: ReplicaId;
  readonly target: NodeId;
  readonly replica: ReplicaId;
  readonly autoLeave: boolean;
  created: boolean;
}

const NO_CONTEXT = new Uint8Array(0);
/** A learner this close to the commit index may become a voter. */
const CAUGHT_UP_ENTRIES = 5;

export class Operator {
  changes = 0;
  readonly #world: World;
  readonly #homes = new Map<GroupId, Map<ReplicaId, NodeId>>();
  readonly #issued = new Map<GroupId, ReplicaId>();
  readonly #jobs: Job[] = [];

  constructor(world: World) {
    this.#world = world;
  }

  get busy(): boolean {
    return this.#jobs.length > 0;
  }

  home(group: GroupId, replica: ReplicaId): NodeId | undefined {
    return this.#homes.get(group)?.get(replica);
  }

  /** A number for a replica of `group` on `node`, never issued before. */
  issue(group: GroupId, node: NodeId): ReplicaId {
    const replica = (this.#issued.get(group) ?? 0) + 1;
    this.#issued.set(group, replica);
    const homes = this.#homes.get(group) ?? new Map<ReplicaId, NodeId>();
    homes.set(replica, node);
    this.#homes.set(group, homes);
    return replica;
  }

  hasJob(group: GroupId): boolean {
    return this.#jobs.some((job) => job.group === group);
  }

  /** Wants replica `old` of `group` replaced by a new one on `target`. */
  replace(group: GroupId, old: ReplicaId, target: NodeId, autoLeave: boolean): void {
    if (this.#jobs.some((job) => job.group === group && job.old === old)) return;
    this.#jobs.push({ group, old, target, replica: this.issue(group, target), autoLeave, created: false });
  }

  /** The leader of `group` with the highest term among the living, and what it knows. */
  leader(group: GroupId): { readonly node: SimNode; readonly status: GroupStatus } | null {
    let found: { readonly node: SimNode; readonly status: GroupStatus } | null = null;
    for (const node of this.#world.nodes.values()) {
      const { life } = node;
      if (life === null || life.outcast || !life.host.isLeader(group)) continue;
      const status = life.host.status(group);
      if (status !== undefined && (found === null || status.term > found.status.term)) found = { node, status };
    }
    return found;
  }

  /** Takes each job one step further, the first of a group before its others. */
  poll(): void {
    const seen = new Set<GroupId>();
    for (const job of [...this.#jobs]) {
      if (seen.has(job.group)) continue;
      seen.add(job.group);
      if (this.#advance(job)) {
        this.#jobs.splice(this.#jobs.indexOf(job), 1);
        this.changes += 1;
      }
    }
  }

  /** True once the job is done. */
  #advance(job: Job): boolean {
    const leader = this.leader(job.group);
    const target = this.#world.nodes.get(job.target);
    if (leader === null || target === undefined) return false;
    const { conf, progress, commit } = leader.status;
    if (conf.votersOutgoing.length > 0) {
      if (!conf.autoLeave) this.#propose(leader.node, job.group, LEAVE_JOINT);
      return false;
    }
    if (conf.voters.includes(job.replica) && !conf.voters.includes(job.old)) {
      const home = this.home(job.group, job.old);
      const node = home === undefined ? undefined : this.#world.nodes.get(home);
      if (node !== undefined && node.life === null) return false;
      if (node !== undefined && node.replica(job.group) === job.old) node.dropReplica(job.group);
      return true;
    }
    if (target.life === null || target.life.outcast) return false;
    if (!job.created) {
      // A node holds one replica of a group: the old one goes first where both live at the same place.
      if (target.replica(job.group) !== 0 && target.replica(job.group) !== job.old) return false;
      target.createReplica(job.group, job.replica);
      job.created = true;
    }
    if (!conf.learners.includes(job.replica)) {
      this.#propose(leader.node, job.group, change([{ type: ConfChangeType.addLearner, replica: job.replica }], false, job.autoLeave));
      return false;
    }
    const member = progress.find(({ replica }) => replica === job.replica);
    if (member !== undefined && member.match + CAUGHT_UP_ENTRIES >= commit) {
      const swap = [{ type: ConfChangeType.addVoter, replica: job.replica }, { type: ConfChangeType.remove, replica: job.old }];
      this.#propose(leader.node, job.group, change(swap, true, job.autoLeave));
    }
    return false;
  }

  #propose(node: SimNode, group: GroupId, wanted: ConfChange): void {
    node.host?.proposeConfChange(group, wanted, () => {});
  }
}

function change(changes: ConfChange['changes'], joint: boolean, autoLeave: boolean): ConfChange {
  return { changes, joint, autoLeave, context: NO_CONTEXT };
}
