import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PeerKeyError, PeerKeys } from '../../src/cluster/auth.ts';

test('all cluster secrets are presented, any is accepted, and API keys do not count beside them', () => {
  const keys = new PeerKeys({ clusterSecrets: ['new', 'old'], apiKeys: ['api'] });
  assert.deepEqual(keys.headers(), { authorization: 'Bearer new,old' });
  assert.ok(keys.accepts('Bearer new') && keys.accepts('bearer old'));
  const fromApi = new PeerKeys({ clusterSecrets: [], apiKeys: ['api'] }).headers()['authorization'];
  for (const wrong of [undefined, '', 'Bearer ', 'Bearer ne', 'Bearer ,', 'Bearer ne,ol', 'new', 'Basic new', fromApi, `Bearer ${'x,'.repeat(20)}new`]) assert.equal(keys.accepts(wrong), false, wrong ?? 'no header');
});

test('two whose lists overlap accept each other, whoever was told of a new key first', () => {
  const holding = (...clusterSecrets: string[]): PeerKeys => new PeerKeys({ clusterSecrets, apiKeys: [] });
  const reach = (a: PeerKeys, b: PeerKeys): boolean[] => [a.accepts(b.headers()['authorization']), b.accepts(a.headers()['authorization'])];
  assert.deepEqual(reach(holding('old'), holding('new', 'old')), [true, true]);
  assert.deepEqual(reach(holding('new'), holding('new', 'old')), [true, true]);
  assert.deepEqual(reach(holding('old'), holding('new')), [false, false]);
});

test('who is refused is told, once for each header', () => {
  let refused = 0;
  const keys = new PeerKeys({ clusterSecrets: ['a', 'b'], apiKeys: [], onRefused: () => refused++ });
  assert.ok(keys.accepts('Bearer b') && !keys.accepts('Bearer c,d') && !keys.accepts(undefined));
  assert.equal(refused, 2);
});

test('API keys are accepted only in their derived form, before and after a rotation', () => {
  const before = new PeerKeys({ clusterSecrets: [], apiKeys: ['one'] });
  const after = new PeerKeys({ clusterSecrets: [], apiKeys: ['two', 'one'] });
  assert.ok(after.accepts(before.headers()['authorization']));
  assert.equal(after.accepts('Bearer one'), false);
  assert.ok(before.accepts(after.headers()['authorization']));
  assert.equal(before.accepts(new PeerKeys({ clusterSecrets: [], apiKeys: ['two'] }).headers()['authorization']), false);
});

test('without keys everyone is accepted until founding, then only the minted key', () => {
  const keys = new PeerKeys({ clusterSecrets: [], apiKeys: [] });
  assert.ok(keys.openFounding && keys.accepts(undefined));
  keys.promised('minted');
  assert.ok(keys.openFounding && keys.accepts(undefined));
  assert.deepEqual(keys.headers(), { authorization: 'Bearer minted' });
  keys.founded('minted');
  assert.equal(keys.openFounding, false);
  assert.deepEqual([keys.accepts(undefined), keys.accepts('Bearer other'), keys.accepts('Bearer minted')], [false, false, true]);
});

test('a secret that no header can carry is refused at once', () => {
  for (const secret of ['with\nbreak', 'schlüssel', ' padded', '', 'a,b']) assert.throws(() => new PeerKeys({ clusterSecrets: [secret], apiKeys: [] }), PeerKeyError);
});
