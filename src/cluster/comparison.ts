/**
 * Compares the states of a group's replicas while they run. Checksums tell what a disk changed; this tells what nothing
 * else would: replicas that made different states of the same log. Each keeps the rolling hash of what it applied, at
 * its last index and at a few before that all replicas pass; the leader asks the others for theirs, of a few groups at a
 * time, those first that have moved since they were last found equal.
 *
 * Who differs from a majority of the voters takes itself out as damaged, which makes it anew from the others. Where no
 * majority agrees nobody can say who is right: that is told, and nothing is done. A hash belongs to an index for ever,
 * and two majorities share a member, so that no two leaders, old or new, can condemn different replicas. The table's
 * own group has no hash and is not compared.
 */
import type { RaftHost } from '../../raft/host.ts';
import type { GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';
import type { Logger } from '../log.ts';
import type { Storage } from '../storage/store.ts';
import { RequestKind, type PeerNetwork } from './ports.ts';

type StateMark = NonNullable<ReturnType<Storage['stateMarks']>>['marks'][number];

const ROUND_MS = 1000;
/** Groups looked at in one round: a request for each of their followers, all of a round in one frame for a node. */
const GROUPS_PER_ROUND = 8;
const ANSWER_MS = 1000;

export interface ComparisonOptions {
  readonly host: Pick<RaftHost, 'groups' | 'isLeader' | 'status'>;
  readonly storage: Pick<Storage, 'stateMarks' | 'condemn'>;
  readonly network: Pick<PeerNetwork, 'request' | 'isUp'>;
  /** The node that hosts a replica, or undefined while unknown. */
  readonly nodeOf: (group: GroupId, replica: ReplicaId) => NodeId | undefined;
  readonly logger: Logger;
}

export interface ComparisonStats {
  /** Of two replicas or more at one index. */
  readonly comparisons: number;
  readonly mismatches: number;
}

/** What the marks of a group's replicas say, at the latest index that most of them know. */
export type Verdict =
  | { readonly type: 'unknown' }
  | { readonly type: 'equal'; readonly index: number; readonly replicas: number }
  | { readonly type: 'odd'; readonly index: number; readonly hash: number; readonly replicas: readonly ReplicaId[] }
  | { readonly type: 'undecided'; readonly index: number; readonly replicas: readonly ReplicaId[] };

/** Pure. `voters`: all of the group, so that what has a majority does not depend on who answered. */
export function judge(marks: ReadonlyMap<ReplicaId, readonly StateMark[]>, voters: readonly ReplicaId[]): Verdict {
  const hashes = new Map<number, Map<ReplicaId, number>>();
  for (const [replica, known] of marks) {
    for (const { index, hash } of known) {
      const at = hashes.get(index) ?? new Map<ReplicaId, number>();
      hashes.set(index, at.set(replica, hash));
    }
  }
  const [best] = [...hashes].sort(([a, ofA], [b, ofB]) => ofB.size - ofA.size || b - a);
  if (best === undefined || best[1].size < 2) return { type: 'unknown' };
  const [index, at] = best;
  if (new Set(at.values()).size === 1) return { type: 'equal', index, replicas: at.size };
  const votes = new Map<number, number>();
  for (const [replica, hash] of at) if (voters.includes(replica)) votes.set(hash, (votes.get(hash) ?? 0) + 1);
  const [hash] = [...votes].find(([, count]) => count > voters.length / 2) ?? [];
  if (hash === undefined) return { type: 'undecided', index, replicas: [...at.keys()] };
  return { type: 'odd', index, hash, replicas: [...at].flatMap(([replica, other]) => (other === hash ? [] : [replica])) };
}

export class StateComparison {
  private readonly options: ComparisonOptions;
  private timer: NodeJS.Timeout | null = null;
  private counts = { comparisons: 0, mismatches: 0 };
  /** Where a group's replicas were last found equal, all of them. */
  private readonly equalAt = new Map<GroupId, number>();
  /** Groups whose replicas differ without a majority, in words. */
  private readonly undecidedGroups = new Map<GroupId, string>();
  private next = 0;

  constructor(options: ComparisonOptions) {
    this.options = options;
  }

  open(): void {
    this.timer = setInterval(() => this.round(), ROUND_MS);
    this.timer.unref();
  }

  close(): void {
    if (this.timer !== null) clearInterval(this.timer);
  }

  get stats(): ComparisonStats {
    return this.counts;
  }

  /** One line for each group led here whose replicas differ and nobody knows which is right. */
  undecided(): string[] {
    return [...this.undecidedGroups.values()];
  }

  /** Looks at the next few groups that are led here and have moved since they were found equal. */
  round(): void {
    const { host, storage } = this.options;
    const led = host.groups().filter((group) => group !== TOPOLOGY_GROUP && host.isLeader(group));
    for (const group of this.undecidedGroups.keys()) if (!led.includes(group)) this.undecidedGroups.delete(group);
    for (let seen = 0, asked = 0; seen < led.length && asked < GROUPS_PER_ROUND; seen++) {
      const group = led[this.next++ % led.length];
      const own = group === undefined ? null : storage.stateMarks(group);
      if (group === undefined || own === null || own.marks[0]?.index === this.equalAt.get(group)) continue;
      if (this.compare(group, own)) asked++;
    }
  }

  /** Answers RequestKind.compare; nothing where there is nothing to say. */
  answer(body: Uint8Array): Uint8Array {
    const request = decodeRequest(body);
    const own = request === null ? null : this.options.storage.stateMarks(request.group);
    if (request === null || own === null || own.replica !== request.replica) return NOTHING;
    if (request.odd === null) return encode({ marks: own.marks });
    const { index, hash } = request.odd;
    // The marks that were sent may have been overtaken; the next round finds the replica again.
    if (own.marks.some((mark) => mark.index === index && mark.hash !== hash)) this.condemn(request.group, index);
    return NOTHING;
  }

  /** False where there is nobody to compare with. */
  private compare(group: GroupId, own: { readonly replica: ReplicaId; readonly marks: readonly StateMark[] }): boolean {
    const { host, network } = this.options;
    const status = host.status(group);
    const others = (status?.progress ?? []).flatMap(({ replica }) => {
      const node = this.options.nodeOf(group, replica);
      return node === undefined || !network.isUp(node) ? [] : [{ replica, node }];
    });
    if (status === undefined || others.length === 0) return false;
    const marks = new Map([[own.replica, own.marks]]);
    let left = others.length;
    for (const { replica, node } of others) {
      network.request(node, RequestKind.compare, encode({ group, replica, odd: null }), ANSWER_MS, (failure, answer) => {
        const theirs = failure === null && answer !== null ? decodeMarks(answer) : null;
        if (theirs !== null) marks.set(replica, theirs);
        left--;
        if (left === 0) this.decide(group, judge(marks, status.conf.voters), { members: status.progress.length + 1, leader: own.replica });
      });
    }
    return true;
  }

  private decide(group: GroupId, verdict: Verdict, { members, leader }: { members: number; leader: ReplicaId }): void {
    if (verdict.type === 'unknown') return;
    const { comparisons, mismatches } = this.counts;
    this.counts = { comparisons: comparisons + 1, mismatches: mismatches + (verdict.type === 'equal' ? 0 : 1) };
    if (verdict.type !== 'undecided') this.undecidedGroups.delete(group);
    switch (verdict.type) {
      case 'equal':
        if (verdict.replicas === members) this.equalAt.set(group, verdict.index);
        return;
      case 'undecided':
        return this.tellUndecided(group, verdict.index, verdict.replicas);
      case 'odd': {
        const { index, hash } = verdict;
        for (const replica of verdict.replicas) {
          if (replica === leader) this.condemn(group, index);
          else this.tellOdd(group, replica, { index, hash });
        }
      }
    }
  }

  private condemn(group: GroupId, index: number): void {
    this.options.logger.error({ type: 'state_mismatch', group, index }, `group ${group}: the state of the replica on this node is not that of the majority at index ${index}`);
    this.options.storage.condemn(group, `its state differs from that of the majority at index ${index}`);
  }

  private tellOdd(group: GroupId, replica: ReplicaId, odd: StateMark): void {
    const { network, nodeOf, logger } = this.options;
    const node = nodeOf(group, replica);
    logger.error({ type: 'state_mismatch', group, replica, peer: node, index: odd.index }, `group ${group}: the state of replica ${replica} is not that of the majority at index ${odd.index}: it is taken out and made anew`);
    if (node !== undefined) network.request(node, RequestKind.compare, encode({ group, replica, odd }), ANSWER_MS, () => undefined);
  }

  private tellUndecided(group: GroupId, index: number, replicas: readonly ReplicaId[]): void {
    const line = `group ${group}: the states of replicas ${replicas.join(' and ')} differ, and no majority says which is right`;
    if (!this.undecidedGroups.has(group)) this.options.logger.error({ type: 'state_mismatch', group, replicas, index }, `${line} (index ${index})`);
    this.undecidedGroups.set(group, line);
  }
}

const NOTHING = new Uint8Array(0);
const encoder = new TextEncoder();
const decoder = new TextDecoder();

interface CompareRequest {
  readonly group: GroupId;
  readonly replica: ReplicaId;
  /** Null: what are your marks? Else: yours at this index differs from this one, which a majority has. */
  readonly odd: StateMark | null;
}

function encode(document: CompareRequest | { readonly marks: readonly StateMark[] }): Uint8Array {
  return encoder.encode(JSON.stringify(document));
}

function decodeRequest(body: Uint8Array): CompareRequest | null {
  const { group, replica, odd } = fieldsOf(body);
  if (!isCount(group) || !isCount(replica)) return null;
  if (odd === null) return { group, replica, odd };
  return isMark(odd) ? { group, replica, odd } : null;
}

/** Null for an answer that says nothing. */
function decodeMarks(body: Uint8Array): readonly StateMark[] | null {
  const { marks } = body.length === 0 ? {} : fieldsOf(body);
  return Array.isArray(marks) && marks.every(isMark) ? marks : null;
}

function fieldsOf(body: Uint8Array): Readonly<Partial<Record<string, unknown>>> {
  try {
    const value: unknown = JSON.parse(decoder.decode(body));
    return typeof value === 'object' && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
}

function isMark(value: unknown): value is StateMark {
  if (typeof value !== 'object' || value === null) return false;
  const { index, hash }: Partial<Record<string, unknown>> = { ...value };
  return isCount(index) && isCount(hash);
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
