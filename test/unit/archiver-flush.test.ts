/** The flush loop against a real Postgres that stops, crashes, is slow and comes back. */
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import pg from 'pg';
import { Archive } from '../../archiver/archive.ts';
import { Breaker } from '../../archiver/breaker.ts';
import type { ArchiverOptions } from '../../archiver/ports.ts';
import { PostgresServer } from './archiver-postgres.ts';
import { CountingMetrics, KeptLog, MemorySource } from './archiver-source.ts';

let server: PostgresServer;
let source: MemorySource;
let metrics: CountingMetrics;
let log: KeptLog;
let archive: Archive | null = null;

before(async () => {
  server = await PostgresServer.start();
});
after(() => server?.remove());

beforeEach(() => {
  source = new MemorySource();
  metrics = new CountingMetrics();
  log = new KeptLog();
});
afterEach(async () => {
  await archive?.close();
  archive = null;
  await server.query(`DO $$ BEGIN IF to_regclass('messages') IS NOT NULL THEN TRUNCATE messages, contexts, compactions; END IF; END $$`);
});

function open(over: Partial<Omit<ArchiverOptions, 'clusterId'>> = {}): Archive {
  return new Archive({ url: server.url, poolSize: 3, flushIntervalMs: 50, batchSize: 200, migrate: true, source, metrics, log, random: Math.random, ...over });
}

function start(over: Partial<Omit<ArchiverOptions, 'clusterId'>> = {}, clusterId = 'c'): Archive {
  archive = open(over);
  archive.start(clusterId);
  return archive;
}

