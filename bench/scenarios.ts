/**
 * What is measured, as data. A load scenario is a set of axes; its points are all their combinations, and any axis can be
 * replaced from the command line. A probe is a procedure of its own.
 */
import type { ContextSet, Operation } from './load/job.ts';
import type { Route } from './subjects/types.ts';

export type OperationKind = 'append' | 'tail' | 'window' | 'mixed';

export interface Axes {
  readonly operation: readonly OperationKind[];
  readonly clients: readonly number[];
  readonly contexts: readonly number[];
  /** Messages in each context before the load. */
  readonly messagesEach: readonly number[];
  /** Characters of a message's text. */
  readonly messageBytes: readonly number[];
  readonly batch: readonly number[];
  /** Requests a second; null: as fast as they are answered. */
  readonly rate: readonly (number | null)[];
  readonly subscribers: readonly number[];
  readonly route: readonly Route[];
}

export type Point = { readonly [axis in keyof Axes]: Axes[axis][number] } & { readonly label: string };

export interface LoadScenario {
  readonly kind: 'load';
  readonly name: string;
  readonly title: string;
  /** Nodes of the product. */
  readonly nodes: number;
  readonly axes: Axes;
  /** Yardsticks of the same run, where they are installed. */
  readonly against: readonly string[];
  /** What grows from point to point: each is set against the smallest. */
  readonly grows: 'contexts' | 'messagesEach' | null;
}

export type ProbeName = 'idle' | 'restart' | 'trimming';

export interface ProbeScenario {
  readonly kind: 'probe';
  readonly name: ProbeName;
  readonly title: string;
}

export type Scenario = LoadScenario | ProbeScenario;

const BASE: Axes = {
  operation: ['append'],
  clients: [64],
  contexts: [1000],
  messagesEach: [0],
  messageBytes: [440],
  batch: [1],
  rate: [null],
  subscribers: [0],
  route: ['spread'],
};

interface Loaded {
  readonly title: string;
  readonly nodes?: number;
  readonly axes: Partial<Axes>;
  readonly against?: readonly string[];
  readonly grows?: 'contexts' | 'messagesEach';
}

function load(name: string, { title, nodes = 3, axes, against = [], grows }: Loaded): LoadScenario {
  return { kind: 'load', name, title, nodes, axes: { ...BASE, ...axes }, against, grows: grows ?? null };
}

export const SCENARIOS: readonly Scenario[] = [
  load('append', { title: 'Appends, clients spread over three nodes', axes: { clients: [1, 16, 64, 256] }, against: ['symmetric', 'bare', 'etcd', 'postgres'] }),
  load('append-one', { title: 'Appends to a single node', nodes: 1, axes: { clients: [1, 64, 256] } }),
  load('append-leader', { title: 'Appends sent to the leader of their context', axes: { clients: [1, 64, 256], route: ['spread', 'leader'] } }),
  load('sizes', { title: 'Appends by size of the message', axes: { messageBytes: [100, 1024, 4096, 16_384, 65_536] }, against: ['symmetric'] }),
  load('batches', { title: 'Appends of several messages at once', axes: { batch: [1, 10, 100] } }),
  load('contexts', { title: 'Appends by number of contexts', axes: { contexts: [1, 100, 10_000, 100_000] } }),
  load('open', { title: 'Appends at a fixed rate, latency from the moment each was due', axes: { clients: [256], rate: [500, 1000, 2000, 4000] } }),
  load('tail', { title: 'Reads of the newest 50 messages, one node', nodes: 1, axes: { operation: ['tail'], clients: [1, 64], messagesEach: [50] }, against: ['ready'] }),
  load('window', { title: 'Reads of the LLM window, one node', nodes: 1, axes: { operation: ['window'], contexts: [200], messagesEach: [50, 400] }, against: ['ready'] }),
  load('reads', { title: 'Reads from the leader and from a follower, three nodes', axes: { operation: ['tail', 'window'], messagesEach: [50], route: ['leader', 'follower', 'spread'] } }),
  load('mixed', { title: 'A fifth appends, the rest reads of tails and windows, three nodes', axes: { operation: ['mixed'], clients: [16, 64], messagesEach: [50] } }),
  load('fanout', { title: 'Streams: frames delivered by one node', nodes: 1, axes: { clients: [4], contexts: [10], subscribers: [100, 1000] } }),
  // Windows first: appends lengthen the contexts that they are read from.
  load('growth-messages', { title: 'Cost by messages in the context, one node', nodes: 1, grows: 'messagesEach', axes: { operation: ['window', 'append'], clients: [16], contexts: [1], messagesEach: [1000, 10_000, 100_000, 1_000_000] } }),
  load('growth-contexts', { title: 'Cost by number of contexts, one node', nodes: 1, grows: 'contexts', axes: { operation: ['window', 'append'], contexts: [1000, 10_000, 100_000, 1_000_000], messagesEach: [1] } }),
  { kind: 'probe', name: 'idle', title: 'Three nodes without any request' },
  { kind: 'probe', name: 'restart', title: 'Ready again after a stop' },
  { kind: 'probe', name: 'trimming', title: 'Appends at a fixed rate while what is archived is trimmed' },
];

