/** Large commands in the log: smaller, and the same commands. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decodeCommand, encodeCommand, formatOf, setStamp, stampOf } from '../../src/contexts/commands.ts';
import { commandBytes, packCommand, unpackCommand } from '../../src/packing.ts';
import { append, message, text } from './contexts-fixture.ts';

const LARGE = encodeCommand(append(Array.from({ length: 100 }, (_, i) => message('user', [text(`message ${i} of many that are much alike, as they are in conversations`.repeat(3))]))));

describe('packing', () => {
  it('makes a large command smaller and gives it back, its stamp aside', () => {
    const packed = packCommand(LARGE);
    assert.ok(packed.length < LARGE.length / 3, `${LARGE.length} to ${packed.length}`);
    assert.equal(commandBytes(packed), LARGE.length);
    setStamp(packed, 1_700_000_000_123);
    assert.deepEqual([formatOf(packed), stampOf(packed)], [formatOf(LARGE), 1_700_000_000_123]);
    assert.deepEqual(Uint8Array.from(unpackCommand(packed) ?? assert.fail()), Uint8Array.from(LARGE));
    assert.equal(decodeCommand(packed), null, 'it is not taken for what it holds');
  });

  it('leaves alone what is small, what does not shrink, and what would take long', () => {
    const noise = new Uint8Array(64 * 1024).map((_, i) => (Math.imul(i, 2_654_435_761) >>> 11) ^ (Math.imul(i * i, 40_503) >>> 7));
    noise.set([1, 2]);
    for (const command of [LARGE.subarray(0, 8 * 1024 - 1), noise, new Uint8Array(1024 * 1024 + 1)]) assert.equal(packCommand(command), command);
    const small = encodeCommand(append([message('user', [text()])]));
    assert.equal(unpackCommand(small), small);
    assert.equal(commandBytes(small), small.length);
  });

  it('has null for what cannot be unpacked, and for a packed one inside another', () => {
    const packed = packCommand(LARGE);
    for (const length of [2, 9, 13, 14, 20, packed.length - 1]) assert.equal(unpackCommand(packed.subarray(0, length)), null);
    for (const claimed of [0, 1, LARGE.length - 1, LARGE.length + 1, 0xffff_ffff]) {
      const wrong = Uint8Array.from(packed);
      new DataView(wrong.buffer).setUint32(10, claimed);
      assert.equal(unpackCommand(wrong), null, `${claimed} bytes`);
    }
    const twice = packCommand(Uint8Array.from([...packed, ...new Uint8Array(64 * 1024)]));
    assert.equal(unpackCommand(twice), null);
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (garbage) => assert.equal(unpackCommand(Uint8Array.from([1, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, ...garbage])), null)));
  });
});
