/**
 * Finds the other nodes: asks the seeds, and every address learned on the way, who they are, over the node's own HTTP
 * port. It only reports what is there now; what follows from it is founding.ts' business.
 */
import { lookup } from 'node:dns/promises';
import { isIPv6 } from 'node:net';
import { Client } from 'undici';
import type { PeerKeys } from './auth.ts';
import { peerConnector } from './connector.ts';
import { decodeNodeHello, objectAt } from './hello.ts';
import type { NodeHello } from './hello.ts';
import type { PeerTlsSource } from './ports.ts';

export const HELLO_PATH = '/_peer/hello';
const POLL_MS = 200;
/** Between polls once this node is founded: only addresses can change. */
const POLL_SETTLED_MS = 5000;
const CALL_TIMEOUT_MS = 1000;
const ANSWER_BYTES_MAX = 1024 * 1024;
/** Addresses asked; more are ignored until some stop answering. */
const TARGETS_MAX = 256;
/** A learned address that failed this often in a row is dropped; it can be learned again. */
const FAILURES_MAX = 25;

export interface DiscoveryOptions {
  /** host:port each; a name is expanded to all its addresses at every poll. */
  readonly seeds: readonly string[];
  readonly self: () => NodeHello;
  /** Of this node: its own answers are not another node's. */
  readonly storeId: string;
  readonly keys: PeerKeys;
  readonly tls: PeerTlsSource | null;
  /** Where a node of that address (host:port) takes calls of this one. */
  readonly dialedAt: (address: string) => string;
  /** The view may have changed. */
  readonly onChange: () => void;
}

export interface CallAnswer {
  readonly status: number;
  readonly body: unknown;
}

interface Target {
  readonly address: string;
  /** Name that its certificate must carry. */
  readonly serverName: string;
  asking: boolean;
  /** Its answer to the last question, or null when it gave none. */
  hello: NodeHello | null;
  /** Why there is no answer; null before the first try. */
  error: string | null;
  /** It is founded and does not know our key. */
  stranger: boolean;
  failures: number;
}

interface Seed {
  readonly text: string;
  /** The addresses that it stands for now. */
  addresses: readonly string[];
  error: string | null;
}

export class Discovery {
  readonly #options: DiscoveryOptions;
  readonly #seeds: readonly Seed[];
  readonly #targets = new Map<string, Target>();
  readonly #clients = new Map<string, Client>();
  #timer: NodeJS.Timeout | null = null;
  #pollMs = POLL_MS;
  #open = false;

  constructor(options: DiscoveryOptions) {
    this.#options = options;
    this.#seeds = options.seeds.map((text) => ({ text, addresses: [], error: null }));
  }

  open(): void {
    this.#open = true;
    void this.#poll();
  }

  /** From now on asks slowly. */
  settle(): void {
    this.#pollMs = POLL_SETTLED_MS;
  }

