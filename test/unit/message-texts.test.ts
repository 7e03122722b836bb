/** Texts kept for reads: the answers are those of the rows, byte for byte, whatever happened in between; and bounded. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Fetched } from '../../src/archive/cold.ts';
import type { MessageRow } from '../../src/contexts/rows.ts';
import { RoleKind } from '../../src/contexts/types.ts';
import type { Command, NewMessage } from '../../src/contexts/types.ts';
import type { WindowQuery } from '../../src/http/ports.ts';
import { MessageTexts } from '../../src/message-texts.ts';
import { read, type ReadVerb } from '../../src/reads.ts';
import { messageBytesMax, messageRow, renderMessage, writeMessage } from '../../src/render.ts';
import { MemoryRows, append, message, policy, put, user } from './contexts-fixture.ts';
import { commands } from './contexts-model.ts';
import { GROUP, Mesh } from './mesh.ts';

const WINDOW: WindowQuery = { budgetTokens: null, full: false, ifVersion: null, atVersion: null, provider: null, ifNoneMatch: null };

/** An answer and its tag, or what was thrown. */
function answerOf(rows: MemoryRows, verb: ReadVerb, texts: MessageTexts): string {
  try {
    const { body, etag } = read(rows, 'c', verb, { fetched: new Fetched(), texts });
    return `${etag} ${body.toString()}`;
  } catch (error) {
    return error instanceof Error ? `${error.name}: ${error.message}` : assert.fail('what was thrown is no error');
  }
}

/** The same answer from the rows alone: a window that is asked for by its version is made anew, a page is a page of the log. */
function fromRows(rows: MemoryRows, verb: ReadVerb): string {
  const header = rows.header('c');
  const none = new MessageTexts(0);
  if (header === undefined || rows.config('c') === undefined) return answerOf(rows, verb, none);
  switch (verb.verb) {
    case 'window':
      return answerOf(rows, { verb: 'window', query: { ...verb.query, atVersion: header.version } }, none);
    case 'tail': {
      const to = header.lastSeq - verb.offset;
      const fromSeq = Math.max(1, to - verb.limit + 1);
      const page = answerOf(rows, { verb: 'messages', query: { fromSeq, toSeq: Math.max(0, to), afterVersion: null, limit: verb.limit } }, none);
      return page.replace(/,"version":\d+,"next_seq":(\d+|null)\}$/, '}');
    }
    default:
      return assert.fail('not compared here');
  }
}

const wanted: fc.Arbitrary<ReadVerb> = fc.oneof(
  fc.record({ verb: fc.constant('tail' as const), offset: fc.oneof(fc.constant(0), fc.nat(30)), limit: fc.integer({ min: 1, max: 60 }) }),
  fc
    .record({
      budgetTokens: fc.option(fc.integer({ min: 1, max: 900 }), { freq: 2 }),
      full: fc.boolean(),
      provider: fc.constantFrom(null, null, null, 'openai' as const, 'anthropic' as const, 'ai-sdk' as const),
    })
    .map((query): ReadVerb => ({ verb: 'window', query: { ...WINDOW, ...query, full: query.full && query.budgetTokens === null } })),
);

/** What happens between reads; `restore` takes the state of another replica, as an installed snapshot does. */
type Step = { readonly command: Command } | { readonly restore: true } | { readonly read: readonly ReadVerb[] };

