/** Seeded texts of every kind that tokenizers find different: for the property runs and the benchmark of counting. */

/** A whole number from 0 to `below` - 1. */
export type Pick = (below: number) => number;

/** The same numbers for the same seed (mulberry32). */
export function seeded(seed: number): Pick {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

/** One stretch of about `units` UTF-16 units. */
type Make = (pick: Pick, units: number) => string;

function repeat(units: number, next: () => string): string {
  const pieces: string[] = [];
  for (let length = 0; length < units; ) {
    const piece = next();
    pieces.push(piece);
    length += piece.length;
  }
  return pieces.join('');
}

function oneOf<T>(pick: Pick, list: readonly [T, ...T[]]): T {
  return list[pick(list.length)] ?? list[0];
}

/** Any code point from `from` to `to`, of which none is a surrogate. */
function within(pick: Pick, from: number, to: number): string {
  return String.fromCodePoint(from + pick(to - from + 1));
}

const SYLLABLES = ['an', 'ter', 'tion', 'ing', 'pre', 'con', 'st', 'ri', 'ment', 'able', 'un', 'ex', 'qu', 'ough', 'er', 'o', 'a', "n't", 'ive', 'ph'] as const;
const KEYWORDS = ['const ', 'return ', 'if (', ') {\n', '}\n', '  ', '\t', ' => ', '();\n', ' === ', 'async function ', 'import ', " from './", "';\n", '// ', '/* ', ' */', '\r\n', '::', '->', '0x', '&&', '<T>', '[i]', '+=', 'self.', 'def ', '#include <'] as const;
const SPECIAL = ['<|endoftext|>', '<|endofprompt|>', '<|fim_prefix|>', '<|fim_middle|>', '<|fim_suffix|>', '<|im_start|>', '<|im_end|>', '<|im_sep|>', '<|', '|>', '<|endoftext', 'endoftext|>'] as const;
const SPACES = [' ', '  ', '    ', '\n', '\n\n', '\r\n', '\t', '\u00a0', '\u2028', '\u3000', '\u200b', '\u0085', '\ufeff', ' \n ', '\r'] as const;
const EMOJI = ['👍', '👍🏽', '👩‍👩‍👧‍👦', '🇩🇪', '❤️', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', '1️⃣', '🤷🏿‍♀️', '😀', '🫠', '✨', '\ufe0f', '\u200d'] as const;
const SCRIPTS: readonly [readonly [number, number], ...(readonly [number, number])[]] = [[0x400, 0x4ff], [0x370, 0x3e1], [0x590, 0x5ff], [0x600, 0x6ff], [0x900, 0x97f], [0xe00, 0xe7f], [0x1e00, 0x1eff], [0x10a0, 0x10ff], [0x13a0, 0x13f5], [0x10400, 0x1044f], [0x1d400, 0x1d7ff]];

const word: Make = (pick) => {
  const text = repeat(1 + pick(8), () => oneOf(pick, SYLLABLES));
  const style = pick(12);
  return style === 0 ? text.toUpperCase() : style < 3 ? text.charAt(0).toUpperCase() + text.slice(1) : text;
};

export const TEXT_KINDS = ['english', 'code', 'json', 'cjk', 'scripts', 'emoji', 'spaces', 'special', 'runs', 'base64', 'digits', 'units'] as const;
export type TextKind = (typeof TEXT_KINDS)[number];

const kinds: Readonly<Record<TextKind, Make>> = {
  english: (pick, units) => repeat(units, () => word(pick, 0) + oneOf(pick, [' ', ' ', ' ', ' ', ', ', '. ', "'s ", "'LL ", ' — ', '\n'])),
  code: (pick, units) => repeat(units, () => oneOf(pick, [() => oneOf(pick, KEYWORDS), () => word(pick, 0) + oneOf(pick, ['_', '.', 'HTTP', '2', '('])])()),
  json: (pick, units) => repeat(units, () => JSON.stringify({ id: pick(1e9), [word(pick, 0)]: [pick(100) / 7, null, { q: word(pick, 0), ok: pick(2) === 0 }], note: `${word(pick, 0)} "${word(pick, 0)}"\n` }) + oneOf(pick, [',', '\n'])),
  cjk: (pick, units) => repeat(units, () => oneOf(pick, [() => within(pick, 0x4e00, 0x9fff), () => within(pick, 0x3041, 0x30fe), () => within(pick, 0xac00, 0xd7a3), () => oneOf(pick, ['。', '、', '的', '是', '了', 'の', '이', '！'])])()),
  scripts: (pick, units) => repeat(units, () => {
    const [from, to] = oneOf(pick, SCRIPTS);
    return repeat(2 + pick(8), () => within(pick, from, to)) + oneOf(pick, [' ', ' ', '\u0301', ', ']);
  }),
  emoji: (pick, units) => repeat(units, () => oneOf(pick, [(): string => oneOf(pick, EMOJI), (): string => within(pick, 0x1f300, 0x1faff), (): string => ' '])()),
  spaces: (pick, units) => repeat(units, () => oneOf(pick, [() => oneOf(pick, SPACES).repeat(1 + pick(pick(20) === 0 ? 200 : 4)), () => word(pick, 0).slice(0, pick(3))])()),
  special: (pick, units) => repeat(units, () => oneOf(pick, [() => oneOf(pick, SPECIAL), () => word(pick, 0), () => oneOf(pick, SPACES)])()),
  runs: (pick, units) => repeat(units, () => oneOf(pick, ['a', '=', '-', 'ab', '!', '0', 'A', 'é', '中', '/', '.', '#', 'ha', '\u0301']).repeat(1 + pick(pick(20) === 0 ? 300 : 12))),
  base64: (pick, units) => repeat(units, () => oneOf(pick, ['/', '+', ...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'])),
  digits: (pick, units) => repeat(units, () => String(pick(oneOf(pick, [10, 1000, 1e6, 1e9]))) + oneOf(pick, ['', '', ' ', '.', ',', ':', 'e-', '٣', '½'])),
  units: (pick, units) => repeat(units, () => String.fromCharCode(pick(0x10000))),
};


/** A text of one kind, of at least `units` UTF-16 units and little more. `units`: lone surrogates and all. */
export function textOf(kind: TextKind, pick: Pick, units: number): string {
  return kinds[kind](pick, units);
}

/** A text of up to eight kinds one after the other, in stretches of up to `stretch` units. */
export function mixedText(pick: Pick, stretch: number): string {
  let text = '';
  for (let count = 1 + pick(8); count > 0; count--) {
    text += textOf(oneOf(pick, TEXT_KINDS), pick, 1 + pick(stretch));
  }
  return text;
}
