/**
 * The one catalogue of errors a client can meet: code, status, and whether to try again. Handlers throw ApiError;
 * src/http turns it into the documented JSON. A test holds docs/api/rest.md to this table.
 */

export const ERROR_STATUS = {
  invalid_request: 400,
  invalid_context_id: 400,
  invalid_json: 400,
  unauthorized: 401,
  context_not_found: 404,
  not_found: 404,
  conflict: 409,
  context_tombstoned: 409,
  context_purged: 409,
  idempotency_conflict: 409,
  claim_held: 409,
  would_lose_quorum: 409,
  payload_too_large: 413,
  unsupported_media_type: 415,
  rate_limited: 429,
  overloaded: 429,
  raft_unavailable: 503,
  timeout: 503,
  archive_unavailable: 503,
  read_only: 503,
  internal: 500,
} as const;

export type ErrorCode = keyof typeof ERROR_STATUS;

/** Extra fields of an error answer, named in the API: path, expected, found, outcome … */
export type ErrorFields = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/** An error whose code and message are meant for the client. `retryAfterSeconds` becomes the Retry-After header. */
export class ApiError extends Error {
  readonly code: ErrorCode;
  readonly status: number;
  readonly fields: ErrorFields;
  readonly retryAfterSeconds: number | null;

  /** `retryAfterSeconds`: for 429 and 503, where more is known than to try again soon. */
  constructor(code: ErrorCode, message: string, fields: ErrorFields = {}, retryAfterSeconds = 1) {
    super(message);
    this.name = 'ApiError';
    this.code = code;
    this.status = ERROR_STATUS[code];
    this.fields = fields;
    this.retryAfterSeconds = this.status === 503 || this.status === 429 ? retryAfterSeconds : null;
  }

  toBody(): Record<string, unknown> {
    return { error: this.code, message: this.message, ...this.fields };
  }
}
