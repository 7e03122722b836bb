/**
 * Conversations as clients of every layout store them, and as crashes, retries and bugs leave them behind: unanswered
 * and late calls, results nobody asked for, reused and odd ids, half-written parts, media in every shape, empty texts.
 */
import fc from 'fast-check';
import { append, compact, message, policy, put } from './contexts-fixture.ts';
import type { Part } from './contexts-fixture.ts';
import type { Command, NewMessage } from '../../src/contexts/types.ts';

export type Layout = 'plain' | 'chat' | 'responses' | 'anthropic' | 'model' | 'ui';
export const LAYOUTS: readonly Layout[] = ['plain', 'chat', 'responses', 'anthropic', 'model', 'ui'];

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const PDF = 'JVBERi0xLjQKJcfsj6IK';

/** A call and its result in a layout; `mark` names the input, `outcome` what came of it. */
export function pairOf(layout: Layout, id: string, mark: string, outcome: unknown): { call: Part; result: Part } {
  const input = { mark, nested: { list: [1, { deep: true }] } };
  const text = typeof outcome === 'string' ? outcome : JSON.stringify(outcome);
  switch (layout) {
    case 'plain':
      return { call: { type: 'tool_call', toolCallId: id, name: 'look_up', input }, result: { type: 'tool_result', toolCallId: id, name: 'look_up', output: outcome } };
    case 'chat':
      return { call: { type: 'function', id, function: { name: 'look_up', arguments: JSON.stringify(input) } }, result: { type: 'text', tool_call_id: id, text } };
    case 'responses':
      return { call: { type: 'function_call', id: `fc_${id}`, call_id: id, name: 'look_up', arguments: JSON.stringify(input) }, result: { type: 'function_call_output', call_id: id, output: text } };
    case 'anthropic':
      return { call: { type: 'tool_use', id, name: 'look_up', input }, result: { type: 'tool_result', tool_use_id: id, content: [{ type: 'text', text }] } };
    case 'model':
      return {
        call: { type: 'tool-call', toolCallId: id, toolName: 'look_up', input },
        result: { type: 'tool-result', toolCallId: id, toolName: 'look_up', output: typeof outcome === 'string' ? { type: 'text', value: outcome } : { type: 'json', value: outcome } },
      };
    case 'ui':
      return {
        call: { type: 'tool-look_up', toolCallId: id, state: 'input-available', input },
        result: { type: 'tool-look_up', toolCallId: id, state: 'output-available', input, output: outcome },
      };
  }
}

