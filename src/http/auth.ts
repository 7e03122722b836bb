/**
 * Bearer tokens: API keys for /v1, one token for /metrics.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { ApiError } from '../errors.ts';

export interface BearerAuth {
  /** Throws ApiError unauthorized unless the Authorization header names an accepted token, or none is required. */
  check(authorization: string | undefined): void;
  /** What the accepted token of the header is known by (its digest, not the token), or null: none was sent, or none is accepted. */
  identify(authorization: string | undefined): string | null;
  readonly required: boolean;
}

/** Accepts any of `tokens`; with none, everything. */
export function bearerAuth(tokens: readonly string[]): BearerAuth {
  const digests = tokens.map(digest);
  const accepted = (authorization: string | undefined): Buffer | null => {
    const token = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1];
    const given = digest(token ?? '');
    // Digests have one length, and all are compared, so that neither length nor position shows in the time taken.
    let found = false;
    for (const candidate of digests) found = timingSafeEqual(given, candidate) || found;
    return found ? given : null;
  };
  return {
    required: digests.length > 0,
    check(authorization) {
      if (digests.length > 0 && accepted(authorization) === null) {
        throw new ApiError('unauthorized', 'Send one of the configured keys as Authorization: Bearer KEY.');
      }
    },
    identify: (authorization) => (digests.length === 0 ? null : (accepted(authorization)?.toString('base64') ?? null)),
  };
}

function digest(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
