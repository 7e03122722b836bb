/**
 * Lets a node that leads a third of all groups stand still for 1 to 30 s, by SIGSTOP or by a disk whose syncs hang, under
 * load through every node: how long until others lead all its groups, and whether anyone was told something untrue.
 * `npm run bench:stall -- [--seconds 1,2,5,10,30]`. Prints a markdown table for docs/recovery.md.
 */
import { parseArgs } from 'node:util';
import { buildFaultyDisk } from '../test/e2e/faulty-disk.ts';
import { History } from '../test/e2e/history.ts';
import { call, ClusterProcesses, type NodeProcess, until } from '../test/e2e/processes.ts';
import { createContexts } from '../test/e2e/retrying.ts';

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '1,2,5,10,30' } } });

async function leaders(url: string): Promise<(string | null)[]> {
  const { groups } = (await call(`${url}/v1/cluster`)).json;
  return Array.isArray(groups) ? (groups as { leader: string | null }[]).map(({ leader }) => leader) : [];
}

/** Milliseconds from now until both survivors see every group led by another node; null when the stall ends before. */
async function replaced(survivors: readonly NodeProcess[], victim: NodeProcess, isOver: () => boolean): Promise<number | null> {
  const started = performance.now();
  while (!isOver()) {
    const views = await Promise.all(survivors.map(({ url }) => leaders(url)));
    if (views.every((view) => view.length > 0 && view.every((leader) => leader !== null && leader !== victim.name))) return performance.now() - started;
  }
  return null;
}

const cluster = await ClusterProcesses.create(3);
const rows: string[] = [];
try {
  const disk = await buildFaultyDisk(cluster.dir);
  for (const node of cluster.nodes) node.start(disk?.env(node));
  await cluster.ready();
  const contexts = await createContexts(cluster.node(0).url, 'stall', 60);
  const history = new History(contexts);
  for (const node of cluster.nodes) history.load(node.url, 3);
  let turn = 0;
  for (const how of ['SIGSTOP', 'hanging syncs'] as const) {
    if (how === 'hanging syncs' && disk === null) continue;
    for (const seconds of values.seconds.split(',').map(Number)) {
      const victim = cluster.node(turn++ % 3);
      const survivors = cluster.nodes.filter((node) => node !== victim);
      await until('leaders to be spread again', async () => {
        const counts = new Map<string | null, number>();
        for (const leader of await leaders(survivors[0]?.url ?? '')) counts.set(leader, (counts.get(leader) ?? 0) + 1);
        return (counts.get(victim.name) ?? 0) > 80;
      }, 60_000);
      let isOver = false;
      const end = new Promise((resolve) => setTimeout(resolve, seconds * 1000)).then(() => (isOver = true));
      if (how === 'SIGSTOP') process.kill(victim.pid, 'SIGSTOP');
      else await disk?.say(victim, String(seconds * 1000));
      const took = await replaced(survivors, victim, () => isOver);
      await end;
      if (how === 'SIGSTOP') process.kill(victim.pid, 'SIGCONT');
      else await disk?.say(victim, '');
      const before = history.acknowledged(victim.url);
      await until('the node to serve again', () => history.acknowledged(victim.url) > before + 50, 60_000);
      rows.push(`| ${how}, ${seconds} s | ${took === null ? 'it went on before' : `${Math.round(took).toLocaleString('en')} ms`} |`);
      process.stderr.write(`${rows.at(-1)}\n`);
    }
  }
  await history.stop();
  await cluster.ready();
  for (const { url } of cluster.nodes) await history.check(url);
  rows.push(`| ${history.reads.toLocaleString('en')} linearizable reads, ${history.appends.toLocaleString('en')} appends meanwhile | 0 stale, 0 lost, 0 acknowledged without being committed |`);
} finally {
  for (const node of cluster.nodes) if (node.running) process.kill(node.pid, 'SIGCONT');
  await cluster.stop();
}
process.stdout.write(['| a node stands still | others lead all its groups after |', '| -- | -- |', ...rows].join('\n') + '\n');
