/**
 * Runs all groups of one node. Inputs (ticks, frames, proposals) mark a group dirty; one drain collects what the dirty
 * groups ask for, sends what may leave, gathers the rest for the one write in flight, and applies what is committed.
 * Owns the order of persist, send and apply (`#drain`, the only place); knows no clock, no IO and no state machine.
 */
import type { GroupWrite, HostPorts } from './ports.ts';
import type { ConfChange, ConfState, Entry, GroupId, Message, NodeId, Ready, ReplicaId } from './types.ts';
import { EntryType, MessageType } from './types.ts';
import { compactionTarget, keepBytes, trimTarget } from './compaction.ts';
import { decodeConfChange } from './confchange.ts';
import { Inbox } from './inbox.ts';
import type { GroupStatus, HostOptions } from './options.ts';
import type { HostStats } from './peer.ts';
import { Peer } from './peer.ts';
import type { ProposeDone } from './proposals.ts';
import { Raft } from './raft.ts';
import type { ReadDone } from './reads.ts';
import { Reads } from './reads.ts';
import { HostedReplica } from './replica.ts';
import { decodeFrame, LIST_SLOTS, ListStream } from './wire.ts';

export type { GroupStatus, HostOptions } from './options.ts';
export { HOST_DEFAULTS } from './options.ts';
export type { HostStats } from './peer.ts';
export type { ProposeDone, ProposeOutcome } from './proposals.ts';
export type { ReadDone } from './reads.ts';

export class RaftHost {
  readonly stats: HostStats = {
    elections: 0, termChanges: 0, proposals: 0, readRounds: 0, framesIn: 0, framesOut: 0, bytesIn: 0, bytesOut: 0,
    malformedFrames: 0, strayMessages: 0, droppedFrames: 0, withheldAppends: 0, writes: 0, entriesPersisted: 0,
    entriesApplied: 0, snapshotsInstalled: 0, compactions: 0,
  };
  readonly #options: HostOptions;
  readonly #ports: HostPorts;
  readonly #replicas = new Map<GroupId, HostedReplica>();
  readonly #peers = new Map<NodeId, Peer>();
  readonly #inbox = new Inbox();
  #dirty: HostedReplica[] = [];
  /** Replicas with something for the next write. */
  #gathered: HostedReplica[] = [];
  #writeWanted = false;
  /** The next write waits for its time, or for what was sent to leave. */
  #pacing = false;
  /** A tick passed: frames that wait for a write leave, in case it hangs. */
  #flushDue = false;
  /** A tick passed at which heartbeats are due: plain answers to those of others leave with them. */
  #beatDue = false;
  /** Replicas of the write in flight, and of one that completed and was not yet acted upon. */
  #writing: readonly HostedReplica[] | null = null;
  /** Tick at which the write in flight began. */
  #writingSince = 0;
  #written: readonly HostedReplica[] | null = null;
  /** Replicas with a backlog, served in turn. */
  #applying: HostedReplica[] = [];
  #scheduled = false;
  #draining = false;
  /** Set by stop() and by a failure: nothing is accepted, sent or acknowledged any more. */
  #closed = false;
  #ticks = 0;
  /** At the last tick every replica was at rest. */
  #allAtRest = false;
  readonly #onUnreachable = (group: GroupId, replica: ReplicaId): void => this.#replicas.get(group)?.raft.reportUnreachable(replica);

  readonly #turn = (): void => this.#guarded(() => this.#drain());

  constructor(options: HostOptions, ports: HostPorts) {
    this.#options = options;
    this.#ports = ports;
  }

