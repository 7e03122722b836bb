/**
 * Who a data directory is, and when another memory of it proves that it is not what it claims. A directory is one
 * member's memory: a wiped, restored, copied or twice opened one must never vote as the old member. Each open takes the
 * next generation and a fresh nonce, durable before use, and writes down at which beat (standing.ts) the one before it
 * ended; whoever remembers a later moment of the same directory (ledger.ts) refuses it.
 * The committed founding record is kept here too, because it is what gives a node its cluster.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { DocumentError, countAt, decodeFormers, decodeFoundingRecord, decodeLineage, encodeDocument, objectAt, parseDocument, textAt } from './hello.ts';
import type { Former, LinkHello, Open, Sighting } from './hello.ts';
import type { FoundingRecord, NodeFacts, NodeIdentity } from './ports.ts';

export const IDENTITY_FACT = 'identity';
export const BEATS_FACT = 'identity/beats';
export const FOUNDED_FACT = 'founding/record';
/**
 * Opens that a node can prove to a peer which was away. A peer that missed more refuses: a directory restored from
 * a backup and restarted that often could otherwise overtake its own past.
 */
export const LINEAGE_MAX = 1024;

/** The data directory and the configuration disagree on who this node is, or what it keeps of others is unreadable. */
export class IdentityError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'IdentityError';
  }
}

/** NodeIdentity with its latest opens (see LinkHello.lineage); the last is this one, at beat 0. */
export interface OpenedIdentity extends NodeIdentity {
  readonly lineage: readonly Open[];
  /** See LinkHello.former. */
  readonly former: readonly Former[];
}

/**
 * Opens the data directory's identity: mints store and name at the first open, takes the next generation and a fresh
 * nonce, and resolves when they are synced. `configuredName` null: the stored name, or a random one kept for ever.
 * Rejects with IdentityError when the configured name is not the stored one, or the stored identity is unreadable.
 */
export async function openIdentity(facts: NodeFacts, configuredName: string | null): Promise<OpenedIdentity> {
  const stored = readIdentity(facts);
  checkName(stored, configuredName);
  const nonce = randomBytes(8).toString('hex');
  const next = {
    name: stored?.name ?? configuredName ?? `node-${randomBytes(4).toString('hex')}`,
    storeId: stored?.storeId ?? randomUUID(),
    generation: (stored?.generation ?? 0) + 1,
    nonce,
    lineage: [...(stored?.lineage ?? []), { nonce, beats: 0 }].slice(-LINEAGE_MAX),
    former: stored?.former ?? [],
  };
  await facts.put(IDENTITY_FACT, encodeDocument(next));
  return { ...next, clusterId: readFounded(facts)?.clusterId ?? '' };
}

/** Who the directory belongs to, and how often it was opened; null for a new one. Throws IdentityError. */
export function storedIdentity(facts: Pick<NodeFacts, 'get'>): { readonly name: string; readonly storeId: string; readonly generation: number } | null {
  return readIdentity(facts);
}

/** Makes the directory a new store that was never opened and that nobody has seen, of the node it belongs to; resolves when synced. */
export function renewIdentity(facts: NodeFacts, name: string, storeId: string): Promise<void> {
  return facts.put(IDENTITY_FACT, encodeDocument({ name, storeId, generation: 0, lineage: [] }));
}

/**
 * Makes the directory a new store that was made of others of its node. Making it counts as its first open: whoever makes
 * the same of a copy makes another life, which does not descend from this one. Resolves when synced.
 */
export function inheritIdentity(facts: NodeFacts, { name, storeId, former }: { readonly name: string; readonly storeId: string; readonly former: readonly Former[] }): Promise<void> {
  return facts.put(IDENTITY_FACT, encodeDocument({ name, storeId, generation: 1, lineage: [{ nonce: randomBytes(8).toString('hex'), beats: 0 }], former }));
}

/** What a store that takes this one's place tells of it, with its latest `opens`; null for a new directory. Throws IdentityError. */
export function asFormer(facts: Pick<NodeFacts, 'get'>, opens: number): Former | null {
  const stored = readIdentity(facts);
  return stored === null ? null : { storeId: stored.storeId, generation: stored.generation, lineage: stored.lineage.slice(-opens) };
}

/** Throws IdentityError where openIdentity would; `facts` need hold no more than IDENTITY_FACT. */
export function checkStoredName(facts: Pick<NodeFacts, 'get'>, configuredName: string | null): void {
  checkName(readIdentity(facts), configuredName);
}

function checkName(stored: StoredIdentity | null, configuredName: string | null): void {
  if (stored === null || configuredName === null || configuredName === stored.name) return;
  throw new IdentityError(
    `FASTPACA_NODE_NAME is '${configuredName}' but this data directory belongs to node '${stored.name}'; ` +
      'give the node its own data directory, or its own name back',
  );
}

interface StoredIdentity {
  readonly name: string;
  readonly storeId: string;
  readonly generation: number;
  readonly lineage: readonly Open[];
  readonly former: readonly Former[];
}

