/** Streams over real sockets of real processes: the frames, the refusals, the closes; then three nodes under kills. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { groupOf } from '../../src/cluster/placement.ts';
import { call, ClusterProcesses, noise, until } from './processes.ts';
import { refusal, SseClient, StreamClient, streamUrl } from './stream-client.ts';
import type { StreamFrame } from './stream-client.ts';

const message = (text: string) => ({ role: 'user', parts: [{ type: 'text', text }] });

async function create(url: string, id: string, settings: unknown = { token_budget: 1_000_000 }): Promise<void> {
  assert.equal((await call(`${url}/v1/contexts/${id}`, 'PUT', settings)).status, 201);
}

async function append(url: string, id: string, text: string): Promise<number> {
  const answer = await call(`${url}/v1/contexts/${id}/messages`, 'POST', { message: message(text) });
  assert.equal(answer.status, 201, answer.text);
  return Number(answer.json['version']);
}

describe('one node', () => {
  let cluster: ClusterProcesses;
  let url: string;
  before(async () => {
    cluster = await ClusterProcesses.start(1, { FASTPACA_STREAM_MAX_CONNECTIONS: '8' });
    url = cluster.node(0).url;
  });
  after(() => cluster.stop());

  test('what is appended after a stream opened comes as message, then context', async () => {
    await create(url, 'live');
    await append(url, 'live', 'before');
    const client = await StreamClient.open(streamUrl(url, 'live'));
    await append(url, 'live', 'after');
    await client.count(2);
    assert.deepEqual(client.frames.map(({ type, version }) => `${type} ${version}`), ['message 2', 'context 2']);
    const stored = await call(`${url}/v1/contexts/live/messages?from_seq=2`);
    assert.ok(stored.text.includes(client.texts[0]?.replace('{"type":"message","version":2,"seq":2,"message":', '').slice(0, -1) ?? '?'), 'the message is what a read answers');
    client.close();
  });

  test('a cursor replays messages and compactions in the order of their versions, then goes on live', async () => {
    await create(url, 'replay');
    for (let i = 1; i <= 3; i++) await append(url, 'replay', `m${i}`);
    assert.equal((await call(`${url}/v1/contexts/replay/compact`, 'POST', { replacement: [message('summary')], keep_from_seq: 3 })).status, 200);
    await append(url, 'replay', 'm4');
    const client = await StreamClient.open(streamUrl(url, 'replay', '?cursor=1'));
    await client.count(5);
    await append(url, 'replay', 'm5');
    await client.count(7);
    assert.deepEqual(
      client.frames.map(({ type, version, seq }) => `${type} ${version} ${seq ?? ''}`.trim()),
      ['message 2 2', 'message 3 3', 'compaction 4', 'message 5 4', 'context 5', 'message 6 5', 'context 6'],
    );
    assert.deepEqual(client.of('compaction')[0]?.range, { from_seq: 1, to_seq: 2 });
    client.close();
  });

  test('without messages only the news about the window come', async () => {
    await create(url, 'window-only', { token_budget: 20, policy: { strategy: 'manual' } });
    const client = await StreamClient.open(streamUrl(url, 'window-only', '?cursor=0&include_messages=false'));
    await append(url, 'window-only', 'a long message that takes the window over its budget because it counts more than twenty tokens, surely');
    await client.count(2);
    assert.deepEqual(client.frames.map(({ type, version, needs_compaction }) => `${type} ${version} ${needs_compaction}`), ['context 0 false', 'context 1 true']);
    client.close();
  });

  test('an atomic list comes as one message a version and one context', async () => {
    await create(url, 'list');
    const client = await StreamClient.open(streamUrl(url, 'list', '?cursor=0'));
    const answer = await call(`${url}/v1/contexts/list/messages`, 'POST', { messages: ['a', 'b', 'c'].map(message) });
    assert.equal(answer.status, 201);
    await client.count(5);
    assert.deepEqual(client.frames.map(({ type, version }) => `${type} ${version}`), ['context 0', 'message 1', 'message 2', 'message 3', 'context 3']);
    client.close();
  });

  test('deleting the context sends tombstoned and closes 1000, also for those who come later', async () => {
    await create(url, 'end');
    await append(url, 'end', 'only');
    const client = await StreamClient.open(streamUrl(url, 'end'));
    assert.equal((await call(`${url}/v1/contexts/end`, 'DELETE')).status, 204);
    assert.equal((await client.end()).code, 1000);
    assert.deepEqual(client.texts, ['{"type":"tombstoned","version":2}']);
    const late = await StreamClient.open(streamUrl(url, 'end', '?cursor=0'));
    assert.equal((await late.end()).code, 1000);
    assert.deepEqual(late.frames.map(({ type }) => type), ['message', 'tombstoned']);
  });

  test('a cursor that this log never reached is reset, then the stream goes on', async () => {
    await create(url, 'ahead');
    await append(url, 'ahead', 'one');
    const client = await StreamClient.open(streamUrl(url, 'ahead', '?cursor=77'));
    await client.count(2);
    await append(url, 'ahead', 'two');
    await client.count(4);
    assert.deepEqual(client.frames.map(({ type, version }) => `${type} ${version}`), ['reset 1', 'context 1', 'message 2', 'context 2']);
    client.close();
  });

  test('refusals come before the upgrade, as JSON', async () => {
    await create(url, 'refused');
    const missing = await refusal(streamUrl(url, 'nobody'));
    assert.deepEqual([missing.status, missing.json['error']], [404, 'context_not_found']);
    for (const [query, path] of [['?cursor=x', 'cursor'], ['?cursor=-1', 'cursor'], ['?cursor=', 'cursor'], ['?cursor=1&cursor=2', 'cursor'], ['?include_messages=no', 'include_messages'], ['?what=1', 'what']] as const) {
      const { status, json } = await refusal(streamUrl(url, 'refused', query));
      assert.deepEqual([status, json['error'], json['path']], [400, 'invalid_request', path], query);
    }
    const foreign = await refusal(streamUrl(url, 'refused'), { origin: 'https://elsewhere.example' });
    assert.deepEqual([foreign.status, foreign.json['path']], [400, 'Origin']);
    const elsewhere = await refusal(`${url}/v1/contexts/refused`);
    assert.deepEqual([elsewhere.status, elsewhere.json['error']], [404, 'not_found']);
    const version = await refusal(streamUrl(url, 'refused'), { 'sec-websocket-version': '7' });
    assert.deepEqual([version.status, version.json['error']], [400, 'invalid_request']);
    const control = await refusal(`${url}/v1/contexts/a%00b/stream`);
    assert.deepEqual([control.status, control.json['error']], [400, 'invalid_context_id']);
    const plain = await call(`${url}/v1/contexts/refused/stream`);
    assert.deepEqual([plain.status, plain.json['error']], [400, 'invalid_request']);
    for (const [query, headers] of [['?cursor=x', {}], ['', { 'last-event-id': 'x' }]] as const) {
      assert.equal((await call(`${url}/v1/contexts/refused/stream${query}`, 'GET', undefined, { accept: 'text/event-stream', ...headers })).status, 400);
    }
    assert.equal((await call(`${url}/v1/contexts/nobody/stream`, 'GET', undefined, { accept: 'text/event-stream' })).status, 404);
  });

  test('past the limit both transports answer 429 with Retry-After, and a closed stream makes room', async () => {
    await create(url, 'full');
    await until('the streams of other tests to be gone', async () => /^fastpaca_streams_open 0$/m.test((await call(`${url}/metrics`)).text));
    const clients = await Promise.all(Array.from({ length: 8 }, () => StreamClient.open(streamUrl(url, 'full'))));
    const { status, headers, json } = await refusal(streamUrl(url, 'full'));
    assert.deepEqual([status, json['error']], [429, 'overloaded']);
    assert.match(headers['retry-after'] ?? '', /^\d+$/);
    const events = await call(`${url}/v1/contexts/full/stream`, 'GET', undefined, { accept: 'text/event-stream' });
    assert.deepEqual([events.status, events.headers.has('retry-after')], [429, true]);
    for (const client of clients) client.close();
    await until('room for another', async () => /^fastpaca_streams_open 0$/m.test((await call(`${url}/metrics`)).text));
    (await StreamClient.open(streamUrl(url, 'full'))).close();
  });

  test('server-sent events: ids at the end of a version, resumed by Last-Event-ID, white space kept', async () => {
    await create(url, 'sse');
    const raw = '{"message":{"role":"user","parts":[{"type":"text",\r\n "text":"a\\nb"}]}}';
    assert.equal((await call(`${url}/v1/contexts/sse/messages`, 'POST', raw)).status, 201);
    const client = await SseClient.open(`${url}/v1/contexts/sse/stream?cursor=0`);
    assert.equal(client.headers['content-type'], 'text/event-stream');
    await until('the replay', () => client.events.length === 2);
    await append(url, 'sse', 'second');
    await until('the live frames', () => client.events.length === 4);
    assert.deepEqual(client.events.map(({ id, data }) => `${id} ${(JSON.parse(data) as { type: string }).type}`), ['null message', '1 context', 'null message', '2 context']);
    assert.deepEqual((JSON.parse(client.events[0]?.data ?? '') as { message: { parts: unknown } }).message.parts, [{ type: 'text', text: 'a\nb' }]);
    client.close();
    const again = await SseClient.open(`${url}/v1/contexts/sse/stream?cursor=0`, { 'last-event-id': '1' });
    await until('what was missed', () => again.events.length === 2);
    assert.deepEqual(again.events.map(({ id, data }) => `${id} ${(JSON.parse(data) as { version: number }).version}`), ['null 2', '2 2']);
    assert.equal((await call(`${url}/v1/contexts/sse`, 'DELETE')).status, 204);
    await until('the end', () => again.isOver);
    assert.equal(again.events.at(-1)?.id, '3');
    const over = await call(`${url}/v1/contexts/sse/stream`, 'GET', undefined, { accept: 'text/event-stream', 'last-event-id': '3' });
    assert.equal(over.status, 204, 'an EventSource must not come back for ever');
  });

  test('a client that sends too much is closed 1009, one that pings is answered, one that says nonsense is let be', async () => {
    await create(url, 'talk');
    const loud = await StreamClient.open(streamUrl(url, 'talk'));
    loud.ws.send('x'.repeat(5000));
    assert.equal((await loud.end()).code, 1009);
    const client = await StreamClient.open(streamUrl(url, 'talk'));
    client.ws.send('nonsense');
    client.ws.send('{"type":"ping"}');
    await client.count(1);
    assert.equal(client.texts[0], '{"type":"pong"}');
    client.close();
  });

  test('a client that does not read is closed, others do not notice, and it can resume', async () => {
    await create(url, 'slow');
    const [slow, quick] = [await StreamClient.open(streamUrl(url, 'slow', '?cursor=0')), await StreamClient.open(streamUrl(url, 'slow', '?cursor=0'))];
    slow.ws.pause();
    const text = 'x'.repeat(100_000);
    let last = 0;
    await until(
      'the slow client to be closed',
      async () => {
        last = await append(url, 'slow', text);
        return /^fastpaca_streams_evicted_total 1$/m.test((await call(`${url}/metrics`)).text);
      },
      60_000,
    );
    await until('the quick client to have all', () => quick.of('message').length === last);
    slow.ws.resume();
    await slow.end();
    const seen = slow.frames.at(-1)?.version ?? 0;
    assert.ok(seen < last);
    const resumed = await StreamClient.open(streamUrl(url, 'slow', `?cursor=${seen}`));
    await until('the rest', () => resumed.of('message').length >= last - seen);
    assert.deepEqual(resumed.of('message').map(({ version }) => version), Array.from({ length: last - seen }, (_, i) => seen + 1 + i));
    resumed.close();
    quick.close();
  });

  test('a connection that closes while it waits leaves nothing behind', async () => {
    await create(url, 'gone');
    for (let i = 0; i < 20; i++) {
      const socket = connect(cluster.node(0).port, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.write('GET /v1/contexts/gone/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n', () => socket.destroy());
    }
    await until('all places to be free', async () => /^fastpaca_streams_open 0$/m.test((await call(`${url}/metrics`)).text));
  });

  test('SIGTERM closes streams with 1012', async () => {
    await create(url, 'stop');
    const client = await StreamClient.open(streamUrl(url, 'stop'));
    const events = await SseClient.open(`${url}/v1/contexts/stop/stream`);
    assert.deepEqual(await cluster.node(0).kill('SIGTERM'), { code: 0, signal: null });
    assert.equal((await client.end()).code, 1012);
    await until('the events to end', () => events.isOver);
  });
});

/** The log of a context as its readers must see it: one entry a version, in order. */
async function logOf(url: string, id: string): Promise<string[]> {
  const byVersion = new Map<number, string>();
  let version = 0;
  for (let from: number | null = 1; from !== null; ) {
    const { status, text } = await call(`${url}/v1/contexts/${id}/messages?from_seq=${from}&limit=1000`);
    assert.equal(status, 200, text);
    const page = JSON.parse(text) as { messages: { version: number }[]; version: number; next_seq: number | null };
    for (const stored of page.messages) byVersion.set(stored.version, JSON.stringify(stored));
    version = page.version;
    from = page.next_seq;
  }
  return Array.from({ length: version }, (_, i) => byVersion.get(i + 1) ?? 'compaction');
}

