/** The providers' own packages as judges of what is rendered: their schemas, their prompt conversion, their types. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { convertToModelMessages, generateText, modelMessageSchema } from 'ai';
import type { ModelMessage, UIMessage } from 'ai';
import { MockLanguageModelV3 } from 'ai/test';
import fc from 'fast-check';
import { MemoryRows, append, message, put } from './contexts-fixture.ts';
import { CURIOSITIES, LAYOUTS, anyHistory, pairOf } from './providers-histories.ts';
import { requestOf } from './providers-rules.ts';
import { renderFor } from '../../src/providers/rendering.ts';
import type { Provider } from '../../src/providers/rendering.ts';

const root = join(import.meta.dirname, '../..');
const run = promisify(execFile);

/** Renderings of generated histories, and of one conversation that holds every known part. */
function samples(provider: Provider, count: number): { system: unknown; messages: unknown[] }[] {
  const histories = fc.sample(anyHistory, { numRuns: count, seed: 7 });
  const known = LAYOUTS.map((layout, i) => pairOf(layout, `k${i}`, 'm', 'fine'));
  histories.push([
    put({ tokenBudget: 1_000_000 }),
    append([
      message('user', CURIOSITIES),
      message('assistant', [...CURIOSITIES, ...known.map(({ call }) => call)]),
      message('tool', known.map(({ result }) => result)),
      message('assistant', [{ type: 'thinking', thinking: 't', signature: 's' }, { type: 'text', text: 'end' }]),
    ]),
  ]);
  return histories.map((history) => {
    const rows = new MemoryRows();
    for (const command of history) rows.run(command);
    const { system, messages } = requestOf(renderFor(provider, rows.window(null, true).elements));
    return { system, messages: [...messages] };
  });
}

/** Compiles `source` against the packages' types; answers what the compiler says, '' when it is content. */
async function compile(source: string): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'fastpaca-judges-'));
  try {
    await symlink(join(root, 'node_modules'), join(dir, 'node_modules'));
    await writeFile(join(dir, 'samples.ts'), source);
    const options = ['--ignoreConfig', '--noEmit', '--strict', '--skipLibCheck', '--target', 'es2024', '--module', 'nodenext', '--moduleResolution', 'nodenext', '--types', 'node'];
    return await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), ...options, join(dir, 'samples.ts')]).then(
      () => '',
      (error: { stdout?: string }) => String(error.stdout),
    );
  } finally {
    await rm(dir, { recursive: true });
  }
}

describe('the AI SDK', () => {
  it('takes every rendering: its schema, its prompt checks, its conversion for models', async () => {
    let prompts = 0;
    const model = new MockLanguageModelV3({
      // Nothing may be downloaded here.
      supportedUrls: { '*/*': [/.*/] },
      doGenerate: async () => {
        prompts += 1;
        return {
          content: [{ type: 'text', text: 'ok' }],
          finishReason: { unified: 'stop', raw: undefined },
          usage: { inputTokens: { total: 1, noCache: 1, cacheRead: undefined, cacheWrite: undefined }, outputTokens: { total: 1, text: 1, reasoning: undefined } },
          warnings: [],
        };
      },
    });
    let rendered = 0;
    for (const { system, messages } of samples('ai-sdk', 120)) {
      const checked: ModelMessage[] = messages.map((one) => modelMessageSchema.parse(one));
      assert.deepEqual(checked, messages, 'the schema strips nothing: every field is known to it');
      if (checked.length === 0) continue;
      rendered += 1;
      await generateText({ model, messages: checked, ...(typeof system === 'string' ? { system } : {}) });
    }
    assert.equal(prompts, rendered);
    assert.ok(rendered > 100);
  });

  it('UI messages render as its own conversion of them does', async () => {
    const ui: UIMessage[] = [
      { id: '1', role: 'user', parts: [{ type: 'text', text: 'weather in Rome and Oslo?' }, { type: 'file', url: 'data:image/png;base64,iVBORw0KGgo=', mediaType: 'image/png' }] },
      {
        id: '2',
        role: 'assistant',
        parts: [
          { type: 'step-start' },
          { type: 'reasoning', text: 'two calls' },
          { type: 'text', text: 'looking' },
          { type: 'tool-weather', toolCallId: 'a', state: 'output-available', input: { city: 'Rome' }, output: { degrees: 21 } },
          { type: 'dynamic-tool', toolName: 'weather', toolCallId: 'b', state: 'output-error', input: { city: 'Oslo' }, errorText: 'no such station' },
          { type: 'step-start' },
          { type: 'source-url', sourceId: 's', url: 'https://example.com' },
          { type: 'text', text: '21 degrees in Rome' },
        ],
      },
      { id: '3', role: 'user', parts: [{ type: 'text', text: 'thanks' }] },
    ];
    const store = (role: string, parts: unknown): void => void rows.run(append([message(role, JSON.parse(JSON.stringify(parts)))]));
    let rows = new MemoryRows();
    const render = (): readonly unknown[] => requestOf(renderFor('ai-sdk', rows.window().elements)).messages;
    rows.run(put({ tokenBudget: 100_000 }));
    for (const { role, parts } of ui) store(role, parts);
    const fromUi = render();
    rows = new MemoryRows();
    rows.run(put({ tokenBudget: 100_000 }));
    for (const { role, content } of await convertToModelMessages(ui)) store(role, typeof content === 'string' ? [{ type: 'text', text: content }] : content);
    assert.deepEqual(fromUi, render());
    assert.equal(fromUi.length, 5);
  });
});

describe('the types of the SDKs', () => {
  const packages: readonly (readonly [Provider, string, string])[] = [
    ['openai', "import type { ChatCompletionCreateParams } from 'openai/resources/chat/completions';", "Pick<ChatCompletionCreateParams, 'messages'>"],
    ['anthropic', "import type { MessageCreateParams } from '@anthropic-ai/sdk/resources/messages';", "Pick<MessageCreateParams, 'messages' | 'system'>"],
  ];
  for (const [provider, imports, type] of packages) {
    it(`${provider}: every rendering is a request by its types`, async () => {
      const requests = samples(provider, 60).map((request) => JSON.stringify(request));
      const source = (list: readonly string[]): string => `${imports}\n${list.map((one, i) => `export const request${i}: ${type} = ${one};`).join('\n')}\n`;
      assert.equal(await compile(source(requests)), '');
      // The judge is awake: a request with an unknown field is refused.
      assert.match(await compile(source(['{"messages":[{"role":"user","content":"a","colour":"red"}]}'])), /colour/);
    });
  }
});

