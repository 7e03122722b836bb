/** Connections over time: pings, signs of life, and what happens without them. Real sockets; the clock is an argument. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, get } from 'node:http';
import type { IncomingMessage, Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { SseSink } from '../../src/streams/sse.ts';
import { CLIENT_HEARTBEAT, PEER_HEARTBEAT, SocketSink } from '../../src/streams/socket.ts';

async function listen(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

/** A sink and the client at its other end. */
async function connected(t: TestContext, kind: 'client' | 'peer'): Promise<{ sink: SocketSink; client: WebSocket; over: { closed: boolean } }> {
  const server = createServer();
  const sockets = new WebSocketServer({ noServer: true, autoPong: false });
  const over = { closed: false };
  const made = new Promise<SocketSink>((resolve) => {
    server.on('upgrade', (request, socket: Duplex, head) =>
      sockets.handleUpgrade(request, socket, head, (ws) => {
        const sink = new SocketSink(ws, socket, kind);
        sink.attach({ drained: () => undefined, closed: () => void (over.closed = true) });
        resolve(sink);
      }),
    );
  });
  const client = new WebSocket(`ws://127.0.0.1:${await listen(t, server)}`);
  t.after(() => client.terminate());
  await once(client, 'open');
  return { sink: await made, client, over };
}

const later = (ms: number): number => performance.now() + ms;

test('a client is pinged every 30 s, and closed with 1001 after 90 s without a word', async (t) => {
  const { sink, client } = await connected(t, 'client');
  const texts: string[] = [];
  client.on('message', (data) => texts.push(String(data)));
  const closed = once(client, 'close');
  sink.tick(later(CLIENT_HEARTBEAT.pingMs - 1000));
  for (let pings = 1; pings <= 2; pings++) sink.tick(later(CLIENT_HEARTBEAT.pingMs * pings + 1));
  sink.tick(later(CLIENT_HEARTBEAT.silenceMs + 1));
  const [code] = (await closed) as [number];
  assert.equal(code, 1001);
  assert.deepEqual(texts, ['{"type":"ping"}', '{"type":"ping"}']);
});

test('a pong, as JSON or of the protocol, is a sign of life', async (t) => {
  const { sink, client, over } = await connected(t, 'client');
  // Silence is counted from what was heard last, so a stream that heard just now lives on where a silent one ends.
  for (const speak of [() => client.send('{"type":"pong"}'), () => client.pong()]) {
    const before = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 20));
    speak();
    // Answered behind what was said before it, so that is heard by then.
    const answered = once(client, 'message');
    client.send('{"type":"ping"}');
    await answered;
    sink.tick(before + CLIENT_HEARTBEAT.silenceMs + 10);
    assert.equal(client.readyState, WebSocket.OPEN);
  }
  assert.equal(over.closed, false);
});

test('another node is pinged by the protocol, sooner, and closed sooner', async (t) => {
  const { sink, client } = await connected(t, 'peer');
  const pinged = once(client, 'ping');
  sink.tick(later(PEER_HEARTBEAT.pingMs + 1));
  await pinged;
  const closed = once(client, 'close');
  sink.tick(later(PEER_HEARTBEAT.silenceMs + 1000));
  assert.equal(((await closed) as [number])[0], 1001);
});

test('a reader of events gets comments, and is cut off once it takes nothing for 90 s', async (t) => {
  const made: SseSink[] = [];
  const server = createServer((_request, response) => {
    const sink = new SseSink(response);
    sink.attach({ drained: () => undefined, closed: () => undefined });
    made.push(sink);
  });
  const port = await listen(t, server);
  const [response] = (await once(get({ port, host: '127.0.0.1', agent: false }), 'response')) as [IncomingMessage];
  t.after(() => response.destroy());
  const [sink] = made;
  assert.ok(sink !== undefined);
  const first = once(response, 'data');
  sink.tick(later(CLIENT_HEARTBEAT.pingMs + 1));
  assert.equal(String((await first)[0]), ': ping\n\n');
  sink.tick(later(CLIENT_HEARTBEAT.silenceMs * 2));
  assert.equal(response.destroyed, false, 'nothing waits for it, so it is not silent');
  response.pause();
  const closed = new Promise((resolve) => response.once('close', resolve));
  response.on('error', () => undefined);
  // Until the buffers of the operating system are full too, which is when nothing moves any more.
  for (let before = -1; sink.bufferedBytes === 0 || sink.bufferedBytes !== before; ) {
    before = sink.bufferedBytes;
    if (before === 0) sink.write(Buffer.alloc(4 * 1024 * 1024, 0x3a));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  sink.tick(later(0));
  sink.tick(later(CLIENT_HEARTBEAT.silenceMs + 1));
  response.resume();
  await closed;
});
