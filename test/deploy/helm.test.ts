/** The chart: rendered by Helm 3 and 4 with several values, held to Kubernetes' models, and started as real servers. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { loadConfig, VARIABLES } from '../../src/config.ts';
import { CHART, holdToKubernetes, podEnv, podSpec, render, startApiServer, the } from './chart.ts';
import type { Manifest } from './chart.ts';
import { parseDockerfile } from './dockerfile.ts';
import { Hosts } from './hosts.ts';
import { needNamespaces, needTools, ROOT } from './tools.ts';

const run = promisify(execFile);
const VALUES = readdirSync(join(CHART, 'ci')).map((name) => join(CHART, 'ci', name));
const EXISTING = { 'fastpaca-keys': { 'api-key': 'a', 'cluster-secret': 'b' }, 'fastpaca-db': { url: 'postgres://u:p@h/d' } };

/** Without what is drawn at random. */
function settled(manifests: readonly Manifest[]): unknown {
  return manifests.map((manifest) => (manifest.kind === 'Secret' ? { ...manifest, data: Object.keys(manifest.data ?? {}) } : manifest));
}

test('Helm lints the chart and renders the same with its oldest and newest version, as Kubernetes wants it', async (t) => {
  const tools = needTools(t, ['helm3', 'helm4', 'kubernetes-models']);
  if (tools === null) return;
  const rendered: Record<string, Manifest[]> = {};
  for (const values of VALUES) {
    const [old, current]: [Manifest[], Manifest[], unknown] = await Promise.all([render(tools.helm3, { values }), render(tools.helm4, { values }), run(tools.helm4, ['lint', '--strict', CHART, '--values', values])]);
    assert.deepEqual(settled(old), settled(current), values);
    rendered[values] = current;
  }
  await holdToKubernetes(rendered);
});

test('what is misspelt, missing or contradicts itself is refused', async (t) => {
  const tools = needTools(t, ['helm3', 'helm4']);
  if (tools === null) return;
  const refused: [string, RegExp][] = [
    ['replica=3', /replica/],
    ['replicas=2', /replicas is smaller than foundingMembers/],
    ['archiver.enabled=true', /archiver\.enabled needs/],
    ['archiver.databaseUrl=mysql://x', /databaseUrl/],
    ['config.FASTPACA_NODE_NAME=x', /FASTPACA_NODE_NAME/],
    ['config.PATH=x', /PATH/],
    ['podAntiAffinity=no', /podAntiAffinity/],
    ['storage.size=20', /storage/],
  ];
  await Promise.all(refused.flatMap(([set, words]) => [tools.helm3, tools.helm4].map((helm) => assert.rejects(render(helm, { set: [set] }), words, set))));
});

test('keys are generated once: what the cluster has already is kept, and a given value goes before it', async (t) => {
  const tools = needTools(t, ['helm4']);
  if (tools === null) return;
  const keys = async (options: { set?: string[]; flags?: readonly string[] }): Promise<Record<string, string>> => {
    const secret = the(await render(tools.helm4, options), 'Secret');
    assert.equal(secret.metadata.annotations?.['helm.sh/resource-policy'], 'keep');
    return Object.fromEntries(Object.entries(secret.data ?? {}).map(([name, value]) => [name, Buffer.from(value, 'base64').toString()]));
  };
  const first = await keys({});
  for (const name of ['api-key', 'cluster-secret']) assert.match(first[name] ?? '', /^[A-Za-z0-9]{40}$/);
  assert.notDeepEqual(await keys({}), first);
  const { server, flags } = await startApiServer({ 'demo-fastpaca': { 'api-key': btoa('kept-key'), 'cluster-secret': btoa('kept-secret') } });
  t.after(() => server.close());
  assert.deepEqual(await keys({ flags }), { 'api-key': 'kept-key', 'cluster-secret': 'kept-secret' });
  assert.deepEqual(await keys({ flags, set: ['auth.apiKey=given\\,kept-key'] }), { 'api-key': 'given,kept-key', 'cluster-secret': 'kept-secret' });
});

test('members find each other before they are ready, keep name and disk, and are never disrupted two at a time', async (t) => {
  const tools = needTools(t, ['helm4']);
  if (tools === null) return;
  const manifests = await render(tools.helm4, {});
  const peers = the(manifests, 'Service', '-peers');
  assert.deepEqual([peers.spec?.clusterIP, peers.spec?.publishNotReadyAddresses], ['None', true]);
  const set = the(manifests, 'StatefulSet');
  assert.deepEqual([set.spec?.serviceName, set.spec?.podManagementPolicy, set.spec?.replicas], [peers.metadata.name, 'Parallel', 3]);
  assert.deepEqual(set.spec?.volumeClaimTemplates?.map((claim) => claim.metadata.name), ['data']);
  const budget = the(manifests, 'PodDisruptionBudget');
  assert.equal(budget.spec?.maxUnavailable, 1);
  const labels = set.spec?.template?.metadata.labels ?? {};
  for (const [name, value] of Object.entries(budget.spec?.selector?.matchLabels ?? { none: '' })) assert.equal(labels[name], value);
  assert.ok(!manifests.some(({ kind }) => kind === 'HorizontalPodAutoscaler'), 'a member is a place where data lives, not capacity');
  assert.ok('requiredDuringSchedulingIgnoredDuringExecution' in (podSpec(manifests).affinity?.podAntiAffinity ?? {}));
  assert.equal(podSpec(manifests).topologySpreadConstraints[0]?.topologyKey, 'topology.kubernetes.io/zone');
});

