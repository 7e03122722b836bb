import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PeerKeyError, PeerKeys } from '../../src/cluster/auth.ts';

test('the first cluster secret is presented, any is accepted, and API keys do not count beside them', () => {
  const keys = new PeerKeys({ clusterSecrets: ['new', 'old'], apiKeys: ['api'] });
  assert.deepEqual(keys.headers(), { authorization: 'Bearer new' });
  assert.ok(keys.accepts('Bearer new') && keys.accepts('bearer old'));
  const fromApi = new PeerKeys({ clusterSecrets: [], apiKeys: ['api'] }).headers()['authorization'];
  for (const wrong of [undefined, '', 'Bearer ', 'Bearer ne', 'new', 'Basic new', fromApi]) assert.equal(keys.accepts(wrong), false, wrong ?? 'no header');
});

test('API keys are accepted only in their derived form, before and after a rotation', () => {
  const before = new PeerKeys({ clusterSecrets: [], apiKeys: ['one'] });
  const after = new PeerKeys({ clusterSecrets: [], apiKeys: ['two', 'one'] });
  assert.ok(after.accepts(before.headers()['authorization']));
  assert.equal(after.accepts('Bearer one'), false);
  assert.equal(before.accepts(after.headers()['authorization']), false);
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
  for (const secret of ['with\nbreak', 'schlüssel', ' padded', '']) assert.throws(() => new PeerKeys({ clusterSecrets: [secret], apiKeys: [] }), PeerKeyError);
});
