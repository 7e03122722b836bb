/** Log lines: JSON with a type, the node's name, and nothing of the lines before them. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createLogger } from '../../src/log.ts';

function captured(): { lines: () => Record<string, unknown>[]; write: (line: string) => void } {
  const raw: string[] = [];
  return { lines: () => raw.map((line) => JSON.parse(line) as Record<string, unknown>), write: (line) => void raw.push(line) };
}

describe('the log', () => {
  test('a line carries its own fields and none of an earlier one', () => {
    const sink = captured();
    const logger = createLogger({ level: 'info', node: 'n1' }, sink);
    logger.info({ type: 'first', only_here: 1 }, 'one');
    logger.warn({ type: 'second' }, 'two');
    const [first, second] = sink.lines();
    assert.equal(first?.['only_here'], 1);
    assert.deepEqual(Object.keys(second ?? {}).sort(), ['level', 'message', 'node', 'time', 'type']);
    assert.deepEqual([second?.['level'], second?.['node'], second?.['type'], second?.['message']], ['warn', 'n1', 'second', 'two']);
  });

  test('a name learned later is on the lines from then on', () => {
    const sink = captured();
    const logger = createLogger({ level: 'info', node: null }, sink);
    logger.info({ type: 'before' }, 'before');
    logger.setNode('minted');
    logger.info({ type: 'after' }, 'after');
    assert.deepEqual(sink.lines().map((line) => line['node']), [undefined, 'minted']);
  });
});