/** Every other part that some layout has, and some that none has. */
export const CURIOSITIES: readonly Part[] = [
  { type: 'text', text: '' },
  { type: 'text', text: ' \n\t' },
  { type: 'text', text: '\u001c\u0085' },
  { type: 'text', text: 'ends in space \n' },
  { type: 'text', text: 'half \ud83d of a pair, and "quotes" \\ud800' },
  { type: 'text' },
  { type: 'text', text: 7 },
  { type: 'text', text: 'with options', providerOptions: { google: { thoughtSignature: 'x' }, openai: { itemId: 'msg_1' } } },
  { type: 'text', text: 'with bad options', providerOptions: { google: 7 } },
  { type: 'input_text', text: 'input' },
  { type: 'output_text', text: 'output', annotations: [] },
  { type: 'refusal', refusal: 'I cannot' },
  { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'item' }] },
  { type: 'message', role: 'developer', content: [{ type: 'input_text', text: 'rule' }] },
  { type: 'message', content: 'no list' },
  { type: 'reasoning', text: 'hm' },
  { type: 'reasoning', text: '', providerOptions: { anthropic: { redactedData: 'zz' } } },
  { type: 'reasoning', text: 'signed', providerMetadata: { anthropic: { signature: 'sig' } } },
  { type: 'reasoning', id: 'rs_1', summary: [{ type: 'summary_text', text: 'why' }], encrypted_content: 'e' },
  { type: 'thinking', thinking: 'let me see', signature: 'sig' },
  { type: 'thinking', thinking: 'unsigned' },
  { type: 'redacted_thinking', data: 'abc' },
  { type: 'image', source: { type: 'base64', media_type: 'image/png', data: PNG } },
  { type: 'image', source: { type: 'base64', media_type: 'image/tiff', data: 'SUkqAA==' } },
  { type: 'image', source: { type: 'url', url: 'http://example.com/a.png' } },
  { type: 'image', source: { type: 'file', file_id: 'file_1' } },
  { type: 'image', image: PNG },
  { type: 'image', image: `data:image/png;base64,${PNG}`, mediaType: 'image/*' },
  { type: 'image', image: 'not base64!' },
  { type: 'image', data: PNG, mimeType: 'image/png' },
  { type: 'image_url', image_url: { url: 'https://example.com/a.png', detail: 'high' } },
  { type: 'image_url', image_url: { url: 'ftp://example.com/a.png' } },
  { type: 'input_image', file_id: 'file-1' },
  { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: PDF }, title: 'Paper' },
  { type: 'document', source: { type: 'text', media_type: 'text/plain', data: 'plain words' } },
  { type: 'document', source: { type: 'url', url: 'https://example.com/a.pdf' } },
  { type: 'document', source: { type: 'content', content: [] } },
  { type: 'file', file: { filename: 'a.pdf', file_data: `data:application/pdf;base64,${PDF}` } },
  { type: 'file', file: { file_id: 'file-2' } },
  { type: 'file', data: PDF, mediaType: 'application/pdf', filename: 'b.pdf' },
  { type: 'file', url: 'data:text/plain;base64,aGVsbG8=', mediaType: 'text/plain', filename: 'c.txt' },
  { type: 'file', url: 'data:text/plain,hello', mediaType: 'text/plain' },
  { type: 'input_file', file_url: 'https://example.com/d.pdf' },
  { type: 'input_audio', input_audio: { data: 'AAAA', format: 'mp3' } },
  { type: 'audio', data: 'AAAA', mimeType: 'audio/ogg' },
  { type: 'step-start' },
  { type: 'source-url', url: 'https://example.com' },
  { type: 'data-weather', data: { degrees: 3 } },
  { type: 'web_search_call', id: 'ws_1', status: 'completed', action: { type: 'search', query: 'q' } },
  { type: 'mcp_call', id: 'mcp_1', name: 'add', arguments: '{"a":1}', output: '3', server_label: 's' },
  { type: 'mcp_approval_request', id: 'mcpr_1', name: 'add', arguments: '{}' },
  { type: 'mcp_approval_response', approval_request_id: 'mcpr_1', approve: true },
  { type: 'tool-approval-request', approvalId: 'ap', toolCallId: 'a' },
  { type: 'tool-approval-response', approvalId: 'ap', approved: false, reason: 'no' },
  { type: 'tool_call', name: 'no_id', input: {} },
  { type: 'tool_result', output: 'no id' },
  { type: '' },
  { type: 'tool-', toolCallId: 'a' },
  { type: 'unheard_of', payload: { a: [1, 2, 3] } },
];

