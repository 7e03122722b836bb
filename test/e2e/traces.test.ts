/** Traces of real nodes, received by a collector that is a plain HTTP server. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses, until } from './processes.ts';
import { refusal, StreamClient, streamUrl } from './stream-client.ts';

interface Span {
  traceId: string;
  spanId: string;
  parentSpanId: string;
  name: string;
  kind: number;
  start: bigint;
  end: bigint;
  attributes: Record<string, string | number>;
  node: string;
  isError: boolean;
}

interface Value {
  stringValue?: string;
  intValue?: number | string;
}
interface Attribute {
  key: string;
  value: Value;
}

const attributes = (list: readonly Attribute[]): Record<string, string | number> => Object.fromEntries(list.map(({ key, value }) => [key, value.stringValue ?? Number(value.intValue)]));

/** OTLP/HTTP in JSON, as far as spans go. */
class Collector {
  readonly spans: Span[] = [];
  private readonly server: Server;

  private constructor(server: Server) {
    this.server = server;
  }

  static async open(): Promise<Collector> {
    const server = createServer();
    const collector = new Collector(server);
    server.on('request', (request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        assert.equal(request.url, '/v1/traces');
        collector.take(JSON.parse(Buffer.concat(chunks).toString()));
        response.setHeader('content-type', 'application/json').end('{}');
      });
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return collector;
  }

  get endpoint(): string {
    const address = this.server.address();
    assert.ok(address !== null && typeof address === 'object');
    return `http://127.0.0.1:${address.port}`;
  }

  of(traceId: string): Span[] {
    return this.spans.filter((span) => span.traceId === traceId);
  }

  close(): void {
    this.server.closeAllConnections();
    this.server.close();
  }

  private take(body: { resourceSpans: { resource: { attributes: Attribute[] }; scopeSpans: { spans: (Omit<Span, 'attributes' | 'start' | 'end'> & { attributes: Attribute[]; startTimeUnixNano: string; endTimeUnixNano: string; status: { code?: number } })[] }[] }[] }): void {
    for (const { resource, scopeSpans } of body.resourceSpans) {
      const node = String(attributes(resource.attributes)['service.instance.id']);
      for (const span of scopeSpans.flatMap((scope) => scope.spans)) {
        this.spans.push({ ...span, node, attributes: attributes(span.attributes), start: BigInt(span.startTimeUnixNano), end: BigInt(span.endTimeUnixNano), isError: span.status.code === 2 });
      }
    }
  }
}

