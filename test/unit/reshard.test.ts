/** What `--reshard` makes of a directory: everything is where the new shards expect it, and a crash leaves one layout or the other. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cp, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { ClassicLevel } from 'classic-level';
import { EntryType, type Entry, type GroupId } from '../../raft/types.ts';
import { readArguments } from '../../src/arguments.ts';
import { checkStart } from '../../src/check.ts';
import type { LinkHello } from '../../src/cluster/hello.ts';
import { openIdentity, readFounded, storedIdentity, writeBeat, writeFounded } from '../../src/cluster/identity.ts';
import { readTable } from '../../src/cluster/joining.ts';
import { PeerLedger } from '../../src/cluster/ledger.ts';
import { readHighest, writeHighest } from '../../src/cluster/replicas.ts';
import { shardOf } from '../../src/cluster/seat.ts';
import { Standing } from '../../src/cluster/standing.ts';
import { foundingConf, foundingTopology, replicaOn, type Topology, type TopologyCommand } from '../../src/cluster/topology.ts';
import { decodeTopology, encodeTopology, encodeTopologyCommand } from '../../src/cluster/topology-codec.ts';
import { GROUP_COUNT, TOPOLOGY_GROUP } from '../../src/constants.ts';
import { TOPOLOGY_ROW } from '../../src/machine.ts';
import { progressLines, reshardReport } from '../../src/reshard/report.ts';
import { ReshardError, reshardDirectory, type Resharded, type ReshardOptions } from '../../src/reshard/reshard.ts';
import { restoreDirectory } from '../../src/restore/restore.ts';
import { readLayout, shardDirectory, storedShards } from '../../src/shards/layout.ts';
import { resumeRelayout } from '../../src/shards/relayout.ts';
import { groupKey, logKey, slotKey, Space } from '../../src/storage/keys.ts';
import { Storage } from '../../src/storage/store.ts';

const NAMES = ['a', 'b', 'c'];
const RECORD = { clusterId: 'former', members: NAMES.map((name) => ({ name, storeId: `store-${name}`, address: `${name}:1` })), mintedKey: 'key' };
const data = (text: string): Uint8Array => Buffer.from(text);
const entry = (index: number, bytes: Uint8Array): Entry => ({ index, term: 2, type: EntryType.normal, data: bytes });

function write(storage: Storage, group: GroupId, entries: readonly Entry[], compactTo = 0): Promise<void> {
  return new Promise((resolve, reject) =>
    storage.write([{ group, hardState: { term: 2, vote: 1, commit: entries.at(-1)?.index ?? 2 }, entries, snapshot: null, compactTo }], (error) => (error === null ? resolve() : reject(error))),
  );
}

async function withDatabase<T>(directory: string, work: (db: ClassicLevel<Uint8Array, Uint8Array>) => Promise<T>): Promise<T> {
  const db = new ClassicLevel<Uint8Array, Uint8Array>(join(directory, 'db'), { keyEncoding: 'view', valueEncoding: 'view' });
  await db.open();
  try {
    return await work(db);
  } finally {
    await db.close();
  }
}

/** Changes one byte of a stored row. */
function rot(directory: string, key: Uint8Array): Promise<void> {
  return withDatabase(directory, async (db) => {
    const value = (await db.get(key))?.slice();
    assert.ok(value !== undefined);
    value[0] = (value[0] ?? 0) ^ 1;
    await db.put(key, value, { sync: true });
  });
}

interface Made {
  readonly table?: (table: Topology) => Topology;
  readonly commands?: readonly TopologyCommand[];
}

