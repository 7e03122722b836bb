/**
 * A data directory between two numbers of shards. What is made anew is built in `reshard/new`, beside what is in force;
 * a marker file then makes it what counts, in one durable step; after it the parts only change their places, which can
 * be taken up at any point, by the command that began it or by the next start. Owns the marker, the places and who may
 * be at it; what is built is src/reshard's.
 *
 *   reshard/lock     held by whoever is at it (a LevelDB, for its lock ends with its process)
 *   reshard/new      the directories to come: db, or shard-0, shard-1, …; complete once the marker is there
 *   reshard/old      those that were, until they are deleted
 *   reshard.json     the marker: from and to which number, and how far the move has come
 */
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ClassicLevel } from 'classic-level';
import { isThere, readDocument, removeLayout, shardDirectory, ShardingError, syncDirectory, writeDurably, writeLayout } from './layout.ts';

const MARKER = 'reshard.json';
const WORK = 'reshard';
const VERSION = 1;
/** All that a node which is not divided has in its directory. */
const WHOLE_PARTS = ['db', 'db.next', 'db.set-aside', 'ballast', 'ballast.new'] as const;

/** `aside`: what was is to go out of the way; `place`: it is, and what is new is to take its place. */
type Phase = 'aside' | 'place';

export interface Relayout {
  readonly from: number;
  readonly to: number;
  /** Of the node: all shards have one name. */
  readonly node: string;
}

interface Marker extends Relayout {
  readonly phase: Phase;
}

/** Told before each step that a crash could follow; for tests. */
export type OnStep = (step: string) => Promise<void>;

const NO_STEP: OnStep = () => Promise.resolve();

/** The right to change the layout of a data directory, of one process at a time. */
export class RelayoutLock {
  private readonly db: ClassicLevel;
  private readonly dataDir: string;

  private constructor(db: ClassicLevel, dataDir: string) {
    this.db = db;
    this.dataDir = dataDir;
  }

  /** Throws ShardingError when another process is at it. */
  static async take(dataDir: string): Promise<RelayoutLock> {
    // Only now: every start asks whether there is anything to finish, and hardly one needs a database for that.
    const { ClassicLevel } = await import('classic-level');
    const db = new ClassicLevel(join(dataDir, WORK, 'lock'));
    try {
      await mkdir(join(dataDir, WORK), { recursive: true });
      await db.open();
    } catch (error) {
      const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
      if (cause instanceof Error && 'code' in cause && cause.code === 'LEVEL_LOCKED') throw new ShardingError(`${dataDir} is being resharded by another process`);
      throw new ShardingError(`cannot write ${join(dataDir, WORK)}: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
    return new RelayoutLock(db, dataDir);
  }

  /** Gives the right back, and with it everything that was not made to count. Not to be called before a marker is followed. */
  async release(): Promise<void> {
    // While it is held: nobody else can have begun anything here.
    if ((await readMarker(this.dataDir)) === null) await rm(join(this.dataDir, WORK), { recursive: true, force: true });
    await this.db.close();
  }
}

/** Where the directory of one shard of `count` is to be built; the number 1 stands for a node that is not divided. */
export function buildingDirectory(dataDir: string, index: number, count: number): string {
  const building = join(dataDir, WORK, 'new');
  return count === 1 ? building : shardDirectory(building, index);
}

/** Makes room for what is to be built: what another run left is of no use. Also returns where. */
export async function clearBuilding(dataDir: string): Promise<string> {
  const building = join(dataDir, WORK, 'new');
  await rm(building, { recursive: true, force: true });
  await mkdir(building, { recursive: true });
  return building;
}

/** The relayout that has begun to count and is not complete; null where there is none. Throws ShardingError. */
export async function readRelayout(dataDir: string): Promise<Relayout | null> {
  return readMarker(dataDir);
}

/** The one step that makes what was built what counts. Everything built must be durable; this is when it resolves. */
export function beginRelayout(dataDir: string, relayout: Relayout): Promise<void> {
  return writeMarker(dataDir, { ...relayout, phase: 'aside' });
}

/** Takes a relayout that counts to its end, from wherever it is. The lock must be held, and no database open. */
export async function finishRelayout(dataDir: string, onStep: OnStep = NO_STEP): Promise<Relayout | null> {
  const marker = await readMarker(dataDir);
  if (marker === null) return null;
  const { from, to, node } = marker;
  const work = join(dataDir, WORK);
  if (marker.phase === 'aside') {
    await mkdir(join(work, 'old'), { recursive: true });
    for (const part of partsOf(from)) await move(join(dataDir, part), join(work, 'old', part), onStep);
    await syncDirectory(join(work, 'old'));
    await syncDirectory(dataDir);
    await onStep('all that was is aside');
    await writeMarker(dataDir, { from, to, node, phase: 'place' });
  }
  for (const part of partsOf(to)) await move(join(work, 'new', part), join(dataDir, part), onStep);
  await syncDirectory(dataDir);
  await onStep('all that is new is in place');
  if (to === 1) await removeLayout(dataDir);
  else await writeLayout(dataDir, { shards: to, node });
  await onStep('the layout is written');
  await rm(join(work, 'old'), { recursive: true, force: true });
  await rm(join(work, 'new'), { recursive: true, force: true });
  await onStep('what was is deleted');
  await rm(join(dataDir, MARKER));
  await syncDirectory(dataDir);
  await onStep('the marker is gone');
  return { from, to, node };
}

/**
 * For whoever needs the directory: takes up what a crash interrupted, and clears away what it had only begun to build.
 * Null where nothing had begun to count. Throws ShardingError, also while another process is at it.
 */
export async function resumeRelayout(dataDir: string): Promise<Relayout | null> {
  if ((await readMarker(dataDir)) === null && !(await isThere(join(dataDir, WORK)))) return null;
  const lock = await RelayoutLock.take(dataDir);
  try {
    return await finishRelayout(dataDir);
  } catch (error) {
    if (error instanceof ShardingError) throw error;
    throw new ShardingError(`cannot finish the resharding of ${dataDir}: ${error instanceof Error ? error.message : String(error)}`);
  } finally {
    await lock.release();
  }
}

/** Makes every file under a directory durable, and that they are there. */
export async function syncTree(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else await syncDirectory(path);
  }
  await syncDirectory(directory);
}

function partsOf(shards: number): readonly string[] {
  return shards === 1 ? WHOLE_PARTS : Array.from({ length: shards }, (_, index) => shardDirectory('', index));
}

/** Also where it was done before. */
async function move(from: string, to: string, onStep: OnStep): Promise<void> {
  if (!(await isThere(from))) return;
  await onStep(`before ${from} is moved`);
  await rename(from, to);
}

function readMarker(dataDir: string): Promise<Marker | null> {
  return readDocument(dataDir, MARKER, markerOf, 'use the version that wrote it');
}

function markerOf(value: object): Marker | null {
  if (!('version' in value) || value.version !== VERSION) return null;
  if (!('from' in value) || !('to' in value) || !('node' in value) || !('phase' in value)) return null;
  const { from, to, node, phase } = value;
  if (!isShards(from) || !isShards(to) || typeof node !== 'string' || (phase !== 'aside' && phase !== 'place')) return null;
  return { from, to, node, phase };
}

function isShards(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 1;
}

function writeMarker(dataDir: string, { from, to, node, phase }: Marker): Promise<void> {
  return writeDurably(dataDir, MARKER, { version: VERSION, from, to, node, phase });
}
