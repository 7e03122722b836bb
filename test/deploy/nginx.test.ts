/** The nginx configuration, in a real nginx before a real node: requests, server-sent events, WebSocket, and what stays out. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { Agent, fetch as fetchWith } from 'undici';
import { WebSocket } from 'ws';
import { VARIABLES } from '../../src/config.ts';
import { CLIENT_HEARTBEAT } from '../../src/streams/socket.ts';
import { freePort } from '../e2e/ports.ts';
import { ClusterProcesses, until } from '../e2e/processes.ts';
import { needTools, ROOT } from './tools.ts';

const run = promisify(execFile);
const JSON_TYPE = { 'content-type': 'application/json' };

test('appends, events and WebSocket pass through, a dead node is passed by, and peers and metrics stay inside', async (t) => {
  const tools = needTools(t, ['nginx', 'openssl']);
  if (tools === null) return;
  const dir = mkdtempSync(join(tmpdir(), 'fastpaca-nginx-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  // nginx' workers are another user; large bodies wait in files.
  chmodSync(dir, 0o711);
  const cluster = await ClusterProcesses.start(1);
  t.after(() => cluster.stop());
  await run(tools.openssl, ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', join(dir, 'key'), '-out', join(dir, 'crt'), '-subj', '/CN=conversations.example.com']);
  const port = await freePort();
  const dead = await freePort();
  // Only addresses and files change; one of the nodes is not there.
  const site = readFileSync(join(ROOT, 'deploy/nginx/fastpaca.conf'), 'utf8')
    .replace('fastpaca-1.internal:4000', `127.0.0.1:${dead}`)
    .replaceAll(/fastpaca-[23]\.internal:4000/g, `127.0.0.1:${cluster.node(0).port}`)
    .replace('listen 443 ssl', `listen 127.0.0.1:${port} ssl`)
    .replace('/etc/nginx/tls/conversations.crt', join(dir, 'crt'))
    .replace('/etc/nginx/tls/conversations.key', join(dir, 'key'));
  writeFileSync(join(dir, 'site.conf'), site);
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${dir}/${name};`).join(' ');
  // The node asks nginx not to buffer events, too; this one does not listen, so that the file has to say it by itself.
  writeFileSync(join(dir, 'nginx.conf'), `pid ${dir}/pid; error_log ${dir}/error.log; events {} http { access_log off; proxy_ignore_headers X-Accel-Buffering; ${temporary} include ${dir}/site.conf; }`);
  await run(tools.nginx, ['-t', '-q', '-p', dir, '-e', join(dir, 'error.log'), '-c', join(dir, 'nginx.conf')]);
  const nginx = spawn(tools.nginx, ['-p', dir, '-e', join(dir, 'error.log'), '-c', join(dir, 'nginx.conf'), '-g', 'daemon off;'], { stdio: 'inherit' });
  t.after(async () => {
    nginx.kill('SIGTERM');
    if (nginx.exitCode === null) await once(nginx, 'exit');
  });
  await until('nginx to listen', () => listens(port), 5000);

  const dispatcher = new Agent({ connect: { rejectUnauthorized: false } });
  t.after(() => dispatcher.close());
  const url = `https://127.0.0.1:${port}`;
  const call = (path: string, method = 'GET', body?: string): ReturnType<typeof fetchWith> => fetchWith(`${url}${path}`, { method, headers: JSON_TYPE, dispatcher, ...(body === undefined ? {} : { body }) });
  const append = async (text: string): Promise<number> => (await call('/v1/contexts/a/messages', 'POST', JSON.stringify({ message: { role: 'user', parts: [{ type: 'text', text }] } }))).status;

  // Each node in its turn, so the dead one too; what was never sent to it goes to another.
  assert.equal((await call('/v1/contexts/a', 'PUT', '{}')).status, 201);
  for (const text of ['one', 'two', 'three', 'four']) assert.equal(await append(text), 201, text);

  const events = await fetchWith(`${url}/v1/contexts/a/stream`, { headers: { accept: 'text/event-stream' }, dispatcher });
  assert.equal(events.status, 200);
  const socket = new WebSocket(`wss://127.0.0.1:${port}/v1/contexts/a/stream`, { rejectUnauthorized: false });
  t.after(() => socket.terminate());
  await once(socket, 'open');
  const first = once(socket, 'message', { signal: AbortSignal.timeout(5000) });
  assert.equal(await append('five'), 201);
  const [frame] = await first;
  assert.match(String(frame), /"type":"message".*"five"/s);
  assert.match(await readUntil(events.body, /"five"/), /event|data/);

  assert.equal((await call('/metrics')).status, 404);
  assert.equal((await call('/_peer/hello', 'POST', '{}')).status, 404);
  const large = await call('/v1/contexts/a/messages', 'POST', `"${'x'.repeat(8 * 1024 * 1024 + 100)}"`);
  assert.deepEqual([large.status, /"error":"payload_too_large"/.test(await large.text())], [413, true], 'refused by the node, in its words');
});

test('it fits the program: longer than its timeouts and pings, no repeated POST, exports at the pace of the reader', () => {
  const text = readFileSync(join(ROOT, 'deploy/nginx/fastpaca.conf'), 'utf8').replace(/^\s*#.*\n/gm, '');
  const location = (path: string): string => text.split(`location ${path} {`)[1]?.split('}')[0] ?? assert.fail(`no location ${path}`);
  const seconds = (name: string, block: string): number => Number(new RegExp(`${name} (\\d+)s;`).exec(block)?.[1]);
  const server = text.split('location ')[0] ?? '';
  assert.ok(seconds('proxy_read_timeout', server) * 1000 > Number(VARIABLES.FASTPACA_REQUEST_TIMEOUT_MS.defaultText), 'the node answers 503 with the outcome first');
  const streams = location('~ ^/v1/contexts/[^/]+/stream$');
  for (const name of ['proxy_read_timeout', 'proxy_send_timeout']) assert.ok(seconds(name, streams) * 1000 > 2 * CLIENT_HEARTBEAT.pingMs, name);
  for (const block of [streams, location('~ ^/v1/contexts/[^/]+/messages$')]) assert.match(block, /proxy_buffering off;/);
  assert.doesNotMatch(text, /non_idempotent/, 'nginx would send an append twice');
  assert.match(server, /proxy_http_version 1\.1;/, 'connections to the nodes are kept');
});

async function listens(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  return await once(socket, 'connect').then(
    () => true,
    () => false,
  ).finally(() => socket.destroy());
}

/** What arrives up to a match, within five seconds: a proxy that gathers events would hold it back. */
async function readUntil(body: AsyncIterable<Uint8Array> | null, wanted: RegExp): Promise<string> {
  if (body === null) throw new Error('no body');
  let text = '';
  const reading = (async () => {
    for await (const chunk of body) {
      text += Buffer.from(chunk).toString();
      if (wanted.test(text)) return;
    }
  })();
  await Promise.race([reading, new Promise((_, reject) => setTimeout(reject, 5000, new Error('nothing came within 5 s')).unref())]);
  return text;
}
