/** Windows under generated and real conversations, held against a slow model (contexts-model.ts). */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { MemoryRows, append, message, policy, put, text } from './contexts-fixture.ts';
import type { Part } from './contexts-fixture.ts';
import { Model, anyMessage, assertNotDue, check, commands, replay } from './contexts-model.ts';
import { classifyPart } from '../../src/contexts/pairs.ts';
import { type ContextHeads, MessageHeads } from '../../src/contexts/heads.ts';
import { decodeMessageRow } from '../../src/contexts/rows.ts';
import { keepKeys } from '../../src/contexts/idempotency.ts';
import { KeyMemory } from '../../src/contexts/keys.ts';
import type { Command, Outcome } from '../../src/contexts/types.ts';

/** Keeps heads of messages and keys as a node does. */
class KeepingRows extends MemoryRows {
  readonly kept: MessageHeads;
  readonly keys: KeyMemory;

  constructor(bytesMax?: number, keysMax?: number) {
    super();
    this.kept = new MessageHeads(bytesMax);
    this.keys = new KeyMemory(keysMax);
  }

  heads(context: string): ContextHeads {
    return this.kept.forCut(context);
  }

  protected override applied(command: Command, outcome: Outcome): void {
    if (outcome.header === null) return;
    this.kept.applied(command.context, outcome.header.window.firstSeq, outcome.writes);
    if (command.type === 'append' && command.idempotency !== null) keepKeys(this.keys, command.context, outcome.writes);
  }
}

describe('windows of generated conversations', () => {
  it('sums are true, budgets hold, no pair is torn', () => {
    fc.assert(fc.property(commands, fc.nat(300), (given, budget) => void replay(given, budget)), { numRuns: 400 });
  });

  it('are the same bytes wherever the same commands are applied', () => {
    fc.assert(
      fc.property(commands, (given) => {
        const one = new MemoryRows();
        const others = [new MemoryRows(), new KeepingRows(), new KeepingRows(600, 6)];
        for (const command of [put(), ...given]) {
          one.run(command);
          for (const other of others) other.run(structuredClone(command));
        }
        for (const other of others) assert.deepEqual(one.stored, other.stored);
      }),
      { numRuns: 100 },
    );
  });

  it('a window that is cut again and again is read from the rows once, if at all', () => {
    const rows = new KeepingRows();
    rows.run(put({ tokenBudget: 1_000_000, policy: policy({ limit: 100 }) }));
    for (let i = 0; i < 1000; i++) rows.run(append([message('user', [text('x'.repeat(i % 300))])]));
    assert.ok((rows.header('c')?.cutCount ?? 0) > 10);
    assert.equal(rows.reads.get('message') ?? 0, 0);
    rows.kept.clear();
    for (let i = 0; i < 1000; i++) rows.run(append([message('user', [text()])]));
    assert.ok((rows.reads.get('message') ?? 0) > 0);
    assert.ok((rows.reads.get('message') ?? 0) <= 100);
  });

  it('keys are told apart without a read, and forgotten when they are old', () => {
    const hour = 3_600_000;
    const anyKeys = fc.array(fc.record({ key: fc.integer({ min: 0, max: 30 }), waitHours: fc.constantFrom(0, 0, 0, 1, 9, 25) }), { maxLength: 120, size: 'max' });
    fc.assert(
      fc.property(anyKeys, fc.nat(40), (given, lostAt) => {
        const one = new MemoryRows();
        const others = [new KeepingRows(), new KeepingRows(undefined, 12)];
        let now = 1_700_000_000_000;
        for (const rows of [one, ...others]) rows.run(put(), now);
        given.forEach(({ key, waitHours }, i) => {
          now += waitHours * hour + 1;
          if (i === lostAt) for (const rows of others) rows.keys.clear();
          const command = append([message('user', [text()])], { key: `${key}` });
          const { reply } = one.run(command, now);
          for (const rows of others) assert.deepEqual(rows.run(command, now).reply, reply);
        });
        for (const rows of others) assert.deepEqual(rows.stored, one.stored);
      }),
      { numRuns: 150 },
    );
    const rows = new KeepingRows();
    rows.run(put());
    for (let i = 0; i < 200; i++) rows.run(append([message('user', [text()])], { key: `${i}` }));
    assert.deepEqual([rows.reads.get('keyed') ?? 0, rows.reads.get('keyedRing') ?? 0], [0, 0]);
    rows.run(append([message('user', [text()])], { key: '7' }));
    assert.equal(rows.reads.get('keyed'), 1);
  });

  it('one batch or one by one: the same seqs, versions and pairs', () => {
    fc.assert(
      fc.property(fc.array(anyMessage, { minLength: 1, maxLength: 40, size: 'max' }), (messages) => {
        const batch = new MemoryRows();
        const single = new MemoryRows();
        for (const rows of [batch, single]) rows.run(put({ tokenBudget: 100_000 }));
        batch.run(append(messages));
        for (const m of messages) single.run(append([m]));
        assert.deepEqual(batch.stored, single.stored);
      }),
      { numRuns: 100 },
    );
  });

  it('last_n is what a list would do', () => {
    const plain = fc.record({ system: fc.nat(3), tokens: fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 60, size: 'max' }), limit: fc.integer({ min: 1, max: 15 }) });
    fc.assert(
      fc.property(plain, ({ system, tokens, limit }) => {
        const rows = new MemoryRows();
        rows.run(put({ tokenBudget: 400, policy: policy({ limit, pin: false }) }));
        let list: [number, number][] = [];
        tokens.forEach((n, index) => {
          rows.run(append([message(index < system ? 'system' : 'user', [text()], { each: n })]));
          list.push([index + 1, n]);
          const sum = (): number => list.reduce((total, [, t]) => total + t, 0);
          if (sum() <= 400 * 0.7 && list.length <= limit) return;
          while (list.length > 1 && (sum() > 200 || list.length > Math.max(1, Math.floor((limit * 0.5) / 0.7)))) list = list.slice(1);
        });
        assert.equal(rows.shown(), list.map(([seq]) => seq).join(','));
      }),
    );
  });
});

