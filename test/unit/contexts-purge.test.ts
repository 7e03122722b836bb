/** Purging and ttl: from the one entry on there is no such context, and in the end no row holds a word of it. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ERASED_TABLES } from '../../src/contexts/commands.ts';
import { PURGE_STEP_ROWS_MAX } from '../../src/contexts/purge.ts';
import type { Command, RowRef } from '../../src/contexts/types.ts';
import { MemoryRows, TOMBSTONE, append, call, codeOf, compact, message, policy, put, system, text, textOf, tool, user } from './contexts-fixture.ts';
import { commands } from './contexts-model.ts';

const PURGE: Command = { type: 'purge', context: 'c' };
const DONE: Command = { type: 'purge_done', context: 'c' };
const EXPIRE: Command = { type: 'expire', context: 'c' };
const CLAIM: Command = { type: 'claim', context: 'c', ttlSeconds: 60, token: new Uint8Array(16).fill(7) };

function rowsLeft(rows: MemoryRows): string[] {
  return [...rows.stored.keys()].filter((name) => name.split('|')[1] === 'c').map((name) => name.split('|')[0] ?? '');
}

/** Names the rows there are, as the leader does, a step at a time. */
function erase(rows: MemoryRows): void {
  for (;;) {
    const found: RowRef[] = [];
    for (const name of rows.stored.keys()) {
      const [table, context, ...key] = name.split('|');
      const known = ERASED_TABLES.find((candidate) => candidate === table);
      if (known === undefined || context !== 'c') continue;
      const words = key.join('|');
      found.push({ table: known, key: known === 'openCall' || known === 'keyed' ? words : Number(words) });
      if (found.length === PURGE_STEP_ROWS_MAX) break;
    }
    if (found.length === 0) return;
    assert.equal(rows.run({ type: 'purge_step', context: 'c', rows: found }).reply.ok, true);
  }
}

function lively(): MemoryRows {
  const rows = new MemoryRows();
  rows.run(put({ policy: policy({ strategy: 'skip_parts', skipKinds: ['osprey'], limit: 6 }), metadataText: new TextEncoder().encode('{"who":"osprey"}'), model: 'osprey', ttlSeconds: 60 }));
  rows.run(append([system(), message('osprey', [text('osprey'), call('osprey')])], { key: 'osprey-key', model: 'osprey' }));
  rows.run(append([tool('osprey')], { model: 'osprey' }));
  for (let i = 0; i < 10; i++) rows.run(append([user(), message('assistant', [{ type: 'osprey-thought' }])], { model: 'osprey' }));
  rows.run({ type: 'usage', context: 'c', version: rows.head.version, inputTokens: 77 });
  rows.run(CLAIM);
  rows.run(compact([message('user', [text('osprey')])], { keepFromSeq: 20 }));
  rows.run(CLAIM);
  return rows;
}

