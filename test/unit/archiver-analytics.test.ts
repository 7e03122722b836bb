/**
 * The views and every query of docs/analytics.md, over real conversations: the project's sample, and the file that
 * FASTPACA_CONVERSATIONS names when it is set. The tool views are held to the server's own rules.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { prepareArchive } from '../../archiver/migrations.ts';
import { writeBatch } from '../../archiver/writer.ts';
import { CallTracker } from '../../src/contexts/calls.ts';
import { classifyPart } from '../../src/contexts/pairs.ts';
import { PartRole, type PartInfo } from '../../src/contexts/types.ts';
import { openDatabase, type TestDatabase } from './archiver-postgres.ts';
import { MemorySource } from './archiver-source.ts';

const root = join(import.meta.dirname, '../..');
const samples = [join(root, 'samples/conversations.jsonl'), process.env['FASTPACA_CONVERSATIONS'] ?? ''].filter((path) => path !== '');

type Part = Readonly<Record<string, unknown>>;
interface Said {
  readonly role: string;
  readonly parts: readonly Part[];
  readonly metadata?: unknown;
}

let database: TestDatabase;
let client: pg.Client;
const source = new MemorySource();
const said = new Map<string, readonly Said[]>();

before(async () => {
  database = await openDatabase();
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  await prepareArchive(client, { migrate: true, clusterId: 'c' });
  for (const path of samples) {
    for (const line of readFileSync(path, 'utf8').split('\n')) {
      if (line.trim() === '') continue;
      const { id, metadata, messages }: { id: string; metadata?: unknown; messages: Said[] } = JSON.parse(line);
      add(id, messages, metadata);
    }
  }
  source.compact('bike-shop-1', { stampMs: 1_770_000_000_000, fromSeq: 1, toSeq: 5, replacementCount: 1, countBefore: 9, countAfter: 5, tokensBefore: 200, tokensAfter: 80 });
  await archive();
});

after(async () => {
  await client?.end();
  await database?.close();
});

/** A second passes between the messages of a conversation. */
function add(id: string, messages: readonly Said[], metadata: unknown = {}): void {
  source.create(id, { metadataText: Buffer.from(JSON.stringify(metadata)) });
  said.set(id, messages);
  for (const [i, message] of messages.entries()) {
    source.append(id, { role: message.role, partsText: JSON.stringify(message.parts), metadataText: JSON.stringify(message.metadata ?? {}), tokens: 10 + i, stampMs: Date.now() - 3_600_000 + i * 1000 });
  }
}

async function archive(): Promise<void> {
  const entries = [...source.contexts].map(([context, { state, messages, compactions }]) => ({ context, state, messages, compactions }));
  const result = await writeBatch(client, entries);
  assert.equal(result.rejected.size, 0);
}

/** Calls by the server's rules: where each stands and where its first result is. */
function callsOf(messages: readonly Said[]): { seq: number; ordinal: number; callId: string; resultSeq: number | null }[] {
  const tracker = new CallTracker(null, 'c');
  const calls: { seq: number; ordinal: number; callId: string; resultSeq: number | null }[] = [];
  for (const [i, { parts }] of messages.entries()) {
    const infos: PartInfo[] = parts.map((part) => ({ ...classifyPart(part), start: 0, end: 0, kind: String(part['type']), tokens: 0 }));
    for (const [at, { role, callId }] of infos.entries()) {
      if (role === PartRole.call || role === PartRole.both) calls.push({ seq: i + 1, ordinal: at + 1, callId, resultSeq: role === PartRole.both ? i + 1 : null });
    }
    for (const { target, targetPart } of tracker.add(infos, i + 1)) {
      const call = calls.find(({ seq, ordinal }) => seq === target && ordinal === targetPart + 1);
      if (call !== undefined && call.resultSeq === null) call.resultSeq = i + 1;
    }
  }
  return calls;
}

async function callsInView(id: string): Promise<unknown[]> {
  return database.query('SELECT seq::int AS seq, ordinal::int AS ordinal, call_id AS "callId", result_seq::int AS "resultSeq" FROM tool_calls WHERE context_id = $1 ORDER BY seq, ordinal', [id]);
}

