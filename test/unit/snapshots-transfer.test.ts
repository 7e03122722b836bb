/** Snapshot transfers over real HTTP between real stores: complete, resumed, given up, and never a session or slot left behind. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import fastify, { type FastifyInstance } from 'fastify';
import type { ConfState, SnapshotMeta } from '../../raft/types.ts';
import { PeerKeys } from '../../src/cluster/auth.ts';
import { FETCHES_MAX, mountSnapshots, SESSIONS_MAX, SnapshotReceiver, SnapshotSender } from '../../src/cluster/snapshots.ts';
import type { Logger } from '../../src/log.ts';
import { Storage } from '../../src/storage/store.ts';
import { until } from './mesh.ts';

const CONF: ConfState = { voters: [1, 2, 3], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const GROUPS = 20;
const ROWS = 30;
const INDEX = 7;
const SILENT: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const KEYS = new PeerKeys({ clusterSecrets: ['a secret of sixteen and more'], apiKeys: [] });

function write(storage: Storage): Promise<void> {
  return new Promise((resolve, reject) => storage.write([], (error) => (error === null ? resolve() : reject(error))));
}

describe('snapshot transfer', () => {
  let root = '';
  let source: Storage;
  let target: Storage;
  let sender: SnapshotSender;
  let receiver: SnapshotReceiver;
  let app: FastifyInstance;
  let address: string | undefined;
  let now = 0;
  /** Chunk requests so far, by group; and what to answer instead of a chunk. */
  let asked: number[] = [];
  let instead: (group: number, count: number) => number | null = () => null;

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'transfer-'));
    source = await Storage.open(join(root, 'source'));
    target = await Storage.open(join(root, 'target'));
    const groups = Array.from({ length: GROUPS }, (_, group) => group);
    // 100 KB a row: a snapshot takes several chunks.
    const rows = Array.from({ length: ROWS }, (_, key) => ({ table: 'message' as const, context: 'c', key, value: Buffer.alloc(100_000, key) }));
    await source.createGroups(groups.map((group) => ({ group, replica: 1, conf: CONF, index: INDEX, term: 2, rows: group < 2 ? rows : rows.slice(0, 1) })));
    await target.createGroups(groups.map((group) => ({ group, replica: 2, conf: CONF, index: 1, term: 1 })));
    now = 1000;
    sender = new SnapshotSender(source, () => now);
    asked = [];
    instead = () => null;
    app = fastify();
    app.addHook('onRequest', async (request, reply) => {
      if (request.method !== 'GET') return;
      const group = Number(new URL(request.url, 'http://x').searchParams.get('group'));
      asked[group] = (asked[group] ?? 0) + 1;
      const status = instead(group, asked[group]);
      if (status !== null) await reply.code(status).send();
    });
    mountSnapshots(app, sender, KEYS);
    address = new URL(await app.listen({ port: 0, host: '127.0.0.1' })).host;
    receiver = new SnapshotReceiver({ storage: target, address: () => address, headers: () => KEYS.headers(), tls: null, logger: SILENT });
  });

  afterEach(async () => {
    await receiver.close();
    await app.close();
    await sender.close();
    await source.close();
    await target.close();
    await rm(root, { recursive: true });
  });

  const fetch = (group: number, index = 1): Promise<SnapshotMeta> =>
    new Promise((resolve, reject) => receiver.fetch(group, 'source', index, (error, meta) => (meta === null ? reject(error ?? new Error('neither')) : resolve(meta))));

  const install = (group: number, meta: SnapshotMeta): Promise<void> =>
    new Promise((resolve, reject) =>
      target.write([{ group, hardState: { term: 2, vote: 0, commit: meta.index }, entries: [], snapshot: meta, compactTo: 0 }], (error) => (error === null ? resolve() : reject(error))),
    );

  it('moves all rows in several chunks, and the session ends with it', async () => {
    const meta = await fetch(0);
    assert.deepEqual(meta, { index: INDEX, term: 2, conf: CONF });
    assert.ok((asked[0] ?? 0) > 3);
    await install(0, meta);
    for (let key = 0; key < ROWS; key++) assert.deepEqual(target.get(0, 'message', 'c', key)?.[50_000], key);
    await until('the session to end', () => sender.open === 0);
    assert.equal(sender.sent, 1);
  });

  it('more groups than slots and sessions all arrive, without a leader telling anyone twice', async () => {
    assert.ok(GROUPS > SESSIONS_MAX && GROUPS > FETCHES_MAX);
    const metas = await Promise.all(Array.from({ length: GROUPS }, (_, group) => fetch(group)));
    assert.deepEqual(metas.map(({ index }) => index), metas.map(() => INDEX));
    assert.equal(receiver.installed, GROUPS);
    await until('all sessions to end', () => sender.open === 0);
  });

  it('a second fetch of a group that is on its way fails at once, and the first answers once', async () => {
    let answers = 0;
    const first = new Promise<void>((resolve) => receiver.fetch(0, 'source', 1, () => (answers++, resolve())));
    receiver.fetch(0, 'source', 1, (error) => assert.match(String(error), /is being fetched/));
    await first;
    assert.equal(answers, 1);
    await fetch(0);
  });

  it('goes on where it was after a failing chunk', async () => {
    instead = (_group, count) => (count === 3 || count === 4 ? 500 : null);
    await fetch(0);
    assert.equal(sender.sent, 1, 'one session');
    assert.equal(receiver.failed, 0);
  });

  it('waits for a session where the sender has none left', async () => {
    const sessions: string[] = [];
    for (let i = 0; i < SESSIONS_MAX; i++) sessions.push((await sender.answer(1, '', '')).headers['x-session'] ?? '');
    assert.equal((await sender.answer(0, '', '')).status, 429);
    const waiting = fetch(0);
    await until('it to be refused once', () => (asked[0] ?? 0) > 0);
    await sender.end(sessions[0] ?? '');
    assert.equal((await waiting).index, INDEX);
  });

  it('gives up at once on a sender that cannot help, and leaves nothing behind', async () => {
    const started = performance.now();
    await source.markDamaged(3, 'rot');
    await assert.rejects(fetch(3), /409/);
    await source.deleteGroup(4);
    await assert.rejects(fetch(4), /404/);
    instead = (group) => (group === 5 ? 410 : group === 6 ? 401 : null);
    await assert.rejects(fetch(5), /410/);
    await assert.rejects(fetch(6), /401/);
    await assert.rejects(fetch(7, INDEX + 1), /before 8/);
    const known = address;
    address = undefined;
    await assert.rejects(fetch(8), /no address/);
    address = known;
    assert.ok(performance.now() - started < 2000);
    await until('the sessions to end', () => sender.open === 0);
    assert.equal((await fetch(8)).index, INDEX);
  });

  it('a session ends with a cursor that is none, and speaks for its own group only', async () => {
    const { headers, status } = await sender.answer(0, '', '');
    assert.equal(status, 200);
    const session = headers['x-session'] ?? '';
    assert.equal((await sender.answer(0, session, 'no cursor')).status, 410);
    assert.equal(sender.open, 0);
    assert.equal((await sender.answer(0, session, headers['x-next'] ?? '')).status, 410);
    assert.equal((await sender.answer(Number.NaN, '', '')).status, 404);
    // A session speaks for its own group only.
    const other = (await sender.answer(0, '', '')).headers['x-session'] ?? '';
    assert.equal((await sender.answer(1, other, '')).status, 410);
  });

  it('a session nobody uses is swept, and its transfer starts over', async () => {
    const { headers } = await sender.answer(0, '', '');
    now += 31_000;
    await until('the sweep', () => sender.open === 0);
    assert.equal((await sender.answer(0, headers['x-session'] ?? '', headers['x-next'] ?? '')).status, 410);
  });

  it('asks for the key of the cluster', async () => {
    for (const method of ['GET', 'DELETE']) assert.equal((await globalThis.fetch(`http://${address}/_peer/snapshot?group=0`, { method })).status, 401);
    assert.equal(sender.open, 0);
  });

  it('closing answers every transfer, under way or in line, and nothing touches the store afterwards', async () => {
    instead = () => 500;
    let answered = 0;
    for (let group = 0; group < GROUPS; group++) {
      receiver.fetch(group, 'source', 1, (error) => {
        assert.ok(error !== null);
        answered++;
      });
    }
    await until('transfers to be under way', () => asked.length >= FETCHES_MAX);
    const started = performance.now();
    await receiver.close();
    assert.ok(performance.now() - started < 2000);
    assert.equal(answered, GROUPS);
    await assert.rejects(fetch(0), /closing/);
  });

  it('applied rows that no write has taken yet are not part of it, and the index says so', async () => {
    source.put(2, { table: 'message', context: 'c', key: 99, value: Buffer.from('late') });
    const meta = await fetch(2);
    await install(2, meta);
    assert.equal(target.get(2, 'message', 'c', 99), undefined);
    assert.equal(meta.index, INDEX);
    await write(source);
  });
});
