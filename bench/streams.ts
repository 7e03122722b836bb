/**
 * What streams cost: delivery latency and memory of 2,000 subscribers of one context and of 2,000 contexts on one real
 * node, and what one consumer that stops reading costs itself and the rest. Prints markdown tables for docs/streams.md.
 * Subscribers are raw sockets that look for a time stamp in what they receive, so that the client does not set the pace.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { call, ClusterProcesses, until } from '../test/e2e/processes.ts';

const SUBSCRIBERS = 2000;
const SECONDS = 10;
const STAMP = Buffer.from('sent:');

let url = '';
let port = 0;
const agent = new Agent({ connections: 64 });

/** Runs `measure` on a node of its own, so that nobody's memory is another's garbage. */
async function onFreshNode<T>(measure: () => Promise<T>): Promise<T> {
  const cluster = await ClusterProcesses.start(1, { FASTPACA_STREAM_MAX_CONNECTIONS: '5000', FASTPACA_LOG_LEVEL: 'warn' });
  ({ url, port } = cluster.node(0));
  try {
    return await measure();
  } finally {
    await cluster.stop();
  }
}

/** Everything that was delivered and measured since the last `reset`. */
class Recorder {
  latencies: number[] = [];
  appends: number[] = [];

  /** One chunk of a subscriber's socket; a stamp cut in two by a chunk's end is not counted. */
  received(chunk: Buffer): void {
    const now = performance.now();
    for (let at = chunk.indexOf(STAMP); at >= 0; at = chunk.indexOf(STAMP, at + STAMP.length)) {
      const start = at + STAMP.length;
      const end = chunk.indexOf(';', start);
      if (end > 0) this.latencies.push(now - Number(chunk.toString('latin1', start, end)));
    }
  }

  async append(id: string, padding: string): Promise<void> {
    const start = performance.now();
    const body = JSON.stringify({ message: { role: 'user', parts: [{ type: 'text', text: `sent:${start.toFixed(3)}; ${padding}` }] } });
    const answer = await request(`${url}/v1/contexts/${id}/messages`, { method: 'POST', body, headers: { 'content-type': 'application/json' }, dispatcher: agent });
    await answer.body.dump();
    if (answer.statusCode !== 201) throw new Error(`append answered ${answer.statusCode}`);
    this.appends.push(performance.now() - start);
  }

  reset(): void {
    this.latencies = [];
    this.appends = [];
  }
}

function percentile(values: readonly number[], share: number): string {
  const sorted = values.toSorted((a, b) => a - b);
  return `${(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0).toFixed(1)} ms`;
}

async function subscribe(id: string, recorder: Recorder | null): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.setNoDelay(true);
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  socket.write(`GET /v1/contexts/${id}/stream HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n`);
  const [head] = (await once(socket, 'data')) as [Buffer];
  if (!head.toString('latin1').startsWith('HTTP/1.1 101')) throw new Error(head.toString());
  if (recorder !== null) socket.on('data', (chunk: Buffer) => recorder.received(chunk));
  return socket;
}

async function subscribeAll(ids: readonly string[], recorder: Recorder): Promise<Socket[]> {
  const sockets: Socket[] = [];
  for (let at = 0; at < ids.length; at += 100) sockets.push(...(await Promise.all(ids.slice(at, at + 100).map((id) => subscribe(id, recorder)))));
  return sockets;
}

async function metric(name: string): Promise<number> {
  const { text } = await call(`${url}/metrics`);
  return Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'm').exec(text)?.[1]);
}

/** Resident bytes of the node once they have stopped moving. */
async function residentBytes(): Promise<number> {
  let last = 0;
  for (let i = 0; i < 12; i++) {
    const now = await metric('process_resident_memory_bytes');
    if (i > 2 && Math.abs(now - last) < 512 * 1024) return now;
    last = now;
    await pause(400);
  }
  return last;
}

/** Appends at a steady pace, whether or not earlier ones are answered. */
async function appendSteadily(recorder: Recorder, options: { ids: readonly string[]; perSecond: number; seconds: number; padding?: string }): Promise<void> {
  const { ids, perSecond, seconds, padding = '' } = options;
  const start = performance.now();
  const running: Promise<void>[] = [];
  for (let n = 0; n < perSecond * seconds; n++) {
    const due = start + (n * 1000) / perSecond - performance.now();
    if (due > 0) await pause(due);
    running.push(recorder.append(ids[n % ids.length] ?? '', padding));
  }
  await Promise.all(running);
}

