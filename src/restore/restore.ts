/**
 * `--restore`: makes a new cluster of one data directory, after the others were lost for good. The directory becomes a
 * new store of a new cluster in which its node is the sole voter of every group; other nodes join it empty. What makes
 * this safe: the new cluster shares neither id nor stores nor keys with the former one, whose nodes are therefore
 * refused whatever they remember. Everything is decided first and then written in one synced batch, so that a crash
 * leaves the directory either as it was or restored. Owns what becomes of a directory; how it is told is report.ts.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ConfState, GroupId, ReplicaId } from '../../raft/types.ts';
import { tooOldFor } from '../cluster/formats.ts';
import { PROMISE_FACT } from '../cluster/founding.ts';
import { DocumentError, encodeDocument } from '../cluster/hello.ts';
import { archivedAs, BEATS_FACT, IdentityError, readFounded, renewIdentity, storedIdentity, writeFounded } from '../cluster/identity.ts';
import { readTable, writeTable } from '../cluster/joining.ts';
import { PEERS_FACT } from '../cluster/ledger.ts';
import type { FoundingRecord, NodeFacts } from '../cluster/ports.ts';
import { writeHighest } from '../cluster/replicas.ts';
import { INHERITANCE_FACT } from '../cluster/rebirth.ts';
import { STEPPED_BACK_FACT } from '../cluster/standing.ts';
import { foundingTopology, placedOn, type Placement, type Topology, type TopologyNode } from '../cluster/topology.ts';
import { decodeTopology, encodeTopology } from '../cluster/topology-codec.ts';
import { COMMAND_FORMAT, TOPOLOGY_GROUP } from '../constants.ts';
import { TOPOLOGY_ROW } from '../machine.ts';
import { readLayout, shardOf } from '../shards/layout.ts';
import { readRelayout } from '../shards/relayout.ts';
import { DamageError } from '../storage/checksum.ts';
import { OfflineStore, type FreshGroup, type KeptGroup, type SoundGroup, type Survey } from '../storage/offline.ts';

/** The directory cannot be restored; the message is one line for the operator, and nothing was changed. */
export class RestoreError extends Error {}

/** What one group came out as. */
export type RestoredGroup =
  | {
      readonly group: GroupId;
      readonly kept: SoundGroup;
      /** Null: nothing was acknowledged without this directory. Else why something may have been. */
      readonly doubt: string | null;
    }
  | { readonly group: GroupId; readonly kept: null; readonly reason: string };

export interface Restored {
  readonly directory: string;
  /** The shard whose directory it is; null where the node is not divided. */
  readonly shard: number | null;
  readonly node: string;
  /** `archivedAs`: the cluster under whose id the archive has what is here. */
  readonly former: { readonly clusterId: string; readonly storeId: string; readonly archivedAs: string };
  readonly clusterId: string;
  readonly storeId: string;
  /** Of data, in order of their numbers. */
  readonly groups: readonly RestoredGroup[];
  /** Why the table of the cluster had to be made anew; null where it was whole. */
  readonly tableReason: string | null;
}

/** Restores `directory`, which no node may have open. Throws RestoreError. */
export async function restoreDirectory(directory: string): Promise<Restored> {
  const isThere = await stat(directory).then((found) => found.isDirectory(), () => false);
  if (!isThere) throw new RestoreError(`there is no directory ${directory}`);
  const shard = await shardOf(directory).catch((error: unknown) => {
    throw new RestoreError(error instanceof Error ? error.message : String(error));
  });
  for (const place of shard === null ? [directory] : [directory, dirname(directory)]) {
    const begun = await readRelayout(place);
    if (begun !== null) throw new RestoreError(`${place} was being resharded from ${begun.from} to ${begun.to} when that was interrupted: run --reshard ${begun.to} first, which finishes it`);
  }
  const divided = await readLayout(directory).catch((error: unknown) => {
    throw new RestoreError(error instanceof Error ? error.message : String(error));
  });
  if (divided !== null) throw new RestoreError(`${directory} is divided into ${divided.shards} shards, each a cluster of its own: restore each of its directories, ${join(directory, 'shard-0')} to shard-${divided.shards - 1}`);
  const store = await OfflineStore.open(directory).catch((error: unknown) => {
    throw new RestoreError(error instanceof Error ? error.message : String(error));
  });
  if (store === 'in_use') throw new RestoreError(`${directory} is in use by a running node: stop it first`);
  if (store === null) throw new RestoreError(`${directory} is not the data directory of a node: it holds no database (db/CURRENT)`);
  try {
    return await restoreStore(store, directory, shard);
  } catch (error) {
    const isUnreadable = error instanceof IdentityError || error instanceof DocumentError || error instanceof DamageError;
    throw isUnreadable ? new RestoreError(`${directory}: ${error.message}`) : error;
  } finally {
    await store.close();
  }
}

