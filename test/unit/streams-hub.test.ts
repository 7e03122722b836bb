/** The hub over the real state machine in memory: joining, falling back, jumping, holes; whatever happens in between. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { ColdReads } from '../../src/archive/cold.ts';
import type { Command, ContextEvent, Rows } from '../../src/contexts/types.ts';
import { decodePeerFrame } from '../../src/streams/frames.ts';
import { StreamHub } from '../../src/streams/hub.ts';
import { BUFFERED_BYTES_MAX } from '../../src/streams/sink.ts';
import type { Sink, SinkOwner } from '../../src/streams/sink.ts';
import { append, compact, MemoryRows, message, put, text, TOMBSTONE } from './contexts-fixture.ts';

interface Frame {
  readonly type: string;
  readonly version: number;
  readonly expected?: number;
  readonly actual?: number;
}

/** A connection that takes bytes as fast as the test lets it. */
class RecordingSink implements Sink {
  readonly encoding = 'peer';
  readonly written: Buffer[] = [];
  readonly frames: Frame[] = [];
  bufferedBytes = 0;
  mostBufferedBytes = 0;
  /** Whether what is written stays in the buffer. */
  isStalled = false;
  closed: number | null = null;
  private owner: SinkOwner | null = null;

  attach(owner: SinkOwner): void {
    this.owner = owner;
  }

  write(bytes: Buffer): void {
    assert.equal(this.closed, null, 'nothing is written behind a close');
    this.written.push(bytes);
    if (this.isStalled) this.bufferedBytes += bytes.length;
    this.mostBufferedBytes = Math.max(this.mostBufferedBytes, this.bufferedBytes);
    for (const payload of webSocketPayloads(bytes)) this.frames.push(JSON.parse(decodePeerFrame(payload)?.json.toString() ?? '') as Frame);
  }

  drain(): void {
    this.isStalled = false;
    this.bufferedBytes = 0;
    this.owner?.drained();
  }

  close(code: number): void {
    this.closed = code;
  }

  terminate(): void {
    this.disconnect();
  }

  tick(): void {}

  disconnect(): void {
    this.closed ??= 1006;
    this.owner?.closed();
  }

  /** Versions of messages and compactions, in the order they came. */
  get changes(): number[] {
    return this.frames.filter(({ type }) => type === 'message' || type === 'compaction' || type === 'tombstoned').map(({ version }) => version);
  }
}

function* webSocketPayloads(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; ) {
    const short = (bytes[at + 1] ?? 0) & 0x7f;
    const [start, length] = short < 126 ? [at + 2, short] : short === 126 ? [at + 4, bytes.readUInt16BE(at + 2)] : [at + 10, Number(bytes.readBigUInt64BE(at + 2))];
    yield bytes.subarray(start, start + length);
    at = start + length;
  }
}

/** One context `c`, whose every change is told to a hub. */
class World {
  readonly rows = new MemoryRows();
  readonly hub: StreamHub;
  readonly failures: unknown[] = [];
  /** In place of `rows` for the hub. */
  seen: Rows = this.rows;

  constructor(t: TestContext) {
    this.hub = new StreamHub({ rows: () => this.seen, isLed: () => true, archive: new ColdReads(null), readFailed: (_context, error) => this.failures.push(error) });
    t.after(() => this.hub.close());
    this.run(put({ tokenBudget: 1_000_000 }));
  }

  run(command: Command, tell: (event: ContextEvent) => void = (event) => this.hub.changed(event)): void {
    const { reply, events } = this.rows.run(command);
    assert.ok(reply.ok);
    for (const event of events) tell(event);
  }

  open(cursor: number | null, withMessages = true): RecordingSink {
    const sink = new RecordingSink();
    this.hub.open({ context: 'c', group: 1, cursor, withMessages, sink });
    return sink;
  }

  /** Changes without a word to the hub, as a snapshot makes them. */
  runUntold(command: Command): void {
    this.run(command, () => undefined);
  }
}

const user = (content: string) => message('user', [text(content)]);
const say = (content = 'hello'): Command => append([user(content)]);
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function settled(world: World, sinks: readonly RecordingSink[]): Promise<void> {
  for (let i = 0; i < 2000; i++) {
    await turn();
    if (i > 20 && sinks.every((sink) => sink.closed !== null || (sink.frames.at(-1)?.version ?? -1) === world.rows.head.version)) return;
  }
  assert.fail('the streams did not come to rest');
}

const upTo = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i);

