/** Disks that fill up and are freed again, on small real filesystems: the two marks, the ballast, and no space in a write. */
import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses, type NodeProcess, until } from './processes.ts';
import { groupOf } from '../../src/cluster/placement.ts';
import { History } from './history.ts';
import { createContexts, textsOf } from './retrying.ts';
import { SmallDisk } from './small-disk.ts';

const MiB = 1024 * 1024;
const DISK_MIB = 120;
const MARKS = {
  FASTPACA_DISK_SOFT_FREE_BYTES: String(60 * MiB),
  FASTPACA_DISK_HARD_FREE_BYTES: String(30 * MiB),
  FASTPACA_BALLAST_BYTES: String(16 * MiB),
};
const BETWEEN_THE_MARKS = 45 * MiB;
const BELOW_BOTH = 20 * MiB;

const message = (text: string) => ({ message: { role: 'user', parts: [{ type: 'text', text }] } });

/** The contexts whose group `node` leads. */
async function ledBy(node: NodeProcess, contexts: readonly string[]): Promise<string[]> {
  const leaders = new Map<number, string | null>();
  for (const { id, leader } of (await call(`${node.url}/v1/cluster`)).json['groups'] as { id: number; leader: string | null }[]) leaders.set(id, leader);
  return contexts.filter((id) => leaders.get(groupOf(id)) === node.name);
}

const isReadOnly = async (url: string, id: string): Promise<boolean> => {
  const answer = await call(`${url}/v1/contexts/${id}/messages`, 'POST', message('while the disk is low'));
  if (answer.status === 201) return false;
  assert.equal(answer.status, 503, answer.text);
  assert.equal(answer.json['error'], 'read_only');
  assert.equal(answer.json['outcome'], 'not_applied');
  assert.match(answer.headers.get('retry-after') ?? '', /^\d+$/);
  return true;
};

describe('three nodes, two of them on small disks', () => {
  let cluster: ClusterProcesses;
  let contexts: string[];
  const disks: SmallDisk[] = [];
  const disk = (i: number): SmallDisk => disks[i - 1] ?? assert.fail('no disk');

  before(async () => {
    cluster = await ClusterProcesses.create(3, { ...MARKS, FASTPACA_REQUEST_TIMEOUT_MS: '2000' });
    for (const node of cluster.nodes.slice(1)) {
      const mounted = await SmallDisk.mount(node.dir, DISK_MIB);
      if (mounted === null) return;
      disks.push(mounted);
    }
    for (const node of cluster.nodes) node.start();
    await cluster.ready();
    contexts = await createContexts(cluster.node(0).url, 'space', 60);
    for (const id of contexts) assert.equal((await call(`${cluster.node(0).url}/v1/contexts/${id}/messages`, 'POST', message('first'))).status, 201);
  });
  after(async () => {
    await Promise.all(cluster.nodes.filter((node) => node.running).map((node) => node.kill('SIGKILL')));
    for (const mounted of disks) await mounted.unmount();
    await cluster.stop();
  });

  test('below the soft mark a leader refuses what grows the data, and nothing else; with space it goes on by itself', async (t) => {
    if (disks.length < 2) return t.skip('needs root, to mount a small disk');
    const [a, b] = [cluster.node(0), cluster.node(1)];
    const [mine = '', doomed = ''] = await ledBy(b, contexts);
    const [other = ''] = await ledBy(a, contexts);
    await disk(1).fill(BETWEEN_THE_MARKS);
    await until('the leader to refuse', () => isReadOnly(b.url, mine));
    assert.ok(await isReadOnly(a.url, mine), 'whoever is asked, the leader decides');
    assert.ok(!(await isReadOnly(a.url, other)), 'one low disk of three keeps no other group from writing');
    assert.equal((await call(`${a.url}/v1/contexts/${doomed}`, 'DELETE')).status, 204);
    assert.equal((await textsOf(b.url, mine))[0], 'first');
    await disk(1).free();
    await until('the leader to take appends again', async () => !(await isReadOnly(a.url, mine)));
  });

  test('while a quorum of disks is low every leader refuses, and elections go on', async (t) => {
    if (disks.length < 2) return t.skip('needs root, to mount a small disk');
    const [a, b, c] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    const [mine = ''] = await ledBy(a, contexts);
    await disk(1).fill(BETWEEN_THE_MARKS);
    await disk(2).fill(BETWEEN_THE_MARKS);
    await until('the leader with room to refuse', () => isReadOnly(a.url, mine));
    await a.kill('SIGKILL');
    await until('another to lead, and to refuse as well', async () => (await ledBy(b, [mine])).length + (await ledBy(c, [mine])).length > 0 && (await isReadOnly(b.url, mine)));
    a.start();
    await a.ready();
    await disk(1).free();
    await disk(2).free();
    await until('appends to be taken', async () => !(await isReadOnly(a.url, mine)));
    await until('its groups to come back to it', async () => (await ledBy(a, [mine])).length === 1);
  });

  test('below the hard mark a node gives up its ballast and its leaderships, writes nothing, answers stale reads, and returns with space', async (t) => {
    if (disks.length < 2) return t.skip('needs root, to mount a small disk');
    const [a, b] = [cluster.node(0), cluster.node(1)];
    const history = new History(await createContexts(a.url, 'hard', 30));
    t.after(() => history.stop());
    for (const node of cluster.nodes) history.load(node.url, 2);
    await until('appends to flow', () => history.acknowledged(b.url) > 50);
    const ballast = join(b.dir, 'ballast');
    assert.equal((await stat(ballast)).size, 16 * MiB);
    await disk(1).fill(BELOW_BOTH);
    await until('readiness to say so', async () => (await b.readiness()).text.includes('read_only'));
    await until('the ballast to be given up', () => stat(ballast).then(() => false, () => true));
    await until('others to lead', async () => (await ledBy(a, contexts)).length + (await ledBy(cluster.node(2), contexts)).length === contexts.length);
    const [mine = ''] = contexts;
    const stale = await call(`${b.url}/v1/contexts/${mine}?consistency=stale`);
    assert.equal(stale.status, 200, stale.text);
    const before = history.acknowledged(a.url);
    await until('appends to flow through the others', () => history.acknowledged(a.url) > before + 50);
    assert.match(await b.log(), /"type":"disk_full"/);
    await disk(1).free();
    await until('the node to be back', async () => (await b.readiness()).status === 200);
    assert.equal((await stat(ballast)).size, 16 * MiB, 'the ballast is laid down anew');
    const then = history.acknowledged(b.url);
    await until('appends to flow through it', () => history.acknowledged(b.url) > then + 50);
    await history.stop();
    for (const { url } of cluster.nodes) await history.check(url);
  });
});

