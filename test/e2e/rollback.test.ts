/**
 * A data directory that was rolled back never votes: not one restored from a copy of an earlier open, nor one copied
 * in the middle of the very open it is held against. With a third node gone, its vote would be the majority.
 */
import assert from 'node:assert/strict';
import { cp, readFile, rm } from 'node:fs/promises';
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

/** The restored node says on both sides why it is refused, and with `gone` dead nothing is acknowledged on its vote. */
async function assertNeverVotes(sound: NodeProcess, restored: NodeProcess, gone: NodeProcess): Promise<void> {
  await until('readiness to name the reason', async () => {
    const { status, text } = await restored.readiness();
    return status === 503 && /"refused"/.test(text) && /steps back: .*rolled back/.test(text);
  });
  await until('the restored node to log that it steps back', async () => /this node steps back/.test(await readFile(restored.logFile, 'utf8')));
  await until('a sound node to log the refusal', async () => /refused here: .*rolled back|it has stepped back/.test(await readFile(sound.logFile, 'utf8')));
  await gone.kill('SIGKILL');
  const end = Date.now() + 4000;
  while (Date.now() < end) {
    const answers = await Promise.all([sound, restored].flatMap((node) => CONTEXTS.slice(0, 4).map((id) => append(node.url, id, 'on its vote'))));
    for (const { status, text } of answers) assert.equal(status, 503, text);
  }
}

describe('a rolled-back data directory', () => {
  let cluster: ClusterProcesses;
  before(async () => {
    cluster = await ClusterProcesses.start(3, { FASTPACA_REQUEST_TIMEOUT_MS: '1000' });
    for (const id of CONTEXTS) assert.equal((await call(`${cluster.node(0).url}/v1/contexts/${id}`, 'PUT', {})).status, 201);
  });
  after(() => cluster.stop());

  test('copied while its node was stopped and restored after it ran on, is refused and never votes', async () => {
    const [sound, gone, victim] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    await appendAll(sound.url, 'before');
    await victim.kill('SIGTERM');
    const copy = `${victim.dir}.copy`;
    await cp(victim.dir, copy, { recursive: true });
    victim.start();
    await victim.ready();
    await appendAll(sound.url, 'forgotten by the copy');
    await victim.kill('SIGTERM');
    const later = `${victim.dir}.later`;
    await cp(victim.dir, later, { recursive: true });

    await restore(victim, copy);
    victim.start();
    await assertNeverVotes(sound, victim, gone);

    // With the directory that remembers everything the same node is welcome.
    await victim.kill('SIGTERM');
    await restore(victim, later);
    gone.start();
    victim.start();
    await cluster.ready();
    await appendAll(victim.url, 'welcome back');
  });

  test('copied in the middle of the open that it is held against, is refused and never votes', async () => {
    const [gone, sound, victim] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    await appendAll(sound.url, 'before the copy');
    // Stopped for a moment the directory stands still, as in a volume snapshot.
    const copy = `${victim.dir}.within`;
    process.kill(victim.pid, 'SIGSTOP');
    await cp(victim.dir, copy, { recursive: true });
    process.kill(victim.pid, 'SIGCONT');
    const end = Date.now() + 2500;
    for (let n = 0; Date.now() < end; n++) await appendAll(sound.url, `forgotten by the copy ${n}`);
    await victim.kill('SIGKILL');

    await restore(victim, copy);
    victim.start();
    await assertNeverVotes(sound, victim, gone);

    await victim.kill('SIGKILL');
    gone.start();
    await until('the sound two to go on', async () => (await append(sound.url, CONTEXTS[0] ?? '', 'on')).status === 201);
  });
});
