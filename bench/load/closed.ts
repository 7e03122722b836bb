/** Closed loop: each client sends its next request when the last one is answered. */
import { Connection } from './connection.ts';
import type { Answer, Target } from './connection.ts';
import type { RequestSource } from './requests.ts';
import { errorKind, isSuccess } from './window.ts';
import type { Window } from './window.ts';

/** After a refusal or a lost connection, so that a client never spins. */
const PAUSE_MS = 10;

export class ClosedClient {
  readonly #connection: Connection;
  readonly #source: RequestSource;
  readonly #window: Window;
  readonly #buffer: Buffer;
  #units = 0;
  #sentAt = 0;
  #isOver = false;

  constructor(target: Target, source: RequestSource, window: Window) {
    this.#source = source;
    this.#window = window;
    this.#buffer = Buffer.allocUnsafeSlow(source.bytesMax);
    this.#connection = new Connection(target, (answer) => this.#answered(answer), (reason) => this.#lost(reason));
  }

  open(): Promise<void> {
    return this.#connection.open();
  }

  start(): void {
    if (this.#isOver) return;
    const length = this.#source.write(this.#buffer);
    this.#units = this.#source.units;
    this.#sentAt = performance.now();
    this.#connection.send(this.#buffer.subarray(0, length));
  }

  close(): void {
    this.#isOver = true;
    this.#connection.close();
  }

  #answered(answer: Answer): void {
    const ms = performance.now() - this.#sentAt;
    if (isSuccess(answer)) {
      if (this.#window.isOpen) this.#window.answered(answer, ms, this.#units);
      this.start();
      return;
    }
    if (this.#window.isOpen) this.#window.failed(errorKind(answer));
    setTimeout(() => this.start(), PAUSE_MS);
  }

  #lost(reason: string): void {
    if (this.#window.isOpen) this.#window.failed(reason);
    this.#reopen();
  }

  #reopen(): void {
    setTimeout(() => {
      if (this.#isOver) return;
      this.#connection.open().then(
        () => this.start(),
        () => this.#reopen(),
      );
    }, PAUSE_MS);
  }
}
