/**
 * Answers from afar: which messages answer the calls of a message, where they do not follow it closely. A result's row
 * names its call; this is the way back, so that the unit of a call can be put together without reading all that lies
 * behind it. Answers near their call, nearly all there are, need no row: a look at the next messages finds them.
 */
import { Reader, Writer } from './bytes.ts';
import type { Place } from './rows.ts';

/** An answer within this many messages of its call is near. */
export const NEAR_MESSAGES = 64;
/** Far answers remembered of one message, the first there were. */
export const FAR_ANSWERS_MAX = 1024;

const FORMAT = 1;

/** Whether an answer needs a row to be found from its call. */
export function isFar(call: Place, answer: Place): boolean {
  return answer > 0 && (call < 0 || answer - call > NEAR_MESSAGES);
}

/** Row key of a place: the two kinds of place share one table. */
export function answersKey(place: Place): number {
  return place < 0 ? -place * 2 + 1 : place * 2;
}

/** `seqs`: ascending. */
export function encodeAnswers(seqs: readonly number[]): Uint8Array {
  const writer = new Writer(8 + seqs.length * 2);
  writer.byte(FORMAT);
  writer.ascending(seqs);
  return writer.done();
}

/** Ascending seqs; none where the row is none of these. */
export function decodeAnswers(bytes: Uint8Array): number[] {
  const reader = new Reader(bytes);
  if (reader.byte() !== FORMAT) return [];
  const seqs = reader.ascending();
  return reader.ok ? seqs : [];
}
