/**
 * Everything that goes wrong becomes one shape: {"error","message",…}. ApiErrors pass as they are; the framework's own
 * refusals are translated into the catalogue; anything else is a bug, logged with its stack and answered without detail.
 */
import type { Socket } from 'node:net';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { ApiError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';

export const JSON_TYPE = 'application/json; charset=utf-8';
/** The path of every route that names a context. */
const CONTEXT_PATH = '/v1/contexts/';

/** Of a body that is too large, so much is still taken from its connection. */
const LEFTOVER_BYTES_MAX = 64 * 1024 * 1024;

/** Answers a request that failed. */
export function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply, deps: { logger: Logger; metrics: Metrics; bodyBytesMax: number }): void {
  const known = error instanceof ApiError ? error : fromFramework(error, request, deps.bodyBytesMax);
  const answer = known ?? new ApiError('internal', 'Something went wrong here; it has been logged. It is not known whether the call had an effect.');
  if (known === null || known.status === 500) {
    deps.logger.error({ type: 'request_failed', err: error, method: request.method, url: request.url }, 'a request failed in a way that is a bug');
  }
  deps.metrics.requestAnswered(answer.status);
  if (answer.retryAfterSeconds !== null) reply.header('retry-after', String(answer.retryAfterSeconds));
  if (answer.status === 401) reply.header('www-authenticate', 'Bearer');
  // A connection closed under a body that is still coming is reset, and the answer lost on the way: what is left is read
  // and thrown away, unless it has no end.
  if (answer.code === 'payload_too_large' && Number(request.headers['content-length']) <= LEFTOVER_BYTES_MAX) reply.removeHeader('connection');
  reply.code(answer.status).header('content-type', JSON_TYPE).send(Buffer.from(JSON.stringify(answer.toBody())));
}

/** The framework's refusals of a request, told by their codes; null for everything that is not one. */
function fromFramework(error: unknown, request: FastifyRequest, bodyBytesMax: number): ApiError | null {
  if (!isFrameworkError(error)) return null;
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE': {
      const limit = request.routeOptions.bodyLimit ?? bodyBytesMax;
      return new ApiError('payload_too_large', `The body is larger than ${limit} bytes. Send it in several calls.`);
    }
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return unsupportedMediaType();
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new ApiError('invalid_request', 'The body is not as long as Content-Length says.', { path: 'Content-Length' });
    case 'FST_ERR_BAD_URL':
      return request.url.startsWith(CONTEXT_PATH)
        ? new ApiError('invalid_context_id', 'The context id is not valid percent-encoded UTF-8 (encodeURIComponent makes it so).')
        : new ApiError('invalid_request', 'The path is not valid percent-encoded UTF-8.', { path: 'path' });
    default: {
      const status = error.statusCode ?? 500;
      return status >= 400 && status < 500 ? new ApiError('invalid_request', error.message) : null;
    }
  }
}

function isFrameworkError(error: unknown): error is FastifyError {
  return error instanceof Error && 'code' in error && typeof error.code === 'string';
}

export function unsupportedMediaType(): ApiError {
  return new ApiError('unsupported_media_type', 'Send the body as Content-Type: application/json, in UTF-8 and not compressed.');
}

const NOT_HTTP: Readonly<Record<string, { status: string; message: string }>> = {
  HPE_HEADER_OVERFLOW: { status: '431 Request Header Fields Too Large', message: 'The request line and headers are larger than 16 KiB.' },
  ERR_HTTP_REQUEST_TIMEOUT: { status: '408 Request Timeout', message: 'The request did not arrive in time.' },
};
const MALFORMED = { status: '400 Bad Request', message: 'This is not a well-formed HTTP/1.1 request.' };

/** Answers bytes that never became a request, and closes the connection. */
export function answerClientError(error: Error & { code?: string }, socket: Socket): void {
  // Without a handshake there is nobody who could read an answer.
  if (error.code === 'ECONNRESET' || /^ERR_(SSL|TLS)_/.test(error.code ?? '') || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const { status, message } = NOT_HTTP[error.code ?? ''] ?? MALFORMED;
  const body = JSON.stringify({ error: 'invalid_request', message });
  socket.end(`HTTP/1.1 ${status}\r\nContent-Type: ${JSON_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`);
  // end() alone would leave the reading half to a peer that never stops sending.
  socket.destroySoon();
}