const file = process.env['FASTPACA_CONVERSATIONS'] ?? '';

describe('windows of real conversations', { skip: !existsSync(file) && 'FASTPACA_CONVERSATIONS names no file' }, () => {
  for (const strategy of ['last_n', 'skip_parts', 'manual'] as const) {
    it(`${strategy}: sums are true, budgets hold, no pair is torn, texts are verbatim`, () => {
      for (const line of readFileSync(file, 'utf8').trim().split('\n')) {
        const conversation: { messages: { role: string; parts: Part[] }[] } = JSON.parse(line);
        const rows = new MemoryRows();
        const model = new Model();
        rows.run(put({ tokenBudget: 2500, policy: policy({ strategy, limit: 40, skipKinds: ['tool', 'reasoning'] }) }));
        for (const { role, parts } of conversation.messages) {
          const one = message(role, parts);
          const tokens = Math.ceil(JSON.stringify(parts).length / 4);
          const weighed = { ...one, tokens, parts: one.parts.map((info) => ({ ...info, tokens: Math.ceil((info.end - info.start) / 4) })), tokensGiven: true };
          const command = append([weighed]);
          assert.equal(rows.run(command).reply.ok, true);
          model.take(command, true, rows.head.version);
          check(model, rows, 700, line.slice(0, 40));
          assertNotDue(rows, line.slice(0, 40));
          const row = decodeMessageRow(rows.get('message', 'c', model.log.length) ?? assert.fail()) ?? assert.fail();
          assert.deepEqual(row.bytes.slice(row.partsStart, row.partsEnd), weighed.partsText);
        }
        for (const info of parts(conversation)) assert.equal(typeof classifyPart(info).callId, 'string');
      }
    });
  }
});

function parts(conversation: { messages: { parts: Part[] }[] }): Part[] {
  return conversation.messages.flatMap((m) => m.parts);
}
