/**
 * Snapshot transfers over real sockets between real stores, one side of which dies at each chunk, or whose bytes change
 * on the way. Whatever happens, the receiver has its old state whole until the write that makes the new one current,
 * and then the new one whole, that of one moment of the sender.
 */
import assert from 'node:assert/strict';
import { cp, mkdtemp, readdir, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, afterEach, before, describe, it } from 'node:test';
import { ClassicLevel } from 'classic-level';
import fastify, { type FastifyInstance } from 'fastify';
import type { GroupWrite } from '../../raft/ports.ts';
import type { ConfState, SnapshotMeta } from '../../raft/types.ts';
import { PeerKeys } from '../../src/cluster/auth.ts';
import { mountSnapshots, SnapshotReceiver, SnapshotSender } from '../../src/cluster/snapshots.ts';
import type { Write } from '../../src/contexts/types.ts';
import type { Logger } from '../../src/log.ts';
import { groupKey, hasNumericKeys, slotKey, Space, stateKey, STATE_PREFIX_BYTES, TABLES } from '../../src/storage/keys.ts';
import { unsealed } from '../../src/storage/checksum.ts';
import { readRecord } from '../../src/storage/records.ts';
import { Storage } from '../../src/storage/store.ts';
import { until } from './mesh.ts';

const GROUP = 5;
const CONF: ConfState = { voters: [1, 2, 3], votersOutgoing: [], learners: [4], learnersNext: [], autoLeave: false };
const SILENT: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const KEYS = new PeerKeys({ clusterSecrets: ['a secret of sixteen and more'], apiKeys: [] });
const LARGE_ROWS = 13;
const LARGE_BYTES = 100_000;
/** What the rows of a state take at the sender's chunk size. */
const CHUNKS = 3;
/** Where in the first chunk the hash of the state ends. */
const STATE_HASH_END = 12 + 24 - 1;
const IDLE_MS = 31_000;

/**
 * A group's state: the same keys in each version with other values, in every table, and one context that no other
 * version has. Version v is the state at index v + 1; the receivers start with version 0.
 */
function rowsOf(version: number): Write[] {
  const rows: Write[] = [];
  for (const table of TABLES) {
    const keys = hasNumericKeys(table) ? [1, 2, 3] : [''];
    for (const context of ['both', `only ${version}`]) for (const key of keys) rows.push({ table, context, key, value: Buffer.from(`${table} ${version}`) });
  }
  // The first and the last of them are of the version too, so that no two chunks of different versions are alike.
  for (let key = 10; version > 0 && key < 10 + LARGE_ROWS; key++) {
    const isOwn = key === 10 || key === 9 + LARGE_ROWS;
    rows.push({ table: 'message', context: 'both', key, value: isOwn ? Buffer.alloc(LARGE_BYTES, version) : FILLER });
  }
  return rows;
}

const FILLER = Buffer.alloc(LARGE_BYTES, 'filler ');
const hashOf = (version: number): number => 4711 * version;

function write(storage: Storage, part: Partial<GroupWrite> = {}): Promise<void> {
  return new Promise((resolve, reject) => {
    storage.write([{ group: GROUP, hardState: null, entries: [], snapshot: null, compactTo: 0, ...part }], (error) => (error === null ? resolve() : reject(error)));
  });
}

/** Applies the entry that makes version `to` of the one before. */
async function advance(storage: Storage, to: number): Promise<void> {
  const index = to + 1;
  await write(storage, { entries: [{ term: 2, index, type: 0, data: Buffer.from('e') }], hardState: { term: 2, vote: 1, commit: index } });
  for (const { table, context, key } of to === 1 ? [] : rowsOf(to - 1)) if (context !== 'both') storage.put(GROUP, { table, context, key, value: null });
  for (const row of rowsOf(to)) if (to === 1 || row.value !== FILLER) storage.put(GROUP, row);
  storage.setStateHash(GROUP, hashOf(to));
  storage.setApplied(GROUP, { index, term: 2, conf: null });
  await write(storage);
}

/** All of this version and nothing of any other, as far as readers see. */
async function assertServes(storage: Storage, version: number): Promise<void> {
  assert.deepEqual(storage.groups(), [{ group: GROUP, replica: 4, damaged: null }]);
  assert.equal(storage.durableApplied(GROUP), version + 1);
  assert.equal(storage.stateHash(GROUP), hashOf(version));
  assert.deepEqual(storage.log(GROUP).conf, CONF);
  for (const { table, context, key, value } of rowsOf(version)) {
    assert.equal(Buffer.compare(storage.get(GROUP, table, context, key) ?? Buffer.alloc(0), value ?? Buffer.alloc(0)), 0, `version ${version}: ${table} ${context} ${key}`);
  }
  assert.deepEqual((await storage.contexts(GROUP, { limit: 10 })).map(({ context }) => context), ['both', `only ${version}`]);
}

