/** Headers and settings in memory are those of the rows, whatever was let go in between. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { MemoryRows, append, compact, message, policy, put, text, user } from './contexts-fixture.ts';
import { ContextMemory } from '../../src/context-memory.ts';
import type { ContextMemoryOptions } from '../../src/context-memory.ts';
import { encodeConfig, encodeHeader } from '../../src/contexts/rows.ts';
import type { Command, ContextConfig, ContextHeader, Outcome } from '../../src/contexts/types.ts';

const CONTEXTS = ['a', 'b', 'c', 'd', ...Array.from({ length: 36 }, (_, i) => `e${i}`)];
const SLAB = 2048;

/** Asks the memory first, as a node does, and counts what it could not tell. */
class RememberingRows extends MemoryRows {
  readonly memory: ContextMemory;
  missed = 0;

  constructor(options?: Partial<ContextMemoryOptions>) {
    super();
    this.memory = new ContextMemory(options);
  }

  override header(context: string): ContextHeader | undefined {
    const known = this.memory.header(context);
    if (known !== undefined) return known ?? undefined;
    this.missed++;
    const header = super.header(context);
    this.memory.readHeader(context, header ?? null, this.stored.get(`header|${context}|`) ?? null);
    return header;
  }

  override config(context: string): ContextConfig | undefined {
    const known = this.memory.config(context);
    if (known !== undefined) return known;
    const config = super.config(context);
    const row = this.stored.get(`config|${context}|`);
    if (config === undefined || row === undefined) return undefined;
    this.missed++;
    this.memory.readConfig(context, config, row);
    return config;
  }

  private row(table: 'header' | 'config', context: string): Buffer | undefined {
    const row = this.stored.get(`${table}|${context}|`);
    return row === undefined ? undefined : Buffer.from(row);
  }

  protected override applied(command: Command, outcome: Outcome): void {
    this.memory.applied(command, outcome);
    for (const context of CONTEXTS) {
      const [header, config] = [this.header(context), this.config(context)];
      assert.deepEqual(header === undefined ? undefined : Buffer.from(encodeHeader(header)), this.row('header', context));
      assert.deepEqual(config === undefined ? undefined : Buffer.from(encodeConfig(config)), this.row('config', context));
    }
  }
}

const metadata = fc.constantFrom('{}', '{"user":"ä"}', JSON.stringify({ long: 'x'.repeat(600) })).map((json) => new TextEncoder().encode(json));
const command: fc.Arbitrary<Command> = fc
  .tuple(
    fc.constantFrom(...CONTEXTS),
    fc.oneof(
      metadata.map((metadataText) => put({ metadataText, tokenBudget: 300, policy: policy({ limit: 5 }) })),
      fc.integer({ min: 1, max: 9 }).map((count) => append(Array.from({ length: count }, () => user()))),
      fc.constant(append([message('user', [text()])])),
      fc.constant(compact([user()])),
      fc.constant<Command>({ type: 'tombstone', context: 'c' }),
      fc.constant<Command>({ type: 'purge', context: 'c' }),
      fc.integer({ min: 1, max: 9 }).map((upto): Command => ({ type: 'ack_archived', context: 'c', acks: CONTEXTS.map((context) => ({ context, upto, version: 1, configRevision: 0 })), tailKeep: 1 })),
    ),
  )
  .map(([context, given]) => ({ ...given, context }));

it('tells what the rows say', () => {
  const bounds: Partial<ContextMemoryOptions>[] = [{}, { decodedBytesMax: 0 }, { rowsBytesMax: 0 }, { decodedBytesMax: 0, rowsBytesMax: SLAB }, { decodedBytesMax: 1400, rowsBytesMax: 2 * SLAB }, { decodedBytesMax: 0, rowsBytesMax: 3 * SLAB }];
  fc.assert(
    fc.property(fc.array(command, { maxLength: 60, size: 'max' }), fc.constantFrom(...bounds), (commands, options) => {
      const rows = new RememberingRows({ rowSlabBytes: SLAB, ...options });
      for (const given of commands) rows.run(given);
    }),
    { numRuns: 300 },
  );
});

it('rows are enough: nothing is read again of a context that was seen once', () => {
  const rows = new RememberingRows({ decodedBytesMax: 0 });
  for (const context of CONTEXTS) rows.run({ ...put(), context });
  const before = rows.missed;
  for (let i = 0; i < 20; i++) for (const context of CONTEXTS) rows.run({ ...append([user()]), context });
  assert.equal(rows.missed, before);
});

it('what was read last of a context is forgotten with it', () => {
  const rows = new RememberingRows();
  rows.run(put());
  rows.memory.recentBlocks.keep('c', 1, { first: 1, rows: [new Uint8Array([2])] });
  rows.run(append([user()]));
  assert.ok(rows.memory.recentBlocks.get('c', 1) !== undefined);
  rows.run({ type: 'purge', context: 'c' });
  assert.equal(rows.memory.recentBlocks.get('c', 1), undefined);
});
