/**
 * A node that stands still: stopped by SIGSTOP, or with a disk whose syncs hang or fail. It led groups; others take
 * them. When it goes on it must not serve what it knew, nor acknowledge what did not commit.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses, type NodeProcess, until } from './processes.ts';
import { buildFaultyDisk, type FaultyDisk } from './faulty-disk.ts';
import { History } from './history.ts';
import { createContexts } from './retrying.ts';

/** True once `node` leads nothing, as seen through `url`, and every group has a leader. */
async function isReplaced(url: string, node: NodeProcess): Promise<boolean> {
  const groups = (await call(`${url}/v1/cluster`)).json['groups'] as { leader: string | null }[];
  return groups.every(({ leader }) => leader !== null && leader !== node.name);
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('a node that stands still', () => {
  let cluster: ClusterProcesses;
  before(async () => {
    cluster = await ClusterProcesses.start(3);
  });
  after(() => cluster.stop());

  test('by SIGSTOP serves no stale read and acknowledges nothing that did not commit, and others lead', async (t) => {
    const contexts = await createContexts(cluster.node(0).url, 'stall', 30);
    const history = new History(contexts);
    t.after(() => history.stop());
    for (const node of cluster.nodes) history.load(node.url, 3);
    for (const [i, ms] of [500, 1000, 3000].entries()) {
      const victim = cluster.node(i);
      const other = cluster.node((i + 1) % 3);
      await until('every node to lead something', async () => !(await isReplaced(other.url, victim)));
      const before = history.acknowledged(victim.url);
      process.kill(victim.pid, 'SIGSTOP');
      try {
        const resumes = pause(ms);
        // Written elsewhere while the stopped node still takes itself for the leader; its answers come when it goes on.
        const waiting = contexts.map((id) => history.read(victim.url, id));
        if (ms > 2000) await until('others to lead in its stead', () => isReplaced(other.url, victim));
        for (const id of contexts) await history.append(other.url, id);
        waiting.push(...contexts.map((id) => history.read(victim.url, id)), ...contexts.map((id) => history.append(victim.url, id)));
        await resumes;
        process.kill(victim.pid, 'SIGCONT');
        await Promise.all(waiting);
      } finally {
        process.kill(victim.pid, 'SIGCONT');
      }
      await until('the node to serve again', () => history.acknowledged(victim.url) > before + 20);
    }
    await history.stop();
    await cluster.ready();
    assert.ok(history.reads > 200 && history.acknowledged() > 200, `${history.reads} reads and ${history.acknowledged()} appends are too few to prove anything`);
    await history.check(cluster.node(0).url);
  });
});

describe('a disk under a node', () => {
  let cluster: ClusterProcesses;
  let disk: FaultyDisk | null;

  before(async () => {
    cluster = await ClusterProcesses.create(3);
    disk = await buildFaultyDisk(cluster.dir);
    if (disk === null) return;
    for (const node of cluster.nodes) node.start(disk.env(node));
    await cluster.ready();
  });
  after(() => cluster.stop());

  test('whose syncs hang for seconds costs its groups neither a write nor a true read', async (t) => {
    if (disk === null) return t.skip('needs Linux and a C compiler');
    const contexts = await createContexts(cluster.node(0).url, 'slow', 30);
    const history = new History(contexts);
    t.after(() => history.stop());
    for (const node of cluster.nodes) history.load(node.url, 2);
    const victim = cluster.node(1);
    const other = cluster.node(2);
    for (const ms of ['200', '2500']) {
      await until('appends to flow', () => history.acknowledged(victim.url) > 50);
      await disk.say(victim, ms);
      if (ms === '2500') await until('others to lead in its stead', () => isReplaced(other.url, victim));
      const before = history.acknowledged(other.url);
      await until('appends to flow through the others', () => history.acknowledged(other.url) > before + 20);
      await disk.say(victim, '');
    }
    await history.stop();
    await history.check(other.url);
  });

  test('whose sync fails ends the process with a clear line, and nothing it acknowledged is gone when it is back', async (t) => {
    if (disk === null) return t.skip('needs Linux and a C compiler');
    const contexts = await createContexts(cluster.node(0).url, 'eio', 12);
    const history = new History(contexts);
    t.after(() => history.stop());
    for (const node of cluster.nodes) history.load(node.url, 2);
    const victim = cluster.node(0);
    await until('appends to flow', () => history.acknowledged() > 100);
    await disk.say(victim, 'eio');
    assert.deepEqual(await victim.exited(), { code: 1, signal: null });
    assert.match(await victim.logTail(), /writing to disk failed, nothing more will be written/);
    const before = history.acknowledged();
    await until('appends to flow without it', () => history.acknowledged() > before + 100);
    victim.start();
    await cluster.ready();
    await history.stop();
    for (const { url } of cluster.nodes) await history.check(url);
  });
});