const step: fc.Arbitrary<Step[]> = fc
  .tuple(
    commands,
    fc.array(
      fc.oneof(
        { weight: 12, arbitrary: fc.array(wanted, { minLength: 1, maxLength: 4 }).map((verbs): Step => ({ read: verbs })) },
        { weight: 2, arbitrary: fc.nat(10).map((tailKeep): Step => ({ command: { type: 'ack_archived', context: 'c', acks: [{ context: 'c', upto: 0, version: 0, configRevision: 0 }], tailKeep } })) },
        { weight: 1, arbitrary: fc.constant<Step>({ restore: true }) },
        { weight: 1, arbitrary: fc.constantFrom<Step>({ command: { type: 'tombstone', context: 'c' } }, { command: { type: 'purge', context: 'c' } }) },
      ),
      { minLength: 20, maxLength: 60, size: 'max' },
    ),
  )
  .map(([changes, others]) => {
    const steps: Step[] = [];
    for (let i = 0; i < Math.max(changes.length, others.length); i++) {
      const command = changes[i];
      const other = others[i];
      if (command !== undefined) steps.push({ command });
      // What ends a context comes late, so that there is something to end.
      const ends = other !== undefined && 'command' in other && other.command.type !== 'ack_archived';
      if (other !== undefined && (!ends || i > 30)) steps.push(other);
    }
    return steps;
  });

/** An ack of all there is, from a step that cannot know how much that is. */
function current(rows: MemoryRows, command: Command): Command | null {
  if (command.type !== 'ack_archived') return command;
  const header = rows.header('c');
  if (header === undefined) return null;
  const { lastSeq, version, configRevision } = header;
  return { ...command, acks: [{ context: 'c', upto: lastSeq, version, configRevision }] };
}

function replay(steps: readonly Step[], bytesMax: number): void {
  let rows = new MemoryRows();
  const texts = new MessageTexts(bytesMax);
  rows.run(put({ tokenBudget: 300, policy: policy({ limit: 12 }) }));
  for (const [i, one] of steps.entries()) {
    if ('command' in one) {
      const command = current(rows, one.command);
      if (command === null) continue;
      rows.run(command);
      if (rows.header('c')?.status === 'purged') texts.delete('c');
    } else if ('restore' in one) {
      const other = new MemoryRows();
      for (const [name, row] of rows.stored) other.stored.set(name, row);
      rows = other;
      texts.clear();
    } else {
      for (const verb of one.read) assert.equal(answerOf(rows, verb, texts), fromRows(rows, verb), `step ${i}: ${JSON.stringify(verb)}`);
    }
    assert.ok(texts.size <= bytesMax, `${texts.size} bytes are kept, ${bytesMax} were allowed`);
  }
}

const textOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

