/** Batches, the schema and reads against a real Postgres. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { ArchiveSetupError } from '../../archiver/failures.ts';
import { prepareArchive, SCHEMA_VERSION } from '../../archiver/migrations.ts';
import { ArchiveReadError, ArchiveReader } from '../../archiver/reader.ts';
import { writeBatch, type BatchEntry } from '../../archiver/writer.ts';
import { openDatabase, type TestDatabase } from './archiver-postgres.ts';
import { KeptLog, MemorySource, type NewArchiveMessage } from './archiver-source.ts';

const CLUSTER = 'cluster-1';
let database: TestDatabase;
let client: pg.Client;
let reader: ArchiveReader;
const log = new KeptLog();

async function connect(url = database.url): Promise<pg.Client> {
  const opened = new pg.Client({ connectionString: url });
  await opened.connect();
  return opened;
}

/** Everything of one context, as a batch of its own would hold it. */
function entryOf(source: MemorySource, context: string): BatchEntry {
  const { state, messages, compactions } = source.stored(context);
  return { context, state, messages, compactions };
}

function conversation(context: string, messages: readonly NewArchiveMessage[]): { source: MemorySource; entry: BatchEntry } {
  const source = new MemorySource();
  source.create(context);
  for (const message of messages) source.append(context, message);
  return { source, entry: entryOf(source, context) };
}

before(async () => {
  database = await openDatabase();
  client = await connect();
  await prepareArchive(client, { migrate: true, clusterId: CLUSTER });
  reader = new ArchiveReader({ url: database.url, poolSize: 3, log, random: () => 0.5 });
});

after(async () => {
  await reader?.close();
  await client?.end();
  await database?.close();
});

describe('migrations', () => {
  test('three nodes that start at once make one schema, and each ends with success', async () => {
    const fresh = await openDatabase();
    const clients = await Promise.all([1, 2, 3].map(() => connect(fresh.url)));
    try {
      await Promise.all(clients.map((each) => prepareArchive(each, { migrate: true, clusterId: CLUSTER })));
      const versions = await fresh.query<{ version: number }>('SELECT version FROM fastpaca_migrations ORDER BY version');
      assert.deepEqual(versions.map(({ version }) => version), Array.from({ length: SCHEMA_VERSION }, (_, i) => i + 1));
    } finally {
      await Promise.all(clients.map((each) => each.end()));
      await fresh.close();
    }
  });

  test('without MIGRATE_ON_BOOT an empty database is refused with what to do', async () => {
    const fresh = await openDatabase();
    const other = await connect(fresh.url);
    try {
      await assert.rejects(prepareArchive(other, { migrate: false, clusterId: CLUSTER }), (error) => error instanceof ArchiveSetupError && /MIGRATE_ON_BOOT=true/.test(error.message));
      await prepareArchive(other, { migrate: true, clusterId: CLUSTER });
      await prepareArchive(other, { migrate: false, clusterId: CLUSTER });
    } finally {
      await other.end();
      await fresh.close();
    }
  });

  test('an archive that belongs to another cluster is refused', async () => {
    await assert.rejects(prepareArchive(client, { migrate: true, clusterId: 'cluster-2' }), /belongs to cluster cluster-1 and this is cluster-2/);
  });
});

