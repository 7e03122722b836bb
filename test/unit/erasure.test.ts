/** Purges finished over real storage and Raft on three nodes in one process: what interrupts them only delays them. */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { groupOf } from '../../src/cluster/placement.ts';
import { RequestKind } from '../../src/cluster/ports.ts';
import { decodeAnswer, decodeQuestion, encodeAnswer, encodeQuestion } from '../../src/erasure/wire.ts';
import { NodeErasure } from '../../src/erasure/node-erasure.ts';
import { ApiError } from '../../src/errors.ts';
import { parsePut } from '../../src/settings.ts';
import { Mesh, until } from './mesh.ts';
import type { MeshNode } from './mesh.ts';

const GROUP = groupOf('c');
const SECRET = 'heron-on-the-seventh-pier';
const QUIET = { info: () => undefined, warn: () => undefined, error: () => undefined, debug: () => undefined };

describe('erasure', () => {
  let mesh: Mesh;
  const erasures = new Map<string, NodeErasure>();

  afterEach(async () => {
    await Promise.all([...erasures.values()].map((erasure) => erasure.close()));
    erasures.clear();
    await mesh.close();
  });

  /** What node.ts does: looks where a purge was applied and where leadership was taken. */
  function equip(node: MeshNode, archive: { erase(context: string): Promise<{ ok: boolean }> } | null = null): void {
    const nodeOf = (group: number, replica: number): string | undefined => mesh.topology.groups[group]?.replicas.find(({ id }) => id === replica)?.node;
    const { host, storage, router, network, name } = node;
    const erasure = new NodeErasure({ self: name, host, storage, router, network, nodeOf, archive, logger: QUIET, now: Date.now, againMs: 20, lapMs: 50 });
    erasures.set(name, erasure);
    node.answering = (kind, body, reply) => {
      if (kind === RequestKind.erase) reply(erasure.answer(body));
      else if (kind === RequestKind.propose) node.router.answerPropose(body, reply);
      else node.store.answerRead(body).then(reply, () => reply(new Uint8Array()));
    };
    erasure.open();
  }

  async function start(archive: { erase(context: string): Promise<{ ok: boolean }> } | null = null): Promise<MeshNode> {
    mesh = await Mesh.start(3, { groups: [GROUP] });
    for (const node of mesh.nodes.values()) equip(node, archive);
    return mesh.leader(GROUP);
  }

  async function converse(node: MeshNode, settings: object = {}): Promise<void> {
    await node.store.put('c', parsePut(Buffer.from(JSON.stringify({ metadata: { about: SECRET }, ...settings })), { depthMax: 8 }));
    for (let i = 0; i < 12; i++) {
      const parts = [{ type: 'text', text: `${SECRET} ${i}` }, { type: 'tool_call', toolCallId: `${SECRET}-${i}` }];
      await node.store.append('c', Buffer.from(JSON.stringify({ message: { role: 'user', parts } })), `${SECRET}-${i}`);
    }
    await node.store.compact('c', Buffer.from(JSON.stringify({ replacement: [{ role: 'user', parts: [{ type: 'text', text: SECRET }] }] })));
  }

  async function nodesWith(text: string): Promise<string[]> {
    const found: string[] = [];
    for (const name of ['node-1', 'node-2', 'node-3']) {
      const directory = join(mesh.directoryOf(name), 'db');
      for (const file of await readdir(directory)) {
        // LevelDB's own accounts name keys; they begin anew at each start.
        if (/^(LOG|MANIFEST)/.test(file)) continue;
        // One that is gone by now holds nothing.
        const bytes = await readFile(join(directory, file)).catch(() => Buffer.alloc(0));
        if (bytes.includes(text)) found.push(`${name}/${file}`);
      }
    }
    return found;
  }

  /** Asks for the purge and looks at its progress, as DELETE does and as onEvent does. */
  async function isPurged(): Promise<boolean> {
    const leader = await mesh.leader(GROUP);
    const { complete } = await leader.store.purge('c');
    erasures.get(leader.name)?.look(GROUP);
    return complete;
  }

  it('takes every trace from every replica’s disk, and goes on serving all else', async () => {
    const leader = await start();
    const neighbour = Array.from({ length: 5000 }, (_, i) => `n-${i}`).find((id) => groupOf(id) === GROUP) ?? assert.fail();
    await leader.store.put(neighbour, {});
    await converse(leader);
    await leader.store.append(neighbour, Buffer.from('{"message":{"role":"user","parts":[{"type":"text","text":"still here"}]}}'), null);
    assert.equal((await nodesWith(SECRET)).length >= 3, true);
    assert.equal(await isPurged(), false, 'accepted, and only begun');
    await assert.rejects(leader.store.get('c', 'linearizable'), (error) => error instanceof ApiError && error.code === 'context_not_found');
    await until('the purge', isPurged);
    assert.deepEqual(await nodesWith(SECRET), []);
    for (const refused of [leader.store.put('c', {}), leader.store.patchMetadata('c', {}), leader.store.compact('c', Buffer.from('{"replacement":[]}'))]) {
      await assert.rejects(refused, (error) => error instanceof ApiError && error.code === 'context_purged');
    }
    const { body } = await leader.store.tail(neighbour, { offset: 0, limit: 10 }, 'linearizable');
    assert.ok(body.includes('still here'));
    for (const node of mesh.nodes.values()) assert.deepEqual([node.fatals, node.damage], [[], []]);
  });

  it('waits for a replica that is down, and is complete when that has come back and forgotten too', async () => {
    const leader = await start();
    await converse(leader);
    const down = [...mesh.nodes.keys()].find((name) => name !== leader.name) ?? assert.fail();
    await erasures.get(down)?.close();
    erasures.delete(down);
    await mesh.stop(down);
    assert.equal(await isPurged(), false);
    await until('the rows to be gone', async () => (await leader.storage.rows(GROUP, 'message', 'c', { limit: 1 })).length === 0);
    // Long enough for many attempts.
    for (let i = 0; i < 20; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      assert.equal(await isPurged(), false, 'not while a disk has it');
    }
    assert.ok((leader.host.status(GROUP)?.firstIndex ?? 0) < 5, 'the log that it needs to catch up is there');
    equip(await mesh.open(down));
    await until('the purge', isPurged);
    assert.deepEqual(await nodesWith(SECRET), []);
  });

  it('goes on where the last leader was interrupted', async () => {
    const leader = await start();
    await converse(leader);
    // Nobody gets further than the steps: no question comes through.
    mesh.fate = (_from, _to, kind) => (kind === RequestKind.erase ? 'swallow' : 'deliver');
    assert.equal(await isPurged(), false);
    await until('the rows to be gone', async () => (await leader.storage.rows(GROUP, 'message', 'c', { limit: 1 })).length === 0);
    await erasures.get(leader.name)?.close();
    erasures.delete(leader.name);
    await mesh.stop(leader.name);
    mesh.fate = () => 'deliver';
    const next = await mesh.leader(GROUP);
    erasures.get(next.name)?.look(GROUP);
    equip(await mesh.open(leader.name));
    await until('the purge', isPurged);
    assert.deepEqual(await nodesWith(SECRET), []);
  });

  it('waits for the archive, which is asked until it has erased, and then no more', async () => {
    let isDown = true;
    let erased = 0;
    const leader = await start({
      erase: async (context) => {
        assert.equal(context, 'c');
        if (!isDown) erased++;
        return { ok: !isDown };
      },
    });
    await converse(leader);
    await isPurged();
    await until('the disks to be clean', async () => (await nodesWith(SECRET)).length === 0);
    for (let i = 0; i < 10; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      assert.equal(await isPurged(), false, 'not while the archive has it');
    }
    isDown = false;
    await until('the purge', isPurged);
    assert.equal(erased, 1);
  });

  it('comes by itself when the ttl is over, and a write puts it off', async () => {
    const leader = await start();
    await converse(leader, { ttl_seconds: 1 });
    const began = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 600));
    await leader.store.patchMetadata('c', { still: 'here' });
    const isGone = async (): Promise<boolean> => leader.store.get('c', 'linearizable').then(() => false, (error: unknown) => error instanceof ApiError && error.code === 'context_not_found');
    await until('its end', isGone);
    assert.ok(performance.now() - began > 1500, 'a second after the last write, not after the first');
    await until('the purge', isPurged);
    assert.deepEqual(await nodesWith(SECRET), []);
  });
});

describe('questions of a leader', () => {
  it('come back as they were; what is none is none, and only a clear yes is a yes', () => {
    const question = { ask: 'clean', group: 7, upTo: 99, contexts: ['a', 'ü'] } as const;
    assert.deepEqual(decodeQuestion(encodeQuestion(question)), question);
    for (const wrong of ['', 'null', '{}', '{"ask":"all","group":1,"upTo":1,"contexts":["c"]}', '{"ask":"clean","group":1,"upTo":1,"contexts":[]}', '{"ask":"clean","group":-1,"upTo":1,"contexts":["c"]}', '{"ask":"clean","group":1,"upTo":1,"contexts":[7]}']) {
      assert.equal(decodeQuestion(Buffer.from(wrong)), null, wrong);
      assert.equal(decodeAnswer(Buffer.from(wrong)), false);
    }
    assert.deepEqual([true, false].map((isSo) => decodeAnswer(encodeAnswer(isSo))), [true, false]);
  });
});
