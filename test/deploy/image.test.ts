/** The image: its Dockerfile is linted, carried out, and what comes out is run as Docker would run it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';
import { VARIABLES } from '../../src/config.ts';
import { freePort } from '../e2e/ports.ts';
import { until } from '../e2e/processes.ts';
import { buildImage, bytesBelow, Container, listing, parseDockerfile, remove } from './dockerfile.ts';
import type { Image } from './dockerfile.ts';
import { needNamespaces, needTools, ROOT } from './tools.ts';

const run = promisify(execFile);
const text = readFileSync(join(ROOT, 'Dockerfile'), 'utf8');
const JSON_TYPE = { 'content-type': 'application/json' };

test('the Dockerfile has nothing that a linter and shellcheck object to', async (t) => {
  const tools = needTools(t, ['dockerlinter', 'shellcheck']);
  if (tools === null) return;
  // ER0012 wants versions of Debian packages pinned; Debian removes superseded ones, and the build would break.
  const { stdout } = await run(process.execPath, [tools.dockerlinter, '--file', join(ROOT, 'Dockerfile'), '--ignore', 'ER0012', '--shellcheck', 'sh', '--json'], { cwd: tmpdir() }).catch(
    (error: { stdout: string }) => error,
  );
  assert.deepEqual(JSON.parse(stdout === '' ? '[]' : stdout), []);
});

test('shellcheck finds nothing in the scripts that install what tests need', async (t) => {
  const tools = needTools(t, ['shellcheck']);
  if (tools === null) return;
  await run(tools.shellcheck, ['--enable=quote-safe-variables', join(ROOT, 'deploy/tools/install.sh'), join(ROOT, '.ci/run')]).catch((error: { stdout: string }) => assert.fail(error.stdout));
});

test('the bases are pinned, and Node is the version that the tests run on', () => {
  const bases = parseDockerfile(text).map(({ base }) => base);
  const manifest: { devDependencies: { node: string } } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  assert.equal(bases.length, 2);
  assert.match(bases[0] ?? '', new RegExp(`^node:${manifest.devDependencies.node}-trixie-slim$`));
  assert.match(bases[1] ?? '', /^debian:13\.\d+-slim$/);
});

test('what Docker is told is so: the port, the signal that stops it', () => {
  const last = parseDockerfile(text).at(-1)?.instructions ?? [];
  const said = (name: string): string | undefined => last.find((instruction) => instruction.name === name)?.text;
  assert.equal(said('EXPOSE'), VARIABLES.PORT.defaultText);
  assert.equal(said('STOPSIGNAL'), 'SIGTERM');
  // Debian slim lacks what the node binary is linked with; the machine that carries the file out has it.
  assert.match(said('RUN') ?? '', /install .*\blibatomic1\b/);
});

describe('carried out', () => {
  const dir = mkdtempSync(join(tmpdir(), 'fastpaca-image-'));
  let image: Image | null = null;
  let failure: unknown = null;
  before(async () => {
    try {
      image = await buildImage(dir, process.execPath);
    } catch (error) {
      failure = error;
    }
  });
  after(() => remove(dir));

  function built(t: TestContext): Image | null {
    if (!needNamespaces(t)) return null;
    if (failure !== null) throw failure;
    return image;
  }

  test('it holds the server and nothing else', (t) => {
    const found = built(t);
    if (found === null) return;
    const app = found.root.of('/app');
    assert.deepEqual(listing(app), ['.compile-cache', 'LICENSE', 'archiver', 'deploy', 'node_modules', 'package-lock.json', 'package.json', 'raft', 'src']);
    assert.deepEqual(listing(join(app, 'deploy')), ['healthcheck.ts']);
    for (const name of ['typescript', 'node', 'fast-check', '@types']) assert.ok(!existsSync(join(app, 'node_modules', name)), `${name} is for development`);
    assert.ok(existsSync(join(app, 'node_modules/fastify')));
    const data = statSync(found.root.of('/data'));
    assert.deepEqual([data.uid, data.gid, data.mode & 0o777], [10_001, 10_001, 0o700]);
    const megabytes = Math.round(bytesBelow(app) / 1e6);
    t.diagnostic(`/app has ${megabytes} MB, the node binary ${Math.round(statSync(found.root.of('/usr/local/bin/node')).size / 1e6)} MB`);
    assert.ok(megabytes < 80, `/app has grown to ${megabytes} MB`);
  });

  test('it runs without privileges on a read-only root, is healthy, stops on SIGTERM with 0 and keeps its data', async (t) => {
    const found = built(t);
    if (found === null) return;
    assert.deepEqual([found.user, found.volume], ['10001:10001', '/data']);
    // Docker fills an empty volume with what the image has there, its owner included.
    const volume = found.root.of(found.volume);
    const env = { PORT: String(await freePort()), FASTPACA_NODE_NAME: 'single', FASTPACA_BALLAST_BYTES: '0' };
    const url = `http://127.0.0.1:${env.PORT}`;
    let container = new Container(found, { volume, env: { ...env, NODE_DEBUG_NATIVE: 'COMPILE_CACHE' } });
    t.after(() => container.kill());
    await until('the container to be ready', () => isReady(container, url));
    assert.ok((container.output.match(/was accepted/g) ?? []).length > 300, 'what the build compiled is what runs');
    assert.doesNotMatch(container.output, /was rejected/, 'it was compiled under the flags that it runs with');
    const status = readFileSync(`/proc/${container.pid}/status`, 'utf8');
    // What the build compiled is where this user looks for it.
    const cache = (await container.exec(['node', '-p', 'require("node:module").getCompileCacheDir()'], env)).trim();
    assert.match(cache, /^\/app\/\.compile-cache\/.*-10001$/);
    assert.ok(listing(found.root.of(cache)).length > 300, 'the sources and the packages');
    assert.match(status, /^Uid:\t10001\t10001\t10001\t10001$/m);
    assert.match(status, /^CapEff:\t0+$/m);
    assert.match(status, /^NSpid:\t\d+\t1$/m);
    await assert.rejects(container.exec(['touch', '/app/x'], env), /Read-only file system/);
    await assert.rejects(container.exec(['touch', '/tmp/x'], env), /Read-only file system/);
    assert.match(await container.exec(found.healthcheck, env), /HTTP 200/);
    await assert.rejects(container.exec(found.healthcheck, { ...env, PORT: '1' }), /ECONNREFUSED/, 'a health check that cannot fail');

    assert.equal((await fetch(`${url}/v1/contexts/kept`, { method: 'PUT', headers: JSON_TYPE, body: '{}' })).status, 201);
    assert.equal(await container.stop('SIGTERM'), 0, container.output);
    assert.match(container.output, /"type":"stopped"/);

    container = new Container(found, { volume, env });
    await until('the container to be ready again', () => isReady(container, url));
    assert.equal((await fetch(`${url}/v1/contexts/kept`)).status, 200);
    assert.equal(await container.stop('SIGTERM'), 0, container.output);
  });
});

async function isReady(container: Container, url: string): Promise<boolean> {
  assert.equal(container.child.exitCode, null, container.output);
  return (await fetch(`${url}/health/ready`).catch(() => null))?.status === 200;
}
