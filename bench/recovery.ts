/**
 * Measures starting and failing over on this machine, with real processes:
 * founding from empty disks, restart of all nodes over stored messages, time without leaders after kill -9.
 * `npm run bench:recovery -- [--kills 20] [--messages 100000]`. Prints a markdown table for docs/recovery.md.
 */
import { parseArgs } from 'node:util';
import { call, ClusterProcesses, until } from '../test/e2e/processes.ts';

const { values } = parseArgs({ options: { kills: { type: 'string', default: '20' }, messages: { type: 'string', default: '100000' } } });
const kills = Number(values.kills);
const messageCount = Number(values.messages);

interface GroupView {
  readonly id: number;
  readonly leader: string | null;
}

const quantile = (sorted: readonly number[], q: number): number => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? NaN;
const ms = (value: number): string => `${Math.round(value).toLocaleString('en')} ms`;
const say = (line: string): void => void process.stderr.write(`${line}\n`);

async function groups(url: string): Promise<readonly GroupView[]> {
  const { json } = await call(`${url}/v1/cluster`);
  const view = json['groups'];
  return Array.isArray(view) ? (view as GroupView[]) : [];
}

/** Milliseconds since `since` until every group has a leader other than `dead`, seen by every survivor. */
async function leadersBack(survivors: readonly string[], dead: string, since: number): Promise<number> {
  let took = 0;
  await until('every group to have a leader again', async () => {
    const views = await Promise.all(survivors.map(groups));
    took = performance.now() - since;
    return views.every((view) => view.length >= 256 && view.every(({ leader }) => leader !== null && leader !== dead));
  });
  return took;
}

async function evenLeaders(url: string): Promise<void> {
  await until('leaders to be spread again', async () => {
    const counts = new Map<string, number>();
    for (const { leader } of await groups(url)) counts.set(leader ?? '', (counts.get(leader ?? '') ?? 0) + 1);
    return counts.size === 3 && Math.min(...counts.values()) > 80;
  });
}

async function fill(urls: readonly string[], total: number): Promise<void> {
  const contexts = 1000;
  const batch = 100;
  const text = 'All work and no play makes a fine conversation. '.repeat(9);
  let next = 0;
  let written = 0;
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      while (next < contexts) {
        const i = next++;
        const url = urls[i % urls.length] ?? '';
        await call(`${url}/v1/contexts/fill-${i}`, 'PUT', {});
        for (let n = 0; n < total / contexts; n += batch) {
          const count = Math.min(batch, total / contexts - n);
          const messages = Array.from({ length: count }, () => ({ role: 'user', parts: [{ type: 'text', text }] }));
          const answer = await call(`${url}/v1/contexts/fill-${i}/messages`, 'POST', { messages });
          if (answer.status !== 201) throw new Error(`append answered ${answer.status}: ${answer.text}`);
          written += count;
        }
        if (i % 100 === 0) say(`  ${written.toLocaleString('en')} messages`);
      }
    }),
  );
}

const cluster = await ClusterProcesses.create(3);
const rows: string[] = [];
try {
  let start = performance.now();
  for (const node of cluster.nodes) node.start();
  await cluster.ready();
  rows.push(`| three nodes from empty disks until all are ready | ${ms(performance.now() - start)} |`);
  say(rows.at(-1) ?? '');

  say(`writing ${messageCount.toLocaleString('en')} messages`);
  await fill(cluster.nodes.map((node) => node.url), messageCount);
  for (const how of ['SIGTERM', 'SIGKILL'] as const) {
    await Promise.all(cluster.nodes.map((node) => node.kill(how)));
    start = performance.now();
    for (const node of cluster.nodes) node.start();
    await cluster.ready();
    rows.push(`| restart of all three with ${messageCount.toLocaleString('en')} messages, after ${how} | ${ms(performance.now() - start)} |`);
    say(rows.at(-1) ?? '');
  }

  const times: number[] = [];
  for (let i = 0; i < kills; i++) {
    const victim = cluster.node(i % 3);
    const survivors = cluster.nodes.filter((node) => node !== victim).map((node) => node.url);
    await evenLeaders(survivors[0] ?? '');
    start = performance.now();
    await victim.kill('SIGKILL');
    times.push(await leadersBack(survivors, victim.name, start));
    say(`  kill ${i + 1} of ${kills} (${victim.name}): every group led again after ${ms(times.at(-1) ?? 0)}`);
    victim.start();
    await victim.ready();
  }
  times.sort((a, b) => a - b);
  rows.push(`| every group has a leader again after \`kill -9\` of a node, ${kills} kills | p50 ${ms(quantile(times, 0.5))}, p90 ${ms(quantile(times, 0.9))}, max ${ms(times.at(-1) ?? NaN)} |`);
} finally {
  await cluster.stop();
}
process.stdout.write(['| what | measured |', '| -- | -- |', ...rows].join('\n') + '\n');
