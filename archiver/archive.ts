/**
 * The archive of a node, whole: what flushes (on the groups this node leads) and what reads (for every request here).
 */
import { Archiver } from './archiver.ts';
import type { ArchiverOptions } from './ports.ts';
import { ArchiveReader } from './reader.ts';

export class Archive {
  readonly reader: ArchiveReader;
  private readonly options: Omit<ArchiverOptions, 'clusterId'>;
  /** null until the node belongs to a cluster. */
  private archiver: Archiver | null = null;

  constructor(options: Omit<ArchiverOptions, 'clusterId'>) {
    this.options = options;
    this.reader = new ArchiveReader(options);
  }

  /** Begins to flush. Postgres need not be there. */
  start(clusterId: string): void {
    this.archiver = new Archiver({ ...this.options, clusterId });
    this.archiver.start();
  }

  /** `count` messages became committed in groups led here. */
  noteAppended(count: number): void {
    this.archiver?.noteAppended(count);
  }

  /** Stops the flush within seconds, then the reads. */
  async close(): Promise<void> {
    await this.archiver?.close();
    await this.reader.close();
  }
}
