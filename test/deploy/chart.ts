/** Renders the chart with a real Helm, reads what comes out, and gives the environment that a pod of it would have. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { parseAllDocuments } from 'yaml';
import { ROOT, TOOLS } from './tools.ts';

const run = promisify(execFile);
export const CHART = join(ROOT, 'helm');
/** Helm without a cluster pretends to one; old ones pretend to one that is too old. */
const KUBE_VERSION = '1.30.0';

export interface EnvVar {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: { readonly fieldRef?: { readonly fieldPath: string }; readonly secretKeyRef?: { readonly name: string; readonly key: string } };
}

interface Probe {
  readonly httpGet: { readonly path: string; readonly scheme: string };
  readonly periodSeconds: number;
  readonly failureThreshold: number;
}

export interface Container {
  readonly image: string;
  readonly env: readonly EnvVar[];
  readonly securityContext: Readonly<Record<string, unknown>>;
  readonly lifecycle: { readonly preStop: { readonly exec: { readonly command: readonly string[] } } };
  readonly startupProbe: Probe;
  readonly livenessProbe: Probe;
  readonly readinessProbe: Probe;
  readonly ports: readonly { readonly name: string; readonly containerPort: number }[];
  readonly envFrom?: readonly { readonly secretRef: { readonly name: string } }[];
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[];
}

/** One rendered object, as far as tests look into it. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly annotations?: Readonly<Record<string, string>>; readonly labels: Readonly<Record<string, string>> };
  readonly data?: Readonly<Record<string, string>>;
  readonly spec?: {
    readonly clusterIP?: string;
    readonly publishNotReadyAddresses?: boolean;
    readonly serviceName?: string;
    readonly replicas?: number;
    readonly podManagementPolicy?: string;
    readonly maxUnavailable?: number;
    /** Of a Service the labels themselves. */
    readonly selector?: { readonly matchLabels?: Readonly<Record<string, string>> };
    readonly podSelector?: { readonly matchLabels?: Readonly<Record<string, string>> };
    readonly policyTypes?: readonly string[];
    readonly ingress?: readonly { readonly ports: readonly { readonly port: string | number; readonly endPort?: number }[]; readonly from: readonly { readonly podSelector?: { readonly matchLabels?: Readonly<Record<string, string>> } }[] }[];
    readonly ports?: readonly { readonly name: string; readonly port: number; readonly targetPort: string }[];
    readonly endpoints?: readonly { readonly port: string; readonly path: string; readonly relabelings: readonly unknown[] }[];
    readonly persistentVolumeClaimRetentionPolicy?: { readonly whenDeleted: string; readonly whenScaled: string };
    readonly template?: { readonly metadata: { readonly labels: Readonly<Record<string, string>> }; readonly spec: PodSpec };
    readonly volumeClaimTemplates?: readonly {
      readonly metadata: { readonly name: string };
      readonly spec: { readonly storageClassName?: string; readonly resources: { readonly requests: { readonly storage: string } } };
    }[];
    readonly groups?: unknown;
  };
}

export interface PodSpec {
  readonly containers: readonly [Container];
  readonly volumes?: readonly { readonly name: string; readonly secret: { readonly secretName: string; readonly defaultMode: number } }[];
  readonly terminationGracePeriodSeconds: number;
  readonly securityContext: Readonly<Record<string, unknown>>;
  readonly affinity?: { readonly podAntiAffinity: Readonly<Record<string, unknown>> };
  readonly topologySpreadConstraints: readonly { readonly topologyKey: string }[];
  readonly enableServiceLinks: boolean;
  readonly automountServiceAccountToken: boolean;
}

export interface RenderOptions {
  readonly values?: string;
  readonly set?: readonly string[];
  readonly flags?: readonly string[];
}

/** `helm template demo` in namespace chat. Rejects with Helm's own words. */
export async function render(helm: string, { values, set = [], flags = ['--kube-version', KUBE_VERSION] }: RenderOptions): Promise<Manifest[]> {
  const args = ['template', 'demo', CHART, '--namespace', 'chat', ...(values === undefined ? [] : ['--values', values]), ...set.flatMap((pair) => ['--set', pair]), ...flags];
  const { stdout } = await run(helm, args, { env: { HOME: tmpdir(), KUBECONFIG: '/dev/null' }, maxBuffer: 1 << 24 });
  return parseAllDocuments(stdout).flatMap((document) => {
    if (document.errors.length > 0) throw document.errors[0];
    const manifest: Manifest | null = document.toJS();
    return manifest === null ? [] : [manifest];
  });
}

/** The one object of a kind whose name ends so. */
export function the(manifests: readonly Manifest[], kind: string, ending = ''): Manifest {
  const found = manifests.filter((manifest) => manifest.kind === kind && manifest.metadata.name.endsWith(ending));
  if (found.length !== 1 || found[0] === undefined) throw new Error(`${found.length} objects of kind ${kind} with a name that ends in '${ending}'`);
  return found[0];
}

export function podSpec(manifests: readonly Manifest[]): PodSpec {
  const spec = the(manifests, 'StatefulSet').spec?.template?.spec;
  if (spec === undefined) throw new Error('the StatefulSet has no pod template');
  return spec;
}

