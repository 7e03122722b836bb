/**
 * The program: reads the command line, the environment and signals, starts one node, ends the process. The only file that does.
 * Exit codes: 0 after a clean stop, 1 after a failure while running, when --check finds a problem or --restore or
 * --reshard cannot be done, 2 when the command line, the configuration or data refuse the start.
 */
import { readFile } from 'node:fs/promises';
import { readArguments, USAGE } from './arguments.ts';
import { ConfigError, dataDirOf, loadConfig } from './config.ts';
import type { Config } from './config.ts';
import { createLogger } from './log.ts';
import type { Logger, NodeLogger } from './log.ts';
import { runNode, type Run } from './run.ts';
import { checkLayout, ShardingError } from './shards/layout.ts';
import { resumeRelayout } from './shards/relayout.ts';

async function main(): Promise<void> {
  const invocation = readArguments(process.argv.slice(2));
  switch (invocation.do) {
    case 'start':
      return start();
    case 'check':
      return check();
    case 'restore':
      return restore(invocation.directory);
    case 'reshard':
      return reshard(invocation.shards, invocation.checkOnly);
    case 'help':
      process.stdout.write(USAGE);
      return;
    case 'version':
      process.stdout.write(`fastpaca ${await version()}\n`);
      return;
    case 'refuse':
      process.stderr.write(`fastpaca: ${invocation.reason}\n`);
      process.exit(2);
  }
}

/** One line for each problem on stderr, exit code 1 with any; what else is worth knowing on stdout. */
async function check(): Promise<void> {
  const { checkStart } = await import('./check.ts');
  const { problems, notes } = await checkStart(process.env);
  for (const note of notes) process.stdout.write(`note: ${note}\n`);
  for (const problem of problems) process.stderr.write(`fastpaca: ${problem}\n`);
  if (problems.length === 0) process.stdout.write('ok\n');
  process.exitCode = problems.length === 0 ? 0 : 1;
}

/** What came of it on stdout; one line on stderr and exit code 1 when the directory cannot be restored. */
async function restore(directory: string): Promise<void> {
  const [{ restoreDirectory, RestoreError }, { report }] = await Promise.all([import('./restore/restore.ts'), import('./restore/report.ts')]);
  try {
    process.stdout.write(report(await restoreDirectory(directory)));
  } catch (error) {
    if (!(error instanceof RestoreError)) throw error;
    process.stderr.write(`fastpaca: ${error.message}\n`);
    process.exitCode = 1;
  }
}

/** How far it has come and what came of it on stdout; one line on stderr and exit code 1 when the directory cannot be resharded. */
async function reshard(shards: number, checkOnly: boolean): Promise<void> {
  const [{ reshardDirectory, ReshardError }, { progressLines, reshardReport }] = await Promise.all([import('./reshard/reshard.ts'), import('./reshard/report.ts')]);
  try {
    const onProgress = progressLines((line) => process.stdout.write(line), () => performance.now());
    process.stdout.write(reshardReport(await reshardDirectory(dataDirOf(process.env), shards, { onProgress, checkOnly })));
  } catch (error) {
    if (!(error instanceof ReshardError)) throw error;
    process.stderr.write(`fastpaca: ${error.message}\n`);
    process.exitCode = 1;
  }
}

async function version(): Promise<string> {
  const manifest: unknown = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8'));
  return typeof manifest === 'object' && manifest !== null && 'version' in manifest ? String(manifest.version) : 'unknown';
}

async function start(): Promise<void> {
  let config;
  try {
    config = loadConfig(process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`fastpaca: ${error.message}\n`);
    process.exit(2);
  }
  const logger = createLogger({ level: config.logLevel, node: config.nodeName });
  warnIfOpen(config, logger, process.env['NODE_ENV'] === 'production');
  const run = await begin(config, logger);
  process.on('SIGTERM', () => run.stop('SIGTERM'));
  process.on('SIGINT', () => run.stop('SIGINT'));
  // Elsewhere a closed terminal ends the process, as it should.
  if (config.tls !== null) process.on('SIGHUP', () => run.reloadTls());
}

/** In this thread, or in one for each shard. */
async function begin(config: Config, logger: NodeLogger): Promise<Run> {
  try {
    const resumed = await resumeRelayout(config.dataDir);
    if (resumed !== null) logger.warn({ type: 'reshard_finished', ...resumed }, `the data directory was being resharded from ${resumed.from} to ${resumed.to} when that was interrupted: it is finished now`);
    await checkLayout(config.dataDir, config.shards);
    if (config.shards === 1) return await runNode(config, logger, null);
    const { runShards } = await import('./shards/supervisor.ts');
    return await runShards(config, logger);
  } catch (error) {
    if (!(error instanceof ShardingError)) throw error;
    logger.error({ type: 'start_refused', reason: error.message }, error.message);
    process.stderr.write(`fastpaca: ${error.message}\n`);
    process.exit(2);
  }
}

/** Says that anybody who reaches the port may read and write everything; in production as an error, which no usual level hides. */
function warnIfOpen(config: Config, logger: Logger, isProduction: boolean): void {
  if (config.apiKeys.length > 0) return;
  const fields = { type: 'no_api_key', host: config.host, port: config.port };
  if (isProduction) logger.error(fields, 'NODE_ENV is production and FASTPACA_API_KEY is not set: anybody who reaches this port can read, change and delete every conversation');
  else logger.warn(fields, 'FASTPACA_API_KEY is not set: calls need no key');
}

await main();
