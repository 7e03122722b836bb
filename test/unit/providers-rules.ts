/**
 * The providers' own rules for a request, as strict as their APIs are known to be: what each answers 400 to. Independent
 * of src/providers: nothing here is shared with the code it judges.
 */
import assert from 'node:assert/strict';
import type { Rendering } from '../../src/providers/conversation.ts';

type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };
type Fields = { readonly [name: string]: Json };

/** A rendering as the client reads it. */
export interface Request {
  readonly system: Json | undefined;
  readonly messages: readonly Fields[];
}

export function requestOf(rendering: Rendering): Request {
  const system: Json | undefined = rendering.system === null ? undefined : JSON.parse(rendering.system);
  const messages = rendering.messages.map((text) => fields(JSON.parse(text), 'message'));
  for (const value of [system, ...messages]) if (value !== undefined) assertWellFormed(value);
  return { system, messages };
}

function fields(value: Json | undefined, what: string): Fields {
  assert.ok(typeof value === 'object' && value !== null && !isList(value), `${what} is an object`);
  return value;
}

function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}

function list(value: Json | undefined, what: string): readonly Json[] {
  assert.ok(value !== undefined && isList(value) && value.length > 0, `${what} is a list that is not empty`);
  return value;
}

function string(value: Json | undefined, what: string): string {
  assert.ok(typeof value === 'string', `${what} is a string`);
  return value;
}

/** Not empty to JavaScript's trim nor to Python's strip. */
function said(value: Json | undefined, what: string): string {
  const text = string(value, what);
  assert.ok(text.trim() !== '' && text.replace(/[\x1c-\x1f\x85]/g, '').trim() !== '', `${what} says something: ${JSON.stringify(text)}`);
  return text;
}

function only(value: Fields, what: string, ...names: string[]): void {
  for (const name of Object.keys(value)) assert.ok(names.includes(name), `${what} has an unknown field ${name}`);
}

function assertWellFormed(value: Json): void {
  if (typeof value === 'string') assert.ok(value.isWellFormed(), 'no half surrogate pair');
  else if (typeof value === 'object' && value !== null) {
    for (const [name, member] of Object.entries(value)) {
      assert.ok(name.isWellFormed());
      assertWellFormed(member);
    }
  }
}

const ID = /^[a-zA-Z0-9_-]{1,40}$/;
const NAME = /^[a-zA-Z0-9_-]{1,64}$/;

/** Ids are valid, and no other call of the request has the same. */
class Ids {
  readonly #seen = new Set<string>();

