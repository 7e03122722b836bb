/** Snapshots between real stores: complete, consistent, resumable, and worthless until a write makes them current. */
import assert from 'node:assert/strict';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { GroupWrite } from '../../raft/ports.ts';
import type { ConfState, SnapshotMeta } from '../../raft/types.ts';
import type { StateSnapshot } from '../../src/storage/snapshots.ts';
import { SnapshotError } from '../../src/storage/snapshots.ts';
import { Storage } from '../../src/storage/store.ts';

const GROUP = 5;
const CONF: ConfState = { voters: [1, 2, 3], votersOutgoing: [], learners: [4], learnersNext: [], autoLeave: false };
const HARD_STATE = { term: 2, vote: 0, commit: 3 };
const ROWS = 200;
const CHUNK_BYTES = 4096;

function write(storage: Storage, part: Partial<GroupWrite> = {}): Promise<void> {
  return new Promise((resolve, reject) => {
    storage.write([{ group: GROUP, hardState: null, entries: [], snapshot: null, compactTo: 0, ...part }], (error) => (error === null ? resolve() : reject(error)));
  });
}

async function chunksOf(snapshot: StateSnapshot): Promise<Uint8Array[]> {
  const chunks: Uint8Array[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const { chunk, next } = await snapshot.read(cursor, CHUNK_BYTES);
    chunks.push(chunk);
    cursor = next;
  }
  return chunks;
}

function value(version: string, key: number): Buffer {
  return Buffer.from(`${version} ${key} ${'z'.repeat(100)}`);
}

