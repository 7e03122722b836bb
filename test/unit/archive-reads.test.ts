/** Reads across the seam between hot storage and the archive: the same bytes as if nothing had been trimmed, whatever trims meanwhile. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { ArchiveRead } from '../../archiver/reader.ts';
import { ColdReads, Fetched, type ColdStore } from '../../src/archive/cold.ts';
import { putTogether, takeApart, type ColdMessage } from '../../src/archive/rows.ts';
import type { Command } from '../../src/contexts/types.ts';
import { ApiError } from '../../src/errors.ts';
import { MessageTexts } from '../../src/message-texts.ts';
import { read, readThrough, type ReadVerb } from '../../src/reads.ts';
import { LogReplay } from '../../src/streams/replay.ts';
import { MemoryRows, append, compact, message, policy, put, text, user } from './contexts-fixture.ts';
import { anyMessage, commands } from './contexts-model.ts';

/** The archive as it would be if all of `whole` were in it; trims `trimmed` a bit further at each fetch. */
class MemoryArchive implements ColdStore {
  fetches = 0;
  /** How far the next fetch trims, while it is under way. */
  trimAt: () => void = () => undefined;
  isDown = false;
  private readonly whole: MemoryRows;

  constructor(whole: MemoryRows) {
    this.whole = whole;
  }

  async readRange(context: string, { from, to, limit, bytesMax }: { from: number; to: number; limit: number; bytesMax: number }): Promise<ArchiveRead<readonly ColdMessage[]>> {
    await Promise.resolve();
    this.fetches++;
    this.trimAt();
    if (this.isDown) return { ok: false, code: 'archive_unavailable', message: 'down', retryAfterSeconds: 7 };
    assert.ok(from >= 1 && from <= to && limit >= 1 && bytesMax >= 1, `${from}…${to}`);
    const page: ColdMessage[] = [];
    let bytes = 0;
    for (let seq = from; seq <= to && page.length < limit; seq++) {
      const { version, body, rowHead } = takeApart(seq, this.row(context, seq));
      bytes += body.length;
      if (bytes > bytesMax && page.length > 0) break;
      page.push({ seq, version, body, rowHead });
    }
    return { ok: true, value: page };
  }

  async firstSeqAfter(context: string, version: number, archivedSeq: number): Promise<ArchiveRead<number>> {
    await Promise.resolve();
    this.fetches++;
    this.trimAt();
    if (this.isDown) return { ok: false, code: 'archive_unavailable', message: 'down', retryAfterSeconds: 7 };
    for (let seq = 1; seq <= archivedSeq; seq++) if (takeApart(seq, this.row(context, seq)).version > version) return { ok: true, value: seq };
    return { ok: true, value: archivedSeq + 1 };
  }

  private row(context: string, seq: number): Uint8Array {
    return this.whole.get('message', context, seq) ?? assert.fail(`message ${seq} is not in the archive`);
  }
}

/** Two replicas with the same history, one of which is trimmed. */
class Pair {
  readonly whole = new MemoryRows();
  readonly trimmed = new MemoryRows();
  readonly archive = new MemoryArchive(this.whole);
  readonly wholeTexts = new MessageTexts();
  readonly trimmedTexts = new MessageTexts();

  run(command: Command): void {
    const replies = [this.whole, this.trimmed].map((rows) => rows.run(command).reply);
    assert.deepEqual(replies[1], replies[0]);
  }

  trim(tailKeep: number): void {
    const { lastSeq, version, configRevision } = this.trimmed.head;
    this.trimmed.run({ type: 'ack_archived', context: 'c', acks: [{ context: 'c', upto: lastSeq, version, configRevision }], tailKeep });
  }

  async same(verb: ReadVerb): Promise<void> {
    const wanted = answerOf(() => read(this.whole, 'c', verb, { fetched: new Fetched(), texts: this.wholeTexts }).body.toString());
    const access = { texts: this.trimmedTexts, cold: new ColdReads(this.archive), isHere: () => true, deadline: performance.now() + 10_000 };
    const found = await readThrough(this.trimmed, 'c', verb, access).then((result) => result?.body.toString() ?? 'elsewhere', (error: unknown) => answerOf(() => assert.fail(error instanceof Error ? error : String(error))));
    assert.equal(found, wanted, JSON.stringify(verb));
  }
}

function answerOf(work: () => string): string {
  try {
    return work();
  } catch (error) {
    if (error instanceof ApiError) return JSON.stringify(error.toBody());
    throw error;
  }
}

