/**
 * What the command line can be asked to do: reading it, and doing it. Knows nothing of the process: output goes to a
 * function, failures are CliErrors.
 */
import { randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';
import { CliError, Client, ExitCode } from './client.ts';
import { decodeStatus, renderStatus } from './status.ts';

export const USAGE = `Usage: fastpaca cluster COMMAND [options]

  cluster status               nodes, groups, and changes under way
  cluster drain NODE           move leaderships and replicas away from a node
  cluster undrain NODE         let a node that is drained or being drained serve again
  cluster remove NODE          take a drained node out of the cluster, for good
  cluster transfer GROUP NODE  make a node that hosts a group its leader
  cluster secret               print a fresh value for FASTPACA_CLUSTER_SECRET

Options, and the variables they are taken from otherwise:
  --url URL        a node of the cluster      FASTPACA_URL, else localhost at PORT or 4000
  --api-key KEY    one of its API keys        FASTPACA_API_KEY (the first of the list)
  --ca FILE        authority of its TLS       FASTPACA_TLS_CA
  --cert FILE, --key FILE   a certificate to show, where clients must
                                              FASTPACA_TLS_CERT, FASTPACA_TLS_KEY
  --json           the answer as JSON rather than as a table
  --help           print this

Exit codes: 0 done, 1 refused, 2 not understood, 3 no answer.
`;

export type Env = Readonly<Record<string, string | undefined>>;

const GROUP_COUNT_MAX = 65_536;

interface Options {
  readonly client: Client;
  readonly json: boolean;
}

/** Does what `argv` asks; `print` takes what belongs on standard output. Throws CliError. */
export async function run(argv: readonly string[], env: Env, print: (text: string) => void): Promise<void> {
  const { words, options } = read(argv, env);
  if (options === null) return print(USAGE);
  const [area, command, ...names] = words;
  if (area !== 'cluster') throw usage(area === undefined ? 'a command is missing' : `there is no command '${area}'`);
  switch (command) {
    case 'status':
      expectNames(names, []);
      return status(options, print);
    case 'drain':
      return drain(expectNames(names, ['NODE']), options, print);
    case 'undrain':
      return undrain(expectNames(names, ['NODE']), options, print);
    case 'remove':
      return remove(expectNames(names, ['NODE']), options, print);
    case 'transfer':
      return transfer(expectNames(names, ['GROUP', 'NODE']), options, print);
    case 'secret':
      expectNames(names, []);
      return secret(options, print);
    default:
      throw usage(command === undefined ? 'cluster needs a command' : `there is no command 'cluster ${command}'`);
  }
}

async function status({ client, json }: Options, print: (text: string) => void): Promise<void> {
  const answer = await client.call('GET', '/v1/cluster');
  print(json ? asJson(answer) : renderStatus(decodeStatus(answer)));
}

async function drain([node = '']: readonly string[], { client, json }: Options, print: (text: string) => void): Promise<void> {
  const answer = await client.call('POST', `/v1/cluster/nodes/${encodeURIComponent(node)}/drain`);
  print(json ? asJson(answer) : `Node ${node} is being drained; 'cluster status' shows how far it is.\n`);
}

async function undrain([node = '']: readonly string[], { client, json }: Options, print: (text: string) => void): Promise<void> {
  const answer = await client.call('DELETE', `/v1/cluster/nodes/${encodeURIComponent(node)}/drain`);
  print(json ? asJson(answer) : `Node ${node} is active again; leaderships and replicas come back to it.\n`);
}

async function remove([node = '']: readonly string[], { client, json }: Options, print: (text: string) => void): Promise<void> {
  const answer = await client.call('DELETE', `/v1/cluster/nodes/${encodeURIComponent(node)}`);
  print(json ? asJson(answer) : `Node ${node} is no longer part of the cluster. Its data directory cannot return; its name can, with an empty one.\n`);
}

async function transfer([group = '', node = '']: readonly string[], { client, json }: Options, print: (text: string) => void): Promise<void> {
  if (!/^\d{1,5}$/.test(group) || Number(group) >= GROUP_COUNT_MAX) throw usage(`'${group}' is not the number of a group`);
  const answer = await client.call('POST', `/v1/cluster/groups/${group}/transfer`, { to: node });
  print(json ? asJson(answer) : `Group ${group} is being handed to node ${node}.\n`);
}

/** 256 bits in an alphabet that needs no quoting anywhere. */
function secret({ json }: Options, print: (text: string) => void): void {
  const value = randomBytes(32).toString('hex');
  print(json ? asJson({ secret: value }) : `${value}\n`);
}

/** `options` null: help was asked for. */
function read(argv: readonly string[], env: Env): { words: readonly string[]; options: Options | null } {
  const { values, positionals } = parsed(argv);
  if (values.help === true) return { words: positionals, options: null };
  const given = (value: string | undefined, variable: string): string | null => value ?? (env[variable]?.trim() || null);
  const ca = given(values.ca, 'FASTPACA_TLS_CA');
  const cert = given(values.cert, 'FASTPACA_TLS_CERT');
  const key = given(values.key, 'FASTPACA_TLS_KEY');
  const scheme = cert === null && ca === null ? 'http' : 'https';
  const url = given(values.url, 'FASTPACA_URL') ?? `${scheme}://localhost:${env['PORT']?.trim() || '4000'}`;
  if (!URL.canParse(url) || !/^https?:\/\//.test(url)) throw usage(`${values.url === undefined ? 'FASTPACA_URL' : '--url'} is '${url}'; allowed: a URL such as https://node-1:4000`);
  const apiKey = given(values['api-key'], 'FASTPACA_API_KEY')?.split(',')[0]?.trim() ?? null;
  if (apiKey !== null && !/^[\x21-\x7e]+$/.test(apiKey)) throw usage('the API key holds characters that none has');
  return { words: positionals, options: { client: new Client({ url, apiKey, ca, cert, key }), json: values.json === true } };
}

function parsed(argv: readonly string[]): ReturnType<typeof parse> {
  try {
    return parse(argv);
  } catch (error) {
    // parseArgs explains at length; its first sentence says what is wrong.
    throw usage(error instanceof Error ? (error.message.split(/\. |\n/)[0] ?? '') : String(error));
  }
}

function parse(argv: readonly string[]) {
  return parseArgs({
    args: [...argv],
    allowPositionals: true,
    strict: true,
    options: {
      url: { type: 'string' },
      'api-key': { type: 'string' },
      ca: { type: 'string' },
      cert: { type: 'string' },
      key: { type: 'string' },
      json: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
}

function expectNames(names: readonly string[], wanted: readonly string[]): readonly string[] {
  if (names.length < wanted.length || names.includes('')) throw usage(`${wanted[names.length] ?? wanted[names.indexOf('')] ?? 'a name'} is missing`);
  if (names.length > wanted.length) throw usage(`'${names[wanted.length] ?? ''}' is one argument too many`);
  return names;
}

function usage(message: string): CliError {
  return new CliError(ExitCode.usage, `${message}; --help lists what is known`);
}

function asJson(value: unknown): string {
  return `${JSON.stringify(value)}\n`;
}
