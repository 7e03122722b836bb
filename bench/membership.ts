/**
 * What it costs those who append while a cluster changes its shape: from three nodes to five and back, then a killed
 * node is replaced, then it comes back with an empty disk. Appends are due at a fixed rate whatever the answers do, and
 * are repeated as documented; at the end every acknowledged message is looked for.
 * `npm run bench:membership -- [--rate 500] [--messages 100000] [--quiet 15]`. Prints JSON, then a markdown table for
 * docs/operations/membership.md.
 */
import { rm } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { call, ClusterProcesses, type NodeProcess, until } from '../test/e2e/processes.ts';
import { createContexts, RequestFailed, RetryingClient } from '../test/e2e/retrying.ts';
import { Latencies } from './load/latencies.ts';

const { values } = parseArgs({ options: { rate: { type: 'string', default: '500' }, messages: { type: 'string', default: '100000' }, quiet: { type: 'string', default: '15' } } });
const CONTEXTS = 200;
const CLIENTS = 16;
const FILL_BATCH = 500;
const TEXT = 'Nothing in the cluster moves but what has to, and a replica leaves when its successor has caught up. '.repeat(2);
const DEAD_AFTER_MS = 3000;
const SETTLE_MS = 120_000;

const say = (line: string): void => void process.stderr.write(`${line}\n`);

interface View {
  readonly nodes: readonly { readonly id: string; readonly state: string; readonly groups: number; readonly leaders: number }[];
  readonly moves: readonly object[];
  readonly damaged: readonly object[];
}

interface Phase {
  readonly what: string;
  readonly seconds: number;
  readonly appends: number;
  /** Requests sent again, by why. */
  readonly retries: Readonly<Record<string, number>>;
  readonly failures: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  readonly leaders: Readonly<Record<string, number>>;
}

/** Appends at a fixed rate; each counts for the phase in which it was due. */
class Load {
  /** Text by seq, for each context. */
  readonly acked: Map<string, Map<number, string>>;
  failures = 0;
  private latencies = new Latencies();
  private clients: readonly RetryingClient[] = [];
  private former: readonly RetryingClient[] = [];
  private readonly contexts: readonly string[];
  private readonly timer: NodeJS.Timeout;
  private readonly running = new Set<Promise<void>>();
  private due = performance.now();
  private sent = 0;

  /** The contexts and what is in them already. */
  constructor(acked: Map<string, Map<number, string>>, rate: number) {
    this.acked = acked;
    this.contexts = [...acked.keys()];
    this.timer = setInterval(() => {
      for (const now = performance.now(); this.due <= now; this.due += 1000 / rate) {
        const one = this.append(this.due, this.latencies);
        this.running.add(one);
        void one.finally(() => this.running.delete(one));
      }
    }, 2);
  }

  /** From now on requests go to these nodes. */
  use(urls: readonly string[]): void {
    this.former = [...this.former, ...this.clients];
    this.clients = Array.from({ length: CLIENTS }, (_, i) => new RetryingClient(urls, i));
  }

  /** Requests due from now on count anew. Resolves with the latencies until now, when the last of these is answered. */
  async next(): Promise<Latencies> {
    const { latencies } = this;
    this.latencies = new Latencies();
    await Promise.all(this.running);
    return latencies;
  }

  retries(): Map<string, number> {
    const sum = new Map<string, number>();
    for (const { counts } of [...this.former, ...this.clients]) for (const [why, count] of counts.retries) sum.set(why, (sum.get(why) ?? 0) + count);
    return sum;
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await Promise.all(this.running);
  }

  private async append(due: number, latencies: Latencies): Promise<void> {
    const n = this.sent++;
    const id = this.contexts[n % this.contexts.length] ?? '';
    const client = this.clients[n % this.clients.length];
    if (client === undefined) return;
    const text = `${n} ${TEXT}`;
    try {
      const { status, json, text: body } = await client.send(`/v1/contexts/${id}/messages`, 'POST', { message: { role: 'user', parts: [{ type: 'text', text }] } }, { 'idempotency-key': String(n) });
      if (status !== 201) throw new Error(`append answered ${status}: ${body}`);
      this.acked.get(id)?.set(Number(json['seq']), text);
    } catch (error) {
      if (!(error instanceof RequestFailed)) throw error;
      this.failures++;
    }
    latencies.add(performance.now() - due);
  }
}

