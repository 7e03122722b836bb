/**
 * The first half of a stop, while the node still serves: say so, hand over what it leads, let clients leave and their
 * requests end. Owns the order and the time each step may take; what comes after, closing, is node.ts'.
 */

/** A step looks again this often whether it is done. */
const LOOK_MS = 20;
/**
 * How long new connections are still taken after readiness went off and every answer announces the close: load
 * balancers and clients leave in this time, so that hardly any runs into a closed port.
 */
const NOTICE_MS = 1000;
/** Handing over all leaderships takes a few round trips; where nobody can take them, the stop goes on without. */
const HANDOVER_MS = 3000;
/** From the beginning of the stop: what is not answered by then gets 503, which says what is known of its outcome. */
const REQUESTS_MS = 6000;
/** Those answers are small: a client that does not take them in this time is cut off. */
const LAST_ANSWERS_MS = 250;

export interface Draining {
  /** No other node can take over; nobody needs time to leave for one. */
  readonly isAlone: boolean;
  /** Readiness off, closes announced. */
  readonly announce: () => void;
  /** Begins to hand over every leadership; returns how many are still held. */
  readonly handOver: () => number;
  /** Stops listening. */
  readonly closeListener: () => void;
  /** Closes connections that carry no request. */
  readonly closeIdle: () => void;
  /** True while a client waits for an answer of this node, or another node for one that this one leads to. */
  readonly isBusy: () => boolean;
  /** Every call that still waits is answered now. */
  readonly answerWaiting: () => void;
}

/** Resolves when all requests are answered, or were given up. Takes no longer than REQUESTS_MS and the last answers. */
export async function drain(node: Draining): Promise<void> {
  const started = performance.now();
  const past = (ms: number) => performance.now() - started >= ms;
  node.announce();
  // Also while notice is given: a link that breaks meanwhile may make this node a leader once more.
  await repeat(() => {
    const led = node.handOver();
    return past(HANDOVER_MS) || (led === 0 && (node.isAlone || past(NOTICE_MS)));
  });
  node.closeListener();
  await repeat(() => {
    node.handOver();
    node.closeIdle();
    return !node.isBusy() || past(REQUESTS_MS);
  });
  node.answerWaiting();
  const answered = performance.now();
  await repeat(() => {
    node.closeIdle();
    return !node.isBusy() || performance.now() - answered >= LAST_ANSWERS_MS;
  });
}

/** Resolves when `handOver` holds no leadership any more, or nobody could take them in time. */
export async function handOverAll(handOver: () => number): Promise<void> {
  const started = performance.now();
  await repeat(() => handOver() === 0 || performance.now() - started >= HANDOVER_MS);
}

/** Runs `step` until it returns true. */
async function repeat(step: () => boolean): Promise<void> {
  while (!step()) await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
}