test('what the objects name in each other is there: labels, ports, volumes, Secrets', async (t) => {
  const tools = needTools(t, ['helm4']);
  if (tools === null) return;
  const manifests = await render(tools.helm4, { values: join(CHART, 'ci/production-values.yaml') });
  const set = the(manifests, 'StatefulSet').spec;
  const pod = podSpec(manifests);
  const [container] = pod.containers;
  const selects = (labels: Readonly<Record<string, unknown>> | undefined, of: Readonly<Record<string, string>> | undefined): boolean => Object.entries(labels ?? { none: '' }).every(([name, value]) => of?.[name] === value);
  const podLabels = set?.template?.metadata.labels;

  const { port: listened, advertise } = loadConfig((({ POD_NAME: _, ...env }) => env)(podEnv(manifests, 0, EXISTING)));
  assert.deepEqual(container.ports, [{ name: 'http', containerPort: listened }]);
  const services = manifests.filter(({ kind }) => kind === 'Service');
  for (const { metadata, spec } of services) {
    assert.ok(selects({ ...spec?.selector }, podLabels), `Service ${metadata.name} selects no pod`);
    assert.deepEqual(spec?.ports?.map(({ name, targetPort }) => [name, targetPort]), [['http', 'http']]);
  }
  assert.ok(advertise?.endsWith(`:${the(manifests, 'Service', '-peers').spec?.ports?.[0]?.port}`), 'peers and Prometheus come by the headless Service');

  assert.deepEqual(set?.persistentVolumeClaimRetentionPolicy, { whenDeleted: 'Retain', whenScaled: 'Retain' });
  const [claim] = set?.volumeClaimTemplates ?? [];
  assert.deepEqual([claim?.spec.resources.requests.storage, claim?.spec.storageClassName], ['200Gi', 'fast']);
  assert.deepEqual(container.volumeMounts.map(({ name }) => name), [claim?.metadata.name, ...(pod.volumes ?? []).map(({ name }) => name)]);
  assert.deepEqual(pod.volumes?.[0]?.secret, { secretName: 'fastpaca-tls', defaultMode: 0o440 }, 'the key is readable for the group that fsGroup puts the server in');
  assert.deepEqual(container.envFrom, [{ secretRef: { name: 'fastpaca-webhook' } }]);

  const policy = the(manifests, 'NetworkPolicy').spec;
  assert.ok(selects(policy?.podSelector?.matchLabels, podLabels));
  assert.deepEqual([policy?.policyTypes, policy?.ingress?.length, policy?.ingress?.[0]?.ports[0]?.port, policy?.ingress?.[0]?.from[0]], [['Ingress'], 1, 'http', { podSelector: {} }]);
  const monitor = the(manifests, 'ServiceMonitor').spec;
  assert.deepEqual(services.filter(({ metadata }) => selects(monitor?.selector?.matchLabels, metadata.labels)).map(({ metadata }) => metadata.name), ['demo-fastpaca-peers'], 'each member is scraped once');
  assert.deepEqual([monitor?.endpoints?.[0]?.port, monitor?.endpoints?.[0]?.path, monitor?.endpoints?.[0]?.relabelings], ['http', '/metrics', [{ targetLabel: 'job', replacement: 'fastpaca' }]]);
  const manifest: { version: string } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  const chart: { appVersion: string } = parse(readFileSync(join(CHART, 'Chart.yaml'), 'utf8'));
  assert.equal(chart.appVersion, manifest.version, 'the chart starts the image of this version');
});