async function view(from: NodeProcess): Promise<View> {
  return (await call(`${from.url}/v1/cluster`)).json as unknown as View;
}

/** Waits until nothing moves, `holds`, and leaders are even among `active`. */
async function settled(from: NodeProcess, active: readonly NodeProcess[], holds: (seen: View) => boolean): Promise<void> {
  await until(
    'the cluster to settle',
    async () => {
      const seen = await view(from);
      const leaders = active.map(({ name }) => seen.nodes.find(({ id }) => id === name)?.leaders ?? 0);
      return seen.moves.length === 0 && seen.damaged.length === 0 && holds(seen) && Math.max(...leaders) - Math.min(...leaders) <= 2 && leaders.reduce((a, b) => a + b, 0) === 257;
    },
    SETTLE_MS,
  );
}

/** Resolves with what was acknowledged, as Load keeps it. */
async function fill(url: string, contexts: readonly string[], each: number): Promise<Load['acked']> {
  const client = new RetryingClient([url]);
  const acked: Load['acked'] = new Map();
  for (const id of contexts) {
    const kept = new Map<number, string>();
    acked.set(id, kept);
    for (let from = 0; from < each; from += FILL_BATCH) {
      const texts = Array.from({ length: Math.min(FILL_BATCH, each - from) }, (_, i) => `${id} before ${from + i} ${TEXT}`);
      const { status, text } = await client.send(`/v1/contexts/${id}/messages`, 'POST', { messages: texts.map((text) => ({ role: 'user', parts: [{ type: 'text', text }] })) }, { 'idempotency-key': `fill-${from}` });
      if (status !== 201) throw new Error(`filling answered ${status}: ${text}`);
      for (const [i, filled] of texts.entries()) kept.set(from + i + 1, filled);
    }
  }
  return acked;
}

/** Acknowledged messages that are not at their place, as read through that node. */
async function lost(url: string, acked: Load['acked']): Promise<number> {
  let missing = 0;
  for (const [id, texts] of acked) {
    const found = new Map<number, string>();
    for (let from: number | null = 1; from !== null; ) {
      const { json } = await call(`${url}/v1/contexts/${id}/messages?from_seq=${from}&limit=1000`);
      const page = json as unknown as { messages: { seq: number; parts: { text: string }[] }[]; next_seq: number | null };
      for (const { seq, parts } of page.messages) found.set(seq, parts[0]?.text ?? '');
      from = page.next_seq;
    }
    for (const [seq, text] of texts) if (found.get(seq) !== text) missing++;
  }
  return missing;
}

