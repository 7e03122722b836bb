/**
 * What every HostStorage must do, whoever implements it. Call `hostStorageConformance` with a way to open one; the
 * in-memory model of the simulation and the LevelDB store both pass it, so that what the simulation proves of the host
 * holds for the disk that production runs on.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { GroupWrite, HostStorage } from '../../raft/ports.ts';
import type { ConfState, Entry, GroupId, ReplicaId, SnapshotMeta } from '../../raft/types.ts';
import { EntryType } from '../../raft/types.ts';

export interface StorageUnderTest {
  readonly storage: HostStorage;
  /** Founds a group: an empty log behind (index, term), with this membership. Durable when it resolves. */
  createGroup(group: GroupId, founding: { replica: ReplicaId; conf: ConfState; index: number; term: number }): Promise<void>;
  /** Stages a snapshot without rows, so that a write may make it current. */
  stage(group: GroupId, meta: SnapshotMeta): Promise<void>;
  /** Closes in an orderly way and opens again. */
  reopen(): Promise<StorageUnderTest>;
  close(): Promise<void>;
}

const CONF: ConfState = { voters: [1, 2, 3], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const OTHER_CONF: ConfState = { voters: [1, 2, 4], votersOutgoing: [1, 2, 3], learners: [5], learnersNext: [6], autoLeave: true };
const ALL = Number.MAX_SAFE_INTEGER;

function entry(index: number, term: number, text = `${term}.${index}`): Entry {
  return { index, term, type: EntryType.normal, data: new TextEncoder().encode(text) };
}

function entries(from: number, to: number, term: number, bytes = 10): Entry[] {
  const made: Entry[] = [];
  for (let index = from; index <= to; index++) made.push({ index, term, type: EntryType.normal, data: new Uint8Array(bytes).fill(index % 251) });
  return made;
}

function groupWrite(group: GroupId, part: Partial<GroupWrite>): GroupWrite {
  return { group, hardState: null, entries: [], snapshot: null, compactTo: 0, ...part };
}

/** Resolves when the write is durable. */
function write(storage: HostStorage, ...groups: GroupWrite[]): Promise<void> {
  return new Promise((resolve, reject) => {
    storage.write(groups, (error) => (error === null ? resolve() : reject(error)));
  });
}

/** The log as plain values, for comparing. */
function contents(storage: HostStorage, group: GroupId): { first: number; last: number; entries: { index: number; term: number; type: number; data: string }[] } {
  const log = storage.log(group);
  const first = log.firstIndex();
  const last = log.lastIndex();
  const found = last < first ? [] : log.entries(first, last + 1, ALL);
  return { first, last, entries: found.map(({ index, term, type, data }) => ({ index, term, type, data: Buffer.from(data).toString('latin1') })) };
}

function plain(list: readonly Entry[]): { index: number; term: number; type: number; data: string }[] {
  return list.map(({ index, term, type, data }) => ({ index, term, type, data: Buffer.from(data).toString('latin1') }));
}

/** Registers the suite under `name`. `open` gives an empty store each time. */
export function hostStorageConformance(name: string, open: () => Promise<StorageUnderTest>): void {
  /** Runs `check` on a founded group 7, then again on the reopened store where the case says that nothing changes. */
  async function withGroup(check: (under: StorageUnderTest) => Promise<StorageUnderTest | void>): Promise<void> {
    const under = await open();
    let last = under;
    try {
      await under.createGroup(7, { replica: 1, conf: CONF, index: 1, term: 1 });
      last = (await check(under)) ?? under;
    } finally {
      await last.close();
    }
  }

  describe(`host storage: ${name}`, () => {
    it('founds a group with an empty log behind its first position', async () => {
      await withGroup(async (under) => {
        const check = ({ storage }: StorageUnderTest): void => {
          const log = storage.log(7);
          assert.equal(log.firstIndex(), 2);
          assert.equal(log.lastIndex(), 1);
          assert.equal(log.term(1), 1);
          assert.equal(log.appliedIndex, 1);
          assert.equal(storage.durableApplied(7), 1);
          assert.deepEqual(log.conf, CONF);
          // The log's last term may never be beyond the replica's term.
          assert.ok(log.hardState.term >= 1);
          assert.equal(log.hardState.vote, 0);
        };
        check(under);
        const reopened = await under.reopen();
        check(reopened);
        return reopened;
      });
    });

    it('keeps entries and hard state of a write, and shows them once it is done', async () => {
      await withGroup(async (under) => {
        const { storage } = under;
        const hardState = { term: 3, vote: 2, commit: 2 };
        const written = [entry(2, 2), { ...entry(3, 3), type: EntryType.confChange }, { ...entry(4, 3), data: new Uint8Array(0) }];
        const done = write(storage, groupWrite(7, { hardState, entries: written }));
        assert.equal(storage.log(7).lastIndex(), 1, 'a write in flight is not visible');
        await done;
        const check = ({ storage: at }: StorageUnderTest): void => {
          assert.deepEqual(contents(at, 7), { first: 2, last: 4, entries: plain(written) });
          assert.deepEqual({ ...at.log(7).hardState }, hardState);
          assert.deepEqual([0, 1, 2, 3, 4, 5].map((index) => at.log(7).term(index)), [-1, 1, 2, 3, 3, -1]);
        };
        check(under);
        const reopened = await under.reopen();
        check(reopened);
        return reopened;
      });
    });

    it('a reader taken before a write reflects it afterwards', async () => {
      await withGroup(async ({ storage }) => {
        const log = storage.log(7);
        await write(storage, groupWrite(7, { entries: entries(2, 5, 1) }));
        assert.equal(log.lastIndex(), 5);
        assert.equal(log.entries(5, 6, ALL)[0]?.index, 5);
      });
    });

    it('replaces the tail from the first entry of a write', async () => {
      await withGroup(async (under) => {
        const { storage } = under;
        await write(storage, groupWrite(7, { hardState: { term: 1, vote: 1, commit: 2 }, entries: entries(2, 9, 1) }));
        const replacement = [entry(4, 2), entry(5, 2)];
        await write(storage, groupWrite(7, { hardState: { term: 2, vote: 2, commit: 2 }, entries: replacement }));
        const expected = { first: 2, last: 5, entries: plain([...entries(2, 3, 1), ...replacement]) };
        assert.deepEqual(contents(storage, 7), expected);
        assert.equal(storage.log(7).term(6), -1);
        const reopened = await under.reopen();
        assert.deepEqual(contents(reopened.storage, 7), expected);
        await write(reopened.storage, groupWrite(7, { entries: [entry(6, 3)] }));
        assert.equal(reopened.storage.log(7).term(6), 3);
        return reopened;
      });
    });

    it('reads at least one entry and stops before the byte limit is passed', async () => {
      await withGroup(async ({ storage }) => {
        await write(storage, groupWrite(7, { entries: entries(2, 9, 1, 10_000) }));
        const log = storage.log(7);
        assert.deepEqual(log.entries(2, 10, 1).map((each) => each.index), [2]);
        const some = log.entries(2, 10, 35_000).length;
        assert.ok(some === 3, `35,000 bytes hold three entries of 10,000, not ${some}`);
        assert.equal(log.entries(4, 6, ALL).length, 2);
      });
    });

    it('refuses to read outside the log', async () => {
      await withGroup(async ({ storage }) => {
        await write(storage, groupWrite(7, { entries: entries(2, 4, 1) }));
        const log = storage.log(7);
        assert.throws(() => log.entries(1, 3, ALL), RangeError);
        assert.throws(() => log.entries(3, 6, ALL), RangeError);
        assert.throws(() => log.entries(5, 6, ALL), RangeError);
      });
    });

    it('writes several groups at once and keeps them apart', async () => {
      await withGroup(async (under) => {
        await under.createGroup(8, { replica: 4, conf: OTHER_CONF, index: 5, term: 2 });
        await write(
          under.storage,
          groupWrite(7, { entries: entries(2, 3, 1) }),
          groupWrite(8, { hardState: { term: 9, vote: 4, commit: 5 }, entries: entries(6, 8, 9) }),
        );
        const check = ({ storage }: StorageUnderTest): void => {
          assert.deepEqual(contents(storage, 7), { first: 2, last: 3, entries: plain(entries(2, 3, 1)) });
          assert.deepEqual(contents(storage, 8), { first: 6, last: 8, entries: plain(entries(6, 8, 9)) });
          assert.deepEqual(storage.log(8).conf, OTHER_CONF);
          assert.equal(storage.log(8).hardState.vote, 4);
          assert.equal(storage.log(7).hardState.vote, 0);
        };
        check(under);
        const reopened = await under.reopen();
        check(reopened);
        return reopened;
      });
    });

    it('lets applied state ride in the next write, and counts it as durable only then', async () => {
      await withGroup(async (under) => {
        const { storage } = under;
        await write(storage, groupWrite(7, { entries: entries(2, 6, 1) }));
        assert.equal(storage.hasPendingState(), false);
        storage.setApplied(7, { index: 3, term: 1, conf: null });
        assert.equal(storage.hasPendingState(), true);
        assert.equal(storage.durableApplied(7), 1);
        const done = write(storage);
        // This one came after the write began: it belongs to the next.
        storage.setApplied(7, { index: 5, term: 1, conf: OTHER_CONF });
        await done;
        assert.equal(storage.durableApplied(7), 3);
        assert.equal(storage.hasPendingState(), true);
        storage.setApplied(7, { index: 6, term: 1, conf: null });
        await write(storage);
        assert.equal(storage.durableApplied(7), 6);
        assert.equal(storage.hasPendingState(), false);
        const reopened = await under.reopen();
        assert.equal(reopened.storage.log(7).appliedIndex, 6);
        assert.deepEqual(reopened.storage.log(7).conf, OTHER_CONF, 'a later position without a membership keeps the last one');
        return reopened;
      });
    });

    it('compacts: the log starts where it was told, and still knows the term before', async () => {
      await withGroup(async (under) => {
        const { storage } = under;
        await write(storage, groupWrite(7, { entries: [...entries(2, 5, 1), ...entries(6, 9, 2)], hardState: { term: 2, vote: 0, commit: 9 } }));
        storage.setApplied(7, { index: 9, term: 2, conf: null });
        await write(storage);
        await write(storage, groupWrite(7, { compactTo: 7 }));
        const check = ({ storage: at }: StorageUnderTest): void => {
          assert.deepEqual(contents(at, 7), { first: 7, last: 9, entries: plain(entries(7, 9, 2)) });
          assert.equal(at.log(7).term(6), 2);
          assert.equal(at.log(7).term(5), -1);
          assert.throws(() => at.log(7).entries(6, 8, ALL), RangeError);
        };
        check(under);
        const reopened = await under.reopen();
        check(reopened);
        return reopened;
      });
    });

    it('compacts the whole log away and goes on behind it', async () => {
      await withGroup(async (under) => {
        const { storage } = under;
        await write(storage, groupWrite(7, { entries: entries(2, 5, 4), hardState: { term: 4, vote: 0, commit: 5 } }));
        storage.setApplied(7, { index: 5, term: 4, conf: null });
        await write(storage);
        await write(storage, groupWrite(7, { compactTo: 6 }));
        assert.deepEqual(contents(storage, 7), { first: 6, last: 5, entries: [] });
        const reopened = await under.reopen();
        assert.deepEqual(contents(reopened.storage, 7), { first: 6, last: 5, entries: [] });
        assert.equal(reopened.storage.log(7).term(5), 4);
        await write(reopened.storage, groupWrite(7, { entries: [entry(6, 5)] }));
        assert.deepEqual(contents(reopened.storage, 7), { first: 6, last: 6, entries: plain([entry(6, 5)]) });
        return reopened;
      });
    });

    it('compacts and replaces the tail in one write', async () => {
      await withGroup(async (under) => {
        const { storage } = under;
        await write(storage, groupWrite(7, { entries: entries(2, 9, 1) }));
        storage.setApplied(7, { index: 4, term: 1, conf: null });
        await write(storage);
        await write(storage, groupWrite(7, { hardState: { term: 2, vote: 0, commit: 4 }, entries: [entry(7, 2)], compactTo: 4 }));
        const expected = { first: 4, last: 7, entries: plain([...entries(4, 6, 1), entry(7, 2)]) };
        assert.deepEqual(contents(storage, 7), expected);
        const reopened = await under.reopen();
        assert.deepEqual(contents(reopened.storage, 7), expected);
        return reopened;
      });
    });

    it('makes a staged snapshot current: position, membership and an empty log behind it', async () => {
      await withGroup(async (under) => {
        const { storage } = under;
        await write(storage, groupWrite(7, { entries: entries(2, 9, 1), hardState: { term: 1, vote: 2, commit: 5 } }));
        storage.setApplied(7, { index: 5, term: 1, conf: null });
        const meta: SnapshotMeta = { index: 40, term: 6, conf: OTHER_CONF };
        await under.stage(7, meta);
        assert.equal(storage.log(7).lastIndex(), 9, 'staging alone changes nothing');
        await write(storage, groupWrite(7, { hardState: { term: 6, vote: 0, commit: 40 }, snapshot: meta, entries: entries(41, 42, 6) }));
        const check = ({ storage: at }: StorageUnderTest): void => {
          assert.deepEqual(contents(at, 7), { first: 41, last: 42, entries: plain(entries(41, 42, 6)) });
          assert.equal(at.log(7).term(40), 6);
          assert.equal(at.log(7).term(39), -1);
          assert.equal(at.durableApplied(7), 40, 'applied state put before it is superseded');
          assert.deepEqual({ ...at.log(7).hardState }, { term: 6, vote: 0, commit: 40 });
        };
        check(under);
        const reopened = await under.reopen();
        check(reopened);
        assert.equal(reopened.storage.log(7).appliedIndex, 40);
        assert.deepEqual(reopened.storage.log(7).conf, OTHER_CONF);
        return reopened;
      });
    });

    it('forgets a staged snapshot that no write made current', async () => {
      await withGroup(async (under) => {
        await write(under.storage, groupWrite(7, { entries: entries(2, 4, 1) }));
        await under.stage(7, { index: 40, term: 6, conf: OTHER_CONF });
        const reopened = await under.reopen();
        assert.deepEqual(contents(reopened.storage, 7), { first: 2, last: 4, entries: plain(entries(2, 4, 1)) });
        assert.deepEqual(reopened.storage.log(7).conf, CONF);
        return reopened;
      });
    });

    it('accounts for the bytes of the log', async () => {
      await withGroup(async ({ storage }) => {
        const empty = storage.logBytes(7);
        await write(storage, groupWrite(7, { entries: entries(2, 21, 1, 5_000) }));
        const full = storage.logBytes(7);
        assert.ok(full - empty >= 100_000 && full - empty < 120_000, `20 entries of 5,000 bytes are not ${full - empty}`);
        assert.equal(storage.firstIndexKeeping(7, ALL), 2);
        assert.equal(storage.firstIndexKeeping(7, 0), 22);
        const half = storage.firstIndexKeeping(7, 52_500);
        assert.ok(half >= 11 && half <= 14, `52,500 bytes are about ten of twenty entries, not from ${half}`);
        storage.setApplied(7, { index: 21, term: 1, conf: null });
        await write(storage);
        await write(storage, groupWrite(7, { compactTo: half }));
        assert.ok(storage.logBytes(7) <= 60_000);
      });
    });
  });
}
