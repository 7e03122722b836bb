/**
 * GET /v1/contexts: pages of contexts in id order, over all groups, wherever their replicas are. Owns the cursor, the
 * merge and its bounds; what a context looks like is render.ts.
 *
 * Ids are spread over all groups by their hash, so a page costs a barrier and a seek in each of them: some 256 seeks
 * whatever its size, and two reads more for each context shown. Groups are read in small pieces that are refilled only
 * where the merge runs into their end, so that a page never reads `limit` rows of every group.
 *
 * Why nothing is skipped or repeated: a page goes on behind the last id of the one before, by id alone, and an id never
 * leaves its place. Each group is read after its barrier; groups are not read at one common instant.
 */
import { groupOf } from '../cluster/placement.ts';
import { RequestKind, type PeerNetwork } from '../cluster/ports.ts';
import { GROUP_COUNT } from '../constants.ts';
import { needsCompaction } from '../contexts/policies.ts';
import { decodeConfig, decodeHeader } from '../contexts/rows.ts';
import type { ContextStatus, HeaderStatus } from '../contexts/types.ts';
import { ApiError } from '../errors.ts';
import type { Consistency, ListingApi, ListQuery } from '../http/ports.ts';
import { decodeListAnswer, decodeListRequest, encodeListAnswer, type ListPage, type ListRequest } from './wire.ts';
import { readCursor, writeCursor } from './cursor.ts';
import { compareIds, IdHeap, type IdRun } from './merge.ts';
import { renderContext } from '../render.ts';
import { DamageError } from '../storage/checksum.ts';

/** Headers looked at for one page: a filter that matches little ends a page early, and the cursor goes on from there. */
const SCAN_ROWS_MAX = 10_000;
/** A page ends early before its contexts pass this many bytes (metadata can be 64 KiB each). */
const PAGE_BYTES_MAX = 8 * 1024 * 1024;
/** Groups read at a time: enough to keep a disk busy, few enough to leave threads to the writer. */
const GROUPS_AT_ONCE = 8;
/** Rows of one refill of one group, at most. */
const REFILL_ROWS_MAX = 64;
/** Pages made at a time on this node, for clients and for other nodes; beyond it the answer is `overloaded`. */
const PAGES_AT_ONCE_MAX = 16;
/** Contexts rendered before others get their turn. */
const RENDER_ROWS = 64;

export interface ListingOptions {
  /** Rows of the groups hosted here (src/storage), current to the last applied entry. */
  readonly rows: {
    contexts(group: number, range: { after?: string; prefix?: string; limit: number }): Promise<readonly { readonly context: string; readonly header: Uint8Array }[]>;
    get(group: number, table: 'header' | 'config', context: string, key: ''): Uint8Array | undefined;
  };
  readonly router: { hosts(group: number): boolean; hostsOf(group: number): readonly string[]; barrier(group: number, waitMs: number): Promise<boolean> };
  readonly network: Pick<PeerNetwork, 'request'>;
  readonly timeoutMs: number;
}

export class Listing implements ListingApi {
  private readonly options: ListingOptions;
  private underWay = 0;

  constructor(options: ListingOptions) {
    this.options = options;
  }

  /**
   * The body `{"contexts":[…],"next_cursor":…}`. Throws ApiError invalid_request for a cursor that is none of this
   * query's, overloaded, raft_unavailable when a group cannot be read.
   */
  async page(query: ListQuery, consistency: Consistency): Promise<Buffer> {
    const { limit, prefix, status } = query;
    const after = query.cursor === null ? null : readCursor(query.cursor, prefix, status);
    const wanted = { after, prefix, status, limit, consistency };
    const pages = await this.pagesOf(ALL_GROUPS, wanted, performance.now() + this.options.timeoutMs);
    const { contexts, through } = joined(pages, limit);
    const body: Uint8Array[] = [Buffer.from('{"contexts":[')];
    contexts.forEach((context, i) => body.push(i === 0 ? context : Buffer.concat([COMMA, context])));
    body.push(Buffer.from(`],"next_cursor":${through === null ? 'null' : JSON.stringify(writeCursor(through, prefix, status))}}`));
    return Buffer.concat(body);
  }

  /** Answers RequestKind.list of another node. */
  answer(request: Uint8Array): Promise<Uint8Array> {
    return this.answered(request, (groups, wanted, deadline) => this.pageHere(groups, wanted, deadline));
  }

  /** The same for another shard of this node, which speaks for a client: groups hosted elsewhere are asked there. */
  answerSibling(request: Uint8Array): Promise<Uint8Array> {
    return this.answered(request, async (groups, wanted, deadline) => joined(await this.pagesOf(groups, wanted, deadline), wanted.limit));
  }

  private async answered(request: Uint8Array, page: (groups: readonly number[], wanted: Wanted, deadline: number) => Promise<ListPage>): Promise<Uint8Array> {
    const { groups, waitMs, ...wanted } = decodeListRequest(request);
    try {
      return encodeListAnswer(await page(groups, wanted, performance.now() + Math.min(waitMs, this.options.timeoutMs)));
    } catch (error) {
      if (error instanceof ApiError) return encodeListAnswer(error);
      throw error;
    }
  }

