/**
 * Calls about the node as a whole, answered by whichever shard is asked: readiness, metrics, the cluster's shape. Each
 * shard is asked for its part and the parts are made one answer. Owns the questions between shards and how their answers
 * add up.
 */
import { AggregatorRegistry, type MetricObject } from 'prom-client';
import type { NodeDescription, ClusterDescription } from '../cluster/describe.ts';
import { ApiError, ERROR_STATUS, type ErrorCode, type ErrorFields } from '../errors.ts';
import type { ClusterApi, Readiness } from '../http/ports.ts';
import { shardOf } from '../cluster/seat.ts';
import type { Shard } from './shard.ts';
import { GROUP_COUNT } from '../constants.ts';
import { mergeMetrics } from './metrics.ts';

/** A sibling that is silent for this long is not well; probes and scrapers wait no longer. */
const ASK_MS = 3000;
/** Drains and removals are commits in each shard's table. */
const CHANGE_MS = 15_000;

/** What this shard's node answers for itself. */
export interface ShardParts {
  ready(): Readiness;
  metrics(): Promise<readonly MetricObject[]>;
  /** Under which cluster's id the archive has this shard's conversations; null while it belongs to none. */
  archivedAs(): string | null;
  readonly cluster: ClusterApi;
}

/** The tag of such questions among the kinds of requests (RequestKind). */
export const ASK_TAG = 64;

type Question =
  | { readonly ask: 'ready' | 'metrics' | 'describe' | 'archived_as' }
  | { readonly ask: 'drain'; readonly node: string; readonly drain: boolean }
  | { readonly ask: 'remove'; readonly node: string }
  | { readonly ask: 'transfer'; readonly group: number; readonly to: string };

type Answer = { readonly value: unknown } | { readonly error: { readonly code: ErrorCode; readonly message: string; readonly fields: ErrorFields; readonly retryAfterSeconds: number | null } };

export class NodeCalls implements ClusterApi {
  private readonly shard: Shard;
  private readonly own: ShardParts;

  constructor(shard: Shard, own: ShardParts) {
    this.shard = shard;
    this.own = own;
  }

  /** Answers a sibling's question. */
  answer(body: Uint8Array, reply: (answer: Uint8Array) => void): void {
    const send = (answer: Answer): void => reply(Buffer.from(JSON.stringify(answer)));
    this.answered(question(body)).then(
      (value) => send({ value: value ?? null }),
      (error: unknown) => {
        const known = error instanceof ApiError ? error : new ApiError('internal', error instanceof Error ? error.message : String(error));
        send({ error: { code: known.code, message: known.message, fields: known.fields, retryAfterSeconds: known.retryAfterSeconds } });
      },
    );
  }

  /** Ready when every shard is; otherwise the first that is not says why. */
  async ready(): Promise<Readiness> {
    const found = await this.all(async (index) => {
      try {
        return index === this.shard.index ? this.own.ready() : readinessOf(await this.ask(index, { ask: 'ready' }, ASK_MS));
      } catch (error) {
        return { ready: false, status: 'starting', reason: error instanceof Error ? error.message : String(error) };
      }
    });
    const index = found.findIndex(({ ready }) => !ready);
    const first = found[index];
    if (first === undefined) return { ready: true, status: 'ready', reason: null };
    return { ...first, reason: `shard ${index}: ${first.reason ?? first.status}` };
  }

  /** The text that is scraped: of all shards as of one node. */
  async metrics(): Promise<string> {
    const parts = await this.all(async (index) => (index === this.shard.index ? await this.own.metrics() : await this.ask(index, { ask: 'metrics' }, ASK_MS)));
    return AggregatorRegistry.aggregate(parts.map(mergeMetrics)).metrics();
  }

  /** Under which cluster's id the archive has this node's conversations: its first shard's. Waits until there is one. */
  async archivedAs(): Promise<string> {
    for (;;) {
      const id = this.shard.index === 0 ? this.own.archivedAs() : await this.ask(0, { ask: 'archived_as' }, ASK_MS).catch(() => null);
      if (typeof id === 'string') return id;
      await new Promise((resolve) => setTimeout(resolve, 100).unref());
    }
  }

  async describe(): Promise<ClusterDescription> {
    return merged(await this.all(async (index) => descriptionOf(index === this.shard.index ? await this.own.cluster.describe() : await this.ask(index, { ask: 'describe' }, ASK_MS))));
  }

  async drain(node: string, drain: boolean): Promise<void> {
    try {
      await this.onAll({ ask: 'drain', node, drain });
    } catch (error) {
      // All or none: a shard that refuses a drain would keep the node from ever being empty.
      if (drain) await this.onAll({ ask: 'drain', node, drain: false }).catch(() => undefined);
      throw error;
    }
  }

  /** A shard that has removed the node already does not know it any more; so a call that failed halfway can be repeated. */
  async remove(node: string): Promise<void> {
    await this.onAll({ ask: 'remove', node });
  }

  async transfer(group: number, to: string): Promise<void> {
    await this.change(group < GROUP_COUNT ? shardOf(group, this.shard.count) : 0, { ask: 'transfer', group, to });
  }

