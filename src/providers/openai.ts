/** Turns -> `messages` of OpenAI's Chat Completions. */
import { fileText } from './content.ts';
import { mediaNote } from './conversation.ts';
import type { AssistantTurn, Call, Content, MediaContent, Output, Rendering, Turn } from './conversation.ts';
import { CallIds, toolName } from './ids.ts';
import { quote } from './json.ts';
import { contentOf, outcomeOf } from './tools.ts';

/** The messages; system text stays where it was said. */
export function toOpenAI(turns: readonly Turn[]): Rendering {
  const writer = new OpenAIWriter();
  for (const turn of turns) writer.add(turn);
  return { system: null, messages: writer.messages };
}

class OpenAIWriter {
  readonly messages: string[] = [];
  readonly #ids = new CallIds();

  add(turn: Turn): void {
    switch (turn.role) {
      case 'system':
        this.messages.push(`{"role":"system","content":${oneOrMany(turn.texts.map((text) => textPart(text)), turn.texts)}}`);
        break;
      case 'user':
        this.#user(turn.content);
        break;
      case 'assistant':
        this.#assistant(turn);
    }
  }

  #user(content: readonly Content[]): void {
    const only = content.length === 1 ? content[0] : undefined;
    const text = only?.type === 'text' ? [only.text] : [];
    this.messages.push(`{"role":"user","content":${oneOrMany(content.map(userPart), text)}}`);
  }

  /** Reasoning is left out: the API does not take it. */
  #assistant({ items }: AssistantTurn): void {
    const texts: string[] = [];
    const calls: Call[] = [];
    for (const item of items) {
      if (item.type === 'text') texts.push(item.text);
      else if (item.type === 'media') texts.push(mediaNote(item));
      else if (item.type === 'call') calls.push(item);
    }
    if (texts.length === 0 && calls.length === 0) return;
    const content = texts.length === 0 ? 'null' : oneOrMany(texts.map((text) => textPart(text)), texts);
    if (calls.length === 0) {
      this.messages.push(`{"role":"assistant","content":${content}}`);
      return;
    }
    const ids = calls.map((call) => this.#ids.issue(call.id));
    this.messages.push(`{"role":"assistant","content":${content},"tool_calls":[${calls.map((call, i) => toolCall(call, ids[i] ?? '')).join(',')}]}`);
    const shown: Content[] = [];
    for (const [i, call] of calls.entries()) {
      const outcome = outcomeOf(call);
      this.messages.push(`{"role":"tool","tool_call_id":"${ids[i] ?? ''}","content":${quote(resultText(outcome))}}`);
      const media = contentOf(outcome).filter((item) => item.type === 'media' && userMedia(item) !== null);
      if (media.length > 0) shown.push({ type: 'text', text: `[returned by the tool ${toolName(call.name)}]`, options: '' }, ...media);
    }
    // A tool message holds text only, so that what a tool shows comes right after the results.
    if (shown.length > 0) this.#user(shown);
  }
}

function toolCall(call: Call, id: string): string {
  const name = toolName(call.name);
  if (call.freeform !== null) return `{"id":"${id}","type":"custom","custom":{"name":"${name}","input":${quote(call.freeform)}}}`;
  return `{"id":"${id}","type":"function","function":{"name":"${name}","arguments":${quote(call.input)}}}`;
}

function resultText(outcome: Output): string {
  if (outcome.form === 'json' || outcome.form === 'text') return outcome.text;
  return contentOf(outcome)
    .map((item) => {
      if (item.type === 'text') return item.text;
      return userMedia(item) === null ? (fileText(item) ?? mediaNote(item)) : `[${item.kind} in the next message]`;
    })
    .join('\n\n');
}

/** One text goes as a string, which every compatible server takes; anything else as parts. */
function oneOrMany(parts: readonly string[], texts: readonly string[]): string {
  const only = texts[0];
  return parts.length === 1 && only !== undefined ? quote(only) : `[${parts.join(',')}]`;
}

function textPart(text: string): string {
  return `{"type":"text","text":${quote(text)}}`;
}

function userPart(item: Content): string {
  if (item.type === 'text') return textPart(item.text);
  return userMedia(item) ?? textPart(fileText(item) ?? mediaNote(item));
}

const IMAGES: ReadonlySet<string> = new Set(['image/png', 'image/jpeg', 'image/gif', 'image/webp']);
const AUDIO: ReadonlyMap<string, string> = new Map([
  ['audio/mpeg', 'mp3'],
  ['audio/mp3', 'mp3'],
  ['audio/wav', 'wav'],
  ['audio/x-wav', 'wav'],
]);

/** The content part for a medium; null where Chat Completions has none. */
function userMedia(media: MediaContent): string | null {
  const { kind, data, url, fileId, home, mediaType, name, detail } = media;
  switch (kind) {
    case 'image': {
      const address = data !== '' ? (IMAGES.has(mediaType) ? `data:${mediaType};base64,${data}` : '') : url;
      if (address === '') return null;
      return `{"type":"image_url","image_url":{"url":${quote(address)}${detail === '' ? '' : `,"detail":"${detail}"`}}}`;
    }
    case 'file':
      if (fileId !== '' && home === 'openai') return `{"type":"file","file":{"file_id":${quote(fileId)}}}`;
      if (data === '' || mediaType !== 'application/pdf') return null;
      return `{"type":"file","file":{"filename":${quote(name === '' ? 'document.pdf' : name)},"file_data":"data:application/pdf;base64,${data}"}}`;
    case 'audio': {
      const format = AUDIO.get(mediaType);
      return data === '' || format === undefined ? null : `{"type":"input_audio","input_audio":{"data":"${data}","format":"${format}"}}`;
    }
  }
}
