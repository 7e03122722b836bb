/** etcd as a yardstick, where it is installed: three members, clients at the leader, puts through the HTTP gateway. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { freePorts, Processes } from './processes.ts';
import { endpointOf } from './types.ts';
import type { RunningSubject, Subject } from './types.ts';

const QUOTA_BYTES = 8 * 1024 ** 3;

export const etcd: Subject = {
  name: 'etcd',
  acknowledges: 'fsynced on a majority of three, Raft; the client makes up the key, no sequence number, no tokens',
  speaks: 'puts',
  start: ({ directory }) => startEtcd(directory),
};

interface Status {
  readonly leader: string;
  readonly header: { readonly member_id: string };
}

function installedVersion(): string | null {
  try {
    return /\d+\.\d+\.\d+/.exec(execFileSync('etcd', ['--version'], { encoding: 'utf8' }))?.[0] ?? 'unknown';
  } catch {
    return null;
  }
}

async function startEtcd(directory: string): Promise<RunningSubject | null> {
  const version = installedVersion();
  if (version === null) return null;
  const ports = await freePorts(6);
  const members = [0, 1, 2].map((i) => ({ name: `n${i}`, client: `http://127.0.0.1:${ports[i]}`, peer: `http://127.0.0.1:${ports[i + 3]}` }));
  const cluster = members.map(({ name, peer }) => `${name}=${peer}`).join(',');
  const processes = new Processes();
  for (const { name, client, peer } of members) {
    const flags = {
      name,
      'data-dir': join(directory, name),
      'listen-client-urls': client,
      'advertise-client-urls': client,
      'listen-peer-urls': peer,
      'initial-advertise-peer-urls': peer,
      'initial-cluster': cluster,
      'initial-cluster-state': 'new',
      'quota-backend-bytes': String(QUOTA_BYTES),
      'log-level': 'error',
    };
    processes.start('etcd', Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value]), { logFile: join(directory, `${name}.log`) });
  }
  let leader = '';
  try {
    await processes.until('etcd to have a leader', async () => {
      for (const { client } of members) {
        const status = (await (await fetch(`${client}/v3/maintenance/status`, { method: 'POST', body: '{}' })).json()) as Status;
        if (status.leader === status.header.member_id) leader = client;
      }
      return leader !== '';
    });
  } catch (error) {
    await processes.stop('SIGKILL');
    throw error;
  }
  return {
    version: `etcd ${version}`,
    urls: [leader],
    pids: () => processes.pids,
    metricsUrls: [],
    endpoints: (_contexts, route) => Promise.resolve(route === 'spread' ? [endpointOf(leader)] : null),
    restart: null,
    stop: () => processes.stop(),
  };
}
