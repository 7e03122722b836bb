/** The systemd unit: systemd reads it, its sandbox is as tight as it looks, and a real server stays within it. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { VARIABLES } from '../../src/config.ts';
import { freePort } from '../e2e/ports.ts';
import { until } from '../e2e/processes.ts';
import { needTools, ROOT } from './tools.ts';

const run = promisify(execFile);
const UNIT = join(ROOT, 'deploy/systemd/fastpaca.service');
const text = readFileSync(UNIT, 'utf8');
/**
 * What the sandbox leaves open, in the words of `systemd-analyze security`: the network and its kinds of sockets, which are
 * the server's work; the files of the machine, read-only; /proc/meminfo and the like; memory that V8 compiles into.
 */
const OPEN = ['DeviceAllow', 'IPAddressDeny', 'MemoryDenyWriteExecute', 'PrivateMounts', 'PrivateNetwork', 'ProcSubset', 'RestrictAddressFamilies_AF_INET_INET6', 'RestrictAddressFamilies_AF_NETLINK', 'RestrictAddressFamilies_AF_UNIX', 'RootDirectoryOrRootImage'];
/** What DynamicUser= or another setting brings as well, so that systemd would not miss it: it stays when that one goes. And bounds. */
const SAID: Readonly<Record<string, string>> = {
  NoNewPrivileges: 'yes', ProtectSystem: 'strict', ProtectHome: 'yes', PrivateTmp: 'yes', RestrictSUIDSGID: 'yes', RemoveIPC: 'yes', AmbientCapabilities: '', DevicePolicy: 'closed',
  KeyringMode: 'private', StateDirectoryMode: '0700', MemoryMax: '4G', LimitNOFILE: '65536', Restart: 'on-failure', EnvironmentFile: '/etc/fastpaca/fastpaca.env',
};

/** Values of a setting, in order. */
function said(name: string): string[] {
  return [...text.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value = '']) => value);
}

