/** The spikes as subjects: what Node, LevelDB and WebSockets cost for the shape of the work alone. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { freePorts, listens, Processes } from './processes.ts';
import { endpointOf } from './types.ts';
import type { RunningSubject, Subject } from './types.ts';

const NODES = 3;

export const bare: Subject = {
  name: 'bare',
  acknowledges: 'fsynced on 2 of 3; a spike without consensus, state or recovery, one node takes all requests',
  speaks: 'appends',
  // The first one connects to the others, so it comes last.
  start: ({ directory }) => startSpike('bare.ts', directory, [1, 2, 0], [0]),
};

export const symmetric: Subject = {
  name: 'symmetric',
  acknowledges: 'fsynced on 2 of 3; a spike without consensus, state or recovery, each node owns a third',
  speaks: 'appends',
  start: ({ directory }) => startSpike('symmetric.ts', directory, [0, 1, 2], [0, 1, 2]),
};

/** For reads what the others are for appends. */
export const ready: Subject = {
  name: 'ready',
  acknowledges: 'nothing: ready bytes of the same size from bare node:http, no store at all',
  speaks: 'reads',
  start: ({ directory }) => startSpike('ready.ts', directory, [0], [0]),
};

async function startSpike(file: string, directory: string, order: readonly number[], takesRequests: readonly number[]): Promise<RunningSubject> {
  const processes = new Processes();
  const ports = await freePorts(NODES);
  const program = join(import.meta.dirname, '../spike', file);
  try {
    for (const i of order) {
      const data = join(directory, `node-${i}`);
      mkdirSync(data, { recursive: true });
      processes.start(process.execPath, [program, String(i), data, ...ports.map(String)], { logFile: `${data}.log` });
      await processes.until(`spike node ${i}`, () => listens(ports[i] ?? 0));
    }
  } catch (error) {
    await processes.stop('SIGKILL');
    throw error;
  }
  const urls = takesRequests.map((i) => `http://127.0.0.1:${ports[i]}`);
  return {
    version: `node ${process.versions.node}`,
    urls,
    pids: () => processes.pids,
    metricsUrls: [],
    endpoints: (_contexts, route) => Promise.resolve(route === 'spread' ? urls.map((url) => endpointOf(url)) : null),
    restart: null,
    stop: () => processes.stop(),
  };
}