  /** Pages that together cover the groups: one of this node's own, and one of each node asked for the others. */
  private async pagesOf(groups: readonly number[], wanted: Wanted, deadline: number): Promise<readonly ListPage[]> {
    const { router } = this.options;
    const here: number[] = [];
    const elsewhere: number[] = [];
    for (const group of groups) (router.hosts(group) ? here : elsewhere).push(group);
    const asked: Promise<readonly ListPage[]>[] = [];
    if (here.length > 0) asked.push(this.pageOfOwn(here, wanted, deadline));
    if (elsewhere.length > 0) asked.push(this.pagesElsewhere(elsewhere, wanted, deadline));
    return (await Promise.all(asked)).flat();
  }

  /** A replica that leaves or is found damaged meanwhile is no longer hosted here, so its group is asked elsewhere. */
  private async pageOfOwn(groups: readonly number[], wanted: Wanted, deadline: number): Promise<readonly ListPage[]> {
    try {
      return [await this.pageHere(groups, wanted, deadline)];
    } catch (error) {
      const lost = groups.filter((group) => !this.options.router.hosts(group));
      if (lost.length === 0 || !(error instanceof ApiError) || error.code !== 'raft_unavailable') throw error;
      const kept = groups.filter((group) => !lost.includes(group));
      const again = kept.length === 0 ? [] : await this.pageOfOwn(kept, wanted, deadline);
      return again.concat(await this.pagesElsewhere(lost, wanted, deadline));
    }
  }

  /** A node that does not answer, or cannot for one of the groups, has all it was asked for asked elsewhere. */
  private async pagesElsewhere(groups: readonly number[], wanted: Wanted, deadline: number): Promise<readonly ListPage[]> {
    const pages: ListPage[] = [];
    const silent = new Set<string>();
    let left = groups;
    while (left.length > 0) {
      const byNode = new Map<string, number[]>();
      // Half of what is left, so that a node that hangs leaves time for the next.
      const waitMs = Math.floor((deadline - performance.now()) / 2);
      for (const group of left) {
        const node = this.options.router.hostsOf(group).find((host) => !silent.has(host));
        if (node === undefined || waitMs <= 0) throw unreachable(group);
        const list = byNode.get(node);
        if (list === undefined) byNode.set(node, [group]);
        else list.push(group);
      }
      const answers = await Promise.all([...byNode].map(async ([node, list]) => ({ node, list, page: await this.ask(node, { ...wanted, groups: list, waitMs }) })));
      left = [];
      for (const { node, list, page } of answers) {
        if (page !== null) pages.push(page);
        else {
          silent.add(node);
          left = left.concat(list);
        }
      }
    }
    return pages;
  }

  /** Null: not from there. */
  private async ask(node: string, request: ListRequest): Promise<ListPage | null> {
    const answer = await new Promise<Uint8Array | null>((resolve) => {
      const body = Buffer.from(JSON.stringify(request));
      this.options.network.request(node, RequestKind.list, body, request.waitMs, (failure, answer) => resolve(failure === null ? answer : null));
    });
    if (answer === null || answer.length === 0) return null;
    const page = decodeListAnswer(answer);
    if (!(page instanceof ApiError)) return page;
    if (page.code === 'raft_unavailable') return null;
    throw page;
  }

  /** A page over groups that are all hosted here. Throws ApiError raft_unavailable if one of them no longer is. */
  private async pageHere(groups: readonly number[], wanted: Wanted, deadline: number): Promise<ListPage> {
    if (this.underWay >= PAGES_AT_ONCE_MAX) throw new ApiError('overloaded', `${PAGES_AT_ONCE_MAX} listings are being made on this node. Slow down and retry.`);
    this.underWay++;
    try {
      const { router } = this.options;
      if (wanted.consistency === 'linearizable') {
        // All barriers in one turn: the link and the host make one round of them.
        const waitMs = Math.max(1, deadline - performance.now());
        await Promise.all(groups.map(async (group) => {
          if (!(await router.barrier(group, waitMs))) throw unreachable(group);
        }));
      }
      for (const group of groups) if (!router.hosts(group)) throw unreachable(group);
      const { ids, through } = await this.scan(groups, wanted);
      return await this.rendered(ids, through, wanted.status);
    } catch (error) {
      // Found just now, by this very read: the replica is out already.
      if (error instanceof DamageError) throw unreachable(error.group);
      throw error;
    } finally {
      this.underWay--;
    }
  }

