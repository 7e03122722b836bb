/** The compaction webhook of three real nodes: every context is told of, whoever is killed meanwhile. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { call, ClusterProcesses, until } from './processes.ts';

const CONTEXTS = 120;

test('every context that needs compaction is told of although a node is killed meanwhile', async (t) => {
  const told = new Set<string>();
  let isTaking = false;
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    if (isTaking) told.add(String(JSON.parse(body).context_id));
    response.writeHead(isTaking ? 204 : 503).end();
  }).listen(0, '127.0.0.1');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const cluster = await ClusterProcesses.start(3, { FASTPACA_COMPACTION_WEBHOOK: `http://127.0.0.1:${address.port}/`, FASTPACA_COMPACTION_WEBHOOK_SECRET: 'key' });
  t.after(() => cluster.stop());

  const ids = Array.from({ length: CONTEXTS }, (_, i) => `due-${i}`);
  for (const id of ids) {
    const url = `${cluster.node(1).url}/v1/contexts/${id}`;
    assert.ok((await call(url, 'PUT', { token_budget: 100, policy: { strategy: 'manual' } })).status < 300);
    assert.ok((await call(`${url}/messages`, 'POST', { message: { role: 'user', parts: [{ type: 'text', text: 'x' }], token_count: 90 } })).status < 300);
  }
  // Nothing has been taken so far: what the dead node knew is told by those that lead its groups now.
  await cluster.node(0).kill('SIGKILL');
  isTaking = true;
  await until(`all to be told of, not ${told.size}`, () => told.size === CONTEXTS, 60_000);
});
