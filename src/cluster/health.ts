/**
 * Readiness (API.md): latches on once every hosted replica has seen a leader and applied the commit index learned at
 * start; later it turns off only when the node drains, is hard read-only, or is cut from the topology majority.
 * One sick group never takes a node out. Owns the latch; answers no HTTP.
 */
import type { RaftHost } from '../../raft/host.ts';
import type { GroupId } from '../../raft/types.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';
import type { Router } from './router.ts';

/** Groups that have not answered yet are asked again this often. */
const ASK_MS = 100;
/** Without proof of a topology majority for this long the node counts as cut off. */
const CUT_OFF_MS = 5000;
const CUT_OFF_CHECK_MS = 1000;
/** Groups named in the reason while starting. */
const NAMED_MAX = 5;

export interface HealthOptions {
  readonly host: RaftHost;
  readonly router: Router;
  /** Why the node takes no part in a cluster yet, or null. */
  readonly starting: () => { status: string; reason: string } | null;
}

export class Health {
  private readonly options: HealthOptions;
  /** Groups still to prove that they caught up; null before the groups run. */
  private pending: Set<GroupId> | null = null;
  /** Groups asked and not yet answered: a leader that is silent gets one question, not one every ASK_MS. */
  private readonly asked = new Set<GroupId>();
  private latched = false;
  private draining = false;
  private hardReadOnly = false;
  /** Why the node takes no part any more, or null. */
  private outFor: string | null = null;
  private majoritySeenAt = 0;
  /** Runs until every group has answered. */
  private asking: ReturnType<typeof setInterval> | undefined;
  private watching: ReturnType<typeof setInterval> | undefined;

  constructor(options: HealthOptions) {
    this.options = options;
  }

  /** The groups run: begin to watch them. */
  open(): void {
    this.pending = new Set(this.options.host.groups());
    this.majoritySeenAt = performance.now();
    this.asking = setInterval(() => this.ask(), ASK_MS);
    this.watching = setInterval(() => this.checkMajority(), CUT_OFF_CHECK_MS);
    this.ask();
  }

  close(): void {
    clearInterval(this.asking);
    clearInterval(this.watching);
  }

  /** The node is about to stop. */
  drain(): void {
    this.draining = true;
  }

  /** The disk is full: the node writes no more. */
  readOnly(): void {
    this.hardReadOnly = true;
  }

  /** The node takes no part in its cluster any more; nothing but another start changes that. */
  out(reason: string): void {
    this.outFor = reason;
  }

  ready(): { ready: boolean; status: string; reason: string | null } {
    if (this.draining) return { ready: false, status: 'draining', reason: 'the node is stopping' };
    if (this.hardReadOnly) return { ready: false, status: 'read_only', reason: 'the disk is full; the node returns by itself when there is space' };
    if (this.outFor !== null) return { ready: false, status: 'refused', reason: this.outFor };
    if (!this.latched) return this.starting();
    if (this.options.router.hosts(TOPOLOGY_GROUP) && performance.now() - this.majoritySeenAt > CUT_OFF_MS) {
      return { ready: false, status: 'cut_off', reason: 'the node cannot reach a majority of the topology group' };
    }
    return { ready: true, status: 'ready', reason: null };
  }

  private starting(): { ready: boolean; status: string; reason: string | null } {
    const blocked = this.options.starting();
    if (blocked !== null) return { ready: false, ...blocked };
    const waiting = [...(this.pending ?? [])];
    const named = waiting.slice(0, NAMED_MAX).join(', ') + (waiting.length > NAMED_MAX ? ', …' : '');
    return { ready: false, status: 'starting', reason: this.pending === null ? 'the groups are being opened' : `${waiting.length} groups have no leader or are catching up (${named})` };
  }

  /** A read barrier proves both: a leader confirmed its commit index, and this replica has applied it. */
  private ask(): void {
    if (this.pending === null || this.latched) return;
    for (const group of this.pending) {
      // Damage may take a replica out meanwhile: it is no longer hosted, and the node goes on without it.
      if (this.options.host.status(group) === undefined) this.pending.delete(group);
      else this.prove(group);
    }
    this.latchIfDone();
  }

  private caughtUp(group: GroupId): void {
    if (group === TOPOLOGY_GROUP) this.majoritySeenAt = performance.now();
    this.pending?.delete(group);
    this.latchIfDone();
  }

  private latchIfDone(): void {
    if (this.pending?.size !== 0) return;
    this.latched = true;
    clearInterval(this.asking);
  }

  private checkMajority(): void {
    this.prove(TOPOLOGY_GROUP);
  }

  /** Asks for a read barrier of the group; a question still open is not asked again. */
  private prove(group: GroupId): void {
    if (this.asked.has(group)) return;
    this.asked.add(group);
    this.options.host.readIndex(group, (index) => {
      this.asked.delete(group);
      if (index >= 0) this.caughtUp(group);
    });
  }
}
