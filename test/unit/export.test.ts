/** Exports slice by slice: complete, one message a line, with an end that is fixed, and never quietly short. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Fetched } from '../../src/archive/cold.ts';
import { RoleKind } from '../../src/contexts/types.ts';
import type { NewMessage } from '../../src/contexts/types.ts';
import { ApiError } from '../../src/errors.ts';
import { MessageExporter } from '../../src/export.ts';
import type { Consistency } from '../../src/http/ports.ts';
import { MessageTexts } from '../../src/message-texts.ts';
import { decodeSlice, read } from '../../src/reads.ts';
import type { SliceQuery } from '../../src/reads.ts';
import { MemoryRows } from './contexts-fixture.ts';

const WHOLE = { fromSeq: 1, toSeq: null, afterVersion: null };

function message(parts: string, metadata = '{}'): NewMessage {
  return { roleText: Buffer.from('"user"'), roleKind: RoleKind.user, idText: Buffer.alloc(0), partsText: Buffer.from(parts), metadataText: Buffer.from(metadata), parts: [], tokens: 1, tokensGiven: true };
}

function contextOf(count: number, parts = '[]'): MemoryRows {
  const rows = new MemoryRows();
  rows.run({ type: 'put', context: 'c', settings: {}, ifConfigRevision: -1, mustExist: false });
  append(rows, count, parts);
  return rows;
}

function append(rows: MemoryRows, count: number, parts = '[]'): void {
  for (let i = 0; i < count; i++) rows.run({ type: 'append', context: 'c', messages: [message(parts)], ifVersion: -1, idempotency: null, model: '' });
}

/** An exporter over `rows`, which remembers how each slice was asked for. */
function exporter(rows: () => MemoryRows, isHere = true): { exporter: MessageExporter; asked: { query: SliceQuery; consistency: Consistency }[] } {
  const asked: { query: SliceQuery; consistency: Consistency }[] = [];
  return {
    asked,
    exporter: new MessageExporter(async (id, query, consistency) => {
      asked.push({ query, consistency });
      return { body: read(rows(), id, { verb: 'slice', query }, { fetched: new Fetched(), texts: new MessageTexts() }).body, appliedIndex: null, isHere };
    }),
  };
}

async function seqs(slices: AsyncIterable<Buffer>): Promise<number[]> {
  const chunks: Buffer[] = [];
  for await (const slice of slices) chunks.push(slice);
  const text = Buffer.concat(chunks).toString();
  assert.ok(text === '' || text.endsWith('\n'));
  return text.split('\n').slice(0, -1).map((line) => (JSON.parse(line) as { seq: number }).seq);
}

const upTo = (last: number, first = 1): number[] => Array.from({ length: last - first + 1 }, (_, i) => first + i);

test('an export is every message once, in slices of bounded size', async () => {
  const rows = contextOf(1000);
  const { exporter: exports, asked } = exporter(() => rows);
  assert.deepEqual(await seqs((await exports.open('c', WHOLE, 'linearizable')).slices), upTo(1000));
  assert.equal(asked.length, 4);
  const large = contextOf(40, `[{"type":"text","text":"${'x'.repeat(50_000)}"}]`);
  for await (const slice of (await exporter(() => large).exporter.open('c', WHOLE, 'linearizable')).slices) assert.ok(slice.length < 300_000);
});

test('ranges: from, to, after a version, empty, beyond the end', async () => {
  const rows = contextOf(20);
  const range = async (query: object): Promise<number[]> => seqs((await exporter(() => rows).exporter.open('c', { ...WHOLE, ...query }, 'linearizable')).slices);
  assert.deepEqual(await range({ fromSeq: 18 }), [18, 19, 20]);
  assert.deepEqual(await range({ fromSeq: 3, toSeq: 5 }), [3, 4, 5]);
  assert.deepEqual(await range({ afterVersion: 17 }), [18, 19, 20]);
  assert.deepEqual(await range({ fromSeq: 19, afterVersion: 5 }), [19, 20]);
  assert.deepEqual(await range({ toSeq: 99 }), upTo(20));
  for (const query of [{ fromSeq: 21 }, { fromSeq: 5, toSeq: 4 }, { toSeq: 0 }, { afterVersion: 20 }]) assert.deepEqual(await range(query), []);
  const empty = contextOf(0);
  assert.deepEqual(await seqs((await exporter(() => empty).exporter.open('c', WHOLE, 'linearizable')).slices), []);
});

test('messages appended while it runs are not part of it', async () => {
  const rows = contextOf(600);
  const { slices } = await exporter(() => rows).exporter.open('c', WHOLE, 'linearizable');
  append(rows, 50);
  assert.deepEqual(await seqs(slices), upTo(600));
});

test('only slices of this replica itself do without a barrier of their own', async () => {
  const rows = contextOf(600);
  for (const [isHere, first, consistencies] of [[true, 'linearizable', ['linearizable', 'stale', 'stale']], [false, 'linearizable', ['linearizable', 'linearizable', 'linearizable']], [false, 'stale', ['stale', 'stale', 'stale']]] as const) {
    const { exporter: exports, asked } = exporter(() => rows, isHere);
    await seqs((await exports.open('c', WHOLE, first)).slices);
    assert.deepEqual(asked.map(({ consistency }) => consistency), consistencies);
  }
});

test('a replica that is behind refuses to go on, instead of ending early', async () => {
  const rows = contextOf(600);
  const behind = contextOf(400);
  let current = rows;
  const { slices } = await exporter(() => current).exporter.open('c', WHOLE, 'stale');
  current = behind;
  await assert.rejects(seqs(slices), (error) => error instanceof ApiError && error.code === 'raft_unavailable');
});

test('line breaks between tokens become spaces; those inside strings are escapes already', () => {
  const rows = new MemoryRows();
  rows.run({ type: 'put', context: 'c', settings: {}, ifConfigRevision: -1, mustExist: false });
  rows.run({ type: 'append', context: 'c', messages: [message('[\r\n {"type":"text",\n"text":"a\\nb"}\n]', '{\n"k" : 1.50}')], ifVersion: -1, idempotency: null, model: '' });
  const { lines } = decodeSlice(read(rows, 'c', { verb: 'slice', query: { ...WHOLE, lastSeq: null } }, { fetched: new Fetched(), texts: new MessageTexts() }).body);
  const text = lines.toString();
  assert.equal(text.indexOf('\n'), text.length - 1);
  assert.ok(!text.includes('\r') && text.includes('"text":"a\\nb"') && text.includes('1.50'));
  assert.deepEqual(JSON.parse(text).parts, [{ type: 'text', text: 'a\nb' }]);
  // The stored text stays as it was.
  assert.match(read(rows, 'c', { verb: 'tail', offset: 0, limit: 1 }, { fetched: new Fetched(), texts: new MessageTexts() }).body.toString(), /\[\r\n \{"type"/);
});
