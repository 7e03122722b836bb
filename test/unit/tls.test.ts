/** One node's TLS on a real server: which files are taken, what a connection may do without a certificate, renewal while running. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { IncomingMessage, Server } from 'node:http';
import { request } from 'node:https';
import type { AgentOptions } from 'node:https';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { TLSSocket } from 'node:tls';
import type { TlsConfig } from '../../src/config.ts';
import type { Audience } from '../../src/http/ports.ts';
import type { Logger } from '../../src/log.ts';
import { NodeTls, nameProblem, TlsError } from '../../src/tls.ts';
import { Authority, replace } from '../e2e/certificates.ts';
import type { Pair } from '../e2e/certificates.ts';
import { until } from './mesh.ts';

let directory = '';
let authority: Authority;
let stranger: Authority;
let node: Pair;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'fastpaca-tls-'));
  [authority, stranger] = await Promise.all([Authority.create(directory, 'authority'), Authority.create(directory, 'stranger')]);
  node = await authority.issue('node', { names: 'DNS:node.example,IP:127.0.0.1' });
});
after(() => rm(directory, { recursive: true, force: true }));

function configOf(pair: Pair, changes: Partial<TlsConfig> = {}): TlsConfig {
  return { cert: pair.cert, key: pair.key, ca: authority.cert, clientAuth: 'none', ...changes };
}

class Lines implements Logger {
  readonly lines: string[] = [];
  debug = (): void => undefined;
  info = (fields: { type: string }): void => void this.lines.push(fields.type);
  warn = this.info;
  error = this.info;
  count(type: string): number {
    return this.lines.filter((line) => line === type).length;
  }
}

function open(config: TlsConfig, logger: Logger = new Lines(), watchMs = 3_600_000): Promise<NodeTls> {
  return NodeTls.open(config, { logger, reachedAt: null, watchMs });
}

test('files that cannot be used are refused in one line that names the variable and the file', async () => {
  const expired = await authority.issue('expired', { days: -1 });
  const server = await authority.issue('server', { usage: 'serverAuth' });
  const foreign = await stranger.issue('foreign');
  const other = await authority.issue('other');
  const garbage = join(directory, 'garbage.pem');
  await writeFile(garbage, 'not a certificate');
  const broken = join(directory, 'broken.pem');
  await writeFile(broken, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
  const cases: [TlsConfig, RegExp][] = [
    [configOf({ ...node, cert: join(directory, 'absent.pem') }), /^FASTPACA_TLS_CERT: cannot read .*absent\.pem: ENOENT/],
    [configOf({ ...node, key: join(directory, 'absent.key') }), /^FASTPACA_TLS_KEY: cannot read .*absent\.key/],
    [configOf(node, { ca: join(directory, 'absent-ca.pem') }), /^FASTPACA_TLS_CA: cannot read .*absent-ca\.pem/],
    [configOf({ ...node, cert: garbage }), /^FASTPACA_TLS_CERT: .*garbage\.pem holds no certificate/],
    [configOf({ ...node, cert: broken }), /^FASTPACA_TLS_CERT: .*broken\.pem holds a certificate that cannot be read/],
    [configOf(node, { ca: garbage }), /^FASTPACA_TLS_CA: .*garbage\.pem holds no certificate/],
    [configOf({ ...node, key: other.key }), /^FASTPACA_TLS_KEY: .*other\.key is not the key of the certificate in .*node\.pem/],
    [configOf({ ...node, key: garbage }), /^FASTPACA_TLS_KEY: .*garbage\.pem is not the key/],
    [configOf(expired), /^FASTPACA_TLS_CERT: the certificate in .*expired\.pem ended at /],
    [configOf(foreign), /^FASTPACA_TLS_CERT: no authority in FASTPACA_TLS_CA .* has issued/],
    [configOf(server), /^FASTPACA_TLS_CERT: .*server\.pem is not for clients/],
  ];
  for (const [config, message] of cases) {
    await assert.rejects(open(config), (error: unknown) => {
      assert.ok(error instanceof TlsError);
      assert.match(error.message, message);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
  }
  // Without an authority of their own, nodes show no certificates to each other.
  (await open(configOf(server, { ca: null }))).close();
});

test('a chain through an intermediate authority is accepted', async (t) => {
  const middle = await authority.intermediate('middle');
  const leaf = await middle.issue('leaf');
  await assert.rejects(open(configOf(leaf)), TlsError);
  const chained = join(directory, 'chained.pem');
  await writeFile(chained, Buffer.concat([await readFile(leaf.cert), await readFile(middle.cert)]));
  // The authority's file may hold several.
  const bundle = join(directory, 'bundle.pem');
  await writeFile(bundle, Buffer.concat([await readFile(stranger.cert), await readFile(authority.cert)]));
  const { port } = await serve(t, await open(configOf({ ...leaf, cert: chained }, { ca: bundle })));
  assert.equal((await ask(port, 'peer', { ca: await readFile(authority.cert), cert: await readFile(chained), key: await readFile(leaf.key) })).text, 'welcome');
});

test('a certificate speaks for the names and addresses in it, and for no other', async () => {
  const tls = await open(configOf(node));
  tls.close();
  assert.equal(nameProblem(tls.certificate, 'node.example:4000'), null);
  assert.equal(nameProblem(tls.certificate, '127.0.0.1:4000'), null);
  assert.match(nameProblem(tls.certificate, 'other.example:4000') ?? '', /not for 'other\.example'.*DNS:node\.example/);
  assert.match(nameProblem(tls.certificate, '[::1]:4000') ?? '', /not for '::1'/);
});

/** A server that answers with what `refusal` says to its caller of that kind. */
async function serve(t: { after(fn: () => unknown): void }, tls: NodeTls): Promise<{ port: number; server: Server }> {
  const server = tls.createServer({}, (incoming: IncomingMessage, response) => {
    const audience = incoming.headers['x-audience'];
    const kind: Audience = audience === 'peer' || audience === 'probe' ? audience : 'client';
    response.end(tls.refusal(incoming.socket, kind) ?? 'welcome');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(async () => {
    tls.close();
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });
  const address = server.address();
  return { port: typeof address === 'object' && address !== null ? address.port : 0, server };
}

interface Seen {
  readonly text: string;
  readonly serial: string;
}

/** One call on a connection of its own. */
async function ask(port: number, audience: Audience, options: AgentOptions): Promise<Seen> {
  const call = request({ host: '127.0.0.1', port, headers: { 'x-audience': audience }, agent: false, ...options });
  call.end();
  const [response]: IncomingMessage[] = await once(call, 'response');
  assert.ok(response !== undefined && response.socket instanceof TLSSocket);
  const serial = response.socket.getPeerX509Certificate()?.serialNumber ?? '';
  let text = '';
  for await (const chunk of response) text += String(chunk);
  return { text, serial };
}

test('nodes show a certificate of the authority, clients where they must, probes never', async (t) => {
  const ca = await readFile(authority.cert);
  const pem = async (pair: Pair): Promise<AgentOptions> => ({ ca, cert: await readFile(pair.cert), key: await readFile(pair.key) });
  const own = await pem(node);
  const foreign = await pem(await stranger.issue('impostor'));
  const ended = await pem(await authority.issue('ended', { days: -1 }));
  for (const clientAuth of ['none', 'require'] as const) {
    const { port } = await serve(t, await open(configOf(node, { clientAuth })));
    const answers = async (audience: Audience): Promise<string[]> => (await Promise.all([{ ca }, foreign, ended, own].map((options) => ask(port, audience, options)))).map(({ text }) => text);
    const strict = [/^This connection shows no certificate of FASTPACA_TLS_CA\.$/, /not one of FASTPACA_TLS_CA \((?!null)\w+\)/, /not one of FASTPACA_TLS_CA \(CERT_HAS_EXPIRED\)/, /^welcome$/];
    for (const audience of ['peer', 'client', 'probe'] as const) {
      const isStrict = audience === 'peer' || (audience === 'client' && clientAuth === 'require');
      (await answers(audience)).forEach((text, i) => assert.match(text, isStrict ? (strict[i] ?? /^$/) : /^welcome$/, `${audience}, clients ${clientAuth}, certificate ${i}`));
    }
  }
});

test('bytes that are not TLS end the connection and harm nobody', async (t) => {
  const { port } = await serve(t, await open(configOf(node)));
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  await once(socket, 'close');
  assert.equal((await ask(port, 'peer', { ca: await readFile(authority.cert), cert: await readFile(node.cert), key: await readFile(node.key) })).text, 'welcome');
});

test('a renewed pair is taken by itself; one that cannot be used never is, and is told once', async (t) => {
  const ca = await readFile(authority.cert);
  const live = { cert: join(directory, 'live.pem'), key: join(directory, 'live.key') };
  await copyFile(node.cert, live.cert);
  await copyFile(node.key, live.key);
  const logger = new Lines();
  const tls = await open(configOf(live), logger, 20);
  const { port } = await serve(t, tls);
  const first = await ask(port, 'client', { ca });
  const contextBefore = tls.peer().secureContext;

  const fresh = await authority.issue('fresh');
  // As a renewal does that is caught half way: the key is new already, the certificate is not.
  await copyFile(fresh.key, live.key);
  await until('the half pair is refused', () => logger.count('tls_refused') > 0);
  assert.equal((await ask(port, 'client', { ca })).serial, first.serial);
  assert.equal(tls.peer().secureContext, contextBefore);
  for (let look = 0; look < 3; look++) await tls.reload();
  assert.equal(logger.count('tls_refused'), 1, 'several looks, one line');

  await copyFile(fresh.cert, live.cert);
  await until('the whole pair is taken', () => logger.count('tls_renewed') > 0);
  assert.notEqual((await ask(port, 'client', { ca })).serial, first.serial);
  assert.notEqual(tls.peer().secureContext, contextBefore);
  assert.equal(tls.certificate.serialNumber, (await ask(port, 'client', { ca })).serial);

  await rm(live.cert);
  await until('the missing file is told', () => logger.count('tls_refused') > 1);
  assert.equal((await ask(port, 'client', { ca })).text, 'welcome');
});

test('a new authority counts from the next connection on', async (t) => {
  const ca = await readFile(authority.cert);
  const live = { cert: join(directory, 'pair.pem'), key: join(directory, 'pair.key') };
  const authorities = join(directory, 'authorities.pem');
  await replace(live, node);
  await copyFile(authority.cert, authorities);
  const tls = await open(configOf(live, { ca: authorities }));
  const { port } = await serve(t, tls);
  const visitor = await stranger.issue('visitor');
  const foreign = { ca, cert: await readFile(visitor.cert), key: await readFile(visitor.key) };
  assert.match((await ask(port, 'peer', foreign)).text, /not one of FASTPACA_TLS_CA/);
  await writeFile(authorities, Buffer.concat([ca, await readFile(stranger.cert)]));
  await tls.reload();
  assert.equal((await ask(port, 'peer', foreign)).text, 'welcome');
  await copyFile(authority.cert, authorities);
  await tls.reload();
  assert.match((await ask(port, 'peer', foreign)).text, /not one of FASTPACA_TLS_CA/);
});
