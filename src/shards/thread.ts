/** The entry of a shard's thread: runs its node until the supervisor orders it to stop, or the node ends by itself. */
import { parentPort, workerData } from 'node:worker_threads';
import { createLogger } from '../log.ts';
import { runNode } from '../run.ts';
import { Shard, type ShardNotice } from './shard.ts';
import type { ShardOrder, ShardThread } from './supervisor.ts';

const port = parentPort;
if (port === null) throw new Error('src/shards/thread.ts runs only as a worker thread');

const data: ShardThread = workerData;
const { config } = data;
const run = await runNode(config, createLogger({ level: config.logLevel, node: config.nodeName, shard: data.index }), new Shard(data, (notice: ShardNotice) => port.postMessage(notice)));
port.on('message', (order: ShardOrder) => {
  switch (order.order) {
    case 'stop':
      return run.stop(order.signal);
    case 'reload_tls':
      return run.reloadTls();
  }
});
