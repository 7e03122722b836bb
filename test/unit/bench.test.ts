/** The parts of the load generator that would lie silently: answers in pieces, stalls, order, medians and ratios. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { Connection } from '../../bench/load/connection.ts';
import type { Answer, Target } from '../../bench/load/connection.ts';
import type { LoadResult } from '../../bench/load/job.ts';
import { Latencies } from '../../bench/load/latencies.ts';
import { OpenLoop } from '../../bench/load/open.ts';
import { appendBody, scattered } from '../../bench/load/requests.ts';
import { Subscriber } from '../../bench/load/subscribers.ts';
import { Window } from '../../bench/load/window.ts';
import { chart } from '../../bench/report/chart.ts';
import { mergeEntries } from '../../bench/report/results.ts';
import type { Entry } from '../../bench/report/results.ts';
import { growths, ratios, summarise } from '../../bench/report/summary.ts';
import type { Measurement } from '../../bench/runner.ts';
import { pointsOf, SCENARIOS } from '../../bench/scenarios.ts';

async function serve(t: TestContext, onSocket: (socket: Socket) => void): Promise<Target> {
  const sockets = new Set<Socket>();
  const server: Server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    onSocket(socket);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function writeByByte(socket: Socket, text: string): Promise<void> {
  for (const byte of Buffer.from(text, 'latin1')) {
    socket.write(Buffer.from([byte]));
    await turn();
  }
}

/** The answer to one request, written whole or byte by byte. */
async function answerTo(t: TestContext, text: string, isWhole: boolean): Promise<Answer> {
  const target = await serve(t, (socket) => {
    socket.once('data', () => void (isWhole ? socket.write(text) : writeByByte(socket, text)));
  });
  return new Promise((resolve, reject) => {
    const connection = new Connection(target, (answer) => {
      connection.close();
      resolve(answer);
    }, reject);
    connection.open().then(() => connection.send(Buffer.from('GET / HTTP/1.1\r\n\r\n')), reject);
  });
}

