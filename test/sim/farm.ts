/**
 * Runs many seeds over worker threads and adds up what happened. Every seed is independent, so the order in which
 * workers take them changes nothing.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { Mutant } from './mutants.ts';
import type { RunResult } from './run.ts';

export interface FarmOptions {
  readonly from: number;
  readonly seeds: number;
  readonly mutant?: Mutant | undefined;
  /** Stop at the first violation: enough to see that a mutant is caught. */
  readonly stopAtViolation?: boolean;
  readonly onProgress?: (done: number) => void;
}

export interface Finding {
  readonly seed: number;
  readonly violation: string;
}

export interface FarmSummary {
  readonly seeds: number;
  readonly steps: number;
  readonly acks: number;
  readonly reads: number;
  /** Seeds that ran a second time and came out the same. */
  readonly repeated: number;
  readonly convergeTicksMax: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly findings: readonly Finding[];
}

/** What a worker is given: it runs `from`, `from + stride`, ... below `to`. */
export interface WorkerTask {
  readonly from: number;
  readonly to: number;
  readonly stride: number;
  readonly mutant: Mutant | undefined;
}

/** What a worker reports per seed. */
export interface WorkerReport {
  readonly result: RunResult;
  /** Set when the seed was run twice. */
  readonly repeatedHash: number | null;
}

/** Runs `seeds` seeds beginning at `from`. Rejects only if a worker itself dies. */
export async function runFarm(options: FarmOptions): Promise<FarmSummary> {
  const { from, seeds, mutant, stopAtViolation = false, onProgress } = options;
  const faults: Record<string, number> = {};
  const findings: Finding[] = [];
  const sum = { seeds: 0, steps: 0, acks: 0, reads: 0, repeated: 0, convergeTicksMax: 0 };
  const stride = Math.max(1, Math.min(availableParallelism(), seeds));

  function take({ result, repeatedHash }: WorkerReport): void {
    sum.seeds += 1;
    sum.steps += result.steps;
    sum.acks += result.acks;
    sum.reads += result.reads;
    sum.convergeTicksMax = Math.max(sum.convergeTicksMax, result.convergeTicks);
    for (const [fault, count] of Object.entries(result.faults)) faults[fault] = (faults[fault] ?? 0) + count;
    if (result.violation !== null) findings.push({ seed: result.seed, violation: result.violation });
    if (repeatedHash !== null) sum.repeated += 1;
    if (repeatedHash !== null && repeatedHash !== result.hash) findings.push({ seed: result.seed, violation: 'two runs of this seed differ' });
    onProgress?.(sum.seeds);
  }

  const workers = Array.from({ length: stride }, (_, at) => {
    const task: WorkerTask = { from: from + at, to: from + seeds, stride, mutant };
    return new Worker(new URL('./worker.ts', import.meta.url), { workerData: task });
  });
  await Promise.all(
    workers.map(
      (worker) =>
        new Promise<void>((resolve, reject) => {
          worker.on('message', (report: WorkerReport) => {
            take(report);
            if (stopAtViolation && findings.length > 0) for (const each of workers) void each.terminate();
          });
          worker.on('error', reject);
          worker.on('exit', () => resolve());
        }),
    ),
  );
  return { ...sum, faults, findings: findings.sort((a, b) => a.seed - b.seed) };
}
