/**
 * The small bodies around compaction as clients write them: claims and usage reports; and the text of a claim's token.
 * What they do is src/contexts/claims.ts and usage.ts.
 */
import { randomFillSync } from 'node:crypto';
import { CLAIM_TOKEN_BYTES, CLAIM_TTL_SECONDS_MAX } from './contexts/claims.ts';
import { INPUT_TOKENS_MAX } from './contexts/usage.ts';
import { ApiError } from './errors.ts';
import type { ClaimRequest, UsageReport } from './http/ports.ts';
import { integer, parseFields } from './settings.ts';

const TOKEN_TEXT = new RegExp(`^[0-9a-f]{${CLAIM_TOKEN_BYTES * 2}}$`);

/**
 * Validates the body of POST …/compact/claim; makes a token where the client brings none.
 * Throws ApiError: invalid_json, invalid_request (with `path`).
 */
export function parseClaim(body: Buffer, limits: { readonly depthMax: number }): ClaimRequest {
  const { fields } = parseFields(body, ['ttl_seconds', 'claim'], limits.depthMax);
  const { ttl_seconds: ttl, claim } = fields;
  const ttlSeconds = integer(ttl, 'ttl_seconds', 0, CLAIM_TTL_SECONDS_MAX);
  if (claim !== undefined) return { ttlSeconds, token: decodeClaimToken(claim) };
  if (ttlSeconds === 0) throw new ApiError('invalid_request', 'ttl_seconds 0 gives a claim back: send the claim with it.', { path: 'claim' });
  return { ttlSeconds, token: randomFillSync(new Uint8Array(CLAIM_TOKEN_BYTES)) };
}

/** Validates the body of POST …/usage. Throws ApiError: invalid_json, invalid_request (with `path`). */
export function parseUsage(body: Buffer, limits: { readonly depthMax: number }): UsageReport {
  const { fields } = parseFields(body, ['version', 'input_tokens'], limits.depthMax);
  return {
    version: integer(fields['version'], 'version', 0, Number.MAX_SAFE_INTEGER),
    inputTokens: integer(fields['input_tokens'], 'input_tokens', 1, INPUT_TOKENS_MAX),
  };
}

export function encodeClaimToken(token: Uint8Array): string {
  return Buffer.from(token.buffer, token.byteOffset, token.byteLength).toString('hex');
}

/** Throws ApiError invalid_request for what no claim's text is. */
export function decodeClaimToken(text: unknown): Uint8Array {
  if (typeof text === 'string' && TOKEN_TEXT.test(text)) return Uint8Array.from(Buffer.from(text, 'hex'));
  throw new ApiError('invalid_request', `claim must be the string that …/compact/claim answered: ${CLAIM_TOKEN_BYTES * 2} hexadecimal digits.`, { path: 'claim' });
}
