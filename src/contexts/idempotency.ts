/**
 * Idempotency keys of a context: the first answer to each keyed append, kept for 24 hours or the context's newest
 * 10,000 keyed writes, whichever is shorter. A ring of the keys in order of writing lets old ones go, a few with each
 * keyed write; whether a key still counts is decided by age and position alone, never by how far that has come.
 */
import { Reader, Writer } from './bytes.ts';
import { ContextKeys } from './keys.ts';
import type { KeyMemory, RingEntry } from './keys.ts';
import type { Rows, Write } from './types.ts';

export const KEYED_MAX = 10_000;
export const KEYED_AGE_MS_MAX = 24 * 3600 * 1000;
/** Old entries removed by one keyed write; more than one, so that a backlog shrinks. */
const EXPIRED_PER_WRITE = 4;
/** Longest ring that is read into memory at once when a context writes that is not there. */
const LOADED_MAX = 64;
const FORMAT = 1;

/** A keyed write that was answered. */
export interface KeyedAnswer {
  /** Position in the ring; the context's keyed writes are numbered from 1. */
  readonly position: number;
  readonly stampMs: number;
  readonly digest: Uint8Array;
  readonly firstSeq: number;
  readonly firstVersion: number;
  readonly tokens: readonly number[];
}

/** The bounds of the ring, as the header keeps them. */
export interface Ring {
  readonly keyedNewest: number;
  readonly keyedOldest: number;
}

/** The first answer under this key, if it is still remembered at `stampMs`. */
export function findKeyed(rows: Rows, context: string, ask: { readonly key: string; readonly stampMs: number; readonly ring: Ring }): KeyedAnswer | null {
  const known = knownKeys(rows, context, ask.ring);
  if (known !== undefined && known.placeOf(ask.key) === undefined) return null;
  const row = rows.get('keyed', context, ask.key);
  const found = row === undefined ? null : decodeKeyed(row);
  if (found === null) return null;
  const tooMany = ask.ring.keyedNewest - found.position >= KEYED_MAX;
  const tooOld = ask.stampMs - found.stampMs > KEYED_AGE_MS_MAX;
  return tooMany || tooOld ? null : found;
}

/** Remembers an answer (its position must be keyedNewest + 1) and forgets a few old ones; answers the new bounds. */
export function remember(rows: Rows, context: string, entry: { readonly key: string; readonly answer: KeyedAnswer; readonly ring: Ring; readonly writes: Write[] }): Ring {
  const { key, answer, ring, writes } = entry;
  const known = knownKeys(rows, context, ring);
  writes.push({ table: 'keyed', context, key, value: encodeKeyed(answer) });
  writes.push({ table: 'keyedRing', context, key: answer.position, value: encodeRing(key, answer.stampMs) });
  let oldest = ring.keyedOldest;
  for (let i = 0; i < EXPIRED_PER_WRITE && oldest < answer.position; i++) {
    const old = known === undefined ? ringEntry(rows, context, oldest) : (known.at(oldest) ?? null);
    const tooMany = answer.position - oldest >= KEYED_MAX;
    if (old !== null && !tooMany && answer.stampMs - old.stampMs <= KEYED_AGE_MS_MAX) break;
    writes.push({ table: 'keyedRing', context, key: oldest, value: null });
    // One that was used again since has a newer place in the ring, and its answer stays.
    if (old !== null && old.key !== key && newestPlace(rows, context, { known, key: old.key }) === oldest) {
      writes.push({ table: 'keyed', context, key: old.key, value: null });
    }
    oldest++;
  }
  return { keyedNewest: answer.position, keyedOldest: oldest };
}

/** A keyed write of `context` was applied: `memory`, if it has the context's keys, takes it in. */
export function keepKeys(memory: KeyMemory, context: string, writes: readonly Write[]): void {
  const known = memory.get(context);
  if (known === undefined) return;
  for (const { table, value } of writes) {
    if (table !== 'keyedRing') continue;
    const entry = value === null ? null : decodeRing(value);
    if (entry === null) known.dropOldest();
    else known.add(entry);
  }
  memory.keep(context, known);
}

/** The context's keys, if memory has them all or they are few enough to be read. */
function knownKeys(rows: Rows, context: string, { keyedOldest, keyedNewest }: Ring): ContextKeys | undefined {
  const memory = rows.keys;
  if (memory === undefined) return undefined;
  const known = memory.peek(context);
  if (known?.covers(keyedOldest, keyedNewest)) return known;
  if (keyedNewest - keyedOldest >= LOADED_MAX) return undefined;
  const loaded = new ContextKeys(keyedOldest);
  for (let place = keyedOldest; place <= keyedNewest; place++) {
    const entry = ringEntry(rows, context, place);
    if (entry === null) return undefined;
    loaded.add(entry);
  }
  memory.keep(context, loaded);
  return loaded;
}

function ringEntry(rows: Rows, context: string, place: number): RingEntry | null {
  const row = rows.get('keyedRing', context, place);
  return row === undefined ? null : decodeRing(row);
}

function newestPlace(rows: Rows, context: string, { known, key }: { readonly known: ContextKeys | undefined; readonly key: string }): number | undefined {
  if (known !== undefined) return known.placeOf(key);
  const row = rows.get('keyed', context, key);
  return row === undefined ? undefined : decodeKeyed(row)?.position;
}

export function encodeKeyed(answer: KeyedAnswer): Uint8Array {
  const writer = new Writer(48 + answer.tokens.length * 3);
  writer.byte(FORMAT);
  writer.uint(answer.position);
  writer.uint(answer.stampMs);
  writer.bytes(answer.digest);
  writer.uint(answer.firstSeq);
  writer.uint(answer.firstVersion);
  writer.uint(answer.tokens.length);
  for (const tokens of answer.tokens) writer.uint(tokens);
  return writer.done();
}

export function decodeKeyed(bytes: Uint8Array): KeyedAnswer | null {
  const reader = new Reader(bytes);
  if (reader.byte() !== FORMAT) return null;
  const position = reader.uint();
  const stampMs = reader.uint();
  const digest = reader.bytes();
  const firstSeq = reader.uint();
  const firstVersion = reader.uint();
  const tokens: number[] = [];
  const count = reader.count();
  for (let i = 0; i < count && reader.ok; i++) tokens.push(reader.uint());
  return reader.ok && reader.atEnd ? { position, stampMs, digest, firstSeq, firstVersion, tokens } : null;
}

function encodeRing(key: string, stampMs: number): Uint8Array {
  const writer = new Writer(16 + key.length);
  writer.byte(FORMAT);
  writer.uint(stampMs);
  writer.string(key);
  return writer.done();
}

function decodeRing(bytes: Uint8Array): RingEntry | null {
  const reader = new Reader(bytes);
  if (reader.byte() !== FORMAT) return null;
  const stampMs = reader.uint();
  const key = reader.string();
  return reader.ok ? { stampMs, key } : null;
}
