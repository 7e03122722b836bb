/**
 * Restarts all nodes one after the other, several times, under load of clients that follow the documented retry rule:
 * what they saw, how long stops take, and how long each group was without a leader at each change.
 * `npm run bench:rolling -- [--rounds 3] [--writers 64] [--pause 10]`. Prints a markdown table for docs/recovery.md.
 *
 * Leaderless time is taken from the nodes' debug logs (one machine, one clock): from the moment at which the old leader
 * began to hand over, and so refuses proposals, or was seen to lose the group, until a node became its next leader.
 */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { call, ClusterProcesses, until } from '../test/e2e/processes.ts';
import { assertNothingLost, createContexts, Writers } from '../test/e2e/retrying.ts';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '3' }, writers: { type: 'string', default: '64' }, pause: { type: 'string', default: '10' } } });
const rounds = Number(values.rounds);

interface LogLine {
  readonly type: string;
  readonly time: string;
  readonly node: string;
  readonly group: number;
  readonly term: number;
  readonly led: boolean;
}

/** One change of leader. */
interface Change {
  readonly group: number;
  readonly ms: number;
}

const quantile = (sorted: readonly number[], q: number): number => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? NaN;
const ms = (value: number): string => `${value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString('en')} ms`;
const say = (line: string): void => void process.stderr.write(`${line}\n`);

/** Every gap between two leaders of a group after `from` (milliseconds since the epoch). */
function changesOfLeader(lines: readonly LogLine[], from: number): Change[] {
  const sorted = lines.map((line) => ({ ...line, at: Date.parse(line.time) })).sort((a, b) => a.at - b.at);
  const leaders = new Map<number, { node: string; term: number }>();
  const since = new Map<number, number>();
  const changes: Change[] = [];
  for (const { type, node, group, term, led, at } of sorted) {
    const isLost = (lost: number): boolean => leaders.get(lost)?.node === node && !since.has(lost);
    if (type === 'stopped') {
      for (const lost of leaders.keys()) if (isLost(lost)) since.set(lost, at);
    } else if (type === 'transfer') {
      if (isLost(group)) since.set(group, at);
    } else if (led) {
      const began = since.get(group);
      if (began !== undefined && at >= from) changes.push({ group, ms: at - began });
      if (began === undefined && leaders.has(group) && at >= from) throw new Error(`group ${group} got leader ${node} in term ${term}, and nothing says when ${leaders.get(group)?.node} ceased to lead`);
      since.delete(group);
      leaders.set(group, { node, term });
    } else if (isLost(group) && term > (leaders.get(group)?.term ?? 0)) {
      since.set(group, at);
    }
  }
  return changes;
}

async function logLines(file: string): Promise<LogLine[]> {
  const lines = (await readFile(file, 'utf8')).split('\n').filter((line) => /"type":"(leader|transfer|stopped)"/.test(line));
  return lines.map((line) => JSON.parse(line) as LogLine);
}

async function leadersOf(url: string): Promise<Map<string, number>> {
  const nodes = (await call(`${url}/v1/cluster`)).json['nodes'];
  return new Map(Array.isArray(nodes) ? (nodes as { id: string; leaders: number }[]).map(({ id, leaders }) => [id, leaders]) : []);
}

const cluster = await ClusterProcesses.create(3, { FASTPACA_LOG_LEVEL: 'debug' });
const urls = cluster.nodes.map((node) => node.url);
const stops: number[] = [];
const starts: number[] = [];
const rows: string[] = [];
try {
  for (const node of cluster.nodes) node.start();
  await cluster.ready();
  const spread = (): Promise<void> =>
    until('leaders to be spread evenly', async () => {
      const counts = [...(await leadersOf(urls[0] ?? '')).values()];
      return counts.reduce((a, b) => a + b, 0) >= 257 && Math.max(...counts) - Math.min(...counts) <= 2;
    });
  await spread();
  const writers = new Writers(urls, await createContexts(urls[0] ?? '', 'rolling', Number(values.writers)), Number(values.pause));
  await until('appends to flow', () => writers.count > 1000);
  const began = Date.now();
  const acked = writers.count;
  for (let round = 0; round < rounds; round++) {
    for (const node of cluster.nodes) {
      let at = performance.now();
      const { code } = await node.kill('SIGTERM');
      if (code !== 0) throw new Error(`${node.name} exited with ${code}: ${await node.logTail()}`);
      stops.push(performance.now() - at);
      at = performance.now();
      node.start();
      await node.ready();
      starts.push(performance.now() - at);
      // The next node goes only when this one leads its share again, as an orchestrator's pause between pods would have it.
      await spread();
      say(`  round ${round + 1}: ${node.name} stopped in ${ms(stops.at(-1) ?? 0)}, ready again after ${ms(starts.at(-1) ?? 0)}`);
    }
  }
  const seconds = (Date.now() - began) / 1000;
  const during = writers.count - acked;
  await writers.stop();
  const { requests, retries, failures, durations } = writers.totals();
  for (const url of urls) await assertNothingLost(writers, url);
  const lines = (await Promise.all(cluster.nodes.map((node) => logLines(node.logFile)))).flat();
  const gaps = changesOfLeader(lines, began).map((change) => change.ms).sort((a, b) => a - b);
  durations.sort((a, b) => a - b);
  stops.sort((a, b) => a - b);
  starts.sort((a, b) => a - b);
  const why = [...retries].map(([cause, count]) => `${count} ${cause}`).join(', ');
  rows.push(
    `| restarts, one node after the other | ${rounds * 3} in ${Math.round(seconds)} s |`,
    `| requests of ${values.writers} writers (a tenth are reads) | ${requests.toLocaleString('en')}, ${Math.round(during / seconds).toLocaleString('en')} appends/s |`,
    `| of these sent again | ${[...retries.values()].reduce((a, b) => a + b, 0)}${why === '' ? '' : ` (${why})`} |`,
    `| failed, lost, or reads that missed an acknowledged message | ${failures.length}, 0, ${writers.staleReads.length} |`,
    `| a request took, retries included | p50 ${ms(quantile(durations, 0.5))}, p99 ${ms(quantile(durations, 0.99))}, max ${ms(durations.at(-1) ?? NaN)} |`,
    `| a group was without a leader, ${gaps.length.toLocaleString('en')} changes of leader | p50 ${ms(quantile(gaps, 0.5))}, p99 ${ms(quantile(gaps, 0.99))}, max ${ms(gaps.at(-1) ?? NaN)} |`,
    `| from SIGTERM to the end of the process (1 s of it is notice) | p50 ${ms(quantile(stops, 0.5))}, max ${ms(stops.at(-1) ?? NaN)} |`,
    `| from start to ready | p50 ${ms(quantile(starts, 0.5))}, max ${ms(starts.at(-1) ?? NaN)} |`,
  );
  process.exitCode = failures.length === 0 && writers.staleReads.length === 0 && gaps.length > 0 ? 0 : 1;
} finally {
  await cluster.stop();
}
process.stdout.write(['| what | measured |', '| -- | -- |', ...rows].join('\n') + '\n');
