/** Three real processes: founding, any node answers, kill -9, restart of all, refusal of what must not vote. */
import assert from 'node:assert/strict';
import { open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Answer, call, ClusterProcesses, noise, until } from './processes.ts';

const message = (text: string) => ({ message: { role: 'user', parts: [{ type: 'text', text }] } });

async function append(url: string, id: string, text: string, key: string): Promise<Answer> {
  return call(`${url}/v1/contexts/${id}/messages`, 'POST', message(text), { 'idempotency-key': key });
}

/** Texts of a context's messages in order, with their seqs checked to be 1, 2, 3 … */
async function texts(url: string, id: string, query = ''): Promise<string[]> {
  const out: string[] = [];
  let from = 1;
  for (;;) {
    const { status, text } = await call(`${url}/v1/contexts/${id}/messages?from_seq=${from}&limit=1000${query}`);
    assert.equal(status, 200, text);
    const page = JSON.parse(text) as { messages: { seq: number; parts: { text: string }[] }[]; next_seq: number | null };
    for (const m of page.messages) {
      assert.equal(m.seq, out.length + 1);
      out.push(m.parts[0]?.text ?? '');
    }
    if (page.next_seq === null) return out;
    from = page.next_seq;
  }
}

/**
 * Appends to `contexts` one after the other in each, until stopped; follows the documented retry rule. Keeps what was
 * acknowledged, in order, so that it can be compared with the log afterwards.
 */
class Writers {
  readonly acked = new Map<string, string[]>();
  retries = 0;
  private stopped = false;
  private readonly running: Promise<void>[];

  constructor(urls: readonly string[], contexts: readonly string[]) {
    this.running = contexts.map((id, i) => this.write(id, urls, i));
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await Promise.all(this.running);
  }

  get count(): number {
    let count = 0;
    for (const list of this.acked.values()) count += list.length;
    return count;
  }

  private async write(id: string, urls: readonly string[], offset: number): Promise<void> {
    const acked: string[] = [];
    this.acked.set(id, acked);
    for (let n = 0; !this.stopped; n++) {
      const text = `${id}#${n}`;
      for (let attempt = 0; ; attempt++) {
        const url = urls[(offset + attempt) % urls.length] ?? '';
        const answer = await append(url, id, text, text).catch(() => null);
        if (answer?.status === 201) break;
        assert.ok(answer === null || answer.status === 503 || answer.status === 429, `append answered ${answer?.status}: ${answer?.text}`);
        this.retries++;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      acked.push(text);
    }
  }
}

async function assertNothingLost(writers: Writers, url: string): Promise<void> {
  for (const [id, acked] of writers.acked) assert.deepEqual(await texts(url, id), acked, `context ${id} read through ${url}`);
}

async function createContexts(url: string, prefix: string, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, (_, i) => `${prefix}-${i}`);
  for (const id of ids) assert.equal((await call(`${url}/v1/contexts/${id}`, 'PUT', { token_budget: 1_000_000 })).status, 201);
  return ids;
}

