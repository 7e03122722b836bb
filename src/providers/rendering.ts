/**
 * `GET …/context?for=…`: the window in a provider's request shape, valid for that provider whatever was stored.
 * The rules are docs/usage/providers.md; reading the stored layouts is arrange.ts, each provider has a writer.
 */
import { toAiSdk } from './ai-sdk.ts';
import { toAnthropic } from './anthropic.ts';
import { arrange } from './arrange.ts';
import type { WindowElement } from './arrange.ts';
import type { Rendering } from './conversation.ts';
import { toOpenAI } from './openai.ts';

export const PROVIDERS = ['openai', 'anthropic', 'ai-sdk'] as const;
export type Provider = (typeof PROVIDERS)[number];

/** Renders the elements of a projection for a provider. Pure and deterministic; total for every row that was stored. */
export function renderFor(provider: Provider, elements: readonly WindowElement[]): Rendering {
  const turns = arrange(elements);
  switch (provider) {
    case 'openai':
      return toOpenAI(turns);
    case 'anthropic':
      return toAnthropic(turns);
    case 'ai-sdk':
      return toAiSdk(turns);
  }
}

/** The members to splice into an answer's JSON object: `"system":…,"messages":[…]`. */
export function membersOf({ system, messages }: Rendering): string {
  return `${system === null ? '' : `"system":${system},`}"messages":[${messages.join(',')}]`;
}
