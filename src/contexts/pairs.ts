/**
 * Tool calls and their results: which part of a message is which, by a fixed table of (part type, id field).
 * Used once, at the edge, where parts are parsed; windows then work with roles and call ids only.
 *
 * Not here: who answers whom (append.ts) and what that means to a window (units.ts).
 */
import { PartRole } from './types.ts';

/** Longest call id that is compared as it is, in UTF-16 units; a longer one is stood in for by its start and a hash. */
export const CALL_ID_UNITS_MAX = 200;

interface PairRule {
  readonly role: PartRole;
  /** Fields that may hold the call id; the first that is a non-empty string counts. */
  readonly ids: readonly string[];
}

/** Names of the id used by layouts that share the part types `tool_call` and `tool_result`. */
const CALL_IDS = ['toolCallId', 'tool_call_id', 'tool_use_id', 'call_id', 'id'];
const RESPONSES_IDS = ['call_id', 'id'];
/** A Responses output carries its own `id` beside `call_id`, so only the latter names the call. */
const RESPONSES_OUTPUT_IDS = ['call_id'];

const call = (...ids: string[]): PairRule => ({ role: PartRole.call, ids });
const result = (...ids: string[]): PairRule => ({ role: PartRole.result, ids });

const RULES: ReadonlyMap<string, PairRule> = new Map([
  // OpenAI chat: entries of `tool_calls` sent as parts.
  ['function', call('id')],
  ['custom', call('id')],
  // OpenAI Responses items.
  ['function_call', call(...RESPONSES_IDS)],
  ['function_call_output', result(...RESPONSES_OUTPUT_IDS)],
  ['custom_tool_call', call(...RESPONSES_IDS)],
  ['custom_tool_call_output', result(...RESPONSES_OUTPUT_IDS)],
  ['computer_call', call(...RESPONSES_IDS)],
  ['computer_call_output', result(...RESPONSES_OUTPUT_IDS)],
  ['local_shell_call', call(...RESPONSES_IDS)],
  // This one's reference names the call in `id`, its guide in `call_id`.
  ['local_shell_call_output', result(...RESPONSES_IDS)],
  ['shell_call', call(...RESPONSES_IDS)],
  ['shell_call_output', result(...RESPONSES_OUTPUT_IDS)],
  ['apply_patch_call', call(...RESPONSES_IDS)],
  ['apply_patch_call_output', result(...RESPONSES_OUTPUT_IDS)],
  ['mcp_approval_request', call('id')],
  ['mcp_approval_response', result('approval_request_id')],
  // Anthropic blocks; results of server tools (`web_search_tool_result` …) are found by their suffix.
  ['tool_use', call('id', 'tool_use_id')],
  ['server_tool_use', call('id')],
  ['mcp_tool_use', call('id')],
  // `tool_call`/`tool_result` of hand-made layouts; Anthropic's `tool_result` with `tool_use_id` is among them.
  ['tool_call', call(...CALL_IDS)],
  ['tool_result', result(...CALL_IDS)],
  // AI SDK model messages. They begin with `tool-` and must be found before the `tool-NAME` rule.
  ['tool-call', call('toolCallId')],
  ['tool-result', result('toolCallId')],
  ['tool-error', result('toolCallId')],
  ['tool-approval-request', call('approvalId')],
  ['tool-approval-response', result('approvalId')],
]);

/** Any `…_tool_result` block of Anthropic's server and MCP tools. */
const SERVER_RESULT: PairRule = result('tool_use_id');
/** An OpenAI chat tool message's part, whatever its type, that names the call it answers. */
const CHAT_RESULT: PairRule = result('tool_call_id');
const UI_TOOL_PART: readonly string[] = ['toolCallId'];

const NONE: { readonly role: PartRole; readonly callId: string } = { role: PartRole.none, callId: '' };

/**
 * What a parsed part is to tool integrity. A call or result whose id is missing or not a string cannot be paired and is
 * an ordinary part (`none`). Never throws, whatever the part holds.
 */
export function classifyPart(part: Readonly<Record<string, unknown>>): { role: PartRole; callId: string } {
  const type = part['type'];
  if (typeof type !== 'string' || type === 'text') {
    // The commonest part: only a chat tool message's text may name a call.
    return part['tool_call_id'] === undefined ? NONE : paired(part, CHAT_RESULT);
  }
  const rule = RULES.get(type);
  if (rule !== undefined) {
    const found = paired(part, rule);
    return found.role === PartRole.none ? paired(part, CHAT_RESULT) : found;
  }
  if (type.endsWith('_tool_result')) return paired(part, SERVER_RESULT);
  if (type.startsWith('tool-') || type === 'dynamic-tool') return uiToolPart(part);
  return paired(part, CHAT_RESULT);
}

function paired(part: Readonly<Record<string, unknown>>, rule: PairRule): { role: PartRole; callId: string } {
  const id = idOf(part, rule.ids);
  return id === '' ? NONE : { role: rule.role, callId: id };
}

/** AI SDK UI messages keep a call and its outcome in one part, which is a mere call until it has an outcome. */
function uiToolPart(part: Readonly<Record<string, unknown>>): { role: PartRole; callId: string } {
  const id = idOf(part, UI_TOOL_PART);
  if (id === '') return NONE;
  const state = part['state'];
  const answered =
    part['output'] !== undefined ||
    typeof part['errorText'] === 'string' ||
    (typeof state === 'string' && state.startsWith('output-'));
  return { role: answered ? PartRole.both : PartRole.call, callId: id };
}

function idOf(part: Readonly<Record<string, unknown>>, fields: readonly string[]): string {
  for (const field of fields) {
    const id = part[field];
    if (typeof id === 'string' && id !== '') return id.length <= CALL_ID_UNITS_MAX ? id : standIn(id);
  }
  return '';
}

/** Keeps row keys short: start, length and a 64-bit hash of the whole id. */
function standIn(id: string): string {
  let low = 0x811c9dc5;
  let high = 0x01000193;
  for (let i = 0; i < id.length; i++) {
    const unit = id.charCodeAt(i);
    low = Math.imul(low ^ unit, 0x01000193);
    high = Math.imul(high ^ unit, 0x85ebca6b) ^ (high >>> 13);
  }
  return `${id.slice(0, 64)}~${id.length}~${(low >>> 0).toString(16)}${(high >>> 0).toString(16)}`;
}
