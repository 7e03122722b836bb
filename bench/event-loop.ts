/**
 * How long one heavy request holds up everybody else: pings a real node every millisecond while it counts the tokens
 * of texts that tokenizers find hard. `npm run bench:event-loop`. Prints a markdown table for docs/recovery.md.
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { Agent, request } from 'undici';
import { call, ClusterProcesses } from '../test/e2e/processes.ts';

const MIB = 1_000_000;
const TEXTS: readonly (readonly [string, string])[] = [
  ['nothing else', ''],
  ['1 MB of one letter', 'a'.repeat(MIB)],
  ['1 MB of spaces', ' '.repeat(MIB)],
  ['1 MB of base64', Buffer.from(Array.from({ length: (MIB * 3) / 4 }, (_, i) => (i * 2654435761) >>> 24)).toString('base64')],
  ['1 MB of ideographs', '語'.repeat(MIB / 3)],
  ['1 MB of English', 'The quick brown fox jumps over the lazy dog. '.repeat(MIB / 45)],
];
const ROUNDS = 5;

/** The worker: pings until told to stop, then answers with all times. A thread of its own, so that building a body here delays no ping. */
async function ping(url: string): Promise<void> {
  const agent = new Agent({ connections: 1 });
  const pings: number[] = [];
  let done = false;
  parentPort?.once('message', () => {
    done = true;
  });
  while (!done) {
    const start = performance.now();
    await (await request(`${url}/health/ping`, { dispatcher: agent })).body.dump();
    pings.push(performance.now() - start);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await agent.close();
  parentPort?.postMessage(pings);
}

async function measure(): Promise<void> {
  const cluster = await ClusterProcesses.start(1);
  try {
    const { url } = cluster.node(0);
    await call(`${url}/v1/contexts/loop`, 'PUT', { token_budget: 100_000_000, policy: { strategy: 'manual' } });
    const rows: string[] = [];
    for (const [name, text] of TEXTS) {
      const worker = new Worker(new URL(import.meta.url), { workerData: url });
      let took = 0;
      for (let i = 0; i < ROUNDS; i++) {
        const start = performance.now();
        if (text === '') await new Promise((resolve) => setTimeout(resolve, 200));
        else {
          const answer = await call(`${url}/v1/contexts/loop/messages`, 'POST', { message: { role: 'user', parts: [{ type: 'text', text }] } });
          if (answer.status !== 201) throw new Error(answer.text);
        }
        took = Math.max(took, performance.now() - start);
      }
      const answer = new Promise<unknown>((resolve) => worker.once('message', resolve));
      worker.postMessage('stop');
      const pings = ((await answer) as number[]).sort((a, b) => a - b);
      rows.push(`| ${name} | ${Math.round(took)} ms | ${(pings[Math.floor(pings.length * 0.5)] ?? 0).toFixed(1)} ms | ${(pings.at(-1) ?? 0).toFixed(1)} ms |`);
      process.stderr.write(`${rows.at(-1)}\n`);
    }
    process.stdout.write(['| one append of | slowest answer | ping p50 | ping max |', '| -- | --: | --: | --: |', ...rows].join('\n') + '\n');
  } finally {
    await cluster.stop();
  }
}

if (isMainThread) await measure();
else await ping(String(workerData));
