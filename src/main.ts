/**
 * Process entry: reads the environment and signals, starts one node, ends the process. The only file that does.
 * Exit codes: 0 after a clean stop, 1 after a failure while running, when --check finds a problem or --restore cannot be
 * done, 2 when the command line, the configuration or data refuse the start.
 */
import { readFile } from 'node:fs/promises';
import { readArguments, USAGE } from './arguments.ts';
import { ConfigError, loadConfig } from './config.ts';
import type { Config } from './config.ts';
import { createLogger } from './log.ts';
import type { Logger } from './log.ts';
import type { Node } from './node.ts';

/** A clean stop that takes longer than this is cut short: whatever hangs must not keep the process. */
const STOP_MS = 10_000;

async function main(): Promise<void> {
  const invocation = readArguments(process.argv.slice(2));
  switch (invocation.do) {
    case 'start':
      return start();
    case 'check':
      return check();
    case 'restore':
      return restore(invocation.directory);
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
  // Only now: whoever asks for help need not wait for a database to be loaded.
  const { Node, StartError } = await import('./node.ts');
  const logger = createLogger({ level: config.logLevel, node: config.nodeName });
  warnIfOpen(config, logger, process.env['NODE_ENV'] === 'production');
  const fail = (error: unknown, type: string): void => {
    logger.error({ type, err: error }, 'the node stops: it could not go on without risking what it acknowledged');
    process.exit(1);
  };
  process.on('uncaughtException', (error) => fail(error, 'uncaught_exception'));
  process.on('unhandledRejection', (error) => fail(error, 'unhandled_rejection'));

  let node: Node | null = null;
  let stopping = false;
  const stop = (signal: string): void => {
    if (stopping) return;
    stopping = true;
    logger.info({ type: 'stopping', signal }, 'stopping');
    setTimeout(() => fail(new Error(`the node did not stop within ${STOP_MS} ms`), 'stop_timeout'), STOP_MS).unref();
    if (node === null) process.exit(0);
    node.close().then(
      () => {
        logger.info({ type: 'stopped' }, 'stopped');
        process.exit(0);
      },
      (error: unknown) => fail(error, 'stop_failed'),
    );
  };
  process.on('SIGTERM', () => stop('SIGTERM'));
  process.on('SIGINT', () => stop('SIGINT'));

  // Elsewhere a closed terminal ends the process, as it should.
  if (config.tls !== null) process.on('SIGHUP', () => void node?.reloadTls());

  const run = async (): Promise<void> => {
    try {
      node = await Node.start(config, logger, (error) => fail(error, 'fatal'), restart);
    } catch (error) {
      if (!(error instanceof StartError)) throw error;
      logger.error({ type: 'start_refused', reason: error.message }, error.message);
      process.stderr.write(`fastpaca: ${error.message}\n`);
      process.exit(2);
    }
  };
  // A node may ask for another one before it has itself begun.
  let running: Promise<void> = Promise.resolve();
  const restart = (): void => {
    running = running.then(() => node?.close()).then(() => (stopping ? undefined : run()));
    running.catch((error: unknown) => fail(error, 'restart_failed'));
  };
  running = run();
  await running;
}

/** Says that anybody who reaches the port may read and write everything; in production as an error, which no usual level hides. */
function warnIfOpen(config: Config, logger: Logger, isProduction: boolean): void {
  if (config.apiKeys.length > 0) return;
  const fields = { type: 'no_api_key', host: config.host, port: config.port };
  if (isProduction) logger.error(fields, 'NODE_ENV is production and FASTPACA_API_KEY is not set: anybody who reaches this port can read, change and delete every conversation');
  else logger.warn(fields, 'FASTPACA_API_KEY is not set: calls need no key');
}

await main();
