/**
 * `npm run cluster`: three nodes on this machine, for trying the store out and for breaking it by hand. Each node is a
 * real process with its own data directory and log file; kill one and watch the others go on.
 *
 *   npm run cluster -- [--base-port 4001] [--dir data/cluster] [--fresh] [--restart]
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { VARIABLES } from '../src/config.ts';

const ROOT = resolve(import.meta.dirname, '..');
const HOST = '127.0.0.1';
const NODES = 3;
const READY_TIMEOUT_MS = 60_000;
const READY_POLL_MS = 50;
const STOP_TIMEOUT_MS = 15_000;
const RESTART_DELAY_MS = 1000;
const LOG_TAIL_LINES = 8;

interface Options {
  readonly basePort: number;
  readonly dir: string;
  readonly fresh: boolean;
  readonly restart: boolean;
}

interface Node {
  readonly name: string;
  readonly url: string;
  readonly port: number;
  readonly dataDir: string;
  readonly logFile: string;
  /** What this node has in its environment beyond this process' own. */
  readonly settings: Readonly<Record<string, string>>;
  child: ChildProcess | null;
}

const options = readOptions();
const nodes = describeNodes(options);
let stopping = false;

process.on('SIGINT', () => void stop(0));
process.on('SIGTERM', () => void stop(0));
await main();

async function main(): Promise<void> {
  for (const node of nodes) {
    if (await portIsFree(node.port)) continue;
    fail(`Port ${node.port} is in use, so ${node.name} cannot listen there. Stop what uses it (is a cluster running already?) or choose others with --base-port.`);
  }
  if (options.fresh) removeData();
  mkdirSync(options.dir, { recursive: true });
  const started = performance.now();
  for (const node of nodes) start(node);
  console.log(`Starting ${NODES} nodes; data and logs are in ${shown(options.dir)}`);
  if (!(await allReady())) return;
  console.log(`Ready in ${seconds(performance.now() - started)}: ${nodes.map((node) => node.url).join('  ')}\n`);
  console.log(walkthrough());
  for (const node of nodes) console.log(`  ${node.name}  pid ${node.child?.pid ?? '-'}  log ${shown(node.logFile)}`);
  console.log('\nKill one (kill -9 PID) and the others go on. Ctrl-C stops all three.');
}

function readOptions(): Options {
  try {
    const { values } = parseArgs({
      options: {
        'base-port': { type: 'string', default: '4001' },
        dir: { type: 'string', default: join('data', 'cluster') },
        fresh: { type: 'boolean', default: false },
        restart: { type: 'boolean', default: false },
      },
    });
    const basePort = Number(values['base-port']);
    if (!/^\d+$/.test(values['base-port']) || basePort < 1 || basePort + NODES - 1 > 65_535) {
      fail(`--base-port is ${JSON.stringify(values['base-port'])}; allowed: an integer from 1 to ${65_535 - NODES + 1}.`);
    }
    return { basePort, dir: resolve(values.dir), fresh: values.fresh, restart: values.restart };
  } catch (error) {
    fail(`${error instanceof Error ? error.message : String(error)}\nKnown: --base-port PORT, --dir DIRECTORY, --fresh (delete the data first), --restart (start a dead node again).`);
  }
}

function describeNodes({ basePort, dir }: Options): Node[] {
  const ports = Array.from({ length: NODES }, (_, at) => basePort + at);
  return ports.map((port, at) => {
    const name = `node-${at + 1}`;
    const dataDir = join(dir, name);
    return {
      name,
      url: `http://${HOST}:${port}`,
      port,
      dataDir,
      logFile: `${dataDir}.log`,
      settings: {
        PORT: String(port),
        FASTPACA_HOST: HOST,
        FASTPACA_ADVERTISE: `${HOST}:${port}`,
        FASTPACA_NODE_NAME: name,
        FASTPACA_RAFT_DATA_DIR: dataDir,
        FASTPACA_CLUSTER_SEED: ports.map((seed) => `${HOST}:${seed}`).join(','),
        FASTPACA_CLUSTER_SIZE: String(NODES),
      },
      child: null,
    };
  });
}

function start(node: Node): void {
  const log = openSync(node.logFile, 'a');
  // Detached: a Ctrl-C in the terminal reaches this process only, which then stops the nodes in order, once.
  const child = spawn(process.execPath, ['src/main.ts'], {
    cwd: ROOT,
    env: { ...process.env, ...node.settings },
    stdio: ['ignore', log, log],
    detached: true,
  });
  closeSync(log);
  node.child = child;
  child.on('error', (error) => console.error(`${node.name} could not be started: ${error.message}`));
  child.on('exit', (code, signal) => {
    node.child = null;
    if (!stopping) died(node, signal ?? `exit code ${code}`);
  });
}

