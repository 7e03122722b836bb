/**
 * A cluster that changes its shape under load, with real processes: nodes join, die, come back empty, are drained and
 * removed, and nothing that was acknowledged is lost or doubled on the way.
 */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses, type NodeProcess, until } from './processes.ts';

const DEAD_AFTER_MS = 1500;
const SETTLE_MS = 120_000;

interface View {
  readonly nodes: readonly { readonly id: string; readonly state: string; readonly groups: number; readonly leaders: number }[];
  readonly groups: readonly { readonly id: number; readonly leader: string | null; readonly replicas: readonly string[] }[];
  readonly moves: readonly object[];
  readonly damaged: readonly object[];
  readonly waiting: readonly string[];
}

/** Appends to a few contexts, one request at a time for each, retried as documented until it is acknowledged. */
class Load {
  readonly acked = new Map<string, string[]>();
  retries = 0;
  private readonly urls: () => readonly string[];
  private stopping = false;
  private readonly writers: Promise<void>[];

  constructor(contexts: number, urls: () => readonly string[]) {
    this.urls = urls;
    this.writers = Array.from({ length: contexts }, (_, i) => this.write(`moving-${i}`, i));
  }

  async stop(): Promise<void> {
    this.stopping = true;
    await Promise.all(this.writers);
  }

  /** Resolves when every context has taken one more message than now: none of their groups is without a quorum. */
  async advances(): Promise<void> {
    const before = new Map([...this.acked].map(([id, acked]) => [id, acked.length]));
    await until('every context to be appended to', () => [...this.acked].every(([id, acked]) => acked.length > (before.get(id) ?? 0)));
  }

  private async write(id: string, turn: number): Promise<void> {
    const acked: string[] = [];
    this.acked.set(id, acked);
    for (let n = 0; !this.stopping; n++) {
      const text = `${id}/${n}`;
      for (let attempt = 0; ; attempt++) {
        const urls = this.urls();
        const status = await appendOnce(urls[(turn + n + attempt) % urls.length] ?? '', id, text);
        if (status === 201) break;
        assert.ok([0, 404, 429, 503].includes(status), `append answered ${status}`);
        if (status === 404) assert.equal(acked.length, 0, 'a context does not vanish');
        this.retries++;
        await new Promise((resolve) => setTimeout(resolve, 20));
        if (attempt > 1500) throw new Error(`${text} is not taken`);
      }
      acked.push(text);
      await new Promise((resolve) => setTimeout(resolve, 15));
    }
  }
}

/** The status, or 0 without an answer. */
async function appendOnce(url: string, id: string, text: string): Promise<number> {
  try {
    return (await call(`${url}/v1/contexts/${id}/messages`, 'POST', { message: { role: 'user', parts: [{ type: 'text', text }] } }, { 'idempotency-key': text })).status;
  } catch {
    return 0;
  }
}

