import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PartRole, RoleKind } from '../../src/contexts/types.ts';
import { ApiError } from '../../src/errors.ts';
import { MEDIA_PART_TOKENS, estimate } from '../../src/ingest/estimate.ts';
import { assertNumbersSurvive, parseMetadataObject } from '../../src/ingest/metadata.ts';
import { MESSAGES_MAX, PARTS_MAX, TOKEN_COUNT_MAX, parseAppend, parseCompact } from '../../src/ingest/messages.ts';
import type { MessageDraft, ParsedAppend } from '../../src/ingest/messages.ts';

const LIMITS = { messageBytesMax: 1 << 20, depthMax: 64 };
/** Counts characters: enough to see which text was counted. */
const LENGTHS = { count: (_model: string, texts: readonly string[]) => texts.map((text) => text.length) };

function append(text: string, limits = LIMITS): ParsedAppend {
  return parseAppend(Buffer.from(text), limits);
}

function only(parsed: ParsedAppend): MessageDraft {
  const [first] = parsed.messages;
  assert.ok(first !== undefined);
  return first;
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('utf8');
}

function refusal(run: () => unknown): { code: string; path: unknown } {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof ApiError, `an ApiError, not ${String(error)}`);
    return { code: error.code, path: error.fields['path'] };
  }
  return assert.fail('was accepted');
}

function tokensOf(parts: string): number[] {
  const messages = estimate(append(`{"message":{"role":"user","parts":${parts}}}`).messages, LENGTHS, '');
  assert.ok(Array.isArray(messages));
  return messages.flatMap((message) => message.parts.map((part) => part.tokens));
}

test('a message keeps the very bytes of its role, id, parts and metadata', () => {
  const parts = '[ {"type" : "text", "n":123456789012345678901234567890, "text":"a\\u0000\\ud800 \\/ é"} ,\n{"type":"x"}]';
  const metadata = '{ "b":1.50,  "a":"\\"}" }';
  const message = only(append(` { "if_version" : 7, "message" : {"metadata":${metadata} ,"role":"us\\u0065r","id":"i\\n","parts":${parts},"seq":4,"version":9,"inserted_at":"x"} } `));
  assert.equal(text(message.partsText), parts);
  assert.equal(text(message.metadataText), metadata);
  assert.equal(text(message.roleText), '"us\\u0065r"');
  assert.equal(text(message.idText), '"i\\n"');
  assert.equal(message.roleKind, RoleKind.user);
  const [first, second] = message.parts;
  assert.ok(first !== undefined && second !== undefined);
  assert.equal(text(message.partsText.subarray(first.start, first.end)), '{"type" : "text", "n":123456789012345678901234567890, "text":"a\\u0000\\ud800 \\/ é"}');
  assert.equal(text(message.partsText.subarray(second.start, second.end)), '{"type":"x"}');
});

test('a message without id and metadata has an empty id and an empty object', () => {
  const message = only(append('{"message":{"role":"r","parts":[]}}'));
  assert.equal(text(message.idText), '');
  assert.equal(text(message.metadataText), '{}');
  assert.equal(message.tokenCount, -1);
  assert.deepEqual(message.parts, []);
});

test('roles map to what windows care about', () => {
  const kinds = ['system', 'developer', 'user', 'assistant', 'tool', 'critic'].map((role) => only(append(`{"message":{"role":"${role}","parts":[]}}`)).roleKind);
  assert.deepEqual(kinds, [RoleKind.system, RoleKind.system, RoleKind.user, RoleKind.assistant, RoleKind.tool, RoleKind.other]);
});

test('calls and results are classified with their ids', () => {
  const message = only(append('{"message":{"role":"a","parts":[{"type":"tool_call","toolCallId":"c1"},{"type":"tool_result","toolCallId":"c1"},{"type":"text","text":""}]}}'));
  assert.deepEqual(message.parts.map((part) => [part.role, part.callId]), [[PartRole.call, 'c1'], [PartRole.result, 'c1'], [PartRole.none, '']]);
});

