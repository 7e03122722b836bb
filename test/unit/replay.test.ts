import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { compare } from '../../scripts/replay-check.ts';
import type { ReadMessage } from '../../scripts/replay-check.ts';
import { ReplayFileError, readConversations } from '../../scripts/replay-file.ts';
import type { ReplayMessage } from '../../scripts/replay-file.ts';

const ROLE = Buffer.from('"user"');
const NONE = Buffer.from('{}');

function sent(letters: string): ReplayMessage[] {
  return [...letters].map((letter) => ({ role: ROLE, parts: Buffer.from(letter), metadata: NONE, body: Buffer.alloc(0) }));
}

function read(letters: string): ReadMessage[] {
  return [...letters].map((letter, i) => ({ seq: i + 1, role: ROLE, parts: Buffer.from(letter), metadata: NONE }));
}

function verdict(wanted: string, found: string, unknown = ''): string {
  const { lost, changed, repeated } = compare(sent(wanted), read(found), sent(unknown)[0] ?? null);
  return `${lost} lost, ${changed} changed, ${repeated} repeated`;
}

test('the comparison tells lost, changed and repeated messages apart', () => {
  const table: readonly (readonly [string, string, string])[] = [
    ['abcd', 'abcd', '0 lost, 0 changed, 0 repeated'],
    ['abcd', 'abbcd', '0 lost, 0 changed, 1 repeated'],
    ['abcd', 'acd', '1 lost, 0 changed, 0 repeated'],
    ['abcd', 'abxd', '0 lost, 1 changed, 0 repeated'],
    ['abcd', 'ab', '2 lost, 0 changed, 0 repeated'],
    ['abcd', '', '4 lost, 0 changed, 0 repeated'],
    ['abcd', 'abcdd', '0 lost, 0 changed, 1 repeated'],
    ['aabb', 'aabb', '0 lost, 0 changed, 0 repeated'],
    ['aabb', 'aaabb', '0 lost, 0 changed, 1 repeated'],
    ['aabb', 'abb', '1 lost, 0 changed, 0 repeated'],
    ['', 'z', '0 lost, 0 changed, 1 repeated'],
  ];
  for (const [wanted, found, result] of table) assert.equal(verdict(wanted, found), result, `${wanted} / ${found}`);
});

test('a message that was never answered may be there or not, but only last and once', () => {
  assert.equal(verdict('ab', 'ab', 'c'), '0 lost, 0 changed, 0 repeated');
  assert.equal(verdict('ab', 'abc', 'c'), '0 lost, 0 changed, 0 repeated');
  assert.equal(verdict('ab', 'abcc', 'c'), '0 lost, 0 changed, 1 repeated');
  assert.equal(verdict('ab', 'acb', 'c'), '0 lost, 1 changed, 1 repeated');
});

test('a hole in the seqs is a change even where the texts agree', () => {
  const found = read('abc').map((message) => ({ ...message, seq: message.seq === 3 ? 4 : message.seq }));
  assert.equal(compare(sent('abc'), found, null).changed, 1);
});

test('a file keeps the bytes of its messages, repeated ids apart, and names the bad line', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'fastpaca-replay-'));
  t.after(() => rm(dir, { recursive: true }));
  const file = join(dir, 'a.jsonl');
  await writeFile(file, '{"id":"x", "messages":[ {"role":"user" ,"parts": [ {"type":"t","n":1.50} ],"extra":1} ]}\r\n\n{"messages":[],"metadata":{ "k":1e2},"id":"x"}');
  const [first, second, ...rest] = await readConversations(file);
  assert.deepEqual([first?.id, second?.id, rest.length], ['x', 'x#2', 0]);
  assert.equal(first?.messages[0]?.body.toString(), '{"message":{"role":"user","parts":[ {"type":"t","n":1.50} ]}}');
  assert.equal(first?.messages[0]?.metadata.toString(), '{}');
  assert.equal(second?.metadata.toString(), '{ "k":1e2}');
  for (const [text, wanted] of [['{"id":"a","messages":[]}\n{', /line 2/], ['{"messages":[{"role":"a"}]}', /line 1: messages\[0\]\.parts/], ['\n', /no conversation/]] as const) {
    await writeFile(file, text);
    await assert.rejects(readConversations(file), (error) => error instanceof ReplayFileError && wanted.test(error.message));
  }
  await assert.rejects(readConversations(join(dir, 'none')), ReplayFileError);
});

test('the sample that ships reads as conversations', async () => {
  const conversations = await readConversations(join(import.meta.dirname, '../../samples/conversations.jsonl'));
  assert.equal(conversations.length, 5);
});
