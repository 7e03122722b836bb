/** The operators' command line against real nodes: what it prints, what it refuses, and the codes it exits with. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { decodeStatus } from '../../src/cli/status.ts';
import type { ClusterNode, ClusterStatus } from '../../src/cli/status.ts';
import { freePort } from './ports.ts';
import { call, ClusterProcesses, until } from './processes.ts';
import type { NodeProcess } from './processes.ts';
import { execute } from './programs.ts';
import type { Ended } from './programs.ts';

const KEY = 'a-key';

const cli = (args: readonly string[], env: Record<string, string> = {}): Promise<Ended> => execute('src/cli/main.ts', args, { cwd: directory, env });
const server = (args: readonly string[], env: Record<string, string> = {}): Promise<Ended> => execute('src/main.ts', args, { cwd: directory, env });

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

  test('transfer, drain, undrain and remove do what they say on a real cluster, and refusals are told', async (t) => {
    const four = await ClusterProcesses.start(4, { FASTPACA_API_KEY: KEY });
    t.after(() => four.stop());
    const env = { FASTPACA_URL: four.node(0).url, FASTPACA_API_KEY: KEY };
    const seen = async (): Promise<ClusterStatus> => decodeStatus(JSON.parse((await cli(['cluster', 'status', '--json'], env)).out));
    const nodeNamed = async (id: string): Promise<ClusterNode> => (await seen()).nodes.find((known) => known.id === id) ?? assert.fail(id);

    const group = (await seen()).groups.find(({ leader, replicas }) => leader !== null && leader !== 'node-4' && replicas.includes('node-4')) ?? assert.fail('no such group');
    assert.deepEqual(await cli(['cluster', 'transfer', String(group.id), 'node-4'], env), { code: 0, out: `Group ${group.id} is being handed to node node-4.\n`, err: '' });
    const elsewhere = (await seen()).groups.find(({ replicas }) => !replicas.includes('node-4')) ?? assert.fail('no such group');
    const noHost = await cli(['cluster', 'transfer', String(elsewhere.id), 'node-4'], env);
    assert.deepEqual([noHost.code, noHost.out], [1, ''], noHost.err);
    assert.match((await cli(['cluster', 'drain', 'node-9'], env)).err, /^fastpaca: not_found: .*node-9/);

    const inUse = await cli(['cluster', 'remove', 'node-4'], env);
    assert.equal(inUse.code, 1);
    assert.match(inUse.err, /^fastpaca: conflict: .*[Dd]rain/);

    assert.match((await cli(['cluster', 'drain', 'node-4'], env)).out, /^Node node-4 is being drained/);
    assert.match((await cli(['cluster', 'status'], env)).out, /node-4 .* drain(ing|ed) /);
    assert.equal((await cli(['cluster', 'undrain', 'node-4', '--json'], env)).out, '{"node":"node-4","state":"active"}\n');
    await until('node-4 to be active again', async () => (await nodeNamed('node-4')).state === 'active');
    assert.equal((await cli(['cluster', 'drain', 'node-4'], env)).code, 0);
    await until('node-4 to host nothing', async () => (await nodeNamed('node-4')).state === 'drained');

    assert.match((await cli(['cluster', 'remove', 'node-4'], env)).out, /^Node node-4 is no longer part of the cluster/);
    assert.equal((await seen()).nodes.find(({ id }) => id === 'node-4')?.state ?? 'removed', 'removed');
    const last = await cli(['cluster', 'drain', 'node-3'], env);
    assert.equal(last.code, 1);
    assert.match(last.err, /^fastpaca: would_lose_quorum: /);
  });

  test('what is damaged or waits is shown, and an answer that is not understood is a refusal', async (t) => {
    let answer: { status: number; body: string } = { status: 200, body: '' };
    // Another server at the same place, and states that no healthy cluster shows.
    const api = createServer((_request, response) => response.writeHead(answer.status, { 'content-type': 'application/json' }).end(answer.body)).listen(0, '127.0.0.1');
    await once(api, 'listening');
    t.after(() => api.close());
    const address = api.address();
    const env = { FASTPACA_URL: `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}` };
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
  });
});
