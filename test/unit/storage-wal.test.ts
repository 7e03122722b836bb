/** LevelDB skips a damaged log record silently; the check before it does not, and lets a torn end pass. */
import assert from 'node:assert/strict';
import { cp, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { DamageError } from '../../src/storage/checksum.ts';
import { Storage } from '../../src/storage/store.ts';
import { crc32c, findDamage } from '../../src/storage/wal-check.ts';

const GROUP = 1;
const WRITES = 40;

describe('write-ahead log check', () => {
  let root = '';
  let walName = '';
  let wal: Buffer;
  /** Length of the log after each write. */
  const ends: number[] = [];

  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'storage-wal-'));
    const storage = await Storage.open(join(root, 'live'));
    await storage.createGroup(GROUP, { replica: 1, conf: { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false }, index: 0, term: 1 });
    for (let index = 1; index <= WRITES; index++) {
      // Some records are far larger than a block.
      const data = Buffer.alloc(index % 10 === 0 ? 100_000 : 3000, index);
      await new Promise<void>((resolve, reject) => {
        storage.write([{ group: GROUP, hardState: null, entries: [{ term: 1, index, type: 0, data }], snapshot: null, compactTo: 0 }], (error) => (error === null ? resolve() : reject(error)));
      });
      if (index === 1) walName = (await readdir(join(root, 'live', 'db'))).find((name) => name.endsWith('.log')) ?? '';
      ends.push((await readFile(join(root, 'live', 'db', walName))).length);
    }
    // As a killed process leaves it.
    await cp(join(root, 'live'), join(root, 'killed'), { recursive: true });
    await storage.close();
    wal = await readFile(join(root, 'killed', 'db', walName));
  });

  after(() => rm(root, { recursive: true }));

  async function copy(name: string, change: (path: string) => Promise<void>): Promise<string> {
    const directory = join(root, name);
    await cp(join(root, 'killed'), directory, { recursive: true });
    await change(join(directory, 'db', walName));
    return directory;
  }

  it('computes CRC-32C', () => {
    // RFC 3720, B.4.
    assert.equal(crc32c(new Uint8Array(32), 0, 32), 0x8a9136aa);
    assert.equal(crc32c(new Uint8Array(32).fill(0xff), 0, 32), 0x62a8ab43);
    assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i), 0, 32), 0x46dd794e);
    assert.equal(crc32c(Buffer.from('xx123456789'), 2, 11), 0xe3069283);
  });

  it('passes an undamaged log', () => {
    assert.equal(findDamage(wal), -1);
  });

  it('passes a log that ends anywhere: that write was never acknowledged', () => {
    for (let length = wal.length - 1; length >= 0; length -= 1013) assert.equal(findDamage(wal.subarray(0, length)), -1);
  });

  it('finds any flipped bit in a record that a later one follows', () => {
    const lastStart = ends[WRITES - 2] ?? 0;
    for (let at = 0; at < lastStart; at += 1021) {
      const damaged = Buffer.from(wal);
      damaged[at] = (damaged[at] ?? 0) ^ 0x10;
      // Zeros fill the end of a block that has no room for a header: a bit there means nothing.
      if (32768 - (at % 32768) <= 6) continue;
      const found = findDamage(damaged);
      assert.ok(found !== -1 && found <= at, `bit at ${at}: found ${found}`);
    }
  });

  it('takes a bad last record, even one whose later parts reached the disk, for the tail of a crash', () => {
    const damaged = Buffer.from(wal);
    const lastStart = ends[WRITES - 2] ?? 0;
    assert.ok(wal.length - lastStart > 3 * 32768, 'the last record spans blocks');
    damaged.fill(0, lastStart + 100, lastStart + 40_000);
    assert.equal(findDamage(damaged), -1);
  });

  it('stops the open with a line that names the file, where LevelDB would lose acknowledged writes silently', async () => {
    const directory = await copy('flipped', async (path) => {
      const damaged = Buffer.from(wal);
      const at = (ends[5] ?? 0) + 50;
      damaged[at] = (damaged[at] ?? 0) ^ 1;
      await writeFile(path, damaged);
    });
    await assert.rejects(Storage.open(directory), (error: unknown) => error instanceof DamageError && error.message.includes(walName));
  });

  it('opens after a torn end with all that was written before', async () => {
    const directory = await copy('torn', (path) => truncate(path, (ends[WRITES - 2] ?? 0) + 1000));
    const storage = await Storage.open(directory);
    assert.deepEqual(storage.groups(), [{ group: GROUP, replica: 1, damaged: null }]);
    assert.equal(storage.log(GROUP).lastIndex(), WRITES - 1);
    await storage.close();
  });
});
