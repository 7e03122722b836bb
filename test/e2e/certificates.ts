/**
 * Certificates for tests, made with the system's openssl: authorities, and certificates that they issue. All of them
 * live in one directory and end after a day unless told otherwise.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface Pair {
  readonly cert: string;
  readonly key: string;
}

export interface Wanted {
  /** As openssl writes them: `DNS:node-1,IP:127.0.0.1`. */
  readonly names?: string;
  /** Extended key usage. */
  readonly usage?: string;
  /** Days that it is valid; negative: it has ended. */
  readonly days?: number;
}

export class Authority implements Pair {
  readonly cert: string;
  readonly key: string;
  private readonly directory: string;

  private constructor(directory: string, name: string) {
    this.directory = directory;
    this.cert = join(directory, `${name}.pem`);
    this.key = join(directory, `${name}.key`);
  }

  static async create(directory: string, name: string): Promise<Authority> {
    const authority = new Authority(directory, name);
    await newKey(authority.key);
    await openssl('req', '-x509', '-new', '-key', authority.key, '-out', authority.cert, '-subj', `/CN=${name}`, '-days', '1', '-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign');
    return authority;
  }

  /** An authority that this one vouches for. */
  async intermediate(name: string): Promise<Authority> {
    await this.sign(name, 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n', 1);
    return new Authority(this.directory, name);
  }

  /** A certificate of this authority; `file` without an extension. */
  async issue(file: string, { names = 'IP:127.0.0.1', usage = 'serverAuth,clientAuth', days = 1 }: Wanted = {}): Promise<Pair> {
    return this.sign(file, `subjectAltName=${names}\nextendedKeyUsage=${usage}\n`, days);
  }

  private async sign(file: string, extensionText: string, days: number): Promise<Pair> {
    const pair = { cert: join(this.directory, `${file}.pem`), key: join(this.directory, `${file}.key`) };
    const request = join(this.directory, `${file}.csr`);
    const extensions = join(this.directory, `${file}.ext`);
    await newKey(pair.key);
    await openssl('req', '-new', '-key', pair.key, '-out', request, '-subj', `/CN=${file}`);
    await writeFile(extensions, extensionText);
    await openssl('x509', '-req', '-in', request, '-CA', this.cert, '-CAkey', this.key, '-set_serial', `0x${randomBytes(12).toString('hex')}`, '-days', String(days), '-extfile', extensions, '-out', pair.cert);
    return pair;
  }
}

/** Puts one pair's files in the place of another's, as a renewal does. */
export async function replace(old: Pair, fresh: Pair): Promise<void> {
  await writeFile(old.key, await readFile(fresh.key));
  await writeFile(old.cert, await readFile(fresh.cert));
}

async function newKey(path: string): Promise<void> {
  await openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', path);
}

async function openssl(...args: string[]): Promise<void> {
  await run('openssl', args);
}
