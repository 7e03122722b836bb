/** Commands and rows as bytes: round trips, and bytes that are neither. Tool pairs by their table. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ERASED_TABLES, decodeCommand, encodeCommand, setStamp, stampOf } from '../../src/contexts/commands.ts';
import { decodeAnswers, encodeAnswers } from '../../src/contexts/answers.ts';
import { decodeCut, encodeCut } from '../../src/contexts/cuts.ts';
import type { CutRecord } from '../../src/contexts/cuts.ts';
import { decodeKeyed, encodeKeyed } from '../../src/contexts/idempotency.ts';
import { classifyPart } from '../../src/contexts/pairs.ts';
import { decodeCompaction, decodeConfig, decodeHeader, decodeMessageRow, encodeConfig, encodeHeader, encodeMessageRow, rowLinks, rowParts } from '../../src/contexts/rows.ts';
import { decodeRevision, encodeRevision } from '../../src/contexts/revisions.ts';
import type { Revision } from '../../src/contexts/revisions.ts';
import { PartRole } from '../../src/contexts/types.ts';
import type { Command, ContextHeader, NewMessage, PartInfo, WindowState } from '../../src/contexts/types.ts';
import { MemoryRows, append, message, put, text, textOf } from './contexts-fixture.ts';

const count = fc.oneof(fc.nat(200), fc.maxSafeNat());
const bytes = fc.uint8Array({ maxLength: 300 });
// Stored text is UTF-8: a lone surrogate has none and becomes U+FFFD.
const words = fc.string({ unit: 'binary', maxLength: 40 }).map((word) => word.toWellFormed());
const parts: fc.Arbitrary<PartInfo[]> = fc
  .array(
    fc.record({
      gap: fc.nat(300),
      length: fc.nat(70_000),
      kind: fc.oneof(fc.constantFrom('text', 'tool_call', 'tool-result', 'reasoning', ''), words),
      role: fc.constantFrom(...Object.values(PartRole)),
      callId: words,
      tokens: fc.nat(1_000_000),
    }),
    { maxLength: 8 },
  )
  .map((items) => {
    let at = 0;
    return items.map(({ gap, length, kind, role, callId, tokens }) => {
      const start = at + gap;
      at = start + length;
      return { start, end: at, kind, role, callId: role === PartRole.none ? '' : callId, tokens };
    });
  });
const newMessage: fc.Arbitrary<NewMessage> = fc.record({
  roleText: bytes,
  roleKind: fc.constantFrom(0, 1, 2, 3, 4),
  idText: bytes,
  partsText: bytes,
  metadataText: bytes,
  parts,
  tokens: count,
  tokensGiven: fc.boolean(),
});
const ratio = fc.double({ min: 0.01, max: 1, noNaN: true });
const config = fc.record({
  tokenBudget: count,
  triggerRatio: ratio,
  policy: fc.record({
    strategy: fc.constantFrom('last_n', 'skip_parts', 'manual'),
    limit: count,
    skipKinds: fc.array(words, { maxLength: 5 }),
    targetRatio: ratio,
    pin: fc.boolean(),
  }),
  metadataText: bytes,
  model: words,
  ttlSeconds: count,
});
const guard = fc.integer({ min: -1, max: 1000 });
const command: fc.Arbitrary<Command> = fc.oneof(
  fc.record({ type: fc.constantFrom('tombstone', 'purge', 'purge_done', 'expire'), context: words }),
  fc.record({
    type: fc.constant('ack_archived'),
    context: words,
    acks: fc.array(fc.record({ context: words, upto: count, version: count, configRevision: count }), { maxLength: 4 }),
    tailKeep: count,
  }),
  fc.record({
    type: fc.constant('purge_step'),
    context: words,
    rows: fc.array(fc.record({ table: fc.constantFrom(...ERASED_TABLES), key: fc.oneof(count, words) }), { maxLength: 6 }),
  }),
  fc.record({
    type: fc.constant('put'),
    context: words,
    settings: config.chain((full) => fc.subarray(Object.entries(full)).map((entries) => Object.fromEntries(entries))),
    ifConfigRevision: guard,
    mustExist: fc.boolean(),
  }),
  fc.record({
    type: fc.constant('append'),
    context: words,
    messages: fc.array(newMessage, { maxLength: 4 }),
    ifVersion: guard,
    idempotency: fc.option(fc.record({ key: words, digest: fc.uint8Array({ minLength: 16, maxLength: 16 }) })),
    model: words,
  }),
  fc.record({
    type: fc.constant('compact'),
    context: words,
    replacement: fc.array(newMessage, { maxLength: 4 }),
    ifVersion: guard,
    keepFromSeq: count,
  }),
  fc.record({
    type: fc.constant('compact'),
    context: words,
    replacement: fc.array(newMessage, { maxLength: 1 }),
    ifVersion: guard,
    keepFromSeq: count,
    claim: bytes,
  }),
  fc.record({ type: fc.constant('claim'), context: words, ttlSeconds: count, token: bytes }),
  fc.record({ type: fc.constant('usage'), context: words, version: count, inputTokens: count }),
);
const ascending = fc.uniqueArray(fc.nat(100_000), { maxLength: 20 }).map((values) => values.sort((a, b) => a - b));
const windowState: fc.Arbitrary<WindowState> = fc.record({
  replacementVersion: count,
  replacementCount: count,
  replacementFirst: count,
  replacementExcluded: ascending,
  firstSeq: count,
  pinned: ascending,
  excluded: ascending,
  stripped: fc.array(fc.record({ before: count, through: count, kinds: fc.array(words, { maxLength: 3 }) }), { maxLength: 4 }),
  tokens: count,
  count,
  stableSinceVersion: count,
});
const header: fc.Arbitrary<ContextHeader> = fc.record({
  status: fc.constantFrom('active', 'tombstoned', 'purged'),
  version: count,
  configRevision: count,
  lastSeq: count,
  leadingCount: count,
  archivedSeq: count,
  archivedVersion: count,
  archivedRevision: fc.integer({ min: -1, max: 2 ** 40 }),
  trimmedSeq: count,
  createdAt: count,
  updatedAt: count,
  keyedNewest: count,
  keyedOldest: count,
  window: windowState,
  cutCount: count,
  historyFrom: count,
  calibration: fc.integer({ min: 1, max: 10_000 }),
  claim: fc.option(fc.record({ token: fc.uint8Array({ minLength: 1, maxLength: 16 }), expiresAt: count })),
});
const cut: fc.Arbitrary<CutRecord> = fc.record({
  kind: fc.constantFrom('compact', 'last_n', 'skip_parts', 'late_result', 'bounds', 'recount'),
  version: count,
  stampMs: count,
  configRevision: count,
  lastSeq: count,
  fromSeq: count,
  toSeq: count,
  replacementCount: count,
  late: ascending,
  countAfter: count,
  tokensAfter: count,
  before: windowState,
});
const revision: fc.Arbitrary<Revision> = config.chain(({ tokenBudget, triggerRatio, policy, model }) =>
  fc.record({ revision: count, sinceVersion: count, calibration: count }).map((rest) => ({ tokenBudget, triggerRatio, policy, model, ...rest })),
);

/** fast-check makes objects without a prototype; only the values matter here. */
const plain = (value: unknown): unknown => structuredClone(value);

