/**
 * Composition root: builds one node, wires its parts, owns the ticker, closes everything in reverse. Decides nothing
 * about conversations or consensus; what happens on an event that concerns several parts is said here, in one place.
 */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { HOST_DEFAULTS, RaftHost } from '../raft/host.ts';
import type { GroupId, NodeId, ReplicaId } from '../raft/types.ts';
import { NodeArchive, type ArchiveSetup } from './archive/node-archive.ts';
import { PeerKeyError, PeerKeys } from './cluster/auth.ts';
import { CLOCK_SKEW_MS_MAX, isClockTrusted } from './cluster/clocks.ts';
import { Coordinator } from './cluster/coordinator.ts';
import { Membership } from './cluster/membership.ts';
import { Founding } from './cluster/founding.ts';
import { Health } from './cluster/health.ts';
import { archivedAs, IdentityError, openIdentity, type OpenedIdentity } from './cluster/identity.ts';
import { ownAddress } from './cluster/own-address.ts';
import { PeerLedger } from './cluster/ledger.ts';
import { PeerStatuses, type NodeStatus } from './cluster/peer-status.ts';
import { PEER_PATH, PeerLinks } from './cluster/links.ts';
import { successorRank } from './cluster/placement.ts';
import type { FoundingRecord, PeerTlsSource } from './cluster/ports.ts';
import { Reached } from './cluster/reached.ts';
import { Router } from './cluster/router.ts';
import { Standing } from './cluster/standing.ts';
import { mountSnapshots, SnapshotReceiver, SnapshotSender } from './cluster/snapshots.ts';
import { FOUNDING_FORMATS, tooOldFor } from './cluster/formats.ts';
import { isGone, type Topology } from './cluster/topology.ts';
import { Ticker } from './cluster/ticker.ts';
import { Turn } from './cluster/turn.ts';
import { WritePace } from './pace.ts';
import type { Config } from './config.ts';
import { TOPOLOGY_GROUP, WIRE_FORMAT } from './constants.ts';
import { drain, handOverAll } from './draining.ts';
import { MessageExporter } from './export.ts';
import { buildApp } from './http/app.ts';
import { Connections } from './http/connections.ts';
import { NodeErasure } from './erasure/node-erasure.ts';
import { Listing } from './listing/listing.ts';
import { linkLog, type Logger, type NodeLogger } from './log.ts';
import { Machine, TOPOLOGY_ROW } from './machine.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import type { OtlpTraces } from './otlp.ts';
import { answerPeer } from './peer-requests.ts';
import { sampleNode } from './sample.ts';
import { NodeShard, siblingDoor } from './shards/node-shard.ts';
import { seatOf, WHOLE } from './cluster/seat.ts';
import type { Shard } from './shards/shard.ts';
import { openStorage, StartError } from './start.ts';
import type { Storage } from './storage/store.ts';
import { Store } from './store.ts';
import { StreamServer } from './streams/server.ts';
import { NodeTls, TlsError } from './tls.ts';
import { TokenCounter } from './tokens/counter.ts';
import { CompactionWebhook } from './webhook.ts';

/** Raft's tick (DESIGN: election 12-24 ticks, heartbeat every 2). */
const TICK_MS = 50;
/** Disk space and clocks are looked at this often. */
const WATCH_MS = 1000;
/** Readiness is looked at this often for the log. */
const READINESS_MS = 500;
/** A node whose last sync took this long should lead nothing (an fsync of a sound disk takes a few milliseconds). */
const SLOW_DISK_MS = 500;

export { StartError };

