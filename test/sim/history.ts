/**
 * What the outside world may rely on, recorded over the whole run and compared with everything that happens: the
 * numbered invariants that can be seen from outside, equal state at equal index, and that an answer given to a client
 * stays true. A contradiction throws a Violation.
 */
import type { GroupId, HardState, Message, ReplicaId } from '../../raft/types.ts';
import type { Topology } from '../../src/cluster/topology.ts';
import { MessageType } from '../../raft/types.ts';
import type { DiskGroup } from './disk.ts';

export class Violation extends Error {}

/** The state machine's whole state of a group: the last applied index and a rolling hash over all applied ids. */
export interface State {
  readonly index: number;
  readonly hash: number;
  /** In the topology group, the table; elsewhere null. */
  readonly table: Topology | null;
}

export const EMPTY_STATE: State = { index: 0, hash: 0, table: null };

interface Applied {
  readonly id: number;
  readonly term: number;
  readonly hash: number;
}

/** What a replica promised on the wire. */
interface Promised {
  term: number;
  voteTerm: number;
  vote: ReplicaId;
  ackTerm: number;
  ackIndex: number;
}

class GroupHistory {
  readonly applied = new Map<number, Applied>();
  readonly ids = new Set<number>();
  readonly refused = new Set<number>();
  readonly leaders = new Map<number, ReplicaId>();
  readonly committedTerms = new Map<number, number>();
  readonly promised = new Map<ReplicaId, Promised>();
  /** Highest index of a normal entry applied anywhere, and the state there. */
  last: State = EMPTY_STATE;
  acks = 0;
  ackedIndex = 0;
}

export class History {
  acks = 0;
  reads = 0;
  applies = 0;
  readonly #groups = new Map<GroupId, GroupHistory>();
  /** Up to which index a disk image's committed prefix was compared already. */
  #compared = new WeakMap<DiskGroup<State>, { start: number; to: number }>();

  /** The highest index that any replica has applied: a linearizable read that begins now must see it. */
  floor(group: GroupId): number {
    return this.#group(group).last.index;
  }

  ackedIndex(group: GroupId): number {
    return this.#group(group).ackedIndex;
  }

  /** An entry was applied on top of `before`; returns the state after it. */
  apply(group: GroupId, { index, term, id }: { index: number; term: number; id: number }, before: State): State {
    const history = this.#group(group);
    this.applies += 1;
    const hash = mix(before.hash, id, index);
    const known = history.applied.get(index);
    if (known !== undefined) {
      expect(known.id === id && known.term === term, `group ${group}: index ${index} applied as ${term}:${id} here, ${known.term}:${known.id} elsewhere`);
      expect(known.hash === hash, `group ${group}: states differ at index ${index}`);
      return { ...before, index, hash };
    }
    expect(before.index === history.last.index && before.hash === history.last.hash, `group ${group}: ${index} applied over ${before.index} where ${history.last.index} was already applied`);
    expect(!history.ids.has(id), `group ${group}: proposal ${id} applied twice`);
    expect(!history.refused.has(id), `group ${group}: proposal ${id} applied after it was said not to be`);
    history.applied.set(index, { id, term, hash });
    history.ids.add(id);
    history.last = { ...before, index, hash };
    return history.last;
  }

  acknowledged(group: GroupId, id: number, index: number): void {
    const history = this.#group(group);
    expect(history.applied.get(index)?.id === id, `group ${group}: proposal ${id} acknowledged at ${index}, where it is not`);
    history.ackedIndex = Math.max(history.ackedIndex, index);
    this.acks += 1;
  }

  refused(group: GroupId, id: number): void {
    const history = this.#group(group);
    expect(!history.ids.has(id), `group ${group}: proposal ${id} said not to be applied, but it was`);
    history.refused.add(id);
  }

  /** A read that began when `floor` was the floor is served from `state`. */
  read(group: GroupId, floor: number, state: State): void {
    this.reads += 1;
    expect(state.index >= floor, `group ${group}: stale read at ${state.index}, ${floor} was applied before it began`);
  }

  /** I1: at most one leader per term. */
  leader(group: GroupId, term: number, replica: ReplicaId): void {
    const { leaders } = this.#group(group);
    const known = leaders.get(term);
    expect(known === undefined || known === replica, `group ${group}: ${known} and ${replica} both lead term ${term}`);
    leaders.set(term, replica);
  }

