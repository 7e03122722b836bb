import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ConfigError, loadConfig, VARIABLES } from '../../src/config.ts';
import type { Variable } from '../../src/config.ts';

const EXAMPLE = new URL('../../fastpaca.example.env', import.meta.url);

function refused(env: Record<string, string>): ConfigError {
  try {
    loadConfig(env);
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    assert.ok(!error.message.includes('\n'), 'one line');
    return error;
  }
  return assert.fail(`accepted ${JSON.stringify(env)}`);
}

test('an empty environment gives the documented defaults, frozen', () => {
  const config = loadConfig({});
  assert.equal(config.port, 4000);
  assert.equal(config.clusterSize, 1);
  assert.equal(config.dataDir, 'data');
  assert.equal(config.tokenModel, 'gpt-4o');
  assert.equal(config.messageBytesMax, 1024 * 1024);
  assert.equal(config.bodyBytesMax, 8 * 1024 * 1024);
  assert.equal(config.depthMax, 64);
  assert.equal(config.logKeepBytes, 4 * 1024 * 1024);
  assert.equal(config.diskSoftFreeBytes, 512 * 1024 * 1024);
  assert.equal(config.diskHardFreeBytes, 128 * 1024 * 1024);
  assert.equal(config.ballastBytes, 64 * 1024 * 1024);
  assert.deepEqual(config.apiKeys, []);
  assert.ok(Object.isFrozen(config) && Object.isFrozen(config.apiKeys) && Object.isFrozen(config.clusterSeeds));
  assert.equal(config.archiver, null);
});

test('the founding size is 1 alone, else the larger of 3 and the seeds listed, unless given', () => {
  assert.equal(loadConfig({ FASTPACA_CLUSTER_SEED: 'a:1' }).clusterSize, 3);
  assert.equal(loadConfig({ FASTPACA_CLUSTER_SEED: 'a:1,b:1,c:1,d:1,e:1' }).clusterSize, 5);
  assert.equal(loadConfig({ FASTPACA_CLUSTER_SEED: 'a:1,b:1, a:1' }).clusterSeeds.length, 2);
  assert.equal(loadConfig({ FASTPACA_CLUSTER_SEED: 'a:1,b:1', FASTPACA_CLUSTER_SIZE: '2' }).clusterSize, 2);
});