/** Messages that a tail read asks for, and the share of appends in a mixed load. */
const TAIL_LIMIT = 50;
const APPEND_SHARE = 0.2;

/** All combinations, in the order of the axes; each is labelled by the axes that vary, or by its clients. */
export function pointsOf(axes: Axes): Point[] {
  let points: Omit<Point, 'label'>[] = [EMPTY];
  const spread = <K extends keyof Axes>(axis: K): void => {
    points = points.flatMap((point) => axes[axis].map((value) => ({ ...point, [axis]: value })));
  };
  for (const axis of AXES) spread(axis);
  const varying = AXES.filter((axis) => axes[axis].length > 1);
  return points.map((point) => ({ ...point, label: (varying.length === 0 ? (['clients'] as const) : varying).map((axis) => LABELS[axis](point)).join(', ') }));
}

export const AXES = ['operation', 'messagesEach', 'contexts', 'messageBytes', 'batch', 'subscribers', 'route', 'rate', 'clients'] as const satisfies readonly (keyof Axes)[];

const EMPTY: Omit<Point, 'label'> = { operation: 'append', clients: 0, contexts: 0, messagesEach: 0, messageBytes: 0, batch: 1, rate: null, subscribers: 0, route: 'spread' };

const grouped = (value: number): string => value.toLocaleString('en');
const counted = (value: number, one: string, many = `${one}s`): string => `${grouped(value)} ${value === 1 ? one : many}`;

const LABELS: Readonly<Record<keyof Axes, (point: Omit<Point, 'label'>) => string>> = {
  operation: ({ operation }) => operation,
  clients: ({ clients }) => counted(clients, 'client'),
  contexts: ({ contexts }) => counted(contexts, 'context'),
  messagesEach: ({ messagesEach }) => `${counted(messagesEach, 'message')} each`,
  messageBytes: ({ messageBytes }) => `${grouped(messageBytes)} B`,
  batch: ({ batch }) => `batches of ${batch}`,
  rate: ({ rate }) => (rate === null ? 'closed loop' : `${grouped(rate)}/s`),
  subscribers: ({ subscribers }) => counted(subscribers, 'stream'),
  route: ({ route }) => (route === 'spread' ? 'any node' : `the ${route}`),
};

/** Points with equal sets share their contexts within a run, so that they are filled once. */
export function contextSetOf({ contexts, messagesEach, messageBytes }: Point): ContextSet {
  return { prefix: messagesEach === 0 ? `bench-${contexts}` : `bench-${contexts}-${messagesEach}-${messageBytes}`, count: contexts };
}

export function operationOf({ operation, messageBytes, batch }: Point): Operation {
  switch (operation) {
    case 'append':
      return { kind: 'append', messageBytes, batch };
    case 'tail':
      return { kind: 'tail', limit: TAIL_LIMIT };
    case 'window':
      return { kind: 'window' };
    case 'mixed':
      return { kind: 'mixed', messageBytes, limit: TAIL_LIMIT, appendShare: APPEND_SHARE };
  }
}
