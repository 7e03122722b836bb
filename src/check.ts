/**
 * `--check`: everything that a start would look at before it serves, looked at without serving. Finds as much as it can
 * at once: one line for each problem.
 */
import { PeerKeyError, PeerKeys } from './cluster/auth.ts';
import { checkStoredName, IDENTITY_FACT, IdentityError } from './cluster/identity.ts';
import { ConfigError, loadConfig } from './config.ts';
import type { Config } from './config.ts';
import { checkLayout, shardDirectory, ShardingError } from './shards/layout.ts';
import { readRelayout } from './shards/relayout.ts';
import { inspectDirectory } from './storage/inspect.ts';
import { nameProblem, readCertificate, TlsError } from './tls.ts';

export interface Findings {
  /** What would stop a start, or keep its node from its cluster. */
  readonly problems: readonly string[];
  /** What is as it may be, but should be known. */
  readonly notes: readonly string[];
}

type Env = Readonly<Record<string, string | undefined>>;

/** Looks at the configuration of `env` and at what it names on disk. Never throws. */
export async function checkStart(env: Env): Promise<Findings> {
  const { config, problems } = checkVariables(env);
  const notes: string[] = [];
  if (config === null) return { problems, notes };
  await checkTls(config, problems, notes);
  await checkDirectories(config, problems, notes);
  if (config.apiKeys.length === 0) notes.push('FASTPACA_API_KEY is not set: calls need no key');
  return { problems, notes };
}

/** Every bad variable rather than the first: each is left out once it is told, and the rest looked at again. */
function checkVariables(env: Env): { config: Config | null; problems: string[] } {
  const problems: string[] = [];
  const rest: Record<string, string | undefined> = { ...env };
  const told = new Set<string>();
  for (;;) {
    try {
      const config = loadConfig(rest);
      new PeerKeys({ clusterSecrets: config.clusterSecrets, apiKeys: config.apiKeys });
      return { config: problems.length === 0 ? config : null, problems };
    } catch (error) {
      if (error instanceof PeerKeyError) return { config: null, problems: [...problems, error.message] };
      if (!(error instanceof ConfigError)) throw error;
      // What is missing only because it was left out here is told already.
      if (!told.has(error.variable)) problems.push(error.message);
      const culprit = error.wantedBy ?? error.variable;
      if (rest[culprit] === undefined) return { config: null, problems };
      told.add(culprit);
      delete rest[culprit];
    }
  }
}

async function checkTls({ tls, advertise, clusterSeeds }: Config, problems: string[], notes: string[]): Promise<void> {
  if (tls === null) return;
  try {
    const certificate = await readCertificate(tls);
    notes.push(`the certificate of FASTPACA_TLS_CERT is for ${certificate.subjectAltName ?? 'nobody'} and ends at ${certificate.validToDate.toISOString()}`);
    const problem = advertise === null || clusterSeeds.length === 0 ? null : nameProblem(certificate, advertise);
    if (problem !== null) problems.push(`FASTPACA_ADVERTISE: ${problem}`);
  } catch (error) {
    if (!(error instanceof TlsError)) throw error;
    problems.push(error.message);
  }
}

/** The data directory, or those of its shards. */
async function checkDirectories({ dataDir, shards, nodeName }: Config, problems: string[], notes: string[]): Promise<void> {
  try {
    const begun = await readRelayout(dataDir);
    if (begun !== null) {
      notes.push(`${dataDir} was being resharded from ${begun.from} to ${begun.to} when that was interrupted: the next start, or --reshard ${begun.to}, finishes it`);
      if (begun.to !== shards) problems.push(`FASTPACA_SHARDS is ${shards}, but the data directory ${dataDir} is about to be one of ${begun.to}; set FASTPACA_SHARDS=${begun.to}`);
      return;
    }
    await checkLayout(dataDir, shards);
  } catch (error) {
    if (!(error instanceof ShardingError)) throw error;
    problems.push(error.message);
    return;
  }
  if (shards === 1) return checkDirectory({ dataDir, nodeName }, problems, notes);
  for (let index = 0; index < shards; index++) await checkDirectory({ dataDir: shardDirectory(dataDir, index), nodeName }, problems, notes);
}

async function checkDirectory({ dataDir, nodeName }: Pick<Config, 'dataDir' | 'nodeName'>, problems: string[], notes: string[]): Promise<void> {
  try {
    const found = await inspectDirectory(dataDir, [IDENTITY_FACT]);
    if (found.state === 'in_use') notes.push(`${dataDir} is in use by a running node: what it stores was not looked at`);
    if (found.state === 'new') notes.push(`${dataDir} is new: a node would start empty on it`);
    checkStoredName(found, nodeName);
  } catch (error) {
    if (error instanceof IdentityError) problems.push(error.message);
    else problems.push(`FASTPACA_RAFT_DATA_DIR: ${error instanceof Error ? error.message : String(error)}`);
  }
}
