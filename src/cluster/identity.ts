/**
 * Who this node is, and who its peers have been. A data directory is one member's memory: a wiped, restored, copied or
 * twice opened one must never vote as the old member. Each open takes the next generation and a fresh nonce, durable
 * before use; each peer durably keeps the highest pair it has admitted and refuses whatever does not descend from it.
 * The committed founding record is kept here too, because it is what gives a node its cluster.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { DocumentError, countAt, decodeFoundingRecord, encodeDocument, listAt, objectAt, parseDocument, stringOf, textAt } from './hello.ts';
import type { LinkHello } from './hello.ts';
import type { FoundingRecord, NodeFacts, NodeIdentity } from './ports.ts';

const IDENTITY_FACT = 'identity';
const FOUNDED_FACT = 'founding/record';
const PEER_FACT_PREFIX = 'peer/';
/**
 * Opens that a node can prove to a peer which was away. A peer that missed more refuses: a directory restored from
 * a backup and restarted that often could otherwise overtake its own past.
 */
export const LINEAGE_MAX = 1024;

/** The data directory and the configuration disagree on who this node is. */
export class IdentityError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'IdentityError';
  }
}

/** NodeIdentity with the nonces of its latest opens (see LinkHello.lineage). */
export interface OpenedIdentity extends NodeIdentity {
  readonly lineage: readonly string[];
}

/**
 * Opens the data directory's identity: mints store and name at the first open, takes the next generation and a fresh
 * nonce, and resolves when they are synced. `configuredName` null: the stored name, or a random one kept for ever.
 * Rejects with IdentityError when the configured name is not the stored one, or the stored identity is unreadable.
 */
export async function openIdentity(facts: NodeFacts, configuredName: string | null): Promise<OpenedIdentity> {
  const stored = readIdentity(facts);
  if (stored !== null && configuredName !== null && configuredName !== stored.name) {
    throw new IdentityError(
      `FASTPACA_NODE_NAME is '${configuredName}' but this data directory belongs to node '${stored.name}'; ` +
        'give the node its own data directory, or its own name back',
    );
  }
  const nonce = randomBytes(8).toString('hex');
  const next = {
    name: stored?.name ?? configuredName ?? `node-${randomBytes(4).toString('hex')}`,
    storeId: stored?.storeId ?? randomUUID(),
    generation: (stored?.generation ?? 0) + 1,
    nonce,
    lineage: [...(stored?.lineage ?? []), nonce].slice(-LINEAGE_MAX),
  };
  await facts.put(IDENTITY_FACT, encodeDocument(next));
  return { ...next, clusterId: readFounded(facts)?.clusterId ?? '' };
}

interface StoredIdentity {
  readonly name: string;
  readonly storeId: string;
  readonly generation: number;
  readonly lineage: readonly string[];
}

function readIdentity(facts: NodeFacts): StoredIdentity | null {
  const bytes = facts.get(IDENTITY_FACT);
  if (bytes === undefined) return null;
  try {
    const fields = objectAt(parseDocument(bytes, 'identity'), 'identity');
    return {
      name: textAt(fields, 'name'),
      storeId: textAt(fields, 'storeId'),
      generation: countAt(fields, 'generation'),
      lineage: listAt(fields, 'lineage').map((nonce, i) => stringOf(nonce, `lineage[${i}]`)),
    };
  } catch (error) {
    // Minting a new identity here would turn damage into a second member with the old one's data.
    if (error instanceof DocumentError) throw new IdentityError(`the data directory's identity is damaged: ${error.message}`);
    throw error;
  }
}

/** The committed founding record, or null while this directory belongs to no cluster. */
export function readFounded(facts: NodeFacts): FoundingRecord | null {
  const bytes = facts.get(FOUNDED_FACT);
  return bytes === undefined ? null : decodeFoundingRecord(parseDocument(bytes, FOUNDED_FACT));
}

/** Commits this directory to the record's cluster; resolves when synced. */
export function writeFounded(facts: NodeFacts, record: FoundingRecord): Promise<void> {
  return facts.put(FOUNDED_FACT, encodeDocument(record));
}

/** Why a peer was not admitted. `rolled_back` and `store_changed` mean that its old membership is void. */
export type RefusalCode = 'rolled_back' | 'duplicate' | 'store_changed' | 'other_cluster' | 'not_founded' | 'stale' | 'failed';

export interface Refusal {
  readonly code: RefusalCode;
  readonly reason: string;
}