export class Node {
  private readonly config: Config;
  /** host:port at which peers reach this node. */
  private readonly address: string;
  private readonly logger: Logger;
  private readonly fatal: (error: Error) => void;
  private readonly restart: () => void;
  private readonly storage: Storage;
  private readonly identity: OpenedIdentity;
  private readonly keys: PeerKeys;
  private readonly metrics: Metrics = createMetrics();
  private readonly machine: Machine;
  private readonly host: RaftHost;
  private readonly links: PeerLinks;
  private readonly router: Router;
  private readonly reached: Reached;
  private readonly store: Store;
  private readonly listing: Listing;
  private readonly counter: TokenCounter;
  private readonly traces: OtlpTraces | null;
  private readonly tls: NodeTls | null;
  private readonly peerTls: PeerTlsSource | null;
  private readonly sender: SnapshotSender;
  private readonly receiver: SnapshotReceiver;
  private readonly health: Health;
  private readonly streams: StreamServer;
  private readonly webhook: CompactionWebhook | null;
  private readonly erasure: NodeErasure;
  private readonly archive: NodeArchive;
  /** Null: the node is not divided into shards. */
  private readonly shard: NodeShard | null;
  private readonly membership: Membership;
  private coordinator: Coordinator | null = null;
  private founding: Founding | null = null;
  private app: FastifyInstance | null = null;
  private connections: Connections | null = null;
  private readonly ticker = new Ticker({ stepMs: TICK_MS, mayDefer: () => this.host.isAtRest, onLate: (ms) => this.metrics.loopLate(ms) });
  private readonly stops: (() => void)[] = [];
  /** Node of each replica, by group; rebuilt when the topology changes, because every message looks here. */
  private nodesByGroup: ReadonlyMap<ReplicaId, NodeId>[] = [];
  private topology: Topology | null = null;
  private stopped = false;
  private saidReadiness = '';
  private readonly peerStatuses: PeerStatuses;
  private closing: Promise<void> | null = null;

  /**
   * Starts a node and resolves when it listens; readiness comes later (GET /health/ready).
   * Throws StartError when configuration or data refuse. `fatal` is called at most once, when the process must end;
   * `restart` when it must be closed at once and another one started: there is disk space again after it stopped writing
   * for want of it, or its data is to be set aside. `shard`: the node is one of several on their own threads, which share
   * its name and its port.
   */
  static async start(config: Config, logger: NodeLogger, fatal: (error: Error) => void, restart: () => void, shard: Shard | null = null): Promise<Node> {
    let node: Node | null = null;
    const address = await ownAddress(config);
    const storage = await openStorage(config, logger, {
      onError: fatal,
      // Nothing is damaged before there is a node: what opening finds, it marks itself.
      onDamage: (group, reason) => node?.takeOut(group, reason),
      onSynced: (ms) => node?.metrics.fsyncDuration.observe(ms),
    });
    try {
      const identity = await openIdentity(storage.facts, config.nodeName);
      logger.setNode(identity.name);
      const counter = await TokenCounter.open({ defaultModel: config.tokenModel });
      // Loaded only where it is wanted.
      const traces = config.otlpEndpoint === null ? null : new (await import('./otlp.ts')).OtlpTraces(config.otlpEndpoint, identity.name);
      const tls = config.tls === null ? null : await NodeTls.open(config.tls, { logger, reachedAt: config.clusterSeeds.length === 0 ? null : address });
      const archive = await NodeArchive.load(config.archiver);
      node = new Node({ config, address, logger, archive, storage, identity, counter, traces, tls, fatal, restart, shard });
      await node.listen();
      return node;
    } catch (error) {
      await storage.close();
      if (error instanceof IdentityError || error instanceof PeerKeyError || error instanceof TlsError) throw new StartError(error.message);
      throw error;
    }
  }

