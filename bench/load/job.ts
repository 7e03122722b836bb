/** What the runner asks of the load generator's process and what it gets back, as IPC messages. */
import type { NodeMetrics } from '../measure/prometheus.ts';
import type { Percentiles } from './latencies.ts';
import type { Target } from './connection.ts';

/** The calls that a load consists of. `appendShare` of mixed: 0 to 1, the rest are tail and window reads in turn. */
export type Operation =
  | { readonly kind: 'append'; readonly messageBytes: number; readonly batch: number }
  | { readonly kind: 'tail'; readonly limit: number }
  | { readonly kind: 'window' }
  | { readonly kind: 'mixed'; readonly messageBytes: number; readonly limit: number; readonly appendShare: number }
  /** etcd's put through its HTTP gateway: one new key for each message. */
  | { readonly kind: 'put'; readonly messageBytes: number };

export interface Endpoint extends Target {
  /** Numbers of the contexts that are asked for here; null: every one. */
  readonly contexts: readonly number[] | null;
}

/** A set of contexts, named `${prefix}-0` … `${prefix}-${count - 1}`. */
export interface ContextSet {
  readonly prefix: string;
  readonly count: number;
}

export interface LoadJob {
  readonly kind: 'load';
  /** Clients take them in turn. */
  readonly endpoints: readonly Endpoint[];
  readonly contexts: ContextSet;
  readonly operation: Operation;
  readonly clients: number;
  /** Requests a second that are due whether or not earlier ones were answered; null: each client waits for its answer. */
  readonly rate: number | null;
  /** Streams open on the contexts meanwhile. */
  readonly subscribers: number;
  readonly warmupSeconds: number;
  readonly seconds: number;
  /** Server processes to account for. */
  readonly pids: readonly number[];
  /** Nodes to scrape at both ends of the window. */
  readonly metricsUrls: readonly string[];
  /** On the disk whose flushes are counted. */
  readonly directory: string;
}

/** Creates a set of contexts with some messages in each. */
export interface PrepareJob {
  readonly kind: 'prepare';
  readonly endpoints: readonly Endpoint[];
  readonly contexts: ContextSet;
  readonly messagesEach: number;
  readonly messageBytes: number;
  /** Body of each PUT. */
  readonly settings: string;
}

export type Job = LoadJob | PrepareJob;

/** Sent after a load job: its window ends now, however long it was to be. */
export interface Over {
  readonly kind: 'over';
}

export interface LoadResult {
  readonly seconds: number;
  /** Answered with success within the window. */
  readonly requests: number;
  /** Messages appended by them; requests where the operation reads. */
  readonly units: number;
  readonly answerBytes: number;
  readonly latency: Percentiles | null;
  /** How late requests were sent against their time, by the generator itself; open loop only. */
  readonly sendDelay: Percentiles | null;
  /** Requests whose time had come but that were not answered when the run was given up; open loop only. */
  readonly unanswered: number;
  readonly errors: number;
  readonly errorKinds: Readonly<Record<string, number>>;
  /** Message frames that subscribers were delivered, and how long after the append was sent. */
  readonly frames: number;
  readonly frameLatency: Percentiles | null;
  readonly serverCpuSeconds: number | null;
  readonly generatorCpuSeconds: number;
  /** Everything else on the machine, kernel threads included. */
  readonly otherCpuSeconds: number | null;
  readonly serverWrittenBytes: number | null;
  readonly serverResidentBytes: number | null;
  readonly diskFlushes: number | null;
  readonly nodes: NodeDelta | null;
}

/** What the nodes' own metrics say of the window. Appends are counted by the nodes, so that both belong to one span. */
export interface NodeDelta {
  readonly syncs: number;
  readonly syncMsEach: number;
  readonly appended: number;
  readonly loopLagMaxMs: number;
  readonly loopLagP99Ms: number;
}

export function deltaOf(before: readonly NodeMetrics[], after: readonly NodeMetrics[]): NodeDelta | null {
  if (after.length === 0) return null;
  const sum = (list: readonly NodeMetrics[], field: keyof NodeMetrics): number => list.reduce((total, node) => total + node[field], 0);
  const grown = (field: keyof NodeMetrics): number => sum(after, field) - sum(before, field);
  return {
    syncs: grown('syncs'),
    syncMsEach: grown('syncs') === 0 ? 0 : grown('syncMs') / grown('syncs'),
    appended: grown('appended'),
    loopLagMaxMs: Math.max(...after.map((node) => node.loopLagMaxMs)),
    loopLagP99Ms: Math.max(...after.map((node) => node.loopLagP99Ms)),
  };
}

export type Report =
  | { readonly kind: 'progress'; readonly done: number; readonly total: number }
  | { readonly kind: 'prepared' }
  | { readonly kind: 'result'; readonly result: LoadResult }
  | { readonly kind: 'failed'; readonly reason: string };
