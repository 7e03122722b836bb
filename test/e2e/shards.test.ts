/** Nodes that are divided into shards, as real processes: they answer, keep and stop like nodes that are not. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { get, request, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { groupOf } from '../../src/cluster/placement.ts';
import { shardOf } from '../../src/cluster/seat.ts';
import { freePort } from './ports.ts';
import { call, ClusterProcesses, NodeProcess, until } from './processes.ts';
import { execute } from './programs.ts';
import { StreamClient, streamUrl } from './stream-client.ts';

const IDS = Array.from({ length: 40 }, (_, i) => `chat/${String(i).padStart(2, '0')}`);
const path = (id: string): string => `/v1/contexts/${encodeURIComponent(id)}`;
const said = (text: string): object => ({ message: { role: 'user', parts: [{ type: 'text', text }] } });
/** Each call on a connection of its own, which the system gives to any shard. */
const anywhere = { connection: 'close' };

interface Ack {
  readonly id: string;
  readonly seq: number;
  readonly text: string;
}

async function append(url: string, id: string, text: string): Promise<Ack> {
  const { status, json, text: body } = await call(`${url}${path(id)}/messages`, 'POST', said(text), anywhere);
  assert.equal(status, 201, body);
  return { id, seq: Number(json['seq']), text };
}

async function texts(url: string, id: string): Promise<string[]> {
  const { status, json, text } = await call(`${url}${path(id)}/messages?limit=1000`, 'GET', undefined, anywhere);
  assert.equal(status, 200, text);
  const messages = json['messages'];
  assert.ok(Array.isArray(messages));
  return messages.map((message: { parts: { text: string }[] }) => message.parts[0]?.text ?? '');
}

async function metric(url: string, name: string): Promise<number> {
  const { text } = await call(`${url}/metrics`, 'GET', undefined, anywhere);
  const lines = text.split('\n').filter((line) => line.startsWith(name) && !line.startsWith('#'));
  assert.ok(lines.length > 0, name);
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
}

function shardedNodes(count: number, env: Record<string, string> = {}): Promise<ClusterProcesses> {
  return ClusterProcesses.create(count, { FASTPACA_SHARDS: '2', FASTPACA_REQUEST_TIMEOUT_MS: '2000', ...env }, () => freePort(3));
}

/** The status of a call from another address than all others here. */
async function statusFromElsewhere(port: number, path: string): Promise<number | undefined> {
  const asked = get({ host: '127.0.0.1', port, path, localAddress: '127.0.0.9', agent: false });
  const [response]: IncomingMessage[] = await once(asked, 'response');
  response?.resume();
  return response?.statusCode;
}

/** Starts a node that must not start; what it says then. */
async function refused(node: NodeProcess, env: Record<string, string>, line: RegExp): Promise<void> {
  node.start(env);
  await until('the node to refuse its start', () => !node.running, 30_000);
  assert.equal((await node.exited()).code, 2);
  await until('the line', async () => line.test(await node.log()));
}

/** How the shards of a node come to share its port, by the environment that a system is one of. */
const SYSTEMS: Readonly<Record<string, Record<string, string>>> = {
  'on a port that both listen on': {},
  'behind a thread that listens and forwards': { NODE_OPTIONS: `--import=${import.meta.resolve('./without-shared-ports.ts')}` },
};

