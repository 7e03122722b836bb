/** Messages stored many in a row: whatever is asked of them is answered as if each had a row of its own. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import fc from 'fast-check';
import { EntryType } from '../../raft/types.ts';
import { encodeCommand, setStamp } from '../../src/contexts/commands.ts';
import type { Command, NewMessage, RowKey, Write } from '../../src/contexts/types.ts';
import { Machine } from '../../src/machine.ts';
import { blockHolds, endsOfSpan, isBlock, messagesIn, openBlock, RecentBlocks, storedWrites } from '../../src/message-blocks.ts';
import { DamageError } from '../../src/storage/checksum.ts';
import { Storage } from '../../src/storage/store.ts';
import { append, compact, MemoryRows, message, policy, put, text } from './contexts-fixture.ts';
import { GROUP } from './mesh.ts';

const STAMP_MS = 1_700_000_000_000;
const SAYING = 'what is said in one message and again in the next, as in most conversations that anybody has had; ';

function said(count: number, characters: number): NewMessage[] {
  return Array.from({ length: count }, (_, i) => message('user', [text(`${i} ${SAYING.repeat(1 + characters / SAYING.length)}`.slice(0, characters))]));
}

function archived(upto: number, tailKeep = 0): Command {
  return { type: 'ack_archived', context: 'c', acks: [{ context: 'c', upto, version: 0, configRevision: 0 }], tailKeep };
}

/** One group over real storage, beside the same state with a row for each message. */
class Pair {
  readonly model = new MemoryRows();
  readonly damage: string[] = [];
  private readonly directory: string;
  private index = 0;
  storage!: Storage;
  machine!: Machine;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async create(): Promise<Pair> {
    const pair = new Pair(await mkdtemp(join(tmpdir(), 'blocks-')));
    await pair.open();
    await pair.storage.createGroup(GROUP, { replica: 1, conf: { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false }, index: 0, term: 0 });
    pair.run(put());
    return pair;
  }

  private async open(): Promise<void> {
    this.storage = await Storage.open(this.directory);
    this.machine = new Machine(this.storage, { onEvent: () => undefined, onRestored: () => undefined, onTopology: () => undefined, onDamage: (_group, reason) => this.damage.push(reason) });
  }

  async restart(): Promise<void> {
    await this.storage.close();
    await this.open();
  }

  async close(): Promise<void> {
    await this.storage.close();
    await rm(this.directory, { recursive: true });
  }

  run(command: Command): void {
    const data = encodeCommand(command);
    setStamp(data, STAMP_MS);
    const reply = this.machine.apply(GROUP, { term: 1, index: ++this.index, type: EntryType.normal, data });
    assert.deepEqual(reply, this.model.run(command, STAMP_MS).reply);
  }

  get(seq: number): Uint8Array | undefined {
    return this.machine.rowsOf('c').get('message', 'c', seq);
  }

  keys(): Promise<RowKey[]> {
    return this.storage.keys(GROUP, 'message', 'c', { after: null, limit: 10_000 });
  }

  /** Every message, in `order`, as the model has it. */
  compare(order: (seqs: number[]) => number[] = (seqs) => seqs): void {
    const { lastSeq } = this.model.head;
    for (const seq of order(Array.from({ length: lastSeq + 3 }, (_, i) => i))) {
      const expected = this.model.stored.get(`message|c|${seq}`);
      const found = this.get(seq);
      assert.equal(found === undefined ? undefined : Buffer.from(found).toString('latin1'), expected === undefined ? undefined : Buffer.from(expected).toString('latin1'), `message ${seq} of ${lastSeq}`);
    }
  }
}

