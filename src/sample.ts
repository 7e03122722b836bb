/** What a node is asked for when its metrics are scraped: one look at each of its parts. */
import type { RaftHost } from '../raft/host.ts';
import type { ComparisonStats } from './cluster/comparison.ts';
import type { PeerLinks } from './cluster/links.ts';
import type { SnapshotSender } from './cluster/snapshots.ts';
import type { NodeSample } from './metrics.ts';
import type { Storage } from './storage/store.ts';
import type { StreamServer } from './streams/server.ts';
import type { NodeTls } from './tls.ts';

export interface SampledParts {
  readonly host: RaftHost;
  readonly sender: SnapshotSender;
  readonly links: PeerLinks;
  readonly streams: StreamServer;
  readonly storage: Storage;
  readonly tls: NodeTls | null;
  readonly compared: ComparisonStats;
}

export function sampleNode({ host, sender, links, streams, storage, tls, compared }: SampledParts): NodeSample {
  const groups = host.groups();
  const statuses = groups.map((group) => host.status(group));
  const { stats } = host;
  const { level0Files, sizeBytes, freeBytes } = storage.stats();
  return {
    raftGroups: groups.length,
    raftLeaders: statuses.filter((status) => status?.role === 'leader').length,
    raftApplyLagEntries: statuses.reduce((sum, status) => sum + (status === undefined ? 0 : status.commit - status.applied), 0),
    raftTermChangesTotal: stats.termChanges,
    raftElectionsTotal: stats.elections,
    raftProposalsTotal: stats.proposals,
    raftSnapshotsSentTotal: sender.sent,
    raftSnapshotsInstalledTotal: stats.snapshotsInstalled,
    stateComparisonsTotal: compared.comparisons,
    stateMismatchesTotal: compared.mismatches,
    peersUp: links.up().length,
    peerBytesSentTotal: stats.bytesOut,
    peerBytesReceivedTotal: stats.bytesIn,
    certificateExpiresAt: tls === null ? 0 : tls.certificate.validToDate.getTime() / 1000,
    streamsOpen: streams.open,
    streamsEvictedTotal: streams.evicted,
    levelZeroFiles: level0Files,
    storageBytes: sizeBytes,
    diskFreeBytes: freeBytes,
  };
}
