/** Rows, positions and facts of a store as they are read before, during and after writes, and damage being found. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { ClassicLevel } from 'classic-level';
import type { GroupWrite } from '../../raft/ports.ts';
import type { ConfState, Entry } from '../../raft/types.ts';
import type { Table } from '../../src/contexts/types.ts';
import { DISK_FORMAT } from '../../src/constants.ts';
import { DamageError, sealed } from '../../src/storage/checksum.ts';
import { writeU32 } from '../../src/storage/integers.ts';
import { groupKey, logKey, NODE_KEY, Space, stateKey } from '../../src/storage/keys.ts';
import type { StorageOptions } from '../../src/storage/store.ts';
import { Storage } from '../../src/storage/store.ts';

const GROUP = 7;
const CONF: ConfState = { voters: [1, 2, 3], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };

function entries(from: number, to: number, term = 1): Entry[] {
  return Array.from({ length: to - from + 1 }, (_, i) => ({ term, index: from + i, type: 0 as const, data: Buffer.from(`entry ${from + i}`) }));
}

function part(given: Partial<GroupWrite>): GroupWrite {
  return { group: GROUP, hardState: { term: 2, vote: 0, commit: 0 }, entries: [], snapshot: null, compactTo: 0, ...given };
}

function write(storage: Storage, ...groups: GroupWrite[]): Promise<void> {
  return new Promise((resolve, reject) => storage.write(groups, (error) => (error === null ? resolve() : reject(error))));
}

function text(row: Uint8Array | undefined): string | undefined {
  return row === undefined ? undefined : Buffer.from(row).toString();
}

describe('storage', () => {
  let directory = '';
  let storage: Storage;
  let damage: [number, string][] = [];

  const open = async (options: Partial<StorageOptions> = {}): Promise<void> => {
    storage = await Storage.open(directory, { onDamage: (group, reason) => damage.push([group, reason]), ...options });
  };

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'storage-'));
    damage = [];
    await open();
    await storage.createGroup(GROUP, { replica: 2, conf: CONF, index: 0, term: 0 });
  });

  afterEach(async () => {
    await storage.close();
    await rm(directory, { recursive: true });
  });

  const put = (key: number, value: string | null, context = 'c', table: Table = 'message'): void => {
    storage.put(GROUP, { table, context, key, value: value === null ? null : Buffer.from(value) });
  };
  const get = (key: number, context = 'c'): string | undefined => text(storage.get(GROUP, 'message', context, key));

  /** Works on the rows as they lie on disk, while the store is closed. */
  async function tamper(work: (db: ClassicLevel<Uint8Array, Uint8Array>) => Promise<void>): Promise<void> {
    await storage.close();
    const db = new ClassicLevel<Uint8Array, Uint8Array>(join(directory, 'db'), { keyEncoding: 'view', valueEncoding: 'view', compression: false });
    await db.open();
    await work(db);
    await db.close();
  }

  async function flipBit(key: Uint8Array, at: number): Promise<void> {
    await tamper(async (db) => {
      const value = (await db.get(key))?.slice();
      assert.ok(value !== undefined);
      const position = at < 0 ? value.length + at : at;
      value[position] = (value[position] ?? 0) ^ 1;
      await db.put(key, value);
    });
  }

  it('keys come in pages that miss and repeat none, whatever is not written yet', async () => {
    const pages = async (limit: number): Promise<unknown[]> => {
      const found: unknown[] = [];
      for (let after: number | string | null = null; ; ) {
        const keys: (number | string)[] = await storage.keys(GROUP, 'message', 'c', { after, limit });
        found.push(...keys);
        if (keys.length < limit) return found;
        after = keys.at(-1) ?? null;
      }
    };
    for (let key = 1; key <= 300; key += 2) put(key, 'x');
    for (const context of ['b', 'c2']) put(7, 'other', context);
    await write(storage, part({}));
    for (let key = 2; key <= 300; key += 4) put(key, 'x');
    for (let key = 1; key <= 300; key += 10) put(key, null);
    const left = Array.from({ length: 300 }, (_, i) => i + 1).filter((key) => (key % 2 === 1 ? key % 10 !== 1 : key % 4 === 2));
    for (const limit of [1, 7, 50, 1000]) assert.deepEqual(await pages(limit), left, `limit ${limit}`);
    await write(storage, part({}));
    assert.deepEqual(await pages(7), left);
    for (const key of ['a', 'a\0b', 'ü', 'z']) storage.put(GROUP, { table: 'openCall', context: 'c', key, value: Buffer.from('x') });
    assert.deepEqual(await storage.keys(GROUP, 'openCall', 'c', { after: 'a', limit: 10 }), ['a\0b', 'z', 'ü']);
  });

  it('lists name the contexts that have a row there, in order', async () => {
    const list = (context: string, isListed: boolean): void => storage.put(GROUP, { table: 'unarchived', context, key: '', value: isListed ? Buffer.of(1) : null });
    for (const context of ['b', 'a', 'c2', 'c']) list(context, true);
    storage.put(GROUP, { table: 'expiring', context: 'a', key: '', value: Buffer.of(1) });
    await write(storage, part({}));
    list('b', false);
    list('bb', true);
    assert.deepEqual(await storage.listed(GROUP, 'unarchived', { limit: 10 }), ['a', 'bb', 'c', 'c2']);
    assert.deepEqual(await storage.listed(GROUP, 'unarchived', { after: 'a', limit: 2 }), ['bb', 'c']);
    assert.deepEqual(await storage.listed(GROUP, 'purging', { limit: 2 }), []);
  });

  it('shows rows at once, while their write is in flight, and after it; deletions too', async () => {
    put(1, 'one');
    put(2, 'two');
    assert.deepEqual([get(1), get(2), get(3)], ['one', 'two', undefined]);
    // Another job goes first, so that this write has certainly not reached LevelDB yet.
    const fact = storage.facts.put('first', Buffer.from('of all'));
    const first = write(storage);
    assert.equal(get(1), 'one');
    put(1, 'uno');
    put(2, null);
    assert.deepEqual([get(1), get(2)], ['uno', undefined]);
    await Promise.all([fact, first]);
    assert.deepEqual([get(1), get(2)], ['uno', undefined]);
    assert.ok(storage.hasPendingState(), 'rows put during a write belong to the next');
    await write(storage);
    assert.deepEqual([get(1), get(2), storage.hasPendingState()], ['uno', undefined, false]);
    await storage.close();
    await open();
    assert.deepEqual([get(1), get(2)], ['uno', undefined]);
  });

  it('writes pending rows and positions when it closes', async () => {
    await write(storage, part({ entries: entries(1, 3) , hardState: { term: 1, vote: 0, commit: 3 } }));
    put(1, 'one');
    storage.setStateHash(GROUP, 99);
    storage.setApplied(GROUP, { index: 3, term: 1, conf: null });
    await storage.close();
    await open();
    assert.deepEqual([get(1), storage.durableApplied(GROUP), storage.stateHash(GROUP)], ['one', 3, 99]);
  });

  it('keeps tables, contexts, kinds of keys and groups apart', async () => {
    await storage.createGroup(8, { replica: 2, conf: CONF, index: 0, term: 0 }, [{ table: 'message', context: 'c', key: 1, value: Buffer.from('other group') }]);
    put(1, 'message');
    put(1, 'compaction', 'c', 'compaction');
    put(1, 'longer id', 'cc');
    put(1, 'not ascii', 'ü');
    storage.put(GROUP, { table: 'openCall', context: 'c', key: 'call', value: Buffer.from('call') });
    storage.put(GROUP, { table: 'openCall', context: 'cc', key: 'all', value: Buffer.from('no collision') });
    storage.put(GROUP, { table: 'header', context: 'c', key: '', value: new Uint8Array(0) });
    for (const check of [1, 2]) {
      assert.deepEqual([get(1), get(1, 'cc'), get(1, 'ü')], ['message', 'longer id', 'not ascii'], `round ${check}`);
      assert.equal(text(storage.get(GROUP, 'compaction', 'c', 1)), 'compaction');
      assert.equal(text(storage.get(GROUP, 'openCall', 'c', 'call')), 'call');
      assert.equal(text(storage.get(GROUP, 'openCall', 'cc', 'all')), 'no collision');
      assert.equal(storage.get(GROUP, 'header', 'c', '')?.length, 0);
      assert.equal(text(storage.get(8, 'message', 'c', 1)), 'other group');
      await write(storage);
    }
  });

  it('merges what is pending, in flight and on disk into ranges, in order', async () => {
    for (let key = 0; key < 10; key++) put(key, `disk ${key}`);
    put(3, 'elsewhere', 'd');
    await write(storage);
    put(4, 'in flight 4');
    put(5, null);
    put(12, 'in flight 12');
    put(8, 'in flight 8');
    const fact = storage.facts.put('first', Buffer.from('of all'));
    const done = write(storage);
    put(5, 'pending 5');
    put(6, null);
    put(11, 'pending 11');
    put(8, null);
    const expected = ['2 disk 2', '3 disk 3', '4 in flight 4', '5 pending 5', '7 disk 7', '9 disk 9', '11 pending 11', '12 in flight 12'];
    const read = async (range: { gte?: number; lt?: number; limit: number }): Promise<string[]> =>
      (await storage.rows(GROUP, 'message', 'c', range)).map(({ key, value }) => `${key} ${text(value)}`);
    assert.deepEqual(await read({ gte: 2, limit: 100 }), expected);
    await Promise.all([fact, done]);
    assert.deepEqual(await read({ gte: 2, lt: 12, limit: 100 }), expected.slice(0, -1));
    for (let limit = 1; limit <= expected.length; limit++) assert.deepEqual(await read({ gte: 2, limit }), expected.slice(0, limit));
    await write(storage);
    assert.deepEqual(await read({ gte: 2, limit: 100 }), expected);
  });

  it('lists contexts in id order, by prefix and page, written or not', async () => {
    const header = (context: string, value: string | null = 'h'): void => put0(context, value);
    const put0 = (context: string, value: string | null): void => storage.put(GROUP, { table: 'header', context, key: '', value: value === null ? null : Buffer.from(value) });
    for (const context of ['b', 'a', 'ab', 'abc', 'b b', 'ÿ']) header(context);
    await write(storage);
    header('aa');
    header('ab', null);
    header('zz');
    const list = async (range: { after?: string; prefix?: string; limit: number }): Promise<string[]> => (await storage.contexts(GROUP, range)).map(({ context }) => context);
    const all = ['a', 'aa', 'abc', 'b', 'b b', 'zz', 'ÿ'];
    assert.deepEqual(await list({ limit: 100 }), all);
    const paged: string[] = [];
    for (;;) {
      const after = paged[paged.length - 1];
      const page = await list(after === undefined ? { limit: 2 } : { after, limit: 2 });
      if (page.length === 0) break;
      paged.push(...page);
    }
    assert.deepEqual(paged, all);
    assert.deepEqual(await list({ prefix: 'a', limit: 100 }), ['a', 'aa', 'abc']);
    assert.deepEqual(await list({ prefix: 'a', after: 'aa', limit: 100 }), ['abc']);
    assert.deepEqual(await list({ prefix: 'b', after: 'a', limit: 100 }), ['b', 'b b']);
    assert.deepEqual(await list({ prefix: 'a', after: 'b', limit: 100 }), []);
  });

  it('keeps facts about the node across restarts, and changes one only when it is synced', async () => {
    await storage.facts.put('identity', Buffer.from('first'));
    const second = storage.facts.put('identity', Buffer.from('second'));
    assert.equal(text(storage.facts.get('identity')), 'first');
    await second;
    assert.equal(text(storage.facts.get('identity')), 'second');
    await storage.close();
    await open();
    assert.equal(text(storage.facts.get('identity')), 'second');
    assert.equal(storage.facts.get('none'), undefined);
  });

  it('refuses a write that contradicts the log', async () => {
    await write(storage, part({ entries: entries(1, 5) }));
    const refused = (given: Partial<GroupWrite>): void => assert.throws(() => storage.write([part(given)], () => undefined), RangeError);
    refused({ entries: entries(7, 8) });
    await storage.close();
    await open();
    refused({ compactTo: 3 });
    await storage.close();
    await open();
    storage.setApplied(GROUP, { index: 6, term: 1, conf: null });
    refused({ entries: entries(6, 6) });
    await storage.close();
    await open();
    assert.equal(storage.log(GROUP).lastIndex(), 5);
  });

  it('deletes a group with all its rows, and founds it anew without them', async () => {
    put(1, 'old life');
    await write(storage, part({ entries: entries(1, 5) }));
    await storage.deleteGroup(GROUP);
    assert.deepEqual(storage.groups(), []);
    await storage.createGroup(GROUP, { replica: 9, conf: CONF, index: 3, term: 2 });
    assert.equal(get(1), undefined);
    assert.equal(storage.log(GROUP).firstIndex(), 4);
    await storage.close();
    await open();
    assert.deepEqual(storage.groups(), [{ group: GROUP, replica: 9, damaged: null }]);
    assert.equal(get(1), undefined);
    // The rows of the old life go by and by, with or without a restart between.
    await until(async () => {
      let rows = 0;
      await tamper(async (db) => {
        rows = 0;
        for (const space of [Space.log, Space.state]) rows += (await db.keys({ gte: Uint8Array.of(space), lt: Uint8Array.of(space + 1) }).all()).length;
      });
      await open();
      return rows === 0;
    });
  });

  it('deletes compacted entries from disk in the background', async () => {
    await write(storage, part({ entries: entries(1, 2000) }));
    storage.setApplied(GROUP, { index: 2000, term: 1, conf: null });
    await write(storage, part({ compactTo: 1501 }));
    assert.equal(storage.log(GROUP).firstIndex(), 1501);
    await until(async () => {
      let left = 0;
      await tamper(async (db) => {
        left = (await db.keys({ gte: logKey(GROUP, 1, 0), lt: logKey(GROUP, 1, Number.MAX_SAFE_INTEGER) }).all()).length;
      });
      await open();
      assert.equal(storage.log(GROUP).entries(1501, 2001, 1e9).length, 500);
      return left === 500;
    });
  });

  for (const at of [0, 8, 10, -1]) {
    it(`finds a flipped bit in a log entry at open (byte ${at}): the group is marked for good, the others run on`, async () => {
      await storage.createGroup(8, { replica: 2, conf: CONF, index: 0, term: 0 });
      await write(storage, part({ entries: entries(1, 5), hardState: { term: 1, vote: 0, commit: 5 } }));
      await flipBit(logKey(GROUP, 1, 3), at);
      await open();
      assert.match(storage.groups().find(({ group }) => group === GROUP)?.damaged ?? '', /log entry 3 of group 7 is damaged/);
      assert.throws(() => storage.log(GROUP), DamageError);
      assert.throws(() => storage.openSnapshot(GROUP), DamageError);
      assert.equal(storage.log(8).lastIndex(), 0);
      // Even if the row were right again, the mark stays.
      await flipBit(logKey(GROUP, 1, 3), at);
      await open();
      assert.match(storage.groups().find(({ group }) => group === GROUP)?.damaged ?? '', /log entry 3/);
      await storage.deleteGroup(GROUP);
      await storage.createGroup(GROUP, { replica: 12, conf: CONF, index: 0, term: 0 });
      assert.deepEqual(storage.groups().find(({ group }) => group === GROUP), { group: GROUP, replica: 12, damaged: null });
    });
  }

  it('finds a hole, a lost end and a row under another key in a log at open', async () => {
    const expected: [RegExp, (db: ClassicLevel<Uint8Array, Uint8Array>) => Promise<void>][] = [
      [/log entry 3 of group 7 is missing/, (db) => db.del(logKey(GROUP, 1, 3))],
      [/log of group 7 ends at 4 instead of 5/, (db) => db.del(logKey(GROUP, 1, 5))],
      [/log entry 2 of group 7 is damaged/, async (db) => db.put(logKey(GROUP, 1, 2), (await db.get(logKey(GROUP, 1, 4))) ?? new Uint8Array(0))],
    ];
    for (const [reason, work] of expected) {
      await write(storage, part({ entries: entries(1, 5), hardState: { term: 1, vote: 0, commit: 5 } }));
      await tamper(work);
      await open();
      assert.match(storage.groups()[0]?.damaged ?? '', reason);
      await storage.deleteGroup(GROUP);
      await rm(directory, { recursive: true, force: true, maxRetries: 3 }).catch(() => undefined);
      await storage.close();
      directory = await mkdtemp(join(tmpdir(), 'storage-'));
      await open();
      await storage.createGroup(GROUP, { replica: 2, conf: CONF, index: 0, term: 0 });
    }
  });

  it('finds a flipped bit in the record of a group at open', async () => {
    await flipBit(groupKey(Space.group, GROUP), 10);
    await open();
    assert.match(storage.groups()[0]?.damaged ?? '', /record of group 7 is damaged/);
    assert.throws(() => storage.log(GROUP), RangeError);
    await assert.rejects(storage.createGroup(GROUP, { replica: 3, conf: CONF, index: 0, term: 0 }), RangeError);
  });

  it('finds a flipped bit in a state row when it is read, in a range and in a snapshot, and never serves it', async () => {
    put(1, 'good');
    put(2, 'bad');
    await write(storage);
    await flipBit(stateKey(GROUP, 1, { table: 'message', context: 'c', key: 2 }), 1);
    await open();
    assert.equal(get(1), 'good');
    const snapshot = storage.openSnapshot(GROUP);
    await assert.rejects(snapshot.read('', 1 << 20), DamageError);
    await snapshot.close();
    assert.throws(() => get(2), DamageError);
    await assert.rejects(storage.rows(GROUP, 'message', 'c', { limit: 10 }), DamageError);
    assert.equal(damage.length, 1, 'told once');
    assert.equal(damage[0]?.[0], GROUP);
    await storage.close();
    await open();
    assert.match(storage.groups()[0]?.damaged ?? '', /damaged/);
  });

  it('finds a flipped bit by scrubbing, in rows that nobody reads', async () => {
    for (let key = 0; key < 50; key++) put(key, `row ${key}`);
    await write(storage, part({ entries: entries(1, 50) }));
    await flipBit(stateKey(GROUP, 1, { table: 'message', context: 'c', key: 33 }), 0);
    await open({ scrubRowsPerSecond: 10_000 });
    await until(async () => damage.length > 0);
    assert.match(damage[0]?.[1] ?? '', /state row of group 7/);
    assert.ok(storage.stats().scrubbedRows >= 84, 'the log was read too');
  });

  it('stops at a disk of a later format and at a damaged fact, with a line that says so', async () => {
    await tamper(async (db) => {
      const format = new Uint8Array(4);
      writeU32(format, 0, DISK_FORMAT + 1);
      await db.put(NODE_KEY, sealed(NODE_KEY, format));
    });
    await assert.rejects(open(), /disk format 2, this program reads format 1/);
    await tamper((db) => db.del(NODE_KEY));
    await assert.rejects(open(), DamageError);
  });

  it('reports free space by its two marks and gives the ballast back', async () => {
    await storage.close();
    await open({ ballastBytes: 3_000_000 });
    const file = await stat(join(directory, 'ballast'));
    assert.equal(file.size, 3_000_000);
    assert.ok(file.blocks * 512 >= 3_000_000, 'real bytes, not a sparse file');
    assert.equal(storage.spaceState, 'ok');
    await storage.releaseBallast();
    await assert.rejects(stat(join(directory, 'ballast')));
    await storage.close();
    await open({ freeSoftBytes: 2 ** 52, freeHardBytes: 1 });
    assert.equal(storage.spaceState, 'soft');
    await storage.close();
    await open({ freeSoftBytes: 2 ** 52, freeHardBytes: 2 ** 51 });
    assert.equal(storage.spaceState, 'hard');
  });

  it('reads entries from disk once the cache gave way', async () => {
    await storage.close();
    await open({ entryCacheGroupBytes: 1000, entryCacheBytes: 1500 });
    await storage.createGroup(8, { replica: 2, conf: CONF, index: 0, term: 0 });
    for (let from = 1; from < 200; from += 20) await write(storage, part({ entries: entries(from, from + 19) }), part({ group: 8, entries: entries(from, from + 19) }));
    await write(storage, part({ entries: entries(150, 160, 2) }));
    for (const group of [GROUP, 8]) {
      const log = storage.log(group);
      for (const entry of log.entries(1, log.lastIndex() + 1, 1e9)) {
        assert.equal(Buffer.from(entry.data).toString(), `entry ${entry.index}`);
        assert.equal(entry.term, log.term(entry.index));
      }
    }
    assert.equal(storage.log(GROUP).lastIndex(), 160);
    assert.equal(storage.log(8).lastIndex(), 200);
  });
});

/** Waits for a condition, at most ten seconds. */
async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, 'the condition did not come about in time');
    await delay(60);
  }
}
