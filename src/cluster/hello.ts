/**
 * The JSON documents nodes exchange and keep: who a node is, what it knows, the founding record. Decoders take
 * `unknown` and throw DocumentError with the path of the first wrong field; nothing past them handles raw JSON.
 */
import { createHash } from 'node:crypto';
import { SHARDS_MAX, WHOLE, type Seat } from './seat.ts';
import type { FoundingRecord, PeerInfo } from './ports.ts';

/** Sightings in one document; a document with more is refused. */
export const SIGHTINGS_MAX = 256;

/** One open of a data directory. */
export interface Open {
  readonly nonce: string;
  /** The last beat that it made durable (standing.ts); of the running open the last one so far. */
  readonly beats: number;
}

/** The latest moment in the life of a data directory that a node knows of, from the directory's own node. */
export interface Sighting {
  readonly storeId: string;
  readonly generation: number;
  readonly nonce: string;
  readonly beats: number;
}

/** What a node tells its peers while a link is up: its own beat, and the latest it knows of everyone. */
export interface Beat {
  readonly beats: number;
  readonly seen: readonly Sighting[];
}

/** What a data directory was before it was resharded: a store of its own, up to the moment in which it was stopped. */
export interface Former {
  readonly storeId: string;
  readonly generation: number;
  /** As LinkHello.lineage. */
  readonly lineage: readonly Open[];
}

/** How a node introduces itself on a link: PeerInfo, its recent opens, whom it has met, and its clock. */
export interface LinkHello extends PeerInfo {
  /**
   * The latest opens of its data directory, oldest first; the last is `nonce` and belongs to `generation`. A peer that
   * remembers an earlier moment finds it here, unless the directory was copied or rolled back to before it.
   */
  readonly lineage: readonly Open[];
  readonly seen: readonly Sighting[];
  /**
   * The stores that this one was made of by `--reshard`: a copy of one of them that is older than what a peer remembers
   * must not come back by being resharded. Absent: none.
   */
  readonly former?: readonly Former[];
  /** Nodes are divided alike, and each shard talks to the same shard of the others. Absent: not divided. */
  readonly seat?: Seat;
  /** Milliseconds since the epoch when it was written. */
  readonly clockMs: number;
}

export interface KnownAddress {
  readonly name: string;
  readonly address: string;
}

/** The founding record without its key, so that it can be shown to whoever may ask. */
export interface PublicRecord {
  readonly clusterId: string;
  readonly members: FoundingRecord['members'];
  /** SHA-256 of the whole record, hex. */
  readonly digest: string;
}

/** Answer of `POST /_peer/hello`, and its body: whoever asks introduces itself too. */
export interface NodeHello {
  readonly name: string;
  readonly storeId: string;
  readonly clusterId: string;
  readonly address: string;
  readonly generation: number;
  /** Members it expects to found with. */
  readonly clusterSize: number;
  /** Absent: not divided. */
  readonly seat?: Seat;
  /** The committed record, or null while not founded. */
  readonly founded: PublicRecord | null;
  /** Digest of the record it has promised, or null. Stays set after founding. */
  readonly promised: string | null;
  /** Why it can never found, or null. */
  readonly blocked: string | null;
  readonly known: readonly KnownAddress[];
}

/** A document from a peer or from disk that does not have the expected shape. */
export class DocumentError extends Error {
  constructor(path: string, expected: string) {
    super(`${path}: expected ${expected}`);
    this.name = 'DocumentError';
  }
}

/** SHA-256 over the record's fields in a fixed order, hex. Two records are the same iff their digests are. */
export function recordDigest(record: FoundingRecord): string {
  const members = record.members.map((member) => [member.name, member.storeId, member.address]);
  return createHash('sha256').update(JSON.stringify([record.clusterId, members, record.mintedKey])).digest('hex');
}

/** What may be shown of a record. */
export function publicRecord(record: FoundingRecord): PublicRecord {
  return { clusterId: record.clusterId, members: record.members, digest: recordDigest(record) };
}

/** Bytes of a document for NodeFacts or a link frame. */
export function encodeDocument(document: object): Uint8Array {
  return Buffer.from(JSON.stringify(document));
}

/** Parses bytes written by encodeDocument; throws DocumentError when they are not JSON. */
export function parseDocument(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'));
  } catch {
    throw new DocumentError(what, 'JSON');
  }
}

export function decodeLinkHello(value: unknown): LinkHello {
  const fields = objectAt(value, 'hello');
  const hello = {
    name: textAt(fields, 'name'),
    storeId: textAt(fields, 'storeId'),
    clusterId: stringAt(fields, 'clusterId'),
    generation: countAt(fields, 'generation'),
    nonce: textAt(fields, 'nonce'),
    address: textAt(fields, 'address'),
    wireFormat: countAt(fields, 'wireFormat'),
    lineage: decodeLineage(fields),
    seen: decodeSightings(fields),
    ...(fields['former'] === undefined ? {} : { former: decodeFormers(fields) }),
    ...seatIn(fields),
    clockMs: countAt(fields, 'clockMs'),
  };
  if (hello.lineage.at(-1)?.nonce !== hello.nonce) throw new DocumentError('lineage', 'to end with the nonce');
  if (hello.lineage.length > hello.generation) throw new DocumentError('lineage', 'no more opens than generations');
  return hello;
}

/** Only nodes that are divided tell a seat. */
function seatIn(fields: Record<string, unknown>): { readonly seat?: Seat } {
  if (fields['seat'] === undefined) return {};
  const seat = objectAt(fields['seat'], 'seat');
  return { seat: { index: countAt(seat, 'index'), count: countAt(seat, 'count') } };
}

