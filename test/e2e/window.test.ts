/** Windows on three real nodes: in every provider's shape, at old versions, explained, compacted under a claim, calibrated. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses, until, type Answer } from './processes.ts';

interface Window {
  version: number;
  config_revision: number;
  messages: { seq?: number; role: string; token_count: number }[];
  used_tokens: number;
  prefix_hash: string;
  truncated: boolean;
}

interface Explained {
  seq: number;
  state: string;
  rule: string | null;
  at_version: number | null;
  tokens_shown: number;
  parts_taken: unknown[];
}

interface Explanation {
  version: number;
  messages: Explained[];
  next_seq: number | null;
  arithmetic: { used_tokens: number; sum: { messages: number; tokens: number }; stored: { messages: number }; left_out: { messages: number }; replacement: { messages: number; tokens: number } };
}

const SHAPES = ['', '&for=openai', '&for=anthropic', '&for=ai-sdk', '&full=true', '&budget_tokens=60'] as const;
const PROVIDER_SHAPES = ['openai', 'anthropic', 'ai-sdk'] as const;

/** One round of an agent: the user asks, two tools are called at once, both answer, the assistant concludes. */
function round(n: number): { role: string; parts: Record<string, unknown>[] }[] {
  const [a, b] = [`call_${n % 3}`, `call_${n}_b`];
  const text = (value: string): Record<string, unknown> => ({ type: 'text', text: value });
  const anthropic = n % 2 === 0;
  const ask = { role: 'user', parts: [text(`Question ${n}: where is order ${1000 + n}, and what is the weather there?`)] };
  const tell = { role: 'assistant', parts: [text(`Order ${1000 + n} is in Oslo; it rains.`)] };
  if (anthropic) {
    return [
      ask,
      { role: 'assistant', parts: [text('Looking.'), { type: 'tool_use', id: a, name: 'order', input: { id: 1000 + n } }, { type: 'tool_use', id: b, name: 'weather', input: { city: 'Oslo' } }] },
      { role: 'user', parts: [{ type: 'tool_result', tool_use_id: b, content: 'rain' }, { type: 'tool_result', tool_use_id: a, content: '{"at":"Oslo"}' }] },
      tell,
    ];
  }
  return [
    ask,
    { role: 'assistant', parts: [{ type: 'function', id: a, function: { name: 'order', arguments: `{"id":${1000 + n}}` } }, { type: 'function', id: b, function: { name: 'weather', arguments: '{"city":"Oslo"}' } }] },
    { role: 'tool', parts: [{ type: 'text', text: '{"at":"Oslo"}', tool_call_id: a }] },
    { role: 'tool', parts: [{ type: 'text', text: 'rain', tool_call_id: b }] },
    tell,
  ];
}

