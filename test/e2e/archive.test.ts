/** The archive behind three real nodes and a real Postgres: nothing missing, nothing twice, and reads that cross the seam. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { PostgresServer } from '../unit/archiver-postgres.ts';
import { assertArchived, digest, linesOf, marksOf, MarksWatch } from './archive-watch.ts';
import { call, ClusterProcesses, until } from './processes.ts';
import { RetryingClient } from './retrying.ts';
import { StreamClient, streamUrl } from './stream-client.ts';

const TAIL_KEEP = 20;
const CONTEXTS = 24;
const BATCH = 10;
const ROUNDS = 16;
const MESSAGES = CONTEXTS * BATCH * ROUNDS;
/** Texts that come back only if nobody parses and prints them again; jsonb takes neither. */
const ODD = '"\\u0000 \\ud800 é", "n": 1.50e1, "z":0';

let postgres: PostgresServer;
let cluster: ClusterProcesses;
const ids = Array.from({ length: CONTEXTS }, (_, i) => `arch/ive-${i}`);
/** Lines as the API gave them right after the append, from hot storage; by context. */
const hot = new Map<string, string[]>(ids.map((id) => [id, []]));
/** Windows and their explanations as they were told while their messages were hot; by context. */
const told = new Map<string, { version: number; window: string; explained: string }>();

const path = (id: string, rest = ''): string => `/v1/contexts/${encodeURIComponent(id)}${rest}`;
const urls = (): string[] => cluster.nodes.map(({ url }) => url);
const written = (): number => [...hot.values()].reduce((sum, lines) => sum + lines.length, 0);

before(async () => {
  postgres = await PostgresServer.start();
  cluster = await ClusterProcesses.start(3, {
    FASTPACA_ARCHIVER_ENABLED: 'true',
    DATABASE_URL: postgres.url,
    FASTPACA_ARCHIVE_FLUSH_INTERVAL_MS: '50',
    FASTPACA_ARCHIVER_BATCH_SIZE: '200',
    FASTPACA_TAIL_KEEP: String(TAIL_KEEP),
    FASTPACA_REQUEST_TIMEOUT_MS: '2000',
  });
});
after(async () => {
  await cluster?.stop();
  await postgres?.remove();
});

async function write(id: string, first: number): Promise<void> {
  const client = new RetryingClient(urls(), first);
  const settings = { token_budget: 2000, policy: { strategy: 'last_n', config: { limit: 10 } } };
  assert.equal((await client.send(path(id), 'PUT', settings)).status, 201);
  for (let round = 0; round < ROUNDS; round++) {
    const from = round * BATCH + 1;
    const texts = Array.from({ length: BATCH }, (_, i) => `{"role":"user","parts":[{"type":"text","text":"${id} ${from + i}"${i === 3 ? `,"odd":${ODD}` : ''}}],"metadata":{"at": ${from + i}.0}}`);
    const answer = await client.send(path(id, '/messages'), 'POST', `{"messages":[${texts.join(',')}]}`, { 'idempotency-key': `${id}-${round}` });
    assert.equal(answer.status, 201, answer.text);
    const lines = await client.send(path(id, `/messages?from_seq=${from}&to_seq=${from + BATCH - 1}`), 'GET', undefined, { accept: 'application/x-ndjson' });
    assert.equal(lines.status, 200, lines.text);
    hot.get(id)?.push(...lines.text.split('\n').slice(0, -1));
    if (round === 2) {
      const version = Number((await client.send(path(id))).json['version']);
      const window = await client.send(path(id, `/context?at_version=${version}&full=true`));
      const explained = await client.send(path(id, `/context?at_version=${version}&explain=true&limit=30`));
      assert.deepEqual([window.status, explained.status], [200, 200], explained.text);
      told.set(id, { version, window: window.text, explained: explained.text });
    }
  }
}

async function settled(): Promise<void> {
  await until('every context to be archived and trimmed on every node', async () => {
    for (const node of cluster.nodes) {
      const marks = await marksOf(node);
      if (marks?.length !== CONTEXTS || !marks.every((mark) => mark.archived_seq === mark.last_seq && mark.trimmed_seq === mark.last_seq - TAIL_KEEP)) return false;
    }
    return true;
  });
}

