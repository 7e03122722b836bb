/** Erasure on real nodes: nothing of a purged context is left in the files of any of them, whatever dies meanwhile. */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { groupOf } from '../../src/cluster/placement.ts';
import { ClusterProcesses, call, until } from './processes.ts';
import type { NodeProcess } from './processes.ts';

const SECRET = 'bittern-behind-the-mill';

describe('erasure', () => {
  let cluster: ClusterProcesses;
  before(async () => {
    cluster = await ClusterProcesses.start(3);
  });
  after(() => cluster.stop());

  const url = (id: string, node: NodeProcess = cluster.node(0)): string => `${node.url}/v1/contexts/${id}`;
  const say = (text: string): object => ({ message: { role: 'user', parts: [{ type: 'text', text }] } });

  async function converse(id: string, messages: number, settings: object = {}): Promise<void> {
    assert.equal((await call(url(id), 'PUT', { metadata: { about: SECRET }, ...settings })).status, 201);
    // So few at a time that they are in the log as they are, and not compressed.
    for (let from = 0; from < messages; from += 50) {
      const list = Array.from({ length: Math.min(50, messages - from) }, (_, i) => say(`${SECRET} ${id} ${from + i}`)).map((one) => ('message' in one ? one.message : null));
      assert.equal((await call(`${url(id)}/messages`, 'POST', { messages: list })).status, 201);
    }
    assert.equal((await call(`${url(id)}/compact`, 'POST', { replacement: [{ role: 'user', parts: [{ type: 'text', text: SECRET }] }] })).status, 200);
  }

  /** Files of all nodes that hold the words, LevelDB's own accounts among them. */
  async function filesWith(text: string): Promise<string[]> {
    const found: string[] = [];
    for (const node of cluster.nodes) {
      for (const file of await readdir(node.dir, { recursive: true, withFileTypes: true })) {
        if (!file.isFile()) continue;
        const path = join(file.parentPath, file.name);
        const bytes = await readFile(path).catch(() => Buffer.alloc(0));
        if (bytes.includes(text)) found.push(path);
      }
    }
    return found;
  }

  async function leaderOf(id: string): Promise<NodeProcess> {
    let leader: NodeProcess | undefined;
    await until('a leader', async () => {
      const { json } = await call(`${cluster.nodes.find(({ running }) => running)?.url}/v1/cluster`);
      const groups = json['groups'] as { id: number; leader: string | null }[];
      const name = groups.find((group) => group.id === groupOf(id))?.leader;
      leader = cluster.nodes.find((node) => node.name === name && node.running);
      return leader !== undefined;
    });
    return leader ?? assert.fail();
  }

  const purge = async (id: string, node?: NodeProcess): Promise<number> => (await call(`${url(id, node)}?purge=true`, 'DELETE').catch(() => ({ status: 0 }))).status;

  test('is complete when no file of any node holds a word of it, though its leader is killed midway', async () => {
    await converse('gone', 1500);
    await converse('stays', 10);
    assert.ok((await filesWith(`${SECRET} gone`)).length >= 3);
    assert.equal(await purge('gone'), 202);
    const leader = await leaderOf('gone');
    await leader.kill('SIGKILL');
    const other = cluster.nodes.find(({ running }) => running) ?? assert.fail();
    await until('a new leader to know of it', async () => (await call(url('gone', other))).status === 404);
    assert.equal((await call(url('gone', other), 'PUT', {})).json['error'], 'context_purged');
    assert.equal((await call(`${url('gone', other)}/messages`, 'POST', say('no'))).json['error'], 'context_purged');
    const { json } = await call(`${other.url}/v1/contexts`);
    assert.deepEqual((json['contexts'] as { id: string }[]).map(({ id }) => id), ['stays']);
    await delay(500);
    assert.equal(await purge('gone', other), 202, 'a disk that is away may hold it still');
    leader.start();
    await until('the purge to be complete', async () => (await purge('gone', other)) === 204);
    assert.deepEqual(await filesWith(`${SECRET} gone`), []);
    assert.equal((await call(`${url('stays', leader)}/tail?limit=100`)).json['messages'] instanceof Array, true);
    assert.ok((await filesWith(`${SECRET} stays`)).length >= 3);
    assert.equal((await call(url('gone', other), 'DELETE')).json['error'], 'context_purged');
  });

  test('comes by itself after ttl_seconds, which GET shows, and ends the streams', async () => {
    await cluster.ready();
    await converse('brief', 5, { ttl_seconds: 1 });
    assert.equal((await call(url('brief'))).json['ttl_seconds'], 1);
    const stream = await fetch(`${url('brief')}/stream?cursor=0`, { headers: { accept: 'text/event-stream' } });
    const frames = stream.text();
    await until('its end', async () => (await call(url('brief'))).status === 404);
    assert.match(await frames, /"type":"purged","version":\d+\}\n\n$/);
    assert.equal((await call(`${url('brief')}/stream`, 'GET', undefined, { accept: 'text/event-stream' })).status, 404);
    await until('the purge to be complete', async () => (await purge('brief')) === 204);
    assert.deepEqual(await filesWith(`${SECRET} brief`), []);
  });
});