test('many messages parse in order and answer as a list', () => {
  const parsed = append('{"messages":[{"role":"a","parts":[]},{"role":"b","parts":[],"token_count":3}],"if_version":0}');
  assert.equal(parsed.many, true);
  assert.equal(parsed.ifVersion, 0);
  assert.deepEqual(parsed.messages.map((message) => text(message.roleText)), ['"a"', '"b"']);
  assert.equal(parsed.messages[1]?.tokenCount, 3);
});

test('bad bodies are refused with the code and the path of the field', () => {
  const ok = '"role":"user","parts":[]';
  const long = 'x'.repeat(300);
  const table: readonly (readonly [string, string, string | undefined])[] = [
    ['', 'invalid_json', undefined],
    ['{', 'invalid_json', undefined],
    ['{"message":{"role":"a","parts":[]}', 'invalid_json', undefined],
    ['{"message":{"role":"a","parts":[]}} x', 'invalid_json', undefined],
    ['{"message":{"role":"a","parts":[],}}', 'invalid_json', undefined],
    ['{"message":{"role":"a","parts":[1}]}', 'invalid_json', undefined],
    ['{"message":{"role":"a\nb","parts":[]}}', 'invalid_json', undefined],
    ['{"message":{"role":"a","parts":[],"metadata":{"n":01}}}', 'invalid_json', undefined],
    ['\ufeff{}', 'invalid_json', undefined],
    ['[]', 'invalid_request', undefined],
    ['"x"', 'invalid_request', undefined],
    ['{}', 'invalid_request', 'message'],
    ['{"if_version":1}', 'invalid_request', 'message'],
    [`{"message":{${ok}},"messages":[{${ok}}]}`, 'invalid_request', 'messages'],
    [`{"message":{${ok}},"messages":null}`, 'invalid_request', 'messages'],
    [`{"message":{${ok}},"extra":1}`, 'invalid_request', 'extra'],
    [`{"message":{${ok}},"\\u0065xtra":1}`, 'invalid_request', 'extra'],
    [`{"message":{${ok}},"__proto__":{}}`, 'invalid_request', '__proto__'],
    [`{"message":{${ok}},"message":{${ok}}}`, 'invalid_request', 'message'],
    [`{"message":{${ok},"role":"b"}}`, 'invalid_request', 'message.role'],
    [`{"message":{${ok},"r\\u006fle":"b"}}`, 'invalid_request', 'message.role'],
    [`{"message":{${ok},"content":"b"}}`, 'invalid_request', 'message.content'],
    ['{"message":null}', 'invalid_request', 'message'],
    ['{"message":[]}', 'invalid_request', 'message'],
    ['{"message":{"parts":[]}}', 'invalid_request', 'message.role'],
    ['{"message":{"role":"","parts":[]}}', 'invalid_request', 'message.role'],
    ['{"message":{"role":7,"parts":[]}}', 'invalid_request', 'message.role'],
    [`{"message":{"role":"${long}","parts":[]}}`, 'invalid_request', 'message.role'],
    ['{"message":{"role":"a"}}', 'invalid_request', 'message.parts'],
    ['{"message":{"role":"a","parts":{}}}', 'invalid_request', 'message.parts'],
    ['{"message":{"role":"a","parts":[{"type":"t"},"x"]}}', 'invalid_request', 'message.parts[1]'],
    ['{"message":{"role":"a","parts":[{"type":"t"},{"kind":"x"}]}}', 'invalid_request', 'message.parts[1].type'],
    ['{"message":{"role":"a","parts":[{"type":null}]}}', 'invalid_request', 'message.parts[0].type'],
    [`{"message":{${ok},"metadata":[]}}`, 'invalid_request', 'message.metadata'],
    [`{"message":{${ok},"metadata":null}}`, 'invalid_request', 'message.metadata'],
    [`{"message":{${ok},"id":5}}`, 'invalid_request', 'message.id'],
    [`{"message":{${ok},"id":"${long}"}}`, 'invalid_request', 'message.id'],
    [`{"message":{${ok},"token_count":-1}}`, 'invalid_request', 'message.token_count'],
    [`{"message":{${ok},"token_count":1.5}}`, 'invalid_request', 'message.token_count'],
    [`{"message":{${ok},"token_count":"5"}}`, 'invalid_request', 'message.token_count'],
    [`{"message":{${ok},"token_count":${TOKEN_COUNT_MAX + 1}}}`, 'invalid_request', 'message.token_count'],
    [`{"message":{${ok}},"if_version":-1}`, 'invalid_request', 'if_version'],
    [`{"message":{${ok}},"if_version":null}`, 'invalid_request', 'if_version'],
    [`{"message":{${ok}},"if_version":9007199254740993}`, 'invalid_request', 'if_version'],
    ['{"messages":[]}', 'invalid_request', 'messages'],
    ['{"messages":{}}', 'invalid_request', 'messages'],
    [`{"messages":[{${ok}},3]}`, 'invalid_request', 'messages[1]'],
    [`{"messages":[3,{${ok},"x":1}]}`, 'invalid_request', 'messages[1].x'],
    [`{"messages":[{${ok}},{"role":"a","parts":[{}]}]}`, 'invalid_request', 'messages[1].parts[0].type'],
  ];
  for (const [body, code, path] of table) assert.deepEqual(refusal(() => append(body)), { code, path }, body.slice(0, 120));
});

