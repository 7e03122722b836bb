/**
 * When this node beats, and telling it: at most once in BEAT_MS for what was promised, at once when links come up, and
 * a last time at a clean stop. What a beat means is standing.ts' and ledger.ts' business; who hears it is links.ts'.
 */
import type { Beat } from './hello.ts';
import type { PeerLedger } from './ledger.ts';
import { BEAT_MS } from './standing.ts';
import type { Standing } from './standing.ts';

/** A disk that hangs must not hold up the end for the last beat. */
const LAST_BEAT_MS_MAX = 1000;

export class Beats {
  readonly #standing: Standing;
  readonly #ledger: PeerLedger;
  readonly #tellAll: (beat: Beat) => void;
  /** When the last was begun, and which state of the ledger peers have been told. */
  #beganAtMs = Number.NEGATIVE_INFINITY;
  #toldVersion = -1;

  /** `tellAll` sends to every peer whose link is up. */
  constructor(standing: Standing, ledger: PeerLedger, tellAll: (beat: Beat) => void) {
    this.#standing = standing;
    this.#ledger = ledger;
    this.#tellAll = tellAll;
  }

  /** Call at every tick while there are links. Without a promise, what was learned of others is told all the same. */
  tick(nowMs: number): void {
    if (nowMs - this.#beganAtMs < BEAT_MS) return;
    if (this.#standing.due) {
      this.#beganAtMs = nowMs;
      // A write that fails stops the node elsewhere.
      this.#standing.beat().then(() => this.#tell(), () => undefined);
    } else if (this.#ledger.version !== this.#toldVersion) {
      this.#beganAtMs = nowMs;
      this.#tell();
    }
  }

  /** The beat at a clean stop; resolves when it is told, or cannot be for LAST_BEAT_MS_MAX. */
  async last(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, LAST_BEAT_MS_MAX);
    });
    await Promise.race([this.#beatForAll().then(() => this.#tell(), () => undefined), late]);
    clearTimeout(timer);
  }

  async #beatForAll(): Promise<void> {
    // The first may be one that was under way and does not cover what was promised since it began.
    await this.#standing.beat();
    if (this.#standing.due) await this.#standing.beat();
  }

  #tell(): void {
    this.#toldVersion = this.#ledger.version;
    this.#tellAll({ beats: this.#standing.beats, seen: this.#ledger.sightings() });
  }
}
