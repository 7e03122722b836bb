/** Connections of clients that one thread accepts and another one serves, over real sockets: src/shards/front.ts and entry.ts. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer as createHttp, get } from 'node:http';
import { createServer as createHttps, get as getHttps } from 'node:https';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import { Connections } from '../../src/http/connections.ts';
import { Entry, ENTRY_HOST, introduction } from '../../src/shards/entry.ts';
import { Front } from '../../src/shards/front.ts';
import { portOf } from '../../src/shards/stream-door.ts';
import { Authority } from '../e2e/certificates.ts';
import { freePort } from '../e2e/ports.ts';
import { until } from '../e2e/processes.ts';

const KEY = randomBytes(32).toString('hex');
const HOST = '127.0.0.1';

/** Closed with the test, with whoever is connected; `server` listens where shards take connections. */
async function entryOf(t: TestContext, server: Server): Promise<{ entry: Entry; port: number }> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => sockets.add(socket));
  const entry = new Entry(server, KEY);
  server.listen(0, ENTRY_HOST);
  await once(server, 'listening');
  t.after(async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
  });
  return { entry, port: portOf(server) };
}

/** A front before shards that do with a connection what `serve` does. */
async function front(t: TestContext, shards: number, serve: (socket: Socket, shard: number) => void, options: { lingerMs?: number; takeMs?: number } = {}) {
  const port = await freePort();
  const made = new Front({ host: HOST, port, key: KEY, onFailure: assert.ifError, ...options });
  // First, so that what the shards keep open is cut by it.
  t.after(() => made.close(0));
  const entries: { entry: Entry; port: number }[] = [];
  for (let shard = 0; shard < shards; shard++) {
    const taken = await entryOf(t, createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      socket.on('error', () => undefined);
      serve(socket, shard);
    }));
    entries.push(taken);
    await made.enterAt(shard, taken.port);
  }
  return { front: made, port, entries };
}

function dial(t: TestContext, port: number, options: { localAddress?: string } = {}): Socket {
  const socket = connect({ host: HOST, port, allowHalfOpen: true, ...options });
  socket.on('error', () => undefined);
  t.after(() => socket.destroy());
  return socket;
}

/** Everything the other end says, after this one has said `bytes` and ended. */
function asked(socket: Socket, bytes: Buffer | string): Promise<Buffer> {
  socket.end(bytes);
  return heard(socket);
}

/** Everything the other end says until it ends; unlike node:stream/consumers this leaves the socket open. */
async function heard(socket: Socket): Promise<Buffer> {
  const parts: Buffer[] = [];
  socket.on('data', (part: Buffer) => parts.push(part));
  if (!socket.readableEnded) await once(socket, 'end');
  return Buffer.concat(parts);
}

const echo = (socket: Socket): void => void socket.pipe(socket);
const hash = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

test('many connections at once come back byte for byte, and every shard has its share', async (t) => {
  const counts = [0, 0, 0];
  const { front: made, port } = await front(t, 3, (socket, shard) => {
    counts[shard] = (counts[shard] ?? 0) + 1;
    echo(socket);
  });
  await Promise.all(Array.from({ length: 150 }, async (_, i) => {
    const bytes = randomBytes(i === 0 ? 8_000_000 : 20_000);
    assert.equal(hash(await asked(dial(t, port), bytes)), hash(bytes));
  }));
  assert.deepEqual(counts, [50, 50, 50]);
  await until('nothing to be kept of them', () => made.connections === 0);
});

test('a client that has said everything is answered still, and so is heard one whose shard has', async (t) => {
  const said: string[] = [];
  const { port } = await front(t, 1, (socket) => {
    socket.once('data', (first: Buffer) => {
      if (first.toString() === 'you first') socket.end('farewell');
      void heard(socket).then((rest) => {
        said.push(`${first}${rest}`);
        if (!socket.writableEnded) socket.end('the answer');
      });
    });
  });
  assert.equal(String(await asked(dial(t, port), 'question')), 'the answer');
  const late = dial(t, port);
  late.write('you first');
  assert.equal(String(await heard(late)), 'farewell');
  late.end(' and more');
  await until('the rest to be heard', () => said.length === 2);
  assert.deepEqual(said, ['question', 'you first and more']);
});

