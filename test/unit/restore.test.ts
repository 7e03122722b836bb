/** What `--restore` makes of a directory: what is kept, what is blanked, what begins empty, and that a crash leaves one or the other. */
import assert from 'node:assert/strict';
import { cp, mkdtemp, readdir, readFile, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { ClassicLevel } from 'classic-level';
import { encodeConfChange } from '../../raft/confchange.ts';
import { ConfChangeType, EntryType, type Entry, type GroupId } from '../../raft/types.ts';
import { openIdentity, storedIdentity, writeFounded } from '../../src/cluster/identity.ts';
import { readTable, writeTable } from '../../src/cluster/joining.ts';
import { foundingConf, foundingTopology, replicaOn } from '../../src/cluster/topology.ts';
import { decodeTopology, encodeTopology, encodeTopologyCommand } from '../../src/cluster/topology-codec.ts';
import { COMMAND_FORMAT, GROUP_COUNT, TOPOLOGY_GROUP } from '../../src/constants.ts';
import { TOPOLOGY_ROW } from '../../src/machine.ts';
import { report } from '../../src/restore/report.ts';
import { restoreDirectory, type Restored } from '../../src/restore/restore.ts';
import { openLayout } from '../../src/shards/layout.ts';
import { logKey, slotKey, Space } from '../../src/storage/keys.ts';
import { Storage } from '../../src/storage/store.ts';

const COMMAND = Buffer.from([COMMAND_FORMAT, 9, 9]);
const LEAVE = encodeConfChange({ changes: [{ type: ConfChangeType.remove, replica: 1 }], joint: false, autoLeave: false, context: new Uint8Array(0) });

const entry = (index: number, data: Uint8Array, type: EntryType = EntryType.normal): Entry => ({ index, term: 2, type, data });

function write(storage: Storage, group: GroupId, entries: readonly Entry[]): Promise<void> {
  return new Promise((resolve, reject) =>
    storage.write([{ group, hardState: { term: 2, vote: 1, commit: 2 }, entries, snapshot: null, compactTo: 0 }], (error) => (error === null ? resolve() : reject(error))),
  );
}

/** Changes one byte of a stored row. */
async function rot(directory: string, key: Uint8Array): Promise<void> {
  const db = new ClassicLevel<Uint8Array, Uint8Array>(join(directory, 'db'), { keyEncoding: 'view', valueEncoding: 'view' });
  await db.open();
  const value = (await db.get(key))?.slice();
  assert.ok(value !== undefined);
  value[0] = (value[0] ?? 0) ^ 1;
  await db.put(key, value, { sync: true });
  await db.close();
}

/** Directory of founding member 'a' of three, with groups in all conditions. */
async function make(directory: string): Promise<void> {
  const storage = await Storage.open(directory);
  const { storeId } = await openIdentity(storage.facts, 'a');
  const record = { clusterId: 'former', members: ['a', 'b', 'c'].map((name) => ({ name, storeId: name === 'a' ? storeId : `store-${name}`, address: `${name}:1` })), mintedKey: 'key' };
  await writeFounded(storage.facts, record);
  const table = foundingTopology(record);
  const rows = (group: number): { table: 'config' | 'message'; context: string; key: '' | number; value: Uint8Array }[] =>
    group === TOPOLOGY_GROUP ? [{ ...TOPOLOGY_ROW, value: encodeTopology(table) }] : [{ table: 'message', context: 'c', key: 1, value: Buffer.from(`row of ${group}`) }];
  await storage.createGroups(
    table.groups.flatMap((placement, group) => (group === 2 ? [] : [{ group, replica: replicaOn(table, group, 'a') ?? 0, conf: foundingConf(placement), index: 1, term: 1, rows: rows(group) }])),
  );
  await write(storage, 0, [entry(2, COMMAND), entry(3, LEAVE, EntryType.confChange), entry(4, COMMAND)]);
  // The second write only appends: where this log ends is not in its record.
  await write(storage, 6, [entry(2, COMMAND)]);
  await write(storage, 6, [entry(3, COMMAND)]);
  await write(storage, 3, [entry(2, COMMAND), entry(3, COMMAND), entry(4, COMMAND)]);
  await write(storage, TOPOLOGY_GROUP, [entry(2, encodeTopologyCommand({ type: 'drain', name: 'a', drain: true }))]);
  await storage.markDamaged(1, 'found rotten');
  await storage.close();
  await rot(directory, logKey(3, 1, 3));
  await rot(directory, Buffer.concat([slotKey(Space.state, 4, 1), Buffer.from([3]), Buffer.from('c\0'), Buffer.from([0, 0, 0, 0, 0, 0, 0, 1])]));
}

describe('restoring a directory', () => {
  let root = '';
  let made = '';
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'restore-'));
    made = join(root, 'made');
    await make(made);
  });
  after(() => rm(root, { recursive: true }));

  async function copy(name: string): Promise<string> {
    const directory = join(root, name);
    await cp(made, directory, { recursive: true });
    return directory;
  }

  it('keeps sound state and what was not applied yet, and blanks what speaks of the former members', async () => {
    const directory = await copy('kept');
    await restoreDirectory(directory);
    const storage = await Storage.open(directory);
    try {
      const log = storage.log(0);
      assert.deepEqual([log.firstIndex(), log.lastIndex(), log.appliedIndex], [2, 4, 1]);
      assert.deepEqual(log.entries(2, 5, 1000).map(({ type, data }) => [type, Buffer.from(data)]), [[EntryType.normal, COMMAND], [EntryType.normal, Buffer.alloc(0)], [EntryType.normal, COMMAND]]);
      assert.deepEqual(storage.log(TOPOLOGY_GROUP).entries(2, 3, 1000).map(({ data }) => data.length), [0]);
      assert.deepEqual(storage.log(6).entries(2, 4, 1000).map(({ data }) => Buffer.from(data)), [COMMAND, COMMAND]);
      assert.equal(Buffer.from(storage.get(5, 'message', 'c', 1) ?? []).toString(), 'row of 5');
      assert.equal(storage.groups().length, GROUP_COUNT + 1);
      for (const { group, replica, damaged } of storage.groups()) {
        assert.equal(damaged, null);
        const { voters, learners, votersOutgoing } = storage.log(group).conf;
        assert.deepEqual([voters, learners, votersOutgoing], [[replica], [], []], `group ${group}`);
      }
    } finally {
      await storage.close();
    }
  });

  it('is another store of another cluster, with a later table that has this node alone', async () => {
    const directory = await copy('identity');
    const restored = await restoreDirectory(directory);
    const storage = await Storage.open(directory);
    try {
      const identity = await openIdentity(storage.facts, null);
      assert.deepEqual([identity.name, identity.storeId, identity.generation, identity.lineage.length], ['a', restored.storeId, 1, 1]);
      assert.equal(identity.clusterId, restored.clusterId);
      const table = decodeTopology(storage.get(TOPOLOGY_GROUP, 'config', 'topology', '') ?? new Uint8Array());
      assert.deepEqual(readTable(storage.facts), table);
      assert.deepEqual(table.nodes.map(({ name, storeId, state }) => [name, storeId, state]), [['a', restored.storeId, 'active']]);
      assert.deepEqual([...table.retired].sort(), [restored.former.storeId, 'store-b', 'store-c'].sort());
      assert.deepEqual([table.epoch, table.revision, table.clusterId, table.coordinator], [2, 2, restored.clusterId, 'a']);
      for (const { group, replica } of storage.groups()) {
        const placement = table.groups[group];
        assert.deepEqual(placement?.replicas, [{ id: replica, node: 'a', voter: true, phase: 'settled' }]);
        assert.ok((placement?.nextReplica ?? 0) > replica);
      }
    } finally {
      await storage.close();
    }
  });

  it('begins what is missing or damaged empty, under numbers that were never issued, and says so', async () => {
    const directory = await copy('damage');
    const restored = await restoreDirectory(directory);
    const lost = restored.groups.flatMap((group) => (group.kept === null ? [[group.group, group.reason] as const] : []));
    assert.deepEqual(lost.map(([group]) => group), [1, 2, 4]);
    assert.deepEqual([lost[0]?.[1], lost[1]?.[1]], ['found rotten', 'the directory has no replica of it']);
    assert.match(lost[2]?.[1] ?? '', /a state row is damaged/);
    const text = report(restored);
    for (const group of [1, 2, 4]) assert.match(text, new RegExp(`group ${group} begins empty`));
    assert.match(text, /group 3 lost its entries 3 to 4/);
    assert.match(text, /groups +253 restored, 3 begun empty/);
    assert.match(text, new RegExp(`SET cluster_id = '${restored.clusterId}' WHERE cluster_id = 'former'`));
    const storage = await Storage.open(directory);
    try {
      for (const group of [1, 2, 4]) {
        assert.deepEqual([storage.groups().find((info) => info.group === group)?.replica, storage.log(group).lastIndex()], [4, 1]);
        assert.equal(storage.get(group, 'message', 'c', 1), undefined);
      }
      assert.equal(storage.log(3).lastIndex(), 2);
    } finally {
      await storage.close();
    }
  });

  it('a crash at any byte of the write leaves the directory as it was, or restored', async () => {
    const restoredAt = await copy('whole');
    const restored = await restoreDirectory(restoredAt);
    const logs = (await readdir(join(restoredAt, 'db'))).filter((name) => name.endsWith('.log')).sort();
    const log = logs.at(-1) ?? '';
    const { size } = await stat(join(restoredAt, 'db', log));
    assert.ok(size > 40_000, `the batch is in ${log}`);
    let old = 0;
    for (const bytes of [0, 7, 100, 32_768, Math.floor(size / 2), size - 40_000, size - 1, size]) {
      const cut = join(root, `cut-${bytes}`);
      await cp(restoredAt, cut, { recursive: true });
      await truncate(join(cut, 'db', log), bytes);
      const again = await outcome(cut);
      const storage = await Storage.open(cut);
      const voters = storage.groups().map(({ group }) => storage.log(group).conf.voters.length);
      const stored = storedIdentity(storage.facts);
      await storage.close();
      if (again !== 'restored already') old++;
      else assert.equal(stored?.storeId, restored.storeId);
      assert.ok(voters.every((count) => count === 1), `${bytes} bytes: after running it again all groups are alone`);
      await rm(cut, { recursive: true });
    }
    assert.equal(old, 7, 'only the whole write counts');
  });

  /** Runs the command again, as an operator would after a crash. */
  async function outcome(directory: string): Promise<Restored | 'restored already'> {
    return restoreDirectory(directory).catch((error: unknown) => {
      assert.match(String(error), /was restored already/);
      return 'restored already' as const;
    });
  }

  it('refuses what it cannot read, and leaves it alone', async () => {
    const directory = await copy('newer');
    const storage = await Storage.open(directory);
    await write(storage, 7, [entry(2, Buffer.from([COMMAND_FORMAT + 1, 0]))]);
    await storage.close();
    await assert.rejects(restoreDirectory(directory), new RegExp(`holds commands in format ${COMMAND_FORMAT + 1}`));
    const table = await withFacts(directory, async (facts) => {
      const kept = readTable(facts) ?? foundingTopology({ clusterId: 'former', members: [{ name: 'a', storeId: 's', address: 'a:1' }], mintedKey: 'k' });
      await writeTable(facts, { ...kept, revision: 9, formats: { disk: 1, wire: 99, command: 1 } });
      return kept;
    });
    assert.equal(table.clusterId, 'former');
    await assert.rejects(restoreDirectory(directory), /the cluster uses wire format 99/);
    const files = await readdir(directory);
    assert.ok(files.includes('db') && (await readFile(join(directory, 'db', 'CURRENT'), 'utf8')).startsWith('MANIFEST'));
    const divided = join(root, 'divided');
    await openLayout(divided, 2, 'x');
    await assert.rejects(restoreDirectory(divided), /is divided into 2 shards/);
    const empty = join(root, 'unfounded');
    const unfounded = await Storage.open(empty);
    await openIdentity(unfounded.facts, 'x');
    await unfounded.close();
    await assert.rejects(restoreDirectory(empty), /belongs to no cluster yet/);
  });

  async function withFacts<T>(directory: string, work: (facts: Storage['facts']) => Promise<T>): Promise<T> {
    const storage = await Storage.open(directory);
    try {
      return await work(storage.facts);
    } finally {
      await storage.close();
    }
  }
});
