/** Metrics stay few and cheap whatever clients do, and log lines name their node once. */
import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { createLogger } from '../../src/log.ts';
import { createMetrics } from '../../src/metrics.ts';

test('no client can grow the number of series', async () => {
  const metrics = createMetrics();
  metrics.messageAppended('user', 'single', 1);
  metrics.requestAnswered(200);
  const before = (await metrics.registry.metrics()).split('\n').length;
  for (let i = 0; i < 1000; i++) metrics.messageAppended(`role-${i}`, 'single', i);
  const text = await metrics.registry.metrics();
  assert.match(text, /^fastpaca_messages_append_total\{role="other",source="single"\} 1000$/m);
  assert.ok(text.split('\n').length <= before + 1, 'one more series: other');
  assert.ok(before < 500, `${before} lines`);
});

test('durations are observed in the histogram they belong to', async () => {
  const metrics = createMetrics();
  metrics.fsyncDuration.observe(3);
  metrics.commitDuration.observe(7);
  metrics.commitDuration.observe(9000);
  const text = await metrics.registry.metrics();
  assert.match(text, /^fastpaca_fsync_duration_ms_bucket\{le="3"\} 1$/m);
  assert.match(text, /^fastpaca_commit_duration_ms_count 2$/m);
  assert.match(text, /^fastpaca_commit_duration_ms_bucket\{le="5000"\} 1$/m);
});

test('a log line carries its node once, also when the name is learned late', () => {
  const lines: string[] = [];
  const sink = new Writable({ write: (chunk, _encoding, done) => (lines.push(String(chunk)), done()) });
  const logger = createLogger({ level: 'info', node: null }, sink);
  logger.info({ type: 'early' }, 'no name yet');
  logger.setNode('node-1');
  logger.warn({ type: 'late', group: 3 }, 'named');
  logger.error({ type: 'failed', err: new Error('why') }, 'failed');
  const named = createLogger({ level: 'info', node: 'node-2' }, sink);
  named.setNode('node-2');
  named.info({ type: 'listening' }, 'listening');
  assert.deepEqual(lines.map((line) => line.match(/"node":/g)?.length ?? 0), [0, 1, 1, 1]);
  assert.deepEqual(lines.map((line) => JSON.parse(line).node), [undefined, 'node-1', 'node-1', 'node-2']);
  assert.match(String(JSON.parse(lines[2] ?? '').err.stack), /why/);
});
