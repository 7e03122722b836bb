/**
 * A replica whose state is another than that of the others, in a row that passes its checksum: nothing but comparing
 * them finds it. It takes itself out and is made anew while the group goes on.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ClassicLevel } from 'classic-level';
import { groupOf } from '../../src/cluster/placement.ts';
import { decodeHeader, encodeHeader } from '../../src/contexts/rows.ts';
import { unsealed } from '../../src/storage/checksum.ts';
import { RowEncoder } from '../../src/storage/group.ts';
import { groupKey, groupSeed, Space, stateKey } from '../../src/storage/keys.ts';
import { readRecord } from '../../src/storage/records.ts';
import { call, ClusterProcesses, until } from './processes.ts';
import type { NodeProcess } from './processes.ts';

const ID = 'compared';
const GROUP = groupOf(ID);

/** Another creation time in the context's header, as a bug could have written it. */
async function tamper(directory: string): Promise<void> {
  const db = new ClassicLevel<Uint8Array, Uint8Array>(join(directory, 'db'), { keyEncoding: 'view', valueEncoding: 'view' });
  await db.open();
  const key = groupKey(Space.group, GROUP);
  const { slot } = readRecord(GROUP, key, (await db.get(key)) ?? new Uint8Array());
  const name = { table: 'header', context: ID, key: '' } as const;
  const header = decodeHeader(unsealed((await db.get(stateKey(GROUP, slot, name))) ?? new Uint8Array()));
  assert.ok(header !== null);
  const batch = db.batch();
  new RowEncoder().row(batch, GROUP, groupSeed(GROUP), slot, { ...name, value: encodeHeader({ ...header, createdAt: header.createdAt - 1 }) });
  await batch.write();
  await db.close();
}

describe('a replica with another state than the others', () => {
  let cluster: ClusterProcesses;
  before(async () => {
    cluster = await ClusterProcesses.start(3);
    assert.equal((await call(`${cluster.node(0).url}/v1/contexts/${ID}`, 'PUT', {})).status, 201);
  });
  after(() => cluster.stop());

  async function append(node: NodeProcess, text: string): Promise<void> {
    const message = { message: { role: 'user', parts: [{ type: 'text', text }] } };
    await until(`the append of ${text}`, async () => (await call(`${node.url}/v1/contexts/${ID}/messages`, 'POST', message)).status === 201);
  }

  const createdAt = async (node: NodeProcess): Promise<unknown> => (await call(`${node.url}/v1/contexts/${ID}?consistency=stale`)).json['created_at'];

  test('is found by comparing, takes itself out, and is made anew', async () => {
    const [sound, , victim] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    await append(sound, 'before');
    const before = await createdAt(sound);
    assert.equal((await victim.kill('SIGTERM')).code, 0);
    await tamper(victim.dir);
    victim.start();
    await victim.ready();
    assert.notEqual(await createdAt(victim), before, 'the row passes its checksum and is served');
    await append(sound, 'after');

    await until('the replica to take itself out', async () => /"type":"damage","group":\d+,"reason":"its state differs from that of the majority/.test(await victim.log()));
    await until('a new replica in its place', async () => /"type":"replicas_made"/.test(await victim.log()) && (await createdAt(victim)) === before);
    await append(victim, 'last');
    const counted = await Promise.all(cluster.nodes.map(async (node) => Number(/^fastpaca_state_mismatches_total (\d+)$/m.exec((await call(`${node.url}/metrics`)).text)?.[1])));
    assert.ok(counted.reduce((sum, count) => sum + count, 0) >= 1, `mismatches counted: ${counted.join(', ')}`);
    const logs = await Promise.all(cluster.nodes.map((node) => node.log()));
    for (const group of logs.flatMap((log) => [...log.matchAll(/"type":"state_mismatch","group":(\d+)/g)].map(([, group]) => Number(group)))) assert.equal(group, GROUP, 'nobody else was found different');
  });
});
