/**
 * Traces over OTLP: a span for each request, for its command on the way to the leader, and there for its commit and its
 * application. Loaded only where a collector is configured (node.ts), so that nothing of it costs anything otherwise.
 * Owns spans and their export; when they begin and end is said where the work is done, through RequestTraces and
 * CommandTraces. Spans that a collector does not take are dropped, never waited for.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { ROOT_CONTEXT, SpanKind, SpanStatusCode, trace, TraceFlags } from '@opentelemetry/api';
import type { Context, Span, SpanContext, Tracer } from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';
import type { StateMachine } from '../raft/ports.ts';
import type { CommandTraces, LeadSpan, ProposeSpan } from './cluster/ports.ts';
import type { RequestSpan, RequestTraces, TracedRequest } from './http/ports.ts';

/** Spans that wait for export, at most; further ones are dropped. */
const QUEUE_SPANS_MAX = 4096;
const EXPORT_EVERY_MS = 1000;
const EXPORT_TIMEOUT_MS = 5000;
/** How long a stop waits for the last export. */
const CLOSE_MS = 1000;
/** A trace context between nodes: trace id 16, span id 8, flags 1. */
const CONTEXT_BYTES = 25;

export class OtlpTraces implements RequestTraces, CommandTraces {
  private readonly provider: BasicTracerProvider;
  private readonly tracer: Tracer;
  private readonly current = new AsyncLocalStorage<Span>();
  /** When the newest entry's application began and ended; a command's outcome is told in the same turn. */
  private applyStarted = 0;
  private applyEnded = 0;

  /** `endpoint` is the collector's base URL; spans are posted to its /v1/traces as JSON. */
  constructor(endpoint: string, node: string) {
    const exporter = new OTLPTraceExporter({ url: `${endpoint.replace(/\/$/, '')}/v1/traces`, timeoutMillis: EXPORT_TIMEOUT_MS });
    this.provider = new BasicTracerProvider({
      resource: resourceFromAttributes({ 'service.name': 'fastpaca', 'service.instance.id': node }),
      spanProcessors: [new BatchSpanProcessor(exporter, { maxQueueSize: QUEUE_SPANS_MAX, scheduledDelayMillis: EXPORT_EVERY_MS, exportTimeoutMillis: EXPORT_TIMEOUT_MS })],
    });
    this.tracer = this.provider.getTracer('fastpaca');
  }

  /** Exports what waits, if the collector takes it in time. */
  async close(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, CLOSE_MS);
    this.provider.shutdown().then(resolve, () => resolve());
    await promise;
    clearTimeout(timer);
  }

  begin(request: TracedRequest): RequestSpan {
    const { method, route, contextId, traceparent } = request;
    const attributes = { 'http.request.method': method, 'http.route': route, ...(contextId === null ? {} : { context_id: contextId }) };
    const span = this.tracer.startSpan(`${method} ${route}`, { kind: SpanKind.SERVER, attributes }, under(fromHeader(traceparent)));
    return {
      run: (work) => this.current.run(span, work),
      end: (status, isComplete) => {
        span.setAttribute('http.response.status_code', status);
        if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
        if (!isComplete) span.setStatus({ code: SpanStatusCode.ERROR, message: 'the client left, or the answer was cut off' });
        span.end();
      },
    };
  }

  propose(group: number): ProposeSpan {
    const parent = this.current.getStore();
    const span = this.tracer.startSpan('propose', { attributes: { group } }, under(parent?.spanContext() ?? null));
    return {
      context: span.isRecording() ? toBytes(span.spanContext()) : null,
      end: (outcome) => {
        span.setAttribute('outcome', outcome);
        if (outcome !== 'applied') span.setStatus({ code: SpanStatusCode.ERROR, message: outcome });
        span.end();
      },
    };
  }

  lead(group: number, parent: Uint8Array): LeadSpan {
    const context = under(fromBytes(parent));
    const commit = this.tracer.startSpan('commit', { attributes: { group }, startTime: wallClock() }, context);
    return {
      end: (outcome) => {
        commit.setAttribute('outcome', outcome);
        if (outcome !== 'applied') {
          commit.setStatus({ code: SpanStatusCode.ERROR, message: outcome });
          commit.end(wallClock());
          return;
        }
        commit.end(this.applyStarted);
        this.tracer.startSpan('apply', { attributes: { group }, startTime: this.applyStarted }, context).end(this.applyEnded);
      },
    };
  }

  /** The same machine, its applications timed. */
  timed(machine: StateMachine): StateMachine {
    return {
      apply: (group, entry) => {
        this.applyStarted = wallClock();
        const reply = machine.apply(group, entry);
        this.applyEnded = wallClock();
        return reply;
      },
      applyConf: (group, entry, conf, context) => machine.applyConf(group, entry, conf, context),
      restored: (group, meta) => machine.restored(group, meta),
    };
  }
}

/** Milliseconds since the epoch with a fraction; steady, as all spans of a process are measured against each other. */
function wallClock(): number {
  return performance.timeOrigin + performance.now();
}

function under(parent: SpanContext | null): Context {
  return parent === null ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, parent);
}

/** W3C Trace Context: version 00, or a later one, whose first four fields are the same. */
function fromHeader(traceparent: string | undefined): SpanContext | null {
  const match = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-|$)/.exec(traceparent ?? '');
  if (match === null) return null;
  const [, traceId = '', spanId = '', flags = ''] = match;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & TraceFlags.SAMPLED, isRemote: true };
}

function toBytes({ traceId, spanId, traceFlags }: SpanContext): Uint8Array {
  const bytes = Buffer.alloc(CONTEXT_BYTES);
  bytes.write(traceId, 0, 'hex');
  bytes.write(spanId, 16, 'hex');
  bytes[24] = traceFlags;
  return bytes;
}

function fromBytes(bytes: Uint8Array): SpanContext | null {
  if (bytes.length !== CONTEXT_BYTES) return null;
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
  return { traceId: hex.slice(0, 32), spanId: hex.slice(32, 48), traceFlags: bytes[24] ?? 0, isRemote: true };
}
