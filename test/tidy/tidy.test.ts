/** The rules of the house that a compiler alone does not keep: types, purity, one-way imports, forbidden habits. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, normalize } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';

const root = join(import.meta.dirname, '../..');
const run = promisify(execFile);

async function sources(...folders: string[]): Promise<{ path: string; text: string }[]> {
  const out: { path: string; text: string }[] = [];
  for (const folder of folders) {
    for (const name of await readdir(join(root, folder), { recursive: true })) {
      if (!name.endsWith('.ts')) continue;
      const path = join(folder, name);
      out.push({ path, text: await readFile(join(root, path), 'utf8') });
    }
  }
  return out;
}

function importsOf(text: string): string[] {
  return [...text.matchAll(/^\s*(?:import|export)\b[^;]*?\bfrom\s+'([^']+)'/gms), ...text.matchAll(/\bimport\(\s*'([^']+)'\s*\)/g)].map((match) => match[1] ?? '');
}

/** Top of the house an import leads to: `raft`, `src/http`, `src/store.ts`, or a package name. */
function target(path: string, specifier: string): string {
  if (!specifier.startsWith('.')) return specifier;
  const full = normalize(join(dirname(path), specifier));
  const [first = '', second = ''] = full.split('/');
  return first === 'src' ? `src/${second}` : first;
}

describe('types', () => {
  for (const project of ['.', 'raft', 'src/contexts']) {
    test(`tsc -p ${project} is clean`, async () => {
      await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, project)], { cwd: root }).catch((error: { stdout?: string }) => {
        assert.fail(`tsc -p ${project}:\n${error.stdout}`);
      });
    });
  }
});

describe('imports run one way', () => {
  const pure: Record<string, string> = {
    raft: 'raft/ is a library of its own: it may import nothing outside itself',
    'src/contexts': 'the state machine is pure: everything it needs comes in through its arguments',
  };
  for (const [folder, why] of Object.entries(pure)) {
    test(`${folder} imports only itself`, async () => {
      for (const { path, text } of await sources(folder)) {
        for (const specifier of importsOf(text)) assert.equal(target(path, specifier), folder, `${path} imports ${specifier}: ${why}`);
      }
    });
    test(`${folder} has no clock, no randomness, no timers`, async () => {
      const banned = /\b(Date\.now|new Date|Math\.random|performance\.|setTimeout|setInterval|setImmediate|process\.|globalThis)\b/;
      for (const { path, text } of await sources(folder)) {
        const code = text.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '');
        assert.doesNotMatch(code, banned, `${path}: ${why}`);
      }
    });
  }

  /** What each part may import of the house; a part not listed here is only imported by node.ts and program.ts. */
  const allowed: Record<string, readonly string[]> = {
    'src/storage': ['raft', 'src/contexts', 'src/constants.ts', 'src/cluster/ports.ts'],
    'src/ingest': ['src/contexts', 'src/errors.ts', 'src/tokens'],
    'src/tokens': ['src/contexts'],
    'src/http': ['src/contexts', 'src/errors.ts', 'src/settings.ts', 'src/config.ts', 'src/metrics.ts', 'src/log.ts', 'src/constants.ts', 'src/ingest', 'src/claims.ts', 'src/providers', 'src/tokens'],
    'src/providers': ['src/contexts'],
    'src/streams': ['src/archive', 'src/contexts', 'src/errors.ts', 'src/log.ts', 'src/render.ts', 'src/reads.ts', 'src/http/input.ts', 'src/cluster/placement.ts'],
    'src/listing': ['src/contexts', 'src/errors.ts', 'src/constants.ts', 'src/render.ts', 'src/http/ports.ts', 'src/cluster/placement.ts', 'src/cluster/ports.ts', 'src/storage/checksum.ts'],
    'src/archive': ['archiver', 'raft', 'src/contexts', 'src/errors.ts', 'src/message-blocks.ts', 'src/render.ts', 'src/config.ts', 'src/metrics.ts', 'src/cluster/placement.ts'],
    'src/erasure': ['raft', 'src/contexts', 'src/constants.ts', 'src/log.ts', 'src/cluster/ports.ts', 'src/cluster/router.ts', 'src/storage/store.ts'],
    // Runs on a directory that no node has open: of the running parts it needs forms and names alone.
    'src/reshard': ['src/shards/layout.ts', 'src/shards/relayout.ts', 'raft', 'src/cluster', 'src/storage', 'src/constants.ts', 'src/machine.ts'],
    'src/restore': ['src/shards/layout.ts', 'src/shards/relayout.ts', 'raft', 'src/cluster', 'src/storage', 'src/constants.ts', 'src/machine.ts', 'src/cli/table.ts'],
    // A program of its own, which knows the server by its API alone.
    'src/cli': [],
    // Another process may run it one day: what it needs comes in through its ports.
    archiver: [],
    'src/cluster': ['raft', 'src/contexts', 'src/storage', 'src/constants.ts', 'src/errors.ts', 'src/log.ts'],
  };
  for (const [folder, list] of Object.entries(allowed)) {
    test(`${folder} imports only what stands below it`, async () => {
      for (const { path, text } of await sources(folder)) {
        for (const specifier of importsOf(text)) {
          if (!specifier.startsWith('.')) continue;
          const full = normalize(join(dirname(path), specifier));
          const ok = target(path, specifier) === folder || list.includes(target(path, specifier)) || list.includes(full);
          assert.ok(ok, `${path} imports ${specifier}: ${folder} may import only ${[folder, ...list].join(', ')}`);
        }
      }
    });
  }

  test('only program.ts and scripts read process.env and signals', async () => {
    for (const { path, text } of await sources('src', 'raft', 'archiver')) {
      // What program.ts is made of: how a node ends what it runs in.
      if (['src/program.ts', 'src/cli/main.ts', 'src/run.ts', 'src/shards/supervisor.ts'].includes(path)) continue;
      const code = text.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '');
      assert.doesNotMatch(code, /process\.(env|on|once|exit)\b/, `${path}: the process belongs to program.ts, so that a node can be built twice in one process`);
    }
  });
});

describe('habits', () => {
  test('no any, no suppressions, no dumping grounds, no leftovers', async () => {
    for (const { path, text } of await sources('src', 'raft', 'archiver', 'test', 'scripts')) {
      if (path === 'test/tidy/tidy.test.ts') continue;
      assert.doesNotMatch(path, /(utils|helpers|misc)(\.ts|\/)/, `${path}: name the file for its concept`);
      const code = text.replace(/\/\*[\s\S]*?\*\//g, '');
      assert.doesNotMatch(code.replace(/\/\/.*$|'[^'\n]*'/gm, ''), /:\s*any\b|<any>|as any\b/, `${path} uses any: decode unknown once, at the edge`);
      assert.doesNotMatch(text, /@ts-(ignore|expect-error|nocheck)|\bTODO\b|\bFIXME\b|\bXXX\b/, `${path} holds a leftover`);
    }
  });

  test('every source file says at its top what it owns', async () => {
    for (const { path, text } of await sources('src', 'raft', 'archiver')) {
      assert.match(text.replace(/^#!.*\n/, '').trimStart(), /^\/\*\*|^\/\/ /, `${path} has no header: say what it owns and what it does not`);
    }
  });

  test('files stay readable', async () => {
    const licensed: Record<string, number> = { 'raft/raft.ts': 1600, 'raft/host.ts': 900 };
    for (const { path, text } of await sources('src', 'raft', 'archiver')) {
      const lines = text.split('\n').length;
      assert.ok(lines <= (licensed[path] ?? 600), `${path} has ${lines} lines: one concept a file, split it`);
    }
  });
});