describe('message texts', () => {
  it('change no byte of an answer, over appends, cuts, settings, calibration, trims, restored snapshots and purges', () => {
    for (const bytesMax of [64 * 1024 * 1024, 6000, 0]) fc.assert(fc.property(step, (steps) => replay(steps, bytesMax)), { numRuns: 120 });
  });

  it('a message is written as it is rendered, whatever its time and numbers', () => {
    const numbers = fc.oneof(fc.nat(), fc.maxSafeNat());
    const time = fc.oneof(fc.integer({ min: 0, max: 253_402_300_799_999 }), fc.constantFrom(0, 951_782_399_999, 951_782_400_000, 4_107_542_400_000, 253_402_300_799_999, 253_402_300_800_000, 8.64e15));
    const given = fc.record({ seq: numbers, version: numbers, tokens: numbers, stampMs: time, id: fc.constantFrom('', '"m-1"'), parts: fc.constantFrom('[]', `[{"type":"text","text":"${'é'.repeat(40)}"}]`), metadata: fc.constantFrom('{}', `{"long":"${'x'.repeat(90)}"}`) });
    fc.assert(
      fc.property(given, ({ seq, version, tokens, stampMs, id, parts, metadata }) => {
        const texts = ['"user"', id, parts, metadata].map((text) => Buffer.from(text));
        const bytes = Buffer.concat(texts);
        const [role = 0, ids = 0, part = 0] = texts.map(({ length }) => length);
        const row: MessageRow = { ...ROW, bytes, version, tokens, stampMs, roleEnd: role, idStart: role, idEnd: role + ids, partsStart: role + ids, partsEnd: role + ids + part, metadataStart: role + ids + part, metadataEnd: bytes.length };
        const pieces: Uint8Array[] = [];
        renderMessage(pieces, seq, row, null, tokens);
        const target = Buffer.alloc(3 + messageBytesMax(row));
        assert.deepEqual(target.toString('utf8', 3, writeMessage(target, 3, seq, row)), Buffer.concat(pieces).toString());
      }),
      { numRuns: 2000 },
    );
  });

  it('what was handed out stays as it was while the log grows', () => {
    const rows = new MemoryRows();
    const texts = new MessageTexts();
    rows.run(put({ tokenBudget: 1_000_000 }));
    const seen: { text: Buffer; then: string }[] = [];
    for (let i = 1; i <= 200; i++) {
      rows.run(append([user(), user()]));
      const text = textOf(texts.reach(rows, 'c', Math.max(1, 2 * i - 30), 2 * i)?.text(Math.max(1, 2 * i - 30), 2 * i) ?? assert.fail());
      seen.push({ text, then: text.toString() });
    }
    for (const { text, then } of seen) assert.equal(text.toString(), then);
  });

  it('what nobody asks for any more is let go as the log grows', () => {
    const rows = new MemoryRows();
    const texts = new MessageTexts();
    rows.run(put({ tokenBudget: 1_000_000_000, policy: policy({ strategy: 'manual' }) }));
    for (let i = 1; i <= 400; i++) {
      rows.run(append(Array.from({ length: 10 }, () => user())));
      texts.reach(rows, 'c', 10 * i - 9, 10 * i);
    }
    assert.ok(texts.size < 20_000, `${texts.size} bytes for pages of ten`);
  });

  it('a context larger than is kept of one is read from its rows, and nothing of it is kept', () => {
    const rows = new MemoryRows();
    const texts = new MessageTexts();
    rows.run(put({ tokenBudget: 1_000_000_000, policy: policy({ strategy: 'manual' }) }));
    for (let i = 0; i < 10; i++) rows.run(append([large(1024 * 1024)]));
    for (const verb of [{ verb: 'tail', offset: 0, limit: 10 }, { verb: 'window', query: WINDOW }] as const) assert.equal(answerOf(rows, verb, texts), fromRows(rows, verb));
    assert.ok(texts.size < 4096, `${texts.size} bytes are kept`);
  });

  it('a purge, a snapshot and a lost replica leave nothing of a context in memory', async () => {
    const mesh = await Mesh.start(1, { groups: [GROUP] });
    try {
      const { store, machine } = mesh.node('node-1');
      await store.put('c', {});
      await store.append('c', Buffer.from('{"message":{"role":"user","parts":[{"type":"text","text":"osprey"}]}}'), null);
      const fill = async (): Promise<void> => {
        await store.window('c', WINDOW, 'linearizable');
        assert.ok(machine.texts.size > 0);
      };
      await fill();
      machine.restored(GROUP, { index: 1, term: 1, conf: { voters: [], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false } });
      assert.equal(machine.texts.size, 0);
      await fill();
      machine.forget(GROUP);
      assert.equal(machine.texts.size, 0);
      await fill();
      await store.purge('c');
      assert.equal(machine.texts.size, 0);
    } finally {
      await mesh.close();
    }
  });
});

const ROW: MessageRow = {
  ...messageRow(encodedRow()),
  linkCount: 0,
  roleStart: 0,
};

function encodedRow(): Uint8Array {
  const rows = new MemoryRows();
  rows.run(put());
  rows.run(append([message('user', [])]));
  return rows.get('message', 'c', 1) ?? assert.fail();
}

function large(bytes: number): NewMessage {
  return { roleText: Buffer.from('"user"'), roleKind: RoleKind.user, idText: Buffer.alloc(0), partsText: Buffer.from(JSON.stringify([{ type: 'text', text: 'x'.repeat(bytes) }])), metadataText: Buffer.from('{}'), parts: [], tokens: 1, tokensGiven: true };
}
