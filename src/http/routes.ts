/**
 * The calls of the API: read the request, ask the store, send the bytes it answers. Handlers decide nothing else.
 */
import type { FastifyInstance, FastifyReply } from 'fastify';
import { parseClaim, parseUsage } from '../claims.ts';
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { parseMetadataPatch, parsePut, SETTINGS_BODY_BYTES_MAX } from '../settings.ts';
import { mountCluster } from './cluster-routes.ts';
import { JSON_TYPE } from './errors.ts';
import { contextId, idempotencyKey, Query, rawBody, refuseQuery } from './input.ts';
import { Exports, wantsLines } from './exports.ts';
import type { ClusterApi, ExportApi, HealthApi, ListingApi, ReadAnswer, StoreApi } from './ports.ts';
import { OPERATION_QUERY, OPERATIONS } from './schemas.ts';
import { readWindowQuery } from './window-query.ts';

export interface RouteDeps {
  readonly store: StoreApi;
  readonly listing: ListingApi;
  readonly exports: ExportApi;
  readonly cluster: ClusterApi;
  readonly health: HealthApi;
  readonly metrics: Metrics;
  /** The text of GET /metrics instead of that of `metrics`: of several shards as of one node. */
  readonly exposition?: () => Promise<string>;
  readonly config: Config;
  readonly logger: Logger;
}

type ById = { Params: { id: string } };

const PURGING = Buffer.from('{"status":"purging"}');

/** An append that took longer than this is logged. */
const SLOW_APPEND_MS = 1000;