  /**
   * The loop. persist -> send -> apply:
   * what a finished write made durable is reported to Raft, and only then do the messages that promise it leave;
   * messages that promise nothing leave at once; entries, votes and snapshots join the next write, which starts when the
   * previous one is done and what was to be sent has left; committed entries (durable here by then) are applied last.
   */
  #drain(): void {
    if (this.#closed || this.#draining) return;
    this.#draining = true;
    this.#scheduled = false;

    const written = this.#written ?? [];
    this.#written = null;
    for (const replica of written) this.#attempt(replica, this.#persisted);

    const dirty = this.#dirty;
    this.#dirty = [];
    for (const replica of dirty) {
      replica.dirty = false;
      const ready = this.#collect(replica);
      if (ready === null) continue;
      for (const message of ready.messages) this.#send(replica, message);
      this.#gather(replica, ready);
      const after = ready.messagesAfterPersist;
      if (after.length > 0 && !replica.holdBack(after)) for (const message of after) this.#send(replica, message);
      this.#queueApply(replica, ready.committed);
      for (const state of ready.readStates) replica.reads.answered(state);
      replica.reads.applied(replica.raft.applied);
      if (replica.reads.wantsRound) this.#mark(replica);
      if (ready.fetchSnapshot !== null) this.#fetch(replica, ready.fetchSnapshot);
      this.#announce(replica);
    }
    this.#flush((this.#writing !== null || this.#pacing) && !this.#flushDue);
    this.#flushDue = false;
    this.#beatDue = false;
    if (this.#writeWanted && this.#writing === null && this.#written === null && !this.#pacing) this.#pace();
    this.#applySome();

    this.#draining = false;
    if (this.#dirty.length > 0 || this.#applying.length > 0 || this.#written !== null) this.#schedule();
  }

  /** Starts the replica `replica` of `group` from its durable log. */
  addGroup(group: GroupId, replica: ReplicaId): void {
    if (this.#closed) return;
    if (this.#replicas.has(group)) throw new Error(`group ${group} is already hosted`);
    const { random, readRetryTicks } = this.#options;
    const raft = new Raft({ ...this.#options, id: replica, log: this.#ports.storage.log(group), ticksPassed: this.#ticks });
    const hosted = new HostedReplica(group, raft, new Reads(Math.floor(random() * 2 ** 48), readRetryTicks));
    this.#replicas.set(group, hosted);
    this.#mark(hosted);
  }

  /** Stops hosting `group`. Waiting proposals get `unknown`, reads -1; a write in flight completes without effect here. */
  removeGroup(group: GroupId): void {
    const replica = this.#replicas.get(group);
    if (replica === undefined) return;
    this.#replicas.delete(group);
    replica.removed = true;
    replica.abandon('removed');
  }

  /** Call every tick (50 ms). Also flushes what only waits for somebody else's write, so that nothing waits longer than a tick. */
  tick(): void {
    if (this.#closed) return;
    this.#ticks += 1;
    this.#flushDue = true;
    this.#beatDue ||= this.#ticks % this.#options.heartbeatTicks === 0;
    let allAtRest = true;
    for (const replica of this.#replicas.values()) {
      try {
        replica.raft.tick();
        for (const heartbeat of replica.raft.takeHeartbeats()) this.#send(replica, heartbeat);
      } catch (error) {
        this.#threw(replica, error);
      }
      if (replica.reads.expire(this.#ticks) || replica.raft.hasReady()) this.#mark(replica);
      allAtRest &&= replica.isAtRest;
    }
    this.#allAtRest = allAtRest;
    if (this.#writing !== null && this.#isYieldDue(this.#ticks - this.#writingSince)) this.#yieldLeadership();
    if (this.#ticks % this.#options.compactTicks === 0) this.#compact();
    if (this.#gathered.length > 0 || this.#ports.storage.hasPendingState()) this.#writeWanted = true;
    this.#schedule();
  }

  /** A frame from `from`. One that cannot be decoded is ignored as a whole and counted; nothing in it can throw. */
  receive(from: NodeId, frame: Uint8Array): void {
    if (this.#closed) return;
    this.stats.framesIn += 1;
    this.stats.bytesIn += frame.length;
    const inbox = this.#inbox;
    inbox.clear();
    if (decodeFrame(frame, inbox) !== null) {
      this.stats.malformedFrames += 1;
      return;
    }
    const peer = this.#peer(from);
    for (let i = 0; i < inbox.messages.length; i++) this.#step(from, inbox.groups[i] ?? 0, inbox.messages[i]);
    for (const { name, items } of inbox.lists) {
      if (name.stream === ListStream.heartbeat) peer.responseSlot = name.slot;
      for (const held of peer.held[name.stream].hold(name, items)) this.#hear(peer, held.group, held.message);
      peer.frame.listAck(name);
    }
    for (const name of inbox.uses) {
      if (name.stream === ListStream.heartbeat) peer.responseSlot = name.slot;
      const heartbeats = peer.held[name.stream].use(name);
      if (heartbeats === undefined) peer.frame.listNeed(name);
      else for (const held of heartbeats) this.#hear(peer, held.group, held.message);
    }
    for (const name of inbox.acks) peer.sent[name.stream].acknowledged(name);
    for (const name of inbox.needs) peer.sent[name.stream].needed(name);
    this.#schedule();
  }

  /**
   * Proposes `data` (at least one byte). `done` is called once, when the fate of the entry is known here; a caller
   * that tires of waiting simply stops caring. Proposals of one turn of the event loop travel together.
   */
  propose(group: GroupId, data: Uint8Array, done: ProposeDone): void {
    const replica = this.#hosted(group, done);
    if (replica === undefined) return;
    const { uncommittedBytesMax, waitingMax } = this.#options;
    const full = replica.proposals.count + replica.queued >= waitingMax || (replica.queued > 0 && replica.queuedBytes + data.length > uncommittedBytesMax);
    if (data.length === 0 || full) {
      done({ status: 'not_applied', reason: full ? 'overloaded' : 'invalid', leader: replica.raft.leader });
      return;
    }
    this.stats.proposals += 1;
    replica.enqueue(data, done);
    this.#mark(replica);
  }

  /** Proposes a membership change; the reply of an applied one is the resulting ConfState. */
  proposeConfChange(group: GroupId, change: ConfChange, done: ProposeDone): void {
    const replica = this.#hosted(group, done);
    if (replica === undefined) return;
    this.#attempt(replica, ({ raft, proposals }) => {
      const result = raft.proposeConfChange(change);
      if (result.ok) proposals.wait(result.index, result.term, done);
      else done({ status: 'not_applied', reason: result.reason, leader: raft.leader });
    });
  }

  /**
   * Linearizable read barrier: `done(index)` once this replica has applied all that was acknowledged before the call;
   * `done(-1)` when refused (no leader, not hosted): the caller may try again.
   */
  readIndex(group: GroupId, done: ReadDone): void {
    const replica = this.#replicas.get(group);
    if (this.#closed || replica === undefined || replica.reads.count >= this.#options.waitingMax) {
      done(-1);
      return;
    }
    replica.reads.add(done);
    this.#mark(replica);
  }

  /** Hands leadership of `group` to `to` if this replica leads; false when it does not or `to` cannot lead. */
  transferLeadership(group: GroupId, to: ReplicaId): boolean {
    const replica = this.#replicas.get(group);
    if (this.#closed || replica === undefined) return false;
    let begun = false;
    this.#attempt(replica, ({ raft }) => {
      begun = raft.transferLeadership(to);
    });
    return begun;
  }

  /** Starts an election (after a pre-vote) in `group` now. */
  campaign(group: GroupId): void {
    const replica = this.#replicas.get(group);
    if (replica !== undefined) this.#attempt(replica, ({ raft }) => raft.campaign());
  }

  /** Shortens the wait for an election in `group` to at most `ticks`. */
  campaignWithin(group: GroupId, ticks: number): void {
    this.#replicas.get(group)?.raft.campaignWithin(ticks);
  }

  /** The link to `node` is up: heartbeat lists are agreed anew. */
  peerUp(node: NodeId): void {
    this.#peer(node).reset();
  }

  /** The link to `node` is gone: followers there are probed, and groups led from there look for a leader soon. */
  peerDown(node: NodeId): void {
    if (this.#closed) return;
    this.#peer(node).reset();
    const { directory } = this.#ports;
    for (const replica of this.#replicas.values()) {
      const { raft, group } = replica;
      if (raft.isLeader) {
        for (const { replica: member } of raft.status().progress) if (directory.node(group, member) === node) raft.reportUnreachable(member);
      } else if (raft.leader !== 0 && directory.node(group, raft.leader) === node) {
        raft.forgetLeader();
        const rank = directory.successorRank?.(group, node) ?? this.#options.random();
        raft.campaignWithin(1 + Math.floor(rank * this.#options.linkDownSpreadTicks));
        this.#mark(replica);
      }
    }
  }

  /** The snapshot that `replica` of `group` was told to fetch could not be delivered. */
  snapshotFailed(group: GroupId, replica: ReplicaId): void {
    this.#replicas.get(group)?.raft.reportSnapshotFailed(replica);
  }

  /**
   * Forgets log entries up to `index` with the next write, as far as that is safe here (trimTarget); ask again for the
   * rest. The caller made sure that every member has applied them: one that has not would need a snapshot.
   */
  trimLog(group: GroupId, index: number): void {
    const replica = this.#replicas.get(group);
    if (this.#closed || replica === undefined || replica.installing || replica.inFlight?.snapshot != null) return;
    const target = trimTarget(this.#ports.storage, group, replica.raft, index);
    if (target !== 0) this.#compactTo(replica, target);
  }

  /** The state of `group` here, or undefined when it is not hosted. */
  status(group: GroupId): GroupStatus | undefined {
    const replica = this.#replicas.get(group);
    if (replica === undefined) return undefined;
    return {
      ...replica.raft.status(),
      proposalsWaiting: replica.proposals.count + replica.queued,
      readsWaiting: replica.reads.count,
      backlog: replica.backlog.length - replica.backlogAt,
      fetchingSnapshot: replica.fetching,
    };
  }

  /** Groups hosted here. */
  groups(): GroupId[] {
    return [...this.#replicas.keys()];
  }

  /** True if a replica of `group` is hosted here and has state to serve: one that joins has none before its first snapshot. */
  serves(group: GroupId): boolean {
    return this.#replicas.get(group)?.raft.hasMembership ?? false;
  }

  /** True if this node leads `group`. */
  isLeader(group: GroupId): boolean {
    return this.#replicas.get(group)?.raft.isLeader ?? false;
  }

  /** The replica that leads `group` as far as this node knows, 0 if none. */
  leader(group: GroupId): ReplicaId {
    return this.#replicas.get(group)?.raft.leader ?? 0;
  }

  /**
   * True if nothing waits for the next tick: it may come with those after it, as calls of `tick` in a row, as long as that
   * leaves several such rows in an election timeout. All groups have a leader that was heard lately, nobody waits for an
   * answer, and nothing is to be written.
   */
  get isAtRest(): boolean {
    return this.#allAtRest && this.#dirty.length === 0 && this.#gathered.length === 0 && this.#writing === null && !this.#ports.storage.hasPendingState();
  }

  /** The term of the replica of `group` here, 0 if there is none. */
  term(group: GroupId): number {
    return this.#replicas.get(group)?.raft.term ?? 0;
  }

  /** Stops for good: everyone who waits is answered, nothing is sent or written any more. */
  stop(): void {
    this.#close('stopped');
  }

  // --- steps of the drain -------------------------------------------------------------------------------------

  /** A write of this replica's is durable: tell Raft, then let go what waited for it. */
  readonly #persisted = (replica: HostedReplica): void => {
    const done = replica.inFlight;
    if (done === null) return;
    replica.inFlight = null;
    const { raft } = replica;
    for (const token of done.tokens) raft.persisted(token);
    if (done.snapshot !== null) {
      this.stats.snapshotsInstalled += 1;
      replica.installing = replica.next?.snapshot !== null && replica.next !== null;
      this.#ports.machine.restored(replica.group, done.snapshot);
      replica.proposals.jumped(done.snapshot.index, done.snapshot.term, raft.leader);
      // Behind it there may be a second snapshot already; then Raft counts neither as applied yet.
      replica.reads.applied(raft.applied);
      if (replica.hasBacklog) this.#applying.push(replica);
    }
    if (done.compactTo !== 0) raft.compactedTo(done.compactTo);
    this.stats.entriesPersisted += done.entries.length;
    for (const message of done.after) this.#send(replica, message);
  };

  /** Everything the replica asks for since it was last collected, or null. */
  #collect(replica: HostedReplica): Ready | null {
    if (replica.removed) return null;
    try {
      replica.submitQueued();
      const context = replica.reads.nextRound(this.#ticks);
      if (context !== 0) {
        this.stats.readRounds += 1;
        replica.raft.readIndex(context);
      }
      if (replica.removed || this.#closed || !replica.raft.hasReady()) return null;
      return replica.raft.ready();
    } catch (error) {
      this.#threw(replica, error);
      return null;
    }
  }

  #gather(replica: HostedReplica, ready: Ready): void {
    const empty = replica.next === null;
    replica.gather(ready);
    if (replica.next === null) return;
    if (empty) this.#gathered.push(replica);
    if (replica.next.sync) this.#writeWanted = true;
  }

  /** To another node: into its next frame. To the replica itself: stepped here and now. */
  #send(replica: HostedReplica, message: Message): void {
    if (message.to === replica.raft.id) {
      this.#stepLocal(replica, message);
      return;
    }
    const node = this.#ports.directory.node(replica.group, message.to);
    if (node === undefined || node === this.#options.node) return;
    this.#peer(node).add(replica.group, message, this.#onUnreachable);
  }

  #flush(mayWait: boolean): void {
    const slot = this.#ticks % Math.min(this.#options.heartbeatTicks, LIST_SLOTS);
    for (const peer of this.#peers.values()) peer.flush({ heartbeatSlot: slot, mayWait, answers: this.#beatDue }, this.#onUnreachable);
  }

  #pace(): void {
    const { pace } = this.#ports;
    this.#pacing = true;
    if (pace === undefined) this.#startWrite();
    else pace(this.#gathered.length, this.#startWrite);
  }

  /** The entries of the next write leave, so that the followers write them at the same time; then it is put together. */
  readonly #startWrite = (): void =>
    this.#guarded(() => {
      const { afterSends } = this.#ports;
      if (this.#closed || afterSends === undefined) return this.#beginWrite();
      // Run by `pace` itself, the drain has just sent everything.
      if (!this.#draining) this.#flush(false);
      afterSends(this.#beginWrite);
    });

  readonly #beginWrite = (): void =>
    this.#guarded(() => {
      this.#pacing = false;
      if (this.#closed) return;
      // What joined since then is written here now, so it must not wait for the end of the write to be sent.
      this.#flush(false);
      this.#write();
    });

  #write(): void {
    const replicas = this.#gathered;
    const writes: GroupWrite[] = [];
    this.#gathered = [];
    this.#writeWanted = false;
    for (const replica of replicas) {
      const write = replica.removed ? null : replica.startWrite();
      if (write !== null) writes.push(write);
    }
    this.#writing = replicas;
    this.#writingSince = this.#ticks;
    this.stats.writes += 1;
    this.#ports.storage.write(writes, (error) => {
      if (this.#closed) return;
      if (error !== null) return this.#fail(error);
      this.#writing = null;
      this.#written = replicas;
      this.#turn();
    });
  }

  #queueApply(replica: HostedReplica, committed: readonly Entry[]): void {
    if (committed.length === 0) return;
    const queued = replica.hasBacklog;
    replica.addCommitted(committed);
    if (!queued && !replica.installing) this.#applying.push(replica);
  }

  /** Applies committed entries of all replicas in turn, up to the bound of one turn. */
  #applySome(): void {
    let entriesLeft = this.#options.applyEntriesMax;
    let bytesLeft = this.#options.applyBytesMax;
    const queue = this.#applying;
    this.#applying = [];
    for (const replica of queue) {
      if (replica.removed || replica.installing || this.#closed) continue;
      if (entriesLeft > 0 && bytesLeft > 0) {
        const from = replica.backlogAt;
        try {
          bytesLeft -= this.#applyBacklog(replica, entriesLeft, bytesLeft);
        } catch (error) {
          this.#threw(replica, error);
        }
        entriesLeft -= replica.backlogAt - from;
      }
      if (replica.removed) continue;
      if (replica.hasBacklog) this.#applying.push(replica);
      if (replica.raft.hasReady()) this.#mark(replica);
    }
  }

  /** Applies from the replica's backlog until it is empty or a limit is reached; returns the bytes applied. */
  #applyBacklog(replica: HostedReplica, entriesMax: number, bytesMax: number): number {
    const { machine, storage } = this.#ports;
    const { group, raft, proposals, backlog } = replica;
    let bytes = 0;
    const end = Math.min(backlog.length, replica.backlogAt + entriesMax);
    while (replica.backlogAt < end && bytes < bytesMax && !replica.removed) {
      const entry = backlog[replica.backlogAt];
      if (entry === undefined) break;
      let reply: unknown = null;
      let conf: ConfState | null = null;
      if (entry.type === EntryType.confChange) {
        const change = decodeConfChange(entry.data);
        if (change === null) throw new Error(`group ${group}: entry ${entry.index} holds no membership change this version can read`);
        conf = raft.applyConfChange(change);
        machine.applyConf(group, entry, conf, change.context);
        reply = conf;
        bytes += entry.data.length;
      } else if (entry.data.length > 0) {
        reply = machine.apply(group, entry);
        bytes += machine.bytesOf?.(entry) ?? entry.data.length;
      }
      storage.setApplied(group, { index: entry.index, term: entry.term, conf });
      raft.appliedTo(entry.index);
      replica.backlogAt += 1;
      this.stats.entriesApplied += 1;
      proposals.applied(entry.index, entry.term, reply, raft.leader);
    }
    replica.reads.applied(raft.applied);
    return bytes;
  }

  #fetch(replica: HostedReplica, wanted: { readonly from: ReplicaId; readonly index: number }): void {
    const node = this.#ports.directory.node(replica.group, wanted.from);
    // A new transfer would sweep away what is staged and about to become current; its leader tells it again if need be.
    if (replica.fetching || replica.installing || node === undefined) return;
    replica.fetching = true;
    this.#ports.snapshots.fetch(replica.group, node, wanted.index, (error, meta) => {
      replica.fetching = false;
      // After an error the leader's probe repeats the hint, and with it the fetch.
      if (this.#closed || replica.removed || error !== null || meta === null) return;
      this.#attempt(replica, () => {
        if (!replica.raft.installSnapshot(meta)) this.#ports.snapshots.discard?.(replica.group);
      });
      this.#mark(replica);
      this.#schedule();
    });
  }

  #announce(replica: HostedReplica): void {
    const { leader, term, isLeader } = replica.raft;
    if (leader === replica.seenLeader && term === replica.seenTerm) return;
    if (term !== replica.seenTerm) this.stats.termChanges += 1;
    if (isLeader) this.stats.elections += 1;
    replica.seenLeader = leader;
    replica.seenTerm = term;
    this.#ports.onLeader?.(replica.group, leader, term, isLeader);
  }

  // --- inputs ---------------------------------------------------------------------------------------------------

  #step(from: NodeId, group: GroupId, message: Message | undefined): void {
    const replica = message === undefined ? undefined : this.#addressee(from, group, message);
    if (replica !== undefined && message !== undefined) this.#stepLocal(replica, message);
  }

  /** A plain heartbeat or answer: most say nothing new, and those cost their replica no turn. */
  #hear(peer: Peer, group: GroupId, message: Message): void {
    const replica = this.#addressee(peer.node, group, message);
    if (replica === undefined) return;
    if (!replica.raft.heard(message)) this.#stepLocal(replica, message);
    else if (message.type === MessageType.heartbeat) peer.add(group, replica.raft.answerTo(message), this.#onUnreachable);
  }

  /** The replica that a message from node `from` is for; undefined, and counted, when it is for none or not from its home. */
  #addressee(from: NodeId, group: GroupId, message: Message): HostedReplica | undefined {
    const replica = this.#replicas.get(group);
    const home = this.#ports.directory.node(group, message.from);
    const isStray = home === undefined ? (this.#ports.directory.isGone?.(group, message.from) ?? false) : home !== from;
    if (replica !== undefined && replica.raft.id === message.to && !isStray) return replica;
    this.stats.strayMessages += 1;
    return undefined;
  }

  #stepLocal(replica: HostedReplica, message: Message): void {
    try {
      replica.raft.step(message);
    } catch (error) {
      this.#threw(replica, error);
    }
    this.#mark(replica);
  }

  #compact(): void {
    const { storage } = this.#ports;
    const keep = keepBytes(storage, this.groups(), this.#options);
    for (const replica of this.#replicas.values()) {
      if (replica.installing || replica.inFlight?.snapshot != null) continue;
      const target = compactionTarget(storage, replica.group, replica.raft, keep, this.#options);
      if (target !== 0) this.#compactTo(replica, target);
    }
  }

  #compactTo(replica: HostedReplica, target: number): void {
    this.stats.compactions += 1;
    if (replica.next === null) this.#gathered.push(replica);
    replica.gatherCompaction(target);
  }

  /** A write counts as stalled after writeStallTicks; from then on leaderships that are still here are offered four times as often. */
  #isYieldDue(ticks: number): boolean {
    const { writeStallTicks } = this.#options;
    const late = ticks - (writeStallTicks - 1);
    return late >= 0 && late % Math.ceil(writeStallTicks / 4) === 0;
  }

  /**
   * The disk hangs. A leader whose own log does not move can neither apply nor answer, though its followers commit:
   * whoever is most advanced among the reachable voters takes over.
   */
  #yieldLeadership(): void {
    for (const replica of this.#replicas.values()) {
      if (!replica.raft.isLeader) continue;
      const { progress, id, conf } = replica.raft.status();
      let best: { readonly replica: ReplicaId; readonly match: number } | null = null;
      for (const member of progress) {
        if (member.replica === id || !member.active || !conf.voters.includes(member.replica)) continue;
        if (best === null || member.match > best.match) best = member;
      }
      const successor = best;
      if (successor !== null) this.#attempt(replica, ({ raft }) => void raft.transferLeadership(successor.replica));
    }
  }

  #hosted(group: GroupId, done: ProposeDone): HostedReplica | undefined {
    const replica = this.#closed ? undefined : this.#replicas.get(group);
    if (replica === undefined) done({ status: 'not_applied', reason: this.#closed ? 'stopped' : 'no_group', leader: 0 });
    return replica;
  }

  #peer(node: NodeId): Peer {
    const known = this.#peers.get(node);
    if (known !== undefined) return known;
    const peer = new Peer(node, this.#ports.transport, this.#options, this.stats, this.#options.random);
    this.#peers.set(node, peer);
    return peer;
  }

  #mark(replica: HostedReplica): void {
    if (replica.dirty || replica.removed) return;
    replica.dirty = true;
    this.#dirty.push(replica);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#draining || this.#closed) return;
    this.#scheduled = true;
    this.#ports.schedule(this.#turn);
  }

  // --- failure --------------------------------------------------------------------------------------------------

  /** Runs one replica's part, if it is still hosted, and leaves the replica marked dirty. */
  #attempt(replica: HostedReplica, work: (replica: HostedReplica) => void): void {
    if (replica.removed || this.#closed) return;
    try {
      work(replica);
    } catch (error) {
      this.#threw(replica, error);
    }
    this.#mark(replica);
  }

  /**
   * A throw is a broken invariant and stops the node, unless the replica was taken out during the call: its storage
   * found damage, removed the group, and had no other way out of the call.
   */
  #threw(replica: HostedReplica, error: unknown): void {
    if (!replica.removed) this.#fail(error instanceof Error ? error : new Error(String(error)));
  }

  /** A throw out of the loop itself (a port, a caller's callback) stops the node as a broken invariant does. */
  #guarded(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #fail(error: Error): void {
    if (this.#closed) return;
    this.#ports.fatal(error);
    this.#close('failed');
  }

  #close(reason: 'stopped' | 'failed'): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const replica of this.#replicas.values()) replica.abandon(reason);
    this.#dirty = [];
    this.#gathered = [];
    this.#applying = [];
  }
}