/** The identity as the open before this one left it: its last beat is in the lineage. */
function readIdentity(facts: Pick<NodeFacts, 'get'>): StoredIdentity | null {
  const bytes = facts.get(IDENTITY_FACT);
  if (bytes === undefined) return null;
  try {
    const fields = objectAt(parseDocument(bytes, 'identity'), 'identity');
    const lineage = decodeLineage(fields);
    const last = lineage.pop();
    const beat = readBeat(facts);
    if (last !== undefined) lineage.push(beat?.nonce === last.nonce ? beat : last);
    return {
      name: textAt(fields, 'name'),
      storeId: textAt(fields, 'storeId'),
      generation: countAt(fields, 'generation'),
      lineage,
      former: fields['former'] === undefined ? [] : decodeFormers(fields),
    };
  } catch (error) {
    // Minting a new identity here would turn damage into a second member with the old one's data.
    if (error instanceof DocumentError) throw new IdentityError(`the data directory's identity is damaged: ${error.message}`);
    throw error;
  }
}

function readBeat(facts: Pick<NodeFacts, 'get'>): Open | null {
  const bytes = facts.get(BEATS_FACT);
  if (bytes === undefined) return null;
  const fields = objectAt(parseDocument(bytes, BEATS_FACT), BEATS_FACT);
  return { nonce: textAt(fields, 'nonce'), beats: countAt(fields, 'beats') };
}

/** Keeps the last beat of the open with that nonce; resolves when synced. A fact of its own: it is written often. */
export function writeBeat(facts: NodeFacts, open: Open): Promise<void> {
  return facts.put(BEATS_FACT, encodeDocument(open));
}

/** The committed founding record, or null while this directory belongs to no cluster. */
export function readFounded(facts: Pick<NodeFacts, 'get'>): FoundingRecord | null {
  const bytes = facts.get(FOUNDED_FACT);
  return bytes === undefined ? null : decodeFoundingRecord(parseDocument(bytes, FOUNDED_FACT));
}

/** The cluster under whose id the archive has the conversations of the record's cluster. */
export function archivedAs({ archivedAs, clusterId }: FoundingRecord): string {
  return archivedAs ?? clusterId;
}

/** Commits this directory to the record's cluster; resolves when synced. */
export function writeFounded(facts: NodeFacts, record: FoundingRecord): Promise<void> {
  return facts.put(FOUNDED_FACT, encodeDocument(record));
}

/**
 * Why a peer was not admitted. `rolled_back`, `duplicate`, `store_changed` and `removed` speak against its data
 * directory for good; `unproven` only says that this node was away for too many of its opens.
 */
export const REFUSAL_CODES = ['rolled_back', 'duplicate', 'store_changed', 'unproven', 'other_cluster', 'version', 'removed', 'not_founded', 'stale', 'failed'] as const;
export type RefusalCode = (typeof REFUSAL_CODES)[number];

export interface Refusal {
  readonly code: RefusalCode;
  readonly reason: string;
}

/** Reads a refusal that a peer sent; a code of another version counts as `failed`. Throws DocumentError. */
export function decodeRefusal(value: unknown): Refusal {
  const fields = objectAt(value, 'refused');
  const code = REFUSAL_CODES.find((known) => known === fields['code']) ?? 'failed';
  return { code, reason: textAt(fields, 'reason') };
}

/**
 * Holds what a directory says of itself against a moment of its life that `by` remembers ("here", "by node 'a'").
 * Null when the one descends from the other. Of the running open only a later beat is known to its own node, so that
 * beats are compared for ended opens; `hasEnded`: the last one is no longer running either (LinkHello.former).
 */
export function judgeDescent(peer: Pick<LinkHello, 'name' | 'generation' | 'lineage'> & { readonly hasEnded?: true }, seen: Sighting, by: string): Refusal | null {
  const { name, generation } = peer;
  const cause = 'its data directory was rolled back or copied';
  if (generation < seen.generation) {
    return { code: 'rolled_back', reason: `node '${name}' was seen ${by} at generation ${seen.generation} and came back at ${generation}: ${cause}` };
  }
  // The lineage ends at `generation`, so the moment remembered stands this far from its end.
  const open = peer.lineage.at(seen.generation - generation - 1);
  if (open === undefined) {
    return {
      code: 'unproven',
      reason: `node '${name}' at generation ${generation} was last seen ${by} at ${seen.generation}, more opens ago than it can account for (${LINEAGE_MAX})`,
    };
  }
  if (open.nonce !== seen.nonce) {
    if (generation === seen.generation) return { code: 'duplicate', reason: `generation ${generation} of node '${name}' was opened twice (the other was seen ${by}): ${cause}` };
    return { code: 'rolled_back', reason: `node '${name}' at generation ${generation} does not descend from generation ${seen.generation} seen ${by}: ${cause}` };
  }
  if ((generation === seen.generation && peer.hasEnded !== true) || open.beats >= seen.beats) return null;
  return {
    code: 'rolled_back',
    reason: `generation ${seen.generation} of node '${name}' was seen ${by} at beat ${seen.beats}, but its data directory remembers only ${open.beats} of them: ${cause}`,
  };
}