  private constructor(parts: { config: Config; address: string; logger: Logger; archive: ArchiveSetup; storage: Storage; identity: OpenedIdentity; counter: TokenCounter; traces: OtlpTraces | null; tls: NodeTls | null; fatal: (error: Error) => void; restart: () => void; shard: Shard | null }) {
    const { config, logger, storage, identity, counter, traces, tls, shard } = parts;
    this.config = config;
    this.address = parts.address;
    this.logger = logger;
    this.fatal = parts.fatal;
    this.restart = parts.restart;
    this.storage = storage;
    this.identity = identity;
    this.counter = counter;
    this.traces = traces;
    this.tls = tls;
    this.peerTls = tls === null ? null : () => tls.peer();
    this.keys = new PeerKeys({ clusterSecrets: config.clusterSecrets, apiKeys: config.apiKeys, onRefused: () => this.metrics.peerRefused('unauthorized') });
    const clusterId = (): string => this.founding?.record?.clusterId ?? identity.clusterId;
    const ledger = PeerLedger.open({
      facts: storage.facts,
      storeId: identity.storeId,
      clusterId,
      knownStore: (name) => this.topology?.nodes.find((known) => known.name === name)?.storeId ?? null,
      isRetired: (store) => this.topology?.retired.includes(store) ?? false,
    });
    const turn = new Turn();
    this.links = new PeerLinks({
      turn,
      every: this.ticker.every,
      self: () => ({ ...identity, clusterId: clusterId(), address: this.address, wireFormat: WIRE_FORMAT }),
      ...(shard === null ? {} : { seat: seatOf(shard) }),
      wireFormatInUse: () => this.topology?.formats.wire ?? 0,
      standing: Standing.open({ facts: storage.facts, identity, promises: () => this.promises() }),
      ledger,
      keys: this.keys,
      tls: this.peerTls,
      onRefused: (reason) => this.metrics.peerRefused(reason),
      log: linkLog(logger, 'peer'),
      events: {
        onFrame: (from, frame) => this.host.receive(from, frame),
        onRequest: (_from, kind, body, reply) => answerPeer(asked, kind, body, reply),
        onUp: (peer) => this.onPeerUp(peer.name),
        onDown: (name) => this.onPeerDown(name),
      },
      onSteppedBack: (reason) => this.health.out(reason),
      onSentenced: () => this.restart(),
    });
    this.peerStatuses = new PeerStatuses(this.links);
    this.machine = new Machine(storage, {
      onEvent: (group, event) => {
        this.streams.hub.changed(event);
        if (event.type === 'message' && this.host.isLeader(group)) this.archive.noteAppended(1);
        if (event.type === 'purged') this.erasure.look(group);
        if (event.type !== 'context' || event.turnedDue === undefined || !this.host.isLeader(group)) return;
        this.webhook?.notify(group, { context: event.context, version: event.version, usedTokens: event.usedTokens, tokenBudget: event.turnedDue.tokenBudget });
      },
      onRestored: (group) => this.streams.hub.jumped(group),
      onTopology: (topology) => this.membership.follow(topology),
      onDamage: (group, reason) => {
        // A mark that cannot be written stops the node by itself.
        this.storage.markDamaged(group, reason).catch(() => undefined);
        this.takeOut(group, reason);
      },
    });
    this.reached = new Reached({ self: identity.name, seat: shard ?? WHOLE, topology: () => this.topology, router: () => this.router, network: this.links });
    this.sender = new SnapshotSender(storage, Date.now);
    this.receiver = new SnapshotReceiver({
      storage,
      logger,
      address: (name) => this.reached.node(name),
      headers: () => this.keys.headers(),
      tls: this.peerTls,
    });
    this.host = new RaftHost(
      { ...HOST_DEFAULTS, node: identity.name, random: Math.random, logKeepBytesMax: config.logKeepBytes },
      {
        storage,
        transport: this.links,
        machine: traces === null ? this.machine : traces.timed(this.machine),
        snapshots: this.receiver,
        directory: {
          node: (group, replica) => this.nodesByGroup[group]?.get(replica),
          isGone: (group, replica) => this.topology !== null && isGone(this.topology, group, replica),
          successorRank: (group, lost) => successorRank([...(this.nodesByGroup[group]?.values() ?? [])], group, lost, identity.name),
        },
        schedule: (work) => turn.soon(work),
        pace: new WritePace().pace,
        afterSends: (work) => turn.afterSends(work),
        fatal: this.fatal,
        onLeader: (group, leader, term, isLeader) => {
          this.router.onLeader(group);
          logger.debug({ type: 'leader', group, leader, term, led: isLeader }, 'a group changed its leader or term');
          if (!isLeader || group === TOPOLOGY_GROUP) return;
          this.webhook?.takeOver(group);
          this.erasure.look(group);
        },
      },
    );
    const network = shard?.network(this.links) ?? this.links;
    this.router = new Router(this.host, network, {
      self: identity.name,
      timeoutMs: config.requestTimeoutMs,
      isReadOnly: (group) => this.isReadOnly(group),
      topology: () => this.topology,
      siblingOf: (group) => shard?.siblingOf(group) ?? null,
      onApplied: (ms) => this.metrics.commitDuration.observe(ms),
      traces,
      now: Date.now,
    });
    this.archive = new NodeArchive({
      setup: parts.archive,
      storage,
      rowsOf: (context) => this.machine.rowsOf(context),
      groups: () => this.host.groups().filter((group) => group !== TOPOLOGY_GROUP),
      leads: (group) => this.host.isLeader(group),
      propose: (group, command) => this.router.proposeLed(group, command),
      tailKeep: config.tailKeep,
      metrics: this.metrics.archive,
      log: logger,
      random: Math.random,
    });
    this.membership = new Membership({
      every: this.ticker.every,
      identity,
      storage,
      host: this.host,
      network: this.links,
      router: this.router,
      statuses: this.peerStatuses,
      tableRow: TOPOLOGY_ROW,
      deadAfterMs: config.nodeDeadAfterMs,
      runs: (group) => shard?.owns(group) ?? true,
      ownTable: () => this.machine.topology(),
      record: () => this.founding?.record ?? null,
      status: () => this.status(),
      onTable: (topology) => this.adopt(topology),
      onRemoved: (group) => {
        this.streams.hub.removed(group);
        this.machine.forget(group);
      },
      onOut: (reason) => this.health.out(reason),
      logger,
      fatal: this.fatal,
    });
    this.store = new Store({
      machine: this.machine,
      router: this.router,
      network,
      counter,
      cold: this.archive.reads,
      metrics: this.metrics,
      limits: { messageBytesMax: config.messageBytesMax, depthMax: config.depthMax },
      timeoutMs: config.requestTimeoutMs,
      appliedIndex: (group) => this.host.status(group)?.applied ?? 0,
    });
    this.listing = new Listing({ rows: storage, router: this.router, network, timeoutMs: config.requestTimeoutMs });
    this.health = new Health({ host: this.host, router: this.router, starting: () => this.startingReason() });
    this.streams = new StreamServer({
      rows: (context) => this.machine.rowsOf(context),
      hosts: (group) => this.router.hosts(group),
      isLed: (group) => (this.host.status(group)?.leader ?? 0) !== 0,
      archive: this.archive.reads,
      barrier: (group) => this.router.barrier(group),
      hostAddresses: (group) => this.reached.hosts(group),
      siblingDoor: (group) => (shard === null ? null : siblingDoor(shard, group)),
      places: shard,
      isAuthRequired: config.apiKeys.length > 0,
      origins: config.corsOrigins,
      peerAccepts: (authorization) => this.keys.accepts(authorization),
      peerHeaders: () => this.keys.headers(),
      peerTls: this.peerTls,
      connectionsMax: config.streamConnectionsMax,
      timeoutMs: config.requestTimeoutMs,
      requestAnswered: this.metrics.requestAnswered,
      readFailed: (context, error) => logger.error({ type: 'stream_failed', context_id: context, err: error }, 'a context could not be read for its streams'),
      logger,
    });
    this.webhook =
      config.webhook === null
        ? null
        : new CompactionWebhook({
            ...config.webhook,
            rows: storage,
            leads: (group) => this.host.isLeader(group),
            counters: this.metrics.notices,
            logger,
            now: Date.now,
            random: Math.random,
          });
    const nodeOf = (group: GroupId, replica: ReplicaId): NodeId | undefined => this.nodesByGroup[group]?.get(replica);
    this.erasure = new NodeErasure({ self: identity.name, host: this.host, storage, router: this.router, network: this.links, nodeOf, archive: this.archive.reader, logger, now: Date.now });
    this.metrics.sampleFrom(() => sampleNode({ host: this.host, sender: this.sender, links: this.links, streams: this.streams, storage, tls, compared: this.membership.compared }));
    const asked = { router: this.router, store: this.store, listing: this.listing, erasure: this.erasure, membership: this.membership, status: () => this.status(), logger };
    this.shard =
      shard === null
        ? null
        : new NodeShard(shard, {
            ...asked,
            config,
            streams: this.streams,
            tls,
            cluster: this.membership,
            ready: () => this.health.ready(),
            metrics: () => this.metrics.registry.getMetricsAsJSON(),
            archivedAs: () => (this.founding?.record == null ? null : archivedAs(this.founding.record)),
            upgrade: (...upgrade) => this.onUpgrade(...upgrade),
          });
  }

