/**
 * How long one heavy request holds up everybody else: pings a real node every millisecond while it counts the tokens
 * of texts that tokenizers find hard. `npm run bench:event-loop`. Prints a markdown table for docs/recovery.md.
 */
import { request, Agent } from 'undici';
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

const cluster = await ClusterProcesses.start(1);
try {
  const { url } = cluster.node(0);
  await call(`${url}/v1/contexts/loop`, 'PUT', { token_budget: 100_000_000, policy: { strategy: 'manual' } });
  const agent = new Agent({ connections: 1 });
  const rows: string[] = [];
  for (const [name, text] of TEXTS) {
    const pings: number[] = [];
    let done = false;
    const pinging = (async () => {
      while (!done) {
        const start = performance.now();
        await (await request(`${url}/health/ping`, { dispatcher: agent })).body.dump();
        pings.push(performance.now() - start);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    })();
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
    done = true;
    await pinging;
    pings.sort((a, b) => a - b);
    rows.push(`| ${name} | ${Math.round(took)} ms | ${(pings[Math.floor(pings.length * 0.5)] ?? 0).toFixed(1)} ms | ${(pings.at(-1) ?? 0).toFixed(1)} ms |`);
    process.stderr.write(`${rows.at(-1)}\n`);
  }
  await agent.close();
  process.stdout.write(['| one append of | slowest answer | ping p50 | ping max |', '| -- | --: | --: | --: |', ...rows].join('\n') + '\n');
} finally {
  await cluster.stop();
}
