/**
 * Calls and results out of the layouts that clients store. Which part is a call or a result, and of which id, was
 * settled when it was appended (src/contexts/pairs.ts); this reads the name, the input and the output.
 */
import { isBlank, textContent } from './conversation.ts';
import type { Call, Content, Output } from './conversation.ts';
import { optionsOf, readContent } from './content.ts';
import type { StoredPart } from './content.ts';
import { isObject, memberText, objectOf, objectText, quote, stringOf } from './json.ts';
import type { JsonObject } from './json.ts';

/** Stands for the name of a call that has none. */
export const NAMELESS = 'unknown_tool';

const NAME_FIELDS: readonly string[] = ['toolName', 'name', 'tool_name'];
const INPUT_FIELDS: readonly string[] = ['input', 'args', 'arguments', 'parameters', 'action', 'operation'];

/** Free-form tools take text, not JSON. */
const FREEFORM: ReadonlySet<string> = new Set(['custom', 'custom_tool_call']);

/** The call that a part makes. `id` as classified. */
export function readCall(part: StoredPart, id: string): Call {
  const { kind, value } = part;
  // OpenAI chat nests name and input under the call's type.
  const nested = kind === 'function' || kind === 'custom' ? objectOf(value, kind) : null;
  const fields = nested ?? value;
  const text = nested === null ? part.text : (memberText(part.text, kind) ?? '{}');
  const freeform = FREEFORM.has(kind) && typeof fields['input'] === 'string' ? fields['input'] : null;
  return {
    type: 'call',
    id,
    name: nameOf(kind, fields),
    input: freeform === null ? inputOf(fields, text) : `{"input":${quote(freeform)}}`,
    freeform,
    options: optionsOf(part),
    outputs: [],
  };
}

function nameOf(kind: string, fields: JsonObject): string {
  for (const field of NAME_FIELDS) {
    const name = fields[field];
    if (typeof name === 'string' && !isBlank(name)) return name;
  }
  // UI parts carry the name in their type; the built-in tools of the Responses API are named by theirs.
  if (kind.startsWith('tool-') && kind !== 'tool-call' && kind.length > 'tool-'.length) return kind.slice('tool-'.length);
  return kind.endsWith('_call') && kind !== 'tool_call' && kind !== 'function_call' && kind !== 'custom_tool_call' ? kind.slice(0, -'_call'.length) : NAMELESS;
}

/** Every provider wants an object: a string that holds one is unpacked, any other value goes under `value`. */
function inputOf(fields: JsonObject, text: string): string {
  for (const field of INPUT_FIELDS) {
    const input = fields[field];
    if (input === undefined || input === null || input === '') continue;
    if (typeof input === 'string') return objectText(input) ?? `{"value":${quote(input)}}`;
    const raw = memberText(text, field) ?? 'null';
    return isObject(input) ? raw : `{"value":${raw}}`;
  }
  return '{}';
}

const failure = (text: string): Output => ({ form: 'text', text, failed: true });

/** The outcome that a result part reports, or that a UI part carries beside its call. Blank text is left for the writers. */
export function readOutput(part: StoredPart): Output {
  const { kind, value } = part;
  if (value['state'] === 'output-denied') return { form: 'denied', reason: stringOf(objectOf(value, 'approval') ?? {}, 'reason') };
  const failed = value['is_error'] === true || value['isError'] === true;
  switch (kind) {
    case 'tool-error':
      return fieldOutput(part, 'error', true) ?? failure('');
    case 'tool-result':
      return modelOutput(part) ?? fieldOutput(part, 'result', failed) ?? rest(part, failed);
    case 'web_search_tool_result':
      return searchOutput(part) ?? rest(part, failed);
  }
  if (kind === 'dynamic-tool' || kind.startsWith('tool-')) {
    const error = value['errorText'];
    if (typeof error === 'string' && value['output'] === undefined) return failure(error);
    return jsonOutput(part.text, 'output', value['output'], false) ?? { form: 'text', text: '', failed: false };
  }
  return rest(part, failed);
}

/** Whatever field holds it: `output`, `result`, `content`; of a chat tool message's part, what the part says. */
function rest(part: StoredPart, failed: boolean): Output {
  for (const field of ['output', 'result', 'content', 'value', 'error']) {
    const output = fieldOutput(part, field, failed || field === 'error');
    if (output !== null) return output;
  }
  if (part.kind.endsWith('result') || part.kind.endsWith('_output')) return { form: 'text', text: '', failed };
  return contentOutput(readContent(part), failed);
}

