/**
 * The compaction webhook: tells one URL that a context's window needs compaction. The leader of the context's group
 * tells it: at once when a change makes it so, and again for every such context when it takes the group over, so that
 * a notice that the last leader still had is not lost with it. Delivery is at least once; repeats are possible.
 *
 * Owns the queue and its bounds: one notice a context (the newest), NOTICES_MAX contexts, AGE_MS_MAX of trying. Apply
 * only puts a notice in; everything else happens in turns of its own.
 */
import { createHmac } from 'node:crypto';
import { Agent, request } from 'undici';
import type { GroupId } from '../raft/types.ts';
import { needsCompaction, usedTokens } from './contexts/policies.ts';
import { decodeConfig, decodeHeader } from './contexts/rows.ts';
import type { Logger } from './log.ts';

export const SIGNATURE_HEADER = 'x-fastpaca-signature';

/** Contexts that wait to be told of; beyond it the oldest notice is dropped. */
const NOTICES_MAX = 10_000;
/** A scan waits while this many wait, so that it never drops what it found itself. */
const SCAN_BELOW = NOTICES_MAX / 2;
/** A notice that could not be delivered for this long is given up. */
const AGE_MS_MAX = 3_600_000;
const AT_ONCE = 4;
const TIMEOUT_MS = 10_000;
const BACKOFF_MS = 500;
const BACKOFF_MS_MAX = 60_000;
/** Contexts looked at in one piece of a scan, and the pause behind it: some 10,000 a second. */
const SCAN_ROWS = 100;
const SCAN_PAUSE_MS = 10;
/** Of an answer's body; nothing is done with it, but a short one lets the connection be used again. */
const ANSWER_BYTES_MAX = 64 * 1024;

/** What of a context is told. */
export interface DueContext {
  readonly context: string;
  readonly version: number;
  readonly usedTokens: number;
  readonly tokenBudget: number;
}

export interface WebhookOptions {
  readonly url: string;
  /** Key of the signature. */
  readonly secret: string;
  /** Rows of the groups hosted here (src/storage). */
  readonly rows: {
    contexts(group: GroupId, range: { after?: string; limit: number }): Promise<readonly { readonly context: string; readonly header: Uint8Array }[]>;
    get(group: GroupId, table: 'config', context: string, key: ''): Uint8Array | undefined;
  };
  /** Whether this node leads the group: another leader tells of its contexts itself. */
  readonly leads: (group: GroupId) => boolean;
  readonly counters: Record<'sent' | 'failed' | 'dropped', { inc(): void }>;
  readonly logger: Logger;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** 0 … 1; spreads retries. */
  readonly random: () => number;
  /** Bounds for tests; absent: the ones above. */
  readonly bounds?: Partial<WebhookBounds>;
}

export interface WebhookBounds {
  readonly notices: number;
  readonly ageMs: number;
  readonly timeoutMs: number;
  readonly backoffMs: number;
}

interface Notice {
  readonly group: GroupId;
  readonly context: string;
  body: string;
  /** Raised when a newer notice takes the place of this one. */
  revision: number;
  attempts: number;
  expiresAt: number;
  isInFlight: boolean;
  /** Set while it waits for its next attempt. */
  timer: ReturnType<typeof setTimeout> | null;
}

/** delivered; retry: worth another attempt; refused: no attempt would help. */
type Delivery = { readonly kind: 'delivered' } | { readonly kind: 'retry' | 'refused'; readonly reason: string };

/** The value of the signature header: a receiver recomputes it over `t`, a dot and the raw body, and compares `t` with its clock. */
export function signature(secret: string, unixSeconds: number, body: string): string {
  return `t=${unixSeconds},v1=${createHmac('sha256', secret).update(`${unixSeconds}.${body}`).digest('hex')}`;
}