describe('commands as bytes', () => {
  it('come back as they were', () => {
    fc.assert(fc.property(command, (given) => assert.deepEqual(plain(decodeCommand(encodeCommand(given))), plain(given))));
  });

  it('carry their stamp at a fixed place', () => {
    const encoded = encodeCommand(append([message('user', [text()])]));
    assert.equal(stampOf(encoded), 0);
    setStamp(encoded, 1_700_000_000_123);
    assert.equal(stampOf(encoded), 1_700_000_000_123);
    assert.notEqual(decodeCommand(encoded), null);
    setStamp(encoded, Number.NaN);
    assert.equal(stampOf(encoded), 0);
    assert.equal(stampOf(new Uint8Array(3)), 0);
  });

  it('are views into the entry, nothing is copied', () => {
    const decoded = decodeCommand(encodeCommand(append([message('user', [text('a')]), message('user', [text('b')])])));
    assert.ok(decoded?.type === 'append');
    assert.equal(decoded.messages[0]?.partsText.buffer, decoded.messages[1]?.partsText.buffer);
  });

  it('truncated or longer ones are null', () => {
    fc.assert(
      fc.property(command, (given) => {
        const encoded = encodeCommand(given);
        for (let length = 0; length < Math.min(encoded.length, 600); length++) assert.equal(decodeCommand(encoded.slice(0, length)), null);
        assert.equal(decodeCommand(Uint8Array.from([...encoded, 0])), null);
      }),
      { numRuns: 50 },
    );
  });

  it('damaged ones never throw', () => {
    fc.assert(
      fc.property(command, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 }), (given, hits) => {
        const encoded = encodeCommand(given);
        for (const [at, value] of hits) encoded[at % encoded.length] = value;
        decodeCommand(encoded);
      }),
      { numRuns: 1000 },
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (garbage) => void decodeCommand(Uint8Array.from([1, 2, 0, 0, 0, 0, 0, 0, 0, 0, ...garbage]))));
  });
});