describe('docs/analytics.md', () => {
  const text = readFileSync(join(root, 'docs/analytics.md'), 'utf8');
  const queries = [...text.matchAll(/([^\n]+)\n\n```sql\n([\s\S]*?)```/g)].map(([, question = '', sql = '']) => ({ question, sql }));
  assert.ok(queries.length >= 18);
  /** Asked of what the sample does not have. */
  const mayBeEmpty = /never got a result|could jsonb not hold|failed most recently/;
  for (const { question, sql } of queries) {
    test(question, async () => {
      const rows = await database.query(sql);
      assert.ok(rows.length > 0 || mayBeEmpty.test(question), 'no rows');
      assert.ok(rows.length === 0 || Object.values(rows[0] ?? {}).some((value) => value !== null), 'nothing but NULL');
    });
  }
  test('every view and table of the schema is described', async () => {
    const names = await database.query<{ name: string }>(`SELECT relname AS name FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'v') AND relname NOT LIKE 'fastpaca%'`);
    assert.equal(names.length, 8);
    for (const { name } of names) assert.ok(text.includes(`| \`${name}\` |`), `${name} is not described`);
  });
});

describe('sums', () => {
  test('messages and tokens by role are those of the conversations', async () => {
    const expected = new Map<string, { messages: number; tokens: number }>();
    for (const messages of said.values()) {
      for (const [i, { role }] of messages.entries()) {
        const sum = expected.get(role) ?? { messages: 0, tokens: 0 };
        expected.set(role, { messages: sum.messages + 1, tokens: sum.tokens + 10 + i });
      }
    }
    const rows = await database.query<{ role: string; messages: number; tokens: number }>('SELECT role, sum(messages)::int AS messages, sum(tokens)::int AS tokens FROM usage_daily GROUP BY role');
    assert.deepEqual(new Map(rows.map(({ role, messages, tokens }) => [role, { messages, tokens }])), expected);
  });

  test('conversations hold totals, times and metadata', async () => {
    const [row] = await database.query(`SELECT messages::int, tokens::int, user_messages::int, extract(epoch FROM duration)::int AS seconds, metadata->>'channel' AS channel FROM conversations WHERE id = 'bike-shop-1'`);
    assert.deepEqual(row, { messages: 9, tokens: 126, user_messages: 2, seconds: 8, channel: 'web' });
  });
});

