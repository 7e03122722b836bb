/**
 * The archive of a node, whole: what flushes (on the groups this node leads) and what reads (for every request here).
 */
import { Archiver } from './archiver.ts';
import type { ArchiverOptions } from './ports.ts';
import { ArchiveReader } from './reader.ts';

export class Archive {
  readonly reader: ArchiveReader;
  private readonly archiver: Archiver;

  constructor(options: ArchiverOptions) {
    this.reader = new ArchiveReader(options);
    this.archiver = new Archiver(options);
  }

  /** Begins to flush. Postgres need not be there. */
  start(): void {
    this.archiver.start();
  }

  /** `count` messages became committed in groups led here. */
  noteAppended(count: number): void {
    this.archiver.noteAppended(count);
  }

  /** Stops the flush within seconds, then the reads. */
  async close(): Promise<void> {
    await this.archiver.close();
    await this.reader.close();
  }
}
