/** How far a replay is, for people (a bar) and for logs (lines). */

const BAR_INTERVAL_MS = 100;
const LINE_INTERVAL_MS = 5000;
const BAR_CELLS = 30;

/** A bar that redraws itself on a terminal; elsewhere a line every few seconds. */
export class Progress {
  readonly #label: string;
  readonly #total: number;
  readonly #retries: () => number;
  readonly #started: number;
  readonly #timer: NodeJS.Timeout;
  #count: number;

  constructor(label: string, total: number, retries: () => number) {
    this.#label = label;
    this.#total = total;
    this.#retries = retries;
    this.#started = performance.now();
    this.#count = 0;
    this.#timer = setInterval(() => this.#draw(), process.stdout.isTTY ? BAR_INTERVAL_MS : LINE_INTERVAL_MS);
  }

  add(messages: number): void {
    this.#count += messages;
  }

  done(): void {
    clearInterval(this.#timer);
    this.#draw();
    if (process.stdout.isTTY) process.stdout.write('\n');
  }

  #draw(): void {
    const share = this.#total === 0 ? 1 : Math.min(1, this.#count / this.#total);
    const rate = this.#count / Math.max(0.001, (performance.now() - this.#started) / 1000);
    const text = `${this.#label} ${this.#count}/${this.#total} messages  ${rate.toFixed(0)}/s  ${this.#retries()} retries`;
    if (!process.stdout.isTTY) return console.log(text);
    const filled = Math.round(share * BAR_CELLS);
    process.stdout.write(`\r\x1b[K[${'█'.repeat(filled)}${'░'.repeat(BAR_CELLS - filled)}] ${text}`);
  }
}