test('bytes that are not UTF-8 are refused as JSON', () => {
  const body = Buffer.concat([Buffer.from('{"message":{"role":"'), Buffer.from([0xff]), Buffer.from('","parts":[]}}')]);
  assert.equal(refusal(() => parseAppend(body, LIMITS)).code, 'invalid_json');
});

test('sizes are refused from one above the limit on', () => {
  const message = '{"role":"a","parts":[]}';
  const limits = { ...LIMITS, messageBytesMax: message.length };
  append(`{"message":${message}}`, limits);
  assert.deepEqual(refusal(() => append(`{"message":${message.replace('a', 'ab')}}`, limits)), { code: 'payload_too_large', path: 'message' });
  assert.equal(append(`{"messages":[${Array(MESSAGES_MAX).fill(message).join()}]}`).messages.length, MESSAGES_MAX);
  assert.equal(refusal(() => append(`{"messages":[${Array(MESSAGES_MAX + 1).fill(message).join()}]}`)).path, 'messages');
  const parts = (count: number): string => `{"message":{"role":"a","parts":[${Array(count).fill('{"type":""}').join()}]}}`;
  assert.equal(only(append(parts(PARTS_MAX))).parts.length, PARTS_MAX);
  assert.equal(refusal(() => append(parts(PARTS_MAX + 1))).path, 'message.parts');
});

test('depth is bounded before anything is parsed, however hostile', () => {
  const nested = (levels: number): string => `{"message":{"role":"a","parts":[],"metadata":{"x":${'['.repeat(levels)}${']'.repeat(levels)}}}}`;
  append(nested(61));
  assert.equal(refusal(() => append(nested(62))).code, 'payload_too_large');
  assert.equal(refusal(() => append('['.repeat(4_000_000))).code, 'payload_too_large');
  assert.equal(refusal(() => append('{"a":'.repeat(1_000_000))).code, 'payload_too_large');
});

test('compact bodies carry replacement, keep_from_seq and claim', () => {
  const parsed = parseCompact(Buffer.from('{"replacement":[{"role":"system","parts":[{"type":"text","text":"s"}]}],"if_version":4,"keep_from_seq":9,"claim":"c"}'), LIMITS);
  assert.equal(parsed.replacement.length, 1);
  assert.deepEqual([parsed.ifVersion, parsed.keepFromSeq, parsed.claim], [4, 9, 'c']);
  const bare = parseCompact(Buffer.from('{"replacement":[]}'), LIMITS);
  assert.deepEqual([bare.replacement.length, bare.ifVersion, bare.keepFromSeq, bare.claim], [0, -1, 0, null]);
  assert.equal(refusal(() => parseCompact(Buffer.from('{}'), LIMITS)).path, 'replacement');
  assert.equal(refusal(() => parseCompact(Buffer.from('{"replacement":[],"keep_from_seq":0}'), LIMITS)).path, 'keep_from_seq');
  assert.equal(refusal(() => parseCompact(Buffer.from('{"replacement":[{"role":"a","parts":0}]}'), LIMITS)).path, 'replacement[0].parts');
});

