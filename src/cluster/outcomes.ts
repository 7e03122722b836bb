/**
 * What became of a proposal, as it travels back from the leader's node. An append that was applied, which is what
 * nearly every answer says, has a form of its own; all else is JSON, told apart by its first byte. Pure bytes.
 *
 *   applied append = 1 u8, replayed u8, first seq f64, first version f64, (tokens u32)*       big-endian
 */
import type { NodeId } from '../../raft/types.ts';

/** A reply as it travels between nodes. */
export type WireOutcome =
  | { readonly status: 'applied'; readonly reply: unknown }
  | { readonly status: 'not_applied'; readonly reason: string; readonly leaderNode: NodeId | null }
  | { readonly status: 'unknown'; readonly reason: string };

const APPENDED = 1;
const APPENDED_BYTES = 18;
const U32 = 2 ** 32;

interface Appended {
  readonly firstSeq: number;
  readonly firstVersion: number;
  readonly tokens: readonly number[];
  readonly replayed: boolean;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function encodeOutcome(outcome: WireOutcome): Uint8Array {
  if (outcome.status === 'applied' && isAppended(outcome.reply)) return encodeAppended(outcome.reply);
  return encoder.encode(JSON.stringify(outcome));
}

/** Whatever a peer answers is an outcome: what cannot be read says nothing about the command, so that is unknown. */
export function decodeOutcome(answer: Uint8Array | null): WireOutcome {
  if (answer !== null && answer[0] === APPENDED && answer.length > APPENDED_BYTES && (answer.length - APPENDED_BYTES) % 4 === 0) return decodeAppended(answer);
  const value = parsed(answer);
  if (typeof value === 'object' && value !== null && 'status' in value) {
    if (value.status === 'applied' && 'reply' in value) return { status: 'applied', reply: value.reply };
    if (value.status === 'unknown' && 'reason' in value) return { status: 'unknown', reason: String(value.reason) };
    if (value.status === 'not_applied' && 'reason' in value && 'leaderNode' in value) {
      return { status: 'not_applied', reason: String(value.reason), leaderNode: typeof value.leaderNode === 'string' ? value.leaderNode : null };
    }
  }
  return { status: 'unknown', reason: "the leader's node answered in a form this version does not know" };
}

/** An append's reply with token counts that fit their place; apply bounds them far below. */
function isAppended(reply: unknown): reply is Appended {
  if (typeof reply !== 'object' || reply === null || !('type' in reply) || reply.type !== 'append' || !('tokens' in reply) || !Array.isArray(reply.tokens)) return false;
  return reply.tokens.length > 0 && reply.tokens.every((count) => count < U32);
}

function encodeAppended({ firstSeq, firstVersion, tokens, replayed }: Appended): Uint8Array {
  const bytes = new Uint8Array(APPENDED_BYTES + 4 * tokens.length);
  const view = new DataView(bytes.buffer);
  bytes[0] = APPENDED;
  bytes[1] = replayed ? 1 : 0;
  view.setFloat64(2, firstSeq);
  view.setFloat64(10, firstVersion);
  for (let i = 0; i < tokens.length; i++) view.setUint32(APPENDED_BYTES + 4 * i, tokens[i] ?? 0);
  return bytes;
}

function decodeAppended(answer: Uint8Array): WireOutcome {
  const view = new DataView(answer.buffer, answer.byteOffset, answer.length);
  const tokens: number[] = [];
  for (let at = APPENDED_BYTES; at < answer.length; at += 4) tokens.push(view.getUint32(at));
  const reply = { ok: true, type: 'append', firstSeq: view.getFloat64(2), firstVersion: view.getFloat64(10), tokens, replayed: answer[1] === 1 };
  return { status: 'applied', reply };
}

function parsed(answer: Uint8Array | null): unknown {
  try {
    return JSON.parse(decoder.decode(answer ?? new Uint8Array()));
  } catch {
    return null;
  }
}
