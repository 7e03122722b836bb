/**
 * Carries out a Dockerfile without a Docker engine: each stage is this machine's root with a layer of its own on top
 * (overlayfs in a mount namespace), so RUN, COPY and the entry point are those of the file. What differs from an image:
 * the base is this machine instead of the named one, with this repository's Node put where Node's image has it.
 */
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join, matchesGlob, relative } from 'node:path';
import { promisify } from 'node:util';
import { ROOT } from './tools.ts';

const run = promisify(execFile);

export interface Instruction {
  readonly name: string;
  readonly text: string;
}

export interface Stage {
  readonly base: string;
  readonly name: string;
  readonly instructions: readonly Instruction[];
}

/** Stages in order; ARG of the preamble are filled into FROM. Comments and continuations are taken out. */
export function parseDockerfile(text: string): Stage[] {
  const lines = text.replace(/^\s*#.*\n/gm, '').replace(/\\\n/g, ' ').split('\n').map((line) => line.trim()).filter((line) => line !== '');
  const args = new Map<string, string>();
  const stages: { base: string; name: string; instructions: Instruction[] }[] = [];
  for (const line of lines) {
    const [, name = '', rest = ''] = /^(\S+)\s+(.*)$/.exec(line) ?? [];
    const text = rest.replace(/\s+/g, ' ');
    if (name === 'ARG' && stages.length === 0) args.set(text.split('=')[0] ?? '', text.slice(text.indexOf('=') + 1));
    else if (name === 'FROM') {
      const [base = '', stage = ''] = text.split(' AS ');
      stages.push({ base: base.replace(/\$\{(\w+)\}/g, (_, arg: string) => args.get(arg) ?? ''), name: stage, instructions: [] });
    } else stages.at(-1)?.instructions.push({ name, text });
  }
  return stages;
}

/** Copies what .dockerignore lets through: the last pattern that matches a path, or a folder above it, decides. */
export function copyContext(to: string): void {
  const patterns = readFileSync(join(ROOT, '.dockerignore'), 'utf8').split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const isIgnored = (path: string): boolean => {
    const folders = path.split('/').map((_, depth, parts) => parts.slice(0, depth + 1).join('/'));
    const last = patterns.findLast((pattern) => folders.some((folder) => matchesGlob(folder, pattern.replace(/^!/, ''))));
    return last !== undefined && !last.startsWith('!');
  };
  for (const top of readdirSync(ROOT)) {
    if (top === '.git' || top === 'node_modules') continue;
    for (const path of statSync(join(ROOT, top)).isDirectory() ? readdirSync(join(ROOT, top), { recursive: true, encoding: 'utf8' }).map((name) => join(top, name)) : [top]) {
      if (path.includes('node_modules') || isIgnored(path) || !statSync(join(ROOT, path)).isFile()) continue;
      cpSync(join(ROOT, path), join(to, path));
    }
  }
}

/** What the last stage says about the container, as Docker would read it. */
export interface Image {
  readonly root: Layer;
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string;
  readonly user: string;
  readonly volume: string;
  readonly entrypoint: readonly string[];
  readonly healthcheck: readonly string[];
}

/** A writable layer over this machine's root. */
export class Layer {
  readonly dir: string;

  constructor(dir: string) {
    this.dir = dir;
    for (const name of ['upper', 'work', 'merged']) mkdirSync(join(dir, name), { recursive: true });
  }

  /** Path in this layer of what `path` names inside. */
  of(path: string): string {
    return join(this.dir, 'upper', path);
  }

  /** Shell lines that mount it; afterwards `$root` is its top. */
  get mount(): string {
    const { dir } = this;
    return `set -eu; mount --make-rprivate /; root=${dir}/merged
      mount -t overlay overlay -o lowerdir=/,upperdir=${dir}/upper,workdir=${dir}/work $root
      mount --bind /dev $root/dev; mount -t proc proc $root/proc`;
  }

  /** Runs shell lines as root inside. */
  async sh(lines: string, cwd: string, env: Readonly<Record<string, string>>): Promise<void> {
    const script = `${this.mount}\nexec chroot $root sh -euc 'cd "$1" && shift && eval "$1"' sh "$1" "$2"`;
    await run('unshare', ['--mount', '--pid', '--fork', 'sh', '-c', script, 'sh', cwd, lines], { env: { ...PLAIN, ...env }, maxBuffer: 1 << 24 });
  }
}

const PLAIN = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root' };

/** Carries out all stages below `dir`. */
export async function buildImage(dir: string, nodeBinary: string): Promise<Image> {
  const context = join(dir, 'context');
  mkdirSync(context);
  copyContext(context);
  const layers = new Map<string, Layer>();
  let image: Image | null = null;
  for (const [at, stage] of parseDockerfile(readFileSync(join(ROOT, 'Dockerfile'), 'utf8')).entries()) {
    const root = new Layer(join(dir, `stage-${at}`));
    layers.set(stage.name, root);
    // Neither may be there because this machine has it.
    await root.sh('rm -rf /app /data', '/', {});
    if (stage.base.startsWith('node:')) cpSync(nodeBinary, root.of('usr/local/bin/node'));
    image = await carryOut(stage, root, { context, layers });
  }
  if (image === null) throw new Error('the Dockerfile has no stage');
  return image;
}

async function carryOut(stage: Stage, root: Layer, from: { context: string; layers: ReadonlyMap<string, Layer> }): Promise<Image> {
  const env: Record<string, string> = {};
  const image = { workdir: '/', user: '0:0', volume: '', entrypoint: [] as string[], healthcheck: [] as string[] };
  for (const { name, text } of stage.instructions) {
    switch (name) {
      case 'WORKDIR':
        image.workdir = text;
        mkdirSync(root.of(text), { recursive: true });
        break;
      case 'RUN':
        await root.sh(text, image.workdir, env);
        break;
      case 'COPY': {
        const [, stageName, paths = ''] = /^(?:--from=(\S+) )?(.*)$/.exec(text) ?? [];
        const words = paths.split(' ');
        const to = words.pop() ?? '';
        const source = stageName === undefined ? from.context : from.layers.get(stageName)?.of('/');
        if (source === undefined) throw new Error(`COPY from a stage that is not there: ${stageName}`);
        for (const word of words) copy(join(source, word), root.of(join(to.startsWith('/') ? '/' : image.workdir, to)), to.endsWith('/'));
        break;
      }
      case 'ENV':
        for (const pair of text.split(' ')) env[pair.split('=')[0] ?? ''] = pair.slice(pair.indexOf('=') + 1);
        break;
      case 'VOLUME':
        image.volume = text;
        break;
      case 'USER':
        image.user = text;
        break;
      case 'ENTRYPOINT':
        image.entrypoint = words(text);
        break;
      case 'HEALTHCHECK':
        image.healthcheck = words(text.slice(text.indexOf('CMD ') + 4));
        break;
      case 'EXPOSE':
      case 'STOPSIGNAL':
        break;
      default:
        throw new Error(`this test does not know ${name}: teach it, so that the file stays tried`);
    }
  }
  return { root, env, ...image };
}

function copy(source: string, target: string, isFolder: boolean): void {
  if (!existsSync(source)) throw new Error(`COPY of what is not there: ${source}`);
  const to = isFolder ? join(target, source.slice(source.lastIndexOf('/') + 1)) : target;
  cpSync(source, to, { recursive: true, verbatimSymlinks: true });
}

/** The JSON form only: the shell form would put a shell between Docker's signals and the server. */
function words(json: string): string[] {
  const list: unknown = JSON.parse(json);
  if (!Array.isArray(list)) throw new Error(`not a list: ${json}`);
  return list.map(String);
}

/** A running container: the image's root read-only, its volume writable, its user without any privilege, as process 1. */
export class Container {
  readonly child: ChildProcess;
  private readonly image: Image;
  output = '';

  constructor(image: Image, options: { volume: string; env: Readonly<Record<string, string>>; arguments?: readonly string[] }) {
    this.image = image;
    const script = `${image.root.mount}
      mount --bind ${options.volume} $root${image.volume}
      mount -o remount,bind,ro /dev $root/dev
      mount -o remount,ro overlay $root
      exec ${enter(image)}`;
    const args = ['--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', script, 'sh', ...image.entrypoint, ...(options.arguments ?? [])];
    this.child = spawn('unshare', args, { env: { ...PLAIN, ...image.env, ...options.env }, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout, this.child.stderr]) stream?.on('data', (data: Buffer) => (this.output += data.toString()));
  }

  /** Process 1 of the container, by its number out here. */
  get pid(): number {
    const children = readFileSync(`/proc/${this.child.pid}/task/${this.child.pid}/children`, 'utf8').trim();
    return Number(children.split(' ')[0]);
  }

  /** Sends process 1 a signal and waits for the end: the exit code. */
  async stop(signal: NodeJS.Signals): Promise<number | null> {
    const code = this.exited();
    process.kill(this.pid, signal);
    return await code;
  }

  /** Ends it at once, where it still runs. Process 1 itself: that it changed its user unties it from the one that started it. */
  kill(): void {
    if (this.child.exitCode !== null) return;
    if (this.pid > 0) process.kill(this.pid, 'SIGKILL');
    else this.child.kill('SIGKILL');
  }

  async exited(): Promise<number | null> {
    if (this.child.exitCode !== null) return this.child.exitCode;
    return await new Promise((resolve) => this.child.once('close', resolve));
  }

  /** What `docker exec` would: a command inside, as the container's user. Rejects when it fails. */
  async exec(command: readonly string[], env: Readonly<Record<string, string>>): Promise<string> {
    const inside = ['--target', String(this.pid), '--mount', '--pid', 'sh', '-c', `root=${this.image.root.dir}/merged; exec ${enter(this.image)}`, 'sh', ...command];
    return (await run('nsenter', inside, { env: { ...PLAIN, ...this.image.env, ...env } })).stdout;
  }
}

/** Shell words that run "$@" below `$root` as the image's user in its working directory, with no way to more. */
function enter(image: Image): string {
  const [uid = '', gid = ''] = image.user.split(':');
  return `chroot $root sh -c 'cd ${image.workdir} && exec setpriv --reuid ${uid} --regid ${gid} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"' sh "$@"`;
}

/** Bytes of all files below a path of the image. */
export function bytesBelow(path: string): number {
  let sum = 0;
  for (const name of readdirSync(path, { recursive: true, encoding: 'utf8' })) {
    const stat = statSync(join(path, name), { throwIfNoEntry: false });
    if (stat?.isFile()) sum += stat.size;
  }
  return sum;
}

/** Paths of files and folders of the image, one level deep, sorted. */
export function listing(path: string): string[] {
  return readdirSync(path).map((name) => relative(path, join(path, name))).sort();
}

export function remove(dir: string): void {
  rmSync(dir, { recursive: true, force: true });
}
