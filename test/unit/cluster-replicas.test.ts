/** The replicas of a node follow the table, over a real store and a real host. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { HOST_DEFAULTS, RaftHost } from '../../raft/host.ts';
import { Replicas } from '../../src/cluster/replicas.ts';
import { foundingTopology, type Topology } from '../../src/cluster/topology.ts';
import { createLogger } from '../../src/log.ts';
import { Machine, TOPOLOGY_ROW } from '../../src/machine.ts';
import { Storage } from '../../src/storage/store.ts';

let directory = '';
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'fastpaca-replicas-'));
});
after(() => rm(directory, { recursive: true, force: true }));

const MEMBERS = ['a', 'b', 'c'].map((name) => ({ name, storeId: `store-${name}`, address: `${name}:1` }));
const TABLE = foundingTopology({ clusterId: 'c0ffee', members: MEMBERS, mintedKey: 'beef' });

/** TABLE with new numbers for all replicas of node c, as after its disk was replaced. */
function renewed(revision: number): Topology {
  const groups = TABLE.groups.map((placement) => {
    const replicas = placement.replicas.map((replica) => (replica.node === 'c' ? { ...replica, id: placement.nextReplica, phase: 'changing' as const } : replica));
    return { ...placement, replicas, nextReplica: placement.nextReplica + 1 };
  });
  return { ...TABLE, revision, groups };
}

async function running(name: string): Promise<{ storage: Storage; replicas: Replicas; fatals: Error[]; close: () => Promise<void> }> {
  const storage = await Storage.open(join(directory, name));
  const fatals: Error[] = [];
  const fatal = (error: Error): void => void fatals.push(error);
  const machine = new Machine(storage, { onEvent: () => undefined, onRestored: () => undefined, onTopology: () => undefined, onDamage: () => undefined });
  const host = new RaftHost(
    { ...HOST_DEFAULTS, node: 'c', random: Math.random },
    {
      storage,
      transport: { send: () => false, bufferedBytes: () => 0 },
      machine,
      snapshots: { fetch: (_group, _from, _index, done) => done(new Error('no snapshots here'), null) },
      directory: { node: () => undefined },
      schedule: setImmediate,
      fatal,
      onLeader: () => undefined,
    },
  );
  const replicas = new Replicas({ self: 'c', storage, host, tableRow: TOPOLOGY_ROW, onRemoved: () => undefined, logger: createLogger({ level: 'silent', node: 'c' }), fatal });
  const close = async (): Promise<void> => {
    await replicas.close();
    host.stop();
    await storage.close();
  };
  return { storage, replicas, fatals, close };
}

test('replicas that are being made are not taken for lost ones, at no moment', async () => {
  const { storage, replicas, fatals, close } = await running('making');
  const opened = replicas.open(TABLE);
  const reported = new Set<string>();
  let looks = 0;
  let isOpen = false;
  void opened.then(() => (isOpen = true));
  while (!isOpen) {
    for (const { group, reason } of replicas.damaged()) reported.add(`${group}: ${reason}`);
    looks++;
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.deepEqual([...reported], []);
  assert.ok(looks > 1, `looked ${looks} times`);
  assert.equal(storage.groups().length, 257);
  assert.deepEqual([replicas.damaged(), fatals], [[], []]);
  await close();
});

test('a replica that was alive here and is gone counts as damaged, and is made again under another number only', async () => {
  const first = await running('gone');
  await first.replicas.open(TABLE);
  await first.storage.deleteGroup(7);
  assert.deepEqual(first.replicas.damaged(), [{ group: 7, replica: 3, reason: 'its rows are gone' }]);
  first.replicas.follow({ ...TABLE, revision: 2 });
  await first.close();
  const again = await running('gone');
  await again.replicas.open({ ...TABLE, revision: 3 });
  assert.deepEqual([again.storage.groups().some(({ group }) => group === 7), again.replicas.damaged().length], [false, 1]);
  await again.replicas.close();
  await again.close();
  const later = await running('gone');
  await later.replicas.open(renewed(4));
  assert.deepEqual(later.storage.groups().map(({ replica }) => replica), new Array(257).fill(4));
  assert.deepEqual([later.replicas.damaged(), later.fatals], [[], []]);
  await later.close();
});
