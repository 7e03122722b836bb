/** What each provider is sent for what was stored: one behaviour a test, in the words of docs/usage/providers.md. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { MemoryRows, append, compact, message, policy, put } from './contexts-fixture.ts';
import type { Part } from './contexts-fixture.ts';
import { LAYOUTS, pairOf } from './providers-histories.ts';
import { requestOf } from './providers-rules.ts';
import { membersOf, renderFor } from '../../src/providers/rendering.ts';
import type { Provider } from '../../src/providers/rendering.ts';

type Stored = readonly [role: string, ...parts: Part[]];

const said = (text: string): Part => ({ type: 'text', text });
const asked: Stored = ['user', said('hi')];

function windowOf(stored: readonly Stored[]): MemoryRows {
  const rows = new MemoryRows();
  rows.run(put({ tokenBudget: 1_000_000 }));
  for (const [role, ...parts] of stored) rows.run(append([message(role, parts)]));
  return rows;
}

function request(provider: Provider, ...stored: Stored[]): ReturnType<typeof requestOf> {
  return requestOf(renderFor(provider, windowOf(stored).window().elements));
}

const openai = (...stored: Stored[]): readonly unknown[] => request('openai', ...stored).messages;
const anthropic = (...stored: Stored[]): unknown => request('anthropic', ...stored).messages;
const aiSdk = (...stored: Stored[]): unknown => request('ai-sdk', ...stored).messages;

const functionCall = (id: string, name: string, args: string): object => ({ id, type: 'function', function: { name, arguments: args } });
const toolCall = (id: string, input: unknown = { q: 1 }): Part => ({ type: 'tool_call', toolCallId: id, name: 'find', input });
const toolResult = (id: string, output: unknown = 'found'): Part => ({ type: 'tool_result', toolCallId: id, name: 'find', output });

describe('every layout', () => {
  for (const layout of LAYOUTS) {
    const { call, result } = pairOf(layout, 'c1', 'here', 'fine');
    const stored: Stored[] = layout === 'ui' ? [asked, ['assistant', result]] : [asked, ['assistant', call], [layout === 'anthropic' ? 'user' : 'tool', result]];
    it(`${layout}: a call and its result reach every provider`, () => {
      const input = { mark: 'here', nested: { list: [1, { deep: true }] } };
      assert.deepEqual(openai(...stored), [
        { role: 'user', content: 'hi' },
        { role: 'assistant', content: null, tool_calls: [functionCall('c1', 'look_up', JSON.stringify(input))] },
        { role: 'tool', tool_call_id: 'c1', content: 'fine' },
      ]);
      assert.deepEqual(anthropic(...stored), [
        { role: 'user', content: [{ type: 'text', text: 'hi' }] },
        { role: 'assistant', content: [{ type: 'tool_use', id: 'c1', name: 'look_up', input }] },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'c1', content: 'fine' }] },
      ]);
      assert.deepEqual(aiSdk(...stored), [
        { role: 'user', content: 'hi' },
        { role: 'assistant', content: [{ type: 'tool-call', toolCallId: 'c1', toolName: 'look_up', input }] },
        { role: 'tool', content: [{ type: 'tool-result', toolCallId: 'c1', toolName: 'look_up', output: { type: 'text', value: 'fine' } }] },
      ]);
    });
  }

  it('UI steps become turns of their own, parallel calls share one', () => {
    const tool = (id: string, output: string): Part => ({ type: 'tool-find', toolCallId: id, state: 'output-available', input: {}, output });
    const step: Part = { type: 'step-start' };
    assert.deepEqual(openai(asked, ['assistant', step, said('first'), tool('a', '1'), tool('b', '2'), step, tool('c', '3'), said('last')]), [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: 'first', tool_calls: [functionCall('a', 'find', '{}'), functionCall('b', 'find', '{}')] },
      { role: 'tool', tool_call_id: 'a', content: '1' },
      { role: 'tool', tool_call_id: 'b', content: '2' },
      { role: 'assistant', content: null, tool_calls: [functionCall('c', 'find', '{}')] },
      { role: 'tool', tool_call_id: 'c', content: '3' },
      { role: 'assistant', content: 'last' },
    ]);
  });

  it('Responses items stored one by one become parallel calls and messages', () => {
    const stored: Stored[] = [
      ['user', { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'hi' }] }],
      ['assistant', { type: 'function_call', call_id: 'a', name: 'f', arguments: '{"x":1.50}' }],
      ['assistant', { type: 'function_call', call_id: 'b', name: 'f', arguments: '' }],
      ['tool', { type: 'function_call_output', call_id: 'b', output: '2' }],
      ['tool', { type: 'function_call_output', call_id: 'a', output: '1' }],
    ];
    assert.deepEqual(openai(...stored), [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: null, tool_calls: [functionCall('a', 'f', '{"x":1.50}'), functionCall('b', 'f', '{}')] },
      { role: 'tool', tool_call_id: 'a', content: '1' },
      { role: 'tool', tool_call_id: 'b', content: '2' },
    ]);
  });
});

describe('calls and results', () => {
  it('inputs and outputs keep the digits and the key order that were sent', () => {
    const rows = new MemoryRows();
    rows.run(put({ tokenBudget: 1_000_000 }));
    // JSON.stringify would not write these digits, so the fixture's text is edited behind its back.
    const one = message('assistant', [{ type: 'tool_call', toolCallId: 'a', name: 'f', input: { z: 'NUMBER', a: 1 } }]);
    const two = message('tool', [{ type: 'tool_result', toolCallId: 'a', output: { z: 'NUMBER', a: 1 } }]);
    for (const { partsText } of [one, two]) {
      const at = Buffer.from(partsText.buffer).indexOf('"NUMBER"', partsText.byteOffset) - partsText.byteOffset;
      partsText.set(Buffer.from('1.250e07'), at);
    }
    rows.run(append([one, two]));
    assert.equal(
      membersOf(renderFor('anthropic', rows.window().elements)),
      '"messages":[{"role":"user","content":[{"type":"text","text":"[The conversation shown begins with the assistant.]"}]},' +
        '{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{"z":1.250e07,"a":1}}]},' +
        '{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":"{\\"z\\":1.250e07,\\"a\\":1}"}]}]',
    );
    assert.match(membersOf(renderFor('ai-sdk', rows.window().elements)), /"output":\{"type":"json","value":\{"z":1\.250e07,"a":1\}\}/);
    assert.match(membersOf(renderFor('openai', rows.window().elements)), /"arguments":"\{\\"z\\":1\.250e07,\\"a\\":1\}"/);
  });

  it('a call that nobody answered gets a result that says so', () => {
    const stored: Stored[] = [asked, ['assistant', toolCall('a')], ['user', said('are you there?')]];
    assert.deepEqual(openai(...stored), [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: null, tool_calls: [functionCall('a', 'find', '{"q":1}')] },
      { role: 'tool', tool_call_id: 'a', content: 'No result was recorded for this call.' },
      { role: 'user', content: 'are you there?' },
    ]);
    assert.deepEqual(anthropic(...stored), [
      { role: 'user', content: [{ type: 'text', text: 'hi' }] },
      { role: 'assistant', content: [{ type: 'tool_use', id: 'a', name: 'find', input: { q: 1 } }] },
      {
        role: 'user',
        content: [
          { type: 'tool_result', tool_use_id: 'a', content: 'No result was recorded for this call.', is_error: true },
          { type: 'text', text: 'are you there?' },
        ],
      },
    ]);
    assert.deepEqual(aiSdk(...stored), [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: [{ type: 'tool-call', toolCallId: 'a', toolName: 'find', input: { q: 1 } }] },
      { role: 'tool', content: [{ type: 'tool-result', toolCallId: 'a', toolName: 'find', output: { type: 'error-text', value: 'No result was recorded for this call.' } }] },
      { role: 'user', content: 'are you there?' },
    ]);
  });

  it('a late result goes up to its call', () => {
    assert.deepEqual(openai(asked, ['assistant', toolCall('a')], ['user', said('well?')], ['assistant', said('wait')], ['tool', toolResult('a')]), [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: null, tool_calls: [functionCall('a', 'find', '{"q":1}')] },
      { role: 'tool', tool_call_id: 'a', content: 'found' },
      { role: 'user', content: 'well?' },
      { role: 'assistant', content: 'wait' },
    ]);
  });

  it('further results of a call join the first', () => {
    assert.deepEqual(anthropic(asked, ['assistant', toolCall('a')], ['tool', toolResult('a', 'half')], ['tool', toolResult('a', { whole: true })]), [
      { role: 'user', content: [{ type: 'text', text: 'hi' }] },
      { role: 'assistant', content: [{ type: 'tool_use', id: 'a', name: 'find', input: { q: 1 } }] },
      {
        role: 'user',
        content: [
          {
            type: 'tool_result',
            tool_use_id: 'a',
            content: [
              { type: 'text', text: 'half' },
              { type: 'text', text: '{"whole":true}' },
            ],
          },
        ],
      },
    ]);
  });

  it('a result without a call becomes the text of what was stored', () => {
    assert.deepEqual(openai(asked, ['tool', toolResult('a')], ['tool', said('no id at all')]), [
      { role: 'user', content: 'hi' },
      { role: 'user', content: '[tool result without its call] {"type":"tool_result","toolCallId":"a","name":"find","output":"found"}' },
      { role: 'user', content: '[tool message without its call] no id at all' },
    ]);
  });

  it('a result without a call does not take the answer of the one next to it', () => {
    assert.deepEqual(openai(asked, ['assistant', toolCall('a')], ['tool', toolResult('z'), toolResult('a', 'mine')]).at(2), { role: 'tool', tool_call_id: 'a', content: 'mine' });
  });

  it('what is said after an answer in the same message comes after it', () => {
    assert.deepEqual(openai(asked, ['assistant', said('one'), toolCall('a'), toolResult('a', '1'), said('two'), toolCall('b'), toolResult('b', '2'), said('three')]), [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: 'one', tool_calls: [functionCall('a', 'find', '{"q":1}')] },
      { role: 'tool', tool_call_id: 'a', content: '1' },
      { role: 'assistant', content: 'two', tool_calls: [functionCall('b', 'find', '{"q":1}')] },
      { role: 'tool', tool_call_id: 'b', content: '2' },
      { role: 'assistant', content: 'three' },
    ]);
  });

  it('a result that was never asked for does not answer a call of a later compaction', () => {
    const rows = windowOf([['tool', toolResult('a')]]);
    rows.run(compact([message('assistant', [toolCall('a')])], { keepFromSeq: 1 }));
    assert.deepEqual(requestOf(renderFor('openai', rows.window().elements)).messages, [
      { role: 'assistant', content: null, tool_calls: [functionCall('a', 'find', '{"q":1}')] },
      { role: 'tool', tool_call_id: 'a', content: 'No result was recorded for this call.' },
      { role: 'user', content: '[tool result without its call] {"type":"tool_result","toolCallId":"a","name":"find","output":"found"}' },
    ]);
  });

  it('a call that a compaction left open is answered by the log', () => {
    const rows = windowOf([asked]);
    rows.run(compact([message('assistant', [toolCall('a')])]));
    rows.run(append([message('tool', [toolResult('a')])]));
    assert.deepEqual(requestOf(renderFor('openai', rows.window().elements)).messages, [
      { role: 'assistant', content: null, tool_calls: [functionCall('a', 'find', '{"q":1}')] },
      { role: 'tool', tool_call_id: 'a', content: 'found' },
    ]);
  });

  it('reused, odd and overlong ids become unique and valid, and each result keeps to its call', () => {
    const ids = ['a', 'a', 'a_2', 'sp ace', 'x'.repeat(300)];
    const stored = ids.flatMap((id, i): Stored[] => [['assistant', toolCall(id, { i })], ['tool', toolResult(id, `r${i}`)]]);
    const issued: string[] = [];
    for (const one of request('openai', asked, ...stored).messages) {
      if (one['role'] !== 'tool') continue;
      assert.equal(one['content'], `r${issued.length}`);
      issued.push(String(one['tool_call_id']));
    }
    assert.deepEqual(issued.slice(0, 3), ['a', 'a_2', 'a_2_2']);
    assert.match(issued[3] ?? '', /^sp_ace_[0-9a-f]{16}$/);
    assert.match(issued[4] ?? '', /^x{23}_[0-9a-f]{16}$/);
  });

  it('every provider gets an object as input, whatever was stored', () => {
    // Deeper than readers are sure to follow.
    const nested = `${'{"a":'.repeat(200)}1${'}'.repeat(200)}`;
    const table: readonly (readonly [Part, unknown])[] = [
      [{ type: 'tool_call', toolCallId: 'a' }, {}],
      [toolCall('a', null), {}],
      [toolCall('a', [1]), { value: [1] }],
      [toolCall('a', 'free text'), { value: 'free text' }],
      [toolCall('a', ' {"b": 2} '), { b: 2 }],
      [toolCall('a', '[1]'), { value: '[1]' }],
      [toolCall('a', { 'quo"te\\\\': '}"\\\\' }), { 'quo"te\\\\': '}"\\\\' }],
      [toolCall('a', nested), { value: nested }],
      [{ type: 'function', id: 'a', function: { name: 'f', arguments: '{"half": ' } }, { value: '{"half": ' }],
      [{ type: 'custom', id: 'a', custom: { name: 'f', input: 'ls -l' } }, { input: 'ls -l' }],
    ];
    for (const [part, input] of table) {
      const [, call] = request('ai-sdk', asked, ['assistant', part]).messages;
      const content = call?.['content'];
      assert.deepEqual(Array.isArray(content) && content[0]['input'], input, JSON.stringify(part));
    }
  });

  it('a free-form call of OpenAI stays one for OpenAI', () => {
    assert.deepEqual(request('openai', asked, ['assistant', { type: 'custom_tool_call', call_id: 'a', name: 'sh', input: 'ls -l' }]).messages[1]?.['tool_calls'], [
      { id: 'a', type: 'custom', custom: { name: 'sh', input: 'ls -l' } },
    ]);
  });

  it('a denied call says that it did not run', () => {
    const stored: Stored[] = [
      asked,
      ['assistant', { type: 'tool-call', toolCallId: 'a', toolName: 'pay', input: {} }, { type: 'tool-approval-request', approvalId: 'p', toolCallId: 'a' }],
      ['tool', { type: 'tool-approval-response', approvalId: 'p', approved: false, reason: 'too dear' }],
    ];
    assert.deepEqual(request('ai-sdk', ...stored).messages[2]?.['content'], [
      { type: 'tool-result', toolCallId: 'a', toolName: 'pay', output: { type: 'execution-denied', reason: 'too dear' } },
    ]);
    assert.equal(request('openai', ...stored).messages[2]?.['content'], 'The call was not approved and did not run: too dear');
  });

  it('a result counts more than the denial before it', () => {
    const pay: Part = { type: 'tool-call', toolCallId: 'a', toolName: 'pay', input: {} };
    const denied: Stored[] = [asked, ['assistant', pay, { type: 'tool-approval-request', approvalId: 'p', toolCallId: 'a' }], ['tool', { type: 'tool-approval-response', approvalId: 'p', approved: false }]];
    assert.equal(request('openai', ...denied, ['tool', { type: 'tool-result', toolCallId: 'a', toolName: 'pay', output: { type: 'text', value: 'refused' } }]).messages[2]?.['content'], 'refused');
  });

  it("a search's encrypted pages are left out, its hits stay", () => {
    const hit = { type: 'web_search_result', title: 't', url: 'https://example.com' };
    const stored: Stored[] = [asked, ['assistant', { type: 'server_tool_use', id: 's', name: 'web_search', input: { query: 'q' } }, { type: 'web_search_tool_result', tool_use_id: 's', content: [{ ...hit, encrypted_content: 'zzz' }] }]];
    assert.equal(request('openai', ...stored).messages[2]?.['content'], JSON.stringify([hit]));
  });

  it('what is said after an unanswered call in one message goes before the call where the provider demands it', () => {
    const [, answer] = request('anthropic', asked, ['assistant', toolCall('a'), said('calling')], ['tool', toolResult('a')]).messages;
    assert.deepEqual(answer?.['content'], [
      { type: 'text', text: 'calling' },
      { type: 'tool_use', id: 'a', name: 'find', input: { q: 1 } },
    ]);
  });
});

describe('turns', () => {
  it('system text is hoisted for Anthropic and the AI SDK, stays for OpenAI', () => {
    const stored: Stored[] = [['system', said('one')], asked, ['developer', said('two')], ['assistant', said('yes')]];
    assert.deepEqual(request('anthropic', ...stored).system, [
      { type: 'text', text: 'one' },
      { type: 'text', text: 'two' },
    ]);
    assert.equal(request('ai-sdk', ...stored).system, 'one\n\ntwo');
    assert.deepEqual(openai(...stored), [
      { role: 'system', content: 'one' },
      { role: 'user', content: 'hi' },
      { role: 'system', content: 'two' },
      { role: 'assistant', content: 'yes' },
    ]);
  });

  it('Anthropic roles alternate and the user opens, as for the AI SDK', () => {
    assert.deepEqual(aiSdk(['assistant', said('welcome')]), [
      { role: 'user', content: '[The conversation shown begins with the assistant.]' },
      { role: 'assistant', content: 'welcome' },
    ]);
    assert.deepEqual(anthropic(['assistant', said('welcome \u0085\u001c\u2003\n')], ['assistant', said('how?\u0001')], asked, asked), [
      { role: 'user', content: [{ type: 'text', text: '[The conversation shown begins with the assistant.]' }] },
      {
        role: 'assistant',
        content: [
          { type: 'text', text: 'welcome' },
          { type: 'text', text: 'how?\u0001' },
        ],
      },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'hi' },
          { type: 'text', text: 'hi' },
        ],
      },
    ]);
  });

  it('empty and blank texts leave nothing behind, empty results say so', () => {
    for (const blank of ['', ' \n', '\u001c', '\u0085']) assert.deepEqual(openai(['assistant', said(blank)]), []);
    assert.equal(request('openai', asked, ['assistant', toolCall('a')], ['tool', toolResult('a', '')]).messages[2]?.['content'], '(empty result)');
  });

  it('what skip_parts took out of the window is not rendered', () => {
    const rows = new MemoryRows();
    rows.run(put({ tokenBudget: 100, triggerRatio: 1, policy: policy({ strategy: 'skip_parts', targetRatio: 1, skipKinds: ['tool', 'reasoning'] }) }));
    rows.run(append([message('user', [said('hi')]), message('assistant', [said('looking'), toolCall('a'), { type: 'reasoning', text: 'hm' }]), message('tool', [toolResult('a')])]));
    rows.run(append([message('user', [said('and?')], { each: 70 })]));
    assert.equal(rows.shown(), '1,2[0],4');
    assert.deepEqual(requestOf(renderFor('openai', rows.window().elements)).messages, [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: 'looking' },
      { role: 'user', content: 'and?' },
    ]);
  });

  it('half a surrogate pair becomes U+FFFD, whole pairs and backslashes stay', () => {
    const odd = '\\ud800 \ud800 😀';
    assert.equal(request('openai', ['user', said(odd)]).messages[0]?.['content'], '\\ud800 \ufffd 😀');
    assert.deepEqual(request('ai-sdk', asked, ['assistant', toolCall('a', { odd })]).messages[1]?.['content'], [
      { type: 'tool-call', toolCallId: 'a', toolName: 'find', input: { odd: '\\ud800 \ufffd 😀' } },
    ]);
  });

  it('other roles speak for the one they mean', () => {
    assert.deepEqual(openai(['human', said('a')], ['model', said('b')], ['data', said('c')]), [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
      { role: 'user', content: 'c' },
    ]);
  });

  it('an unknown part becomes its JSON as text, what is not for the model goes', () => {
    assert.deepEqual(openai(['assistant', { type: 'mood', level: 3 }, { type: 'source-url', url: 'https://example.com' }, { type: 'data-x', data: 1 }]), [
      { role: 'assistant', content: '{"type":"mood","level":3}' },
    ]);
  });
});

describe('thinking', () => {
  const thought: Part = { type: 'thinking', thinking: 'hm', signature: 'sig' };
  it('is kept for Anthropic when signed, first in its message and not last', () => {
    const [, answer] = request('anthropic', asked, ['assistant', thought, said('so')]).messages;
    assert.deepEqual(answer?.['content'], [
      { type: 'thinking', thinking: 'hm', signature: 'sig' },
      { type: 'text', text: 'so' },
    ]);
    assert.deepEqual(request('anthropic', asked, ['assistant', { type: 'thinking', thinking: 'unsigned' }, said('so')]).messages[1]?.['content'], [{ type: 'text', text: 'so' }]);
    assert.deepEqual(request('anthropic', asked, ['assistant', { type: 'reasoning', text: 'signed elsewhere', signature: 'other' }, said('so')]).messages[1]?.['content'], [{ type: 'text', text: 'so' }]);
    assert.equal(request('anthropic', asked, ['assistant', thought]).messages.length, 1, 'thinking that led to nothing');
    assert.deepEqual(request('anthropic', asked, ['assistant', said('first')], ['assistant', thought, said('so')]).messages[1]?.['content'], [
      { type: 'text', text: 'first' },
      { type: 'text', text: 'so' },
    ]);
  });

  it('goes where it led, once', () => {
    const [, answer, , later] = request('anthropic', asked, ['assistant', thought, said('a'), said('b')], ['user', said('and?')], ['assistant', said('c')]).messages;
    assert.deepEqual(answer?.['content'], [
      { type: 'thinking', thinking: 'hm', signature: 'sig' },
      { type: 'text', text: 'a' },
      { type: 'text', text: 'b' },
    ]);
    assert.deepEqual(later?.['content'], [{ type: 'text', text: 'c' }]);
    const cutOff = request('anthropic', asked, ['assistant', thought], ['user', said('and?')], ['assistant', said('c')]).messages;
    assert.deepEqual(cutOff.at(-1)?.['content'], [{ type: 'text', text: 'c' }]);
  });

  it('is kept for the AI SDK with its signature, and left out for OpenAI', () => {
    assert.deepEqual(request('ai-sdk', asked, ['assistant', thought, said('so')]).messages[1]?.['content'], [
      { type: 'reasoning', text: 'hm', providerOptions: { anthropic: { signature: 'sig' } } },
      { type: 'text', text: 'so' },
    ]);
    assert.equal(request('openai', asked, ['assistant', thought, said('so')]).messages[1]?.['content'], 'so');
  });

  it('provider options reach the AI SDK, but for those that point at items stored elsewhere', () => {
    const google = { thoughtSignature: 'x' };
    assert.deepEqual(request('ai-sdk', asked, ['assistant', { type: 'text', text: 'a', providerOptions: { openai: { itemId: 'm' }, google } }]).messages[1]?.['content'], [
      { type: 'text', text: 'a', providerOptions: { google } },
    ]);
  });
});

describe('images and files', () => {
  const png = 'iVBORw0KGgoAAAA=';
  const shapes: readonly Part[] = [
    { type: 'image', source: { type: 'base64', media_type: 'image/png', data: png } },
    { type: 'image_url', image_url: { url: `data:image/png;base64,${png}` } },
    { type: 'input_image', image_url: `data:image/png;base64,${png}` },
    { type: 'image', image: png },
    { type: 'file', url: `data:image/png;base64,${png}`, mediaType: 'image/png' },
    { type: 'image', data: png, mimeType: 'image/png' },
  ];
  it('an image of any layout reaches every provider', () => {
    for (const shape of shapes) {
      assert.deepEqual(request('openai', ['user', shape]).messages[0]?.['content'], [{ type: 'image_url', image_url: { url: `data:image/png;base64,${png}` } }]);
      assert.deepEqual(request('anthropic', ['user', shape]).messages[0]?.['content'], [{ type: 'image', source: { type: 'base64', media_type: 'image/png', data: png } }]);
      assert.deepEqual(request('ai-sdk', ['user', shape]).messages[0]?.['content'], [{ type: 'image', image: png, mediaType: 'image/png' }]);
    }
  });

  it('an image in a result follows the results for OpenAI and stays in place for the others', () => {
    const result: Part = { type: 'tool_result', tool_use_id: 'a', content: [{ type: 'text', text: 'see' }, shapes[0] ?? said('')] };
    const stored: Stored[] = [asked, ['assistant', toolCall('a')], ['user', result]];
    assert.deepEqual(request('openai', ...stored).messages.slice(2), [
      { role: 'tool', tool_call_id: 'a', content: 'see\n\n[image in the next message]' },
      {
        role: 'user',
        content: [
          { type: 'text', text: '[returned by the tool find]' },
          { type: 'image_url', image_url: { url: `data:image/png;base64,${png}` } },
        ],
      },
    ]);
    assert.deepEqual(request('ai-sdk', ...stored).messages[2]?.['content'], [
      {
        type: 'tool-result',
        toolCallId: 'a',
        toolName: 'find',
        output: {
          type: 'content',
          value: [
            { type: 'text', text: 'see' },
            { type: 'image-data', data: png, mediaType: 'image/png' },
          ],
        },
      },
    ]);
  });

  it('a medium in a result that OpenAI cannot take is named in the result', () => {
    const result: Part = { type: 'tool_result', tool_use_id: 'a', content: [{ type: 'image', source: { type: 'base64', media_type: 'image/tiff', data: 'SUkqAA==' } }] };
    assert.deepEqual(request('openai', asked, ['assistant', toolCall('a')], ['user', result]).messages.slice(2), [{ role: 'tool', tool_call_id: 'a', content: '[image not shown: image/tiff]' }]);
  });

  it('what a provider cannot take is named, text files are read out', () => {
    const table: readonly (readonly [Provider, Part, unknown])[] = [
      ['anthropic', { type: 'input_audio', input_audio: { data: 'AAAA', format: 'mp3' } }, [{ type: 'text', text: '[audio not shown: audio/mpeg]' }]],
      ['anthropic', { type: 'image_url', image_url: { url: 'http://example.com/a.png' } }, [{ type: 'text', text: '[image not shown: http://example.com/a.png]' }]],
      ['openai', { type: 'input_file', file_url: 'https://example.com/d.pdf', filename: 'd.pdf' }, [{ type: 'text', text: '[file not shown: d.pdf, https://example.com/d.pdf]' }]],
      ['openai', { type: 'file', url: 'data:text/plain;base64,aGVsbG8=', mediaType: 'text/plain', filename: 'c.txt' }, [{ type: 'text', text: '[c.txt]\nhello' }]],
      ['openai', { type: 'document', source: { type: 'file', file_id: 'file_1' } }, [{ type: 'text', text: '[file not shown]' }]],
      ['openai', { type: 'file', file: { file_id: 'file-1' } }, [{ type: 'file', file: { file_id: 'file-1' } }]],
      ['anthropic', { type: 'input_image', file_id: 'file-1' }, [{ type: 'text', text: '[image not shown]' }]],
      ['anthropic', { type: 'image', source: { type: 'file', file_id: 'file_1' } }, [{ type: 'image', source: { type: 'file', file_id: 'file_1' } }]],
      ['anthropic', { type: 'image', image: 'not base64!' }, [{ type: 'text', text: '{"type":"image","image":"not base64!"}' }]],
      ['openai', { type: 'image', source: { type: 'file', file_id: 'file_1' } }, [{ type: 'text', text: '[image not shown]' }]],
    ];
    for (const [provider, part, content] of table) assert.deepEqual(request(provider, ['user', part]).messages[0]?.['content'], content, JSON.stringify(part));
  });
});