describe('windows on three nodes', () => {
  let cluster: ClusterProcesses;
  let turn = 0;
  before(async () => {
    cluster = await ClusterProcesses.start(3);
  });
  after(() => cluster.stop());

  /** Each call through the next node. */
  const ask = (path: string, method = 'GET', body?: unknown): Promise<Answer> => call(`${cluster.node(turn++ % 3).url}/v1/contexts/${path}`, method, body);
  const done = async (path: string, method = 'GET', body?: unknown): Promise<Answer> => {
    const answer = await ask(path, method, body);
    assert.ok(answer.status < 300, `${method} ${path}: ${answer.status} ${answer.text}`);
    return answer;
  };
  const window = async (path: string): Promise<Window> => JSON.parse((await done(path)).text);
  const explainAll = async (id: string, query: string): Promise<{ messages: Explained[]; arithmetic: Explanation['arithmetic'] }> => {
    const messages: Explained[] = [];
    for (let from: number | null = 1; from !== null; ) {
      const page: Explanation = JSON.parse((await done(`${id}/context?explain=true&limit=7&from_seq=${from}${query}`)).text);
      messages.push(...page.messages);
      if (page.next_seq === null) return { messages, arithmetic: page.arithmetic };
      from = page.next_seq;
    }
    throw new Error('unreachable');
  };

  /** What was answered live, by path of the same answer at its version. */
  const live = new Map<string, { text: string; etag: string | null }>();
  const versions: number[] = [];

  test('every node answers the same bytes in every shape, after every append', async () => {
    await done('agent', 'PUT', { token_budget: 400, policy: { strategy: 'skip_parts', config: { limit: 60 } } });
    await done('agent/messages', 'POST', { message: { role: 'system', parts: [{ type: 'text', text: 'Be brief.' }] } });
    for (let n = 1; n <= 12; n++) {
      // A call in flight is the moment at which a window is easiest to get wrong.
      for (const message of round(n)) {
        await done('agent/messages', 'POST', { message });
        if (n === 5 && message.role === 'user') await done('agent', 'PUT', { token_budget: 300 });
        if (n === 6 && message.role === 'user') await done('agent/metadata', 'PATCH', { metadata: { n } });
        const version = Number((await done('agent')).json['version']);
        versions.push(version);
        for (const shape of SHAPES) {
          const path = `agent/context?consistency=linearizable${shape}`;
          const answers = await Promise.all(cluster.nodes.map((node) => call(`${node.url}/v1/contexts/${path}`)));
          const [first] = answers;
          assert.ok(first !== undefined && first.status === 200, first?.text ?? '');
          for (const answer of answers) assert.deepEqual([answer.text, answer.headers.get('etag')], [first.text, first.headers.get('etag')], path);
          live.set(`agent/context?at_version=${version}${shape}`, { text: first.text, etag: first.headers.get('etag') });
        }
      }
      if (n === 9) await done('agent/compact', 'POST', { replacement: [{ role: 'user', parts: [{ type: 'text', text: 'So far: eight orders, all in Oslo.' }] }], keep_from_seq: Number((await done('agent')).json['last_seq']) - 3 });
    }
    assert.ok(new Set([...live.values()].map(({ etag }) => etag)).size === live.size, 'each answer has a tag of its own');
  });

  test('what a provider is sent has every result right behind its call', async () => {
    for (const [path, { text }] of live) {
      if (!path.endsWith('for=openai')) continue;
      const { messages }: { messages: { role: string; tool_calls?: { id: string }[]; tool_call_id?: string }[] } = JSON.parse(text);
      const open: string[] = [];
      for (const message of messages) {
        if (message.role === 'tool') assert.equal(message.tool_call_id, open.shift(), path);
        else assert.deepEqual(open, [], path);
        open.push(...(message.tool_calls ?? []).map(({ id }) => id));
      }
      assert.deepEqual(open, [], path);
    }
  });

  test('a window at an older version is the bytes that were answered then, also with a node dead and after its return', async () => {
    const compare = async (nodes: readonly number[]): Promise<void> => {
      let at = 0;
      for (const [path, { text, etag }] of live) {
        const answer = await call(`${cluster.node(nodes[at++ % nodes.length] ?? 0).url}/v1/contexts/${path}`);
        assert.equal(answer.text, text, path);
        assert.equal(answer.headers.get('etag'), etag, path);
      }
    };
    await compare([0, 1, 2]);
    await cluster.node(0).kill('SIGKILL');
    await until('the others to lead', async () => (await call(`${cluster.node(1).url}/v1/contexts/agent`)).status === 200);
    await compare([1, 2]);
    cluster.node(0).start();
    await cluster.ready();
    await compare([0]);
    for (const path of ['agent/context?at_version=999999', 'agent/context?at_version=999999&explain=true']) {
      const ahead = await ask(path);
      assert.deepEqual([ahead.status, ahead.json['error'], ahead.json['path']], [400, 'invalid_request', 'at_version']);
      assert.match(String(ahead.json['message']), /versions 0 to \d+/);
    }
  });

  test('an answer that is still right is 304, in each shape for itself', async () => {
    for (const shape of SHAPES) {
      const node = cluster.node(turn++ % 3);
      const path = `/v1/contexts/agent/context?consistency=linearizable${shape}`;
      const etag = (await call(`${node.url}${path}`)).headers.get('etag') ?? '';
      assert.equal((await call(`${cluster.node(turn++ % 3).url}${path}`, 'GET', undefined, { 'if-none-match': etag })).status, 304);
      assert.equal((await call(`${node.url}/v1/contexts/agent/context?budget_tokens=77`, 'GET', undefined, { 'if-none-match': etag })).status, 200);
    }
  });

  test('prefix_hash of a provider window is of what an append leaves as it was', async () => {
    await done('chat', 'PUT', {});
    for (let n = 0; n < 6; n++) {
      const role = n % 2 === 0 ? 'user' : 'assistant';
      await done('chat/messages', 'POST', { message: { role, parts: [{ type: 'text', text: `line ${n}` }] } });
      for (const provider of PROVIDER_SHAPES) {
        const { text } = await done(`chat/context?for=${provider}`);
        const { messages, prefix_hash, overhead_tokens }: Window & { overhead_tokens: number } = JSON.parse(text);
        const rendered = messages.map((message) => JSON.stringify(message));
        assert.ok(text.includes(`"messages":[${rendered.join(',')}]`), 'the members are written as JSON.stringify would');
        assert.equal(prefix_hash, createHash('sha256').update(rendered.slice(0, -1).join('')).digest('hex'));
        assert.equal(overhead_tokens, provider === 'openai' ? 3 * messages.length + 3 : 0);
      }
    }
  });

  test('an account of the window speaks of every message, and its sums are the window’s', async () => {
    for (const version of versions.filter((_, i) => i % 6 === 0 || i === versions.length - 1)) {
      for (const query of [`&at_version=${version}`, `&at_version=${version}&budget_tokens=60`]) {
        const shown = await window(`agent/context?${query.slice(1)}`);
        const { messages, arithmetic } = await explainAll('agent', query);
        const seqs = messages.map(({ seq }) => seq);
        assert.deepEqual(seqs, seqs.map((_, i) => i + 1), `${query}: the whole log, once`);
        const inside = messages.filter(({ state }) => state === 'in' || state === 'stripped');
        assert.deepEqual(inside.map(({ seq }) => seq), shown.messages.flatMap(({ seq }) => seq ?? []), query);
        assert.deepEqual(inside.map(({ tokens_shown }) => tokens_shown), shown.messages.flatMap(({ seq, token_count }) => (seq === undefined ? [] : [token_count])), query);
        for (const { state, rule, at_version, parts_taken, tokens_shown } of messages) {
          assert.equal(rule === null, state === 'in');
          assert.ok(at_version === null ? state === 'in' : at_version >= 1 && at_version <= version);
          assert.ok(state !== 'stripped' || parts_taken.length > 0);
          assert.ok(state === 'in' || state === 'stripped' || tokens_shown === 0);
        }
        const tokens = inside.reduce((sum, { tokens_shown }) => sum + tokens_shown, 0);
        assert.deepEqual(
          [arithmetic.used_tokens, arithmetic.sum.tokens, arithmetic.sum.messages, arithmetic.stored.messages - arithmetic.left_out.messages],
          [shown.used_tokens, tokens + arithmetic.replacement.tokens, shown.messages.length, shown.messages.length],
          query,
        );
      }
    }
    const states = new Set((await explainAll('agent', '')).messages.map(({ state }) => state));
    assert.ok(states.has('in') && states.has('summarised') && states.has('dropped'), [...states].join());
  });

  test('compactions are listed page by page, at any node', async () => {
    const whole = await done('agent/compactions');
    const all: { version: number; rule: string; replacement_messages: number }[] = JSON.parse(whole.text).compactions;
    assert.ok(all.length >= 3 && all.some(({ rule }) => rule !== 'compact'), whole.text);
    assert.deepEqual(all.filter(({ rule }) => rule === 'compact').map(({ replacement_messages }) => replacement_messages), [1]);
    const paged: unknown[] = [];
    for (let cursor: string | null = '0'; cursor !== null; ) {
      const page: { compactions: unknown[]; next_cursor: string | null } = JSON.parse((await done(`agent/compactions?limit=1&cursor=${cursor}`)).text);
      paged.push(...page.compactions);
      cursor = page.next_cursor;
    }
    assert.deepEqual(paged, all);
  });

  test('a compaction under a claim loses nothing of what is appended meanwhile, and no other compaction gets in', async () => {
    const total = 240;
    await done('busy', 'PUT', { token_budget: 100_000, policy: { strategy: 'manual' } });
    const summary = (text: string): object => ({ role: 'system', parts: [{ type: 'text', text }] });
    let acked = 0;
    const writer = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        await done('busy/messages', 'POST', { message: { role: 'user', parts: [{ type: 'text', text: `message ${i}` }] } });
        acked++;
      }
    };
    const writers = Promise.all([writer(total / 3), writer(total / 3), writer(total / 3)]);
    let kept = 0;
    for (let turnOfSummary = 1; turnOfSummary <= 2; turnOfSummary++) {
      await until('more messages', () => acked >= turnOfSummary * 50);
      const { claim, expires_at } = (await done('busy/compact/claim', 'POST', { ttl_seconds: 60 })).json;
      assert.match(String(claim), /^[0-9a-f]{32}$/);
      const held = [
        await ask('busy/compact/claim', 'POST', { ttl_seconds: 60 }),
        await ask('busy/compact', 'POST', { replacement: [summary('not mine')] }),
        await ask('busy/compact', 'POST', { replacement: [summary('not mine')], claim: 'f'.repeat(32) }),
      ];
      for (const { status, json } of held) assert.deepEqual([status, json['error'], json['expires_at']], [409, 'claim_held', expires_at]);
      const read = await window('busy/context');
      const last = read.messages.at(-1)?.seq ?? 0;
      assert.ok(last >= turnOfSummary * 50);
      const ackedBefore = acked;
      await until('messages while the summary is made', () => acked >= ackedBefore + 10);
      await done('busy/compact', 'POST', { replacement: [summary(`all up to ${last}`)], keep_from_seq: last + 1, claim });
      kept = last + 1;
    }
    await writers;
    for (const node of cluster.nodes) {
      const { messages }: Window = JSON.parse((await call(`${node.url}/v1/contexts/busy/context`)).text);
      assert.deepEqual(messages.map(({ seq }) => seq), [undefined, ...Array.from({ length: total - kept + 1 }, (_, i) => kept + i)]);
    }
    assert.equal((await done('busy')).json['last_seq'], total);

    const again = (await done('busy/compact/claim', 'POST', { ttl_seconds: 60 })).json;
    const extended = (await done('busy/compact/claim', 'POST', { ttl_seconds: 600, claim: again['claim'] })).json;
    assert.ok(Date.parse(String(extended['expires_at'])) > Date.parse(String(again['expires_at'])));
    assert.deepEqual((await done('busy/compact/claim', 'POST', { ttl_seconds: 0, claim: again['claim'] })).json, { claim: again['claim'], expires_at: null });
    await done('busy/compact', 'POST', { replacement: [] });
    for (const [body, path] of [[{ ttl_seconds: 0 }, 'claim'], [{ ttl_seconds: 3601 }, 'ttl_seconds'], [{}, 'ttl_seconds'], [{ ttl_seconds: 5, claim: 'x' }, 'claim']] as const) {
      const refused = await ask('busy/compact/claim', 'POST', body);
      assert.deepEqual([refused.status, refused.json['path']], [400, path]);
    }
  });

  test('usage calibrates what every node says a window costs', async () => {
    const prior = await window('agent/context');
    const report = { version: prior.version, input_tokens: prior.used_tokens * 2 };
    assert.deepEqual((await done('agent/usage', 'POST', report)).json, { calibration: 2, changed: true });
    assert.deepEqual((await done('agent/usage', 'POST', report)).json, { calibration: 2, changed: false });
    for (const node of cluster.nodes) {
      const { json } = await call(`${node.url}/v1/contexts/agent/context?budget_tokens=100000`);
      assert.deepEqual([json['used_tokens'], json['config_revision']], [prior.used_tokens * 2, prior.config_revision + 1]);
    }
    // What was told at older versions is not changed by it.
    const older = `agent/context?at_version=${versions[10]}`;
    assert.equal((await done(older)).text, live.get(older)?.text);
    for (const [body, path] of [[{ version: 999_999, input_tokens: 5 }, 'version'], [{ version: 1 }, 'input_tokens'], [{ version: 1, input_tokens: 0 }, 'input_tokens'], [{ version: -1, input_tokens: 5 }, 'version']] as const) {
      const refused = await ask('agent/usage', 'POST', body);
      assert.deepEqual([refused.status, refused.json['error'], refused.json['path']], [400, 'invalid_request', path], refused.text);
    }
  });

  test('a model that is not known is refused with the list, one that is comes back', async () => {
    const refused = await ask('other', 'PUT', { model: 'gtp-4o' });
    assert.deepEqual([refused.status, refused.json['error'], refused.json['path']], [400, 'invalid_request', 'model']);
    assert.match(String(refused.json['message']), /gpt-4o-….*o200k_base/);
    assert.equal((await ask('other')).status, 404);
    assert.equal((await done('other', 'PUT', { model: 'ft:gpt-4o-mini:org::id' })).json['model'], 'ft:gpt-4o-mini:org::id');
  });
});