async function until(what: string, condition: () => boolean | Promise<boolean>, ms = 30_000): Promise<void> {
  const deadline = Date.now() + ms;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`timed out waiting for: ${what}; ${JSON.stringify(log.lines.slice(-3))}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function fill(contexts: number, messages: number, prefix = 'c'): void {
  for (let c = 0; c < contexts; c++) {
    const id = `${prefix}-${c}`;
    if (!source.contexts.has(id)) source.create(id);
    for (let m = 0; m < messages; m++) source.append(id);
  }
}

/** Every message of the source is in Postgres exactly once, with equal bytes. */
async function assertArchived(): Promise<void> {
  const rows = await server.query<{ context_id: string; seq: string; body: Buffer }>('SELECT context_id, seq, body FROM messages ORDER BY context_id, seq');
  const expected = [...source.contexts].flatMap(([id, { messages }]) => messages.map((message) => ({ id, message })));
  assert.equal(rows.length, expected.length, 'rows missing or repeated');
  const found = new Map(rows.map((row) => [`${row.context_id}/${row.seq}`, row.body]));
  for (const { id, message } of expected) assert.deepEqual(found.get(`${id}/${message.seq}`), Buffer.from(message.body));
}

/** What is marked as archived is there. */
async function assertMarksHold(): Promise<void> {
  const marks = [...source.contexts].map(([id, { archivedSeq }]) => ({ id, archivedSeq }));
  const rows = await server.query<{ context_id: string; n: number }>('SELECT context_id, count(*)::int AS n FROM messages GROUP BY 1');
  const counts = new Map(rows.map(({ context_id: id, n }) => [id, n]));
  for (const { id, archivedSeq } of marks) assert.ok((counts.get(id) ?? 0) >= archivedSeq, `${id} is marked up to ${archivedSeq} and has ${counts.get(id) ?? 0} rows`);
}

describe('flushing', () => {
  test('a backlog over many contexts and one long one arrives whole, in bounded batches', async () => {
    fill(300, 3);
    fill(1, 5000, 'hot');
    source.create('empty');
    let heldMax = 0;
    source.onRead = () => (heldMax = Math.max(heldMax, source.messagesRead - metrics.of('inserted')));
    start();
    await until('all confirmed', () => source.done);
    await assertArchived();
    assert.ok(source.messagesReadMax <= 200);
    assert.ok(heldMax > 200 && heldMax <= 400, `two batches in memory at most, not ${heldMax} messages`);
    assert.equal(metrics.of('attempted'), 5900, 'nothing was sent twice');
    assert.equal(metrics.of('inserted'), 5900);
    assert.ok(metrics.of('bytesInserted') === metrics.of('bytesAttempted') && metrics.of('bytesInserted') > 0);
    const [row] = await server.query<{ n: number }>('SELECT count(*)::int AS n FROM contexts');
    assert.equal(row?.n, 302);
  });

  test('a change without a message reaches the table of contexts: settings, a compaction, the tombstone', async () => {
    fill(1, 2);
    start();
    await until('confirmed', () => source.done);
    source.change('c-0', { configRevision: 2, metadataText: Buffer.from('{"plan":"pro"}') });
    await until('settings confirmed', () => source.done);
    source.compact('c-0', { stampMs: 5, fromSeq: 1, toSeq: 2, replacementCount: 1, countBefore: 2, countAfter: 1, tokensBefore: 14, tokensAfter: 3 });
    await until('compaction confirmed', () => source.done);
    source.change('c-0', { status: 'tombstoned', version: 4 });
    await until('tombstone confirmed', () => source.done);
    const [row] = await server.query(`SELECT status, metadata->>'plan' AS plan, tombstoned_at IS NOT NULL AS dated, (SELECT count(*)::int FROM compactions) AS compactions FROM contexts`);
    assert.deepEqual(row, { status: 'tombstoned', plan: 'pro', dated: true, compactions: 1 });
  });

  test('a full batch does not wait for the interval', async () => {
    const running = start({ flushIntervalMs: 3_600_000, batchSize: 50 });
    await until('prepared', async () => (await server.query(`SELECT 1 FROM pg_stat_activity WHERE application_name = 'fastpaca-archive-writer' AND state = 'idle'`)).length > 0);
    fill(1, 50);
    // A few calls, as appends come in; the loop may just be on its way to its pause.
    await until('flushed', () => {
      running.noteAppended(50);
      return source.done;
    });
    await assertArchived();
  });

  test('marks that are lost are proposed again, and rows are not repeated', async () => {
    let lost = 0;
    source.loseAcks = () => lost++ % 3 !== 2;
    fill(20, 30);
    start({ flushIntervalMs: 5 });
    await until('confirmed in the end', () => source.done);
    await assertArchived();
    assert.ok(metrics.of('attempted') > metrics.of('inserted'));
  });

  test('while marks cannot be applied, as without a quorum, nothing is flushed again before the interval', async () => {
    source.loseAcks = () => true;
    fill(20, 30);
    start({ flushIntervalMs: 3_600_000 });
    await until('flushed', () => metrics.of('inserted') === 600);
    const read = source.messagesRead;
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(metrics.of('attempted'), 600);
    assert.equal(source.messagesRead, read);
  });

  test('two nodes that both believe they lead write each message once', async () => {
    fill(40, 50);
    const other = open({ metrics: new CountingMetrics() });
    start();
    other.start('c');
    await until('confirmed', () => source.done);
    await other.close();
    await assertArchived();
  });

  test('a context that moves away in mid-flush is left alone, and nothing of it is lost', async () => {
    fill(10, 500);
    start({ batchSize: 50 });
    await until('under way', () => metrics.of('inserted') > 500);
    for (let c = 0; c < 5; c++) source.elsewhere.add(`c-${c}`);
    await until('the rest confirmed', () => [5, 6, 7, 8, 9].every((c) => source.stored(`c-${c}`).archivedSeq === 500));
    await assertMarksHold();
    source.elsewhere.clear();
    await until('confirmed', () => source.done);
    await assertArchived();
  });

  test('a context that the archive contradicts stays unconfirmed and holds up nobody', async () => {
    fill(3, 4);
    start();
    await until('confirmed', () => source.done);
    await server.query(`INSERT INTO messages (context_id, seq, version, inserted_at, token_count, body, row_head) VALUES ('c-1', 6, 6, now(), 1, 'forged', '')`);
    fill(3, 4);
    await until('the others confirmed', () => source.stored('c-0').archivedSeq === 8 && source.stored('c-2').archivedSeq === 8);
    assert.equal(source.stored('c-1').archivedSeq, 4);
    assert.ok(log.has('archive_rejected'));
  });

  test('an archive of another cluster is never written to', async () => {
    start({}, 'another');
    fill(1, 1);
    await until('said so', () => log.has('archive_unusable'));
    assert.equal(metrics.of('attempted'), 0);
    assert.equal(source.done, false);
  });
});

describe('Postgres trouble', () => {
  test('killed and restarted many times under load: nothing missing, nothing twice, no mark above what is there', async () => {
    fill(30, 20);
    start({ flushIntervalMs: 10, batchSize: 100 });
    for (let round = 0; round < 5; round++) {
      fill(30, 40);
      const before = metrics.of('inserted');
      await until('flushing', () => metrics.of('inserted') > before);
      await server.stop(round % 2 === 0 ? 'crash' : 'fast');
      fill(30, 10);
      const page = await archive?.reader.readRange('c-0', { from: 1, to: 1, limit: 1, bytesMax: 1e6 });
      assert.equal(page?.ok, false);
      await server.run();
      await assertMarksHold();
    }
    await until('caught up', () => source.done);
    await assertArchived();
    assert.ok(log.has('archive_failed') && log.has('archive_recovered'));
  });

  test('down at the start: gauges tell the backlog, and it is archived when Postgres comes', async () => {
    await server.stop('fast');
    fill(25, 4);
    start();
    await until('the backlog is known', () => metrics.of('pendingRows') === 100);
    assert.equal(metrics.of('pendingContexts'), 25);
    assert.equal(metrics.lags.size, 20, 'the worst contexts only');
    await server.run();
    await until('caught up', () => source.done);
    await until('gauges at rest', () => metrics.of('pendingRows') === 0 && metrics.lags.size === 0);
    await assertArchived();
  });

  test('connections cut in mid-flush by an administrator cost nothing but a retry', async () => {
    fill(20, 200);
    start({ batchSize: 50 });
    for (let i = 0; i < 4; i++) {
      const before = metrics.of('inserted');
      await until('flushing', () => metrics.of('inserted') > before || source.done);
      await server.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'fastpaca-archive%'`);
    }
    await until('caught up', () => source.done);
    await assertArchived();
  });

  test('a database too slow for a batch gets smaller ones until they fit its time', async () => {
    start({ flushIntervalMs: 10 });
    await until('prepared', async () => (await server.query(`SELECT to_regclass('messages') AS name`))[0]?.['name'] !== null);
    await archive?.close();
    await server.query(`CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$;
      CREATE TRIGGER dawdle BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION dawdle()`);
    try {
      fill(4, 400);
      // 1600 rows take over 3 s and 400 take about one.
      start({ flushIntervalMs: 10, batchSize: 1600, url: `${server.url}?statement_timeout=1200` });
      await until('confirmed', () => source.done, 30_000);
      await assertArchived();
      assert.ok(log.lines.some(({ message }) => message.includes('57014')));
    } finally {
      await server.query('DROP TRIGGER dawdle ON messages; DROP FUNCTION dawdle');
    }
  });

  test('a lock on the table only delays, and closing does not wait for it', async () => {
    start();
    await until('prepared', async () => (await server.query(`SELECT to_regclass('messages') AS name`))[0]?.['name'] !== null);
    const locker = new pg.Client({ connectionString: server.url });
    await locker.connect();
    await locker.query('BEGIN; LOCK TABLE messages IN ACCESS EXCLUSIVE MODE');
    fill(1, 3);
    await until('a flush hangs', () => metrics.of('attempted') > 0);
    const began = performance.now();
    await archive?.close();
    assert.ok(performance.now() - began < 4000);
    archive = null;
    await locker.query('ROLLBACK');
    await locker.end();
    assert.equal(source.done, false);
    start();
    await until('confirmed', () => source.done);
    await assertArchived();
  });
});

describe('the circuit breaker', () => {
  test('waits longer after each failure, lets one try when its time has come, and forgets all on success', () => {
    let now = 0;
    const breaker = new Breaker({ stepMs: 100, stepMsMax: 1000, random: () => 1, now: () => now });
    const waits: number[] = [];
    for (let i = 0; i < 6; i++) {
      assert.equal(breaker.enter(), true);
      assert.equal(i === 0 || !breaker.enter(), true, 'only one tries');
      breaker.failed();
      breaker.failed();
      waits.push(breaker.waitMs());
      assert.equal(breaker.enter(), false);
      now += breaker.waitMs();
    }
    assert.deepEqual(waits, [100, 200, 400, 800, 1000, 1000]);
    assert.equal(breaker.enter(), true);
    breaker.succeeded();
    assert.equal(breaker.open, false);
    assert.equal(breaker.enter() && breaker.enter(), true);
  });

  test('jitter keeps at least half of the step', () => {
    const breaker = new Breaker({ stepMs: 100, stepMsMax: 1000, random: () => 0, now: () => 0 });
    breaker.enter();
    breaker.failed();
    assert.equal(breaker.waitMs(), 50);
  });
});