interface LedgerEntry {
  readonly generation: number;
  readonly nonce: string;
}

export interface LedgerContext {
  readonly facts: NodeFacts;
  /** The cluster this node belongs to, '' while none. */
  readonly clusterId: () => string;
  /** The store that the cluster's membership records under a name, or null when the name is not in it. */
  readonly knownStore: (name: string) => string | null;
}

/** The highest (generation, nonce) admitted of each peer's store, durable. */
export class PeerLedger {
  readonly #context: LedgerContext;
  readonly #admitted = new Map<string, LedgerEntry>();
  #last: Promise<unknown> = Promise.resolve();

  constructor(context: LedgerContext) {
    this.#context = context;
  }

  /**
   * Decides whether a peer may speak as the member it claims to be. Resolves null when it may, after its pair is
   * durable; otherwise the reason. Calls are decided one after another, in the order in which they were made.
   */
  admit(peer: LinkHello): Promise<Refusal | null> {
    const decision = this.#last.then(() => this.#decide(peer));
    this.#last = decision;
    return decision;
  }

  /** False once a later open of the same store has been admitted. */
  isCurrent(peer: { readonly storeId: string; readonly generation: number; readonly nonce: string }): boolean {
    const entry = this.#admitted.get(peer.storeId);
    return entry !== undefined && entry.generation === peer.generation && entry.nonce === peer.nonce;
  }

  async #decide(peer: LinkHello): Promise<Refusal | null> {
    try {
      const entry = this.#entry(peer.storeId);
      const refusal = judge(peer, entry, this.#context);
      if (refusal !== null) return refusal;
      if (entry === null || entry.generation !== peer.generation) {
        const next = { generation: peer.generation, nonce: peer.nonce };
        await this.#context.facts.put(PEER_FACT_PREFIX + peer.storeId, encodeDocument(next));
        this.#admitted.set(peer.storeId, next);
      }
      return null;
    } catch (error) {
      return { code: 'failed', reason: `cannot keep the generation of node '${peer.name}': ${messageOf(error)}` };
    }
  }

  #entry(storeId: string): LedgerEntry | null {
    const cached = this.#admitted.get(storeId);
    if (cached !== undefined) return cached;
    const bytes = this.#context.facts.get(PEER_FACT_PREFIX + storeId);
    if (bytes === undefined) return null;
    const fields = objectAt(parseDocument(bytes, 'peer'), 'peer');
    const entry = { generation: countAt(fields, 'generation'), nonce: textAt(fields, 'nonce') };
    this.#admitted.set(storeId, entry);
    return entry;
  }
}

/** The rules of admission, in the order in which their reasons help most. */
function judge(peer: LinkHello, entry: LedgerEntry | null, context: LedgerContext): Refusal | null {
  const own = context.clusterId();
  if (own === '') return { code: 'not_founded', reason: 'this node belongs to no cluster yet' };
  if (peer.clusterId === '') return { code: 'not_founded', reason: `node '${peer.name}' belongs to no cluster yet` };
  if (peer.clusterId !== own) {
    return { code: 'other_cluster', reason: `node '${peer.name}' belongs to cluster ${peer.clusterId}, not to ${own}` };
  }
  const known = context.knownStore(peer.name);
  if (known !== null && known !== peer.storeId) {
    return {
      code: 'store_changed',
      reason: `node '${peer.name}' is a member with data directory ${known}; it came with another one (${peer.storeId})`,
    };
  }
  if (entry === null) return null;
  if (peer.generation < entry.generation) {
    return {
      code: 'rolled_back',
      reason: `node '${peer.name}' was seen at generation ${entry.generation} and came back at ${peer.generation}: its data directory was rolled back or copied`,
    };
  }
  if (peer.generation === entry.generation) {
    if (peer.nonce === entry.nonce) return null;
    return {
      code: 'duplicate',
      reason: `generation ${peer.generation} of node '${peer.name}' was opened twice: its data directory was copied or rolled back`,
    };
  }
  // lineage ends at `generation`, so the pair we remember stands this far from its end.
  const remembered = peer.lineage.at(entry.generation - peer.generation - 1);
  if (remembered === entry.nonce) return null;
  return {
    code: 'rolled_back',
    reason: `node '${peer.name}' at generation ${peer.generation} does not descend from generation ${entry.generation} seen here: its data directory was rolled back or copied`,
  };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
