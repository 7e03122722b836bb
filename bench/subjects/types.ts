/** What can be measured: something that takes appends over HTTP and says what its acknowledgement means. */
import type { ContextSet, Endpoint } from '../load/job.ts';

export interface SubjectOptions {
  /** Nodes of the product; the yardsticks have the number that their promise takes. */
  readonly nodes: number;
  /** Environment of the product's nodes beyond the defaults. */
  readonly env: Readonly<Record<string, string>>;
  /** An empty directory, removed afterwards. */
  readonly directory: string;
  /** Where nodes leave CPU profiles when they stop; null: none are taken. */
  readonly profileDirectory: string | null;
}

/** Which node a request goes to: any, the leader of its context's group, or one that only follows. */
export type Route = 'spread' | 'leader' | 'follower';

export interface RunningSubject {
  readonly version: string;
  readonly urls: readonly string[];
  /** Its processes as they are now. */
  pids(): readonly number[];
  readonly metricsUrls: readonly string[];
  /** Endpoints for a set of contexts; null where it cannot route that way. */
  endpoints(contexts: ContextSet, route: Route): Promise<readonly Endpoint[] | null>;
  /** Stops by `signal` and starts again over the same data, with `env` besides; milliseconds until it is ready. null where it cannot. */
  readonly restart: ((signal: NodeJS.Signals, env?: Readonly<Record<string, string>>) => Promise<number>) | null;
  stop(): Promise<void>;
}

export interface Subject {
  readonly name: string;
  /** What is true of a message when its append is answered. */
  readonly acknowledges: string;
  /** The whole contract; creating contexts and appending; the same to be read afterwards; or etcd's puts. */
  readonly speaks: 'everything' | 'appends' | 'reads' | 'puts';
  /** null where its programs are not installed. */
  start(options: SubjectOptions): Promise<RunningSubject | null>;
}

export function endpointOf(url: string, contexts: readonly number[] | null = null): Endpoint {
  const { hostname, port } = new URL(url);
  return { host: hostname, port: Number(port || 80), contexts };
}
