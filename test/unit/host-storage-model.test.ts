/** The simulation's disk passes the suite that the real one passes, so it may stand in for it. */
import type { StorageUnderTest } from '../conformance/host-storage.ts';
import { hostStorageConformance } from '../conformance/host-storage.ts';
import { Disk, MemoryStorage } from '../sim/disk.ts';

function under(disk: Disk<null>): StorageUnderTest {
  const storage = new MemoryStorage<null>(disk, setImmediate);
  return {
    storage,
    createGroup: async (group, founding) => storage.createGroup(group, { ...founding, state: null }),
    stage: async (group, meta) => storage.stage(group, meta, null),
    reopen: async () => under(disk),
    close: async () => {},
  };
}

hostStorageConformance('in-memory model', async () => under(new Disk<null>('store')));
