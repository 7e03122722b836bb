/**
 * Compaction claims: one summariser at a time. A summary takes a model a while to write; without a claim two workers
 * write it twice and the second replaces what the first has made. A claim is live until its time, by the stamps of
 * commands; it ends with the compact that shows its token, or when it is given back. A summary made under a claim is worth
what the claim is: once somebody else has claimed or compacted, the window it was made of is gone.
 *
 * A claim stops other compactions only. What is appended while a summary is made stays in the window by keep_from_seq.
 */
import { equalBytes } from './bytes.ts';
import { answer, refuse } from './outcome.ts';
import { encodeHeader } from './rows.ts';
import type { Claim, Command, ContextHeader, Outcome, Rows } from './types.ts';

/** An hour: longer than any summary takes, short enough to wait for after a crash. */
export const CLAIM_TTL_SECONDS_MAX = 3600;
/** Of the random token: not to be guessed. */
export const CLAIM_TOKEN_BYTES = 16;

type ClaimCommand = Extract<Command, { readonly type: 'claim' }>;

/** `stampMs` must not be below the header's updatedAt. */
export function claim(rows: Rows, stampMs: number, command: ClaimCommand): Outcome {
  const { context, ttlSeconds, token } = command;
  const header = rows.header(context);
  if (header === undefined) return refuse('context_not_found');
  if (header.status !== 'active') return refuse('context_tombstoned');
  if (!Number.isSafeInteger(ttlSeconds) || ttlSeconds < 0 || ttlSeconds > CLAIM_TTL_SECONDS_MAX || token.length !== CLAIM_TOKEN_BYTES) return refuse('invalid_command');
  const held = heldByAnother(header, stampMs, token);
  if (held !== null) return answer({ ok: false, code: 'claim_held', expiresAt: held.expiresAt });
  const expiresAt = ttlSeconds === 0 ? 0 : stampMs + ttlSeconds * 1000;
  const reply = { ok: true, type: 'claim', expiresAt } as const;
  if (ttlSeconds === 0 && header.claim === null) return answer(reply);
  // Copied: the command's bytes are those of a whole log entry, which a cached header must not hold.
  const next: ContextHeader = { ...header, updatedAt: stampMs, claim: ttlSeconds === 0 ? null : { token: token.slice(), expiresAt } };
  return { reply, events: [], writes: [{ table: 'header', context, key: '', value: encodeHeader(next) }], header: next, config: null };
}

/**
 * Whether a compaction with this token comes too late: its claim is not the last one made, or was used. Over in time alone
 * it still stands, for then nothing was compacted since.
 */
export function isLost({ claim: last }: ContextHeader, token: Uint8Array | null): boolean {
  return token !== null && (last === null || !equalBytes(last.token, token));
}

/** The claim that forbids a compaction with this token (null: without one); null when there is none. */
export function heldByAnother(header: ContextHeader, stampMs: number, token: Uint8Array | null): Claim | null {
  const { claim: held } = header;
  if (held === null || held.expiresAt <= stampMs) return null;
  return token !== null && equalBytes(held.token, token) ? null : held;
}