  /** Every shard is asked; throws what speaks against it, or not_found where all say so. */
  private async onAll(asked: Question): Promise<void> {
    const failures = (await Promise.allSettled(Array.from({ length: this.shard.count }, (_, index) => this.change(index, asked)))).flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    const isUnknown = (error: unknown): boolean => error instanceof ApiError && error.code === 'not_found';
    const worst = failures.find((error) => !isUnknown(error)) ?? (failures.length === this.shard.count ? failures[0] : undefined);
    if (worst !== undefined) throw worst;
  }

  private async change(index: number, asked: Question): Promise<void> {
    if (index === this.shard.index) await this.answered(asked);
    else await this.ask(index, asked, CHANGE_MS);
  }

  private async answered(asked: Question): Promise<unknown> {
    switch (asked.ask) {
      case 'ready':
        return this.own.ready();
      case 'metrics':
        return this.own.metrics();
      case 'archived_as':
        return this.own.archivedAs();
      case 'describe':
        return this.own.cluster.describe();
      case 'drain':
        return this.own.cluster.drain(asked.node, asked.drain);
      case 'remove':
        return this.own.cluster.remove(asked.node);
      case 'transfer':
        return this.own.cluster.transfer(asked.group, asked.to);
    }
  }

  private all<T>(of: (index: number) => Promise<T>): Promise<T[]> {
    return Promise.all(Array.from({ length: this.shard.count }, (_, index) => of(index)));
  }

  /** Throws ApiError: the sibling's, or raft_unavailable when it does not answer. */
  private ask(index: number, asked: Question, timeoutMs: number): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.shard.siblings.request(index, ASK_TAG, Buffer.from(JSON.stringify(asked)), timeoutMs, (failure, bytes) => {
        if (failure !== null || bytes === null) return reject(new ApiError('raft_unavailable', `Shard ${index} of this node does not answer (yet). Retry.`));
        const answer = answerOf(bytes);
        if ('error' in answer) reject(new ApiError(answer.error.code, answer.error.message, answer.error.fields, answer.error.retryAfterSeconds ?? undefined));
        else resolve(answer.value);
      });
    });
  }
}

/** Worst first: what a node is, is what its worst shard is; a drained one is drained in all of them. */
const STATES: readonly NodeDescription['state'][] = ['unreachable', 'removed', 'draining', 'drained', 'active'];

/** Descriptions by the shards of one node, by index, as one of a cluster that is not divided. */
export function merged(parts: readonly ClusterDescription[]): ClusterDescription {
  const first = parts[0];
  if (first === undefined) throw new RangeError('no shard');
  const groups = first.groups.map((group) => (group.id < GROUP_COUNT ? (parts[shardOf(group.id, parts.length)]?.groups[group.id] ?? group) : group));
  const known = new Map<string, NodeDescription[]>();
  for (const part of parts) for (const node of part.nodes) known.set(node.id, [...(known.get(node.id) ?? []), node]);
  const said = <T>(of: (part: ClusterDescription) => readonly T[]): T[] => parts.flatMap(of);
  return {
    ...first,
    nodes: [...known.values()].flatMap((views) => {
      const worst = views.toSorted((a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state))[0];
      if (worst === undefined) return [];
      return [{ ...worst, groups: groups.filter(({ replicas }) => replicas.includes(worst.id)).length, leaders: groups.filter(({ leader }) => leader === worst.id).length }];
    }),
    groups,
    moves: said(({ moves }) => moves),
    damaged: said(({ damaged }) => damaged),
    waiting: [...new Set(said(({ waiting }) => waiting))],
  };
}

// What comes from a sibling was written by this very program a moment ago: its shape is looked at only as far as the
// types need it.

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function question(body: Uint8Array): Question {
  const value: unknown = JSON.parse(Buffer.from(body).toString());
  if (!isQuestion(value)) throw new RangeError('a sibling asks in another form');
  return value;
}

function isQuestion(value: unknown): value is Question {
  return isObject(value) && typeof value['ask'] === 'string';
}

function answerOf(bytes: Uint8Array): Answer {
  const value: unknown = JSON.parse(Buffer.from(bytes).toString());
  if (!isAnswer(value)) throw new RangeError('a sibling answers in another form');
  return value;
}

function isAnswer(value: unknown): value is Answer {
  if (!isObject(value)) return false;
  const error = value['error'];
  return 'value' in value || (isObject(error) && typeof error['code'] === 'string' && Object.hasOwn(ERROR_STATUS, error['code']));
}

function readinessOf(value: unknown): Readiness {
  if (!isObject(value)) throw new RangeError('a sibling answers in another form');
  return { ready: value['ready'] === true, status: String(value['status']), reason: value['reason'] === null ? null : String(value['reason']) };
}

function descriptionOf(value: unknown): ClusterDescription {
  if (!isDescription(value)) throw new RangeError('a sibling answers in another form');
  return value;
}

function isDescription(value: unknown): value is ClusterDescription {
  return isObject(value) && Array.isArray(value['nodes']) && Array.isArray(value['groups']);
}
