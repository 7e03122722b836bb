/** A cluster secret is replaced node by node while clients go on: the quorum is never lost, and the old one is worth nothing in the end. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { call, ClusterProcesses, until } from './processes.ts';

const APPEND_PAUSE_MS = 20;
/** A node that dies without a word leaves its groups without a leader for about a second. */
const QUORUM_MS = 5_000;

test('from one secret to another over three nodes, without losing the quorum', async (t) => {
  const cluster = await ClusterProcesses.start(3, { FASTPACA_CLUSTER_SECRET: 'secret-a' });
  t.after(() => cluster.stop());
  const messages = (node: number): string => `${cluster.node(node).url}/v1/contexts/c/messages`;
  assert.equal((await call(`${cluster.node(0).url}/v1/contexts/c`, 'PUT', { token_budget: 100_000 })).status, 201);

  let appended = 0;
  /** One message through one node, tried again under its key as clients do. A quorum that is lost for long shows as a failure. */
  const append = async (via: number, what: string): Promise<void> => {
    const deadline = performance.now() + QUORUM_MS;
    const body = { message: { role: 'user', parts: [{ type: 'text', text: `${appended}` }] } };
    for (;;) {
      const { status, text } = await call(messages(via), 'POST', body, { 'idempotency-key': `k${appended}` });
      if (status === 201) break;
      assert.ok(status === 503 && performance.now() < deadline, `${what}, through node ${via}: ${status} ${text}`);
      await pause();
    }
    appended++;
  };
  /** Restarts a node while a client appends through the others. */
  const restart = async (i: number, secret: string): Promise<void> => {
    let isDone = false;
    const client = async (): Promise<void> => {
      for (let n = 0; !isDone; n++) {
        await append((i + 1 + (n % 2)) % 3, `while node ${i} restarts with ${secret}`);
        await pause();
      }
    };
    const restarted = async (): Promise<void> => {
      try {
        await cluster.node(i).kill('SIGKILL');
        cluster.node(i).start({ FASTPACA_CLUSTER_SECRET: secret });
        await cluster.node(i).ready();
        await until(`node ${i} to be linked with both`, async () => (await metric(cluster.node(i).url, 'fastpaca_peers_up')) === 2);
      } finally {
        isDone = true;
      }
    };
    await Promise.all([client(), restarted()]);
  };
  for (const secret of ['secret-b,secret-a', 'secret-b']) for (let i = 0; i < 3; i++) await restart(i, secret);

  for (let i = 0; i < 3; i++) {
    const listed = await call(`${messages(i)}?limit=1000`);
    assert.equal(Array.isArray(listed.json['messages']) ? listed.json['messages'].length : 0, appended);
    const hello = (secret: string): Promise<number> => call(`${cluster.node(i).url}/_peer/hello`, 'POST', {}, { authorization: `Bearer ${secret}` }).then(({ status }) => status);
    assert.deepEqual([await hello('secret-a'), await hello('secret-b')], [401, 400]);
    assert.equal(await metric(cluster.node(i).url, 'fastpaca_peer_refused_total\\{reason="unauthorized"\\}'), 1, 'nobody was refused but the call above');
  }
});

async function metric(url: string, name: string): Promise<number> {
  const { text } = await call(`${url}/metrics`);
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1]);
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, APPEND_PAUSE_MS));
}
