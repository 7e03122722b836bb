/** Contexts in memory for the tests of src/contexts: every command goes through its bytes, as in the log. */
import assert from 'node:assert/strict';
import { apply } from '../../src/contexts/apply.ts';
import { decodeCommand, encodeCommand, setStamp, stampOf } from '../../src/contexts/commands.ts';
import { classifyPart } from '../../src/contexts/pairs.ts';
import { project } from '../../src/contexts/project.ts';
import type { Projection } from '../../src/contexts/project.ts';
import { decodeConfig, decodeHeader } from '../../src/contexts/rows.ts';
import { RoleKind } from '../../src/contexts/types.ts';
import type { Command, ContextConfig, ContextHeader, NewMessage, Outcome, Policy, Reply, RowKey, Rows, Table } from '../../src/contexts/types.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class MemoryRows implements Rows {
  readonly stored = new Map<string, Uint8Array>();
  readonly reads = new Map<Table, number>();
  /** Windows answered so far, and those of them that were flagged over_budget. */
  windows = 0;
  overBudget = 0;

  header(context: string): ContextHeader | undefined {
    const row = this.stored.get(`header|${context}|`);
    return row === undefined ? undefined : (decodeHeader(row) ?? assert.fail('bad header row'));
  }

  config(context: string): ContextConfig | undefined {
    const row = this.stored.get(`config|${context}|`);
    return row === undefined ? undefined : (decodeConfig(row) ?? assert.fail('bad config row'));
  }

  get(table: Table, context: string, key: RowKey): Uint8Array | undefined {
    this.reads.set(table, (this.reads.get(table) ?? 0) + 1);
    return this.stored.get(`${table}|${context}|${key}`);
  }

  /** Encodes, stamps, decodes, applies, stores. */
  run(command: Command, stampMs = 1_700_000_000_000): Outcome {
    const bytes = encodeCommand(command);
    setStamp(bytes, stampMs);
    const outcome = apply(this, stampOf(bytes), decodeCommand(bytes) ?? assert.fail('the command does not decode'));
    for (const { table, context, key, value } of outcome.writes) {
      if (value === null) this.stored.delete(`${table}|${context}|${key}`);
      else this.stored.set(`${table}|${context}|${key}`, Uint8Array.from(value));
    }
    this.applied(command, outcome);
    if (outcome.header !== null) assert.deepEqual(outcome.header, this.header(command.context));
    return outcome;
  }

  /** Told once what came of a command is stored; for what is kept beside the rows. */
  protected applied(_command: Command, _outcome: Outcome): void {
    // Nothing is.
  }

  /** The header of context `c`. */
  get head(): ContextHeader {
    return this.header('c') ?? assert.fail('there is no context c');
  }

  window(budgetTokens: number | null = null, full = false): Projection {
    const window = project(this, 'c', { budgetTokens, full }) ?? assert.fail('there is no context c');
    this.windows++;
    if (window.overBudget) this.overBudget++;
    return window;
  }

  /** Shown messages: seqs, replacement messages as r0, r1 …; stripped ones with the kept part indices. */
  shown(budgetTokens: number | null = null, full = budgetTokens === null): string {
    const name = (e: Projection['elements'][number]): string => (e.source === 'message' ? `${e.seq}` : `r${e.position}`);
    return this.window(budgetTokens, full)
      .elements.map((e) => (e.kept === null ? name(e) : `${name(e)}[${e.kept.join(' ')}]`))
      .join(',');
  }
}

export function put(settings: Partial<ContextConfig> = {}, rest: { ifConfigRevision?: number; mustExist?: boolean } = {}): Command {
  return { type: 'put', context: 'c', settings, ifConfigRevision: rest.ifConfigRevision ?? -1, mustExist: rest.mustExist ?? false };
}

export function append(messages: readonly NewMessage[], rest: { ifVersion?: number; key?: string; digest?: number; model?: string } = {}): Command {
  const { ifVersion = -1, key, digest = 1, model = '' } = rest;
  const idempotency = key === undefined ? null : { key, digest: new Uint8Array(16).fill(digest) };
  return { type: 'append', context: 'c', messages, ifVersion, idempotency, model };
}

export function compact(replacement: readonly NewMessage[], rest: { keepFromSeq?: number; ifVersion?: number } = {}): Command {
  return { type: 'compact', context: 'c', replacement, ifVersion: rest.ifVersion ?? -1, keepFromSeq: rest.keepFromSeq ?? 0 };
}

export const TOMBSTONE: Command = { type: 'tombstone', context: 'c' };

export function policy(change: Partial<Policy> = {}): Policy {
  return { strategy: 'last_n', limit: 400, skipKinds: [], targetRatio: 0.5, pin: true, ...change };
}

export type Part = Readonly<Record<string, unknown>> & { readonly type: string };
export const text = (content = 'hello'): Part => ({ type: 'text', text: content });
export const call = (id: string): Part => ({ type: 'tool_call', toolCallId: id });
export const result = (id: string): Part => ({ type: 'tool_result', toolCallId: id });
export const reasoning: Part = { type: 'reasoning', text: 'hm' };

const ROLE_KINDS = new Map<string, NewMessage['roleKind']>([
  ['system', RoleKind.system],
  ['developer', RoleKind.system],
  ['user', RoleKind.user],
  ['assistant', RoleKind.assistant],
  ['tool', RoleKind.tool],
]);

/** A message as the edge would describe it. `each`: tokens a part; `given`: the client's own token_count. */
export function message(role: string, parts: readonly Part[], counts: { each?: number; given?: number } = {}): NewMessage {
  const { each = 10, given } = counts;
  let textSoFar = '[';
  const infos = parts.map((part, i) => {
    if (i > 0) textSoFar += ', ';
    const start = encoder.encode(textSoFar).length;
    textSoFar += JSON.stringify(part);
    return { start, end: encoder.encode(textSoFar).length, kind: part.type, ...classifyPart(part), tokens: each };
  });
  return {
    roleText: encoder.encode(JSON.stringify(role)),
    roleKind: ROLE_KINDS.get(role) ?? RoleKind.other,
    idText: new Uint8Array(0),
    partsText: encoder.encode(`${textSoFar}]`),
    metadataText: encoder.encode('{}'),
    parts: infos,
    tokens: given ?? each * parts.length,
    tokensGiven: given !== undefined,
  };
}

export const user = (tokens = 10): NewMessage => message('user', [text()], { each: tokens });
export const assistant = (...parts: Part[]): NewMessage => message('assistant', parts.length === 0 ? [text()] : parts);
export const tool = (...ids: string[]): NewMessage => message('tool', ids.map(result));
export const system = (tokens = 10): NewMessage => message('system', [text()], { each: tokens });

export function textOf(bytes: Uint8Array, start = 0, end = bytes.length): string {
  return decoder.decode(bytes.subarray(start, end));
}

export function codeOf(reply: Reply): string {
  return reply.ok ? 'ok' : reply.code;
}
