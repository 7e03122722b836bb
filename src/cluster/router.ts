/**
 * Gets a command to the leader of its group and its reply back, and makes reads linearizable, from any node.
 * Owns the rules of retrying: a command is tried again only when it is certain that the earlier try cannot commit;
 * otherwise the caller learns that the outcome is unknown. Owns no Raft state and no sockets.
 */
import type { ProposeOutcome, RaftHost } from '../../raft/host.ts';
import type { GroupId, NodeId } from '../../raft/types.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';
import { formatOf, setStamp } from '../contexts/commands.ts';
import { ApiError } from '../errors.ts';
import { FOUNDING_FORMATS } from './formats.ts';
import { decodeOutcome, encodeOutcome, type WireOutcome } from './outcomes.ts';
import { RequestKind, type CommandTraces, type PeerNetwork } from './ports.ts';
import { Deadline, TimeoutWheel } from './timeouts.ts';
import type { Topology } from './topology.ts';

/** How long a waiting request sleeps before it looks for a leader again, if no leader change wakes it first. */
const RETRY_MS = 50;
/** Times in a row that a proposal follows a "not here, but there" at once; then it sleeps, for two nodes can disagree for long. */
const REDIRECTS_MAX = 3;
/** Commands of callers of this node that may be under way; beyond it the answer is `overloaded`. */
export const UNDER_WAY_MAX = 65_536;
export const UNDER_WAY_BYTES_MAX = 256 * 1024 * 1024;

export interface RouterOptions {
  readonly self: NodeId;
  /** A request that has no answer after this long gets 503. */
  readonly timeoutMs: number;
  /** True while the group's leader, if that is this node, should refuse what grows the data: disks are low. */
  readonly isReadOnly: (group: GroupId) => boolean;
  readonly topology: () => Topology | null;
  /** Who runs the group on this very node where it is divided into shards, among names of nodes; null: this shard. */
  readonly siblingOf?: (group: GroupId) => NodeId | null;
  /** Milliseconds from a proposal on its leader, here, until it was applied here. */
  readonly onApplied?: (ms: number) => void;
  readonly traces?: CommandTraces | null;
  readonly now: () => number;
}

/** Commands that free space or end something are taken even when the disk is low. */
export type Urgency = 'normal' | 'essential';

/** A proposal that came from another shard of this node: so much time it has left, to that trace it belongs. */
interface Passed {
  readonly timeoutMs: number;
  readonly trace: Uint8Array | null;
}

/** Why a shard that a proposal was passed to did not apply it: there was no leader in all its time. */
const NO_LEADER = 'raft_unavailable';

/** A shard that a proposal was passed to takes so much less time than the one that passed it on: that one is to hear that nothing was applied. */
const PASSING_MS_MAX = 250;

export class Router {
  private readonly host: RaftHost;
  private readonly network: PeerNetwork;
  private readonly options: RouterOptions;
  /** Which node to try first for a group without a replica here: where its leader was last heard to be, or whose turn it is. */
  private readonly hints = new Map<GroupId, NodeId>();
  private readonly waiting = new Map<GroupId, (() => void)[]>();
  /** Proposals and reads under way for callers of this node, and the bytes of the proposals. */
  private underWay = 0;
  private underWayBytes = 0;
  private closed = false;
  /** A timer for each call would cost as much as much of the rest. */
  private readonly wheel = new TimeoutWheel(performance.now());
  /** Runs while a call is under way. */
  private ticker: ReturnType<typeof setInterval> | null = null;

  constructor(host: RaftHost, network: PeerNetwork, options: RouterOptions) {
    this.host = host;
    this.network = network;
    this.options = options;
  }

  /** Whoever waits for a leader is answered; calls whose fate hangs on another node or on the host are answered by those. */
  close(): void {
    this.closed = true;
    for (const group of [...this.waiting.keys()]) this.wake(group);
  }

  /** Calls whose answers are still awaited; a stopping node lets them finish before it cuts its links. */
  get pending(): number {
    return this.underWay;
  }

  /** The command format that the cluster uses. */
  get commandFormat(): number {
    return this.options.topology()?.formats.command ?? FOUNDING_FORMATS.command;
  }

  /** True if this node has a replica of the group that votes and serves. */
  hosts(group: GroupId): boolean {
    return this.host.serves(group);
  }

  /** The other nodes with a replica of the group, those with a live link first, and of these the likely leader. */
  hostsOf(group: GroupId): NodeId[] {
    const hint = this.hints.get(group);
    const order = (node: NodeId): number => (this.network.isUp(node) ? 0 : 2) + (node === hint ? 0 : 1);
    return this.othersWith(group).sort((a, b) => order(a) - order(b));
  }

