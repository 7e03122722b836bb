/** Procedures that are not a load: what nodes cost while nobody asks for anything, and how soon they are back. */
import { runPrepare } from './load/run.ts';
import { sampleProcesses } from './measure/proc.ts';
import type { ProbeName } from './scenarios.ts';
import { onSubject } from './runner.ts';
import type { RunOptions } from './runner.ts';
import { trimming } from './trimming.ts';
import { fastpaca } from './subjects/fastpaca.ts';

/** One figure of one pass, of one node. */
export interface ProbeFigure {
  readonly scenario: ProbeName;
  readonly what: string;
  readonly unit: 'ms' | 'MiB' | '% of a core' | '/s' | 'files' | '×' | 's';
  readonly run: number;
  readonly value: number;
}

export interface ProbeOptions extends RunOptions {
  readonly nodes: number;
  /** Messages that a restart finds on disk. */
  readonly messages: number;
}

const SETTINGS = '{"token_budget":1000000}';
/** After a start or a load, in warm-ups: garbage is collected and rows are flushed. */
const REST_WARMUPS = 3;
const MESSAGE_BYTES = 440;
const MESSAGES_EACH = 1000;
const MiB = 1024 ** 2;

type Probe = (run: number, options: ProbeOptions) => Promise<ProbeFigure[]>;

export const PROBES: Readonly<Record<ProbeName, Probe>> = { idle, restart, trimming };

const pause = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** CPU and memory of each node: after the start, and again once each has counted the tokens of a message. */
async function idle(run: number, options: ProbeOptions): Promise<ProbeFigure[]> {
  return onSubject(fastpaca(), options.nodes, options, async (running) => {
    const figures: ProbeFigure[] = [];
    const rest = async (when: string): Promise<void> => {
      await pause(options.warmupSeconds * REST_WARMUPS);
      const pids = running.pids();
      const before = pids.map((pid) => sampleProcesses([pid]));
      const start = performance.now();
      await pause(options.seconds);
      const seconds = (performance.now() - start) / 1000;
      pids.forEach((pid, i) => {
        const [first, last] = [before[i], sampleProcesses([pid])];
        if (first === null || first === undefined || last === null) return;
        const cpu = ((last.cpuSeconds - first.cpuSeconds) / seconds) * 100;
        figures.push({ scenario: 'idle', what: `CPU of a node ${when}`, unit: '% of a core', run, value: cpu });
        figures.push({ scenario: 'idle', what: `memory of a node ${when}`, unit: 'MiB', run, value: last.residentBytes / MiB });
      });
      options.say(`idle ${when}, run ${run}: ${figures.slice(-2 * pids.length).map(({ value, unit }) => `${value.toFixed(1)} ${unit}`).join(', ')}`);
    };
    await rest('after the start');
    // The node that takes an append counts its tokens, so each gets one.
    for (const [i, endpoint] of ((await running.endpoints({ prefix: 'idle', count: 1 }, 'spread')) ?? []).entries()) {
      const contexts = { prefix: `idle-${i}`, count: 1 };
      await runPrepare({ kind: 'prepare', endpoints: [endpoint], contexts, messagesEach: 1, messageBytes: MESSAGE_BYTES, settings: SETTINGS }, () => undefined);
    }
    await rest('with the tokenizer loaded');
    return figures;
  });
}

/** Milliseconds until every node is ready again over many messages, after a clean stop and after a kill. */
async function restart(run: number, options: ProbeOptions): Promise<ProbeFigure[]> {
  return onSubject(fastpaca(), options.nodes, options, async (running) => {
    const figures: ProbeFigure[] = [];
    const contexts = { prefix: 'restart', count: Math.max(1, Math.round(options.messages / MESSAGES_EACH)) };
    const endpoints = (await running.endpoints(contexts, 'spread')) ?? [];
    const messagesEach = Math.min(MESSAGES_EACH, options.messages);
    await runPrepare({ kind: 'prepare', endpoints, contexts, messagesEach, messageBytes: MESSAGE_BYTES, settings: SETTINGS }, (done, total) =>
      options.say(`restart, run ${run}: filling, ${Math.floor((done / total) * 100)}%`, true),
    );
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      const ms = await running.restart?.(signal);
      if (ms === undefined) continue;
      figures.push({ scenario: 'restart', what: `ready with ${options.messages.toLocaleString('en')} messages after ${signal}`, unit: 'ms', run, value: ms });
      options.say(`restart after ${signal}, run ${run}: ${Math.round(ms)} ms`);
    }
    return figures;
  });
}