/** Follows one context through kills: comes back with its cursor, to the next node where one refuses. */
class Follower {
  readonly seen: string[] = [];
  missing = 0;
  repeated = 0;
  connections = 0;
  private client: StreamClient | null = null;
  private cursor = 0;
  private isStopped = false;
  private readonly running: Promise<void>;

  constructor(urls: readonly string[], id: string, first: number) {
    this.running = this.follow(urls, id, first);
  }

  get version(): number {
    return this.cursor;
  }

  async stop(): Promise<void> {
    this.isStopped = true;
    this.client?.close();
    await this.running;
  }

  private async follow(urls: readonly string[], id: string, first: number): Promise<void> {
    for (let attempt = 0; !this.isStopped; attempt++) {
      const url = urls[(first + attempt) % urls.length] ?? '';
      try {
        this.client = await StreamClient.open(streamUrl(url, id, `?cursor=${this.cursor}`));
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 100));
        continue;
      }
      this.connections++;
      const { client } = this;
      await new Promise<void>((resolve) => {
        const take = (): void => {
          for (const frame of client.frames.splice(0)) this.take(frame);
          client.texts.length = 0;
        };
        client.ws.on('message', take);
        client.ws.once('close', () => resolve());
        take();
        if (client.closed !== null || this.isStopped) client.ws.terminate();
        if (client.closed !== null) resolve();
      });
    }
  }

  private take(frame: StreamFrame): void {
    if (frame.type === 'context' || frame.type === 'pong') return;
    assert.ok(frame.type === 'message' || frame.type === 'compaction', `${frame.type} is not expected here`);
    if (frame.version <= this.cursor) this.repeated++;
    else if (frame.version !== this.cursor + 1) this.missing += frame.version - this.cursor - 1;
    this.cursor = frame.version;
    this.seen.push(frame.type === 'message' ? JSON.stringify(frame.message) : 'compaction');
  }
}

