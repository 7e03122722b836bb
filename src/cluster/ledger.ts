/**
 * What this node remembers of its peers' data directories, durable: of each the latest moment admitted (generation,
 * nonce, beat), and what each peer has told of the others. Decides who may speak as a member; whoever does not descend
 * from every moment remembered, here or by a peer that told, is refused.
 *
 * Why memories are shared: with three members, entries acknowledged by A and X while B was down are lost if X forgets
 * them and B, which never saw them, elects with X. B cannot know, A does: A tells B (in hello and beats) whenever they
 * are linked, and tells X itself, which steps back for good. What is not known to any member that is alive and reached
 * cannot be held against a directory: waiting for the dead would trade every restart for it.
 */
import { DocumentError, SIGHTINGS_MAX, countAt, decodeSightings, encodeDocument, listAt, objectAt, parseDocument, textAt } from './hello.ts';
import type { Beat, LinkHello, Sighting } from './hello.ts';
import { IdentityError, judgeDescent } from './identity.ts';
import type { Refusal } from './identity.ts';
import type { NodeFacts } from './ports.ts';

/** One fact for all: what changes while a write is under way goes into the next, whoever it came from. */
export const PEERS_FACT = 'peers';

export interface LedgerContext {
  readonly facts: NodeFacts;
  /** This node's own: what others tell of it is Standing's to judge, and not kept. */
  readonly storeId: string;
  /** The cluster this node belongs to, '' while none. */
  readonly clusterId: () => string;
  /** The store that the cluster's membership records under a name, or null when the name is not in it. */
  readonly knownStore: (name: string) => string | null;
  /** True of a store that was a member once and was replaced or removed. */
  readonly isRetired: (storeId: string) => boolean;
}

/** What is remembered of one directory. */
interface Memory {
  readonly storeId: string;
  name: string;
  generation: number;
  nonce: string;
  beats: number;
  /** The latest that its node has told of each other directory, by store. */
  readonly seen: Map<string, Sighting>;
}

export class PeerLedger {
  readonly #context: LedgerContext;
  readonly #memories: Map<string, Memory>;
  /** Raised by every change of a memory, and what of it is on disk. */
  #revision = 0;
  #savedRevision = 0;
  #version = 0;
  #decisions: Promise<unknown> = Promise.resolve();
  #saves: Promise<unknown> = Promise.resolve();
  /** The write that has not begun: it will carry everything remembered by then. */
  #nextSave: Promise<void> | null = null;

  private constructor(context: LedgerContext, memories: Map<string, Memory>) {
    this.#context = context;
    this.#memories = memories;
  }

  /** Takes up what the disk remembers. Throws IdentityError when that is unreadable. */
  static open(context: LedgerContext): PeerLedger {
    try {
      return new PeerLedger(context, readMemories(context.facts));
    } catch (error) {
      if (error instanceof DocumentError) throw new IdentityError(`what the data directory remembers of its peers is damaged: ${error.message}`);
      throw error;
    }
  }

  /**
   * Decides whether a peer may speak as the member it claims to be. Resolves null when it may, after what it says is
   * durable; otherwise the reason. Calls are decided one after another, in the order in which they were made.
   */
  admit(peer: LinkHello): Promise<Refusal | null> {
    const decision = this.#decisions.then(() => this.#decide(peer));
    this.#decisions = decision;
    return decision;
  }

  /** False once a later open of the same store has been admitted. */
  isCurrent(peer: { readonly storeId: string; readonly generation: number; readonly nonce: string }): boolean {
    const memory = this.#memories.get(peer.storeId);
    return memory !== undefined && memory.generation === peer.generation && memory.nonce === peer.nonce;
  }

