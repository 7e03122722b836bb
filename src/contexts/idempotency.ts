/**
 * Idempotency keys of a context: the first answer to each keyed append, kept for 24 hours or the context's newest
 * 10,000 keyed writes, whichever is shorter. A ring of the keys in order of writing lets old ones go, a few with each
 * keyed write; whether a key still counts is decided by age and position alone, never by how far that has come.
 */
import { Reader, Writer } from './bytes.ts';
import type { Rows, Write } from './types.ts';

export const KEYED_MAX = 10_000;
export const KEYED_AGE_MS_MAX = 24 * 3600 * 1000;
/** Old entries removed by one keyed write; more than one, so that a backlog shrinks. */
const EXPIRED_PER_WRITE = 4;
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
  writes.push({ table: 'keyed', context, key, value: encodeKeyed(answer) });
  writes.push({ table: 'keyedRing', context, key: answer.position, value: encodeRing(key, answer.stampMs) });
  let oldest = ring.keyedOldest;
  for (let i = 0; i < EXPIRED_PER_WRITE && oldest < answer.position; i++) {
    const row = rows.get('keyedRing', context, oldest);
    const old = row === undefined ? null : decodeRing(row);
    const tooMany = answer.position - oldest >= KEYED_MAX;
    if (old !== null && !tooMany && answer.stampMs - old.stampMs <= KEYED_AGE_MS_MAX) break;
    writes.push({ table: 'keyedRing', context, key: oldest, value: null });
    if (old !== null && old.key !== key) forget(rows, context, { key: old.key, position: oldest, writes });
    oldest++;
  }
  return { keyedNewest: answer.position, keyedOldest: oldest };
}

/** Deletes a key's answer unless the key was used again since, which gave it a newer place in the ring. */
function forget(rows: Rows, context: string, old: { readonly key: string; readonly position: number; readonly writes: Write[] }): void {
  const row = rows.get('keyed', context, old.key);
  if (row === undefined || decodeKeyed(row)?.position !== old.position) return;
  old.writes.push({ table: 'keyed', context, key: old.key, value: null });
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

function decodeRing(bytes: Uint8Array): { readonly stampMs: number; readonly key: string } | null {
  const reader = new Reader(bytes);
  if (reader.byte() !== FORMAT) return null;
  const stampMs = reader.uint();
  const key = reader.string();
  return reader.ok ? { stampMs, key } : null;
}
