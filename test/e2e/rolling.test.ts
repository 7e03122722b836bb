/** Stopping nodes: nobody who follows the documented retry rule notices, and nothing that hangs on a node holds it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses, type NodeProcess, until } from './processes.ts';
import { assertNothingLost, createContexts, Writers } from './retrying.ts';
import { StreamClient, streamUrl } from './stream-client.ts';

/** The bound of the issue: a stop never takes longer. */
const STOP_MS = 10_000;

async function stopped(node: NodeProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  const started = performance.now();
  assert.deepEqual(await node.kill(signal), { code: 0, signal: null }, await node.logTail());
  assert.ok(performance.now() - started < STOP_MS, `${node.name} took ${performance.now() - started} ms to stop`);
  assert.match(await node.logTail(), /"type":"stopped"/, 'everything was closed before the process ended');
}

/** A TCP connection that sends `bytes` and reads nothing. */
async function hold(node: NodeProcess, bytes: string): Promise<Socket> {
  const socket = connect(node.port, '127.0.0.1');
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  if (bytes !== '') socket.write(bytes);
  socket.pause();
  return socket;
}

describe('stopping nodes of three', () => {
  let cluster: ClusterProcesses;
  before(async () => {
    cluster = await ClusterProcesses.start(3, { FASTPACA_REQUEST_TIMEOUT_MS: '2000' });
  });
  after(() => cluster.stop());
  const urls = () => cluster.nodes.map((node) => node.url);

  test('a restart of one node after the other under load fails no request of a client that retries as documented', async () => {
    const contexts = await createContexts(cluster.node(0).url, 'rolling', 24);
    const writers = new Writers(urls(), contexts);
    for (const node of cluster.nodes) {
      const before = writers.count;
      await until('appends to flow', () => writers.count > before + 100);
      await stopped(node);
      const gone = writers.count;
      await until('appends to flow without it', () => writers.count > gone + 100);
      node.start();
      await node.ready();
    }
    await writers.stop();
    const { failures } = writers.totals();
    assert.deepEqual(failures, []);
    assert.deepEqual(writers.staleReads, []);
    for (const url of urls()) await assertNothingLost(writers, url);
  });

  test('clients that hang on a node, a stalled peer and more signals do not hold up its stop, and streams end with 1012', async () => {
    const node = cluster.node(0);
    const stalled = cluster.node(2);
    const [big = ''] = await createContexts(node.url, 'big', 1);
    const text = 'z'.repeat(200_000);
    for (let i = 0; i < 40; i++) {
      const answer = await call(`${node.url}/v1/contexts/${big}/messages`, 'POST', { message: { role: 'user', parts: [{ type: 'text', text }] } });
      assert.equal(answer.status, 201, answer.text);
    }
    const agent = new Agent({ keepAlive: true });
    const sockets: Socket[] = [];
    try {
      const idle = request(`${node.url}/health/live`, { agent }, (response) => response.resume());
      idle.end();
      await once(idle, 'close');
      sockets.push(await hold(node, ''));
      sockets.push(await hold(node, 'POST /v1/contexts/big-0/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"mess'));
      sockets.push(await hold(node, 'GET /v1/contexts/big-0/messages HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n'));
      sockets.push(await hold(node, 'GET /v1/contexts/big-0/stream?cursor=0 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n'));
      const stream = await StreamClient.open(streamUrl(node.url, big));
      process.kill(stalled.pid, 'SIGSTOP');
      const stopping = stopped(node);
      await until('readiness to be off', async () => (await node.readiness()).text.includes('draining'));
      const answered = await call(`${node.url}/health/live`);
      assert.equal(answered.headers.get('connection'), 'close', 'while clients are given notice, the node answers and says that it closes');
      process.kill(node.pid, 'SIGTERM');
      process.kill(node.pid, 'SIGINT');
      await stopping;
      assert.equal((await stream.end()).code, 1012);
    } finally {
      process.kill(stalled.pid, 'SIGCONT');
      agent.destroy();
      for (const socket of sockets) socket.destroy();
    }
    node.start();
    await cluster.ready();
  });

  test('a node whose peers are all dead or stalled stops in time too, on SIGINT as on SIGTERM', async () => {
    const [last, dead, stalled] = [cluster.node(1), cluster.node(0), cluster.node(2)];
    await dead.kill('SIGKILL');
    process.kill(stalled.pid, 'SIGSTOP');
    const lonely = call(`${last.url}/v1/contexts/rolling-0/messages`, 'POST', { message: { role: 'user', parts: [{ type: 'text', text: 'lonely' }] } });
    try {
      await stopped(last, 'SIGINT');
      const { status, json } = await lonely;
      assert.equal(status, 503, 'a request that nobody can commit is answered, not cut off');
      assert.match(String(json['outcome']), /^(unknown|not_applied)$/);
    } finally {
      process.kill(stalled.pid, 'SIGCONT');
    }
    dead.start();
    last.start();
    await cluster.ready();
  });
});
