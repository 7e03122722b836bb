/** A store that was found out is set aside, and an empty one takes its place; whatever crashes on the way. */
import assert from 'node:assert/strict';
import { access, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { encodeDocument } from '../../src/cluster/hello.ts';
import { openIdentity, storedIdentity, writeFounded } from '../../src/cluster/identity.ts';
import type { OpenedIdentity, RefusalCode } from '../../src/cluster/identity.ts';
import { openReborn, readInheritance } from '../../src/cluster/rebirth.ts';
import { Standing } from '../../src/cluster/standing.ts';
import { Storage } from '../../src/storage/store.ts';

const MEMBERS = ['a', 'b', 'c'].map((name, i) => ({ name, storeId: `store-${name}`, address: `127.0.0.1:${7001 + i}` }));
let base = '';
let directory = '';
let runs = 0;
const setAside: { path: string; reason: string }[] = [];

before(async () => {
  base = await mkdtemp(join(tmpdir(), 'fastpaca-rebirth-'));
});
after(() => rm(base, { recursive: true, force: true }));
beforeEach(() => {
  directory = join(base, String(runs++));
  setAside.length = 0;
});

const path = (...names: string[]): string => join(directory, ...names);
const exists = (...names: string[]): Promise<boolean> => access(path(...names)).then(() => true, () => false);
const reborn = (prepare = (at: string): Promise<Storage> => Storage.open(at)): Promise<Storage> =>
  openReborn(directory, { open: () => Storage.open(directory), prepare, onSetAside: (path, reason) => setAside.push({ path, reason }) });

/** A member's store that a peer spoke against. */
async function foundOut(code: RefusalCode): Promise<OpenedIdentity> {
  const storage = await reborn();
  const identity = await openIdentity(storage.facts, 'c');
  await writeFounded(storage.facts, { clusterId: 'c0ffee', members: MEMBERS, mintedKey: 'beef' });
  await storage.facts.put('mine', encodeDocument({ of: identity.storeId }));
  await Standing.open({ facts: storage.facts, identity, promises: () => 0 }).stepBack('a', { code, reason: 'it forgot' });
  await storage.close();
  return identity;
}

async function assertHeirOf(old: OpenedIdentity): Promise<void> {
  const storage = await reborn();
  assert.deepEqual(readInheritance(storage.facts), { clusterId: 'c0ffee', mintedKey: 'beef', addresses: ['127.0.0.1:7001', '127.0.0.1:7002'], reason: 'it forgot' });
  assert.equal(storage.facts.get('mine'), undefined, 'nothing else is taken over');
  assert.deepEqual(storage.groups(), []);
  const identity = await openIdentity(storage.facts, null);
  assert.equal(identity.name, 'c');
  assert.notEqual(identity.storeId, old.storeId);
  await storage.close();
  assert.equal(await exists('db.next'), false);
  // What was set aside is whole.
  await mkdir(path('look'));
  await rename(path('db.set-aside'), path('look', 'db'));
  const before = await Storage.open(path('look'));
  assert.notEqual(before.facts.get('mine'), undefined);
  await before.close();
}

test('a store whose peers remember more than it does is set aside, and its heir knows its name, cluster and key', async () => {
  const old = await foundOut('rolled_back');
  await (await reborn()).close();
  assert.deepEqual(setAside, [{ path: path('db.set-aside'), reason: 'it forgot' }]);
  await assertHeirOf(old);
  assert.equal(setAside.length, 1, 'once');
});

test('a sound store, one that was removed, and one that is merely not expected are kept', async () => {
  for (const code of ['removed', 'store_changed'] as const) {
    const old = await foundOut(code);
    const storage = await reborn();
    assert.equal((await openIdentity(storage.facts, 'c')).storeId, old.storeId);
    await storage.close();
  }
  assert.deepEqual([setAside, await exists('db.set-aside')], [[], false]);
});

test('a crash while the next store is made leaves the old one, and the next start begins again', async () => {
  const old = await foundOut('duplicate');
  const crash = async (at: string): Promise<Storage> => {
    // Half of one: opened and named, but without its inheritance.
    const half = await Storage.open(at);
    await openIdentity(half.facts, 'half');
    await half.close();
    throw new Error('crash');
  };
  await assert.rejects(reborn(crash), /crash/);
  assert.deepEqual([await exists('db'), await exists('db.next', 'db'), await exists('db.set-aside')], [true, true, false]);
  await (await reborn()).close();
  await assertHeirOf(old);
});

test('a crash between the two renames leaves no live store, and the next start makes the prepared one live', async () => {
  const old = await foundOut('rolled_back');
  await (await reborn()).close();
  await mkdir(path('db.next'));
  await rename(path('db'), path('db.next', 'db'));
  await assertHeirOf(old);
});

test('of stores that were set aside the last is kept', async () => {
  await foundOut('rolled_back');
  await (await reborn()).close();
  const second = await reborn();
  const identity = await openIdentity(second.facts, 'c');
  await Standing.open({ facts: second.facts, identity, promises: () => 0 }).stepBack('a', { code: 'rolled_back', reason: 'again' });
  await second.close();
  const third = await reborn();
  assert.equal(readInheritance(third.facts)?.reason, 'again');
  assert.equal(storedIdentity(third.facts)?.name, 'c');
  await third.close();
  assert.equal(setAside.length, 2);
});
