/** The LevelDB store passes the suite that every HostStorage must pass. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Storage } from '../../src/storage/store.ts';
import type { StorageUnderTest } from '../conformance/host-storage.ts';
import { hostStorageConformance } from '../conformance/host-storage.ts';

async function under(directory: string): Promise<StorageUnderTest> {
  const storage = await Storage.open(directory);
  return {
    storage,
    createGroup: (group, founding) => storage.createGroup(group, founding),
    stage: async (group, meta) => {
      // A snapshot comes from another store: one whose group was founded at that position.
      const elsewhere = await mkdtemp(join(tmpdir(), 'storage-sender-'));
      const sender = await Storage.open(elsewhere);
      await sender.createGroup(group, { replica: 9, ...meta });
      const snapshot = sender.openSnapshot(group);
      const staged = storage.stage(group);
      await staged.write((await snapshot.read('', 1 << 20)).chunk);
      await staged.finish(meta);
      await snapshot.close();
      await sender.close();
      await rm(elsewhere, { recursive: true });
    },
    reopen: async () => {
      await storage.close();
      return under(directory);
    },
    close: async () => {
      await storage.close();
      await rm(directory, { recursive: true });
    },
  };
}

hostStorageConformance('LevelDB', async () => under(await mkdtemp(join(tmpdir(), 'storage-'))));
