/**
 * Tokens that a provider's chat format adds around the texts, as far as providers publish them. OpenAI does, for its
 * chat models (OpenAI Cookbook, "How to count tokens with tiktoken"). Anthropic publishes none per message; what the AI
 * SDK sends depends on the provider behind it. Where nothing is published the answer is 0, and a context is calibrated
 * by the usage that the provider reports.
 */
import type { Provider } from './rendering.ts';
import type { Rendering } from './conversation.ts';
import { isObject, objectOf, stringOf } from './json.ts';
import type { JsonObject } from './json.ts';

/** OpenAI: around each message, and to begin the reply. */
const OPENAI_MESSAGE_TOKENS = 3;
const OPENAI_REPLY_TOKENS = 3;

/** Tokens beside those of the texts in a rendering's messages. */
export function messageOverheadTokens(provider: Provider, { messages }: Rendering): number {
  return provider === 'openai' ? messages.length * OPENAI_MESSAGE_TOKENS + OPENAI_REPLY_TOKENS : 0;
}

/** What a tool definition costs OpenAI's models, in tokens beside those of its texts. */
interface ToolFigures {
  readonly function: number;
  readonly properties: number;
  readonly property: number;
  readonly enumeration: number;
  readonly enumItem: number;
  /** Once, behind the last. */
  readonly end: number;
}

/** Published for gpt-4o and for the models before it (gpt-4, gpt-3.5-turbo). */
const TOOL_FIGURES: Readonly<Record<'gpt-4o' | 'gpt-4', ToolFigures>> = {
  'gpt-4o': { function: 7, properties: 3, property: 3, enumeration: -3, enumItem: 3, end: 12 },
  'gpt-4': { function: 10, properties: 3, property: 3, enumeration: -3, enumItem: 3, end: 12 },
};

/**
 * Tokens of OpenAI tool definitions (`[{type: 'function', function: {name, description, parameters}}]`), texts
 * included. `count`: tokens of a text in the model's encoding. Nested properties are not told apart by what is
 * published, and are not counted.
 */
export function openAIToolTokens(tools: readonly JsonObject[], family: keyof typeof TOOL_FIGURES, count: (text: string) => number): number {
  const figures = TOOL_FIGURES[family];
  let tokens = tools.length === 0 ? 0 : figures.end;
  for (const tool of tools) {
    const called = objectOf(tool, 'function') ?? {};
    tokens += figures.function + count(`${stringOf(called, 'name')}:${unstopped(stringOf(called, 'description'))}`);
    const properties = Object.entries(objectOf(objectOf(called, 'parameters') ?? {}, 'properties') ?? {});
    if (properties.length > 0) tokens += figures.properties;
    for (const [name, property] of properties) if (isObject(property)) tokens += propertyTokens(name, property, figures, count);
  }
  return tokens;
}

function propertyTokens(name: string, property: JsonObject, figures: ToolFigures, count: (text: string) => number): number {
  let tokens = figures.property + count(`${name}:${stringOf(property, 'type')}:${unstopped(stringOf(property, 'description'))}`);
  const items = property['enum'];
  if (!Array.isArray(items)) return tokens;
  tokens += figures.enumeration;
  for (const item of items) tokens += figures.enumItem + count(String(item));
  return tokens;
}

/** The format drops a description's final full stop. */
function unstopped(text: string): string {
  return text.endsWith('.') ? text.slice(0, -1) : text;
}
