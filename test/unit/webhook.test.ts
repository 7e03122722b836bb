/** The compaction webhook against a real HTTP server on loopback. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test, type TestContext } from 'node:test';
import { CompactionWebhook, signature, SIGNATURE_HEADER, type WebhookOptions } from '../../src/webhook.ts';

const QUIET = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

interface Told {
  readonly body: string;
  readonly signature: string;
  readonly context: string;
}

/** A sink that answers with what `status` says, and a webhook that tells it. */
async function sink(t: TestContext, status: (told: Told, nth: number) => number | Promise<number>, options: Partial<WebhookOptions> = {}) {
  const told: Told[] = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const one = { body, signature: String(request.headers[SIGNATURE_HEADER]), context: String(JSON.parse(body).context_id) };
    response.writeHead(await status(one, told.push(one))).end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const counts = { sent: 0, failed: 0, dropped: 0 };
  const counter = (name: keyof typeof counts) => ({ inc: () => void counts[name]++ });
  const webhook = new CompactionWebhook({
    url: `http://127.0.0.1:${address.port}/hook`,
    secret: 'key',
    rows: { contexts: async () => [], get: () => undefined },
    leads: () => true,
    counters: { sent: counter('sent'), failed: counter('failed'), dropped: counter('dropped') },
    logger: QUIET,
    now: Date.now,
    random: () => 0.5,
    ...options,
    bounds: { backoffMs: 5, timeoutMs: 2000, ...options.bounds },
  });
  t.after(async () => {
    await webhook.close();
    server.closeAllConnections();
    server.close();
  });
  const settled = async (): Promise<void> => {
    const deadline = Date.now() + 5000;
    while (webhook.waiting > 0) {
      assert.ok(Date.now() < deadline, `${webhook.waiting} notices still wait`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  return { webhook, told, counts, settled };
}

const due = (context: string, version = 7) => ({ context, version, usedTokens: 900, tokenBudget: 1000 });

test('a notice says which context, and is signed over time and body', async (t) => {
  const { webhook, told, counts, settled } = await sink(t, () => 204);
  webhook.notify(3, due('c'));
  await settled();
  const [one] = told;
  assert.ok(one !== undefined);
  assert.deepEqual(JSON.parse(one.body), { type: 'needs_compaction', context_id: 'c', version: 7, used_tokens: 900, token_budget: 1000 });
  const seconds = Number(/^t=(\d+),v1=[0-9a-f]{64}$/.exec(one.signature)?.[1]);
  assert.ok(Math.abs(seconds - Date.now() / 1000) < 10);
  assert.equal(one.signature, signature('key', seconds, one.body));
  assert.deepEqual(counts, { sent: 1, failed: 0, dropped: 0 });
});

test('what may pass is tried again, what will not is given up', async (t) => {
  const answers = [500, 429, 503, 200];
  const { webhook, told, counts, settled } = await sink(t, ({ context }, nth) => (context === 'bad' ? 400 : (answers[nth - 1] ?? 200)));
  webhook.notify(1, due('c'));
  await settled();
  assert.equal(told.length, 4);
  webhook.notify(1, due('bad'));
  await settled();
  assert.equal(told.length, 5);
  assert.deepEqual(counts, { sent: 1, failed: 1, dropped: 0 });
});

test('trying ends after its time', async (t) => {
  const { webhook, told, counts, settled } = await sink(t, () => 500, { bounds: { ageMs: 60 } });
  webhook.notify(1, due('c'));
  await settled();
  assert.ok(told.length >= 2);
  assert.deepEqual(counts, { sent: 0, failed: 1, dropped: 0 });
});

test('one notice a context waits, the newest; beyond the bound the oldest goes', async (t) => {
  const gate = Promise.withResolvers<number>();
  const { webhook, told, counts, settled } = await sink(t, () => gate.promise, { bounds: { notices: 3 } });
  for (const context of ['a', 'b', 'c', 'd']) webhook.notify(1, due(context));
  webhook.notify(1, due('b', 8));
  webhook.notify(1, due('b', 9));
  assert.equal(webhook.waiting, 3);
  gate.resolve(200);
  await settled();
  assert.deepEqual(told.map(({ body }) => [JSON.parse(body).context_id, JSON.parse(body).version]).sort(), [['b', 9], ['c', 7], ['d', 7]]);
  assert.deepEqual(counts, { sent: 3, failed: 0, dropped: 1 });
});
