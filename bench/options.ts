/** The command line of `npm run bench`. */
import { parseArgs } from 'node:util';
import type { Axes } from './scenarios.ts';
import { SCENARIOS } from './scenarios.ts';
import type { Scenario } from './scenarios.ts';

export interface Options {
  readonly scenarios: readonly Scenario[];
  /** Names of subjects beside the product; null: those of each scenario. */
  readonly against: readonly string[] | null;
  readonly runs: number;
  readonly seconds: number;
  readonly warmupSeconds: number;
  /** How long other work on the machine is waited out before a window. */
  readonly settleSeconds: number;
  readonly axes: Partial<Axes>;
  readonly nodes: number | null;
  /** A cluster that runs already; empty: one is started for each run. */
  readonly urls: readonly string[];
  readonly pids: readonly number[];
  readonly env: Readonly<Record<string, string>>;
  readonly isQuick: boolean;
  /** Updates the page and its files under docs/. */
  readonly writesDocs: boolean;
  /** Where to leave all measurements as JSON; null: nowhere. */
  readonly out: string | null;
  readonly profileDirectory: string | null;
  /** Messages of the restart probe. */
  readonly messages: number;
}

export const USAGE = `npm run bench -- [options]

  --scenario a,b      ${SCENARIOS.map(({ name }) => name).join(', ')}; default: all
  --against a,b       beside the product, in the same runs: symmetric, bare, ready, etcd, postgres, a path of another checkout, or none
  --runs N            passes over everything, interleaved (3); medians are reported
  --seconds S         of each measuring window (8); --warmup S before it (2)
  --settle S          wait so long at most for other work on the machine to end, before each window (20)
  --quick             one short pass over small sizes
  --clients 1,64      the same for: --contexts --messages-each --message-bytes --batch --rate --subscribers --route --operation
  --nodes N           nodes of the product, where the scenario says otherwise
  --url a,b,c         measure a cluster that runs already; --pids 1,2,3 are its processes here, for CPU and memory
  --env NAME=VALUE    setting of the product's nodes; may be repeated
  --messages N        stored messages of the restart and trimming probes (1,000,000)
  --profile DIR       leave CPU profiles of the product's nodes in DIR
  --out FILE          write all measurements as JSON
  --write             update docs/benchmarks.md, .json and .svg with the scenarios measured
`;

export class UsageError extends Error {}

/** Throws UsageError for what it does not understand. */
export function parseOptions(args: readonly string[]): Options {
  const values = read(args);
  const isQuick = values.quick === true;
  return {
    scenarios: scenariosOf(values.scenario),
    against: values.against === undefined ? null : listOf(values.against).filter((name) => name !== 'none'),
    runs: positive('runs', values.runs ?? (isQuick ? '1' : '3')),
    seconds: positive('seconds', values.seconds ?? (isQuick ? '1' : '8')),
    warmupSeconds: positive('warmup', values.warmup ?? (isQuick ? '0.3' : '2')),
    settleSeconds: values.settle === undefined ? (isQuick ? 0 : 20) : whole('settle', values.settle),
    axes: {
      ...axis('clients', numbers('clients', values.clients)),
      ...axis('contexts', numbers('contexts', values.contexts)),
      ...axis('messagesEach', numbers('messagesEach', values['messages-each'])),
      ...axis('messageBytes', numbers('messageBytes', values['message-bytes'])),
      ...axis('batch', numbers('batch', values.batch)),
      ...axis('rate', numbers('rate', values.rate)),
      ...axis('subscribers', numbers('subscribers', values.subscribers)),
      ...axis('route', words('route', values.route, ['spread', 'leader', 'follower'])),
      ...axis('operation', words('operation', values.operation, ['append', 'tail', 'window', 'mixed'])),
    },
    nodes: values.nodes === undefined ? null : positive('nodes', values.nodes),
    urls: listOf(values.url),
    pids: listOf(values.pids).map((pid) => positive('pids', pid)),
    env: Object.fromEntries((values.env ?? []).map(settingOf)),
    isQuick,
    writesDocs: values.write === true,
    out: values.out ?? null,
    profileDirectory: values.profile ?? null,
    messages: positive('messages', values.messages ?? (isQuick ? '1000' : '1000000')),
  };
}

function read(args: readonly string[]) {
  const text = { type: 'string' } as const;
  const flag = { type: 'boolean' } as const;
  try {
    return parseArgs({
      args: [...args],
      options: {
        scenario: text, against: text, runs: text, seconds: text, warmup: text, settle: text, clients: text, contexts: text, 'messages-each': text,
        'message-bytes': text, batch: text, rate: text, subscribers: text, route: text, operation: text, nodes: text, url: text, pids: text,
        env: { type: 'string', multiple: true }, out: text, profile: text, messages: text, quick: flag, write: flag,
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function listOf(text: string | undefined): string[] {
  return (text ?? '').split(',').filter((item) => item !== '');
}

function whole(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new UsageError(`--${name}: ${text} is not a whole number`);
  return value;
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new UsageError(`--${name}: ${text} is not a number above 0`);
  return value;
}

/** An axis with a list in place of the scenario's own; nothing where none is given. */
function axis<K extends keyof Axes>(name: K, list: Axes[K] | undefined): Partial<Axes> {
  const replaced: { -readonly [name in keyof Axes]?: Axes[name] } = {};
  if (list !== undefined) replaced[name] = list;
  return replaced;
}

function numbers(name: string, text: string | undefined): number[] | undefined {
  if (text === undefined) return undefined;
  return listOf(text).map((item) => whole(name, item));
}

function words<W extends string>(name: string, text: string | undefined, allowed: readonly W[]): W[] | undefined {
  if (text === undefined) return undefined;
  return listOf(text).map((word) => {
    const known = allowed.find((one) => one === word);
    if (known === undefined) throw new UsageError(`${name}: ${word} is none of ${allowed.join(', ')}`);
    return known;
  });
}

function settingOf(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw new UsageError(`--env: ${text} is not NAME=VALUE`);
  return [text.slice(0, at), text.slice(at + 1)];
}

function scenariosOf(text: string | undefined): readonly Scenario[] {
  if (text === undefined) return SCENARIOS;
  return listOf(text).map((name) => {
    const found = SCENARIOS.find((scenario) => scenario.name === name);
    if (found === undefined) throw new UsageError(`--scenario: ${name} is none of ${SCENARIOS.map((scenario) => scenario.name).join(', ')}`);
    return found;
  });
}