async function restoreStore(store: OfflineStore, directory: string, shard: number | null): Promise<Restored> {
  const planned = new PlannedFacts(store);
  const identity = storedIdentity(planned);
  const record = readFounded(planned);
  if (identity === null || record === null) throw new RestoreError(`${directory} belongs to no cluster yet: there is nothing to restore`);
  if (identity.generation === 0) throw new RestoreError(`${directory} was restored already, as cluster ${record.clusterId}: start node '${identity.name}' on it`);
  const survey = await store.survey();
  const { table: former, reason: tableReason } = lastTable(store, survey, record);
  const tooOld = tooOldFor(former.formats) ?? tooOldForCommands(survey);
  if (tooOld !== null) throw new RestoreError(tooOld);

  const fresh = { clusterId: randomUUID(), storeId: randomUUID() };
  const replicas = numbered(former, survey, identity.name);
  const table = restoredTable(former, { ...fresh, name: identity.name, record, replicas });
  const address = table.nodes[0]?.address ?? '';
  const founding: FoundingRecord = { clusterId: fresh.clusterId, members: [{ name: identity.name, storeId: fresh.storeId, address }], mintedKey: randomBytes(32).toString('hex') };
  await renewIdentity(planned, identity.name, fresh.storeId);
  await planned.put(PROMISE_FACT, encodeDocument(founding));
  await writeFounded(planned, founding);
  await writeTable(planned, table);
  await writeHighest(planned, replicas.map((replica) => replica ?? 0));
  // Of another life: whom it met, how far it counted, that it was found out.
  for (const fact of [BEATS_FACT, PEERS_FACT, STEPPED_BACK_FACT, INHERITANCE_FACT]) planned.drop(fact);
  await store.commit({ ...groupsOf(survey, replicas, table), facts: planned.changed }).catch((error: unknown) => {
    throw new RestoreError(`${directory} could not be written, and is as it was or restored (run --restore again, it tells): ${error instanceof Error ? error.message : String(error)}`);
  });
  return {
    directory,
    shard,
    node: identity.name,
    former: { clusterId: record.clusterId, storeId: identity.storeId, archivedAs: archivedAs(record) },
    ...fresh,
    groups: replicas.flatMap((replica, group) => (replica === null || group === TOPOLOGY_GROUP ? [] : [outcome(survey, former, group, identity.name)])),
    tableReason,
  };
}

/** The latest table that the directory knows, or the one its cluster began with; and why it is not its own replica's. */
function lastTable(store: OfflineStore, survey: Survey, record: FoundingRecord): { table: Topology; reason: string | null } {
  const own = survey.sound.find(({ group }) => group === TOPOLOGY_GROUP);
  const row = own === undefined ? undefined : store.row(own, TOPOLOGY_ROW);
  const applied = row === undefined ? null : decodeTopology(row);
  const copy = readTable({ get: (key) => store.get(key) });
  const table = applied !== null && (copy === null || applied.revision >= copy.revision) ? applied : (copy ?? foundingTopology(record));
  const useless = survey.useless.find(({ group }) => group === TOPOLOGY_GROUP);
  return { table, reason: applied === null ? (useless?.reason ?? 'the directory has no replica of it') : null };
}

/** A command of a later version stops every node that is to apply it. */
function tooOldForCommands({ sound }: Survey): string | null {
  const newest = Math.max(0, ...sound.filter(({ group }) => group !== TOPOLOGY_GROUP).map(({ commandFormat }) => commandFormat));
  return newest <= COMMAND_FORMAT ? null : `the directory holds commands in format ${newest}, this program reads up to ${COMMAND_FORMAT}: run the version that the cluster ran, or a later one`;
}

