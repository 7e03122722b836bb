/**
 * Configuration: environment variables parsed once, checked against each other, frozen. Every variable the program
 * knows stands in one table below; one it does not know stops the start, so that a typing error is not silently a default.
 * Not here: settings baked into stored data (constants.ts).
 */
import { SHARDS_MAX } from './cluster/seat.ts';
import { isKnownModel, KNOWN_MODELS } from './tokens/models.ts';

/** A variable that stops the start. The message is one line: which, what was given, what is allowed. */
export class ConfigError extends Error {
  readonly variable: string;
  /** The variable that wants one which is not set; null where the value itself is bad. */
  readonly wantedBy: string | null;

  constructor(variable: string, message: string, wantedBy: string | null = null) {
    super(message);
    this.name = 'ConfigError';
    this.variable = variable;
    this.wantedBy = wantedBy;
  }
}

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent';

export interface Config {
  /** null: a random one, kept in the data directory. */
  readonly nodeName: string | null;
  readonly host: string;
  readonly port: number;
  /** host:port that peers use; null: derived from the listening address. */
  readonly advertise: string | null;
  readonly dataDir: string;
  /** Threads that share the groups. 1: the node is not divided. */
  readonly shards: number;
  /** host:port each, without repeats. */
  readonly clusterSeeds: readonly string[];
  readonly clusterSize: number;
  /** The first is presented to peers, any is accepted. */
  readonly clusterSecrets: readonly string[];
  /** Any is accepted; empty: the API is open. */
  readonly apiKeys: readonly string[];
  readonly metricsToken: string | null;
  /** null: plain TCP. */
  readonly tls: TlsConfig | null;
  readonly logLevel: LogLevel;
  /** Model whose tokenizer counts where a context names none. */
  readonly tokenModel: string;
  readonly messageBytesMax: number;
  readonly bodyBytesMax: number;
  readonly depthMax: number;
  readonly requestTimeoutMs: number;
  /** Requests a minute that one client may make under /v1; null: any number. */
  readonly rateLimit: number | null;
  /** Origins whose pages may read the API from a browser, `*` for any; empty: none. */
  readonly corsOrigins: readonly string[];
  /** Base URL of an OpenTelemetry collector (OTLP over HTTP); null: no traces. */
  readonly otlpEndpoint: string | null;
  readonly streamConnectionsMax: number;
  readonly tailKeep: number;
  readonly nodeDeadAfterMs: number;
  /** Log bytes a group keeps for replicas that lag, before they need a snapshot. */
  readonly logKeepBytes: number;
  readonly diskSoftFreeBytes: number;
  readonly diskHardFreeBytes: number;
  readonly ballastBytes: number;
  /** null: nothing is archived, and of what was archived earlier nothing is read. */
  readonly archiver: ArchiverConfig | null;
  /** Told of windows that need compaction; null: nobody is. */
  readonly webhook: WebhookConfig | null;
}

/** Paths of PEM files. */
export interface TlsConfig {
  readonly cert: string;
  readonly key: string;
  /** null: other nodes are verified against the well-known authorities, and show no certificate themselves. */
  readonly ca: string | null;
  /** Whether clients must show a certificate of `ca`, except for /health. */
  readonly clientAuth: 'none' | 'require';
}

export interface WebhookConfig {
  readonly url: string;
  readonly secret: string;
}

export interface ArchiverConfig {
  /** Holds a password, as a rule. */
  readonly postgresUrl: string;
  /** At least 2: one connection writes, the others read. */
  readonly poolSize: number;
  readonly flushIntervalMs: number;
  readonly batchSize: number;
  readonly migrateOnBoot: boolean;
}

const MiB = 1024 * 1024;

export interface Variable {
  /** As written in fastpaca.example.env; '' when unset. */
  readonly defaultText: string;
  readonly meaning: string;
  /** Empty is refused rather than taken for unset: an empty secret would open what it is there to close. */
  readonly refuseEmpty?: true;
}