describe('the archive of three nodes', () => {
  test('nodes and Postgres die under load: Postgres ends with every message once, and no mark was ever ahead', { timeout: 60_000 }, async () => {
    await until('the tables', () => postgres.query(`SELECT 1 FROM messages LIMIT 1`).then(() => true, () => false));
    const watch = new MarksWatch(cluster, { url: postgres.url, tailKeep: TAIL_KEEP, sample: 8, pauseMs: 5 });
    const writing = Promise.all(ids.map((id, i) => write(id, i)));
    const at = (share: number): Promise<void> => until(`${share} of the messages`, () => written() >= share * MESSAGES);
    await Promise.race([writing, at(0.15)]);
    await cluster.node(1).kill('SIGKILL');
    await Promise.race([writing, at(0.3)]);
    await postgres.stop('crash');
    await Promise.race([writing, at(0.5)]);
    cluster.node(1).start();
    await postgres.run();
    await cluster.node(1).ready();
    await Promise.race([writing, at(0.7)]);
    // A clean stop hands its leaderships over in the middle of its flushes.
    await cluster.node(0).kill('SIGTERM');
    cluster.node(0).start();
    await cluster.node(0).ready();
    await writing;
    await settled();
    await watch.stop();
    assert.equal(written(), MESSAGES);
    for (const id of ids) await assertArchived(postgres.url, id, (hot.get(id) ?? []).map(digest));
    const [{ refused } = { refused: -1 }] = await postgres.query<{ refused: number }>('SELECT count(*)::int AS refused FROM messages WHERE parts IS NULL');
    assert.equal(refused, CONTEXTS * ROUNDS, 'what jsonb cannot hold is archived by its bytes');
  });

  test('pages, tails, exports and replays pass the seam on every node without a hole or a repeat, byte for byte', async () => {
    for (const [i, id] of ids.slice(0, 6).entries()) {
      const lines = hot.get(id) ?? [];
      const url = cluster.node(i % 3).url;
      assert.deepEqual(await linesOf(url, id), lines);
      assert.deepEqual(await linesOf(url, id, '?from_seq=131&to_seq=150'), lines.slice(130, 150));
      const paged: string[] = [];
      for (let next: unknown = 1; next !== null && paged.length < 100; ) {
        const { json, text } = await call(`${url}${path(id, `/messages?from_seq=${String(next)}&limit=17`)}`);
        paged.push(text);
        next = json['next_seq'];
      }
      assert.ok(paged.every((page, n) => page.startsWith(`{"messages":[${lines.slice(n * 17, n * 17 + 17).join(',')}],`)), id);
      assert.equal(paged.length, Math.ceil(lines.length / 17));
      const tail = await call(`${url}${path(id, '/tail?offset=11&limit=40')}`);
      assert.equal(tail.text, `{"messages":[${lines.slice(-51, -11).join(',')}]}`);
      for (const version of [0, 7, 137, 139, 140, 141, 159]) {
        const { text } = await call(`${url}${path(id, `/messages?after_version=${version}&limit=3`)}`);
        assert.ok(text.startsWith(`{"messages":[${lines.slice(version, version + 3).join(',')}],`), `${id} after ${version}`);
      }
      const client = await StreamClient.open(streamUrl(url, id, `?cursor=${i * 10}`));
      await client.count(lines.length - i * 10 + 1);
      client.close();
      assert.deepEqual(client.texts.slice(0, -1).map((text) => text.slice(text.indexOf(',"message":') + 11, -1)), lines.slice(i * 10));
    }
  });

  test('windows of old versions and their explanations are told from the archive as they were', async () => {
    for (const [id, { version, window, explained }] of [...told].slice(0, 6)) {
      const url = cluster.node(version % 3).url;
      assert.equal((await call(`${url}${path(id, `/context?at_version=${version}&full=true`)}`)).text, window);
      assert.equal((await call(`${url}${path(id, `/context?at_version=${version}&explain=true&limit=30`)}`)).text, explained);
    }
  });

  test('without Postgres cold pages answer 503, everything else goes on, and a replay ends with 1013', async () => {
    const id = ids[0] ?? '';
    const { url } = cluster.node(2);
    await postgres.stop('fast');
    try {
      for (const cold of ['/messages', '/messages?after_version=3', '/tail?limit=40', '/context?at_version=5']) {
        const { status, json, headers } = await call(`${url}${path(id, cold)}`);
        assert.deepEqual([status, json['error']], [503, 'archive_unavailable'], cold);
        assert.ok(Number(headers.get('retry-after')) >= 1);
      }
      assert.equal((await call(`${url}${path(id, '/messages')}`, 'GET', undefined, { accept: 'application/x-ndjson' })).status, 503);
      for (const warm of ['', '/messages?from_seq=141', '/tail?limit=20', '/context', '/messages?after_version=140']) assert.equal((await call(`${url}${path(id, warm)}`)).status, 200, warm);
      const appended = await call(`${url}${path(id, '/messages')}`, 'POST', { message: { role: 'user', parts: [] } });
      assert.equal(appended.status, 201, appended.text);
      const client = await StreamClient.open(streamUrl(url, id, '?cursor=0'));
      assert.equal((await client.end()).code, 1013);
      assert.deepEqual(client.frames, []);
    } finally {
      await postgres.run();
    }
    await until('cold pages again', async () => (await call(`${url}${path(id, '/messages')}`)).status === 200);
    await settled();
  });

  test('with the archive off, what was trimmed earlier answers 503 and is a gap in a replay; the rest is read', async () => {
    const id = ids[1] ?? '';
    const node = cluster.node(1);
    await node.kill('SIGTERM');
    node.start({ FASTPACA_ARCHIVER_ENABLED: 'false' });
    await node.ready();
    const cold = await call(`${node.url}${path(id, '/messages')}`);
    assert.deepEqual([cold.status, cold.json['error']], [503, 'archive_unavailable']);
    assert.match(String(cold.json['message']), /FASTPACA_ARCHIVER_ENABLED/);
    assert.deepEqual(await linesOf(node.url, id, '?from_seq=141'), hot.get(id)?.slice(140));
    const client = await StreamClient.open(streamUrl(node.url, id, '?cursor=0'));
    await client.count(TAIL_KEEP + 2);
    client.close();
    assert.deepEqual([client.frames[0]?.type, client.frames[0]?.expected, client.frames[0]?.actual], ['gap', 1, 141]);
  });
});