  /** Takes what an admitted peer tells; ignored once a later open of it was admitted. Becomes durable by itself. */
  heard(peer: LinkHello, beat: Beat): void {
    const memory = this.#memories.get(peer.storeId);
    if (memory === undefined || !this.isCurrent(peer)) return;
    this.#advance(memory, beat.beats);
    this.#learn(memory, beat.seen);
    // Nobody waits for it, and a failed write stops the node elsewhere.
    if (this.#savedRevision !== this.#revision) this.#save().catch(() => undefined);
  }

  /** Why a peer that was admitted is not to be trusted after all, from what others and the table have told since; null if nothing. */
  doubt(peer: LinkHello): Refusal | null {
    return this.#judgeMembership(peer) ?? this.#judgeMemories(peer);
  }

  /** The latest this node knows of each directory from that directory's node itself. */
  sightings(): readonly Sighting[] {
    return [...this.#memories.values()].slice(-SIGHTINGS_MAX).map(({ storeId, generation, nonce, beats }) => ({ storeId, generation, nonce, beats }));
  }

  /** Changes whenever `sightings` does. */
  get version(): number {
    return this.#version;
  }

  /** Resolves when everything heard so far is durable, or cannot become so. */
  async settled(): Promise<void> {
    await this.#decisions;
    await this.#saves;
  }

  async #decide(peer: LinkHello): Promise<Refusal | null> {
    const refusal = this.#judge(peer);
    if (refusal !== null) return refusal;
    this.#remember(peer);
    try {
      if (this.#savedRevision !== this.#revision) await this.#save();
    } catch (error) {
      return { code: 'failed', reason: `cannot keep the generation of node '${peer.name}': ${error instanceof Error ? error.message : String(error)}` };
    }
    // Others may have told more about it while that was written.
    return this.#judgeMemories(peer);
  }

  /** The rules of admission, in the order in which their reasons help most. */
  #judge(peer: LinkHello): Refusal | null {
    const own = this.#context.clusterId();
    if (own === '') return { code: 'not_founded', reason: 'this node belongs to no cluster yet' };
    if (peer.clusterId === '') return { code: 'not_founded', reason: `node '${peer.name}' belongs to no cluster yet` };
    if (peer.clusterId !== own) {
      return { code: 'other_cluster', reason: `node '${peer.name}' belongs to cluster ${peer.clusterId}, not to ${own}` };
    }
    return this.#judgeMembership(peer) ?? this.#judgeMemories(peer);
  }

  #judgeMembership(peer: LinkHello): Refusal | null {
    const known = this.#context.knownStore(peer.name);
    if (known !== null && known !== peer.storeId) {
      return {
        code: 'store_changed',
        reason: `node '${peer.name}' is a member with data directory ${known}; it came with another one (${peer.storeId})`,
      };
    }
    if (!this.#context.isRetired(peer.storeId)) return null;
    return { code: 'removed', reason: `data directory ${peer.storeId} of node '${peer.name}' was removed from the cluster; the node may come back with an empty one` };
  }

  #judgeMemories(peer: LinkHello): Refusal | null {
    for (const former of peer.former ?? []) {
      const refusal = this.#judgeStore({ ...former, name: peer.name, hasEnded: true });
      if (refusal !== null) return refusal;
    }
    return this.#judgeStore(peer);
  }

