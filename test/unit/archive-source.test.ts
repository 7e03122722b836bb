/** What the archiver is given of the groups led here: over real storage, state machine and Raft host. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Ack, ContextSlice } from '../../archiver/ports.ts';
import { TRIM_ROWS_AT_ONCE } from '../../src/archive/pace.ts';
import { GroupSource } from '../../src/archive/source.ts';
import { groupOf } from '../../src/cluster/placement.ts';
import { Mesh, type MeshNode } from './mesh.ts';

const ALL = { fromSeq: 1, countMax: 10_000, bytesMax: 64 * 1024 * 1024 };
const TAIL_KEEP = 5;
let mesh: Mesh;
let node: MeshNode;
let trimmed = 0;
/** Commands proposed, by group. */
const proposed: number[] = [];
const elsewhere = new Set<number>();
let onPropose: ((group: number, commit: () => Promise<boolean>) => Promise<boolean>) | null = null;

function source(): GroupSource {
  const leads = (group: number): boolean => !elsewhere.has(group) && node.host.isLeader(group);
  return new GroupSource({
    storage: node.storage,
    rowsOf: (context) => node.machine.rowsOf(context),
    led: () => node.host.groups().filter(leads).sort((a, b) => a - b),
    leads,
    propose: (group, command) => {
      proposed.push(group);
      const commit = (): Promise<boolean> => node.router.proposeLed(group, command);
      return onPropose === null ? commit() : onPropose(group, commit);
    },
    tailKeep: TAIL_KEEP,
    trimmed: { inc: (count) => void (trimmed += count) },
  });
}

async function pendingIds(limit: number): Promise<string[]> {
  const ids: string[] = [];
  for (let cursor: string | null = null, laps = 0; ; laps++) {
    const page = await source().pending(cursor, limit);
    assert.ok(page.contexts.length <= limit && laps < 1000);
    ids.push(...page.contexts.map(({ context }) => context));
    if (page.cursor === null) return ids;
    cursor = page.cursor;
  }
}

async function append(id: string, count: number, text = 'hello'): Promise<void> {
  const messages = Array.from({ length: count }, (_, i) => ({ role: 'user', parts: [{ type: 'text', text: `${text} ${i}` }] }));
  await node.store.append(id, Buffer.from(JSON.stringify({ messages })), null);
}

async function slice(id: string, options: Partial<typeof ALL> = {}): Promise<ContextSlice> {
  return (await source().read(id, { ...ALL, ...options })) ?? assert.fail(`${id} is not to be read`);
}

/** Confirms what `slice` says there is. */
async function confirm(ids: readonly string[]): Promise<readonly boolean[]> {
  const acks: Ack[] = [];
  for (const context of ids) {
    const { state } = await slice(context);
    acks.push({ context, upto: state.lastSeq, version: state.version, configRevision: state.configRevision });
  }
  return source().ack(acks);
}

const small = { tokenBudget: 1000, policy: { strategy: 'last_n', limit: 3, skipKinds: [], targetRatio: 0.5, pin: true } } as const;
const byGroup = (a: string, b: string): number => groupOf(a) - groupOf(b) || Buffer.compare(Buffer.from(a), Buffer.from(b));

before(async () => {
  mesh = await Mesh.start(1, { groups: Array.from({ length: 256 }, (_, group) => group) });
  node = mesh.node('node-1');
});
after(() => mesh.close());