  /** A message left for the wire: its promises hold from now on, over crashes too. */
  sent(group: GroupId, { type, from, to, term, reject, index }: Message): void {
    const promised = this.#promised(group, from);
    const votesFor = type === MessageType.vote ? from : type === MessageType.voteResponse && !reject ? to : 0;
    if (votesFor !== 0) {
      expect(promised.voteTerm !== term || promised.vote === votesFor, `group ${group}: replica ${from} votes for ${promised.vote} and ${votesFor} in term ${term}`);
      if (term >= promised.voteTerm) {
        promised.voteTerm = term;
        promised.vote = votesFor;
      }
    }
    if (votesFor !== 0 || type === MessageType.appendResponse) {
      promised.term = Math.max(promised.term, term);
      if (type === MessageType.appendResponse && !reject && (term > promised.ackTerm || (term === promised.ackTerm && index > promised.ackIndex))) {
        promised.ackTerm = term;
        promised.ackIndex = index;
      }
    }
  }

  /** A replica came back with this disk: it must remember all that it promised. */
  reopened(group: GroupId, image: DiskGroup<State>): void {
    const promised = this.#promised(group, image.replica);
    const { term, vote }: HardState = image.hardState;
    const who = `group ${group}: replica ${image.replica}`;
    expect(term >= promised.term, `${who} came back in term ${term} after it spoke in ${promised.term}`);
    expect(term !== promised.voteTerm || vote === promised.vote, `${who} forgot its vote for ${promised.vote} in term ${term}`);
    expect(term !== promised.ackTerm || image.lastIndex() >= promised.ackIndex, `${who} acknowledged ${promised.ackIndex} and came back with ${image.lastIndex()}`);
    const known = this.#group(group).applied.get(image.state.index);
    expect(image.state.index === 0 || known?.hash === image.state.hash, `${who} came back with a state that never was`);
  }

  /** Compares the committed prefix of a durable log with what was committed before (I4, I5, I10). */
  compareCommitted(group: GroupId, image: DiskGroup<State>): void {
    const { committedTerms } = this.#group(group);
    const commit = Math.min(image.hardState.commit, image.lastIndex());
    const compared = this.#compared.get(image) ?? { start: -1, to: 0 };
    if (compared.start === -1) this.#compared.set(image, compared);
    for (let index = Math.max(compared.to, image.start) + 1; index <= commit; index++) {
      const term = image.term(index);
      const known = committedTerms.get(index);
      if (known === undefined) committedTerms.set(index, term);
      else expect(known === term, `group ${group}: index ${index} committed in term ${term} at replica ${image.replica}, in ${known} elsewhere`);
    }
    compared.start = image.start;
    compared.to = Math.max(compared.to, commit);
  }

  /** At the end: a replica's state is the one history, and holds all that was acknowledged. */
  settled(group: GroupId, state: State, replica: ReplicaId): void {
    const history = this.#group(group);
    expect(state.index >= history.ackedIndex, `group ${group}: replica ${replica} ends at ${state.index}, ${history.ackedIndex} was acknowledged`);
    expect(state.index === history.last.index && state.hash === history.last.hash, `group ${group}: replica ${replica} ends in another state`);
  }

  /** Forgets comparisons, so that everything on disk is compared once more. */
  recheck(): void {
    this.#compared = new WeakMap();
  }

  #group(group: GroupId): GroupHistory {
    const known = this.#groups.get(group);
    if (known !== undefined) return known;
    const history = new GroupHistory();
    this.#groups.set(group, history);
    return history;
  }

  #promised(group: GroupId, replica: ReplicaId): Promised {
    const { promised } = this.#group(group);
    const known = promised.get(replica);
    if (known !== undefined) return known;
    const fresh = { term: 0, voteTerm: 0, vote: 0, ackTerm: 0, ackIndex: 0 };
    promised.set(replica, fresh);
    return fresh;
  }
}

export function expect(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Violation(message);
}

function mix(hash: number, id: number, index: number): number {
  let mixed = Math.imul(hash ^ id, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 15) ^ index, 0x85ebca6b);
  return (mixed ^ (mixed >>> 13)) >>> 0;
}
