/** The state machine over real storage: replicas agree, caches never outlive what they hold, damage takes a replica out and never answers. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { ClassicLevel } from 'classic-level';
import { EntryType } from '../../raft/types.ts';
import { groupOf } from '../../src/cluster/placement.ts';
import { COMMAND_FORMAT, encodeCommand, setStamp } from '../../src/contexts/commands.ts';
import { encodeConfig } from '../../src/contexts/rows.ts';
import type { Command, Reply } from '../../src/contexts/types.ts';
import { TOPOLOGY_GROUP } from '../../src/constants.ts';
import { ApiError } from '../../src/errors.ts';
import { TOPOLOGY_ROW } from '../../src/machine.ts';
import { DamageError } from '../../src/storage/checksum.ts';
import { stateKey } from '../../src/storage/keys.ts';
import { GROUP, Mesh, type MeshNode, until } from './mesh.ts';

const message = (text: string): Buffer => Buffer.from(JSON.stringify({ message: { role: 'user', parts: [{ type: 'text', text }] } }));

async function texts(node: MeshNode): Promise<string[]> {
  const { body } = await node.store.messages('c', { fromSeq: 1, toSeq: null, afterVersion: null, limit: 100 }, 'linearizable');
  const { messages } = JSON.parse(body.toString()) as { messages: { parts: { text: string }[] }[] };
  return messages.map(({ parts }) => parts[0]?.text ?? '');
}

describe('state machine', () => {
  let mesh: Mesh;
  afterEach(() => mesh.close());

  const fill = async (node: MeshNode, count = 5): Promise<void> => {
    await node.store.put('c', {});
    for (let i = 1; i <= count; i++) await node.store.append('c', message(`m${i}`), `k${i}`);
  };
  const caughtUp = async (): Promise<void> => {
    for (const node of mesh.nodes.values()) await node.router.barrier(GROUP);
  };

  /** Flips a bit of a stored row while its node is down. */
  const flip = async (name: string, table: 'message' | 'header' | 'config', key: number | '', group = GROUP, context = 'c'): Promise<void> => {
    await mesh.stop(name);
    const db = new ClassicLevel<Uint8Array, Uint8Array>(join(mesh.directoryOf(name), 'db'), { keyEncoding: 'view', valueEncoding: 'view' });
    await db.open();
    const stored = stateKey(group, 1, { table, context, key });
    const value = await db.get(stored);
    assert.ok(value !== undefined);
    const flipped = Uint8Array.from(value);
    flipped[Math.floor(flipped.length / 2)] = (flipped[Math.floor(flipped.length / 2)] ?? 0) ^ 4;
    await db.put(stored, flipped, { sync: true });
    await db.close();
  };

  it('replicas hold equal hashes and rows, also one that was restarted in between', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP] });
    const [first, second, third] = [...mesh.nodes.values()];
    assert.ok(first && second && third);
    await fill(first);
    await mesh.stop(third.name);
    const back = await mesh.open(third.name);
    await first.store.compact('c', Buffer.from('{"replacement":[{"role":"user","parts":[],"token_count":1}],"keep_from_seq":4}'));
    await second.store.append('c', message('m6'), 'k6');
    await back.store.patchMetadata('c', { a: 1 });
    await caughtUp();
    const hashes = [first, second, back].map((node) => node.storage.stateHash(GROUP));
    assert.equal(new Set(hashes).size, 1);
    assert.notEqual(hashes[0], 0);
    const [header, ...others] = [first, second, back].map((node) => node.machine.rowsOf('c').header('c'));
    for (const other of others) assert.deepEqual(other, header);
    // What the caches hold is what a fresh process would read.
    await mesh.stop(first.name);
    const fresh = await mesh.open(first.name);
    assert.deepEqual(fresh.machine.rowsOf('c').header('c'), header);
    const [read, cached] = [fresh, back].map((node) => node.machine.rowsOf('c').config('c'));
    assert.ok(read !== undefined && cached !== undefined);
    assert.deepEqual(encodeConfig(read), encodeConfig(cached));
  });

  it('a large append is compressed in the log and whole on every replica', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP] });
    const nodes = [...mesh.nodes.values()];
    const [first] = nodes;
    assert.ok(first);
    await first.store.put('c', {});
    const sent = Array.from({ length: 90 }, (_, i) => `what message ${i} says, and it says it at length `.repeat(8));
    await first.store.append('c', Buffer.from(JSON.stringify({ messages: sent.map((text) => ({ role: 'user', parts: [{ type: 'text', text }] })) })), null);
    await caughtUp();
    for (const node of nodes) {
      const log = node.storage.log(GROUP);
      const newest = log.entries(log.lastIndex(), log.lastIndex() + 1, 1)[0] ?? assert.fail();
      assert.ok(newest.data.length < sent.join('').length / 5, `${newest.data.length} bytes`);
      assert.deepEqual(await texts(node), sent);
    }
    assert.equal(new Set(nodes.map((node) => node.storage.stateHash(GROUP))).size, 1);
  });

  it('time never runs backwards in a context, whatever a leader’s clock says', async () => {
    mesh = await Mesh.start(1, { groups: [GROUP] });
    const { machine } = mesh.node('node-1');
    const run = (index: number, stampMs: number, command: Command): unknown => {
      const data = encodeCommand(command);
      setStamp(data, stampMs);
      return machine.apply(GROUP, { term: 1, index, type: EntryType.normal, data });
    };
    const put = (tokenBudget: number): Command => ({ type: 'put', context: 'c', settings: { tokenBudget }, ifConfigRevision: -1, mustExist: false });
    run(10, 2000, put(1));
    run(11, 1000, put(2));
    assert.equal(machine.rowsOf('c').header('c')?.updatedAt, 2000);
    run(12, 3000, put(3));
    assert.equal(machine.rowsOf('c').header('c')?.updatedAt, 3000);
  });

  it('stops rather than answer a command of a later version, which other replicas may read', async () => {
    mesh = await Mesh.start(1, { groups: [GROUP] });
    const data = encodeCommand({ type: 'tombstone', context: 'c' });
    data[0] = COMMAND_FORMAT + 1;
    assert.throws(() => mesh.node('node-1').machine.apply(GROUP, { term: 1, index: 9, type: EntryType.normal, data }), /is in command format 2, this program reads up to 1/);
  });

  it('has an answer for bytes that are no command', async () => {
    mesh = await Mesh.start(1, { groups: [GROUP, TOPOLOGY_GROUP] });
    const { machine } = mesh.node('node-1');
    for (const data of [Uint8Array.of(1), Uint8Array.of(0, 255, 255), new Uint8Array(100)]) {
      for (const group of [GROUP, TOPOLOGY_GROUP]) {
        const reply = machine.apply(group, { term: 1, index: 9, type: EntryType.normal, data }) as Reply;
        assert.deepEqual(reply, { ok: false, code: 'invalid_command' });
      }
    }
    assert.equal(machine.apply(GROUP, { term: 1, index: 9, type: EntryType.normal, data: new Uint8Array() }), null);
  });

  it('a damaged row is answered from a sound replica, by the very read that finds it, and takes the replica out', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP] });
    const [first, , third] = [...mesh.nodes.values()];
    assert.ok(first && third);
    await fill(first);
    await caughtUp();
    await flip(third.name, 'message', 2);
    const victim = await mesh.open(third.name);
    await until('it to follow', () => victim.host.leader(GROUP) !== 0);
    assert.deepEqual(await texts(victim), ['m1', 'm2', 'm3', 'm4', 'm5']);
    assert.equal(victim.damage.length, 1);
    assert.equal(victim.router.hosts(GROUP), false);
    // It goes on serving by way of the others, as far as its clients can tell.
    await victim.store.append('c', message('m6'), null);
    assert.deepEqual(await texts(victim), ['m1', 'm2', 'm3', 'm4', 'm5', 'm6']);
    assert.ok(((await victim.store.get('c', 'stale')).appliedIndex ?? 0) > 0);
    assert.deepEqual(victim.fatals, []);
  });

  for (const table of ['header', 'config'] as const) {
    it(`a damaged ${table} met by a write takes the replica out, and the write goes through`, async () => {
      mesh = await Mesh.start(3, { groups: [GROUP] });
      const [first, , third] = [...mesh.nodes.values()];
      assert.ok(first && third);
      await fill(first, 2);
      await caughtUp();
      await flip(third.name, table, '');
      const victim = await mesh.open(third.name);
      await until('it to follow', () => victim.host.leader(GROUP) !== 0);
      await victim.store.append('c', message('m3'), null);
      await until('it to be out', () => !victim.router.hosts(GROUP));
      assert.deepEqual(await texts(victim), ['m1', 'm2', 'm3']);
      assert.deepEqual(victim.fatals, []);
    });
  }

  it('a row that is gone is damage too: no window is cut without it, no context founded anew', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP] });
    const [first, second, third] = [...mesh.nodes.values()];
    assert.ok(first && second && third);
    await fill(first);
    await caughtUp();
    // As if the disk had lost it: this replica only, behind the back of Raft.
    third.storage.put(GROUP, { table: 'message', context: 'c', key: 3, value: null });
    assert.throws(() => third.machine.rowsOf('c').get('message', 'c', 3), DamageError);
    assert.equal(third.router.hosts(GROUP), false);
    assert.deepEqual(await texts(third), ['m1', 'm2', 'm3', 'm4', 'm5']);
    assert.equal(third.storage.groups().find(({ group }) => group === GROUP)?.damaged?.includes('is missing'), true);
    await mesh.stop(third.name);
    const again = await mesh.open(third.name);
    assert.equal(again.router.hosts(GROUP), false, 'the mark survives a restart');
    // What is not there by right is no damage.
    for (const key of [0, 6, 1000]) assert.equal(second.machine.rowsOf('c').get('message', 'c', key), undefined);
    const stranger = Array.from({ length: 5000 }, (_, i) => `other-${i}`).find((id) => groupOf(id) === GROUP) ?? assert.fail('no id of the same group');
    assert.equal(second.machine.rowsOf(stranger).header(stranger), undefined);
    assert.deepEqual(second.damage, []);
  });

  it('what was trimmed is missed by nobody, what the window holds and what comes behind is', async () => {
    mesh = await Mesh.start(1, { groups: [GROUP] });
    const node = mesh.node('node-1');
    await node.store.put('c', { policy: { strategy: 'last_n', limit: 3, skipKinds: [], targetRatio: 0.5, pin: true } });
    await node.store.append('c', Buffer.from('{"message":{"role":"system","parts":[]}}'), null);
    for (let i = 2; i <= 12; i++) await node.store.append('c', message(`m${i}`), null);
    const reply = await node.router.propose(GROUP, encodeCommand({ type: 'ack_archived', context: 'c', acks: [{ context: 'c', upto: 8, version: 12, configRevision: 0 }], tailKeep: 2 }), 'essential');
    assert.deepEqual(reply, { ok: true, type: 'ack_archived' });
    const rows = node.machine.rowsOf('c');
    const header = rows.header('c');
    assert.deepEqual([header?.archivedSeq, header?.trimmedSeq, header?.window.pinned], [8, 8, [1]]);
    for (let seq = 2; seq <= 8; seq++) assert.equal(rows.get('message', 'c', seq), undefined);
    for (const seq of [1, 9, 12]) assert.ok(rows.get('message', 'c', seq) !== undefined);
    assert.deepEqual(node.damage, []);
    node.storage.put(GROUP, { table: 'message', context: 'c', key: 1, value: null });
    assert.throws(() => rows.get('message', 'c', 1), DamageError);
  });

  it('an archived message above the trimmed part that is gone is damage', async () => {
    mesh = await Mesh.start(1, { groups: [GROUP] });
    const node = mesh.node('node-1');
    await fill(node);
    await node.router.propose(GROUP, encodeCommand({ type: 'ack_archived', context: 'c', acks: [{ context: 'c', upto: 5, version: 5, configRevision: 0 }], tailKeep: 100 }), 'essential');
    node.storage.put(GROUP, { table: 'message', context: 'c', key: 2, value: null });
    assert.throws(() => node.machine.rowsOf('c').get('message', 'c', 2), DamageError);
  });

  it('marks of a context of another group are refused, whatever is cached', async () => {
    mesh = await Mesh.start(1, { groups: [GROUP] });
    const node = mesh.node('node-1');
    await fill(node, 1);
    const foreign = Array.from({ length: 50 }, (_, i) => `other-${i}`).find((id) => groupOf(id) !== GROUP) ?? assert.fail();
    const acks = ['c', foreign].map((context) => ({ context, upto: 1, version: 1, configRevision: 0 }));
    const reply = await node.router.propose(GROUP, encodeCommand({ type: 'ack_archived', context: 'c', acks, tailKeep: 0 }), 'essential');
    assert.deepEqual(reply, { ok: false, code: 'invalid_command' });
    assert.equal(node.machine.rowsOf('c').header('c')?.archivedSeq, 0);
  });

  it('a purged context is forgotten by the caches, and its missing settings are no damage', async () => {
    mesh = await Mesh.start(1, { groups: [GROUP] });
    const node = mesh.node('node-1');
    await fill(node);
    assert.ok(node.machine.rowsOf('c').config('c') !== undefined);
    assert.deepEqual(await node.store.purge('c'), { complete: false });
    await assert.rejects(node.store.get('c', 'linearizable'), (error) => error instanceof ApiError && error.code === 'context_not_found');
    await mesh.stop(node.name);
    const back = await mesh.open(node.name);
    await mesh.leader(GROUP);
    await assert.rejects(back.store.put('c', {}), (error) => error instanceof ApiError && error.code === 'context_purged');
    await assert.rejects(back.store.tail('c', { offset: 0, limit: 1 }, 'linearizable'), (error) => error instanceof ApiError && error.code === 'context_not_found');
    assert.deepEqual([back.damage, back.events.length], [[], 0]);
  });

  it('a context of which only half is left is not created a second time', async () => {
    mesh = await Mesh.start(1, { groups: [GROUP] });
    const node = mesh.node('node-1');
    await fill(node, 1);
    await mesh.stop(node.name);
    const back = await mesh.open(node.name);
    await mesh.leader(GROUP);
    back.storage.put(GROUP, { table: 'header', context: 'c', key: '', value: null });
    await assert.rejects(back.store.put('c', {}), (error) => error instanceof ApiError && error.status === 503);
    assert.deepEqual(back.damage, [`row {"table":"header","context":"c","key":""} of group ${GROUP} is missing`]);
  });

  it('a damaged topology table takes out one replica and leaves the node running', async () => {
    mesh = await Mesh.start(1, { groups: [GROUP, TOPOLOGY_GROUP] });
    const { clusterId } = mesh.node('node-1').machine.topology() ?? {};
    assert.equal(clusterId, 'cluster');
    await flip('node-1', TOPOLOGY_ROW.table, TOPOLOGY_ROW.key, TOPOLOGY_GROUP, TOPOLOGY_ROW.context);
    const back = await mesh.open('node-1');
    assert.equal(back.machine.topology(), null);
    assert.equal(back.machine.topology(), null, 'and again, once it is marked');
    assert.equal(back.router.hosts(TOPOLOGY_GROUP), false);
    assert.equal(back.router.hosts(GROUP), true);
  });
});