/** Directory of founding member `name` of three, with logs in all conditions. */
async function make(directory: string, name: string, { table: change = (table) => table, commands = [] }: Made = {}): Promise<void> {
  const storage = await Storage.open(directory);
  const { nonce } = await openIdentity(storage.facts, name);
  const storeId = storedIdentity(storage.facts)?.storeId ?? '';
  // Stores are random: the three directories are to know each other all the same.
  await storage.facts.put('identity', Buffer.from(JSON.stringify({ name, storeId: `store-${name}`, generation: 1, lineage: [{ nonce, beats: 0 }] })));
  assert.notEqual(storeId, '');
  await writeBeat(storage.facts, { nonce, beats: 7 });
  await writeFounded(storage.facts, RECORD);
  const table = change(foundingTopology(RECORD));
  const rows = (group: number): { table: 'config' | 'message'; context: string; key: '' | number; value: Uint8Array }[] =>
    group === TOPOLOGY_GROUP ? [{ ...TOPOLOGY_ROW, value: encodeTopology(table) }] : [1, 2].map((key) => ({ table: 'message', context: `c${group}`, key, value: data(`row ${key} of ${group}`) }));
  await storage.createGroups(table.groups.map((placement, group) => ({ group, replica: replicaOn(table, group, name) ?? 0, conf: foundingConf(placement), index: 1, term: 1, rows: rows(group) })));
  await writeHighest(storage.facts, table.groups.map((_, group) => (group === 9 ? 40 : (replicaOn(table, group, name) ?? 0))));
  for (let group = 0; group < GROUP_COUNT; group += 3) await write(storage, group, [entry(2, data(`first of ${group}`)), entry(3, data(`second of ${group}`))]);
  // Compacted, and applied up to there; appended to once more, so that its record does not say where its log ends.
  storage.setApplied(6, { index: 3, term: 2, conf: null });
  storage.setStateHash(6, 4711);
  await write(storage, 6, [], 3);
  await write(storage, 6, [entry(4, data('behind the compacted'))]);
  if (commands.length > 0) await write(storage, TOPOLOGY_GROUP, commands.map((command, i) => entry(2 + i, encodeTopologyCommand(command))));
  await storage.close();
}

/** Everything of the data groups, as nodes that open the directories find it, by group. */
async function contents(dataDir: string): Promise<Map<GroupId, unknown>> {
  const shards = (await storedShards(dataDir)) ?? 0;
  const found = new Map<GroupId, unknown>();
  for (let index = 0; index < shards; index++) {
    const storage = await Storage.open(shards === 1 ? dataDir : shardDirectory(dataDir, index));
    try {
      for (const { group, replica, damaged } of storage.groups()) {
        if (group === TOPOLOGY_GROUP) continue;
        assert.equal(shardOf(group, shards), index, `group ${group} is where it belongs`);
        assert.ok(!found.has(group));
        if (damaged !== null) {
          found.set(group, { replica, damaged });
          continue;
        }
        const log = storage.log(group);
        const rows = (await storage.rows(group, 'message', `c${group}`, { limit: 100 })).map(({ key, value }) => [key, Buffer.from(value).toString()]);
        const stored = log.lastIndex() < log.firstIndex() ? [] : log.entries(log.firstIndex(), log.lastIndex() + 1, 10_000);
        const entries = stored.map(({ index, term, type, data }) => [index, term, type, Buffer.from(data).toString()]);
        found.set(group, { replica, entries, rows, hardState: log.hardState, conf: log.conf, applied: log.appliedIndex, hash: storage.stateHash(group), first: log.firstIndex(), firstTerm: log.term(log.firstIndex() - 1) });
      }
    } finally {
      await storage.close();
    }
  }
  return found;
}

/** All rows of logs and states of data groups as they are stored, whatever the layout, in one digest. */
async function stored(dataDir: string): Promise<string> {
  const shards = (await storedShards(dataDir)) ?? 0;
  const rows: string[] = [];
  for (let index = 0; index < shards; index++) {
    await withDatabase(shards === 1 ? dataDir : shardDirectory(dataDir, index), async (db) => {
      for (const space of [Space.log, Space.state] as const) {
        for (const [key, value] of await db.iterator({ gte: slotKey(space, 0, 0), lt: slotKey(space, TOPOLOGY_GROUP, 0) }).all()) rows.push(`${Buffer.from(key).toString('hex')} ${Buffer.from(value).toString('hex')}`);
      }
    });
  }
  return createHash('sha256').update(rows.sort().join('\n')).digest('hex');
}

async function done(dataDir: string, to: number, options: ReshardOptions = {}): Promise<Extract<Resharded, { outcome: 'done' }>> {
  const resharded = await reshardDirectory(dataDir, to, options);
  assert.ok(resharded.outcome === 'done');
  return resharded;
}

async function shard<T>(dataDir: string, index: number, work: (storage: Storage) => T | Promise<T>): Promise<T> {
  const storage = await Storage.open(index < 0 ? dataDir : shardDirectory(dataDir, index));
  try {
    return await work(storage);
  } finally {
    await storage.close();
  }
}