const ANSWERS: readonly (readonly [string, string, Answer])[] = [
  ['a length', 'HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello', { status: 201, bytes: 5, text: '' }],
  ['no body', 'HTTP/1.1 204 No Content\r\n\r\n', { status: 204, bytes: 0, text: '' }],
  ['chunks', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n', { status: 200, bytes: 15, text: '' }],
  ['no chunk', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n', { status: 200, bytes: 5, text: '' }],
];
for (const [what, text, expected] of ANSWERS) {
  for (const isWhole of [true, false]) {
    test(`an answer with ${what} is read ${isWhole ? 'whole' : 'byte by byte'}`, async (t) => {
      assert.deepEqual(await answerTo(t, text, isWhole), expected);
    });
  }
}

test('a refusal is kept with the start of its body', async (t) => {
  const answer = await answerTo(t, 'HTTP/1.1 429 Too Many\r\ncontent-length: 22\r\n\r\n{"error":"overloaded"}', true);
  assert.deepEqual(answer, { status: 429, bytes: 22, text: '{"error":"overloaded"}' });
});

test('at a fixed rate a stall is charged to every request that was due meanwhile', async (t) => {
  const STALL_MS = 200;
  const RATE = 500;
  let isStalled = false;
  const held: (() => void)[] = [];
  const target = await serve(t, (socket) => {
    socket.on('data', () => {
      const reply = (): void => void socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
      if (isStalled) held.push(reply);
      else reply();
    });
  });
  const window = new Window();
  const loop = new OpenLoop(RATE, window);
  for (let i = 0; i < 2; i++) loop.add(target, { bytesMax: 64, units: 1, write: (into) => into.write('GET / HTTP/1.1\r\n\r\n') });
  t.after(() => loop.close());
  await loop.open();
  loop.start();
  loop.openWindow();
  isStalled = true;
  await new Promise((resolve) => setTimeout(resolve, STALL_MS));
  isStalled = false;
  for (const reply of held) reply();
  const unanswered = await loop.closeWindow();
  const { p50 = 0, max = 0 } = window.latencies.percentiles() ?? {};
  assert.equal(unanswered, 0);
  assert.ok(window.latencies.count > (STALL_MS / 1000) * RATE * 0.5, `${window.latencies.count} were due; two clients that wait would have sent 2`);
  assert.ok(max > STALL_MS * 0.7 && p50 > STALL_MS * 0.2, `each waited for what was left of the stall, yet p50 ${p50} max ${max}`);
});

/** A text frame as a server sends it. */
function frame(text: string): Buffer {
  const payload = Buffer.from(text);
  const head = payload.length < 126 ? Buffer.from([0x81, payload.length]) : Buffer.from([0x81, 126, payload.length >> 8, payload.length & 255]);
  return Buffer.concat([head, payload]);
}

test('a subscriber counts message frames only, however they are cut', async (t) => {
  const sent = [frame('{"type":"message","version":1}'), frame('{"type":"context","version":1}'), frame(`{"type":"message","version":2,"text":"sent:${performance.now().toFixed(3)};${'x'.repeat(300)}"}`)];
  const window = new Window();
  window.isOpen = true;
  const target = await serve(t, (socket) => {
    socket.once('data', () => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n');
      void (async () => {
        for (const bytes of sent) {
          // Cut within the head, then within the payload.
          for (const [from, to] of [[0, 1], [1, 40], [40, bytes.length]] as const) {
            socket.write(bytes.subarray(from, to));
            await turn();
            await turn();
          }
        }
        socket.end();
      })();
    });
  });
  const subscriber = await Subscriber.open(target, 'c', window);
  for (const deadline = performance.now() + 5000; subscriber.isOpen && performance.now() < deadline; ) await turn();
  assert.equal(window.frames, 2);
});

test('contexts are visited in a scattered order, each once in a round', () => {
  for (const count of [1, 2, 3, 10, 1000, 99_999]) {
    const order = scattered(count);
    const seen = new Set(Array.from({ length: count }, () => order.next().value));
    assert.equal(seen.size, count);
    assert.ok([...seen].every((at) => at >= 0 && at < count));
  }
});

test('bodies hold as many characters of text as asked for', () => {
  for (const bytes of [100, 440, 65_536]) {
    const { message } = JSON.parse(appendBody(7, bytes, 1)) as { message: { parts: { text: string }[] } };
    assert.equal(message.parts[0]?.text.length, bytes);
  }
  assert.equal((JSON.parse(appendBody(7, 100, 10)) as { messages: unknown[] }).messages.length, 10);
});

test('percentiles are exact', () => {
  const latencies = new Latencies();
  for (let i = 100_000; i >= 1; i--) latencies.add(i);
  assert.deepEqual(latencies.percentiles(), { p50: 50_001, p95: 95_001, p99: 99_001, p999: 99_901, max: 100_000 });
});

const [point] = pointsOf({ operation: ['append'], clients: [4], contexts: [1], messagesEach: [0], messageBytes: [100], batch: [1], rate: [null], subscribers: [0], route: ['spread'] });

function measurement(subject: string, run: number, perSecond: number, cpu: number): Measurement {
  assert.ok(point !== undefined);
  const latency = { p50: 1, p95: 2, p99: 3, p999: 4, max: 5 };
  const none = { answerBytes: 0, sendDelay: null, unanswered: 0, errors: 0, errorKinds: {}, frames: 0, frameLatency: null, otherCpuSeconds: null, serverResidentBytes: null, nodes: null };
  const result: LoadResult = { ...none, seconds: 1, requests: perSecond, units: perSecond, latency, serverCpuSeconds: cpu, generatorCpuSeconds: 0.1, serverWrittenBytes: perSecond * 100 * 7, diskFlushes: perSecond / 2 };
  return { scenario: 'append', point, subject, run, result };
}

test('rows are medians over the runs, and ratios are taken within a run', () => {
  // The machine is twice as fast in the second run: rates differ, their ratio does not.
  const measured = [1, 2, 1].flatMap((speed, i) => [measurement('fastpaca', i, 500 * speed, 1), measurement('symmetric', i, 1000 * speed, 1)]);
  const [ours] = summarise(measured);
  assert.equal(ours?.perSecond, 500);
  assert.equal(ours?.spread, 0.5);
  assert.equal(ours?.writtenPerByte, 7);
  assert.equal(ours?.flushesEach, 0.5);
  const [ratio] = ratios(measured);
  assert.deepEqual(ratio?.throughput, { median: 0.5, least: 0.5, greatest: 0.5 });
  assert.deepEqual(ratio?.cpu, { median: 2, least: 2, greatest: 2 });
});

test('growth is set against the smallest of the same kind within a run', () => {
  const of = (messagesEach: number, operation: 'append' | 'window', run: number, cpu: number): Measurement => {
    const one = measurement('fastpaca', run, 1000, cpu);
    return { ...one, point: { ...one.point, messagesEach, operation, label: `${operation} ${messagesEach}` } };
  };
  const measured = [1, 2].flatMap((run) => [of(10, 'append', run, run), of(1, 'append', run, run), of(1, 'window', run, 5 * run), of(10, 'window', run, 10 * run)]);
  const found = growths(measured, 'messagesEach').map(({ label, yardstick, cpu }) => [label, yardstick, cpu?.median]);
  assert.deepEqual(found, [['append 10', 'append 1', 1], ['window 10', 'window 1', 2]]);
});

test('points are all combinations of the axes, told apart by their labels', () => {
  for (const scenario of SCENARIOS) {
    if (scenario.kind !== 'load') continue;
    const points = pointsOf(scenario.axes);
    assert.equal(points.length, Object.values(scenario.axes).reduce((product, values) => product * values.length, 1), scenario.name);
    assert.equal(new Set(points.map(({ label }) => label)).size, points.length, scenario.name);
  }
});

test('a scenario measured again replaces its entry and no other', () => {
  const entry = (name: string, date: string): Entry => ({ name, date, title: name, command: '', machine: '', runs: 1, seconds: 1, rows: [], ratios: [], figures: [] });
  const merged = mergeEntries([entry('a', '1'), entry('b', '1')], [entry('c', '2'), entry('a', '2')], ['a', 'b', 'c']);
  assert.deepEqual(merged.map(({ name, date }) => name + date), ['a2', 'b1', 'c2']);
});

test('the chart has a bar for each subject in both panels', () => {
  const svg = chart(summarise([measurement('fastpaca', 1, 500, 1), measurement('a<b', 1, 1000, 1)]));
  assert.equal(svg.match(/<title>(fastpaca|a&lt;b), 4 clients/g)?.length, 4);
});
