/**
 * `npm run bench`: measures the product and its yardsticks on this machine. Starts what it measures, several times over and
 * in turns, and prints medians as markdown. `--help` lists the options; scenarios.ts says what is measured.
 */
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { isInMemory } from './measure/proc.ts';
import { parseOptions, USAGE, UsageError } from './options.ts';
import type { Options } from './options.ts';
import { loadTable, ratioTable } from './report/markdown.ts';
import { measureSubject } from './runner.ts';
import type { Measurement, RunOptions } from './runner.ts';
import { pointsOf } from './scenarios.ts';
import type { Axes, LoadScenario } from './scenarios.ts';
import { etcd } from './subjects/etcd.ts';
import { fastpaca, runningCluster } from './subjects/fastpaca.ts';
import { postgres } from './subjects/postgres.ts';
import { bare, symmetric } from './subjects/spikes.ts';
import type { Subject } from './subjects/types.ts';

/** What --quick makes of an axis: small enough that a scenario takes seconds. */
const QUICK: { readonly [axis in 'clients' | 'contexts' | 'messagesEach' | 'subscribers' | 'rate']: number } = { clients: 16, contexts: 50, messagesEach: 60, subscribers: 20, rate: 200 };

/** Progress goes to stderr, so that the tables can be sent to a file. */
function say(line: string, isTransient = false): void {
  const isTerminal = process.stderr.isTTY;
  if (isTransient && !isTerminal) return;
  process.stderr.write(`${isTerminal ? '\r\u001b[K' : ''}${line}${isTransient ? '' : '\n'}`);
}

function subjectOf(name: string): Subject {
  const found = [symmetric, bare, etcd, postgres].find((subject) => subject.name === name);
  if (found !== undefined) return found;
  if (name.includes('/')) return fastpaca(name, resolve(name));
  throw new UsageError(`--against: ${name} is not known`);
}

function subjectsOf(scenario: LoadScenario, { against, urls, pids }: Options): Subject[] {
  const product = urls.length > 0 ? runningCluster(urls, pids) : fastpaca();
  return [product, ...(against ?? scenario.against).map(subjectOf)];
}

function quickened(axes: Axes): Axes {
  const least = (values: readonly number[], bound: number): number[] => [...new Set(values.map((value) => Math.min(value, bound)))];
  return {
    ...axes,
    clients: least(axes.clients, QUICK.clients),
    contexts: least(axes.contexts, QUICK.contexts),
    messagesEach: least(axes.messagesEach, QUICK.messagesEach),
    subscribers: least(axes.subscribers, QUICK.subscribers),
    rate: [...new Set(axes.rate.map((rate) => (rate === null ? null : Math.min(rate, QUICK.rate))))],
  };
}

async function measure(scenario: LoadScenario, options: Options): Promise<Measurement[]> {
  const axes = { ...(options.isQuick ? quickened(scenario.axes) : scenario.axes), ...options.axes };
  const points = pointsOf(axes);
  const subjects = subjectsOf(scenario, options);
  const run: RunOptions = { seconds: options.seconds, warmupSeconds: options.warmupSeconds, env: options.env, profileDirectory: options.profileDirectory, say };
  const chosen = { ...scenario, nodes: options.nodes ?? scenario.nodes };
  const measured: Measurement[] = [];
  for (let pass = 1; pass <= options.runs; pass++) {
    // Every other pass backwards: nobody always comes first.
    for (const subject of pass % 2 === 1 ? subjects : subjects.toReversed()) measured.push(...(await measureSubject(chosen, points, subject, pass, run)));
  }
  return measured;
}

async function main(options: Options): Promise<void> {
  if (isInMemory(tmpdir())) say(`warning: ${tmpdir()} is a disk in memory, where syncing is free; set TMPDIR to a folder on a real disk`);
  const all: Measurement[] = [];
  for (const scenario of options.scenarios) {
    if (scenario.kind !== 'load') continue;
    const measured = await measure(scenario, options);
    all.push(...measured);
    process.stdout.write(`\n## ${scenario.title}\n\n${loadTable(measured)}\n`);
    const compared = ratioTable(measured);
    if (compared !== '') process.stdout.write(`\n${compared}\n`);
  }
  if (options.out !== null) writeFileSync(options.out, `${JSON.stringify(all, null, 1)}\n`);
}

try {
  const args = process.argv.slice(2);
  if (args.includes('--help')) process.stdout.write(USAGE);
  else await main(parseOptions(args));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`${error.message}\n\n${USAGE}`);
  process.exitCode = 2;
}
