/** Starts the load generator's process for one job and waits for what it reports. */
import { fork } from 'node:child_process';
import { join } from 'node:path';
import type { Job, LoadJob, LoadResult, Over, PrepareJob, Report } from './job.ts';

type Progress = (done: number, total: number) => void;

/** Resolves with the last report; throws the reason where the job failed or the process died. */
function perform(job: Job, progress: Progress, over?: Promise<unknown>): Promise<Report> {
  const child = fork(join(import.meta.dirname, 'generator.ts'), { serialization: 'advanced', execArgv: [] });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => reject(new Error(`the load generator ended by itself (${signal ?? code})`)));
    child.on('message', (message) => {
      const report = message as Report;
      if (report.kind === 'progress') progress(report.done, report.total);
      else if (report.kind === 'failed') reject(new Error(report.reason));
      else resolve(report);
    });
    child.send(job);
    // A failure of whoever says so is that caller's to report.
    const tell = (): void => void (child.connected && child.send({ kind: 'over' } satisfies Over));
    over?.then(tell, tell);
  });
}

/** `over`: ends the window before its seconds have passed. `progress` is told at once when the window opens. */
export async function runLoad(job: LoadJob, progress: Progress, over?: Promise<unknown>): Promise<LoadResult> {
  const report = await perform(job, progress, over);
  if (report.kind !== 'result') throw new Error('the load generator reported no result');
  return report.result;
}

export async function runPrepare(job: PrepareJob, progress: Progress): Promise<void> {
  await perform(job, progress);
}
