/**
 * A cluster that speaks nothing but TLS: four real nodes, each with a certificate of one authority, so that some contexts
 * are served by relay; strangers at their port; certificates that change under them.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import type { AgentOptions } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect } from 'node:tls';
import { WebSocket } from 'ws';
import { Authority, replace } from './certificates.ts';
import type { Pair } from './certificates.ts';
import { freePort } from './ports.ts';
import { NodeProcess, noise, until } from './processes.ts';

const NODES = 4;
const SECRET = 'the-secret-of-the-cluster';

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly json: Record<string, unknown>;
}

let directory = '';
let authority: Authority;
let stranger: Authority;
let pairs: Pair[] = [];
let nodes: NodeProcess[] = [];
/** What clients trust. */
let trust: AgentOptions = {};

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'fastpaca-tls-'));
  [authority, stranger] = await Promise.all([Authority.create(directory, 'authority'), Authority.create(directory, 'stranger')]);
  trust = { ca: await readFile(authority.cert) };
  const ports = await Promise.all(Array.from({ length: NODES }, () => freePort()));
  pairs = await Promise.all(ports.map((_, i) => authority.issue(`node-${i + 1}`)));
  nodes = ports.map((port, i) => nodeOf(`node-${i + 1}`, port, ports, pairs[i] ?? assert.fail(), authority.cert));
  for (const node of nodes) node.start();
  await Promise.all(nodes.map(ready));
});

after(async () => {
  await Promise.all(nodes.filter((node) => node.running).map((node) => node.kill('SIGKILL')));
  await rm(directory, { recursive: true, force: true });
});

function nodeOf(name: string, port: number, seeds: readonly number[], pair: Pair, ca: string, env: Record<string, string> = {}): NodeProcess {
  return new NodeProcess(name, port, join(directory, `data-${name}`), {
    FASTPACA_NODE_NAME: name,
    FASTPACA_HOST: '127.0.0.1',
    FASTPACA_RAFT_DATA_DIR: join(directory, `data-${name}`),
    FASTPACA_BALLAST_BYTES: '0',
    FASTPACA_LOG_KEEP_BYTES: '65536',
    PORT: String(port),
    FASTPACA_TLS_CERT: pair.cert,
    FASTPACA_TLS_KEY: pair.key,
    FASTPACA_TLS_CA: ca,
    ...(seeds.length === 0
      ? {}
      : { FASTPACA_CLUSTER_SEED: seeds.map((seed) => `127.0.0.1:${seed}`).join(','), FASTPACA_CLUSTER_SIZE: String(NODES), FASTPACA_ADVERTISE: `127.0.0.1:${port}`, FASTPACA_CLUSTER_SECRET: SECRET }),
    ...env,
  });
}

function nodeAt(i: number): NodeProcess {
  return nodes[i] ?? assert.fail(`no node ${i}`);
}

/** One HTTPS call on a connection of its own; rejects when there is no answer. */
async function call(node: NodeProcess, path: string, method = 'GET', body?: unknown, options: AgentOptions & { headers?: Record<string, string> } = {}): Promise<Answer> {
  const { headers = {}, ...tls } = { ...trust, ...options };
  const outgoing = request({ host: '127.0.0.1', port: node.port, path, method, agent: false, headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers }, ...tls });
  outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  const [response]: IncomingMessage[] = await once(outgoing, 'response');
  let text = '';
  for await (const chunk of response ?? []) text += String(chunk);
  let json: Record<string, unknown> = {};
  try {
    json = Object.fromEntries(Object.entries(JSON.parse(text) ?? {}));
  } catch {
    // Not JSON; the text says what it is.
  }
  return { status: response?.statusCode ?? 0, text, json };
}

async function ready(node: NodeProcess): Promise<void> {
  await until(`${node.name} to be ready`, async () => {
    if (!node.running) throw new Error(`${node.name} ended while starting: ${await node.logTail()}`);
    return (await call(node, '/health/ready').catch(() => null))?.status === 200;
  });
}

async function pem(pair: Pair): Promise<AgentOptions> {
  return { cert: await readFile(pair.cert), key: await readFile(pair.key) };
}

async function metric(node: NodeProcess, line: RegExp): Promise<number> {
  const { text } = await call(node, '/metrics');
  return Number(new RegExp(`^${line.source} (\\S+)$`, 'm').exec(text)?.[1] ?? NaN);
}

/** Serial number of the certificate that a new connection is shown. */
async function serialOf(node: NodeProcess): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port: node.port, ...trust });
  await once(socket, 'secureConnect');
  const serial = socket.getPeerX509Certificate()?.serialNumber ?? '';
  socket.destroy();
  return serial;
}

