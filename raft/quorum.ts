/**
 * Who counts: the members of a group by configuration, and every question that a majority (of both halves of a joint
 * configuration) decides: what is committed, which read is confirmed, who won, whether the leader still hears enough.
 */
import { invariant } from './invariants.ts';
import { Progress, Vote } from './progress.ts';
import type { ConfState, ReplicaId } from './types.ts';

export type Tally = 'won' | 'lost' | 'pending';

/** Configurations are small: sorting in place beats any allocation. Reused, since nothing here can re-enter. */
type Scratch = number[];

/** The largest value that a majority of `values[0..count)` has reached. Sorts the scratch, descending. */
export function majorityValue(values: Scratch, count: number): number {
  for (let i = 1; i < count; i++) {
    const value = values[i] ?? 0;
    let at = i - 1;
    while (at >= 0 && (values[at] ?? 0) < value) {
      values[at + 1] = values[at] ?? 0;
      at--;
    }
    values[at + 1] = value;
  }
  return values[count >> 1] ?? 0;
}

/** The members of one group under the configuration in force. */
export class Members {
  conf: ConfState;
  /** Every member, voters before learners, in ascending order within each; stable between changes. */
  all: readonly Progress[] = [];
  #voters: readonly Progress[] = [];
  #outgoing: readonly Progress[] = [];
  readonly #byId = new Map<ReplicaId, Progress>();
  readonly #scratch: Scratch = [];

  constructor(conf: ConfState, create: (id: ReplicaId) => Progress) {
    this.conf = conf;
    this.change(conf, create);
  }

  /** Puts `conf` in force. What is known of members that stay is kept. */
  change(conf: ConfState, create: (id: ReplicaId) => Progress): void {
    const voters = new Set([...conf.voters, ...conf.votersOutgoing]);
    const learners = new Set([...conf.learners, ...conf.learnersNext]);
    for (const id of this.#byId.keys()) {
      if (!voters.has(id) && !learners.has(id)) this.#byId.delete(id);
    }
    const members: Progress[] = [];
    for (const id of [...sorted(voters), ...sorted(learners)]) {
      if (members.some((member) => member.id === id)) continue;
      const member = this.#byId.get(id) ?? create(id);
      member.learner = !voters.has(id);
      this.#byId.set(id, member);
      members.push(member);
    }
    this.conf = conf;
    this.all = members;
    this.#voters = members.filter((member) => conf.voters.includes(member.id));
    this.#outgoing = members.filter((member) => conf.votersOutgoing.includes(member.id));
    // A replica that waits to be added has an empty configuration; it only ever follows.
    invariant(this.#voters.length > 0 || this.#outgoing.length === 0, 'I14', this.#voters.length, this.#outgoing.length);
  }

  get(id: ReplicaId): Progress | undefined {
    return this.#byId.get(id);
  }

  isVoter(id: ReplicaId): boolean {
    const member = this.#byId.get(id);
    return member !== undefined && !member.learner;
  }

  /** True if `id` alone is a quorum. */
  isAlone(id: ReplicaId): boolean {
    return this.#voters.length === 1 && this.#voters[0]?.id === id && this.#outgoing.length === 0;
  }

  /** The highest index durable on a quorum. */
  committedIndex(): number {
    const incoming = this.#majorityMatch(this.#voters);
    return this.#outgoing.length === 0 ? incoming : Math.min(incoming, this.#majorityMatch(this.#outgoing));
  }

  #majorityMatch(voters: readonly Progress[]): number {
    for (let i = 0; i < voters.length; i++) this.#scratch[i] = voters[i]?.match ?? 0;
    return majorityValue(this.#scratch, voters.length);
  }

  /** The latest read round that a quorum confirmed. */
  confirmedRound(): number {
    const incoming = this.#majorityRound(this.#voters);
    return this.#outgoing.length === 0 ? incoming : Math.min(incoming, this.#majorityRound(this.#outgoing));
  }

  #majorityRound(voters: readonly Progress[]): number {
    for (let i = 0; i < voters.length; i++) this.#scratch[i] = voters[i]?.readRound ?? 0;
    return majorityValue(this.#scratch, voters.length);
  }

  clearVotes(): void {
    for (const member of this.all) member.vote = Vote.missing;
  }

  /** Counts the answers recorded on the members. */
  tally(): Tally {
    const incoming = tallyOf(this.#voters);
    if (this.#outgoing.length === 0 || incoming === 'lost') return incoming;
    const outgoing = tallyOf(this.#outgoing);
    if (outgoing === 'lost') return 'lost';
    return incoming === 'won' && outgoing === 'won' ? 'won' : 'pending';
  }

  /** True if a quorum, `self` included, answered since the last call. Starts the next period. */
  takeActiveQuorum(self: ReplicaId): boolean {
    const active = isActive(this.#voters, self) && (this.#outgoing.length === 0 || isActive(this.#outgoing, self));
    for (const member of this.all) member.active = false;
    return active;
  }
}

function tallyOf(voters: readonly Progress[]): Tally {
  const quorum = (voters.length >> 1) + 1;
  let granted = 0;
  let rejected = 0;
  for (const voter of voters) {
    if (voter.vote === Vote.granted) granted++;
    else if (voter.vote === Vote.rejected) rejected++;
  }
  if (granted >= quorum) return 'won';
  return voters.length - rejected < quorum ? 'lost' : 'pending';
}

function isActive(voters: readonly Progress[], self: ReplicaId): boolean {
  let count = 0;
  for (const voter of voters) {
    if (voter.active || voter.id === self) count++;
  }
  return count > voters.length >> 1;
}

function sorted(ids: ReadonlySet<ReplicaId>): ReplicaId[] {
  return [...ids].sort((a, b) => a - b);
}