test('systemd finds nothing wrong with the unit, and nothing that it leaves open without need', async (t) => {
  const tools = needTools(t, ['systemd-analyze']);
  if (tools === null) return;
  const dir = mkdtempSync(join(tmpdir(), 'fastpaca-unit-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  mkdirSync(join(dir, 'bin'));
  symlinkSync(process.execPath, join(dir, 'bin/node'));
  const unit = join(dir, 'fastpaca.service');
  writeFileSync(unit, text.replaceAll('/opt/fastpaca', dir));
  // Unknown settings are only warned of.
  const { stderr } = await run(tools['systemd-analyze'], ['verify', unit]);
  assert.equal(stderr, '');
  const { stdout } = await run(tools['systemd-analyze'], ['security', '--offline=true', '--json=short', unit]);
  const findings: { json_field: string; set: boolean | null }[] = JSON.parse(stdout);
  assert.ok(findings.length > 70);
  assert.deepEqual(findings.filter(({ set }) => set === false).map(({ json_field }) => json_field).filter((name) => !OPEN.includes(name)), []);
});

test('what systemd would not miss is said all the same', () => {
  for (const [name, value] of Object.entries(SAID)) assert.deepEqual(said(name), [value], name);
  // Only processors with memory keys make V8 use them, and only a connection shows that a family is missing.
  assert.match(said('SystemCallFilter')[0] ?? '', /@pkey/);
  assert.deepEqual(said('RestrictAddressFamilies')[0]?.split(' '), ['AF_INET', 'AF_INET6', 'AF_UNIX', 'AF_NETLINK']);
});

test('it fits the program: time to stop, exit codes, variables, files', () => {
  const main = readFileSync(join(ROOT, 'src/program.ts'), 'utf8');
  const stopMs = Number(/STOP_MS = ([\d_]+)/.exec(readFileSync(join(ROOT, 'src/run.ts'), 'utf8'))?.[1]?.replaceAll('_', ''));
  assert.ok(Number(said('TimeoutStopSec')[0]) * 1000 >= stopMs + 5000);
  // Wherever the comment's lines break.
  assert.match(main.replace(/\s+\*\s+/g, ' '), /2 when the command line, the configuration or data refuse the start/);
  assert.deepEqual(said('RestartPreventExitStatus'), ['2']);
  for (const pair of said('Environment').join(' ').split(' ')) {
    const [name = ''] = pair.split('=');
    assert.ok(name === 'NODE_ENV' || name === 'NODE_COMPILE_CACHE' || name in VARIABLES, name);
  }
  assert.equal(said('ExecStart')[0], '/opt/fastpaca/bin/node /opt/fastpaca/src/main.ts');
  assert.equal(`/var/cache/${said('CacheDirectory')[0]}`, /NODE_COMPILE_CACHE=(\S+)/.exec(text)?.[1]);
  assert.equal(`/var/lib/${said('StateDirectory')[0]}`, /FASTPACA_RAFT_DATA_DIR=(\S+)/.exec(text)?.[1]);
});

test('a server at work makes no system call that the filter refuses', async (t) => {
  const tools = needTools(t, ['systemd-analyze', 'strace']);
  if (tools === null) return;
  const allowed = new Set<string>();
  for (const line of said('SystemCallFilter')) {
    for (const group of line.replace(/^~/, '').split(' ')) {
      for (const call of await callsOf(tools['systemd-analyze'], group)) {
        if (line.startsWith('~')) allowed.delete(call);
        else allowed.add(call);
      }
    }
  }
  assert.ok(allowed.size > 200 && !allowed.has('mount'), `${allowed.size} system calls`);

  const dir = mkdtempSync(join(tmpdir(), 'fastpaca-calls-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const port = await freePort();
  const env = { PATH: process.env['PATH'] ?? '', PORT: String(port), FASTPACA_HOST: '127.0.0.1', FASTPACA_RAFT_DATA_DIR: join(dir, 'data'), FASTPACA_LOG_LEVEL: 'silent' };
  const child = spawn(tools.strace, ['-f', '-qq', '-e', 'signal=none', '-e', 'trace=all', '-o', join(dir, 'calls'), process.execPath, join(ROOT, 'src/main.ts')], { env, stdio: 'ignore' });
  t.after(() => child.kill('SIGKILL'));
  const url = `http://127.0.0.1:${port}`;
  await until('the traced server to be ready', async () => (await fetch(`${url}/health/ready`).catch(() => null))?.status === 200, 40_000);
  const headers = { 'content-type': 'application/json' };
  await fetch(`${url}/v1/contexts/a`, { method: 'PUT', headers, body: '{}' });
  const message = { role: 'user', parts: [{ type: 'text', text: 'hello '.repeat(20_000) }] };
  assert.equal((await fetch(`${url}/v1/contexts/a/messages`, { method: 'POST', headers, body: JSON.stringify({ message }) })).status, 201);
  assert.equal((await fetch(`${url}/metrics`)).status, 200);
  const server = Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim().split(' ')[0]);
  process.kill(server, 'SIGTERM');
  await once(child, 'exit');
  const made = new Set([...readFileSync(join(dir, 'calls'), 'utf8').matchAll(/^\d+ +(\w+)\(/gm)].map(([, call = '']) => call));
  assert.ok(made.has('fdatasync') && made.size > 40, `${made.size} system calls seen`);
  assert.deepEqual([...made].filter((call) => !allowed.has(call)), []);
});

/** System calls of a group, those of the groups inside it included. */
async function callsOf(analyze: string, group: string): Promise<string[]> {
  const { stdout } = await run(analyze, ['syscall-filter', group]);
  const lines = stdout.split('\n').slice(1).map((line) => line.trim()).filter((line) => line !== '' && !line.startsWith('#'));
  return (await Promise.all(lines.map((line) => (line.startsWith('@') ? callsOf(analyze, line) : [line])))).flat();
}