test('a reset reaches the other side, behind what was said before it', async (t) => {
  const errors: string[] = [];
  const { front: made, port } = await front(t, 1, (socket) => {
    socket.on('error', (error: NodeJS.ErrnoException) => errors.push(String(error.code)));
    socket.on('data', (said: Buffer) => {
      if (said.toString() === 'reset me') socket.write('last words', () => setImmediate(() => socket.resetAndDestroy()));
      else socket.write('hello');
    });
  });
  const client = dial(t, port);
  client.write('hello');
  await once(client, 'data');
  client.resetAndDestroy();
  await until('the shard to see it', () => errors.length === 1);
  assert.deepEqual(errors, ['ECONNRESET']);
  const second = dial(t, port);
  second.write('reset me');
  assert.equal(String(await heard(second)), 'last words');
  second.end();
  await until('nothing to be kept of them', () => made.connections === 0);
});

test('a client that does not read stops its shard and nobody else, and gets everything when it reads', async (t) => {
  const total = 256;
  const chunk = randomBytes(1 << 20);
  let sent = 0;
  const { port } = await front(t, 1, (socket) => {
    socket.once('data', (said: Buffer) => {
      if (said.toString() === 'echo') return void socket.end(said);
      const send = (): void => {
        while (sent < total) {
          sent++;
          if (!socket.write(chunk)) return void socket.once('drain', send);
        }
        socket.end();
      };
      send();
    });
  });
  const slow = dial(t, port);
  slow.write('everything');
  slow.pause();
  // No progress for so many looks: the buffers are full. A front without bounds takes everything sooner.
  let looks = 0;
  let seen = -1;
  await until('the shard to be stopped', () => {
    looks = sent === seen ? looks + 1 : 0;
    seen = sent;
    return looks > 15;
  });
  assert.ok(sent < total / 2, `${sent} MiB were taken of a shard whose client reads nothing`);
  assert.equal(String(await asked(dial(t, port), 'echo')), 'echo');
  const read = createHash('sha256');
  let bytes = 0;
  for await (const part of slow) {
    read.update(part);
    bytes += part.length;
  }
  const expected = createHash('sha256');
  for (let i = 0; i < total; i++) expected.update(chunk);
  assert.equal(bytes, total << 20);
  assert.equal(read.digest('hex'), expected.digest('hex'));
});

test('a connection that one shard does not take goes to the next, with every byte', async (t) => {
  const { front: made, port, entries } = await front(t, 2, echo, { takeMs: 100 });
  const [first, second] = entries;
  assert.ok(first !== undefined && second !== undefined);
  // Closes what comes, as one that is stopping; and one that is too busy to look.
  first.entry.close();
  const busy = createServer(() => undefined);
  busy.listen(0, ENTRY_HOST);
  await once(busy, 'listening');
  t.after(() => busy.close());
  await made.enterAt(2, portOf(busy));
  for (let i = 0; i < 4; i++) assert.equal(String(await asked(dial(t, port), `number ${i}`)), `number ${i}`);
  second.entry.close();
  await made.enterAt(2, null);
  const refused = dial(t, port);
  const [error] = await once(refused, 'error');
  assert.equal(error.code, 'ECONNRESET', 'nobody took it, and it is not kept');
});

test('the port is open while a shard takes connections', async (t) => {
  const { front: made, port, entries } = await front(t, 2, echo);
  const open = dial(t, port);
  open.write('open');
  await once(open, 'data');
  await made.enterAt(0, null);
  assert.equal(String(await asked(dial(t, port), 'one is left')), 'one is left');
  await made.enterAt(1, null);
  const [error] = await once(dial(t, port), 'error');
  assert.equal(error.code, 'ECONNREFUSED');
  assert.equal(String(await asked(open, ' still')), ' still', 'a connection that was taken goes on');
  await made.enterAt(1, entries[1]?.port ?? 0);
  assert.equal(String(await asked(dial(t, port), 'again')), 'again');
});

