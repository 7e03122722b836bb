/**
 * A data directory that was rolled back never votes: not one restored from a copy of an earlier open, nor one copied
 * in the middle of the very open it is held against. With a third node gone, its vote would be the majority. Its node
 * sets it aside by itself, and is rebuilt as soon as there is a majority without it.
 */
import assert from 'node:assert/strict';
import { access, cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ClusterProcesses, call, until } from './processes.ts';
import type { Answer, NodeProcess } from './processes.ts';

const CONTEXTS = Array.from({ length: 12 }, (_, i) => `rollback-${i}`);

async function append(url: string, id: string, text: string): Promise<Answer> {
  return call(`${url}/v1/contexts/${id}/messages`, 'POST', { message: { role: 'user', parts: [{ type: 'text', text }] } });
}

/** Appends once to every context, which must be acknowledged. */
async function appendAll(url: string, text: string): Promise<void> {
  for (const id of CONTEXTS) {
    await until(`${id} to take ${text}`, async () => (await append(url, id, text)).status === 201);
  }
}

async function restore(node: NodeProcess, copy: string): Promise<void> {
  await rm(node.dir, { recursive: true, force: true });
  await cp(copy, node.dir, { recursive: true });
}

/**
 * Starts `victim` on the copy while `gone` is down: it says why it steps back, sets its data aside and comes back
 * empty, all by itself, and nothing is acknowledged on its vote.
 */
async function assertNeverVotes({ sound, victim, gone }: { sound: NodeProcess; victim: NodeProcess; gone: NodeProcess }, copy: string): Promise<void> {
  await gone.kill('SIGKILL');
  const [logged, told] = [(await victim.log()).length, (await sound.log()).length];
  await restore(victim, copy);
  victim.start();
  const since = async (node: NodeProcess, from: number): Promise<string> => (await node.log()).slice(from);
  await until('the restored node to say that it steps back', async () => /rolled back.*this node steps back: /.test(await since(victim, logged)));
  await until('the sound node to say that it refuses it', async () => /refused here: .*rolled back|it has stepped back/.test(await since(sound, told)));
  await until('the restored node to set its data aside', async () => /was set aside in .*db\.set-aside/.test(await since(victim, logged)));
  await until('its readiness to say so', async () => {
    const { status, text } = await victim.readiness();
    return status === 503 && /"joiner"/.test(text);
  });
  await access(join(victim.dir, 'db.set-aside', 'CURRENT'));
  const end = Date.now() + 3000;
  while (Date.now() < end) {
    const answers = await Promise.all([sound, victim].flatMap((node) => CONTEXTS.slice(0, 4).map((id) => append(node.url, id, 'on its vote'))));
    for (const { status, text } of answers) assert.equal(status, 503, text);
  }
}

describe('a rolled-back data directory', () => {
  let cluster: ClusterProcesses;
  let appended = 0;
  const appendToAll = async (url: string, text: string): Promise<void> => {
    await appendAll(url, text);
    appended++;
  };
  before(async () => {
    cluster = await ClusterProcesses.start(3, { FASTPACA_REQUEST_TIMEOUT_MS: '1000' });
    for (const id of CONTEXTS) assert.equal((await call(`${cluster.node(0).url}/v1/contexts/${id}`, 'PUT', {})).status, 201);
  });
  after(() => cluster.stop());

  test('copied while its node was stopped and restored after it ran on, is set aside and never votes', async () => {
    const [sound, gone, victim] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    await appendToAll(sound.url, 'before');
    await victim.kill('SIGTERM');
    const copy = `${victim.dir}.copy`;
    await cp(victim.dir, copy, { recursive: true });
    victim.start();
    await victim.ready();
    await appendToAll(sound.url, 'forgotten by the copy');
    await victim.kill('SIGTERM');
    const later = `${victim.dir}.later`;
    await cp(victim.dir, later, { recursive: true });

    await assertNeverVotes({ sound, victim, gone }, copy);

    // Nothing took its place yet: with the directory that remembers everything the same node is welcome.
    await victim.kill('SIGTERM');
    await restore(victim, later);
    gone.start();
    victim.start();
    await cluster.ready();
    await appendToAll(victim.url, 'welcome back');
  });

  test('copied in the middle of the open that it is held against, is set aside; its node, which voted on the table too, is rebuilt from the others', async () => {
    const [victim, gone, sound] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    await appendToAll(sound.url, 'before the copy');
    // Stopped for a moment the directory stands still, as in a volume snapshot.
    const copy = `${victim.dir}.within`;
    process.kill(victim.pid, 'SIGSTOP');
    await cp(victim.dir, copy, { recursive: true });
    process.kill(victim.pid, 'SIGCONT');
    const end = Date.now() + 2500;
    for (let n = 0; Date.now() < end; n++) await appendToAll(sound.url, `forgotten by the copy ${n}`);
    await victim.kill('SIGKILL');

    await assertNeverVotes({ sound, victim, gone }, copy);

    gone.start();
    await gone.ready();
    await victim.ready();
    await until('every replica of the node to be made anew', async () => {
      const { groups, moves, coordinator } = (await call(`${victim.url}/v1/cluster`)).json as { groups: { state: string; replicas: string[] }[]; moves: object[]; coordinator: string };
      return coordinator === victim.name && moves.length === 0 && groups.length === 257 && groups.every(({ state, replicas }) => state === 'ok' && replicas.length === 3);
    }, 60_000);
    // From here on its votes are the majority again, the table's among them.
    await gone.kill('SIGKILL');
    await appendToAll(victim.url, 'on its new vote');
    for (const id of CONTEXTS) {
      const { json } = await call(`${victim.url}/v1/contexts/${id}`);
      // An append that was not answered, and was sent again, may be there twice.
      assert.ok(Number(json['last_seq']) >= appended, `${id}: ${String(json['last_seq'])} of ${appended}`);
    }
    const drained = await call(`${victim.url}/v1/cluster/nodes/${victim.name}/drain`, 'POST');
    assert.deepEqual([drained.status, drained.json['error']], [409, 'would_lose_quorum'], drained.text);
  });
});