async function createAll(ids: readonly string[]): Promise<void> {
  const body = '{"token_budget":100000000,"policy":{"strategy":"manual"}}';
  for (let at = 0; at < ids.length; at += 64) {
    await Promise.all(
      ids.slice(at, at + 64).map(async (id) => {
        const answer = await request(`${url}/v1/contexts/${id}`, { method: 'PUT', body, headers: { 'content-type': 'application/json' }, dispatcher: agent });
        await answer.body.dump();
      }),
    );
  }
}

async function audience(name: string, ids: readonly string[], targets: readonly string[], perSecond: number): Promise<string> {
  const recorder = new Recorder();
  await createAll(targets);
  const before = await residentBytes();
  const sockets = await subscribeAll(ids, recorder);
  const after = await residentBytes();
  await appendSteadily(recorder, { ids: targets, perSecond, seconds: 1 });
  recorder.reset();
  const cpuBefore = await metric('process_cpu_seconds_total');
  await appendSteadily(recorder, { ids: targets, perSecond, seconds: SECONDS });
  const expected = perSecond * SECONDS * (ids.length / targets.length);
  await until('all deliveries', () => recorder.latencies.length >= expected * 0.999, 30_000);
  const cpu = (await metric('process_cpu_seconds_total')) - cpuBefore;
  for (const socket of sockets) socket.destroy();
  await until('the streams to be gone', async () => (await metric('fastpaca_streams_open')) === 0);
  const { latencies, appends } = recorder;
  const row = [
    name,
    `${perSecond}/s`,
    String(latencies.length),
    `${percentile(latencies, 0.5)} / ${percentile(latencies, 0.99)}`,
    `${percentile(appends, 0.5)} / ${percentile(appends, 0.99)}`,
    `${((cpu / latencies.length) * 1e6).toFixed(0)} µs`,
    ids.length < 100 ? '' : `${((after - before) / ids.length / 1024).toFixed(1)} KiB`,
  ];
  process.stderr.write(`${row.join(' | ')}\n`);
  return `| ${row.join(' | ')} |`;
}

async function stalledConsumer(): Promise<string[]> {
  const recorder = new Recorder();
  const padding = 'x'.repeat(50_000);
  const load = { ids: ['stalled'], perSecond: 20, seconds: SECONDS, padding };
  await createAll(['stalled']);
  const sockets = await subscribeAll(Array.from({ length: 100 }, () => 'stalled'), recorder);
  await appendSteadily(recorder, { ...load, seconds: 2 });
  const rows: string[] = [];
  const measured = async (name: string): Promise<void> => {
    recorder.reset();
    await appendSteadily(recorder, load);
    await until('all deliveries', () => recorder.latencies.length >= sockets.length * load.perSecond * load.seconds * 0.999, 30_000);
    rows.push(`| ${name} | ${percentile(recorder.latencies, 0.5)} | ${percentile(recorder.latencies, 0.99)} | ${((await residentBytes()) / 1024 / 1024).toFixed(0)} MiB |`);
    process.stderr.write(`${rows.at(-1)}\n`);
  };
  await measured('all read');
  const stalled = await subscribe('stalled', null);
  stalled.pause();
  await measured('one does not read');
  await until('the stalled one to be closed', async () => (await metric('fastpaca_streams_evicted_total')) === 1);
  await measured('after it was closed');
  for (const socket of [...sockets, stalled]) socket.destroy();
  return rows;
}

try {
  const many = Array.from({ length: SUBSCRIBERS }, (_, i) => `many-${i}`);
  const head = '| audience | appends | deliveries | delivery p50 / p99 | append p50 / p99 | node CPU a delivery, appends included | memory a stream |';
  const rows = [
    await onFreshNode(() => audience('1 subscriber of one context', ['single'], ['single'], 10)),
    await onFreshNode(() => audience('2,000 subscribers of one context', many.map(() => 'one'), ['one'], 10)),
    await onFreshNode(() => audience('2,000 subscribers of 2,000 contexts', many, many, 400)),
  ];
  const stalled = await onFreshNode(stalledConsumer);
  process.stdout.write([head, '| -- | --: | --: | --: | --: | --: | --: |', ...rows, '', '| 100 subscribers, 50 KB messages, 20/s | delivery p50 | delivery p99 | node memory |', '| -- | --: | --: | --: |', ...stalled, ''].join('\n'));
} finally {
  await agent.close();
}
