/**
 * The bytes of requests. A source writes each into a buffer that its connection keeps, so that a load allocates nothing
 * for a request: heads are short templates, bodies are prepared once and copied.
 */
import type { ContextSet, Endpoint, Operation } from './job.ts';
import { messageJson, textOf } from './text.ts';

/** Bodies differ, so that no cache of texts answers for all of them; fewer where they are large. */
const BODIES_MAX = 1000;
const BODIES_BYTES_MAX = 32 * 1024 * 1024;
const HEAD_BYTES_MAX = 512;
const EMPTY = Buffer.alloc(0);
/** Stands at the start of texts whose delivery is timed; the time of sending follows, up to a semicolon. */
export const STAMP = 'sent:';
const STAMP_DIGITS = 12;

export interface RequestSource {
  /** Size of the largest request. */
  readonly bytesMax: number;
  /** Messages that the request written last appends; 1 where it only reads. */
  readonly units: number;
  /** Writes the next request at the start of `into`; returns its length. */
  write(into: Buffer): number;
}

/**
 * Numbers below `count` in an order that jumps about but reaches each once in `count` steps, so that neighbours in time
 * are no neighbours on disk.
 */
export function* scattered(count: number): Generator<number, never> {
  let stride = Math.max(1, Math.floor(count * 0.618));
  while (greatestDivisor(stride, count) !== 1) stride++;
  for (let at = 0; ; at = (at + stride) % count) yield at;
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}

export function sourceOf(operation: Operation, endpoint: Endpoint, contexts: ContextSet, stamped: boolean): RequestSource {
  const next = contextsOf(endpoint, contexts);
  const host = `${endpoint.host}:${endpoint.port}`;
  switch (operation.kind) {
    case 'append':
      return appendSource({ host, next, stamped, ...operation });
    case 'tail':
      return readSource(host, next, `/tail?limit=${operation.limit}`);
    case 'window':
      return readSource(host, next, '/context');
    case 'put':
      return putSource(host, operation.messageBytes);
    case 'mixed':
      return mixedSource(operation.appendShare, [
        appendSource({ host, next, stamped, messageBytes: operation.messageBytes, batch: 1 }),
        readSource(host, next, `/tail?limit=${operation.limit}`),
        readSource(host, next, '/context'),
      ]);
  }
}

/** Gives the next context's name, in scattered order over what the endpoint is asked for. */
function contextsOf(endpoint: Endpoint, { prefix, count }: ContextSet): () => string {
  const numbers = endpoint.contexts;
  const order = scattered(numbers === null ? count : numbers.length);
  return () => {
    const at = order.next().value;
    return `${prefix}-${numbers === null ? at : (numbers[at] ?? 0)}`;
  };
}

export function head(method: string, path: string, host: string, bodyBytes: number): string {
  const body = bodyBytes === 0 ? '' : `Content-Type: application/json\r\nContent-Length: ${bodyBytes}\r\n`;
  return `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\n${body}\r\n`;
}

/** Bodies of an append with `batch` messages each. */
export function appendBody(which: number, messageBytes: number, batch: number, prefix = ''): string {
  const one = (i: number): string => messageJson(prefix + textOf(which * batch + i, Math.max(1, messageBytes - prefix.length)));
  return batch === 1 ? `{"message":${one(0)}}` : `{"messages":[${Array.from({ length: batch }, (_, i) => one(i)).join(',')}]}`;
}

interface AppendOptions {
  readonly host: string;
  readonly next: () => string;
  readonly messageBytes: number;
  readonly batch: number;
  /** Texts begin with the time of sending, for subscribers to measure by. */
  readonly stamped: boolean;
}

function appendSource({ host, next, messageBytes, batch, stamped }: AppendOptions): RequestSource {
  const prefix = stamped ? `${STAMP}${' '.repeat(STAMP_DIGITS)};` : '';
  const count = Math.max(1, Math.min(BODIES_MAX, Math.floor(BODIES_BYTES_MAX / (messageBytes * batch))));
  const bodies = Array.from({ length: count }, (_, which) => Buffer.from(appendBody(which, messageBytes, batch, prefix)));
  const stampAt = bodies[0]?.indexOf(STAMP) ?? -1;
  let turn = 0;
  return {
    bytesMax: HEAD_BYTES_MAX + Math.max(...bodies.map((body) => body.length)),
    units: batch,
    write(into) {
      const body = bodies[turn++ % count] ?? EMPTY;
      if (stamped) body.write(performance.now().toFixed(3).padStart(STAMP_DIGITS), stampAt + STAMP.length, 'latin1');
      const at = into.write(head('POST', `/v1/contexts/${next()}/messages`, host, body.length), 'latin1');
      return at + body.copy(into, at);
    },
  };
}

function readSource(host: string, next: () => string, rest: string): RequestSource {
  return {
    bytesMax: HEAD_BYTES_MAX,
    units: 1,
    write: (into) => into.write(head('GET', `/v1/contexts/${next()}${rest}`, host, 0), 'latin1'),
  };
}

/** The first source in its share, spread evenly; the others in turn for the rest. */
function mixedSource(share: number, [append, ...reads]: readonly [RequestSource, ...RequestSource[]]): RequestSource {
  let due = 0;
  let turn = 0;
  return {
    bytesMax: Math.max(append.bytesMax, ...reads.map((read) => read.bytesMax)),
    units: 1,
    write(into) {
      due += share;
      if (due < 1) return (reads[turn++ % reads.length] ?? append).write(into);
      due -= 1;
      return append.write(into);
    },
  };
}

const PUT_CONTEXTS = 1000;

function putSource(host: string, messageBytes: number): RequestSource {
  // Numbers go on from one generator to the next, so that no key is written twice.
  let sequence = (Math.floor(Date.now() / 1000) % 10_000) * 1e8;
  // 21 bytes: whole groups of base64, so that a key can be written over another.
  const key = (context: number): string => Buffer.from(`ctx/${String(context).padStart(4, '0')}/${String(++sequence).padStart(12, '0')}`).toString('base64');
  const bodies = Array.from({ length: PUT_CONTEXTS }, (_, i) => Buffer.from(`{"key":"${key(i)}","value":"${Buffer.from(appendBody(i, messageBytes, 1)).toString('base64')}"}`));
  const keyAt = '{"key":"'.length;
  let turn = 0;
  return {
    bytesMax: HEAD_BYTES_MAX + Math.max(...bodies.map((body) => body.length)),
    units: 1,
    write(into) {
      const context = turn++ % PUT_CONTEXTS;
      const body = bodies[context] ?? EMPTY;
      body.write(key(context), keyAt, 'latin1');
      const at = into.write(head('POST', '/v3/kv/put', host, body.length), 'latin1');
      return at + body.copy(into, at);
    },
  };
}