describe('message blocks', () => {
  let pair: Pair;
  beforeEach(async () => void (pair = await Pair.create()));
  afterEach(() => pair.close());

  it('hold what was appended together in fewer rows, and give back each message', async () => {
    for (const count of [1, 100, 3, 300, 1, 64]) pair.run(append(said(count, 300)));
    pair.compare();
    pair.compare((seqs) => seqs.reverse());
    assert.ok((await pair.keys()).length < 469 / 8, `${(await pair.keys()).length} rows`);
    await pair.restart();
    pair.compare((seqs) => seqs.sort((a, b) => ((a * 7919) % 1009) - ((b * 7919) % 1009)));
    assert.deepEqual(pair.damage, []);
  });

  it('are trimmed message by message for whoever reads, and leave the disk with the last of their span', async () => {
    pair.run(put({ policy: policy({ limit: 3 }) }));
    pair.run(append(said(200, 300)));
    const [, end] = endsOfSpan(1);
    for (const upto of [1, 10, end - 1]) {
      pair.run(archived(upto));
      assert.equal(pair.model.head.trimmedSeq, upto);
      pair.compare();
      assert.ok((await pair.keys()).includes(1));
    }
    pair.run(archived(end));
    pair.compare();
    await pair.restart();
    pair.compare();
    assert.ok((await pair.keys()).every((key) => Number(key) > end));
    pair.run(archived(200));
    assert.ok((await pair.keys()).every((key) => Number(key) > 128));
  });

  it('stay for a pinned message alone, and go when it is let go', async () => {
    pair.run(put({ policy: policy({ limit: 3 }) }));
    const messages = said(200, 300);
    messages[0] = message('system', [text(SAYING.repeat(3))]);
    pair.run(append(messages));
    assert.deepEqual(pair.model.head.window.pinned, [1]);
    pair.run(archived(200));
    pair.compare();
    assert.ok(pair.model.head.trimmedSeq > 128);
    assert.ok(isBlock(pair.storage.get(GROUP, 'message', 'c', 1) ?? assert.fail('the block of the pinned message is gone')));
    assert.equal(pair.get(2), undefined);
    pair.run(compact([message('user', [text()])], { keepFromSeq: 200 }));
    assert.deepEqual(pair.model.head.window.pinned, []);
    pair.run(append(said(1, 10)));
    pair.compare();
    assert.ok((await pair.keys()).every((key) => Number(key) > 128), String(await pair.keys()));
  });

  it('are equal to rows of their own over any history', async () => {
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ do: fc.constant('append' as const), count: fc.integer({ min: 1, max: 150 }), characters: fc.constantFrom(20, 100, 300, 5000) }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('archive' as const), share: fc.double({ min: 0, max: 1, noNaN: true }), tailKeep: fc.nat(20) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('pin' as const) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('limit' as const), limit: fc.integer({ min: 1, max: 100 }) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('compact' as const), back: fc.nat(100) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('restart' as const) }) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), async (steps) => {
        const one = await Pair.create();
        try {
          for (const next of steps) {
            const { lastSeq } = one.model.head;
            if (next.do === 'append') one.run(append(said(next.count, next.characters)));
            else if (next.do === 'archive') one.run(archived(Math.round(next.share * lastSeq), next.tailKeep));
            else if (next.do === 'pin') one.run(append([message('system', [text()]), ...said(20, 300)]));
            else if (next.do === 'limit') one.run(put({ policy: policy({ limit: next.limit }) }));
            else if (next.do === 'compact') one.run(compact([], { keepFromSeq: Math.max(1, lastSeq - next.back) }));
            else await one.restart();
            one.compare();
          }
          await one.restart();
          one.compare();
          // No row outlives its span.
          const { trimmedSeq, window } = one.model.head;
          for (const key of await one.keys()) {
            const [first, last] = endsOfSpan(Number(key));
            assert.ok(last > trimmedSeq || window.pinned.some((seq) => seq >= first && seq <= last), `row ${key} with ${trimmedSeq} trimmed`);
          }
          assert.deepEqual(one.damage, []);
        } finally {
          await one.close();
        }
      }),
      { numRuns: 40 },
    );
  });

  it('leave nothing behind where a context is purged', async () => {
    pair.run(append(said(150, 300)));
    pair.run(append(said(5, 300)));
    assert.ok(pair.get(3) !== undefined);
    pair.run({ type: 'purge', context: 'c' });
    assert.equal(pair.get(4), undefined);
    pair.run({ type: 'purge_step', context: 'c', rows: (await pair.keys()).map((key) => ({ table: 'message', key })) });
    assert.deepEqual(await pair.keys(), []);
  });

  it('are damage as a whole when they are lost, and only they', () => {
    pair.run(append(said(3, 20)));
    pair.run(append(said(150, 300)));
    const [first, last] = endsOfSpan(1);
    assert.ok(isBlock(pair.storage.get(GROUP, 'message', 'c', last) ?? assert.fail('no block')));
    pair.storage.put(GROUP, { table: 'message', context: 'c', key: last, value: null });
    for (const seq of [1, 2, 3, last + 1]) assert.ok(pair.get(seq) !== undefined, `${seq}`);
    for (const seq of [first + 3, last]) assert.throws(() => pair.get(seq), DamageError);
    assert.deepEqual(pair.damage, [first + 3, last].map((key) => `row {"table":"message","context":"c","key":${key}} of group ${GROUP} is missing`));
  });
});