describe('membership', () => {
  let cluster: ClusterProcesses;
  let load: Load;
  /** All nodes by name, running or not; those in `serving` take requests. */
  const nodes = new Map<string, NodeProcess>();
  const serving = new Set<string>();
  const node = (name: string): NodeProcess => nodes.get(name) ?? assert.fail(name);
  const view = async (name: string): Promise<View> => (await call(`${node(name).url}/v1/cluster`)).json as unknown as View;
  const stateOf = (seen: View, name: string): View['nodes'][number] => seen.nodes.find(({ id }) => id === name) ?? assert.fail(`${name} is not in the table`);

  before(async () => {
    cluster = await ClusterProcesses.start(3, { FASTPACA_CLUSTER_SECRET: 'of-the-test', FASTPACA_NODE_DEAD_AFTER_MS: String(DEAD_AFTER_MS), FASTPACA_REQUEST_TIMEOUT_MS: '3000' });
    for (const each of cluster.nodes) {
      nodes.set(each.name, each);
      serving.add(each.name);
    }
    for (let i = 0; i < 12; i++) assert.equal((await call(`${cluster.node(i % 3).url}/v1/contexts/moving-${i}`, 'PUT', {})).status, 201);
    load = new Load(12, () => [...serving].map((name) => node(name).url));
  });
  after(async () => {
    serving.clear();
    await load.stop().catch(() => undefined);
    await cluster.stop();
  });

  async function add(name: string): Promise<void> {
    const fresh = await cluster.add(name);
    nodes.set(name, fresh);
    fresh.start();
    await fresh.ready();
    serving.add(name);
  }

  /** Waits until nothing moves any more and `holds`, as seen from `from`; then leaders are even among `active`. */
  async function settled(what: string, from: string, active: readonly string[], holds: (seen: View) => boolean): Promise<View> {
    let seen = await view(from);
    await until(what, async () => {
      seen = await view(from);
      const leaders = active.map((name) => stateOf(seen, name).leaders);
      return seen.moves.length === 0 && seen.damaged.length === 0 && holds(seen) && Math.max(...leaders) - Math.min(...leaders) <= 2 && leaders.reduce((sum, count) => sum + count, 0) === 257;
    }, SETTLE_MS).catch((error: unknown) => assert.fail(`${String(error)}: ${JSON.stringify({ ...seen, groups: [] })}`));
    await load.advances();
    for (const { id, replicas } of seen.groups) if (id !== 256) assert.equal(new Set(replicas).size, 3, `group ${id} has three replicas`);
    return seen;
  }

  test('two nodes join by a seed and get their share; leaders come out even', async () => {
    await Promise.all([add('node-4'), add('node-5')]);
    await settled('the groups to spread', 'node-5', ['node-1', 'node-2', 'node-3', 'node-4', 'node-5'], (seen) => seen.nodes.every(({ groups }) => groups > 120 && groups < 190));
  });

  test('a name that is up is not taken by another data directory', async () => {
    const twin = await cluster.add('node-4', join(cluster.dir, 'twin'));
    twin.start();
    try {
      await until('the twin to be told', async () => /up with another data directory|more than one node is named/.test((await twin.readiness()).text));
    } finally {
      await twin.kill('SIGKILL');
    }
  });

  test('a node that stays silent is replaced; the lowest one coordinated, and the next goes on', async () => {
    serving.delete('node-1');
    await node('node-1').kill('SIGKILL');
    await load.advances();
    const seen = await settled('node-1 to be replaced', 'node-3', ['node-2', 'node-3', 'node-4', 'node-5'], (seen) => stateOf(seen, 'node-1').groups === 1);
    assert.equal(stateOf(seen, 'node-1').state, 'unreachable');
  });

  test('it comes back with an empty disk, under the same name, and is rebuilt by itself', async () => {
    await rm(node('node-1').dir, { recursive: true, force: true });
    node('node-1').start();
    await node('node-1').ready();
    serving.add('node-1');
    await settled('node-1 to have its share', 'node-1', ['node-1', 'node-2', 'node-3', 'node-4', 'node-5'], (seen) => stateOf(seen, 'node-1').groups > 120);
  });

  test('drained nodes lead and host nothing, are removed for good, and three are left', async () => {
    const early = await call(`${node('node-2').url}/v1/cluster/nodes/node-5`, 'DELETE');
    assert.deepEqual([early.status, early.json['error']], [409, 'conflict'], early.text);
    for (const name of ['node-5', 'node-4']) {
      const answer = await call(`${node('node-2').url}/v1/cluster/nodes/${name}/drain`, 'POST');
      assert.equal(answer.status, 202, answer.text);
    }
    const three = ['node-1', 'node-2', 'node-3'];
    await settled('both to be drained', 'node-2', three, (seen) => ['node-4', 'node-5'].every((name) => stateOf(seen, name).state === 'drained'));
    for (const name of ['node-4', 'node-5']) {
      serving.delete(name);
      assert.equal((await call(`${node('node-2').url}/v1/cluster/nodes/${name}`, 'DELETE')).status, 200);
      await until(`${name} to say that it is out`, async () => /removed from the cluster/.test((await node(name).readiness()).text));
      await node(name).kill('SIGTERM');
    }
    await settled('the table to be three again', 'node-1', three, (seen) => seen.nodes.length === 3);
    const refused = await call(`${node('node-2').url}/v1/cluster/nodes/node-3/drain`, 'POST');
    assert.deepEqual([refused.status, refused.json['error']], [409, 'would_lose_quorum'], refused.text);
    node('node-5').start();
    await until('the removed data directory to be refused', async () => /removed from the cluster/.test((await node('node-5').readiness()).text));
    await node('node-5').kill('SIGKILL');
  });

  test('everything that was acknowledged is there, once and in order', async () => {
    await load.stop();
    let messages = 0;
    for (const [id, acked] of load.acked) {
      for (const name of serving) {
        const found: string[] = [];
        for (let from = 1; ; from = found.length + 1) {
          const { json } = await call(`${node(name).url}/v1/contexts/${id}/messages?from_seq=${from}&limit=1000`);
          const page = json['messages'] as { parts: { text: string }[] }[];
          if (page.length === 0) break;
          for (const { parts } of page) found.push(parts[0]?.text ?? '');
        }
        assert.deepEqual(found, acked, `${id} on ${name}`);
        messages += found.length;
      }
    }
    assert.ok(messages > 1000, `${messages} messages`);
  });
});