  /** Takes renewed certificates into use now rather than at the next look; nothing happens without TLS. */
  async reloadTls(): Promise<void> {
    await this.tls?.reload();
  }

  /** Stops in order: not ready, leaders handed over, requests finished, links closed, storage closed. */
  close(): Promise<void> {
    return (this.closing ??= this.stopAll());
  }

  private async stopAll(): Promise<void> {
    // Their clients come back elsewhere with their cursors, while this node still helps its groups to new leaders.
    const streamsClosed = this.streams.close();
    let serverClosed: Promise<void> | undefined;
    await drain({
      isAlone: (this.topology?.nodes.length ?? 1) === 1,
      announce: () => {
        this.health.drain();
        this.connections?.announceClose();
      },
      handOver: () => this.coordinator?.handOver() ?? 0,
      // It resolves only when peers' links are gone too, and requests under way still need those.
      closeListener: () => (serverClosed = this.app?.close()),
      closeIdle: () => this.connections?.closeIdle(),
      isBusy: () => {
        const isBusyHere = (this.connections?.open ?? 0) > 0 || this.router.pending > 0 || this.host.groups().some((group) => (this.host.status(group)?.proposalsWaiting ?? 0) > 0);
        return this.shard?.shard.isAnyBusy(isBusyHere) ?? isBusyHere;
      },
      answerWaiting: () => this.router.close(),
    });
    this.connections?.destroyHttp();
    await streamsClosed;
    await this.shard?.close();
    await this.founding?.close();
    this.coordinator?.close();
    await this.membership.close();
    await this.webhook?.close();
    await this.erasure.close();
    this.health.close();
    for (const stop of this.stops) stop();
    await this.receiver.close();
    await this.sender.close();
    await this.links.close();
    this.connections?.destroyAll();
    await serverClosed;
    await this.archive.close();
    this.host.stop();
    await this.counter.close();
    await this.traces?.close();
    this.tls?.close();
    await this.storage.close();
  }

