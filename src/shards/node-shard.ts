/**
 * A node as a shard among its siblings: what node.ts adds to itself when it is one. Owns the ports that only a shard
 * has, the answers to siblings, and the order in which they open and close.
 */
import type { FastifyInstance } from 'fastify';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { refuseUpgrade } from '../cluster/links.ts';
import { dialedAt } from '../cluster/seat.ts';
import type { Config } from '../config.ts';
import { isBetweenNodes, PeerPort } from '../http/peer-port.ts';
import type { ClusterApi, HealthApi, RateCounter, ServerTls } from '../http/ports.ts';
import { answerSibling, type AskedParts } from '../peer-requests.ts';
import type { StreamServer } from '../streams/server.ts';
import { ASK_TAG, NodeCalls, type ShardParts } from './node-calls.ts';
import { Entry, ENTRY_HOST } from './entry.ts';
import type { Shard } from './shard.ts';
import { RATE_TAG, RateCounts } from './rate-counts.ts';
import { doorHeaders, portOf, StreamDoor } from './stream-door.ts';

export interface NodeShardParts extends ShardParts, AskedParts {
  readonly config: Config;
  readonly streams: StreamServer;
  readonly tls: ServerTls | null;
  /** Upgrades of peers. */
  readonly upgrade: (request: IncomingMessage, socket: Duplex, head: Buffer) => void;
}

export class NodeShard {
  readonly shard: Shard;
  readonly calls: NodeCalls;
  private readonly parts: NodeShardParts;
  private readonly rates: RateCounts;
  private door: StreamDoor | null = null;
  private peers: PeerPort | null = null;
  private entry: Entry | null = null;
  private arrived: WeakSet<IncomingMessage> = new WeakSet();

  constructor(shard: Shard, parts: NodeShardParts) {
    this.shard = shard;
    this.parts = parts;
    this.calls = new NodeCalls(shard, parts);
    this.rates = new RateCounts(shard);
  }

  /** What the HTTP application is given so that it speaks for the whole node. */
  appDeps(): { health: HealthApi; cluster: ClusterApi; rateCounter: RateCounter; exposition: () => Promise<string>; prepare: (app: FastifyInstance) => void } {
    return {
      health: this.calls,
      cluster: this.calls,
      rateCounter: this.rates,
      exposition: () => this.calls.metrics(),
      prepare: (app) => {
        this.arrived = PeerPort.guard(app, this.elsewhere);
        app.addHook('preClose', async () => this.closeEntry());
      },
    };
  }

  /** Where a shard listens for clients: on the port of the node, over whose listeners the system spreads connections, or where they are forwarded to. */
  get listensAt(): { readonly reusePort: boolean } | { readonly host: string; readonly port: number } {
    return this.shard.isForwarded ? { host: ENTRY_HOST, port: 0 } : { reusePort: true };
  }

  /** Whether an upgrade at the public port is one between nodes: it has been answered then. */
  refusesUpgrade(request: IncomingMessage, socket: Duplex): boolean {
    if (!isBetweenNodes(request.url)) return false;
    socket.on('error', () => socket.destroy());
    refuseUpgrade(socket, 403, 'forbidden', this.elsewhere);
    return true;
  }

  /** Why calls between nodes are refused at the public port. */
  private get elsewhere(): string {
    const { count } = this.shard;
    return `this node runs ${count} shards, which other nodes reach at PORT+1 to PORT+${count}: FASTPACA_SHARDS must be the same on every node of a cluster`;
  }

  /** Opens the ports, and answers siblings from now on. Where the node has no peers, it has no port for them. */
  async open(app: FastifyInstance): Promise<void> {
    const { shard, parts } = this;
    const { host, port, clusterSeeds } = parts.config;
    this.door = await StreamDoor.open(shard.doorKey, (request, socket, head) => parts.streams.handleSibling(request, socket, head));
    if (clusterSeeds.length > 0) {
      const at = Number(dialedAt(shard, `:${port}`).slice(1));
      try {
        this.peers = await PeerPort.open({ app, tls: parts.tls, host, port: at, arrived: this.arrived, upgrade: parts.upgrade });
      } catch (error) {
        throw new Error(`shard ${shard.index} takes its peers on port ${at}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    if (shard.isForwarded) {
      this.entry = new Entry(app.server, shard.doorKey);
      app.server.once('listening', () => shard.noteEntry(portOf(app.server)));
    }
    shard.noteDoor(this.door.port);
    shard.siblings.serve((tag, body, reply) => {
      if (tag === ASK_TAG) this.calls.answer(body, reply);
      else if (tag === RATE_TAG) this.rates.answer(body, reply);
      else answerSibling(parts, tag, body, reply);
    });
  }

  /** No connection is brought here any more. */
  private closeEntry(): void {
    if (this.entry === null) return;
    this.shard.noteEntry(null);
    this.entry.close();
  }

  async close(): Promise<void> {
    this.shard.noteDoor(0);
    this.shard.siblings.serve(null);
    await this.door?.close();
    await this.peers?.close();
  }
}

/** How a stream gets to the shard that runs its group; null for this one. */
export function siblingDoor(shard: Shard, group: number): { readonly address: string; readonly headers: Readonly<Record<string, string>> } | null {
  const address = shard.doorOf(group);
  return address === null ? null : { address, headers: doorHeaders(shard.doorKey) };
}
