/**
 * The header's and the settings' rows of many contexts, outside the runtime's heap, where a million of them cost no
 * collection anything, and bounded. Beyond the bound, contexts give way that were not used for long: a hand goes round
 * the slabs, and what was not used since it last came by is let go (CLOCK). Nothing has to be kept: who misses a row asks
 * storage.
 *
 * An entry lies within one slab, at a multiple of UNIT, and is written again in place as long as it has the room:
 *
 *   0   u32  hash of the id          6   u16  length of the id          12  id (UTF-8), header's row, settings' row
 *   4   u8   length of all in units  8   u16  of the header's row
 *   5   u8   flags                   10  u16  of the settings' row
 *
 * A row of length 0 is not known. The index is a hash table of addresses, probed linearly, and not far: clients choose the
 * ids, and may choose such as collide.
 */

const UNIT = 8;
/** Small enough that to sweep one is no stall. */
const SLAB_BYTES = 256 * 1024;
/** Of a slab that the hand comes to, so much at most stays, so that one sweep makes room. */
const SLAB_KEPT = 15 / 16;
/** So far from where its hash says is an entry looked for. Without intent they lie within twenty. */
const PROBES_MAX = 128;
const HEAD_BYTES = 12;
const ID_BYTES_MAX = 256;
/** Of one character in UTF-8. */
const CHARACTER_BYTES_MAX = 4;
/** A longer row is not kept. */
const ROW_BYTES_MAX = 512;
/** Room for numbers that grow: versions, seqs, sums. */
const SLACK_BYTES = 8;
/** Room for a row that is not known yet: the two come one after the other. */
const ROOM_BYTES = { header: 48, config: 32 } as const;
/** The index has twice as many places as there are entries of this size. */
const ENTRY_BYTES = 96;

const LIVE = 1;
const USED = 2;

export type KeptRow = 'header' | 'config';

interface Slab {
  readonly bytes: Uint8Array;
  readonly halves: Uint16Array;
  readonly words: Int32Array;
  /** In units: what lies behind was never written, or is free again. */
  end: number;
}

export class RowMemory {
  readonly #slabUnits: number;
  readonly #slabsMax: number;
  readonly #slabs: Slab[] = [];
  /** 1 + address of an entry, in units over all slabs; 0: free. */
  readonly #index: Int32Array;
  /** An id that is too long fills more than ID_BYTES_MAX of it. */
  readonly #id = Buffer.alloc(ID_BYTES_MAX + CHARACTER_BYTES_MAX);
  /** The slab that is filled. */
  #hand = 0;

  /**
   * `bytesMax`: of the slabs, rounded down; with less than one nothing is kept. The index, a tenth of it, comes on top;
   * none of either takes memory before it is used. `slabBytes`: for tests, 2 KiB at least.
   */
  constructor(bytesMax: number, slabBytes = SLAB_BYTES) {
    this.#slabUnits = slabBytes / UNIT;
    this.#slabsMax = Math.floor(bytesMax / slabBytes);
    this.#index = new Int32Array(2 ** Math.ceil(Math.log2(1 + (2 * this.#slabsMax * slabBytes) / ENTRY_BYTES)));
  }

  /** A copy of the row; undefined: it is not known. */
  get(context: string, which: KeptRow): Uint8Array | undefined {
    const idLength = this.#writeId(context);
    const slot = this.#find(idLength, hashOf(this.#id, idLength));
    if (slot < 0) return undefined;
    const { slab, at } = this.#entry(slot);
    const [start, end] = rowIn(slab, at, which);
    if (start === end) return undefined;
    slab.bytes[at + 5] = LIVE | USED;
    return slab.bytes.slice(start, end);
  }

