/**
 * Free space of the disk under the data directory, and the ballast: a file of real bytes that holds space back, so that
 * when the disk is full the writes that get a node out of it (elections, deletions, the last batch) still fit.
 */
import { statfs, open, rename, rm, stat } from 'node:fs/promises';
import { randomFillSync } from 'node:crypto';
import { join } from 'node:path';

/** 'soft': refuse new data, everything else goes on. 'hard': stop writing; once the ballast is released, for good. */
export type SpaceState = 'ok' | 'soft' | 'hard';

export interface SpaceOptions {
  readonly freeSoftBytes: number;
  readonly freeHardBytes: number;
  /** 0: no ballast. */
  readonly ballastBytes: number;
}

const POLL_MS = 1000;
const STEP_BYTES = 1024 * 1024;

export class SpaceWatch {
  state: SpaceState = 'ok';
  freeBytes = 0;
  /** What the data takes on disk, without what is still only in LevelDB's log. */
  dataBytes = 0;
  private readonly directory: string;
  private readonly ballast: string;
  private readonly options: SpaceOptions;
  private readonly sizeOfData: () => Promise<number>;
  private timer: NodeJS.Timeout | null = null;
  private isReleased = false;

  constructor(directory: string, options: SpaceOptions, sizeOfData: () => Promise<number>) {
    this.sizeOfData = sizeOfData;
    this.directory = directory;
    this.ballast = join(directory, 'ballast');
    this.options = options;
  }

  /** Measures, lays the ballast down if there is room for it, and begins to poll. */
  async open(): Promise<void> {
    await this.measure();
    await this.layBallast();
    this.timer = setInterval(() => {
      // A disk that cannot even be asked is no place to write to.
      this.measure().catch(() => {
        if (this.timer !== null) this.state = 'hard';
      });
    }, POLL_MS);
    this.timer.unref();
  }

  close(): void {
    if (this.timer !== null) clearInterval(this.timer);
    this.timer = null;
  }

  async measure(): Promise<void> {
    const disk = await statfs(this.directory);
    this.freeBytes = disk.bavail * disk.bsize;
    const { freeSoftBytes, freeHardBytes } = this.options;
    // What the ballast gave back is there to stop with, not to go on.
    this.state = this.isReleased || this.freeBytes < freeHardBytes ? 'hard' : this.freeBytes < freeSoftBytes ? 'soft' : 'ok';
    this.dataBytes = await this.sizeOfData();
  }

  /** True while another open would find itself above the soft mark, with the ballast laid down. */
  get hasRoom(): boolean {
    const { freeSoftBytes, ballastBytes } = this.options;
    return this.freeBytes >= freeSoftBytes + ballastBytes;
  }

  async releaseBallast(): Promise<void> {
    this.isReleased = true;
    await rm(this.ballast, { force: true });
    await this.measure();
  }

  private async layBallast(): Promise<void> {
    const { ballastBytes, freeSoftBytes } = this.options;
    const present = await stat(this.ballast).then((file) => file.size, () => 0);
    if (ballastBytes === 0 || present === ballastBytes || this.freeBytes < freeSoftBytes + ballastBytes) return;
    const building = `${this.ballast}.new`;
    const file = await open(building, 'w');
    try {
      // Random bytes: a filesystem may store zeros, or compressible blocks, as next to nothing.
      const step = new Uint8Array(STEP_BYTES);
      randomFillSync(step);
      for (let written = 0; written < ballastBytes; written += STEP_BYTES) {
        await file.write(step, 0, Math.min(STEP_BYTES, ballastBytes - written));
      }
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(building, this.ballast);
  }
}
