/** The archive's marks, who is listed as pending, and trimming: it never takes what a window or a later command reads. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ACKS_MAX, TRIM_ROWS_MAX, isPending } from '../../src/contexts/archive.ts';
import type { ArchiveAck, Command, RowKey, Table } from '../../src/contexts/types.ts';
import { MemoryRows, TOMBSTONE, append, call, codeOf, compact, message, policy, put, result, system, text, user } from './contexts-fixture.ts';
import { anyMessage, commands } from './contexts-model.ts';

const NOTHING: ArchiveAck = { context: 'c', upto: 0, version: 0, configRevision: 0 };

function ack(marks: Partial<ArchiveAck> = {}, tailKeep = 0): Command {
  return { type: 'ack_archived', context: marks.context ?? 'c', acks: [{ ...NOTHING, ...marks }], tailKeep };
}

/** Confirms all there is. */
function ackAll(rows: MemoryRows, tailKeep = 0): Command {
  const { lastSeq, version, configRevision } = rows.head;
  return ack({ upto: lastSeq, version, configRevision }, tailKeep);
}

function isListed(rows: MemoryRows, context = 'c'): boolean {
  return rows.stored.has(`unarchived|${context}|`);
}

function hotSeqs(rows: MemoryRows): number[] {
  return [...rows.stored.keys()].flatMap((name) => (name.startsWith('message|c|') ? [Number(name.slice('message|c|'.length))] : [])).sort((a, b) => a - b);
}

function talk(count: number, tokens = 1): Command {
  return append(Array.from({ length: count }, () => user(tokens)));
}

describe('a context is listed', () => {
  it('from its creation until the archive has its settings, and again with every change', () => {
    const rows = new MemoryRows();
    const settled = (): void => {
      rows.run(ackAll(rows));
      assert.equal(isListed(rows), false);
      assert.equal(isPending(rows.head), false);
    };
    rows.run(put());
    assert.equal(isListed(rows), true);
    settled();
    for (const command of [talk(2), compact([]), put({ tokenBudget: 9 }), { type: 'usage', context: 'c', version: 3, inputTokens: 5 } as const, TOMBSTONE]) {
      rows.run(command);
      assert.equal(isListed(rows), isPending(rows.head), command.type);
      if (command.type !== 'usage') assert.equal(isListed(rows), true, command.type);
      settled();
    }
  });

  it('with one write when it falls behind, and none while it is', () => {
    const rows = new MemoryRows();
    rows.run(put());
    rows.run(ackAll(rows));
    const listings = (command: Command): number => rows.run(command).writes.filter(({ table }) => table === 'unarchived').length;
    assert.deepEqual([listings(talk(1)), listings(talk(1)), listings(put({ tokenBudget: 5 }))], [1, 0, 0]);
    assert.equal(rows.reads.get('unarchived') ?? 0, 1, 'only an ack looks');
  });

  it('until all is confirmed: messages, state and settings each on their own', () => {
    const rows = new MemoryRows();
    rows.run(put());
    rows.run(talk(3));
    rows.run(put({ tokenBudget: 5 }));
    for (const marks of [{ upto: 3 }, { version: 3 }, { configRevision: 0 }]) {
      rows.run(ack(marks));
      assert.equal(isListed(rows), true);
    }
    rows.run(ack({ configRevision: 1 }));
    assert.equal(isListed(rows), false);
  });

  it('where an older format left it unlisted, by the first word from the archive', () => {
    const rows = new MemoryRows();
    rows.run(put());
    rows.run(talk(1));
    rows.stored.delete('unarchived|c|');
    rows.run(ack());
    assert.equal(isListed(rows), true);
  });
});