/** The rows of the group's live state in a closed directory: key from its table on, in hex, and value. */
async function storedRows(directory: string): Promise<Map<string, Buffer>> {
  const db = new ClassicLevel<Uint8Array, Uint8Array>(join(directory, 'db'), { keyEncoding: 'view', valueEncoding: 'view' });
  await db.open();
  const key = groupKey(Space.group, GROUP);
  const { slot } = readRecord(GROUP, key, (await db.get(key)) ?? new Uint8Array());
  const rows = await db.iterator({ gte: slotKey(Space.state, GROUP, slot), lt: slotKey(Space.state, GROUP, slot + 1) }).all();
  await db.close();
  return new Map(rows.map(([key, value]) => [Buffer.from(key.subarray(STATE_PREFIX_BYTES)).toString('hex'), Buffer.from(unsealed(value))]));
}

function expectedRows(version: number): Map<string, Buffer> {
  const rows = rowsOf(version).map((row): [string, Buffer] => [stateKey(GROUP, 1, row).subarray(STATE_PREFIX_BYTES).toString('hex'), Buffer.from(row.value ?? [])]);
  return new Map(rows.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** What becomes of an answer on its way: sent as it is, changed, or only half of it and then no more. */
interface Way {
  /** Counts the answers of a test from 1. */
  chunk?: (payload: Uint8Array, answer: number) => Uint8Array;
  headers?: (headers: Record<string, string>, answer: number) => Record<string, string>;
  /** After half of an answer: the rest is held until this settles, then the connection breaks. */
  half?: (answer: number) => Promise<void> | null;
}

/** A node that sends: its store, its sessions, and a server on the same port whenever it runs. */
class SendingNode {
  readonly storage: Storage;
  readonly sessions: SnapshotSender;
  readonly directory: string;
  readonly port: number;
  private readonly app: FastifyInstance;
  private readonly clock: { aheadMs: number };

  private constructor(parts: { storage: Storage; sessions: SnapshotSender; directory: string; port: number; app: FastifyInstance; clock: { aheadMs: number } }) {
    this.storage = parts.storage;
    this.sessions = parts.sessions;
    this.directory = parts.directory;
    this.port = parts.port;
    this.app = parts.app;
    this.clock = parts.clock;
  }

  static async start(directory: string, { port, way }: { port: number; way: () => { plan: Way; count: number } }): Promise<SendingNode> {
    const storage = await Storage.open(directory);
    const clock = { aheadMs: 0 };
    const sessions = new SnapshotSender(storage, () => performance.now() + clock.aheadMs);
    const app = fastify({ forceCloseConnections: true });
    app.addHook('onSend', async (request, reply, payload) => {
      if (request.method !== 'GET' || reply.statusCode !== 200 || !(payload instanceof Uint8Array)) return payload;
      const { plan, count } = way();
      for (const [name, value] of Object.entries(plan.headers?.(textHeaders(reply.getHeaders()), count) ?? {})) reply.header(name, value);
      const held = plan.half?.(count) ?? null;
      const sent = plan.chunk?.(payload, count) ?? payload;
      if (held === null) return sent;
      reply.header('content-length', sent.length);
      return Readable.from(
        (async function* () {
          yield sent.subarray(0, sent.length / 2);
          await held;
          throw new Error('the connection breaks');
        })(),
      );
    });
    mountSnapshots(app, sessions, KEYS);
    const url = await app.listen({ port, host: '127.0.0.1' });
    return new SendingNode({ storage, sessions, directory, port: Number(new URL(url).port), app, clock });
  }

  /** Nobody asks for anything for a long time. */
  idle(): void {
    this.clock.aheadMs += IDLE_MS;
  }

  /** Ends without a word to anybody. What its files are at that moment is what a killed process leaves: no write is in flight. */
  async kill(copy: string): Promise<void> {
    this.app.server.closeAllConnections();
    await cp(this.directory, copy, { recursive: true });
    await this.stop();
  }

  async stop(): Promise<void> {
    await this.app.close();
    await this.sessions.close();
    await this.storage.close();
  }
}

function textHeaders(headers: Record<string, unknown>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)]));
}

interface ReceivingNode {
  readonly directory: string;
  readonly storage: Storage;
  readonly receiver: SnapshotReceiver;
}

