/**
 * Founding: once, in two phases, decides who the first members of a cluster are. The lowest name proposes a record of
 * exactly `clusterSize` members; each member makes one promise for ever, synced before it is given; with every promise
 * in hand the proposer commits, and everyone else commits when it learns so.
 *
 * Why there is never a second cluster with the same nodes: a record commits only with a promise of each of its members,
 * and no member ever promises two records. Where promises conflict founding waits and says for whom. Absence of answers
 * never counts as anything. A node without a promise that meets a founded cluster never founds in its life: it joins.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import type { PeerKeys } from './auth.ts';
import { Discovery, HELLO_PATH } from './discovery.ts';
import {
  DocumentError,
  compareNames,
  decodeFoundingRecord,
  decodeNodeHello,
  encodeDocument,
  objectAt,
  parseDocument,
  publicRecord,
  recordDigest,
  seatProblem,
  textAt,
} from './hello.ts';
import type { NodeHello, PublicRecord } from './hello.ts';
import { readFounded, writeFounded } from './identity.ts';
import { decodeAdmission, decodeJoinRequest, JOIN_PATH, writeTable } from './joining.ts';
import type { Admission, JoinRequest } from './joining.ts';
import type { PeerLog } from './links.ts';
import type { FoundingRecord, NodeFacts, NodeIdentity, PeerTlsSource } from './ports.ts';
import { readInheritance } from './rebirth.ts';
import type { Inheritance } from './rebirth.ts';
import { dialedAt, WHOLE, type Seat } from './seat.ts';

const PROMISE_PATH = '/_peer/founding/promise';
const COMMIT_PATH = '/_peer/founding/commit';
export const PROMISE_FACT = 'founding/promise';
/** Between two tries to join. */
const JOIN_MS = 500;

/**
 * `refused`: the cluster knows this name with another data directory, or a founded cluster does not know our key.
 * `joiner`: the cluster that is there was founded without this data directory, which asks to join it.
 */
export type FoundingState = 'founding' | 'founded' | 'refused' | 'joiner';

export interface FoundingOptions {
  readonly facts: NodeFacts;
  readonly identity: NodeIdentity;
  /** host:port at which peers reach this node. */
  readonly address: string;
  /** Exact number of founding members. 1: founds at once, without a network. */
  readonly clusterSize: number;
  /** Absent: not divided. */
  readonly seat?: Seat;
  readonly seeds: readonly string[];
  readonly keys: PeerKeys;
  readonly tls: PeerTlsSource | null;
  readonly log: PeerLog;
  /** Called once, after the record is synced; during `open` when it was founded before. */
  readonly onFounded: (record: FoundingRecord) => void;
  /** Decides about a node with an empty disk that wants to join this cluster. */
  readonly admit: (request: JoinRequest) => Promise<RouteAnswer>;
  /** This directory was a member once and has forgotten it: it must become a new one before it may take part again. */
  readonly onForgotten: (by: string, reason: string) => void;
  /** A fact could not be written: the process must stop. */
  readonly fatal: (error: Error) => void;
}

/** A route of the node's HTTP port, outside the public API. All are POST with a JSON body. */
export interface PeerRoute {
  readonly method: 'POST';
  readonly path: string;
  handler(body: unknown, headers: Readonly<Record<string, string | readonly string[] | undefined>>): Promise<RouteAnswer>;
}

export interface RouteAnswer {
  readonly status: number;
  readonly body: object;
}

export class Founding {
  readonly #options: FoundingOptions;
  readonly discovery: Discovery;
  #state: FoundingState = 'founding';
  readonly #inheritance: Inheritance | null;
  #record: FoundingRecord | null = null;
  #promise: FoundingRecord | null = null;
  /** Why it can never found; set once. */
  #blocked: string | null = null;
  /** Why it is not admitted to the cluster that it asked to join; null before the first answer. */
  #notAdmitted: string | null = null;
  #askedToJoinAtMs = Number.NEGATIVE_INFINITY;
  /** Members that promised the own proposal; not kept on disk, asking again is harmless. */
  readonly #promisedBy = new Set<string>();
  readonly #pending = new Map<string, string>();
  /** Writes of the promise and the record happen one after another. */
  #last: Promise<unknown> = Promise.resolve();
  #stepping = false;
  #stepAgain = false;
  #closed = false;