  add(value: Json | undefined): string {
    const id = string(value, 'a call id');
    assert.match(id, ID);
    assert.ok(!this.#seen.has(id), `the call id ${id} is unique`);
    this.#seen.add(id);
    return id;
  }
}

/** OpenAI Chat Completions. */
export function assertOpenAI({ system, messages }: Request): void {
  assert.equal(system, undefined);
  const ids = new Ids();
  let due = new Set<string>();
  for (const message of messages) {
    if (message['role'] !== 'tool') assert.equal(due.size, 0, 'the results of all calls come before anything else');
    switch (message['role']) {
      case 'system':
        only(message, 'system', 'role', 'content');
        openAIText(message['content']);
        break;
      case 'user':
        only(message, 'user', 'role', 'content');
        if (typeof message['content'] === 'string') said(message['content'], 'user content');
        else for (const part of list(message['content'], 'user content')) openAIPart(fields(part, 'a part'));
        break;
      case 'assistant':
        only(message, 'assistant', 'role', 'content', 'tool_calls');
        if (message['content'] !== null) openAIText(message['content']);
        else assert.notEqual(message['tool_calls'], undefined, 'content is null only beside calls');
        if (message['tool_calls'] !== undefined) due = new Set(list(message['tool_calls'], 'tool_calls').map((call) => openAICall(fields(call, 'a call'), ids)));
        break;
      case 'tool':
        only(message, 'tool', 'role', 'content', 'tool_call_id');
        assert.ok(due.delete(string(message['tool_call_id'], 'tool_call_id')), 'a result answers a call right before it, once');
        openAIText(message['content']);
        break;
      default:
        assert.fail(`role ${String(message['role'])}`);
    }
  }
  assert.equal(due.size, 0, 'no call is left without a result');
}

function openAIText(content: Json | undefined): void {
  if (typeof content === 'string') return void said(content, 'content');
  for (const part of list(content, 'content')) {
    const text = fields(part, 'a part');
    only(text, 'text', 'type', 'text');
    assert.equal(text['type'], 'text');
    said(text['text'], 'a text part');
  }
}

function openAIPart(part: Fields): void {
  switch (part['type']) {
    case 'text':
      return openAIText([part]);
    case 'image_url': {
      const image = fields(part['image_url'], 'image_url');
      only(image, 'image_url', 'url', 'detail');
      assert.match(string(image['url'], 'url'), /^(data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*$|https?:\/\/)/);
      return;
    }
    case 'file': {
      const file = fields(part['file'], 'file');
      if (file['file_id'] !== undefined) return void said(file['file_id'], 'file_id');
      said(file['filename'], 'filename');
      assert.match(string(file['file_data'], 'file_data'), /^data:application\/pdf;base64,[A-Za-z0-9+/]+=*$/);
      return;
    }
    case 'input_audio': {
      const audio = fields(part['input_audio'], 'input_audio');
      assert.ok(audio['format'] === 'mp3' || audio['format'] === 'wav');
      assert.match(string(audio['data'], 'data'), /^[A-Za-z0-9+/]+=*$/);
      return;
    }
    default:
      assert.fail(`part ${String(part['type'])}`);
  }
}

function openAICall(call: Fields, ids: Ids): string {
  if (call['type'] === 'custom') {
    const custom = fields(call['custom'], 'custom');
    only(custom, 'custom', 'name', 'input');
    assert.match(string(custom['name'], 'name'), NAME);
    string(custom['input'], 'input');
  } else {
    assert.equal(call['type'], 'function');
    const called = fields(call['function'], 'function');
    only(called, 'function', 'name', 'arguments');
    assert.match(string(called['name'], 'name'), NAME);
    fields(JSON.parse(string(called['arguments'], 'arguments')), 'arguments');
  }
  only(call, 'call', 'type', 'id', 'function', 'custom');
  return ids.add(call['id']);
}

/** Anthropic Messages. */
export function assertAnthropic({ system, messages }: Request): void {
  if (system !== undefined) for (const block of list(system, 'system')) anthropicText(fields(block, 'a system block'));
  const ids = new Ids();
  let due = new Set<string>();
  messages.forEach((message, index) => {
    only(message, 'message', 'role', 'content');
    assert.equal(message['role'], index % 2 === 0 ? 'user' : 'assistant', 'roles alternate, the user first');
    const blocks = list(message['content'], 'content').map((block) => fields(block, 'a block'));
    if (message['role'] === 'user') {
      anthropicUser(blocks, due);
      due = new Set();
    } else {
      due = anthropicAssistant(blocks, ids);
    }
  });
  assert.equal(due.size, 0, 'no call is left without a result');
  const last = messages.at(-1);
  if (last?.['role'] !== 'assistant') return;
  const text = fields(list(last['content'], 'content').at(-1), 'a block')['text'];
  if (typeof text === 'string') assert.equal(text, text.replace(/[\s\x1c-\x1f\x85]+$/, ''), 'final assistant text does not end in white space');
}

function anthropicText(block: Fields): void {
  only(block, 'text', 'type', 'text');
  assert.equal(block['type'], 'text');
  said(block['text'], 'a text block');
}

function anthropicUser(blocks: readonly Fields[], due: Set<string>): void {
  let results = true;
  for (const block of blocks) {
    if (block['type'] !== 'tool_result') {
      results = false;
      anthropicContent(block);
      continue;
    }
    assert.ok(results, 'results come first');
    only(block, 'tool_result', 'type', 'tool_use_id', 'content', 'is_error');
    assert.ok(due.delete(string(block['tool_use_id'], 'tool_use_id')), 'a result answers a call right before it, once');
    if (typeof block['content'] === 'string') {
      said(block['content'], 'a result');
      continue;
    }
    for (const inner of list(block['content'], 'a result')) {
      anthropicContent(fields(inner, 'a block'));
      if (block['is_error'] === true) assert.equal(fields(inner, 'a block')['type'], 'text', 'an error is text');
    }
  }
  assert.equal(due.size, 0, 'every call of the message before has its result here');
}

function anthropicContent(block: Fields): void {
  if (block['type'] === 'text') return anthropicText(block);
  only(block, 'block', 'type', 'source', 'title');
  const source = fields(block['source'], 'source');
  if (block['type'] === 'image') assert.equal(block['title'], undefined);
  else assert.equal(block['type'], 'document');
  switch (source['type']) {
    case 'base64':
      assert.match(string(source['media_type'], 'media_type'), block['type'] === 'image' ? /^image\/(png|jpeg|gif|webp)$/ : /^application\/pdf$/);
      assert.match(string(source['data'], 'data'), /^[A-Za-z0-9+/]+=*$/);
      break;
    case 'url':
      assert.match(string(source['url'], 'url'), /^https:/i);
      break;
    case 'file':
      said(source['file_id'], 'file_id');
      break;
    default:
      assert.fail(`source ${String(source['type'])}`);
  }
}

function anthropicAssistant(blocks: readonly Fields[], ids: Ids): Set<string> {
  const due = new Set<string>();
  const thinks = (block: Fields | undefined): boolean => block?.['type'] === 'thinking' || block?.['type'] === 'redacted_thinking';
  assert.ok(!thinks(blocks.at(-1)), 'thinking is never last');
  if (blocks.some(thinks)) assert.ok(thinks(blocks[0]), 'a message with thinking begins with it');
  for (const block of blocks) {
    switch (block['type']) {
      case 'text':
        assert.equal(due.size, 0, 'nothing stands between calls and results');
        anthropicText(block);
        break;
      case 'thinking':
        only(block, 'thinking', 'type', 'thinking', 'signature');
        string(block['thinking'], 'thinking');
        said(block['signature'], 'signature');
        break;
      case 'redacted_thinking':
        only(block, 'redacted_thinking', 'type', 'data');
        said(block['data'], 'data');
        break;
      case 'tool_use':
        only(block, 'tool_use', 'type', 'id', 'name', 'input');
        assert.match(string(block['name'], 'name'), NAME);
        fields(block['input'], 'input');
        due.add(ids.add(block['id']));
        break;
      default:
        assert.fail(`block ${String(block['type'])}`);
    }
  }
  return due;
}

/** The order the AI SDK demands; its schemas judge the shapes (providers-judges.test.ts). */
export function assertAiSdk({ system, messages }: Request): void {
  if (system !== undefined) said(system, 'system');
  if (messages.length > 0) assert.equal(messages[0]?.['role'], 'user', 'the user is first');
  const ids = new Ids();
  let due = new Map<string, string>();
  for (const message of messages) {
    if (message['role'] !== 'tool') assert.equal(due.size, 0, 'the results of all calls come before anything else');
    if (typeof message['content'] === 'string') said(message['content'], 'content');
    const parts = typeof message['content'] === 'string' ? [] : list(message['content'], 'content').map((part) => fields(part, 'a part'));
    switch (message['role']) {
      case 'user':
        break;
      case 'assistant':
        assert.notEqual(parts.at(-1)?.['type'], 'reasoning', 'reasoning is never last');
        due = new Map(parts.filter((part) => part['type'] === 'tool-call').map((part) => [ids.add(part['toolCallId']), said(part['toolName'], 'toolName')]));
        for (const part of parts) if (part['type'] === 'tool-call') fields(part['input'], 'input');
        break;
      case 'tool':
        assert.ok(due.size > 0);
        for (const part of parts) {
          const id = string(part['toolCallId'], 'toolCallId');
          assert.equal(due.get(id), part['toolName'], 'a result answers a call right before it, by its name');
          due.delete(id);
        }
        assert.equal(due.size, 0, 'all results are in one message');
        break;
      default:
        assert.fail(`role ${String(message['role'])}`);
    }
    for (const part of parts) if (part['type'] === 'text') said(part['text'], 'a text part');
  }
  assert.equal(due.size, 0, 'no call is left without a result');
}