/** mulberry32: seeded, so that a failing run can be repeated. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe('one sequence without a hole or a repetition', () => {
  for (let seed = 1; seed <= 12; seed++) {
    test(`seed ${seed}: streams open, stall, drain and jump at any moment between changes`, async (t) => {
      const next = random(seed);
      const world = new World(t);
      const streams: { sink: RecordingSink; from: number }[] = [];
      const one = <T>(list: readonly T[]): T | undefined => list[Math.floor(next() * list.length)];
      for (let step = 0; step < 250; step++) {
        const dice = next();
        if (dice < 0.45) world.run(say('x'.repeat(Math.floor(next() * 4000))));
        else if (dice < 0.5) world.run(append(Array.from({ length: 1 + Math.floor(next() * 150) }, () => user('batch'))));
        else if (dice < 0.55) world.run(compact([user('summary')]));
        else if (dice < 0.6) world.run(put({ tokenBudget: 1000 + Math.floor(next() * 100_000) }));
        else if (dice < 0.7) {
          const { version } = world.rows.head;
          const cursor = next() < 0.3 ? null : Math.floor(next() * (version + 1));
          streams.push({ sink: world.open(cursor), from: (cursor ?? version) + 1 });
        } else if (dice < 0.75) one(streams)?.sink.drain();
        else if (dice < 0.8) Object.assign(one(streams)?.sink ?? {}, { isStalled: true });
        else if (dice < 0.82) {
          // What a snapshot skips, and what was told but not yet sent when it came.
          world.runUntold(say('skipped'));
          world.runUntold(say('skipped'));
          world.hub.jumped(1);
        } else await turn();
      }
      world.run(say('last'));
      for (const { sink } of streams) sink.drain();
      await settled(world, streams.map(({ sink }) => sink));
      assert.ok(streams.length > 10);
      for (const { sink, from } of streams) {
        assert.deepEqual(sink.changes, upTo(from, world.rows.head.version));
        const versions = sink.frames.map(({ version }) => version);
        assert.deepEqual(versions, versions.toSorted((a, b) => a - b), 'versions never go back');
        assert.equal(sink.frames.at(-1)?.type, 'context', 'the last word is how the window is now');
        assert.deepEqual(sink.frames.at(-1), streams[0]?.sink.frames.at(-1), 'told live or read from storage, it is the same');
      }
    });
  }
});

test('what a snapshot skipped comes at once, not with the next change', async (t) => {
  const world = new World(t);
  const sink = world.open(null);
  world.runUntold(say());
  world.runUntold(compact([user('summary')]));
  world.hub.jumped(2);
  await turn();
  assert.deepEqual(sink.changes, [], 'another group');
  world.hub.jumped(1);
  await settled(world, [sink]);
  assert.deepEqual(sink.changes, [1, 2]);
});

describe('what a change costs', () => {
  test('a context without streams is not even looked at', (t) => {
    const world = new World(t);
    world.rows.reads.clear();
    world.run({ ...say(), context: 'c' }, (event) => {
      world.rows.reads.clear();
      world.hub.changed(event);
    });
    assert.equal(world.rows.reads.size, 0);
  });

  test('the bytes of a frame are made once, whoever listens', async (t) => {
    const world = new World(t);
    const sinks = [world.open(null), world.open(null), world.open(0)];
    await settled(world, sinks.slice(2));
    world.rows.reads.clear();
    world.run(say());
    const readByApply = world.rows.reads.get('message') ?? 0;
    await settled(world, sinks);
    assert.equal((world.rows.reads.get('message') ?? 0) - readByApply, 1);
    assert.equal(sinks[0]?.written.at(-1), sinks[1]?.written.at(-1));
    assert.equal(sinks[0]?.written.at(-1), sinks[2]?.written.at(-1));
  });

  test('a large audience is served in turns, each stream in order', async (t) => {
    const world = new World(t);
    const sinks = Array.from({ length: 3000 }, () => world.open(null));
    for (let i = 0; i < 10; i++) {
      world.run(say());
      if (i % 3 === 0) await turn();
    }
    await settled(world, sinks);
    for (const sink of sinks) assert.deepEqual(sink.changes, upTo(1, 10));
  });

  test('a stalled connection holds its bound and one batch, the rest stays in storage', async (t) => {
    const world = new World(t);
    const [stalled, quick] = [world.open(null), world.open(null)];
    stalled.isStalled = true;
    for (let i = 0; i < 300; i++) {
      world.run(say('x'.repeat(10_000)));
      await turn();
    }
    await settled(world, [quick]);
    assert.ok(stalled.mostBufferedBytes > BUFFERED_BYTES_MAX && stalled.mostBufferedBytes < BUFFERED_BYTES_MAX + 20_000, `${stalled.mostBufferedBytes}`);
    assert.deepEqual(quick.changes, upTo(1, 300));
    stalled.drain();
    await settled(world, [stalled]);
    assert.deepEqual(stalled.changes, upTo(1, 300));
  });
});

describe('holes and ends', () => {
  test('messages that are gone are a gap that says what is missing, and reading goes on behind it', async (t) => {
    const world = new World(t);
    for (let i = 0; i < 10; i++) world.run(say());
    for (let seq = 1; seq <= 6; seq++) world.rows.stored.delete(`message|c|${seq}`);
    const sinks = [world.open(0), world.open(3), world.open(6)];
    await settled(world, sinks);
    world.run(say());
    await settled(world, sinks);
    assert.deepEqual(sinks.map(({ frames }) => frames[0]?.type === 'gap' ? [frames[0].expected, frames[0].actual] : []), [[1, 7], [4, 7], []]);
    for (const sink of sinks) assert.deepEqual(sink.changes, upTo(7, 11));
  });

  test('a context whose every message is gone is one gap to the end', async (t) => {
    const world = new World(t);
    for (let i = 0; i < 3; i++) world.run(say());
    for (let seq = 1; seq <= 3; seq++) world.rows.stored.delete(`message|c|${seq}`);
    const sink = world.open(1);
    await settled(world, [sink]);
    world.run(say());
    await settled(world, [sink]);
    assert.deepEqual(sink.frames.map(({ type, expected, actual, version }) => (type === 'gap' ? `gap ${expected} ${actual}` : `${type} ${version}`)), ['gap 2 4', 'context 3', 'message 4', 'context 4']);
  });

  test('a context that cannot be read closes its streams with 1012 and says why', async (t) => {
    const world = new World(t);
    for (let i = 0; i < 3; i++) world.run(say());
    const failure = new Error('damaged');
    world.seen = {
      header: (context) => world.rows.header(context),
      config: (context) => world.rows.config(context),
      get: () => {
        throw failure;
      },
    };
    const [following, filling] = [world.open(null), world.open(0)];
    world.run(say());
    for (let i = 0; i < 5; i++) await turn();
    assert.deepEqual([following.closed, filling.closed], [1012, 1012]);
    assert.ok(world.failures.length >= 2 && world.failures.every((error) => error === failure));
  });

  test('the tombstone ends every stream behind all that came before', async (t) => {
    const world = new World(t);
    for (let i = 0; i < 500; i++) world.run(say());
    const sinks = [world.open(0), world.open(null), world.open(500)];
    world.run(say());
    world.run(TOMBSTONE);
    const late = world.open(502);
    const live = world.open(null);
    for (let i = 0; i < 50; i++) await turn();
    assert.deepEqual([...sinks, late, live].map(({ closed }) => closed), [1000, 1000, 1000, 1000, 1000]);
    assert.deepEqual(sinks.map(({ changes }) => [changes[0], changes.at(-1), changes.length]), [[1, 502, 502], [501, 502, 2], [501, 502, 2]]);
    for (const sink of [late, live]) assert.deepEqual(sink.frames.map(({ type }) => type), ['tombstoned']);
  });

  test('a purge ends every stream; those that were behind get nothing more of what there was', async (t) => {
    const world = new World(t);
    for (let i = 0; i < 500; i++) world.run(say());
    const behind = world.open(0);
    const live = world.open(null);
    world.run({ type: 'purge', context: 'c' });
    for (let i = 0; i < 20; i++) await turn();
    assert.deepEqual([behind.closed, live.closed], [1000, 1000]);
    for (const sink of [behind, live]) assert.deepEqual(sink.frames.map(({ type, version }) => `${type} ${version}`), ['purged 501']);
  });

  test('a replica that leaves closes the streams of its group, and a stop closes all', (t) => {
    const world = new World(t);
    const first = world.open(null);
    world.hub.removed(2);
    assert.equal(first.closed, null);
    world.hub.removed(1);
    assert.equal(first.closed, 1012);
    const second = world.open(null);
    world.hub.closeAll('stopping');
    assert.equal(second.closed, 1012);
  });

  test('a stream that closed is forgotten, in the middle of anything', async (t) => {
    const world = new World(t);
    const sinks = Array.from({ length: 50 }, (_, i) => world.open(i % 2 === 0 ? null : 0));
    world.run(say());
    for (const sink of sinks) sink.disconnect();
    for (let i = 0; i < 5; i++) await turn();
    world.rows.reads.clear();
    world.run(say());
    const readByApply = world.rows.reads.get('message') ?? 0;
    await turn();
    assert.equal(world.rows.reads.get('message') ?? 0, readByApply);
  });
});
