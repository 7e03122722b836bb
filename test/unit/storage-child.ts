/**
 * A process that writes to a store until it is killed or its disk fails, and says on stdout what was acknowledged.
 * Not a test itself: storage-crash.test.ts starts it as `node storage-child.ts DIRECTORY`.
 */
import type { Write } from '../../src/contexts/types.ts';
import { Storage } from '../../src/storage/store.ts';

const GROUP = 3;
const [, , directory] = process.argv;
if (directory === undefined) throw new Error('which directory?');

// Beyond its file size limit the process is to get the error, not the signal.
process.on('SIGXFSZ', () => undefined);

const storage = await Storage.open(directory, { onError: (error) => process.stdout.write(`failed ${error.message}\n`) });
await storage.createGroup(GROUP, { replica: 1, conf: { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false }, index: 0, term: 0 });

let index = 0;
let failures = 0;

function row(at: number): Write {
  return { table: 'message', context: 'c', key: at, value: Buffer.from(`value ${at} ${'x'.repeat(500)}`) };
}

function next(): void {
  // Applied: what the last write made durable. Rows and position ride in the next one.
  const durable = index;
  const entries = Array.from({ length: 20 }, () => ({ term: 1, index: ++index, type: 0 as const, data: Buffer.from(`entry ${index} ${'y'.repeat(500)}`) }));
  if (durable > 0) {
    for (let at = durable - 19; at <= durable; at++) storage.put(GROUP, row(at));
    storage.setStateHash(GROUP, durable * 7);
    storage.setApplied(GROUP, { index: durable, term: 1, conf: null });
  }
  storage.write([{ group: GROUP, hardState: { term: 1, vote: 1, commit: durable }, entries, snapshot: null, compactTo: 0 }], (error) => {
    if (error === null) {
      process.stdout.write(`acked ${index}\n`);
      setImmediate(next);
    } else if (++failures < 5) {
      // A process that would go on must not get another acknowledgement, however often it asks.
      process.stdout.write(`refused ${error.message}\n`);
      setImmediate(next);
    } else {
      process.exit(70);
    }
  });
}

next();