describe('tools', () => {
  test('calls of the real conversations are found and paired as windows pair them', async () => {
    let calls = 0;
    for (const [id, messages] of said) {
      const expected = callsOf(messages);
      calls += expected.length;
      assert.deepEqual(await callsInView(id), expected, id);
    }
    assert.ok(calls >= 7);
  });

  test('names, error rates and latencies', async () => {
    add('tools', [
      { role: 'assistant', parts: [{ type: 'tool_call', toolCallId: 'x1', name: 'slow' }, { type: 'tool_call', toolCallId: 'x2', name: 'slow' }] },
      { role: 'tool', parts: [{ type: 'tool_result', toolCallId: 'x1', output: { ok: true } }] },
      { role: 'tool', parts: [] },
      { role: 'tool', parts: [{ type: 'tool_result', toolCallId: 'x2', is_error: true, output: 'no' }] },
      { role: 'assistant', parts: [{ type: 'tool_call', toolCallId: 'x3', name: 'slow' }] },
    ]);
    await archive();
    const rows = await database.query(`SELECT calls::int, answered::int, errors::int, error_rate::float8, extract(epoch FROM latency_p50)::int AS p50 FROM tool_call_stats WHERE name = 'slow'`);
    assert.deepEqual(rows, [{ calls: 3, answered: 2, errors: 1, error_rate: 0.5, p50: 2 }]);
  });

  /** Every layout: the call, the result, whether that is an error, and the tool's name. */
  const layouts: readonly (readonly [string, Part, Part | null, boolean])[] = [
    ['get', { type: 'function', id: '1', function: { name: 'get', arguments: '{}' } }, { type: 'text', text: 'fine', tool_call_id: '1' }, false],
    ['get', { type: 'function', id: '1', function: { name: 'get', arguments: '{}' } }, { type: 'text', text: 'Error: no such user', tool_call_id: '1' }, true],
    ['sql', { type: 'custom', id: '1', custom: { name: 'sql', input: 'x' } }, { type: 'text', text: 'Errors are listed below', tool_call_id: '1' }, false],
    ['get', { type: 'function_call', id: 'fc', call_id: '1', name: 'get' }, { type: 'function_call_output', id: 'o', call_id: '1', output: 'ok', status: 'completed' }, false],
    ['get', { type: 'function_call', call_id: '1', name: 'get' }, { type: 'function_call_output', call_id: '1', output: '', status: 'incomplete' }, true],
    ['grep', { type: 'custom_tool_call', call_id: '1', name: 'grep' }, { type: 'custom_tool_call_output', call_id: '1', output: 'error: bad pattern' }, true],
    ['computer', { type: 'computer_call', call_id: '1' }, { type: 'computer_call_output', call_id: '1', output: {} }, false],
    ['local_shell', { type: 'local_shell_call', call_id: '1' }, { type: 'local_shell_call_output', id: '1', output: '' }, false],
    ['shell', { type: 'shell_call', call_id: '1' }, { type: 'shell_call_output', call_id: '1', output: [{ outcome: { type: 'exit', exit_code: 2 } }] }, true],
    ['shell', { type: 'shell_call', call_id: '1' }, { type: 'shell_call_output', call_id: '1', output: [{ outcome: { type: 'exit', exit_code: 0 } }] }, false],
    ['apply_patch', { type: 'apply_patch_call', call_id: '1' }, { type: 'apply_patch_call_output', call_id: '1', status: 'failed' }, true],
    ['pay', { type: 'mcp_approval_request', id: '1', name: 'pay' }, { type: 'mcp_approval_response', approval_request_id: '1', approve: false }, false],
    ['track', { type: 'tool_use', id: '1', name: 'track' }, { type: 'tool_result', tool_use_id: '1', content: [{ type: 'text', text: 'x' }] }, false],
    ['track', { type: 'tool_use', id: '1', name: 'track' }, { type: 'tool_result', tool_use_id: '1', is_error: true, content: 'x' }, true],
    ['web_search', { type: 'server_tool_use', id: '1', name: 'web_search' }, { type: 'web_search_tool_result', tool_use_id: '1', content: { type: 'web_search_tool_result_error', error_code: 'x' } }, true],
    ['web_search', { type: 'server_tool_use', id: '1', name: 'web_search' }, { type: 'web_search_tool_result', tool_use_id: '1', content: [] }, false],
    ['ask', { type: 'mcp_tool_use', id: '1', name: 'ask' }, { type: 'mcp_tool_result', tool_use_id: '1', is_error: false }, false],
    ['find', { type: 'tool_call', tool_call_id: '1', tool_name: 'find' }, { type: 'tool_result', call_id: '1', output: { error: 'gone' } }, true],
    ['find', { type: 'tool_call', id: '1', name: 'find' }, { type: 'tool_result', id: '1', output: { error: null } }, false],
    ['find', { type: 'tool-call', toolCallId: '1', toolName: 'find' }, { type: 'tool-result', toolCallId: '1', output: { type: 'error-text', value: 'x' } }, true],
    ['find', { type: 'tool-call', toolCallId: '1', toolName: 'find' }, { type: 'tool-error', toolCallId: '1', error: {} }, true],
    ['unnamed', { type: 'tool-approval-request', approvalId: '1', toolCallId: 'c' }, { type: 'tool-approval-response', approvalId: '1' }, false],
    ['weather', { type: 'tool-weather', toolCallId: '1', state: 'output-available', output: 1 }, null, false],
    ['weather', { type: 'tool-weather', toolCallId: '1', state: 'output-error', errorText: 'x' }, null, true],
    ['any', { type: 'dynamic-tool', toolName: 'any', toolCallId: '1', state: 'output-available', output: 1 }, null, false],
    ['find', { type: 'tool_call', name: 'find', toolCallId: '', id: '1' }, { type: 'tool_result', toolCallId: 7, id: '1', output: '' }, false],
  ];
  test('every layout is found, named, and judged', async () => {
    for (const [i, [, call, result]] of layouts.entries()) {
      add(`layout-${i}`, [{ role: 'assistant', parts: [call] }, { role: 'tool', parts: result === null ? [] : [result] }]);
    }
    await archive();
    for (const [i, [name, call, result, isError]] of layouts.entries()) {
      const rows = await database.query('SELECT name, result_seq::int AS result, is_error FROM tool_calls WHERE context_id = $1', [`layout-${i}`]);
      assert.deepEqual(rows, [{ name, result: result === null ? 1 : 2, is_error: isError }], JSON.stringify(call));
    }
  });

  test('each kind of part is to the view what it is to the server, ids missing and odd ones included', async () => {
    const types = ['text', 'reasoning', 'image', 'function', 'custom', 'function_call', 'function_call_output', 'custom_tool_call', 'custom_tool_call_output', 'computer_call', 'computer_call_output', 'local_shell_call', 'local_shell_call_output', 'shell_call', 'shell_call_output', 'apply_patch_call', 'apply_patch_call_output', 'mcp_approval_request', 'mcp_approval_response', 'tool_use', 'server_tool_use', 'mcp_tool_use', 'tool_call', 'tool_result', 'tool-call', 'tool-result', 'tool-error', 'tool-approval-request', 'tool-approval-response', 'web_fetch_tool_result', 'mcp_tool_result', '_tool_result', 'xtool_result', 'tool-x', 'tool-', 'toolx', 'dynamic-tool', 'tool-x_tool_result'];
    const fields: readonly Part[] = [{}, { id: 'i' }, { call_id: 'c' }, { toolCallId: 't' }, { tool_call_id: 'u' }, { tool_use_id: 'v' }, { approvalId: 'a' }, { approval_request_id: 'r' }, { id: '', call_id: 'c', tool_call_id: 'u' }, { id: 5, toolCallId: null, tool_call_id: 'u' }, { id: 'i', call_id: 'c', toolCallId: 't', tool_call_id: 'u', tool_use_id: 'v' }, { toolCallId: 't', output: null }, { toolCallId: 't', state: 'output-error' }, { toolCallId: 't', state: 5, errorText: '' }, { toolCallId: 't', state: 'input-available' }];
    const parts = types.flatMap((type) => fields.map((more) => ({ type, ...more })));
    add('kinds', [{ role: 'assistant', parts }]);
    await archive();
    const names = ['none', 'call', 'result', 'both'];
    const rows = await database.query<{ ordinal: number; kind: string; call_id: string }>(`SELECT ordinal::int AS ordinal, kind, call_id FROM tool_parts WHERE context_id = 'kinds'`);
    const found = new Map(rows.map(({ ordinal, kind, call_id: callId }) => [ordinal, { kind, callId }]));
    for (const [i, part] of parts.entries()) {
      const { role, callId } = classifyPart(part);
      assert.deepEqual(found.get(i + 1) ?? { kind: 'none', callId: '' }, { kind: names[role], callId }, JSON.stringify(part));
    }
  });

  test('ids that are reused, nested, answered twice or never called pair as in windows', async () => {
    // xorshift32, so that a failure repeats; its high bits, as the low ones are poor.
    let state = 7;
    const next = (below: number): number => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return Math.floor(((state >>> 0) / 2 ** 32) * below);
    };
    const expected = new Map<string, unknown>();
    for (let c = 0; c < 60; c++) {
      const messages = Array.from({ length: 25 }, () => ({
        role: 'assistant',
        parts: Array.from({ length: next(3) }, () => ({ type: next(2) === 0 ? 'tool_call' : 'tool_result', id: `id-${next(2)}`, name: 'n' })),
      }));
      add(`reuse-${c}`, messages);
      expected.set(`reuse-${c}`, callsOf(messages));
    }
    await archive();
    for (const [id, calls] of expected) assert.deepEqual(await callsInView(id), calls, id);
  });
});