test('the ports of shards are open to the other members and to nobody else', async (t) => {
  const tools = needTools(t, ['helm4']);
  if (tools === null) return;
  for (const [shards, set] of [[3, 'config.FASTPACA_SHARDS=3'], [64, 'config.FASTPACA_SHARDS=64']] as const) {
    const manifests = await render(tools.helm4, { set: [set, 'networkPolicy.enabled=true'] });
    const { POD_NAME: _, ...env } = podEnv(manifests, 0, EXISTING);
    const { port, shards: read } = loadConfig(env);
    const labels = the(manifests, 'StatefulSet').spec?.template?.metadata.labels;
    const [, between, ...more] = the(manifests, 'NetworkPolicy').spec?.ingress ?? [];
    assert.equal(read, shards);
    assert.deepEqual([between?.ports.map((range) => [range.port, range.endPort]), more], [[[port + 1, port + shards]], []]);
    const [members, ...others] = between?.from ?? [];
    assert.deepEqual([Object.entries(members?.podSelector?.matchLabels ?? { none: '' }).filter(([name, value]) => labels?.[name] !== value), others], [[], []]);
  }
  for (const set of [[], ['config.FASTPACA_SHARDS=1']]) {
    const manifests = await render(tools.helm4, { set: [...set, 'networkPolicy.enabled=true'] });
    assert.equal(the(manifests, 'NetworkPolicy').spec?.ingress?.length, 1);
  }
});

test('a pod has no privileges, fits the image, and has the time that a handover takes', async (t) => {
  const tools = needTools(t, ['helm4']);
  if (tools === null) return;
  const spec = podSpec(await render(tools.helm4, {}));
  const [container] = spec.containers;
  const image = parseDockerfile(readFileSync(join(ROOT, 'Dockerfile'), 'utf8')).at(-1)?.instructions ?? [];
  const said = (name: string): string | undefined => image.find((instruction) => instruction.name === name)?.text;
  assert.equal(`${String(spec.securityContext['runAsUser'])}:${String(spec.securityContext['runAsGroup'])}`, said('USER'));
  assert.equal(container.volumeMounts[0]?.mountPath, said('VOLUME'));
  assert.deepEqual([spec.securityContext['runAsNonRoot'], spec.securityContext['seccompProfile']], [true, { type: 'RuntimeDefault' }]);
  assert.deepEqual(container.securityContext, { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } });
  assert.deepEqual([spec.enableServiceLinks, spec.automountServiceAccountToken], [false, false]);
  const stopMs = Number(/STOP_MS = ([\d_]+)/.exec(readFileSync(join(ROOT, 'src/run.ts'), 'utf8'))?.[1]?.replaceAll('_', ''));
  assert.ok(stopMs >= 1000);
  const [, seconds = ''] = container.lifecycle.preStop.exec.command;
  assert.ok(spec.terminationGracePeriodSeconds >= Number(seconds) + stopMs / 1000 + 5, 'Kubernetes would kill a member that still hands over');
  assert.deepEqual([container.startupProbe, container.livenessProbe, container.readinessProbe].map((probe) => probe.httpGet.path), ['/health/live', '/health/live', '/health/ready']);
  assert.ok(container.startupProbe.periodSeconds * container.startupProbe.failureThreshold >= 300, 'a member that verifies its data needs longer to listen');
});

test('every environment that is rendered is one that the server takes', async (t) => {
  const tools = needTools(t, ['helm4']);
  if (tools === null) return;
  for (const values of VALUES) {
    const { POD_NAME, ...env } = podEnv(await render(tools.helm4, { values }), 0, EXISTING);
    assert.equal(POD_NAME, 'demo-fastpaca-0');
    for (const name of Object.keys(env)) assert.ok(name in VARIABLES, `${values}: ${name}`);
    const config = loadConfig(env);
    assert.equal(config.advertise, 'demo-fastpaca-0.demo-fastpaca-peers.chat.svc.cluster.local:4000');
    if (values.includes('production')) assert.deepEqual([config.rateLimit, config.apiKeys, config.archiver !== null], [6_000_000, ['new-key', 'old-key'], true]);
  }
});

test('three pods found a cluster by their names, and a client needs the generated key', async (t) => {
  const tools = needTools(t, ['helm4', 'ip', 'setpriv']);
  if (tools === null || !needNamespaces(t)) return;
  const manifests = await render(tools.helm4, {});
  const peers = 'demo-fastpaca-peers.chat.svc.cluster.local';
  const hosts = new Hosts(3, (at) => [peers, `demo-fastpaca-${at}.${peers}`]);
  t.after(() => hosts.close());
  const key = podEnv(manifests, 0)['FASTPACA_API_KEY'] ?? '';
  for (let at = 0; at < 3; at++) {
    hosts.start(at, { ...podEnv(manifests, at), FASTPACA_RAFT_DATA_DIR: Hosts.DATA, FASTPACA_BALLAST_BYTES: '0' }, [process.execPath, join(ROOT, 'src/main.ts')]);
  }
  await hosts.ready(4000);
  const url = `http://${hosts.address(2)}:4000/v1/cluster`;
  assert.equal((await fetch(url)).status, 401);
  const cluster: { nodes: { id: string; address: string; state: string }[] } = JSON.parse(await (await fetch(url, { headers: { authorization: `Bearer ${key}` } })).text());
  assert.deepEqual(cluster.nodes.map(({ id, address }) => [id, address]), [0, 1, 2].map((at) => [`demo-fastpaca-${at}`, `demo-fastpaca-${at}.${peers}:4000`]));
});