describe('a batch', () => {
  test('holds every column of its messages, contexts and compactions, and the exact bytes', async () => {
    const source = new MemorySource();
    source.create('columns', { model: 'gpt-4o', metadataText: Buffer.from('{"plan":"pro"}'), configRevision: 3 });
    const first = source.append('columns', { role: 'system', idText: '"m-\\u00e4"', metadataText: '{"lat":34.6900}', partsText: '[{"type":"text","text":"日本 \\ud83d\\ude0a \\\\u0000"}]', tokens: 12, stampMs: 1_770_000_000_123 });
    source.compact('columns', { stampMs: 1_770_000_001_000, fromSeq: 1, toSeq: 1, replacementCount: 2, countBefore: 1, countAfter: 2, tokensBefore: 12, tokensAfter: 5 });
    const result = await writeBatch(client, [entryOf(source, 'columns')]);
    assert.deepEqual({ ...result, rejected: [...result.rejected] }, { rowsInserted: 1, bytesInserted: first.body.length, jsonRefused: 0, rejected: [] });
    const [row] = await database.query(`SELECT seq, version, inserted_at, token_count, role, id, parts->0->>'text' AS text, metadata::text AS metadata, body FROM messages WHERE context_id = 'columns'`);
    assert.deepEqual(row, { seq: '1', version: '1', inserted_at: new Date(1_770_000_000_123), token_count: '12', role: 'system', id: 'm-ä', text: '日本 😊 \\u0000', metadata: '{"lat": 34.6900}', body: Buffer.from(first.body) });
    const [context] = await database.query(`SELECT status, version, config_revision, last_seq, token_budget, model, metadata, tombstoned_at FROM contexts WHERE id = 'columns'`);
    assert.deepEqual(context, { status: 'active', version: '2', config_revision: '3', last_seq: '1', token_budget: '8000', model: 'gpt-4o', metadata: { plan: 'pro' }, tombstoned_at: null });
    const [compaction] = await database.query(`SELECT version, compacted_at, tokens_before, tokens_after FROM compactions WHERE context_id = 'columns'`);
    assert.deepEqual(compaction, { version: '2', compacted_at: new Date(1_770_000_001_000), tokens_before: '12', tokens_after: '5' });
  });

  test('sent again changes nothing and is not rejected', async () => {
    const { entry } = conversation('again', [{}, {}, {}]);
    assert.equal((await writeBatch(client, [entry])).rowsInserted, 3);
    const second = await writeBatch(client, [entry]);
    assert.equal(second.rowsInserted, 0);
    assert.equal(second.rejected.size, 0);
    const [row] = await database.query<{ n: number }>(`SELECT count(*)::int AS n FROM messages WHERE context_id = 'again'`);
    assert.equal(row?.n, 3);
  });

  test('a stale writer does not take the context row back, and a tombstone keeps its time', async () => {
    const { source, entry: stale } = conversation('stale', [{}]);
    source.change('stale', { status: 'tombstoned', version: 2, updatedAtMs: 1_770_000_005_000 });
    await writeBatch(client, [entryOf(source, 'stale')]);
    await writeBatch(client, [stale]);
    const [row] = await database.query(`SELECT status, version, tombstoned_at FROM contexts WHERE id = 'stale'`);
    assert.deepEqual(row, { status: 'tombstoned', version: '2', tombstoned_at: new Date(1_770_000_005_000) });
  });

  test('rows that differ from what is there are reported, never taken for archived', async () => {
    const { entry } = conversation('differs', [{}, {}]);
    await writeBatch(client, [entry]);
    const other = conversation('differs', [{}, { partsText: '[]' }]).entry;
    const sound = conversation('differs-not', [{}]).entry;
    const result = await writeBatch(client, [other, sound]);
    assert.deepEqual([...result.rejected.keys()], ['differs']);
    assert.match(result.rejected.get('differs') ?? '', /message 2 /);
    assert.equal(result.rowsInserted, 1);
  });

  test('is durable although the role defaults to synchronous_commit=off', async () => {
    const asked: string[] = [];
    const lazy = await connect();
    try {
      await lazy.query('SET synchronous_commit = off');
      const query = lazy.query.bind(lazy);
      await writeBatch(lazy, [conversation('durable', [{}]).entry]);
      const { rows } = await query(`SELECT current_setting('synchronous_commit') AS value`);
      asked.push(rows[0]?.value);
      await lazy.query('BEGIN');
      await writeBatch(lazy, [conversation('durable-2', [{}]).entry]);
      // Inside the transaction that commits the rows the setting is on; outside it is the role's again.
      asked.push((await query(`SELECT current_setting('synchronous_commit') AS value`)).rows[0]?.value);
      await lazy.query('COMMIT');
    } finally {
      await lazy.end();
    }
    assert.deepEqual(asked, ['off', 'on']);
  });

  test('two writers with the same contexts in opposite orders neither deadlock nor repeat', async () => {
    const entries = Array.from({ length: 40 }, (_, i) => conversation(`both-${i}`, [{}, {}]).entry);
    const other = await connect();
    try {
      for (let round = 0; round < 10; round++) await Promise.all([writeBatch(client, entries), writeBatch(other, [...entries].reverse())]);
    } finally {
      await other.end();
    }
    const [row] = await database.query<{ n: number }>(`SELECT count(*)::int AS n FROM messages WHERE context_id LIKE 'both-%'`);
    assert.equal(row?.n, 80);
  });
});

