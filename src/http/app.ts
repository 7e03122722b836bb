/**
 * The HTTP application: fastify with the API's routes, its errors, its limits. Listening, upgrades and shutdown are
 * node.ts' matter.
 *
 * Hot path: no logger child, no hook, no schema validation and no serializer per request; bodies go in and out as bytes.
 */
import type { RequestListener, Server, ServerOptions } from 'node:http';
import swagger from '@fastify/swagger';
import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger';
import fastify from 'fastify';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ApiError } from '../errors.ts';
import { invalidJson } from '../ingest/scanner.ts';
import type { Metrics } from '../metrics.ts';
import { bearerAuth } from './auth.ts';
import { answerClientError, JSON_TYPE, sendError, unsupportedMediaType } from './errors.ts';
import { rawBody } from './input.ts';
import { allowOrigins, limitRate } from './limits.ts';
import type { Audience, RateCounter, RequestSpan, RequestTraces, ServerTls } from './ports.ts';
import { mountApi, mountNodeRoutes, toJson } from './routes.ts';
import type { RouteDeps } from './routes.ts';
import { COMPONENTS } from './components.ts';

/** A call between nodes that travels over HTTP (finding each other, founding); src/cluster authenticates it itself. */
export interface PeerRoute {
  readonly method: string;
  readonly path: string;
  handler(body: unknown, headers: Readonly<Record<string, string | string[] | undefined>>): Promise<{ status: number; body: unknown }>;
}

export interface AppDeps extends RouteDeps {
  readonly peerRoutes?: readonly PeerRoute[];
  /** More routes between nodes, of other shapes (snapshots). */
  readonly mount?: (app: FastifyInstance) => void;
  /** More calls under /v1, with its keys and limits (streams). */
  readonly mountApi?: (api: FastifyInstance) => void;
  readonly traces?: RequestTraces | null;
  /** Counts for the rate limit; absent: this application counts what it takes. */
  readonly rateCounter?: RateCounter;
  /** null: plain TCP. */
  readonly tls?: ServerTls | null;
  /** Called before any route is mounted, when hooks for all of them can be added. */
  readonly prepare?: (app: FastifyInstance) => void;
  /** Instead of RECEIVE. */
  readonly receive?: Receive;
}

/** How long a client may take to send, and how often that is looked at. */
interface Receive {
  /** The request line and headers. */
  readonly headersMs: number;
  /** The whole request with its body. */
  readonly requestMs: number;
  readonly checkMs: number;
}

const RECEIVE: Receive = { headersMs: 10_000, requestMs: 30_000, checkMs: 5_000 };
/** Longer than the 60 s after which load balancers drop idle connections, so that they, not we, close first. */
const KEEP_ALIVE_TIMEOUT_MS = 72_000;
const HEADER_BYTES_MAX = 16 * 1024;
const PEER_BODY_BYTES_MAX = 1024 * 1024;

/** Builds the application; it listens when its `listen` is called. */
export async function buildApp(deps: AppDeps): Promise<FastifyInstance> {
  const { config } = deps;
  const receive = deps.receive ?? RECEIVE;
  const app: FastifyInstance = fastify({
    // The node's own logger says what is worth saying; fastify's would make a child for every request.
    logger: false,
    bodyLimit: config.bodyBytesMax,
    requestTimeout: receive.requestMs,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    // A request that got in while the node closes is served; node.ts closes the store after the server.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    // Longer than any id could be when every byte is percent-encoded: an id too long gets its own answer, not 404.
    routerOptions: { maxParamLength: HEADER_BYTES_MAX },
    frameworkErrors: (error, request, reply) => sendError(error, request, reply, errorDeps),
    clientErrorHandler: answerClientError,
    ...serverOf(deps.tls ?? null, {
      requestTimeout: receive.requestMs,
      keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
      headersTimeout: receive.headersMs,
      connectionsCheckingInterval: receive.checkMs,
      maxHeaderSize: HEADER_BYTES_MAX,
      // Other upgrades (h2c) are declined by answering as if they had not been asked for (RFC 9110 §7.8).
      shouldUpgradeCallback: (request) => request.headers.upgrade?.toLowerCase() === 'websocket' && app.server.listenerCount('upgrade') > 0,
    }),
  });
  const errorDeps = { logger: deps.logger, metrics: deps.metrics, bodyBytesMax: config.bodyBytesMax };
  app.setErrorHandler((error, request, reply) => sendError(error, request, reply, errorDeps));
  app.setNotFoundHandler((request, reply) => {
    sendError(new ApiError('not_found', `There is no ${request.method} at this path. GET /openapi.json lists every call.`), request, reply, errorDeps);
  });
  // Schemas only describe (see schemas.ts), so nothing is compiled from them.
  app.setValidatorCompiler(() => () => true);
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  acceptOnlyJson(app);

  deps.prepare?.(app);
  if (deps.tls != null) requireCertificates(app, deps.tls, deps.metrics);
  await app.register(swagger, OPENAPI);
  // Answers preflights, which carry no key, before the hooks that ask for one.
  await allowOrigins(app, config.corsOrigins);
  for (const component of COMPONENTS) app.addSchema(component);
  const auth = bearerAuth(config.apiKeys);
  app.register(
    async (api) => {
      if (deps.traces != null) traceRequests(api, deps.traces);
      // Before the keys are looked at, so that guesses count; hooks run in the order of their registration.
      if (config.rateLimit !== null) await limitRate(api, config.rateLimit, auth, deps.rateCounter ?? null);
      if (auth.required) api.addHook('onRequest', async (request) => auth.check(request.headers.authorization));
      mountApi(api, deps);
      deps.mountApi?.(api);
    },
    { prefix: '/v1' },
  );
  const metricsAuth = bearerAuth(config.metricsToken === null ? [] : [config.metricsToken]);
  app.register(async (node) => mountNodeRoutes(node, deps, metricsAuth.check));
  app.register(async (peers) => mountPeerRoutes(peers, deps.peerRoutes ?? [], deps.metrics));
  deps.mount?.(app);
  let document: Buffer | null = null;
  app.get('/openapi.json', { schema: { hide: true } }, (_request, reply) => {
    const api = app.swagger();
    document ??= toJson({ ...api, components: { ...('components' in api ? api.components : {}), securitySchemes: ACCESS.schemes }, security: ACCESS.ways });
    reply.header('content-type', JSON_TYPE).send(document);
  });
  await app.ready();
  return app;
}

