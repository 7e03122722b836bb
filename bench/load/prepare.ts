/** Fills a node before a load: creates a set of contexts and appends messages to each. */
import { Connection } from './connection.ts';
import type { Answer } from './connection.ts';
import type { PrepareJob } from './job.ts';
import { appendBody, head, scattered } from './requests.ts';
import { errorKind, isSuccess } from './window.ts';

const CLIENTS = 32;
/** Messages in one append: as many as the server takes, in a body of some megabytes at most. */
const BATCH_MAX = 1000;
const BATCH_BYTES_MAX = 2 * 1024 * 1024;
const BODIES = 8;
const PROGRESS_MS = 1000;
const RETRIES_MAX = 200;
const RETRY_MS = 50;

/** Resolves when every context exists and holds its messages; `progress` is told of requests done. Throws at a refusal. */
export async function prepare(job: PrepareJob, progress: (done: number, total: number) => void): Promise<void> {
  const { contexts, endpoints, messagesEach, messageBytes } = job;
  const batch = Math.max(1, Math.min(BATCH_MAX, messagesEach, Math.floor(BATCH_BYTES_MAX / Math.max(1, messageBytes))));
  const appends = Math.ceil(messagesEach / batch);
  const total = contexts.count * (1 + appends);
  const bodies = messagesEach === 0 ? [] : Array.from({ length: BODIES }, (_, i) => appendBody(i, messageBytes, batch));
  const order = scattered(contexts.count);
  let taken = 0;
  let done = 0;
  const timer = setInterval(() => progress(done, total), PROGRESS_MS);
  const fill = async (caller: Caller): Promise<void> => {
    while (taken < contexts.count) {
      taken++;
      const path = `/v1/contexts/${contexts.prefix}-${order.next().value}`;
      await caller.call('PUT', path, job.settings);
      done++;
      for (let i = 0; i < appends; i++) {
        const left = messagesEach - i * batch;
        const body = left < batch ? appendBody(i, messageBytes, left) : (bodies[i % BODIES] ?? '');
        await caller.call('POST', `${path}/messages`, body);
        done++;
      }
    }
  };
  const callers = Array.from({ length: Math.min(CLIENTS, contexts.count) }, (_, i) => new Caller(endpoints[i % endpoints.length] ?? fail('no endpoint')));
  try {
    await Promise.all(callers.map((caller) => caller.open()));
    await Promise.all(callers.map(fill));
  } finally {
    clearInterval(timer);
    for (const caller of callers) caller.close();
  }
}

function fail(reason: string): never {
  throw new Error(reason);
}

/** A connection as awaited calls: preparing is not measured. */
class Caller {
  readonly #connection: Connection;
  readonly #host: string;
  #settle: (answer: Answer | Error) => void = () => undefined;

  constructor(endpoint: { readonly host: string; readonly port: number }) {
    this.#host = `${endpoint.host}:${endpoint.port}`;
    this.#connection = new Connection(endpoint, (answer) => this.#settle(answer), (reason) => this.#settle(new Error(reason)));
  }

  open(): Promise<void> {
    return this.#connection.open();
  }

  close(): void {
    this.#connection.close();
  }

  /** Asks again while the server is too busy to take it. */
  async call(method: string, path: string, body: string): Promise<void> {
    const request = Buffer.from(head(method, path, this.#host, Buffer.byteLength(body)) + body);
    for (let tries = 0; ; tries++) {
      const answer = await new Promise<Answer | Error>((resolve) => {
        this.#settle = resolve;
        this.#connection.send(request);
      });
      if (answer instanceof Error) throw answer;
      if (isSuccess(answer)) return;
      const isBusy = answer.status === 429 || (answer.status === 503 && answer.text.includes('not_applied'));
      if (!isBusy || tries === RETRIES_MAX) throw new Error(`${method} ${path} answered ${errorKind(answer)}`);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}
