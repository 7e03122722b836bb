/** What survives a killed process and a disk that refuses: everything acknowledged, and never an applied row too many. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it } from 'node:test';
import { Storage } from '../../src/storage/store.ts';

const GROUP = 3;
const CHILD = join(import.meta.dirname, 'storage-child.ts');
const KILLS = 6;

interface Run {
  readonly acked: number;
  readonly refused: readonly string[];
  readonly failed: readonly string[];
}

/** Runs the child until it exits, killing it once `killAfter` is acknowledged. */
async function run(command: readonly string[], directory: string, killAfter: number): Promise<Run> {
  const [program = process.execPath, ...prefix] = [...command, process.execPath];
  const child = spawn(program, [...prefix, CHILD, directory], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const result = { acked: 0, refused: [] as string[], failed: [] as string[] };
  for await (const line of createInterface({ input: child.stdout })) {
    const [word = '', ...rest] = line.split(' ');
    if (word === 'acked') {
      assert.equal(result.failed.length, 0, 'nothing is acknowledged after a failure');
      result.acked = Number(rest[0]);
      if (result.acked >= killAfter) child.kill('SIGKILL');
    } else if (word === 'refused') {
      result.refused.push(rest.join(' '));
    } else {
      result.failed.push(rest.join(' '));
    }
  }
  await exited;
  return result;
}

/** Opens what the child left and checks all that was promised. Returns the last index. */
async function check(directory: string, acked: number): Promise<number> {
  const storage = await Storage.open(directory);
  try {
    assert.deepEqual(storage.groups(), [{ group: GROUP, replica: 1, damaged: null }]);
    const log = storage.log(GROUP);
    assert.ok(log.lastIndex() >= acked, `acknowledged ${acked}, found ${log.lastIndex()}`);
    const entries = log.entries(1, log.lastIndex() + 1, Number.MAX_SAFE_INTEGER);
    for (const entry of entries) assert.ok(Buffer.from(entry.data).toString().startsWith(`entry ${entry.index} `));
    const applied = storage.durableApplied(GROUP);
    assert.ok(applied <= log.lastIndex(), 'applied state is never ahead of the log that explains it');
    assert.equal(storage.stateHash(GROUP), applied * 7, 'the hash is the one of the applied index');
    const rows = await storage.rows(GROUP, 'message', 'c', { limit: 1_000_000 });
    assert.equal(rows.length, applied, 'the rows are exactly those of the applied index');
    return log.lastIndex();
  } finally {
    await storage.close();
  }
}

describe('storage across crashes', () => {
  it('keeps every acknowledged write when the process is killed at any moment', async () => {
    for (let kill = 1; kill <= KILLS; kill++) {
      const directory = await mkdtemp(join(tmpdir(), 'storage-kill-'));
      const { acked } = await run([], directory, kill * 260);
      assert.ok(acked >= kill * 260);
      await check(directory, acked);
      await rm(directory, { recursive: true });
    }
  });

  it('acknowledges nothing any more once a write failed, and loses nothing that was', { skip: spawnSync('prlimit', ['--version']).status !== 0 }, async () => {
    const directory = await mkdtemp(join(tmpdir(), 'storage-full-'));
    const { acked, refused, failed } = await run(['prlimit', '--fsize=3000000', '--'], directory, Number.MAX_SAFE_INTEGER);
    assert.ok(acked > 0);
    assert.equal(failed.length, 1, 'the failure is reported once');
    assert.match(failed[0] ?? '', /writing to disk failed/);
    assert.equal(refused.length, 4);
    assert.deepEqual(new Set(refused), new Set(failed), 'all later writes fail with the same error');
    await check(directory, acked);
    await rm(directory, { recursive: true });
  });
});
