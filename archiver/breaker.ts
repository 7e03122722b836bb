/**
 * When to try Postgres again: exponential backoff with jitter behind a circuit breaker. While it is open nobody waits
 * for a database that is down; when its time has come exactly one caller tries, and the others go on hearing no.
 * Jitter is "equal": half of the step is fixed, half is random, so that three nodes do not knock in step and none knocks
 * at once (Brooker, Exponential Backoff And Jitter, 2015).
 */

export interface BreakerOptions {
  readonly stepMs: number;
  readonly stepMsMax: number;
  /** In [0, 1). */
  readonly random: () => number;
  /** Milliseconds of a clock that never goes back. */
  readonly now: () => number;
}

export class Breaker {
  private readonly options: BreakerOptions;
  private failures = 0;
  /** Time before which no one tries; meaningful while failures > 0. */
  private closedUntil = 0;
  private trying = false;

  constructor(options: BreakerOptions) {
    this.options = options;
  }

  get open(): boolean {
    return this.failures > 0;
  }

  /** Failures in a row. */
  get count(): number {
    return this.failures;
  }

  /** Milliseconds until a try is due; 0 when one may go ahead now. */
  waitMs(): number {
    return this.failures === 0 ? 0 : Math.max(0, this.closedUntil - this.options.now());
  }

  /** Whether the caller may try. One who may must report `succeeded` or `failed`. */
  enter(): boolean {
    if (this.failures === 0) return true;
    if (this.trying || this.waitMs() > 0) return false;
    this.trying = true;
    return true;
  }

  succeeded(): void {
    this.failures = 0;
    this.trying = false;
  }

  failed(): void {
    // Others were under way when the first of them failed: together they are one failure.
    if (this.failures > 0 && !this.trying) return;
    const step = Math.min(this.options.stepMsMax, this.options.stepMs * 2 ** Math.min(this.failures, 16));
    this.failures++;
    this.trying = false;
    this.closedUntil = this.options.now() + step / 2 + (step / 2) * this.options.random();
  }
}
