/** Overheads of the chat formats against the totals that the OpenAI Cookbook prints for its examples. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { messageOverheadTokens, openAIToolTokens } from '../../src/providers/overheads.ts';
import { TokenCounter } from '../../src/tokens/counter.ts';

it('the published example of tools and messages costs what is published', async (t) => {
  const counter = await TokenCounter.open({ defaultModel: 'gpt-4o' });
  t.after(() => counter.close());
  const tools = [
    {
      type: 'function',
      function: {
        name: 'get_current_weather',
        description: 'Get the current weather in a given location',
        parameters: {
          type: 'object',
          properties: {
            location: { type: 'string', description: 'The city and state, e.g. San Francisco, CA' },
            unit: { type: 'string', description: 'The unit of temperature to return', enum: ['celsius', 'fahrenheit'] },
          },
          required: ['location'],
        },
      },
    },
  ];
  const messages = [
    ['system', 'You are a helpful assistant that can answer to questions about the weather.'],
    ['user', "What's the weather like in San Francisco?"],
  ];
  for (const [family, published] of [
    ['gpt-4o', 101],
    ['gpt-4', 105],
  ] as const) {
    // The first count loads the table; from then on short texts are counted at once.
    await counter.count(family, ['']);
    const count = (text: string): number => {
      const counts = counter.count(family, [text]);
      assert.ok(Array.isArray(counts));
      return counts[0] ?? 0;
    };
    const texts = messages.flat().reduce((sum, text) => sum + count(text), 0);
    const rendering = { system: null, messages: messages.map(([role, content]) => JSON.stringify({ role, content })) };
    assert.equal(texts + messageOverheadTokens('openai', rendering) + openAIToolTokens(tools, family, count), published);
  }
});

it('nothing is added where nothing is published', () => {
  const rendering = { system: null, messages: ['{}', '{}'] };
  assert.deepEqual([messageOverheadTokens('openai', rendering), messageOverheadTokens('anthropic', rendering), messageOverheadTokens('ai-sdk', rendering)], [9, 0, 0]);
  assert.equal(openAIToolTokens([], 'gpt-4o', () => 1), 0);
});