function flipByte(bytes: Uint8Array, at: number, bits = 4): Uint8Array {
  const changed = bytes.slice();
  changed[at] = (changed[at] ?? 0) ^ bits;
  return changed;
}

describe('a snapshot transfer', () => {
  let root = '';
  let sender: SendingNode;
  let version = 1;
  let directories = 0;
  let plan: Way = {};
  let answers = 0;
  const open = new Set<ReceivingNode>();
  const way = (): { plan: Way; count: number } => ({ plan, count: ++answers });

  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'killed-'));
    const old = await Storage.open(join(root, 'old'));
    await old.createGroup(GROUP, { replica: 4, conf: CONF, index: 1, term: 1 }, rowsOf(0));
    await old.close();
    sender = await SendingNode.start(join(root, 'sender'), { port: 0, way });
    await sender.storage.createGroup(GROUP, { replica: 1, conf: CONF, index: 1, term: 1 });
    await advance(sender.storage, 1);
  });

  afterEach(async () => {
    plan = {};
    answers = 0;
    for (const node of open) await stop(node);
  });

  after(async () => {
    await sender.stop();
    await rm(root, { recursive: true });
  });

  async function receive(from = 'old'): Promise<ReceivingNode> {
    const directory = join(root, `receiver ${directories++}`);
    await cp(join(root, from), directory, { recursive: true });
    const storage = await Storage.open(directory);
    const receiver = new SnapshotReceiver({ storage, address: () => `127.0.0.1:${sender.port}`, headers: () => KEYS.headers(), tls: null, logger: SILENT });
    const node = { directory, storage, receiver };
    open.add(node);
    return node;
  }

  async function stop(node: ReceivingNode): Promise<void> {
    open.delete(node);
    await node.receiver.close();
    await node.storage.close();
  }

  function fetch({ receiver }: ReceivingNode, index = 2): Promise<SnapshotMeta> {
    return new Promise((resolve, reject) => receiver.fetch(GROUP, 'sender', index, (error, meta) => (meta === null ? reject(error ?? new Error('neither')) : resolve(meta))));
  }

  /** As Raft does after a finished transfer. */
  async function install({ storage }: ReceivingNode, meta: SnapshotMeta): Promise<void> {
    assert.deepEqual(meta, { index: version + 1, term: 2, conf: CONF });
    await assertServes(storage, 0);
    const flip = write(storage, { snapshot: meta, hardState: { term: 2, vote: 0, commit: meta.index } });
    await assertServes(storage, 0);
    await flip;
  }

  /** The transfer is made, or made again, and ends in the sender's state: also on disk. */
  async function assertArrives(node: ReceivingNode): Promise<void> {
    await install(node, await fetch(node));
    await assertServes(node.storage, version);
    await stop(node);
    const stored = await storedRows(node.directory);
    const expected = expectedRows(version);
    assert.deepEqual([...stored.keys()], [...expected.keys()]);
    for (const [key, value] of expected) assert.ok(stored.get(key)?.equals(value), `row ${key}`);
  }

  /** Holds the `at`th answer in the middle: by then the receiver has the chunks before on its disk. */
  function heldAt(at: number): { reached: Promise<void>; release: () => void } {
    const { promise: reached, resolve: reach } = Promise.withResolvers<void>();
    const { promise: held, resolve: release } = Promise.withResolvers<void>();
    plan = {
      half: (answer) => {
        if (answer !== at) return null;
        reach();
        return held;
      },
    };
    return { reached, release };
  }

  it('goes on in its session when the connection breaks in the middle of every chunk', async () => {
    const node = await receive();
    const { sent } = sender.sessions;
    plan = { half: (answer) => (answer % 2 === 1 ? Promise.resolve() : null) };
    await assertArrives(node);
    assert.equal(answers, 2 * CHUNKS);
    assert.equal(sender.sessions.sent, sent + 1);
    assert.equal(node.receiver.failed, 0);
  });

  it('whose sender is killed at any chunk starts over with what the sender has then, and takes nothing from before', async () => {
    for (let at = 1; at <= CHUNKS; at++) {
      answers = 0;
      const node = await receive();
      const held = heldAt(at);
      const broken = assert.rejects(fetch(node), /410/);
      await held.reached;
      await assertServes(node.storage, 0);
      // Applied and not yet written: gone with the process.
      sender.storage.put(GROUP, { table: 'header', context: 'late', key: '', value: Buffer.from('late') });
      const directory = join(root, `sender ${at}`);
      const killed = sender.kill(directory);
      held.release();
      await killed;
      sender = await SendingNode.start(directory, { port: sender.port, way });
      await broken;
      await assertServes(node.storage, 0);
      await advance(sender.storage, ++version);
      await assertArrives(node);
      assert.equal(sender.sessions.sent, 1, 'the old session was not continued');
    }
  });

  it('whose receiver is killed at any chunk is made anew by the next one, and the sender gets over it', async () => {
    for (let at = 1; at <= CHUNKS; at++) {
      answers = 0;
      const node = await receive();
      const held = heldAt(at);
      const killed = assert.rejects(fetch(node));
      await held.reached;
      // The chunks before are synced, no write is in flight: this is what a killed process leaves.
      await cp(node.directory, join(root, `image ${at}`), { recursive: true });
      const stopped = stop(node);
      held.release();
      await Promise.all([killed, stopped]);
      const again = await receive(`image ${at}`);
      await assertServes(again.storage, 0);
      // Rows of the broken transfer must not come through where the new one has none.
      await advance(sender.storage, ++version);
      await assertArrives(again);
    }
    await until('the finished sessions to end', () => sender.sessions.open <= CHUNKS);
    assert.equal(sender.sessions.open, CHUNKS, 'one session of each receiver that died');
    sender.idle();
    await until('the sweep of sessions', () => sender.sessions.open === 0);
  });

  it('is all or nothing wherever the last write of its receiver is torn', async () => {
    const node = await receive();
    const log = await writeAheadLog(node.directory);
    const { size: before } = await stat(log);
    const meta = await fetch(node);
    const { size: staged } = await stat(log);
    await install(node, meta);
    const { size: flipped } = await stat(log);
    await cp(node.directory, join(root, 'whole'), { recursive: true });
    // The sweeper of the old state may have begun.
    await truncate(await writeAheadLog(join(root, 'whole')), flipped);
    const between = Array.from({ length: 3 }, (_, part) => before + Math.floor(((staged - before) * (part + 0.5)) / 3));
    for (const size of [...between, staged, staged + 1, Math.floor((staged + flipped) / 2), flipped - 1, flipped]) {
      const torn = `torn at ${size}`;
      await cp(join(root, 'whole'), join(root, torn), { recursive: true });
      await truncate(await writeAheadLog(join(root, torn)), size);
      const { storage } = await receive(torn);
      await assertServes(storage, size === flipped ? version : 0);
    }
    const halfway = await receive(`torn at ${between[1]}`);
    await assertArrives(halfway);
  });

  it('refuses what changed on its way, asks for it again and goes on in its session', async () => {
    const { sent } = sender.sessions;
    const node = await receive();
    // Of every chunk another byte: the state's hash, a row, the end with its row count.
    plan = { chunk: (payload, answer) => (answer % 2 === 0 ? payload : flipByte(payload, answer === 1 ? STATE_HASH_END : answer === 2 * CHUNKS - 1 ? payload.length - 1 : answer * 50_000)) };
    await assertArrives(node);
    assert.equal(answers, 2 * CHUNKS);
    assert.equal(sender.sessions.sent, sent + 1);
    assert.equal(node.receiver.failed, 0);
  });

  it('gives up where every chunk comes damaged, and nothing of it stays', async () => {
    const node = await receive();
    plan = { chunk: (payload, answer) => (answer < 2 ? payload : flipByte(payload, answer * 1000)) };
    await assert.rejects(fetch(node), /chunk is damaged/);
    await assertServes(node.storage, 0);
    await until('the session to end', () => sender.sessions.open === 0);
    plan = {};
    await assertArrives(node);
  });

  it('believes neither a cursor nor a membership that changed on its way', async () => {
    const node = await receive();
    // The cursor ends in the key of the last row that was sent: another key there would leave rows out.
    for (const bits of [1, 2, 4]) {
      answers = 0;
      plan = {
        headers: ({ 'x-next': next = '' }, answer) => {
          const cursor = Buffer.from(next, 'base64url');
          return answer > 1 ? {} : { 'x-next': Buffer.from(flipByte(cursor, cursor.length - 1, bits)).toString('base64url') };
        },
      };
      await assert.rejects(fetch(node), /410/);
      await assertServes(node.storage, 0);
    }
    plan = { headers: ({ 'x-meta': meta = '' }) => ({ 'x-meta': meta.replace('"voters":[1,2,3]', '"voters":[1,2,7]') }) };
    await assertArrives(node);
  });

  async function writeAheadLog(directory: string): Promise<string> {
    const logs = (await readdir(join(directory, 'db'))).filter((name) => name.endsWith('.log'));
    assert.equal(logs.length, 1);
    return join(directory, 'db', logs[0] ?? '');
  }
});