describe('resharding a directory', () => {
  let root = '';
  let made = '';
  let original: Map<GroupId, unknown>;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'reshard-'));
    made = join(root, 'made');
    await make(made, 'a');
    original = await contents(made);
  });
  after(() => rm(root, { recursive: true }));

  async function copy(name: string, from = made): Promise<string> {
    const directory = join(root, name);
    await cp(from, directory, { recursive: true });
    return directory;
  }

  it('from 1 to 2 to 3 to 1: every group has its log, its state, its place and its memory', async () => {
    const directory = await copy('round');
    assert.equal(original.size, GROUP_COUNT);
    let from = 1;
    for (const to of [2, 3, 1]) {
      const resharded = await done(directory, to);
      assert.deepEqual([resharded.from, resharded.to, resharded.groups, resharded.damaged, resharded.others], [from, to, GROUP_COUNT, [], ['b', 'c']]);
      assert.equal(new Set(resharded.clusterIds).size, to);
      assert.equal(await storedShards(directory), to);
      assert.equal((await readLayout(directory))?.node, to === 1 ? undefined : 'a');
      assert.deepEqual(await contents(directory), original, `${from} to ${to}`);
      assert.deepEqual((await readdir(directory)).sort(), to === 1 ? ['db'] : [...Array.from({ length: to }, (_, i) => `shard-${i}`), 'shards.json'], 'nothing else is left');
      for (let index = 0; index < to; index++) {
        await shard(directory, to === 1 ? -1 : index, (storage) => {
          assert.deepEqual(readHighest(storage.facts)?.map((number, group) => [group, number]).filter(([group]) => group === 9), [[9, shardOf(9, to) === index ? 40 : 0]], 'no number of a replica is forgotten');
          const table = decodeTopology(storage.get(TOPOLOGY_GROUP, 'config', 'topology', '') ?? new Uint8Array());
          assert.deepEqual(readTable(storage.facts), table);
          assert.deepEqual([table.clusterId, table.nodes.map(({ name }) => name)], [resharded.clusterIds[index], NAMES]);
          assert.equal(table.nodes.find(({ name }) => name === 'a')?.storeId, storedIdentity(storage.facts)?.storeId);
          assert.deepEqual(readFounded(storage.facts)?.archivedAs, 'former', 'the archive goes on under the name that it knows');
          for (const [group, placement] of table.groups.entries()) {
            if (group < GROUP_COUNT) assert.deepEqual(placement.replicas, shardOf(group, to) === index ? foundingTopology(RECORD).groups[group]?.replicas : [], `group ${group}`);
          }
        });
      }
      from = to;
    }
    const same = await reshardDirectory(directory, 1);
    assert.deepEqual(same, { outcome: 'same', dataDir: directory, shards: 1, wasInterrupted: false });
    assert.equal(reshardReport(same), `${directory} is not divided already: nothing to do\n`);
  });

  it('nodes come to the same clusters by themselves, and to others where their tables differ', async () => {
    const decided = (table: Topology): Topology => ({ ...table, epoch: 9, revision: 12, coordinator: 'b', groups: table.groups.map((placement) => ({ ...placement, preferred: 'b' })) });
    const [b, c, d] = [join(root, 'b'), join(root, 'c'), join(root, 'd')];
    // Who coordinates and leads changes while nodes stop, and need not have reached all of them.
    await make(b, 'b', { table: decided });
    await make(c, 'c', { commands: [{ type: 'coordinator', ifEpoch: 1, name: 'c' }] });
    await make(d, 'c', { table: (table) => ({ ...table, groups: table.groups.map((placement, group) => (group === 5 ? { ...placement, nextReplica: 8 } : placement)) }) });
    const a = await copy('a');
    const checked = await Promise.all([a, b, c, d].map((directory) => reshardDirectory(directory, 2, { checkOnly: true })));
    assert.deepEqual(await Promise.all([a, b, c, d].map((directory) => readdir(directory))), [['db'], ['db'], ['db'], ['db']]);
    assert.match(reshardReport(checked[0] ?? assert.fail()), /^cluster\n {2}shard 0 .*\n {2}shard 1 .*\n\nEach other node \('b', 'c'\) must tell the same ids with --reshard 2 --check, .*\n\n.* of node 'a' can be resharded from 1 to 2 \(1: not divided\); nothing was changed\n$/);
    const ids = await Promise.all([a, b, c, d].map(async (directory) => (await done(directory, 2)).clusterIds));
    assert.deepEqual(checked.map((check) => check.outcome === 'checked' && check.clusterIds), ids, 'what was told before is what came out');
    assert.deepEqual(ids[1], ids[0]);
    assert.deepEqual(ids[2], ids[0]);
    assert.ok(ids[3]?.every((id) => !ids[0]?.includes(id)), 'they could not go on together with different tables');
    const states = await Promise.all([a, b, c].map((directory) => shard(directory, 1, (storage) => [readFounded(storage.facts), readTable(storage.facts), Buffer.from(storage.get(TOPOLOGY_GROUP, 'config', 'topology', '') ?? []).toString()])));
    assert.deepEqual(states[1], states[0]);
    assert.deepEqual(states[2], states[0]);
  });

  it('a crash at any step leaves the old or the new layout whole, and the next run or start finishes', async () => {
    const directory = await copy('crashing');
    const rows = await stored(directory);
    const images: { step: string; path: string }[] = [];
    await done(directory, 2, {
      onStep: async (step) => {
        images.push({ step, path: await copy(`crash-${images.length}`, directory) });
      },
    });
    const steps = images.map(({ step }) => step);
    for (const step of ['the rows of shard 0 are copied', 'shard 1 is compared', 'everything is built', 'the new layout counts', 'all that was is aside', 'all that is new is in place', 'the layout is written', 'what was is deleted', 'the marker is gone']) {
      assert.ok(steps.includes(step), step);
    }
    for (const { step, path } of images) {
      const counts = steps.indexOf(step) >= steps.indexOf('the new layout counts');
      const again = await copy(`${path.slice(root.length + 1)}-again`, path);
      const resumed = await resumeRelayout(path);
      assert.equal(resumed !== null, counts && step !== 'the marker is gone', step);
      assert.equal(await storedShards(path), counts ? 2 : 1, step);
      assert.equal(await stored(path), rows, `a start after: ${step}`);
      assert.ok(!(await readdir(path)).some((name) => name.startsWith('reshard')), step);
      const second = await reshardDirectory(again, 2);
      assert.equal(second.outcome, counts ? 'same' : 'done', step);
      assert.deepEqual([await storedShards(again), (await readdir(again)).sort()], [2, ['shard-0', 'shard-1', 'shards.json']], step);
      await Promise.all([path, again].map((at) => rm(at, { recursive: true })));
    }
  });

  it('also from shards to other shards, whose directories have the same names', async () => {
    const directory = await copy('renamed');
    const rows = await stored(directory);
    await done(directory, 3);
    const images: string[] = [];
    await done(directory, 2, {
      onStep: async (step) => {
        if (/moved|aside|place/.test(step)) images.push(await copy(`renamed-${images.length}`, directory));
      },
    });
    assert.equal(images.length, 3 + 1 + 2 + 1);
    for (const image of images) {
      await resumeRelayout(image);
      assert.deepEqual([await storedShards(image), (await readdir(image)).sort()], [2, ['shard-0', 'shard-1', 'shards.json']]);
      assert.equal(await stored(image), rows);
    }
  });

  it('damage goes along as damage: known, found, and of a record', async () => {
    const directory = await copy('damaged');
    await shard(directory, -1, (storage) => storage.markDamaged(4, 'found rotten'));
    await rot(directory, logKey(3, 1, 3));
    await rot(directory, Buffer.concat([slotKey(Space.state, 8, 1), Buffer.from([3]), Buffer.from('c8\0'), Buffer.from([0, 0, 0, 0, 0, 0, 0, 1])]));
    await rot(directory, groupKey(Space.group, 10));
    const resharded = await done(directory, 3);
    assert.deepEqual(resharded.damaged.map(({ group }) => group), [3, 4, 8, 10]);
    const found = await contents(directory);
    assert.deepEqual(found.get(4), { replica: 1, damaged: 'found rotten' });
    for (const [group, reason] of [[3, /log entry 3 of group 3 is damaged/], [8, /found by --reshard: a row is damaged/], [10, /record of group 10 is damaged/]] as const) assert.match(JSON.stringify(found.get(group)), reason);
    for (const [group, content] of original) if (![3, 4, 8, 10].includes(group)) assert.deepEqual(found.get(group), content);
    assert.match(reshardReport(resharded), /^group 3 is damaged here and stays out.*\ngroup 4 .*: found rotten\n/);
    await done(directory, 1);
    assert.deepEqual((await contents(directory)).get(4), { replica: 1, damaged: 'found rotten' });
  });

  it('what is in use, too large for the disk, or fails halfway is left as it was', async () => {
    const directory = await copy('left');
    const rows = await stored(directory);
    const running = await Storage.open(directory);
    await assert.rejects(done(directory, 2), /is in use by a running node: stop it first/);
    await running.close();
    await assert.rejects(done(directory, 2, { freeBytes: () => Promise.resolve(1_000_000) }), (error: Error) => error instanceof ReshardError && /has 1000000 bytes free, and \d+ are needed: .* Nothing was changed/.test(error.message));
    await assert.rejects(done(directory, 2, { onStep: (step) => Promise.reject(new Error(`no space left (${step})`)) }), /could not be resharded: no space left \(the rows of shard 0 are copied\)/);
    const held = done(directory, 2, { onStep: async (step) => (step === 'everything is built' ? assert.rejects(reshardDirectory(directory, 3), /is being resharded by another process/) : undefined) });
    await held;
    assert.equal(await stored(directory), rows);
    await done(directory, 1);
    assert.deepEqual(await readdir(directory), ['db']);
  });

  it('what cannot be decided on one node is refused, in one line that says what to do', async () => {
    const cases: [string, Made, RegExp][] = [
      ['moving', { table: (table) => ({ ...table, groups: table.groups.map((placement, group) => (group === 7 ? { ...placement, replicas: placement.replicas.map((replica, i) => (i === 0 ? { ...replica, phase: 'leaving' } : replica)) } : placement)) }) }, /^replicas of group 7 are on the move: start all nodes/],
      ['leaving', { table: (table) => ({ ...table, nodes: table.nodes.map((node) => (node.name === 'c' ? { ...node, state: 'removed' } : node)) }) }, /^node 'c' is leaving the cluster: start all nodes/],
      ['changing', { commands: [{ type: 'coordinator', ifEpoch: 1, name: 'b' }, { type: 'join', name: 'd', storeId: 'store-d', address: 'd:1' }] }, /was being changed \(join\) when the node stopped: start all nodes/],
      ['replaced', { table: (table) => ({ ...table, nodes: table.nodes.map((node) => (node.name === 'a' ? { ...node, storeId: 'another' } : node)) }) }, /is not the directory that its cluster has for node 'a'/],
      ['newer', { table: (table) => ({ ...table, formats: { ...table.formats, wire: 99 } }) }, /the cluster uses wire format 99/],
    ];
    for (const [name, how, reason] of cases) {
      const directory = join(root, name);
      await make(directory, 'a', how);
      await assert.rejects(done(directory, 2), (error: Error) => error instanceof ReshardError && reason.test(error.message) && !error.message.includes('\n'), name);
      assert.deepEqual(await readdir(directory), ['db'], name);
    }
    const strange = await copy('strange');
    await shard(strange, -1, ({ facts }) => facts.put('of/tomorrow', data('x')));
    await assert.rejects(done(strange, 2), /holds 'of\/tomorrow', which this program does not know/);
    const back = await copy('back');
    await shard(back, -1, ({ facts }) => facts.put('identity/stepped-back', Buffer.from('{"version":1,"by":"b","reason":"it went back","code":"rolled_back"}')));
    await assert.rejects(done(back, 2), /is not used again \(it went back\): start the node as it was/);
    await rot(back, Buffer.concat([slotKey(Space.state, TOPOLOGY_GROUP, 1), Buffer.from([1]), Buffer.from('topology\0')]));
    await shard(back, -1, ({ facts }) => facts.put('identity/stepped-back', Buffer.from('{"version":1,"by":"b","reason":"-","code":"store_changed"}')));
    await assert.rejects(done(back, 2), /copy of the cluster's table is damaged/);
    const fresh = join(root, 'fresh');
    await assert.rejects(done(fresh, 2), /there is no directory/);
    await shard(fresh, -1, ({ facts }) => openIdentity(facts, 'x'));
    await assert.rejects(done(fresh, 2), /belongs to no cluster yet/);
    await assert.rejects(done(root, 2), /is not the data directory of a node/);
  });

  it('while it is interrupted nothing else touches it, and --check tells', async () => {
    const directory = await copy('interrupted');
    let image = '';
    await done(directory, 2, { onStep: async (step) => void (step === 'all that was is aside' && (image = await copy('interrupted-image', directory))) });
    await assert.rejects(restoreDirectory(image), /was being resharded from 1 to 2 when that was interrupted: run --reshard 2 first/);
    const { problems, notes } = await checkStart({ FASTPACA_RAFT_DATA_DIR: image, FASTPACA_SHARDS: '1' });
    assert.match(notes.join('\n'), /was being resharded from 1 to 2 .* the next start, or --reshard 2, finishes it/);
    assert.match(problems.join('\n'), /FASTPACA_SHARDS is 1, but the data directory .* is about to be one of 2/);
    await assert.rejects(reshardDirectory(image, 2, { checkOnly: true }), /was interrupted: run --reshard 2, which finishes it/);
    const finished = await reshardDirectory(image, 2);
    assert.deepEqual(finished, { outcome: 'same', dataDir: image, shards: 2, wasInterrupted: true });
    assert.match(reshardReport(finished), /^What was interrupted before is finished now\.\n.* is divided into 2 shards already: nothing to do\n$/);
  });

  it('a copy that is older than what peers remember does not come back by being resharded', async () => {
    const peer = await copy('peer');
    const seen = { storeId: 'store-b', name: 'b', generation: 5, nonce: 'five', beats: 3, seen: [{ storeId: 'store-c', generation: 2, nonce: 'two', beats: 8 }] };
    await shard(peer, -1, ({ facts }) => facts.put('peers', Buffer.from(JSON.stringify({ version: 1, peers: [seen] }))));
    await done(peer, 2);
    await shard(peer, 1, async ({ facts }) => {
      const record = readFounded(facts);
      const clusterId = record?.clusterId ?? '';
      const store = (name: string): string => record?.members.find((member) => member.name === name)?.storeId ?? '';
      const ledger = PeerLedger.open({ facts, storeId: store('a'), clusterId: () => clusterId, knownStore: store, isRetired: () => false });
      const hello = (name: string, generation: number, nonces: string[], beats = 9): LinkHello => ({
        name, storeId: store(name), clusterId, generation: 1, nonce: 'n', address: 'x:1', wireFormat: 1, clockMs: 0, lineage: [{ nonce: 'n', beats: 0 }], seen: [],
        former: [{ storeId: `store-${name}`, generation, lineage: nonces.map((nonce) => ({ nonce, beats })) }],
      });
      assert.equal((await ledger.admit(hello('b', 4, ['four'])))?.code, 'rolled_back', 'opened less often');
      assert.equal((await ledger.admit(hello('b', 6, ['other', 'six'])))?.code, 'rolled_back', 'another life');
      assert.equal((await ledger.admit(hello('b', 5, ['five'], 2)))?.code, 'rolled_back', 'fewer beats of an open that has ended');
      assert.equal(await ledger.admit(hello('b', 5, ['five'])), null);
      assert.equal((await ledger.admit(hello('c', 1, ['one'])))?.code, 'rolled_back', 'what b told of c is remembered too');
      assert.equal(await ledger.admit(hello('c', 2, ['two'])), null);
    });
    await shard(peer, 0, async ({ facts }) => {
      const identity = await openIdentity(facts, 'a');
      assert.deepEqual([identity.generation, identity.former.map(({ storeId, lineage }) => [storeId, lineage.length, lineage.at(-1)?.beats])], [2, [['store-a', 1, 7]]]);
      const standing = Standing.open({ facts, identity, promises: () => 0 });
      const nonce = identity.former[0]?.lineage[0]?.nonce ?? '';
      assert.equal(standing.judge([{ storeId: 'store-a', generation: 1, nonce, beats: 7 }], 'b'), null);
      assert.match(standing.judge([{ storeId: 'store-a', generation: 1, nonce, beats: 8 }], 'b')?.reason ?? '', /was seen by node 'b' before it was resharded at beat 8, but its data directory remembers only 7/);
    });
  });

  it('speaks of what it does, none too often, and takes a number of shards alone', async () => {
    const lines: string[] = [];
    let now = 0;
    const directory = await copy('spoken');
    const resharded = await done(directory, 2, { onProgress: progressLines((line) => lines.push(line), () => (now += 50)) });
    assert.ok(lines.length > 2 && lines.length < 20);
    for (const line of lines) assert.match(line, /^(copied|compared): \d+ of 256 groups, \d+ rows, \d+ bytes\n$/);
    assert.match(reshardReport(resharded), /\n {2}1\. Run --reshard 2 on 'b', 'c' too, before any node is started\. Each must tell the same ids as above\.\n.*\n\nresharded \S+ of node 'a' from 1 to 2 \(1: not divided\): 256 groups, \d+ rows, \d+ bytes\n$/);
    assert.deepEqual(readArguments(['--reshard', '64']), { do: 'reshard', shards: 64, checkOnly: false });
    assert.deepEqual(readArguments(['--reshard', '2', '--check']), { do: 'reshard', shards: 2, checkOnly: true });
    for (const argv of [['--reshard', '0'], ['--reshard', '65'], ['--reshard', 'two'], ['--reshard'], ['--reshard', '2', '--restore', 'x']]) assert.equal(readArguments(argv).do, 'refuse', argv.join(' '));
  });
});
