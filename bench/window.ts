/**
 * What a long context costs: reads the window of, and appends to, `manual` contexts of 1,000 and of 100,000 messages on
 * a real node, in turns. `node bench/window.ts [--long 100000]`. Prints a markdown table; the last column is the issue's
 * measure and should stay at or below 1.2.
 */
import { parseArgs } from 'node:util';
import { call, ClusterProcesses } from '../test/e2e/processes.ts';

const SHORT = 1000;
const ROUNDS = 400;
const BATCH = 1000;
const TOKENS_EACH = 100;

const { values } = parseArgs({ options: { long: { type: 'string', default: '100000' } } });
const long = Number(values.long);

const message = { role: 'user', parts: [{ type: 'text', text: 'What a conversation is made of. '.repeat(12) }], token_count: TOKENS_EACH };

async function must(url: string, method: string, body: unknown, status: number): Promise<void> {
  const answer = await call(url, method, body);
  if (answer.status !== status) throw new Error(`${method} ${url}: ${answer.text}`);
}

async function fill(url: string, count: number): Promise<void> {
  await must(url, 'PUT', { token_budget: 8000, policy: { strategy: 'manual' } }, 201);
  for (let left = count; left > 0; left -= BATCH) {
    await must(`${url}/messages`, 'POST', { messages: Array.from({ length: Math.min(BATCH, left) }, () => message) }, 201);
  }
}

/** Milliseconds that `act` takes. */
async function timed(act: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await act();
  return performance.now() - start;
}

function median(times: readonly number[]): number {
  return times.toSorted((a, b) => a - b)[Math.floor(times.length / 2)] ?? 0;
}

const cluster = await ClusterProcesses.start(1);
try {
  const base = `${cluster.node(0).url}/v1/contexts`;
  await fill(`${base}/short`, SHORT);
  await fill(`${base}/long`, long);
  const acts: readonly (readonly [string, (url: string) => Promise<void>])[] = [
    ['read the window', (url) => must(`${url}/context`, 'GET', undefined, 200)],
    ['append one message', (url) => must(`${url}/messages`, 'POST', { message }, 201)],
  ];
  const rows: string[] = [];
  for (const [name, act] of acts) {
    const times: Record<'short' | 'long', number[]> = { short: [], long: [] };
    for (let round = 0; round < ROUNDS; round++) {
      // In turns, so that whatever else the machine does falls on both.
      const order = round % 2 === 0 ? (['short', 'long'] as const) : (['long', 'short'] as const);
      for (const which of order) times[which].push(await timed(() => act(`${base}/${which}`)));
    }
    const [short, tall] = [median(times.short), median(times.long)];
    rows.push(`| ${name} | ${short.toFixed(2)} ms | ${tall.toFixed(2)} ms | ${(tall / short).toFixed(2)} |`);
  }
  process.stdout.write([`| median of ${ROUNDS} | ${SHORT} messages | ${long} messages | ratio |`, '| -- | --: | --: | --: |', ...rows].join('\n') + '\n');
} finally {
  await cluster.stop();
}
