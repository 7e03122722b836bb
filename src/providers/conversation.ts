/**
 * A window in no provider's terms: turns of system text, of the user and of the assistant, where every call carries
 * its result. Reading the stored layouts makes it (content.ts, tools.ts, arrange.ts); one writer per provider takes it.
 */

/** Text as it was sent; never empty and never only white space. */
export interface TextContent {
  readonly type: 'text';
  readonly text: string;
  /** `providerOptions` of the AI SDK as JSON text; '' for none. */
  readonly options: string;
}

/** Where a provider keeps an uploaded file; its ids mean nothing to the others. */
export type FileHome = 'openai' | 'anthropic';

/** An image, a document or a recording. One of `data`, `url` and `fileId` is not empty. */
export interface MediaContent {
  readonly type: 'media';
  readonly kind: 'image' | 'file' | 'audio';
  /** Base64 without a `data:` prefix. */
  readonly data: string;
  /** http or https. */
  readonly url: string;
  readonly fileId: string;
  readonly home: FileHome;
  /** e.g. `image/png`; '' where the stored part does not say. */
  readonly mediaType: string;
  readonly name: string;
  /** OpenAI's `detail` of an image: `low`, `high`, `auto`, or ''. */
  readonly detail: string;
}

/** What a model thought before it answered. */
export interface ReasoningContent {
  readonly type: 'reasoning';
  readonly text: string;
  /** Anthropic's signature over `text`; '' for none. */
  readonly signature: string;
  /** Anthropic's redacted thinking, in place of text; '' for none. */
  readonly redacted: string;
  /** As in TextContent. */
  readonly options: string;
}

export type Content = TextContent | MediaContent;

/** What came of a call. */
export type Output =
  | { readonly form: 'text'; readonly text: string; readonly failed: boolean }
  /** `text` is JSON text. */
  | { readonly form: 'json'; readonly text: string; readonly failed: boolean }
  | { readonly form: 'content'; readonly content: readonly Content[]; readonly failed: boolean }
  | { readonly form: 'denied'; readonly reason: string };

export interface Call {
  readonly type: 'call';
  /** The id as it was stored; writers make it valid and unique. */
  readonly id: string;
  /** As stored; never empty. */
  readonly name: string;
  /** JSON text of an object. */
  readonly input: string;
  /** The input of a free-form (custom) tool as it was written; null for a call with JSON. */
  readonly freeform: string | null;
  readonly options: string;
  /** Results in the order they came; arrange.ts leaves none empty. */
  readonly outputs: Output[];
}

export type AssistantItem = Content | ReasoningContent | Call;

export interface SystemTurn {
  readonly role: 'system';
  readonly texts: string[];
}

export interface UserTurn {
  readonly role: 'user';
  readonly content: Content[];
}

/** What the assistant said and called; the results of its calls come right behind it. */
export interface AssistantTurn {
  readonly role: 'assistant';
  readonly items: AssistantItem[];
}

export type Turn = SystemTurn | UserTurn | AssistantTurn;

/** What a writer makes of the turns: a request's members as JSON text. */
export interface Rendering {
  /** Value of `system`; null where the provider has none, or there is no system text. */
  readonly system: string | null;
  /** Elements of `messages`. Empty when the window holds nothing for the model but system text. */
  readonly messages: readonly string[];
}

/** White space to every provider: JavaScript's, and the separators that Python strips as well. */
const BLANK = /^[\s\x1c-\x1f\x85]*$/;

/** Providers refuse text blocks that hold nothing but white space. */
export function isBlank(text: string): boolean {
  // The first character nearly always settles it.
  const first = text.charCodeAt(0);
  return first > 0x20 && first < 0x7f ? false : BLANK.test(text);
}

/** `text` without white space at its end. */
export function withoutTrailingSpace(text: string): string {
  let end = text.length;
  while (end > 0) {
    const unit = text.charCodeAt(end - 1);
    // Only what is not plain ASCII needs the pattern.
    if (unit > 0x20 && (unit < 0x7f || !BLANK.test(text.charAt(end - 1)))) break;
    if (unit < 0x20 && !BLANK.test(text.charAt(end - 1))) break;
    end -= 1;
  }
  return text.slice(0, end);
}

/** Opens a request whose first turn is the assistant's, for providers that want the user first. */
export const OPENING = '[The conversation shown begins with the assistant.]';

export function textContent(text: string): TextContent {
  return { type: 'text', text, options: '' };
}

/** What stands in a request where a provider cannot take the content itself. */
export function mediaNote(media: MediaContent): string {
  const what = [media.name, media.mediaType, media.url].filter((word) => word !== '').join(', ');
  return what === '' ? `[${media.kind} not shown]` : `[${media.kind} not shown: ${what}]`;
}
