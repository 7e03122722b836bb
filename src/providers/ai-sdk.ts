/** Turns -> `system` and `messages` (ModelMessage[]) of the AI SDK's generateText and streamText. */
import { fileText } from './content.ts';
import { OPENING, mediaNote } from './conversation.ts';
import type { AssistantItem, AssistantTurn, Call, Content, MediaContent, Output, ReasoningContent, Rendering, Turn } from './conversation.ts';
import { CallIds } from './ids.ts';
import { quote } from './json.ts';
import { outcomeOf } from './tools.ts';

/**
 * System text of the whole window goes to `system`: the SDK advises against system messages among the others, and some
 * of its providers refuse them there.
 */
export function toAiSdk(turns: readonly Turn[]): Rendering {
  const writer = new AiSdkWriter();
  for (const turn of turns) writer.add(turn);
  return { system: writer.system.length === 0 ? null : quote(writer.system.join('\n\n')), messages: writer.messages };
}

class AiSdkWriter {
  readonly messages: string[] = [];
  readonly system: string[] = [];
  readonly #ids = new CallIds();

  add(turn: Turn): void {
    switch (turn.role) {
      case 'system':
        for (const text of turn.texts) this.system.push(text);
        break;
      case 'user':
        this.messages.push(`{"role":"user","content":${oneOrMany(turn.content, turn.content.map(userPart))}}`);
        break;
      case 'assistant':
        this.#assistant(turn);
    }
  }

  #assistant({ items }: AssistantTurn): void {
    const parts: string[] = [];
    const results: string[] = [];
    // Providers refuse reasoning that nothing follows.
    let end = items.length;
    while (items[end - 1]?.type === 'reasoning') end -= 1;
    for (const item of items.slice(0, end)) {
      switch (item.type) {
        case 'text':
          parts.push(textPart(item.text, item.options));
          break;
        case 'media':
          parts.push(assistantMedia(item));
          break;
        case 'reasoning':
          pushReasoning(parts, item);
          break;
        case 'call': {
          const id = this.#ids.issue(item.id);
          parts.push(`{"type":"tool-call","toolCallId":"${id}","toolName":${quote(item.name)},"input":${item.input}${options(item.options)}}`);
          results.push(`{"type":"tool-result","toolCallId":"${id}","toolName":${quote(item.name)},"output":${resultOutput(item)}}`);
        }
      }
    }
    if (parts.length === 0) return;
    // Some of the providers behind the SDK want the user first.
    if (this.messages.length === 0) this.messages.push(`{"role":"user","content":${quote(OPENING)}}`);
    this.messages.push(`{"role":"assistant","content":${oneOrMany(items, parts)}}`);
    if (results.length > 0) this.messages.push(`{"role":"tool","content":[${results.join(',')}]}`);
  }
}

/** One plain text goes as a string. */
function oneOrMany(items: readonly AssistantItem[], parts: readonly string[]): string {
  const only = items.length === 1 ? items[0] : undefined;
  return only?.type === 'text' && only.options === '' ? quote(only.text) : `[${parts.join(',')}]`;
}

function options(text: string): string {
  return text === '' ? '' : `,"providerOptions":${text}`;
}

function textPart(text: string, providerOptions = ''): string {
  return `{"type":"text","text":${quote(text)}${options(providerOptions)}}`;
}

function pushReasoning(parts: string[], { text, signature, redacted, options: given }: ReasoningContent): void {
  let providerOptions = given;
  if (given === '' && redacted !== '') providerOptions = `{"anthropic":{"redactedData":${quote(redacted)}}}`;
  else if (given === '' && signature !== '') providerOptions = `{"anthropic":{"signature":${quote(signature)}}}`;
  if (text !== '' || providerOptions !== '') parts.push(`{"type":"reasoning","text":${quote(text)}${options(providerOptions)}}`);
}

function userPart(item: Content): string {
  if (item.type === 'text') return textPart(item.text, item.options);
  const { kind, data, url, mediaType } = item;
  const at = data === '' ? url : data;
  if (at === '') return textPart(mediaNote(item));
  if (kind === 'image') return `{"type":"image","image":${quote(at)}${mediaType === '' ? '' : `,"mediaType":"${mediaType}"`}}`;
  return fileText(item) === null ? (filePart(item) ?? textPart(mediaNote(item))) : textPart(fileText(item) ?? '');
}

function assistantMedia(media: MediaContent): string {
  return filePart(media) ?? textPart(mediaNote(media));
}

/** A file needs its type; without it nobody could read it. */
function filePart({ data, url, mediaType, name }: MediaContent): string | null {
  const at = data === '' ? url : data;
  if (at === '' || mediaType === '') return null;
  return `{"type":"file","data":${quote(at)},"mediaType":"${mediaType}"${name === '' ? '' : `,"filename":${quote(name)}`}}`;
}

function resultOutput(call: Call): string {
  const outcome = outcomeOf(call);
  switch (outcome.form) {
    case 'text':
      return `{"type":"${outcome.failed ? 'error-text' : 'text'}","value":${quote(outcome.text)}}`;
    case 'json':
      return `{"type":"${outcome.failed ? 'error-json' : 'json'}","value":${outcome.text}}`;
    case 'denied':
      return `{"type":"execution-denied"${outcome.reason === '' ? '' : `,"reason":${quote(outcome.reason)}`}}`;
    case 'content':
      return contentOutput(outcome);
  }
}

function contentOutput({ content, failed }: Extract<Output, { readonly form: 'content' }>): string {
  const texts = content.flatMap((item) => (item.type === 'text' ? [item.text] : []));
  if (failed && texts.length === content.length) return `{"type":"error-text","value":${quote(texts.join('\n\n'))}}`;
  return `{"type":"content","value":[${content.map(outputPart).join(',')}]}`;
}

function outputPart(item: Content): string {
  if (item.type === 'text') return textPart(item.text);
  const { kind, data, url, mediaType, name } = item;
  const sort = kind === 'image' ? 'image' : 'file';
  // Without its type the SDK would fetch the file itself, for every model.
  if (url !== '' && kind === 'image') return `{"type":"image-url","url":${quote(url)}}`;
  if (url !== '' && mediaType !== '') return `{"type":"file-url","url":${quote(url)},"mediaType":"${mediaType}"}`;
  if (data === '' || mediaType === '') return textPart(mediaNote(item));
  return `{"type":"${sort}-data","data":"${data}","mediaType":"${mediaType}"${sort === 'file' && name !== '' ? `,"filename":${quote(name)}` : ''}}`;
}