test('a port that is taken is told', async (t) => {
  const other = createServer().listen(0, HOST);
  await once(other, 'listening');
  t.after(() => other.close());
  const failures: unknown[] = [];
  const made = new Front({ host: HOST, port: portOf(other), key: KEY, onFailure: (error) => failures.push('code' in error && error.code) });
  await made.enterAt(0, 1);
  assert.deepEqual(failures, ['EADDRINUSE']);
});

test('a client that stays when its shard has left is cut off', async (t) => {
  const { front: made, port } = await front(t, 1, (socket) => void socket.end('farewell'), { lingerMs: 50 });
  const client = dial(t, port);
  assert.equal(String(await heard(client)), 'farewell');
  await until('the connection to be given up', () => made.connections === 0);
});

test('closing waits until clients have been sent what the shards said last, and for no longer than it may', async (t) => {
  // More than a system keeps for a connection, so that a part of it is with the front when the shard has said it all.
  const answer = Buffer.alloc(16_000_000, 'answer');
  const large = Buffer.alloc(64_000_000);
  const { front: made, port } = await front(t, 1, (socket) => {
    socket.once('data', () => socket.end(answer));
  });
  const clients = Array.from({ length: 5 }, () => dial(t, port));
  for (const client of clients) client.write('answer');
  await Promise.all(clients.map((client) => once(client, 'readable')));
  const closed = made.close(20_000);
  for (const client of clients) assert.equal(hash(await heard(client)), hash(answer));
  await closed;
  assert.equal(made.connections, 0, 'none of the clients had to leave for that');

  const again = await front(t, 1, (socket) => void socket.write(large));
  const stuck = dial(t, again.port);
  await once(stuck, 'readable');
  await again.front.close(50);
  assert.ok((await heard(stuck)).length < large.length);
});

test('whoever does not know the key is not let in, and no address is taken from him', async (t) => {
  let connections = 0;
  const { port } = await entryOf(t, createServer(() => connections++));
  for (const line of ['GET / HTTP/1.1\r\n\r\n', introduction('0'.repeat(64), '10.0.0.1'), `${KEY}\n`, `${introduction(KEY, '10.0.0.1')}and more`, `${KEY} ${'1'.repeat(1000)}`, '']) {
    const socket = dial(t, port);
    if (line === '') socket.end();
    else socket.write(line);
    assert.equal(String(await heard(socket)), '', line);
  }
  assert.equal(connections, 0);
});

test('a server sees the address of its client, with TLS too', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'fastpaca-front-'));
  t.after(() => rm(directory, { recursive: true }));
  const authority = await Authority.create(directory, 'authority');
  const { cert, key } = await authority.issue('server', { names: `IP:${HOST}` });
  const plain = createHttp((request, response) => response.end(request.socket.remoteAddress));
  const secure = createHttps({ cert: await readFile(cert), key: await readFile(key) }, (request, response) => response.end(request.socket.remoteAddress));
  for (const server of [plain, secure]) {
    const { port: at } = await entryOf(t, server);
    const port = await freePort();
    const made = new Front({ host: HOST, port, key: KEY, onFailure: assert.ifError });
    t.after(() => made.close(0));
    await made.enterAt(0, at);
    const ca = await readFile(authority.cert);
    for (const localAddress of ['127.0.0.7', '127.0.0.8']) {
      const options = { host: HOST, port, localAddress, agent: false } as const;
      const [response] = await once(server === plain ? get(options) : getHttps({ ...options, ca }), 'response');
      assert.equal(await text(response), localAddress);
    }
  }
});

test('a connection on which its client never said anything does not hold up a stop', async (t) => {
  const server = createHttp();
  const connections = new Connections(server);
  const { port: at } = await entryOf(t, server);
  const port = await freePort();
  const made = new Front({ host: HOST, port, key: KEY, onFailure: assert.ifError });
  t.after(() => made.close(0));
  await made.enterAt(0, at);
  dial(t, port);
  await until('it to be connected', () => connections.open === 1);
  await until('it to be closed as idle', () => {
    connections.closeIdle();
    return connections.open === 0;
  }, 5_000);
});
