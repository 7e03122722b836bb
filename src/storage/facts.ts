/** Small synced facts about the node itself: identity, promises, the generations seen of its peers. Kept in memory. */
import type { NodeFacts } from '../cluster/ports.ts';
import { DamageError, isIntact, sealed, unsealed } from './checksum.ts';
import { factKey, Space } from './keys.ts';
import type { Database, Writer } from './writer.ts';

export class Facts implements NodeFacts {
  private readonly db: Database;
  private readonly writer: Writer;
  private readonly values = new Map<string, Uint8Array>();

  constructor(db: Database, writer: Writer) {
    this.db = db;
    this.writer = writer;
  }

  /** Reads all facts. Damage here is the whole node's: without its identity it must not start. */
  async load(): Promise<void> {
    for (const [key, value] of await this.db.iterator({ gte: Uint8Array.of(Space.fact), lt: Uint8Array.of(Space.fact + 1) }).all()) {
      const name = Buffer.from(key.subarray(1)).toString('utf8');
      if (!isIntact(key, value)) throw new DamageError(null, `the node's fact ${name} is damaged`);
      this.values.set(name, unsealed(value));
    }
  }

  /** The last value whose put has resolved. */
  get(key: string): Uint8Array | undefined {
    return this.values.get(key);
  }

  async put(key: string, value: Uint8Array): Promise<void> {
    const stored = factKey(key);
    const copy = value.slice();
    await this.writer.run(0, (sink) => sink.put(stored, sealed(stored, copy)));
    this.values.set(key, copy);
  }
}
