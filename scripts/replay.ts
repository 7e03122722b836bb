/**
 * `npm run replay`: writes a file of conversations into a running cluster as an application would, reads everything back
 * through other nodes than it was written through, and says whether all of it is there, unchanged and once.
 *
 *   npm run replay -- FILE [--url http://127.0.0.1:4001,…] [--in-flight 16] [--prefix P] [--token-budget N]
 *                          [--deadline SECONDS] [--api-key KEY]
 *
 * Exit code 0 only if everything was written and reads back clean.
 */
import { randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';
import { Progress } from './replay-progress.ts';
import { compare, readBack } from './replay-check.ts';
import { ReplayClient } from './replay-client.ts';
import { ReplayFileError, readConversations } from './replay-file.ts';
import type { Conversation } from './replay-file.ts';

const DEFAULT_URLS = 'http://127.0.0.1:4001,http://127.0.0.1:4002,http://127.0.0.1:4003';
const USAGE = 'Usage: npm run replay -- FILE [--url URL,URL…] [--in-flight 16] [--prefix P] [--token-budget N] [--deadline SECONDS] [--api-key KEY]';
const SERVER_WAIT_MS = 15_000;
const CONTEXT_ID_BYTES_MAX = 256;
const PROBLEMS_SHOWN = 5;

interface Options {
  readonly file: string;
  readonly urls: readonly string[];
  readonly inFlight: number;
  readonly prefix: string;
  readonly tokenBudget: number | null;
  readonly deadlineMs: number;
  readonly apiKey: string | null;
}

/** What became of one conversation while writing. */
interface Written {
  readonly conversation: Conversation;
  readonly path: string;
  acknowledged: number;
  /** Nodes that took a write of it, by index. */
  readonly nodes: Set<number>;
  /** Why it stopped early, or null. */
  failure: string | null;
}

process.exitCode = await main();

async function main(): Promise<number> {
  const options = readOptions();
  if (typeof options === 'string') return complain(`${options}\n${USAGE}`);
  let conversations: Conversation[];
  try {
    conversations = await readConversations(options.file);
  } catch (error) {
    if (error instanceof ReplayFileError) return complain(error.message);
    throw error;
  }
  const client = new ReplayClient(options.urls, { connections: options.inFlight, deadlineMs: options.deadlineMs, apiKey: options.apiKey });
  try {
    const problem = await waitForServer(client);
    if (problem !== null) return complain(problem);
    return await replay(client, conversations, options);
  } finally {
    await client.close();
  }
}

async function replay(client: ReplayClient, conversations: readonly Conversation[], options: Options): Promise<number> {
  const total = conversations.reduce((sum, conversation) => sum + conversation.messages.length, 0);
  const runs: Written[] = conversations.map((conversation) => ({
    conversation,
    path: `/v1/contexts/${encodeURIComponent(options.prefix + conversation.id)}`,
    acknowledged: 0,
    nodes: new Set(),
    failure: null,
  }));
  const tooLong = runs.find((run) => Buffer.byteLength(options.prefix + run.conversation.id) > CONTEXT_ID_BYTES_MAX);
  if (tooLong !== undefined) return complain(`The id ${tooLong.conversation.id} with its prefix is longer than ${CONTEXT_ID_BYTES_MAX} bytes.`);

  console.log(`${conversations.length} conversations, ${total} messages -> ${options.urls.join(' ')} (prefix ${options.prefix})`);
  const latencies: number[] = [];
  const writing = new Progress('writing', total, () => client.retries);
  const started = performance.now();
  await eachOf(runs, options.inFlight, (run, index) => write(client, run, index % client.urls.length, options, latencies, writing));
  const seconds = (performance.now() - started) / 1000;
  writing.done();
  const retries = client.retries;

  const reading = new Progress('reading back', total, () => client.retries);
  const sums = { written: 0, lost: 0, changed: 0, repeated: 0 };
  const problems: string[] = [];
  await eachOf(runs, options.inFlight, async (run, index) => {
    const id = options.prefix + run.conversation.id;
    if (run.failure !== null) problems.push(`${id}: ${run.failure}`);
    sums.written += run.acknowledged;
    try {
      const found = await readBack(client, run.path, readerOf(run, index, client.urls.length));
      const sent = run.conversation.messages;
      const verdict = compare(sent.slice(0, run.acknowledged), found, run.failure === null ? null : (sent[run.acknowledged] ?? null));
      sums.lost += verdict.lost;
      sums.changed += verdict.changed;
      sums.repeated += verdict.repeated;
      if (verdict.first !== null) problems.push(`${id}: ${verdict.first}`);
    } catch (error) {
      problems.push(`${id}: could not be read back: ${messageOf(error)}`);
    }
    reading.add(run.conversation.messages.length);
  });
  reading.done();

  latencies.sort((a, b) => a - b);
  console.log(`${(sums.written / seconds).toFixed(0)} messages/s over ${seconds.toFixed(1)} s, ${options.inFlight} conversations in flight`);
  console.log(`latency ms: p50 ${percentile(latencies, 0.5)}  p95 ${percentile(latencies, 0.95)}  p99 ${percentile(latencies, 0.99)}  max ${percentile(latencies, 1)}`);
  console.log(`retries: ${retries} writing, ${client.retries - retries} reading`);
  for (const problem of problems.slice(0, PROBLEMS_SHOWN)) console.log(`problem: ${problem}`);
  if (problems.length > PROBLEMS_SHOWN) console.log(`… and ${problems.length - PROBLEMS_SHOWN} more problems`);
  if (sums.written < total) console.log(`${total - sums.written} messages were not written`);
  console.log(`${sums.written} messages written, ${sums.lost} lost, ${sums.changed} changed, ${sums.repeated} repeated`);
  return problems.length === 0 && sums.written === total && sums.lost + sums.changed + sums.repeated === 0 ? 0 : 1;
}

/** Writes one conversation, each message only after the one before was acknowledged. */
async function write(client: ReplayClient, run: Written, node: number, options: Options, latencies: number[], progress: Progress): Promise<void> {
  const { conversation } = run;
  try {
    const budget = options.tokenBudget === null ? '' : `"token_budget":${options.tokenBudget},`;
    const settings = Buffer.concat([Buffer.from(`{${budget}"metadata":`), conversation.metadata, Buffer.from('}')]);
    const created = await client.call({ method: 'PUT', path: run.path, body: settings, idempotencyKey: null }, node);
    if (created.status !== 201 && created.status !== 200) throw new Error(refusal('PUT', created));
    if (numberIn(created.body, 'last_seq') !== 0) throw new Error('the context already holds messages; choose another --prefix');
    run.nodes.add(created.node);
    for (const [i, message] of conversation.messages.entries()) {
      const sent = performance.now();
      const answer = await client.call({ method: 'POST', path: `${run.path}/messages`, body: message.body, idempotencyKey: `replay-${i + 1}` }, node);
      if (answer.status !== 201) throw new Error(`message ${i + 1}: ${refusal('POST', answer)}`);
      latencies.push(performance.now() - sent);
      run.nodes.add(answer.node);
      run.acknowledged = i + 1;
      progress.add(1);
      const seq = numberIn(answer.body, 'seq');
      if (seq !== i + 1) throw new Error(`message ${i + 1} was acknowledged as seq ${seq}`);
    }
  } catch (error) {
    run.failure = messageOf(error);
  }
}

/** A node that took none of the conversation's writes, if there is one; else the next one. */
function readerOf(run: Written, index: number, count: number): number {
  for (let step = 1; step < count; step++) {
    const node = (index + step) % count;
    if (!run.nodes.has(node)) return node;
  }
  return (index + 1) % count;
}

async function waitForServer(client: ReplayClient): Promise<string | null> {
  const until = performance.now() + SERVER_WAIT_MS;
  for (let told = false; ; ) {
    const nodes = await client.readiness();
    if (nodes.some((node) => node.problem === null)) return null;
    const listed = client.urls.map((url, i) => `  ${url}: ${nodes[i]?.problem ?? 'no answer'}`).join('\n');
    if (!nodes.some((node) => node.reachable)) return `No server answers. Start one (npm run cluster), or name it with --url.\n${listed}`;
    if (performance.now() > until) return `No node became ready within ${SERVER_WAIT_MS / 1000} s.\n${listed}`;
    if (!told) console.log('Waiting for a node to become ready');
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** Runs `work` over all items, at most `width` at a time. */
async function eachOf<T>(items: readonly T[], width: number, work: (item: T, index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let index = next++; index < items.length; index = next++) {
      const item = items[index];
      if (item !== undefined) await work(item, index);
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, lane));
}

function readOptions(): Options | string {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        url: { type: 'string', default: DEFAULT_URLS },
        'in-flight': { type: 'string', default: '16' },
        prefix: { type: 'string' },
        'token-budget': { type: 'string' },
        deadline: { type: 'string', default: '60' },
        'api-key': { type: 'string' },
      },
    });
    const [file, ...rest] = positionals;
    if (file === undefined || rest.length > 0) return 'Name one file of conversations.';
    const urls = values.url.split(',').map((url) => new URL(url.trim()).origin);
    return {
      file,
      urls,
      inFlight: positive('--in-flight', values['in-flight']),
      // A prefix of its own for each run, so that the same file can be replayed again.
      prefix: values.prefix ?? `replay-${Date.now().toString(36)}${randomBytes(2).toString('hex')}-`,
      tokenBudget: values['token-budget'] === undefined ? null : positive('--token-budget', values['token-budget']),
      deadlineMs: positive('--deadline', values.deadline) * 1000,
      apiKey: values['api-key'] ?? process.env['FASTPACA_API_KEY']?.split(',')[0] ?? null,
    };
  } catch (error) {
    return messageOf(error);
  }
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new Error(`${name} must be a whole number from 1 on, not ${text}`);
  return value;
}

function percentile(sorted: readonly number[], share: number): string {
  return (sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0).toFixed(1);
}

function numberIn(body: Buffer, field: string): number {
  const value: unknown = JSON.parse(body.toString('utf8'));
  return typeof value === 'object' && value !== null && field in value ? Number(Reflect.get(value, field)) : Number.NaN;
}

function refusal(method: string, answer: { status: number; body: Buffer }): string {
  return `${method} answered ${answer.status} ${answer.body.toString('utf8').slice(0, 300)}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function complain(text: string): number {
  console.error(text);
  return 1;
}