describe('marks', () => {
  it('rise only, never beyond what there is, and change neither version nor time', () => {
    const rows = new MemoryRows();
    rows.run(put(), 1000);
    rows.run(talk(5), 2000);
    const { version, updatedAt } = rows.head;
    const outcome = rows.run(ack({ upto: 99, version: 99, configRevision: 99 }, 100), 9000);
    assert.deepEqual([outcome.reply, outcome.events], [{ ok: true, type: 'ack_archived' }, []]);
    assert.deepEqual([rows.head.archivedSeq, rows.head.archivedVersion, rows.head.archivedRevision], [5, 5, 0]);
    rows.run(ack({ upto: 2, version: 1 }, 100), 9000);
    assert.deepEqual([rows.head.archivedSeq, rows.head.archivedVersion, rows.head.archivedRevision], [5, 5, 0]);
    assert.deepEqual([rows.head.version, rows.head.updatedAt], [version, updatedAt]);
    assert.equal(rows.run(ack({ upto: 5 }, 100)).writes.length, 0, 'what is known already writes nothing');
  });

  it('of many contexts come in one command; those unknown or erased are passed over', () => {
    const rows = new MemoryRows();
    for (const context of ['c', 'd']) {
      rows.run({ ...put(), context });
      rows.run({ ...talk(4), context });
    }
    rows.run({ type: 'purge', context: 'd' });
    const acks = ['nobody', 'c', 'd', 'c'].map((context, i) => ({ ...NOTHING, context, upto: i + 1 }));
    const outcome = rows.run({ type: 'ack_archived', context: 'nobody', acks, tailKeep: 100 });
    assert.equal(outcome.reply.ok, true);
    assert.equal(rows.head.archivedSeq, 4, 'the second ack of a context builds on the first');
    assert.deepEqual(outcome.headers?.get('c'), rows.head);
    assert.equal(rows.header('d')?.archivedSeq, 0);
  });

  it('are refused where there are none or too many in one command', () => {
    const rows = new MemoryRows();
    for (const count of [0, ACKS_MAX + 1]) {
      const acks = Array.from({ length: count }, () => NOTHING);
      assert.equal(codeOf(rows.run({ type: 'ack_archived', context: 'c', acks, tailKeep: 0 }).reply), 'invalid_command');
    }
  });

  it('are set on a tombstoned context too', () => {
    const rows = new MemoryRows();
    rows.run(put());
    rows.run(talk(2));
    rows.run(TOMBSTONE);
    rows.run(ackAll(rows));
    assert.equal(isListed(rows), false);
    assert.deepEqual([rows.head.archivedVersion, rows.head.status], [3, 'tombstoned']);
  });
});

describe('trimming', () => {
  const long = (): MemoryRows => {
    const rows = new MemoryRows();
    rows.run(put({ policy: policy({ limit: 5, targetRatio: 0.5 }) }));
    for (let i = 0; i < 10; i++) rows.run(talk(10));
    return rows;
  };

  it('stays below the archive, the window and the newest tailKeep', () => {
    const rows = long();
    const first = rows.head.window.firstSeq;
    assert.ok(first > 90);
    rows.run(ack({ upto: 30 }));
    assert.equal(rows.head.trimmedSeq, 30);
    assert.deepEqual(hotSeqs(rows)[0], 31);
    rows.run(ack({ upto: 100 }, 50));
    assert.equal(rows.head.trimmedSeq, 50);
    rows.run(ack({ upto: 100 }, 0));
    assert.equal(rows.head.trimmedSeq, first - 1);
    assert.equal(hotSeqs(rows).length, 101 - first);
  });

  it('leaves a long manual window whole', () => {
    const rows = new MemoryRows();
    rows.run(put({ policy: policy({ strategy: 'manual' }) }));
    rows.run(talk(200));
    rows.run(ackAll(rows));
    assert.deepEqual([rows.head.trimmedSeq, isListed(rows)], [0, false]);
    rows.run(compact([user()], { keepFromSeq: 150 }));
    rows.run(ackAll(rows));
    assert.equal(rows.head.trimmedSeq, 149);
  });

  it('is bounded in one command; the context stays listed until the rest is done', () => {
    const rows = new MemoryRows();
    rows.run(put({ policy: policy({ limit: 2 }) }));
    for (let i = 0; i < 5; i++) rows.run(talk(1000));
    const steps: number[] = [];
    while (isListed(rows)) {
      const { writes } = rows.run(ackAll(rows));
      steps.push(writes.filter(({ table }) => table === 'message').length);
      assert.ok(steps.length < 100);
    }
    const all = rows.head.window.firstSeq - 1;
    const whole = Math.floor(all / TRIM_ROWS_MAX);
    assert.ok(whole > 1 && all % TRIM_ROWS_MAX > 0);
    assert.deepEqual(steps, [...Array.from({ length: whole }, () => TRIM_ROWS_MAX), all - whole * TRIM_ROWS_MAX]);
    assert.equal(isPending(rows.head), false);
  });

  it('shares that bound among the contexts of a command', () => {
    const rows = new MemoryRows();
    const names = ['c', 'd', 'e'];
    for (const context of names) {
      rows.run({ ...put({ policy: policy({ limit: 1 }) }), context });
      rows.run({ ...talk(1000), context });
    }
    const acks = names.map((context) => ({ context, upto: 1000, version: 1000, configRevision: 0 }));
    const all = { type: 'ack_archived', context: 'c', acks, tailKeep: 0 } as const;
    assert.equal(rows.run(all).writes.filter(({ table }) => table === 'message').length, TRIM_ROWS_MAX);
    assert.equal(isListed(rows, 'e'), true);
    for (let left = 3 * 999 - TRIM_ROWS_MAX; left > 0; left -= TRIM_ROWS_MAX) {
      assert.equal(rows.run(all).writes.filter(({ table }) => table === 'message').length, Math.min(left, TRIM_ROWS_MAX));
    }
    assert.deepEqual(names.map((context) => isListed(rows, context)), [false, false, false]);
  });

  it('passes over pinned messages, which go once a cut has let them go', () => {
    const rows = new MemoryRows();
    rows.run(put({ policy: policy({ limit: 6 }), tokenBudget: 1000 }));
    rows.run(append([system(), system(), user()]));
    for (let i = 0; i < 20; i++) rows.run(talk(2));
    assert.deepEqual(rows.head.window.pinned, [1, 2]);
    rows.run(ackAll(rows));
    assert.deepEqual(hotSeqs(rows).slice(0, 3), [1, 2, rows.head.window.firstSeq]);
    assert.ok(rows.shown().startsWith('1,2,'));
    const outcome = rows.run(compact([user()], { keepFromSeq: rows.head.lastSeq }));
    assert.deepEqual(outcome.writes.filter(({ value }) => value === null).map(({ key }) => key), [1, 2]);
    assert.equal(hotSeqs(rows)[0], rows.head.trimmedSeq + 1);
  });

  it('lets pinned messages go with an append’s cut as well', () => {
    const rows = new MemoryRows();
    rows.run(put({ policy: policy({ limit: 4 }), tokenBudget: 1000 }));
    rows.run(append([system()]));
    for (let i = 0; i < 10; i++) rows.run(talk(2));
    rows.run(ackAll(rows));
    assert.deepEqual(hotSeqs(rows)[0], 1);
    rows.run(put({ policy: policy({ limit: 1, pin: false }) }));
    rows.run(talk(2));
    assert.ok(!hotSeqs(rows).includes(1));
  });

  it('keeps a far answer whole whose call was trimmed', () => {
    const rows = new MemoryRows();
    rows.run(put({ policy: policy({ limit: 4 }) }));
    rows.run(append([message('assistant', [call('far')])]));
    for (let i = 0; i < 60; i++) rows.run(talk(2));
    rows.run(ackAll(rows));
    assert.ok(rows.head.trimmedSeq > 1);
    rows.run(append([message('tool', [result('far')]), message('tool', [text()])]));
    assert.ok(!rows.shown().split(',').includes('122'), 'its call has left, and so it does');
    assert.equal(rows.window().missing, 0);
  });
});

