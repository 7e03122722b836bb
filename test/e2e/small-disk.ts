/** A small real filesystem under a directory, to be filled up and freed: ext4 on a loop device, or else a tmpfs. Needs root. */
import { execFile } from 'node:child_process';
import { mkdir, open, rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const STEP = Buffer.alloc(1024 * 1024, 'filler');

export class SmallDisk {
  readonly dir: string;
  private readonly image: string;

  private constructor(dir: string, image: string) {
    this.dir = dir;
    this.image = image;
  }

  /** Null where this process may mount nothing. */
  static async mount(dir: string, mebibytes: number): Promise<SmallDisk | null> {
    await mkdir(dir, { recursive: true });
    const image = `${dir}.img`;
    await writeFile(image, '');
    try {
      await run('truncate', ['-s', `${mebibytes}M`, image]);
      await run('mkfs.ext4', ['-q', '-m', '0', image]);
      await run('mount', ['-o', 'loop', image, dir]);
    } catch {
      const isMounted = await run('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'tmpfs', dir]).then(
        () => true,
        () => false,
      );
      if (!isMounted) return null;
    }
    return new SmallDisk(dir, image);
  }

  async freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.dir);
    return bavail * bsize;
  }

  /** Leaves about so much free, by writing a file that has nothing to do with the node. */
  async fill(freeBytes: number): Promise<void> {
    const file = await open(join(this.dir, 'filler'), 'a');
    try {
      for (let excess = (await this.freeBytes()) - freeBytes; excess > 0; excess = (await this.freeBytes()) - freeBytes) {
        await file.write(STEP, 0, Math.max(4096, Math.min(STEP.length, excess)));
        // What is only in the page cache takes no blocks yet.
        await file.datasync();
      }
    } finally {
      await file.close();
    }
  }

  async free(): Promise<void> {
    await rm(join(this.dir, 'filler'), { force: true });
  }

  /** Nothing may use the directory any more. */
  async unmount(): Promise<void> {
    await run('umount', [this.dir]);
    await rm(this.image, { force: true });
  }
}
