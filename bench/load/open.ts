/**
 * Open loop: requests are due at a fixed rate whether or not earlier ones were answered, and latency counts from the
 * moment a request was due. A server that stalls is charged for every request that had to wait behind the stall; the
 * closed loop would have sent none (Gil Tene's coordinated omission).
 */
import { Connection } from './connection.ts';
import type { Answer, Target } from './connection.ts';
import type { RequestSource } from './requests.ts';
import { errorKind, isSuccess } from './window.ts';
import type { Window } from './window.ts';

/** How long the answers of a window are waited for once it is over. */
const DRAIN_MS = 5000;
const DRAIN_POLL_MS = 10;

export class OpenLoop {
  readonly #lanes: Lane[] = [];
  readonly #idle: Lane[] = [];
  readonly #window: Window;
  readonly #intervalMs: number;
  /** Due times that wait for a connection, oldest first from `#waitingFrom` on. */
  #waiting: number[] = [];
  #waitingFrom = 0;
  #nextDue = 0;
  /** Requests due before this moment count: set with the window. */
  #countFrom = Infinity;
  #countTo = Infinity;
  #outstanding = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor(rate: number, window: Window) {
    this.#window = window;
    this.#intervalMs = 1000 / rate;
  }

  add(target: Target, source: RequestSource): void {
    const lane = new Lane(target, source, (due, answer, units) => this.#answered(lane, due, answer, units), (due, reason) => this.#lost(lane, due, reason));
    this.#lanes.push(lane);
  }

  async open(): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.connection.open()));
  }

  start(): void {
    this.#idle.push(...this.#lanes);
    this.#nextDue = performance.now();
    this.#timer = setInterval(() => this.#tick(), 1);
  }

  openWindow(): void {
    this.#countFrom = this.#nextDue;
    this.#window.isOpen = true;
  }

  /**
   * Ends the window and waits for what was due in it. Returns the requests that stayed unanswered; each is recorded with
   * the time that it has waited so far, so that they weigh in the percentiles too.
   */
  async closeWindow(): Promise<number> {
    this.#countTo = this.#nextDue;
    if (this.#timer !== null) clearInterval(this.#timer);
    const giveUp = performance.now() + DRAIN_MS;
    while (this.#outstanding > 0 && performance.now() < giveUp) await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
    const now = performance.now();
    const left = [...this.#waiting.slice(this.#waitingFrom), ...this.#lanes.flatMap((lane) => lane.due ?? [])].filter((due) => this.#counts(due));
    for (const due of left) this.#window.latencies.add(now - due);
    this.#window.isOpen = false;
    return left.length;
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    for (const lane of this.#lanes) lane.connection.close();
  }

  #tick(): void {
    const now = performance.now();
    while (this.#nextDue <= now) {
      this.#waiting.push(this.#nextDue);
      this.#outstanding++;
      this.#nextDue += this.#intervalMs;
    }
    this.#hand(now);
  }

  /** Gives waiting requests to idle connections. */
  #hand(now: number): void {
    while (this.#waitingFrom < this.#waiting.length) {
      // In turn, so that none is idle until the server closes it.
      const lane = this.#idle.shift();
      if (lane === undefined) return;
      const due = this.#waiting[this.#waitingFrom++] ?? now;
      if (this.#counts(due)) this.#window.sendDelays.add(now - due);
      lane.send(due);
    }
    this.#waiting = [];
    this.#waitingFrom = 0;
  }

  #counts(due: number): boolean {
    return due >= this.#countFrom && due < this.#countTo;
  }

  #answered(lane: Lane, due: number, answer: Answer, units: number): void {
    this.#outstanding--;
    const now = performance.now();
    if (this.#counts(due)) {
      if (isSuccess(answer)) this.#window.answered(answer, now - due, units);
      else this.#window.failed(errorKind(answer));
    }
    this.#idle.push(lane);
    this.#hand(now);
  }

  /** A connection that is lost stays away: at a fixed rate the others take its share. */
  #lost(lane: Lane, due: number | null, reason: string): void {
    const at = this.#idle.indexOf(lane);
    if (at >= 0) this.#idle.splice(at, 1);
    if (due === null) return;
    this.#outstanding--;
    if (this.#counts(due)) this.#window.failed(reason);
  }
}

/** One connection and the request on its way. */
class Lane {
  readonly connection: Connection;
  readonly #source: RequestSource;
  readonly #buffer: Buffer;
  due: number | null = null;
  #units = 0;

  constructor(target: Target, source: RequestSource, onAnswer: (due: number, answer: Answer, units: number) => void, onLost: (due: number | null, reason: string) => void) {
    this.#source = source;
    this.#buffer = Buffer.allocUnsafeSlow(source.bytesMax);
    const taken = (): number | null => {
      const due = this.due;
      this.due = null;
      return due;
    };
    this.connection = new Connection(target, (answer) => onAnswer(taken() ?? 0, answer, this.#units), (reason) => onLost(taken(), reason));
  }

  send(due: number): void {
    this.due = due;
    const length = this.#source.write(this.#buffer);
    this.#units = this.#source.units;
    this.connection.send(this.#buffer.subarray(0, length));
  }
}

