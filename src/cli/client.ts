/**
 * The HTTP calls of the command line. Owns how a node is reached and what its refusals become; every failure is a
 * CliError with the exit code of the process.
 */
import { readFile } from 'node:fs/promises';
import { request as requestHttp } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { request as requestHttps } from 'node:https';

export const ExitCode = { ok: 0, refused: 1, usage: 2, unreachable: 3 } as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

const TIMEOUT_MS = 30_000;
const ANSWER_BYTES_MAX = 16 * 1024 * 1024;

/** What ends the program with a line on stderr. */
export class CliError extends Error {
  readonly exitCode: ExitCode;

  constructor(exitCode: ExitCode, message: string) {
    super(message);
    this.name = 'CliError';
    this.exitCode = exitCode;
  }
}

export interface ClientOptions {
  readonly url: string;
  readonly apiKey: string | null;
  /** PEM files; null: the well-known authorities, no certificate of its own. */
  readonly ca: string | null;
  readonly cert: string | null;
  readonly key: string | null;
}

export class Client {
  private readonly options: ClientOptions;

  constructor(options: ClientOptions) {
    this.options = options;
  }

  /**
   * One call; the body of a success, parsed, or null when there is none. Throws CliError `unreachable` without an
   * answer, `refused` with one that is not a success.
   */
  async call(method: 'GET' | 'POST' | 'DELETE', path: string, body: object | null = null): Promise<unknown> {
    const { status, text } = await this.send(method, path, body);
    const value = parse(text);
    if (status >= 200 && status < 300 && (text === '' || value !== undefined)) return value ?? null;
    if (status >= 200 && status < 300) throw new CliError(ExitCode.refused, `${this.options.url} does not answer like Fastpaca (is it another server?)`);
    throw new CliError(ExitCode.refused, explain(status, value));
  }

  private async send(method: string, path: string, body: object | null): Promise<{ status: number; text: string }> {
    const { url, apiKey } = this.options;
    const target = new URL(path, url);
    const payload = body === null ? null : Buffer.from(JSON.stringify(body));
    const headers = {
      accept: 'application/json',
      ...(apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }),
      ...(payload === null ? {} : { 'content-type': 'application/json', 'content-length': String(payload.length) }),
    };
    const secrets = target.protocol === 'https:' ? await this.certificates() : null;
    try {
      const response = await new Promise<IncomingMessage>((resolve, reject) => {
        const options = { method, headers, agent: false, timeout: TIMEOUT_MS };
        const call = secrets === null ? requestHttp(target, options, resolve) : requestHttps(target, { ...options, ...secrets }, resolve);
        call.on('error', reject);
        call.on('timeout', () => call.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)));
        call.end(payload ?? undefined);
      });
      return { status: response.statusCode ?? 0, text: await textOf(response) };
    } catch (error) {
      throw new CliError(ExitCode.unreachable, `cannot reach ${url}: ${messageOf(error)}`);
    }
  }

  private async certificates(): Promise<{ ca?: Buffer; cert?: Buffer; key?: Buffer }> {
    const { ca, cert, key } = this.options;
    const read = async (path: string): Promise<Buffer> => {
      try {
        return await readFile(path);
      } catch (error) {
        throw new CliError(ExitCode.usage, `cannot read ${path}: ${messageOf(error)}`);
      }
    };
    return { ...(ca === null ? {} : { ca: await read(ca) }), ...(cert === null ? {} : { cert: await read(cert) }), ...(key === null ? {} : { key: await read(key) }) };
  }
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response) {
    if (!Buffer.isBuffer(chunk)) continue;
    bytes += chunk.length;
    if (bytes > ANSWER_BYTES_MAX) throw new Error(`the answer is larger than ${ANSWER_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** undefined when it is not JSON. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The server's own words, led by its error code. */
function explain(status: number, body: unknown): string {
  if (typeof body === 'object' && body !== null && 'error' in body && 'message' in body) {
    const hint = status === 401 ? ' (--api-key or FASTPACA_API_KEY)' : '';
    return `${String(body.error)}: ${String(body.message)}${hint}`;
  }
  return `the node answered HTTP ${status}`;
}

function messageOf(error: unknown): string {
  // Of several addresses tried, each has its own failure and the whole has none.
  if (error instanceof AggregateError) return error.errors.map(messageOf).join('; ');
  return error instanceof Error ? error.message : String(error);
}