describe('a purge', () => {
  it('ends the context at once: no settings, every change refused, its streams told', () => {
    const rows = lively();
    const version = rows.head.version + 1;
    const outcome = rows.run(PURGE, 1_700_000_000_001);
    assert.deepEqual(outcome.reply, { ok: true, type: 'purge', complete: false });
    assert.deepEqual(outcome.events, [{ type: 'purged', context: 'c', version }]);
    assert.equal(rows.config('c'), undefined);
    for (const command of [put(), put({}, { mustExist: true }), append([user()]), append([user()], { key: 'osprey-key' }), compact([]), CLAIM, TOMBSTONE, { type: 'usage', context: 'c', version: 1, inputTokens: 1 } as const]) {
      const refused = rows.run(command);
      assert.equal(codeOf(refused.reply), 'context_purged', command.type);
      assert.deepEqual(refused.writes, []);
    }
  });

  it('is answered again with how far it is, and leaves a header that says nothing', () => {
    const rows = lively();
    const start = [...rows.stored.values()].some((row) => textOf(row).includes('osprey'));
    assert.ok(start);
    rows.run(PURGE);
    assert.ok(!textOf(rows.stored.get('header|c|') ?? assert.fail()).includes('osprey'));
    assert.deepEqual(['config', 'unarchived', 'expiring'].filter((table) => rowsLeft(rows).includes(table)), []);
    erase(rows);
    assert.deepEqual(rows.run(PURGE).reply, { ok: true, type: 'purge', complete: false });
    assert.deepEqual(rowsLeft(rows).sort(), ['header', 'purging']);
    rows.run(DONE);
    assert.deepEqual(rows.run(PURGE).reply, { ok: true, type: 'purge', complete: true });
    assert.deepEqual(rowsLeft(rows), ['header']);
    assert.equal([...rows.stored].some(([name, row]) => `${name}${textOf(row)}`.includes('osprey')), false);
    assert.equal(codeOf(rows.run(put()).reply), 'context_purged', 'the id stays reserved');
  });

  it('takes a tombstoned context too, and none that never was', () => {
    const rows = lively();
    rows.run(TOMBSTONE);
    assert.equal(rows.run(PURGE).reply.ok, true);
    const none = new MemoryRows();
    for (const command of [PURGE, DONE, { type: 'purge_step', context: 'c', rows: [] } as const]) assert.equal(codeOf(none.run(command).reply), 'context_not_found');
    assert.deepEqual(none.run(EXPIRE).reply, { ok: true, type: 'expire', purged: false });
    assert.equal(none.stored.size, 0);
  });

  it('deletes by steps only what was purged, and no more at once than the bound', () => {
    const rows = lively();
    const step: Command = { type: 'purge_step', context: 'c', rows: [{ table: 'message', key: 1 }] };
    assert.equal(codeOf(rows.run(step).reply), 'invalid_command');
    assert.equal(codeOf(rows.run(DONE).reply), 'invalid_command');
    rows.run(PURGE);
    const many = Array.from({ length: PURGE_STEP_ROWS_MAX + 1 }, (_, key) => ({ table: 'message', key }) as const);
    assert.equal(codeOf(rows.run({ type: 'purge_step', context: 'c', rows: many }).reply), 'invalid_command');
    const outcome = rows.run(step);
    assert.deepEqual(outcome.writes, [{ table: 'message', context: 'c', key: 1, value: null }]);
  });

  it('leaves neighbours alone', () => {
    const rows = lively();
    rows.run({ ...put(), context: 'c2' });
    rows.run({ ...append([user()]), context: 'c2' });
    const before = [...rows.stored].filter(([name]) => name.includes('|c2|'));
    rows.run(PURGE);
    erase(rows);
    rows.run(DONE);
    assert.deepEqual([...rows.stored].filter(([name]) => name.includes('|c2|')), before);
  });

  it('of any generated conversation leaves the header alone, the same everywhere', () => {
    fc.assert(
      fc.property(commands, fc.nat(60), (given, tailKeep) => {
        const replicas = [new MemoryRows(), new MemoryRows()];
        for (const rows of replicas) {
          for (const command of [put(), ...given]) rows.run(command);
          const { lastSeq, version } = rows.head;
          rows.run({ type: 'ack_archived', context: 'c', acks: [{ context: 'c', upto: lastSeq, version, configRevision: 0 }], tailKeep });
          rows.run(PURGE);
          erase(rows);
          rows.run(DONE);
          assert.deepEqual(rowsLeft(rows), ['header']);
        }
        assert.deepEqual(replicas[0]?.stored, replicas[1]?.stored);
      }),
      { numRuns: 60 },
    );
  });
});

describe('a ttl', () => {
  const at = (seconds: number): number => 1_700_000_000_000 + seconds * 1000;
  const isGone = (rows: MemoryRows): boolean => rows.head.status === 'purged';

  it('ends the context that long after its last write, not before', () => {
    const rows = new MemoryRows();
    rows.run(put({ ttlSeconds: 10 }), at(0));
    rows.run(append([user()]), at(5));
    assert.deepEqual(rows.run(EXPIRE, at(15) - 1).reply, { ok: true, type: 'expire', purged: false });
    rows.run(append([user()]), at(15) - 1);
    assert.deepEqual(rows.run(EXPIRE, at(15)).reply, { ok: true, type: 'expire', purged: false }, 'a write in between keeps it alive');
    const outcome = rows.run(EXPIRE, at(25));
    assert.deepEqual([outcome.reply, outcome.events.map(({ type }) => type), isGone(rows)], [{ ok: true, type: 'expire', purged: true }, ['purged'], true]);
    assert.deepEqual(rows.run(EXPIRE, at(99)).reply, { ok: true, type: 'expire', purged: false });
    assert.equal(rows.stored.has('purging|c|'), true);
  });

  it('is not kept alive by the archive, and ends a tombstoned context as well', () => {
    const rows = new MemoryRows();
    rows.run(put({ ttlSeconds: 10 }), at(0));
    rows.run(TOMBSTONE, at(2));
    rows.run({ type: 'ack_archived', context: 'c', acks: [{ context: 'c', upto: 0, version: 1, configRevision: 0 }], tailKeep: 0 }, at(11));
    rows.run(EXPIRE, at(12));
    assert.ok(isGone(rows));
  });

  it('is listed while there is one, without a write of its own at appends', () => {
    const rows = new MemoryRows();
    const listed = (): boolean => rows.stored.has('expiring|c|');
    rows.run(put());
    assert.equal(listed(), false);
    rows.run(put({ ttlSeconds: 10 }));
    assert.equal(listed(), true);
    assert.equal(rows.run(append([user()])).writes.some(({ table }) => table === 'expiring'), false);
    assert.equal(rows.run(put({ ttlSeconds: 20 })).writes.some(({ table }) => table === 'expiring'), false);
    rows.run(put({ ttlSeconds: 0 }));
    assert.equal(listed(), false);
    rows.run(EXPIRE, at(999_999));
    assert.equal(isGone(rows), false);
    rows.run({ ...put({ ttlSeconds: 5 }), context: 'd' });
    assert.equal(rows.stored.has('expiring|d|'), true, 'from creation on');
  });
});
