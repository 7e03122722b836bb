/**
 * The query of GET …/context, which asks either for the window or for an account of it. What makes no sense together is
 * refused: an answer that quietly left out half of what was asked would be taken for the whole.
 */
import type { FastifyRequest } from 'fastify';
import { ApiError } from '../errors.ts';
import { PROVIDERS, type Provider } from '../providers/rendering.ts';
import { Query, type QueryName } from './input.ts';
import type { Consistency, ExplainQuery, WindowQuery } from './ports.ts';
import { OPERATION_QUERY } from './schemas.ts';

export type WindowRequest =
  | { readonly explain: false; readonly query: WindowQuery; readonly consistency: Consistency }
  | { readonly explain: true; readonly query: ExplainQuery; readonly consistency: Consistency };

/** Throws ApiError invalid_request. */
export function readWindowQuery(request: FastifyRequest): WindowRequest {
  const query = Query.read(request, OPERATION_QUERY.getWindow);
  const selection = {
    budgetTokens: query.integer('budget_tokens'),
    full: query.boolean('full'),
    ifVersion: query.integer('if_version'),
    atVersion: query.integer('at_version'),
  };
  if (selection.atVersion !== null) refuse(query, 'if_version', 'if_version is about the newest window, at_version about an older one: leave out one of them.');
  const consistency = query.consistency();
  if (query.boolean('explain')) {
    refuse(query, 'for', 'explain tells of the messages as they are stored: leave out for.');
    return { explain: true, query: { ...selection, fromSeq: query.integer('from_seq') ?? 1, limit: query.limit() }, consistency };
  }
  for (const name of ['from_seq', 'limit'] as const) refuse(query, name, `${name} is for explain=true; a window has no pages.`);
  return { explain: false, query: { ...selection, provider: provider(query), ifNoneMatch: request.headers['if-none-match'] ?? null }, consistency };
}

function provider(query: Query): Provider | null {
  const text = query.text('for');
  const known = PROVIDERS.find((name) => name === text);
  if (text === null || known !== undefined) return known ?? null;
  throw new ApiError('invalid_request', `The query parameter for must be one of ${PROVIDERS.join(', ')}.`, { path: 'for' });
}

function refuse(query: Query, name: QueryName, message: string): void {
  if (query.has(name)) throw new ApiError('invalid_request', message, { path: name });
}
