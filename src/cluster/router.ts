/**
 * Gets a command to the leader of its group and its reply back, and makes reads linearizable, from any node.
 * Owns the rules of retrying: a command is tried again only when it is certain that the earlier try cannot commit;
 * otherwise the caller learns that the outcome is unknown. Owns no Raft state and no sockets.
 */
import type { ProposeOutcome, RaftHost } from '../../raft/host.ts';
import type { GroupId, NodeId } from '../../raft/types.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';
import { setStamp } from '../contexts/commands.ts';
import { ApiError } from '../errors.ts';
import { RequestKind, type PeerNetwork } from './ports.ts';
import type { Topology } from './topology.ts';

/** How long a waiting request sleeps before it looks for a leader again, if no leader change wakes it first. */
const RETRY_MS = 50;

/** A reply as it travels between nodes. */
type WireOutcome =
  | { readonly status: 'applied'; readonly reply: unknown }
  | { readonly status: 'not_applied'; readonly reason: string; readonly leaderNode: NodeId | null }
  | { readonly status: 'unknown'; readonly reason: string };

export interface RouterOptions {
  readonly self: NodeId;
  /** A request that has no answer after this long gets 503. */
  readonly timeoutMs: number;
  /** True while the group's leader, if that is this node, should refuse what grows the data: disks are low. */
  readonly isReadOnly: (group: GroupId) => boolean;
  readonly topology: () => Topology | null;
  readonly now: () => number;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Commands that free space or end something are taken even when the disk is low. */
export type Urgency = 'normal' | 'essential';

export class Router {
  private readonly host: RaftHost;
  private readonly network: PeerNetwork;
  private readonly options: RouterOptions;
  /** Where a group's leader was last heard to be, for groups without a replica here. */
  private readonly hints = new Map<GroupId, NodeId>();
  private readonly waiting = new Map<GroupId, (() => void)[]>();
  /** Proposals and reads under way for callers of this node. */
  private underWay = 0;
  private readonly ticker: ReturnType<typeof setInterval>;

  constructor(host: RaftHost, network: PeerNetwork, options: RouterOptions) {
    this.host = host;
    this.network = network;
    this.options = options;
    this.ticker = setInterval(() => {
      for (const group of [...this.waiting.keys()]) this.wake(group);
    }, RETRY_MS);
    this.ticker.unref();
  }

  close(): void {
    clearInterval(this.ticker);
    for (const group of [...this.waiting.keys()]) this.wake(group);
  }

  /** Calls whose answers are still awaited; a stopping node lets them finish before it cuts its links. */
  get pending(): number {
    return this.underWay;
  }

  /** True if this node has a replica of the group. */
  hosts(group: GroupId): boolean {
    return this.host.status(group) !== undefined;
  }

  /** The nodes with a replica of the group, those with a live link first. */
  hostsOf(group: GroupId): NodeId[] {
    const nodes = this.options.topology()?.groups[group]?.replicas.map((replica) => replica.node) ?? [];
    return nodes.sort((a, b) => Number(this.network.isUp(b)) - Number(this.network.isUp(a)));
  }

