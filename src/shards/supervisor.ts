/**
 * The process of a node that is divided into shards: starts a thread for each, hands signals on, and ends with them. A
 * shard that ends takes the process down, as a crash does: what the others acknowledged is on disk, and a node of which
 * a part is missing would be worse than one that is gone. Serves nothing itself; where the system does not let the
 * shards share a port, it forwards what comes to it (front.ts).
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type ListenOptions, type Server } from 'node:net';
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads';
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import { STOP_MS, type Run } from '../run.ts';
import { Front } from './front.ts';
import { openLayout, shardDirectory, ShardingError } from './layout.ts';
import { failedShard, sharedSlots, type ShardData, type ShardNotice } from './shard.ts';

/** How long the thread of a shard that failed may take to end, at least. */
const FAILED_MS = 1000;

/** What a thread is told. */
export type ShardOrder = { readonly order: 'stop'; readonly signal: string } | { readonly order: 'reload_tls' };

/** What a thread is started with. */
export interface ShardThread extends ShardData {
  readonly config: Config;
}

/**
 * Starts every shard. The process ends with code 0 once all have stopped cleanly, or at once with the code of the first
 * that ends otherwise. Throws ShardingError, also when the port is taken.
 */
export async function runShards(config: Config, logger: Logger): Promise<Run> {
  const count = config.shards;
  const layout = await openLayout(config.dataDir, count, config.nodeName);
  const isForwarded = !(await mayShare(config.host, config.port));
  const shared = sharedSlots(count);
  const doorKey = randomBytes(32).toString('hex');
  const front = isForwarded ? frontOf(config, doorKey, logger) : null;
  const ports = channels(count);
  let running = count;
  const workers = Array.from({ length: count }, (_, index): Worker => {
    const own = ports[index] ?? [];
    const workerData: ShardThread = { index, count, ports: own, shared, doorKey, isForwarded, config: configOf(config, { index, count, node: config.nodeName ?? layout.node }) };
    const worker = new Worker(new URL('./thread.ts', import.meta.url), { workerData, transferList: own.filter((port) => port !== null), name: `fastpaca-shard-${index}` });
    worker.on('message', ({ entry }: ShardNotice) => void front?.enterAt(index, entry));
    worker.on('error', (error: unknown) => {
      process.stderr.write(`fastpaca: shard ${index}: ${error instanceof Error ? error.message : String(error)}\n`);
      process.exit(1);
    });
    worker.on('exit', (code) => {
      running--;
      // One that stops although nobody asked has no reason to be trusted.
      if (code !== 0 || !isStopping) process.exit(code === 0 ? 1 : code);
      if (running > 0) return;
      if (front === null) process.exit(0);
      void front.close(Math.max(0, stopBy - performance.now())).then(() => process.exit(0));
    });
    return worker;
  });
  let isStopping = false;
  let stopBy = Infinity;
  // A thread that ends waits for its database; one that hangs there must not leave the others serving.
  let hadFailed = false;
  setInterval(() => {
    const failed = failedShard(shared, count);
    if (failed === null) return;
    if (hadFailed) {
      process.stderr.write(`fastpaca: shard ${failed} has failed, and its thread does not end\n`);
      process.exit(1);
    }
    hadFailed = true;
  }, FAILED_MS).unref();
  const tell = (order: ShardOrder): void => {
    for (const worker of workers) worker.postMessage(order);
  };
  return {
    stop(signal) {
      if (isStopping) return;
      isStopping = true;
      stopBy = performance.now() + STOP_MS;
      tell({ order: 'stop', signal });
    },
    reloadTls: () => tell({ order: 'reload_tls' }),
  };
}

/** What a shard is to know: its own directory, and its part of what the node may use. */
function configOf(config: Config, { index, count, node }: { index: number; count: number; node: string }): Config {
  const { archiver, ballastBytes, dataDir } = config;
  return {
    ...config,
    nodeName: node,
    dataDir: shardDirectory(dataDir, index),
    ballastBytes: Math.ceil(ballastBytes / count),
    archiver: archiver === null ? null : { ...archiver, poolSize: Math.floor(archiver.poolSize / count) },
  };
}

/** A port from each shard to each other one: `[a][b]` is the end of `a`. */
function channels(count: number): (MessagePort | null)[][] {
  const ports: (MessagePort | null)[][] = Array.from({ length: count }, () => Array.from({ length: count }, () => null));
  for (let a = 0; a < count; a++) {
    for (let b = a + 1; b < count; b++) {
      const { port1, port2 } = new MessageChannel();
      ports[a]?.splice(b, 1, port1);
      ports[b]?.splice(a, 1, port2);
    }
  }
  return ports;
}

/** The listener before shards that cannot share the port. */
function frontOf({ host, port }: Config, key: string, logger: Logger): Front {
  logger.info({ type: 'port_not_shared', host, port }, 'this system does not spread the connections of one port over several threads: one listens and forwards to the shards');
  return new Front({
    host,
    port,
    key,
    onFailure: (error) => {
      process.stderr.write(`fastpaca: ${cannotListen(host, port, error)}\n`);
      process.exit(2);
    },
  });
}

/**
 * Whether several listeners can have the port at a time, which not every system knows, and those that do not say so in
 * different ways. Throws ShardingError when another process has the port: listeners that share one do not notice one of
 * another process that shares it too.
 */
async function mayShare(host: string, port: number): Promise<boolean> {
  const servers: Server[] = [];
  const listen = async (options: ListenOptions): Promise<void> => {
    const server = createServer();
    server.listen({ host, port, ...options });
    await once(server, 'listening');
    servers.push(server);
  };
  const close = async (): Promise<void> => {
    for (const server of servers.splice(0)) await new Promise((resolve) => server.close(resolve));
  };
  try {
    await listen({});
  } catch (error) {
    throw new ShardingError(cannotListen(host, port, error));
  }
  await close();
  try {
    await listen({ reusePort: true });
    await listen({ reusePort: true });
    return true;
  } catch {
    return false;
  } finally {
    await close();
  }
}

function cannotListen(host: string, port: number, error: unknown): string {
  return `cannot listen on ${host}:${port}: ${error instanceof Error ? error.message : String(error)} (FASTPACA_HOST, PORT)`;
}