  /** The row as it is from now on; null: it is not known, or gone. */
  keep(context: string, which: KeptRow, row: Uint8Array | null): void {
    const idLength = this.#writeId(context);
    const hash = hashOf(this.#id, idLength);
    const slot = this.#find(idLength, hash);
    const kept = row === null || row.length > ROW_BYTES_MAX || idLength > ID_BYTES_MAX ? NO_ROW : row;
    if (slot < 0) {
      if (kept.length > 0) this.#add(idLength, hash, LIVE, which === 'header' ? kept : NO_ROW, which === 'config' ? kept : NO_ROW);
      return;
    }
    const { slab, at } = this.#entry(slot);
    const [headerStart, headerEnd] = rowIn(slab, at, 'header');
    const [configStart, configEnd] = rowIn(slab, at, 'config');
    const headerLength = which === 'header' ? kept.length : headerEnd - headerStart;
    const configLength = which === 'config' ? kept.length : configEnd - configStart;
    const entryEnd = at + (slab.bytes[at + 4] ?? 0) * UNIT;
    // The other row of a context that was just met is no second use of it.
    const wasKnown = which === 'header' ? headerStart < headerEnd : configStart < configEnd;
    const flags = wasKnown ? LIVE | USED : (slab.bytes[at + 5] ?? 0);
    if (headerLength + configLength === 0) {
      this.#remove(slot);
    } else if (headerStart + headerLength + configLength <= entryEnd) {
      slab.bytes[at + 5] = flags;
      if (headerLength !== headerEnd - headerStart) slab.bytes.copyWithin(headerStart + headerLength, configStart, configEnd);
      slab.halves[at / 2 + 4] = headerLength;
      slab.halves[at / 2 + 5] = configLength;
      slab.bytes.set(kept, which === 'header' ? headerStart : headerStart + headerLength);
    } else {
      const other = which === 'header' ? slab.bytes.slice(configStart, configEnd) : slab.bytes.slice(headerStart, headerEnd);
      this.#remove(slot);
      this.#add(idLength, hash, flags, which === 'header' ? kept : other, which === 'config' ? kept : other);
    }
  }

  clear(): void {
    if (this.#slabs.length === 0) return;
    this.#index.fill(0);
    for (const slab of this.#slabs) slab.end = 0;
    this.#hand = 0;
  }

  /** Leaves the id in `#id`, as far as it has room; answers its length there. */
  #writeId(context: string): number {
    return this.#id.write(context, 'utf8');
  }

  /** Where in the index the entry of the id in `#id` is; -1: nowhere. */
  #find(idLength: number, hash: number): number {
    const last = this.#index.length - 1;
    for (let probes = 0; probes < PROBES_MAX; probes++) {
      const slot = (hash + probes) & last;
      if (this.#index[slot] === 0) return -1;
      const { slab, at } = this.#entry(slot);
      const start = at + HEAD_BYTES;
      if (slab.words[at / 4] === hash && this.#id.compare(slab.bytes, start, start + (slab.halves[at / 2 + 3] ?? 0), 0, idLength) === 0) return slot;
    }
    return -1;
  }

  /** The entry that `slot` of the index names; `at` in bytes. */
  #entry(slot: number): { readonly slab: Slab; readonly at: number } {
    const address = (this.#index[slot] ?? 0) - 1;
    const slab = this.#slabs[Math.floor(address / this.#slabUnits)];
    if (slab === undefined) throw new Error('the index names an entry that is not there');
    return { slab, at: (address % this.#slabUnits) * UNIT };
  }

  #add(idLength: number, hash: number, flags: number, header: Uint8Array, config: Uint8Array): void {
    const rows = (header.length === 0 ? ROOM_BYTES.header : header.length) + (config.length === 0 ? ROOM_BYTES.config : config.length);
    const units = Math.ceil((HEAD_BYTES + idLength + rows + SLACK_BYTES) / UNIT);
    const slab = this.#slabWithRoom(units);
    const slot = this.#slotOf(hash, 0);
    if (slab === null || slot < 0) return;
    const at = slab.end * UNIT;
    const start = at + HEAD_BYTES;
    slab.words[at / 4] = hash;
    slab.bytes[at + 4] = units;
    slab.bytes[at + 5] = flags;
    slab.halves[at / 2 + 3] = idLength;
    slab.halves[at / 2 + 4] = header.length;
    slab.halves[at / 2 + 5] = config.length;
    this.#id.copy(slab.bytes, start, 0, idLength);
    slab.bytes.set(header, start + idLength);
    slab.bytes.set(config, start + idLength + header.length);
    this.#index[slot] = 1 + this.#hand * this.#slabUnits + slab.end;
    slab.end += units;
  }

  /** The slab at the hand, which has moved on until there was room; null: nothing can be kept. */
  #slabWithRoom(units: number): Slab | null {
    if (this.#slabsMax < 1) return null;
    // Who is swept is not in use any more for the next sweep, so that there is room after two rounds at the latest.
    for (;;) {
      const slab = this.#slabs[this.#hand];
      if (slab !== undefined && slab.end + units <= this.#slabUnits) return slab;
      if (slab !== undefined) this.#hand = this.#slabs.length < this.#slabsMax ? this.#slabs.length : (this.#hand + 1) % this.#slabsMax;
      const next = this.#slabs[this.#hand];
      if (next === undefined) this.#slabs.push(newSlab(this.#slabUnits * UNIT));
      else this.#sweep(next);
    }
  }

  /** Lets go what was not used since the last time, and moves the rest to the slab's start. */
  #sweep(slab: Slab): void {
    const base = 1 + this.#hand * this.#slabUnits;
    const keptMax = this.#slabUnits * SLAB_KEPT;
    let kept = 0;
    for (let from = 0; from < slab.end; ) {
      const at = from * UNIT;
      const units = slab.bytes[at + 4] ?? 0;
      const flags = slab.bytes[at + 5] ?? 0;
      if ((flags & LIVE) !== 0) {
        const slot = this.#slotOf(slab.words[at / 4] ?? 0, base + from);
        if (slot < 0) throw new Error('the index does not name an entry that is there');
        if ((flags & USED) !== 0 && kept + units <= keptMax) {
          slab.bytes[at + 5] = LIVE;
          slab.bytes.copyWithin(kept * UNIT, at, at + units * UNIT);
          this.#index[slot] = base + kept;
          kept += units;
        } else {
          this.#remove(slot);
        }
      }
      from += units;
    }
    slab.end = kept;
  }

  /** The first slot for this hash that holds `value`; -1: none does. */
  #slotOf(hash: number, value: number): number {
    const last = this.#index.length - 1;
    for (let probes = 0; probes < PROBES_MAX; probes++) {
      const slot = (hash + probes) & last;
      if (this.#index[slot] === value) return slot;
    }
    return -1;
  }

  /** Frees the slot; what was probed past it moves up. */
  #remove(slot: number): void {
    const { slab, at } = this.#entry(slot);
    slab.bytes[at + 5] = 0;
    const last = this.#index.length - 1;
    let free = slot;
    for (let next = (slot + 1) & last; this.#index[next] !== 0 && ((next - free) & last) < PROBES_MAX; next = (next + 1) & last) {
      const entry = this.#entry(next);
      const home = (entry.slab.words[entry.at / 4] ?? 0) & last;
      if (((next - home) & last) < ((next - free) & last)) continue;
      this.#index[free] = this.#index[next] ?? 0;
      free = next;
    }
    this.#index[free] = 0;
  }
}

const NO_ROW = new Uint8Array(0);

function newSlab(bytes: number): Slab {
  const memory = new ArrayBuffer(bytes);
  return { bytes: new Uint8Array(memory), halves: new Uint16Array(memory), words: new Int32Array(memory), end: 0 };
}

/** Where a row of the entry at `at` lies in its slab, [start, end). */
function rowIn({ halves }: Slab, at: number, which: KeptRow): readonly [number, number] {
  const half = at / 2;
  const header = at + HEAD_BYTES + (halves[half + 3] ?? 0);
  const config = header + (halves[half + 4] ?? 0);
  return which === 'header' ? [header, config] : [config, config + (halves[half + 5] ?? 0)];
}

/** Of the first bytes: FNV-1a, mixed once more so that its low bits may serve by themselves. */
export function hashOf(bytes: Buffer, length: number): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < length; i++) hash = Math.imul(hash ^ (bytes[i] ?? 0), 0x01000193);
  return hash ^ (hash >>> 15);
}
