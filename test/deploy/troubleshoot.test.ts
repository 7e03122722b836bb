/** The operations pages hold what they promise: every error code, refusal, status and alert is there, and every file they name. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { ERROR_STATUS } from '../../src/errors.ts';
import { freePort } from '../e2e/ports.ts';
import { until } from '../e2e/processes.ts';
import { ROOT } from './tools.ts';

const MAIN = join(ROOT, 'src/main.ts');
const OPERATIONS = join(ROOT, 'docs/operations');
const page = readFileSync(join(OPERATIONS, 'troubleshoot.md'), 'utf8');

/** Rows of the table below a heading, as lists of their cells. */
function rows(heading: string): string[][] {
  const section = page.split(`\n## ${heading}\n`)[1]?.split('\n## ')[0] ?? '';
  return [...section.matchAll(/^\| (.*) \|$/gm)].map(([, row = '']) => row.split(' | ')).slice(1);
}

test('every error code has its status, cause and remedy', () => {
  const listed = rows('Errors that clients see').map(([code = '', status]) => [code.replaceAll('`', ''), Number(status)]);
  assert.deepEqual(Object.fromEntries(listed), { ...ERROR_STATUS });
  assert.equal(listed.length, Object.keys(ERROR_STATUS).length);
});

test('every status of readiness is explained, and no other', () => {
  const code = ['src/cluster/health.ts', 'src/cluster/founding.ts', 'src/node.ts'].map((path) => readFileSync(join(ROOT, path), 'utf8')).join('\n');
  const named = [...code.matchAll(/\bstatus: '([a-z_]+)'/g), ...(/type FoundingState = (.*);/.exec(code)?.[1] ?? '').matchAll(/'([a-z]+)'/g)].map(([, status = '']) => status);
  const statuses = new Set(named.filter((status) => status !== 'ready' && status !== 'founded'));
  assert.ok(statuses.has('founding') && statuses.has('cut_off'));
  assert.deepEqual(rows('Nodes that do not get ready').map(([status = '']) => status.replaceAll('`', '')).sort(), [...statuses].sort());
});

test('every alert has its remedy, and none is told that does not exist', () => {
  const alerts = [...readFileSync(join(ROOT, 'deploy/prometheus/alerts.yml'), 'utf8').matchAll(/- alert: (\w+)/g)].map(([, name]) => name);
  const told = rows('Alerts').flatMap(([names = '']) => [...names.matchAll(/`(\w+)`/g)].map(([, name]) => name));
  assert.deepEqual(told.sort(), alerts.sort());
});

test('what a refused start says is on the page, word for word', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'fastpaca-refusals-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  chmodSync(dir, 0o755);
  const told = rows('Starts that are refused').map(([phrase = '']) => phrase.replaceAll('`', '').replace('…', ''));
  const seen: string[] = [];
  const refuse = (phrase: string, env: Record<string, string>, uid?: number): void => {
    const { status, stderr } = spawnSync(process.execPath, [MAIN], { env: { FASTPACA_LOG_LEVEL: 'silent', FASTPACA_BALLAST_BYTES: '0', ...env }, encoding: 'utf8', timeout: 20_000, ...(uid === undefined ? {} : { uid }) });
    assert.equal(status, 2, `${phrase}: ${stderr}`);
    assert.match(stderr, /^fastpaca: [^\n]+\n$/, 'one line');
    assert.ok(stderr.includes(phrase), `${phrase}: ${stderr}`);
    assert.ok(told.some((line) => line.trim() === phrase), `${phrase} is not on the page`);
    seen.push(phrase);
  };
  refuse('allowed:', { PORT: 'x' });
  refuse('is not a known variable', { FASTPACA_PROT: '1' });
  refuse('is set but empty', { FASTPACA_API_KEY: '' });
  refuse('must be set where', { FASTPACA_ARCHIVER_ENABLED: 'true' });
  refuse('cannot read', { FASTPACA_TLS_CERT: join(dir, 'crt'), FASTPACA_TLS_KEY: join(dir, 'key'), FASTPACA_RAFT_DATA_DIR: join(dir, 'tls') });

  const taken = createServer().listen(0, '127.0.0.1');
  t.after(() => taken.close());
  await once(taken, 'listening');
  const address = taken.address();
  refuse('cannot listen', { FASTPACA_HOST: '127.0.0.1', PORT: String(typeof address === 'object' ? address?.port : 0), FASTPACA_RAFT_DATA_DIR: join(dir, 'taken') });

  const env = { FASTPACA_NODE_NAME: 'one', FASTPACA_RAFT_DATA_DIR: join(dir, 'one'), PORT: String(await freePort()), FASTPACA_HOST: '127.0.0.1', FASTPACA_BALLAST_BYTES: '0', FASTPACA_LOG_LEVEL: 'silent' };
  const running = spawn(process.execPath, [MAIN], { env, stdio: 'ignore' });
  t.after(() => running.kill('SIGKILL'));
  await until('the node to be alive', async () => (await fetch(`http://127.0.0.1:${env.PORT}/health/live`).catch(() => null))?.status === 200);
  refuse('Resource temporarily unavailable', { ...env, PORT: String(await freePort()) });
  running.kill('SIGTERM');
  await once(running, 'exit');
  refuse('this data directory belongs to node', { ...env, FASTPACA_NODE_NAME: 'two' });

  if (process.getuid?.() === 0) {
    mkdirSync(join(dir, 'roots'), { mode: 0o700 });
    refuse('permission denied', { FASTPACA_RAFT_DATA_DIR: join(dir, 'roots/data') }, 65_534);
  }
  // Two more need a directory of another version, or one that rotted; their words are compared with the code's.
  const storage = readFileSync(join(ROOT, 'src/storage/verify.ts'), 'utf8');
  for (const phrase of ['is in disk format', 'is damaged']) {
    assert.ok(storage.includes(phrase), phrase);
    seen.push(phrase);
  }
  if (process.getuid?.() !== 0) seen.push('permission denied');
  assert.deepEqual(told.map((phrase) => phrase.trim()).sort(), seen.sort(), 'the page tells of refusals that nobody has seen');
});

test('every file that the pages tell people to use is there', () => {
  for (const name of readdirSync(OPERATIONS)) {
    for (const [path = ''] of readFileSync(join(OPERATIONS, name), 'utf8').matchAll(/\b(deploy|helm|samples|scripts|src)\/[\w./-]*\w/g)) assert.ok(existsSync(join(ROOT, path)), `${name} names ${path}`);
  }
  const scripts: { scripts: Record<string, string> } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  for (const name of readdirSync(OPERATIONS)) {
    for (const [, script = ''] of readFileSync(join(OPERATIONS, name), 'utf8').matchAll(/npm run (?:-s )?([\w:]+)/g)) assert.ok(script in scripts.scripts, `${name}: npm run ${script}`);
  }
});
