/** What was deleted leaves the files: the raw bytes of the data directory are searched. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { GroupWrite } from '../../raft/ports.ts';
import type { ConfState } from '../../raft/types.ts';
import { Storage } from '../../src/storage/store.ts';
import { until } from './mesh.ts';

const GROUP = 7;
const CONF: ConfState = { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const SECRET = 'kestrel-under-the-bridge';

describe('scouring', () => {
  let directory = '';
  let storage: Storage;
  let index = 0;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'scour-'));
    storage = await Storage.open(directory, { scrubRowsPerSecond: 0 });
    index = 0;
    for (const group of [GROUP, GROUP + 1]) await storage.createGroup(group, { replica: 1, conf: CONF, index: 0, term: 0 });
  });

  afterEach(async () => {
    await storage.close();
    await rm(directory, { recursive: true });
  });

  function write(change: Partial<GroupWrite>): Promise<void> {
    const write = { group: GROUP, hardState: { term: 1, vote: 0, commit: 0 }, entries: [], snapshot: null, compactTo: 0, ...change };
    return new Promise((resolve, reject) => storage.write([write], (error) => (error === null ? resolve() : reject(error))));
  }

  /** A message as a log entry and as a row, in two synced writes. */
  async function say(context: string, key: number, text: string): Promise<void> {
    const value = Buffer.from(`${text} ${randomBytes(32).toString('hex')}`);
    await write({ entries: [{ term: 1, index: ++index, type: 0, data: value }] });
    storage.put(GROUP, { table: 'message', context, key, value });
    storage.setApplied(GROUP, { index, term: 1, conf: null });
    await write({});
  }

  async function erase(context: string, from: number, to: number): Promise<void> {
    for (let key = from; key <= to; key++) storage.put(GROUP, { table: 'message', context, key, value: null });
    await write({ compactTo: index + 1 });
  }

  async function filesWith(text: string): Promise<string[]> {
    const found: string[] = [];
    for (const file of await readdir(join(directory, 'db'))) if ((await readFile(join(directory, 'db', file))).includes(text)) found.push(file);
    return found;
  }

  const scoured = (contexts: readonly string[] = ['c']): Promise<void> => until('the scouring', () => storage.scour(GROUP, contexts));

  it('takes the rows of a context and its log entries out, right after they were written', async () => {
    await say('c', 1, SECRET);
    assert.notDeepEqual(await filesWith(SECRET), []);
    await erase('c', 1, 1);
    assert.notDeepEqual(await filesWith(SECRET), [], 'a deletion alone hides it only');
    await scoured();
    assert.deepEqual(await filesWith(SECRET), []);
  });

  it('reaches what a restart has written out with its deletion, and leaves all else whole', async () => {
    for (let key = 1; key <= 50; key++) {
      await say('c', key, SECRET);
      await say('b', key, 'a neighbour');
      await say('c2', key, 'a namesake');
    }
    await erase('c', 1, 50);
    for (let life = 0; life < 2; life++) {
      await storage.close();
      storage = await Storage.open(directory, { scrubRowsPerSecond: 0 });
    }
    await scoured();
    assert.deepEqual(await filesWith(SECRET), []);
    for (const context of ['b', 'c2']) assert.equal((await storage.rows(GROUP, 'message', context, { limit: 100 })).length, 50);
  });

  it('reaches all levels under much other data', async () => {
    const filler = (): Buffer => randomBytes(64 * 1024);
    for (let round = 0; round < 12; round++) {
      await say('c', round + 1, SECRET);
      for (const context of ['a', 'z']) for (let key = 0; key < 8; key++) storage.put(GROUP, { table: 'message', context, key: round * 8 + key, value: filler() });
      await write({});
      if (round % 4 === 3) {
        await storage.close();
        storage = await Storage.open(directory, { scrubRowsPerSecond: 0, writeBufferBytes: 256 * 1024 });
      }
    }
    await erase('c', 1, 12);
    await scoured();
    assert.deepEqual(await filesWith(SECRET), []);
    assert.equal((await storage.rows(GROUP, 'message', 'z', { limit: 200 })).length, 96);
  });

  it('says no while a snapshot holds the files, and is right once it says yes', async () => {
    await say('c', 1, SECRET);
    const snapshot = storage.openSnapshot(GROUP + 1);
    await erase('c', 1, 1);
    // Deletions of log entries ride along with writes.
    for (let i = 0; i < 3; i++) await write({});
    for (let i = 0; i < 3; i++) assert.equal(await storage.scour(GROUP, ['c']), false);
    await snapshot.close();
    await scoured();
    assert.deepEqual(await filesWith(SECRET), []);
  });
});