function died(node: Node, how: string): void {
  console.error(`\n${node.name} died (${how}). The last lines of ${shown(node.logFile)}:`);
  for (const line of logTail(node)) console.error(`  ${line}`);
  if (options.restart) {
    console.error(`Starting it again in ${seconds(RESTART_DELAY_MS)}.`);
    setTimeout(() => void restart(node), RESTART_DELAY_MS);
    return;
  }
  if (nodes.every((other) => other.child === null)) {
    console.error('No node is left.');
    process.exit(1);
  }
  const settings = Object.entries(node.settings).map(([name, value]) => `${name}=${quoted(value)}`);
  const inherited = Object.keys(VARIABLES).filter((name) => process.env[name] !== undefined && !(name in node.settings));
  const asHere = inherited.length === 0 ? '' : `, with ${inherited.join(', ')} set as here`;
  console.error(`The others go on. To start it again (then it is yours to stop)${asHere}:\n  cd ${quoted(ROOT)} && ${settings.join(' ')} ${quoted(process.execPath)} src/main.ts >> ${quoted(node.logFile)} 2>&1 &\n`);
}

async function restart(node: Node): Promise<void> {
  if (stopping) return;
  const started = performance.now();
  start(node);
  while (node.child !== null && !stopping) {
    if ((await readiness(node)) === null) {
      console.log(`${node.name} is ready again after ${seconds(performance.now() - started)} (pid ${node.child.pid ?? '-'}).`);
      return;
    }
    await pause(READY_POLL_MS);
  }
}

/** Waits until every node is ready. Otherwise says why not, stops everything, and answers false. */
async function allReady(): Promise<boolean> {
  const deadline = performance.now() + READY_TIMEOUT_MS;
  for (;;) {
    if (stopping) return false;
    const reasons = await Promise.all(nodes.map(readiness));
    if (reasons.every((reason) => reason === null)) return true;
    const dead = nodes.some((node) => node.child === null);
    if (performance.now() > deadline || (dead && !options.restart)) {
      if (!dead) console.error(`Not ready after ${seconds(READY_TIMEOUT_MS)}:`);
      nodes.forEach((node, at) => console.error(`  ${node.name}: ${node.child === null ? 'dead' : (reasons[at] ?? 'ready')}`));
      await stop(1);
      return false;
    }
    await pause(READY_POLL_MS);
  }
}

/** null when ready, else why not. */
async function readiness(node: Node): Promise<string | null> {
  try {
    const response = await fetch(`${node.url}/health/ready`, { signal: AbortSignal.timeout(2000) });
    const body = await response.text();
    return response.ok ? null : body;
  } catch {
    return 'does not answer yet';
  }
}

/** Asks every node to stop, waits, and ends this process. A second call kills what is left. */
async function stop(code: number): Promise<void> {
  if (stopping) {
    for (const node of nodes) node.child?.kill('SIGKILL');
    return;
  }
  stopping = true;
  const running = nodes.filter((node) => node.child !== null);
  console.log(`\nStopping ${running.length} node${running.length === 1 ? '' : 's'} (again to kill)`);
  await Promise.all(running.map(stopNode));
  process.exit(code);
}

async function stopNode(node: Node): Promise<void> {
  const child = node.child;
  if (child === null) return;
  const gone = new Promise<void>((done) => child.once('exit', () => done()));
  child.kill('SIGTERM');
  const timer = setTimeout(() => {
    console.error(`${node.name} did not stop within ${seconds(STOP_TIMEOUT_MS)}; killing it.`);
    child.kill('SIGKILL');
  }, STOP_TIMEOUT_MS);
  await gone;
  clearTimeout(timer);
}

/** Only what this script made: the directory may hold other things. */
function removeData(): void {
  for (const node of nodes) {
    rmSync(node.dataDir, { recursive: true, force: true });
    rmSync(node.logFile, { force: true });
  }
}

function portIsFree(port: number): Promise<boolean> {
  return new Promise((answer) => {
    const probe = createServer();
    probe.once('error', () => answer(false));
    probe.listen(port, HOST, () => probe.close(() => answer(true)));
  });
}

function logTail(node: Node): string[] {
  if (!existsSync(node.logFile)) return ['(empty)'];
  return readFileSync(node.logFile, 'utf8').trimEnd().split('\n').slice(-LOG_TAIL_LINES);
}

function walkthrough(): string {
  const [first, second, third] = nodes;
  const json = `-H 'content-type: application/json'`;
  const key = process.env['FASTPACA_API_KEY'] === undefined ? '' : ` -H "authorization: Bearer \${FASTPACA_API_KEY%%,*}"`;
  return `Paste these; each goes to another node:

  curl -X PUT ${first?.url}/v1/contexts/demo${key} ${json} \\
    -d '{"token_budget":8000}'; echo
  curl -X POST ${second?.url}/v1/contexts/demo/messages${key} ${json} \\
    -d '{"message":{"role":"user","parts":[{"type":"text","text":"Where is my order?"}]}}'; echo
  curl ${third?.url}/v1/contexts/demo/context${key}; echo
`;
}

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** A path as short as it can be typed from here. */
function shown(path: string): string {
  const short = relative(process.cwd(), path);
  return short.startsWith('..') ? path : short;
}

function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

function fail(message: string): never {
  console.error(message);
  process.exit(1);
}
