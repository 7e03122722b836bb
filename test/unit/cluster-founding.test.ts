import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { PeerKeys } from '../../src/cluster/auth.ts';
import { Founding } from '../../src/cluster/founding.ts';
import type { PeerRoute } from '../../src/cluster/founding.ts';
import { encodeDocument, recordDigest } from '../../src/cluster/hello.ts';
import { openIdentity, readFounded } from '../../src/cluster/identity.ts';
import { admissionBody, readTable } from '../../src/cluster/joining.ts';
import type { FoundingRecord } from '../../src/cluster/ports.ts';
import { foundingTopology } from '../../src/cluster/topology.ts';
import { Crash, FileFacts } from './cluster-facts.ts';
import type { CrashPoint } from './cluster-facts.ts';

let directory = '';
let disks = 0;
const members: Member[] = [];

before(() => {
  directory = mkdtempSync(join(tmpdir(), 'fastpaca-founding-'));
});
after(() => rmSync(directory, { recursive: true, force: true }));
afterEach(async () => {
  await Promise.all(members.splice(0).map((member) => member.retire()));
});

/** One node: an address and a disk that outlive its crashes. */
class Member {
  readonly name: string;
  readonly size: number;
  readonly secrets: readonly string[];
  readonly server: Server = createServer((request, response) => void this.#handle(request, response));
  seeds: readonly string[] = [];
  disk = join(directory, `disk-${disks++}`);
  facts = new FileFacts(this.disk);
  founding: Founding | null = null;
  /** Askers whose hello is not answered, by name. */
  readonly deafTo = new Set<string>();
  readonly records: FoundingRecord[] = [];
  fatals = 0;
  /** Lets others join. */
  admits = false;
  #routes: readonly PeerRoute[] = [];

  constructor(name: string, size: number, secrets: readonly string[]) {
    this.name = name;
    this.size = size;
    this.secrets = secrets;
    members.push(this);
  }

  async listen(): Promise<this> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    return this;
  }

  get address(): string {
    const address = this.server.address();
    return typeof address === 'object' && address !== null ? `127.0.0.1:${address.port}` : '';
  }

  async start(crash: CrashPoint | null = null): Promise<void> {
    this.facts = new FileFacts(this.disk, crash);
    const founding = new Founding({
      facts: this.facts,
      identity: await openIdentity(this.facts, this.name),
      address: this.address,
      clusterSize: this.size,
      seeds: this.seeds,
      keys: new PeerKeys({ clusterSecrets: this.secrets, apiKeys: [] }),
      tls: null,
      log: { info: () => {}, warn: () => {} },
      admit: async () => {
        const record = founding.record;
        if (record === null || !this.admits) return { status: 503, body: { error: 'raft_unavailable', message: 'not today' } };
        return { status: 200, body: admissionBody({ record, table: foundingTopology(record) }) };
      },
      onForgotten: () => undefined,
      onFounded: (record) => this.records.push(record),
      fatal: (error) => {
        if (!(error instanceof Crash)) console.error(error);
        this.fatals += 1;
        void this.stop();
      },
    });
    this.founding = founding;
    this.#routes = founding.routes();
    await founding.open();
  }

  /** The process ends; address and disk stay. */
  async stop(): Promise<void> {
    const founding = this.founding;
    this.founding = null;
    this.#routes = [];
    await founding?.close();
  }

  async retire(): Promise<void> {
    await this.stop();
    await new Promise<void>((resolve) => {
      this.server.close(() => resolve());
      this.server.closeAllConnections();
    });
  }

  /** What its disk says, whoever runs. */
  get founded(): FoundingRecord | null {
    return readFounded(new FileFacts(this.disk));
  }

  get missing(): string {
    return this.founding?.missing().join('\n') ?? '';
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(Buffer.from(chunk));
    const body: unknown = JSON.parse(Buffer.concat(chunks).toString());
    const route = this.#routes.find((candidate) => candidate.path === request.url && candidate.method === request.method);
    const asker = typeof body === 'object' && body !== null && 'name' in body ? String(body.name) : '';
    if (route === undefined || this.deafTo.has(asker)) return void request.socket.destroy();
    try {
      const answer = await route.handler(body, request.headers);
      // A process that has just died answers nothing.
      if (this.founding === null) return void request.socket.destroy();
      response.writeHead(answer.status, { 'content-type': 'application/json' }).end(JSON.stringify(answer.body));
    } catch {
      request.socket.destroy();
    }
  }
}

