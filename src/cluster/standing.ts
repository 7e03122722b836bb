/**
 * What this node's own data directory is still good for: its beats, which let peers tell a directory that was rolled
 * back within one generation, and the mark of one that was found out. Owns both facts; sends nothing.
 *
 * Beats. A volume snapshot that is restored later reopens with a lineage every peer expects. So a running node counts:
 * whenever it has promised something new (an entry, a vote), at most a second later the next beat becomes durable
 * here, and only then peers are told. The restored directory remembers fewer beats of that generation than they do.
 * What remains is the time between a promise and the beat after it reaching a peer's disk: a directory rolled back to
 * a moment within that last second (BEAT_MS, one sync and one way) before its node died is not told from a sound one.
 * An idle node promises nothing and does not beat.
 */
import { DocumentError, countAt, encodeDocument, objectAt, parseDocument, textAt } from './hello.ts';
import type { Former, Open, Sighting } from './hello.ts';
import { IdentityError, judgeDescent, REFUSAL_CODES, writeBeat } from './identity.ts';
import type { OpenedIdentity, Refusal, RefusalCode } from './identity.ts';
import type { NodeFacts } from './ports.ts';

/** At most one beat in this time, and while there is something to beat for, at least one in about it. */
export const BEAT_MS = 1000;
export const STEPPED_BACK_FACT = 'identity/stepped-back';

export interface StandingOptions {
  readonly facts: NodeFacts;
  readonly identity: OpenedIdentity;
  /** A number that changes whenever Raft state of this node was given to the disk or became durable. */
  readonly promises: () => number;
}

/** Why this node takes no part in its cluster any more. */
export interface SteppedBack {
  /** The node that remembers more. */
  readonly by: string;
  readonly reason: string;
  readonly code: RefusalCode;
}

export class Standing {
  readonly #options: StandingOptions;
  #beats = 0;
  /** `promises` when the last beat began; NaN equals nothing, so that the first beat is due at once. */
  #promised = Number.NaN;
  #beating: Promise<void> | null = null;
  #steppedBack: SteppedBack | null;

  private constructor(options: StandingOptions, steppedBack: SteppedBack | null) {
    this.#options = options;
    this.#steppedBack = steppedBack;
  }

  /** Takes up what the disk says. Throws IdentityError when that is unreadable. */
  static open(options: StandingOptions): Standing {
    try {
      return new Standing(options, readSteppedBack(options.facts));
    } catch (error) {
      if (error instanceof DocumentError) throw new IdentityError(`the data directory's standing is damaged: ${error.message}`);
      throw error;
    }
  }

  /** Beats of this open that are durable. */
  get beats(): number {
    return this.#beats;
  }

  /** The opens of this directory with this one as it stands now. */
  lineage(): readonly Open[] {
    const { nonce, lineage } = this.#options.identity;
    return [...lineage.slice(0, -1), { nonce, beats: this.#beats }];
  }

  /** The stores that this directory was made of. */
  get former(): readonly Former[] {
    return this.#options.identity.former;
  }

  /** True when something was promised since the last beat began. */
  get due(): boolean {
    return this.#beating === null && this.#options.promises() !== this.#promised;
  }

  /** Makes the next beat; resolves when it is durable and may be told. Rejects when the disk takes no more. */
  beat(): Promise<void> {
    if (this.#beating !== null) return this.#beating;
    // Read before the write is handed over: the one writer keeps the order, so this beat is never on disk without
    // what was counted here.
    this.#promised = this.#options.promises();
    const next = this.#beats + 1;
    this.#beating = writeBeat(this.#options.facts, { nonce: this.#options.identity.nonce, beats: next }).then(() => {
      this.#beats = next;
      this.#beating = null;
    });
    return this.#beating;
  }

  /** What speaks against this directory among what a sound peer has seen, or null. */
  judge(seen: readonly Sighting[], by: string): Refusal | null {
    const { identity } = this.#options;
    for (const former of identity.former) {
      const then = seen.find((sighting) => sighting.storeId === former.storeId);
      const refusal = then === undefined ? null : judgeDescent({ ...former, name: identity.name, hasEnded: true }, then, `by node '${by}' before it was resharded`);
      if (refusal !== null) return refusal;
    }
    const own = seen.find((sighting) => sighting.storeId === identity.storeId);
    if (own === undefined) return null;
    const refusal = judgeDescent({ ...identity, lineage: this.lineage() }, own, `by node '${by}'`);
    if (refusal !== null || own.generation !== identity.generation || own.beats <= this.#beats) return refusal;
    // No beat is told before it is counted here: the memory of this very process was rolled back, with its machine.
    return { code: 'rolled_back', reason: `beat ${own.beats} of node '${identity.name}' was seen by node '${by}', but it remembers only ${this.#beats}: its machine was rolled back` };
  }

  /** Set once the node must take no part any more: it was found out, in this open or an earlier one. */
  get steppedBack(): SteppedBack | null {
    return this.#steppedBack;
  }

  /**
   * Takes this node out of its cluster, for good when a peer remembers what the directory forgot; a directory that is
   * merely not the one expected is only set aside until the next start. Resolves when the mark is durable.
   */
  async stepBack(by: string, refusal: Refusal): Promise<void> {
    if (this.#steppedBack !== null) return;
    this.#steppedBack = { by, reason: refusal.reason, code: refusal.code };
    if (refusal.code !== 'store_changed') await this.#options.facts.put(STEPPED_BACK_FACT, encodeDocument({ version: 1, ...this.#steppedBack }));
  }
}

/** True when the directory has forgotten what it promised, so that only another one can take its node's part. */
export function isForGood({ code }: SteppedBack): boolean {
  return code === 'rolled_back' || code === 'duplicate';
}

/** The mark of a directory that was found out, or null. Throws DocumentError. */
export function readSteppedBack(facts: Pick<NodeFacts, 'get'>): SteppedBack | null {
  const bytes = facts.get(STEPPED_BACK_FACT);
  if (bytes === undefined) return null;
  const fields = objectAt(parseDocument(bytes, STEPPED_BACK_FACT), STEPPED_BACK_FACT);
  countAt(fields, 'version');
  const code = REFUSAL_CODES.find((known) => known === fields['code']) ?? 'failed';
  return { by: textAt(fields, 'by'), reason: textAt(fields, 'reason'), code };
}
