/**
 * Text, media and reasoning out of the layouts that clients store: OpenAI Chat Completions and Responses, Anthropic,
 * AI SDK model and UI messages, and plain `{type, text}`. Calls and results are tools.ts.
 *
 * A part of a known type in a shape that its layout does not have is treated like an unknown one: its JSON as text.
 */
import { isBlank, textContent } from './conversation.ts';
import type { Content, FileHome, MediaContent, ReasoningContent } from './conversation.ts';
import { isObject, memberText, objectOf, quote, stringOf } from './json.ts';
import type { JsonObject } from './json.ts';

/** A stored part and its JSON text. */
export interface StoredPart {
  readonly kind: string;
  readonly value: JsonObject;
  readonly text: string;
}

export type Reading = readonly (Content | ReasoningContent)[];

const NOTHING: Reading = [];

/** What the AI SDK and the Responses API keep beside the conversation and never send to a model as content. */
const SILENT: ReadonlySet<string> = new Set([
  'step-start',
  'source',
  'source-url',
  'source-document',
  'item_reference',
  'tool-approval-request',
  'tool-approval-response',
  'mcp_approval_request',
  'mcp_approval_response',
  'mcp_list_tools',
]);

/** What a part says, to whom never matters here; empty where there is nothing to say. */
export function readContent(part: StoredPart): Reading {
  const { kind, value } = part;
  switch (kind) {
    case 'text':
    case 'input_text':
    case 'output_text':
    case 'summary_text':
      return typeof value['text'] === 'string' ? saying(value['text'], optionsOf(part)) : asJson(part);
    case 'refusal':
      return typeof value['refusal'] === 'string' ? saying(value['refusal'], '') : asJson(part);
    case 'reasoning':
    case 'thinking':
    case 'redacted_thinking':
    case 'redacted-reasoning':
      return readReasoning(part);
    default: {
      if (SILENT.has(kind) || kind.startsWith('data-')) return NOTHING;
      const media = readMedia(kind, value);
      return media === null ? asJson(part) : [media];
    }
  }
}

function saying(text: string, options: string): Reading {
  return isBlank(text) ? NOTHING : [{ type: 'text', text, options }];
}

function asJson(part: StoredPart): Reading {
  return [textContent(part.text)];
}

/** Point at items that OpenAI stores; it refuses such an item where the window no longer holds the reasoning before it. */
const REFERRING: ReadonlySet<string> = new Set(['openai', 'azure']);

/**
 * `providerOptions` (what the AI SDK's model messages take) from a model part, or from a UI part's metadata, as JSON
 * text; '' for none. Only an object of objects passes its schema.
 */
export function optionsOf({ value, text }: StoredPart): string {
  for (const name of ['providerOptions', 'callProviderMetadata', 'providerMetadata']) {
    const options = value[name];
    if (!isObject(options)) continue;
    const names = Object.keys(options);
    const kept = names.filter((provider) => !REFERRING.has(provider) && isObject(options[provider]));
    if (kept.length === 0) return '';
    const raw = memberText(text, name) ?? '{}';
    if (kept.length === names.length) return raw;
    return `{${kept.map((provider) => `${quote(provider)}:${memberText(raw, provider) ?? '{}'}`).join(',')}}`;
  }
  return '';
}

function readReasoning(part: StoredPart): Reading {
  const { value } = part;
  const anthropic = objectOf(objectOf(value, 'providerOptions') ?? objectOf(value, 'providerMetadata') ?? {}, 'anthropic') ?? {};
  const text = stringOf(value, 'thinking') || stringOf(value, 'text') || summaryOf(value);
  // Other providers sign as well, and Anthropic refuses a signature that is not its own.
  const signature = part.kind === 'thinking' ? stringOf(value, 'signature') : stringOf(anthropic, 'signature');
  const redacted = part.kind.startsWith('redacted') ? stringOf(value, 'data') : stringOf(anthropic, 'redactedData');
  const options = optionsOf(part);
  if (isBlank(text) && signature === '' && redacted === '' && options === '') return NOTHING;
  return [{ type: 'reasoning', text, signature, redacted, options }];
}

/** A Responses reasoning item tells its text in pieces. */
function summaryOf(value: JsonObject): string {
  const pieces: string[] = [];
  for (const name of ['summary', 'content']) {
    const list = value[name];
    if (!Array.isArray(list)) continue;
    for (const piece of list) if (isObject(piece) && stringOf(piece, 'text') !== '') pieces.push(stringOf(piece, 'text'));
    if (pieces.length > 0) break;
  }
  return pieces.join('\n\n');
}

