/**
 * What archiving costs appends: two clusters that differ only in it, loaded in turn, so that whatever else slows the
 * machine meets both. While one is loaded the other is idle, its backlog written and its files at rest.
 */
import { readFileSync } from 'node:fs';
import { call, ClusterProcesses, until } from '../test/e2e/processes.ts';
import { PostgresServer } from '../test/unit/archiver-postgres.ts';
import { Connection } from './load/connection.ts';

const CONNECTIONS = 48;
const CONTEXTS = 2000;
const REST_MS = 2000;
const DRAINED_MS = 120_000;
const TEXT = 'The brakes squeal after rain, although I cleaned the rims and sanded the pads as you said. Could the pads be too hard for these rims?';

interface WindowResult {
  readonly appendsPerSecond: number;
  /** Messages waiting for the archive, once a second. */
  readonly pending: readonly number[];
  /** CPU seconds of the nodes and of Postgres, per 1000 appends. */
  readonly cpu: { readonly nodes: number; readonly postgres: number };
}

export async function measureCost({ rounds, seconds }: { readonly rounds: number; readonly seconds: number }): Promise<void> {
  const postgres = await PostgresServer.start();
  const clusters: ClusterProcesses[] = [];
  try {
    const env = { FASTPACA_LOG_LEVEL: 'warn', FASTPACA_TAIL_KEEP: '100' };
    const without = await ClusterProcesses.start(3, env);
    clusters.push(without);
    const withArchive = await ClusterProcesses.start(3, { ...env, FASTPACA_ARCHIVER_ENABLED: 'true', DATABASE_URL: postgres.url });
    clusters.push(withArchive);
    for (const cluster of clusters) await create(cluster);
    const results: { with: WindowResult[]; without: WindowResult[] } = { with: [], without: [] };
    // A first round of each warms up and is not counted.
    for (let round = -1; round < rounds; round++) {
      const order = round % 2 === 0 ? (['with', 'without'] as const) : (['without', 'with'] as const);
      for (const name of order) {
        const cluster = name === 'with' ? withArchive : without;
        const result = await load(cluster, postgres, seconds);
        console.error(JSON.stringify({ round, name, ...result }));
        if (round >= 0) results[name].push(result);
        await until('the backlog to be written', async () => (await pendingRows(cluster)) === 0, DRAINED_MS);
        await new Promise((resolve) => setTimeout(resolve, REST_MS));
      }
    }
    const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[list.length >> 1] ?? 0;
    const of = (name: 'with' | 'without'): number => median(results[name].map(({ appendsPerSecond }) => appendsPerSecond));
    const ratios = results.with.map(({ appendsPerSecond }, i) => appendsPerSecond / (results.without[i]?.appendsPerSecond ?? 1));
    console.log(JSON.stringify({ rounds, seconds, with: of('with'), without: of('without'), ratio: Number(median(ratios).toFixed(3)), ratios: ratios.map((ratio) => Number(ratio.toFixed(3))), pending: results.with.map(({ pending }) => pending) }));
  } finally {
    for (const cluster of clusters) await cluster.stop();
    await postgres.remove();
  }
}

async function create(cluster: ClusterProcesses): Promise<void> {
  const { url } = cluster.node(0);
  for (let i = 0; i < CONTEXTS; i += 20) {
    await Promise.all(Array.from({ length: 20 }, (_, k) => call(`${url}/v1/contexts/cost-${i + k}`, 'PUT', { policy: { strategy: 'last_n', config: { limit: 50 } } })));
  }
}

async function load(cluster: ClusterProcesses, postgres: PostgresServer, seconds: number): Promise<WindowResult> {
  let answered = 0;
  let sent = 0;
  let over = false;
  const connections: Connection[] = [];
  const request = (): Buffer => {
    const n = sent++;
    const body = `{"message":{"role":"user","parts":[{"type":"text","text":"${n}. ${TEXT}"}]}}`;
    return Buffer.from(`POST /v1/contexts/cost-${(n * 7919) % CONTEXTS}/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  };
  for (let i = 0; i < CONNECTIONS; i++) {
    const { port } = cluster.node(i % 3);
    const connection: Connection = new Connection(
      { host: '127.0.0.1', port },
      (answer) => {
        if (answer.status !== 201) throw new Error(`${answer.status} ${answer.text}`);
        answered++;
        if (!over) connection.send(request());
      },
      (reason) => {
        if (!over) throw new Error(reason);
      },
    );
    await connection.open();
    connections.push(connection);
  }
  const nodes = cluster.nodes.map(({ pid }) => pid);
  const before = { nodes: cpuSeconds(nodes), postgres: cpuSeconds(postgres.pids()) };
  const started = performance.now();
  for (const connection of connections) connection.send(request());
  const pending: number[] = [];
  for (let second = 1; second <= seconds; second++) {
    await new Promise((resolve) => setTimeout(resolve, started + second * 1000 - performance.now()));
    pending.push(await pendingRows(cluster));
  }
  const elapsed = (performance.now() - started) / 1000;
  const count = answered;
  const cpu = { nodes: cpuSeconds(nodes) - before.nodes, postgres: cpuSeconds(postgres.pids()) - before.postgres };
  over = true;
  for (const connection of connections) connection.close();
  const per = (value: number): number => Number(((value / count) * 1000).toFixed(3));
  return { appendsPerSecond: Math.round(count / elapsed), pending, cpu: { nodes: per(cpu.nodes), postgres: per(cpu.postgres) } };
}

async function pendingRows(cluster: ClusterProcesses): Promise<number> {
  let sum = 0;
  for (const { url } of cluster.nodes) sum += Number(/^fastpaca_archive_pending_rows (\d+)/m.exec(await (await fetch(`${url}/metrics`)).text())?.[1] ?? 0);
  return sum;
}

/** User and system time of processes and of those of their children that are gone. */
function cpuSeconds(pids: readonly number[]): number {
  let ticks = 0;
  for (const pid of pids) {
    try {
      const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ').map(Number);
      ticks += (fields[11] ?? 0) + (fields[12] ?? 0) + (fields[13] ?? 0) + (fields[14] ?? 0);
    } catch {
      continue; // It ended meanwhile.
    }
  }
  return ticks / 100;
}
