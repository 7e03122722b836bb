/** The documents say what the code does: the catalogue of errors, the calls, the variables, the links between pages. */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { VARIABLES } from '../../src/config.ts';
import type { Variable } from '../../src/config.ts';
import { ERROR_STATUS } from '../../src/errors.ts';
import { OPERATION_QUERY } from '../../src/http/schemas.ts';
import { MEDIA_PART_TOKENS, NESTED_MEDIA_CHARS } from '../../src/ingest/estimate.ts';
import { TOKEN_COUNT_MAX } from '../../src/ingest/messages.ts';
import { SLICE_BYTES } from '../../src/contexts/tokens.ts';
import { createMetrics } from '../../src/metrics.ts';
import { encodingOf, KNOWN_MODELS } from '../../src/tokens/models.ts';
import { startApp } from './http-double.ts';

const ROOT = new URL('../../', import.meta.url);
const PAGES = ['*.md', 'docs/**/*.md', 'raft/**/*.md', 'helm/*.md', 'deploy/*.md', 'sdk/*.md'];
const page = (path: string): string => readFileSync(new URL(path, ROOT), 'utf8');

test('docs/api/rest.md lists exactly the error codes of the catalogue, with their status', () => {
  const section = page('docs/api/rest.md').split('\n## Errors\n')[1] ?? '';
  const listed = [...section.matchAll(/^\| (\d{3}) \| `([a-z_]+)` \|/gm)].map(([, status, code]) => [code, Number(status)]);
  assert.deepEqual(Object.fromEntries(listed), { ...ERROR_STATUS });
  assert.equal(listed.length, Object.keys(ERROR_STATUS).length, 'a code is listed twice');
});

test('docs/api/rest.md lists exactly the calls that exist, with their success statuses', async (t) => {
  const { app } = await startApp();
  t.after(() => app.close());
  const documented = [...page('docs/api/rest.md').matchAll(/^\| `([A-Z]+) (\/\S+)` \| ([\d, ]+) \|$/gm)].map(([, method, path, statuses]) => `${method} ${path} ${statuses}`);
  const openapi: { paths: Record<string, Record<string, { responses: Record<string, unknown> }>> } = (await app.inject('/openapi.json')).json();
  const existing = Object.entries(openapi.paths).flatMap(([path, calls]) =>
    Object.entries(calls).map(([method, { responses }]) => {
      const health = path.startsWith('/health');
      const statuses = Object.keys(responses).filter((status) => Number(status) < 400 || health);
      return `${method.toUpperCase()} ${path.replace(/\{(\w+)\}/g, ':$1')} ${statuses.join(', ')}`;
    }),
  );
  assert.deepEqual(documented.sort(), [...existing, 'GET /openapi.json 200'].sort());
});

test('docs/api/rest.md names every query parameter where it may be used', () => {
  const text = page('docs/api/rest.md');
  const section = {
    listContexts: 'GET /v1/contexts',
    getContext: 'GET /v1/contexts/:id',
    deleteContext: 'DELETE /v1/contexts/:id',
    getTail: 'GET /v1/contexts/:id/tail',
    getMessages: 'GET /v1/contexts/:id/messages',
    getWindow: 'GET /v1/contexts/:id/context',
    listCompactions: 'GET /v1/contexts/:id/compactions',
  } as const satisfies Record<keyof typeof OPERATION_QUERY, string>;
  for (const [operation, names] of Object.entries(OPERATION_QUERY)) {
    const call = Object.entries(section).find(([name]) => name === operation)?.[1];
    const part = text.split(`### ${call}\n`)[1]?.split('\n### ')[0] ?? '';
    for (const name of names) assert.ok(part.includes(`\`${name}\``), `${operation}: ${name}`);
  }
});

