/** What commands do to a context: versions, checks and their order, idempotency, settings. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KEYED_AGE_MS_MAX, KEYED_MAX } from '../../src/contexts/idempotency.ts';
import { decodeCompaction, decodeMessageRow } from '../../src/contexts/rows.ts';
import { MemoryRows, TOMBSTONE, append, assistant, call, codeOf, compact, message, policy, put, system, text, textOf, tool, user } from './contexts-fixture.ts';

function created(): MemoryRows {
  const rows = new MemoryRows();
  assert.deepEqual(rows.run(put()).reply, { ok: true, type: 'put', created: true });
  return rows;
}

describe('versions and seqs', () => {
  it('a new context has version 0 and revision 0, each message adds one version', () => {
    const rows = created();
    assert.equal(rows.head.version, 0);
    assert.equal(rows.head.configRevision, 0);
    const first = rows.run(append([user()])).reply;
    assert.deepEqual(first, { ok: true, type: 'append', firstSeq: 1, firstVersion: 1, tokens: [10], replayed: false });
    const many = rows.run(append([user(), user(7), user()])).reply;
    assert.deepEqual(many, { ok: true, type: 'append', firstSeq: 2, firstVersion: 2, tokens: [10, 7, 10], replayed: false });
    assert.equal(rows.head.version, 4);
    rows.run(compact([user()]));
    assert.equal(rows.head.version, 5);
    assert.equal(rows.head.lastSeq, 4);
    rows.run(TOMBSTONE);
    assert.equal(rows.head.version, 6);
  });

  it('automatic compaction adds no version', () => {
    const rows = new MemoryRows();
    rows.run(put({ policy: policy({ limit: 4 }) }));
    rows.run(append(Array.from({ length: 20 }, () => user())));
    assert.equal(rows.head.version, 20);
    assert.equal(rows.head.window.stableSinceVersion, 20);
  });

  it('stamps never go back within a context', () => {
    const rows = created();
    rows.run(append([user()]), 1_700_000_005_000);
    rows.run(append([user()]), 1_600_000_000_000);
    const row = decodeMessageRow(rows.get('message', 'c', 2) ?? assert.fail());
    assert.equal(row?.stampMs, 1_700_000_005_000);
  });

  it('events come in the order message, compaction, context', () => {
    const rows = created();
    assert.deepEqual(rows.run(append([user(), user()])).events.map((e) => e.type), ['message', 'message', 'context']);
    assert.deepEqual(rows.run(compact([])).events.map((e) => e.type), ['compaction', 'context']);
    assert.deepEqual(rows.run(TOMBSTONE).events, [{ type: 'tombstoned', context: 'c', version: 4 }]);
  });
});

describe('checks of an append come in order', () => {
  it('a context that is not there', () => {
    assert.equal(codeOf(new MemoryRows().run(append([user()], { key: 'k' })).reply), 'context_not_found');
  });

  it('a replay wins over tombstone, model and version', () => {
    const rows = created();
    const first = rows.run(append([user()], { key: 'k', ifVersion: 0 }));
    rows.run(append([user()]));
    rows.run(TOMBSTONE);
    const again = rows.run(append([user()], { key: 'k', ifVersion: 0, model: 'other' }));
    assert.deepEqual(again.reply, { ...first.reply, replayed: true });
    assert.equal(again.writes.length, 0);
    assert.equal(codeOf(rows.run(append([user()], { key: 'k', digest: 2 })).reply), 'idempotency_conflict');
  });

  it('tombstone before model before version, and none of them writes', () => {
    const rows = created();
    assert.equal(codeOf(rows.run(append([user()], { model: 'x', ifVersion: 9 })).reply), 'model_mismatch');
    const conflict = rows.run(append([user()], { ifVersion: 9 }));
    assert.deepEqual(conflict.reply, { ok: false, code: 'conflict', expected: 9, found: 0 });
    assert.equal(conflict.writes.length, 0);
    rows.run(TOMBSTONE);
    assert.equal(codeOf(rows.run(append([user()], { model: 'x', ifVersion: 9 })).reply), 'context_tombstoned');
  });

  it('refuses no messages and too many, and refuses all for one', () => {
    const rows = created();
    assert.equal(codeOf(rows.run(append([])).reply), 'invalid_command');
    assert.equal(codeOf(rows.run(append(Array.from({ length: 1001 }, () => user()))).reply), 'invalid_command');
    const good = user();
    const bad = { ...good, parts: good.parts.map((part) => ({ ...part, end: 10_000 })) };
    assert.equal(codeOf(rows.run(append([good, bad])).reply), 'invalid_command');
    assert.equal(rows.head.lastSeq, 0);
  });
});

describe('idempotency keys', () => {
  it('are forgotten after a day', () => {
    const rows = created();
    const start = 1_700_000_000_000;
    rows.run(append([user()], { key: 'k' }), start);
    assert.equal(rows.run(append([user()], { key: 'k' }), start + KEYED_AGE_MS_MAX).writes.length, 0);
    const later = rows.run(append([user()], { key: 'k' }), start + KEYED_AGE_MS_MAX + 1).reply;
    assert.equal(later.ok && later.type === 'append' && later.firstSeq, 2);
    // The old ring entry of the same key goes without taking the new answer along.
    rows.run(append([user()], { key: 'other' }), start + KEYED_AGE_MS_MAX + 2);
    assert.equal(rows.run(append([user()], { key: 'k' }), start + KEYED_AGE_MS_MAX + 3).writes.length, 0);
  });

  it('are kept for the newest 10,000 keyed writes, and storage stays bounded', () => {
    const rows = created();
    for (let i = 0; i < KEYED_MAX; i++) rows.run(append([user()], { key: `k${i}` }));
    assert.equal(rows.run(append([user()], { key: 'k0' })).writes.length, 0);
    rows.run(append([user()], { key: 'one more' }));
    assert.notEqual(rows.run(append([user()], { key: 'k0' })).writes.length, 0);
    let keyed = 0;
    for (const name of rows.stored.keys()) if (name.startsWith('keyed|')) keyed++;
    assert.equal(keyed, KEYED_MAX);
  });
});

describe('put', () => {
  it('merges settings and counts effective changes only', () => {
    const rows = created();
    rows.run(put({ tokenBudget: 500 }));
    assert.equal(rows.head.configRevision, 1);
    assert.equal(rows.config('c')?.triggerRatio, 0.7);
    assert.deepEqual(rows.run(put({ tokenBudget: 500 })).writes, []);
    rows.run(put({ policy: policy({ limit: 3 }), model: 'gpt-4o' }));
    assert.equal(rows.head.configRevision, 2);
    assert.equal(rows.config('c')?.tokenBudget, 500);
  });

  it('compares the revision, must find what must exist, refuses the tombstoned and the senseless', () => {
    const rows = new MemoryRows();
    assert.equal(codeOf(rows.run(put({}, { mustExist: true })).reply), 'context_not_found');
    assert.equal(codeOf(rows.run(put({ triggerRatio: Number.NaN })).reply), 'invalid_command');
    rows.run(put());
    assert.deepEqual(rows.run(put({ model: 'm' }, { ifConfigRevision: 3 })).reply, { ok: false, code: 'revision_conflict', expected: 3, found: 0 });
    assert.equal(codeOf(rows.run(put({ policy: policy({ targetRatio: 2 }) })).reply), 'invalid_command');
    assert.equal(codeOf(rows.run(put({ policy: policy({ limit: 0 }) })).reply), 'invalid_command');
    rows.run(TOMBSTONE);
    assert.equal(codeOf(rows.run(put({ model: 'm' })).reply), 'context_tombstoned');
  });

  it('leaves the window to the next append', () => {
    const rows = created();
    rows.run(append(Array.from({ length: 10 }, () => user())));
    rows.run(put({ tokenBudget: 50 }));
    assert.equal(rows.head.window.count, 10);
    assert.equal(rows.window().needsCompaction, true);
    rows.run(append([user()]));
    assert.equal(rows.shown(), '10,11');
  });
});

describe('tombstone', () => {
  it('is idempotent and refuses writes', () => {
    const rows = created();
    rows.run(TOMBSTONE);
    assert.deepEqual(rows.run(TOMBSTONE), { reply: { ok: true, type: 'tombstone' }, events: [], writes: [], header: null, config: null });
    assert.equal(codeOf(rows.run(compact([])).reply), 'context_tombstoned');
    assert.equal(codeOf(new MemoryRows().run(TOMBSTONE).reply), 'context_not_found');
  });
});

describe('costs', () => {
  it('an append that does not compact reads no message and writes header and message only', () => {
    const rows = created();
    rows.run(append([user(), assistant(call('a'))]));
    rows.reads.clear();
    const outcome = rows.run(append([user()]));
    assert.deepEqual(outcome.writes.map((write) => write.table), ['message', 'header']);
    assert.equal(rows.reads.size, 0);
    const answered = rows.run(append([tool('a')]));
    assert.deepEqual(answered.writes.map((write) => write.table), ['message', 'openCall', 'header']);
    assert.deepEqual([...rows.reads], [['openCall', 1]]);
  });
});

describe('compact', () => {
  it('replaces the window, keeps live messages, records itself', () => {
    const rows = created();
    rows.run(append([system(), user(), user(), user()]));
    rows.run(compact([user(5), assistant()], { keepFromSeq: 4 }));
    assert.equal(rows.shown(), 'r0,r1,4');
    assert.equal(rows.head.window.tokens, 25);
    const record = decodeCompaction(rows.get('compaction', 'c', 5) ?? assert.fail());
    assert.deepEqual(record, {
      version: 5,
      stampMs: 1_700_000_000_000,
      fromSeq: 1,
      toSeq: 3,
      replacementCount: 2,
      countBefore: 4,
      countAfter: 3,
      tokensBefore: 40,
      tokensAfter: 25,
    });
    assert.deepEqual(rows.window().segments, [
      { type: 'summary', fromSeq: 1, toSeq: 3 },
      { type: 'live', fromSeq: 4, toSeq: 4 },
    ]);
  });

  it('moves keep_from_seq back so that no unit is torn', () => {
    const rows = created();
    rows.run(append([user(), assistant(call('a'), call('b')), user(), tool('a'), tool('b'), user()]));
    rows.run(compact([user()], { keepFromSeq: 5 }));
    assert.equal(rows.shown(), 'r0,2,3,4,5,6');
  });

  it('refuses a keep_from_seq outside 1 … last_seq + 1', () => {
    const rows = created();
    rows.run(append([user()]));
    assert.deepEqual(rows.run(compact([], { keepFromSeq: 3 })).reply, { ok: false, code: 'invalid_keep_from_seq', lastSeq: 1 });
    rows.run(compact([], { keepFromSeq: 2 }));
    assert.equal(rows.shown(), '');
    assert.deepEqual(rows.run(compact([], { ifVersion: 1 })).reply, { ok: false, code: 'conflict', expected: 1, found: 2 });
  });

  it('keeps earlier replacements stored', () => {
    const rows = created();
    rows.run(append([user()]));
    rows.run(compact([message('user', [text('first')])]));
    rows.run(compact([message('user', [text('second')])]));
    const old = decodeMessageRow(rows.get('replacement', 'c', 2 * 2 ** 20) ?? assert.fail()) ?? assert.fail();
    assert.match(textOf(old.bytes, old.partsStart, old.partsEnd), /first/);
    assert.equal(rows.shown(), 'r0');
  });
});
