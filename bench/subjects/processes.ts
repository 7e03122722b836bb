/** Server processes of a subject: started with a log file each, stopped together by process id, never left behind. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { AddressInfo } from 'node:net';

const STOP_MS = 10_000;
const POLL_MS = 50;
const LOG_TAIL_BYTES = 2000;

export interface SpawnOptions {
  readonly logFile: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  /** Runs as this user; for programs that refuse to be root. */
  readonly user?: { readonly uid: number; readonly gid: number } | null;
}

interface Started {
  readonly child: ChildProcess;
  readonly logFile: string;
  readonly exit: Promise<void>;
}

export class Processes {
  readonly #started: Started[] = [];
  readonly #killAll = (): void => this.#started.forEach(({ child }) => child.kill('SIGKILL'));

  constructor() {
    // Before their files are removed.
    process.prependListener('exit', this.#killAll);
  }

  start(command: string, args: readonly string[], { logFile, env, cwd, user }: SpawnOptions): ChildProcess {
    const log = openSync(logFile, 'a');
    const child = spawn(command, args, {
      stdio: ['ignore', log, log],
      env: { ...process.env, ...env },
      ...(cwd === undefined ? {} : { cwd }),
      ...(user ?? {}),
    });
    closeSync(log);
    const exit = new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      child.once('error', () => resolve());
    });
    this.#started.push({ child, logFile, exit });
    return child;
  }

  get pids(): number[] {
    return this.#started.flatMap(({ child }) => child.pid ?? []);
  }

  /** Polls until `condition` holds. Throws when a process ends meanwhile, with the end of its log, or after `ms`. */
  async until(what: string, condition: () => Promise<boolean>, ms = 60_000): Promise<void> {
    const deadline = performance.now() + ms;
    for (;;) {
      const ended = this.#started.find(({ child }) => child.exitCode !== null || child.signalCode !== null || child.pid === undefined);
      if (ended !== undefined) throw new Error(`${ended.child.spawnfile} ended while waiting for ${what}: ${logTail(ended.logFile)}`);
      if (await condition().catch(() => false)) return;
      if (performance.now() > deadline) throw new Error(`timed out after ${ms} ms waiting for ${what}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Asks all to stop and kills what does not. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await Promise.all(
      this.#started.toReversed().map(async ({ child, exit }) => {
        if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
        child.kill(signal);
        const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
        await exit;
        clearTimeout(timer);
      }),
    );
    this.#started.length = 0;
    process.off('exit', this.#killAll);
  }
}

function logTail(file: string): string {
  return readFileSync(file, 'utf8').slice(-LOG_TAIL_BYTES);
}

/** `count` ports that nobody listens on right now. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Whether something listens at `port` of this machine. */
export function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
