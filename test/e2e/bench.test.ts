/** `npm run bench` from end to end, small: every figure is there and every request succeeded. No times are judged. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import type { LoadResult } from '../../bench/load/job.ts';
import type { Measurement } from '../../bench/runner.ts';

const run = promisify(execFile);
const MAIN = join(import.meta.dirname, '../../bench/main.ts');

let directory = '';
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'fastpaca-bench-test-'));
});
after(() => rm(directory, { recursive: true, force: true }));

interface Outcome {
  readonly printed: string;
  readonly measurements: readonly Measurement[];
}

async function bench(...args: string[]): Promise<Outcome> {
  const out = join(directory, 'out.json');
  const { stdout } = await run(process.execPath, [MAIN, '--quick', '--seconds', '0.5', '--clients', '4', '--out', out, ...args]);
  const { measurements } = JSON.parse(await readFile(out, 'utf8')) as { measurements: Measurement[] };
  return { printed: stdout, measurements };
}

function assertSound(name: string, result: LoadResult): void {
  assert.deepEqual(result.errorKinds, {}, `${name}: requests failed`);
  assert.equal(result.unanswered, 0, `${name}: requests stayed unanswered`);
  assert.ok(result.requests > 0 && result.units >= result.requests, `${name}: nothing was answered`);
  const { p50 = NaN, p95 = NaN, p99 = NaN, p999 = NaN, max = NaN } = result.latency ?? {};
  assert.ok(p50 > 0 && p50 <= p95 && p95 <= p99 && p99 <= p999 && p999 <= max, `${name}: percentiles ${JSON.stringify(result.latency)}`);
  if (process.platform !== 'linux') return;
  for (const figure of ['serverCpuSeconds', 'serverResidentBytes', 'otherCpuSeconds'] as const) assert.ok((result[figure] ?? -1) >= 0, `${name}: no ${figure}`);
  assert.ok((result.serverResidentBytes ?? 0) > 10_000_000, `${name}: the servers' memory`);
}

test('appends to three nodes are measured beside both spikes', async () => {
  const { printed, measurements } = await bench('--scenario', 'append', '--against', 'symmetric,bare');
  assert.deepEqual(measurements.map(({ subject }) => subject), ['fastpaca', 'symmetric', 'bare']);
  for (const { subject, result } of measurements) assertSound(subject, result);
  const nodes = measurements[0]?.result.nodes;
  assert.ok(nodes !== null && nodes !== undefined && nodes.appended > 0 && nodes.syncs > 0, 'the nodes say what they appended and synced');
  assert.match(printed, /\| 4 clients \| fastpaca \|/);
  assert.match(printed, /\| 4 clients \| symmetric \| \d+\.\d\d×/, 'a ratio to the spike');
});

test('batches, reads and mixed loads are measured', async () => {
  const { measurements } = await bench('--scenario', 'batches', '--nodes', '1', '--operation', 'append,tail,window,mixed', '--messages-each', '3', '--batch', '5');
  const results = new Map(measurements.map(({ point, result }) => [point.operation, result]));
  assert.deepEqual([...results.keys()], ['append', 'tail', 'window', 'mixed']);
  for (const [operation, result] of results) assertSound(operation, result);
  const { append, tail } = Object.fromEntries(results);
  assert.equal(append?.units, (append?.requests ?? 0) * 5, 'messages are counted, not calls');
  assert.ok((tail?.answerBytes ?? 0) / (tail?.requests ?? 1) > 3 * 440, 'a tail read brings the messages that were filled in');
});

test('a fixed rate and streams are measured', async () => {
  const { measurements } = await bench('--scenario', 'open,fanout', '--nodes', '1', '--rate', '100', '--subscribers', '10');
  assert.deepEqual(measurements.map(({ scenario }) => scenario), ['open', 'fanout']);
  for (const { scenario, result } of measurements) assertSound(scenario, result);
  const [open, fanout] = measurements.map(({ result }) => result);
  // A machine that is late catches up; as fast as answers come it would be thousands.
  assert.ok((open?.requests ?? 0) > 0 && (open?.requests ?? 0) < 300 * (open?.seconds ?? 0), `100 a second, not ${open?.requests} in ${open?.seconds} s`);
  assert.ok((fanout?.frames ?? 0) > 0 && (fanout?.frameLatency?.p50 ?? 0) > 0, 'frames are counted and timed');
});

test('what it does not understand it says, with the usage', async () => {
  const refused = await run(process.execPath, [MAIN, '--scenario', 'apend']).catch((error: { code: number; stderr: string }) => error);
  assert.equal('code' in refused ? refused.code : 0, 2);
  assert.match(refused.stderr, /apend is none of append/);
});
