/**
 * The contexts of the groups that this node leads, as the archiver sees them (archiver/ports.ts). Reads what is behind
 * from the state itself, in the order of groups and ids; proposes what is archived, many contexts of a group in one
 * entry. Keeps nothing: after a restart, or under another leader, the state says the same.
 */
import type { Ack, ArchiveCompaction, ArchiveContext, ArchiveMessage, ArchiveSource, ContextSlice, PendingContext, PendingPage } from '../../archiver/ports.ts';
import type { GroupId } from '../../raft/types.ts';
import { groupOf } from '../cluster/placement.ts';
import { ACKS_MAX, trimmedBy } from '../contexts/archive.ts';
import { encodeCommand } from '../contexts/commands.ts';
import { decodeCompaction } from '../contexts/rows.ts';
import type { ContextConfig, ContextHeader, HeaderStatus, Rows } from '../contexts/types.ts';
import { endsOfSpan, messagesIn } from '../message-blocks.ts';
import { policyText } from '../render.ts';
import { TrimPace } from './pace.ts';
import { takeApart } from './rows.ts';

/** Up to so many messages are looked up one by one, which costs less than opening a range. */
const LOOKUPS_MAX = 8;
/** Rows of the first range read of a context, whose sizes nobody knows yet, and of any. */
const RANGE_ROWS_FIRST = 16;
const RANGE_ROWS_MAX = 1000;
/** Compaction records of one slice; a context with more has the rest in its next one. */
const COMPACTIONS_MAX = 1000;

interface StoredRow {
  readonly key: number;
  readonly value: Uint8Array;
}

export interface SourceOptions {
  /** Rows of the groups hosted here (src/storage). */
  readonly storage: {
    listed(group: GroupId, table: 'unarchived', range: { after?: string; limit: number }): Promise<readonly string[]>;
    rows(group: GroupId, table: 'message' | 'compaction', context: string, range: { gte: number; lt: number; limit: number }): Promise<readonly StoredRow[]>;
    stats(): { readonly level0Files: number };
  };
  readonly rowsOf: (context: string) => Rows;
  /** Groups led here, ascending. */
  readonly led: () => readonly GroupId[];
  readonly leads: (group: GroupId) => boolean;
  /** Commits a command in a group led here; true: it is applied here. Never rejects. */
  readonly propose: (group: GroupId, command: Uint8Array) => Promise<boolean>;
  /** The newest messages of a context that stay in hot storage. */
  readonly tailKeep: number;
  readonly trimmed: { inc(count: number): void };
}

/** What is left of a purged context is nobody's to archive. */
type LivingHeader = ContextHeader & { readonly status: Exclude<HeaderStatus, 'purged'> };

export class GroupSource implements ArchiveSource {
  private readonly options: SourceOptions;
  private readonly pace: TrimPace;

  constructor(options: SourceOptions) {
    this.options = options;
    this.pace = new TrimPace(() => options.storage.stats().level0Files);
  }

  /** The cursor is `group/context` of the last one passed. */
  async pending(cursor: string | null, limit: number): Promise<PendingPage> {
    const { storage, led, leads } = this.options;
    const slash = cursor?.indexOf('/') ?? 0;
    const cursorGroup = cursor === null ? 0 : Number(cursor.slice(0, slash));
    const contexts: PendingContext[] = [];
    for (const group of led()) {
      if (group < cursorGroup) continue;
      let after = group === cursorGroup && cursor !== null ? cursor.slice(slash + 1) : null;
      while (leads(group)) {
        const room = limit - contexts.length;
        const ids = await storage.listed(group, 'unarchived', { ...(after === null ? {} : { after }), limit: room });
        for (const context of ids) {
          const header = this.header(context);
          if (header !== null) contexts.push(pendingOf(context, header));
        }
        after = ids.at(-1) ?? after;
        if (ids.length < room) break;
        return { contexts, cursor: `${group}/${after}` };
      }
    }
    return { contexts, cursor: null };
  }

  async read(context: string, { fromSeq, countMax, bytesMax }: { readonly fromSeq: number; readonly countMax: number; readonly bytesMax: number }): Promise<ContextSlice | null> {
    const rows = this.options.rowsOf(context);
    const header = this.header(context);
    const config = rows.config(context);
    if (header === null || config === undefined || !this.options.leads(groupOf(context))) return null;
    // What is read from here on is of this moment, however late: messages and records up to these marks never change.
    const compactions = await this.compactions(context, header);
    const messages = await this.messages(context, { first: Math.max(fromSeq, header.archivedSeq + 1), last: header.lastSeq, countMax, bytesMax });
    // With more records than fit, the slice speaks of the state as of the last of them.
    const version = compactions.length < COMPACTIONS_MAX ? header.version : (compactions.at(-1)?.version ?? header.version);
    return { state: { ...stateOf(header, config), version }, messages, compactions };
  }

