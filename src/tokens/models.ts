/**
 * Which encoding counts for a model, and which names may be given for one. The names are those js-tiktoken knows; a
 * test compares every one with it. A name that is not listed is refused where settings come in, as it is most often
 * misspelt; a stored one (by a newer version) counts by FALLBACK_ENCODING, an estimate that is at least stable.
 */

export type EncodingName = 'o200k_base' | 'cl100k_base' | 'p50k_base' | 'p50k_edit' | 'r50k_base' | 'gpt2';

export const FALLBACK_ENCODING: EncodingName = 'o200k_base';

/** Models by encoding; an encoding's own name works as a model too. Dated and sized variants are PREFIXES. */
const MODELS: Readonly<Record<EncodingName, readonly string[]>> = {
  o200k_base: ['o200k_base', 'gpt-5', 'gpt-4.1', 'gpt-4o', 'o1', 'o3', 'o4-mini'],
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

/** Dated and sized variants of a family. */
const PREFIXES: readonly (readonly [string, EncodingName])[] = [
  ['gpt-5-', 'o200k_base'], ['gpt-4.5-', 'o200k_base'], ['gpt-4.1-', 'o200k_base'], ['gpt-4o-', 'o200k_base'], ['chatgpt-4o-', 'o200k_base'],
  ['o1-', 'o200k_base'], ['o3-', 'o200k_base'], ['o4-mini-', 'o200k_base'],
  ['gpt-4-', 'cl100k_base'], ['gpt-3.5-', 'cl100k_base'], ['gpt-35-turbo-', 'cl100k_base'],
];

const BY_MODEL: ReadonlyMap<string, EncodingName> = new Map([
  ...names('o200k_base'), ...names('cl100k_base'), ...names('p50k_base'), ...names('p50k_edit'), ...names('r50k_base'), ...names('gpt2'),
]);

function names(encoding: EncodingName): (readonly [string, EncodingName])[] {
  return MODELS[encoding].map((model) => [model, encoding] as const);
}

/** What may be given for a model: names, and families of names as `gpt-4o-…`. */
export const KNOWN_MODELS: readonly string[] = Object.freeze([...PREFIXES.map(([prefix]) => `${prefix}…`), ...BY_MODEL.keys()]);

/** One regular expression for the code and for the published schema of settings, so that they cannot differ. */
export const KNOWN_MODEL_PATTERN: string = knownPattern();
const KNOWN_MODEL = new RegExp(KNOWN_MODEL_PATTERN);

/** Whether the name is one that settings may give; a fine-tuned model (`ft:BASE:…`) is known if its base is. */
export function isKnownModel(model: string): boolean {
  return KNOWN_MODEL.test(model);
}

function knownPattern(): string {
  const escaped = (name: string): string => name.replaceAll('.', '\\.');
  // Colons part the fields of a fine-tuned model's name, so none is in a base.
  const base = [...[...BY_MODEL.keys()].map(escaped), ...PREFIXES.map(([prefix]) => `${escaped(prefix)}[!-9;-~]+`)].join('|');
  return `^(?:(?:${base})|ft:(?:${base})(?::[!-~]*)?)$`;
}

/** Encoding for a model name; fine-tuned models (`ft:BASE:…`) count as their base. Never fails. */
export function encodingOf(model: string): EncodingName {
  const listed = BY_MODEL.get(model);
  if (listed !== undefined) return listed;
  if (model.startsWith('ft:')) return encodingOf(model.split(':')[1] ?? '');
  for (const [prefix, encoding] of PREFIXES) if (model.startsWith(prefix)) return encoding;
  return FALLBACK_ENCODING;
}
