/**
 * One Raft group: a pure, synchronous state machine. Takes ticks, messages and proposals; answers with a Ready that
 * says what to persist, send and apply. Performs nothing itself: no clock, no IO, no randomness of its own.
 *
 * The algorithm is Ongaro's thesis (elections §3.4, replication §3.5, membership §4.3, reads §6.4, pre-vote §9.6) in
 * the shape of etcd/raft v3.6 with asynchronous storage writes. raft/README.md numbers the invariants (I1 ...).
 *
 * Order of this file: inputs, Ready, elections, messages by role, replication, reads, membership, transfer, status.
 */
import { changedConf, encodeConfChange, isJoint, LEAVE_JOINT } from './confchange.ts';
import { invariant } from './invariants.ts';
import { entriesBytes, entryBytes, RaftLog } from './log.ts';
import { Progress, ProgressState, Vote } from './progress.ts';
import { Members } from './quorum.ts';
import { EntryType, MessageType } from './types.ts';
import type {
  ConfChange,
  ConfState,
  Entry,
  HardState,
  Message,
  PersistToken,
  ProposeRefusal,
  ProposeResult,
  RaftOptions,
  RaftStatus,
  ReadState,
  Ready,
  ReplicaId,
  Role,
  SnapshotMeta,
} from './types.ts';

/** Reads waiting for a confirmation in one group; more are refused. The host batches, so this is one per replica or so. */
const READS_MAX = 4096;
/** A replica that was told to fetch a snapshot and did not make it is told again after this many election timeouts. */
const SNAPSHOT_PATIENCE_TIMEOUTS = 2;
/** Page for scanning unapplied entries before a campaign. */
const SCAN_BYTES = 1 << 20;
/** Message.context of a vote asked for by the leader itself, which breaks its own lease. */
const CONTEXT_TRANSFER = 1;
const NONE = 0;

const NO_MESSAGES: readonly Message[] = [];
const NO_ENTRIES: readonly Entry[] = [];
const NO_READ_STATES: readonly ReadState[] = [];
const NO_DATA = new Uint8Array(0);

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** A read at the leader: who asked, under which name, and what must be applied before it is served. */
interface Read {
  readonly from: ReplicaId;
  readonly context: number;
  /** Commit index when the read arrived. */
  readonly index: number;
  /** Heartbeat round, started after the read arrived, whose confirmation proves that this was still the leader. */
  readonly round: number;
}

export class Raft {
  readonly id: ReplicaId;
  readonly #options: RaftOptions;
  readonly #log: RaftLog;
  readonly #members: Members;

  #role: Role = 'follower';
  #term: number;
  #vote: ReplicaId;
  /** The leader this replica follows; 0 while unknown or forgotten. Holding one refuses votes for an election timeout. */
  #leader: ReplicaId = NONE;
  /** The leader seen in this term, kept when it is forgotten, to notice a second one (I1). */
  #leaderOfTerm: ReplicaId = NONE;

  /** Ticks since the leader was heard (follower), the campaign began (candidate) or the quorum was checked (leader). */
  #electionElapsed = 0;
  #electionTimeout = 0;
  /** Ticks since heartbeats were last due, counted in every role: those of all groups of a host fall due together. */
  #heartbeatElapsed: number;
  /** Heartbeats go out with the next Ready, unless they are taken before. */
  #heartbeatDue = false;
  /** Ticks until a hurried campaign; 0: none. Cleared by any sign of a leader. */
  #campaignIn = 0;

  /** Leader: index of the last membership change that may be unapplied; the next waits until it is applied (I11). */
  #pendingConfIndex = 0;
  /** Leader: replica chosen to take over; proposals wait meanwhile. */
  #transferee: ReplicaId = NONE;
  /** Leader: bytes of entries of this term not yet handed out for applying. */
  #uncommittedBytes = 0;

  /** Leader: last read round started. Never restarts, so an answer cannot confirm a later round. */
  #readRound = 0;
  /** Leader: a read waits for the round that the next ready() starts. */
  #readRoundDue = false;
  #reads: Read[] = [];
  /** Leader: reads that arrived before it committed in its term, when its commit index could still be behind. */
  #earlyReads: { readonly from: ReplicaId; readonly context: number }[] = [];

  #messages: Message[] = [];
  #messagesAfterPersist: Message[] = [];
  #readStates: ReadState[] = [];
  #fetchSnapshot: { from: ReplicaId; index: number } | null = null;
  #sendsPending = false;
  /** The hard state last given to the writer. */
  #handedTerm: number;
  #handedVote: ReplicaId;
  #handedCommit: number;