describe('what Postgres refuses', () => {
  const poison: Record<string, NewArchiveMessage> = {
    'a NUL in a part': { partsText: '[{"type":"text","text":"a\\u0000b"}]' },
    'a lone high surrogate': { partsText: '[{"type":"text","text":"\\ud83d"}]' },
    'a lone low surrogate in metadata': { metadataText: '{"k":"\\uDE0A"}' },
    'a number beyond numeric': { metadataText: '{"n":1e200000}' },
    'a number with too many decimals': { partsText: '[{"type":"text","text":"","n":1e-20000}]' },
    'nesting deeper than its stack': { partsText: `[{"type":"text","text":"","n":${'['.repeat(50_000)}${']'.repeat(50_000)}}]` },
  };
  for (const [what, message] of Object.entries(poison)) {
    test(`${what} is archived by its bytes and blocks nobody`, async () => {
      const id = `poison ${what}`;
      const { source, entry } = conversation(id, [{}, message, {}]);
      const neighbours = [conversation(`${id} before`, [{}, {}]).entry, conversation(`zz ${id}`, [{}, {}]).entry];
      const result = await writeBatch(client, [...neighbours, entry]);
      assert.equal(result.rowsInserted, 7);
      assert.equal(result.jsonRefused, 1);
      assert.equal(result.rejected.size, 0);
      const rows = await database.query<{ seq: string; body: Buffer; parsed: boolean }>('SELECT seq, body, parts IS NOT NULL AND metadata IS NOT NULL AS parsed FROM messages WHERE context_id = $1 ORDER BY seq', [id]);
      assert.deepEqual(rows.map(({ parsed }) => parsed), [true, false, true]);
      for (const [i, { body }] of rows.entries()) assert.deepEqual(body, Buffer.from(source.stored(id).messages[i]?.body ?? []));
    });
  }

  test('a role and an id that are no text are left NULL', async () => {
    const { entry } = conversation('odd role', [{ roleText: '"a\\u0000"', idText: '"\\ud800"' }]);
    assert.equal((await writeBatch(client, [entry])).rowsInserted, 1);
    assert.deepEqual(await database.query(`SELECT role, id FROM messages WHERE context_id = 'odd role'`), [{ role: null, id: null }]);
  });

  test('a context whose metadata is refused keeps the jsonb of its messages', async () => {
    const source = new MemorySource();
    source.create('odd metadata', { metadataText: Buffer.from('{"n":1e200000}') });
    for (let i = 0; i < 3; i++) source.append('odd metadata');
    assert.equal((await writeBatch(client, [entryOf(source, 'odd metadata')])).rowsInserted, 3);
    const [row] = await database.query(`SELECT count(parts)::int AS parts, (SELECT metadata FROM contexts WHERE id = 'odd metadata') AS metadata FROM messages WHERE context_id = 'odd metadata'`);
    assert.deepEqual(row, { parts: 3, metadata: null });
  });
});

