/**
 * Runs plan.ts on the node that the table names as coordinator: keeps when each node was last heard, gathers what nodes
 * say of their replicas, and proposes what follows, one command at a time. Whoever takes over begins with patience: a
 * node counts as dead only after this very process has listened for it that long.
 */
import type { NodeId } from '../../raft/types.ts';
import type { Logger } from '../log.ts';
import { plan, type DamagedReplica, type Observed, type Plan } from './plan.ts';
import { Weights } from './placement.ts';
import type { Topology, TopologyCommand } from './topology.ts';

export interface PlannerOptions {
  readonly self: NodeId;
  readonly deadAfterMs: number;
  /** Nodes with a live link to this one. */
  readonly up: () => readonly NodeId[];
  /** Nodes that other nodes have said, within the last seconds, to have a live link with. */
  readonly heardByOthers: () => ReadonlySet<NodeId>;
  /** Of all nodes that were asked lately, this one included. */
  readonly damaged: () => readonly DamagedReplica[];
  readonly propose: (command: TopologyCommand) => Promise<boolean>;
  readonly logger: Logger;
  /** Milliseconds that only go forward. */
  readonly now: () => number;
}

const NOTHING: Plan = { command: null, waiting: [] };

export class Planner {
  private readonly options: PlannerOptions;
  private readonly weights = new Weights();
  private readonly heardAt = new Map<NodeId, number>();
  private proposing = false;
  /** What the last plan was made of, and what came out: the same again needs no thought. */
  private last: { readonly topology: Topology; readonly key: string; readonly plan: Plan } | null = null;
  private said = '';

  constructor(options: PlannerOptions) {
    this.options = options;
  }

  /** Call often: a round costs little when nothing changed. */
  round(topology: Topology): void {
    // On every node: whoever takes over knows how long each has been silent.
    const heard = this.listen(topology);
    if (topology.coordinator !== this.options.self || this.proposing) return;
    const { command, waiting } = this.planned(topology, { ...heard, damaged: this.options.damaged() });
    this.say(waiting);
    if (command === null) return;
    this.proposing = true;
    const { logger } = this.options;
    this.options.propose(command).then(
      (made) => {
        this.proposing = false;
        const { moves, roles, preferred } = command;
        if (made) logger.info({ type: 'placement_changed', moves, roles, leaders: preferred.length }, `${moves.length} moves begun, ${preferred.length} leaders assigned`);
      },
      (error: unknown) => {
        this.proposing = false;
        logger.warn({ type: 'topology_change_failed', command: 'place', reason: String(error) }, 'topology change failed; the next round tries again');
      },
    );
  }

  /** What this node would have to leave undone as coordinator, in words. */
  waiting(topology: Topology): readonly string[] {
    return this.planned(topology, { ...this.listen(topology), damaged: this.options.damaged() }).waiting;
  }

  /** Milliseconds since the node was heard, here or by another node; null for one that is not known. */
  silentMs(node: NodeId): number | null {
    const at = this.heardAt.get(node);
    return at === undefined ? null : this.options.now() - at;
  }

  private listen(topology: Topology): Pick<Observed, 'up' | 'dead'> {
    const { self, deadAfterMs } = this.options;
    const now = this.options.now();
    const up = new Set([self, ...this.options.up()]);
    const heard = this.options.heardByOthers();
    const dead = new Set<NodeId>();
    for (const { name } of topology.nodes) {
      if (up.has(name) || heard.has(name) || !this.heardAt.has(name)) this.heardAt.set(name, now);
      else if (now - (this.heardAt.get(name) ?? now) >= deadAfterMs) dead.add(name);
    }
    for (const name of this.heardAt.keys()) if (!topology.nodes.some((node) => node.name === name)) this.heardAt.delete(name);
    return { up, dead };
  }

  private planned(topology: Topology, observed: Observed): Plan {
    const key = [[...observed.up].sort(), [...observed.dead].sort(), observed.damaged.map(({ group, replica }) => `${group}/${replica}`).sort()].map((part) => part.join(' ')).join('|');
    if (this.last?.topology === topology && this.last.key === key) return this.last.plan;
    const made = topology.nodes.length === 0 ? NOTHING : plan(topology, observed, this.weights);
    this.last = { topology, key, plan: made };
    return made;
  }

  private say(waiting: readonly string[]): void {
    const line = waiting.join('; ');
    if (line === this.said) return;
    this.said = line;
    if (line !== '') this.options.logger.warn({ type: 'placement_waits', waiting }, `the coordinator waits: ${line}`);
  }
}
