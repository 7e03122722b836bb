/** Alerts and scrape configurations: promtool reads them, its unit tests fire each alert, and a real node has what they name. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { ClusterProcesses } from '../e2e/processes.ts';
import { needTools, ROOT } from './tools.ts';

const run = promisify(execFile);
const ALERTS = join(ROOT, 'deploy/prometheus/alerts.yml');

interface Rule {
  readonly alert: string;
  readonly expr: string;
}

function rules(): Rule[] {
  const file: { groups: { rules: Rule[] }[] } = parse(readFileSync(ALERTS, 'utf8'));
  return file.groups.flatMap((group) => group.rules);
}

const SCRAPES = ['prometheus.yml', 'compose.yml', 'local.yml'];

test('promtool accepts the rules and every scrape configuration', async (t) => {
  const tools = needTools(t, ['promtool']);
  if (tools === null) return;
  await run(tools.promtool, ['check', 'rules', '--lint=all', '--lint-fatal', ALERTS]);
  for (const name of SCRAPES) await run(tools.promtool, ['check', 'config', join(ROOT, 'deploy/prometheus', name)]);
});

test('every scrape configuration has the job that the alerts count over, all of its nodes, and the alerts', () => {
  for (const name of SCRAPES) {
    const file: { rule_files: string[]; scrape_configs: { job_name: string; static_configs: { targets: string[] }[] }[] } = parse(readFileSync(join(ROOT, 'deploy/prometheus', name), 'utf8'));
    assert.deepEqual(file.rule_files, ['alerts.yml'], name);
    assert.deepEqual(file.scrape_configs.map((job) => job.job_name), ['fastpaca'], name);
    assert.equal(file.scrape_configs[0]?.static_configs[0]?.targets.length, 3, name);
    // Where `npm run cluster` has its nodes.
    const base = Number(/'base-port': \{ type: 'string', default: '(\d+)'/.exec(readFileSync(join(ROOT, 'scripts/cluster.ts'), 'utf8'))?.[1]);
    if (name === 'local.yml') assert.deepEqual(file.scrape_configs[0]?.static_configs[0]?.targets, [0, 1, 2].map((at) => `127.0.0.1:${base + at}`));
  }
  for (const { alert, expr } of rules()) for (const [selector] of expr.matchAll(/\{[^}]*\}/g)) assert.match(selector, /job="fastpaca"/, alert);
});

test('each alert fires when it should, and none in a healthy cluster', async (t) => {
  const tools = needTools(t, ['promtool']);
  if (tools === null) return;
  const file = join(import.meta.dirname, 'alerts.promtool.yml');
  await run(tools.promtool, ['test', 'rules', file]).catch((error: { stdout: string; stderr: string }) => assert.fail(error.stdout + error.stderr));
  const tried = readFileSync(file, 'utf8');
  for (const { alert } of rules()) assert.ok(tried.includes(alert), `${alert} has no unit test`);
});

test('every metric that an alert names is on a real node from its start', async (t) => {
  const cluster = await ClusterProcesses.start(1);
  t.after(() => cluster.stop());
  const served = await (await fetch(`${cluster.node(0).url}/metrics`)).text();
  const named = rules().flatMap(({ alert, expr }) => [...expr.matchAll(/\b((?:fastpaca|process|nodejs)_\w+)(\{[^}]*\})?/g)].map(([, metric = '', labels = '']) => ({ alert, metric, labels })));
  assert.ok(named.length > 20);
  for (const { alert, metric } of named) assert.match(served, new RegExp(`^${metric}[ {]`, 'm'), `${alert} names ${metric}`);
});

test('the chart carries the same alerts', () => {
  assert.equal(readFileSync(join(ROOT, 'helm/files/alerts.yml'), 'utf8'), readFileSync(ALERTS, 'utf8'), 'copy deploy/prometheus/alerts.yml to helm/files/');
});