test('a text part counts its text, media a figure, anything else its compact JSON', () => {
  assert.deepEqual(tokensOf('[{"type":"text","text":"abc","cache_control":{"type":"ephemeral"}}]'), [3]);
  assert.deepEqual(tokensOf('[{"type":"thinking","thinking":"abcd","signature":"xxxxxxxx"},{"type":"reasoning","text":"ab"}]'), [4, 2]);
  assert.deepEqual(tokensOf(`[{"type":"image","data":"${'A'.repeat(9000)}"},{"type":"input_file"}]`), [MEDIA_PART_TOKENS, MEDIA_PART_TOKENS]);
  assert.deepEqual(tokensOf('[{"type":"tool_call" ,  "input":{ "a" : [1, 2] }}]'), ['{"type":"tool_call","input":{"a":[1,2]}}'.length]);
  assert.deepEqual(tokensOf('[{"type":"text","text":5}]'), ['{"type":"text","text":5}'.length]);
});

test('media inside a tool result count the figure, short file entries their JSON', () => {
  const shot = `{"type":"image","source":{"type":"base64","data":"${'A'.repeat(100_000)}"}}`;
  const [withShot] = tokensOf(`[{"type":"tool_result","tool_use_id":"x","content":[${shot},{"type":"text","text":"ok"}]}]`);
  assert.ok(withShot !== undefined && withShot > MEDIA_PART_TOKENS && withShot < MEDIA_PART_TOKENS + 200, String(withShot));
  const listing = `{"type":"tool_result","content":[${Array(500).fill('{"type":"file","name":"a"}').join()}]}`;
  assert.deepEqual(tokensOf(`[${listing}]`), [listing.length]);
});

test("a client's token_count stands, next to the parts' own estimates", () => {
  const [message] = [estimate(append('{"message":{"role":"a","parts":[{"type":"text","text":"abc"}],"token_count":90}}').messages, LENGTHS, '')].flat();
  assert.ok(message !== undefined && !(message instanceof Promise));
  assert.deepEqual([message.tokens, message.tokensGiven, message.parts[0]?.tokens], [90, true, 3]);
});

/** JSON text of a value with white space, key escapes and number spellings that JSON.stringify would not choose. */
function spelled(value: unknown, pick: () => number): string {
  const space = (): string => ['', '', ' ', '\n\t', '\r\n  '][pick() % 5] ?? '';
  const string = (raw: string): string =>
    pick() % 2 === 0 ? JSON.stringify(raw) : `"${[...Array(raw.length).keys()].map((i) => `\\u${raw.charCodeAt(i).toString(16).padStart(4, '0')}`).join('')}"`;
  if (Array.isArray(value)) return `[${space()}${value.map((item) => spelled(item, pick) + space()).join(`,${space()}`)}]`;
  if (typeof value === 'object' && value !== null) {
    return `{${space()}${Object.entries(value).map(([key, item]) => `${string(key)}${space()}:${space()}${spelled(item, pick)}${space()}`).join(`,${space()}`)}}`;
  }
  return typeof value === 'string' ? string(value) : JSON.stringify(value);
}

test('for any JSON, spans equal what JSON.parse sees, and the stored text is a slice of the body', () => {
  const part = fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue({ maxDepth: 4 })).map((rest) => ({ ...rest, type: 'x' }));
  const message = fc.record({ role: fc.constantFrom('user', 'é"\\'), parts: fc.array(part, { maxLength: 6 }), metadata: fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })) });
  fc.assert(
    fc.property(fc.array(message, { minLength: 1, maxLength: 4 }), fc.array(fc.nat(), { minLength: 50, maxLength: 50 }), (messages, picks) => {
      let next = 0;
      const pick = (): number => picks[next++ % picks.length] ?? 0;
      const body = spelled({ messages }, pick);
      const parsed = append(body);
      assert.equal(parsed.messages.length, messages.length);
      parsed.messages.forEach((draft, i) => {
        const wanted = messages[i];
        assert.ok(wanted !== undefined);
        const plain: unknown = JSON.parse(JSON.stringify(wanted));
        assert.deepEqual({ role: JSON.parse(text(draft.roleText)), parts: JSON.parse(text(draft.partsText)), metadata: JSON.parse(text(draft.metadataText)) }, plain);
        assert.ok(body.includes(text(draft.partsText)) && body.includes(text(draft.metadataText)));
        draft.parts.forEach((info) => {
          const slice = text(draft.partsText.subarray(info.start, info.end));
          assert.deepEqual(JSON.parse(slice), info.value);
          assert.equal(slice.trim(), slice);
        });
      });
    }),
    { numRuns: 300 },
  );
});

