/**
 * A node from its start to the end of what it runs in: a process, or one of the threads of a process (src/shards). Owns
 * which end is which exit code: 0 after a clean stop, 1 after a failure, 2 where configuration or data refuse the start.
 */
import { writeSync } from 'node:fs';
import type { Config } from './config.ts';
import type { NodeLogger } from './log.ts';
import type { Node as RunningNode } from './node.ts';
import type { Shard } from './shards/shard.ts';

/** A clean stop that takes longer than this is cut short: whatever hangs must not keep the process. */
export const STOP_MS = 10_000;
const STDERR = 2;

export interface Run {
  /** Stops the node and ends the process or thread; a second call does nothing. `signal`: who wanted it, for the log. */
  stop(signal: string): void;
  /** Takes renewed certificates into use now. */
  reloadTls(): void;
}

/** Starts a node. In a thread (`shard`), `process.exit` ends the thread and tells its code to whoever started it. */
export async function runNode(config: Config, logger: NodeLogger, shard: Shard | null): Promise<Run> {
  // Only now: whoever asks for help need not wait for a database to be loaded.
  const { Node, StartError } = await import('./node.ts');
  const fail = (error: unknown, type: string): void => {
    shard?.noteFailure();
    logger.error({ type, err: error }, 'the node stops: it could not go on without risking what it acknowledged');
    process.exit(1);
  };
  process.on('uncaughtException', (error) => fail(error, 'uncaught_exception'));
  process.on('unhandledRejection', (error) => fail(error, 'unhandled_rejection'));

  let node: RunningNode | null = null;
  let stopping = false;
  const run = async (): Promise<void> => {
    try {
      node = await Node.start(config, logger, (error) => fail(error, 'fatal'), restart, shard);
    } catch (error) {
      if (!(error instanceof StartError)) throw error;
      logger.error({ type: 'start_refused', reason: error.message }, error.message);
      // At once: what a thread writes in other ways is lost with it.
      writeSync(STDERR, `fastpaca: ${error.message}\n`);
      process.exit(2);
    }
  };
  // A node may ask for another one before it has itself begun.
  let running: Promise<void> = Promise.resolve();
  const restart = (): void => {
    running = running.then(() => node?.close()).then(() => (stopping ? undefined : run()));
    running.catch((error: unknown) => fail(error, 'restart_failed'));
  };
  // Not waited for: signals count from now on, not only once the node has started.
  running = run();
  running.catch((error: unknown) => fail(error, 'start_failed'));
  return {
    stop(signal) {
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
    },
    reloadTls: () => void node?.reloadTls(),
  };
}
