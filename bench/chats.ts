/**
 * Conversations to measure with: those of a JSONL file, and long synthetic ones from a seed. Each is a list of messages
 * as the server's edge would describe them, real token counts included.
 */
import o200k from 'js-tiktoken/ranks/o200k_base';
import { Encoding } from '../src/contexts/tokens.ts';
import { buildRankTable } from '../src/contexts/tokens-table.ts';
import { RoleKind } from '../src/contexts/types.ts';
import type { NewMessage } from '../src/contexts/types.ts';
import { estimate } from '../src/ingest/estimate.ts';
import { parseAppend } from '../src/ingest/messages.ts';
import { readConversations } from '../scripts/replay-file.ts';
import { seeded } from '../test/property/texts.ts';
import type { Pick } from '../test/property/texts.ts';

export interface Chat {
  readonly name: string;
  readonly messages: readonly NewMessage[];
}

export interface Part {
  readonly type: string;
  readonly [field: string]: unknown;
}

const LIMITS = { messageBytesMax: 1 << 30, depthMax: 64 };
const encoding = new Encoding(o200k.pat_str, buildRankTable(o200k.bpe_ranks, (bytes) => new ArrayBuffer(bytes)), 32_768);
const counter = { count: (_model: string, texts: readonly string[]): number[] => texts.map((text) => encoding.count(text)) };

/** One message through the server's own parser and token count. */
export function describeBody(body: Buffer): NewMessage {
  const described = estimate(parseAppend(body, LIMITS).messages, counter, '');
  const message = Array.isArray(described) ? described[0] : undefined;
  if (message === undefined) throw new Error('a message could not be described');
  return message;
}

/** The same from its role and parts. */
export function message(role: string, parts: readonly Part[]): NewMessage {
  return describeBody(Buffer.from(JSON.stringify({ message: { role, parts } })));
}

/** The conversations of a JSONL file. */
export async function chatsOf(file: string): Promise<Chat[]> {
  const conversations = await readConversations(file);
  return conversations.map(({ id, messages }) => ({ name: id, messages: messages.map(({ body }) => describeBody(body)) }));
}

/** The chats one after the other in one context, the system messages of the first alone in front. */
export function joined(chats: readonly Chat[]): Chat {
  const messages = chats.flatMap((chat, i) => (i === 0 ? chat.messages : chat.messages.filter((m) => m.roleKind !== RoleKind.system)));
  return { name: 'joined', messages };
}

export type ChatKind = 'chat' | 'agent' | 'documents';
export const CHAT_KINDS: readonly ChatKind[] = ['chat', 'agent', 'documents'];

/**
 * A chat of at least `tokens` tokens, opening with a system prompt. `chat`: questions and answers in turn; `agent`:
 * 2 to 8 tool calls a turn, some in parallel, with results of some hundred tokens; `documents`: a text of 500 to 3000
 * words in every fourth question.
 */
export function synthetic(kind: ChatKind, tokens: number, seed: number): Chat {
  const pick = seeded(seed);
  const messages = [message('system', [prose(pick, 400)])];
  let sum = messages[0]?.tokens ?? 0;
  for (let turn = 0; sum < tokens; turn++) {
    const from = messages.length;
    if (kind === 'chat') messages.push(message('user', [prose(pick, 10 + pick(60))]), message('assistant', [prose(pick, 40 + pick(160))]));
    else if (kind === 'agent') agentTurn(pick, turn, messages);
    else messages.push(message('user', [prose(pick, turn % 4 === 0 ? 500 + pick(2500) : 10 + pick(60))]), message('assistant', [prose(pick, 80 + pick(240))]));
    for (const added of messages.slice(from)) sum += added.tokens;
  }
  return { name: kind, messages };
}

function agentTurn(pick: Pick, turn: number, messages: NewMessage[]): void {
  messages.push(message('user', [prose(pick, 10 + pick(40))]));
  const steps = 2 + pick(7);
  for (let step = 0; step < steps; step++) {
    const calls = Array.from({ length: 1 + (pick(4) === 0 ? 1 + pick(2) : 0) }, (_, i) => `call_${turn}_${step}_${i}`);
    const asked = calls.map((toolCallId): Part => ({ type: 'tool_call', toolCallId, name: 'search', input: { query: words(pick, 4), limit: pick(50) } }));
    messages.push(message('assistant', pick(3) === 0 ? [prose(pick, 5 + pick(20)), ...asked] : asked));
    const answered = calls.map((toolCallId): Part => ({ type: 'tool_result', toolCallId, name: 'search', output: { rows: Array.from({ length: 1 + pick(12) }, () => ({ id: pick(1e6), title: words(pick, 6), price: pick(9999) / 100 })) } }));
    messages.push(message('tool', answered));
  }
  messages.push(message('assistant', [prose(pick, 30 + pick(120))]));
}

function prose(pick: Pick, count: number): Part {
  return { type: 'text', text: words(pick, count) };
}

const VOCABULARY = (
  'the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were all her she there would ' +
  'their we him been has when who will no more if out so up said what its about than into them can only other time new some could these two may first then ' +
  'do any like my now over such our man me even most made after also did many off before must well back through years much where your way down should because ' +
  'long each just state people those how too little good world make very year still see own work men day get here old life both between being under three never ' +
  'know same last another while us might great go come since against right came take used himself few house American use place during high without again home ' +
  'around small however found mind thought part general school every delivery invoice reservation warehouse customer refund shipment schedule battery wheel'
).split(' ');

function words(pick: Pick, count: number): string {
  let text = '';
  for (let i = 0; i < count; i++) {
    if (i > 0) text += pick(12) === 0 ? '. ' : pick(15) === 0 ? ', ' : ' ';
    text += VOCABULARY[pick(VOCABULARY.length)] ?? '';
  }
  return `${text}.`;
}
