/** Message texts: English words in an order that a number decides, so that every subject gets the same bytes. */

const WORDS = (
  'the agent asked for a summary of last quarter and we found that several invoices were missing so please check the ' +
  'ledger again before you answer because customers in Lisbon reported different totals than those shown by our ' +
  'dashboard while the import job kept retrying after its timeout expired'
).split(' ');

/** A text of exactly `bytes` ASCII characters. */
export function textOf(which: number, bytes: number): string {
  let state = (Math.imul(which, 2_654_435_761) + 12_345) >>> 0;
  const words = [`Message ${which}:`];
  for (let length = words[0]?.length ?? 0; length < bytes; ) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const word = WORDS[(state >>> 8) % WORDS.length] ?? '';
    words.push(word);
    length += word.length + 1;
  }
  return `${words.join(' ').slice(0, Math.max(0, bytes - 1))}.`;
}

/** The JSON of one user message with a text of `bytes` characters. */
export function messageJson(text: string): string {
  return `{"role":"user","parts":[{"type":"text","text":${JSON.stringify(text)}}]}`;
}