/** Notes every look at a message that only the archive has. */
class TrimmedRows extends MemoryRows {
  cold: RowKey[] = [];

  override get(table: Table, context: string, key: RowKey): Uint8Array | undefined {
    const row = super.get(table, context, key);
    const header = this.header(context);
    if (table === 'message' && row === undefined && header !== undefined && Number(key) <= header.lastSeq) this.cold.push(key);
    return row;
  }
}

const anyAck = fc.record({ upto: fc.nat(400), version: fc.nat(400), configRevision: fc.nat(5), tailKeep: fc.nat(40) });

describe('under generated conversations', () => {
  it('nothing tells a trimmed replica from one that keeps all, and nothing it does needs a cold row', () => {
    let trims = 0;
    fc.assert(
      fc.property(commands, fc.array(anyAck, { minLength: 5, maxLength: 30 }), fc.array(anyMessage, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 400 }), (given, acks, last, budget) => {
        const whole = new MemoryRows();
        const trimmed = new TrimmedRows();
        const both = (command: Command): void => {
          // Of older versions only the archive may know the sums.
          const now = command.type === 'usage' ? { ...command, version: whole.head.version } : command;
          const outcomes = [whole, trimmed].map((rows) => rows.run(now));
          assert.deepEqual(outcomes[1]?.reply, outcomes[0]?.reply);
          assert.deepEqual(outcomes[1]?.events, outcomes[0]?.events);
        };
        both(put({ tokenBudget: 300, policy: policy({ limit: 12 }) }));
        [...given, append(last)].forEach((command, index) => {
          both(command);
          const { tailKeep, ...marks } = acks[index % acks.length] ?? assert.fail();
          const before = trimmed.head;
          trimmed.run(ack(marks, tailKeep));
          const { trimmedSeq, archivedSeq, lastSeq, window } = trimmed.head;
          if (trimmedSeq > before.trimmedSeq) trims++;
          assert.ok(trimmedSeq <= archivedSeq && archivedSeq <= lastSeq && trimmedSeq < window.firstSeq);
          assert.ok(trimmedSeq <= Math.max(before.trimmedSeq, lastSeq - tailKeep));
          assert.deepEqual(window, whole.head.window);
          const hot = window.pinned.filter((seq) => seq <= trimmedSeq);
          for (let seq = trimmedSeq + 1; seq <= lastSeq; seq++) hot.push(seq);
          assert.deepEqual(hotSeqs(trimmed), hot, 'hot are all behind trimmedSeq, and what is pinned before it');
          for (const [tokens, full] of [[null, false], [budget, false], [null, true]] as const) assert.deepEqual(trimmed.window(tokens, full), whole.window(tokens, full));
          if (isPending(trimmed.head)) assert.ok(isListed(trimmed), 'what is pending is listed');
        });
        assert.deepEqual(trimmed.cold, []);
      }),
      { numRuns: 150 },
    );
    assert.ok(trims > 200, `only ${trims} trims`);
  });
});
