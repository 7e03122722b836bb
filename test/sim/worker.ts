/** A thread of the farm: runs its share of the seeds, some of them twice to see that nothing depends on chance. */
import { parentPort, workerData } from 'node:worker_threads';
import type { WorkerReport, WorkerTask } from './farm.ts';
import { runSeed } from './run.ts';

const REPEAT_EVERY = 50;

const task: WorkerTask = workerData;
for (let seed = task.from; seed < task.to; seed += task.stride) {
  const result = runSeed({ seed, mutant: task.mutant });
  const repeatedHash = seed % REPEAT_EVERY === 0 && task.mutant === undefined ? runSeed({ seed }).hash : null;
  const report: WorkerReport = { result, repeatedHash };
  parentPort?.postMessage(report);
}
