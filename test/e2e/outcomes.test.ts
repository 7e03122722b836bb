/** What docs/api/rest.md says about retries and outcomes, on three real processes that are killed while clients write. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { type Answer, call, ClusterProcesses, until } from './processes.ts';

const body = (text: string, ifVersion?: number): object => ({ message: { role: 'user', parts: [{ type: 'text', text }] }, ...(ifVersion === undefined ? {} : { if_version: ifVersion }) });

describe('retries and outcomes', () => {
  let cluster: ClusterProcesses;

  const append = (node: number, id: string, text: string, options: { key?: string; ifVersion?: number } = {}): Promise<Answer> =>
    call(`${cluster.node(node).url}/v1/contexts/${id}/messages`, 'POST', body(text, options.ifVersion), options.key === undefined ? {} : { 'idempotency-key': options.key });

  /** Texts of a context in order, from lines. */
  const log = async (id: string): Promise<string[]> => {
    const { status, text } = await call(`${cluster.node(0).url}/v1/contexts/${id}/messages`, 'GET', undefined, { accept: 'application/x-ndjson' });
    assert.equal(status, 200, text);
    const lines = text.split('\n').filter((line) => line !== '').map((line): { seq: number; parts: { text: string }[] } => JSON.parse(line));
    lines.forEach((line, i) => assert.equal(line.seq, i + 1));
    return lines.map((line) => line.parts[0]?.text ?? '');
  };

  const loseQuorum = async (): Promise<void> => {
    await Promise.all([cluster.node(1).kill('SIGKILL'), cluster.node(2).kill('SIGKILL')]);
  };

  const restore = async (): Promise<void> => {
    cluster.node(1).start();
    cluster.node(2).start();
    await cluster.ready();
  };

  const create = async (id: string): Promise<void> => {
    const { status } = await call(`${cluster.node(0).url}/v1/contexts/${id}`, 'PUT', {});
    assert.ok(status === 201 || status === 200);
  };

  before(async () => {
    cluster = await ClusterProcesses.start(3, { FASTPACA_REQUEST_TIMEOUT_MS: '800' });
  });
  after(() => cluster.stop());

  test('every write that fails says what became of it, and what it says is true', async () => {
    const ids = Array.from({ length: 24 }, (_, i) => `outcome-${i}`);
    await Promise.all(ids.map(create));
    const told = new Map<string, string>();
    let isStopped = false;
    const writers = ids.map(async (id) => {
      for (let n = 0; !isStopped; n++) {
        const text = `${id}#${n}`;
        const { status, json, headers } = await append(0, id, text);
        if (status === 201) told.set(text, 'applied');
        else {
          assert.ok(status === 503 || status === 429, `${status} ${JSON.stringify(json)}`);
          assert.ok(Number(headers.get('retry-after')) >= 1, 'Retry-After');
          assert.ok(json['outcome'] === 'not_applied' || json['outcome'] === 'unknown', JSON.stringify(json));
          told.set(text, String(json['outcome']));
        }
      }
    });
    const count = (outcome: string): number => [...told.values()].filter((value) => value === outcome).length;
    for (let round = 0; round < 2; round++) {
      const applied = count('applied');
      await until('writes to go through', () => count('applied') > applied + 200);
      const failed = told.size - count('applied');
      await loseQuorum();
      await until('writes to fail', () => told.size - count('applied') >= failed + ids.length);
      await restore();
    }
    const applied = count('applied');
    await until('writes to go through again', () => count('applied') > applied + 100);
    isStopped = true;
    await Promise.all(writers);

    const stored = new Map<string, number>();
    for (const id of ids) for (const text of await log(id)) stored.set(text, (stored.get(text) ?? 0) + 1);
    for (const [text, outcome] of told) {
      const times = stored.get(text) ?? 0;
      if (outcome === 'applied') assert.equal(times, 1, `${text} was acknowledged`);
      else if (outcome === 'not_applied') assert.equal(times, 0, `${text} was said not to be applied`);
      else assert.ok(times <= 1, `${text} is there ${times} times`);
    }
    for (const text of stored.keys()) assert.ok(told.has(text), `${text} was never sent`);
    assert.ok(count('not_applied') > 0, 'the test saw no failure that is certain');
  });

  test('a write repeated with its Idempotency-Key, or with if_version, is applied once, whatever its first outcome', async () => {
    await Promise.all(['keyed', 'versioned'].map(create));
    const outcomes = new Set<unknown>();
    const keyed = async (text: string): Promise<boolean> => {
      for (;;) {
        const { status, json, headers } = await append(0, 'keyed', text, { key: `k-${text}` });
        if (status === 201) return headers.get('idempotent-replayed') === 'true';
        assert.equal(status, 503, JSON.stringify(json));
        outcomes.add(json['outcome']);
        await delay(20);
      }
    };
    let version = 0;
    const versioned = async (text: string): Promise<void> => {
      for (;;) {
        const { status, json } = await append(0, 'versioned', text, { ifVersion: version });
        if (status === 503) {
          await delay(20);
          continue;
        }
        // Nobody else writes: a version one higher means that an earlier try went through.
        if (status === 409) assert.deepEqual([json['error'], json['expected'], json['found']], ['conflict', version, version + 1]);
        else assert.equal(status, 201, JSON.stringify(json));
        version++;
        return;
      }
    };
    const texts = Array.from({ length: 60 }, (_, i) => `m${i}`);
    let done = 0;
    const writing = Promise.all([
      (async () => {
        for (const text of texts) {
          await keyed(text);
          done++;
        }
      })(),
      (async () => {
        for (const text of texts) await versioned(text);
      })(),
    ]);
    await until('some to be written', () => done > 10);
    await loseQuorum();
    await delay(1000);
    await restore();
    await writing;
    assert.deepEqual(await log('keyed'), texts);
    assert.deepEqual(await log('versioned'), texts);
    // Long after, over a restart of everything, and at another node.
    await Promise.all(cluster.nodes.map((node) => node.kill('SIGKILL')));
    for (const node of cluster.nodes) node.start();
    await cluster.ready();
    const again = await append(2, 'keyed', 'm3', { key: 'k-m3' });
    assert.deepEqual([again.status, again.headers.get('idempotent-replayed'), again.json['seq']], [201, 'true', 4]);
    const other = await append(1, 'keyed', 'another', { key: 'k-m3' });
    assert.deepEqual([other.status, other.json['error']], [409, 'idempotency_conflict']);
    assert.equal((await log('keyed')).length, texts.length);
  });

  test('without a quorum reads refuse, and stale ones go on: one context, a listing, an export', async () => {
    await create('quiet');
    assert.equal((await append(0, 'quiet', 'hello')).status, 201);
    // The replica that stays must have it.
    await until('the replica to have it', async () => {
      const { json } = await call(`${cluster.node(0).url}/v1/contexts/quiet?consistency=stale`);
      return json['last_seq'] === 1;
    });
    await loseQuorum();
    const base = cluster.node(0).url;
    // Leaders here answer until they notice that they are alone.
    await until('reads to refuse', async () => (await call(`${base}/v1/contexts/quiet`)).status === 503);
    for (const path of ['/v1/contexts/quiet', '/v1/contexts', '/v1/contexts/quiet/messages', '/v1/contexts/quiet/context']) {
      const { status, json, headers } = await call(`${base}${path}`);
      assert.deepEqual([status, json['error']], [503, 'raft_unavailable'], path);
      assert.ok(Number(headers.get('retry-after')) >= 1, path);
    }
    const stale = await call(`${base}/v1/contexts/quiet?consistency=stale`);
    assert.deepEqual([stale.status, stale.json['last_seq']], [200, 1]);
    assert.match(stale.headers.get('x-applied-index') ?? '', /^\d+$/);
    const listed = await call(`${base}/v1/contexts?consistency=stale&prefix=quiet`);
    assert.deepEqual([listed.status, (JSON.parse(listed.text) as { contexts: { id: string }[] }).contexts.map(({ id }) => id)], [200, ['quiet']]);
    const lines = await call(`${base}/v1/contexts/quiet/messages?consistency=stale`, 'GET', undefined, { accept: 'application/x-ndjson' });
    assert.deepEqual([lines.status, lines.text.split('\n').length], [200, 2]);
    await restore();
  });
});
