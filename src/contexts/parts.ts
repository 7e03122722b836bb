/**
 * The part table of a message in bytes, the same in commands and in message rows, and what a table tells a window.
 * Stored data: changing KINDS or a field means a new COMMAND_FORMAT and ROW_FORMAT.
 */
import type { Reader, Writer } from './bytes.ts';
import { PartRole, RoleKind } from './types.ts';
import type { PartInfo } from './types.ts';

/** A kind is only compared with prefixes of at most this length (UTF-16 units), so that is all that is kept of it. */
export const KIND_UNITS_MAX = 128;

/** Part types that take one byte. Position 0 stands for a literal that follows. Append only. */
const KINDS: readonly string[] = [
  '',
  'text',
  'tool_call',
  'tool_result',
  'tool-call',
  'tool-result',
  'tool_use',
  'reasoning',
  'thinking',
  'function_call',
  'function_call_output',
  'input_text',
  'output_text',
  'image',
  'image_url',
  'input_image',
  'file',
  'input_file',
  'document',
  'function',
  'redacted_thinking',
  'step-start',
  'dynamic-tool',
  'tool',
  'server_tool_use',
  'web_search_tool_result',
  'mcp_tool_use',
  'mcp_tool_result',
  'message',
  'json',
  'refusal',
  'audio',
];
const KIND_CODES: ReadonlyMap<string, number> = new Map(KINDS.map((kind, code) => [kind, code]));

export function writeParts(writer: Writer, parts: readonly PartInfo[]): void {
  writer.uint(parts.length);
  let last = 0;
  for (const part of parts) {
    const code = KIND_CODES.get(part.kind) ?? 0;
    writer.byte((code << 2) | part.role);
    if (code === 0) writer.string(part.kind.slice(0, KIND_UNITS_MAX));
    writer.uint(part.start - last);
    writer.uint(part.end - part.start);
    last = part.end;
    if (part.role !== PartRole.none) writer.string(part.callId);
    writer.uint(part.tokens);
  }
}

const ROLES: readonly PartRole[] = [PartRole.none, PartRole.call, PartRole.result, PartRole.both];

/** The table at the reader's position; meaningless unless the reader is still ok afterwards. */
export function readParts(reader: Reader): PartInfo[] {
  const count = reader.count();
  const parts: PartInfo[] = [];
  let last = 0;
  for (let i = 0; i < count && reader.ok; i++) {
    const head = reader.byte();
    const code = head >> 2;
    const role = ROLES[head & 3] ?? PartRole.none;
    const kind = code === 0 ? reader.string() : (KINDS[code] ?? '');
    const start = last + reader.uint();
    const end = start + reader.uint();
    last = end;
    const callId = role === PartRole.none ? '' : reader.string();
    parts.push({ start, end, kind, role, callId, tokens: reader.uint() });
  }
  return parts;
}

const ROLE_KINDS: readonly RoleKind[] = [RoleKind.other, RoleKind.system, RoleKind.user, RoleKind.assistant, RoleKind.tool];

/** The role kind of a stored number; anything unknown is `other`. */
export function roleKindOf(value: number): RoleKind {
  return ROLE_KINDS[value] ?? RoleKind.other;
}

/**
 * Whether a message begins a turn: a user's, unless it does nothing but answer tool calls (Anthropic's layout puts
 * results into user messages, and these belong to the turn whose calls they answer).
 */
export function beginsTurn(roleKind: RoleKind, parts: readonly PartInfo[]): boolean {
  if (roleKind !== RoleKind.user) return false;
  if (parts.length === 0) return true;
  for (const part of parts) if (part.role !== PartRole.result) return true;
  return false;
}