  /** The node that leads the group as far as this node knows. */
  leaderNode(group: GroupId): NodeId | null {
    const status = this.host.status(group);
    if (status === undefined) return this.hints.get(group) ?? this.hostsOf(group)[0] ?? null;
    if (status.leader === 0) return null;
    return this.options.topology()?.groups[group]?.replicas.find((replica) => replica.id === status.leader)?.node ?? null;
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
  propose(group: GroupId, command: Uint8Array, urgency: Urgency): Promise<unknown> {
    return new Promise((resolve, reject) => {
      let settled = false;
      this.underWay++;
      /** A try is under way whose fate is not known. */
      let pending = false;
      const finish = (error: ApiError | null, reply: unknown): void => {
        if (settled) return;
        settled = true;
        this.underWay--;
        clearTimeout(timer);
        if (error === null) resolve(reply);
        else reject(error);
      };
      const timer = setTimeout(() => finish(pending ? unknownOutcome('no answer in time') : noLeader(group), null), this.options.timeoutMs);
      const onOutcome = (outcome: WireOutcome): void => {
        pending = false;
        if (settled) return;
        switch (outcome.status) {
          case 'applied':
            return finish(null, outcome.reply);
          case 'unknown':
            return finish(unknownOutcome(outcome.reason), null);
          case 'not_applied':
            if (outcome.leaderNode !== null) this.hints.set(group, outcome.leaderNode);
            if (outcome.reason === 'overloaded') return finish(overloaded(), null);
            if (outcome.reason === 'read_only') return finish(readOnly(), null);
            return this.wait(group, attempt);
        }
      };
      const attempt = (): void => {
        if (settled) return;
        const node = this.leaderNode(group);
        if (node === null) return this.wait(group, attempt);
        pending = true;
        if (node === this.options.self) this.proposeHere(group, command, urgency, onOutcome);
        else this.proposeThere(node, group, command, urgency, onOutcome);
      };
      attempt();
    });
  }

  /**
   * Resolves once this node's replica holds everything acknowledged before the call (ReadIndex, Raft thesis §6.4).
   * Throws ApiError raft_unavailable when no leader confirms in time.
   */
  barrier(group: GroupId): Promise<void> {
    return new Promise((resolve, reject) => {
      let settled = false;
      this.underWay++;
      const timer = setTimeout(() => {
        settled = true;
        this.underWay--;
        reject(noLeader(group));
      }, this.options.timeoutMs);
      const attempt = (): void => {
        if (settled) return;
        this.host.readIndex(group, (index) => {
          if (settled) return;
          if (index < 0) return this.wait(group, attempt);
          settled = true;
          this.underWay--;
          clearTimeout(timer);
          resolve();
        });
      };
      attempt();
    });
  }

  /** Answers RequestKind.propose of another node: u16 group, u8 urgency, command. */
  answerPropose(body: Uint8Array, reply: (answer: Uint8Array) => void): void {
    if (body.length < 4) throw new RangeError('propose request too short');
    const group = (body[0] ?? 0) * 256 + (body[1] ?? 0);
    const send = (outcome: WireOutcome): void => reply(encoder.encode(JSON.stringify(outcome)));
    // Copied: the frame's buffer is reused by nobody, but a command lives as long as its log entry and must not pin a frame.
    this.proposeHere(group, body.slice(3), body[2] === 1 ? 'essential' : 'normal', send);
  }

  private proposeHere(group: GroupId, command: Uint8Array, urgency: Urgency, done: (outcome: WireOutcome) => void): void {
    if (urgency === 'normal' && this.options.isReadOnly(group)) return done({ status: 'not_applied', reason: 'read_only', leaderNode: null });
    if (group !== TOPOLOGY_GROUP) setStamp(command, this.options.now());
    this.host.propose(group, command, (outcome: ProposeOutcome) => {
      switch (outcome.status) {
        case 'applied':
          return done({ status: 'applied', reply: outcome.reply });
        case 'unknown':
          return done({ status: 'unknown', reason: outcome.reason });
        case 'not_applied':
          return done({ status: 'not_applied', reason: outcome.reason, leaderNode: this.leaderNode(group) });
      }
    });
  }

  private proposeThere(node: NodeId, group: GroupId, command: Uint8Array, urgency: Urgency, done: (outcome: WireOutcome) => void): void {
    const body = new Uint8Array(3 + command.length);
    body[0] = group >> 8;
    body[1] = group & 255;
    body[2] = urgency === 'essential' ? 1 : 0;
    body.set(command, 3);
    this.network.request(node, RequestKind.propose, body, this.options.timeoutMs, (failure, answer) => {
      switch (failure) {
        case null:
          return done(decodeOutcome(answer));
        case 'link_down':
          this.hints.delete(group);
          return done({ status: 'not_applied', reason: 'link_down', leaderNode: null });
        case 'lost':
        case 'remote_error':
          return done({ status: 'unknown', reason: `the link to the leader's node broke before its answer` });
      }
    });
  }

  private wait(group: GroupId, attempt: () => void): void {
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

function decodeOutcome(answer: Uint8Array | null): WireOutcome {
  const value: unknown = JSON.parse(decoder.decode(answer ?? new Uint8Array()));
  if (typeof value === 'object' && value !== null && 'status' in value) {
    if (value.status === 'applied' && 'reply' in value) return { status: 'applied', reply: value.reply };
    if (value.status === 'not_applied' && 'reason' in value && 'leaderNode' in value) {
      return { status: 'not_applied', reason: String(value.reason), leaderNode: typeof value.leaderNode === 'string' ? value.leaderNode : null };
    }
  }
  return { status: 'unknown', reason: "the leader's node answered in a form this version does not know" };
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