  private async listen(): Promise<void> {
    const tooOld = tooOldFor(this.machine.topology()?.formats ?? FOUNDING_FORMATS);
    if (tooOld !== null) throw new StartError(tooOld);
    const { config, logger, identity } = this;
    this.founding = new Founding({
      facts: this.storage.facts,
      identity,
      address: this.address,
      clusterSize: config.clusterSize,
      ...(this.shard === null ? {} : { seat: seatOf(this.shard.shard) }),
      seeds: config.clusterSeeds,
      keys: this.keys,
      tls: this.peerTls,
      log: linkLog(logger, 'founding'),
      onFounded: (record) => void this.onFounded(record).catch(this.fatal),
      admit: (request) => this.membership.admit(request),
      onForgotten: (by, reason) => this.links.stepBack(by, { code: 'rolled_back', reason }),
      fatal: this.fatal,
    });
    const app = await buildApp({
      store: this.store,
      listing: this.listing,
      exports: new MessageExporter((id, query, consistency) => this.store.slice(id, query, consistency)),
      health: this.health,
      cluster: this.membership,
      metrics: this.metrics,
      traces: this.traces,
      tls: this.tls,
      config,
      logger,
      peerRoutes: this.founding.routes(),
      mount: (app) => mountSnapshots(app, this.sender, this.keys),
      mountApi: (api) => this.streams.mount(api),
      ...this.shard?.appDeps(),
    });
    this.app = app;
    this.connections = new Connections(app.server);
    app.server.on('upgrade', (request, socket, head) => {
      if (this.shard?.refusesUpgrade(request, socket) !== true) this.onUpgrade(request, socket, head);
    });
    try {
      await this.shard?.open(app);
      await app.listen({ host: config.host, port: config.port, ...this.shard?.listensAt });
    } catch (error) {
      throw new StartError(`cannot listen on ${config.host}:${config.port}: ${error instanceof Error ? error.message : String(error)} (FASTPACA_HOST, PORT)`);
    }
    logger.info({ type: 'listening', host: config.host, port: config.port, advertise: this.address, generation: identity.generation }, 'listening');
    this.stops.push(this.ticker.every(READINESS_MS, () => this.sayReadiness()));
    this.links.open();
    await this.founding.open();
  }