/** An image, file or recording in any known shape; null for anything else. */
export function readMedia(kind: string, value: JsonObject): MediaContent | null {
  switch (kind) {
    case 'image':
    case 'document':
      return value['source'] === undefined ? modelMedia(kind, value) : anthropicMedia(kind, value);
    case 'image_url': {
      const image = objectOf(value, 'image_url');
      const url = image === null ? stringOf(value, 'image_url') : stringOf(image, 'url');
      return media({ kind: 'image', at: url, detail: image === null ? '' : stringOf(image, 'detail') });
    }
    case 'input_image':
    case 'computer_screenshot':
      return media({ kind: 'image', at: stringOf(value, 'image_url'), fileId: stringOf(value, 'file_id'), detail: stringOf(value, 'detail') });
    case 'file': {
      const file = objectOf(value, 'file');
      if (file === null) return modelMedia('file', value);
      return media({ kind: 'file', at: stringOf(file, 'file_data'), fileId: stringOf(file, 'file_id'), name: stringOf(file, 'filename') });
    }
    case 'input_file':
      return media({ kind: 'file', at: stringOf(value, 'file_data') || stringOf(value, 'file_url'), fileId: stringOf(value, 'file_id'), name: stringOf(value, 'filename') });
    case 'input_audio': {
      const audio = objectOf(value, 'input_audio') ?? value;
      const format = stringOf(audio, 'format');
      return media({ kind: 'audio', at: stringOf(audio, 'data'), mediaType: format === 'mp3' ? 'audio/mpeg' : format === '' ? '' : `audio/${format}` });
    }
    // Parts of AI SDK tool outputs and of MCP results.
    case 'media':
    case 'image-data':
    case 'image-url':
    case 'file-data':
    case 'file-url':
    case 'audio':
      return modelMedia(kind.startsWith('image') ? 'image' : 'file', value);
    default:
      return null;
  }
}

function anthropicMedia(kind: 'image' | 'document', value: JsonObject): MediaContent | null {
  const source = objectOf(value, 'source');
  if (source === null) return null;
  const rest = { kind: kind === 'image' ? 'image' : 'file', mediaType: stringOf(source, 'media_type'), name: stringOf(value, 'title'), home: 'anthropic' } as const;
  switch (source['type']) {
    case 'base64':
      return media({ ...rest, at: stringOf(source, 'data') });
    case 'text':
      return media({ ...rest, at: Buffer.from(stringOf(source, 'data')).toString('base64'), mediaType: 'text/plain' });
    case 'url':
      return media({ ...rest, at: stringOf(source, 'url') });
    case 'file':
      return media({ ...rest, fileId: stringOf(source, 'file_id') });
    default:
      return null;
  }
}

/** AI SDK: `{image|data|url, mediaType|mimeType, filename}`; MCP names the same fields. */
function modelMedia(kind: string, value: JsonObject): MediaContent | null {
  const mediaType = stringOf(value, 'mediaType') || stringOf(value, 'mimeType');
  const at = stringOf(value, 'image') || stringOf(value, 'data') || stringOf(value, 'url');
  const image = kind === 'image' || mediaType.startsWith('image/');
  return media({ kind: image ? 'image' : mediaType.startsWith('audio/') ? 'audio' : 'file', at, mediaType, name: stringOf(value, 'filename') });
}

interface MediaFields {
  readonly kind: MediaContent['kind'];
  /** Base64, a data URL or a web address. */
  readonly at?: string;
  readonly fileId?: string;
  readonly home?: FileHome;
  readonly mediaType?: string;
  readonly name?: string;
  readonly detail?: string;
}

const MEDIA_TYPE = /^[a-z]+\/[a-z0-9.+-]+$/;
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;
const WEB = /^https?:\/\/[^\s]+$/i;
/** How the base64 of common files begins, for parts that do not name their type. */
const SIGNATURES: readonly (readonly [start: string, mediaType: string])[] = [
  ['iVBORw0KGgo', 'image/png'],
  ['/9j/', 'image/jpeg'],
  ['R0lGOD', 'image/gif'],
  ['UklGR', 'image/webp'],
  ['JVBERi', 'application/pdf'],
];
const SLASHES: Readonly<Record<string, string>> = { '-': '+', _: '/' };

/** Null where the fields name nothing that could be fetched or decoded. */
function media(fields: MediaFields): MediaContent | null {
  const { kind, at = '', fileId = '', home = 'openai', name = '', detail = '' } = fields;
  let mediaType = (fields.mediaType ?? '').toLowerCase();
  let data = '';
  let url = '';
  if (at.startsWith('data:')) {
    const comma = at.indexOf(',');
    const head = at.slice('data:'.length, comma === -1 ? 0 : comma).toLowerCase();
    if (!head.endsWith(';base64')) return null;
    mediaType = head.slice(0, head.indexOf(';'));
    data = at.slice(comma + 1);
  } else if (WEB.test(at) && URL.canParse(at)) {
    url = at;
  } else {
    data = at;
  }
  if (data !== '') {
    if (data.includes('-') || data.includes('_')) data = data.replace(/[-_]/g, (unit) => SLASHES[unit] ?? unit);
    if (!BASE64.test(data)) return null;
    data = data.replace(/=+$/, '');
    if (data.length % 4 === 1) return null;
    data = data.padEnd(Math.ceil(data.length / 4) * 4, '=');
  }
  if (data === '' && url === '' && fileId === '') return null;
  mediaType = mediaType.replace(/;.*$/s, '').trim();
  if (mediaType === 'image/jpg') mediaType = 'image/jpeg';
  if (!MEDIA_TYPE.test(mediaType)) mediaType = SIGNATURES.find(([start]) => data.startsWith(start))?.[1] ?? '';
  return { type: 'media', kind, data, url, fileId, home, mediaType, name, detail: detail === 'low' || detail === 'high' ? detail : '' };
}

/** What a text file says, under its name; null for a file that is not text, or says nothing. */
export function fileText({ kind, data, mediaType, name }: MediaContent): string | null {
  if (kind !== 'file' || data === '' || !(mediaType.startsWith('text/') || mediaType === 'application/json')) return null;
  const text = Buffer.from(data, 'base64').toString('utf8');
  if (isBlank(text)) return null;
  return name === '' ? text : `[${name}]\n${text}`;
}
