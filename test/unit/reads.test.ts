/** The read verbs through the store: pages, versions, tags, windows, byte for byte what was sent; and the write verbs' answers. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, beforeEach, describe, it } from 'node:test';
import { ApiError } from '../../src/errors.ts';
import type { MessagesQuery, WindowQuery } from '../../src/http/ports.ts';
import type { Store } from '../../src/store.ts';
import { GROUP, Mesh } from './mesh.ts';

interface Message {
  readonly seq: number;
  readonly version: number;
  readonly token_count: number;
}

interface Window {
  readonly version: number;
  readonly messages: Message[];
  readonly used_tokens: number;
  readonly needs_compaction: boolean;
  readonly truncated: boolean;
  readonly over_budget: boolean;
  readonly segments: unknown[];
  readonly prefix_hash: string;
}

const WINDOW: WindowQuery = { budgetTokens: null, full: false, ifVersion: null, atVersion: null, provider: null, ifNoneMatch: null };
const EMPTY_HASH = createHash('sha256').digest('hex');

function refusal(code: string, fields: Record<string, unknown> = {}): (error: unknown) => boolean {
  return (error) => error instanceof ApiError && error.code === code && Object.entries(fields).every(([name, value]) => error.fields[name] === value);
}

describe('reads', () => {
  let mesh: Mesh;
  let store: Store;
  let contexts = 0;
  let id = '';

  before(async () => {
    // Every id below lives in one of these, so that contexts cost nothing.
    mesh = await Mesh.start(1, { groups: Array.from({ length: 256 }, (_, group) => group) });
    store = mesh.node('node-1').store;
  });
  after(() => mesh.close());
  beforeEach(async () => {
    id = `context ${++contexts}`;
    await store.put(id, { tokenBudget: 1000 });
  });

  const append = async (count: number, tokens = 1): Promise<void> => {
    const messages = Array.from({ length: count }, () => ({ role: 'user', parts: [], token_count: tokens }));
    await store.append(id, Buffer.from(JSON.stringify({ messages })), null);
  };
  const page = async (query: Partial<MessagesQuery>): Promise<{ seqs: number[]; next: number | null; version: number }> => {
    const { body } = await store.messages(id, { fromSeq: 1, toSeq: null, afterVersion: null, limit: 100, ...query }, 'linearizable');
    const { messages, next_seq, version } = JSON.parse(body.toString()) as { messages: Message[]; next_seq: number | null; version: number };
    return { seqs: messages.map(({ seq }) => seq), next: next_seq, version };
  };
  const tail = async (offset: number, limit: number): Promise<number[]> => {
    const { messages } = JSON.parse((await store.tail(id, { offset, limit }, 'linearizable')).body.toString()) as { messages: Message[] };
    return messages.map(({ seq }) => seq);
  };
  const windowQuery = (query: Partial<WindowQuery>): WindowQuery => ({ ...WINDOW, ...query });
  const window = async (query: Partial<WindowQuery> = {}): Promise<Window> => JSON.parse((await store.window(id, windowQuery(query), 'linearizable')).body.toString()) as Window;

  it('the tail counts from the newest, oldest first, and is empty past the beginning', async () => {
    assert.deepEqual(await tail(0, 10), []);
    await append(10);
    assert.deepEqual(await tail(0, 3), [8, 9, 10]);
    assert.deepEqual(await tail(3, 3), [5, 6, 7]);
    assert.deepEqual(await tail(9, 3), [1]);
    assert.deepEqual(await tail(10, 3), []);
    assert.deepEqual(await tail(Number.MAX_SAFE_INTEGER, 1000), []);
    assert.deepEqual(await tail(0, 1000), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });

  it('pages of messages meet without hole or repeat, and the last says so', async () => {
    assert.deepEqual(await page({}), { seqs: [], next: null, version: 0 });
    await append(10);
    assert.deepEqual(await page({ limit: 4 }), { seqs: [1, 2, 3, 4], next: 5, version: 10 });
    assert.deepEqual(await page({ fromSeq: 5, limit: 4 }), { seqs: [5, 6, 7, 8], next: 9, version: 10 });
    assert.deepEqual(await page({ fromSeq: 9, limit: 4 }), { seqs: [9, 10], next: null, version: 10 });
    // A page that ends at the end has no next one.
    assert.deepEqual(await page({ fromSeq: 7, limit: 4 }), { seqs: [7, 8, 9, 10], next: null, version: 10 });
    assert.deepEqual(await page({ fromSeq: 11 }), { seqs: [], next: null, version: 10 });
    assert.deepEqual(await page({ fromSeq: Number.MAX_SAFE_INTEGER, limit: 1000 }), { seqs: [], next: null, version: 10 });
  });

  it('to_seq ends the range and its pages', async () => {
    await append(10);
    assert.deepEqual(await page({ toSeq: 5, limit: 3 }), { seqs: [1, 2, 3], next: 4, version: 10 });
    assert.deepEqual(await page({ fromSeq: 4, toSeq: 5, limit: 3 }), { seqs: [4, 5], next: null, version: 10 });
    assert.deepEqual((await page({ toSeq: 0 })).seqs, []);
    assert.deepEqual((await page({ fromSeq: 6, toSeq: 5 })).seqs, []);
    assert.deepEqual((await page({ fromSeq: 9, toSeq: 99 })).seqs, [9, 10]);
  });

  it('after_version finds exactly what came later, over compactions that took versions of their own', async () => {
    await append(3);
    await store.compact(id, Buffer.from('{"replacement":[],"keep_from_seq":3}'));
    await append(2);
    // Versions: messages 1, 2, 3; compaction 4; messages 5, 6.
    const found: number[][] = [];
    for (let version = 0; version <= 7; version++) found.push((await page({ afterVersion: version })).seqs);
    assert.deepEqual(found, [[1, 2, 3, 4, 5], [2, 3, 4, 5], [3, 4, 5], [4, 5], [4, 5], [5], [], []]);
    assert.deepEqual(await page({ afterVersion: 1, limit: 2 }), { seqs: [2, 3], next: 4, version: 6 });
    assert.deepEqual((await page({ afterVersion: 1, fromSeq: 4 })).seqs, [4, 5]);
  });

  it('parts, metadata and id come back as the bytes that were sent', async () => {
    const parts = '[{"type":"text","text":"\\u00e9\\ud83d\\ude00","n":1.50e+3,"deep":{"b":1,"a":[ ]}} , {"type":"x"}]';
    const metadata = '{ "z":1, "a":12345678901234567890 }';
    const body = `{"message":{"role":"us\\u0065r","id":"m\\n1","parts":${parts},"metadata":${metadata}}}`;
    await store.append(id, Buffer.from(body), null);
    const text = (await store.tail(id, { offset: 0, limit: 1 }, 'linearizable')).body.toString();
    assert.ok(text.startsWith('{"messages":[{"seq":1,"version":1,"id":"m\\n1","role":"us\\u0065r","parts":'), text);
    assert.ok(text.includes(`"parts":${parts},"token_count":`), text);
    assert.match(text, new RegExp(`"metadata":${metadata.replace(/[{}]/g, '\\$&')},"inserted_at":"\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z"}]}$`));
    const shown = (await store.window(id, windowQuery({}), 'linearizable')).body.toString();
    assert.ok(shown.includes(`"parts":${parts},`) && shown.includes(`"metadata":${metadata},`));
  });

  it('a window says what it holds and what of it was left out', async () => {
    const empty = await window();
    assert.deepEqual([empty.version, empty.messages, empty.used_tokens, empty.segments, empty.prefix_hash], [0, [], 0, [], EMPTY_HASH]);
    await append(6, 100);
    const whole = await window();
    assert.equal(whole.used_tokens, 600);
    assert.deepEqual(whole.segments, [{ type: 'live', from_seq: 1, to_seq: 6 }]);
    assert.deepEqual([whole.truncated, whole.over_budget], [false, false]);
    const part = await window({ budgetTokens: 250 });
    assert.deepEqual([part.messages.map(({ seq }) => seq), part.used_tokens, part.truncated, part.over_budget], [[5, 6], 200, true, false]);
    const newest = await window({ budgetTokens: 50 });
    assert.deepEqual([newest.messages.map(({ seq }) => seq), newest.used_tokens, newest.truncated, newest.over_budget], [[6], 100, true, true]);
    assert.equal((await window({ budgetTokens: 50, full: true })).messages.length, 6);
  });

  it('prefix_hash covers all messages but the newest, as they are shown', async () => {
    await append(1);
    assert.equal((await window()).prefix_hash, EMPTY_HASH);
    await append(2);
    const { body } = await store.window(id, windowQuery({}), 'linearizable');
    const text = body.toString();
    const shown = /"messages":\[(.*)\],"used_tokens"/.exec(text)?.[1] ?? '';
    const messages = shown.split(/(?<=Z"\}),/);
    assert.equal(messages.length, 3);
    assert.equal((JSON.parse(text) as Window).prefix_hash, createHash('sha256').update(messages.slice(0, 2).join('')).digest('hex'));
  });

  it('a tag holds until version, revision or query change, and 304 comes without a body', async () => {
    await append(3);
    const first = await store.window(id, windowQuery({}), 'linearizable');
    assert.match(first.etag, /^"[^"]+"$/);
    const ask = async (ifNoneMatch: string, query: Partial<WindowQuery> = {}): Promise<boolean> => {
      const answer = await store.window(id, windowQuery({ ...query, ifNoneMatch }), 'linearizable');
      assert.equal(answer.body.length === 0, answer.notModified);
      return answer.notModified;
    };
    for (const same of [first.etag, `W/${first.etag}`, `"other", ${first.etag}`, '*', ' * ']) assert.equal(await ask(same), true, same);
    for (const other of ['"other"', '', first.etag.slice(1, -1)]) assert.equal(await ask(other), false, other);
    assert.equal(await ask(first.etag, { budgetTokens: 10 }), false);
    assert.equal(await ask(first.etag, { full: true }), false);
    // A condition that no longer holds comes first.
    await assert.rejects(store.window(id, windowQuery({ ifVersion: 2, ifNoneMatch: first.etag }), 'linearizable'), refusal('conflict', { expected: 2, found: 3 }));
    await store.patchMetadata(id, { a: 1 });
    assert.equal(await ask(first.etag), false, 'a new revision');
    const second = await store.window(id, windowQuery({}), 'linearizable');
    await append(1);
    assert.equal(await ask(second.etag), false, 'a new version');
  });

  it('a context that is not there is 404 in every verb', async () => {
    const missing = 'not there';
    const notFound = refusal('context_not_found');
    await assert.rejects(store.get(missing, 'linearizable'), notFound);
    await assert.rejects(store.get(missing, 'stale'), notFound);
    await assert.rejects(store.tail(missing, { offset: 0, limit: 1 }, 'linearizable'), notFound);
    await assert.rejects(store.window(missing, windowQuery({ ifNoneMatch: '*' }), 'linearizable'), notFound);
    await assert.rejects(store.append(missing, Buffer.from('{"message":{"role":"user","parts":[]}}'), null), notFound);
    await assert.rejects(store.compact(missing, Buffer.from('{"replacement":[]}')), notFound);
    await assert.rejects(store.patchMetadata(missing, {}), notFound);
    await assert.rejects(store.remove(missing), notFound);
  });

  it('a stale read says how far the replica is, a linearizable one need not', async () => {
    const { appliedIndex } = await store.get(id, 'stale');
    assert.ok(appliedIndex !== null && appliedIndex > 1);
    assert.equal((await store.get(id, 'linearizable')).appliedIndex, null);
    await append(1);
    assert.ok(((await store.get(id, 'stale')).appliedIndex ?? 0) > appliedIndex);
  });

  it('a replayed append gives the first answer, another body under its key is refused', async () => {
    const body = Buffer.from('{"messages":[{"role":"user","parts":[],"token_count":3},{"role":"user","parts":[],"token_count":4}]}');
    const first = await store.append(id, body, 'key');
    await append(1);
    const again = await store.append(id, body, 'key');
    assert.deepEqual([first.replayed, again.replayed], [false, true]);
    assert.equal(again.body, '{"messages":[{"seq":1,"version":1,"token_estimate":3},{"seq":2,"version":2,"token_estimate":4}],"version":2}');
    assert.equal(again.body, first.body);
    await assert.rejects(store.append(id, Buffer.from(`${body} `), 'key'), refusal('idempotency_conflict'));
    assert.deepEqual((await page({})).seqs, [1, 2, 3]);
  });

  it('a message is counted for the model of its context, whatever this node believed', async () => {
    const text = 'Donaudampfschifffahrtsgesellschaft '.repeat(20);
    const body = Buffer.from(JSON.stringify({ message: { role: 'user', parts: [{ type: 'text', text }] } }));
    const replacement = Buffer.from(JSON.stringify({ replacement: [{ role: 'user', parts: [{ type: 'text', text }] }] }));
    const tokens = async (): Promise<[number, number]> => {
      const { token_estimate } = JSON.parse((await store.append(id, body, null)).body.toString()) as { token_estimate: number };
      await store.compact(id, replacement);
      return [token_estimate, (await window()).used_tokens];
    };
    const [o200k, compactedO200k] = await tokens();
    await store.put(id, { model: 'gpt-4' });
    const [cl100k, compactedCl100k] = await tokens();
    assert.notEqual(o200k, cl100k);
    assert.deepEqual([compactedO200k, compactedCl100k], [o200k, cl100k]);
  });

  it('concurrent writers of settings undo nothing of each other', async () => {
    await Promise.all(Array.from({ length: 8 }, (_, i) => store.patchMetadata(id, { [`k${i}`]: i })));
    const { metadata, config_revision } = JSON.parse((await store.get(id, 'linearizable')).body.toString()) as { metadata: Record<string, number>; config_revision: number };
    assert.equal(Object.keys(metadata).length, 8);
    assert.equal(config_revision, 8);
  });

  it('a tombstone ends writes, not reads', async () => {
    await append(2);
    await store.remove(id);
    await store.remove(id);
    const { status, version } = JSON.parse((await store.get(id, 'linearizable')).body.toString()) as { status: string; version: number };
    assert.deepEqual([status, version], ['tombstoned', 3]);
    assert.deepEqual(await tail(0, 5), [1, 2]);
    await assert.rejects(append(1), refusal('context_tombstoned'));
    await assert.rejects(store.put(id, { tokenBudget: 5 }), refusal('context_tombstoned'));
    await assert.rejects(store.patchMetadata(id, { a: 1 }), refusal('context_tombstoned'));
  });
});

describe('reads between nodes', () => {
  let mesh: Mesh;
  before(async () => {
    mesh = await Mesh.start(5, { groups: [GROUP], timeoutMs: 1500 });
    await mesh.node('node-1').store.put('c', {});
  });
  after(() => mesh.close());

  const append = async (store: Store): Promise<void> => void (await store.append('c', Buffer.from('{"message":{"role":"user","parts":[]}}'), null));

  it('a node without a replica writes and reads as the others do', async () => {
    for (const node of mesh.nodes.values()) {
      await append(node.store);
      const bodies = await Promise.all([...mesh.nodes.values()].map(async ({ store }) => (await store.get('c', 'linearizable')).body.toString()));
      assert.equal(new Set(bodies).size, 1);
    }
    const [stranger] = mesh.strangers(GROUP);
    assert.ok(stranger);
    assert.ok(((await stranger.store.get('c', 'stale')).appliedIndex ?? 0) > 0);
    await assert.rejects(stranger.store.window('c', { ...WINDOW, ifVersion: 99 }, 'linearizable'), refusal('conflict', { expected: 99, found: 5 }));
    const { etag } = await stranger.store.window('c', WINDOW, 'linearizable');
    const again = await stranger.store.window('c', { ...WINDOW, ifNoneMatch: etag }, 'linearizable');
    assert.deepEqual([again.notModified, again.etag], [true, etag]);
  });

  it('a host that is cut off from its leader does not keep others from answering', async () => {
    const [stranger] = mesh.strangers(GROUP);
    assert.ok(stranger);
    const order = stranger.router.hostsOf(GROUP);
    const [first = ''] = order;
    for (const name of order.slice(1)) mesh.cut(first, name);
    const started = performance.now();
    assert.equal((await stranger.store.get('c', 'linearizable')).appliedIndex, null);
    assert.ok(performance.now() - started < 1500);
    mesh.heal();
    await mesh.leader(GROUP);
    // One that says so itself is passed over as well.
    const head = Buffer.from(JSON.stringify({ etag: '', notModified: false, appliedIndex: null, error: { code: 'raft_unavailable', message: 'alone', fields: {} } }));
    const host = mesh.node(stranger.router.hostsOf(GROUP)[0] ?? '');
    let asked = 0;
    host.answering = (_kind, _body, reply) => {
      asked++;
      reply(Buffer.concat([Buffer.from([0, 0, 0, head.length]), head]));
    };
    await stranger.store.get('c', 'linearizable');
    assert.equal(asked, 1);
    host.answering = null;
  });

  it('an answer that is none sends the asker on at once', async () => {
    const [stranger] = mesh.strangers(GROUP);
    assert.ok(stranger);
    for (const text of ['', 'x', '\0\0\0\u0002{}', '\0\0\0\u00ff{}']) {
      const host = mesh.node(stranger.router.hostsOf(GROUP)[0] ?? '');
      host.answering = (_kind, _body, reply) => reply(Buffer.from(text));
      const started = performance.now();
      await stranger.store.get('c', 'linearizable');
      assert.ok(performance.now() - started < 300, JSON.stringify(text));
      host.answering = null;
    }
  });

  it('says that nothing can be reached rather than wait for ever', async () => {
    const [stranger] = mesh.strangers(GROUP);
    assert.ok(stranger);
    mesh.fate = () => 'swallow';
    const started = performance.now();
    await assert.rejects(stranger.store.get('c', 'linearizable'), refusal('raft_unavailable'));
    assert.ok(performance.now() - started < 2500);
    mesh.fate = () => 'deliver';
  });

  it('a change that was made never reads as if nothing had been, though the answer to it is lost', async () => {
    const [stranger] = mesh.strangers(GROUP);
    assert.ok(stranger);
    let asked = 0;
    // The first read tells the settings in force; the one after the change is lost.
    mesh.fate = (from, _to, kind) => (from === stranger.name && kind === 2 && ++asked > 1 ? 'swallow' : 'deliver');
    await assert.rejects(stranger.store.put('c', { tokenBudget: 4321 }), refusal('timeout', { outcome: 'unknown' }));
    mesh.fate = () => 'deliver';
    assert.match((await stranger.store.get('c', 'linearizable')).body.toString(), /"token_budget":4321/);
  });
});