/** The framework applies its own timeouts to a server that it makes itself, so they stand among the server's too. */
function serverOf(tls: ServerTls | null, options: ServerOptions): { http: ServerOptions } | { serverFactory: (handler: RequestListener) => Server } {
  return tls === null ? { http: options } : { serverFactory: (handler) => tls.createServer(options, handler) };
}

/** Every route has its audience by its registered path, so that no spelling of a path leads around this. */
function requireCertificates(app: FastifyInstance, tls: ServerTls, metrics: Metrics): void {
  app.addHook('onRequest', (request, _reply, done) => {
    const audience = audienceOf(request.routeOptions.url ?? '');
    const refusal = tls.refusal(request.raw.socket, audience);
    if (refusal === null) return done();
    if (audience === 'peer') metrics.peerRefused('certificate');
    done(new ApiError('unauthorized', refusal));
  });
}

function audienceOf(route: string): Audience {
  if (route.startsWith('/_peer')) return 'peer';
  return route.startsWith('/health/') ? 'probe' : 'client';
}

function traceRequests(api: FastifyInstance, traces: RequestTraces): void {
  const spans = new WeakMap<FastifyRequest, RequestSpan>();
  api.addHook('onRequest', (request, reply, done) => {
    const { params, headers } = request;
    const contextId = typeof params === 'object' && params !== null && 'id' in params && typeof params.id === 'string' ? params.id : null;
    const span = traces.begin({ method: request.method, route: request.routeOptions.url ?? '', contextId, traceparent: typeof headers['traceparent'] === 'string' ? headers['traceparent'] : undefined });
    spans.set(request, span);
    // An upgrade (101) is answered by those who take the connection over.
    reply.raw.once('close', () => span.end(reply.raw.statusCode, reply.raw.writableFinished || reply.raw.statusCode === 101));
    done();
  });
  // Only here: a body arrives in events that know nothing of the request they belong to.
  api.addHook('preHandler', (request, _reply, done) => {
    const span = spans.get(request);
    if (span === undefined) done();
    else span.run(done);
  });
}

/** Bodies are taken as bytes, and only JSON in UTF-8; what they mean is for the code that validates them. */
function acceptOnlyJson(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
    const type = request.headers['content-type'];
    const plain = type === 'application/json' || /^application\/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?;?\s*$/i.test(type ?? '');
    const encoding = request.headers['content-encoding'];
    if (!plain || (encoding !== undefined && encoding !== 'identity')) done(unsupportedMediaType(), undefined);
    else done(null, body);
  });
}

function mountPeerRoutes(app: FastifyInstance, routes: readonly PeerRoute[], metrics: Metrics): void {
  app.addHook('onError', (_request, _reply, error, done) => {
    if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE') metrics.peerRefused('too_large');
    else if (error instanceof ApiError && error.status === 400) metrics.peerRefused('malformed');
    done();
  });
  for (const route of routes) {
    app.route({
      method: route.method,
      url: route.path,
      bodyLimit: PEER_BODY_BYTES_MAX,
      schema: { hide: true },
      handler: async (request, reply) => {
        const { status, body } = await route.handler(parsePeerBody(rawBody(request)), request.headers);
        if (status === 400) metrics.peerRefused('malformed');
        return reply.code(status).header('content-type', JSON_TYPE).send(toJson(body));
      },
    });
  }
}

function parsePeerBody(body: Buffer): unknown {
  if (body.length === 0) return undefined;
  try {
    return JSON.parse(body.toString('utf8'));
  } catch (error) {
    throw invalidJson(error instanceof Error ? error.message : 'it does not parse');
  }
}

/** Put into the document when it is served: the types of @fastify/swagger are those of OpenAPI 3.0, which had no mutualTLS. */
const ACCESS = {
  schemes: {
    apiKey: { type: 'http', scheme: 'bearer', description: 'One of FASTPACA_API_KEY, where it is set.' },
    clientCertificate: { type: 'mutualTLS', description: 'A certificate of FASTPACA_TLS_CA, for all calls but /health, where FASTPACA_TLS_CLIENT_AUTH is require.' },
  },
  /** Which of them a node wants is its configuration's business. */
  ways: [{ apiKey: [] }, { clientCertificate: [] }, { apiKey: [], clientCertificate: [] }, {}],
};

const OPENAPI: FastifyDynamicSwaggerOptions = {
  openapi: {
    openapi: '3.1.0',
    info: {
      title: 'Fastpaca Context Store',
      version: '1',
      description: 'Keeps the conversations of LLM applications: every message in order, durably, and the window that fits a token budget.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    tags: [
      { name: 'contexts', description: 'Conversations and their windows.' },
      { name: 'cluster', description: 'Nodes and groups.' },
      { name: 'node', description: 'Probes and metrics of one node; outside /v1.' },
    ],
  },
  refResolver: {
    buildLocalReference: (schema, _base, _fragment, index) => (typeof schema['$id'] === 'string' ? schema['$id'] : `schema-${index}`),
  },
};