test('strings of every length and ending are followed exactly', () => {
  for (let length = 0; length < 80; length++) {
    for (const ending of ['', '\\\\', '\\"', '\\\\\\"', '\\\\\\\\', '{[', '\\"\\"\\\\']) {
      const literal = `"${'x'.repeat(length)}${ending}"`;
      const parts = `[{"type":"text","text":${literal}},{"type":"b"}]`;
      const message = only(append(`{"message":{"role":"a","parts":${parts},"metadata":{"k":${literal}}}}`));
      assert.equal(text(message.partsText), parts);
      assert.equal(message.parts.length, 2);
      assert.equal(text(message.metadataText), `{"k":${literal}}`);
    }
  }
});

test('garbage never brings anything but an ApiError', () => {
  const valid = '{"messages":[{"role":"user","parts":[{"type":"text","text":"a\\"b"},{"type":"x","n":[1,{"y":null}]}],"metadata":{"k":"v"},"id":"1","token_count":3}],"if_version":2}';
  const attempt = (body: Buffer): void => {
    for (const parse of [parseAppend, parseCompact]) {
      try {
        parse(body, { messageBytesMax: 500, depthMax: 8 });
      } catch (error) {
        assert.ok(error instanceof ApiError, String(error));
        assert.notEqual(error.code, 'internal', body.toString());
      }
    }
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => attempt(Buffer.from(bytes))), { numRuns: 2000 });
  fc.assert(fc.property(fc.string({ unit: fc.constantFrom(...'{}[]",:\\ \n"messagesrolepartstype1e-u'), maxLength: 60 }), (body) => attempt(Buffer.from(body))), { numRuns: 3000 });
  // One edit away from valid is where a scanner goes wrong.
  const edits = [...'{}[]",:\\ 0', ''];
  for (let at = 0; at < valid.length; at++) {
    for (const edit of edits) {
      attempt(Buffer.from(valid.slice(0, at) + edit + valid.slice(at + 1)));
      attempt(Buffer.from(valid.slice(0, at) + edit + valid.slice(at)));
    }
    attempt(Buffer.from(valid.slice(0, at)));
  }
});

test('numbers a double would change are refused with their path, others pass', () => {
  assertNumbersSurvive('{"a":[0,-1,1.5e300,9007199254740992,0.1],"b":"9007199254740993","c":{"9007199254740993":1}}', 'metadata');
  assert.equal(refusal(() => assertNumbersSurvive('{"a":1,"b":{"x y":[1,[2],9007199254740993]}}', 'metadata')).path, 'metadata.b.x y[2]');
  assert.equal(refusal(() => assertNumbersSurvive('[[1,2],[{"a":1e400}]]', 'm')).path, 'm[1][0].a');
  assertNumbersSurvive('[-0,-9007199254740992,123456789012345680000]', 'm');
  // Exact as doubles, but printed with other digits after a merge patch.
  for (const literal of ['1152921504606846976', '-1152921504606846976', '1000000000000000000000', '9'.repeat(400)]) {
    assert.equal(refusal(() => assertNumbersSurvive(`[${literal}]`, 'm')).path, 'm[0]', literal);
  }
  assert.equal(refusal(() => assertNumbersSurvive(`{"n":-${'9'.repeat(400)}}`, 'm')).path, 'm.n');
  assert.deepEqual(parseMetadataObject('{"a":1}', 'metadata'), { a: 1 });
  assert.equal(refusal(() => parseMetadataObject('[1]', 'metadata')).code, 'invalid_request');
  assert.equal(refusal(() => parseMetadataObject('{', 'metadata')).code, 'invalid_json');
});