describe('the contexts of the groups led here', () => {
  const ids = Array.from({ length: 40 }, (_, i) => `a context/${i}`).sort(byGroup);

  it('are pending in one order, page by page, each once, without those led elsewhere', async () => {
    for (const id of ids) {
      await node.store.put(id, small);
      await append(id, 3);
    }
    for (const limit of [1, 7, 40, 500]) assert.deepEqual(await pendingIds(limit), ids);
    elsewhere.add(groupOf(ids[3] ?? ''));
    assert.deepEqual(await pendingIds(9), ids.filter((id) => !elsewhere.has(groupOf(id))));
    assert.equal(await source().read(ids[3] ?? '', ALL), null);
    elsewhere.clear();
    const [first] = (await source().pending(null, 1)).contexts;
    assert.deepEqual(first, { context: ids[0], version: 3, configRevision: 0, lastSeq: 3, archivedSeq: 0, tailSize: 3, windowTokens: first?.windowTokens });
  });

  it('are confirmed together, one entry a group, and are pending no more; what comes next makes them pending again', async () => {
    proposed.length = 0;
    assert.deepEqual(await confirm(ids), ids.map(() => true));
    assert.deepEqual([...proposed].sort(), [...new Set(ids.map(groupOf))].sort());
    assert.deepEqual(await pendingIds(100), []);
    const [id = ''] = ids;
    await append(id, 20);
    assert.deepEqual(await pendingIds(100), [id]);
    assert.equal((await slice(id)).messages[0]?.seq, 4);
    assert.deepEqual(await confirm([id]), [true]);
    assert.equal(trimmed, 23 - TAIL_KEEP);
    assert.deepEqual(await pendingIds(100), []);
  });

  it('are trimmed by few commands at a time when there is much to trim; marks that trim little wait for none of it', async () => {
    const big = Array.from({ length: 6 }, (_, i) => `big/${i}`);
    assert.equal(new Set([...big, 'small'].map(groupOf)).size, 7);
    for (const id of [...big, 'small']) {
      await node.store.put(id, small);
      await append(id, id === 'small' ? 6 : 505);
    }
    const acks = await Promise.all([...big, 'small'].map(async (context) => {
      const { state } = await slice(context);
      return { context, upto: state.lastSeq, version: state.version, configRevision: state.configRevision };
    }));
    const under: number[] = [];
    let most = 0;
    const order: number[] = [];
    onPropose = async (group, commit) => {
      order.push(group);
      under.push(group);
      most = Math.max(most, under.filter((one) => one !== groupOf('small')).length);
      const done = await commit();
      under.splice(under.indexOf(group), 1);
      return done;
    };
    assert.deepEqual(await source().ack(acks), acks.map(() => true));
    onPropose = null;
    assert.equal(order[0], groupOf('small'));
    assert.deepEqual(order.toSorted(), acks.map(({ context }) => groupOf(context)).toSorted());
    assert.equal(most, Math.floor(TRIM_ROWS_AT_ONCE / 500));
    for (const id of big) assert.equal(node.machine.rowsOf(id).header(id)?.trimmedSeq, 500);
  });

  it('tell nothing of marks that were not applied here', async () => {
    const [id = ''] = ids;
    await append(id, 1);
    const acks = [{ context: id, upto: 24, version: 24, configRevision: 0 }];
    elsewhere.add(groupOf(id));
    node.router.close();
    assert.deepEqual(await source().ack(acks), [false]);
    elsewhere.clear();
  });
});

