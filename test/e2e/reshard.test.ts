/**
 * `--reshard`: a cluster that has data is stopped, divided anew node by node, and started again: everything that was
 * there is there byte for byte, appends, versions and streams go on, and no node gets round what its peers remember of it.
 */
import assert from 'node:assert/strict';
import { cp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { groupOf } from '../../src/cluster/placement.ts';
import { shardOf } from '../../src/cluster/seat.ts';
import { freePort } from './ports.ts';
import { call, ClusterProcesses, until } from './processes.ts';
import type { NodeProcess } from './processes.ts';
import { execute } from './programs.ts';
import type { Ended } from './programs.ts';
import { StreamClient, streamUrl } from './stream-client.ts';

const IDS = Array.from({ length: 24 }, (_, i) => `chat-${String(i).padStart(2, '0')}`);
const anywhere = { connection: 'close' };

describe('a cluster of three nodes that is resharded', () => {
  let cluster: ClusterProcesses;
  /** By context: what GET has answered for its messages when it was last written. */
  const said = new Map<string, string>();

  const reshard = (node: NodeProcess, shards: number): Promise<Ended> => execute('src/main.ts', ['--reshard', String(shards)], { cwd: cluster.dir, env: { FASTPACA_RAFT_DATA_DIR: node.dir } });
  const messages = async (node: NodeProcess, id: string): Promise<string> => (await call(`${node.url}/v1/contexts/${id}/messages?limit=100`, 'GET', undefined, anywhere)).text;

  async function append(node: NodeProcess, id: string, text: string, more: object = {}): Promise<number> {
    let seq = 0;
    const body = { message: { role: 'user', parts: [{ type: 'text', text }] }, ...more };
    await until(`${id} to take '${text}'`, async () => {
      const { status, json } = await call(`${node.url}/v1/contexts/${id}/messages`, 'POST', body, { ...anywhere, 'idempotency-key': text.replaceAll(' ', '-') });
      seq = Number(json['seq']);
      return status === 201;
    });
    return seq;
  }

  async function round(name: string, seq: number): Promise<void> {
    await Promise.all(IDS.map(async (id, i) => assert.equal(await append(cluster.node(i % 3), id, `${name} ${id}`, { if_version: seq - 1 }), seq)));
    for (const id of IDS) said.set(id, await messages(cluster.node(0), id));
  }

  async function assertAllThere(): Promise<void> {
    for (const node of cluster.nodes) for (const id of IDS) assert.equal(await messages(node, id), said.get(id), `${id} on ${node.name}`);
  }

  async function reshardAll(shards: number): Promise<void> {
    const ids = new Set<string>();
    const checked = await execute('src/main.ts', ['--reshard', String(shards), '--check'], { cwd: cluster.dir, env: { FASTPACA_RAFT_DATA_DIR: cluster.node(0).dir } });
    assert.deepEqual([checked.code, checked.err], [0, '']);
    ids.add(clusterIds(checked.out));
    await Promise.all(cluster.nodes.map(async (node) => {
      const { code, out, err } = await reshard(node, shards);
      assert.deepEqual([code, err], [0, ''], out);
      assert.match(out.trimEnd().split('\n').at(-1) ?? '', new RegExp(`^resharded ${node.dir} of node '${node.name}' from \\d to ${shards} .*: 256 groups, \\d+ rows, \\d+ bytes$`));
      ids.add(clusterIds(out));
    }));
    assert.equal(ids.size, 1, 'every node came to the same clusters by itself');
  }

  before(async () => {
    cluster = await ClusterProcesses.create(3, { FASTPACA_REQUEST_TIMEOUT_MS: '2000' }, () => freePort(3));
    for (const node of cluster.nodes) node.start();
    await cluster.ready();
    for (const id of IDS) assert.equal((await call(`${cluster.node(0).url}/v1/contexts/${id}`, 'PUT', {})).status, 201);
    await round('one', 1);
    await round('two', 2);
  });
  after(() => cluster.stop());

  test('a running node is left alone', async () => {
    const { code, out, err } = await reshard(cluster.node(0), 2);
    assert.deepEqual([code, out], [1, '']);
    assert.match(err, /^fastpaca: [^\n]* is in use by a running node: stop it first\n$/);
    assert.ok(!(await readdir(cluster.node(0).dir)).includes('reshard'), 'nothing is left of the attempt');
  });

  test('divided into two shards it has everything, and goes on', async () => {
    assert.deepEqual(new Set(IDS.map((id) => shardOf(groupOf(id), 2))), new Set([0, 1]));
    const [first, second, third] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    await third.kill('SIGKILL');
    assert.deepEqual((await Promise.all([first.kill('SIGTERM'), second.kill('SIGTERM')])).map(({ code }) => code), [0, 0]);
    await reshardAll(2);
    await cp(third.dir, join(cluster.dir, 'before'), { recursive: true });
    const again = await reshard(cluster.node(0), 2);
    assert.deepEqual([again.code, again.out], [0, `${cluster.node(0).dir} is divided into 2 shards already: nothing to do\n`]);
    for (const node of cluster.nodes) node.start({ FASTPACA_SHARDS: '2' });
    await cluster.ready();
    await assertAllThere();
    const live = await Promise.all(IDS.slice(0, 4).map(async (id) => ({ id, stream: await StreamClient.open(streamUrl(cluster.node(1).url, id, '?cursor=1')) })));
    await round('three', 3);
    for (const { id, stream } of live) {
      await until(`the messages of ${id} behind its cursor`, () => stream.of('message').length === 2);
      assert.deepEqual(stream.of('message').map(({ message }) => message?.parts[0]?.text), [`two ${id}`, `three ${id}`]);
      stream.ws.close();
    }
    // What was acknowledged before the resharding is known to have been: the same key answers the same.
    for (const id of IDS.slice(0, 4)) assert.equal(await append(cluster.node(2), id, `two ${id}`, { if_version: 1 }), 2);
  });

  test('made whole again it has everything; a copy from before, resharded too late, is found out and made anew', async () => {
    const [first, second, third] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    await Promise.all([first, second, third].map((node) => node.kill('SIGKILL')));
    await reshardAll(1);
    await rm(third.dir, { recursive: true });
    await cp(join(cluster.dir, 'before'), third.dir, { recursive: true });
    assert.equal((await reshard(third, 1)).code, 0, 'by what it says of the cluster it is a member');
    for (const node of cluster.nodes) node.start();
    await until('the copy to be found out', async () => /"type":"set_aside"/.test(await third.log()));
    await cluster.ready();
    await assertAllThere();
    await round('four', 4);
    await assertAllThere();
  });
});

/** The ids that a report tells; lines about progress may stand before them. */
function clusterIds(report: string): string {
  const told = /^cluster\b[^]*?\n\n/m.exec(report)?.[0];
  assert.ok(told !== undefined, report);
  return told;
}
