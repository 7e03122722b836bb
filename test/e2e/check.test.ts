/** The server's own command line: `--check`, `--help`, `--version`, and what it refuses. */
import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Authority } from './certificates.ts';
import { ClusterProcesses } from './processes.ts';
import { execute, ROOT } from './programs.ts';
import type { Ended } from './programs.ts';

const server = (args: readonly string[], env: Record<string, string> = {}): Promise<Ended> => execute('src/main.ts', args, { cwd: directory, env });

let directory = '';

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'fastpaca-check-'));
});
after(() => rm(directory, { recursive: true, force: true }));

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
    const ended = await server(['--check'], { PORT: 'http', FASTPACA_LOG_LEVEL: 'loud', FASTPACA_NODENAME: 'x', FASTPACA_TLS_CERT: '/cert.pem', FASTPACA_ARCHIVER_ENABLED: 'true', DATABASE_URL: 'mysql://db' });
    assert.equal(ended.code, 1);
    const lines = ended.err.trim().split('\n');
    assert.equal(lines.length, 5, ended.err);
    for (const variable of ['PORT is "http"', 'FASTPACA_LOG_LEVEL is "loud"', 'FASTPACA_NODENAME is not a known variable', 'FASTPACA_TLS_KEY must be set', 'DATABASE_URL is a value that is not allowed']) {
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

  test('--check looks at the data directory and changes nothing that a start would not', async (t) => {
    const cluster = await ClusterProcesses.start(1);
    t.after(() => cluster.stop());
    const node = cluster.node(0);
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