/** Appends to all contexts in turn until stopped: single messages, lists, now and then a compaction. */
class Load {
  appended = 0;
  private isStopped = false;
  private readonly running: Promise<unknown>;

  constructor(urls: readonly string[], ids: readonly string[], workers: number) {
    this.running = Promise.all(Array.from({ length: workers }, (_, i) => this.write(urls, ids, i, workers)));
  }

  async stop(): Promise<void> {
    this.isStopped = true;
    await this.running;
  }

  private async write(urls: readonly string[], ids: readonly string[], first: number, step: number): Promise<void> {
    for (let n = first; !this.isStopped; n += step) {
      const path = `${urls[n % urls.length]}/v1/contexts/${ids[n % ids.length]}`;
      const answer =
        n % 61 === 0
          ? call(`${path}/compact`, 'POST', { replacement: [message(`summary ${n}`)] })
          : call(`${path}/messages`, 'POST', n % 7 === 0 ? { messages: [message(`${n}a`), message(`${n}b`)] } : { message: message(`${n} ${'x'.repeat(n % 300)}`) });
      const status = await answer.then(({ status }) => status, () => 0);
      if (status === 200 || status === 201) this.appended++;
      else await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

describe('three nodes', () => {
  test('followers on every node see exactly the log, while nodes are killed, stopped and restarted under load', async (t) => {
    const cluster = await ClusterProcesses.start(3, { FASTPACA_STREAM_MAX_CONNECTIONS: '1000', FASTPACA_LOG_KEEP_BYTES: '65536' });
    const followers: { id: string; follower: Follower }[] = [];
    let load: Load | null = null;
    try {
      const urls = cluster.nodes.map(({ url }) => url);
      const ids = Array.from({ length: 200 }, (_, i) => `chaos-${i}`);
      await Promise.all(ids.map((id, i) => create(urls[i % 3] ?? '', id)));
      // Long enough that a replay takes several chunks, with changes coming in between.
      for (const id of ids.slice(0, 20)) {
        for (let i = 0; i < 3; i++) {
          const { status } = await call(`${urls[0]}/v1/contexts/${id}/messages`, 'POST', { messages: Array.from({ length: 200 }, (_, n) => message(`${i} ${n}`)) });
          assert.equal(status, 201);
        }
      }
      const running = new Load(urls, ids, 24);
      load = running;
      for (const [i, id] of ids.entries()) for (let node = 0; node < 3; node++) followers.push({ id, follower: new Follower(urls, id, (i + node) % 3) });
      for (const [i, node] of cluster.nodes.entries()) {
        const flowing = running.appended;
        await until('appends to flow', () => running.appended > flowing + 200);
        await node.kill(i === 1 ? 'SIGTERM' : 'SIGKILL');
        const without = running.appended;
        await until('appends to flow without the node', () => running.appended > without + 300);
        node.start();
        await node.ready();
      }
      const back = running.appended;
      await until('appends to flow with all nodes back', () => running.appended > back + 200);
      await running.stop();
      const logs = new Map<string, string[]>();
      for (const id of ids) logs.set(id, await logOf(urls[0] ?? '', id));
      await until('every follower to reach the end', () => followers.every(({ id, follower }) => follower.version === logs.get(id)?.length), 40_000);
      let frames = 0;
      let connections = 0;
      for (const { id, follower } of followers) {
        assert.deepEqual([follower.missing, follower.repeated], [0, 0], id);
        assert.deepEqual(follower.seen, logs.get(id), id);
        frames += follower.seen.length;
        connections += follower.connections;
      }
      assert.ok(connections > followers.length + 200, 'streams were cut and came back');
      t.diagnostic(`${followers.length} followers, ${connections} connections, ${frames} frames compared with the log: 0 missing, 0 repeated`);
    } finally {
      await load?.stop();
      await Promise.all(followers.map(({ follower }) => follower.stop()));
      await cluster.stop();
    }
  });
});

describe('three nodes, of which some stand still', () => {
  test('a stream whose node was behind the log goes on with what the snapshot brought; one cut off from its leader is closed', async () => {
    const cluster = await ClusterProcesses.start(3, { FASTPACA_LOG_KEEP_BYTES: '65536' });
    try {
      const [a, , away] = cluster.nodes.map(({ url }) => url) as [string, string, string];
      await create(a, 'frozen');
      await append(a, 'frozen', 'first');
      const client = await StreamClient.open(streamUrl(away, 'frozen', '?cursor=0'));
      await client.count(2);
      const { pid } = cluster.node(2);
      process.kill(pid, 'SIGSTOP');
      try {
        for (let i = 0; i < 30; i++) await until('a message to be taken', async () => (await call(`${a}/v1/contexts/frozen/messages`, 'POST', { message: message(noise(20_000)) })).status === 201);
        // The others drop the log that the frozen node would need.
        await new Promise((resolve) => setTimeout(resolve, 2500));
      } finally {
        process.kill(pid, 'SIGCONT');
      }
      const { json } = await call(`${a}/v1/contexts/frozen`);
      const last = Number(json['version']);
      await until('all that the snapshot brought', () => client.of('message').length === last || client.closed !== null);
      assert.deepEqual(client.of('message').map(({ version }) => version), Array.from({ length: last }, (_, i) => i + 1));
      const installed = /^fastpaca_raft_snapshots_installed_total(?:\{[^}]*\})? (\d+)/m.exec((await call(`${away}/metrics`)).text);
      assert.ok(Number(installed?.[1]) >= 1, 'a snapshot was installed');

      await Promise.all([cluster.node(0).kill('SIGKILL'), cluster.node(1).kill('SIGKILL')]);
      await until('the stream to be closed', () => client.closed !== null, 40_000);
      assert.equal(client.closed?.code, 1012);
      const { status, headers } = await refusal(streamUrl(away, 'frozen', `?cursor=${last}`));
      assert.deepEqual([status, headers['retry-after']], [503, '1']);
    } finally {
      await cluster.stop();
    }
  });
});

describe('five nodes, each with three fifths of the contexts, and a key', () => {
  const KEY = { authorization: 'Bearer k-1' };
  let cluster: ClusterProcesses;
  let urls: string[];
  before(async () => {
    cluster = await ClusterProcesses.start(5, { FASTPACA_API_KEY: 'k-1' });
    urls = cluster.nodes.map(({ url }) => url);
  });
  after(() => cluster.stop());

  test('without the key nothing is told, not even whether the context exists', async () => {
    for (const headers of [{}, { authorization: 'Bearer wrong' }]) {
      const { status, json, headers: answered } = await refusal(streamUrl(urls[0] ?? '', 'nobody'), headers);
      assert.deepEqual([status, json['error'], answered['www-authenticate']], [401, 'unauthorized', 'Bearer']);
      assert.equal((await call(`${urls[0]}/v1/contexts/nobody/stream`, 'GET', undefined, { accept: 'text/event-stream', ...headers })).status, 401);
    }
    assert.equal((await refusal(`${urls[0]}/_peer/stream/1?context=nobody`, KEY)).status, 401, 'a client key opens no peer connection');
  });

  test('every node serves every context over both transports, in order, and passes on the end', async () => {
    for (let i = 0; i < 12; i++) {
      const id = `five-${i}`;
      assert.equal((await call(`${urls[i % 5]}/v1/contexts/${id}`, 'PUT', {}, KEY)).status, 201);
      const post = (text: string) => call(`${urls[i % 5]}/v1/contexts/${id}/messages`, 'POST', { message: message(text) }, KEY);
      await post('one');
      const clients = await Promise.all(urls.map((url) => StreamClient.open(streamUrl(url, id, '?cursor=0'), KEY)));
      const readers = await Promise.all(urls.map((url) => SseClient.open(`${url}/v1/contexts/${id}/stream?cursor=0`, KEY)));
      await post('two');
      assert.equal((await call(`${urls[0]}/v1/contexts/${id}`, 'DELETE', undefined, KEY)).status, 204);
      for (const client of clients) {
        assert.equal((await client.end()).code, 1000);
        assert.deepEqual(client.frames.map(({ type, version }) => `${type} ${version}`), ['message 1', 'context 1', 'message 2', 'context 2', 'tombstoned 3']);
        assert.deepEqual(client.texts, clients[0]?.texts);
      }
      for (const reader of readers) {
        await until('the events to end', () => reader.isOver);
        assert.deepEqual(reader.events.map(({ data }) => data), clients[0]?.texts);
        assert.deepEqual(reader.events.map(({ id: at }) => at), [null, '1', null, '2', '3']);
      }
      for (const url of urls) {
        assert.equal((await call(`${url}/v1/contexts/${id}/stream?cursor=3`, 'GET', undefined, { ...KEY, accept: 'text/event-stream' })).status, 204);
        assert.equal((await refusal(streamUrl(url, `nobody-${i}`), KEY)).status, 404);
      }
    }
  });

  test('when a node dies, those it served from afar are told, and come back without a hole', async () => {
    const { json } = await call(`${urls[0]}/v1/cluster`, 'GET', undefined, KEY);
    const groups = json['groups'] as { replicas: string[] }[];
    const ids = Array.from({ length: 200 }, (_, i) => `afar-${i}`).filter((id) => groups[groupOf(id)]?.replicas.includes('node-5')).slice(0, 10);
    assert.equal(ids.length, 10);
    for (const id of ids) assert.equal((await call(`${urls[0]}/v1/contexts/${id}`, 'PUT', {}, KEY)).status, 201);
    const clients = await Promise.all(ids.flatMap((id) => urls.slice(0, 4).map(async (url) => ({ id, url, client: await StreamClient.open(streamUrl(url, id, '?cursor=0'), KEY) }))));
    const post = (id: string, text: string) => until(`${id} to take a message`, async () => (await call(`${urls[0]}/v1/contexts/${id}/messages`, 'POST', { message: message(text) }, KEY)).status === 201);
    for (const id of ids) await post(id, 'before');
    for (const { client } of clients) await until('the first message', () => client.of('message').length === 1);
    await cluster.node(4).kill('SIGKILL');
    for (const id of ids) await post(id, 'after');
    for (const { id, url, client } of clients) {
      await until('the message, or the end', () => client.of('message').length === 2 || client.closed !== null);
      if (client.closed === null) continue;
      assert.equal(client.closed.code, 1012);
      const again = await StreamClient.open(streamUrl(url, id, '?cursor=1'), KEY);
      await until('what was missed', () => again.of('message').length === 1);
      assert.equal(again.of('message')[0]?.version, 2);
      again.close();
    }
    assert.ok(clients.some(({ client }) => client.closed !== null), 'some were served by the node that died');
    for (const { client } of clients) client.close();
    cluster.node(4).start();
    await cluster.node(4).ready();
  });
});