  /** The first `limit` matching ids behind `after`; `through`: how far was looked, null for to the end. */
  private async scan(groups: readonly number[], wanted: Wanted): Promise<{ ids: string[]; through: string | null }> {
    const { status, limit } = wanted;
    const rows = Math.min(REFILL_ROWS_MAX, Math.ceil((limit * 1.5) / groups.length) + 2);
    const runs = groups.map((group): Run => ({ group, after: wanted.after, ids: [], statuses: [], at: 0, rows, isEnded: false }));
    await inTurns(runs, GROUPS_AT_ONCE, (run) => this.refill(run, wanted.prefix));
    const heap = new IdHeap<Run>(runs.filter((run) => run.ids.length > 0));
    const ids: string[] = [];
    let through: string | null = null;
    for (let seen = 0; ; seen++) {
      const run = heap.first;
      if (run === undefined) return { ids, through: null };
      if (ids.length === limit || seen === SCAN_ROWS_MAX) return { ids, through };
      const id = run.ids[run.at] ?? '';
      const found = run.statuses[run.at];
      if (status === null ? found !== 'purged' : found === status) ids.push(id);
      through = id;
      run.at++;
      if (run.at === run.ids.length && !run.isEnded) await this.refill(run, wanted.prefix);
      heap.moved();
    }
  }

  private async refill(run: Run, prefix: string): Promise<void> {
    const limit = run.rows;
    // Where refills are needed, many are: the filter matches little, or this group has most of the page.
    run.rows = Math.min(REFILL_ROWS_MAX, limit * 4);
    const found = await this.options.rows.contexts(run.group, { ...(run.after === null ? {} : { after: run.after }), prefix, limit });
    run.ids = found.map((row) => row.context);
    run.statuses = found.map((row) => statusOf(row.header));
    run.at = 0;
    run.isEnded = found.length < limit;
    run.after = found.at(-1)?.context ?? run.after;
  }

  /** Header and config are read in one turn, so that each context is shown as it was at one moment. */
  private async rendered(ids: readonly string[], through: string | null, status: ContextStatus | null): Promise<ListPage> {
    const shown: string[] = [];
    const contexts: Buffer[] = [];
    let bytes = 0;
    for (const [i, id] of ids.entries()) {
      if (i % RENDER_ROWS === RENDER_ROWS - 1) await new Promise<void>((resolve) => setImmediate(resolve));
      const context = this.render(id, status);
      if (context === null) continue;
      bytes += context.length;
      if (bytes > PAGE_BYTES_MAX && contexts.length > 0) return { ids: shown, contexts, through: shown.at(-1) ?? null };
      shown.push(id);
      contexts.push(context);
    }
    return { ids: shown, contexts, through };
  }

  /** Null when it no longer is what was asked for. */
  private render(id: string, status: ContextStatus | null): Buffer | null {
    const group = groupOf(id);
    const headerRow = this.options.rows.get(group, 'header', id, '');
    const configRow = this.options.rows.get(group, 'config', id, '');
    if (headerRow === undefined || configRow === undefined) return null;
    const header = decodeHeader(headerRow);
    const config = decodeConfig(configRow);
    // They passed their checksums, so this program wrote them: serving on would hide a bug.
    if (header === null || config === null) throw new Error('a header or config row does not decode');
    if (status !== null && header.status !== status) return null;
    return renderContext(id, config, header, needsCompaction(config, header.window.tokens, header.calibration));
  }
}

type Wanted = Omit<ListRequest, 'groups' | 'waitMs'>;

interface Run extends IdRun {
  readonly group: number;
  after: string | null;
  ids: string[];
  statuses: HeaderStatus[];
  /** Of the next refill. */
  rows: number;
  isEnded: boolean;
}

const COMMA = Buffer.from(',');
const ALL_GROUPS: readonly number[] = Array.from({ length: GROUP_COUNT }, (_, group) => group);

function unreachable(group: number | null): ApiError {
  return new ApiError('raft_unavailable', `Raft group ${group ?? 'unknown'} cannot be read from here. Retry.`);
}

function statusOf(row: Uint8Array): HeaderStatus {
  const header = decodeHeader(row);
  if (header === null) throw new Error('a header row does not decode');
  return header.status;
}

/** Pages over disjoint groups as one; `through` null: that was all. A page is known only up to where it was looked. */
function joined(pages: readonly ListPage[], limit: number): ListPage {
  let horizon: string | null = null;
  for (const { through } of pages) if (through !== null && (horizon === null || compareIds(through, horizon) < 0)) horizon = through;
  const heap = new IdHeap(pages.filter((page) => page.ids.length > 0).map(({ ids, contexts }) => ({ ids, contexts, at: 0 })));
  const ids: string[] = [];
  const contexts: Buffer[] = [];
  let bytes = 0;
  for (;;) {
    const run = heap.first;
    const id = run?.ids[run.at];
    const context = run?.contexts[run.at];
    if (run === undefined || id === undefined || context === undefined || (horizon !== null && compareIds(id, horizon) > 0)) return { ids, contexts, through: horizon };
    bytes += context.length;
    if (contexts.length === limit || (bytes > PAGE_BYTES_MAX && contexts.length > 0)) return { ids, contexts, through: ids.at(-1) ?? null };
    contexts.push(context);
    ids.push(id);
    run.at++;
    heap.moved();
  }
}

/** Runs `work` over `items`, at most `atOnce` at a time; the first failure stops the rest. */
async function inTurns<T>(items: readonly T[], atOnce: number, work: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let item = items[next++]; item !== undefined; item = items[next++]) await work(item);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, lane));
}
