/**
 * Which encoding counts for a model. The names are those js-tiktoken knows; a test compares every one with it.
 * A model that is not listed (other vendors', or newer than this table) counts by FALLBACK_ENCODING: an estimate either
 * way, and a stable one.
 */

export type EncodingName = 'o200k_base' | 'cl100k_base' | 'p50k_base' | 'p50k_edit' | 'r50k_base' | 'gpt2';

export const FALLBACK_ENCODING: EncodingName = 'o200k_base';

/** Models by the encodings that are not the fallback; an encoding's own name works as a model too. */
const MODELS: Readonly<Record<Exclude<EncodingName, 'o200k_base'>, readonly string[]>> = {
  cl100k_base: [
    'cl100k_base', 'gpt-3.5-turbo', 'gpt-35-turbo', 'gpt-4', 'text-embedding-ada-002', 'text-embedding-3-small', 'text-embedding-3-large',
  ],
  p50k_base: [
    'p50k_base', 'code-cushman-001', 'code-cushman-002', 'code-davinci-001', 'code-davinci-002', 'cushman-codex', 'davinci-codex',
    'davinci-002', 'text-davinci-002', 'text-davinci-003',
  ],
  p50k_edit: ['p50k_edit', 'code-davinci-edit-001', 'text-davinci-edit-001'],
  r50k_base: [
    'r50k_base', 'ada', 'babbage', 'babbage-002', 'curie', 'davinci', 'text-ada-001', 'text-babbage-001', 'text-curie-001', 'text-davinci-001',
    'code-search-ada-code-001', 'code-search-babbage-code-001', 'text-search-ada-doc-001', 'text-search-babbage-doc-001',
    'text-search-curie-doc-001', 'text-search-davinci-doc-001', 'text-similarity-ada-001', 'text-similarity-babbage-001',
    'text-similarity-curie-001', 'text-similarity-davinci-001',
  ],
  gpt2: ['gpt2'],
};

/** Dated and sized variants of the families that count by cl100k_base (gpt-4o and gpt-4.1 are not among them). */
const CL100K_PREFIXES: readonly string[] = ['gpt-4-', 'gpt-3.5-', 'gpt-35-turbo-'];

const BY_MODEL: ReadonlyMap<string, EncodingName> = new Map([
  ...names('cl100k_base'), ...names('p50k_base'), ...names('p50k_edit'), ...names('r50k_base'), ...names('gpt2'),
]);

function names(encoding: keyof typeof MODELS): (readonly [string, EncodingName])[] {
  return MODELS[encoding].map((model) => [model, encoding] as const);
}

/** Encoding for a model name; fine-tuned models (`ft:BASE:…`) count as their base. Never fails. */
export function encodingOf(model: string): EncodingName {
  const listed = BY_MODEL.get(model);
  if (listed !== undefined) return listed;
  if (model.startsWith('ft:')) return encodingOf(model.split(':')[1] ?? '');
  for (const prefix of CL100K_PREFIXES) if (model.startsWith(prefix)) return 'cl100k_base';
  return FALLBACK_ENCODING;
}
