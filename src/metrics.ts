/**
 * Every metric of a node: names, labels, buckets. Labels come from fixed sets, so that no client can grow the number
 * of series. What happens often is counted where it happens; what merely is (leaders, sizes) is asked for at a scrape.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { LoopLag } from './loop-lag.ts';
import { PEER_REFUSALS } from './cluster/ports.ts';
import type { PeerRefusal } from './cluster/ports.ts';
import { ERROR_STATUS } from './errors.ts';

/** Values of the `role` label; every role that is none of these counts as `other`. */
export const ROLE_LABELS = ['system', 'developer', 'user', 'assistant', 'tool', 'other'] as const;
export type RoleLabel = (typeof ROLE_LABELS)[number];
/** How a message came in: alone, in a list, or as part of a compaction's replacement. */
export const SOURCE_LABELS = ['single', 'batch', 'compact'] as const;
export type SourceLabel = (typeof SOURCE_LABELS)[number];

/** What a node is asked for when its metrics are scraped. Totals only ever grow while the process lives. */
export interface NodeSample {
  readonly raftGroups: number;
  readonly raftLeaders: number;
  readonly raftApplyLagEntries: number;
  readonly raftTermChangesTotal: number;
  readonly raftElectionsTotal: number;
  readonly raftProposalsTotal: number;
  readonly raftSnapshotsSentTotal: number;
  readonly raftSnapshotsInstalledTotal: number;
  readonly stateComparisonsTotal: number;
  readonly stateMismatchesTotal: number;
  readonly peersUp: number;
  readonly peerBytesSentTotal: number;
  readonly peerBytesReceivedTotal: number;
  /** Seconds since 1970; 0 without TLS. */
  readonly certificateExpiresAt: number;
  readonly streamsOpen: number;
  readonly streamsEvictedTotal: number;
  readonly levelZeroFiles: number;
  readonly storageBytes: number;
  readonly diskFreeBytes: number;
}

export interface Metrics {
  readonly registry: Registry;
  /** A timer of the event loop ran this many milliseconds later than it was due. */
  loopLate(ms: number): void;
  /** One acknowledged message. `role` is the role as sent; `tokens` what it counts. Cheap enough for every append. */
  messageAppended(role: string, source: SourceLabel, tokens: number): void;
  /** Milliseconds from a complete request to its answer, POST …/messages only. */
  readonly appendDuration: Histogram;
  /** Milliseconds of one synced storage batch. */
  readonly fsyncDuration: Histogram;
  /** Milliseconds from a proposal on its leader until it was committed and applied there. */
  readonly commitDuration: Histogram;
  /** Answers by status; one count per request. */
  requestAnswered(status: number): void;
  /** Someone who came as another node was turned away. */
  peerRefused(reason: PeerRefusal): void;
  /** The source of everything that is sampled at a scrape; a second call replaces the first. */
  sampleFrom(sample: () => NodeSample): void;
  readonly archive: ArchiveMetrics;
  /** Compaction notices: delivered, given up, pushed out by newer ones. */
  readonly notices: Readonly<Record<'sent' | 'failed' | 'dropped', Counter>>;
}

export interface ArchiveMetrics {
  readonly pendingRows: Gauge;
  readonly pendingContexts: Gauge;
  readonly flushDuration: Histogram;
  readonly attempted: Counter;
  readonly inserted: Counter;
  readonly bytesAttempted: Counter;
  readonly bytesInserted: Counter;
  readonly jsonRefused: Counter;
  readonly trimmed: Counter;
  /** Of the worst contexts: whoever sets the three resets them first, and bounds their number. */
  readonly lag: Gauge<'context_id'>;
  readonly tailSize: Gauge<'context_id'>;
  readonly llmTokenCount: Gauge<'context_id'>;
}

const LATENCY_BUCKETS_MS = [0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 200, 500, 1000, 2000, 5000];
const TOKEN_BUCKETS = [1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 16_384, 65_536, 262_144];

/** Days. */
const NEVER_MS = 2 ** 31 - 1;

/** Default metrics that walk every open socket at each scrape, and say no more than process_open_fds and the streams do. */
const COSTLY = [
  'nodejs_active_resources',
  'nodejs_active_resources_total',
  'nodejs_active_handles',
  'nodejs_active_handles_total',
  'nodejs_active_requests',
  'nodejs_active_requests_total',
];