function talk(pair: Pair, count: number, content = 'hello'): void {
  for (let i = 0; i < count; i++) pair.run(append([message('user', [text(`${content} ${i}`)])]));
}

const anyVerb: fc.Arbitrary<ReadVerb> = fc.oneof(
  fc.record({ verb: fc.constant('tail' as const), offset: fc.nat(60), limit: fc.integer({ min: 1, max: 60 }) }),
  fc.record({ verb: fc.constant('messages' as const), query: fc.record({ fromSeq: fc.integer({ min: 1, max: 70 }), toSeq: fc.option(fc.integer({ min: 1, max: 70 })), afterVersion: fc.option(fc.nat(90)), limit: fc.integer({ min: 1, max: 40 }) }) }),
  fc.record({ verb: fc.constant('slice' as const), query: fc.record({ fromSeq: fc.integer({ min: 1, max: 70 }), toSeq: fc.option(fc.integer({ min: 1, max: 70 })), afterVersion: fc.option(fc.nat(90)), lastSeq: fc.constant(null) }) }),
  fc.record({ verb: fc.constant('window' as const), query: fc.record({ budgetTokens: fc.option(fc.integer({ min: 1, max: 400 })), full: fc.boolean(), ifVersion: fc.constant(null), atVersion: fc.option(fc.nat(90)), provider: fc.constant(null), ifNoneMatch: fc.constant(null) }) }),
  fc.record({ verb: fc.constant('explain' as const), query: fc.record({ budgetTokens: fc.option(fc.integer({ min: 1, max: 400 })), full: fc.boolean(), ifVersion: fc.constant(null), atVersion: fc.option(fc.nat(90)), fromSeq: fc.integer({ min: 1, max: 70 }), limit: fc.integer({ min: 1, max: 40 }) }) }),
);

describe('a read across the seam', () => {
  it('answers every verb with the bytes of a replica that keeps all, also while messages are trimmed under it', async () => {
    let fetches = 0;
    await fc.assert(
      fc.asyncProperty(commands, fc.array(anyMessage, { minLength: 1, maxLength: 4 }), fc.array(anyVerb, { minLength: 4, maxLength: 10 }), fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 1, maxLength: 8 }), async (given, last, verbs, keeps) => {
        const pair = new Pair();
        pair.run(put({ tokenBudget: 300, policy: policy({ limit: 12 }) }));
        for (const command of [...given, append(last)]) pair.run(command.type === 'usage' ? { ...command, version: pair.whole.head.version } : command);
        pair.trim(keeps[0] ?? 0);
        let next = 0;
        pair.archive.trimAt = () => pair.trim(Math.max(0, (keeps[next++ % keeps.length] ?? 0) - next));
        for (const verb of verbs) await pair.same(verb);
        fetches += pair.archive.fetches;
      }),
      { numRuns: 120 },
    );
    assert.ok(fetches > 200, `only ${fetches} fetches`);
  });

  it('ends pages by their bytes in the archive as it does in hot storage', async () => {
    const pair = new Pair();
    pair.run(put({ policy: policy({ limit: 2 }) }));
    talk(pair, 23, 'x'.repeat(50_000));
    talk(pair, 7);
    pair.trim(7);
    for (const fromSeq of [1, 4, 17, 18, 19, 22, 24]) await pair.same({ verb: 'slice', query: { fromSeq, toSeq: null, afterVersion: null, lastSeq: null } });
  });

  it('says 503 archive_unavailable, and until when, only where it needs the archive; a purged context is not there rather than not in reach', async () => {
    const pair = new Pair();
    pair.run(put({ policy: policy({ limit: 2 }) }));
    talk(pair, 20);
    pair.trim(5);
    pair.archive.isDown = true;
    const verb = (fromSeq: number): ReadVerb => ({ verb: 'messages', query: { fromSeq, toSeq: null, afterVersion: null, limit: 10 } });
    const access = { texts: new MessageTexts(), cold: new ColdReads(pair.archive), isHere: () => true, deadline: performance.now() + 1000 };
    await assert.rejects(readThrough(pair.trimmed, 'c', verb(15), access), (error) => error instanceof ApiError && error.code === 'archive_unavailable' && error.retryAfterSeconds === 7);
    assert.notEqual(await readThrough(pair.trimmed, 'c', verb(16), access), null);
    await assert.rejects(readThrough(pair.trimmed, 'c', verb(1), { ...access, cold: new ColdReads(null) }), (error) => error instanceof ApiError && error.code === 'archive_unavailable');
    assert.equal(await readThrough(pair.trimmed, 'c', verb(1), { ...access, isHere: () => false }), null);
    pair.archive.trimAt = () => pair.trimmed.run({ type: 'purge', context: 'c' });
    await assert.rejects(readThrough(pair.trimmed, 'c', verb(1), access), (error) => error instanceof ApiError && error.code === 'context_not_found');
  });

  it('does not wait longer for an archive that is silent than the request has', async () => {
    const pair = new Pair();
    pair.run(put({ policy: policy({ limit: 2 }) }));
    talk(pair, 20);
    pair.trim(5);
    const silent: ColdStore = { readRange: () => new Promise(() => undefined), firstSeqAfter: () => new Promise(() => undefined) };
    const started = performance.now();
    await assert.rejects(readThrough(pair.trimmed, 'c', { verb: 'tail', offset: 0, limit: 20 }, { texts: new MessageTexts(), cold: new ColdReads(silent), isHere: () => true, deadline: started + 50 }), (error) => error instanceof ApiError && error.code === 'archive_unavailable');
    assert.ok(performance.now() - started < 1000);
  });
});