describe('three nodes', () => {
  let cluster: ClusterProcesses;
  before(async () => {
    cluster = await ClusterProcesses.start(3, { FASTPACA_LOG_KEEP_BYTES: '65536' });
  });
  after(() => cluster.stop());
  const urls = () => cluster.nodes.map((node) => node.url);

  test('every node answers every call, and a read sees what was acknowledged anywhere before', async () => {
    const [a, b, c] = urls() as [string, string, string];
    assert.equal((await call(`${a}/v1/contexts/any`, 'PUT', {})).status, 201);
    for (let i = 0; i < 30; i++) {
      const written = await append(urls()[i % 3] ?? a, 'any', `m${i}`, `k${i}`);
      assert.equal(written.status, 201, written.text);
      assert.equal(written.json['seq'], i + 1);
      const seen = await call(`${urls()[(i + 1) % 3] ?? b}/v1/contexts/any`);
      assert.equal(seen.json['last_seq'], i + 1);
    }
    const windows = await Promise.all([a, b, c].map(async (url) => (await call(`${url}/v1/contexts/any/context`)).text));
    assert.equal(new Set(windows).size, 1);
  });

  test('the cluster page shows one coordinator, the lowest node, and evenly spread leaders', async () => {
    await until('leaders to be spread evenly', async () => {
      const { json } = await call(`${urls()[0]}/v1/cluster`);
      const nodes = json['nodes'] as { id: string; leaders: number }[];
      const counts = nodes.map((node) => node.leaders);
      return json['coordinator'] === 'node-1' && counts.reduce((a, b) => a + b, 0) >= 256 && Math.max(...counts) - Math.min(...counts) <= 2;
    });
  });

  test('kill -9 of each node in turn under load loses nothing and repeats nothing', async () => {
    const contexts = await createContexts(urls()[0] ?? '', 'kill', 24);
    const writers = new Writers(urls(), contexts);
    for (const node of cluster.nodes) {
      const before = writers.count;
      await until('appends to flow', () => writers.count > before + 200);
      await node.kill('SIGKILL');
      const killedAt = writers.count;
      await until('appends to flow without the killed node', () => writers.count > killedAt + 200);
      node.start();
      await node.ready();
    }
    await writers.stop();
    for (const url of urls()) await assertNothingLost(writers, url);
  });

  test('a node that was away longer than the log reaches catches up by snapshot', async () => {
    const [a] = urls() as [string];
    const away = cluster.node(2);
    const contexts = await createContexts(a, 'away', 4);
    await away.kill('SIGKILL');
    const long = noise(20_000);
    for (const id of contexts) {
      for (let i = 0; i < 30; i++) {
        const answer = await append(a, id, `${i}${long}`, `away-${i}`);
        assert.equal(answer.status, 201, answer.text);
      }
    }
    // Let the survivors drop the log that the missing node would need.
    await new Promise((resolve) => setTimeout(resolve, 2500));
    away.start();
    await away.ready();
    for (const id of contexts) {
      const own = await texts(away.url, id, '&consistency=stale');
      assert.equal(own.length, 30);
      assert.deepEqual(own, await texts(a, id));
    }
    const metrics = (await call(`${away.url}/metrics`)).text;
    const installed = /^fastpaca_raft_snapshots_installed_total(?:\{[^}]*\})? (\d+)/m.exec(metrics);
    assert.ok(Number(installed?.[1]) >= 1, 'at least one snapshot was installed');
  });

  test('a restart of all nodes at once keeps everything that was acknowledged', async () => {
    const contexts = await createContexts(urls()[0] ?? '', 'restart', 12);
    const writers = new Writers(urls(), contexts);
    await until('appends to flow', () => writers.count > 300);
    await Promise.all(cluster.nodes.map((node) => node.kill('SIGKILL')));
    for (const node of cluster.nodes) node.start();
    await cluster.ready();
    const resumed = writers.count;
    await until('appends to flow again', () => writers.count > resumed + 50);
    await writers.stop();
    for (const url of urls()) await assertNothingLost(writers, url);
  });

  test('SIGTERM ends a node cleanly, and the rest goes on', async () => {
    const node = cluster.node(1);
    assert.deepEqual(await node.kill('SIGTERM'), { code: 0, signal: null });
    const answer = await append(urls()[0] ?? '', 'any', 'while one is away', 'sigterm');
    assert.equal(answer.status, 201, answer.text);
    node.start();
    await node.ready();
  });

  test('without a quorum writes answer 503 that nothing was applied, stale reads go on, and it heals', async () => {
    const alone = cluster.node(0);
    await Promise.all([cluster.node(1).kill('SIGKILL'), cluster.node(2).kill('SIGKILL')]);
    await until('the survivor to notice', async () => {
      const { status, json } = await append(alone.url, 'any', 'lonely', 'lonely');
      return status === 503 && json['error'] === 'raft_unavailable' && json['outcome'] === 'not_applied';
    });
    const stale = await call(`${alone.url}/v1/contexts/any?consistency=stale`);
    assert.equal(stale.status, 200);
    assert.match(stale.headers.get('x-applied-index') ?? '', /^\d+$/);
    cluster.node(1).start();
    cluster.node(2).start();
    await cluster.ready();
    assert.equal((await append(alone.url, 'any', 'together', 'together')).status, 201);
  });

  test('an empty disk under a known name is refused, says so, and never votes', async () => {
    const node = cluster.node(2);
    await node.kill('SIGKILL');
    await rm(node.dir, { recursive: true, force: true });
    node.start();
    await until('the refusal to show in readiness', async () => {
      const { status, text } = await node.readiness();
      return status === 503 && text.includes('another data directory');
    });
    await until('the log to say so too', async () => /another data directory/.test(await node.log()));
    assert.equal((await append(cluster.node(0).url, 'any', 'two of three', 'two-of-three')).status, 201);
    // Its vote would be the second of three: without it nothing may commit.
    await cluster.node(1).kill('SIGKILL');
    await until('the survivor to be without a quorum', async () => (await append(cluster.node(0).url, 'any', 'never', 'never')).status === 503);
    cluster.node(1).start();
    await cluster.node(1).ready();
    assert.equal((await append(cluster.node(0).url, 'any', 'two again', 'two-again')).status, 201);
  });
});

