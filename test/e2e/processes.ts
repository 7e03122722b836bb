/**
 * Real server processes for end-to-end tests: start, wait for readiness, kill, restart, clean up by process id.
 * Owns data directories; knows the REST surface only as far as `call` needs.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from './ports.ts';

const MAIN = join(import.meta.dirname, '../../src/main.ts');
const READY_MS = 60_000;

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** Parsed body; {} when it is empty. */
  readonly json: Record<string, unknown>;
}

/** One HTTP call with a JSON body; never throws for a status. */
export async function call(url: string, method = 'GET', body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
  const init: RequestInit = { method, headers: { ...headers } };
  if (body !== undefined) {
    init.body = typeof body === 'string' ? body : JSON.stringify(body);
    init.headers = { 'content-type': 'application/json', ...headers };
  }
  const response = await fetch(url, init);
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: parse(text) };
}

function parse(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text === '' ? '{}' : text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

/** Polls `condition` until it holds; throws with `what` after `ms`, and with what `state` says then. */
export async function until(what: string, condition: () => boolean | Promise<boolean>, ms = READY_MS, state?: () => Promise<string>): Promise<void> {
  const deadline = Date.now() + ms;
  for (;;) {
    if (await condition()) return;
    if (Date.now() > deadline) throw new Error(`timed out after ${ms} ms waiting for: ${what}${state === undefined ? '' : `\n${await state()}`}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A text of so many characters that takes about as much room in a log, where large messages are compressed. */
export function noise(characters: number): string {
  return randomBytes(characters).toString('base64').slice(0, characters);
}

export class NodeProcess {
  readonly name: string;
  readonly port: number;
  readonly dir: string;
  readonly env: Record<string, string>;
  private child: ChildProcess | null = null;
  private exit: Promise<{ code: number | null; signal: NodeJS.Signals | null }> | null = null;

  constructor(name: string, port: number, dir: string, env: Record<string, string>) {
    this.name = name;
    this.port = port;
    this.dir = dir;
    this.env = env;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get pid(): number {
    const pid = this.child?.pid;
    if (pid === undefined) throw new Error(`${this.name} is not running`);
    return pid;
  }

  get logFile(): string {
    return `${this.dir}.log`;
  }

  /** `main`: of another build of the server. */
  start(extraEnv: Record<string, string> = {}, main = MAIN): void {
    const child = spawn(process.execPath, [main], { env: { PATH: process.env['PATH'] ?? '', NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'] ?? '', ...this.env, ...extraEnv }, stdio: ['ignore', 'pipe', 'pipe'] });
    const log = createWriteStream(this.logFile, { flags: 'a' });
    child.stdout?.pipe(log, { end: false });
    child.stderr?.pipe(log, { end: false });
    this.child = child;
    this.exit = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
  }

  /** Sends a signal and waits for the process to be gone. */
  async kill(signal: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    if (this.child === null || this.exit === null) throw new Error(`${this.name} is not running`);
    this.child.kill(signal);
    const result = await this.exit;
    this.child = null;
    return result;
  }

  /** Waits until the process ends by itself. */
  async exited(): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    if (this.exit === null) throw new Error(`${this.name} was never started`);
    const result = await this.exit;
    this.child = null;
    return result;
  }

  get running(): boolean {
    return this.child !== null && this.child.exitCode === null && this.child.signalCode === null;
  }

  async ready(ms = READY_MS): Promise<void> {
    const isReady = async (): Promise<boolean> => {
      if (!this.running) throw new Error(`${this.name} ended while starting: ${await this.logTail()}`);
      return (await this.readiness()).status === 200;
    };
    await until(`${this.name} to be ready`, isReady, ms, () => this.logTail());
  }

  /** The answer of /health/ready, or status 0 while nothing listens. */
  async readiness(): Promise<{ status: number; text: string }> {
    try {
      const { status, text } = await call(`${this.url}/health/ready`);
      return { status, text };
    } catch {
      return { status: 0, text: '' };
    }
  }

  async logTail(): Promise<string> {
    return (await this.log()).slice(-2000);
  }

  /** Everything this node has logged. */
  async log(): Promise<string> {
    return await readFile(this.logFile, 'utf8').catch(() => '');
  }
}

export class ClusterProcesses {
  readonly nodes: readonly NodeProcess[];
  readonly dir: string;
  private readonly added: NodeProcess[] = [];

  private constructor(nodes: readonly NodeProcess[], dir: string) {
    this.nodes = nodes;
    this.dir = dir;
  }

  /** Creates (does not start) `count` nodes that know each other as seeds. `pick` finds the port of each. */
  static async create(count: number, env: Record<string, string> = {}, pick: () => Promise<number> = freePort): Promise<ClusterProcesses> {
    const dir = await mkdtemp(join(tmpdir(), 'fastpaca-e2e-'));
    const ports = await Promise.all(Array.from({ length: count }, () => pick()));
    const seeds = ports.map((port) => `127.0.0.1:${port}`).join(',');
    const nodes = ports.map((port, i) => {
      const clusterEnv: Record<string, string> = count === 1 ? {} : { FASTPACA_CLUSTER_SEED: seeds, FASTPACA_CLUSTER_SIZE: String(count), FASTPACA_ADVERTISE: `127.0.0.1:${port}` };
      return new NodeProcess(`node-${i + 1}`, port, join(dir, `node-${i + 1}`), {
        FASTPACA_NODE_NAME: `node-${i + 1}`,
        FASTPACA_HOST: '127.0.0.1',
        FASTPACA_RAFT_DATA_DIR: join(dir, `node-${i + 1}`),
        FASTPACA_BALLAST_BYTES: '1048576',
        PORT: String(port),
        ...clusterEnv,
        ...env,
      });
    });
    return new ClusterProcesses(nodes, dir);
  }

  /** Starts all nodes and waits until each is ready. */
  static async start(count: number, env: Record<string, string> = {}): Promise<ClusterProcesses> {
    const cluster = await ClusterProcesses.create(count, env);
    try {
      for (const node of cluster.nodes) node.start();
      await cluster.ready();
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  async ready(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.ready()));
  }

  node(i: number): NodeProcess {
    const node = this.nodes[i];
    if (node === undefined) throw new RangeError(`no node ${i}`);
    return node;
  }

  /** Another node (not started) that finds the cluster by its seeds; `dir`: its data directory, empty if there is none. */
  async add(name: string, dir = join(this.dir, name)): Promise<NodeProcess> {
    const port = await freePort();
    const env = { ...this.node(0).env, FASTPACA_NODE_NAME: name, FASTPACA_RAFT_DATA_DIR: dir, PORT: String(port), FASTPACA_ADVERTISE: `127.0.0.1:${port}` };
    const node = new NodeProcess(name, port, dir, env);
    this.added.push(node);
    return node;
  }

  /** Kills what still runs and removes every file. */
  async stop(): Promise<void> {
    await Promise.all([...this.nodes, ...this.added].filter((node) => node.running).map((node) => node.kill('SIGKILL')));
    await rm(this.dir, { recursive: true, force: true });
  }
}
