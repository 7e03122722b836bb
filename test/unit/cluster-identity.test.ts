import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { LinkHello, Open, Sighting } from '../../src/cluster/hello.ts';
import { IdentityError, LINEAGE_MAX, openIdentity } from '../../src/cluster/identity.ts';
import { PeerLedger } from '../../src/cluster/ledger.ts';
import { Standing } from '../../src/cluster/standing.ts';
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
  assert.deepEqual(second.lineage, [{ nonce: first.nonce, beats: 0 }, { nonce: second.nonce, beats: 0 }]);
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


/** Opens of one directory, written `nonce:beats`. */
function opens(...texts: string[]): Open[] {
  return texts.map((text) => {
    const [nonce = '', beats = '0'] = text.split(':');
    return { nonce, beats: Number(beats) };
  });
}

function hello(name: string, lineage: Open[], options: { seen?: Sighting[]; generation?: number } = {}): LinkHello {
  return {
    name, storeId: `store-${name}`, clusterId: 'c', address: 'x:1', wireFormat: 1, clockMs: 0, lineage,
    generation: options.generation ?? lineage.length, nonce: lineage.at(-1)?.nonce ?? '', seen: options.seen ?? [],
  };
}

function sighting(name: string, generation: number, open: string): Sighting {
  const [{ nonce, beats }] = opens(open) as [Open];
  return { storeId: `store-${name}`, generation, nonce, beats };
}

function ledgerOn(facts: FileFacts): PeerLedger {
  return PeerLedger.open({ facts, storeId: 'own', clusterId: () => 'c', knownStore: () => null, isRetired: () => false });
}

test('a peer is admitted only once its open is durable, and a restarted ledger remembers it', async () => {
  const path = join(directory, 'ledger');
  const crashing = ledgerOn(new FileFacts(path, { put: 0, when: 'before' }));
  assert.equal((await crashing.admit(hello('p', opens('1', '2'))))?.code, 'failed');
  assert.equal((await crashing.admit(hello('p', opens('1', '2'))))?.code, 'failed', 'what could not be kept is not admitted at the second try either');
  assert.equal(await ledgerOn(new FileFacts(path)).admit(hello('p', opens('1', '2'))), null);
  const restarted = ledgerOn(new FileFacts(path));
  assert.equal((await restarted.admit(hello('p', opens('1'))))?.code, 'rolled_back');
  assert.equal((await restarted.admit(hello('p', opens('1', 'x'))))?.code, 'duplicate');
  assert.equal((await restarted.admit(hello('p', opens('1', 'x', '3'))))?.code, 'rolled_back');
  assert.equal(await restarted.admit(hello('p', opens('1', '2', '3'))), null);
  assert.equal((await restarted.admit({ ...hello('p', opens('1', '2', '3')), clusterId: 'd' }))?.code, 'other_cluster');
});

test('what a directory says of its last generation is held against the beats remembered of it', async () => {
  const cases: [remembered: string, claimed: string[], code: string | null][] = [
    ['2:7', ['1', '2:7', '3'], null],
    ['2:7', ['1', '2:9', '3'], null],
    ['2:7', ['1', '2:6', '3'], 'rolled_back'],
    ['2:7', ['1', '2:0', '3'], 'rolled_back'],
    // Restarts do not wash it off: the end of generation 2 stays in the lineage.
    ['2:7', ['1', '2:6', '3:50', '4:50', '5'], 'rolled_back'],
    ['2:7', ['1', '2:7', '3:50', '4:50', '5'], null],
    // A second link of the running process: its hello may be older than the beat that the first link brought.
    ['2:7', ['1', '2:6'], null],
  ];
  for (const [i, [remembered, claimed, code]] of cases.entries()) {
    const path = join(directory, `beats-${i}`);
    const ledger = ledgerOn(new FileFacts(path));
    const [open] = opens(remembered) as [Open];
    const peer = hello('p', opens('1', `${open.nonce}:0`));
    assert.equal(await ledger.admit(peer), null);
    ledger.heard(peer, { beats: open.beats, seen: [] });
    await ledger.settled();
    for (const judge of [ledger, ledgerOn(new FileFacts(path))]) {
      assert.equal((await judge.admit(hello('p', opens(...claimed))))?.code ?? null, code, `${remembered} against ${claimed.join(' ')}`);
    }
  }
});

test('what one peer has seen of another is held against it here too, admitted or not, until restart and after', async () => {
  const path = join(directory, 'shared');
  const ledger = ledgerOn(new FileFacts(path));
  const rolledBack = hello('x', opens('1', '2:3', '3'));
  assert.equal(await ledger.admit(rolledBack), null, 'nobody knows better yet');
  assert.equal(ledger.doubt(rolledBack), null);
  const teller = hello('a', opens('1'), { seen: [sighting('x', 2, '2:3')] });
  assert.equal(await ledger.admit(teller), null);
  assert.equal(ledger.doubt(rolledBack), null, 'the teller agrees');
  ledger.heard(teller, { beats: 1, seen: [sighting('x', 2, '2:9')] });
  assert.equal(ledger.doubt(rolledBack)?.code, 'rolled_back');
  assert.match(ledger.doubt(rolledBack)?.reason ?? '', /seen by node 'a' at beat 9, but .* only 3/);
  await ledger.settled();
  const restarted = ledgerOn(new FileFacts(path));
  assert.equal((await restarted.admit(rolledBack))?.code, 'rolled_back');
  assert.equal(await restarted.admit(hello('y', opens('1'))), null);
  // A teller that forgets does not take back what it said.
  assert.equal(await restarted.admit(hello('a', opens('1:1', '2'), { seen: [sighting('x', 1, '1')] })), null);
  assert.equal((await restarted.admit(rolledBack))?.code, 'rolled_back');
  assert.deepEqual(restarted.sightings().map(({ storeId, generation }) => [storeId, generation]), [['store-x', 3], ['store-a', 2], ['store-y', 1]]);
});