test('a bad value is refused by name, with what was given and what is allowed', () => {
  const cases: [Record<string, string>, string, RegExp][] = [
    [{ PORT: 'http' }, 'PORT', /"http".*integer from 1 to 65535/],
    [{ PORT: '0' }, 'PORT', /integer from 1/],
    [{ PORT: '4e3' }, 'PORT', /integer/],
    [{ FASTPACA_NODE_NAME: 'a b' }, 'FASTPACA_NODE_NAME', /letters/],
    [{ FASTPACA_NODE_NAME: 'x'.repeat(65) }, 'FASTPACA_NODE_NAME', /64/],
    [{ FASTPACA_CLUSTER_SEED: 'a:1,b' }, 'FASTPACA_CLUSTER_SEED', /host:port/],
    [{ FASTPACA_CLUSTER_SEED: 'a:1,,b:2' }, 'FASTPACA_CLUSTER_SEED', /host:port/],
    [{ FASTPACA_CLUSTER_SEED: 'a:65536' }, 'FASTPACA_CLUSTER_SEED', /host:port/],
    [{ FASTPACA_ADVERTISE: 'http://a:1' }, 'FASTPACA_ADVERTISE', /host:port/],
    [{ FASTPACA_ADVERTISE: 'a:99999' }, 'FASTPACA_ADVERTISE', /host:port/],
    [{ FASTPACA_CLUSTER_SIZE: '3' }, 'FASTPACA_CLUSTER_SIZE', /seeds/],
    [{ FASTPACA_CLUSTER_SIZE: '1', FASTPACA_CLUSTER_SEED: 'a:1,b:1' }, 'FASTPACA_CLUSTER_SIZE', /cluster of its own/],
    [{ FASTPACA_LOG_LEVEL: 'loud' }, 'FASTPACA_LOG_LEVEL', /trace/],
    [{ FASTPACA_TOKEN_ESTIMATOR: 'gpt-4o' }, 'FASTPACA_TOKEN_ESTIMATOR', /tiktoken:MODEL/],
    [{ FASTPACA_TOKEN_ESTIMATOR: 'tiktoken:gtp-4o' }, 'FASTPACA_TOKEN_ESTIMATOR', /gpt-4o-….*o200k_base/],
    [{ MIGRATE_ON_BOOT: 'maybe' }, 'MIGRATE_ON_BOOT', /true or false/],
    [{ FASTPACA_ARCHIVER_ENABLED: 'maybe' }, 'FASTPACA_ARCHIVER_ENABLED', /true or false/],
    [{ FASTPACA_MAX_BODY_BYTES: '4096' }, 'FASTPACA_MAX_BODY_BYTES', /FASTPACA_MAX_MESSAGE_BYTES/],
    [{ FASTPACA_DISK_HARD_FREE_BYTES: '999999999999' }, 'FASTPACA_DISK_HARD_FREE_BYTES', /SOFT/],
    [{ FASTPACA_REQUEST_TIMEOUT_MS: '-1' }, 'FASTPACA_REQUEST_TIMEOUT_MS', /integer from 100/],
    [{ FASTPACA_RATE_LIMIT: 'many' }, 'FASTPACA_RATE_LIMIT', /integer from 0/],
    [{ FASTPACA_CORS_ORIGINS: 'https://a.example/' }, 'FASTPACA_CORS_ORIGINS', /without a path/],
    [{ FASTPACA_CORS_ORIGINS: 'https://A.example' }, 'FASTPACA_CORS_ORIGINS', /lower case/],
    [{ FASTPACA_CORS_ORIGINS: 'app.example.com' }, 'FASTPACA_CORS_ORIGINS', /origins/],
    [{ FASTPACA_CORS_ORIGINS: '*,https://a.example' }, 'FASTPACA_CORS_ORIGINS', /\* alone/],
    [{ FASTPACA_CORS_ORIGINS: 'null' }, 'FASTPACA_CORS_ORIGINS', /origins/],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: 'collector:4318' }, 'OTEL_EXPORTER_OTLP_ENDPOINT', /http:/],
    [{ FASTPACA_POSTGRES_URL: 'mysql://x' }, 'FASTPACA_POSTGRES_URL', /postgres/],
  ];
  for (const [env, variable, message] of cases) {
    const error = refused(env);
    assert.equal(error.variable, variable);
    assert.match(error.message, message);
    assert.ok(error.message.startsWith(variable), error.message);
  }
});

