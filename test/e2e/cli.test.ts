/** The command line against a real node, and the server's own: what they print, what they refuse, and the codes they exit with. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Authority } from './certificates.ts';
import { call, ClusterProcesses, freePort } from './processes.ts';
import type { NodeProcess } from './processes.ts';

const ROOT = join(import.meta.dirname, '../..');
const KEY = 'a-key';

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function execute(file: string, args: readonly string[], env: Record<string, string>): Promise<Ended> {
  const child = spawn(process.execPath, [join(ROOT, file), ...args], { cwd: directory, env: { PATH: process.env['PATH'] ?? '', ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout.on('data', (chunk) => (out += String(chunk)));
  child.stderr.on('data', (chunk) => (err += String(chunk)));
  const [code]: unknown[] = await once(child, 'close');
  return { code: Number(code), out, err };
}

const cli = (args: readonly string[], env: Record<string, string> = {}): Promise<Ended> => execute('src/cli/main.ts', args, env);
const server = (args: readonly string[], env: Record<string, string> = {}): Promise<Ended> => execute('src/main.ts', args, env);

let directory = '';
let cluster: ClusterProcesses;
let node: NodeProcess;
let reached: Record<string, string> = {};

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'fastpaca-cli-'));
  cluster = await ClusterProcesses.start(1, { FASTPACA_API_KEY: `${KEY},older` });
  node = cluster.node(0);
  reached = { FASTPACA_URL: node.url, FASTPACA_API_KEY: `${KEY},older` };
});
after(async () => {
  await cluster.stop();
  await rm(directory, { recursive: true, force: true });
});

describe('fastpaca cluster', () => {
  test('status is a table for people and the node\'s own answer for programs', async () => {
    const shown = await cli(['cluster', 'status'], reached);
    assert.deepEqual([shown.code, shown.err], [0, '']);
    assert.match(shown.out, /^Cluster [0-9a-f-]{36}, coordinator \S+: 1 node, 257 groups, 0 without a leader, 0 moves under way\n\nNODE {4}ADDRESS +STATE {3}GROUPS {2}LEADERS\nnode-1 {2}127\.0\.0\.1:\d+ {2}active {5}257 {6}257\n/);
    const asJson = await cli(['cluster', 'status', '--json'], reached);
    assert.deepEqual(Object.keys(JSON.parse(asJson.out)), Object.keys((await call(`${node.url}/v1/cluster`, 'GET', undefined, { authorization: `Bearer ${KEY}` })).json));
  });

  test('options go before variables', async () => {
    const wrong = { FASTPACA_URL: 'http://127.0.0.1:1', FASTPACA_API_KEY: 'nobody' };
    assert.equal((await cli(['cluster', 'status', '--url', node.url, '--api-key', KEY], wrong)).code, 0);
    // Without either, the port of the environment on this machine.
    assert.equal((await cli(['cluster', 'status', '--api-key', KEY], { PORT: String(node.port) })).code, 0);
  });

  test('a refusal is told in the node\'s words and is code 1', async () => {
    const refused = await cli(['cluster', 'status'], { FASTPACA_URL: node.url });
    assert.deepEqual([refused.code, refused.out], [1, '']);
    assert.match(refused.err, /^fastpaca: unauthorized: .*--api-key/);
  });

  test('no answer is code 3', async () => {
    const ended = await cli(['cluster', 'status', '--url', `http://127.0.0.1:${await freePort()}`]);
    assert.deepEqual([ended.code, ended.out], [3, '']);
    assert.match(ended.err, /^fastpaca: cannot reach http:\/\/127\.0\.0\.1:\d+: .*ECONNREFUSED/);
    // TLS spoken to a port without it.
    assert.equal((await cli(['cluster', 'status', '--url', node.url.replace('http:', 'https:')])).code, 3);
  });

  test('what is not understood is code 2, and nothing is called', async () => {
    const cases: [string[], RegExp][] = [
      [[], /a command is missing/],
      [['nodes'], /no command 'nodes'/],
      [['cluster'], /cluster needs a command/],
      [['cluster', 'stop'], /no command 'cluster stop'/],
      [['cluster', 'status', 'node-1'], /'node-1' is one argument too many/],
      [['cluster', 'drain'], /NODE is missing/],
      [['cluster', 'remove', ''], /NODE is missing/],
      [['cluster', 'transfer', '3'], /NODE is missing/],
      [['cluster', 'transfer', 'three', 'node-1'], /'three' is not the number of a group/],
      [['cluster', 'status', '--jsn'], /Unknown option '--jsn'/],
      [['cluster', 'status', '--url', 'node-1:4000'], /--url is 'node-1:4000'; allowed: a URL/],
      [['cluster', 'status', '--url', 'https://localhost:1', '--ca', 'absent.pem'], /cannot read absent\.pem/],
    ];
    for (const [args, message] of cases) {
      const ended = await cli(args);
      assert.deepEqual([ended.code, ended.out], [2, ''], args.join(' '));
      assert.match(ended.err, message);
      assert.equal(ended.err.trim().split('\n').length, 1);
    }
    assert.match((await cli(['--help'])).out, /^Usage: fastpaca cluster COMMAND/);
  });

  test('a secret is fresh, and one that a node takes', async () => {
    const [first, second] = await Promise.all([cli(['cluster', 'secret']), cli(['cluster', 'secret', '--json'])]);
    assert.match(first.out, /^[0-9a-f]{64}\n$/);
    assert.match(String(JSON.parse(second.out).secret), /^[0-9a-f]{64}$/);
    assert.notEqual(first.out.trim(), JSON.parse(second.out).secret);
    assert.equal((await server(['--check'], { FASTPACA_CLUSTER_SECRET: first.out.trim() })).code, 0);
  });

  test('drain, remove and transfer are the calls of the API, and what refuses them is told', async (t) => {
    const asked: string[] = [];
    let answer: { status: number; body: string } = { status: 202, body: '{"state":"draining"}' };
    const api = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk) => (body += String(chunk)));
      request.on('end', () => {
        asked.push(`${request.method} ${request.url} ${request.headers.authorization} ${body}`);
        response.writeHead(answer.status, { 'content-type': 'application/json' }).end(answer.body);
      });
    }).listen(0, '127.0.0.1');
    await once(api, 'listening');
    t.after(() => api.close());
    const address = api.address();
    const env = { FASTPACA_URL: `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`, FASTPACA_API_KEY: KEY };
    assert.match((await cli(['cluster', 'drain', 'node-4'], env)).out, /node-4 is being drained/);
    assert.equal((await cli(['cluster', 'drain', 'a/b', '--json'], env)).out, '{"state":"draining"}\n');
    assert.match((await cli(['cluster', 'transfer', '17', 'node-2'], env)).out, /Group 17 is being handed to node node-2/);
    answer = { status: 204, body: '' };
    assert.match((await cli(['cluster', 'remove', 'node-4'], env)).out, /node-4 is no longer part/);
    answer = { status: 409, body: '{"error":"would_lose_quorum","message":"Group 3 would lose its quorum."}' };
    const refused = await cli(['cluster', 'remove', 'node-3'], env);
    assert.deepEqual(refused, { code: 1, out: '', err: 'fastpaca: would_lose_quorum: Group 3 would lose its quorum.\n' });
    answer = {
      status: 200,
      body: JSON.stringify({
        cluster_id: 'c',
        coordinator: null,
        nodes: [{ id: 'node-1', address: 'a:1', state: 'unreachable', reason: 'silent for 12 s', groups: 3, leaders: 0 }],
        groups: Array.from({ length: 12 }, (_, id) => ({ id, leader: null, replicas: ['node-1'], state: 'remote' })),
        moves: Array.from({ length: 22 }, (_, group) => ({ group, node: 'node-4', replica: 9, phase: 'joining', waits_for: null })),
        damaged: [{ node: 'node-1', group: 7, replica: 2, reason: 'a checksum' }],
        waiting: ['node-1 is dead and nobody can take its groups'],
      }),
    };
    const { out } = await cli(['cluster', 'status'], env);
    for (const part of [/12 groups, 12 without a leader, 22 moves/, /node-1: silent for 12 s/, /Without a leader: 0, 1, .*, 9 and 2 more/, /Damaged:\n\nNODE {4}GROUP {2}REPLICA {2}REASON\nnode-1 {2}7 {6}2 {8}a checksum/, /19 {5}node-4 {2}9 {8}joining {2}-\nand 2 more/, /Waiting:\n {2}node-1 is dead/]) {
      assert.match(out, part);
    }
    answer = { status: 200, body: '<html>' };
    assert.match((await cli(['cluster', 'status'], env)).err, /does not answer like Fastpaca/);
    answer = { status: 200, body: '{"nodes":7}' };
    assert.match((await cli(['cluster', 'status'], env)).err, /not understood: nodes should be a list/);
    answer = { status: 502, body: 'Bad Gateway' };
    assert.deepEqual([(await cli(['cluster', 'status'], env)).code, (await cli(['cluster', 'status'], env)).err], [1, 'fastpaca: the node answered HTTP 502\n']);
    assert.deepEqual(asked.slice(0, 4), [
      `POST /v1/cluster/nodes/node-4/drain Bearer ${KEY} `,
      `POST /v1/cluster/nodes/a%2Fb/drain Bearer ${KEY} `,
      `POST /v1/cluster/groups/17/transfer Bearer ${KEY} {"to":"node-2"}`,
      `DELETE /v1/cluster/nodes/node-4 Bearer ${KEY} `,
    ]);
  });
});

describe('the server\'s command line', () => {
  test('help, version, and nothing unknown', async () => {
    assert.match((await server(['--help'])).out, /^Usage: node src\/main\.ts/);
    const manifest: unknown = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'));
    assert.equal((await server(['--version'])).out, `fastpaca ${typeof manifest === 'object' && manifest !== null && 'version' in manifest ? String(manifest.version) : ''}\n`);
    for (const args of [['--chekc'], ['extra'], ['--check=yes']]) {
      const ended = await server(args);
      assert.deepEqual([ended.code, ended.out], [2, ''], args.join(' '));
      assert.match(ended.err, /^fastpaca: .*--help lists what is known\n$/);
    }
  });

  test('--check finds every bad variable at once, one line each', async () => {
    const ended = await server(['--check'], { PORT: 'http', FASTPACA_LOG_LEVEL: 'loud', FASTPACA_NODENAME: 'x', FASTPACA_TLS_CERT: '/cert.pem' });
    assert.equal(ended.code, 1);
    const lines = ended.err.trim().split('\n');
    assert.equal(lines.length, 4, ended.err);
    for (const variable of ['PORT is "http"', 'FASTPACA_LOG_LEVEL is "loud"', 'FASTPACA_NODENAME is not a known variable', 'FASTPACA_TLS_KEY must be set']) {
      assert.ok(lines.some((line) => line.startsWith(`fastpaca: ${variable}`)), `${variable} in ${ended.err}`);
    }
  });

  test('--check looks at the TLS files and at the name in the certificate', async () => {
    const authority = await Authority.create(directory, 'authority');
    const pair = await authority.issue('node', { names: 'DNS:node-1.example' });
    const env = { FASTPACA_TLS_CERT: pair.cert, FASTPACA_TLS_KEY: pair.key, FASTPACA_TLS_CA: authority.cert };
    const good = await server(['--check'], { ...env, FASTPACA_CLUSTER_SEED: 'seed:1', FASTPACA_ADVERTISE: 'node-1.example:4000' });
    assert.deepEqual([good.code, good.err], [0, '']);
    assert.match(good.out, /is for DNS:node-1\.example and ends at .*\n(.*\n)*ok\n$/);
    const misnamed = await server(['--check'], { ...env, FASTPACA_CLUSTER_SEED: 'seed:1', FASTPACA_ADVERTISE: 'node-2.example:4000' });
    assert.deepEqual([misnamed.code, misnamed.err.match(/not for 'node-2\.example'/)?.length], [1, 1]);
    const mixed = await server(['--check'], { ...env, FASTPACA_TLS_KEY: authority.key });
    assert.match(mixed.err, /^fastpaca: FASTPACA_TLS_KEY: .* is not the key of the certificate/);
    assert.equal(mixed.code, 1);
  });

  test('--check looks at the data directory and changes nothing that a start would not', async () => {
    const fresh = join(directory, 'fresh');
    const absent = await server(['--check'], { FASTPACA_RAFT_DATA_DIR: fresh });
    assert.deepEqual([absent.code, absent.err], [0, '']);
    assert.match(absent.out, /fresh is new/);
    assert.ok(!(await readdir(directory)).includes('fresh'), 'it is not made');

    const file = join(directory, 'file');
    await writeFile(file, '');
    assert.match((await server(['--check'], { FASTPACA_RAFT_DATA_DIR: file })).err, /FASTPACA_RAFT_DATA_DIR: .*file is not a directory/);
    assert.match((await server(['--check'], { FASTPACA_RAFT_DATA_DIR: join(file, 'below') })).err, /cannot be made/);

    const used = { FASTPACA_RAFT_DATA_DIR: node.dir };
    const running = await server(['--check'], used);
    assert.equal(running.code, 0);
    assert.match(running.out, /is in use by a running node/);

    await node.kill('SIGTERM');
    assert.equal((await server(['--check'], { ...used, FASTPACA_NODE_NAME: 'node-1' })).code, 0);
    const renamed = await server(['--check'], { ...used, FASTPACA_NODE_NAME: 'node-2' });
    assert.equal(renamed.code, 1);
    assert.match(renamed.err, /FASTPACA_NODE_NAME is 'node-2' but this data directory belongs to node 'node-1'/);
    // It was only looked at: the node comes back as itself.
    node.start();
    await node.ready();
    await node.kill('SIGTERM');
    const manifest = (await readdir(join(node.dir, 'db'))).find((name) => name.startsWith('MANIFEST-'));
    await writeFile(join(node.dir, 'db', manifest ?? ''), 'garbage');
    const broken = await server(['--check'], used);
    assert.equal(broken.code, 1);
    assert.match(broken.err, /^fastpaca: FASTPACA_RAFT_DATA_DIR: .*db cannot be opened: /);
  });

  test('--check tells of a directory that cannot be written', { skip: process.getuid?.() === 0 ? 'everything can be written by root' : false }, async () => {
    const locked = join(directory, 'locked');
    await mkdir(locked);
    await chmod(locked, 0o500);
    assert.match((await server(['--check'], { FASTPACA_RAFT_DATA_DIR: locked })).err, /locked cannot be read and written/);
  });
});
