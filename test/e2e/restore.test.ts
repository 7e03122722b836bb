/**
 * After a catastrophe: `--restore` makes a new cluster of one data directory, be it a copy made after a clean stop or
 * what a killed node left. Everything on it is readable and writable, empty nodes join, and the former cluster's nodes
 * are refused.
 */
import assert from 'node:assert/strict';
import { cp, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses, until } from './processes.ts';
import type { NodeProcess } from './processes.ts';
import { execute } from './programs.ts';
import type { Ended } from './programs.ts';

const CONTEXTS = Array.from({ length: 24 }, (_, i) => `restore-${i}`);
const SECRET = 'secret-of-the-restore-test';

describe('a cluster restored from one directory', () => {
  let cluster: ClusterProcesses;
  /** Of node 3, stopped cleanly, before the last round of appends. */
  let stopped = '';

  const restore = (directory: string): Promise<Ended> => execute('src/main.ts', ['--restore', directory], { cwd: cluster.dir, env: {} });

  async function append(node: NodeProcess, text: string): Promise<void> {
    for (const id of CONTEXTS) {
      const message = { message: { role: 'user', parts: [{ type: 'text', text: `${text} ${id}` }] } };
      await until(`${id} to take ${text}`, async () => (await call(`${node.url}/v1/contexts/${id}/messages`, 'POST', message)).status === 201);
    }
  }

  async function texts(node: NodeProcess, id: string, consistency = ''): Promise<string[]> {
    const { status, json } = await call(`${node.url}/v1/contexts/${id}/messages${consistency}`);
    if (status !== 200 || !Array.isArray(json['messages'])) return [];
    return json['messages'].map((message: { parts: { text: string }[] }) => message.parts[0]?.text ?? '');
  }

  async function assertHas(node: NodeProcess, rounds: readonly string[]): Promise<void> {
    for (const id of CONTEXTS) assert.deepEqual(await texts(node, id), rounds.map((round) => `${round} ${id}`), id);
  }

  before(async () => {
    cluster = await ClusterProcesses.start(3, { FASTPACA_CLUSTER_SECRET: SECRET });
    const [first, , third] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    for (const id of CONTEXTS) assert.equal((await call(`${first.url}/v1/contexts/${id}`, 'PUT', {})).status, 201);
    await append(first, 'one');
    for (const id of CONTEXTS) await until('node 3 to have it all', async () => (await texts(third, id, '?consistency=stale')).length === 1);
    assert.equal((await third.kill('SIGTERM')).code, 0);
    stopped = join(cluster.dir, 'stopped');
    await cp(third.dir, stopped, { recursive: true });
    await append(first, 'two');
  });
  after(() => cluster.stop());

  test('what cannot be restored is refused in one line, and not touched', async () => {
    const empty = join(cluster.dir, 'empty');
    await mkdir(empty);
    for (const [directory, reason] of [
      [cluster.node(0).dir, /is in use by a running node/],
      [join(cluster.dir, 'nowhere'), /there is no directory/],
      [empty, /is not the data directory of a node/],
    ] as const) {
      const { code, out, err } = await restore(directory);
      assert.deepEqual([code, out], [1, ''], directory);
      assert.match(err, reason);
      assert.match(err, /^fastpaca: [^\n]+\n$/);
    }
  });

  test('from what a killed node left: nothing that it had is missing, and it grows again from empty nodes', async () => {
    const [former, survivor, third] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    await Promise.all([former.kill('SIGKILL'), survivor.kill('SIGKILL')]);
    const { code, out, err } = await restore(survivor.dir);
    assert.deepEqual([code, err], [0, '']);
    assert.match(out, /groups +256 restored, 0 begun empty\ncontexts +24, which were given \d+ messages\n/);
    assert.match(out, /What may be missing: .*\n.*\n\nGROUP .*\n( +\d+ +\d+ +\d+ +\d+ .*\n){256}/);
    const again = await restore(survivor.dir);
    assert.deepEqual([again.code, again.out], [1, '']);
    assert.match(again.err, /was restored already/);

    survivor.start({ FASTPACA_CLUSTER_SEED: `127.0.0.1:${survivor.port}` });
    await survivor.ready();
    await assertHas(survivor, ['one', 'two']);
    await append(survivor, 'three');

    // A node of the former cluster, which remembers the survivor as its member, and calls it.
    former.start();
    await until('the former member to be refused', async () => /fastpaca_peer_refused_total\{reason="other_cluster"\} [1-9]/.test((await call(`${survivor.url}/metrics`)).text));
    assert.equal((await former.readiness()).status, 503);
    await former.kill('SIGKILL');

    for (const node of [former, third]) {
      await rm(node.dir, { recursive: true });
      node.start();
    }
    await until('the empty nodes to hold replicas', async () => {
      const { json } = await call(`${survivor.url}/v1/cluster`);
      const groups = json['groups'];
      return Array.isArray(groups) && groups.filter((group: { replicas: string[] }) => group.replicas.length === 3).length > 20;
    });
    for (const node of [former, third]) await assertHas(node, ['one', 'two', 'three']);
    await append(third, 'four');
    await assertHas(former, ['one', 'two', 'three', 'four']);
  });

  test('from a copy made after a clean stop: all up to that moment', async () => {
    const [first, second, third] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    await Promise.all([first, second, third].map((node) => node.kill('SIGKILL')));
    const { code, out } = await restore(stopped);
    assert.equal(code, 0);
    assert.match(out, /node 'node-3' is the one member/);
    third.start({ FASTPACA_CLUSTER_SEED: `127.0.0.1:${third.port}`, FASTPACA_RAFT_DATA_DIR: stopped });
    await third.ready();
    await assertHas(third, ['one']);
    await append(third, 'anew');
    await third.kill('SIGTERM');
    third.start({ FASTPACA_CLUSTER_SEED: `127.0.0.1:${third.port}`, FASTPACA_RAFT_DATA_DIR: stopped });
    await third.ready();
    await assertHas(third, ['one', 'anew']);
  });
});