/** Every variable, in the order of fastpaca.example.env. */
export const VARIABLES = {
  FASTPACA_NODE_NAME: { defaultText: '', meaning: 'Name of this node, kept for ever in its data directory. Unset: a random one.' },
  FASTPACA_HOST: { defaultText: '0.0.0.0', meaning: 'Address to listen on.' },
  PORT: { defaultText: '4000', meaning: 'Port to listen on, for clients and peers alike.' },
  FASTPACA_ADVERTISE: { defaultText: '', meaning: 'host:port at which peers reach this node. Unset: the address listened on or, where that is every address, the one in the network of the seeds.' },
  FASTPACA_RAFT_DATA_DIR: { defaultText: 'data', meaning: 'Directory of everything this node stores. One node, one directory.' },
  FASTPACA_CLUSTER_SEED: { defaultText: '', meaning: 'Comma-separated host:port of nodes to find the cluster by. Unset: a cluster of one.' },
  FASTPACA_CLUSTER_SIZE: { defaultText: '', meaning: 'Members that found the cluster. Unset: 1 without seeds, else the larger of 3 and the number of seeds listed.' },
  FASTPACA_CLUSTER_SECRET: { defaultText: '', meaning: 'Comma-separated secrets of the peer links: all are presented, one in common is enough.', refuseEmpty: true },
  FASTPACA_API_KEY: { defaultText: '', meaning: 'Comma-separated API keys; clients send Authorization: Bearer KEY. Unset: no authentication.', refuseEmpty: true },
  FASTPACA_METRICS_TOKEN: { defaultText: '', meaning: 'Bearer token of GET /metrics. Unset: open.', refuseEmpty: true },
  FASTPACA_LOG_LEVEL: { defaultText: 'info', meaning: 'trace, debug, info, warn, error or silent.' },
  FASTPACA_STREAM_MAX_CONNECTIONS: { defaultText: '512', meaning: 'Most open streams on this node.' },
  FASTPACA_TOKEN_ESTIMATOR: { defaultText: 'tiktoken:gpt-4o', meaning: 'tiktoken:MODEL: whose tokenizer counts where a context names no model.' },
  FASTPACA_MAX_MESSAGE_BYTES: { defaultText: String(MiB), meaning: 'Largest message, in bytes of its JSON text.' },
  FASTPACA_MAX_BODY_BYTES: { defaultText: String(8 * MiB), meaning: 'Largest request body, in bytes.' },
  FASTPACA_MAX_DEPTH: { defaultText: '64', meaning: 'Deepest nesting of objects and arrays in a body.' },
  FASTPACA_REQUEST_TIMEOUT_MS: { defaultText: '5000', meaning: 'How long a request waits for its quorum before it answers 503.' },
  FASTPACA_RATE_LIMIT: { defaultText: '0', meaning: 'Requests a minute per client under /v1: per API key, else per IP address. 0: no limit.' },
  FASTPACA_CORS_ORIGINS: { defaultText: '', meaning: 'Comma-separated origins whose pages may read from a browser (GET and OPTIONS), or *. Unset: none.' },
  OTEL_EXPORTER_OTLP_ENDPOINT: { defaultText: '', meaning: 'Base URL of an OpenTelemetry collector that takes OTLP over HTTP. Unset: no traces.' },
  FASTPACA_TAIL_KEEP: { defaultText: '1000', meaning: 'Messages of a context that stay in hot storage once they are archived.' },
  FASTPACA_NODE_DEAD_AFTER_MS: { defaultText: '600000', meaning: 'Silence after which a node is replaced if others can take its groups.' },
  FASTPACA_LOG_KEEP_BYTES: { defaultText: String(4 * MiB), meaning: 'Raft log bytes that a group keeps for replicas that lag.' },
  FASTPACA_DISK_SOFT_FREE_BYTES: { defaultText: String(512 * MiB), meaning: 'Free disk space below which appends are refused.' },
  FASTPACA_DISK_HARD_FREE_BYTES: { defaultText: String(128 * MiB), meaning: 'Free disk space below which the node stops writing.' },
  FASTPACA_BALLAST_BYTES: { defaultText: String(64 * MiB), meaning: 'Size of the file that is given up at the hard mark, so that a full disk still has room to stop cleanly. 0: none.' },
  FASTPACA_ARCHIVER_ENABLED: { defaultText: 'false', meaning: 'Archive messages to Postgres, and read from there what hot storage no longer holds.' },
  DATABASE_URL: { defaultText: '', meaning: 'Postgres of the archive, required where it is enabled; not read elsewhere.' },
  FASTPACA_POSTGRES_URL: { defaultText: '', meaning: 'Same as DATABASE_URL, and goes before it.' },
  DB_POOL_SIZE: { defaultText: '10', meaning: 'Postgres connections of a node, at least 2: one writes, the others read.' },
  FASTPACA_ARCHIVE_FLUSH_INTERVAL_MS: { defaultText: '5000', meaning: 'Pause between archive flushes.' },
  FASTPACA_ARCHIVER_BATCH_SIZE: { defaultText: '5000', meaning: 'Most messages in one archive flush.' },
  MIGRATE_ON_BOOT: { defaultText: 'true', meaning: 'Whether the archiver creates and upgrades its tables at start.' },
  FASTPACA_TLS_CERT: { defaultText: '', meaning: 'PEM file with the certificate of this node and its chain: TLS for clients and peers. Unset: plain TCP.' },
  FASTPACA_TLS_KEY: { defaultText: '', meaning: 'PEM file with the key of that certificate, without a passphrase; required with it.' },
  FASTPACA_TLS_CA: { defaultText: '', meaning: 'PEM file with the authorities of the cluster: every node must show a certificate of one. Unset: the well-known ones, for servers only.' },
  FASTPACA_TLS_CLIENT_AUTH: { defaultText: 'none', meaning: 'Which clients must show a certificate of FASTPACA_TLS_CA: none, or require for all calls but /health.' },
  FASTPACA_COMPACTION_WEBHOOK: { defaultText: '', meaning: 'http or https URL that is told by POST when a window needs compaction. Unset: none.' },
  FASTPACA_COMPACTION_WEBHOOK_SECRET: { defaultText: '', meaning: 'Key of the signature on what that URL is told; required with it.', refuseEmpty: true },
  FASTPACA_SHARDS: { defaultText: '1', meaning: 'Threads that share the groups of a node, each with a core to itself; the same on every node. From 2 on, nodes also listen on PORT+1 to PORT+N, for each other.' },
} as const satisfies Readonly<Record<string, Variable>>;

