/**
 * A look at a data directory without starting on it: is it there, whole at its end, of this program's format, and whose
 * is it. LevelDB takes up its own logs when it is opened, as at any start; nothing else is changed.
 */
import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { ClassicLevel } from 'classic-level';
import { isIntact, unsealed } from './checksum.ts';
import { factKey } from './keys.ts';
import { isFormatted } from './verify.ts';
import { checkWriteAheadLogs } from './wal-check.ts';
import type { Database } from './writer.ts';

export interface Inspection {
  /** `new`: nothing is stored yet. `in_use`: a process has it open, so that only its files could be looked at. */
  readonly state: 'new' | 'in_use' | 'stored';
  /** Facts of the node by key, as far as they are intact; none unless `stored`. */
  get(key: string): Uint8Array | undefined;
}

/** Throws Error, with one line for the operator, when no node could start on the directory. */
export async function inspectDirectory(directory: string, factKeys: readonly string[]): Promise<Inspection> {
  const facts = new Map<string, Uint8Array>();
  const found = (state: Inspection['state']): Inspection => ({ state, get: (key) => facts.get(key) });
  const db = await openStored(directory);
  if (typeof db === 'string') return found(db);
  try {
    for (const key of factKeys) {
      const stored = factKey(key);
      const value = db.getSync(stored);
      if (value === undefined) continue;
      if (!isIntact(stored, value)) throw new Error(`the node's fact ${key} in ${directory} is damaged`);
      facts.set(key, unsealed(value).slice());
    }
  } finally {
    await db.close();
  }
  return found('stored');
}

/**
 * The database of a directory that no node has open, or why there is none. Makes nothing; the caller closes it. Throws
 * Error, with one line for the operator, when no node could start on the directory.
 */
export async function openStored(directory: string): Promise<Database | 'new' | 'in_use'> {
  if (!(await isUsable(directory))) return 'new';
  const location = join(directory, 'db');
  if (!(await isUsable(location)) || !(await exists(join(location, 'CURRENT')))) return 'new';
  await checkWriteAheadLogs(location);
  const db = new ClassicLevel<Uint8Array, Uint8Array>(location, { keyEncoding: 'view', valueEncoding: 'view', createIfMissing: false, compression: false });
  try {
    await db.open();
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    if (codeOf(cause) === 'LEVEL_LOCKED') return 'in_use';
    throw new Error(`${location} cannot be opened: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  try {
    await isFormatted(db, directory);
  } catch (error) {
    await db.close();
    throw error;
  }
  return db;
}

/** False where the directory is not there but can be made. Throws when it is neither usable nor can be made. */
async function isUsable(directory: string): Promise<boolean> {
  if (await exists(directory)) {
    if (!(await stat(directory)).isDirectory()) throw new Error(`${directory} is not a directory`);
    await assertWritable(directory, directory);
    return true;
  }
  let parent = dirname(resolve(directory));
  while (!(await exists(parent)) && dirname(parent) !== parent) parent = dirname(parent);
  if (!(await stat(parent)).isDirectory()) throw new Error(`${directory} cannot be made: ${parent} is not a directory`);
  await assertWritable(parent, directory);
  return false;
}

async function assertWritable(existing: string, wanted: string): Promise<void> {
  try {
    await access(existing, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new Error(`${wanted} cannot be ${existing === wanted ? 'read and written' : 'made'}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path, constants.F_OK);
    return true;
  } catch (error) {
    // Anything but its absence speaks for itself at the next step.
    return codeOf(error) !== 'ENOENT' && codeOf(error) !== 'ENOTDIR';
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}