  #judgeStore(store: Pick<LinkHello, 'name' | 'storeId' | 'generation' | 'lineage'> & { readonly hasEnded?: true }): Refusal | null {
    const memory = this.#memories.get(store.storeId);
    const refusal = memory === undefined ? null : judgeDescent(store, memory, 'here');
    if (refusal !== null) return refusal;
    for (const teller of this.#memories.values()) {
      const told = teller.seen.get(store.storeId);
      const objection = told === undefined ? null : judgeDescent(store, told, `by node '${teller.name}'`);
      // A memory too old to be compared is a matter between those two.
      if (objection !== null && objection.code !== 'unproven') return objection;
    }
    return null;
  }

  #remember(peer: LinkHello): void {
    const { storeId, name, generation, nonce } = peer;
    let memory = this.#memories.get(storeId);
    if (memory === undefined) {
      memory = { storeId, name, generation, nonce, beats: 0, seen: new Map() };
      this.#memories.set(storeId, memory);
      this.#changed();
    } else if (memory.generation !== generation) {
      memory.name = name;
      memory.generation = generation;
      memory.nonce = nonce;
      memory.beats = 0;
      this.#changed();
    }
    this.#advance(memory, peer.lineage.at(-1)?.beats ?? 0);
    this.#learn(memory, peer.seen);
  }

  #advance(memory: Memory, beats: number): void {
    if (beats <= memory.beats) return;
    memory.beats = beats;
    this.#changed();
  }

  #changed(): void {
    this.#revision += 1;
    this.#version += 1;
  }

  /**
   * Keeps the later of what a peer tells and has told: a truth about a directory stays one. Where all are linked this
   * node has heard the same from the directory's own node, and there is nothing to write.
   */
  #learn(teller: Memory, seen: readonly Sighting[]): void {
    for (const sighting of seen) {
      if (sighting.storeId === this.#context.storeId) continue;
      const own = this.#memories.get(sighting.storeId);
      if (own !== undefined && own.generation === sighting.generation && own.nonce === sighting.nonce && own.beats >= sighting.beats) continue;
      const before = teller.seen.get(sighting.storeId);
      if (before !== undefined && !isLater(sighting, before)) continue;
      // At the bound the one known longest goes; it takes as many replaced disks to get there.
      const oldest = before === undefined && teller.seen.size >= SIGHTINGS_MAX ? teller.seen.keys().next().value : undefined;
      if (oldest !== undefined) teller.seen.delete(oldest);
      teller.seen.set(sighting.storeId, sighting);
      this.#revision += 1;
    }
  }

  #save(): Promise<void> {
    if (this.#nextSave !== null) return this.#nextSave;
    const save = this.#saves.then(async () => {
      this.#nextSave = null;
      const revision = this.#revision;
      await this.#context.facts.put(PEERS_FACT, encodeMemories([...this.#memories.values()]));
      this.#savedRevision = revision;
    });
    this.#nextSave = save;
    this.#saves = save.catch(() => undefined);
    return save;
  }
}

function isLater(sighting: Sighting, before: Sighting): boolean {
  if (sighting.generation !== before.generation) return sighting.generation > before.generation;
  return sighting.nonce === before.nonce && sighting.beats > before.beats;
}

/**
 * Keeps in `facts` all that the directories remember of which a new one is made: their peers come back as directories
 * made of those that are remembered (LinkHello.former). Resolves when synced. Throws DocumentError.
 */
export function inheritMemories(facts: NodeFacts, sources: readonly Pick<NodeFacts, 'get'>[]): Promise<void> {
  return facts.put(PEERS_FACT, encodeMemories(sources.flatMap((source) => [...readMemories(source).values()])));
}

function encodeMemories(memories: readonly Memory[]): Uint8Array {
  return encodeDocument({ version: 1, peers: memories.map((memory) => ({ ...memory, seen: [...memory.seen.values()] })) });
}

function readMemories(facts: Pick<NodeFacts, 'get'>): Map<string, Memory> {
  const bytes = facts.get(PEERS_FACT);
  if (bytes === undefined) return new Map();
  const document = objectAt(parseDocument(bytes, PEERS_FACT), PEERS_FACT);
  countAt(document, 'version');
  const memories = listAt(document, 'peers').map((entry, i): Memory => {
    const fields = objectAt(entry, `peers[${i}]`);
    return {
      storeId: textAt(fields, 'storeId'),
      name: textAt(fields, 'name'),
      generation: countAt(fields, 'generation'),
      nonce: textAt(fields, 'nonce'),
      beats: countAt(fields, 'beats'),
      seen: new Map(decodeSightings(fields).map((sighting) => [sighting.storeId, sighting])),
    };
  });
  return new Map(memories.map((memory) => [memory.storeId, memory]));
}