describe('damage', () => {
  async function clusterWithData(): Promise<{ cluster: ClusterProcesses; contexts: string[] }> {
    const cluster = await ClusterProcesses.start(3);
    const contexts = await createContexts(cluster.node(0).url, 'rot', 8);
    for (const id of contexts) for (let i = 0; i < 20; i++) assert.equal((await append(cluster.node(0).url, id, `${i} ${'y'.repeat(3000)}`, `rot-${i}`)).status, 201);
    return { cluster, contexts };
  }

  test('a flipped bit in a table takes the replica out with a clear line, the group goes on, and the replica is made anew', async () => {
    const { cluster, contexts } = await clusterWithData();
    try {
      const url = cluster.node(0).url;
      const victim = cluster.node(1);
      // Opening moves what the write-ahead log holds into tables.
      await victim.kill('SIGTERM');
      victim.start();
      await victim.ready();
      await victim.kill('SIGTERM');
      await flipByteOfText(victim.dir, /\.ldb$/, 'y'.repeat(200));
      victim.start();
      await victim.ready();
      await until('the damage to be found', async () => {
        for (const id of contexts) await call(`${victim.url}/v1/contexts/${id}/messages?consistency=stale`);
        return /"type":"damage"/.test(await victim.log());
      });
      for (const id of contexts) assert.equal((await texts(victim.url, id)).length, 20, 'the damaged node answers from sound replicas');
      assert.equal((await append(url, contexts[0] ?? '', 'still here', 'after')).status, 201);
      await until('another replica to take its place', async () => {
        const { groups, moves } = (await call(`${victim.url}/v1/cluster`)).json as { groups: { state: string }[]; moves: unknown[] };
        return /"type":"replicas_made"/.test(await victim.log()) && moves.length === 0 && groups.every(({ state }) => state !== 'damaged');
      }, 60_000);
    } finally {
      await cluster.stop();
    }
  });

  test('a flipped bit in the write-ahead log refuses the start with a clear line, and the others go on', async () => {
    const { cluster, contexts } = await clusterWithData();
    try {
      const victim = cluster.node(1);
      await victim.kill('SIGKILL');
      await flipByteOfText(victim.dir, /\.log$/, 'y'.repeat(200));
      victim.start();
      assert.deepEqual(await victim.exited(), { code: 2, signal: null });
      assert.match(await victim.logTail(), /is damaged at byte \d+/);
      for (const id of contexts) assert.equal((await texts(cluster.node(2).url, id)).length, 20);
    } finally {
      await cluster.stop();
    }
  });
});

/** Flips one bit inside the first occurrence of `text` in the node's LevelDB files. */
async function flipByteOfText(dir: string, pattern: RegExp, text: string): Promise<void> {
  const files = (await readdir(dir, { recursive: true })).filter((name) => pattern.test(name));
  for (const name of files) {
    const file = await open(join(dir, name), 'r+');
    try {
      const bytes = await file.readFile();
      const at = bytes.indexOf(text);
      if (at < 0) continue;
      await file.write(Buffer.from([(bytes[at + 50] ?? 0) ^ 1]), 0, 1, at + 50);
      return;
    } finally {
      await file.close();
    }
  }
  throw new Error('no file holds the text');
}