  /** The node to propose to: the leader as far as this node knows, or else the host whose turn it is to be asked. */
  leaderNode(group: GroupId): NodeId | null {
    const sibling = this.options.siblingOf?.(group) ?? null;
    if (sibling !== null) return sibling;
    const leader = this.host.leader(group);
    if (leader !== 0) return this.options.topology()?.groups[group]?.replicas.find((replica) => replica.id === leader)?.node ?? null;
    return this.hosts(group) ? null : (this.hostsOf(group)[0] ?? null);
  }

  /** A group's leader changed: requests that wait for one try again at once. */
  onLeader(group: GroupId): void {
    this.wake(group);
  }

  /**
   * Commits `command` in `group` and resolves to the state machine's reply.
   * Throws ApiError: `overloaded`, `read_only`, `raft_unavailable` (outcome not_applied: nothing happened) or
   * `timeout` (outcome unknown: it may have been applied).
   */
  propose(group: GroupId, command: Uint8Array, urgency: Urgency, passed: Passed | null = null): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.underWay >= UNDER_WAY_MAX || this.underWayBytes + command.length > UNDER_WAY_BYTES_MAX) return reject(overloaded());
      let settled = false;
      this.underWay++;
      this.underWayBytes += command.length;
      /** A try is under way whose fate is not known. */
      let pending = false;
      let tried: NodeId | null = null;
      /** Where the last try was told to go. */
      let redirect: NodeId | null = null;
      let redirects = 0;
      const span = passed === null ? (this.options.traces?.propose(group) ?? null) : null;
      const trace = passed === null ? (span?.context ?? null) : passed.trace;
      const finish = (error: ApiError | null, reply: unknown): void => {
        if (settled) return;
        settled = true;
        this.underWay--;
        this.underWayBytes -= command.length;
        this.wheel.cancel(deadline);
        span?.end(error === null ? 'applied' : error.code);
        if (error === null) resolve(reply);
        else reject(error);
      };
      const deadline = new Deadline(() => finish(pending ? unknownOutcome('no answer in time') : noLeader(group), null));
      this.await(deadline, passed?.timeoutMs ?? this.options.timeoutMs);
      const onOutcome = (outcome: WireOutcome): void => {
        pending = false;
        if (settled) return;
        switch (outcome.status) {
          case 'applied':
            return finish(null, outcome.reply);
          case 'unknown':
            return finish(unknownOutcome(outcome.reason), null);
          case 'not_applied': {
            if (outcome.reason === 'overloaded') return finish(overloaded(), null);
            if (outcome.reason === 'read_only') return finish(readOnly(), null);
            // Another shard has looked for a leader for as long as there was time.
            if (outcome.reason === NO_LEADER) return finish(noLeader(group), null);
            const { leaderNode } = outcome;
            this.notThere(group, tried, leaderNode);
            if (leaderNode === null || leaderNode === tried || redirects === REDIRECTS_MAX) return sleep();
            redirects++;
            redirect = leaderNode;
            return attempt();
          }
        }
      };
      const sleep = (): void => {
        redirects = 0;
        redirect = null;
        this.wait(group, attempt);
      };
      const attempt = (): void => {
        if (settled) return;
        if (this.closed) return finish(noLeader(group), null);
        tried = redirect ?? this.leaderNode(group);
        if (tried === null) return sleep();
        pending = true;
        if (tried === this.options.self) this.proposeHere({ group, command, urgency, trace }, onOutcome);
        else this.proposeThere(tried, { group, command, urgency, trace }, onOutcome);
      };
      attempt();
    });
  }

  /**
   * Resolves to true once this node's replica holds everything acknowledged before the call (ReadIndex, Raft thesis
   * §6.4), and to false when there is no replica here, or no longer: another node must be asked.
   * Throws ApiError raft_unavailable when no leader confirms within `timeoutMs`.
   */
  barrier(group: GroupId, timeoutMs: number = this.options.timeoutMs): Promise<boolean> {
    return new Promise((resolve, reject) => {
      let settled = false;
      this.underWay++;
      const finish = (isCurrent: boolean | null): void => {
        if (settled) return;
        settled = true;
        this.underWay--;
        this.wheel.cancel(deadline);
        if (isCurrent === null) reject(noLeader(group));
        else resolve(isCurrent);
      };
      const deadline = new Deadline(() => finish(null));
      this.await(deadline, timeoutMs);
      const attempt = (): void => {
        if (settled) return;
        if (this.closed) return finish(null);
        this.host.readIndex(group, (index) => {
          if (index >= 0) finish(true);
          else if (!this.hosts(group)) finish(false);
          else if (!settled) this.wait(group, attempt);
        });
      };
      attempt();
    });
  }

  /**
   * Commits `command` in a group that this node leads, also while disks are low. Resolves to true once it is applied
   * here; to false when it was not, or nothing is known of it. Never rejects. For what is proposed again anyway.
   */
  proposeLed(group: GroupId, command: Uint8Array): Promise<boolean> {
    return new Promise((resolve) => {
      if (this.closed || !this.host.isLeader(group)) return resolve(false);
      const deadline = new Deadline(() => resolve(false));
      this.await(deadline, this.options.timeoutMs);
      this.proposeHere({ group, command, urgency: 'essential', trace: null }, ({ status }) => {
        this.wheel.cancel(deadline);
        resolve(status === 'applied');
      });
    });
  }

  /** Answers RequestKind.propose of another node, in the form of encodeProposal. */
  answerPropose(body: Uint8Array, reply: (answer: Uint8Array) => void): void {
    this.proposeHere(decodeProposal(body), (outcome) => reply(encodeOutcome(outcome)));
  }

  /** Answers RequestKind.propose of another shard of this node, which speaks for a client: this one finds the leader, wherever it is. */
  answerSibling(body: Uint8Array, reply: (answer: Uint8Array) => void): void {
    const { group, command, urgency, trace } = decodeProposal(body);
    const { timeoutMs } = this.options;
    const send = (outcome: WireOutcome): void => reply(encodeOutcome(outcome));
    this.propose(group, command, urgency, { timeoutMs: timeoutMs - Math.min(PASSING_MS_MAX, timeoutMs / 10), trace }).then(
      (applied) => send({ status: 'applied', reply: applied }),
      (error: unknown) => send(outcomeOf(error)),
    );
  }

  private proposeHere(proposal: Proposal, done: (outcome: WireOutcome) => void): void {
    const { group, command, urgency, trace } = proposal;
    // Only the leader's disk speaks for the group: one that is asked by mistake sends the caller on.
    if (urgency === 'normal' && this.host.isLeader(group) && this.options.isReadOnly(group)) return done({ status: 'not_applied', reason: 'read_only', leaderNode: null });
    // The proposer may have seen the table raised before this node did; it asks again.
    if (group !== TOPOLOGY_GROUP && formatOf(command) > this.commandFormat) return done({ status: 'not_applied', reason: 'format', leaderNode: null });
    if (group !== TOPOLOGY_GROUP) setStamp(command, this.options.now());
    const span = trace === null ? null : (this.options.traces?.lead(group, trace) ?? null);
    const started = performance.now();
    this.host.propose(group, command, (outcome: ProposeOutcome) => {
      span?.end(outcome.status === 'applied' ? 'applied' : outcome.reason);
      switch (outcome.status) {
        case 'applied':
          this.options.onApplied?.(performance.now() - started);
          return done({ status: 'applied', reply: outcome.reply });
        case 'unknown':
          return done({ status: 'unknown', reason: outcome.reason });
        case 'not_applied':
          return done({ status: 'not_applied', reason: outcome.reason, leaderNode: this.leaderNode(group) });
      }
    });
  }

  private proposeThere(node: NodeId, proposal: Proposal, done: (outcome: WireOutcome) => void): void {
    const body = encodeProposal(proposal);
    this.network.request(node, RequestKind.propose, body, this.options.timeoutMs, (failure, answer) => {
      switch (failure) {
        case null:
          return done(decodeOutcome(answer));
        case 'link_down':
          return done({ status: 'not_applied', reason: 'link_down', leaderNode: null });
        case 'lost':
        case 'remote_error':
          return done({ status: 'unknown', reason: `the link to the leader's node broke before its answer` });
      }
    });
  }

  /** `node` did not take a proposal. Learns where the leader is, or else lets the next host have its turn. */
  private notThere(group: GroupId, node: NodeId | null, leaderNode: NodeId | null): void {
    if (leaderNode !== null) {
      this.hints.set(group, leaderNode);
      return;
    }
    const others = this.othersWith(group);
    const reachable = others.filter((other) => this.network.isUp(other));
    const line = reachable.length > 0 ? reachable : others;
    const next = line[(line.indexOf(node ?? '') + 1) % line.length];
    if (next !== undefined) this.hints.set(group, next);
  }

  private othersWith(group: GroupId): NodeId[] {
    const sibling = this.options.siblingOf?.(group) ?? null;
    if (sibling !== null) return [sibling];
    const replicas = this.options.topology()?.groups[group]?.replicas ?? [];
    // A newcomer may have nothing yet: it is asked last.
    const inOrder = [...replicas].sort((a, b) => Number(a.phase === 'changing') - Number(b.phase === 'changing'));
    return [...new Set(inOrder.map((replica) => replica.node))].filter((node) => node !== this.options.self);
  }

  /** Ends the call after `timeoutMs` unless the deadline is cancelled before. */
  private await(deadline: Deadline, timeoutMs: number): void {
    this.wheel.add(deadline, performance.now(), timeoutMs);
    if (this.ticker !== null) return;
    this.ticker = setInterval(() => this.tick(), RETRY_MS);
    this.ticker.unref();
  }

  /** Every waiting attempt is of a call with a deadline in the wheel, so that nothing waits where the wheel is empty. */
  private tick(): void {
    this.wheel.advance(performance.now());
    for (const group of [...this.waiting.keys()]) this.wake(group);
    if (this.wheel.size > 0 || this.ticker === null) return;
    clearInterval(this.ticker);
    this.ticker = null;
  }

  private wait(group: GroupId, attempt: () => void): void {
    if (this.closed) return attempt();
    const waiting = this.waiting.get(group);
    if (waiting === undefined) this.waiting.set(group, [attempt]);
    else waiting.push(attempt);
  }

  private wake(group: GroupId): void {
    const waiting = this.waiting.get(group);
    if (waiting === undefined) return;
    this.waiting.delete(group);
    for (const attempt of waiting) attempt();
  }
}