/** Why two nodes cannot talk as they are divided, or do not mean each other; null if they can. */
export function seatProblem(self: { readonly name: string; readonly seat?: Seat }, other: { readonly name: string; readonly seat?: Seat }): string | null {
  const own = self.seat ?? WHOLE;
  const its = other.seat ?? WHOLE;
  if (own.count === its.count && own.index === its.index) return null;
  if (own.count === its.count) return `shard ${its.index} of node '${other.name}' took shard ${own.index} of node '${self.name}' for its like`;
  return `node '${other.name}' runs ${its.count} shards and node '${self.name}' ${own.count}: FASTPACA_SHARDS must be the same on every node of a cluster`;
}

export function decodeBeat(value: unknown): Beat {
  const fields = objectAt(value, 'beat');
  return { beats: countAt(fields, 'beats'), seen: decodeSightings(fields) };
}

export function decodeLineage(fields: Record<string, unknown>): Open[] {
  return listAt(fields, 'lineage').map((entry, i) => {
    const open = objectAt(entry, `lineage[${i}]`);
    return { nonce: textAt(open, 'nonce'), beats: countAt(open, 'beats') };
  });
}

/** The stores under `former`. */
export function decodeFormers(fields: Record<string, unknown>): Former[] {
  const formers = listAt(fields, 'former');
  if (formers.length > SHARDS_MAX) throw new DocumentError('former', `at most ${SHARDS_MAX} stores`);
  return formers.map((entry, i) => {
    const former = objectAt(entry, `former[${i}]`);
    return { storeId: textAt(former, 'storeId'), generation: countAt(former, 'generation'), lineage: decodeLineage(former) };
  });
}

export function decodeSightings(fields: Record<string, unknown>): Sighting[] {
  const seen = listAt(fields, 'seen');
  if (seen.length > SIGHTINGS_MAX) throw new DocumentError('seen', `at most ${SIGHTINGS_MAX} sightings`);
  return seen.map((entry, i) => {
    const sighting = objectAt(entry, `seen[${i}]`);
    return {
      storeId: textAt(sighting, 'storeId'),
      generation: countAt(sighting, 'generation'),
      nonce: textAt(sighting, 'nonce'),
      beats: countAt(sighting, 'beats'),
    };
  });
}

export function decodeNodeHello(value: unknown): NodeHello {
  const fields = objectAt(value, 'hello');
  const founded = fields['founded'];
  const promised = fields['promised'];
  const blocked = fields['blocked'];
  return {
    name: textAt(fields, 'name'),
    storeId: textAt(fields, 'storeId'),
    clusterId: stringAt(fields, 'clusterId'),
    address: textAt(fields, 'address'),
    generation: countAt(fields, 'generation'),
    clusterSize: countAt(fields, 'clusterSize'),
    ...seatIn(fields),
    founded: founded === null ? null : decodePublicRecord(founded),
    promised: promised === null ? null : stringOf(promised, 'promised'),
    blocked: blocked === null ? null : stringOf(blocked, 'blocked'),
    known: listAt(fields, 'known').map((entry, i) => {
      const known = objectAt(entry, `known[${i}]`);
      return { name: textAt(known, 'name'), address: textAt(known, 'address') };
    }),
  };
}

/** Also checks what every record must satisfy: at least one member, distinct names in byte order, distinct stores. */
export function decodeFoundingRecord(value: unknown): FoundingRecord {
  const fields = objectAt(value, 'record');
  return {
    clusterId: textAt(fields, 'clusterId'),
    members: decodeMembers(fields),
    mintedKey: textAt(fields, 'mintedKey'),
    ...(fields['archivedAs'] === undefined ? {} : { archivedAs: textAt(fields, 'archivedAs') }),
  };
}

function decodePublicRecord(value: unknown): PublicRecord {
  const fields = objectAt(value, 'founded');
  return { clusterId: textAt(fields, 'clusterId'), members: decodeMembers(fields), digest: textAt(fields, 'digest') };
}

function decodeMembers(fields: Record<string, unknown>): FoundingRecord['members'] {
  const members = listAt(fields, 'members').map((entry, i) => {
    const member = objectAt(entry, `members[${i}]`);
    return { name: textAt(member, 'name'), storeId: textAt(member, 'storeId'), address: textAt(member, 'address') };
  });
  const stores = new Set(members.map((member) => member.storeId));
  const ordered = members.every((member, i) => i === 0 || compareNames(members[i - 1]?.name ?? '', member.name) < 0);
  if (members.length === 0 || !ordered || stores.size !== members.length) {
    throw new DocumentError('members', 'distinct members in byte order of their names');
  }
  return members;
}

/** Byte order (of UTF-8) of two node names; the "lowest ID" of a cluster is the first in this order. */
export function compareNames(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

export function objectAt(value: unknown, path: string): Record<string, unknown> {
  if (!isObject(value)) throw new DocumentError(path, 'an object');
  return value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function stringAt(fields: Record<string, unknown>, key: string): string {
  return stringOf(fields[key], key);
}

/** A string that is not empty. */
export function textAt(fields: Record<string, unknown>, key: string): string {
  const text = stringOf(fields[key], key);
  if (text === '') throw new DocumentError(key, 'a non-empty string');
  return text;
}

export function countAt(fields: Record<string, unknown>, key: string): number {
  const value = fields[key];
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw new DocumentError(key, 'a whole number');
  return value;
}

export function listAt(fields: Record<string, unknown>, key: string): readonly unknown[] {
  const value = fields[key];
  if (!Array.isArray(value)) throw new DocumentError(key, 'a list');
  return value;
}

export function stringOf(value: unknown, path: string): string {
  if (typeof value !== 'string') throw new DocumentError(path, 'a string');
  return value;
}