describe('rows as bytes', () => {
  it('messages keep texts, parts and links', () => {
    const link = fc.record({ part: fc.nat(1000), target: fc.integer({ min: -(2 ** 31), max: 2 ** 31 }), targetPart: fc.nat(1000) });
    fc.assert(
      fc.property(newMessage, fc.array(link, { maxLength: 5 }), count, count, count, (given, links, version, stampMs, tokens) => {
        const row = decodeMessageRow(encodeMessageRow(given, { version, stampMs, links, windowTokens: tokens, windowCount: 7 })) ?? assert.fail();
        const slice = (start: number, end: number): Uint8Array => row.bytes.slice(start, end);
        assert.deepEqual(slice(row.roleStart, row.roleEnd), given.roleText);
        assert.deepEqual(slice(row.idStart, row.idEnd), given.idText);
        assert.deepEqual(slice(row.partsStart, row.partsEnd), given.partsText);
        assert.deepEqual(slice(row.metadataStart, row.metadataEnd), given.metadataText);
        assert.deepEqual(rowParts(row), plain(given.parts));
        assert.deepEqual(rowLinks(row), plain(links.map((l) => ({ ...l, target: l.target === 0 ? 0 : l.target }))));
        assert.deepEqual([row.version, row.stampMs, row.tokens, row.tokensGiven], [version, stampMs, given.tokens, given.tokensGiven]);
        assert.deepEqual([row.windowTokens, row.windowCount], [tokens, 7]);
        assert.equal(row.calls, given.parts.some((info) => info.role === PartRole.call));
      }),
    );
  });

  it('part offsets find the part in the text', () => {
    const row = decodeMessageRow(encodeMessageRow(message('user', [text('é'), text('b')]), { version: 1, stampMs: 1, links: [], windowTokens: 0, windowCount: 0 })) ?? assert.fail();
    const second = rowParts(row)[1] ?? assert.fail();
    assert.equal(textOf(row.bytes, row.partsStart + second.start, row.partsStart + second.end), '{"type":"text","text":"b"}');
  });

  it('headers, configs, cuts, revisions, answers and keyed answers come back as they were', () => {
    fc.assert(fc.property(cut, (given) => assert.deepEqual(plain(decodeCut(encodeCut(given))), plain(given))));
    fc.assert(fc.property(revision, (given) => assert.deepEqual(plain(decodeRevision(encodeRevision(given))), plain(given))));
    fc.assert(fc.property(ascending, (given) => assert.deepEqual(decodeAnswers(encodeAnswers(given)), given)));
    fc.assert(fc.property(header, (given) => assert.deepEqual(plain(decodeHeader(encodeHeader(given))), plain(given))));
    fc.assert(fc.property(config, (given) => assert.deepEqual(plain(decodeConfig(encodeConfig(given))), plain(given))));
    const keyed = fc.record({ position: count, stampMs: count, digest: bytes, firstSeq: count, firstVersion: count, tokens: fc.array(count) });
    fc.assert(fc.property(keyed, (given) => assert.deepEqual(plain(decodeKeyed(encodeKeyed(given))), plain(given))));
  });

  it('rows of older formats are read: no sums, no cuts, history from where they end, nothing archived', () => {
    const now = encodeMessageRow(message('user', [text()]), { version: 3, stampMs: 9, links: [], windowTokens: 0, windowCount: 0 });
    // Format 2 put the two sums, here a byte each, behind version, stamp and tokens.
    const old = decodeMessageRow(Uint8Array.from([1, ...now.slice(1, 5), ...now.slice(7)])) ?? assert.fail();
    assert.deepEqual([old.version, old.stampMs, old.tokens, old.windowTokens, old.windowCount, old.calls], [3, 9, 10, -1, -1, true]);
    assert.equal(textOf(old.bytes, old.partsStart, old.partsEnd), '[{"type":"text","text":"hello"}]');
    const header = new MemoryRows();
    header.run(put());
    header.run(append([message('user', [text()])]));
    const bytes = header.stored.get('header|c|') ?? assert.fail();
    // What formats 2 and 3 added stands at the end: cuts 0, history 0, calibration 1024 in two bytes, no claim; then three marks.
    const older = decodeHeader(Uint8Array.from([1, ...bytes.slice(1, -8)])) ?? assert.fail();
    assert.deepEqual(older, { ...header.head, historyFrom: 1 });
    assert.deepEqual(decodeHeader(Uint8Array.from([2, ...bytes.slice(1, -3)])), header.head);
  });

  it('garbage is null or a row, never an exception', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (garbage) => {
        const row = Uint8Array.from([1 + ((garbage[0] ?? 0) % 2), ...garbage]);
        const decoded = decodeMessageRow(row);
        if (decoded !== null) {
          rowLinks(decoded);
          rowParts(decoded);
        }
        decodeHeader(row);
        decodeConfig(row);
        decodeCompaction(row);
        decodeKeyed(row);
        decodeCut(row);
        decodeRevision(row);
        decodeAnswers(row);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('tool pairs', () => {
  const CALL = PartRole.call;
  const RESULT = PartRole.result;
  const NONE = PartRole.none;
  const BOTH = PartRole.both;
  const table: [Record<string, unknown>, PartRole, string][] = [
    [{ type: 'text', text: 'x' }, NONE, ''],
    [{ type: 'text', text: 'x', tool_call_id: 'a' }, RESULT, 'a'],
    [{ type: 'function', id: 'a', function: {} }, CALL, 'a'],
    [{ type: 'custom', id: 'a' }, CALL, 'a'],
    [{ type: 'function', function: {} }, NONE, ''],
    [{ type: 'function_call', id: 'fc', call_id: 'a' }, CALL, 'a'],
    [{ type: 'function_call_output', id: 'fco', call_id: 'a' }, RESULT, 'a'],
    [{ type: 'custom_tool_call', call_id: 'a' }, CALL, 'a'],
    [{ type: 'custom_tool_call_output', call_id: 'a' }, RESULT, 'a'],
    [{ type: 'computer_call', id: 'x', call_id: 'a' }, CALL, 'a'],
    [{ type: 'computer_call_output', call_id: 'a' }, RESULT, 'a'],
    [{ type: 'local_shell_call', call_id: 'a' }, CALL, 'a'],
    [{ type: 'local_shell_call_output', id: 'a' }, RESULT, 'a'],
    [{ type: 'shell_call', call_id: 'a' }, CALL, 'a'],
    [{ type: 'shell_call_output', call_id: 'a' }, RESULT, 'a'],
    [{ type: 'apply_patch_call', call_id: 'a' }, CALL, 'a'],
    [{ type: 'apply_patch_call_output', call_id: 'a' }, RESULT, 'a'],
    [{ type: 'tool_use', id: 'a' }, CALL, 'a'],
    [{ type: 'tool_result', tool_use_id: 'a', id: 'own' }, RESULT, 'a'],
    [{ type: 'server_tool_use', id: 'a' }, CALL, 'a'],
    [{ type: 'web_search_tool_result', tool_use_id: 'a' }, RESULT, 'a'],
    [{ type: 'mcp_tool_use', id: 'a' }, CALL, 'a'],
    [{ type: 'mcp_tool_result', tool_use_id: 'a' }, RESULT, 'a'],
    [{ type: 'tool_call', toolCallId: 'a' }, CALL, 'a'],
    [{ type: 'tool_call', id: 'a' }, CALL, 'a'],
    [{ type: 'tool_result', toolCallId: 'a' }, RESULT, 'a'],
    [{ type: 'tool-call', toolCallId: 'a' }, CALL, 'a'],
    [{ type: 'tool-result', toolCallId: 'a' }, RESULT, 'a'],
    [{ type: 'tool-error', toolCallId: 'a' }, RESULT, 'a'],
    [{ type: 'tool-weather', toolCallId: 'a', state: 'input-available' }, CALL, 'a'],
    [{ type: 'tool-weather', toolCallId: 'a', state: 'output-available' }, BOTH, 'a'],
    [{ type: 'tool-weather', toolCallId: 'a', output: 0 }, BOTH, 'a'],
    [{ type: 'dynamic-tool', toolCallId: 'a', errorText: 'no' }, BOTH, 'a'],
    [{ type: 'tool_result', toolCallId: 7 }, NONE, ''],
    [{ type: 7 }, NONE, ''],
    [{}, NONE, ''],
  ];
  for (const [part, role, callId] of table) {
    it(JSON.stringify(part), () => assert.deepEqual(classifyPart(part), { role, callId }));
  }

  it('a very long id is stood in for, and different ones stay different', () => {
    const long = (end: string): string => classifyPart({ type: 'tool_use', id: 'x'.repeat(5000) + end }).callId;
    assert.ok(long('a').length < 120);
    assert.equal(long('a'), long('a'));
    assert.notEqual(long('a'), long('b'));
  });
});