/** Calls and results in shapes that are rare or wrong, by id. */
const ODD_CALLS: readonly ((id: string) => Part)[] = [
  (id) => ({ type: 'tool_call', toolCallId: id }),
  (id) => ({ type: 'tool_call', toolCallId: id, name: 'bad name! '.repeat(20), input: 'not json' }),
  (id) => ({ type: 'tool_call', toolCallId: id, name: ' ', input: [1, 2] }),
  (id) => ({ type: 'tool_call', toolCallId: id, name: 'deep', arguments: '['.repeat(200) }),
  (id) => ({ type: 'tool_call', toolCallId: id, name: 'deeper', arguments: `${'{"a":'.repeat(200)}1${'}'.repeat(200)}` }),
  (id) => ({ type: 'function', id, function: { name: 'half', arguments: '{"cut": "of' } }),
  (id) => ({ type: 'function', id, function: 'no object' }),
  (id) => ({ type: 'custom', id, custom: { name: 'grep', input: 'free text' } }),
  (id) => ({ type: 'custom_tool_call', call_id: id, name: 'shell', input: '' }),
  (id) => ({ type: 'computer_call', call_id: id, action: { type: 'click', x: 1, y: 2 } }),
  (id) => ({ type: 'server_tool_use', id, name: 'web_search', input: { query: 'q\ud800' } }),
  (id) => ({ type: 'tool-call', toolCallId: id, toolName: 'x', args: { old: true }, providerExecuted: true, providerOptions: { google: { thoughtSignature: 's' } } }),
  (id) => ({ type: 'dynamic-tool', toolName: 'dyn', toolCallId: id, state: 'input-streaming', input: undefined }),
  (id) => ({ type: 'dynamic-tool', toolName: 'dyn', toolCallId: id, state: 'output-error', input: {}, errorText: 'boom' }),
  (id) => ({ type: 'tool-x', toolCallId: id, state: 'output-denied', input: {}, approval: { id: 'ap', approved: false } }),
  (id) => ({ type: 'tool-approval-request', approvalId: id, toolCallId: id }),
];
const ODD_RESULTS: readonly ((id: string) => Part)[] = [
  (id) => ({ type: 'tool_result', toolCallId: id }),
  (id) => ({ type: 'tool_result', toolCallId: id, output: '' }),
  (id) => ({ type: 'tool_result', toolCallId: id, output: null }),
  (id) => ({ type: 'tool_result', toolCallId: id, output: { a: [1] }, isError: true }),
  (id) => ({ type: 'tool_result', tool_use_id: id, is_error: true, content: [{ type: 'text', text: ' ' }] }),
  (id) => ({ type: 'tool_result', tool_use_id: id, is_error: true, content: [{ type: 'image', source: { type: 'base64', media_type: 'image/png', data: PNG } }] }),
  (id) => ({ type: 'tool_result', tool_use_id: id, content: [{ type: 'text', text: 'see' }, { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: PDF } }] }),
  (id) => ({ type: 'tool_result', tool_use_id: id, content: [] }),
  (id) => ({ type: 'function_call_output', call_id: id, output: [{ type: 'input_text', text: 'listed' }, { type: 'input_image', image_url: 'https://example.com/x.png' }] }),
  (id) => ({ type: 'computer_call_output', call_id: id, output: { type: 'computer_screenshot', image_url: `data:image/png;base64,${PNG}` } }),
  (id) => ({ type: 'web_search_tool_result', tool_use_id: id, content: [{ type: 'web_search_result', title: 't', url: 'https://example.com', encrypted_content: 'e'.repeat(50) }] }),
  (id) => ({ type: 'tool-result', toolCallId: id, toolName: 'x', result: { old: true } }),
  (id) => ({ type: 'tool-result', toolCallId: id, toolName: 'x', output: { type: 'content', value: [{ type: 'text', text: 'c' }, { type: 'image-data', data: PNG, mediaType: 'image/png' }, { type: 'file-url', url: 'https://example.com/y' }] } }),
  (id) => ({ type: 'tool-result', toolCallId: id, toolName: 'x', output: { type: 'execution-denied' } }),
  (id) => ({ type: 'tool-result', toolCallId: id, toolName: 'x', output: { type: 'error-json', value: [1] } }),
  (id) => ({ type: 'tool-error', toolCallId: id, error: { message: 'x' } }),
  (id) => ({ type: 'image_url', tool_call_id: id, image_url: { url: `data:image/png;base64,${PNG}` } }),
  (id) => ({ type: 'tool-approval-response', approvalId: id, approved: false, reason: 'too dear' }),
];