  async close(): Promise<void> {
    this.#open = false;
    if (this.#timer !== null) clearTimeout(this.#timer);
    const clients = [...this.#clients.values()];
    this.#clients.clear();
    await Promise.all(clients.map((client) => client.destroy()));
  }

  /** The other nodes that answered last time they were asked; one entry for each store. */
  seen(): readonly NodeHello[] {
    const self = this.#options.storeId;
    const byStore = new Map<string, NodeHello>();
    for (const { hello } of this.#targets.values()) {
      if (hello === null || hello.storeId === self) continue;
      const other = byStore.get(hello.storeId);
      if (other === undefined || other.generation <= hello.generation) byStore.set(hello.storeId, hello);
    }
    return [...byStore.values()];
  }

  /** Where each node that answers wants to be reached, by name. Two stores with one name: neither is told. */
  addresses(): ReadonlyMap<string, string> {
    const clashing = this.#clashes();
    return new Map(this.seen().filter((hello) => !clashing.has(hello.name)).map((hello) => [hello.name, hello.address]));
  }

  /** One line for each name that more than one store answers to. */
  nameClashes(): readonly string[] {
    return [...this.#clashes()].map(([name, stores]) => `more than one node is named '${name}' (stores ${[...stores].join(', ')})`);
  }

  /** One line for each seed that nobody answers at. */
  unanswered(): readonly string[] {
    const lines: string[] = [];
    for (const seed of this.#seeds) {
      const targets = seed.addresses.map((address) => this.#targets.get(address));
      if (targets.some((target) => target?.hello)) continue;
      const { dialedAt } = this.#options;
      lines.push(`no answer from ${dialedAt(seed.text)} (${seed.error ?? targets.find((target) => target?.error)?.error ?? 'not asked yet'})`);
    }
    return lines;
  }

  /** One line for each founded node that does not know this node's key. */
  strangers(): readonly string[] {
    return [...this.#targets.values()].filter((target) => target.stranger).map((target) => `${target.address}: ${target.error ?? ''}`);
  }

  /** Someone introduced itself: its address is worth asking. */
  learn(hello: NodeHello): void {
    for (const address of [hello.address, ...hello.known.map((known) => known.address)]) this.#target(address, hostOf(address));
  }

  /** POSTs JSON to a node; rejects when there is no answer in time. */
  async call(address: string, path: string, body: object): Promise<CallAnswer> {
    if (!this.#open) throw new Error('this node is closing');
    const response = await this.#client(address, hostOf(address)).request({
      method: 'POST',
      path,
      headers: { 'content-type': 'application/json', ...this.#options.keys.headers() },
      body: JSON.stringify(body),
    });
    return { status: response.statusCode, body: await response.body.json() };
  }

  async #poll(): Promise<void> {
    await Promise.all(this.#seeds.map((seed) => this.#expand(seed)));
    if (!this.#open) return;
    for (const target of [...this.#targets.values()]) {
      if (target.failures >= FAILURES_MAX && !this.#seeds.some((seed) => seed.addresses.includes(target.address))) this.#drop(target);
      else if (!target.asking) void this.#ask(target);
    }
    this.#timer = setTimeout(() => void this.#poll(), this.#pollMs);
  }

  async #expand(seed: Seed): Promise<void> {
    const host = hostOf(seed.text);
    const port = seed.text.slice(seed.text.lastIndexOf(':') + 1);
    try {
      const found = await lookup(host, { all: true });
      seed.addresses = found.map(({ address }) => `${isIPv6(address) ? `[${address}]` : address}:${port}`);
      seed.error = null;
      for (const address of seed.addresses) this.#target(address, host);
    } catch (error) {
      seed.error = messageOf(error);
    }
  }

  #target(address: string, serverName: string): void {
    if (this.#targets.has(address) || this.#targets.size >= TARGETS_MAX || !URL.canParse(`http://${address}`)) return;
    this.#targets.set(address, { address, serverName, asking: false, hello: null, error: null, stranger: false, failures: 0 });
  }

  async #ask(target: Target): Promise<void> {
    target.asking = true;
    try {
      // A seed's certificate carries the seed's name, not the address that it was expanded to.
      this.#client(target.address, target.serverName);
      const answer = await this.call(target.address, HELLO_PATH, this.#options.self());
      if (answer.status === 200) {
        target.hello = decodeNodeHello(answer.body);
        target.error = null;
        target.failures = 0;
        target.stranger = false;
        this.learn(target.hello);
      } else {
        const fields = objectAt(answer.body, 'answer');
        this.#failed(target, `HTTP ${answer.status}: ${String(fields['message'] ?? 'no reason given')}`);
        target.stranger = fields['founded'] === true;
      }
    } catch (error) {
      this.#failed(target, messageOf(error));
    }
    target.asking = false;
    if (this.#open) this.#options.onChange();
  }

  #failed(target: Target, error: string): void {
    target.hello = null;
    target.error = error;
    target.stranger = false;
    target.failures += 1;
  }

  #drop(target: Target): void {
    this.#targets.delete(target.address);
    const client = this.#clients.get(target.address);
    this.#clients.delete(target.address);
    void client?.destroy();
  }

  #client(address: string, serverName: string): Client {
    const before = this.#clients.get(address);
    if (before !== undefined) return before;
    const { tls, dialedAt } = this.#options;
    const client = new Client(`${tls === null ? 'http' : 'https'}://${dialedAt(address)}`, {
      connect: peerConnector(tls, CALL_TIMEOUT_MS, serverName),
      headersTimeout: CALL_TIMEOUT_MS,
      bodyTimeout: CALL_TIMEOUT_MS,
      maxResponseSize: ANSWER_BYTES_MAX,
    });
    this.#clients.set(address, client);
    return client;
  }

  /** Stores by name, for names with more than one, this node included. */
  #clashes(): Map<string, Set<string>> {
    const stores = new Map<string, Set<string>>();
    for (const hello of [this.#options.self(), ...this.seen()]) {
      const known = stores.get(hello.name) ?? new Set();
      stores.set(hello.name, known.add(hello.storeId));
    }
    return new Map([...stores].filter(([, ids]) => ids.size > 1));
  }
}

function hostOf(address: string): string {
  return address.slice(0, address.lastIndexOf(':')).replace(/^\[(.*)\]$/, '$1');
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