export class CompactionWebhook {
  private readonly options: WebhookOptions;
  private readonly bounds: WebhookBounds;
  private readonly agent: Agent;
  /** By context, the oldest first. */
  private readonly pending = new Map<string, Notice>();
  /** Of the pending, those whose turn has come. */
  private readonly ready = new Set<Notice>();
  private readonly toScan = new Set<GroupId>();
  private isScanning = false;
  private isPumping = false;
  private inFlight = 0;
  private closed = false;

  constructor(options: WebhookOptions) {
    this.options = options;
    this.bounds = { notices: NOTICES_MAX, ageMs: AGE_MS_MAX, timeoutMs: TIMEOUT_MS, backoffMs: BACKOFF_MS, ...options.bounds };
    this.agent = new Agent({ connections: AT_ONCE, pipelining: 1 });
  }

  /** Contexts that wait to be told of. */
  get waiting(): number {
    return this.pending.size;
  }

  /** Stops at once; what waits is told by the next leader, after its scan. */
  async close(): Promise<void> {
    this.closed = true;
    for (const { timer } of this.pending.values()) if (timer !== null) clearTimeout(timer);
    this.pending.clear();
    this.ready.clear();
    this.toScan.clear();
    await this.agent.destroy();
  }

  /** A context of `group` needs compaction. Returns at once; called while an entry is applied. */
  notify(group: GroupId, due: DueContext): void {
    if (this.closed) return;
    const { context } = due;
    const body = JSON.stringify({ type: 'needs_compaction', context_id: context, version: due.version, used_tokens: due.usedTokens, token_budget: due.tokenBudget });
    const expiresAt = this.options.now() + this.bounds.ageMs;
    const known = this.pending.get(context);
    if (known !== undefined) {
      if (known.body === body) return;
      known.body = body;
      known.expiresAt = expiresAt;
      known.revision++;
      return;
    }
    if (this.pending.size >= this.bounds.notices) this.dropOldest();
    const notice: Notice = { group, context, body, revision: 0, attempts: 0, expiresAt, isInFlight: false, timer: null };
    this.pending.set(context, notice);
    this.makeReady(notice);
  }

  /** This node leads `group` from now on: its contexts that need compaction are told of, whoever told of them before. */
  takeOver(group: GroupId): void {
    if (this.closed) return;
    this.toScan.add(group);
    if (this.isScanning) return;
    this.isScanning = true;
    void this.scan();
  }

  private async scan(): Promise<void> {
    for (const group of this.toScan) {
      this.toScan.delete(group);
      try {
        await this.scanGroup(group);
      } catch (error) {
        // The replica is damaged or gone: another node leads the group, or will, and scans it then.
        this.options.logger.warn({ type: 'webhook_scan_failed', group, reason: String(error) }, `group ${group} could not be scanned for windows that need compaction`);
      }
    }
    this.isScanning = false;
  }

  private async scanGroup(group: GroupId): Promise<void> {
    const { rows, leads } = this.options;
    let after: string | null = null;
    while (!this.closed && leads(group)) {
      if (this.pending.size >= Math.min(SCAN_BELOW, this.bounds.notices / 2)) {
        await pause(SCAN_PAUSE_MS);
        continue;
      }
      const page = await rows.contexts(group, { ...(after === null ? {} : { after }), limit: SCAN_ROWS });
      if (this.closed) return;
      for (const { context, header } of page) {
        const due = this.dueOf(group, context, header);
        if (due !== null) this.notify(group, due);
      }
      const last = page.at(-1);
      if (last === undefined || page.length < SCAN_ROWS) return;
      after = last.context;
      await pause(SCAN_PAUSE_MS);
    }
  }

  private dueOf(group: GroupId, context: string, headerRow: Uint8Array): DueContext | null {
    const header = decodeHeader(headerRow);
    if (header === null || header.status !== 'active' || header.window.tokens === 0) return null;
    const configRow = this.options.rows.get(group, 'config', context, '');
    const config = configRow === undefined ? null : decodeConfig(configRow);
    if (config === null || !needsCompaction(config, header.window.tokens, header.calibration)) return null;
    return { context, version: header.version, usedTokens: usedTokens(header.window.tokens, header.calibration), tokenBudget: config.tokenBudget };
  }

