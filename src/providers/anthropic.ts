/** Turns -> `system` and `messages` of Anthropic's Messages API: roles alternate, the user is first. */
import { fileText } from './content.ts';
import { OPENING, isBlank, mediaNote, withoutTrailingSpace } from './conversation.ts';
import type { AssistantTurn, Call, Content, MediaContent, ReasoningContent, Rendering, Turn } from './conversation.ts';
import { CallIds, toolName } from './ids.ts';
import { quote } from './json.ts';
import { contentOf, outcomeOf } from './tools.ts';

/** System text of the whole window goes to `system`, in order, one block a message text. */
export function toAnthropic(turns: readonly Turn[]): Rendering {
  const writer = new AnthropicWriter();
  for (const turn of turns) writer.add(turn);
  return writer.done();
}

interface Message {
  readonly role: 'user' | 'assistant';
  /** JSON texts; never empty once the message is among the messages. */
  readonly blocks: string[];
}

class AnthropicWriter {
  readonly #ids = new CallIds();
  readonly #system: string[] = [];
  readonly #messages: Message[] = [];
  /**
   * Thinking that waits for the block it led to: a message may not end with thinking. Only a message that begins with
   * thinking may hold any.
   */
  #thinking: string[] = [];
  #beganThinking = false;

  add(turn: Turn): void {
    switch (turn.role) {
      case 'system':
        for (const text of turn.texts) this.#system.push(textBlock(text));
        break;
      case 'user':
        for (const item of turn.content) this.#push('user', contentBlock(item));
        break;
      case 'assistant':
        this.#assistant(turn);
    }
  }

  done(): Rendering {
    return {
      system: this.#system.length === 0 ? null : `[${this.#system.join(',')}]`,
      messages: this.#messages.map(({ role, blocks }) => `{"role":"${role}","content":[${blocks.join(',')}]}`),
    };
  }

  /** What is said goes before the calls: nothing may stand between these and their results. */
  #assistant({ items }: AssistantTurn): void {
    const calls: Call[] = [];
    for (const item of items) {
      switch (item.type) {
        case 'text':
          // A final assistant message must not end in white space.
          this.#push('assistant', textBlock(withoutTrailingSpace(item.text)));
          break;
        case 'media':
          this.#push('assistant', textBlock(mediaNote(item)));
          break;
        case 'reasoning':
          this.#think(item);
          break;
        case 'call':
          calls.push(item);
      }
    }
    const ids = calls.map((call) => this.#ids.issue(call.id));
    for (const [i, call] of calls.entries()) {
      this.#push('assistant', `{"type":"tool_use","id":"${ids[i] ?? ''}","name":"${toolName(call.name)}","input":${call.input}}`);
    }
    for (const [i, call] of calls.entries()) this.#push('user', resultBlock(call, ids[i] ?? ''));
  }

  /** Thinking without Anthropic's signature is left out: the API refuses it. */
  #think({ text, signature, redacted }: ReasoningContent): void {
    if (redacted !== '') this.#thinking.push(`{"type":"redacted_thinking","data":${quote(redacted)}}`);
    else if (signature !== '') this.#thinking.push(`{"type":"thinking","thinking":${quote(text)},"signature":${quote(signature)}}`);
  }

  #push(role: Message['role'], block: string): void {
    let last = this.#messages.at(-1);
    if (last === undefined && role === 'assistant') {
      last = { role: 'user', blocks: [textBlock(OPENING)] };
      this.#messages.push(last);
    }
    if (last === undefined || last.role !== role) {
      last = { role, blocks: [] };
      this.#messages.push(last);
      this.#beganThinking = role === 'assistant' && this.#thinking.length > 0;
    }
    if (role === 'assistant' && this.#beganThinking) for (const thought of this.#thinking) last.blocks.push(thought);
    this.#thinking = [];
    last.blocks.push(block);
  }
}

function textBlock(text: string): string {
  return `{"type":"text","text":${quote(text)}}`;
}

function resultBlock(call: Call, id: string): string {
  const outcome = outcomeOf(call);
  const content = contentOf(outcome);
  const failed = outcome.form === 'denied' || outcome.failed;
  // An error's content must be text alone.
  const error = failed && content.every((item) => item.type === 'text') ? ',"is_error":true' : '';
  const [only] = content;
  const body = content.length === 1 && only?.type === 'text' ? quote(only.text) : `[${content.map(resultContent).join(',')}]`;
  return `{"type":"tool_result","tool_use_id":"${id}","content":${body}${error}}`;
}

function contentBlock(item: Content): string {
  if (item.type === 'text') return textBlock(item.text);
  return mediaBlock(item) ?? textBlock(fileText(item) ?? mediaNote(item));
}

/** The API fetches over https only. */
function fetchable(url: string): boolean {
  return url.toLowerCase().startsWith('https:');
}

/** Tool results take what a user may send. */
const resultContent = contentBlock;

const IMAGES: ReadonlySet<string> = new Set(['image/png', 'image/jpeg', 'image/gif', 'image/webp']);

/** The block for a medium; null where the API has none. */
function mediaBlock({ kind, data, url, fileId, home, mediaType, name }: MediaContent): string | null {
  if (kind === 'audio') return null;
  const type = kind === 'image' ? 'image' : 'document';
  const title = type === 'document' && !isBlank(name) ? `,"title":${quote(name)}` : '';
  const block = (source: string): string => `{"type":"${type}","source":${source}${title}}`;
  if (fileId !== '') return home === 'anthropic' ? block(`{"type":"file","file_id":${quote(fileId)}}`) : null;
  if (url !== '') return fetchable(url) && (kind === 'image' || mediaType === 'application/pdf' || mediaType === '') ? block(`{"type":"url","url":${quote(url)}}`) : null;
  if (kind === 'image' ? IMAGES.has(mediaType) : mediaType === 'application/pdf') return block(`{"type":"base64","media_type":"${mediaType}","data":"${data}"}`);
  return null;
}