interface GroupOptions {
  readonly size?: number;
  readonly secrets?: readonly string[];
}

async function group(names: readonly string[], options: GroupOptions = {}): Promise<Member[]> {
  const made = await Promise.all(names.map((name) => new Member(name, options.size ?? names.length, options.secrets ?? ['s']).listen()));
  for (const member of made) member.seeds = made.map((other) => other.address);
  return made;
}

async function until(condition: () => boolean, what: string, boundMs = 5000): Promise<void> {
  const deadline = performance.now() + boundMs;
  while (!condition()) {
    if (performance.now() > deadline) assert.fail(`not within ${boundMs} ms: ${what}\n${members.map((m) => `${m.name}: ${m.founding?.state} ${m.missing}`).join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const allFounded = (group: readonly Member[]): boolean => group.every((member) => member.founding?.state === 'founded');

/** No two committed records share a store, which is what "never two clusters" means. */
function assertOneCluster(group: readonly Member[]): void {
  const clusterOf = new Map<string, string>();
  for (const member of group) {
    for (const record of [...member.records, member.founded]) {
      if (record === null) continue;
      for (const { storeId } of record.members) {
        assert.equal(clusterOf.get(storeId) ?? recordDigest(record), recordDigest(record));
        clusterOf.set(storeId, recordDigest(record));
      }
    }
  }
}

/** Lets every member look around a few more times, so that what must not happen had its chance. */
async function letThemLook(group: readonly Member[]): Promise<void> {
  let hellos = 0;
  const count = (): void => {
    hellos += 1;
  };
  for (const member of group) member.server.on('request', count);
  await until(() => hellos >= 8 * group.length, 'further questions');
  for (const member of group) member.server.off('request', count);
}

test('three nodes found one cluster of themselves, each told once', async () => {
  const nodes = await group(['c', 'a', 'b']);
  await Promise.all(nodes.map((node) => node.start()));
  await until(() => allFounded(nodes), 'founded');
  assertOneCluster(nodes);
  assert.deepEqual(nodes[0]?.founded?.members.map((member) => member.name), ['a', 'b', 'c']);
  for (const node of nodes) {
    assert.equal(node.records.length, 1);
    assert.equal(node.missing, '');
  }
});

test('a seed is enough: the others are learned from it', async () => {
  const nodes = await group(['a', 'b', 'c']);
  for (const node of nodes) node.seeds = [nodes[1]?.address ?? ''];
  await Promise.all(nodes.map((node) => node.start()));
  await until(() => allFounded(nodes), 'founded');
  assertOneCluster(nodes);
});

test('a node alone founds at once, without seeds, and is the same cluster after a restart', async () => {
  const [node] = await group(['solo']);
  assert.ok(node);
  node.seeds = [];
  await node.start();
  assert.equal(node.founding?.state, 'founded');
  const clusterId = node.founding?.record?.clusterId;
  await node.stop();
  await node.start();
  assert.equal(node.founding?.record?.clusterId, clusterId);
  assert.equal(node.records.length, 2);
});

test('two of three wait, name who is missing, and found when the third comes', async () => {
  const nodes = await group(['a', 'b', 'c']);
  const [a, b, c] = nodes;
  assert.ok(a && b && c);
  await Promise.all([a.start(), b.start()]);
  await until(() => /seen a, b; 1 more needed/.test(a.missing), 'the reason');
  await letThemLook([a, b]);
  assert.match(a.missing, new RegExp(`no answer from ${c.address}`));
  assert.equal(a.founded, null);
  await c.start();
  await until(() => allFounded(nodes), 'founded');
  assertOneCluster(nodes);
});

for (const victim of ['a', 'b', 'c']) {
  for (const put of [1, 2]) {
    for (const when of ['before', 'after'] as const) {
      test(`a crash of ${victim} ${when} its ${put === 1 ? 'promise' : 'commit'} is written ends, after a restart, in one cluster`, async () => {
        const nodes = await group(['a', 'b', 'c']);
        const crashing = nodes.find((node) => node.name === victim);
        assert.ok(crashing);
        await Promise.all(nodes.map((node) => node.start(node === crashing ? { put, when } : null)));
        await until(() => crashing.fatals === 1 && crashing.founding === null, 'the crash');
        await crashing.start();
        await until(() => allFounded(nodes), 'founded');
        assertOneCluster(nodes);
        for (const node of nodes) assert.equal(new Set(node.records.map(recordDigest)).size, 1);
      });
    }
  }
}

test('all three crash again and again at every step and still end in one cluster', async () => {
  const nodes = await group(['a', 'b', 'c']);
  const points: (CrashPoint | null)[] = [{ put: 1, when: 'after' }, { put: 1, when: 'before' }, { put: 1, when: 'after' }, null];
  const life = async (node: Member): Promise<void> => {
    for (const point of points) {
      const before = node.fatals;
      await node.start(point);
      if (point === null) return;
      await until(() => node.fatals > before || node.founding?.state === 'founded', 'crash or founding', 3000).catch(() => undefined);
      await node.stop();
    }
  };
  await Promise.all(nodes.map(life));
  await until(() => allFounded(nodes), 'founded');
  assertOneCluster(nodes);
});

test('islands never found, and become one cluster when they meet', async () => {
  const nodes = await group(['a', 'b', 'c']);
  const [a, b, c] = nodes;
  assert.ok(a && b && c);
  for (const node of [a, b]) node.deafTo.add('c');
  c.deafTo.add('a').add('b');
  await Promise.all(nodes.map((node) => node.start()));
  await until(() => /seen a, b;/.test(a.missing) && /seen c; 2 more needed/.test(c.missing), 'reasons');
  await letThemLook(nodes);
  assert.ok(nodes.every((node) => node.founded === null && node.founding?.state === 'founding'));
  for (const node of nodes) node.deafTo.clear();
  await until(() => allFounded(nodes), 'founded');
  assertOneCluster(nodes);
});

test('proposers with different views never share a member', async () => {
  // a sees b and c; b sees c and d: both views are complete for a cluster of three, and both contain b and c.
  const nodes = await group(['a', 'b', 'c', 'd'], { size: 3 });
  const [a, b, c, d] = nodes;
  assert.ok(a && b && c && d);
  d.deafTo.add('a');
  a.deafTo.add('b').add('c').add('d');
  await Promise.all(nodes.map((node) => node.start()));
  await until(() => nodes.some((node) => node.founding?.hello().promised !== null), 'a promise');
  await letThemLook([b, c, d]);
  assertOneCluster(nodes);
  a.deafTo.clear();
  d.deafTo.clear();
  await letThemLook(nodes);
  assertOneCluster(nodes);
});

test('a node that comes after the founding is a joiner and says so', async () => {
  const nodes = await group(['a', 'b', 'c', 'd'], { size: 3 });
  for (const node of nodes.slice(0, 2)) await node.start();
  const [, , c, d] = nodes;
  await d?.start();
  await until(() => allFounded(nodes.filter((node) => node !== c)), 'a, b, d found');
  await c?.start();
  await until(() => c?.founding?.state === 'joiner', 'c is a joiner');
  await until(() => /node '[abd]' does not admit this node: not today/.test(c?.missing ?? ''), 'the reason');
  assertOneCluster(nodes);
  for (const node of nodes) node.admits = true;
  await until(() => allFounded(nodes), 'c is admitted');
  assertOneCluster(nodes);
  assert.ok(c && readTable(c.facts) !== null, 'with the table, for its members are not what the record says');
});

for (const secrets of [[], ['s']]) {
  test(`a store that took the place of another founds nothing; without seeds it joins the cluster it is an heir of (${secrets.length} secrets)`, async () => {
    const [lone, a, c] = await group(['lone', 'a', 'c'], { size: 1, secrets });
    assert.ok(lone && a && c);
    a.seeds = [];
    a.admits = true;
    await a.start();
    const { clusterId, mintedKey } = a.founded ?? assert.fail('a is founded');
    const inherit = (node: Member, addresses: readonly string[]): Promise<void> => {
      node.seeds = [];
      return new FileFacts(node.disk).put('rebirth/inheritance', encodeDocument({ clusterId, mintedKey, addresses, reason: 'it forgot' }));
    };
    await inherit(lone, []);
    await lone.start();
    assert.deepEqual([lone.founding?.state, lone.founded], ['joiner', null]);
    assert.match(lone.missing, /was set aside, .* \(it forgot\)/);
    await inherit(c, [a.address]);
    await c.start();
    await until(() => c.founding?.state === 'founded', 'it joined');
    assert.equal(c.founded?.clusterId, clusterId);
    assert.equal(lone.founded, null);
  });
}

test('a store that took the place of another does not join a cluster that it is no heir of', async () => {
  const [b, c] = await group(['b', 'c'], { size: 1 });
  assert.ok(b && c);
  Object.assign(b, { seeds: [], admits: true });
  await b.start();
  await new FileFacts(c.disk).put('rebirth/inheritance', encodeDocument({ clusterId: 'lost', mintedKey: '', addresses: [], reason: 'it forgot' }));
  await c.start();
  await until(() => /node 'b' belongs to cluster .*, but this node to cluster lost/.test(c.missing), 'the reason');
  await letThemLook([b]);
  assert.deepEqual([c.founding?.state, c.founded], ['joiner', null]);
});

test('more nodes than the cluster has members: the lowest names them all and proposes nothing', async () => {
  const nodes = await group(['a', 'b', 'c', 'd'], { size: 3 });
  const [a, ...others] = nodes;
  assert.ok(a);
  // a, which alone may propose, sees nobody until the others are there.
  for (const node of others) node.deafTo.add('a');
  await Promise.all(nodes.map((node) => node.start()));
  await until(() => others.every((node) => node.founding?.discovery.seen().length === 3), 'the others see all');
  // The three higher names must not found without the lowest, which they see.
  assert.ok(others.every((node) => node.founding?.hello().promised === null));
  await until(() => /4 nodes are here: a, b, c, d; FASTPACA_CLUSTER_SIZE/.test(others[0]?.missing ?? ''), 'the reason');
  assert.ok(nodes.every((node) => node.founded === null));
});

test('two nodes with one name are reported and do not found', async () => {
  const nodes = await group(['a', 'b', 'b'], { size: 3 });
  await Promise.all(nodes.map((node) => node.start()));
  await until(() => nodes.every((node) => /more than one node is named 'b'/.test(node.missing)), 'the clash');
  await letThemLook(nodes);
  assert.ok(nodes.every((node) => node.founded === null));
});

test('nodes that disagree on the size do not found', async () => {
  const two = await group(['a', 'b'], { size: 2 });
  const [other] = await group(['b2'], { size: 3 });
  const [a, b] = two;
  assert.ok(a && b && other);
  a.seeds = [other.address];
  other.seeds = [a.address];
  await Promise.all([a.start(), other.start()]);
  await until(() => /'b2' founds a cluster of 3, this node one of 2/.test(a.missing), 'the reason');
  await letThemLook([a]);
  assert.equal(a.founded, null);
});

for (const secrets of [['s'], []]) {
  test(`a member whose disk was emptied is told why it is not let in, and founds nothing (${secrets.length === 0 ? 'open founding' : 'secret'})`, async () => {
    const nodes = await group(['a', 'b', 'c'], { secrets });
    await Promise.all(nodes.map((node) => node.start()));
    await until(() => allFounded(nodes), 'founded');
    const c = nodes[2];
    assert.ok(c);
    const old = c.founded;
    await c.stop();
    c.disk += '-new';
    await c.start();
    if (secrets.length > 0) {
      await until(() => c.founding?.state === 'joiner', 'it asks to come back');
      await until(() => /does not admit this node: not today/.test(c.missing), 'the reason');
    } else {
      // It lost the key that founding minted.
      await until(() => c.founding?.state === 'refused', 'refused');
      assert.match(c.missing, /node 'c' is known to cluster .* with another data directory \(store .*\); this one is empty/);
    }
    assert.equal(c.founded, null);
    assert.notEqual(old, null);
  });
}

test('a wiped node that met the founded cluster does not found with other empty nodes', async () => {
  const nodes = await group(['a', 'b', 'c']);
  await Promise.all(nodes.map((node) => node.start()));
  await until(() => allFounded(nodes), 'founded');
  const [a, b, c] = nodes;
  assert.ok(a && b && c);
  await c.stop();
  c.disk += '-new';
  await c.start();
  await until(() => c.founding?.state === 'joiner', 'it wants to join');
  await Promise.all([a.stop(), b.stop()]);
  const empties = await group(['aa', 'ab'], { size: 3 });
  for (const node of empties) {
    node.seeds = [c.address, ...empties.map((other) => other.address)];
    await node.start();
  }
  await letThemLook(empties);
  assert.ok(empties.every((node) => node.founded === null));
  assert.match(empties[0]?.missing ?? '', /node 'c' cannot take part: node '[abc]' (asks to join|does not admit)|asking node '[ab]' to join failed/);
  assert.equal(empties[0]?.founding?.hello().promised, null);
});

test('a disk rolled back to before its promise is refused, not taken for a member', async () => {
  const nodes = await group(['a', 'b', 'c']);
  const [, , c] = nodes;
  assert.ok(c);
  const { copyFileSync } = await import('node:fs');
  await c.start();
  copyFileSync(c.disk, `${c.disk}-early`);
  await Promise.all(nodes.slice(0, 2).map((node) => node.start()));
  await until(() => allFounded(nodes), 'founded');
  await c.stop();
  c.disk += '-early';
  await c.start();
  await until(() => c.founding?.state === 'refused', 'refused');
  assert.match(c.missing, /rolled back/);
});

test('a member promises one record for ever and names both when asked for another', async () => {
  const [node] = await group(['b'], { size: 2 });
  assert.ok(node);
  node.seeds = [];
  await node.start();
  const storeId = node.founding?.hello().storeId ?? '';
  const record = (clusterId: string): FoundingRecord => ({
    clusterId,
    members: [{ name: 'a', storeId: 'a-store', address: 'nowhere.invalid:1' }, { name: 'b', storeId, address: node.address }],
    mintedKey: 'k',
  });
  const ask = async (path: string, body: unknown): Promise<{ status: number; body: object }> => {
    const route = node.founding?.routes().find((candidate) => candidate.path === path);
    return (await route?.handler(body, { authorization: 'Bearer s' })) ?? assert.fail(path);
  };
  // Two proposals at the same moment: one wins, and stays the winner.
  const [first, second] = await Promise.all(['one', 'two'].map((id) => ask('/_peer/founding/promise', { record: record(id) })));
  assert.deepEqual([first?.status, second?.status], [200, 409]);
  assert.match(JSON.stringify(second?.body), /has promised cluster one of a, b; it cannot promise cluster two/);
  await node.stop();
  await node.start();
  assert.equal((await ask('/_peer/founding/promise', { record: record('two') })).status, 409);
  assert.equal((await ask('/_peer/founding/promise', { record: record('one') })).status, 200);
  assert.equal((await ask('/_peer/founding/commit', { digest: recordDigest(record('two')) })).status, 409);
  assert.equal(node.founded, null);
  assert.equal((await ask('/_peer/founding/commit', { digest: recordDigest(record('one')) })).status, 200);
  assert.deepEqual(node.records.map((committed) => committed.clusterId), ['one']);
  assert.equal((await ask('/_peer/founding/promise', { record: { clusterId: 'x' } })).status, 400);
});

test('without the key nobody takes part', async () => {
  const [a] = await group(['a'], { size: 2, secrets: ['right'] });
  const [b] = await group(['b'], { size: 2, secrets: ['wrong'] });
  assert.ok(a && b);
  a.seeds = [b.address];
  b.seeds = [a.address];
  await Promise.all([a.start(), b.start()]);
  await until(() => /HTTP 401/.test(a.missing) && /HTTP 401/.test(b.missing), 'the reason');
  assert.deepEqual([a.founded, b.founded], [null, null]);
});

test('nodes without any key found openly and demand the minted key afterwards', async () => {
  const nodes = await group(['a', 'b', 'c'], { secrets: [] });
  await Promise.all(nodes.map((node) => node.start()));
  await until(() => allFounded(nodes), 'founded');
  const route = nodes[0]?.founding?.routes()[0];
  const body = nodes[1]?.founding?.hello();
  assert.equal((await route?.handler(body, {}))?.status, 401);
  const key = nodes[2]?.records[0]?.mintedKey;
  assert.equal((await route?.handler(body, { authorization: `Bearer ${key}` }))?.status, 200);
});