/** The environment of pod number `at`: its own fields, Secrets and `$(NAME)` filled in. `secrets`: those that are not in the chart. */
export function podEnv(manifests: readonly Manifest[], at: number, secrets: Readonly<Record<string, Readonly<Record<string, string>>>> = {}): Record<string, string> {
  const env: Record<string, string> = {};
  for (const { name, value, valueFrom } of podSpec(manifests).containers[0].env) {
    if (valueFrom?.fieldRef?.fieldPath === 'metadata.name') env[name] = `${the(manifests, 'StatefulSet').metadata.name}-${at}`;
    else if (valueFrom?.secretKeyRef !== undefined) {
      const { name: secret, key } = valueFrom.secretKeyRef;
      const encoded = manifests.find((manifest) => manifest.kind === 'Secret' && manifest.metadata.name === secret)?.data?.[key];
      const text = encoded === undefined ? secrets[secret]?.[key] : Buffer.from(encoded, 'base64').toString();
      if (text === undefined) throw new Error(`${name} is of Secret ${secret}, key ${key}, which is not there: the pod would not start`);
      env[name] = text;
    } else env[name] = (value ?? '').replace(/\$\((\w+)\)/g, (whole, other: string) => env[other] ?? whole);
  }
  return env;
}

/**
 * Holds objects to Kubernetes' published models: values to their schemas, and fields to their types, which know no field
 * that is not in them (the schemas alone let a misspelt one pass). Rejects with what is wrong.
 */
export async function holdToKubernetes(named: Readonly<Record<string, readonly Manifest[]>>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'fastpaca-manifests-'));
  try {
    symlinkSync(TOOLS, join(dir, 'node_modules'));
    writeFileSync(join(dir, 'package.json'), '{"type":"module"}');
    let code = '';
    for (const [name, manifests] of Object.entries(named)) {
      for (const manifest of manifests) {
        const group = manifest.apiVersion.startsWith('monitoring.coreos.com/') ? '@kubernetes-models/prometheus-operator' : 'kubernetes-models';
        const module: Record<string, new (data: unknown) => { validate(): void }> = await import(pathToFileURL(join(TOOLS, group, manifest.apiVersion, `${manifest.kind}.js`)).href);
        const Model = module[manifest.kind];
        if (Model === undefined) throw new Error(`no model of ${manifest.kind}`);
        try {
          new Model(manifest).validate();
        } catch (error) {
          throw new Error(`${name}: ${manifest.kind} ${manifest.metadata.name}: ${error instanceof Error ? error.message : String(error)}`);
        }
        code += `export const _${code.length}: import('${group}/${manifest.apiVersion}/${manifest.kind}').I${manifest.kind} = ${JSON.stringify(manifest)};\n`;
      }
    }
    writeFileSync(join(dir, 'manifests.ts'), code);
    const flags = ['--noEmit', '--strict', '--skipLibCheck', '--types', '', '--target', 'es2024', '--module', 'nodenext', join(dir, 'manifests.ts')];
    await run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), ...flags], { cwd: dir }).catch((error: { stdout: string }) => {
      throw new Error(`fields that Kubernetes does not know, or of another type:\n${error.stdout.replace(/^.*?: error/gm, 'error')}`);
    });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

const RESOURCES: Readonly<Record<string, readonly (readonly [string, string])[]>> = {
  v1: [['secrets', 'Secret'], ['services', 'Service'], ['serviceaccounts', 'ServiceAccount']],
  'apps/v1': [['statefulsets', 'StatefulSet']],
  'policy/v1': [['poddisruptionbudgets', 'PodDisruptionBudget']],
  'networking.k8s.io/v1': [['networkpolicies', 'NetworkPolicy']],
};

/** As much of Kubernetes' API as Helm asks when a template looks something up: one namespace with the given Secrets. */
export async function startApiServer(secrets: Readonly<Record<string, Readonly<Record<string, string>>>>): Promise<{ server: Server; flags: readonly string[] }> {
  const answers: Record<string, unknown> = {
    '/version': { major: '1', minor: '34', gitVersion: 'v1.34.0' },
    '/api': { kind: 'APIVersions', versions: ['v1'] },
    '/apis': {
      kind: 'APIGroupList',
      apiVersion: 'v1',
      groups: Object.keys(RESOURCES)
        .filter((name) => name.includes('/'))
        .map((name) => ({ name: name.split('/')[0], versions: [{ groupVersion: name, version: 'v1' }], preferredVersion: { groupVersion: name, version: 'v1' } })),
    },
  };
  for (const [group, resources] of Object.entries(RESOURCES)) {
    const list = resources.map(([name, kind]) => ({ name, singularName: kind.toLowerCase(), namespaced: true, kind, verbs: ['get', 'list'] }));
    answers[`${group.includes('/') ? '/apis' : '/api'}/${group}`] = { kind: 'APIResourceList', groupVersion: group, resources: list };
  }
  // A Secret that outlived its release: only with these marks does Helm take it over again.
  const metadata = { namespace: 'chat', labels: { 'app.kubernetes.io/managed-by': 'Helm' }, annotations: { 'meta.helm.sh/release-name': 'demo', 'meta.helm.sh/release-namespace': 'chat' } };
  for (const [name, data] of Object.entries(secrets)) answers[`/api/v1/namespaces/chat/secrets/${name}`] = { apiVersion: 'v1', kind: 'Secret', metadata: { name, ...metadata }, data };
  const server = createServer((request, response) => {
    const answer = answers[(request.url ?? '').split('?')[0] ?? ''];
    response.writeHead(answer === undefined ? 404 : 200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(answer ?? { kind: 'Status', apiVersion: 'v1', status: 'Failure', reason: 'NotFound', code: 404 }));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? address?.port : undefined;
  return { server, flags: ['--dry-run=server', '--disable-openapi-validation', '--kube-apiserver', `http://127.0.0.1:${port}`] };
}
