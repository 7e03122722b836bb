/**
 * The long run of what test/unit/contexts-properties.test.ts and contexts-history.test.ts hold for a few seconds: sums
 * are true, budgets hold, no pair is torn, an answer is what reading the whole window would give, replicas agree byte by
 * byte, and every window of the past is told and explained as it was live.
 *
 *   node test/property/windows.ts [--cases 1000000] [--seed N] [--workers 2]
 *
 * A case is one window checked. Each worker takes histories of its own seeds; a failure prints the smallest history that
 * shows it and the seed that repeats it. Exit code 0 only if every window was right.
 */
import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import fc from 'fast-check';
import { MemoryRows, policy, put } from '../unit/contexts-fixture.ts';
import { checkHistory, commands, replay } from '../unit/contexts-model.ts';
import type { Command } from '../../src/contexts/types.ts';

/** Histories between two reports of a worker, run from one seed. */
const BATCH = 25;
const REPORT_MS = 10_000;

interface Done {
  readonly windows: number;
  readonly overBudget: number;
  readonly histories: number;
}

/** Applies the commands once more, from copies: a second replica. */
function assertReplicasAgree(given: readonly Command[], first: MemoryRows): void {
  const second = new MemoryRows();
  for (const command of [put({ tokenBudget: 300, policy: policy({ limit: 12 }) }), ...given]) second.run(structuredClone(command));
  assert.deepEqual(second.stored, first.stored);
}

function runBatch(seed: number): Done {
  const done = { windows: 0, overBudget: 0, histories: 0 };
  fc.assert(
    fc.property(commands, fc.nat(300), (given, budget) => {
      const rows = replay(given, budget);
      const again = checkHistory(given, budget);
      assertReplicasAgree(given, rows);
      done.windows += rows.windows + again.windows;
      done.overBudget += rows.overBudget + again.overBudget;
      done.histories++;
    }),
    { numRuns: BATCH, seed },
  );
  return done;
}

function work(first: number, step: number): void {
  for (let seed = first; ; seed += step) parentPort?.postMessage({ seed, ...runBatch(seed) });
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { cases: { type: 'string', default: '1000000' }, seed: { type: 'string' }, workers: { type: 'string', default: '2' } } });
  const wanted = Number(values.cases);
  const count = Number(values.workers);
  const seed = values.seed === undefined ? Date.now() % 0x3fff_ffff : Number(values.seed);
  if (!Number.isSafeInteger(wanted) || !Number.isSafeInteger(count) || !Number.isSafeInteger(seed) || count < 1) throw new Error('--cases, --seed and --workers are whole numbers');
  const began = performance.now();
  const sum = { windows: 0, overBudget: 0, histories: 0 };
  const line = (): string => {
    const seconds = (performance.now() - began) / 1000;
    return `${sum.windows} windows of ${sum.histories} histories, ${sum.overBudget} of them over budget and flagged so, in ${seconds.toFixed(0)} s`;
  };
  console.log(`seed ${seed}, ${count} workers, ${wanted} windows`);
  const progress = setInterval(() => console.log(line()), REPORT_MS);
  const workers = Array.from({ length: count }, (_, i) => new Worker(import.meta.filename, { workerData: { first: seed + i, step: count } }));
  try {
    await new Promise<void>((resolve, reject) => {
      for (const worker of workers) {
        worker.on('error', reject);
        worker.on('message', (done: Done) => {
          sum.windows += done.windows;
          sum.overBudget += done.overBudget;
          sum.histories += done.histories;
          if (sum.windows >= wanted) resolve();
        });
      }
    });
    console.log(`${line()}: all as they should be`);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    if (error instanceof Error && error.cause instanceof Error) console.error(error.cause.message);
    process.exitCode = 1;
  } finally {
    clearInterval(progress);
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

if (isMainThread) await main();
else work(workerData.first, workerData.step);