const id = fc.constantFrom('a', 'b', 'call_Qx', 'a_2', 'id with spaces/é', 'x'.repeat(60), 'y'.repeat(300));
const layout = fc.constantFrom(...LAYOUTS);
const outcome = fc.constantFrom<unknown>('fine', { ok: true, n: 1.5 }, [1, 2], 'line\nline', '');

let marks = 0;
const mark = fc.constant(null).map(() => `m${++marks}`);

const part: fc.Arbitrary<Part> = fc.oneof(
  { weight: 4, arbitrary: mark.map((m): Part => ({ type: 'text', text: `said ${m}` })) },
  { weight: 3, arbitrary: fc.constantFrom(...CURIOSITIES) },
  { weight: 6, arbitrary: fc.tuple(layout, id, mark, outcome, fc.boolean()).map(([l, i, m, o, first]) => pairOf(l, i, m, o)[first ? 'call' : 'result']) },
  { weight: 2, arbitrary: fc.tuple(id, fc.constantFrom(...ODD_CALLS, ...ODD_RESULTS)).map(([i, make]) => make(i)) },
);
const role = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom('user', 'assistant', 'tool') },
  { weight: 1, arbitrary: fc.constantFrom('system', 'developer', 'model', 'function', 'data') },
);
const counts = fc.record({ each: fc.nat(30) });
const anyMessage: fc.Arbitrary<NewMessage> = fc.tuple(role, fc.array(part, { maxLength: 4 }), counts).map(([r, parts, c]) => message(r, parts, c));

/** A turn as an application writes it when nothing goes wrong: calls, then all results, in one layout. */
export const properTurn: fc.Arbitrary<NewMessage[]> = fc.tuple(layout, fc.array(fc.tuple(id, mark, outcome), { minLength: 1, maxLength: 3 }), counts).map(([l, calls, c]) => {
  const pairs = calls.map(([i, m, o], index) => pairOf(l, `${i}${index}`, m, o));
  const ask = message('user', [{ type: 'text', text: 'please' }], c);
  if (l === 'ui') return [ask, message('assistant', [{ type: 'step-start' }, ...pairs.map((p) => p.result), { type: 'step-start' }, { type: 'text', text: 'done' }], c)];
  return [
    ask,
    message('assistant', pairs.map((p) => p.call), c),
    ...(l === 'anthropic' ? [message('user', pairs.map((p) => p.result), c)] : pairs.map((p) => message('tool', [p.result], c))),
    message('assistant', [{ type: 'text', text: 'done' }], c),
  ];
});

const anyPolicy = fc
  .record({
    strategy: fc.constantFrom('last_n' as const, 'skip_parts' as const, 'manual' as const),
    limit: fc.integer({ min: 1, max: 30 }),
    skipKinds: fc.constantFrom(['tool', 'reasoning'], ['tool'], ['tool_result', 'function_call_output'], ['text', 'function']),
    targetRatio: fc.constantFrom(0.2, 0.5, 0.7),
    pin: fc.boolean(),
  })
  .map((change) => policy(change));

/** Commands of one context's life: appends of any kind, changed settings, compactions. */
export const anyHistory: fc.Arbitrary<Command[]> = fc
  .array(
    fc.oneof(
      { weight: 8, arbitrary: fc.array(anyMessage, { minLength: 1, maxLength: 4 }).map((messages) => append(messages)) },
      { weight: 5, arbitrary: properTurn.map((messages) => append(messages)) },
      { weight: 1, arbitrary: fc.record({ tokenBudget: fc.integer({ min: 50, max: 1500 }), policy: anyPolicy, triggerRatio: fc.constantFrom(0.7, 1) }).map((settings) => put(settings)) },
      { weight: 1, arbitrary: fc.tuple(fc.array(anyMessage, { maxLength: 3 }), fc.nat(40)).map(([replacement, keepFromSeq]) => compact(replacement, { keepFromSeq })) },
    ),
    { minLength: 1, maxLength: 25, size: 'max' },
  )
  .map((commands) => [put({ tokenBudget: 100_000 }), ...commands]);
