/** Listings over real storage: order, pages, filters, nodes that host only some groups, and what a page may cost. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import type { ConfState } from '../../raft/types.ts';
import { groupOf } from '../../src/cluster/placement.ts';
import { GROUP_COUNT } from '../../src/constants.ts';
import { ApiError } from '../../src/errors.ts';
import type { ListQuery } from '../../src/http/ports.ts';
import { readCursor, writeCursor } from '../../src/listing/cursor.ts';
import { Listing } from '../../src/listing/listing.ts';
import type { ListingOptions } from '../../src/listing/listing.ts';
import { compareIds, IdHeap } from '../../src/listing/merge.ts';
import { DamageError } from '../../src/storage/checksum.ts';
import { Storage } from '../../src/storage/store.ts';
import { MemoryRows } from './contexts-fixture.ts';

const CONF: ConfState = { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const ALL: ListQuery = { limit: 100, cursor: null, prefix: '', status: null };

interface Page {
  contexts: { id: string; status: string; metadata: unknown }[];
  next_cursor: string | null;
}

describe('listing', () => {
  let directory = '';
  let storage: Storage;
  const ids: string[] = [];

  const create = (id: string, metadata = '{}', isDeleted = false): void => {
    const rows = new MemoryRows();
    const commands = [{ type: 'put', context: id, settings: { metadataText: Buffer.from(metadata) }, ifConfigRevision: -1, mustExist: false } as const, ...(isDeleted ? [{ type: 'tombstone', context: id } as const] : [])];
    for (const command of commands) for (const write of rows.run(command).writes) storage.put(groupOf(id), write);
  };
  const flush = (): Promise<void> => new Promise((resolve, reject) => storage.write([], (error) => (error === null ? resolve() : reject(error))));

  /** A node that hosts the groups `hosts` says; the others are on `peers`. */
  const node = (hosts: (group: number) => boolean = () => true, peers: Record<string, Listing | null> = {}, rows: ListingOptions['rows'] = storage): Listing & { barriers: number[] } => {
    const barriers: number[] = [];
    const listing = new Listing({
      rows,
      router: { hosts, hostsOf: () => Object.keys(peers), barrier: async (group) => (barriers.push(group), hosts(group)) },
      network: {
        request: (name, _kind, body, _timeoutMs, done) => {
          const peer = peers[name];
          if (peer === null || peer === undefined) return setImmediate(() => done('lost', null));
          peer.answer(Uint8Array.from(body)).then((answer) => done(null, answer), () => done(null, new Uint8Array()));
        },
      },
      timeoutMs: 5000,
    });
    return Object.assign(listing, { barriers });
  };

  const page = async (listing: Listing, query: Partial<ListQuery> = {}, consistency: 'linearizable' | 'stale' = 'linearizable'): Promise<Page> => {
    const answer: Page = JSON.parse((await listing.page({ ...ALL, ...query }, consistency)).toString());
    assert.ok(answer.contexts.length <= (query.limit ?? ALL.limit), `${answer.contexts.length} contexts on one page`);
    return answer;
  };

  const walk = async (listing: Listing, query: Partial<ListQuery> = {}, between: (seen: readonly string[]) => void = () => undefined): Promise<string[]> => {
    const seen: string[] = [];
    for (let cursor: string | null = null; ; ) {
      const { contexts, next_cursor } = await page(listing, { ...query, cursor });
      seen.push(...contexts.map(({ id }) => id));
      if (next_cursor === null) return seen;
      assert.notEqual(next_cursor, cursor, 'a page that leads to itself');
      cursor = next_cursor;
      between(seen);
    }
  };

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'listing-'));
    storage = await Storage.open(directory);
    await storage.createGroups(Array.from({ length: GROUP_COUNT }, (_, group) => ({ group, replica: 1, conf: CONF, index: 1, term: 1 })));
    for (let i = 0; i < 1500; i++) ids.push(`user-${i}`);
    ids.push('a', 'a!', 'ab', 'z', 'é', '\uffee', '🦙', '🦙b', '￥', 'x'.repeat(256), 'user', 'user-', '__proto__');
    ids.forEach((id, i) => create(id, `{"n":${i}, "text":"a\\nb"}`, id.endsWith('7')));
    await flush();
    // The newest are not written yet: pages merge what LevelDB has with what it has not.
    for (let i = 1500; i < 1600; i++) {
      ids.push(`user-${i}`);
      create(`user-${i}`, '{}', i % 10 === 7);
    }
    ids.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  });

  after(async () => {
    await storage.close();
    await rm(directory, { recursive: true });
  });

  for (const limit of [1000, 100, 33]) {
    test(`pages of ${limit} hold every context once, in the order of the ids' bytes`, async () => {
      assert.deepEqual(await walk(node(), { limit }), ids);
    });
  }

  test('a context is shown as GET shows it, its metadata as sent', async () => {
    const { contexts } = await page(node(), { prefix: 'user-7', limit: 1 });
    assert.equal(contexts[0]?.id, 'user-7');
    assert.deepEqual(Object.keys(contexts[0] ?? {}).slice(0, 3), ['id', 'status', 'token_budget']);
    assert.match((await node().page({ ...ALL, prefix: 'user-7', limit: 1 }, 'stale')).toString(), /"metadata":\{"n":7, "text":"a\\nb"\}/);
  });

  test('prefix and status select, together too; a prefix may be longer than any id or end inside one', async () => {
    const wanted = (prefix: string): string[] => ids.filter((id) => id.startsWith(prefix));
    for (const prefix of ['user-1', 'user-', '🦙', 'a', 'nobody', 'x'.repeat(256), '']) assert.deepEqual(await walk(node(), { prefix, limit: 50 }), wanted(prefix), prefix);
    const deleted = wanted('user-1').filter((id) => id.endsWith('7'));
    assert.deepEqual(await walk(node(), { prefix: 'user-1', status: 'tombstoned', limit: 7 }), deleted);
    assert.deepEqual(await walk(node(), { status: 'active', limit: 1000 }), ids.filter((id) => !id.endsWith('7')));
  });

  test('the last page knows that it is the last, also when it is full', async () => {
    const { contexts, next_cursor } = await page(node(), { prefix: '🦙', limit: 2 });
    assert.deepEqual([contexts.length, next_cursor], [2, null]);
  });

  test('what exists throughout a walk is seen exactly once, whatever comes into being meanwhile', async () => {
    let made = 0;
    const seen = await walk(node(), { limit: 40 }, (soFar) => {
      const at = soFar.at(-1) ?? '';
      for (const id of [`${at}+`, `+${made}`, `user-${made}-new`]) {
        made++;
        create(id);
      }
    });
    assert.deepEqual(seen, [...new Set(seen)].sort(compareIds), 'in order, none twice');
    assert.deepEqual(seen.filter((id) => ids.includes(id)), ids);
    assert.ok(seen.length > ids.length);
  });

  test('a linearizable page waits for a barrier in every group, a stale one for none', async () => {
    const listing = node();
    await page(listing, {}, 'stale');
    assert.equal(listing.barriers.length, 0);
    await page(listing);
    assert.deepEqual(listing.barriers.toSorted((a, b) => a - b), Array.from({ length: GROUP_COUNT }, (_, group) => group));
  });

  test('groups hosted elsewhere are asked there; a node that is silent is asked no more than once', async () => {
    const even = (group: number): boolean => group % 2 === 0;
    const odd = (group: number): boolean => !even(group);
    const expected = await walk(node(), { limit: 1000 });
    for (const peers of [{ b: node(odd) }, { dead: null, b: node(odd) }, { wrong: node(even), b: node(odd) }]) {
      assert.deepEqual(await walk(node(even, peers), { limit: 300 }), expected);
    }
    assert.deepEqual(await walk(node(() => false, { b: node() }), { limit: 300 }), expected);
    await assert.rejects(page(node(even, { dead: null })), (error) => error instanceof ApiError && error.code === 'raft_unavailable');
  });

  test('a replica found damaged by the listing is read elsewhere', async () => {
    let isDamaged = false;
    const rows: ListingOptions['rows'] = {
      get: (...args) => storage.get(...args),
      contexts: async (group, range) => {
        if (group !== 9) return storage.contexts(group, range);
        isDamaged = true;
        throw new DamageError(9, 'a row is damaged');
      },
    };
    const listing = node((group) => group !== 9 || !isDamaged, { b: node() }, rows);
    assert.deepEqual(await walk(listing, { limit: 500 }), await walk(node(), { limit: 500 }));
  });

  test('a page reads little more than it shows', async () => {
    let rowsRead = 0;
    const counting: ListingOptions['rows'] = {
      get: (...args) => storage.get(...args),
      contexts: async (group, range) => {
        const found = await storage.contexts(group, range);
        rowsRead += found.length;
        return found;
      },
    };
    await page(node(undefined, {}, counting), { limit: 100 });
    assert.ok(rowsRead <= 4 * GROUP_COUNT, `${rowsRead} rows for 100 contexts`);
    rowsRead = 0;
    await page(node(undefined, {}, counting), { prefix: 'user-1599' });
    assert.equal(rowsRead, 1);
  });

  test('a filter that matches nothing ends pages early instead of reading everything at once', async () => {
    const endless: ListingOptions['rows'] = {
      get: (...args) => storage.get(...args),
      contexts: async (group, { after = '', limit }) => {
        const header = storage.get(groupOf('user-1'), 'header', 'user-1', '') ?? assert.fail('no header');
        const from = after === '' ? 0 : Number(after.slice(0, 9)) + 1;
        return Array.from({ length: limit }, (_, i) => ({ context: `${String(from + i).padStart(9, '0')}-${group}`, header }));
      },
    };
    const listing = node(undefined, {}, endless);
    const first = await page(listing, { status: 'tombstoned' });
    assert.deepEqual(first.contexts, []);
    assert.ok(first.next_cursor !== null);
    const second = await page(listing, { status: 'tombstoned', cursor: first.next_cursor });
    assert.notEqual(second.next_cursor, first.next_cursor);
  });

  test('where one node has looked less far than another, the page ends there and nothing is repeated', async () => {
    const header = storage.get(groupOf('user-1'), 'header', 'user-1', '') ?? assert.fail('no header');
    // 25,600 contexts that the filter passes over, before all others in order: more than one page looks at.
    const crowded: ListingOptions['rows'] = {
      get: (...args) => storage.get(...args),
      contexts: async (group, { after = '', limit }) => {
        const from = after === '' ? 0 : Number(after.slice(1, 6)) + 1;
        const count = Math.max(0, Math.min(limit, 200 - from));
        return Array.from({ length: count }, (_, i) => ({ context: `!${String(from + i).padStart(5, '0')}-${group}`, header }));
      },
    };
    const isHere = (group: number): boolean => group % 2 === 0;
    const seen = await walk(node(isHere, { b: node((group) => !isHere(group)) }, crowded), { status: 'tombstoned' });
    const expected = (await walk(node(), { status: 'tombstoned' })).filter((id) => !isHere(groupOf(id)));
    assert.deepEqual(seen, expected);
  });

  test('a page of large contexts ends early, and the walk is still complete', async () => {
    const large = Array.from({ length: 200 }, (_, i) => `large-${String(i).padStart(3, '0')}`);
    for (const id of large) create(id, `{"x":"${'y'.repeat(60_000)}"}`);
    await flush();
    const { contexts, next_cursor } = await page(node(), { prefix: 'large-', limit: 1000 });
    assert.ok(contexts.length < 200 && contexts.length > 100, String(contexts.length));
    assert.ok(next_cursor !== null);
    assert.deepEqual(await walk(node((group) => group < 128, { b: node() }), { prefix: 'large-', limit: 1000 }), large);
  });

  test('listings under way are bounded', async () => {
    const listing = node();
    const answers = await Promise.allSettled(Array.from({ length: 20 }, () => page(listing)));
    const refused = answers.filter((answer) => answer.status === 'rejected').map((answer) => (answer.reason instanceof ApiError ? answer.reason.code : String(answer.reason)));
    assert.deepEqual(refused, Array.from({ length: 4 }, () => 'overloaded'));
    await page(listing);
  });
});