describe('a slice', () => {
  before(async () => {
    // The router of the test above is closed.
    await mesh.stop('node-1');
    node = await mesh.open('node-1');
    for (let group = 0; group < 256; group++) await mesh.leader(group);
  });

  it('holds messages as the API returns them, from where it is asked, in bounds of number and bytes', async () => {
    const id = 'slices';
    await node.store.put(id, small);
    await append(id, 60, 'x'.repeat(1000));
    const lines = JSON.parse((await node.store.tail(id, { offset: 0, limit: 100 }, 'stale')).body.toString()) as { messages: { seq: number }[] };
    const whole = await slice(id);
    assert.deepEqual(whole.messages.map(({ body }) => JSON.parse(Buffer.from(body).toString()) as unknown), lines.messages);
    const seqs = async (options: Partial<typeof ALL>): Promise<number[]> => (await slice(id, options)).messages.map(({ seq }) => seq);
    assert.deepEqual(await seqs({ fromSeq: 50 }), Array.from({ length: 11 }, (_, i) => 50 + i));
    assert.deepEqual(await seqs({ fromSeq: 58 }), [58, 59, 60]);
    assert.deepEqual(await seqs({ fromSeq: 61 }), []);
    assert.deepEqual(await seqs({ fromSeq: 3, countMax: 30 }), Array.from({ length: 30 }, (_, i) => 3 + i));
    assert.deepEqual(await seqs({ fromSeq: 3, countMax: 2 }), [3, 4]);
    const size = whole.messages[0]?.body.length ?? 0;
    assert.equal((await seqs({ bytesMax: size * 20 })).length, 20);
    assert.deepEqual(await seqs({ bytesMax: 1 }), [1]);
  });

  it('is the same whether messages were appended together or one by one, wherever it begins and ends', async () => {
    await node.store.put('runs', {});
    for (const count of [3, 100, 1, 200, 20]) await append('runs', count, 'as good as any other text that is said again and again in all of them');
    const told = ({ seq, body, rowHead }: ContextSlice['messages'][number]): string => `${seq} ${Buffer.from(rowHead).toString('hex')} ${Buffer.from(body).toString()}`;
    const all = (await slice('runs')).messages;
    assert.deepEqual(all.map(({ seq }) => seq), Array.from({ length: 324 }, (_, i) => i + 1));
    const api = await node.store.messages('runs', { fromSeq: 1, toSeq: null, afterVersion: null, limit: 1000 }, 'linearizable');
    const { messages }: { messages: { parts: { text: string }[] }[] } = JSON.parse(api.body.toString());
    all.forEach(({ body }, i) => assert.ok(body.toString().includes(`${messages[i]?.parts[0]?.text}"`), `message ${i + 1}`));
    for (const fromSeq of [1, 2, 40, 63, 64, 65, 66, 104, 105, 200, 300, 324]) {
      for (const countMax of [1, 9, 20, 64, 100, 1000]) {
        const { messages } = await slice('runs', { fromSeq, countMax });
        assert.deepEqual(messages.map(told), all.slice(fromSeq - 1, fromSeq - 1 + countMax).map(told), `${countMax} from ${fromSeq}`);
      }
      const bytesMax = 30 * (all[0]?.body.length ?? 0);
      const some = (await slice('runs', { fromSeq, bytesMax })).messages;
      assert.deepEqual(some.map(told), all.slice(fromSeq - 1, fromSeq - 1 + some.length).map(told));
      assert.ok(some.length >= Math.min(25, 325 - fromSeq) && some.length <= 31, `${some.length} messages in ${bytesMax} bytes`);
    }
  });

  it('holds the compactions that are not confirmed, and the state with them', async () => {
    const id = 'compacted';
    await node.store.put(id, { metadataText: Buffer.from('{"a": 1.0}') });
    for (let round = 0; round < 3; round++) {
      await append(id, 2);
      await node.store.compact(id, Buffer.from('{"replacement":[{"role":"user","parts":[]}]}'));
    }
    const { state, compactions } = await slice(id);
    assert.deepEqual(compactions.map(({ version, fromSeq, toSeq }) => [version, fromSeq, toSeq]), [[3, 1, 2], [6, 1, 4], [9, 1, 6]]);
    assert.deepEqual([state.status, state.version, Buffer.from(state.metadataText).toString()], ['active', 9, '{"a": 1.0}']);
    assert.match(state.policyText, /^\{"strategy":"last_n","config":\{"limit":400/);
    await source().ack([{ context: id, upto: 0, version: 6, configRevision: 0 }]);
    assert.deepEqual((await slice(id)).compactions.map(({ version }) => version), [9]);
    await node.store.remove(id);
    assert.equal((await slice(id)).state.status, 'tombstoned');
  });

  it('is none of a context that was purged, and such a one is not pending', async () => {
    const id = 'purged';
    await node.store.put(id, small);
    await append(id, 2);
    await node.store.purge(id);
    assert.equal(await source().read(id, ALL), null);
    assert.ok(!(await pendingIds(100)).includes(id));
  });
});
