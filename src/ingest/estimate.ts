/**
 * Token estimates of validated messages. The rule for a part, by its `type`:
 *
 * | type | counts |
 * |---|---|
 * | text, input_text, output_text, reasoning, thinking | the text in `text` (`thinking` for thinking) |
 * | image, image_url, input_image, file, input_file, document, audio, input_audio, video, input_video, media | MEDIA_PART_TOKENS each |
 * | anything else, and the above without a text | its compact JSON, as JSON.stringify writes the parsed part |
 *
 * Media blocks inside another part (a screenshot within a tool result) count MEDIA_PART_TOKENS each instead of their
 * base64, once their own JSON is longer than NESTED_MEDIA_CHARS; below that they are JSON like the rest, so that a
 * listing of {"type":"file"} entries does not count as attachments.
 */
import type { NewMessage, PartInfo } from '../contexts/types.ts';
import { ApiError } from '../errors.ts';
import { CountingError } from '../tokens/counter.ts';
import type { MessageDraft, PartDraft } from './messages.ts';

/** What an image, file, recording or video counts: about a 1024x1024 image with today's models. */
export const MEDIA_PART_TOKENS = 1000;
/** A nested media block with JSON longer than this counts as media; shorter it could not hold any. */
export const NESTED_MEDIA_CHARS = 4000;

const MEDIA_TYPES: ReadonlySet<unknown> = new Set(['image', 'image_url', 'input_image', 'file', 'input_file', 'document', 'audio', 'input_audio', 'video', 'input_video', 'media']);

/** What estimates need of a counter; tokens/counter.ts provides it. Sync for small texts on a loaded table. */
export interface TextCounter {
  count(model: string, texts: readonly string[]): number[] | Promise<number[]>;
}

/** What is to be counted, over all parts of all messages in order. */
interface Plan {
  readonly texts: string[];
  /** Added to each part's text count: media figures. */
  readonly fixed: number[];
}

/**
 * Completes drafts with the tokens of every part. Parts are counted even where the client gave a `token_count`:
 * skip_parts scales that by the estimated share that stays.
 * `model` '' means the counter's default. Rejects with ApiError overloaded when too much text waits to be counted.
 */
export function estimate(drafts: readonly MessageDraft[], counter: TextCounter, model: string): NewMessage[] | Promise<NewMessage[]> {
  const plan: Plan = { texts: [], fixed: [] };
  for (const draft of drafts) for (const part of draft.parts) planPart(part, plan);
  if (plan.texts.length === 0) return complete(drafts, plan.fixed, []);
  const counts = counter.count(model, plan.texts);
  if (Array.isArray(counts)) return complete(drafts, plan.fixed, counts);
  return counts.then(
    (late) => complete(drafts, plan.fixed, late),
    (error: unknown) => {
      if (error instanceof CountingError && error.reason === 'overloaded') throw new ApiError('overloaded', error.message);
      throw error;
    },
  );
}

/** Each part adds one text and one fixed figure. */
function planPart(part: PartDraft, plan: Plan): void {
  if (MEDIA_TYPES.has(part.kind)) {
    plan.texts.push('');
    plan.fixed.push(MEDIA_PART_TOKENS);
    return;
  }
  const text = plainText(part);
  if (text !== null) {
    plan.texts.push(text);
    plan.fixed.push(0);
    return;
  }
  // Only a part this long can hold a media block that counts as one.
  if (part.end - part.start <= NESTED_MEDIA_CHARS) {
    plan.texts.push(JSON.stringify(part.value));
    plan.fixed.push(0);
    return;
  }
  let media = 0;
  plan.texts.push(
    JSON.stringify(part.value, (_key: string, value: unknown) => {
      if (!isMediaBlock(value)) return value;
      media += 1;
      return undefined;
    }),
  );
  plan.fixed.push(media * MEDIA_PART_TOKENS);
}

function plainText(part: PartDraft): string | null {
  switch (part.kind) {
    case 'text':
    case 'input_text':
    case 'output_text':
    case 'reasoning': {
      const text = part.value['text'];
      return typeof text === 'string' ? text : null;
    }
    case 'thinking': {
      const text = part.value['thinking'] ?? part.value['text'];
      return typeof text === 'string' ? text : null;
    }
    default:
      return null;
  }
}

function isMediaBlock(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || !('type' in value) || !MEDIA_TYPES.has(value.type)) return false;
  return JSON.stringify(value).length > NESTED_MEDIA_CHARS;
}

function complete(drafts: readonly MessageDraft[], fixed: readonly number[], counts: readonly number[]): NewMessage[] {
  const messages: NewMessage[] = [];
  let next = 0;
  for (const draft of drafts) {
    const parts: PartInfo[] = [];
    let sum = 0;
    for (const part of draft.parts) {
      const tokens = (fixed[next] ?? 0) + (counts[next] ?? 0);
      next += 1;
      sum += tokens;
      parts.push({ start: part.start, end: part.end, kind: part.kind, role: part.role, callId: part.callId, tokens });
    }
    messages.push({
      roleText: draft.roleText,
      roleKind: draft.roleKind,
      idText: draft.idText,
      partsText: draft.partsText,
      metadataText: draft.metadataText,
      parts,
      tokens: draft.tokenCount === -1 ? sum : draft.tokenCount,
      tokensGiven: draft.tokenCount !== -1,
    });
  }
  return messages;
}