test('two opens of one generation, each admitted by another peer, are both refused once the peers tell each other', async () => {
  const [one, two] = [hello('x', opens('1', '2a')), hello('x', opens('1', '2b'))];
  const ledger = ledgerOn(new FileFacts(join(directory, 'split')));
  assert.equal(await ledger.admit(one), null);
  assert.equal(await ledger.admit(hello('a', opens('1'), { seen: [sighting('x', 2, '2b')] })), null);
  assert.equal(ledger.doubt(one)?.code, 'duplicate');
  assert.equal((await ledger.admit(two))?.code, 'duplicate');
});

test('more opens than a lineage holds are refused without a verdict on the directory, and bind only who was away', async () => {
  const lineage = opens(...Array.from({ length: LINEAGE_MAX }, (_, i) => `n${i}`));
  const path = join(directory, 'unproven');
  const away = ledgerOn(new FileFacts(path));
  assert.equal(await away.admit(hello('x', opens('1'))), null);
  assert.equal((await away.admit(hello('x', lineage, { generation: 5000 })))?.code, 'unproven');
  const present = ledgerOn(new FileFacts(join(directory, 'proven')));
  assert.equal(await present.admit(hello('a', opens('1'), { seen: [sighting('x', 1, '1')] })), null);
  assert.equal(await present.admit(hello('x', lineage, { generation: 5000 })), null);
});

test('many beats heard while a write is under way cost one more write', async () => {
  const facts = new FileFacts(join(directory, 'coalesced'));
  const ledger = ledgerOn(facts);
  const peers = ['p', 'q'].map((name) => hello(name, opens('1')));
  for (const peer of peers) await ledger.admit(peer);
  const before = facts.puts;
  for (let beats = 1; beats <= 50; beats++) for (const peer of peers) ledger.heard(peer, { beats, seen: [] });
  await ledger.settled();
  assert.ok(facts.puts - before <= 2, `${facts.puts - before} writes`);
  assert.deepEqual(ledgerOn(new FileFacts(join(directory, 'coalesced'))).sightings().map(({ beats }) => beats), [50, 50]);
});

async function standingOn(path: string, promises: () => number = () => 0): Promise<Standing> {
  const facts = new FileFacts(path);
  return Standing.open({ facts, identity: await openIdentity(facts, 'x'), promises });
}

test('a beat counts once it is durable, and the next open says where this one ended', async () => {
  const path = join(directory, 'standing');
  const standing = await standingOn(path);
  const beating = standing.beat();
  assert.equal(standing.beats, 0);
  await beating;
  await standing.beat();
  assert.deepEqual([standing.beats, standing.lineage().map((open) => open.beats)], [2, [2]]);
  assert.deepEqual((await standingOn(path)).lineage().map((open) => open.beats), [2, 0]);
  // An open without a beat does not inherit the one before.
  assert.deepEqual((await standingOn(path)).lineage().map((open) => open.beats), [2, 0, 0]);
});

test('a beat is due at first and after each promise, not while nothing was promised', async () => {
  let promises = 0;
  const standing = await standingOn(join(directory, 'due'), () => promises);
  assert.equal(standing.due, true);
  const beating = standing.beat();
  promises += 1;
  await beating;
  assert.equal(standing.due, true, 'promised while the beat was written');
  await standing.beat();
  assert.equal(standing.due, false);
});

test('a beat that cannot be written is never told', async () => {
  const path = join(directory, 'torn');
  const facts = new FileFacts(path, { put: 1, when: 'after' });
  const standing = Standing.open({ facts, identity: await openIdentity(facts, 'x'), promises: () => 0 });
  await assert.rejects(standing.beat());
  assert.deepEqual([standing.beats, standing.due], [0, false]);
});

test('a directory judges itself by what others have seen of it, and the verdict outlives the process', async () => {
  const path = join(directory, 'self');
  const first = await standingOn(path);
  const nonce = first.lineage()[0]?.nonce ?? '';
  const facts = new FileFacts(path);
  const identity = await openIdentity(facts, 'x');
  const standing = Standing.open({ facts, identity, promises: () => 0 });
  const seen = (generation: number, nonce: string, beats: number): Sighting[] => [{ storeId: identity.storeId, generation, nonce, beats }];
  assert.equal(standing.judge([], 'a'), null);
  assert.equal(standing.judge(seen(1, nonce, 0), 'a'), null);
  assert.equal(standing.judge(seen(2, identity.nonce, 0), 'a'), null);
  assert.equal(standing.judge(seen(1, nonce, 1), 'a')?.code, 'rolled_back');
  assert.equal(standing.judge(seen(1, 'other', 0), 'a')?.code, 'rolled_back');
  assert.equal(standing.judge(seen(2, 'other', 0), 'a')?.code, 'duplicate');
  assert.equal(standing.judge(seen(3, 'later', 0), 'a')?.code, 'rolled_back');
  // A resumed image of the whole machine: the very process has been further than it knows.
  assert.equal(standing.judge(seen(2, identity.nonce, 1), 'a')?.code, 'rolled_back');
  await standing.stepBack('a', { code: 'store_changed', reason: 'another directory' });
  assert.equal((await standingOn(path)).steppedBack, null);
  const again = await standingOn(path);
  await again.stepBack('a', { code: 'rolled_back', reason: 'it forgot' });
  assert.deepEqual((await standingOn(path)).steppedBack, { by: 'a', reason: 'it forgot', code: 'rolled_back' });
});