  readonly #createProgress = (id: ReplicaId): Progress => {
    const progress = new Progress(id, this.#options);
    progress.restart(0, this.#log.lastIndex() + 1);
    // A new member gets one period before its silence counts against the quorum.
    progress.active = true;
    return progress;
  };

  /** Starts as a follower from what `options.log` holds. Throws InvariantError if that contradicts itself. */
  constructor(options: RaftOptions) {
    const { hardState, conf } = options.log;
    this.id = options.id;
    this.#options = options;
    this.#log = new RaftLog(options.log);
    this.#heartbeatElapsed = (options.ticksPassed ?? 0) % options.heartbeatTicks;
    this.#term = hardState.term;
    this.#vote = hardState.vote;
    this.#handedTerm = hardState.term;
    this.#handedVote = hardState.vote;
    this.#handedCommit = hardState.commit;
    invariant(this.#log.lastTerm() <= this.#term, 'I6', this.#log.lastTerm(), this.#term);
    this.#members = new Members(conf, this.#createProgress);
    this.#becomeFollower(this.#term, NONE);
  }

  get role(): Role {
    return this.#role;
  }

  get term(): number {
    return this.#term;
  }

  get leader(): ReplicaId {
    return this.#leader;
  }

  get commit(): number {
    return this.#log.commit;
  }

  get applied(): number {
    return this.#log.applied;
  }

  /** True of a leader, and of a follower that has heard its leader within the last two heartbeats. */
  get isSettled(): boolean {
    if (this.#role === 'leader') return this.#transferee === NONE;
    return this.#leader !== NONE && this.#campaignIn === 0 && this.#electionElapsed <= 2 * this.#options.heartbeatTicks;
  }

  /** Entries in the log. */
  get logLength(): number {
    return this.#log.lastIndex() + 1 - this.#log.firstIndex();
  }

  get isLeader(): boolean {
    return this.#role === 'leader';
  }

  /** False of a joining replica until its first snapshot: it has no state yet. */
  get hasMembership(): boolean {
    return this.#members.all.length > 0;
  }

  // ---------------------------------------------------------------- inputs

  /** One unit of time passed. */
  tick(): void {
    this.#heartbeatElapsed = (this.#heartbeatElapsed + 1) % this.#options.heartbeatTicks;
    if (this.#role === 'leader') this.#tickLeader();
    else this.#tickElection();
  }

  #tickElection(): void {
    this.#electionElapsed++;
    const hurried = this.#campaignIn > 0 && --this.#campaignIn === 0;
    if (hurried || this.#electionElapsed >= this.#electionTimeout) this.campaign();
  }

  #tickLeader(): void {
    this.#electionElapsed++;
    this.#tickSnapshots();
    if (this.#electionElapsed >= this.#options.electionTicks) {
      this.#electionElapsed = 0;
      // CheckQuorum (thesis §6.2): without a majority it could neither commit nor know that it was replaced.
      if (!this.#members.takeActiveQuorum(this.id)) {
        this.#becomeFollower(this.#term, NONE);
        return;
      }
      this.#transferee = NONE;
    }
    if (this.#heartbeatElapsed === 0) this.#heartbeatDue = true;
  }

  /**
   * The heartbeats that are due, for a host that sends them without asking for a Ready: nearly all that an idle leader
   * ever says, and they promise nothing. What is not taken comes with the next Ready.
   */
  takeHeartbeats(): readonly Message[] {
    if (!this.#heartbeatDue || this.#messages.length > 0) return NO_MESSAGES;
    this.#broadcastHeartbeat();
    const heartbeats = this.#messages;
    this.#messages = [];
    return heartbeats;
  }

  /**
   * A heartbeat or the answer to one. True if it says nothing new: all that it does, which is to set clocks back, is
   * done, and nothing asks for a Ready; a heartbeat is to be answered with `answerTo`. False: it must be stepped.
   */
  heard(message: Message): boolean {
    if (message.term !== this.#term || message.to !== this.id || message.context !== NONE) return false;
    if (message.type === MessageType.heartbeat) {
      if (this.#role !== 'follower' || this.#leader !== message.from || message.commit > this.#log.commit) return false;
      this.#electionElapsed = 0;
      this.#campaignIn = 0;
      return true;
    }
    if (message.type !== MessageType.heartbeatResponse || this.#role !== 'leader') return false;
    const member = this.#members.get(message.from);
    if (member === undefined || member.state !== ProgressState.replicate || member.match < this.#log.lastIndex()) return false;
    member.active = true;
    member.paused = false;
    return true;
  }

  /** The answer to a heartbeat. Promises nothing that must be durable (#handleHeartbeat). */
  answerTo(heartbeat: Message): Message {
    const answer = this.#compose(MessageType.heartbeatResponse, heartbeat.from);
    answer.context = heartbeat.context;
    return answer;
  }

  #tickSnapshots(): void {
    for (const member of this.#members.all) {
      if (member.state !== ProgressState.snapshot) continue;
      member.snapshotTicks++;
      if (member.snapshotTicks < SNAPSHOT_PATIENCE_TIMEOUTS * this.#options.electionTicks) continue;
      member.pendingSnapshot = 0;
      member.becomeProbe();
      this.#sendSoon(member);
    }
  }

  /** A message arrived from a peer, or one of `messagesAfterPersist` addressed to this replica itself. */
  step(message: Message): void {
    if (message.to !== this.id) return;
    if (message.term > this.#term) {
      if (!this.#admitHigherTerm(message)) return;
    } else if (message.term < this.#term) {
      this.#answerLowerTerm(message);
      return;
    }
    switch (message.type) {
      case MessageType.vote:
      case MessageType.preVote:
        this.#handleVoteRequest(message);
        return;
      case MessageType.append:
      case MessageType.heartbeat:
      case MessageType.commit:
      case MessageType.snapshot:
        this.#handleFromLeader(message);
        return;
      case MessageType.voteResponse:
      case MessageType.preVoteResponse:
        this.#handleVoteResponse(message);
        return;
      case MessageType.appendResponse:
        this.#handleAppendResponse(message);
        return;
      case MessageType.heartbeatResponse:
        this.#handleHeartbeatResponse(message);
        return;
      case MessageType.timeoutNow:
        if (this.#role === 'follower' && this.#mayCampaign()) this.#campaign(CONTEXT_TRANSFER);
        return;
      case MessageType.readIndex:
        this.#handleReadIndex(message.from, message.context);
        return;
      case MessageType.readIndexResponse:
        this.#readStates.push({ context: message.context, index: message.reject ? -1 : message.index });
        return;
    }
  }

  /**
   * Appends one entry per element, all or none. The result names the first; the others follow it. On a refusal nothing
   * was appended.
   */
  propose(data: readonly Uint8Array[]): ProposeResult {
    const refusal = this.#refuseProposal(data);
    if (refusal !== null) return { ok: false, reason: refusal };
    const index = this.#log.lastIndex() + 1;
    const entries: Entry[] = [];
    for (let i = 0; i < data.length; i++) {
      entries.push({ term: this.#term, index: index + i, type: EntryType.normal, data: data[i] ?? NO_DATA });
    }
    this.#appendAsLeader(entries);
    return { ok: true, index, term: this.#term };
  }

  #refuseProposal(data: readonly Uint8Array[]): ProposeRefusal | null {
    if (this.#role !== 'leader') return 'not_leader';
    if (this.#transferee !== NONE) return 'transferring';
    if (data.length === 0) return 'invalid';
    let bytes = 0;
    for (const item of data) bytes += item.length;
    // A single proposal larger than the limit passes when nothing else waits; else it could never be made.
    const overloaded = this.#uncommittedBytes > 0 && this.#uncommittedBytes + bytes > this.#options.uncommittedBytesMax;
    return overloaded ? 'overloaded' : null;
  }

  /**
   * Appends a membership change. Not subject to the uncommitted limit: replacing a dead replica may be what ends an
   * overload. Refused while another is unapplied or a joint configuration stands, and if it is not allowed at all.
   */
  proposeConfChange(change: ConfChange): ProposeResult {
    if (this.#role !== 'leader') return { ok: false, reason: 'not_leader' };
    if (this.#transferee !== NONE) return { ok: false, reason: 'transferring' };
    if (this.#pendingConfIndex > this.#log.applied) return { ok: false, reason: 'conf_change_pending' };
    if (change.changes.length > 0 && isJoint(this.#members.conf)) return { ok: false, reason: 'conf_change_pending' };
    if (changedConf(this.#members.conf, change) === null) return { ok: false, reason: 'invalid' };
    return { ok: true, index: this.#appendConfChange(change), term: this.#term };
  }

  #appendConfChange(change: ConfChange): number {
    invariant(this.#pendingConfIndex <= this.#log.applied, 'I11', this.#pendingConfIndex, this.#log.applied);
    const index = this.#log.lastIndex() + 1;
    this.#appendAsLeader([{ term: this.#term, index, type: EntryType.confChange, data: encodeConfChange(change) }]);
    this.#pendingConfIndex = index;
    return index;
  }

  #appendAsLeader(entries: readonly Entry[]): void {
    invariant(entries[0]?.index === this.#log.lastIndex() + 1, 'I2', entries[0]?.index ?? -1, this.#log.lastIndex());
    this.#log.append(entries);
    this.#uncommittedBytes += entriesBytes(entries);
    this.#sendSoonToAll();
  }

  /** A proposal's bytes reached the state machine: room for others. */
  #releaseUncommitted(committed: readonly Entry[]): void {
    if (this.#role !== 'leader') return;
    for (const entry of committed) {
      if (entry.term === this.#term) this.#uncommittedBytes -= entryBytes(entry);
    }
  }

  // ---------------------------------------------------------------- Ready

  /** True if `ready()` would ask for something. */
  hasReady(): boolean {
    return (
      this.#messages.length > 0 ||
      this.#messagesAfterPersist.length > 0 ||
      this.#heartbeatDue ||
      this.#sendsPending ||
      this.#readRoundDue ||
      this.#log.hasUnhanded ||
      this.#log.hasCommitted ||
      this.#log.hasUnhandedSnapshot ||
      this.#readStates.length > 0 ||
      this.#fetchSnapshot !== null ||
      this.#term !== this.#handedTerm ||
      this.#vote !== this.#handedVote ||
      this.#log.commit !== this.#handedCommit
    );
  }

  /**
   * Everything asked of the host since the last call. What is handed out counts as in progress and is not handed out
   * again; several may be outstanding before `persisted()`, and are written in the order they were taken.
   */
  ready(): Ready {
    if (this.#heartbeatDue) this.#broadcastHeartbeat();
    // Gathered here, so that all proposals and commits since the last call share one message per replica.
    if (this.#sendsPending) this.#sendAppends();
    if (this.#readRoundDue) this.#startReadRound();

    const votes = this.#term !== this.#handedTerm || this.#vote !== this.#handedVote;
    const hardState = this.#takeHardState();
    const snapshot = this.#log.takeSnapshot();
    const entries = this.#log.takeUnhanded();
    const committed = this.#log.takeCommitted(this.#options.committedBytesMax);
    if (committed.length > 0) this.#releaseUncommitted(committed);
    const sync = votes || entries.length > 0 || snapshot !== null;
    const ready: Ready = {
      hardState,
      entries,
      snapshot,
      sync,
      messages: this.#messages.length > 0 ? this.#messages : NO_MESSAGES,
      messagesAfterPersist: this.#messagesAfterPersist.length > 0 ? this.#messagesAfterPersist : NO_MESSAGES,
      committed,
      readStates: this.#readStates.length > 0 ? this.#readStates : NO_READ_STATES,
      fetchSnapshot: this.#fetchSnapshot,
      persist: sync ? this.#persistToken(snapshot) : null,
    };
    if (this.#messages.length > 0) this.#messages = [];
    if (this.#messagesAfterPersist.length > 0) this.#messagesAfterPersist = [];
    if (this.#readStates.length > 0) this.#readStates = [];
    this.#fetchSnapshot = null;
    return ready;
  }

  #takeHardState(): HardState | null {
    const commit = this.#log.commit;
    if (this.#term === this.#handedTerm && this.#vote === this.#handedVote && commit === this.#handedCommit) return null;
    invariant(this.#term >= this.#handedTerm, 'I6', this.#term, this.#handedTerm);
    const sameTerm = this.#term === this.#handedTerm;
    invariant(!sameTerm || this.#handedVote === NONE || this.#vote === this.#handedVote, 'I7', this.#vote, this.#handedVote);
    invariant(commit >= this.#handedCommit, 'I8', commit, this.#handedCommit);
    this.#handedTerm = this.#term;
    this.#handedVote = this.#vote;
    this.#handedCommit = commit;
    return { term: this.#term, vote: this.#vote, commit };
  }

  #persistToken(snapshot: SnapshotMeta | null): PersistToken {
    const lastIndex = this.#log.handed;
    return {
      term: this.#term,
      lastIndex,
      lastTerm: this.#log.term(lastIndex),
      snapshotIndex: snapshot === null ? 0 : snapshot.index,
    };
  }

  /** The write of the Ready that carried `token` is durable, and so are all earlier ones. Tokens arrive in order. */
  persisted(token: PersistToken): void {
    this.#log.persisted(token, token.term === this.#term);
    if (this.#role !== 'leader') return;
    // The leader counts itself only now: its entries were sent while its own write was running.
    const self = this.#members.get(this.id);
    if (self !== undefined && self.acknowledge(this.#log.stable)) this.#advanceCommit();
  }

  /** The state machine has applied every entry through `index`. */
  appliedTo(index: number): void {
    this.#log.appliedTo(index);
    if (this.#role !== 'leader' || !this.#members.conf.autoLeave) return;
    if (this.#log.applied >= this.#pendingConfIndex) this.#appendConfChange(LEAVE_JOINT);
  }

  /** The host dropped entries below `firstIndex` from the durable log. */
  compactedTo(firstIndex: number): void {
    invariant(firstIndex <= this.#log.applied + 1, 'I15', firstIndex, this.#log.applied);
  }

  // ---------------------------------------------------------------- elections

  /** Asks for leadership now, by a pre-vote first, so that it disturbs no working leader. */
  campaign(): void {
    if (this.#role === 'leader') return;
    this.#electionElapsed = 0;
    this.#campaignIn = 0;
    this.#drawElectionTimeout();
    if (!this.#mayCampaign()) return;
    this.#role = 'preCandidate';
    this.#leader = NONE;
    this.#members.clearVotes();
    this.#requestVotes(MessageType.preVote, this.#term + 1, NONE);
  }

  /**
   * Campaigns after at most `ticks` ticks (at least one) unless a leader is heard before: after a start, or when the
   * link to the leader's node dropped.
   */
  campaignWithin(ticks: number): void {
    if (this.#role === 'leader') return;
    const within = Math.max(1, ticks);
    this.#campaignIn = this.#campaignIn === 0 ? within : Math.min(this.#campaignIn, within);
  }

  /** Follower: no longer vouches for the leader, so that others' pre-votes are granted. Its next message restores it. */
  forgetLeader(): void {
    if (this.#role === 'follower') this.#leader = NONE;
  }

  /** Learners, replicas without a configuration and those with an unfinished snapshot or membership change may not. */
  #mayCampaign(): boolean {
    return this.#members.isVoter(this.id) && !this.#log.hasSnapshot && !this.#hasUnappliedConfChange();
  }

  /** A committed change of membership that was not applied here: this replica would count the wrong majority. */
  #hasUnappliedConfChange(): boolean {
    const end = this.#log.commit + 1;
    let from = this.#log.applied + 1;
    while (from < end) {
      const page = this.#log.entries(from, end, SCAN_BYTES);
      if (page.length === 0) return true;
      if (page.some((entry) => entry.type === EntryType.confChange)) return true;
      from += page.length;
    }
    return false;
  }

  #campaign(context: number): void {
    this.#becomeTerm(this.#term + 1);
    this.#resetTo('candidate', NONE);
    this.#voteFor(this.id);
    this.#requestVotes(MessageType.vote, this.#term, context);
  }

  /**
   * Requests wait for the persist too: a vote request vouches for (last index, last term), and a candidate that lost
   * its tail in a crash must not collect answers that were given to the longer log.
   */
  #requestVotes(type: typeof MessageType.vote | typeof MessageType.preVote, term: number, context: number): void {
    for (const member of this.#members.all) {
      if (member.learner) continue;
      const own = member.id === this.id;
      const responseType = type === MessageType.vote ? MessageType.voteResponse : MessageType.preVoteResponse;
      const message = this.#compose(own ? responseType : type, member.id);
      message.term = term;
      if (!own) {
        message.index = this.#log.lastIndex();
        message.logTerm = this.#log.lastTerm();
        message.context = context;
      }
      this.#messagesAfterPersist.push(message);
    }
  }

  #voteFor(candidate: ReplicaId): void {
    invariant(this.#vote === NONE || this.#vote === candidate, 'I7', this.#vote, candidate);
    this.#vote = candidate;
  }

  #handleVoteRequest(request: Message): void {
    const pre = request.type === MessageType.preVote;
    const free = this.#vote === request.from || (this.#vote === NONE && this.#leaderOfTerm === NONE);
    const mayVote = free || (pre && request.term > this.#term);
    const granted = mayVote && this.#log.isUpToDate(request.index, request.logTerm);
    const answer = this.#compose(pre ? MessageType.preVoteResponse : MessageType.voteResponse, request.from);
    answer.reject = !granted;
    // A granted pre-vote answers for the term asked about; a refusal tells this replica's own.
    answer.term = granted ? request.term : this.#term;
    this.#messagesAfterPersist.push(answer);
    if (!granted || pre) return;
    this.#electionElapsed = 0;
    this.#campaignIn = 0;
    this.#voteFor(request.from);
  }

  #handleVoteResponse(answer: Message): void {
    const pre = answer.type === MessageType.preVoteResponse;
    if (this.#role !== (pre ? 'preCandidate' : 'candidate')) return;
    // A grant left over from an earlier campaign.
    if (pre && !answer.reject && answer.term !== this.#term + 1) return;
    const member = this.#members.get(answer.from);
    if (member === undefined) return;
    if (member.vote === Vote.missing) member.vote = answer.reject ? Vote.rejected : Vote.granted;
    const tally = this.#members.tally();
    if (tally === 'lost') this.#becomeFollower(this.#term, NONE);
    else if (tally === 'won') {
      if (pre) this.#campaign(NONE);
      else this.#becomeLeader();
    }
  }

  #becomeTerm(term: number): void {
    invariant(term >= this.#term, 'I6', term, this.#term);
    if (term === this.#term) return;
    this.#term = term;
    this.#vote = NONE;
    this.#leaderOfTerm = NONE;
  }

  #becomeFollower(term: number, leader: ReplicaId): void {
    this.#becomeTerm(term);
    this.#resetTo('follower', leader);
  }

  #becomeLeader(): void {
    invariant(this.#role === 'candidate' && this.#vote === this.id, 'I1', this.#vote, this.id);
    this.#resetTo('leader', this.id);
    const self = this.#members.get(this.id);
    if (self !== undefined) {
      self.becomeReplicate();
      self.acknowledge(this.#log.stable);
    }
    // Whether the tail holds a membership change is not looked up: until all of it is applied none is proposed.
    this.#pendingConfIndex = this.#log.lastIndex();
    // The no-op: committing it commits everything before it (thesis §3.6.2) and opens reads (§6.4).
    const index = this.#log.lastIndex() + 1;
    this.#appendAsLeader([{ term: this.#term, index, type: EntryType.normal, data: NO_DATA }]);
  }

  /** Enters a role with nothing known of the others and nothing under way. */
  #resetTo(role: Role, leader: ReplicaId): void {
    this.#role = role;
    this.#electionElapsed = 0;
    this.#heartbeatDue = false;
    this.#campaignIn = 0;
    this.#drawElectionTimeout();
    this.#transferee = NONE;
    this.#pendingConfIndex = 0;
    this.#uncommittedBytes = 0;
    this.#sendsPending = false;
    this.#refuseReads();
    this.#members.clearVotes();
    const next = this.#log.lastIndex() + 1;
    for (const member of this.#members.all) member.restart(0, next);
    this.#leader = NONE;
    if (leader !== NONE) this.#follow(leader);
  }

  #follow(leader: ReplicaId): void {
    invariant(this.#leaderOfTerm === NONE || this.#leaderOfTerm === leader, 'I1', this.#leaderOfTerm, leader);
    this.#leaderOfTerm = leader;
    this.#leader = leader;
  }

  #drawElectionTimeout(): void {
    const { electionTicks, random } = this.#options;
    this.#electionTimeout = electionTicks + Math.floor(random() * electionTicks);
  }

  // ---------------------------------------------------------------- messages by term and role

  /** A message from a later term: true if it is to be handled. */
  #admitHigherTerm(message: Message): boolean {
    const { type } = message;
    if (type === MessageType.vote || type === MessageType.preVote) {
      // A live leader is not voted away (thesis §4.2.3), unless it asked for it.
      const leased = this.#leader !== NONE && this.#electionElapsed < this.#options.electionTicks;
      if (leased && message.context !== CONTEXT_TRANSFER) return false;
    }
    // A pre-vote asks about a term that may never come.
    if (type === MessageType.preVote) return true;
    if (type === MessageType.preVoteResponse && !message.reject) return true;
    const fromLeader = type === MessageType.append || type === MessageType.heartbeat || type === MessageType.commit || type === MessageType.snapshot;
    this.#becomeFollower(message.term, fromLeader ? message.from : NONE);
    return true;
  }

  /** A message from an earlier term is not handled, but whoever sent it must not be left waiting forever. */
  #answerLowerTerm(message: Message): void {
    switch (message.type) {
      case MessageType.append:
      case MessageType.heartbeat:
      case MessageType.commit:
      case MessageType.snapshot:
        // A leader of the past: this answer's term makes it step down. Without it, a replica that is ahead in term and
        // whose votes are refused by lease could never be heard. It acknowledges nothing (index 0).
        this.#messagesAfterPersist.push(this.#compose(MessageType.appendResponse, message.from));
        return;
      case MessageType.preVote: {
        const answer = this.#compose(MessageType.preVoteResponse, message.from);
        answer.reject = true;
        this.#messagesAfterPersist.push(answer);
        return;
      }
      case MessageType.readIndex:
        this.#answerRead(message.from, message.context, -1);
        return;
      default:
        return;
    }
  }

  #handleFromLeader(message: Message): void {
    invariant(this.#role !== 'leader', 'I1', message.from, this.id);
    if (this.#role === 'follower') {
      this.#electionElapsed = 0;
      this.#campaignIn = 0;
      this.#follow(message.from);
    } else {
      this.#becomeFollower(message.term, message.from);
    }
    if (message.type === MessageType.append) this.#handleAppend(message);
    else if (message.type === MessageType.heartbeat) this.#handleHeartbeat(message);
    else if (message.type === MessageType.commit) this.#log.commitTo(message.commit);
    else this.#handleSnapshot(message);
  }

  #handleAppend(append: Message): void {
    if (!this.hasMembership) {
      // A joining replica. Replaying the log would start from a membership it was never told, since the founding one
      // is in no entry: it takes state and membership together, from a snapshot, however short the log is. One that
      // reaches the commit index names this replica as a member, since its leader had applied that before it spoke.
      this.#fetchSnapshot = { from: append.from, index: Math.max(1, append.commit) };
      this.#refuse(append, 0, 0);
      return;
    }
    if (append.index < this.#log.commit) {
      this.#acknowledge(append.from, this.#log.commit);
      return;
    }
    if (this.#log.merge(append.index, append.logTerm, append.entries)) {
      const last = append.index + append.entries.length;
      invariant(append.entries.length === 0 || this.#log.lastTerm() <= this.#term, 'I6', this.#log.lastTerm(), this.#term);
      this.#log.commitTo(Math.min(append.commit, last));
      this.#acknowledge(append.from, last);
      return;
    }
    // Skip in one step everything that cannot agree: all our terms above the leader's at that place.
    const hint = this.#log.findConflictByTerm(Math.min(append.index, this.#log.lastIndex()), append.logTerm);
    this.#refuse(append, hint.index, hint.term);
  }

  #refuse(append: Message, hintIndex: number, hintTerm: number): void {
    const answer = this.#compose(MessageType.appendResponse, append.from);
    answer.index = append.index;
    answer.reject = true;
    answer.rejectHint = hintIndex;
    answer.logTerm = hintTerm;
    this.#messagesAfterPersist.push(answer);
  }

  #acknowledge(leader: ReplicaId, index: number): void {
    const answer = this.#compose(MessageType.appendResponse, leader);
    answer.index = index;
    this.#messagesAfterPersist.push(answer);
  }

  #handleHeartbeat(heartbeat: Message): void {
    this.#log.commitTo(heartbeat.commit);
    // Promises nothing that must be durable: that this replica leads or follows no one in a later term is in memory,
    // and it cannot have helped to elect a later leader without having persisted that term first.
    this.#messages.push(this.answerTo(heartbeat));
  }

  #handleSnapshot(message: Message): void {
    if (message.index <= this.#log.commit) {
      this.#acknowledge(message.from, this.#log.commit);
      return;
    }
    if (this.#log.matches(message.index, message.logTerm)) {
      this.#log.commitTo(message.index);
      this.#acknowledge(message.from, message.index);
      return;
    }
    const index = this.hasMembership ? message.index : Math.max(message.index, message.commit);
    this.#fetchSnapshot = { from: message.from, index };
  }

  /**
   * Takes over a snapshot that the host has staged; the next Ready makes it current. False if it is of no use: not
   * beyond the commit index, or the log holds it already, or it does not name this replica as a member.
   */
  installSnapshot(snapshot: SnapshotMeta): boolean {
    const { conf } = snapshot;
    if (this.#role !== 'follower') {
      // It lags behind a quorum: let the leader be found first.
      if (this.#role === 'leader' || snapshot.index <= this.#log.commit) return false;
      this.#becomeFollower(this.#term, NONE);
    }
    if (snapshot.index <= this.#log.commit) return false;
    const isMember = [conf.voters, conf.votersOutgoing, conf.learners, conf.learnersNext].some((ids) => ids.includes(this.id));
    if (!isMember) return false;
    const needed = !this.#log.matches(snapshot.index, snapshot.term);
    if (needed) {
      // The source may have moved on to a term not heard of here yet. A log must not end in a term beyond the hard
      // state's (I6), so the write that makes the snapshot current carries that term too.
      if (snapshot.term > this.#term) this.#becomeFollower(snapshot.term, NONE);
      this.#log.restore(snapshot);
      this.#members.change(conf, this.#createProgress);
    } else {
      this.#log.commitTo(snapshot.index);
    }
    if (this.#leader !== NONE) this.#acknowledge(this.#leader, snapshot.index);
    return needed;
  }

  // ---------------------------------------------------------------- replication (leader)

  #handleAppendResponse(answer: Message): void {
    const member = this.#members.get(answer.from);
    if (this.#role !== 'leader' || member === undefined) return;
    member.active = true;
    if (answer.reject) {
      this.#handleRejection(member, answer);
      return;
    }
    invariant(answer.index <= this.#log.lastIndex(), 'I4', answer.index, this.#log.lastIndex());
    const advanced = member.acknowledge(answer.index);
    const found = member.state === ProgressState.probe && member.match === answer.index;
    if (!advanced && !found) return;
    this.#afterAcknowledge(member);
    this.#sendSoon(member);
    if (advanced) this.#advanceCommit();
    this.#finishTransfer(member);
  }

  #afterAcknowledge(member: Progress): void {
    switch (member.state) {
      case ProgressState.probe:
        member.becomeReplicate();
        return;
      case ProgressState.snapshot:
        if (member.match + 1 >= this.#log.firstIndex()) {
          member.becomeReplicate();
        } else if (member.match >= member.pendingSnapshot) {
          // It has what it was told to fetch, but the log was compacted further meanwhile: tell it again.
          member.pendingSnapshot = 0;
          member.becomeProbe();
        }
        return;
      case ProgressState.replicate:
        member.freeInflights(member.match);
        return;
    }
  }

  #handleRejection(member: Progress, answer: Message): void {
    const { rejectHint, logTerm } = answer;
    if (answer.index === 0 && member.match === 0 && member.state === ProgressState.probe) {
      // Every log agrees at 0: only a joining replica refuses that. It fetches a snapshot by itself; do not send it
      // entries meanwhile that it must drop.
      member.becomeSnapshot(Math.max(this.#log.firstIndex() - 1, 1));
      return;
    }
    // The follower's log has `logTerm` at the hint: no entry of ours with a later term can be in it up to there.
    const probe = logTerm > 0 ? this.#log.findConflictByTerm(rejectHint, logTerm).index : rejectHint;
    if (!member.backOff(answer.index, probe)) return;
    if (member.state === ProgressState.replicate) member.becomeProbe();
    this.#sendSoon(member);
  }

  #handleHeartbeatResponse(answer: Message): void {
    const member = this.#members.get(answer.from);
    if (this.#role !== 'leader' || member === undefined) return;
    member.active = true;
    member.paused = false;
    if (answer.context > member.readRound && answer.context <= this.#readRound) {
      member.readRound = answer.context;
      this.#serveReads();
    }
    // What was sent may be lost. An empty append finds out; in probe it is also the way back to replicating.
    if (member.match < this.#log.lastIndex() || member.state === ProgressState.probe) this.#sendAppend(member, true);
  }

  /** A quorum may hold more than before. Only entries of this term are committed by counting (thesis §3.6.2). */
  #advanceCommit(): void {
    const index = this.#members.committedIndex();
    // I13.
    if (index <= this.#log.commit || this.#log.term(index) !== this.#term) return;
    const first = this.#log.term(this.#log.commit) !== this.#term;
    this.#log.commitTo(index);
    if (first) this.#admitEarlyReads();
    this.#sendSoonToAll();
  }

  #sendSoon(member: Progress): void {
    if (member.id === this.id) return;
    member.sendPending = true;
    this.#sendsPending = true;
  }

  #sendSoonToAll(): void {
    for (const member of this.#members.all) this.#sendSoon(member);
  }

  /** Sends every replica what it lacks and the limits allow, and the commit index if it can use it. */
  #sendAppends(): void {
    this.#sendsPending = false;
    for (const member of this.#members.all) {
      if (!member.sendPending) continue;
      member.sendPending = false;
      let sent = this.#sendAppend(member, false);
      if (!sent) this.#sendCommit(member);
      while (sent && member.state === ProgressState.replicate) sent = this.#sendAppend(member, false);
    }
  }

  /**
   * With nothing to append, a commit travels alone and is not answered: half of all messages under load would be
   * empty appends and their acknowledgements. A lost one is made good by the next heartbeat.
   */
  #sendCommit(member: Progress): void {
    if (member.id === this.id || member.state !== ProgressState.replicate) return;
    // As in heartbeats: never beyond what the replica is known to hold.
    const commit = Math.min(member.match, this.#log.commit);
    if (commit <= member.sentCommit) return;
    const message = this.#compose(MessageType.commit, member.id);
    message.commit = commit;
    this.#messages.push(message);
    member.sentCommit = commit;
  }

  /** Sends one append, or tells the replica to fetch a snapshot. False if nothing was sent. */
  #sendAppend(member: Progress, evenEmpty: boolean): boolean {
    if (member.id === this.id || member.isPaused()) return false;
    const prevTerm = this.#log.term(member.next - 1);
    if (prevTerm < 0) return this.#sendSnapshot(member);
    const end = this.#log.lastIndex() + 1;
    const full = member.isFull();
    const entries = full ? NO_ENTRIES : this.#log.entries(member.next, end, this.#options.messageBytesMax);
    // A replica that is not known to agree is asked even if there is nothing new.
    if (entries.length === 0 && !evenEmpty && member.state !== ProgressState.probe) return false;
    const append = this.#compose(MessageType.append, member.id);
    append.index = member.next - 1;
    append.logTerm = prevTerm;
    append.commit = this.#log.commit;
    append.entries = entries;
    this.#messages.push(append);
    member.sent(entries.length, entriesBytes(entries), append.commit);
    return true;
  }

  #sendSnapshot(member: Progress): boolean {
    // One that does not answer cannot fetch either.
    if (!member.active) return false;
    const index = this.#log.firstIndex() - 1;
    const message = this.#compose(MessageType.snapshot, member.id);
    message.index = index;
    message.logTerm = this.#log.term(index);
    message.commit = this.#log.commit;
    this.#messages.push(message);
    member.becomeSnapshot(index);
    return true;
  }

  #broadcastHeartbeat(): void {
    this.#heartbeatDue = false;
    if (this.#role !== 'leader') return;
    // While a read waits, every heartbeat asks again: the first one may be lost.
    const round = this.#reads.length > 0 ? this.#readRound : NONE;
    for (const member of this.#members.all) {
      if (member.id !== this.id) this.#sendHeartbeat(member, round);
    }
  }

  #sendHeartbeat(member: Progress, round: number): void {
    const heartbeat = this.#compose(MessageType.heartbeat, member.id);
    // Never beyond what the replica is known to hold: its tail may be another leader's.
    heartbeat.commit = Math.min(member.match, this.#log.commit);
    heartbeat.context = round;
    this.#messages.push(heartbeat);
  }

  /** The link to `replica` dropped: what is in flight is probably lost, so probe instead of sending blindly on. */
  reportUnreachable(replica: ReplicaId): void {
    const member = this.#members.get(replica);
    if (this.#role !== 'leader' || member === undefined) return;
    if (member.state === ProgressState.replicate) member.becomeProbe();
  }

  /** `replica` could not fetch the snapshot it was told to; it is told again with the next heartbeat. */
  reportSnapshotFailed(replica: ReplicaId): void {
    const member = this.#members.get(replica);
    if (this.#role !== 'leader' || member === undefined || member.state !== ProgressState.snapshot) return;
    member.pendingSnapshot = 0;
    member.becomeProbe();
    member.paused = true;
  }

  // ---------------------------------------------------------------- linearizable reads (thesis §6.4)

  /**
   * Asks for an index such that a read served after applying it sees everything acknowledged before this call. The
   * answer arrives in `Ready.readStates` under `context` (positive, and never used again by this replica, not even
   * after a restart); index -1 if there is no leader to ask. May stay unanswered when messages are lost: ask again.
   */
  readIndex(context: number): void {
    if (this.#role === 'leader' || this.#leader === NONE) {
      this.#handleReadIndex(this.id, context);
      return;
    }
    const request = this.#compose(MessageType.readIndex, this.#leader);
    request.context = context;
    this.#messages.push(request);
  }

  #handleReadIndex(from: ReplicaId, context: number): void {
    if (this.#role !== 'leader' || this.#reads.length + this.#earlyReads.length >= READS_MAX) {
      this.#answerRead(from, context, -1);
    } else if (this.#log.term(this.#log.commit) !== this.#term) {
      this.#earlyReads.push({ from, context });
    } else {
      this.#admitRead(from, context);
    }
  }

  #admitRead(from: ReplicaId, context: number): void {
    this.#reads.push({ from, context, index: this.#log.commit, round: this.#readRound + 1 });
    this.#readRoundDue = true;
  }

  #admitEarlyReads(): void {
    for (const { from, context } of this.#earlyReads) this.#admitRead(from, context);
    this.#earlyReads = [];
  }

  /** One round for all reads that arrived since the last one. */
  #startReadRound(): void {
    this.#readRoundDue = false;
    this.#readRound++;
    const self = this.#members.get(this.id);
    if (self !== undefined) self.readRound = this.#readRound;
    this.#serveReads();
    if (this.#reads.length === 0) return;
    for (const member of this.#members.all) {
      if (member.id !== this.id && !member.learner) this.#sendHeartbeat(member, this.#readRound);
    }
  }

  /** Answers the reads whose round a quorum confirmed; later rounds confirm earlier reads too. */
  #serveReads(): void {
    const confirmed = this.#members.confirmedRound();
    let served = 0;
    for (const read of this.#reads) {
      if (read.round > confirmed) break;
      this.#answerRead(read.from, read.context, read.index);
      served++;
    }
    if (served > 0) this.#reads.splice(0, served);
  }

  #refuseReads(): void {
    for (const { from, context } of this.#reads) this.#answerRead(from, context, -1);
    for (const { from, context } of this.#earlyReads) this.#answerRead(from, context, -1);
    if (this.#reads.length > 0) this.#reads = [];
    if (this.#earlyReads.length > 0) this.#earlyReads = [];
    this.#readRoundDue = false;
  }

  #answerRead(from: ReplicaId, context: number, index: number): void {
    if (from === this.id) {
      this.#readStates.push({ context, index });
      return;
    }
    const answer = this.#compose(MessageType.readIndexResponse, from);
    answer.reject = index < 0;
    answer.index = Math.max(index, 0);
    answer.context = context;
    this.#messages.push(answer);
  }

  // ---------------------------------------------------------------- membership (thesis §4.3)

  /**
   * The host applied a membership change. Returns the configuration now in force; a change that is not allowed in the
   * present one changes nothing, the same on every replica.
   */
  applyConfChange(change: ConfChange): ConfState {
    const conf = changedConf(this.#members.conf, change);
    if (conf === null) return this.#members.conf;
    this.#members.change(conf, this.#createProgress);
    if (this.#role === 'leader') this.#afterConfChange();
    else if (this.#role !== 'follower') {
      if (!this.#members.isVoter(this.id)) this.#becomeFollower(this.#term, NONE);
    } else if (!this.#members.isVoter(this.#leader)) {
      // The leader goes: do not hold its lease against whoever wants to follow it.
      this.forgetLeader();
    }
    return conf;
  }

  #afterConfChange(): void {
    if (this.#transferee !== NONE && !this.#members.isVoter(this.#transferee)) this.#transferee = NONE;
    // A smaller majority may have committed more; new members must be brought up either way.
    this.#advanceCommit();
    this.#serveReads();
    this.#sendSoonToAll();
    if (this.#members.isVoter(this.id)) return;
    // Removed (thesis §4.2.2): let the others know the commit that removed it, then leave the term to them.
    this.#sendAppends();
    this.#becomeFollower(this.#term, NONE);
  }

  // ---------------------------------------------------------------- leadership transfer (thesis §3.10)

  /**
   * Hands leadership to `to` once it has the whole log; until then, or for an election timeout at most, proposals are
   * refused. False if this is not the leader or `to` is not another voter.
   */
  transferLeadership(to: ReplicaId): boolean {
    const member = this.#members.get(to);
    if (this.#role !== 'leader' || to === this.id || member === undefined || member.learner) return false;
    if (this.#transferee === to) {
      // What told it to campaign may be lost.
      this.#finishTransfer(member);
      return true;
    }
    this.#transferee = to;
    // The transfer is given up at the next check of the quorum; start a full period.
    this.#electionElapsed = 0;
    this.#finishTransfer(member);
    this.#sendSoon(member);
    return true;
  }

  #finishTransfer(member: Progress): void {
    if (member.id !== this.#transferee || member.match !== this.#log.lastIndex()) return;
    this.#messages.push(this.#compose(MessageType.timeoutNow, member.id));
  }

  // ---------------------------------------------------------------- messages and status

  /** A message of this term; the caller fills in what differs. One shape for all. */
  #compose(type: MessageType, to: ReplicaId): Mutable<Message> {
    return {
      type,
      to,
      from: this.id,
      term: this.#term,
      index: 0,
      logTerm: 0,
      commit: 0,
      entries: NO_ENTRIES,
      reject: false,
      rejectHint: 0,
      context: NONE,
    };
  }

  /** A copy of what this replica knows, for operators and tests. */
  status(): RaftStatus {
    return {
      id: this.id,
      role: this.#role,
      term: this.#term,
      vote: this.#vote,
      leader: this.#leader,
      commit: this.#log.commit,
      applied: this.#log.applied,
      lastIndex: this.#log.lastIndex(),
      firstIndex: this.#log.firstIndex(),
      conf: this.#members.conf,
      progress: this.#role === 'leader' ? this.#members.all.filter((member) => member.id !== this.id).map(progressStatus) : [],
    };
  }
}

const STATE_NAMES = ['probe', 'replicate', 'snapshot'] as const;

function progressStatus(member: Progress): RaftStatus['progress'][number] {
  const { id, match, next, active, learner } = member;
  return { replica: id, match, next, state: STATE_NAMES[member.state], active, learner };
}