describe('a disk that is full in the very write', () => {
  test('ends the process with a clear line, and what was acknowledged is there when it is back', async (t) => {
    const cluster = await ClusterProcesses.create(1, { FASTPACA_DISK_SOFT_FREE_BYTES: '0', FASTPACA_DISK_HARD_FREE_BYTES: '0', FASTPACA_BALLAST_BYTES: '0' });
    const node = cluster.node(0);
    const disk = await SmallDisk.mount(node.dir, 64);
    try {
      if (disk === null) return t.skip('needs root, to mount a small disk');
      node.start();
      await node.ready();
      const [id = ''] = await createContexts(node.url, 'full', 1);
      await disk.fill(2 * MiB);
      const acked: string[] = [];
      const padding = 'x'.repeat(50_000);
      for (let n = 0; node.running; n++) {
        const answer = await call(`${node.url}/v1/contexts/${id}/messages`, 'POST', message(`${n} ${padding}`)).catch(() => null);
        if (answer?.status === 201) acked.push(`${n} ${padding}`);
        if (answer === null) break;
      }
      assert.deepEqual(await node.exited(), { code: 1, signal: null });
      assert.match(await node.logTail(), /writing to disk failed, nothing more will be written: .*No space left on device/);
      node.start();
      const { code } = await node.exited();
      assert.ok(code === 1 || code === 2, 'without space it does not start');
      assert.match(await node.logTail(), /No space left on device/);
      await disk.free();
      node.start();
      await node.ready();
      const there = await textsOf(node.url, id);
      assert.deepEqual(there.slice(0, acked.length), acked);
      assert.ok(there.length <= acked.length + 1, 'only the message that was being written may be there besides');
      assert.ok(acked.length > 3);
      assert.equal((await call(`${node.url}/v1/contexts/${id}/messages`, 'POST', message('on it goes'))).status, 201);
    } finally {
      if (node.running) await node.kill('SIGKILL');
      await disk?.unmount();
      await cluster.stop();
    }
  });
});
