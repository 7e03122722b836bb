/** Runs one of the repository's programs to its end: what it printed, and the code it exited with. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '../..');

export interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** `file` from the root of the repository; of this process' environment it gets PATH alone. */
export async function execute(file: string, args: readonly string[], { cwd, env }: { cwd: string; env: Record<string, string> }): Promise<Ended> {
  const child = spawn(process.execPath, [join(ROOT, file), ...args], { cwd, env: { PATH: process.env['PATH'] ?? '', NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'] ?? '', ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout.on('data', (chunk) => (out += String(chunk)));
  child.stderr.on('data', (chunk) => (err += String(chunk)));
  const [code]: unknown[] = await once(child, 'close');
  return { code: Number(code), out, err };
}
