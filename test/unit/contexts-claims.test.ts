/** Compaction claims and usage reports. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { MemoryRows, TOMBSTONE, append, codeOf, compact, policy, put, user } from './contexts-fixture.ts';
import { CLAIM_TOKEN_BYTES } from '../../src/contexts/claims.ts';
import { adjusted } from '../../src/contexts/usage.ts';
import type { Command, Reply } from '../../src/contexts/types.ts';

const START = 1_700_000_000_000;
const token = (n: number): Uint8Array => new Uint8Array(CLAIM_TOKEN_BYTES).fill(n);
const claim = (n: number, ttlSeconds = 60): Command => ({ type: 'claim', context: 'c', ttlSeconds, token: token(n) });
const claimed = (n: number, keepFromSeq = 0): Command => ({ type: 'compact', context: 'c', replacement: [user()], ifVersion: -1, keepFromSeq, claim: token(n) });
const usage = (version: number, inputTokens: number): Command => ({ type: 'usage', context: 'c', version, inputTokens });

function created(): MemoryRows {
  const rows = new MemoryRows();
  rows.run(put({ tokenBudget: 1000 }), START);
  rows.run(append([user(100), user(100)]), START);
  return rows;
}

describe('a claim', () => {
  it('is held by one, extended by its holder, free after its time', () => {
    const rows = created();
    assert.deepEqual(rows.run(claim(1), START).reply, { ok: true, type: 'claim', expiresAt: START + 60_000 });
    assert.deepEqual(rows.run(claim(2), START + 59_999).reply, { ok: false, code: 'claim_held', expiresAt: START + 60_000 });
    assert.deepEqual(rows.run(claim(1), START + 59_999).reply, { ok: true, type: 'claim', expiresAt: START + 119_999 });
    assert.equal(codeOf(rows.run(claim(2), START + 119_999).reply), 'ok');
  });

  it('changes neither version nor revision', () => {
    const rows = created();
    const { version, configRevision, window } = rows.head;
    rows.run(claim(1), START);
    assert.deepEqual([rows.head.version, rows.head.configRevision], [version, configRevision]);
    assert.deepEqual(rows.head.window, window);
  });

  it('stops other compactions and ends with its own', () => {
    const rows = created();
    rows.run(claim(1), START);
    const held = { ok: false, code: 'claim_held', expiresAt: START + 60_000 };
    assert.deepEqual(rows.run(compact([user()]), START + 1).reply, held);
    assert.deepEqual(rows.run(claimed(2), START + 1).reply, held);
    assert.equal(rows.head.version, 2);
    // What arrives while the summary is made is kept.
    rows.run(append([user()]), START + 2);
    assert.equal(codeOf(rows.run(claimed(1, 3), START + 3).reply), 'ok');
    assert.equal(rows.shown(), 'r0,3');
    assert.equal(rows.head.claim, null);
    assert.equal(codeOf(rows.run(claim(2), START + 4).reply), 'ok');
  });

  it('that is over or given back stops nobody', () => {
    const rows = created();
    rows.run(claim(1), START);
    assert.equal(codeOf(rows.run(compact([user()]), START + 60_000).reply), 'ok');
    rows.run(claim(1), START + 60_000);
    assert.equal(codeOf(rows.run(claim(2, 0), START + 60_001).reply), 'claim_held');
    assert.deepEqual(rows.run(claim(1, 0), START + 60_001).reply, { ok: true, type: 'claim', expiresAt: 0 });
    assert.equal(codeOf(rows.run(compact([]), START + 60_001).reply), 'ok');
    assert.deepEqual(rows.run(claim(3, 0), START + 60_002).writes, []);
  });

  it('that is over in time still compacts, unless somebody else has claimed or compacted since', () => {
    const rows = created();
    rows.run(claim(1), START);
    assert.equal(codeOf(rows.run(claimed(1), START + 90_000).reply), 'ok');

    const raced = created();
    raced.run(append(Array.from({ length: 8 }, () => user())), START);
    raced.run(claim(1), START);
    raced.run(claim(2), START + 60_000);
    assert.equal(codeOf(raced.run(claimed(2, 5), START + 60_001).reply), 'ok');
    const { shown, version } = { shown: raced.shown(), version: raced.head.version };
    // Made of a window that is gone: applied, it would drop 5 to 8, which nobody has summarised.
    assert.deepEqual(raced.run(claimed(1, 9), START + 60_002).reply, { ok: false, code: 'claim_lost', version });
    assert.equal(raced.shown(), shown);
    raced.run(claim(3), START + 60_003);
    assert.equal(codeOf(raced.run(claimed(1, 9), START + 60_004).reply), 'claim_held');
    assert.equal(codeOf(raced.run(claimed(1, 9), START + 200_000).reply), 'claim_lost');
    // Its own compaction repeated, as after a lost answer.
    assert.equal(codeOf(raced.run(claimed(3, 9), START + 200_000).reply), 'ok');
    assert.equal(codeOf(raced.run(claimed(3, 9), START + 200_001).reply), 'claim_lost');
  });

  it('is refused where there is nothing to claim, and when malformed', () => {
    assert.equal(codeOf(new MemoryRows().run(claim(1)).reply), 'context_not_found');
    const rows = created();
    assert.equal(codeOf(rows.run(claim(1, 3601)).reply), 'invalid_command');
    assert.equal(codeOf(rows.run({ type: 'claim', context: 'c', ttlSeconds: 5, token: new Uint8Array(0) }).reply), 'invalid_command');
    rows.run(TOMBSTONE);
    assert.equal(codeOf(rows.run(claim(1)).reply), 'context_tombstoned');
  });
});

describe('usage', () => {
  it('takes the first report whole, goes a quarter of the way afterwards, and ignores what is near', () => {
    assert.equal(adjusted(1024, 100, 200), 2048);
    assert.equal(adjusted(2048, 100, 400), 2048 + 512);
    assert.equal(adjusted(2048, 100, 100), 2048 - 256);
    assert.equal(adjusted(2048, 1000, 2062), 2048);
    assert.equal(adjusted(1024, 100, 103), 1024);
    assert.equal(adjusted(1024, 0, 500), 1024);
  });

  it('stays within a quarter and six times, however often and absurd the reports', () => {
    for (const [tokens, end] of [[1_000_000_000, 6144], [1, 256]] as const) {
      let factor = 1024;
      for (let i = 0; i < 100; i++) factor = adjusted(factor, 1_000_000, tokens);
      assert.ok(Math.abs(factor - end) * 32 <= factor, `${factor}`);
    }
  });

  it('changes what the window costs, when it is cut and what fits, but no token_count', () => {
    const rows = created();
    assert.deepEqual(rows.run(usage(2, 500)).reply, { ok: true, type: 'usage', calibration: 2560, changed: true });
    assert.equal(rows.head.configRevision, 1);
    const window = rows.window();
    assert.deepEqual([window.usedTokens, window.countedTokens, window.elements.map((e) => e.tokens)], [500, 200, [100, 100]]);
    assert.equal(rows.shown(499, false), '2');
    assert.equal(rows.shown(500, false), '1,2');
    // 290 counted tokens cost 725: above the trigger of 700, where 290 would not be.
    const event = rows.run(append([user(90)])).events.find((e) => e.type === 'context');
    assert.equal(rows.shown(), '2,3');
    assert.deepEqual(event, { type: 'context', context: 'c', version: 3, needsCompaction: false, usedTokens: 475 });
  });

  it('is about the window as it was sent at its version', () => {
    const rows = new MemoryRows();
    rows.run(put({ tokenBudget: 150, policy: policy({ strategy: 'manual' }) }));
    rows.run(append([user(100)]));
    rows.run(append([user(100)]));
    rows.run(append([user(10)]));
    // At version 2 only the second message fitted.
    assert.deepEqual(rows.run(usage(2, 300)).reply, { ok: true, type: 'usage', calibration: 3072, changed: true });
  });

  it('says so when nothing changes, and refuses versions that are not there', () => {
    const rows = created();
    const same = rows.run(usage(2, 201));
    assert.deepEqual([same.reply, same.writes], [{ ok: true, type: 'usage', calibration: 1024, changed: false }, []]);
    const refused: Reply = { ok: false, code: 'version_not_kept', from: 0, version: 2 };
    assert.deepEqual(rows.run(usage(3, 200)).reply, refused);
    assert.equal(codeOf(rows.run(usage(2, 0)).reply), 'invalid_command');
    assert.equal(codeOf(new MemoryRows().run(usage(0, 5)).reply), 'context_not_found');
    rows.run(TOMBSTONE);
    assert.equal(codeOf(rows.run(usage(2, 500)).reply), 'context_tombstoned');
  });
});