describe('traces', () => {
  let collector: Collector;
  let cluster: ClusterProcesses;
  let requests = 0;

  before(async () => {
    collector = await Collector.open();
    cluster = await ClusterProcesses.start(3, { OTEL_EXPORTER_OTLP_ENDPOINT: `${collector.endpoint}/` });
  });
  after(async () => {
    await cluster.stop();
    collector.close();
  });

  /** Calls as part of a trace of the caller's own. */
  const traced = async (node: number, path: string, method = 'GET', body?: unknown, flags = '01'): Promise<{ traceId: string; status: number }> => {
    const traceId = String(++requests).padStart(32, 'a');
    const { status } = await call(`${cluster.node(node).url}${path}`, method, body, { traceparent: `00-${traceId}-00000000000000ab-${flags}` });
    return { traceId, status };
  };

  test('an append is one trace from the request over the leader to its application, at whichever node it came in', async () => {
    const path = '/v1/contexts/traced%2F1';
    assert.equal((await traced(0, path, 'PUT', {})).status, 201);
    const leaders = new Set<string>();
    for (let node = 0; node < 3; node++) {
      const { traceId, status } = await traced(node, `${path}/messages`, 'POST', { message: { role: 'user', parts: [] } });
      assert.equal(status, 201);
      await until('its spans', () => collector.of(traceId).length >= 4);
      const byName = new Map(collector.of(traceId).map((span) => [span.name, span]));
      assert.deepEqual([...byName.keys()].sort(), ['POST /v1/contexts/:id/messages', 'apply', 'commit', 'propose']);
      const span = (name: string): Span => byName.get(name) ?? assert.fail(name);
      const [request, propose, commit, apply] = [span('POST /v1/contexts/:id/messages'), span('propose'), span('commit'), span('apply')];
      assert.equal(request.parentSpanId, '00000000000000ab');
      assert.deepEqual([request.kind, request.attributes['context_id'], request.attributes['http.response.status_code'], request.node], [2, 'traced/1', 201, `node-${node + 1}`]);
      assert.deepEqual([propose.parentSpanId, propose.node, propose.attributes['outcome']], [request.spanId, request.node, 'applied']);
      assert.deepEqual([commit.parentSpanId, apply.parentSpanId, apply.node], [propose.spanId, propose.spanId, commit.node]);
      leaders.add(commit.node);
      // Spans read their clocks one by one, so only a span's own two times can be compared.
      for (const { start, end } of [request, propose, commit, apply]) assert.ok(start <= end);
      assert.ok(collector.of(traceId).every(({ isError }) => !isError));
    }
    assert.equal(leaders.size, 1, 'one group has one leader');
  });

  test('reads are requests without a command; what was asked wrongly is told by its status', async () => {
    const read = await traced(1, '/v1/contexts/traced%2F1');
    const wrong = await traced(1, '/v1/contexts/nobody?x=1');
    await until('both', () => collector.of(read.traceId).length + collector.of(wrong.traceId).length >= 2);
    assert.deepEqual(collector.of(read.traceId).map(({ name }) => name), ['GET /v1/contexts/:id']);
    assert.deepEqual(collector.of(wrong.traceId).map(({ attributes, isError }) => [attributes['http.response.status_code'], isError]), [[400, false]]);
  });

  test('a stream is a request that ends with its upgrade, or with its refusal', async () => {
    const headers = (traceId: string) => ({ traceparent: `00-${traceId}-00000000000000ab-01` });
    const [opened, refused] = ['c'.repeat(32), 'd'.repeat(32)];
    const client = await StreamClient.open(streamUrl(cluster.node(2).url, 'traced/1'), headers(opened));
    assert.equal((await refusal(streamUrl(cluster.node(2).url, 'nobody'), headers(refused))).status, 404);
    await until('both, while the stream is open', () => collector.of(opened).length + collector.of(refused).length >= 2);
    const told = (traceId: string) => collector.of(traceId).map(({ name, attributes, isError }) => [name, attributes['context_id'], attributes['http.response.status_code'], isError]);
    assert.deepEqual([...told(opened), ...told(refused)], [['GET /v1/contexts/:id/stream', 'traced/1', 101, false], ['GET /v1/contexts/:id/stream', 'nobody', 404, false]]);
    assert.equal(client.closed, null);
    client.close();
  });

  test('a caller that does not sample is not traced; one without a trace starts a new one', async () => {
    const unsampled = await traced(0, '/v1/contexts/traced%2F1/messages', 'POST', { message: { role: 'user', parts: [] } }, '00');
    const before = collector.spans.length;
    await call(`${cluster.node(0).url}/v1/contexts/traced%2F1/tail`, 'GET', undefined, { traceparent: 'nonsense' });
    await until('a new trace', () => collector.spans.slice(before).some(({ name, parentSpanId }) => name === 'GET /v1/contexts/:id/tail' && (parentSpanId ?? '') === ''));
    assert.deepEqual(collector.of(unsampled.traceId), []);
  });

  test('without a collector everything goes on', async () => {
    collector.close();
    for (let i = 0; i < 20; i++) assert.equal((await traced(i % 3, '/v1/contexts/traced%2F1/messages', 'POST', { message: { role: 'user', parts: [] } })).status, 201);
    const { code } = await cluster.node(0).kill('SIGTERM');
    assert.equal(code, 0);
  });
});
