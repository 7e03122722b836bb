/**
 * Leads the groups of this node from the membership they have to the one the table wants, step by step (reconcile.ts),
 * and tells the table what is reached. Owns when to look: at once when the table or a membership changed, else on a
 * slow timer. Keeps no state that the next leader would miss.
 */
import type { RaftHost } from '../../raft/host.ts';
import type { GroupId } from '../../raft/types.ts';
import type { Logger } from '../log.ts';
import { nextStep } from './reconcile.ts';
import type { SettledGroup, Topology, TopologyCommand } from './topology.ts';

/** How often groups are looked at that the table wants otherwise than they are. */
const ROUND_MS = 50;
/** How often all led groups are looked at, whatever the table says of them. */
const FULL_ROUND_MS = 5000;

export interface MoverOptions {
  readonly host: RaftHost;
  /** Commits a command of the table; resolves false when it was refused, rejects when it could not be made. */
  readonly propose: (command: TopologyCommand) => Promise<boolean>;
  readonly logger: Logger;
}

export class Mover {
  private readonly options: MoverOptions;
  private readonly fullRounds: NodeJS.Timeout;
  /** Runs while there are `unsettled` groups. */
  private rounds: NodeJS.Timeout | null = null;
  private topology: Topology | null = null;
  /** Groups that the table wants otherwise than they were last known to be. */
  private unsettled: GroupId[] = [];
  /** Groups with a membership change of ours in the log. */
  private readonly changing = new Set<GroupId>();
  /** Why a group led here does not go on, by group: for whoever asks what a move waits for. */
  private readonly waits = new Map<GroupId, string>();
  private reporting = false;
  private scheduled = false;
  private closed = false;

  constructor(options: MoverOptions) {
    this.options = options;
    this.fullRounds = setInterval(() => this.pass(options.host.groups()), FULL_ROUND_MS);
    this.fullRounds.unref();
  }

  close(): void {
    this.closed = true;
    clearInterval(this.fullRounds);
    this.pause();
  }

  /** The table changed. */
  follow(topology: Topology): void {
    this.topology = topology;
    this.unsettled = topology.groups.flatMap(({ replicas }, group) => (replicas.some(({ phase }) => phase !== 'settled') ? [group] : []));
    this.soon();
    if (this.unsettled.length === 0) this.pause();
    else if (!this.closed) this.rounds ??= setInterval(() => this.pass(this.unsettled), ROUND_MS).unref();
  }

  /** Why a group that is led here waits, or null. */
  waitOf(group: GroupId): string | null {
    return this.waits.get(group) ?? null;
  }

  private soon(): void {
    if (this.scheduled || this.closed) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      this.pass(this.unsettled);
    });
  }

  private pause(): void {
    if (this.rounds !== null) clearInterval(this.rounds);
    this.rounds = null;
  }

  private pass(groups: readonly GroupId[]): void {
    const { host } = this.options;
    const { topology } = this;
    if (topology === null || this.closed) return;
    const reports: SettledGroup[] = [];
    for (const group of groups) {
      this.waits.delete(group);
      const placement = topology.groups[group];
      const status = host.isLeader(group) && !this.changing.has(group) ? host.status(group) : undefined;
      if (status === undefined || placement === undefined) continue;
      const step = nextStep(status, placement);
      switch (step.type) {
        case 'none':
          break;
        case 'wait':
          this.waits.set(group, step.reason);
          break;
        case 'transfer':
          host.transferLeadership(group, step.to);
          break;
        case 'change':
          this.changing.add(group);
          host.proposeConfChange(group, step.change, ({ status: outcome }) => {
            this.changing.delete(group);
            // A refusal (an earlier change is not applied yet) may hold for a while: the timer looks again.
            if (outcome === 'applied') this.soon();
          });
          break;
        case 'settled':
          reports.push({ group, ...step.report });
          break;
      }
    }
    if (reports.length > 0) this.report(reports);
  }

  private report(groups: readonly SettledGroup[]): void {
    if (this.reporting) return;
    this.reporting = true;
    this.options.propose({ type: 'settled', groups }).then(
      () => {
        this.reporting = false;
      },
      (error: unknown) => {
        this.reporting = false;
        this.options.logger.warn({ type: 'topology_change_failed', command: 'settled', reason: String(error) }, 'what was reached could not be told to the table; it is told again');
      },
    );
  }
}