/** Mounts the calls under /v1. */
export function mountApi(app: FastifyInstance, deps: RouteDeps): void {
  const { store, metrics, config, logger } = deps;
  const limits = { depthMax: config.depthMax };
  const exports = new Exports(app, deps);
  const settingsBody = { bodyLimit: Math.min(SETTINGS_BODY_BYTES_MAX, config.bodyBytesMax) };

  app.post<ById>('/contexts/:id/messages', { schema: OPERATIONS.appendMessages }, async (request, reply) => {
    const started = performance.now();
    refuseQuery(request);
    const id = contextId(request);
    const { body, replayed } = await store.append(id, rawBody(request), idempotencyKey(request));
    if (replayed) reply.header('idempotent-replayed', 'true');
    send(reply, 201, body);
    const elapsed = performance.now() - started;
    metrics.appendDuration.observe(elapsed);
    if (elapsed > SLOW_APPEND_MS) logger.warn({ type: 'slow_append', context_id: id, duration_ms: Math.round(elapsed) }, 'an append was slow');
    return reply;
  });

  app.get('/contexts', { schema: OPERATIONS.listContexts }, async (request, reply) => {
    const query = Query.read(request, OPERATION_QUERY.listContexts);
    const page = { limit: query.limit(), cursor: query.text('cursor'), prefix: query.prefix(), status: query.status() };
    return send(reply, 200, await deps.listing.page(page, query.consistency()));
  });

  app.put<ById>('/contexts/:id', { schema: OPERATIONS.putContext, ...settingsBody }, async (request, reply) => {
    refuseQuery(request);
    const { created, body } = await store.put(contextId(request), parsePut(rawBody(request), limits));
    return send(reply, created ? 201 : 200, body);
  });

  app.get<ById>('/contexts/:id', { schema: OPERATIONS.getContext }, async (request, reply) => {
    const query = Query.read(request, OPERATION_QUERY.getContext);
    return sendRead(reply, await store.get(contextId(request), query.consistency()));
  });

  app.delete<ById>('/contexts/:id', { schema: OPERATIONS.deleteContext }, async (request, reply) => {
    const query = Query.read(request, OPERATION_QUERY.deleteContext);
    const id = contextId(request);
    if (query.boolean('purge')) {
      const { complete } = await store.purge(id);
      if (!complete) return send(reply, 202, PURGING);
    } else {
      await store.remove(id);
    }
    metrics.requestAnswered(204);
    return reply.code(204).send();
  });

  app.get<ById>('/contexts/:id/tail', { schema: OPERATIONS.getTail }, async (request, reply) => {
    const query = Query.read(request, OPERATION_QUERY.getTail);
    const page = { offset: query.integer('offset') ?? 0, limit: query.limit() };
    return sendRead(reply, await store.tail(contextId(request), page, query.consistency()));
  });

  app.get<ById>('/contexts/:id/messages', { schema: OPERATIONS.getMessages }, async (request, reply) => {
    const query = Query.read(request, OPERATION_QUERY.getMessages);
    const range = {
      fromSeq: query.integer('from_seq') ?? 1,
      toSeq: query.integer('to_seq'),
      afterVersion: query.integer('after_version'),
    };
    reply.header('vary', 'accept');
    if (wantsLines(request)) return exports.send(request, reply, { range, query });
    return sendRead(reply, await store.messages(contextId(request), { ...range, limit: query.limit() }, query.consistency()));
  });

  app.get<ById>('/contexts/:id/context', { schema: OPERATIONS.getWindow }, async (request, reply) => {
    const id = contextId(request);
    const wanted = readWindowQuery(request);
    if (wanted.explain) return sendRead(reply, await store.explain(id, wanted.query, wanted.consistency));
    const answer = await store.window(id, wanted.query, wanted.consistency);
    // A cache may keep the window but must ask whether it still holds.
    reply.header('etag', answer.etag).header('cache-control', 'private, no-cache');
    if (!answer.notModified) return sendRead(reply, answer);
    metrics.requestAnswered(304);
    return reply.code(304).send();
  });

  app.post<ById>('/contexts/:id/compact', { schema: OPERATIONS.compact }, async (request, reply) => {
    refuseQuery(request);
    const { body } = await store.compact(contextId(request), rawBody(request));
    return send(reply, 200, body);
  });

  app.post<ById>('/contexts/:id/compact/claim', { schema: OPERATIONS.claimCompaction, ...settingsBody }, async (request, reply) => {
    refuseQuery(request);
    const { body } = await store.claim(contextId(request), parseClaim(rawBody(request), limits));
    return send(reply, 200, body);
  });

  app.get<ById>('/contexts/:id/compactions', { schema: OPERATIONS.listCompactions }, async (request, reply) => {
    const query = Query.read(request, OPERATION_QUERY.listCompactions);
    const page = { fromVersion: query.versionCursor(), limit: query.limit() };
    return sendRead(reply, await store.compactions(contextId(request), page, query.consistency()));
  });

  app.post<ById>('/contexts/:id/usage', { schema: OPERATIONS.reportUsage, ...settingsBody }, async (request, reply) => {
    refuseQuery(request);
    const { body } = await store.usage(contextId(request), parseUsage(rawBody(request), limits));
    return send(reply, 200, body);
  });

  app.patch<ById>('/contexts/:id/metadata', { schema: OPERATIONS.patchMetadata, ...settingsBody }, async (request, reply) => {
    refuseQuery(request);
    const { body } = await store.patchMetadata(contextId(request), parseMetadataPatch(rawBody(request), limits));
    return send(reply, 200, body);
  });

  mountCluster(app, deps.cluster, (status) => metrics.requestAnswered(status));

  function sendRead(reply: FastifyReply, answer: ReadAnswer): FastifyReply {
    if (answer.appliedIndex !== null) reply.header('x-applied-index', String(answer.appliedIndex));
    return send(reply, 200, answer.body);
  }

  /** A short answer is best a string: the runtime then writes it in one piece with the headers. */
  function send(reply: FastifyReply, status: number, body: Buffer | string): FastifyReply {
    metrics.requestAnswered(status);
    return reply.code(status).header('content-type', JSON_TYPE).send(body);
  }
}

/** Mounts what probes and operators call: /health/* and /metrics. They take any query, as probes like to add one. */
export function mountNodeRoutes(app: FastifyInstance, deps: RouteDeps, authorizeMetrics: (authorization: string | undefined) => void): void {
  const alive = toJson({ status: 'ok' });
  const isReady = toJson({ status: 'ready' });
  const sendJson = (reply: FastifyReply, status: number, body: Buffer): FastifyReply =>
    reply.code(status).header('content-type', JSON_TYPE).header('cache-control', 'no-store').send(body);

  app.get('/health/live', { schema: OPERATIONS.live }, (_request, reply) => {
    sendJson(reply, 200, alive);
  });
  app.get('/health/ping', { schema: OPERATIONS.ping }, (_request, reply) => {
    sendJson(reply, 200, alive);
  });
  app.get('/health/ready', { schema: OPERATIONS.ready }, async (_request, reply) => {
    const { ready, status, reason } = await deps.health.ready();
    return ready ? sendJson(reply, 200, isReady) : sendJson(reply.header('retry-after', '1'), 503, toJson({ status, reason }));
  });
  app.get('/metrics', { schema: OPERATIONS.metrics }, async (request, reply) => {
    authorizeMetrics(request.headers.authorization);
    const { registry } = deps.metrics;
    return reply.header('content-type', registry.contentType).send(await (deps.exposition?.() ?? registry.metrics()));
  });
}

export function toJson(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}
