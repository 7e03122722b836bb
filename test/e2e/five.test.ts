/** Five real processes: groups live on three of five, every node answers every call, the loss of one or two is survived. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { groupOf } from '../../src/cluster/placement.ts';
import { type Answer, call, ClusterProcesses, type NodeProcess, until } from './processes.ts';

interface Group {
  readonly id: number;
  readonly leader: string | null;
  readonly replicas: readonly string[];
  readonly state: string;
}

const append = (url: string, id: string, text: string): Promise<Answer> =>
  call(`${url}/v1/contexts/${id}/messages`, 'POST', { message: { role: 'user', parts: [{ type: 'text', text }] } }, { 'idempotency-key': text });

describe('five nodes', () => {
  let cluster: ClusterProcesses;
  before(async () => {
    cluster = await ClusterProcesses.start(5, { FASTPACA_REQUEST_TIMEOUT_MS: '3000' });
  });
  after(() => cluster.stop());

  const groupsOf = async (node: NodeProcess): Promise<Group[]> => (await call(`${node.url}/v1/cluster`)).json['groups'] as Group[];
  /** Retries as documented: what is not known to be applied is sent again under its key. */
  const appendSurely = async (node: NodeProcess, id: string, text: string): Promise<void> => {
    await until(`${text} to be taken by ${node.name}`, async () => {
      const { status, text: body } = await append(node.url, id, text);
      assert.ok(status === 201 || status === 503 || status === 429, body);
      return status === 201;
    });
  };
  const lastSeq = async (node: NodeProcess, id: string): Promise<unknown> => (await call(`${node.url}/v1/contexts/${id}`)).json['last_seq'];

  test('every data group lives on three nodes, the topology on all, and no node hosts everything', async () => {
    for (const node of cluster.nodes) {
      const groups = await groupsOf(node);
      assert.equal(groups.length, 257);
      for (const { id, replicas, state } of groups) {
        assert.equal(replicas.length, id === 256 ? 5 : 3);
        assert.equal(state, replicas.includes(node.name) ? 'ok' : 'remote');
      }
      assert.ok(groups.some(({ state }) => state === 'remote'));
    }
  });

  test('every node names the leader of every group, of those too that it does not host', async () => {
    for (const node of cluster.nodes) {
      await until(`${node.name} to know all leaders`, async () => (await groupsOf(node)).every(({ leader, replicas }) => leader !== null && replicas.includes(leader)));
    }
  });

  test('a context can be made, written, read, compacted and ended through any node, in turn', async () => {
    for (let i = 0; i < 10; i++) {
      const id = `ctx-${i}`;
      const at = (step: number): string => cluster.node((i + step) % 5).url;
      assert.equal((await call(`${at(0)}/v1/contexts/${id}`, 'PUT', { token_budget: 1000 })).status, 201);
      for (let step = 1; step <= 5; step++) {
        const written = await append(at(step), id, `${id}-${step}`);
        assert.deepEqual([written.status, written.json['seq']], [201, step], written.text);
        for (const node of cluster.nodes) assert.equal(await lastSeq(node, id), step, `${node.name} reads what was acknowledged`);
      }
      const replay = await append(at(0), id, `${id}-1`);
      assert.deepEqual([replay.status, replay.json['seq'], replay.headers.get('idempotent-replayed')], [201, 1, 'true']);
      const windows = await Promise.all(cluster.nodes.map(async ({ url }) => (await call(`${url}/v1/contexts/${id}/context`)).text));
      assert.equal(new Set(windows).size, 1);
      assert.equal((await call(`${at(1)}/v1/contexts/${id}/compact`, 'POST', { replacement: [{ role: 'user', parts: [] }], keep_from_seq: 5 })).status, 200);
      assert.equal((await call(`${at(2)}/v1/contexts/${id}/metadata`, 'PATCH', { metadata: { step: i } })).status, 200);
      const stale = await call(`${at(3)}/v1/contexts/${id}?consistency=stale`);
      assert.equal(stale.status, 200);
      assert.match(stale.headers.get('x-applied-index') ?? '', /^\d+$/);
      const window = await call(`${at(4)}/v1/contexts/${id}/context`);
      const same = await call(`${at(0)}/v1/contexts/${id}/context`, 'GET', undefined, { 'if-none-match': window.headers.get('etag') ?? '' });
      assert.equal(same.status, 304);
      assert.equal((await call(`${at(1)}/v1/contexts/${id}/context?if_version=1`)).status, 409);
      assert.equal((await call(`${at(4)}/v1/contexts/none`)).status, 404);
    }
    assert.equal((await call(`${cluster.node(0).url}/v1/contexts/ctx-0`, 'DELETE')).status, 204);
    for (const { url } of cluster.nodes) assert.equal((await append(url, 'ctx-0', 'too-late')).status, 409);
  });

  test('the loss of a replica is seen by no client of any other node for long, one without a replica among them', async () => {
    const groups = await groupsOf(cluster.node(0));
    const id = 'ctx-1';
    const { replicas = [] } = groups[groupOf(id)] ?? {};
    const host = cluster.nodes.find(({ name }) => name === replicas[0]) ?? assert.fail('no host');
    const stranger = cluster.nodes.find(({ name }) => !replicas.includes(name)) ?? assert.fail('no stranger');
    const before = Number(await lastSeq(stranger, id));
    await host.kill('SIGKILL');
    for (let i = 1; i <= 20; i++) {
      await appendSurely(stranger, id, `without-${host.name}-${i}`);
      assert.equal(await lastSeq(stranger, id), before + i);
    }
    host.start();
    await host.ready();
    assert.equal(await lastSeq(host, id), before + 20);
  });

  test('two of five lost: groups with a majority go on, the others say so and lose nothing', async () => {
    const [first, second] = [cluster.node(0), cluster.node(1)];
    const rest = cluster.nodes.slice(2);
    const groups = await groupsOf(first);
    const lost = (id: string): boolean => {
      const { replicas = [] } = groups[groupOf(id)] ?? {};
      return replicas.includes(first.name) && replicas.includes(second.name);
    };
    const ids = Array.from({ length: 60 }, (_, i) => `two-${i}`);
    const stuck = ids.find(lost) ?? assert.fail('no group on both');
    const free = ids.filter((id) => !lost(id)).slice(0, 6);
    for (const id of [stuck, ...free]) {
      assert.equal((await call(`${first.url}/v1/contexts/${id}`, 'PUT', {})).status, 201);
      assert.equal((await append(second.url, id, `${id}-1`)).status, 201);
    }
    await Promise.all([first.kill('SIGKILL'), second.kill('SIGKILL')]);
    for (const [i, id] of free.entries()) await appendSurely(rest[i % 3] ?? assert.fail(), id, `${id}-2`);
    for (const node of rest) for (const id of free) assert.equal(await lastSeq(node, id), 2);
    const refused = await append(rest[0]?.url ?? '', stuck, `${stuck}-2`);
    assert.equal(refused.status, 503, refused.text);
    assert.match(refused.text, /"outcome":"(not_applied|unknown)"/);
    const stale = await call(`${rest[1]?.url}/v1/contexts/${stuck}?consistency=stale`);
    assert.equal(stale.status, 200, 'the one replica left still answers stale reads, through any node');
    first.start();
    second.start();
    await cluster.ready();
    for (const node of cluster.nodes) assert.ok([1, 2].includes(Number(await lastSeq(node, stuck))));
    await appendSurely(first, stuck, `${stuck}-2`);
    for (const node of cluster.nodes) assert.equal(await lastSeq(node, stuck), 2, 'once, for the key is the same');
  });

  test('a stopping node hands its leaderships over, and no client of the others notices', async () => {
    const leaving = cluster.node(4);
    await until('leaders to be spread', async () => (await groupsOf(leaving)).filter(({ leader }) => leader === leaving.name).length > 30);
    const context = (w: number, i: number): string => `ctx-${1 + ((w * 3 + i) % 9)}`;
    let writing = true;
    let slowest = 0;
    const failures: string[] = [];
    const writers = cluster.nodes.slice(0, 4).map(async ({ url }, w) => {
      for (let i = 0; writing; i++) {
        const started = performance.now();
        const { status, text } = await append(url, context(w, i), `leaving-${w}-${i}`);
        slowest = Math.max(slowest, performance.now() - started);
        if (status !== 201) failures.push(text);
      }
    });
    assert.deepEqual(await leaving.kill('SIGTERM'), { code: 0, signal: null });
    writing = false;
    await Promise.all(writers);
    assert.deepEqual(failures, []);
    assert.ok(slowest < 3000, `the slowest append took ${Math.round(slowest)} ms`);
    leaving.start();
    await leaving.ready();
  });
});

test('two nodes: both are needed to write, either is enough for stale reads', async () => {
  const cluster = await ClusterProcesses.start(2, { FASTPACA_REQUEST_TIMEOUT_MS: '2000' });
  try {
    const [a, b] = [cluster.node(0), cluster.node(1)];
    assert.equal((await call(`${a.url}/v1/contexts/pair`, 'PUT', {})).status, 201);
    assert.equal((await append(b.url, 'pair', 'one')).status, 201);
    await b.kill('SIGKILL');
    await until('the survivor to notice', async () => (await append(a.url, 'pair', 'two')).json['outcome'] === 'not_applied');
    assert.equal((await call(`${a.url}/v1/contexts/pair?consistency=stale`)).json['last_seq'], 1);
    b.start();
    await cluster.ready();
    await until('two to be taken', async () => (await append(a.url, 'pair', 'two')).status === 201);
    for (const { url } of cluster.nodes) assert.equal((await call(`${url}/v1/contexts/pair`)).json['last_seq'], 2);
  } finally {
    await cluster.stop();
  }
});
