/**
 * The archive as the parts of a node use it, on or off: flushes for the groups led here, reads for every request that
 * lands here, erasure. Owns only how these are put together; with no archive configured nothing of it is loaded.
 */
import type { Archive } from '../../archiver/archive.ts';
import type { ArchiverLog } from '../../archiver/ports.ts';
import type { ArchiveReader } from '../../archiver/reader.ts';
import type { GroupId } from '../../raft/types.ts';
import type { ArchiverConfig } from '../config.ts';
import type { ArchiveMetrics } from '../metrics.ts';
import { ColdReads } from './cold.ts';
import { GroupSource, type SourceOptions } from './source.ts';

/** The module of the archiver and its settings; null where the archive is off. */
export type ArchiveSetup = { readonly Archive: typeof Archive; readonly config: ArchiverConfig } | null;

export interface NodeArchiveOptions extends Omit<SourceOptions, 'led' | 'trimmed'> {
  readonly setup: ArchiveSetup;
  /** Data groups with a replica here. */
  readonly groups: () => readonly GroupId[];
  readonly metrics: ArchiveMetrics;
  readonly log: ArchiverLog;
  readonly random: () => number;
}

export class NodeArchive {
  /** For reads that reach below hot storage; also where the archive is off, and then says so. */
  readonly reads: ColdReads;
  private readonly archive: Archive | null;
  private started = false;

  /** Loads the archiver where it is wanted. */
  static async load(config: ArchiverConfig | null): Promise<ArchiveSetup> {
    return config === null ? null : { Archive: (await import('../../archiver/archive.ts')).Archive, config };
  }

  constructor(options: NodeArchiveOptions) {
    const { setup, groups, leads, metrics, log, random } = options;
    this.archive =
      setup === null
        ? null
        : new setup.Archive({
            url: setup.config.postgresUrl,
            poolSize: setup.config.poolSize,
            flushIntervalMs: setup.config.flushIntervalMs,
            batchSize: setup.config.batchSize,
            migrate: setup.config.migrateOnBoot,
            source: new GroupSource({ ...options, led: () => groups().filter(leads).sort((a, b) => a - b), trimmed: metrics.trimmed }),
            metrics,
            log,
            random,
          });
    this.reads = new ColdReads(this.archive?.reader ?? null);
  }

  /** For whoever erases contexts; null where the archive is off. */
  get reader(): ArchiveReader | null {
    return this.archive?.reader ?? null;
  }

  /** The node belongs to a cluster: begins to flush. Postgres need not be there. */
  start(clusterId: string): void {
    if (this.started) return;
    this.started = true;
    this.archive?.start(clusterId);
  }

  /** `count` messages became committed in groups led here. */
  noteAppended(count: number): void {
    this.archive?.noteAppended(count);
  }

  /** Stops the flush within seconds, then the reads. */
  async close(): Promise<void> {
    await this.archive?.close();
  }
}