/** Builds the metrics of one node on a registry of its own. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  // Its event loop monitoring cannot be left out, but need not wake the node: LoopLag has these figures.
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: NEVER_MS });
  for (const name of COSTLY) registry.removeSingleMetric(name);
  for (const name of registry.getMetricsAsArray().map((metric) => metric.name)) if (name.startsWith('nodejs_eventloop_lag_')) registry.removeSingleMetric(name);
  const loopLag = new LoopLag();
  loopLag.export(registry);
  const appended = createAppendCounter(registry);
  const tokens = new Histogram({ name: 'fastpaca_messages_token_count', help: 'Tokens per appended message.', buckets: TOKEN_BUCKETS, registers });
  const answered = createStatusCounter(registry);
  const sampled = createSampledMetrics(registry);
  const latency = (name: string, help: string): Histogram => new Histogram({ name, help, buckets: LATENCY_BUCKETS_MS, registers });
  return {
    registry,
    loopLate: loopLag.note,
    messageAppended(role, source, tokenCount) {
      appended(role, source);
      tokens.observe(tokenCount);
    },
    appendDuration: latency('fastpaca_append_duration_ms', 'From a complete append request to its answer.'),
    fsyncDuration: latency('fastpaca_fsync_duration_ms', 'One synced storage batch.'),
    commitDuration: latency('fastpaca_commit_duration_ms', 'From a proposal on its leader until it is committed and applied there.'),
    requestAnswered: answered,
    peerRefused: createRefusalCounter(registry),
    sampleFrom: sampled,
    archive: createArchiveMetrics(registry),
    notices: {
      sent: new Counter({ name: 'fastpaca_webhook_sent_total', help: 'Compaction notices delivered.', registers }),
      failed: new Counter({ name: 'fastpaca_webhook_failed_total', help: 'Compaction notices given up: refused, or not taken for an hour.', registers }),
      dropped: new Counter({ name: 'fastpaca_webhook_dropped_total', help: 'Compaction notices dropped because more than 10,000 waited.', registers }),
    },
  };
}

/** Counts in plain numbers and hands them over at a scrape: a labelled counter hashes its labels at every call. */
function createAppendCounter(registry: Registry): (role: string, source: SourceLabel) => void {
  const counts = new Map<string, Map<SourceLabel, number>>();
  const known = new Set<string>(ROLE_LABELS);
  new Counter({
    name: 'fastpaca_messages_append_total',
    help: 'Messages acknowledged, by role and by how they came in.',
    labelNames: ['role', 'source'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [role, bySource] of counts) {
        for (const [source, count] of bySource) this.inc({ role, source }, count);
      }
    },
  });
  return (role, source) => {
    const label = known.has(role) ? role : 'other';
    let bySource = counts.get(label);
    if (bySource === undefined) {
      bySource = new Map();
      counts.set(label, bySource);
    }
    bySource.set(source, (bySource.get(source) ?? 0) + 1);
  };
}

function createStatusCounter(registry: Registry): (status: number) => void {
  // From the start at 0: what appears with its first refusal has not increased, and an alert on that would sleep through it.
  const counts = new Map<number, number>([200, ...Object.values(ERROR_STATUS)].map((status) => [status, 0]));
  new Counter({
    name: 'fastpaca_http_requests_total',
    help: 'Requests answered, by status.',
    labelNames: ['status'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [status, count] of counts) this.inc({ status: String(status) }, count);
    },
  });
  return (status) => {
    counts.set(status, (counts.get(status) ?? 0) + 1);
  };
}

/** Every reason is there from the start: the first refusal then shows as a rise. */
function createRefusalCounter(registry: Registry): (reason: PeerRefusal) => void {
  const counter = new Counter({ name: 'fastpaca_peer_refused_total', help: 'Peers turned away here, or whoever took itself for one, by reason.', labelNames: ['reason'], registers: [registry] });
  for (const reason of PEER_REFUSALS) counter.inc({ reason }, 0);
  return (reason) => counter.inc({ reason });
}

interface Sampled {
  readonly name: string;
  readonly help: string;
  readonly type: 'gauge' | 'total';
}