test('limits and origins are off unless given', () => {
  const off = loadConfig({ FASTPACA_RATE_LIMIT: '0', FASTPACA_CORS_ORIGINS: '' });
  assert.deepEqual([off.rateLimit, off.corsOrigins, off.otlpEndpoint], [null, [], null]);
  const on = loadConfig({ FASTPACA_RATE_LIMIT: '600', FASTPACA_CORS_ORIGINS: 'https://a.example, http://localhost:3000', OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' });
  assert.deepEqual([on.rateLimit, on.corsOrigins, on.otlpEndpoint], [600, ['https://a.example', 'http://localhost:3000'], 'http://collector:4318']);
  assert.deepEqual(loadConfig({ FASTPACA_CORS_ORIGINS: '*' }).corsOrigins, ['*']);
});

test('a secret that is set but empty is refused, and a bad one is not repeated in the message', () => {
  for (const variable of ['FASTPACA_API_KEY', 'FASTPACA_CLUSTER_SECRET', 'FASTPACA_METRICS_TOKEN']) {
    assert.match(refused({ [variable]: '' }).message, /empty/);
    assert.ok(!refused({ [variable]: 'hunter2 hunter2' }).message.includes('hunter2'));
  }
  assert.match(refused({ FASTPACA_API_KEY: 'a,,b' }).message, /empty/);
  assert.deepEqual(loadConfig({ FASTPACA_API_KEY: 'new, old' }).apiKeys, ['new', 'old']);
});

test('shards need ports behind that of the node, and connections for each', () => {
  assert.equal(loadConfig({}).shards, 1);
  assert.equal(loadConfig({ FASTPACA_SHARDS: '4', PORT: '65535' }).shards, 4, 'a node without peers has no port for them');
  const clustered = { FASTPACA_SHARDS: '4', FASTPACA_CLUSTER_SEED: 'a:4000' };
  assert.equal(loadConfig({ ...clustered, PORT: '65531' }).shards, 4);
  assert.match(refused({ ...clustered, PORT: '65532' }).message, /^FASTPACA_SHARDS is "4"; allowed: at most 3 with PORT 65532/);
  for (const bad of ['0', '65', 'many']) assert.equal(refused({ FASTPACA_SHARDS: bad }).variable, 'FASTPACA_SHARDS');
  const archived = { FASTPACA_ARCHIVER_ENABLED: 'true', DATABASE_URL: 'postgres://db/x', FASTPACA_SHARDS: '4' };
  assert.equal(loadConfig({ ...archived, DB_POOL_SIZE: '8' }).archiver?.poolSize, 8);
  assert.match(refused({ ...archived, DB_POOL_SIZE: '7' }).message, /^DB_POOL_SIZE is "7"; allowed: an integer from 8/);
});

test('the archive needs a database and two connections, and only then are its shared names judged', () => {
  const url = 'postgres://user:hunter2@db:5432/fastpaca';
  const on = { FASTPACA_ARCHIVER_ENABLED: 'true' };
  assert.equal(loadConfig({ DATABASE_URL: 'mysql://elsewhere', DB_POOL_SIZE: '1' }).archiver, null);
  const archiver = loadConfig({ ...on, DATABASE_URL: url }).archiver;
  assert.deepEqual(archiver, { postgresUrl: url, poolSize: 10, flushIntervalMs: 5000, batchSize: 5000, migrateOnBoot: true });
  assert.ok(Object.isFrozen(archiver));
  assert.equal(loadConfig({ ...on, DATABASE_URL: 'mysql://elsewhere', FASTPACA_POSTGRES_URL: url }).archiver?.postgresUrl, url);
  assert.match(refused(on).message, /^DATABASE_URL \(or FASTPACA_POSTGRES_URL\) must be set where FASTPACA_ARCHIVER_ENABLED/);
  assert.match(refused({ ...on, DATABASE_URL: url, DB_POOL_SIZE: '1' }).message, /^DB_POOL_SIZE is "1"; allowed: an integer from 2/);
  for (const bad of ['mysql://user:hunter2@db/x', 'postgres://user:hunter2@db:port/x']) {
    const error = refused({ ...on, DATABASE_URL: bad });
    assert.equal(error.variable, 'DATABASE_URL');
    assert.doesNotMatch(error.message, /hunter2/);
  }
});

test('TLS needs a certificate and its key; an authority or certificates of clients need both', () => {
  const pair = { FASTPACA_TLS_CERT: '/cert.pem', FASTPACA_TLS_KEY: '/key.pem' };
  assert.equal(loadConfig({}).tls, null);
  assert.deepEqual(loadConfig(pair).tls, { cert: '/cert.pem', key: '/key.pem', ca: null, clientAuth: 'none' });
  assert.deepEqual(loadConfig({ ...pair, FASTPACA_TLS_CA: '/ca.pem', FASTPACA_TLS_CLIENT_AUTH: 'require' }).tls, { cert: '/cert.pem', key: '/key.pem', ca: '/ca.pem', clientAuth: 'require' });
  assert.match(refused({ FASTPACA_TLS_CERT: '/cert.pem' }).message, /FASTPACA_TLS_KEY must be set where FASTPACA_TLS_CERT is/);
  assert.match(refused({ FASTPACA_TLS_KEY: '/key.pem' }).message, /FASTPACA_TLS_CERT must be set where FASTPACA_TLS_KEY is/);
  assert.match(refused({ FASTPACA_TLS_CA: '/ca.pem' }).message, /FASTPACA_TLS_CERT must be set/);
  assert.match(refused({ ...pair, FASTPACA_TLS_CLIENT_AUTH: 'require' }).message, /FASTPACA_TLS_CA must be set where FASTPACA_TLS_CLIENT_AUTH is/);
  assert.equal(refused({ ...pair, FASTPACA_TLS_CLIENT_AUTH: 'request' }).variable, 'FASTPACA_TLS_CLIENT_AUTH');
});

test('a webhook needs a URL and a key, and neither is repeated in an error', () => {
  const url = 'https://example.com/hook?token=abc';
  assert.equal(loadConfig({}).webhook, null);
  assert.deepEqual(loadConfig({ FASTPACA_COMPACTION_WEBHOOK: url, FASTPACA_COMPACTION_WEBHOOK_SECRET: 'key' }).webhook, { url, secret: 'key' });
  assert.equal(refused({ FASTPACA_COMPACTION_WEBHOOK: url }).variable, 'FASTPACA_COMPACTION_WEBHOOK_SECRET');
  for (const bad of ['ftp://example.com/abc', 'https://abc:def@example.com/', 'http://']) {
    const error = refused({ FASTPACA_COMPACTION_WEBHOOK: bad, FASTPACA_COMPACTION_WEBHOOK_SECRET: 'key' });
    assert.equal(error.variable, 'FASTPACA_COMPACTION_WEBHOOK');
    assert.doesNotMatch(error.message, /abc/);
  }
});

test('an unknown variable stops the start and names the closest one', () => {
  assert.match(refused({ FASTPACA_NODENAME: 'x' }).message, /FASTPACA_NODE_NAME/);
  assert.match(refused({ FASTPACA_CLUSTER_SEEDS: 'a:1' }).message, /FASTPACA_CLUSTER_SEED\?/);
  assert.doesNotThrow(() => loadConfig({ PATH: '/bin', HOME: '/root' }));
});

test('variables that Kubernetes makes for a Service of that name are not taken for options', () => {
  assert.doesNotThrow(() =>
    loadConfig({
      FASTPACA_SERVICE_HOST: '10.0.0.1',
      FASTPACA_SERVICE_PORT: '4000',
      FASTPACA_SERVICE_PORT_HTTP: '4000',
      FASTPACA_PORT: 'tcp://10.0.0.1:4000',
      FASTPACA_PORT_4000_TCP: 'tcp://10.0.0.1:4000',
      FASTPACA_PORT_4000_TCP_ADDR: '10.0.0.1',
      FASTPACA_PEERS_SERVICE_HOST: '10.0.0.2',
      FASTPACA_PEERS_PORT: 'tcp://10.0.0.2:4000',
    }),
  );
  assert.match(refused({ FASTPACA_PORT: '4001' }).message, /not a known variable/);
});

test('fastpaca.example.env lists every option with its meaning and default, and loads', () => {
  const text = readFileSync(EXAMPLE, 'utf8');
  const lines = text.split('\n');
  const listed: string[] = [];
  for (const [at, line] of lines.entries()) {
    const match = /^(#?)([A-Z_]+)=(.*)$/.exec(line);
    if (match === null) continue;
    const [, comment, name = '', value = ''] = match;
    const variable = Object.entries<Variable>(VARIABLES).find(([known]) => known === name)?.[1];
    assert.ok(variable !== undefined, `${name} is listed but not known`);
    assert.equal(lines[at - 1], `# ${variable.meaning}`, name);
    assert.equal(value, variable.defaultText, name);
    assert.equal(comment === '#', variable.defaultText === '', name);
    listed.push(name);
  }
  assert.deepEqual(listed, Object.keys(VARIABLES));
  const uncommented = Object.fromEntries(lines.filter((line) => /^[A-Z]/.test(line)).map((line) => line.split('=', 2)));
  assert.deepEqual(loadConfig(uncommented), loadConfig({}));
});
