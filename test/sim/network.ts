/**
 * A modelled network: frames are lost, doubled, delayed and overtaken; links are cut in one direction or reset; nodes
 * whose disk was wiped or rolled back are refused, by the opens of it that every peer remembers.
 */
import type { NodeId } from '../../raft/types.ts';
import type { Chance, Clock } from './clock.ts';

/** How bad the network is, per frame. */
export interface Weather {
  drop: number;
  duplicate: number;
  /** Share of frames that take long, and so are overtaken. */
  slow: number;
}

export const CLEAR: Weather = { drop: 0, duplicate: 0, slow: 0 };

const DELAY_MS = 0.5;
const SPREAD_MS = 2;
const SLOW_MS = 250;

export class Network {
  weather: Weather = CLEAR;
  /** A network that lets a node with an older disk speak as its present self: two of the mutants. */
  readonly acceptsAnyone: boolean;
  readonly counts = { dropped: 0, duplicated: 0, slowed: 0, refused: 0, cut: 0 };
  readonly #clock: Clock;
  readonly #chance: Chance;
  /** Directed links that carry nothing, by `from>to`, until the given time. */
  readonly #cut = new Map<string, number>();
  /** Counts resets of a pair; frames of an earlier count are gone. */
  readonly #resets = new Map<string, number>();
  readonly #buffered = new Map<string, number>();
  /** What every peer durably remembers of a disk: its latest open, by count and nonce. */
  readonly #seen = new Map<string, { readonly generation: number; readonly nonce: number }>();

  constructor(clock: Clock, chance: Chance, acceptsAnyone: boolean) {
    this.#clock = clock;
    this.#chance = chance;
    this.acceptsAnyone = acceptsAnyone;
  }

  /**
   * True if peers let in a node whose disk `store` was opened with these nonces; then they remember the last one. The latest
   * open they know of must be among them: comparing generations alone would admit a rolled-back disk as soon as it
   * was opened often enough.
   */
  introduces(store: string, opens: readonly number[]): boolean {
    const seen = this.#seen.get(store);
    const known = seen === undefined || opens[seen.generation - 1] === seen.nonce;
    if (known) this.#seen.set(store, { generation: opens.length, nonce: opens.at(-1) ?? 0 });
    else this.counts.refused += 1;
    return known || this.acceptsAnyone;
  }

  isCut(from: NodeId, to: NodeId): boolean {
    return (this.#cut.get(`${from}>${to}`) ?? 0) > this.#clock.now;
  }

  cut(from: NodeId, to: NodeId, ms: number): void {
    this.#cut.set(`${from}>${to}`, this.#clock.now + ms);
  }

  heal(): void {
    this.#cut.clear();
    this.weather = CLEAR;
  }

  /** Loses what is under way between two nodes. */
  reset(a: NodeId, b: NodeId): void {
    for (const pair of [`${a}>${b}`, `${b}>${a}`]) this.#resets.set(pair, (this.#resets.get(pair) ?? 0) + 1);
  }

  bufferedBytes(from: NodeId, to: NodeId): number {
    return this.#buffered.get(`${from}>${to}`) ?? 0;
  }

  /** True if one small exchange between two nodes goes through now. */
  passes(from: NodeId, to: NodeId): boolean {
    return !this.isCut(from, to) && !this.isCut(to, from) && !this.#chance.yes(this.weather.drop * 2);
  }

  /** Milliseconds that something takes on its way now. */
  delay(): number {
    if (this.#chance.yes(this.weather.slow)) {
      this.counts.slowed += 1;
      return this.#chance.float() * SLOW_MS;
    }
    return DELAY_MS + this.#chance.float() * SPREAD_MS;
  }

  send(from: NodeId, to: NodeId, bytes: number, deliver: () => void): void {
    const pair = `${from}>${to}`;
    if (this.isCut(from, to)) {
      this.counts.cut += 1;
      return;
    }
    if (this.#chance.yes(this.weather.drop)) {
      this.counts.dropped += 1;
      return;
    }
    const copies = this.#chance.yes(this.weather.duplicate) ? 2 : 1;
    this.counts.duplicated += copies - 1;
    const resets = this.#resets.get(pair) ?? 0;
    for (let copy = 0; copy < copies; copy++) {
      this.#buffered.set(pair, (this.#buffered.get(pair) ?? 0) + bytes);
      this.#clock.after(this.delay(), () => {
        this.#buffered.set(pair, (this.#buffered.get(pair) ?? 0) - bytes);
        if (!this.isCut(from, to) && (this.#resets.get(pair) ?? 0) === resets) deliver();
      });
    }
  }
}
