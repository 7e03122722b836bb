/** The product as a subject: nodes started here from this or another checkout, or a cluster that already runs. */
import { join, resolve } from 'node:path';
import { groupOf } from '../../src/cluster/placement.ts';
import type { ContextSet, Endpoint } from '../load/job.ts';
import { freePorts, Processes } from './processes.ts';
import { endpointOf } from './types.ts';
import type { Route, RunningSubject, Subject, SubjectOptions } from './types.ts';

const HERE = resolve(import.meta.dirname, '../..');
/** Streams are measured by the thousand. */
const STREAMS_MAX = '20000';
/** A node over millions of messages takes its time. */
const READY_MS = 120_000;

/** Nodes of the checkout at `root`, so that a change can be measured against the state before it, run by run. */
export function fastpaca(name = 'fastpaca', root = HERE): Subject {
  return {
    name,
    acknowledges: 'fsynced on a majority of three, Raft; of one node: fsynced there',
    speaks: 'everything',
    start: (options) => startNodes(root, options),
  };
}

async function startNodes(root: string, options: SubjectOptions): Promise<RunningSubject> {
  const { nodes } = options;
  const ports = await freePorts(nodes);
  const urls = ports.map((port) => `http://127.0.0.1:${port}`);
  let processes = launch(root, ports, options);
  const isReady = async (url: string): Promise<boolean> => (await fetch(`${url}/health/ready`)).ok;
  const ready = (): Promise<void> => processes.until('every node to be ready', async () => (await Promise.all(urls.map(isReady))).every(Boolean), READY_MS);
  try {
    await ready();
    if (nodes > 1) await processes.until('leaders to be spread', async () => isSpread(await leaderUrls(urls), nodes));
  } catch (error) {
    await processes.stop('SIGKILL');
    throw error;
  }
  const restart = async (signal: NodeJS.Signals, env: Readonly<Record<string, string>> = {}): Promise<number> => {
    await processes.stop(signal);
    const start = performance.now();
    processes = launch(root, ports, { ...options, env: { ...options.env, ...env } });
    await ready();
    return performance.now() - start;
  };
  return { ...servedAt(urls), pids: () => processes.pids, restart, stop: () => processes.stop() };
}

/** Starts the processes of all nodes, over whatever data is there. */
function launch(root: string, ports: readonly number[], { env, directory, profileDirectory }: SubjectOptions): Processes {
  const processes = new Processes();
  const seeds = ports.map((port) => `127.0.0.1:${port}`).join(',');
  const profile = profileDirectory === null ? {} : { NODE_OPTIONS: `--cpu-prof --cpu-prof-dir=${resolve(profileDirectory)}` };
  ports.forEach((port, i) => {
    const name = `node-${i + 1}`;
    processes.start(process.execPath, [join(root, 'src/main.ts')], {
      logFile: join(directory, `${name}.log`),
      env: {
        FASTPACA_NODE_NAME: name,
        // As `npm start` does.
        NODE_COMPILE_CACHE: join(root, 'node_modules/.cache/compile'),
        FASTPACA_HOST: '127.0.0.1',
        PORT: String(port),
        FASTPACA_RAFT_DATA_DIR: join(directory, name),
        FASTPACA_LOG_LEVEL: 'warn',
        FASTPACA_STREAM_MAX_CONNECTIONS: STREAMS_MAX,
        ...(ports.length === 1 ? {} : { FASTPACA_CLUSTER_SEED: seeds, FASTPACA_CLUSTER_SIZE: String(ports.length), FASTPACA_ADVERTISE: `127.0.0.1:${port}` }),
        ...profile,
        ...env,
      },
    });
  });
  return processes;
}

/** A cluster that somebody else started and keeps; `pids` are its processes where they run on this machine. */
export function runningCluster(urls: readonly string[], pids: readonly number[]): Subject {
  return {
    name: 'fastpaca',
    acknowledges: 'as configured at the given URLs',
    speaks: 'everything',
    start: () => Promise.resolve({ ...servedAt(urls), pids: () => pids, restart: null, stop: () => Promise.resolve() }),
  };
}

/** All of a running subject but its processes. */
function servedAt(urls: readonly string[]): Omit<RunningSubject, 'pids' | 'restart' | 'stop'> {
  return {
    version: `node ${process.versions.node}`,
    urls,
    metricsUrls: urls,
    endpoints: (contexts, route) => endpointsOf(urls, contexts, route),
  };
}

async function endpointsOf(urls: readonly string[], contexts: ContextSet, route: Route): Promise<readonly Endpoint[] | null> {
  if (route === 'spread') return urls.map((url) => endpointOf(url));
  const leaders = await leaderUrls(urls);
  const numbers: number[][] = urls.map(() => []);
  for (let i = 0; i < contexts.count; i++) {
    const leader = urls.indexOf(leaders.get(groupOf(`${contexts.prefix}-${i}`)) ?? '');
    if (leader < 0) return null;
    if (route === 'follower' && urls.length < 2) return null;
    // The next node of the list holds a replica too wherever every node does, as with three.
    numbers[route === 'leader' ? leader : (leader + 1) % urls.length]?.push(i);
  }
  return urls.map((url, i) => endpointOf(url, numbers[i] ?? [])).filter((endpoint) => (endpoint.contexts?.length ?? 0) > 0);
}

interface ClusterView {
  readonly nodes: readonly { readonly id: string; readonly address: string }[];
  readonly groups: readonly { readonly id: number; readonly leader: string | null }[];
}

/** URL of each group's leader, where it has one that is among them. */
async function leaderUrls(urls: readonly string[]): Promise<Map<number, string>> {
  const view = (await (await fetch(`${urls[0]}/v1/cluster`)).json()) as ClusterView;
  // A single node's address may name an interface rather than the host it is reached at.
  const urlAt = (address: string): string | undefined => (urls.length === 1 ? urls[0] : urls.find((url) => new URL(url).host === address));
  const byName = new Map(view.nodes.map(({ id, address }) => [id, urlAt(address)]));
  const leaders = new Map<number, string>();
  for (const { id, leader } of view.groups) {
    const url = leader === null ? undefined : byName.get(leader);
    if (url !== undefined) leaders.set(id, url);
  }
  return leaders;
}

/** Leaders are even within a third, as they are soon after the founding. */
function isSpread(leaders: ReadonlyMap<number, string>, nodes: number): boolean {
  const counts = new Map<string, number>();
  for (const url of leaders.values()) counts.set(url, (counts.get(url) ?? 0) + 1);
  return counts.size === nodes && Math.min(...counts.values()) > (leaders.size / nodes) * 0.8;
}