export type VariableName = keyof typeof VARIABLES;

/**
 * Reads the whole configuration. `env` is process.env or a stand-in; variables outside the FASTPACA_ prefix that are
 * not in the table are not looked at.
 * Throws ConfigError for the first variable that is unknown, has a bad value or contradicts another.
 */
export function loadConfig(env: Readonly<Record<string, string | undefined>>): Config {
  refuseUnknown(env);
  const from = new Reader(env);
  const host = from.matching('FASTPACA_HOST', /^[A-Za-z0-9_.:-]+$/, 'an IP address or host name');
  const clusterSeeds = from.addresses('FASTPACA_CLUSTER_SEED');
  const diskSoftFreeBytes = from.integer('FASTPACA_DISK_SOFT_FREE_BYTES', 0);
  const diskHardFreeBytes = from.integer('FASTPACA_DISK_HARD_FREE_BYTES', 0);
  if (diskHardFreeBytes > diskSoftFreeBytes) {
    throw from.bad('FASTPACA_DISK_HARD_FREE_BYTES', `at most FASTPACA_DISK_SOFT_FREE_BYTES (${diskSoftFreeBytes})`);
  }
  const messageBytesMax = from.integer('FASTPACA_MAX_MESSAGE_BYTES', 1024, 64 * MiB);
  const bodyBytesMax = from.integer('FASTPACA_MAX_BODY_BYTES', 1024, 256 * MiB);
  if (bodyBytesMax < messageBytesMax) {
    throw from.bad('FASTPACA_MAX_BODY_BYTES', `at least FASTPACA_MAX_MESSAGE_BYTES (${messageBytesMax})`);
  }
  const port = from.integer('PORT', 1, 65_535);
  const shards = shardCount(from, port, clusterSeeds);
  return Object.freeze({
    nodeName: from.optional('FASTPACA_NODE_NAME', NODE_NAME, 'a name of 1 to 64 letters, digits, ".", "_" or "-", starting with a letter or digit'),
    host,
    port,
    advertise: from.optional('FASTPACA_ADVERTISE', ADDRESS, 'host:port'),
    dataDir: from.text('FASTPACA_RAFT_DATA_DIR'),
    shards,
    clusterSeeds: Object.freeze(clusterSeeds),
    clusterSize: clusterSize(from, clusterSeeds),
    clusterSecrets: Object.freeze(from.secrets('FASTPACA_CLUSTER_SECRET')),
    apiKeys: Object.freeze(from.secrets('FASTPACA_API_KEY')),
    metricsToken: from.secrets('FASTPACA_METRICS_TOKEN', 1)[0] ?? null,
    tls: tlsConfig(from),
    logLevel: from.oneOf('FASTPACA_LOG_LEVEL', ['trace', 'debug', 'info', 'warn', 'error', 'silent']),
    tokenModel: tokenModel(from),
    messageBytesMax,
    bodyBytesMax,
    depthMax: from.integer('FASTPACA_MAX_DEPTH', 8, 512),
    requestTimeoutMs: from.integer('FASTPACA_REQUEST_TIMEOUT_MS', 100, 600_000),
    rateLimit: from.integer('FASTPACA_RATE_LIMIT', 0, 100_000_000) || null,
    corsOrigins: Object.freeze(from.origins('FASTPACA_CORS_ORIGINS')),
    otlpEndpoint: from.optional('OTEL_EXPORTER_OTLP_ENDPOINT', /^https?:\/\/[^\s?#]+$/, 'a URL that starts with http:// or https://, without a query'),
    streamConnectionsMax: from.integer('FASTPACA_STREAM_MAX_CONNECTIONS', 0, 1_000_000),
    tailKeep: from.integer('FASTPACA_TAIL_KEEP', 1, 10_000_000),
    nodeDeadAfterMs: from.integer('FASTPACA_NODE_DEAD_AFTER_MS', 1000),
    logKeepBytes: from.integer('FASTPACA_LOG_KEEP_BYTES', 64 * 1024),
    diskSoftFreeBytes,
    diskHardFreeBytes,
    ballastBytes: from.integer('FASTPACA_BALLAST_BYTES', 0),
    archiver: archiverConfig(from, shards),
    webhook: webhookConfig(from),
  });
}

function tokenModel(from: Reader): string {
  const allowed = `tiktoken:MODEL with one of these for MODEL: ${KNOWN_MODELS.join(', ')}`;
  const model = from.matching('FASTPACA_TOKEN_ESTIMATOR', /^tiktoken:./, allowed).slice('tiktoken:'.length);
  if (!isKnownModel(model)) throw from.bad('FASTPACA_TOKEN_ESTIMATOR', allowed);
  return model;
}

/** Founding members: never fewer than could be shut out of each other's sight and found a cluster each. */
function clusterSize(from: Reader, seeds: readonly string[]): number {
  if (from.given('FASTPACA_CLUSTER_SIZE') === null) return seeds.length === 0 ? 1 : Math.max(3, seeds.length);
  const size = from.integer('FASTPACA_CLUSTER_SIZE', 1, 1000);
  if (size > 1 && seeds.length === 0) {
    throw from.bad('FASTPACA_CLUSTER_SIZE', '1 without FASTPACA_CLUSTER_SEED, because a larger cluster needs seeds to find its members by');
  }
  if (size === 1 && seeds.length > 1) {
    throw from.bad('FASTPACA_CLUSTER_SIZE', `2 or more with ${seeds.length} seeds listed, because each node would found a cluster of its own`);
  }
  return size;
}

function missing(variable: VariableName, wantedBy: VariableName): ConfigError {
  return new ConfigError(variable, `${variable} must be set where ${wantedBy} is.`, wantedBy);
}

function tlsConfig(from: Reader): TlsConfig | null {
  const cert = from.given('FASTPACA_TLS_CERT');
  const key = from.given('FASTPACA_TLS_KEY');
  const ca = from.given('FASTPACA_TLS_CA');
  const clientAuth = from.oneOf('FASTPACA_TLS_CLIENT_AUTH', ['none', 'require']);
  if (clientAuth === 'require' && ca === null) throw missing('FASTPACA_TLS_CA', 'FASTPACA_TLS_CLIENT_AUTH');
  if (cert === null && (key ?? ca) === null) return null;
  if (cert === null) throw missing('FASTPACA_TLS_CERT', key === null ? 'FASTPACA_TLS_CA' : 'FASTPACA_TLS_KEY');
  if (key === null) throw missing('FASTPACA_TLS_KEY', 'FASTPACA_TLS_CERT');
  return Object.freeze({ cert, key, ca, clientAuth });
}

function webhookConfig(from: Reader): WebhookConfig | null {
  const allowed = 'a URL that starts with http:// or https://, without a user name';
  // Such URLs often carry a token.
  const url = from.optional('FASTPACA_COMPACTION_WEBHOOK', /^https?:\/\/[^\s#]+$/, allowed, 'secret');
  const [secret] = from.secrets('FASTPACA_COMPACTION_WEBHOOK_SECRET', 1);
  if (url === null) return null;
  if (!URL.canParse(url) || new URL(url).username !== '' || new URL(url).password !== '') throw from.bad('FASTPACA_COMPACTION_WEBHOOK', allowed, 'secret');
  if (secret === undefined) throw missing('FASTPACA_COMPACTION_WEBHOOK_SECRET', 'FASTPACA_COMPACTION_WEBHOOK');
  return Object.freeze({ url, secret });
}

/** Each shard of a node with peers listens on a port of its own behind PORT (src/shards/seat.ts). */
function shardCount(from: Reader, port: number, clusterSeeds: readonly string[]): number {
  const shards = from.integer('FASTPACA_SHARDS', 1, SHARDS_MAX);
  if (shards > 1 && clusterSeeds.length > 0 && port + shards > 65_535) {
    throw from.bad('FASTPACA_SHARDS', `at most ${Math.max(1, 65_535 - port)} with PORT ${port}, because shards listen on PORT+1 to PORT+FASTPACA_SHARDS`);
  }
  return shards;
}

function archiverConfig(from: Reader, shards: number): ArchiverConfig | null {
  const allowed = 'a URL that starts with postgres:// or postgresql://';
  const pattern = /^postgres(ql)?:\/\/\S+$/;
  const enabled = from.boolean('FASTPACA_ARCHIVER_ENABLED');
  const own = from.optional('FASTPACA_POSTGRES_URL', pattern, allowed, 'secret');
  const settings = {
    poolSize: from.integer('DB_POOL_SIZE', 1, 1000),
    flushIntervalMs: from.integer('FASTPACA_ARCHIVE_FLUSH_INTERVAL_MS', 10, 3_600_000),
    batchSize: from.integer('FASTPACA_ARCHIVER_BATCH_SIZE', 1, 100_000),
    migrateOnBoot: from.boolean('MIGRATE_ON_BOOT'),
  };
  // DATABASE_URL and DB_POOL_SIZE are names that whole platforms share, so they are not judged while nothing reads them.
  if (!enabled) return null;
  const postgresUrl = own ?? from.optional('DATABASE_URL', pattern, allowed, 'secret');
  if (postgresUrl === null) {
    throw new ConfigError('DATABASE_URL', 'DATABASE_URL (or FASTPACA_POSTGRES_URL) must be set where FASTPACA_ARCHIVER_ENABLED is true.', 'FASTPACA_ARCHIVER_ENABLED');
  }
  if (!URL.canParse(postgresUrl)) throw from.bad(own === null ? 'DATABASE_URL' : 'FASTPACA_POSTGRES_URL', allowed, 'secret');
  const poolSizeMin = 2 * shards;
  if (settings.poolSize < poolSizeMin) {
    throw from.bad('DB_POOL_SIZE', `an integer from ${poolSizeMin} to 1000 where FASTPACA_ARCHIVER_ENABLED is true, because one connection${shards === 1 ? '' : ' of each shard'} writes and the others read`);
  }
  return Object.freeze({ postgresUrl, ...settings });
}

const NODE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const ADDRESS = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([1-9][0-9]{0,4})$/;

/** One variable at a time: what was given, checked. An empty variable counts as unset, except for secrets. */
/** The data directory alone, for a command that needs no other variable. */
export function dataDirOf(env: Readonly<Record<string, string | undefined>>): string {
  return new Reader({ FASTPACA_RAFT_DATA_DIR: env['FASTPACA_RAFT_DATA_DIR'] }).text('FASTPACA_RAFT_DATA_DIR');
}

class Reader {
  readonly #env: Readonly<Record<string, string | undefined>>;

  constructor(env: Readonly<Record<string, string | undefined>>) {
    this.#env = env;
    for (const [name, variable] of Object.entries<Variable>(VARIABLES)) {
      const value = env[name];
      if (value === '' && variable.refuseEmpty === true) {
        throw new ConfigError(name, `${name} is set but empty; give a value or leave it unset.`);
      }
    }
  }

  /** The trimmed value, or null when unset or empty. */
  given(name: VariableName): string | null {
    const value = this.#env[name]?.trim();
    return value === undefined || value === '' ? null : value;
  }

  text(name: VariableName): string {
    return this.given(name) ?? VARIABLES[name].defaultText;
  }

  matching(name: VariableName, pattern: RegExp, allowed: string): string {
    const value = this.text(name);
    if (!pattern.test(value)) throw this.bad(name, allowed);
    return value;
  }

  optional(name: VariableName, pattern: RegExp, allowed: string, secrecy: 'open' | 'secret' = 'open'): string | null {
    const value = this.given(name);
    if (value === null) return null;
    if (!pattern.test(value) || (pattern === ADDRESS && !isAddress(value))) throw this.bad(name, allowed, secrecy);
    return value;
  }

  integer(name: VariableName, min: number, max: number = Number.MAX_SAFE_INTEGER): number {
    const value = this.text(name);
    const number = Number(value);
    if (!/^\d{1,16}$/.test(value) || number < min || number > max) {
      throw this.bad(name, max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`);
    }
    return number;
  }

  boolean(name: VariableName): boolean {
    const value = readBoolean(this.text(name));
    if (value === null) throw this.bad(name, 'true or false');
    return value;
  }

  oneOf<T extends string>(name: VariableName, allowed: readonly T[]): T {
    const value = this.text(name).toLowerCase();
    const found = allowed.find((candidate) => candidate === value);
    if (found === undefined) throw this.bad(name, `one of ${allowed.join(', ')}`);
    return found;
  }

  addresses(name: VariableName): string[] {
    const value = this.given(name);
    if (value === null) return [];
    const list = value.split(',').map((address) => address.trim());
    if (!list.every(isAddress)) throw this.bad(name, 'a comma-separated list of host:port');
    return [...new Set(list)];
  }

  /** Origins as browsers send them: scheme, host and port, nothing behind them; or `*` alone. */
  origins(name: VariableName): string[] {
    const value = this.given(name);
    if (value === null) return [];
    const list = [...new Set(value.split(',').map((origin) => origin.trim()))];
    if (value === '*') return list;
    if (!list.every((origin) => URL.canParse(origin) && new URL(origin).origin === origin && origin !== 'null')) {
      throw this.bad(name, '* alone, or a comma-separated list of origins such as https://app.example.com, in lower case and without a path');
    }
    return list;
  }

  /** A comma-separated list of secrets; what was given is never repeated in an error. */
  secrets(name: VariableName, max = 16): string[] {
    const value = this.#env[name];
    if (value === undefined) return [];
    const list = value.split(',').map((secret) => secret.trim());
    if (list.length > max || !list.every((secret) => /^[\x21-\x7e]{1,512}$/.test(secret))) {
      const what = max === 1 ? 'a token' : `a comma-separated list of at most ${max} secrets`;
      throw this.bad(name, `${what} of 1 to 512 visible ASCII characters each, none of them empty`, 'secret');
    }
    return list;
  }

  bad(name: VariableName, allowed: string, secrecy: 'open' | 'secret' = 'open'): ConfigError {
    const given = secrecy === 'secret' ? 'a value that is not allowed' : quote(this.text(name));
    return new ConfigError(name, `${name} is ${given}; allowed: ${allowed}.`);
  }
}

function isAddress(text: string): boolean {
  const match = ADDRESS.exec(text);
  return match !== null && Number(match[2]) <= 65_535;
}

function readBoolean(value: string): boolean | null {
  switch (value.toLowerCase()) {
    case 'true':
    case '1':
    case 'yes':
    case 'on':
      return true;
    case 'false':
    case '0':
    case 'no':
    case 'off':
      return false;
    default:
      return null;
  }
}

/**
 * Kubernetes sets variables for every Service in a namespace, and a Service is likely to be named after the program:
 * FASTPACA_SERVICE_HOST, FASTPACA_PORT=tcp://…, FASTPACA_PEERS_PORT_4000_TCP_ADDR. They are not ours.
 */
const SERVICE_LINK = /^FASTPACA(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$/;

function isServiceLink(name: string, value: string): boolean {
  return SERVICE_LINK.test(name) || (/_PORT$/.test(name) && /^(tcp|udp|sctp):\/\//.test(value));
}

function refuseUnknown(env: Readonly<Record<string, string | undefined>>): void {
  const known = Object.keys(VARIABLES);
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith('FASTPACA_') || value === undefined || known.includes(name) || isServiceLink(name, value)) continue;
    throw new ConfigError(name, `${name} is not a known variable; did you mean ${closest(name, known)}?`);
  }
}

function closest(name: string, known: readonly string[]): string {
  let best = '';
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const distance = editDistance(name, candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

function quote(value: string): string {
  return JSON.stringify(value.length <= 60 ? value : `${value.slice(0, 60)}…`);
}