describe('what is stored for the messages of a command', () => {
  const rowsOf = (first: number, count: number, row: (i: number) => Uint8Array): Write[] => Array.from({ length: count }, (_, i) => ({ table: 'message', context: 'c', key: first + i, value: row(i) }));
  const stored = (writes: readonly Write[]): readonly Write[] => storedWrites(writes, () => undefined);
  const same = (bytes: number) => (): Uint8Array => new Uint8Array(bytes).fill(2);

  it('is a block at either end of a span, and rows where it reaches none', () => {
    for (const [first, count, keys] of [[1, 64, 1], [1, 20, 1], [45, 20, 64], [65, 64, 65], [121, 8, 128]] as const) {
      const [block, ...others] = stored(rowsOf(first, count, same(600)));
      assert.deepEqual([block?.key, others.length], [keys, 0], `${first} and ${count}`);
      const row = block?.value ?? assert.fail('no row');
      assert.deepEqual([isBlock(row), blockHolds(row, first - 1), blockHolds(row, first), blockHolds(row, first + count - 1), blockHolds(row, first + count)], [true, false, true, true, false]);
      assert.deepEqual(openBlock(row).rows.map((each) => each.length), Array.from({ length: count }, () => 600));
    }
    const inside = rowsOf(2, 62, same(600));
    assert.deepEqual(stored(inside), inside);
    assert.deepEqual(stored(rowsOf(50, 100, same(600))).map(({ key }) => key), [64, 65, 129]);
  });

  it('is a block also where nothing is saved: every replica decides alike, whatever its library makes of the bytes', () => {
    const noise = rowsOf(1, 64, () => randomBytes(500));
    const [block, ...others] = stored(noise);
    assert.equal(others.length, 0);
    assert.deepEqual(openBlock(block?.value ?? assert.fail('no row')).rows.map((row) => Buffer.from(row).toString('hex')), noise.map(({ value }) => Buffer.from(value ?? []).toString('hex')));
  });

  it('is as it was where a block would not be worth it, or too much to unpack', () => {
    const few = rowsOf(1, 7, same(2000));
    const small = rowsOf(1, 64, same(60));
    const large = rowsOf(1, 64, same(5000));
    const others = rowsOf(1, 20, same(600)).map((write): Write => ({ ...write, table: 'replacement' }));
    const gaps = rowsOf(1, 40, same(600)).filter(({ key }) => Number(key) % 5 !== 0);
    const contexts = rowsOf(1, 40, same(600)).map((write, i): Write => ({ ...write, context: `c${i % 2}` }));
    for (const writes of [few, small, large, others, gaps, contexts]) assert.deepEqual(stored(writes), writes);
  });

  it('goes with its span, of each context in a command', () => {
    const trimmed = new MemoryRows();
    trimmed.run(put({ policy: policy({ limit: 1 }) }));
    trimmed.run(append(said(100, 10)));
    trimmed.run(archived(64));
    assert.equal(trimmed.head.trimmedSeq, 64);
    const deletions = (context: string): Write[] => rowsOf(63, 2, same(1)).map((write): Write => ({ ...write, context, value: null }));
    assert.deepEqual(
      storedWrites([...deletions('a'), ...deletions('b')], () => trimmed.head).map(({ context, key }) => [context, key]),
      ['a', 'b'].flatMap((context) => [63, 1, 64].map((key) => [context, key])),
    );
  });

  it('is opened only if it is whole', () => {
    const row = stored(rowsOf(1, 64, same(600)))[0]?.value ?? assert.fail('no row');
    assert.deepEqual(messagesIn(1, row).first, 1);
    const single = same(600)();
    assert.deepEqual(messagesIn(7, single), { first: 7, rows: [single] });
    for (let length = 1; length < row.length; length++) assert.throws(() => openBlock(row.subarray(0, length)));
    for (const count of [0, 1, 63]) {
      const wrong = Uint8Array.from(row);
      wrong[2] = count;
      assert.throws(() => openBlock(wrong), `${count} messages`);
    }
  });
});

it('of blocks, those read last are at hand; a message alone is a copy, many are views', () => {
  const recent = new RecentBlocks();
  const plain = Buffer.from('onetwothree');
  assert.equal(recent.get('', 0), undefined);
  recent.keep('a', 1, { first: 1, rows: [plain.subarray(0, 3), plain.subarray(3, 6)] });
  recent.keep('b', 64, { first: 60, rows: [plain.subarray(6), plain, plain, plain, plain] });
  const at = (context: string, seq: number): string | undefined => {
    const row = recent.get(context, seq);
    assert.ok(row === undefined || row.buffer.byteLength === row.length);
    return row === undefined ? undefined : Buffer.from(row).toString();
  };
  for (let round = 0; round < 2; round++) {
    assert.deepEqual([at('a', 0), at('a', 1), at('a', 2), at('a', 3), at('a', 60)], [undefined, 'one', 'two', undefined, undefined]);
    assert.deepEqual([at('b', 59), at('b', 60), at('b', 64), at('a', 61), at('c', 60)], [undefined, 'three', 'onetwothree', undefined, undefined]);
  }
  recent.keep('d', 1, { first: 1, rows: Array.from({ length: 64 }, () => plain.subarray(0, 3)) });
  const views = Array.from({ length: 64 }, (_, i) => recent.get('d', 1 + i)).filter((row) => row?.buffer === plain.buffer);
  assert.equal(views.length, 56);
  recent.clear();
  recent.keep('c', 1, { first: 1, rows: [plain] });
  assert.deepEqual([at('a', 1), at('b', 60), at('c', 1)], [undefined, undefined, 'onetwothree']);
});
