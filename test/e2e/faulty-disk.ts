/** Disks of servers under test that can be made slow or broken while they run: faulty-disk.c, built and preloaded. */
import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { NodeProcess } from './processes.ts';

export interface FaultyDisk {
  /** What the node must be started with. */
  env(node: NodeProcess): Record<string, string>;
  /** Every sync of the node's from now on: takes so many milliseconds longer, fails (`eio`), or is as it should be (``). */
  say(node: NodeProcess, sickness: string): Promise<void>;
}

/** Builds the library into `dir`; null where that is not possible: no Linux, no C compiler. */
export async function buildFaultyDisk(dir: string): Promise<FaultyDisk | null> {
  if (process.platform !== 'linux') return null;
  const library = join(dir, 'faulty-disk.so');
  const source = join(import.meta.dirname, 'faulty-disk.c');
  const isBuilt = await promisify(execFile)('cc', ['-shared', '-fPIC', '-O1', '-o', library, source, '-ldl']).then(
    () => true,
    () => false,
  );
  if (!isBuilt) return null;
  const file = (node: NodeProcess) => `${node.dir}.sickness`;
  return {
    env(node) {
      writeFileSync(file(node), '');
      return { LD_PRELOAD: library, FAULTY_DISK: file(node) };
    },
    say: (node, sickness) => writeFile(file(node), sickness),
  };
}
