/**
 * `npm run bench`: measures the product and its yardsticks on this machine. Starts what it measures, several times over and
 * in turns, and prints medians as markdown. `--help` lists the options; scenarios.ts says what is measured.
 */
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { isInMemory } from './measure/proc.ts';
import { parseOptions, USAGE, UsageError } from './options.ts';
import type { Options } from './options.ts';
import { PROBES } from './probes.ts';
import type { ProbeFigure } from './probes.ts';
import { chart } from './report/chart.ts';
import { section, writePage } from './report/page.ts';
import { machineName, mergeEntries, readEntries, writeEntries } from './report/results.ts';
import type { Entry } from './report/results.ts';
import { growths, ratios, summarise } from './report/summary.ts';
import { measureSubject } from './runner.ts';
import type { Measurement, RunOptions } from './runner.ts';
import { pointsOf, SCENARIOS } from './scenarios.ts';
import type { Axes, LoadScenario, ProbeScenario } from './scenarios.ts';
import { etcd } from './subjects/etcd.ts';
import { fastpaca, runningCluster } from './subjects/fastpaca.ts';
import { postgres } from './subjects/postgres.ts';
import { bare, ready, symmetric } from './subjects/spikes.ts';
import type { Subject } from './subjects/types.ts';

const DOCS = resolve(import.meta.dirname, '../docs');
/** The scenario that the chart shows. */
const CHARTED = 'append';
const PROBE_NODES = 3;

/** What --quick makes of an axis: small enough that a scenario takes seconds. */
const QUICK: { readonly [axis in 'clients' | 'contexts' | 'messagesEach' | 'subscribers' | 'rate']: number } = { clients: 16, contexts: 50, messagesEach: 60, subscribers: 20, rate: 200 };

/** Progress goes to stderr, so that the tables can be sent to a file. */
function say(line: string, isTransient = false): void {
  const isTerminal = process.stderr.isTTY;
  if (isTransient && !isTerminal) return;
  process.stderr.write(`${isTerminal ? '\r\u001b[K' : ''}${line}${isTransient ? '' : '\n'}`);
}

function subjectOf(name: string): Subject {
  const found = [symmetric, bare, ready, etcd, postgres].find((subject) => subject.name === name);
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

async function measureLoad(scenario: LoadScenario, options: Options, run: RunOptions): Promise<Measurement[]> {
  const points = pointsOf({ ...(options.isQuick ? quickened(scenario.axes) : scenario.axes), ...options.axes });
  const subjects = subjectsOf(scenario, options);
  const chosen = { ...scenario, nodes: options.nodes ?? scenario.nodes };
  const measured: Measurement[] = [];
  for (let pass = 1; pass <= options.runs; pass++) {
    // Every other pass backwards: nobody always comes first.
    for (const subject of pass % 2 === 1 ? subjects : subjects.toReversed()) measured.push(...(await measureSubject(chosen, points, subject, pass, run)));
  }
  return measured;
}

async function measureProbe({ name }: ProbeScenario, options: Options, run: RunOptions): Promise<ProbeFigure[]> {
  const figures: ProbeFigure[] = [];
  const probe = { ...run, nodes: options.nodes ?? PROBE_NODES, messages: options.messages };
  for (let pass = 1; pass <= options.runs; pass++) figures.push(...(await PROBES[name](pass, probe)));
  return figures;
}

async function main(args: readonly string[]): Promise<void> {
  const options = parseOptions(args);
  if (isInMemory(tmpdir())) say(`warning: ${tmpdir()} is a disk in memory, where syncing is free; set TMPDIR to a folder on a real disk`);
  const run: RunOptions = { seconds: options.seconds, warmupSeconds: options.warmupSeconds, settleSeconds: options.settleSeconds, env: options.env, profileDirectory: options.profileDirectory, say };
  const everything: { measurements: Measurement[]; figures: ProbeFigure[] } = { measurements: [], figures: [] };
  for (const scenario of options.scenarios) {
    const measurements = scenario.kind === 'load' ? await measureLoad(scenario, options, run) : [];
    const figures = scenario.kind === 'probe' ? await measureProbe(scenario, options, run) : [];
    const entry: Entry = {
      name: scenario.name,
      title: scenario.title,
      date: new Date().toISOString().slice(0, 10),
      command: commandOf(scenario.name, args),
      machine: machineName(),
      runs: options.runs,
      seconds: options.seconds,
      rows: summarise(measurements),
      ratios: [...ratios(measurements), ...(scenario.kind === 'load' && scenario.grows !== null ? growths(measurements, scenario.grows) : [])],
      figures,
    };
    process.stdout.write(`\n${section(entry)}\n`);
    // After each scenario: a run that is cut short keeps what it has.
    if (options.writesDocs) keep(entry);
    everything.measurements.push(...measurements);
    everything.figures.push(...figures);
    if (options.out !== null) writeFileSync(options.out, `${JSON.stringify(everything, null, 1)}\n`);
  }
}

/** What repeats this scenario alone. */
function commandOf(name: string, args: readonly string[]): string {
  const rest = args.filter((arg, i) => arg !== '--scenario' && args[i - 1] !== '--scenario' && !arg.startsWith('--scenario=') && arg !== '--write');
  return ['--scenario', name, ...rest].join(' ');
}

function keep(entry: Entry): void {
  const file = (ending: string): string => join(DOCS, `benchmarks.${ending}`);
  const entries = mergeEntries(readEntries(file('json')), [entry], SCENARIOS.map(({ name }) => name));
  writeEntries(file('json'), entries);
  writePage(file('md'), entries);
  const appends = entries.find(({ name }) => name === CHARTED);
  if (appends !== undefined) writeFileSync(file('svg'), chart(appends.rows));
}

// Servers are killed and their files removed as this process exits, which a signal alone would not make it do.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

try {
  const args = process.argv.slice(2);
  if (args.includes('--help')) process.stdout.write(USAGE);
  else await main(args);
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`${error.message}\n\n${USAGE}`);
  process.exitCode = 2;
}