test('ids compare as their UTF-8 bytes do', () => {
  const id = fc.string({ unit: fc.constantFrom('a', 'b', 'é', '\ud7ff', '\ue000', '\uffff', '🦙', '\u{10ffff}', 'z') });
  fc.assert(fc.property(id, id, (a, b) => assert.equal(Math.sign(compareIds(a, b)), Buffer.compare(Buffer.from(a), Buffer.from(b)))), { numRuns: 5000 });
});

test('the heap gives what sorting would', () => {
  fc.assert(
    fc.property(fc.array(fc.array(fc.string(), { minLength: 1 }), { maxLength: 12 }), (runs) => {
      const heap = new IdHeap(runs.map((ids) => ({ ids: ids.toSorted(compareIds), at: 0 })));
      const out: string[] = [];
      for (let run = heap.first; run !== undefined; run = heap.first) {
        out.push(run.ids[run.at++] ?? assert.fail('past the end'));
        heap.moved();
      }
      assert.deepEqual(out, runs.flat().sort(compareIds));
    }),
  );
});

test('a cursor is good for its own query only, and not when it was changed', () => {
  const cursor = writeCursor('é🦙', 'é', 'active');
  assert.match(cursor, /^[\w-]+$/);
  assert.equal(readCursor(cursor, 'é', 'active'), 'é🦙');
  const refused = (text: string, prefix: string, status: 'active' | 'tombstoned' | null): void =>
    assert.throws(() => readCursor(text, prefix, status), (error) => error instanceof ApiError && error.code === 'invalid_request' && error.fields['path'] === 'cursor');
  refused(cursor, '', 'active');
  refused(cursor, 'é', null);
  refused('', 'é', 'active');
  refused(`${cursor}=`, 'é', 'active');
  refused('****', 'é', 'active');
  for (let i = 0; i < cursor.length; i++) {
    refused(cursor.slice(0, i), 'é', 'active');
    refused(`${cursor.slice(0, i)}${cursor[i] === 'A' ? 'B' : 'A'}${cursor.slice(i + 1)}`, 'é', 'active');
  }
});
