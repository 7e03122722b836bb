/**
 * `--reshard N`: divides a data directory that no node has open into another number of shards, or makes it whole again.
 * What is to come is built beside what is there, read again and compared row by row, and made to count in one step; a
 * crash before it leaves the directory as it was, and after it the new one, which the same command or the next start
 * puts into place. Owns the order of this; what the new clusters are is tables.ts, what a shard knows is facts.ts, how
 * rows travel is storage/moving.ts, and how one layout follows the other is shards/relayout.ts.
 */
import { readdir, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { GroupId } from '../../raft/types.ts';
import { DocumentError } from '../cluster/hello.ts';
import { IdentityError, readFounded, storedIdentity } from '../cluster/identity.ts';
import { owns, shardOf, type Seat } from '../cluster/seat.ts';
import { isForGood, readSteppedBack } from '../cluster/standing.ts';
import { foundingConf, placedOn } from '../cluster/topology.ts';
import { decodeTopology, decodeTopologyCommand, encodeTopology } from '../cluster/topology-codec.ts';
import { GROUP_COUNT, TOPOLOGY_GROUP } from '../constants.ts';
import { TOPOLOGY_ROW } from '../machine.ts';
import { shardDirectory, ShardingError, storedShards } from '../shards/layout.ts';
import { beginRelayout, buildingDirectory, clearBuilding, finishRelayout, readRelayout, RelayoutLock, resumeRelayout, syncTree, type OnStep } from '../shards/relayout.ts';
import { DamageError } from '../storage/checksum.ts';
import { MovingStore, MovingTarget, type GroupSum } from '../storage/moving.ts';
import { Storage } from '../storage/store.ts';
import { unknownFact, writeShardFacts } from './facts.ts';
import { reshardedClusters, type FormerTable, type NewCluster } from './tables.ts';

/** What the copies may take beyond the files that they are made from: LevelDB's logs, and what it merges. */
const SPARE_RATIO = 0.2;
const SPARE_BYTES = 32 * 1024 * 1024;

/** The directory cannot be resharded; the message is one line for the operator, and what counted before counts still. */
export class ReshardError extends Error {}

export interface Progress {
  readonly doing: 'copied' | 'compared';
  readonly groups: number;
  readonly ofGroups: number;
  readonly rows: number;
  readonly bytes: number;
}

export interface ReshardOptions {
  /** Changes nothing: finds out what would stop it, and what would come out. */
  readonly checkOnly?: boolean;
  readonly onProgress?: (progress: Progress) => void;
  /** Told before each step that a crash could follow, and waited for; for tests. */
  readonly onStep?: OnStep;
  /** Free bytes of the disk under a directory; for tests. */
  readonly freeBytes?: (directory: string) => Promise<number>;
}

interface Decided {
  readonly dataDir: string;
  readonly node: string;
  readonly from: number;
  readonly to: number;
  /** Ids of the clusters of the new shards, in order. */
  readonly clusterIds: readonly string[];
  /** Members of the clusters besides this node. */
  readonly others: readonly string[];
}

export type Resharded =
  /** Nothing to do. `wasInterrupted`: it was only finished now. */
  | { readonly outcome: 'same'; readonly dataDir: string; readonly shards: number; readonly wasInterrupted: boolean }
  | (Decided & { readonly outcome: 'checked' })
  | (Decided & {
      readonly outcome: 'done';
      /** Replicas that are out, as they were, and those that were found to be damaged now. */
      readonly damaged: readonly { readonly group: GroupId; readonly reason: string }[];
      readonly groups: number;
      readonly rows: number;
      readonly bytes: number;
    });

/** Makes `dataDir` one of `to` shards. Throws ReshardError. */
export async function reshardDirectory(dataDir: string, to: number, options: ReshardOptions = {}): Promise<Resharded> {
  const isThere = await stat(dataDir).then((found) => found.isDirectory(), () => false);
  if (!isThere) throw new ReshardError(`there is no directory ${dataDir}`);
  try {
    const begun = options.checkOnly === true ? await readRelayout(dataDir) : null;
    if (begun !== null) throw new ReshardError(`${dataDir} was being resharded from ${begun.from} to ${begun.to} when that was interrupted: run --reshard ${begun.to}, which finishes it`);
    const finished = await resumeRelayout(dataDir);
    const from = await storedShards(dataDir);
    if (from === null) throw new ReshardError(`${dataDir} is not the data directory of a node: it holds no database (db/CURRENT) and no shards`);
    if (from === to) return { outcome: 'same', dataDir, shards: to, wasInterrupted: finished !== null };
    const lock = await RelayoutLock.take(dataDir);
    try {
      return await reshard({ dataDir, from, to, options });
    } finally {
      await lock.release();
    }
  } catch (error) {
    if (error instanceof ReshardError) throw error;
    if (error instanceof ShardingError || error instanceof IdentityError || error instanceof DocumentError || error instanceof DamageError) throw new ReshardError(error.message);
    throw new ReshardError(`${dataDir} could not be resharded: ${error instanceof Error ? error.message : String(error)} (what was there still counts, or running the command again finishes it)`);
  }
}

interface Work {
  readonly dataDir: string;
  readonly from: number;
  readonly to: number;
  readonly options: ReshardOptions;
}

async function reshard(work: Work): Promise<Resharded> {
  const { dataDir, from, to, options } = work;
  const onStep = options.onStep ?? (() => Promise.resolve());
  const stores: MovingStore[] = [];
  let built: Built;
  let decided: Decided;
  try {
    for (const directory of directoriesOf(dataDir, from)) stores.push(await openFormer(directory));
    const node = nameOf(stores, dataDir);
    const clusters = await newClusters(stores, { dataDir, from, to, node });
    const others = clusters[0]?.record.members.map(({ name }) => name).filter((name) => name !== node) ?? [];
    decided = { dataDir, node, from, to, clusterIds: clusters.map(({ record }) => record.clusterId), others };
    await checkSpace(work);
    if (options.checkOnly === true) return { outcome: 'checked', ...decided };
    built = await build(stores, work, { node, clusters });
    await onStep('everything is built');
    // While every former database is held: from here on no node can start on the directory.
    await beginRelayout(dataDir, { from, to, node });
  } finally {
    // Before anything changes its place: an open database goes on writing under the path that it was opened by.
    for (const store of stores) await store.close();
  }
  await onStep('the new layout counts');
  await finishRelayout(dataDir, onStep);
  return { outcome: 'done', ...decided, ...built };
}

function directoriesOf(dataDir: string, shards: number): readonly string[] {
  return shards === 1 ? [dataDir] : Array.from({ length: shards }, (_, index) => shardDirectory(dataDir, index));
}

async function openFormer(directory: string): Promise<MovingStore> {
  const store = await MovingStore.open(directory);
  if (store === 'in_use') throw new ReshardError(`${directory} is in use by a running node: stop it first`);
  if (store === null) throw new ReshardError(`${directory} holds no database (db/CURRENT): start the node as it was until it is ready, and stop it`);
  return store;
}

function nameOf(stores: readonly MovingStore[], dataDir: string): string {
  const names = new Set(stores.map(({ facts }) => storedIdentity(facts)?.name));
  const [name] = names;
  if (name === undefined || names.size !== 1) throw new ReshardError(`${dataDir} belongs to no cluster yet: there is nothing to reshard`);
  return name;
}

async function newClusters(stores: readonly MovingStore[], { dataDir, from, to, node }: Omit<Work, 'options'> & { readonly node: string }): Promise<readonly NewCluster[]> {
  const former: FormerTable[] = [];
  for (const [shard, store] of stores.entries()) {
    const where = from === 1 ? dataDir : shardDirectory(dataDir, shard);
    const unknown = unknownFact(store.facts);
    if (unknown !== null) throw new ReshardError(`${where} holds '${unknown}', which this program does not know: run the version that the node ran, or a later one`);
    const mark = readSteppedBack(store.facts);
    if (mark !== null && isForGood(mark)) throw new ReshardError(`${where} is not used again (${mark.reason}): start the node as it was, so that it joins its cluster anew, and stop it when it is ready`);
    const record = readFounded(store.facts);
    if (record === null) throw new ReshardError(`${where} belongs to no cluster yet: there is nothing to reshard`);
    former.push({ record, ...(await tableOf(store, where)) });
  }
  const clusters = reshardedClusters(former, to);
  if (typeof clusters === 'string') throw new ReshardError(clusters);
  if (!former.every(({ table }, shard) => table.nodes.some(({ name, storeId }) => name === node && storeId === storedIdentity(stores[shard]?.facts ?? new Map())?.storeId))) {
    throw new ReshardError(`${dataDir} is not the directory that its cluster has for node '${node}': it was replaced or removed`);
  }
  return clusters;
}

/** The table as the directory's own replica has it. */
async function tableOf(store: MovingStore, where: string): Promise<Pick<FormerTable, 'table' | 'unapplied'>> {
  const own = store.groups().find(({ group }) => group === TOPOLOGY_GROUP);
  const row = store.row(TOPOLOGY_GROUP, TOPOLOGY_ROW);
  const entries = await store.unapplied(TOPOLOGY_GROUP);
  if (own === undefined || own.damaged !== null || row === undefined || row === null || entries === null) {
    const why = own?.damaged ?? (own === undefined || row === undefined ? 'it is not there yet' : 'its rows are not what was written');
    throw new ReshardError(`${where}: this node's copy of the cluster's table is damaged (${why}): start all nodes as they were, so that it is made anew, or see --restore`);
  }
  return { table: decodeTopology(row), unapplied: entries.map(({ data }) => (data.length === 0 ? null : decodeTopologyCommand(data))) };
}

async function checkSpace({ dataDir, from, options }: Work): Promise<void> {
  let bytes = 0;
  for (const directory of directoriesOf(dataDir, from)) {
    for (const name of await readdir(join(directory, 'db'))) bytes += (await stat(join(directory, 'db', name))).size;
  }
  const wanted = Math.ceil(bytes * (1 + SPARE_RATIO)) + SPARE_BYTES;
  const free = await (options.freeBytes ?? freeBytes)(dataDir);
  if (free >= wanted) return;
  throw new ReshardError(`the disk of ${dataDir} has ${free} bytes free, and ${wanted} are needed: everything is copied before what was there is deleted. Nothing was changed`);
}

async function freeBytes(directory: string): Promise<number> {
  const disk = await statfs(directory);
  return disk.bavail * disk.bsize;
}

interface Built {
  readonly damaged: readonly { readonly group: GroupId; readonly reason: string }[];
  readonly groups: number;
  readonly rows: number;
  readonly bytes: number;
}

/** Builds every shard that is to be, and reads it again. Durable when it resolves. */
async function build(stores: readonly MovingStore[], { dataDir, to, options }: Work, { node, clusters }: { readonly node: string; readonly clusters: readonly NewCluster[] }): Promise<Built> {
  const onStep = options.onStep ?? (() => Promise.resolve());
  const building = await clearBuilding(dataDir);
  const placed = stores.map((store, shard) => store.groups().filter(({ group }) => group < GROUP_COUNT && shardOf(group, stores.length) === shard));
  const ofGroups = placed.flat().length;
  const copied = new Map<GroupId, GroupSum>();
  const damaged: { group: GroupId; reason: string }[] = [];
  let rows = 0;
  let bytes = 0;
  for (let index = 0; index < to; index++) {
    const seat = { index, count: to };
    const directory = buildingDirectory(dataDir, index, to);
    const target = await MovingTarget.create(directory);
    const rotten = new Map<GroupId, string>();
    const sums = new Map<GroupId, GroupSum>();
    try {
      for (const [shard, store] of stores.entries()) {
        for (const { group } of placed[shard]?.filter(({ group }) => owns(seat, group)) ?? []) {
          const { sum, rot } = await store.copy(group, target);
          if (rot !== null) rotten.set(group, rot);
          sums.set(group, sum);
          copied.set(group, sum);
          rows += sum.logRows + sum.stateRows;
          bytes += sum.bytes;
          options.onProgress?.({ doing: 'copied', groups: copied.size, ofGroups, rows, bytes });
        }
      }
    } finally {
      await target.close();
    }
    await onStep(`the rows of shard ${index} are copied`);
    const cluster = clusters[index];
    if (cluster === undefined) throw new RangeError(`shard ${index} of ${to} has no cluster`);
    damaged.push(...(await settle(directory, { stores, node, cluster, seat, rotten })));
    await compare(directory, sums, damaged);
    options.onProgress?.({ doing: 'compared', groups: copied.size, ofGroups, rows, bytes });
    await onStep(`shard ${index} is compared`);
  }
  await syncTree(building);
  return { damaged: damaged.sort((a, b) => a.group - b.group), groups: copied.size, rows, bytes };
}

interface Settling {
  readonly stores: readonly MovingStore[];
  readonly node: string;
  readonly cluster: NewCluster;
  readonly seat: Seat;
  readonly rotten: ReadonlyMap<GroupId, string>;
}

/** Gives a shard what it knows of itself and the table's own group, opened as a node would; names the replicas that are out. */
async function settle(directory: string, { stores, node, cluster: { record, table }, seat, rotten }: Settling): Promise<{ group: GroupId; reason: string }[]> {
  const storage = await Storage.open(directory);
  try {
    for (const [group, reason] of rotten) await storage.markDamaged(group, `found by --reshard: ${reason}`);
    await writeShardFacts(storage.facts, { former: stores.map(({ facts }) => facts), node, seat, record, table });
    const placement = table.groups[TOPOLOGY_GROUP];
    const own = placedOn(table, TOPOLOGY_GROUP, node);
    if (placement === undefined || own === undefined) throw new RangeError(`node '${node}' has no replica of its cluster's table`);
    await storage.createGroup(TOPOLOGY_GROUP, { replica: own.id, conf: foundingConf(placement), index: 1, term: 1 }, [{ ...TOPOLOGY_ROW, value: encodeTopology(table) }]);
    return storage.groups().flatMap(({ group, damaged }) => (damaged === null ? [] : [{ group, reason: damaged }]));
  } finally {
    await storage.close();
  }
}

/** Reads a shard that was built, and throws unless it has every group as it was copied and none besides. */
async function compare(directory: string, sums: ReadonlyMap<GroupId, GroupSum>, damaged: readonly { readonly group: GroupId; readonly reason: string }[]): Promise<void> {
  const store = await MovingStore.open(directory);
  if (store === null || store === 'in_use') throw new ReshardError(`${directory} was built, and cannot be opened`);
  try {
    const found = store.groups().map(({ group }) => group).filter((group) => group !== TOPOLOGY_GROUP);
    const wanted = [...sums.keys()].sort((a, b) => a - b);
    if (!isDeepStrictEqual(found, wanted)) throw new ReshardError(`${directory} was built with groups ${found.join(', ')} instead of ${wanted.join(', ')}`);
    for (const [group, sum] of sums) {
      const marked = damaged.find((replica) => replica.group === group)?.reason ?? sum.damaged;
      if (!isDeepStrictEqual(await store.sum(group), { ...sum, damaged: marked })) throw new ReshardError(`group ${group} in ${directory} is not what was copied: the disk does not keep what is written`);
    }
  } finally {
    await store.close();
  }
}
