/**
 * Who may call how often, and from which web pages: rate limits and CORS, both off unless configured. The counting and
 * the headers are the plugins' matter; what counts as a client and which calls are meant is said here.
 */
import cors from '@fastify/cors';
import rateLimit, { normalizeIP } from '@fastify/rate-limit';
import type { FastifyRateLimitStore, FastifyRateLimitStoreCtor } from '@fastify/rate-limit';
import type { FastifyInstance } from 'fastify';
import { ApiError } from '../errors.ts';
import type { BearerAuth } from './auth.ts';
import type { RateCounter } from './ports.ts';

const WINDOW_MS = 60_000;
/** Clients remembered at a time; beyond it the one not heard of for longest starts anew, so memory stays bounded. */
const CLIENTS_MAX = 10_000;
/** How long a browser may go by a preflight's answer. */
const PREFLIGHT_SECONDS = 600;

/**
 * Limits every route registered on `api` after this call to `max` requests a minute per client. A client is its API
 * key; without an accepted one, its address, so that guessing keys is limited too. `counter` null: counted here.
 */
export async function limitRate(api: FastifyInstance, max: number, auth: BearerAuth, counter: RateCounter | null = null): Promise<void> {
  // Not `global`: that would count behind the hooks of `api`, and a refused key would not count at all.
  await api.register(rateLimit, {
    global: false,
    max,
    timeWindow: WINDOW_MS,
    cache: CLIENTS_MAX,
    ...(counter === null ? {} : { store: storeOf(counter) }),
    keyGenerator: (request) => auth.identify(request.headers.authorization) ?? normalizeIP(request.ip),
    errorResponseBuilder: (_request, { ttl }) => {
      const seconds = Math.max(1, Math.ceil(ttl / 1000));
      return new ApiError('rate_limited', `This client has made its ${max} requests of this minute. Retry in ${seconds} s.`, {}, seconds);
    },
  });
  api.addHook('onRequest', api.rateLimit());
}

/** The plugin makes its store itself. */
function storeOf(counter: RateCounter): FastifyRateLimitStoreCtor {
  return class implements FastifyRateLimitStore {
    incr(client: string, done: (error: Error | null, result?: { current: number; ttl: number }) => void, windowMs: number): void {
      void counter.count(client, windowMs).then((result) => done(null, result));
    }

    child(): FastifyRateLimitStore {
      return this;
    }
  };
}

/** Lets pages of `origins` read: GET and HEAD, and the preflights for them. Writing needs a key, which no page should hold. */
export async function allowOrigins(app: FastifyInstance, origins: readonly string[]): Promise<void> {
  if (origins.length === 0) return;
  await app.register(cors, {
    origin: origins.includes('*') ? '*' : [...origins],
    methods: ['GET', 'HEAD', 'OPTIONS'],
    allowedHeaders: ['Authorization', 'If-None-Match', 'Last-Event-ID'],
    exposedHeaders: ['ETag', 'X-Applied-Index', 'Retry-After'],
    maxAge: PREFLIGHT_SECONDS,
    // An OPTIONS that is no preflight is then answered as one, which says no more than a preflight would.
    strictPreflight: false,
  });
}
