/**
 * Machines with addresses and names of their own on this one: a network namespace each, joined by a bridge, and an
 * /etc/hosts that all of them read. So that what is configured with names and one port for all is tried as it stands.
 */
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../e2e/processes.ts';

/** Names of networks of this process: two test files at once must not meet. */
let networks = 0;

export class Hosts {
  readonly dir = mkdtempSync(join(tmpdir(), 'fastpaca-hosts-'));
  private readonly tag = `fp${process.pid.toString(36)}${(networks++).toString(36)}`;
  private readonly subnet = `10.${200 + (process.pid % 50)}.${(process.pid >> 6) % 250}`;
  private readonly children: { at: number; child: ChildProcess }[] = [];
  private readonly count: number;
  /** What each host wrote, by its number. */
  readonly output: string[];

  /** `names(at)`: what the host number `at` is called; a name of several hosts has several addresses. */
  constructor(count: number, names: (at: number) => readonly string[]) {
    this.count = count;
    this.output = Array.from({ length: count }, () => '');
    ip('link', 'add', this.tag, 'type', 'bridge');
    ip('addr', 'add', `${this.subnet}.254/24`, 'dev', this.tag);
    ip('link', 'set', this.tag, 'up');
    const lines = ['127.0.0.1 localhost'];
    for (let at = 0; at < count; at++) {
      const space = this.space(at);
      ip('netns', 'add', space);
      ip('link', 'add', `${this.tag}v${at}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', space);
      ip('link', 'set', `${this.tag}v${at}`, 'master', this.tag, 'up');
      ip('-n', space, 'addr', 'add', `${this.address(at)}/24`, 'dev', 'eth0');
      ip('-n', space, 'link', 'set', 'eth0', 'up');
      ip('-n', space, 'link', 'set', 'lo', 'up');
      for (const name of names(at)) lines.push(`${this.address(at)} ${name}`);
    }
    writeFileSync(join(this.dir, 'hosts'), `${lines.join('\n')}\n`);
  }

  address(at: number): string {
    return `${this.subnet}.${at + 1}`;
  }

  /** Adds a line to everybody's /etc/hosts. */
  name(line: string): void {
    appendFileSync(join(this.dir, 'hosts'), `${line}\n`);
  }

  /** Runs a command on a host as uid 10001, `/data` being a directory of that host alone, with this environment and no other. */
  start(at: number, env: Readonly<Record<string, string>>, command: readonly string[]): ChildProcess {
    const data = join(this.dir, `data-${at}`);
    mkdirSync(data, { recursive: true });
    // A file of its own on top of /etc/hosts, and a directory on /data, seen by this process and its children only.
    const script = `set -eu; mount --make-rprivate /; mount --bind ${this.dir}/hosts /etc/hosts
      mount -t tmpfs tmpfs /mnt; mkdir /mnt/data; chown 10001:10001 ${data}; mount --bind ${data} /mnt/data
      exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"`;
    const child = spawn('ip', ['netns', 'exec', this.space(at), 'unshare', '--mount', 'sh', '-c', script, 'sh', ...command], {
      env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data: Buffer) => (this.output[at] += data.toString()));
    this.children.push({ at, child });
    return child;
  }

  /** Where hosts find their `/data`. */
  static readonly DATA = '/mnt/data';

  async ready(port: number, scheme = 'http'): Promise<void> {
    const missing = new Set(Array.from({ length: this.count }, (_, at) => at));
    await until(
      'all hosts to be ready',
      async () => {
        for (const { at, child } of this.children) if (child.exitCode !== null) throw new Error(`host ${at} ended: ${this.output[at]}`);
        for (const at of missing) if ((await fetch(`${scheme}://${this.address(at)}:${port}/health/ready`).catch(() => null))?.status === 200) missing.delete(at);
        return missing.size === 0;
      },
      40_000,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}; not ready: ${[...missing].join(', ')}\n${this.output.map((text) => text.slice(-1500)).join('\n---\n')}`);
    });
  }

  /** Ends everything and takes the network down. */
  async close(): Promise<void> {
    await Promise.all(
      this.children.map(async ({ child }) => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const gone = new Promise((resolve) => child.once('exit', resolve));
        child.kill('SIGKILL');
        await gone;
      }),
    );
    for (let at = 0; at < this.count; at++) ip('netns', 'del', this.space(at));
    ip('link', 'del', this.tag);
    rmSync(this.dir, { recursive: true, force: true });
  }

  private space(at: number): string {
    return `${this.tag}n${at}`;
  }
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: 'pipe' });
}