test('docs/operations/configuration.md lists every variable once, with its default and meaning', () => {
  const listed = [...page('docs/operations/configuration.md').matchAll(/^\| `([A-Z_]+)` \| (?:`([^`]*)`)? ?\| (.*) \|$/gm)].map(([, name, value, meaning]) => ({ name, value: value ?? '', meaning }));
  const known = Object.entries<Variable>(VARIABLES).map(([name, { defaultText, meaning }]) => ({ name, value: defaultText, meaning }));
  const byName = (a: { name: string | undefined }, b: { name: string | undefined }): number => String(a.name).localeCompare(String(b.name));
  assert.deepEqual(listed.sort(byName), known.sort(byName));
});

test('docs/operations/metrics.md lists every metric of the registry, with its type, labels and meaning, and no other', async () => {
  const { registry } = createMetrics();
  const listed = [...page('docs/operations/metrics.md').matchAll(/^\| `([a-z0-9_]+)` \| (counter|gauge|histogram) \| (.*?) ?\| (.+) \|$/gm)].map((row) => row.slice(1, 5).join(' | '));
  assert.equal(new Set(listed).size, listed.length, 'a metric is listed twice');
  const existing = (await registry.getMetricsAsJSON()).map(({ name, type, help }) => `${name} | ${type} | ${labelsOf(registry.getSingleMetric(name))} | ${help}`);
  const own = (row: string): boolean => row.startsWith('fastpaca_');
  assert.deepEqual(listed.filter(own).sort(), existing.filter(own).sort());
  // Which of the rest exist depends on the system.
  for (const row of existing) assert.ok(listed.includes(row), row);
});

/** Label names as the page writes them; prom-client keeps them in a field that its types leave out. */
function labelsOf(metric: unknown): string {
  const names = typeof metric === 'object' && metric !== null && 'labelNames' in metric && Array.isArray(metric.labelNames) ? metric.labelNames : [];
  return names.map((name) => `\`${String(name)}\``).join(', ');
}

test('docs/tokens.md states the figures and the part types of the code', () => {
  const text = page('docs/tokens.md');
  const code = page('src/ingest/estimate.ts');
  const media = /MEDIA_TYPES: ReadonlySet<unknown> = new Set\(\[(.*)\]\)/.exec(code)?.[1]?.replaceAll("'", '`') ?? '';
  assert.ok(media.split(', ').length > 5);
  assert.ok(text.includes(`| ${media} | ${MEDIA_PART_TOKENS}, whatever it holds |`));
  assert.ok(text.includes(`longer than ${NESTED_MEDIA_CHARS} characters counts ${MEDIA_PART_TOKENS}`));
  assert.ok(text.includes(`longer than ${SLICE_BYTES.toLocaleString('en')} bytes`));
  assert.ok(text.includes(`0 to ${TOKEN_COUNT_MAX.toLocaleString('en')}`));
  for (const model of ['gpt-4', 'gpt-4-turbo', 'gpt-35-turbo-0613', 'text-embedding-3-small', 'ft:gpt-4:org::id']) assert.equal(encodingOf(model), 'cl100k_base', model);
  for (const model of ['gpt-4o', 'gpt-4.1']) assert.equal(encodingOf(model), 'o200k_base', model);
  const listed = /\| Encoding \| Models \|\n([\s\S]*?)\n\n/.exec(text)?.[1] ?? '';
  for (const model of KNOWN_MODELS) if (/^o200k|^cl100k/.test(encodingOf(model)) && !model.endsWith('_base')) assert.ok(listed.includes(`\`${model}\``), model);
});

test('links of every page lead somewhere, to a heading too', () => {
  const pages = PAGES.flatMap((pattern) => globSync(pattern, { cwd: ROOT }));
  assert.ok(pages.length > 30);
  for (const from of pages) {
    // What stands in a code block or between backticks is shown, not linked.
    const text = page(from).replace(/^```[\s\S]*?^```/gm, '').replace(/`[^`\n]*`/g, '');
    for (const [, target = '', anchor = ''] of text.matchAll(/\]\(([^)#\s]*)(#[^)\s]+)?\)/g)) {
      if (/^https?:/.test(target)) continue;
      const to = new URL(target, new URL(from, ROOT));
      assert.ok(existsSync(to), `${from} links to ${target}`);
      if (anchor !== '' && (target === '' || target.endsWith('.md'))) assert.ok(anchors(readFileSync(to, 'utf8')).includes(anchor), `${from} links to ${target}${anchor}`);
    }
  }
});

/** Anchors that headings get on GitHub. */
function anchors(text: string): string[] {
  const headings = [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => heading);
  return headings.map((heading) => `#${heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-')}`);
}