/** A total Record: a field added to NodeSample does not compile until it is exported too. */
const SAMPLED: Readonly<Record<keyof NodeSample, Sampled>> = {
  raftGroups: { name: 'fastpaca_raft_groups', help: 'Groups with a replica on this node.', type: 'gauge' },
  raftLeaders: { name: 'fastpaca_raft_leaders', help: 'Groups led by this node.', type: 'gauge' },
  raftApplyLagEntries: { name: 'fastpaca_raft_apply_lag_entries', help: 'Committed entries not yet applied, over all groups.', type: 'gauge' },
  raftTermChangesTotal: { name: 'fastpaca_raft_term_changes_total', help: 'Term changes seen.', type: 'total' },
  raftElectionsTotal: { name: 'fastpaca_raft_elections_total', help: 'Elections started here.', type: 'total' },
  raftProposalsTotal: { name: 'fastpaca_raft_proposals_total', help: 'Proposals accepted by leaders here.', type: 'total' },
  raftSnapshotsSentTotal: { name: 'fastpaca_raft_snapshots_sent_total', help: 'Snapshots served to other nodes.', type: 'total' },
  raftSnapshotsInstalledTotal: { name: 'fastpaca_raft_snapshots_installed_total', help: 'Snapshots installed here.', type: 'total' },
  stateComparisonsTotal: { name: 'fastpaca_state_comparisons_total', help: 'Comparisons of the replicas of a group led here that came to a result.', type: 'total' },
  stateMismatchesTotal: { name: 'fastpaca_state_mismatches_total', help: 'Comparisons that found replicas whose states differ: watch for any.', type: 'total' },
  peersUp: { name: 'fastpaca_peers_up', help: 'Peers with a live link.', type: 'gauge' },
  peerBytesSentTotal: { name: 'fastpaca_peer_bytes_sent_total', help: 'Bytes sent over peer links.', type: 'total' },
  peerBytesReceivedTotal: { name: 'fastpaca_peer_bytes_received_total', help: 'Bytes received over peer links.', type: 'total' },
  certificateExpiresAt: { name: 'fastpaca_tls_certificate_expires_seconds', help: 'When the certificate of FASTPACA_TLS_CERT ends, in seconds since 1970; 0 without TLS.', type: 'gauge' },
  streamsOpen: { name: 'fastpaca_streams_open', help: 'Open streams.', type: 'gauge' },
  streamsEvictedTotal: { name: 'fastpaca_streams_evicted_total', help: 'Streams closed because their consumer was too slow.', type: 'total' },
  levelZeroFiles: { name: 'fastpaca_storage_level0_files', help: 'LevelDB files at level 0; writes slow down from 8.', type: 'gauge' },
  storageBytes: { name: 'fastpaca_storage_bytes', help: 'Bytes in LevelDB.', type: 'gauge' },
  diskFreeBytes: { name: 'fastpaca_disk_free_bytes', help: 'Free bytes on the disk of the data directory.', type: 'gauge' },
};

function createSampledMetrics(registry: Registry): (sample: () => NodeSample) => void {
  let source: (() => NodeSample) | null = null;
  let values: Readonly<Record<string, number>> = {};
  const [first] = Object.keys(SAMPLED);
  // Metrics are collected in the order of their registration: the first one samples for all.
  const read = (field: string): number => {
    if (field === first && source !== null) values = { ...source() };
    return values[field] ?? 0;
  };
  for (const [field, { name, help, type }] of Object.entries(SAMPLED)) {
    if (type === 'gauge') {
      new Gauge({ name, help, registers: [registry], collect() { this.set(read(field)); } });
    } else {
      new Counter({ name, help, registers: [registry], collect() { this.reset(); this.inc(read(field)); } });
    }
  }
  return (sample) => {
    source = sample;
  };
}

function createArchiveMetrics(registry: Registry): ArchiveMetrics {
  const registers = [registry];
  const gauge = (name: string, help: string): Gauge => new Gauge({ name, help, registers });
  const counter = (name: string, help: string): Counter => new Counter({ name, help, registers });
  const byContext = (name: string, help: string): Gauge<'context_id'> => new Gauge({ name, help, labelNames: ['context_id'], registers });
  return {
    pendingRows: gauge('fastpaca_archive_pending_rows', 'Messages waiting for the archive.'),
    pendingContexts: gauge('fastpaca_archive_pending_contexts', 'Contexts with messages waiting for the archive.'),
    flushDuration: new Histogram({ name: 'fastpaca_archive_flush_duration_ms', help: 'One archive flush.', buckets: LATENCY_BUCKETS_MS, registers }),
    attempted: counter('fastpaca_archive_attempted_total', 'Rows sent to the archive.'),
    inserted: counter('fastpaca_archive_inserted_total', 'Rows the archive did not have yet.'),
    bytesAttempted: counter('fastpaca_archive_bytes_attempted_total', 'Bytes sent to the archive.'),
    bytesInserted: counter('fastpaca_archive_bytes_inserted_total', 'Bytes the archive did not have yet.'),
    jsonRefused: counter('fastpaca_archive_json_refused_total', 'Messages archived by their bytes alone: Postgres takes no jsonb of them.'),
    trimmed: counter('fastpaca_archive_trimmed_total', 'Messages removed from hot storage after they were archived.'),
    lag: byContext('fastpaca_archive_lag', 'Messages not yet archived, of the worst contexts.'),
    tailSize: byContext('fastpaca_archive_tail_size', 'Messages in hot storage, of the worst contexts.'),
    llmTokenCount: byContext('fastpaca_archive_llm_token_count', 'Tokens in the LLM window, of the worst contexts.'),
  };
}
