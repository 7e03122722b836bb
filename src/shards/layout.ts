/**
 * Into how many shards a data directory is divided, kept with it: a file beside their directories. A directory without
 * one belongs to a node that is not divided, whose database lies in it directly, or is new. Owns the file and what it
 * says; the directories are their nodes', and how one layout follows another is relayout.ts.
 */
import { randomBytes } from 'node:crypto';
import { access, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

const FILE = 'shards.json';
const VERSION = 1;

export interface Layout {
  readonly shards: number;
  /** Of the node: all shards have one name. */
  readonly node: string;
}

/** A node cannot start with so many shards: its directory is divided otherwise, say, or cannot be read. One line for the operator. */
export class ShardingError extends Error {}

/** Of one shard of the node whose data directory this is. */
export function shardDirectory(dataDir: string, index: number): string {
  return join(dataDir, `shard-${index}`);
}

/** The number of the shard whose directory this is; null when it is none of a divided one. Throws ShardingError. */
export async function shardOf(directory: string): Promise<number | null> {
  const [, number] = /^shard-(\d+)$/.exec(basename(directory)) ?? [];
  return number !== undefined && (await readLayout(dirname(directory))) !== null ? Number(number) : null;
}

/** What the directory says of itself; null when it is not divided or new. Throws ShardingError. */
export function readLayout(dataDir: string): Promise<Layout | null> {
  return readDocument(dataDir, FILE, layoutOf, 'restore it from a backup, or use the version that wrote it');
}

/** Into how many shards the directory is divided, 1 where it is not; null where nothing is stored. Throws ShardingError. */
export async function storedShards(dataDir: string): Promise<number | null> {
  const layout = await readLayout(dataDir);
  return layout?.shards ?? ((await isThere(join(dataDir, 'db', 'CURRENT'))) ? 1 : null);
}

/** Throws ShardingError unless a node with `shards` may start on the directory. */
export async function checkLayout(dataDir: string, shards: number): Promise<Layout | null> {
  const stored = await storedShards(dataDir);
  if (stored === null || stored === shards) return readLayout(dataDir);
  throw new ShardingError(
    `FASTPACA_SHARDS is ${shards}, but the data directory ${dataDir} is divided into ${stored} (1: not divided); set FASTPACA_SHARDS=${stored}, ` +
      `or stop every node of the cluster and run, on each of them: FASTPACA_RAFT_DATA_DIR=${dataDir} node src/main.ts --reshard ${shards}`,
  );
}

/** Divides a new directory, or takes up one that is divided so already. `name`: as configured; null: a random one, kept for ever. Throws ShardingError. */
export async function openLayout(dataDir: string, shards: number, name: string | null): Promise<Layout> {
  const layout = await checkLayout(dataDir, shards);
  if (layout !== null) return layout;
  const made = { shards, node: name ?? `node-${randomBytes(4).toString('hex')}` };
  try {
    await mkdir(dataDir, { recursive: true });
    await writeLayout(dataDir, made);
  } catch (error) {
    throw new ShardingError(`cannot write ${join(dataDir, FILE)}: ${error instanceof Error ? error.message : String(error)}`);
  }
  return made;
}

/** Durable when it resolves, and never half there. */
export function writeLayout(dataDir: string, { shards, node }: Layout): Promise<void> {
  return writeDurably(dataDir, FILE, { version: VERSION, shards, node });
}

/** The directory is divided no more; durable when it resolves. */
export async function removeLayout(dataDir: string): Promise<void> {
  await rm(join(dataDir, FILE), { force: true });
  await syncDirectory(dataDir);
}

/** What `of` makes of the document in a file of the directory, null where there is no such file. Throws ShardingError with `advice` where `of` makes nothing of it. */
export async function readDocument<T>(dataDir: string, name: string, of: (document: object) => T | null, advice: string): Promise<T | null> {
  const path = join(dataDir, name);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return null;
    throw new ShardingError(`cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const document = parsedObject(text);
  const value = document === null ? null : of(document);
  if (value === null) throw new ShardingError(`${path} is not what this version writes; ${advice}`);
  return value;
}

function parsedObject(text: string): object | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}

/** Puts a document into a file of the directory: durable when it resolves, and never half there. */
export async function writeDurably(dataDir: string, name: string, document: object): Promise<void> {
  const path = join(dataDir, name);
  const file = await open(`${path}.new`, 'w');
  try {
    await file.writeFile(`${JSON.stringify(document)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
  await syncDirectory(dataDir);
}

/** Makes durable what a directory lists, or what a file holds. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

export function isThere(path: string): Promise<boolean> {
  return access(path).then(() => true, () => false);
}

function layoutOf(value: object): Layout | null {
  if (!('version' in value) || value.version !== VERSION) return null;
  if (!('shards' in value) || !('node' in value) || typeof value.shards !== 'number' || !Number.isSafeInteger(value.shards) || value.shards < 2 || typeof value.node !== 'string') return null;
  return { shards: value.shards, node: value.node };
}