  private onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    if (this.tls?.refusesUpgrade(request, socket) === true) this.metrics.peerRefused('certificate');
    else if (request.url === PEER_PATH) this.links.handleUpgrade(request, socket, head);
    else this.streams.handleUpgrade(request, socket, head);
  }

  /** The cluster exists and this node belongs to it: make the replicas it hosts, if this is the first time, and run them. */
  private async onFounded(record: FoundingRecord): Promise<void> {
    await this.membership.open(record);
    this.coordinator = new Coordinator({
      every: this.ticker.every,
      identity: this.identity,
      address: this.address,
      host: this.host,
      network: this.links,
      router: this.router,
      topology: () => this.topology,
      isClockTrusted: (name) => isClockTrusted(name, this.identity.name, this.links.clockOffsets()),
      isSlow: (name) => this.peerStatuses.isSlow(name),
      logger: this.logger,
    });
    this.stops.push(this.ticker.every(TICK_MS, () => this.host.tick()), this.ticker.every(WATCH_MS, () => void this.watch()));
    if (this.topology?.nodes.length === 1) for (const group of this.host.groups()) this.host.campaign(group);
    this.health.open();
    this.erasure.open();
    // One archive, whatever the number of shards.
    const archiveOf = await (this.shard?.calls.archivedAs() ?? archivedAs(record));
    if (this.closing === null) this.archive.start(archiveOf);
  }

  /** A replica whose rows are not what was written. It is marked already, or is being marked. */
  private takeOut(group: GroupId, reason: string): void {
    this.logger.error({ type: 'damage', group, reason }, `damage found in group ${group}: its replica on this node takes itself out and never votes again`);
    this.host.removeGroup(group);
    this.streams.hub.removed(group);
  }

  /** Changes with every write of Raft state that began or became durable. */
  private promises(): number {
    const { writes, entriesPersisted, snapshotsInstalled } = this.host.stats;
    return writes + entriesPersisted + snapshotsInstalled;
  }

  /** A later table: whom to link with, and where every replica lives. */
  private adopt(topology: Topology): void {
    const tooOld = tooOldFor(topology.formats);
    if (tooOld !== null) return this.fatal(new StartError(tooOld));
    this.topology = topology;
    this.nodesByGroup = topology.groups.map((placement) => new Map(placement.replicas.map(({ id, node }) => [id, node])));
    this.links.setPeers(this.reached.members());
  }

  private onPeerUp(name: NodeId): void {
    this.host.peerUp(name);
    this.campaignWherePreferred();
  }

  private onPeerDown(name: NodeId): void {
    this.host.peerDown(name);
    this.peerStatuses.lost(name);
  }

  /** Groups without a leader need not wait out a timeout: the one that should lead goes first. */
  private campaignWherePreferred(): void {
    for (const group of this.host.groups()) {
      if (this.topology?.groups[group]?.preferred === this.identity.name && this.host.status(group)?.leader === 0) this.host.campaignWithin(group, 1);
    }
  }

  private status(): NodeStatus {
    const leads = this.host.groups().filter((group) => this.host.isLeader(group));
    return { space: this.storage.spaceState, slow: this.isDiskSlow(), leads, up: this.links.up(), damaged: this.membership.damaged(), refused: this.links.refusals() };
  }

  /** The disk and the clock, once a second. */
  private async watch(): Promise<void> {
    if (this.closing !== null) return;
    if (this.stopped) return this.returnWithSpace();
    this.peerStatuses.ask(WATCH_MS);
    if (!isClockTrusted(this.identity.name, this.identity.name, this.links.clockOffsets())) {
      this.logger.error({ type: 'clock_skew' }, `this node's clock is over ${CLOCK_SKEW_MS_MAX} ms from its peers': it gives up its leaderships until the clock is right`);
      this.coordinator?.handOver();
    }
    if (this.storage.spaceState !== 'hard') return;
    this.stopped = true;
    this.logger.error({ type: 'disk_full' }, 'disk space is below FASTPACA_DISK_HARD_FREE_BYTES: this node stops writing and serves stale reads until there is space again');
    this.health.readOnly();
    // Nothing is applied here from now on, and a stream that is silent for ever would not be noticed.
    this.streams.disconnect('the disk of this node is full');
    await this.storage.releaseBallast();
    await handOverAll(() => this.coordinator?.handOver() ?? 0);
    this.host.stop();
  }

  /** Nothing of a stopped host can be taken up again: the node starts anew, as after a crash. */
  private returnWithSpace(): void {
    if (!this.storage.hasRoom) return;
    this.logger.info({ type: 'disk_freed' }, 'there is disk space again: this node starts anew');
    this.restart();
  }

  /** A leader takes nothing new while its own disk or a quorum of its group's disks is low. */
  private isReadOnly(group: GroupId): boolean {
    if (this.storage.spaceState !== 'ok') return true;
    const hosts = [...(this.nodesByGroup[group]?.values() ?? [])];
    return hosts.filter((host) => this.peerStatuses.isLow(host)).length > hosts.length / 2;
  }

  private isDiskSlow(): boolean {
    const { lastBatchMs, stalledMs } = this.storage.stats();
    return Math.max(lastBatchMs, stalledMs) > SLOW_DISK_MS;
  }

  /** Says why the node is not ready whenever the reason changes, so that the log alone explains a start that hangs. */
  private sayReadiness(): void {
    const { ready, status, reason } = this.health.ready();
    const line = ready ? 'ready' : `not ready: ${reason ?? status}`;
    if (line === this.saidReadiness) return;
    this.saidReadiness = line;
    if (ready) this.logger.info({ type: 'readiness', status }, line);
    else this.logger.warn({ type: 'readiness', status, reason }, line);
  }

  /** Why this node takes no part yet; null once it does. */
  private startingReason(): { status: string; reason: string } | null {
    const founding = this.founding;
    if (founding === null) return { status: 'starting', reason: 'starting' };
    if (founding.state === 'founded') {
      const refusal = this.links.refusals()[0];
      return refusal === undefined || this.links.up().length > 0 ? null : { status: 'refused', reason: `node '${refusal.node}': ${refusal.reason}` };
    }
    return { status: founding.state, reason: founding.missing().join('; ') };
  }
}