describe('reads', () => {
  const COUNT = 2500;
  let source: MemorySource;
  before(async () => {
    ({ source } = conversation('long', Array.from({ length: COUNT }, (_, i) => ({ tokens: i }))));
    source.compact('long', { stampMs: 1, fromSeq: 1, toSeq: 1, replacementCount: 0, countBefore: 1, countAfter: 1, tokensBefore: 1, tokensAfter: 1 });
    source.append('long');
    await writeBatch(client, [entryOf(source, 'long')]);
  });

  test('a page is the stored bytes in order, within its bounds', async () => {
    const page = await reader.readRange('long', { from: 100, to: 2000, limit: 50, bytesMax: 1e9 });
    assert.ok(page.ok);
    assert.deepEqual(page.value.map(({ seq }) => seq), Array.from({ length: 50 }, (_, i) => 100 + i));
    for (const { seq, body } of page.value) assert.deepEqual(body, Buffer.from(source.stored('long').messages[seq - 1]?.body ?? []));
    const three = page.value.slice(0, 3).reduce((sum, { body }) => sum + body.length, 0);
    const few = await reader.readRange('long', { from: 100, to: 2000, limit: 50, bytesMax: three });
    assert.equal(few.ok && few.value.length, 3);
    const one = await reader.readRange('long', { from: 100, to: 2000, limit: 50, bytesMax: 1 });
    assert.equal(one.ok && one.value.length, 1);
    const end = await reader.readRange('long', { from: 2495, to: 2498, limit: 50, bytesMax: 1e9 });
    assert.equal(end.ok && end.value.at(-1)?.seq, 2498);
  });

  test('a stream gives every message once, over many pages', async () => {
    const seqs: number[] = [];
    for await (const page of reader.stream('long', 1, COUNT)) for (const { seq } of page) seqs.push(seq);
    assert.deepEqual(seqs, Array.from({ length: COUNT }, (_, i) => i + 1));
  });

  test('the first message after a version is found wherever it is', async () => {
    // Versions equal seqs up to the compaction, which took one version.
    for (const [version, seq] of [[0, 1], [1, 2], [999, 1000], [2499, 2500], [2500, 2501], [2501, 2501], [2502, 2502], [9999, 2502]] as const) {
      const found = await reader.firstSeqAfter('long', version, COUNT + 1);
      assert.equal(found.ok && found.value, seq, `after version ${version}`);
    }
  });

  test('a hole is never passed over: somebody deleted what was archived', async () => {
    await writeBatch(client, [conversation('holed', [{}, {}, {}, {}]).entry]);
    await database.query(`DELETE FROM messages WHERE context_id = 'holed' AND seq = 3`);
    const page = await reader.readRange('holed', { from: 1, to: 4, limit: 10, bytesMax: 1e9 });
    assert.equal(page.ok, false);
    assert.ok(log.has('archive_incomplete'));
    await assert.rejects(async () => {
      for await (const _page of reader.stream('holed', 1, 4));
    }, ArchiveReadError);
    const sound = await reader.readRange('holed', { from: 1, to: 2, limit: 10, bytesMax: 1e9 });
    assert.equal(sound.ok && sound.value.length, 2);
  });

  test('Postgres that is not there answers unavailable, and the next reads do not wait for it', async () => {
    const nowhere = new ArchiveReader({ url: 'postgres://postgres@127.0.0.1:1/postgres', poolSize: 2, log, random: () => 0.5 });
    const answer = await nowhere.readRange('long', { from: 1, to: 2, limit: 2, bytesMax: 1e6 });
    assert.ok(!answer.ok && answer.code === 'archive_unavailable' && answer.retryAfterSeconds >= 1);
    const tried = log.lines.length;
    assert.equal((await nowhere.readRange('long', { from: 1, to: 2, limit: 2, bytesMax: 1e6 })).ok, false);
    assert.equal(log.lines.length, tried, 'the second read did not try');
    await nowhere.close();
  });
});

describe('erasure', () => {
  test('leaves a reserved id without content, and no late flush brings anything back', async () => {
    const { source, entry } = conversation('erased', Array.from({ length: 12 }, () => ({})));
    source.compact('erased', { stampMs: 1, fromSeq: 1, toSeq: 1, replacementCount: 0, countBefore: 1, countAfter: 1, tokensBefore: 1, tokensAfter: 1 });
    await writeBatch(client, [entry]);
    const erased = await reader.erase('erased');
    assert.equal(erased.ok && erased.value, 12);
    const late = await writeBatch(client, [entryOf(source, 'erased'), conversation('erased-not', [{}]).entry]);
    assert.deepEqual([...late.rejected], [['erased', 'it was purged']]);
    assert.equal(late.rowsInserted, 1);
    const [row] = await database.query(`SELECT status, metadata, policy, (SELECT count(*)::int FROM messages WHERE context_id = 'erased') AS messages, (SELECT count(*)::int FROM compactions WHERE context_id = 'erased') AS compactions FROM contexts WHERE id = 'erased'`);
    assert.deepEqual(row, { status: 'purged', metadata: null, policy: null, messages: 0, compactions: 0 });
    const again = await reader.erase('erased');
    assert.equal(again.ok && again.value, 0);
  });

  test('of a long conversation goes in steps and leaves its neighbours alone', async () => {
    const long = conversation('erase-long', Array.from({ length: 12_001 }, () => ({}))).entry;
    await writeBatch(client, [long, conversation('erase-lonh', [{}]).entry]);
    const erased = await reader.erase('erase-long');
    assert.equal(erased.ok && erased.value, 12_001);
    assert.deepEqual(await database.query(`SELECT context_id, seq::int FROM messages WHERE context_id LIKE 'erase-lon%'`), [{ context_id: 'erase-lonh', seq: 1 }]);
  });

  test('waits for a flush under way and takes its rows too', async () => {
    const other = await connect();
    try {
      await other.query('BEGIN');
      await writeBatch(other, [conversation('race', [{}, {}]).entry]);
      const erasing = reader.erase('race');
      await other.query('COMMIT');
      assert.equal((await erasing).ok, true);
    } finally {
      await other.end();
    }
    assert.deepEqual(await database.query(`SELECT seq FROM messages WHERE context_id = 'race'`), []);
  });
});
