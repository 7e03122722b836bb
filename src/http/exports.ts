/**
 * GET …/messages as application/x-ndjson: the whole range, one message a line, at the pace the client reads. Owns the
 * bounds of exports under way and how one ends: complete with the last chunk, or cut off, never short and whole-looking.
 */
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { ApiError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { contextId } from './input.ts';
import type { Query } from './input.ts';
import type { ExportApi, MessageExport, MessagesQuery } from './ports.ts';

export const LINES_TYPE = 'application/x-ndjson';
/** Exports under way on a node; beyond it the answer is `overloaded`. Each holds a slice of some 256 KiB. */
const EXPORTS_MAX = 64;
/** A client that takes nothing for this long is cut off. */
const STALLED_MS = 60_000;
/** How long exports may go on once the node is told to stop; then they are cut off, to be resumed at another node. */
const CLOSING_GRACE_MS = 2_000;

interface ExportsDeps {
  readonly exports: ExportApi;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

/** True if the client asks for lines and does not ask for plain JSON as well. */
export function wantsLines(request: FastifyRequest): boolean {
  const accept = request.headers.accept?.toLowerCase();
  if (accept === undefined || !accept.includes(LINES_TYPE)) return false;
  const types = accept.split(',').map((type) => type.split(';', 1)[0]?.trim());
  return types.includes(LINES_TYPE) && !types.includes('application/json');
}

export class Exports {
  private readonly deps: ExportsDeps;
  private readonly open = new Set<Readable>();
  /** Opened or being opened. */
  private underWay = 0;

  constructor(app: FastifyInstance, deps: ExportsDeps) {
    this.deps = deps;
    app.addHook('preClose', async () => {
      const cut = setTimeout(() => {
        for (const body of this.open) body.destroy(new Error('the node is stopping'));
      }, CLOSING_GRACE_MS);
      cut.unref();
    });
  }

  /** Answers with the range that `query` names, or throws ApiError before the first byte. */
  async send(request: FastifyRequest<{ Params: { id: string } }>, reply: FastifyReply, what: { range: Omit<MessagesQuery, 'limit'>; query: Query }): Promise<FastifyReply> {
    const id = contextId(request);
    if (what.query.has('limit')) throw new ApiError('invalid_request', 'limit is not taken with Accept: application/x-ndjson, which answers the whole range. Use to_seq.', { path: 'limit' });
    const consistency = what.query.consistency();
    if (this.underWay >= EXPORTS_MAX) throw new ApiError('overloaded', `${EXPORTS_MAX} exports are under way on this node. Retry later or at another node.`);
    this.underWay++;
    try {
      const opened = await this.deps.exports.open(id, what.range, consistency);
      return this.stream(request, reply, id, opened);
    } catch (error) {
      this.underWay--;
      throw error;
    }
  }

  private stream(request: FastifyRequest, reply: FastifyReply, id: string, { appliedIndex, slices }: MessageExport): FastifyReply {
    if (appliedIndex !== null) reply.header('x-applied-index', String(appliedIndex));
    this.deps.metrics.requestAnswered(200);
    reply.code(200).header('content-type', LINES_TYPE);
    if (request.method === 'HEAD') {
      this.underWay--;
      return reply.send(Buffer.alloc(0));
    }
    const body = Readable.from(slices, { objectMode: false });
    this.open.add(body);
    body.once('close', () => {
      this.open.delete(body);
      this.underWay--;
    });
    body.once('error', (error) => {
      this.deps.logger.warn({ type: 'export_cut_off', context_id: id, err: error }, 'an export was cut off');
      // Without chunks only a reset tells an answer that is cut off from one that is complete.
      if (request.raw.httpVersion === '1.0') request.raw.socket.resetAndDestroy();
    });
    reply.raw.setTimeout(STALLED_MS, () => body.destroy(new Error(`the client took nothing for ${STALLED_MS} ms`)));
    return reply.send(body);
  }
}