/**
 * The number of this node's replica of each group: a sound one keeps its own, because its votes are remembered with
 * it; one that begins anew gets a number that was never issued. Null for a group that the cluster does not run.
 */
function numbered(table: Topology, survey: Survey, name: string): (ReplicaId | null)[] {
  const stored = new Map([...survey.useless, ...survey.sound.map(({ group, record }) => ({ group, replica: record.replica }))].map(({ group, replica }) => [group, replica]));
  const sound = new Set(survey.sound.map(({ group }) => group));
  return table.groups.map((placement, group) => {
    const replica = stored.get(group);
    if (replica !== undefined && sound.has(group)) return replica;
    if (replica === undefined && placement.nextReplica === 1) return null;
    return Math.max(placement.nextReplica, (replica ?? 0) + 1, (placedOn(table, group, name)?.id ?? 0) + 1);
  });
}

function restoredTable(former: Topology, to: { clusterId: string; storeId: string; name: string; record: FoundingRecord; replicas: readonly (ReplicaId | null)[] }): Topology {
  const { name, storeId, clusterId, record, replicas } = to;
  const known = former.nodes.find((node) => node.name === name);
  const address = known?.address ?? record.members.find((member) => member.name === name)?.address ?? record.members[0]?.address ?? '';
  const self: TopologyNode = { ...known, name, storeId, address, state: 'active' };
  const stores = [...former.retired, ...record.members.map((member) => member.storeId), ...former.nodes.map((node) => node.storeId)];
  return {
    epoch: former.epoch + 1,
    revision: former.revision + 1,
    clusterId,
    coordinator: name,
    nodes: [self],
    retired: [...new Set(stores)],
    groups: former.groups.map((placement, group): Placement => {
      const id = replicas[group] ?? null;
      if (id === null) return placement;
      return { replicas: [{ id, node: name, voter: true, phase: 'settled' }], nextReplica: Math.max(placement.nextReplica, id + 1), preferred: name };
    }),
    formats: former.formats,
  };
}

function groupsOf(survey: Survey, replicas: readonly (ReplicaId | null)[], table: Topology): { kept: KeptGroup[]; fresh: FreshGroup[] } {
  const kept: KeptGroup[] = [];
  const fresh: FreshGroup[] = [];
  for (const [group, replica] of replicas.entries()) {
    if (replica === null) continue;
    const conf: ConfState = { voters: [replica], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
    const rows = group === TOPOLOGY_GROUP ? [{ ...TOPOLOGY_ROW, value: encodeTopology(table) }] : [];
    const from = survey.sound.find((sound) => sound.group === group);
    if (from === undefined) fresh.push({ group, replica, conf, rows });
    // A membership change, or a decision about the former table, would bring back nodes that are gone.
    else kept.push({ from, conf, rows, blank: from.unapplied.filter(({ isConfChange }) => isConfChange || group === TOPOLOGY_GROUP) });
  }
  return { kept, fresh };
}

function outcome(survey: Survey, former: Topology, group: GroupId, name: string): RestoredGroup {
  const kept = survey.sound.find((sound) => sound.group === group);
  if (kept === undefined) return { group, kept: null, reason: survey.useless.find((useless) => useless.group === group)?.reason ?? 'the directory has no replica of it' };
  const { record, damagedFrom } = kept;
  const placed = placedOn(former, group, name);
  const isAlone = record.conf.voters.every((voter) => voter === record.replica) && record.conf.votersOutgoing.length === 0;
  const wasHere = placed?.id === record.replica && placed.phase !== 'leaving';
  if (damagedFrom !== null) return { group, kept, doubt: `its log is damaged from entry ${damagedFrom} on` };
  if (!wasHere) return { group, kept, doubt: 'its replica had left the group' };
  return { group, kept, doubt: isAlone ? null : 'others may have acknowledged more' };
}

/** Facts as they are to be; nothing is written here. */
class PlannedFacts implements NodeFacts {
  readonly changed = new Map<string, Uint8Array | null>();
  private readonly store: OfflineStore;

  constructor(store: OfflineStore) {
    this.store = store;
  }

  get(key: string): Uint8Array | undefined {
    return this.store.get(key);
  }

  put(key: string, value: Uint8Array): Promise<void> {
    this.changed.set(key, value);
    return Promise.resolve();
  }

  drop(key: string): void {
    this.changed.set(key, null);
  }
}