describe('a replay across the seam', () => {
  const LIMITS = { rows: 7, bytes: 4096 };

  async function replayed(pair: Pair, rows: MemoryRows, cursor: number, hasArchive: boolean): Promise<string[]> {
    const replay = new LogReplay(rows, { context: 'c', cursor, withMessages: true, hasArchive });
    const cold = new ColdReads(pair.archive);
    const frames: string[] = [];
    for (let chunk = replay.next(LIMITS); ; chunk = replay.next(LIMITS)) {
      frames.push(...chunk.frames.map(({ json }) => json.toString()));
      if (chunk.state === 'current' || chunk.state === 'ended') return frames;
      if (chunk.miss !== undefined) assert.equal(await cold.fetch('c', chunk.miss.need, chunk.miss.fetched, 1000), null);
    }
  }

  it('is whole from any cursor, with compactions in their places, while messages are trimmed under it', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 10, maxLength: 40 }), fc.nat(50), fc.nat(8), async (steps, cursor, keep) => {
        const pair = new Pair();
        pair.run(put({ policy: policy({ limit: 4 }) }));
        for (const [i, step] of steps.entries()) pair.run(step === 0 ? compact([user()]) : append([message('user', [text(`${i} ${'x'.repeat(step * 40)}`)])]));
        const from = Math.min(cursor, pair.whole.head.version);
        const wanted = await replayed(pair, pair.whole, from, false);
        pair.trim(keep + 3);
        pair.archive.trimAt = () => pair.trim(keep);
        assert.deepEqual(await replayed(pair, pair.trimmed, from, true), wanted);
      }),
      { numRuns: 100 },
    );
  });

  it('without an archive says what is missing in one gap, and goes on with the oldest message that is there', async () => {
    const pair = new Pair();
    pair.run(put({ policy: policy({ limit: 4 }) }));
    talk(pair, 30);
    pair.trim(6);
    const [gap, first] = await replayed(pair, pair.trimmed, 3, false);
    assert.equal(gap, '{"type":"gap","expected":4,"actual":25}');
    assert.match(first ?? '', /"version":25,"seq":25/);
  });
});

describe('a message in the archive', () => {
  it('comes back as the row it was, byte for byte', () => {
    fc.assert(
      fc.property(fc.array(anyMessage, { minLength: 1, maxLength: 8 }), (messages) => {
        const rows = new MemoryRows();
        rows.run(put());
        rows.run(append(messages));
        for (let seq = 1; seq <= messages.length; seq++) {
          const stored = rows.get('message', 'c', seq) ?? assert.fail();
          const { version, body, rowHead } = takeApart(seq, stored);
          assert.deepEqual(Buffer.from(putTogether({ seq, version, body, rowHead })), Buffer.from(stored));
        }
      }),
    );
  });

  it('is refused where the body is not the one that belongs to the head', () => {
    const rows = new MemoryRows();
    rows.run(put());
    rows.run(append([message('user', [text('one')]), message('user', [text('longer than one')])]));
    const [one, two] = [1, 2].map((seq) => takeApart(seq, rows.get('message', 'c', seq) ?? assert.fail()));
    assert.ok(one !== undefined && two !== undefined);
    assert.throws(() => putTogether({ seq: 1, version: 1, body: two.body, rowHead: one.rowHead }), /form that this version does not know/);
    assert.throws(() => putTogether({ seq: 1, version: 1, body: one.body, rowHead: new Uint8Array(0) }), /a head that is none/);
  });
});
