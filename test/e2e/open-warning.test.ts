/** A node that asks for no key says so when it starts, and says it as an error where it is in production. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readFile } from 'node:fs/promises';
import { ClusterProcesses, until } from './processes.ts';

const CASES = [
  { name: 'without a key in development: a warning', env: {}, levels: ['warn'] },
  { name: 'without a key in production: an error, also where only errors are logged', env: { NODE_ENV: 'production', FASTPACA_LOG_LEVEL: 'error' }, levels: ['error'] },
  { name: 'with a key: nothing', env: { NODE_ENV: 'production', FASTPACA_API_KEY: 'key' }, levels: [] },
];

for (const { name, env, levels } of CASES) {
  test(`a start ${name}`, async (t) => {
    const cluster = await ClusterProcesses.start(1, env);
    t.after(() => cluster.stop());
    const node = cluster.node(0);
    await node.kill('SIGTERM');
    const lines = async (): Promise<{ level: string; type: string; message: string }[]> =>
      (await readFile(node.logFile, 'utf8')).split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as { level: string; type: string; message: string });
    const open = async () => (await lines()).filter(({ type }) => type === 'no_api_key');
    await until('the log to be written', async () => (await open()).length >= levels.length, 5_000);
    assert.deepEqual((await open()).map(({ level }) => level), levels);
    for (const { message } of await open()) assert.match(message, /FASTPACA_API_KEY is not set/);
  });
}
