import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { IdentityError, PeerLedger, openIdentity } from '../../src/cluster/identity.ts';
import type { LinkHello } from '../../src/cluster/hello.ts';
import { FileFacts } from './cluster-facts.ts';

let directory = '';
before(() => {
  directory = mkdtempSync(join(tmpdir(), 'fastpaca-identity-'));
});
after(() => rmSync(directory, { recursive: true, force: true }));

test('a minted name and store stay for ever, each open is a new generation with a new nonce', async () => {
  const first = await openIdentity(new FileFacts(join(directory, 'minted')), null);
  const second = await openIdentity(new FileFacts(join(directory, 'minted')), null);
  assert.deepEqual([second.name, second.storeId, second.clusterId], [first.name, first.storeId, '']);
  assert.deepEqual([first.generation, second.generation], [1, 2]);
  assert.deepEqual(second.lineage, [first.nonce, second.nonce]);
});

test('another configured name than the stored one stops the start with both names', async () => {
  const path = join(directory, 'named');
  await openIdentity(new FileFacts(path), 'a');
  await assert.rejects(openIdentity(new FileFacts(path), 'b'), (error: Error) => error instanceof IdentityError && /'b'.*'a'/.test(error.message));
});

test('an identity that cannot be read is never replaced by a new one', async () => {
  const facts = new FileFacts(join(directory, 'damaged'));
  await facts.put('identity', Buffer.from('{"name":"a"}'));
  await assert.rejects(openIdentity(facts, 'a'), IdentityError);
});

test('a peer is admitted only once its pair is durable, and a restarted ledger remembers it', async () => {
  const path = join(directory, 'ledger');
  const ledger = (facts: FileFacts): PeerLedger => new PeerLedger({ facts, clusterId: () => 'c', knownStore: () => null });
  const peer = (nonces: string[]): LinkHello => ({
    name: 'p', storeId: 's', clusterId: 'c', address: 'x:1', wireFormat: 1, clockMs: 0,
    generation: nonces.length, nonce: nonces.at(-1) ?? '', lineage: nonces,
  });
  assert.equal((await ledger(new FileFacts(path, { put: 0, when: 'before' })).admit(peer(['1', '2'])))?.code, 'failed');
  assert.equal(await ledger(new FileFacts(path)).admit(peer(['1', '2'])), null);
  const restarted = ledger(new FileFacts(path));
  assert.equal((await restarted.admit(peer(['1'])))?.code, 'rolled_back');
  assert.equal((await restarted.admit(peer(['1', 'x'])))?.code, 'duplicate');
  assert.equal((await restarted.admit(peer(['1', 'x', '3'])))?.code, 'rolled_back');
  assert.equal(await restarted.admit(peer(['1', '2', '3'])), null);
  assert.equal((await restarted.admit({ ...peer(['1', '2', '3']), clusterId: 'd' }))?.code, 'other_cluster');
});