describe('storage snapshots', () => {
  let root = '';
  let sender: Storage;
  let receiver: Storage;
  let snapshot: StateSnapshot;
  let meta: SnapshotMeta;

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'storage-snapshot-'));
    sender = await Storage.open(join(root, 'sender'));
    receiver = await Storage.open(join(root, 'receiver'));
    await sender.createGroup(GROUP, { replica: 1, conf: CONF, index: 0, term: 0 });
    await receiver.createGroup(GROUP, { replica: 4, conf: CONF, index: 0, term: 0 });
    await write(sender, { entries: [1, 2, 3].map((index) => ({ term: 2, index, type: 0, data: Buffer.from('e') })), hardState: { term: 2, vote: 1, commit: 3 } });
    for (let key = 0; key < ROWS; key++) sender.put(GROUP, { table: 'message', context: `context ${key % 7}`, key, value: value('new', key) });
    sender.setStateHash(GROUP, 4711);
    sender.setApplied(GROUP, { index: 3, term: 2, conf: null });
    await write(sender);
    // What the receiver has before: other rows, one of them under a key that the snapshot has too.
    receiver.put(GROUP, { table: 'message', context: 'context 0', key: 0, value: value('old', 0) });
    receiver.put(GROUP, { table: 'message', context: 'gone', key: 1, value: value('old', 1) });
    await write(receiver);
    snapshot = sender.openSnapshot(GROUP);
    meta = snapshot.meta;
  });

  afterEach(async () => {
    await snapshot.close();
    await sender.close();
    await receiver.close();
    await rm(root, { recursive: true });
  });

  function assertOld(storage: Storage): void {
    assert.equal(storage.durableApplied(GROUP), 0);
    assert.deepEqual(Buffer.from(storage.get(GROUP, 'message', 'context 0', 0) ?? []), value('old', 0));
    assert.deepEqual(Buffer.from(storage.get(GROUP, 'message', 'gone', 1) ?? []), value('old', 1));
    assert.equal(storage.get(GROUP, 'message', 'context 1', 1), undefined);
  }

  function assertNew(storage: Storage): void {
    assert.equal(storage.durableApplied(GROUP), 3);
    assert.equal(storage.stateHash(GROUP), 4711);
    assert.equal(storage.log(GROUP).firstIndex(), 4);
    assert.equal(storage.log(GROUP).term(3), 2);
    for (let key = 0; key < ROWS; key++) assert.deepEqual(Buffer.from(storage.get(GROUP, 'message', `context ${key % 7}`, key) ?? []), value('new', key));
    assert.equal(storage.get(GROUP, 'message', 'gone', 1), undefined);
  }

  it('replaces the whole state at once, and the membership with it', async () => {
    const chunks = await chunksOf(snapshot);
    assert.ok(chunks.length > 5);
    const staged = receiver.stage(GROUP);
    for (const chunk of chunks) await staged.write(chunk);
    await staged.finish(meta);
    assertOld(receiver);
    const done = write(receiver, { snapshot: meta, hardState: HARD_STATE });
    assertOld(receiver);
    await done;
    assertNew(receiver);
    await receiver.close();
    receiver = await Storage.open(join(root, 'receiver'));
    assertNew(receiver);
    assert.deepEqual(receiver.log(GROUP).conf, CONF);
  });

  it('is of one moment: what the sender applies afterwards is not in it', async () => {
    sender.put(GROUP, { table: 'message', context: 'context 1', key: 1, value: value('later', 1) });
    sender.put(GROUP, { table: 'message', context: 'context 9', key: 9, value: value('later', 9) });
    await write(sender, { entries: [{ term: 2, index: 4, type: 0, data: Buffer.from('e') }] });
    assert.equal(snapshot.meta.index, 3);
    const staged = receiver.stage(GROUP);
    for (const chunk of await chunksOf(snapshot)) await staged.write(chunk);
    await staged.finish(meta);
    await write(receiver, { snapshot: meta, hardState: HARD_STATE });
    assertNew(receiver);
    assert.equal(receiver.get(GROUP, 'message', 'context 9', 9), undefined);
  });

  it('gives the same chunk for the same cursor, so that a broken transfer resumes', async () => {
    const first = await snapshot.read('', CHUNK_BYTES);
    assert.ok(first.next !== null);
    const second = await snapshot.read(first.next, CHUNK_BYTES);
    const again = await snapshot.read(first.next, CHUNK_BYTES);
    assert.deepEqual(second, again);
  });

  it('leaves the old state untouched by a crash after any chunk, and all of the new one by a crash after the flip', async () => {
    const staged = receiver.stage(GROUP);
    const copies: string[] = [];
    const crash = async (): Promise<void> => {
      // With no write in flight, the files as they are are what a killed process leaves.
      const copy = join(root, `crash ${copies.length}`);
      await cp(join(root, 'receiver'), copy, { recursive: true });
      copies.push(copy);
    };
    for (const chunk of await chunksOf(snapshot)) {
      await staged.write(chunk);
      await crash();
    }
    await staged.finish(meta);
    await crash();
    await write(receiver, { snapshot: meta, hardState: HARD_STATE });
    await crash();
    const flipped = copies.pop();
    assert.ok(flipped !== undefined);
    for (const copy of copies) {
      const storage = await Storage.open(copy);
      assertOld(storage);
      // A new transfer after the crash meets none of the rows of the broken one.
      const anew = storage.stage(GROUP);
      for (const chunk of await chunksOf(snapshot)) await anew.write(chunk);
      await anew.finish(meta);
      await write(storage, { snapshot: meta, hardState: HARD_STATE });
      assertNew(storage);
      await storage.close();
    }
    const storage = await Storage.open(flipped);
    assertNew(storage);
    await storage.close();
  });

  it('a new transfer does not touch the snapshot that a write is just making current', async () => {
    const staged = receiver.stage(GROUP);
    for (const chunk of await chunksOf(snapshot)) await staged.write(chunk);
    await staged.finish(meta);
    const done = write(receiver, { snapshot: meta, hardState: HARD_STATE });
    const next = receiver.stage(GROUP);
    await done;
    await next.abort();
    const before = receiver.stats().rows;
    // The rows of the old state and its log go; each step of the sweeper is a write.
    const deadline = Date.now() + 30_000;
    while (receiver.stats().rows < before + 2) {
      assert.ok(Date.now() < deadline, 'the old state was not swept in time');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assertNew(receiver);
    await receiver.close();
    receiver = await Storage.open(join(root, 'receiver'));
    assertNew(receiver);
  });

  it('refuses damaged, foreign, repeated and missing chunks, and goes on with the right one', async () => {
    const [first, second, third] = await chunksOf(snapshot);
    assert.ok(first !== undefined && second !== undefined && third !== undefined);
    const staged = receiver.stage(GROUP);
    await assert.rejects(staged.write(second), SnapshotError);
    for (let at = 0; at < first.length; at += 97) {
      const damaged = first.slice();
      damaged[at] = (damaged[at] ?? 0) ^ 4;
      await assert.rejects(staged.write(damaged), SnapshotError);
    }
    for (let length = 0; length < 200; length++) await assert.rejects(staged.write(first.subarray(0, length)), SnapshotError);
    await staged.write(first);
    await assert.rejects(staged.write(first), SnapshotError);
    await assert.rejects(staged.write(third), SnapshotError);
    await staged.write(second);
    await assert.rejects(staged.finish(meta), SnapshotError, 'not complete');
    await staged.abort();
    assertOld(receiver);
  });

  it('cannot be made current without having been staged', async () => {
    assert.throws(() => void receiver.write([{ group: GROUP, hardState: null, entries: [], snapshot: meta, compactTo: 0 }], () => undefined), RangeError);
  });

  it('sends a group without rows', async () => {
    await sender.createGroup(8, { replica: 1, conf: CONF, index: 7, term: 3 });
    await receiver.createGroup(8, { replica: 4, conf: CONF, index: 0, term: 0 });
    const empty = sender.openSnapshot(8);
    const staged = receiver.stage(8);
    const { chunk, next } = await empty.read('', CHUNK_BYTES);
    assert.equal(next, null);
    await staged.write(chunk);
    await staged.finish(empty.meta);
    await empty.close();
    assert.equal(empty.meta.index, 7);
  });
});
