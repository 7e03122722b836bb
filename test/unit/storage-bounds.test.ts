/** What a crash leaves of writes that only append, and of applied state that waits for company. */
import assert from 'node:assert/strict';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { GroupWrite } from '../../raft/ports.ts';
import type { ConfState, Entry } from '../../raft/types.ts';
import { ConfChangeType, EntryType } from '../../raft/types.ts';
import { encodeConfChange } from '../../raft/confchange.ts';
import { PENDING_BYTES_MAX, RIDE_ROWS_MIN, STATE_BYTES_MAX, Storage } from '../../src/storage/store.ts';
import { STEP_ROWS } from '../../src/storage/sweeper.ts';

const GROUP = 7;
const OTHER = 8;
const CONF: ConfState = { voters: [1, 2, 3], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const FOREVER_MS = 3_600_000;

function entries(from: number, to: number, term = 1): Entry[] {
  return Array.from({ length: to - from + 1 }, (_, i) => ({ term, index: from + i, type: EntryType.normal, data: Buffer.from(`entry ${from + i} of ${term}`) }));
}

describe('applied state waits for company in a write', () => {
  let directory = '';
  let storage: Storage;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'bounds-'));
    storage = await Storage.open(join(directory, 'live'), { stateFlushMs: FOREVER_MS });
    await storage.createGroups([GROUP, OTHER].map((group) => ({ group, replica: 2, conf: CONF, index: 0, term: 1 })));
  });

  afterEach(async () => {
    await storage.close();
    await rm(directory, { recursive: true });
  });

  const write = (...groups: Partial<GroupWrite>[]): Promise<void> => {
    const whole = groups.map((given) => ({ group: GROUP, hardState: null, entries: [], snapshot: null, compactTo: 0, ...given }));
    return new Promise((resolve, reject) => storage.write(whole, (error) => (error === null ? resolve() : reject(error))));
  };
  const apply = (index: number, group = GROUP): void => {
    storage.put(group, { table: 'message', context: 'c', key: index, value: Buffer.from(`message ${index}`) });
    storage.setApplied(group, { index, term: 1, conf: null });
  };
  /** The disk as a crash at this moment leaves it, opened; every write so far was synced. */
  async function crashed<T>(look: (storage: Storage) => T): Promise<T> {
    const copy = await mkdtemp(join(directory, 'crashed-'));
    await cp(join(directory, 'live'), copy, { recursive: true });
    await rm(join(copy, 'db', 'LOCK'), { force: true });
    const opened = await Storage.open(copy);
    try {
      return look(opened);
    } finally {
      await opened.close();
    }
  }
  const texts = (found: Storage, group = GROUP): string[] => {
    const log = found.log(group);
    return log.lastIndex() < log.firstIndex() ? [] : log.entries(log.firstIndex(), log.lastIndex() + 1, Infinity).map(({ data }) => Buffer.from(data).toString());
  };

  it('a crash keeps all that was appended, and the state before it', async () => {
    await write({ entries: entries(1, 2), hardState: { term: 1, vote: 0, commit: 0 } });
    await write({ entries: entries(3, 4), hardState: { term: 1, vote: 0, commit: 2 } }, { group: OTHER, entries: entries(1, 1) });
    apply(1);
    apply(2);
    await write({ entries: entries(5, 5), hardState: { term: 1, vote: 0, commit: 4 } });
    await crashed((found) => {
      assert.deepEqual(texts(found), [1, 2, 3, 4, 5].map((i) => `entry ${i} of 1`));
      assert.deepEqual(texts(found, OTHER), ['entry 1 of 1']);
      assert.equal(found.log(GROUP).appliedIndex, 0);
      assert.equal(found.get(GROUP, 'message', 'c', 1), undefined);
    });
    assert.equal(Buffer.from(storage.get(GROUP, 'message', 'c', 2) ?? []).toString(), 'message 2');
    await write();
    await crashed((found) => {
      assert.equal(found.log(GROUP).appliedIndex, 2);
      assert.equal(Buffer.from(found.get(GROUP, 'message', 'c', 2) ?? []).toString(), 'message 2');
      assert.equal(texts(found).length, 5);
    });
  });

  it('a replaced tail is gone after a crash, however the log grew before and after', async () => {
    await write({ entries: entries(1, 4), hardState: { term: 1, vote: 0, commit: 0 } });
    await write({ entries: entries(5, 6) });
    await write({ entries: entries(3, 3, 2), hardState: { term: 2, vote: 0, commit: 0 } });
    await crashed((found) => assert.deepEqual(texts(found), ['entry 1 of 1', 'entry 2 of 1', 'entry 3 of 2']));
    await write({ entries: entries(4, 4, 2) });
    await crashed((found) => assert.deepEqual(texts(found), ['entry 1 of 1', 'entry 2 of 1', 'entry 3 of 2', 'entry 4 of 2']));
  });

  it('a membership change takes along the commit index that came with it', async () => {
    await write({ entries: entries(1, 2), hardState: { term: 1, vote: 0, commit: 0 } });
    await write({ entries: entries(3, 3), hardState: { term: 1, vote: 0, commit: 2 } });
    assert.equal(await crashed((found) => found.log(GROUP).hardState.commit), 0, 'an append does not carry it');
    const change = { term: 1, index: 4, type: EntryType.confChange, data: encodeConfChange({ changes: [{ type: ConfChangeType.addLearner, replica: 4 }], joint: false, autoLeave: false, context: new Uint8Array() }) };
    await write({ entries: [change], hardState: { term: 1, vote: 0, commit: 3 } });
    assert.equal(await crashed((found) => found.log(GROUP).hardState.commit), 3);
  });

  it('a vote is on disk when its write is done, and with it what was applied', async () => {
    await write({ entries: entries(1, 1), hardState: { term: 1, vote: 0, commit: 0 } });
    apply(1);
    await write({ hardState: { term: 3, vote: 1, commit: 1 } });
    await crashed((found) => {
      assert.deepEqual(found.log(GROUP).hardState, { term: 3, vote: 1, commit: 1 });
      assert.equal(found.log(GROUP).appliedIndex, 1);
    });
  });

  it('a group made anew under the number of a deleted one starts where it was founded', async () => {
    await write({ entries: entries(1, 3), hardState: { term: 1, vote: 0, commit: 0 } });
    await write({ entries: entries(4, 4) });
    await storage.deleteGroup(GROUP);
    await storage.createGroup(GROUP, { replica: 5, conf: CONF, index: 0, term: 0 });
    await crashed((found) => assert.deepEqual([found.log(GROUP).firstIndex(), found.log(GROUP).lastIndex()], [1, 0]));
  });

  it('what has waited long enough asks for a write', async () => {
    await storage.close();
    storage = await Storage.open(join(directory, 'live'), { stateFlushMs: 10 });
    await write({ entries: entries(1, 1), hardState: { term: 1, vote: 0, commit: 0 } });
    assert.equal(storage.hasPendingState(), false);
    apply(1);
    while (!storage.hasPendingState()) await delay(5);
    await write({ group: OTHER, entries: entries(1, 1) });
    assert.equal(storage.hasPendingState(), false);
    assert.equal(await crashed((found) => found.log(GROUP).appliedIndex), 1);
  });

  it('a long log that is compacted leaves in bounded batches, and entries go in between', async () => {
    const LOG = 6000;
    /** An entry, and the row that says where the log ends. */
    const ENTRY_ROWS = 2;
    const batches: number[] = [];
    await storage.close();
    let rows = 0;
    let opened: Storage | null = null;
    const count = (): void => {
      const now = opened?.stats().rows ?? 0;
      batches.push(now - rows);
      rows = now;
    };
    opened = storage = await Storage.open(join(directory, 'live'), { onSynced: count });
    await write({ entries: entries(1, LOG), hardState: { term: 1, vote: 0, commit: LOG } });
    apply(LOG);
    await write({});
    batches.length = 0;
    await write({ compactTo: LOG + 1 });
    const gone = (): number => batches.reduce((sum, count) => sum + count, 0);
    let index = LOG;
    while (gone() < LOG + (index - LOG) * ENTRY_ROWS) {
      index++;
      await write({ entries: entries(index, index) });
      await delay(1);
    }
    // A step, what rides along with any write, two more for its entry, and what the write itself holds.
    const most = Math.max(...batches);
    assert.ok(most <= STEP_ROWS + RIDE_ROWS_MIN + 2 + ENTRY_ROWS, `${most} rows in one batch`);
    assert.ok(most > RIDE_ROWS_MIN + 2 + ENTRY_ROWS, 'steps came between');
    assert.ok(index - LOG > 5, 'entries were written meanwhile');
  });

  describe('when much of it is due at once', () => {
    const groups = Array.from({ length: 20 }, (_, i) => 100 + i);
    const ROW_BYTES = Math.ceil(STATE_BYTES_MAX / 4);
    const durable = (found: Storage): number[] => groups.filter((group) => found.durableApplied(group) === 1);

    beforeEach(async () => {
      await storage.close();
      storage = await Storage.open(join(directory, 'live'), { stateFlushMs: 0 });
      await storage.createGroups(groups.map((group) => ({ group, replica: 2, conf: CONF, index: 0, term: 1 })));
      await write(...groups.map((group) => ({ group, entries: entries(1, 1), hardState: { term: 1, vote: 0, commit: 1 } })));
    });

    const applyAll = (bytes: number): void => {
      for (const group of groups) {
        storage.put(group, { table: 'message', context: 'c', key: 1, value: Buffer.alloc(bytes, 'm') });
        storage.setApplied(group, { index: 1, term: 1, conf: null });
      }
    };

    it('a write takes a bounded part of it, the oldest first, and the next ones the rest', async () => {
      applyAll(ROW_BYTES);
      for (let taken = 4; taken <= groups.length; taken += 4) {
        assert.equal(storage.hasPendingState(), true);
        await write({ group: OTHER, entries: entries(taken / 4, taken / 4) });
        assert.deepEqual(durable(storage), groups.slice(0, taken));
      }
      assert.equal(storage.hasPendingState(), false);
      assert.equal(await crashed((found) => durable(found).length), groups.length);
    });

    it('a write of entries in all of these groups takes as little, and each is read as it is meanwhile', async () => {
      applyAll(ROW_BYTES);
      await write(...groups.map((group) => ({ group, entries: entries(2, 2) })));
      assert.equal(durable(storage).length, 4);
      for (const group of groups) assert.equal(storage.get(group, 'message', 'c', 1)?.length, ROW_BYTES);
      assert.deepEqual(await crashed((found) => groups.map((group) => [found.log(group).lastIndex(), found.log(group).appliedIndex])), groups.map((_, i) => [2, i < 4 ? 1 : 0]));
    });

    it('closing writes all of it', async () => {
      applyAll(ROW_BYTES);
      await storage.close();
      storage = await Storage.open(join(directory, 'live'));
      assert.equal(durable(storage).length, groups.length);
    });

    it('more than memory may hold is written whatever it takes', async () => {
      const each = Math.ceil((PENDING_BYTES_MAX * 2) / groups.length);
      applyAll(each);
      await write({ group: OTHER, entries: entries(1, 1) });
      const left = groups.length - durable(storage).length;
      assert.ok(left > 0 && left * each <= PENDING_BYTES_MAX, `${left} of ${groups.length} groups are left`);
    });
  });
});