/** A command on its way to its leader. */
interface Proposal {
  readonly group: GroupId;
  readonly command: Uint8Array;
  readonly urgency: Urgency;
  /** The trace it belongs to, if it is traced. */
  readonly trace: Uint8Array | null;
}

const ESSENTIAL = 1;
const TRACED = 2;

/** u16 group, u8 flags, if it is traced u8 length and the trace, command. */
function encodeProposal({ group, command, urgency, trace }: Proposal): Uint8Array {
  const start = trace === null ? 3 : 4 + trace.length;
  const body = new Uint8Array(start + command.length);
  body[0] = group >> 8;
  body[1] = group & 255;
  body[2] = (urgency === 'essential' ? ESSENTIAL : 0) | (trace === null ? 0 : TRACED);
  if (trace !== null) {
    body[3] = trace.length;
    body.set(trace, 4);
  }
  body.set(command, start);
  return body;
}

/** Throws RangeError. */
function decodeProposal(body: Uint8Array): Proposal {
  const flags = body[2] ?? 0;
  const start = (flags & TRACED) === 0 ? 3 : 4 + (body[3] ?? 0);
  if (body.length <= start) throw new RangeError('propose request too short');
  return {
    group: (body[0] ?? 0) * 256 + (body[1] ?? 0),
    // Copied: the frame's buffer is reused by nobody, but a command lives as long as its log entry and must not pin a frame.
    command: body.slice(start),
    urgency: (flags & ESSENTIAL) === 0 ? 'normal' : 'essential',
    trace: start === 3 ? null : body.slice(4, start),
  };
}

/** What Router.propose threw, for another shard; nothing is said to have been left undone that may not have been. */
function outcomeOf(error: unknown): WireOutcome {
  const code = error instanceof ApiError ? error.code : null;
  if (code === 'overloaded' || code === 'read_only' || code === NO_LEADER) return { status: 'not_applied', reason: code, leaderNode: null };
  return { status: 'unknown', reason: error instanceof Error ? error.message : String(error) };
}

function unknownOutcome(reason: string): ApiError {
  return new ApiError('timeout', `The write may or may not have been applied (${reason}). Retry with the same Idempotency-Key or if_version.`, { outcome: 'unknown' });
}

function noLeader(group: GroupId): ApiError {
  return new ApiError('raft_unavailable', `Raft group ${group} has no leader that this node can reach. Nothing was applied; retry.`, { outcome: 'not_applied' });
}

function overloaded(): ApiError {
  return new ApiError('overloaded', 'The proposal queue of this context’s Raft group is full. Nothing was applied; slow down and retry.', { outcome: 'not_applied' });
}

function readOnly(): ApiError {
  return new ApiError('read_only', 'Disk space is low on the node that leads this context, or on a quorum of its replicas. Reads and deletes go on; free space and retry.', { outcome: 'not_applied' });
}
