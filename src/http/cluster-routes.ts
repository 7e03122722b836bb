/** The calls about the cluster: what is asked is read here, what comes of it is src/cluster/membership.ts'. */
import type { FastifyInstance, FastifyReply } from 'fastify';
import { ApiError } from '../errors.ts';
import { invalidJson } from '../ingest/scanner.ts';
import { JSON_TYPE } from './errors.ts';
import { rawBody, refuseQuery } from './input.ts';
import type { ClusterApi } from './ports.ts';
import { OPERATIONS } from './schemas.ts';

const GROUP_NUMBER = /^\d{1,9}$/;

type ByNode = { Params: { node: string } };

/** Mounts them under /v1; `answered` counts. */
export function mountCluster(app: FastifyInstance, cluster: ClusterApi, answered: (status: number) => void): void {
  const send = (reply: FastifyReply, status: number, body: unknown): FastifyReply => {
    answered(status);
    return reply.code(status).header('content-type', JSON_TYPE).send(Buffer.from(JSON.stringify(body)));
  };

  app.get('/cluster', { schema: OPERATIONS.getCluster }, async (request, reply) => {
    refuseQuery(request);
    return send(reply, 200, await cluster.describe());
  });
  app.post<ByNode>('/cluster/nodes/:node/drain', { schema: OPERATIONS.drainNode }, async (request, reply) => {
    refuseQuery(request);
    const { node } = request.params;
    await cluster.drain(node, true);
    return send(reply, 202, { node, state: 'draining' });
  });
  app.delete<ByNode>('/cluster/nodes/:node/drain', { schema: OPERATIONS.undrainNode }, async (request, reply) => {
    refuseQuery(request);
    const { node } = request.params;
    await cluster.drain(node, false);
    return send(reply, 200, { node, state: 'active' });
  });
  app.delete<ByNode>('/cluster/nodes/:node', { schema: OPERATIONS.removeNode }, async (request, reply) => {
    refuseQuery(request);
    const { node } = request.params;
    await cluster.remove(node);
    return send(reply, 200, { node, state: 'removed' });
  });
  app.post<{ Params: { group: string } }>('/cluster/groups/:group/transfer', { schema: OPERATIONS.transferGroup }, async (request, reply) => {
    refuseQuery(request);
    const { group } = request.params;
    if (!GROUP_NUMBER.test(group)) throw new ApiError('invalid_request', 'A group is named by its number.', { path: 'group' });
    const to = targetOf(rawBody(request));
    await cluster.transfer(Number(group), to);
    return send(reply, 202, { group: Number(group), to });
  });
}

/** The node in `{"to":"node-2"}`. Throws ApiError invalid_json, invalid_request. */
function targetOf(body: Buffer): string {
  let value: unknown;
  try {
    value = JSON.parse(body.toString());
  } catch (error) {
    throw invalidJson(error instanceof Error ? error.message : 'it does not parse');
  }
  const to = typeof value === 'object' && value !== null && 'to' in value && Object.keys(value).length === 1 ? value.to : null;
  if (typeof to !== 'string' || to === '') throw new ApiError('invalid_request', 'The body must be {"to":"NAME"}, the node that is to lead the group.', { path: 'to' });
  return to;
}