for (const [system, env] of Object.entries(SYSTEMS)) describe(`one node, two shards ${system}`, () => {
  let cluster: ClusterProcesses;
  let node: NodeProcess;
  const written = new Map<string, string[]>();

  before(async () => {
    cluster = await shardedNodes(1, env);
    node = cluster.node(0);
    node.start();
    await node.ready();
    assert.equal((await node.log()).includes('port_not_shared'), 'NODE_OPTIONS' in env);
    for (const id of IDS) assert.equal((await call(`${node.url}${path(id)}`, 'PUT', {}, anywhere)).status, 201);
    await Promise.all(IDS.map(async (id) => {
      const own: string[] = [];
      written.set(id, own);
      for (let i = 1; i <= 5; i++) {
        const text = `${id} ${i}`;
        assert.equal((await append(node.url, id, text)).seq, i);
        own.push(text);
      }
    }));
  });
  after(() => cluster.stop());

  test('the contexts are of both shards, and any connection reads and writes all of them', async () => {
    assert.deepEqual(new Set(IDS.map((id) => shardOf(groupOf(id), 2))), new Set([0, 1]));
    for (const id of IDS) {
      assert.deepEqual(await texts(node.url, id), written.get(id));
      const { status, json } = await call(`${node.url}${path(id)}/context`, 'GET', undefined, anywhere);
      assert.deepEqual([status, json['version']], [200, 5]);
    }
  });

  test('refusals pass from shard to shard as they are', async () => {
    for (const id of IDS.slice(0, 8)) {
      const stale = await call(`${node.url}${path(id)}/messages`, 'POST', { ...said('late'), if_version: 3 }, anywhere);
      assert.deepEqual([stale.status, stale.json['error'], stale.json['expected'], stale.json['found']], [409, 'conflict', 3, 5]);
    }
    for (let i = 0; i < 8; i++) assert.equal((await call(`${node.url}${path(`none-${i}`)}`, 'GET', undefined, anywhere)).status, 404);
  });

  test('a listing goes over the groups of both shards, in order, whichever is asked', async () => {
    for (let round = 0; round < 4; round++) {
      const found: string[] = [];
      for (let cursor: string | null = ''; cursor !== null;) {
        const { status, text } = await call(`${node.url}/v1/contexts?limit=7${cursor === '' ? '' : `&cursor=${cursor}`}`, 'GET', undefined, anywhere);
        assert.equal(status, 200, text);
        const page: { contexts: { id: string }[]; next_cursor: string | null } = JSON.parse(text);
        found.push(...page.contexts.map(({ id }) => id));
        cursor = page.next_cursor;
      }
      assert.deepEqual(found, IDS);
    }
  });

  test('streams replay and go on live, whichever shard the client reached', async () => {
    const clients = await Promise.all(IDS.slice(0, 12).map(async (id) => ({ id, stream: await StreamClient.open(streamUrl(node.url, id, '?cursor=0')) })));
    for (const { id } of clients) written.get(id)?.push((await append(node.url, id, `${id} live`)).text);
    for (const { id, stream } of clients) {
      await until(`six messages of ${id}`, () => stream.of('message').length === 6);
      assert.deepEqual(stream.of('message').map(({ message }) => message?.parts[0]?.text), written.get(id));
    }
    assert.equal(await metric(node.url, 'fastpaca_streams_open'), clients.length);
    for (const { stream } of clients) stream.ws.close();
  });

  test('metrics and the description of the cluster are those of one node', async () => {
    assert.equal(await metric(node.url, 'fastpaca_messages_append_total'), [...written.values()].flat().length);
    const { json } = await call(`${node.url}/v1/cluster`);
    const { nodes, groups } = json;
    assert.ok(Array.isArray(nodes) && Array.isArray(groups));
    assert.deepEqual([nodes.length, nodes[0].address, nodes[0].state, nodes[0].groups, nodes[0].leaders], [1, `127.0.0.1:${node.port}`, 'active', 257, 257]);
    assert.deepEqual(groups.map(({ id, leader, state }: { id: number; leader: string; state: string }) => [id, leader, state]), Array.from({ length: 257 }, (_, id) => [id, 'node-1', 'ok']));
  });

  test('a stop closes the port, ends streams, and answers requests that are under way', async () => {
    const id = IDS[0] ?? '';
    const stream = await StreamClient.open(streamUrl(node.url, id, '?cursor=0'));
    const ended = once(stream.ws, 'close');
    const silent = connect(node.port, '127.0.0.1');
    // Whether by an end or, where no shard has taken it yet, by a reset.
    const closed = new Promise((resolve) => silent.resume().on('error', () => undefined).once('close', resolve));
    const body = JSON.stringify(said(`${id} while stopping`));
    const writing = request(`${node.url}${path(id)}/messages`, { method: 'POST', agent: false, headers: { 'content-type': 'application/json', 'content-length': body.length, expect: '100-continue' } });
    const answered = once(writing, 'response');
    // Only a shard that has begun to read the request says this: one on its way through the system is not under way.
    await once(writing, 'continue');
    writing.write(body.slice(0, 10));
    const stopped = node.kill('SIGTERM');
    await until('the port to be closed', async () => (await node.readiness()).status === 0);
    writing.end(body.slice(10));
    const [response]: IncomingMessage[] = await answered;
    assert.deepEqual([response?.statusCode, response?.headers.connection], [201, 'close']);
    response?.resume();
    written.get(id)?.push(`${id} while stopping`);
    assert.equal((await ended)[0], 1012);
    await closed;
    assert.deepEqual(await stopped, { code: 0, signal: null });
    node.start();
    await node.ready();
  });

  test('SIGTERM stops every shard cleanly, SIGKILL loses nothing, and a restart has it all', async () => {
    assert.deepEqual(await node.kill('SIGTERM'), { code: 0, signal: null });
    assert.equal((await node.log()).match(/"message":"stopped"/g)?.length, 4, 'both shards, both times');
    node.start();
    await node.ready();
    for (const id of IDS) written.get(id)?.push((await append(node.url, id, `${id} again`)).text);
    await node.kill('SIGKILL');
    node.start();
    await node.ready();
    for (const id of IDS) assert.deepEqual(await texts(node.url, id), written.get(id));
  });

  test('another number of shards refuses to start, by a line that says what to do', async () => {
    await node.kill('SIGTERM');
    await refused(node, { FASTPACA_SHARDS: '1' }, /FASTPACA_SHARDS is 1, but the data directory .* is divided into 2 .* FASTPACA_RAFT_DATA_DIR=\S+ node src\/main.ts --reshard 1/);
    const checked = await execute('src/main.ts', ['--check'], { cwd: cluster.dir, env: { ...node.env, FASTPACA_SHARDS: '3' } });
    assert.equal(checked.code, 1);
    assert.match(checked.err, /FASTPACA_SHARDS is 3, but the data directory .* is divided into 2/);
  });

  test('a node that is divided otherwise is told so by name, and does not start divided anew by itself', async () => {
    node.start({ FASTPACA_RATE_LIMIT: '25' });
    await node.ready();
    const dir = `${cluster.dir}/other`;
    const other = new NodeProcess('other', await freePort(), dir, { FASTPACA_HOST: '127.0.0.1', FASTPACA_BALLAST_BYTES: '0', FASTPACA_RAFT_DATA_DIR: dir, FASTPACA_CLUSTER_SEED: `127.0.0.1:${node.port}` });
    try {
      other.start({ PORT: String(other.port) });
      await until('readiness to say why', async () => /runs 2 shards.*FASTPACA_SHARDS must be the same on every node/.test((await other.readiness()).text));
      await other.kill('SIGTERM');
      await refused(other, { PORT: String(other.port), FASTPACA_SHARDS: '2' }, /FASTPACA_SHARDS is 2, but the data directory .* is divided into 1 /);
    } finally {
      if (other.running) await other.kill('SIGKILL');
    }
  });

  test('a client is limited to its requests of a minute by all shards together', async () => {
    const statuses: number[] = [];
    for (let i = 0; i < 50; i++) statuses.push((await call(`${node.url}${path('none')}`, 'GET', undefined, anywhere)).status);
    assert.deepEqual(statuses, [...Array.from({ length: 25 }, () => 404), ...Array.from({ length: 25 }, () => 429)]);
    assert.equal(await statusFromElsewhere(node.port, path('none')), 404, 'another address is another client');
  });
});