  constructor(options: FoundingOptions) {
    this.#options = options;
    this.#inheritance = readInheritance(options.facts);
    this.discovery = new Discovery({
      seeds: [...new Set([...options.seeds, ...(this.#inheritance?.addresses ?? [])])],
      self: () => this.hello(),
      storeId: options.identity.storeId,
      keys: options.keys,
      tls: options.tls,
      dialedAt: (address) => dialedAt(options.seat ?? WHOLE, address),
      onChange: () => this.#wake(),
    });
  }

  /**
   * Takes up what the disk says. Resolves at once; founding goes on until `onFounded`. Rejects when a stored record is
   * damaged, or when a node that founds alone cannot write.
   */
  async open(): Promise<void> {
    const { facts, keys, clusterSize, log } = this.#options;
    const promise = facts.get(PROMISE_FACT);
    if (promise !== undefined) this.#keepPromise(decodeFoundingRecord(parseDocument(promise, PROMISE_FACT)));
    const founded = readFounded(facts);
    if (founded !== null) this.#becomeFounded(founded);
    else if (this.#inheritance !== null) this.#takeUp(this.#inheritance);
    else if (clusterSize === 1 && this.#promise === null) await this.#commit(this.#mint([]));
    else if (keys.openFounding) {
      log.warn({}, 'founding is open: without FASTPACA_CLUSTER_SECRET or FASTPACA_API_KEY any node that reaches this one can take part');
    }
    if (this.#options.seeds.length > 0 || this.#inheritance !== null || this.#record === null || this.#record.members.length > 1) this.discovery.open();
  }

  /** A member was here before, and its cluster is somewhere: this store founds nothing, whoever answers or is silent. */
  #takeUp({ mintedKey, reason }: Inheritance): void {
    if (mintedKey !== '') this.#options.keys.promised(mintedKey);
    this.#state = 'joiner';
    this.#notAdmitted = `the former data of this node was set aside, and it looks for its cluster to join it anew (${reason})`;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.discovery.close();
  }

  get state(): FoundingState {
    return this.#state;
  }

  /** The committed record, or null. */
  get record(): FoundingRecord | null {
    return this.#record;
  }

  /** What this node says about itself. */
  hello(): NodeHello {
    const { identity, address, clusterSize, seat } = this.#options;
    const known = this.#record?.members ?? [];
    return {
      name: identity.name,
      storeId: identity.storeId,
      clusterId: this.#record?.clusterId ?? '',
      address,
      generation: identity.generation,
      clusterSize,
      ...(seat === undefined ? {} : { seat }),
      founded: this.#record === null ? null : publicRecord(this.#record),
      promised: this.#promise === null ? null : recordDigest(this.#promise),
      // Whoever founds without it must not count on it.
      blocked: this.#blocked ?? (this.#state === 'joiner' ? this.#joining() : null),
      known: [...known, ...this.discovery.seen()].map((node) => ({ name: node.name, address: node.address })),
    };
  }

  /** Why this node is not founded, one line for each thing that is missing; empty once it is. For readiness. */
  missing(): readonly string[] {
    if (this.#state === 'founded') return [];
    if (this.#blocked !== null) return [this.#blocked];
    if (this.#state === 'joiner') return [this.#joining()];
    const reasons = this.#promise === null ? this.#obstacles() : this.#promiseReasons(this.#promise);
    const lines = [...reasons, ...this.discovery.unanswered()];
    return lines.length > 0 ? lines : ['everyone is here; waiting for the lowest name to propose the cluster'];
  }

  /** Routes for the node's HTTP port. */
  routes(): readonly PeerRoute[] {
    return [
      this.#route(HELLO_PATH, async (body) => {
        const hello = decodeNodeHello(body);
        const divided = seatProblem(this.hello(), hello);
        if (divided !== null) return refused(divided);
        this.discovery.learn(hello);
        return { status: 200, body: this.hello() };
      }),
      this.#route(PROMISE_PATH, (body) => this.#promiseAsked(decodeFoundingRecord(objectAt(body, 'body')['record']))),
      this.#route(COMMIT_PATH, (body) => this.#commitTold(textAt(objectAt(body, 'body'), 'digest'))),
      this.#route(JOIN_PATH, async (body) => {
        const request = decodeJoinRequest(body);
        return this.#record === null ? refused('this node belongs to no cluster yet') : this.#options.admit(request);
      }),
    ];
  }

  #route(path: string, handle: (body: unknown) => Promise<RouteAnswer>): PeerRoute {
    return {
      method: 'POST',
      path,
      handler: async (body, headers) => {
        const authorization = headers['authorization'];
        if (!this.#options.keys.accepts(typeof authorization === 'string' ? authorization : undefined)) {
          return { status: 401, body: { error: 'unauthorized', message: this.#strangerReason(body), founded: this.#record !== null } };
        }
        try {
          return await handle(body);
        } catch (error) {
          if (error instanceof DocumentError) return { status: 400, body: { error: 'invalid_request', message: error.message } };
          throw error;
        }
      },
    };
  }

  /** What a caller without a key is told: enough for the operator of a wiped node to see what happened. */
  #strangerReason(body: unknown): string {
    if (this.#record === null) return 'no key of this cluster was presented (FASTPACA_CLUSTER_SECRET, FASTPACA_API_KEY)';
    let claimed: NodeHello | null = null;
    try {
      claimed = decodeNodeHello(body);
    } catch (error) {
      if (!(error instanceof DocumentError)) throw error;
    }
    const member = this.#record.members.find((candidate) => candidate.name === claimed?.name);
    if (claimed !== null && member !== undefined && member.storeId !== claimed.storeId) return otherDirectory(claimed, publicRecord(this.#record));
    return `this cluster (${this.#record.clusterId}) is founded and was shown no key of it (FASTPACA_CLUSTER_SECRET, FASTPACA_API_KEY)`;
  }

  // --- the proposer ------------------------------------------------------------------------------------------------

  #wake(): void {
    this.#stepAgain = true;
    if (this.#stepping || this.#closed) return;
    this.#stepping = true;
    void this.#steps();
  }

  async #steps(): Promise<void> {
    try {
      while (this.#stepAgain && this.#state !== 'founded' && !this.#closed) {
        this.#stepAgain = false;
        await this.#step();
      }
    } catch (error) {
      this.#fail(error);
    }
    this.#stepping = false;
  }

  async #step(): Promise<void> {
    const founded = this.discovery.seen().filter((hello) => hello.founded !== null);
    const clusters = new Map(founded.map((hello) => [hello.founded?.clusterId, hello.name]));
    if (clusters.size > 1) {
      this.#notAdmitted = `nodes of ${clusters.size} clusters answer: ${[...clusters].map(([cluster, name]) => `'${name}' of ${cluster}`).join(', ')}`;
      if (this.#state === 'founding' && this.#promise === null) this.#state = 'joiner';
      return;
    }
    for (const hello of founded) if (hello.founded !== null && this.#record === null) await this.#meetFounded(hello, hello.founded);
    if (this.#record !== null) return;
    const stranger = this.discovery.strangers()[0];
    if (stranger !== undefined) this.#block('refused', stranger);
    if (this.#state !== 'founding') return;
    if (this.#promise === null && this.#obstacles().length === 0 && this.#isLowest()) {
      await this.#promiseFirst(this.#mint(this.discovery.seen()));
    }
    if (this.#promise !== null && this.#isProposer(this.#promise)) await this.#collect(this.#promise);
  }

  /** What keeps this node's view from being the view that founds; empty when it is complete. */
  #obstacles(): readonly string[] {
    const { clusterSize, identity } = this.#options;
    const seen = this.discovery.seen();
    const clashes = this.discovery.nameClashes();
    if (clashes.length > 0) return clashes;
    const names = [identity.name, ...seen.map((hello) => hello.name)].sort(compareNames);
    const obstacles: string[] = [];
    if (names.length > clusterSize) {
      obstacles.push(`founding a cluster of ${clusterSize}, but ${names.length} nodes are here: ${names.join(', ')}; FASTPACA_CLUSTER_SIZE must be the exact number`);
    }
    if (names.length < clusterSize) {
      obstacles.push(`founding a cluster of ${clusterSize}: seen ${names.join(', ')}; ${clusterSize - names.length} more needed`);
    }
    for (const hello of seen) {
      if (hello.clusterSize !== clusterSize) {
        obstacles.push(`node '${hello.name}' founds a cluster of ${hello.clusterSize}, this node one of ${clusterSize} (FASTPACA_CLUSTER_SIZE)`);
      }
      if (hello.blocked !== null) obstacles.push(`node '${hello.name}' cannot take part: ${hello.blocked}`);
      if (hello.promised !== null && hello.founded === null && this.#isLowest()) {
        obstacles.push(`node '${hello.name}' has promised to found another cluster (record ${short(hello.promised)})`);
      }
    }
    return obstacles;
  }

  #isLowest(): boolean {
    return this.discovery.seen().every((hello) => compareNames(this.#options.identity.name, hello.name) < 0);
  }

  #isProposer(record: FoundingRecord): boolean {
    return record.members[0]?.storeId === this.#options.identity.storeId;
  }

  #mint(others: readonly NodeHello[]): FoundingRecord {
    const { identity, address } = this.#options;
    const members = [{ name: identity.name, storeId: identity.storeId, address }, ...others]
      .map((node) => ({ name: node.name, storeId: node.storeId, address: node.address }))
      .sort((a, b) => compareNames(a.name, b.name));
    return { clusterId: randomUUID(), members, mintedKey: randomBytes(32).toString('hex') };
  }

  /** Asks every member that has not promised; commits when all have. */
  async #collect(record: FoundingRecord): Promise<void> {
    const others = record.members.slice(1);
    const digest = recordDigest(record);
    await Promise.all(others.filter((member) => !this.#promisedBy.has(member.name)).map(async (member) => {
      // A node may have moved since the record was written.
      const address = this.discovery.addresses().get(member.name) ?? member.address;
      const refusal = await this.#askPromise(address, record, digest);
      if (refusal === null) this.#promisedBy.add(member.name);
      if (refusal === null) this.#pending.delete(member.name);
      else this.#pending.set(member.name, refusal);
    }));
    if (this.#closed || this.#promisedBy.size < others.length) return;
    await this.#commit(record);
    // Best effort: whoever misses it sees a founded member at its next question.
    await Promise.allSettled(others.map((member) => this.discovery.call(member.address, COMMIT_PATH, { digest })));
  }

  /** Null when the member promised; otherwise why not. */
  async #askPromise(address: string, record: FoundingRecord, digest: string): Promise<string | null> {
    try {
      const answer = await this.discovery.call(address, PROMISE_PATH, { record });
      const fields = objectAt(answer.body, 'answer');
      if (answer.status === 200 && fields['promised'] === digest) return null;
      return String(fields['message'] ?? `HTTP ${answer.status}`);
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  // --- every member --------------------------------------------------------------------------------------------------

  async #promiseAsked(record: FoundingRecord): Promise<RouteAnswer> {
    const objection = this.#objection(record);
    if (objection !== null) return refused(objection);
    const digest = recordDigest(record);
    const given = await this.#promiseFirst(record);
    if (recordDigest(given) === digest) return { status: 200, body: { promised: digest } };
    return refused(`node '${this.#options.identity.name}' has promised ${describe(given)}; it cannot promise ${describe(record)}`);
  }

  #objection(record: FoundingRecord): string | null {
    const { identity, clusterSize } = this.#options;
    if (this.#record !== null && recordDigest(this.#record) !== recordDigest(record)) {
      return `node '${identity.name}' belongs to ${describe(this.#record)} already`;
    }
    if (this.#blocked !== null) return this.#blocked;
    if (this.#state === 'joiner') return this.#joining();
    if (record.members.length !== clusterSize) return `node '${identity.name}' founds a cluster of ${clusterSize}, not of ${record.members.length}`;
    const self = record.members.find((member) => member.name === identity.name);
    if (self === undefined) return `${describe(record)} does not name node '${identity.name}'`;
    if (self.storeId !== identity.storeId) {
      return `${describe(record)} names node '${identity.name}' with another data directory (store ${self.storeId}, here ${identity.storeId})`;
    }
    return null;
  }

  /** Makes the one promise of this node's life unless it was made; resolves with the promise that stands, synced. */
  #promiseFirst(record: FoundingRecord): Promise<FoundingRecord> {
    return this.#serialised(async () => {
      if (this.#promise !== null) return this.#promise;
      if (this.#closed) throw new Error('this node is closing');
      await this.#options.facts.put(PROMISE_FACT, encodeDocument(record));
      return this.#keepPromise(record);
    });
  }

  #keepPromise(record: FoundingRecord): FoundingRecord {
    this.#promise = record;
    this.#options.keys.promised(record.mintedKey);
    return record;
  }

  async #commitTold(digest: string): Promise<RouteAnswer> {
    const record = this.#record ?? this.#promise;
    if (record === null || recordDigest(record) !== digest) {
      return refused(`node '${this.#options.identity.name}' has not promised record ${short(digest)}${record === null ? '' : ` but ${describe(record)}`}`);
    }
    await this.#commit(record);
    return { status: 200, body: { committed: digest } };
  }

  async #meetFounded(hello: NodeHello, founded: PublicRecord): Promise<void> {
    const { identity } = this.#options;
    if (this.#promise !== null) {
      if (recordDigest(this.#promise) === founded.digest) return this.#commit(this.#promise);
      // Its promise may yet commit: it cannot belong to both.
      return this.#block('refused', `node '${hello.name}' belongs to cluster ${founded.clusterId}, but this node has promised ${describe(this.#promise)}`);
    }
    if (founded.members.some((member) => member.storeId === identity.storeId)) {
      const reason = `node '${identity.name}' is a member of cluster ${founded.clusterId}, but its data directory has forgotten that it promised to be: it was rolled back`;
      if (this.#blocked === null) this.#options.onForgotten(hello.name, reason);
      return this.#block('refused', reason);
    }
    const own = this.#inheritance?.clusterId ?? '';
    if (own !== '' && own !== founded.clusterId) return this.#sayNotAdmitted(`node '${hello.name}' belongs to cluster ${founded.clusterId}, but this node to cluster ${own}`);
    await this.#askToJoin(hello, founded);
  }

  /** A node that the cluster does not know, or that comes with an empty disk under a name that it knows. */
  async #askToJoin(hello: NodeHello, founded: PublicRecord): Promise<void> {
    const { identity, address } = this.#options;
    if (performance.now() - this.#askedToJoinAtMs < JOIN_MS) return;
    this.#askedToJoinAtMs = performance.now();
    this.#state = 'joiner';
    try {
      const answer = await this.discovery.call(hello.address, JOIN_PATH, { name: identity.name, storeId: identity.storeId, address });
      if (this.#closed) return;
      if (answer.status === 200) {
        const admission = decodeAdmission(answer.body);
        if (recordDigest(admission.record) !== founded.digest) throw new Error('it sent the record of another cluster');
        return await this.#commit(admission.record, admission);
      }
      this.#sayNotAdmitted(`node '${hello.name}' does not admit this node: ${String(objectAt(answer.body, 'answer')['message'] ?? `HTTP ${answer.status}`)}`);
    } catch (error) {
      this.#sayNotAdmitted(`asking node '${hello.name}' to join failed: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  #joining(): string {
    return this.#notAdmitted ?? `node '${this.#options.identity.name}' asks to join a cluster that was founded without its data directory`;
  }

  #sayNotAdmitted(reason: string): void {
    if (this.#notAdmitted === reason) return;
    this.#notAdmitted = reason;
    this.#options.log.warn({ reason }, 'not admitted to the cluster yet');
  }

  #commit(record: FoundingRecord, admission: Admission | null = null): Promise<void> {
    return this.#serialised(async () => {
      if (this.#record !== null || this.#closed) return;
      // First, for a joined directory without a table would not know what it may be.
      if (admission !== null) await writeTable(this.#options.facts, admission.table);
      await writeFounded(this.#options.facts, record);
      this.#becomeFounded(record);
    });
  }

  #becomeFounded(record: FoundingRecord): void {
    this.#record = record;
    this.#state = 'founded';
    this.#options.keys.founded(record.mintedKey);
    this.discovery.settle();
    this.#options.log.info({ clusterId: record.clusterId, members: record.members.map((member) => member.name) }, 'cluster founded');
    this.#options.onFounded(record);
  }

  #block(state: 'refused' | 'joiner', reason: string): void {
    if (this.#blocked !== null) return;
    this.#blocked = reason;
    this.#state = state;
    this.#options.log.warn({ reason }, 'this node cannot found or join');
  }

  #promiseReasons(promise: FoundingRecord): readonly string[] {
    if (!this.#isProposer(promise)) {
      return [`promised ${describe(promise)}; waiting for node '${promise.members[0]?.name ?? ''}' to commit it`];
    }
    const waiting = promise.members.slice(1).filter((member) => !this.#promisedBy.has(member.name));
    return waiting.map((member) => `node '${member.name}' has not promised ${describe(promise)}: ${this.#pending.get(member.name) ?? 'not asked yet'}`);
  }

  #serialised<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    // After a failed write nobody knows what the disk holds: only a restart may tell.
    this.#last = result.catch((error: unknown) => this.#fail(error));
    return result;
  }

  #fail(error: unknown): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#options.fatal(error instanceof Error ? error : new Error(String(error)));
  }
}

function refused(message: string): RouteAnswer {
  return { status: 409, body: { error: 'conflict', message } };
}

function describe(record: FoundingRecord): string {
  return `cluster ${short(record.clusterId)} of ${record.members.map((member) => member.name).join(', ')}`;
}

function short(id: string): string {
  return id.slice(0, 8);
}

function otherDirectory(node: { readonly name: string; readonly storeId: string }, cluster: PublicRecord): string {
  const member = cluster.members.find((candidate) => candidate.name === node.name);
  return (
    `node '${node.name}' is known to cluster ${cluster.clusterId} with another data directory (store ${member?.storeId ?? ''}); ` +
    `this one is empty (store ${node.storeId}) and does not stand in for it`
  );
}
