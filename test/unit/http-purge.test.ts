/** DELETE with purge: under way until the last trace is gone. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startApp } from './http-double.ts';

test('purging is 202 while it is under way, 204 once all is gone, and no tombstone', async (t) => {
  const { app, store } = await startApp();
  t.after(() => app.close());
  const underWay = await app.inject({ method: 'DELETE', url: '/v1/contexts/c?purge=true' });
  assert.deepEqual([underWay.statusCode, underWay.body], [202, '{"status":"purging"}']);
  store.complete = true;
  const done = await app.inject({ method: 'DELETE', url: '/v1/contexts/c?purge=true' });
  assert.deepEqual([done.statusCode, done.body], [204, '']);
  assert.deepEqual(store.calls, [{ verb: 'purge', id: 'c' }, { verb: 'purge', id: 'c' }]);
  await app.inject({ method: 'DELETE', url: '/v1/contexts/c?purge=false' });
  assert.equal(store.calls.at(-1)?.verb, 'remove');
});