  private dropOldest(): void {
    for (const notice of this.pending.values()) {
      if (notice.isInFlight) continue;
      this.forget(notice);
      this.options.counters.dropped.inc();
      this.options.logger.warn({ type: 'webhook_dropped', context_id: notice.context }, `more than ${this.bounds.notices} compaction notices wait: the oldest is dropped`);
      return;
    }
  }

  private forget(notice: Notice): void {
    if (notice.timer !== null) clearTimeout(notice.timer);
    this.ready.delete(notice);
    this.pending.delete(notice.context);
  }

  private makeReady(notice: Notice): void {
    notice.timer = null;
    this.ready.add(notice);
    if (this.isPumping) return;
    this.isPumping = true;
    setImmediate(() => {
      this.isPumping = false;
      this.pump();
    });
  }

  private pump(): void {
    for (const notice of this.ready) {
      if (this.closed || this.inFlight === AT_ONCE) return;
      this.ready.delete(notice);
      // The group's leader of now has scanned it and tells what is still so.
      if (!this.options.leads(notice.group)) this.forget(notice);
      else void this.deliver(notice);
    }
  }

  private async deliver(notice: Notice): Promise<void> {
    const { revision } = notice;
    notice.isInFlight = true;
    this.inFlight++;
    const delivery = await this.post(notice.body);
    this.inFlight--;
    notice.isInFlight = false;
    if (this.closed) return;
    this.settle(notice, delivery, revision !== notice.revision);
    this.pump();
  }

  private settle(notice: Notice, delivery: Delivery, isOutdated: boolean): void {
    const { counters, logger, now, random } = this.options;
    if (delivery.kind === 'delivered') counters.sent.inc();
    if (delivery.kind !== 'retry') {
      if (delivery.kind === 'refused') this.fail(notice, delivery.reason);
      notice.attempts = 0;
      if (isOutdated) this.makeReady(notice);
      else this.forget(notice);
      return;
    }
    notice.attempts++;
    const longest = Math.min(BACKOFF_MS_MAX, this.bounds.backoffMs * 2 ** Math.min(20, notice.attempts - 1));
    // Half of it at random, so that notices that failed together do not all come back together.
    const delayMs = longest * (0.5 + random() / 2);
    if (now() + delayMs >= notice.expiresAt) {
      this.fail(notice, delivery.reason);
      this.forget(notice);
      return;
    }
    logger.debug({ type: 'webhook_retry', context_id: notice.context, attempts: notice.attempts, reason: delivery.reason }, 'a compaction notice could not be delivered and is tried again');
    notice.timer = setTimeout(() => this.makeReady(notice), delayMs);
    notice.timer.unref();
  }

  private fail(notice: Notice, reason: string): void {
    this.options.counters.failed.inc();
    this.options.logger.warn({ type: 'webhook_failed', context_id: notice.context, attempts: notice.attempts, reason }, 'a compaction notice could not be delivered and is given up');
  }

  private async post(body: string): Promise<Delivery> {
    const { url, secret, now } = this.options;
    const headers = { 'content-type': 'application/json', [SIGNATURE_HEADER]: signature(secret, Math.floor(now() / 1000), body) };
    try {
      const answer = await request(url, { method: 'POST', headers, body, dispatcher: this.agent, signal: AbortSignal.timeout(this.bounds.timeoutMs) });
      await answer.body.dump({ limit: ANSWER_BYTES_MAX });
      const status = answer.statusCode;
      if (status >= 200 && status < 300) return { kind: 'delivered' };
      return { kind: status >= 500 || status === 429 || status === 408 ? 'retry' : 'refused', reason: `status ${status}` };
    } catch (error) {
      return { kind: 'retry', reason: error instanceof Error ? error.message : String(error) };
    }
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => void setTimeout(resolve, ms).unref());
}