const message = (text: string): object => ({ message: { role: 'user', parts: [{ type: 'text', text }] } });

/** A client's stream: what it was sent, by version. */
async function streamed(node: NodeProcess, context: string, count: number): Promise<number[]> {
  const versions: number[] = [];
  const ws = new WebSocket(`wss://127.0.0.1:${node.port}/v1/contexts/${context}/stream?cursor=0`, { ...trust });
  ws.on('message', (data) => {
    const frame: unknown = JSON.parse(String(data));
    if (typeof frame === 'object' && frame !== null && 'type' in frame && frame.type === 'message' && 'version' in frame) versions.push(Number(frame.version));
  });
  try {
    await until(`${count} messages on the stream of ${context} at ${node.name}, not ${versions.join()}`, () => versions.length >= count, 30_000);
  } finally {
    ws.terminate();
  }
  return versions;
}

describe('a cluster over mutual TLS', () => {
  test('calls, forwarded calls, listings and relayed streams work on every node', async () => {
    for (let i = 0; i < 8; i++) {
      const made = await call(nodeAt(i % NODES), `/v1/contexts/c${i}`, 'PUT', { token_budget: 1000 });
      assert.equal(made.status, 201, made.text);
      for (let n = 0; n < NODES; n++) assert.equal((await call(nodeAt(n), `/v1/contexts/c${i}/messages`, 'POST', message(`m${n}`))).status, 201);
    }
    for (const node of nodes) {
      const { json } = await call(node, '/v1/contexts');
      assert.equal(Array.isArray(json['contexts']) ? json['contexts'].length : 0, 8);
      for (let i = 0; i < 8; i++) assert.equal((await streamed(node, `c${i}`, NODES)).length, NODES);
    }
    // With four nodes and three replicas each node has relayed some of them.
    for (const node of nodes) assert.doesNotMatch(await node.logTail(), /"level":"error"/);
  });

  test('a node that was away for too long is sent snapshots', async () => {
    const away = nodeAt(3);
    await away.kill('SIGKILL');
    for (let i = 0; i < 8; i++) {
      for (let n = 0; n < 3; n++) assert.equal((await call(nodeAt(0), `/v1/contexts/c${i}/messages`, 'POST', message(noise(100_000)))).status, 201);
    }
    away.start();
    await ready(away);
    await until('a snapshot to be installed', async () => (await metric(away, /fastpaca_raft_snapshots_installed_total/)) > 0);
  });

  test('without a certificate of the authority nobody passes for a node, with the secret or without', async () => {
    const node = nodeAt(0);
    const before_ = await metric(node, /fastpaca_peer_refused_total\{reason="certificate"\}/);
    const headers = { authorization: `Bearer ${SECRET}` };
    const impostor = await pem(await stranger.issue('impostor'));
    for (const options of [{ headers }, { headers, ...impostor }]) {
      for (const path of ['/_peer/hello', '/_peer/founding/promise', '/%5Fpeer/hello', '/_peer/snapshot?group=1']) {
        const answer = await call(node, path, path.includes('snapshot') ? 'GET' : 'POST', path.includes('snapshot') ? undefined : {}, options);
        assert.equal(answer.status, 401, `${path}: ${answer.text}`);
        assert.match(answer.text, /certificate/);
      }
      for (const path of ['/_peer', '/_peer/stream/1?context=c1']) {
        const ws = new WebSocket(`wss://127.0.0.1:${node.port}${path}`, { ...trust, ...options });
        ws.on('error', () => undefined);
        const [, response]: [unknown, IncomingMessage] = await once(ws, 'unexpected-response').then(([first, second]) => [first, second]);
        assert.equal(response.statusCode, 401);
      }
    }
    assert.equal(await metric(node, /fastpaca_peer_refused_total\{reason="certificate"\}/), before_ + 12);
    // The certificate alone is not enough either.
    const own = await pem(pairs[1] ?? assert.fail());
    assert.equal((await call(node, '/_peer/hello', 'POST', {}, own)).status, 401);
    assert.equal((await call(node, '/_peer/hello', 'POST', {}, { ...own, headers })).status, 400);
  });

  test('a renewed certificate is shown without a restart, and a broken one is not', async () => {
    const node = nodeAt(0);
    const pair = pairs[0] ?? assert.fail();
    const keepsOpen = connect({ host: '127.0.0.1', port: node.port, ...trust });
    await once(keepsOpen, 'secureConnect');
    const first = await serialOf(node);
    await replace(pair, await authority.issue('renewed'));
    process.kill(node.pid, 'SIGHUP');
    await until('the new certificate to be shown', async () => (await serialOf(node)) !== first);
    const second = await serialOf(node);

    await writeFile(pair.cert, 'half a certificate');
    process.kill(node.pid, 'SIGHUP');
    await until('the broken file to be told', async () => /tls_refused.*holds no certificate/.test(await node.logTail()));
    assert.equal(await serialOf(node), second);

    // What was connected still is, and links that are made now show the new certificate.
    keepsOpen.write('GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
    const [answer] = await once(keepsOpen, 'data');
    assert.match(String(answer), /^HTTP\/1\.1 200/);
    assert.equal(await metric(node, /fastpaca_peers_up/), NODES - 1);
    const other = nodeAt(2);
    await other.kill('SIGTERM');
    other.start();
    await ready(other);
    await until('the link to the restarted node', async () => (await metric(node, /fastpaca_peers_up/)) === NODES - 1);
    assert.equal((await call(other, '/v1/contexts/c1/messages', 'POST', message('still here'))).status, 201);
  });
});

describe('one node', () => {
  test('clients show a certificate where they must; probes go without', async (t) => {
    const port = await freePort();
    const node = nodeOf('strict', port, [], await authority.issue('strict'), authority.cert, { FASTPACA_TLS_CLIENT_AUTH: 'require' });
    node.start();
    t.after(() => node.kill('SIGKILL'));
    await ready(node);
    const client = await pem(await authority.issue('client', { names: 'DNS:client', usage: 'clientAuth' }));
    for (const path of ['/v1/contexts', '/metrics', '/openapi.json', '/nothing']) {
      const refused = await call(node, path);
      assert.deepEqual([refused.status, refused.json['error']], [401, 'unauthorized'], path);
      assert.equal((await call(node, path, 'GET', undefined, client)).status, path === '/nothing' ? 404 : 200, path);
    }
    const ws = new WebSocket(`wss://127.0.0.1:${port}/v1/contexts/c/stream`, { ...trust });
    ws.on('error', () => undefined);
    const [, response] = await once(ws, 'unexpected-response');
    assert.equal(response.statusCode, 401);
    // Nobody speaks plain HTTP here.
    await assert.rejects(fetch(`http://127.0.0.1:${port}/health/live`));
  });

  test('files that cannot be used stop the start with one line', async () => {
    const foreign = await stranger.issue('foreign');
    const node = nodeOf('bad', await freePort(), [], foreign, authority.cert);
    node.start();
    assert.equal((await node.exited()).code, 2);
    const told = (await node.logTail()).split('\n').filter((line) => line.startsWith('fastpaca: '));
    assert.equal(told.length, 1);
    assert.match(told[0] ?? '', /FASTPACA_TLS_CERT: no authority in FASTPACA_TLS_CA/);
  });

  test('a node of another authority says why it does not get in', async (t) => {
    const port = await freePort();
    const node = nodeOf('outsider', port, [nodeAt(1).port], await stranger.issue('outsider'), stranger.cert);
    node.start();
    t.after(() => node.kill('SIGKILL'));
    await until('the reason to be told', async () => {
      const answer = await call(node, '/health/ready', 'GET', undefined, { ca: await readFile(stranger.cert) }).catch(() => null);
      return /no answer from 127\.0\.0\.1:\d+ \(.*(certificate|verify)/.test(String(answer?.json['reason']));
    });
  });

  test('a certificate counts for the names in it only, by which its node is looked for', async (t) => {
    const secret = { FASTPACA_CLUSTER_SECRET: SECRET };
    const named = nodeOf('named', await freePort(), [], await authority.issue('named', { names: 'DNS:localhost' }), authority.cert, secret);
    named.start();
    t.after(() => named.kill('SIGKILL'));
    /** What a node that looks for it by that name says of the answer; '' once there is one. */
    const silence = async (host: string): Promise<string> => {
      const seed = `${host}:${named.port}`;
      const node = nodeOf(`asks-${host}`, await freePort(), [], await authority.issue(`asks-${host}`), authority.cert, { ...secret, FASTPACA_CLUSTER_SEED: seed, FASTPACA_CLUSTER_SIZE: '2' });
      node.start();
      try {
        let told = 'not asked yet';
        await until(`${node.name} to have asked`, async () => {
          const answer = await call(node, '/health/ready').catch(() => null);
          if (answer !== null) told = /no answer from .*/.exec(String(answer.json['reason']))?.[0] ?? '';
          return !/not asked yet|ECONNREFUSED/.test(told);
        });
        return told;
      } finally {
        await node.kill('SIGKILL');
      }
    };
    assert.match(await silence('127.0.0.1'), /does not match certificate's altnames/);
    assert.equal(await silence('localhost'), '');
  });
});