  async ack(acks: readonly Ack[]): Promise<readonly boolean[]> {
    const byGroup = new Map<GroupId, number[]>();
    for (const [i, { context }] of acks.entries()) {
      const group = groupOf(context);
      const list = byGroup.get(group);
      if (list === undefined) byGroup.set(group, [i]);
      else list.push(i);
    }
    const applied = acks.map(() => false);
    const proposals: { readonly rows: number; readonly propose: () => Promise<void> }[] = [];
    for (const [group, list] of byGroup) {
      for (let at = 0; at < list.length; at += ACKS_MAX) {
        const places = list.slice(at, at + ACKS_MAX);
        proposals.push({ rows: this.trimmable(places.flatMap((i) => acks[i] ?? [])), propose: () => this.propose(group, acks, places, applied) });
      }
    }
    // Marks that trim little do not wait behind those that trim much.
    proposals.sort((a, b) => a.rows - b.rows);
    await Promise.all(proposals.map(({ rows, propose }) => this.pace.run(rows, propose)));
    return applied;
  }

  private async propose(group: GroupId, acks: readonly Ack[], places: readonly number[], applied: boolean[]): Promise<void> {
    const { tailKeep, propose, trimmed } = this.options;
    const mine = places.flatMap((i) => acks[i] ?? []);
    const [first] = mine;
    if (first === undefined) return;
    const before = this.trimmedOf(mine);
    if (!(await propose(group, encodeCommand({ type: 'ack_archived', context: first.context, acks: mine, tailKeep })))) return;
    for (const i of places) applied[i] = true;
    trimmed.inc(Math.max(0, this.trimmedOf(mine) - before));
  }

  /** Messages that a command with these marks would trim now. */
  private trimmable(acks: readonly Ack[]): number {
    const { rowsOf, tailKeep } = this.options;
    return trimmedBy((context) => rowsOf(context).header(context), acks, tailKeep);
  }

  /** The seqs up to which messages are trimmed, summed up. */
  private trimmedOf(acks: readonly Ack[]): number {
    let sum = 0;
    for (const { context } of acks) sum += this.header(context)?.trimmedSeq ?? 0;
    return sum;
  }

  private header(context: string): LivingHeader | null {
    const header = this.options.rowsOf(context).header(context);
    return header === undefined || !isLiving(header) ? null : header;
  }

  private async messages(context: string, want: { first: number; last: number; countMax: number; bytesMax: number }): Promise<ArchiveMessage[]> {
    const { first, bytesMax } = want;
    const end = Math.min(want.last, first + want.countMax - 1) + 1;
    const messages: ArchiveMessage[] = [];
    let bytes = 0;
    const next = (): number => first + messages.length;
    const wantsMore = (): boolean => next() < end && bytes < bytesMax;
    const take = (row: Uint8Array): void => {
      const message = { seq: next(), ...takeApart(next(), row) };
      bytes += message.body.length;
      messages.push(message);
    };
    while (wantsMore()) {
      const gte = next();
      if (end - first > LOOKUPS_MAX) {
        const size = messages.length === 0 ? bytesMax / RANGE_ROWS_FIRST : bytes / messages.length;
        const limit = Math.min(end - gte, RANGE_ROWS_MAX, Math.ceil((bytesMax - bytes) / size));
        // A block that goes on behind the end has its key there.
        const [, upper] = endsOfSpan(end - 1);
        for (const { key, value } of await this.options.storage.rows(groupOf(context), 'message', context, { gte, lt: upper + 1, limit })) {
          if (!wantsMore()) break;
          const block = messagesIn(key, value);
          const rows = block.rows.slice(Math.max(0, next() - block.first));
          if (next() < block.first || rows.length === 0) break;
          for (const row of rows) if (wantsMore()) take(row);
        }
      }
      if (next() > gte) continue;
      // Few are looked up one by one, and the rest of a block that begins before. One that is missing was trimmed meanwhile, or this
      // replica is damaged: asking for it finds that out.
      const [, last] = endsOfSpan(gte);
      while (next() <= last && wantsMore()) {
        const row = this.options.rowsOf(context).get('message', context, next());
        if (row === undefined) return messages;
        take(row);
      }
    }
    return messages;
  }

  private async compactions(context: string, header: ContextHeader): Promise<ArchiveCompaction[]> {
    // Every `compact` begins a new prefix: most contexts have had none since, and need no look.
    if (header.window.stableSinceVersion <= header.archivedVersion) return [];
    const range = { gte: header.archivedVersion + 1, lt: header.version + 1, limit: COMPACTIONS_MAX };
    const rows = await this.options.storage.rows(groupOf(context), 'compaction', context, range);
    return rows.map(({ value }) => {
      const record = decodeCompaction(value);
      // It passed its checksum, so this program wrote it: going on would hide a bug.
      if (record === null) throw new Error('a compaction row does not decode');
      return record;
    });
  }
}

function isLiving(header: ContextHeader): header is LivingHeader {
  return header.status !== 'purged';
}

function pendingOf(context: string, header: ContextHeader): PendingContext {
  return {
    context,
    version: header.version,
    configRevision: header.configRevision,
    lastSeq: header.lastSeq,
    archivedSeq: header.archivedSeq,
    tailSize: header.lastSeq - header.trimmedSeq,
    windowTokens: header.window.tokens,
  };
}

function stateOf(header: LivingHeader, config: ContextConfig): ArchiveContext {
  return {
    status: header.status,
    version: header.version,
    configRevision: header.configRevision,
    lastSeq: header.lastSeq,
    tokenBudget: config.tokenBudget,
    triggerRatio: config.triggerRatio,
    policyText: policyText(config.policy),
    model: config.model,
    metadataText: config.metadataText,
    windowTokens: header.window.tokens,
    createdAtMs: header.createdAt,
    updatedAtMs: header.updatedAt,
  };
}