const quietMs = 1000 * Number(values.quiet);
const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, quietMs));
const cluster = await ClusterProcesses.start(3, { FASTPACA_CLUSTER_SECRET: 'of-the-benchmark', FASTPACA_NODE_DEAD_AFTER_MS: String(DEAD_AFTER_MS) });
try {
  const three = [cluster.node(0), cluster.node(1), cluster.node(2)] as const;
  const [first, second, third] = three;
  await settled(first, three, () => true);
  const contexts = await createContexts(first.url, 'moving', CONTEXTS);
  const filled = await fill(first.url, contexts, Math.ceil(Number(values.messages) / CONTEXTS));
  const load = new Load(filled, Number(values.rate));
  const serve = (nodes: readonly NodeProcess[]): void => load.use(nodes.map(({ url }) => url));
  serve(three);
  // What a fresh server pays for code not compiled yet is nobody's measure.
  await pause();
  await load.next();
  const phases: Phase[] = [];
  let failures = load.failures;
  const phase = async (what: string, from: NodeProcess, change: () => Promise<void>): Promise<void> => {
    const before = load.retries();
    const started = performance.now();
    await change();
    const seconds = (performance.now() - started) / 1000;
    const latencies = await load.next();
    const { p50, p99, max } = latencies.percentiles() ?? { p50: NaN, p99: NaN, max: NaN };
    const retries = Object.fromEntries([...load.retries()].map(([why, count]) => [why, count - (before.get(why) ?? 0)] as const).filter(([, count]) => count > 0));
    const leaders = Object.fromEntries((await view(from)).nodes.filter(({ state }) => state === 'active').map(({ id, leaders }) => [id, leaders]));
    phases.push({ what, seconds, appends: latencies.count, retries, failures: load.failures - failures, p50, p99, max, leaders });
    failures = load.failures;
    say(`  ${what}: ${seconds.toFixed(1)} s, p99 ${p99.toFixed(0)} ms`);
  };
  const join = async (node: NodeProcess): Promise<void> => {
    node.start();
    await node.ready();
  };

  await phase('three nodes, nothing moves', first, pause);
  const [fourth, fifth] = [await cluster.add('node-4'), await cluster.add('node-5')];
  const five = [...three, fourth, fifth];
  await phase('two nodes join', first, async () => {
    await Promise.all([join(fourth), join(fifth)]);
    serve(five);
    await settled(first, five, ({ nodes }) => nodes.length === 5 && nodes.every(({ groups }) => groups > 120 && groups < 190));
  });
  await phase('five nodes, nothing moves', first, pause);
  await phase('two nodes are drained and removed', first, async () => {
    for (const node of [fifth, fourth]) await call(`${first.url}/v1/cluster/nodes/${node.name}/drain`, 'POST');
    serve(three);
    await settled(first, three, ({ nodes }) => nodes.filter(({ state }) => state === 'drained').length === 2);
    for (const node of [fifth, fourth]) {
      await call(`${first.url}/v1/cluster/nodes/${node.name}`, 'DELETE');
      await node.kill('SIGTERM');
    }
    await settled(first, three, ({ nodes }) => nodes.length === 3);
  });
  const sixth = await cluster.add('node-6');
  const four = [...three, sixth];
  const rest = [second, third, sixth];
  await phase('one node joins', second, async () => {
    await join(sixth);
    serve(four);
    await settled(second, four, ({ nodes }) => nodes.length === 4 && nodes.every(({ groups }) => groups > 150));
  });
  await phase(`the coordinator is killed and, after ${DEAD_AFTER_MS / 1000} s of silence, replaced`, second, async () => {
    await first.kill('SIGKILL');
    await settled(second, rest, ({ nodes }) => nodes.some(({ id, groups }) => id === first.name && groups === 1));
  });
  await phase('it comes back with an empty disk', second, async () => {
    await rm(first.dir, { recursive: true, force: true });
    await join(first);
    await settled(second, four, ({ nodes }) => nodes.every(({ groups }) => groups > 150));
  });
  await phase('four nodes, nothing moves', second, pause);
  await load.stop();

  let missing = 0;
  for (const { url } of four) missing += await lost(url, load.acked);
  const acked = [...load.acked.values()].reduce((sum, texts) => sum + texts.size, 0);
  process.stdout.write(`${JSON.stringify({ rate: Number(values.rate), messages: Number(values.messages), acked, lost: missing, failures: load.failures, phases })}\n\n`);
  const ms = (value: number): string => `${Math.round(value)} ms`;
  const rows = phases.map(({ what, seconds, appends, retries, p50, p99, max, leaders }) => {
    const why = Object.entries(retries).map(([cause, count]) => `${count} ${cause}`);
    return `| ${what} | ${seconds.toFixed(1)} s | ${appends.toLocaleString('en')} | ${ms(p50)} | ${ms(p99)} | ${ms(max)} | ${why.length === 0 ? '0' : why.join(', ')} | ${Object.values(leaders).join(' ')} |`;
  });
  process.stdout.write(['| phase | took | appends | p50 | p99 | max | sent again | leaders afterwards |', '| -- | --: | --: | --: | --: | --: | -- | -- |', ...rows].join('\n'));
  process.stdout.write(`\n\n${acked.toLocaleString('en')} messages acknowledged, ${missing} lost; ${load.failures} requests failed.\n`);
  process.exitCode = missing + load.failures === 0 ? 0 : 1;
} finally {
  await cluster.stop();
}