function fieldOutput(part: StoredPart, field: string, failed: boolean): Output | null {
  const value = part.value[field];
  if (Array.isArray(value) && value.length > 0 && value.every(isBlock)) return blocksOutput(value, failed);
  if (field === 'output' && isObject(value) && value['type'] === 'computer_screenshot') return blocksOutput([value], failed);
  return jsonOutput(part.text, field, value, failed);
}

function jsonOutput(text: string, field: string, value: unknown, failed: boolean): Output | null {
  if (value === undefined) return null;
  if (typeof value === 'string') return { form: 'text', text: value, failed };
  return { form: 'json', text: memberText(text, field) ?? 'null', failed };
}

/** AI SDK: `{type: text|json|error-text|error-json|content|execution-denied, value}`. */
function modelOutput(part: StoredPart): Output | null {
  const output = objectOf(part.value, 'output');
  if (output === null) return null;
  const value = output['value'];
  const text = memberText(part.text, 'output') ?? '{}';
  switch (output['type']) {
    case 'text':
    case 'json':
      return jsonOutput(text, 'value', value, false);
    case 'error-text':
    case 'error-json':
      return jsonOutput(text, 'value', value, true);
    case 'content':
      return Array.isArray(value) && value.every(isBlock) ? blocksOutput(value, false) : jsonOutput(text, 'value', value, false);
    case 'execution-denied':
      return { form: 'denied', reason: stringOf(output, 'reason') };
    default:
      return null;
  }
}

/** Content blocks: those of tool results of any provider. Anything else in a list keeps the whole list JSON. */
const BLOCK_TYPES: ReadonlySet<unknown> = new Set([
  'text',
  'input_text',
  'output_text',
  'image',
  'image_url',
  'input_image',
  'document',
  'file',
  'input_file',
  'input_audio',
  'media',
  'image-data',
  'image-url',
  'file-data',
  'file-url',
]);

function isBlock(value: unknown): value is JsonObject & { readonly type: string } {
  if (!isObject(value) || !BLOCK_TYPES.has(value['type'])) return false;
  const { type } = value;
  return type === 'text' || type === 'input_text' || type === 'output_text' ? typeof value['text'] === 'string' : true;
}

function blocksOutput(blocks: readonly JsonObject[], failed: boolean): Output {
  return contentOutput(
    blocks.flatMap((value) => readContent({ kind: stringOf(value, 'type'), value, text: JSON.stringify(value) })),
    failed,
  );
}

function contentOutput(reading: ReturnType<typeof readContent>, failed: boolean): Output {
  const content = reading.filter((item): item is Content => item.type !== 'reasoning');
  const only = content[0];
  if (only === undefined) return { form: 'text', text: '', failed };
  if (content.length === 1 && only.type === 'text') return { form: 'text', text: only.text, failed };
  return { form: 'content', content, failed };
}

/** Search hits without their encrypted pages, which only the server tool could read. */
function searchOutput(part: StoredPart): Output | null {
  const hits = part.value['content'];
  if (!Array.isArray(hits)) return null;
  const shown = hits.filter(isObject).map(({ encrypted_content: _, ...hit }) => hit);
  return { form: 'json', text: JSON.stringify(shown), failed: false };
}

/** What is said of a call that nothing came of. */
const UNANSWERED: Output = { form: 'text', text: 'No result was recorded for this call.', failed: true };
const EMPTY = '(empty result)';

/** One outcome of all that was recorded for a call: none is stood in for, several are joined in order. */
export function outcomeOf(call: Call): Output {
  const [first, ...more] = call.outputs;
  if (first === undefined) return UNANSWERED;
  if (more.length === 0) return first.form === 'text' && isBlank(first.text) ? { ...first, text: EMPTY } : first;
  const content = call.outputs.flatMap(contentOf);
  const failed = call.outputs.some((output) => output.form !== 'denied' && output.failed);
  return content.length === 0 ? { form: 'text', text: EMPTY, failed } : { form: 'content', content, failed };
}

/** An outcome as content, for providers that know no JSON there. */
export function contentOf(output: Output): readonly Content[] {
  switch (output.form) {
    case 'text':
      return isBlank(output.text) ? [] : [textContent(output.text)];
    case 'json':
      return [textContent(output.text)];
    case 'content':
      return output.content;
    case 'denied':
      return [textContent(denial(output.reason))];
  }
}

export function denial(reason: string): string {
  return isBlank(reason) ? 'The call was not approved and did not run.' : `The call was not approved and did not run: ${reason}`;
}