describe('three nodes, two shards each', () => {
  let cluster: ClusterProcesses;

  before(async () => {
    cluster = await shardedNodes(3);
    for (const node of cluster.nodes) node.start();
    await cluster.ready();
  });
  after(() => cluster.stop());

  test('a node that is killed under load costs nothing that was acknowledged', async () => {
    const acked: Ack[] = [];
    for (const id of IDS) assert.equal((await call(`${cluster.node(0).url}${path(id)}`, 'PUT', {}, anywhere)).status, 201);
    let isOver = false;
    const writers = IDS.map(async (id, i) => {
      for (let n = 0; !isOver; n++) {
        const url = cluster.node((i + n) % 3).url;
        try {
          const text = `${id} ${n}`;
          const { status, json } = await call(`${url}${path(id)}/messages`, 'POST', said(text), anywhere);
          if (status === 201) acked.push({ id, seq: Number(json['seq']), text });
        } catch {
          // The node is down: the next try goes to another one.
        }
      }
    });
    await until('appends through all nodes', () => acked.length > 200);
    await cluster.node(1).kill('SIGKILL');
    const before = acked.length;
    await until('appends without it', () => acked.length > before + 200);
    isOver = true;
    await Promise.all(writers);
    cluster.node(1).start();
    await cluster.ready();
    for (const id of IDS) {
      const own = acked.filter((ack) => ack.id === id);
      assert.equal(new Set(own.map(({ seq }) => seq)).size, own.length, 'no number was given twice');
      const found = await texts(cluster.node(1).url, id);
      for (const { seq, text } of own) assert.equal(found[seq - 1], text, `${id} seq ${seq}`);
    }
  });

  test('draining and undraining a node goes for every shard', async () => {
    const { url } = cluster.node(0);
    const refused = await call(`${url}/v1/cluster/nodes/node-2/drain`, 'POST', undefined, anywhere);
    assert.deepEqual([refused.status, refused.json['error']], [409, 'would_lose_quorum'], 'three nodes can spare none');
    const { json } = await call(`${url}/v1/cluster`);
    assert.ok(Array.isArray(json['nodes']));
    assert.deepEqual(json['nodes'].map(({ state }: { state: string }) => state), ['active', 'active', 'active']);
    assert.equal((await call(`${url}/v1/cluster/nodes/node-7/drain`, 'POST', undefined, anywhere)).status, 404);
    assert.equal((await call(`${url}/v1/cluster/groups/5/transfer`, 'POST', { to: 'node-3' }, anywhere)).status, 202);
    await until('group 5 to be led by node-3', async () => {
      const { groups } = (await call(`${url}/v1/cluster`)).json;
      return Array.isArray(groups) && groups[5]?.leader === 'node-3';
    });
  });

  test('without a quorum every shard says of every context that nothing was applied', async () => {
    await Promise.all([cluster.node(1).kill('SIGKILL'), cluster.node(2).kill('SIGKILL')]);
    await until('leaders to step down', async () => {
      const answers = await Promise.all(IDS.slice(0, 16).map((id) => call(`${cluster.node(0).url}${path(id)}/messages`, 'POST', said('lost'), anywhere)));
      return answers.every(({ status, json }) => status === 503 && json['outcome'] === 'not_applied');
    });
    const stale = await Promise.all(IDS.map((id) => call(`${cluster.node(0).url}${path(id)}?consistency=stale`, 'GET', undefined, anywhere)));
    assert.deepEqual(new Set(stale.map(({ status }) => status)), new Set([200]));
  });
});
