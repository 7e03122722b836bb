/**
 * Everybody who comes to a node as another node and is not one of its cluster, over real sockets: turned away with the
 * reason, counted by it, and the node goes on.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { WebSocket } from 'ws';
import { encodeDocument } from '../../src/cluster/hello.ts';
import type { LinkHello } from '../../src/cluster/hello.ts';
import { encodeFrame, FRAME_BYTES_MAX, FrameKind } from '../../src/cluster/link-frames.ts';
import { PEER_REFUSALS } from '../../src/cluster/ports.ts';
import type { PeerRefusal } from '../../src/cluster/ports.ts';
import { WIRE_FORMAT, WIRE_FORMAT_MIN } from '../../src/constants.ts';
import { call, ClusterProcesses, until } from './processes.ts';
import type { NodeProcess } from './processes.ts';

const SECRET = 'the-secret-of-this-cluster';
const KEY = { authorization: `Bearer ${SECRET}` };

let cluster: ClusterProcesses;
let node: NodeProcess;
let clusterId = '';

before(async () => {
  cluster = await ClusterProcesses.start(1, { FASTPACA_CLUSTER_SECRET: SECRET });
  node = cluster.node(0);
  clusterId = String((await call(`${node.url}/v1/cluster`)).json['cluster_id']);
});
after(() => cluster.stop());

async function counts(): Promise<Map<PeerRefusal, number>> {
  const { text } = await call(`${node.url}/metrics`);
  return new Map(PEER_REFUSALS.map((reason) => [reason, Number(new RegExp(`^fastpaca_peer_refused_total\\{reason="${reason}"\\} (\\d+)$`, 'm').exec(text)?.[1])]));
}

/** Runs `visit` and holds that exactly the refusals named were counted, and that the node is as ready as before. */
async function refuses(reasons: readonly PeerRefusal[], visit: () => Promise<void>): Promise<void> {
  const expected = await counts();
  await visit();
  for (const reason of reasons) expected.set(reason, (expected.get(reason) ?? 0) + 1);
  // The last of it may be counted a moment after the visitor has seen its end.
  const deadline = performance.now() + 5000;
  while (!isDeepStrictEqual(await counts(), expected) && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(await counts(), expected);
  assert.equal((await node.readiness()).status, 200);
}

/** A hello that this node would admit; a lower name, because the lower name dials. */
function helloOf(changes: Partial<LinkHello> = {}): LinkHello {
  const nonce = changes.nonce ?? 'n1';
  const generation = changes.generation ?? 1;
  return { name: 'a-peer', storeId: 'store-a', clusterId, generation, address: '127.0.0.1:1', wireFormat: WIRE_FORMAT, seen: [], clockMs: Date.now(), nonce, lineage: [{ nonce, beats: 0 }], ...changes };
}

class Visitor {
  readonly ws: WebSocket;
  readonly frames: Buffer[] = [];
  readonly closed: Promise<unknown>;

  private constructor(ws: WebSocket) {
    this.ws = ws;
    this.closed = once(ws, 'close');
    ws.on('error', () => undefined);
    ws.on('message', (data) => Buffer.isBuffer(data) && this.frames.push(data));
  }

  static async open(): Promise<Visitor> {
    const visitor = new Visitor(new WebSocket(`ws://127.0.0.1:${node.port}/_peer`, { headers: KEY, perMessageDeflate: false }));
    await once(visitor.ws, 'open');
    return visitor;
  }

  /** The node's reason for refusing the hello. */
  static async introduce(hello: LinkHello): Promise<string> {
    const visitor = await Visitor.open();
    visitor.ws.send(encodeFrame(FrameKind.hello, encodeDocument(hello)));
    await visitor.closed;
    const refused = visitor.frames.find((frame) => frame[0] === FrameKind.refused);
    assert.ok(refused !== undefined, 'a refusal comes before the end');
    return String(JSON.parse(refused.subarray(1).toString()).reason);
  }

  /** Sends bytes as one frame, waits for the end, and holds that the node admitted nobody. */
  static async send(bytes: Uint8Array | string): Promise<void> {
    const visitor = await Visitor.open();
    visitor.ws.send(bytes);
    await visitor.closed;
    assert.ok(visitor.frames.every((frame) => frame[0] !== FrameKind.welcome));
  }
}

async function upgradeStatus(path: string, headers: Record<string, string>): Promise<number> {
  const ws = new WebSocket(`ws://127.0.0.1:${node.port}${path}`, { headers });
  ws.on('error', () => undefined);
  const [, response]: IncomingMessage[] = await once(ws, 'unexpected-response');
  return response?.statusCode ?? 0;
}

test('without a key of the cluster: links, streams, snapshots and founding alike', async () => {
  await refuses(['unauthorized', 'unauthorized'], async () => {
    assert.equal(await upgradeStatus('/_peer', {}), 401);
    assert.equal(await upgradeStatus('/_peer', { authorization: 'Bearer another-secret' }), 401);
  });
  await refuses(['unauthorized'], async () => assert.equal(await upgradeStatus('/_peer/stream/1?context=c', { authorization: 'Bearer no' }), 401));
  for (const path of ['/_peer/hello', '/_peer/founding/promise', '/_peer/founding/commit']) {
    await refuses(['unauthorized'], async () => assert.equal((await call(`${node.url}${path}`, 'POST', {}, { authorization: 'Bearer no' })).status, 401));
  }
  await refuses(['unauthorized'], async () => assert.equal((await call(`${node.url}/_peer/snapshot?group=1`)).status, 401));
});

test('a node of another cluster, or of none', async () => {
  await refuses(['other_cluster'], async () => assert.match(await Visitor.introduce(helloOf({ clusterId: randomUUID() })), /belongs to cluster .*, not to/));
  await refuses(['not_founded'], async () => assert.match(await Visitor.introduce(helloOf({ clusterId: '' })), /belongs to no cluster/));
});

test('a node whose wire format is too old to be understood', async () => {
  await refuses(['version'], async () => assert.match(await Visitor.introduce(helloOf({ wireFormat: WIRE_FORMAT_MIN - 1 })), /speaks wire format 0, node 'node-1' 1 to 1: upgrade it/));
});

test('the wrong node: itself, its namesake, or one that should have been dialed', async () => {
  await refuses(['stale'], async () => assert.match(await Visitor.introduce(helloOf({ name: 'node-1' })), /two nodes are named 'node-1'/));
  await refuses(['stale'], async () => assert.match(await Visitor.introduce(helloOf({ name: 'z-peer' })), /not the other way round/));
});

test('a data directory that is not what it was', async () => {
  const admitted = await Visitor.open();
  admitted.ws.send(encodeFrame(FrameKind.hello, encodeDocument(helloOf({ generation: 5, nonce: 'n5' }))));
  await until('the first to be admitted', () => admitted.frames.some((frame) => frame[0] === FrameKind.welcome));
  await refuses(['rolled_back'], async () => assert.match(await Visitor.introduce(helloOf({ generation: 3, nonce: 'n3' })), /rolled back or copied/));
  await refuses(['duplicate'], async () => assert.match(await Visitor.introduce(helloOf({ generation: 5, nonce: 'other' })), /opened twice/));
  admitted.ws.terminate();
});

test('bytes that are no frame, no document, or not expected yet', async () => {
  const hello = encodeFrame(FrameKind.hello, encodeDocument(helloOf()));
  const cases: (Uint8Array | string)[] = [
    Buffer.alloc(0),
    Buffer.from([0xff, 1, 2]),
    'text',
    hello.subarray(0, hello.length - 5),
    encodeFrame(FrameKind.hello, Buffer.from('[]')),
    encodeFrame(FrameKind.hello, encodeDocument({ ...helloOf(), generation: -1 })),
    // Nothing passes before the handshake is done.
    encodeFrame(FrameKind.raft, Buffer.alloc(100)),
  ];
  for (const bytes of cases) await refuses(['malformed'], () => Visitor.send(bytes));
  await refuses(['malformed'], async () => assert.equal((await call(`${node.url}/_peer/hello`, 'POST', '{"name":', KEY)).status, 400));
  await refuses(['malformed'], async () => assert.equal((await call(`${node.url}/_peer/hello`, 'POST', { name: 7 }, KEY)).status, 400));
});

test('a broken WebSocket frame', async () => {
  await refuses(['malformed'], () => afterUpgrade(Buffer.from([0xff, 0x80, 0, 0, 0, 0])));
});

test('a frame or a document beyond the bounds, refused by the length it announces', async () => {
  const header = Buffer.alloc(14);
  header[0] = 0x82;
  header[1] = 0x80 | 127;
  header.writeBigUInt64BE(BigInt(FRAME_BYTES_MAX) + 1n, 2);
  await refuses(['too_large'], () => afterUpgrade(header));
  await refuses(['too_large'], async () => assert.equal((await call(`${node.url}/_peer/hello`, 'POST', `{"name":"${'x'.repeat(1024 * 1024)}"}`, KEY)).status, 413));
});

/** Upgrades by hand, then sends raw bytes and waits for the end. */
async function afterUpgrade(bytes: Uint8Array): Promise<void> {
  const socket = connect(node.port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write(`GET /_peer HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: ${KEY.authorization}\r\n\r\n`);
  const [head] = await once(socket, 'data');
  assert.match(String(head), /^HTTP\/1\.1 101/);
  socket.write(bytes);
  socket.resume();
  await once(socket, 'close');
}
