import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import { connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { PeerKeys } from '../../src/cluster/auth.ts';
import { openIdentity, writeFounded } from '../../src/cluster/identity.ts';
import type { OpenedIdentity } from '../../src/cluster/identity.ts';
import { PeerLedger } from '../../src/cluster/ledger.ts';
import { FRAME_BYTES_MAX } from '../../src/cluster/link-frames.ts';
import { PEER_PATH, PeerLinks } from '../../src/cluster/links.ts';
import { RequestKind } from '../../src/cluster/ports.ts';
import { BEAT_MS, Standing } from '../../src/cluster/standing.ts';
import type { PeerInfo, PeerRefusal, RequestFailure } from '../../src/cluster/ports.ts';
import { FileFacts } from './cluster-facts.ts';

const CLUSTER = 'c0ffee';
let directory = '';
const running: TestNode[] = [];

before(() => {
  directory = mkdtempSync(join(tmpdir(), 'fastpaca-links-'));
});
after(() => rmSync(directory, { recursive: true, force: true }));
afterEach(async () => {
  await Promise.all(running.splice(0).map((node) => node.stop()));
});

interface NodeOptions {
  readonly name: string;
  /** Facts file; another one is another disk. */
  readonly disk?: string;
  readonly secret?: string;
  readonly stores?: ReadonlyMap<string, string>;
  readonly port?: number;
}

class TestNode {
  readonly identity: OpenedIdentity;
  readonly links: PeerLinks;
  readonly standing: Standing;
  readonly ledger: PeerLedger;
  readonly facts: FileFacts;
  /** Raise it to have something to beat for. */
  promises = 0;
  readonly server: Server;
  readonly frames: { from: string; frame: Buffer }[] = [];
  readonly ups: PeerInfo[] = [];
  readonly downs: string[] = [];
  readonly steppedBack: string[] = [];
  sentenced = 0;
  readonly warnings: object[] = [];
  readonly refused: PeerRefusal[] = [];
  readonly asked: { from: string; kind: number; body: string }[] = [];
  /** What to do with a request; answers with its body by default. */
  serve = (body: Uint8Array, reply: (answer: Uint8Array) => void): void => reply(body);

  private constructor(identity: OpenedIdentity, facts: FileFacts, server: Server, options: NodeOptions) {
    this.identity = identity;
    this.server = server;
    this.facts = facts;
    this.links = new PeerLinks({
      self: () => ({ ...identity, clusterId: CLUSTER, address: this.address, wireFormat: 1 }),
      standing: (this.standing = Standing.open({ facts, identity, promises: () => this.promises })),
      ledger: (this.ledger = PeerLedger.open({ facts, storeId: identity.storeId, clusterId: () => CLUSTER, knownStore: (name) => options.stores?.get(name) ?? null, isRetired: () => false })),
      keys: new PeerKeys({ clusterSecrets: [options.secret ?? 'secret'], apiKeys: [] }),
      events: {
        onFrame: (from, frame) => this.frames.push({ from, frame: Buffer.from(frame) }),
        onRequest: (from, kind, body, reply) => {
          this.asked.push({ from, kind, body: Buffer.from(body).toString() });
          this.serve(body, reply);
        },
        onUp: (peer) => this.ups.push(peer),
        onDown: (name) => this.downs.push(name),
      },
      onSteppedBack: (reason) => this.steppedBack.push(reason),
      onSentenced: () => this.sentenced++,
      log: { info: () => {}, warn: (fields) => this.warnings.push(fields) },
      tls: null,
      onRefused: (reason) => this.refused.push(reason),
    });
    server.on('upgrade', (request, socket, head) => {
      assert.equal(request.url, PEER_PATH);
      this.links.handleUpgrade(request, socket, head);
    });
  }

  static async start(options: NodeOptions): Promise<TestNode> {
    const facts = new FileFacts(join(directory, options.disk ?? `${options.name}-${running.length}-${Math.random()}`));
    await writeFounded(facts, { clusterId: CLUSTER, members: [{ name: 'x', storeId: 'y', address: 'z' }], mintedKey: 'k' });
    const identity = await openIdentity(facts, options.name);
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(options.port ?? 0, '127.0.0.1', resolve));
    const node = new TestNode(identity, facts, server, options);
    node.links.open();
    running.push(node);
    return node;
  }

  get port(): number {
    const address = this.server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  async stop(): Promise<void> {
    await this.links.close();
    if (!this.server.listening) return;
    await new Promise<void>((resolve) => {
      this.server.close(() => resolve());
      this.server.closeAllConnections();
    });
  }
}

function peerMap(...nodes: TestNode[]): Map<string, string> {
  return new Map(nodes.map((node) => [node.identity.name, node.address]));
}

async function until(condition: () => boolean, what: string, boundMs = 5000): Promise<void> {
  const deadline = performance.now() + boundMs;
  while (!condition()) {
    if (performance.now() > deadline) assert.fail(`not within ${boundMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function linked(...names: string[]): Promise<TestNode[]> {
  const nodes: TestNode[] = [];
  for (const name of names) nodes.push(await TestNode.start({ name }));
  for (const node of nodes) node.links.setPeers(peerMap(...nodes));
  await until(() => nodes.every((node) => node.links.up().length === nodes.length - 1), 'all links up');
  return nodes;
}

interface Outcome {
  failure: RequestFailure | null;
  answer: string | null;
}

/** Starts a request and records every call of `done`: exactly one is expected. */
function ask(node: TestNode, to: string, body: string, timeoutMs = 5000): Outcome[] {
  const outcomes: Outcome[] = [];
  node.links.request(to, RequestKind.read, Buffer.from(body), timeoutMs, (failure, answer) => {
    outcomes.push({ failure, answer: answer === null ? null : Buffer.from(answer).toString() });
  });
  return outcomes;
}

test('three nodes link pairwise and carry frames both ways in order', async () => {
  const [a, b, c] = await linked('a', 'b', 'c');
  assert.ok(a && b && c);
  for (let i = 0; i < 500; i++) {
    assert.ok(a.links.send('b', Buffer.from(`a${i}`)));
    assert.ok(b.links.send('a', Buffer.from(`b${i}`)));
    assert.ok(c.links.send('a', Buffer.from(`c${i}`)));
  }
  await until(() => a.frames.length === 1000 && b.frames.length === 500, 'frames arrive');
  const texts = (node: TestNode, from: string): string[] => node.frames.filter((f) => f.from === from).map((f) => f.frame.toString());
  assert.deepEqual(texts(b, 'a'), Array.from({ length: 500 }, (_, i) => `a${i}`));
  assert.deepEqual(texts(a, 'b'), Array.from({ length: 500 }, (_, i) => `b${i}`));
  assert.deepEqual(texts(a, 'c'), Array.from({ length: 500 }, (_, i) => `c${i}`));
  assert.deepEqual(a.ups.map((peer) => peer.name).sort(), ['b', 'c']);
  assert.ok(Math.abs(a.links.clockOffsets().get('b') ?? 9999) < 500);
});

test('a frame may be reused by its sender at once', async () => {
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  const frame = Buffer.from('first');
  a.links.send('b', frame);
  frame.write('xxxxx');
  await until(() => b.frames.length === 1, 'frame arrives');
  assert.equal(b.frames[0]?.frame.toString(), 'first');
});

test('requests are answered by id, in whatever order the answers come', async () => {
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  const held: (() => void)[] = [];
  b.serve = (body, reply) => held.push(() => reply(Buffer.from(`answer to ${Buffer.from(body)}`)));
  const outcomes = Array.from({ length: 50 }, (_, i) => ask(a, 'b', `q${i}`));
  await until(() => held.length === 50, 'requests arrive');
  for (const answer of held.reverse()) answer();
  await until(() => outcomes.every((o) => o.length === 1), 'answers arrive');
  outcomes.forEach((o, i) => assert.deepEqual(o, [{ failure: null, answer: `answer to q${i}` }]));
});

test('both directions ask at once, and a second reply changes nothing', async () => {
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  b.serve = (body, reply) => {
    reply(body);
    reply(Buffer.from('again'));
  };
  const there = ask(a, 'b', 'x');
  const back = ask(b, 'a', 'y');
  await until(() => there.length + back.length === 2, 'answers arrive');
  assert.deepEqual([...there, ...back], [{ failure: null, answer: 'x' }, { failure: null, answer: 'y' }]);
});

test('a handler that throws is remote_error, and the link stays', async () => {
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  b.serve = () => {
    throw new Error('broken');
  };
  const failed = ask(a, 'b', 'x');
  await until(() => failed.length === 1, 'failure arrives');
  assert.deepEqual(failed, [{ failure: 'remote_error', answer: null }]);
  assert.ok(a.links.isUp('b'));
});

test('a request without an answer is lost after its time, and a late answer is ignored', async () => {
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  let late = (): void => {};
  b.serve = (body, reply) => {
    late = () => reply(body);
  };
  const started = performance.now();
  const outcome = ask(a, 'b', 'x', 200);
  await until(() => outcome.length === 1, 'time runs out');
  assert.deepEqual(outcome, [{ failure: 'lost', answer: null }]);
  const took = performance.now() - started;
  assert.ok(took >= 195 && took < 1500, `${took} ms`);
  late();
  b.serve = (body, reply) => reply(body);
  const next = ask(a, 'b', 'y');
  await until(() => next.length === 1, 'next answer');
  assert.deepEqual([outcome.length, next], [1, [{ failure: null, answer: 'y' }]]);
});

test('a request to a node without a link is link_down, and not before request returned', async () => {
  const [a] = await linked('a', 'b');
  assert.ok(a);
  const outcome = ask(a, 'nobody', 'x');
  assert.equal(outcome.length, 0);
  await until(() => outcome.length === 1, 'failure');
  assert.deepEqual(outcome, [{ failure: 'link_down', answer: null }]);
  assert.equal(a.links.send('nobody', Buffer.from('x')), false);
});

test('when a link breaks, sent requests are lost, unsent ones link_down, each told once; then it comes back', async () => {
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  b.serve = () => {};
  const sent = Array.from({ length: 20 }, (_, i) => ask(a, 'b', `sent${i}`));
  await until(() => b.asked.length === 20, 'requests arrive');
  const unsent = ask(a, 'b', 'unsent');
  // Ends the link before the turn's batch is flushed.
  a.links.setPeers(new Map());
  assert.deepEqual(a.downs, ['b']);
  assert.deepEqual(unsent, [{ failure: 'link_down', answer: null }]);
  for (const outcome of sent) assert.deepEqual(outcome, [{ failure: 'lost', answer: null }]);
  await until(() => b.downs.length === 1, 'the other side notices');
  a.links.setPeers(peerMap(b));
  await until(() => a.links.isUp('b') && b.links.isUp('a'), 'link comes back');
  assert.equal(b.asked.some((request) => request.body === 'unsent'), false);
  assert.ok(sent.every((outcome) => outcome.length === 1) && unsent.length === 1);
});

test('a stopped node is noticed at once and relinked when it returns on the same disk', async () => {
  const a = await TestNode.start({ name: 'a', disk: 'relink-a' });
  const b = await TestNode.start({ name: 'b', disk: 'relink-b' });
  for (const node of [a, b]) node.links.setPeers(peerMap(a, b));
  await until(() => a.links.isUp('b'), 'up');
  const outcome: Outcome[][] = [];
  b.serve = () => {};
  outcome.push(ask(a, 'b', 'x'));
  await until(() => b.asked.length === 1, 'request arrives');
  const port = b.port;
  const stopping = b.stop();
  await until(() => a.downs.length === 1, 'noticed', 500);
  await stopping;
  assert.deepEqual(outcome, [[{ failure: 'lost', answer: null }]]);
  const again = await TestNode.start({ name: 'b', disk: 'relink-b', port });
  again.links.setPeers(peerMap(a));
  await until(() => a.links.isUp('b') && again.links.isUp('a'), 'up again');
  assert.equal(a.ups.at(-1)?.generation, 2);
});

test('a peer without the key is refused before the upgrade, which both sides tell once', async () => {
  const a = await TestNode.start({ name: 'a', secret: 'wrong' });
  const b = await TestNode.start({ name: 'b', secret: 'right' });
  for (const node of [a, b]) node.links.setPeers(peerMap(a, b));
  await until(() => a.links.refusals().length === 1 && b.links.refusals().length === 1, 'refusals');
  assert.match(a.links.refusals()[0]?.reason ?? '', /401.*no key of this cluster/);
  assert.equal(b.links.refusals()[0]?.node, 'a');
  let tries = 0;
  b.server.on('upgrade', () => {
    tries += 1;
  });
  await until(() => tries >= 3, 'three more tries');
  assert.equal(a.warnings.length, 1);
  assert.equal(b.warnings.length, 1);
  assert.deepEqual([a.ups, b.ups], [[], []]);
});

test('a second node with the name of a member but another disk is refused with the reason', async () => {
  const b = await TestNode.start({ name: 'b' });
  const a = await TestNode.start({ name: 'a', stores: new Map([['b', 'the-real-store']]) });
  for (const node of [a, b]) node.links.setPeers(peerMap(a, b));
  await until(() => a.links.refusals().length === 1 && b.links.refusals().length === 1, 'refused');
  assert.match(a.links.refusals()[0]?.reason ?? '', /member with data directory the-real-store/);
  assert.match(b.links.refusals()[0]?.reason ?? '', /this node steps back: .*node 'a' remembers: .*the-real-store/);
  assert.equal(b.warnings.length, 1);
  assert.deepEqual([a.links.up(), b.links.up()], [[], []]);
});

test('a copy of a disk opened at the same generation is refused while the first one lives', async () => {
  const { copyFileSync } = await import('node:fs');
  const b = await TestNode.start({ name: 'b', disk: 'copy-b' });
  const a = await TestNode.start({ name: 'a', disk: 'copy-a' });
  copyFileSync(join(directory, 'copy-a'), join(directory, 'copy-a2'));
  // Both take generation 2 from the same past.
  await a.stop();
  const first = await TestNode.start({ name: 'a', disk: 'copy-a' });
  for (const node of [first, b]) node.links.setPeers(peerMap(first, b));
  await until(() => b.links.isUp('a'), 'first is up');
  const second = await TestNode.start({ name: 'a', disk: 'copy-a2' });
  second.links.setPeers(peerMap(b));
  await until(() => second.links.refusals().length === 1, 'second is refused');
  assert.match(second.links.refusals()[0]?.reason ?? '', /opened twice/);
  assert.ok(first.links.isUp('b') && b.links.isUp('a'));
  assert.deepEqual(b.downs, []);
});

test('a rolled back disk is refused, even once restarts have carried its generation past', async () => {
  const { copyFileSync } = await import('node:fs');
  const b = await TestNode.start({ name: 'b' });
  let a = await TestNode.start({ name: 'a', disk: 'rolled' });
  copyFileSync(join(directory, 'rolled'), join(directory, 'rolled-back'));
  await a.stop();
  a = await TestNode.start({ name: 'a', disk: 'rolled' });
  await a.stop();
  a = await TestNode.start({ name: 'a', disk: 'rolled' });
  for (const node of [a, b]) node.links.setPeers(peerMap(a, b));
  await until(() => b.links.isUp('a'), 'generation 3 is up');
  await a.stop();
  await until(() => b.downs.length === 1, 'down');
  for (const expected of [2, 3, 4, 5]) {
    const back = await TestNode.start({ name: 'a', disk: 'rolled-back' });
    assert.equal(back.identity.generation, expected);
    back.links.setPeers(peerMap(b));
    await until(() => back.links.refusals().length === 1, `generation ${expected} is refused`);
    assert.match(back.links.refusals()[0]?.reason ?? '', /rolled back/);
    await back.stop();
  }
  assert.equal(b.ups.length, 1);
});

test('beats are made while something is promised, told once durable, and remembered by peers; an idle node makes none', async () => {
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  const remembered = (): number => b.ledger.sightings().find(({ storeId }) => storeId === a.identity.storeId)?.beats ?? -1;
  await until(() => remembered() === 1, 'the first beat follows the link', 500);
  a.promises += 1;
  await until(() => remembered() === 2, 'the second follows a promise');
  const puts = (): number => a.facts.puts + b.facts.puts;
  let [last, since] = [-1, 0];
  await until(() => {
    if (puts() !== last) [last, since] = [puts(), performance.now()];
    return performance.now() - since > 2.5 * BEAT_MS;
  }, 'nobody writes for a while');
  assert.equal(a.standing.beats, 2);
});

test('a disk rolled back within one generation is refused, and steps back', async () => {
  const { copyFileSync } = await import('node:fs');
  const b = await TestNode.start({ name: 'b' });
  const a = await TestNode.start({ name: 'a', disk: 'within' });
  for (const node of [a, b]) node.links.setPeers(peerMap(a, b));
  await until(() => a.standing.beats === 1, 'first beat');
  copyFileSync(join(directory, 'within'), join(directory, 'within-copy'));
  a.promises += 1;
  // Nothing else happens: the beat at the end is the one that tells.
  await a.stop();
  const back = await TestNode.start({ name: 'a', disk: 'within-copy' });
  back.links.setPeers(peerMap(b));
  await until(() => back.links.refusals().length === 1, 'refused');
  assert.match(back.links.refusals()[0]?.reason ?? '', /steps back: .*generation 1 .*beat 2, but .* only 1/);
  await until(() => b.links.refusals().length === 1, 'refused on both sides');
  const sound = await TestNode.start({ name: 'a', disk: 'within' });
  sound.links.setPeers(peerMap(b));
  await until(() => sound.links.isUp('b'), 'the disk that remembers is admitted');
});

test('a member that knows better ends the rolled-back one for a member that does not', async () => {
  const { copyFileSync } = await import('node:fs');
  const [a, x] = [await TestNode.start({ name: 'a' }), await TestNode.start({ name: 'x', disk: 'between' })];
  const b = await TestNode.start({ name: 'b' });
  for (const node of [a, x]) node.links.setPeers(peerMap(a, x));
  await until(() => x.standing.beats === 1, 'first beat');
  copyFileSync(join(directory, 'between'), join(directory, 'between-copy'));
  x.promises += 1;
  await x.stop();
  // b never met x, and a is cut off from the one that comes back: b admits it, having nothing to hold against it.
  const back = await TestNode.start({ name: 'x', disk: 'between-copy' });
  back.links.setPeers(peerMap(b));
  b.links.setPeers(peerMap(back));
  await until(() => b.links.isUp('x') && back.links.isUp('b'), 'admitted by b');
  a.links.setPeers(peerMap(b));
  b.links.setPeers(peerMap(back, a));
  await until(() => b.downs.includes('x') && back.standing.steppedBack !== null, 'a tells b, b ends it');
  assert.match(b.links.refusals()[0]?.reason ?? '', /refused here: .*seen by node 'a' at beat 2/);
  assert.equal(back.standing.steppedBack?.by, 'b');
  assert.match(back.steppedBack.join('\n'), /^this node steps back: .*node 'b' remembers: .*rolled back/);
  await back.stop();
  // For good: its own mark comes before anything a peer could say.
  const again = await TestNode.start({ name: 'x', disk: 'between-copy' });
  again.links.setPeers(peerMap(a, b));
  b.links.setPeers(peerMap(a, again));
  assert.equal(again.links.refusals().length, 1);
  await until(() => b.links.refusals().some(({ reason }) => /it has stepped back/.test(reason)), 'whoever dials it learns why');
  assert.deepEqual([again.ups, again.steppedBack.length], [[], 1]);
});

test('what a member hears in a beat ends a link too: of two that run from one disk, only the later open stays', async () => {
  const { copyFileSync } = await import('node:fs');
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  const x = await TestNode.start({ name: 'x', disk: 'live' });
  x.links.setPeers(peerMap(a));
  a.links.setPeers(peerMap(b, x));
  await until(() => x.standing.beats === 1, 'first beat');
  copyFileSync(join(directory, 'live'), join(directory, 'live-copy'));
  // Opened while the original runs; a, which would know, is not asked.
  const copy = await TestNode.start({ name: 'x', disk: 'live-copy' });
  copy.links.setPeers(peerMap(b));
  b.links.setPeers(peerMap(a, copy));
  await until(() => b.links.isUp('x') && copy.links.isUp('b'), 'admitted by b');
  await until(() => x.standing.steppedBack !== null, 'b tells a, a ends the original');
  assert.match(x.standing.steppedBack?.reason ?? '', /seen by node 'b' at generation 2/);
  assert.deepEqual([copy.standing.steppedBack, b.links.isUp('x'), a.links.isUp('x')], [null, true, false]);
});

test('one member that remembers is enough: the rolled-back node leaves those that admitted it by itself', async () => {
  const { copyFileSync } = await import('node:fs');
  const [a, x] = [await TestNode.start({ name: 'a' }), await TestNode.start({ name: 'x', disk: 'one' })];
  const b = await TestNode.start({ name: 'b' });
  for (const node of [a, x]) node.links.setPeers(peerMap(a, x));
  await until(() => x.standing.beats === 1, 'first beat');
  copyFileSync(join(directory, 'one'), join(directory, 'one-copy'));
  x.promises += 1;
  await x.stop();
  // a and b never talk to each other.
  const back = await TestNode.start({ name: 'x', disk: 'one-copy' });
  for (const node of [back, b]) node.links.setPeers(peerMap(back, b));
  await until(() => back.links.isUp('b'), 'admitted by b');
  back.links.setPeers(peerMap(a, b));
  a.links.setPeers(peerMap(back));
  await until(() => back.standing.steppedBack !== null && b.downs.includes('x'), 'it leaves b on what a says');
  assert.equal(back.standing.steppedBack?.by, 'a');
});

test('a newer open of the same disk takes the place of an older link', async () => {
  const b = await TestNode.start({ name: 'b' });
  const old = await TestNode.start({ name: 'a', disk: 'newer' });
  for (const node of [old, b]) node.links.setPeers(peerMap(old, b));
  await until(() => b.links.isUp('a'), 'old is up');
  // An open that ended: its last beat, made as soon as the link was up, is on the disk that the next one reads.
  await until(() => old.standing.beats === 1 && !old.standing.due, 'old has told its beat');
  const young = await TestNode.start({ name: 'a', disk: 'newer' });
  young.links.setPeers(peerMap(b));
  await until(() => young.links.isUp('b'), 'young is up');
  await until(() => old.links.refusals().length === 1, 'old is refused when it dials again');
  assert.deepEqual(b.ups.map((peer) => peer.generation), [1, 2]);
  assert.deepEqual(b.downs, ['a']);
  young.links.send('b', Buffer.from('young'));
  await until(() => b.frames.length === 1, 'frame');
  assert.equal(b.frames[0]?.frame.toString(), 'young');
});

test('a peer that falls silent without closing is given up within about a second', async () => {
  const b = await TestNode.start({ name: 'b' });
  const a = await TestNode.start({ name: 'a' });
  const proxy = await FreezableProxy.start(b.port);
  try {
    a.links.setPeers(new Map([['b', `127.0.0.1:${proxy.port}`]]));
    b.links.setPeers(peerMap(a));
    await until(() => a.links.isUp('b') && b.links.isUp('a'), 'up');
    proxy.freeze();
    const frozen = performance.now();
    await until(() => a.downs.length === 1 && b.downs.length === 1, 'both give up', 3000);
    const took = performance.now() - frozen;
    assert.ok(took > 500 && took < 2500, `${took} ms`);
    proxy.thaw();
    await until(() => a.links.isUp('b') && b.links.isUp('a'), 'up again');
  } finally {
    proxy.stop();
  }
});

test('a stall of the own event loop is not held against the peer', async () => {
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  for (let i = 0; i < 3; i++) {
    const end = performance.now() + 1200;
    while (performance.now() < end);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.deepEqual([a.downs, b.downs], [[], []]);
});

test('a peer that does not read cannot make the sender hold more than the bound', async () => {
  const b = await TestNode.start({ name: 'b' });
  const a = await TestNode.start({ name: 'a' });
  const proxy = await FreezableProxy.start(b.port);
  try {
    a.links.setPeers(new Map([['b', `127.0.0.1:${proxy.port}`]]));
    await until(() => a.links.isUp('b'), 'up');
    proxy.freeze();
    const frame = Buffer.alloc(1024 * 1024);
    let sent = 0;
    while (a.links.send('b', frame) && sent < 100) sent += 1;
    assert.ok(sent >= 30 && sent < 100, `${sent} MiB accepted`);
    assert.ok(a.links.bufferedBytes('b') <= 33 * 1024 * 1024);
    const refused = ask(a, 'b', 'x'.repeat(2 * 1024 * 1024));
    await until(() => refused.length === 1, 'request is refused');
    assert.deepEqual(refused, [{ failure: 'link_down', answer: null }]);
    assert.equal(a.links.send('b', Buffer.alloc(FRAME_BYTES_MAX)), false);
  } finally {
    proxy.stop();
  }
});

test('a large frame arrives whole', async () => {
  const [a, b] = await linked('a', 'b');
  assert.ok(a && b);
  const frame = Buffer.alloc(24 * 1024 * 1024, 7);
  assert.ok(a.links.send('b', frame));
  await until(() => b.frames.length === 1, 'frame');
  assert.ok(b.frames[0]?.frame.equals(frame));
});

test('bytes that are not a frame end the link, and a frame before the handshake never reaches the node', async () => {
  const { WebSocket } = await import('ws');
  const b = await TestNode.start({ name: 'b' });
  const ws = new WebSocket(`ws://${b.address}${PEER_PATH}`, { headers: { authorization: 'Bearer secret' } });
  const closed = new Promise<void>((resolve) => ws.on('close', () => resolve()));
  ws.on('open', () => ws.send(Buffer.from([1, 2, 3])));
  await closed;
  assert.deepEqual([b.frames, b.ups], [[], []]);
});

test('an upgrade cut short harms nobody', async () => {
  const b = await TestNode.start({ name: 'b' });
  for (let i = 0; i < 5; i++) {
    const socket = connect(b.port, '127.0.0.1');
    await new Promise<void>((resolve) => socket.on('connect', () => resolve()));
    const gone = new Promise<void>((resolve) => socket.on('close', () => resolve()));
    socket.write(`GET ${PEER_PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer secret\r\n\r\n`);
    socket.destroySoon();
    await gone;
  }
  const a = await TestNode.start({ name: 'a' });
  for (const node of [a, b]) node.links.setPeers(peerMap(a, b));
  await until(() => b.links.isUp('a'), 'up');
});

/** Forwards TCP until frozen: then it reads nothing more and closes nothing. */
class FreezableProxy {
  readonly #server = createTcpServer();
  readonly #sockets = new Set<Socket>();
  #frozen = false;

  static async start(targetPort: number): Promise<FreezableProxy> {
    const proxy = new FreezableProxy();
    proxy.#server.on('connection', (client) => {
      const upstream = connect(targetPort, '127.0.0.1');
      for (const [from, to] of [[client, upstream], [upstream, client]] as const) {
        proxy.#sockets.add(from);
        from.on('error', () => from.destroy());
        from.on('data', (chunk) => to.write(chunk));
        from.on('close', () => {
          proxy.#sockets.delete(from);
          if (!proxy.#frozen) to.destroy();
        });
        if (proxy.#frozen) from.pause();
      }
    });
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get port(): number {
    const address: AddressInfo | string | null = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  freeze(): void {
    this.#frozen = true;
    for (const socket of this.#sockets) socket.pause();
  }

  thaw(): void {
    this.#frozen = false;
    for (const socket of this.#sockets) socket.destroy();
  }

  stop(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}
