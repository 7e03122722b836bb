/**
 * The public port of a node whose system does not spread the connections of one port over several listeners: one thread
 * listens here and forwards each connection, byte for byte, to the shards in turn. TLS, HTTP and streams are the shards'
 * matter, as where they listen themselves. Owns which shard gets a connection; how the shard takes it is entry.ts.
 *
 * It listens while at least one shard takes connections, so that a client finds a closed port rather than one behind
 * which nobody is. Nothing of a client is read before a shard has taken its connection: where one does not, since it is
 * stopping, the next one is asked, and the client notices nothing.
 */
import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { ENTRY_HOST, introduction, isTaken } from './entry.ts';
import { Forwarding } from './forwarding.ts';

/** A client may take this long to leave once its shard has. */
const LINGER_MS = 10_000;
/** A shard that does not take a connection in this time is too busy for it. */
const TAKE_MS = 5_000;

export interface FrontOptions {
  readonly host: string;
  readonly port: number;
  /** See introduction. */
  readonly key: string;
  /** The port cannot be listened on. */
  readonly onFailure: (error: Error) => void;
  readonly lingerMs?: number;
  readonly takeMs?: number;
}

export class Front {
  private readonly options: FrontOptions;
  /** Where each shard takes connections, by index. */
  private readonly entries = new Map<number, number>();
  private readonly open = new Set<Forwarding>();
  /** Clients that no shard has taken yet. */
  private readonly waiting = new Set<Socket>();
  private servers: readonly Server[] = [];
  private settling: Promise<void> = Promise.resolve();
  private turn = 0;
  private isClosing = false;
  private onEmpty: () => void = () => undefined;

  constructor(options: FrontOptions) {
    this.options = options;
  }

  /** Connections that are being forwarded. */
  get connections(): number {
    return this.open.size;
  }

  /**
   * Shard `index` takes connections at that port of the loopback interface from now on; null: none. Resolves when this
   * listens, or does not, accordingly; never rejects.
   */
  enterAt(index: number, port: number | null): Promise<void> {
    if (port === null) this.entries.delete(index);
    else this.entries.set(index, port);
    return this.settle();
  }

  /** The shards have gone: resolves when every client has been sent what they said last, at most after `ms`. */
  async close(ms: number): Promise<void> {
    this.isClosing = true;
    await this.settle();
    for (const client of this.waiting) client.destroy();
    if (this.open.size > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        this.onEmpty = () => {
          clearTimeout(timer);
          resolve();
        };
        for (const forwarding of this.open) forwarding.finish();
      });
    }
    for (const forwarding of this.open) forwarding.cut();
  }

  /** Listens if it should and does not, or the other way round; one change after the other. */
  private settle(): Promise<void> {
    const settled = this.settling.then(async () => {
      const isWanted = this.entries.size > 0 && !this.isClosing;
      if (isWanted === this.servers.length > 0) return;
      if (isWanted) this.servers = await this.listen();
      else {
        for (const server of this.servers) server.close();
        this.servers = [];
      }
    });
    return (this.settling = settled.catch(this.options.onFailure));
  }

  private async listen(): Promise<Server[]> {
    const { port } = this.options;
    const servers: Server[] = [];
    for (const host of await addressesOf(this.options.host)) {
      const server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (client) => void this.handOver(client));
      try {
        server.listen({ host, port });
        await once(server, 'listening');
        servers.push(server);
      } catch (error) {
        // Of the addresses of one name, the first is the one that counts.
        if (servers.length === 0) throw error;
      }
    }
    return servers;
  }

  private async handOver(client: Socket): Promise<void> {
    const { key, lingerMs = LINGER_MS, takeMs = TAKE_MS } = this.options;
    client.on('error', () => undefined);
    const address = client.remoteAddress;
    if (address === undefined) return void client.destroy();
    this.waiting.add(client);
    client.once('close', () => this.waiting.delete(client));
    for (const port of this.inTurn()) {
      const shard = await enter(port, introduction(key, address), takeMs);
      if (client.destroyed) return void shard?.destroy();
      if (shard === null) continue;
      this.waiting.delete(client);
      const forwarding = new Forwarding(client, shard, {
        lingerMs,
        onGone: () => {
          this.open.delete(forwarding);
          if (this.open.size === 0) this.onEmpty();
        },
      });
      this.open.add(forwarding);
      if (this.isClosing) forwarding.finish();
      return;
    }
    client.resetAndDestroy();
  }

  /** Where to try, each shard once, another one first with each connection. */
  private inTurn(): number[] {
    const ports = [...this.entries].sort(([a], [b]) => a - b).map(([, port]) => port);
    const first = this.turn++ % Math.max(1, ports.length);
    return [...ports.slice(first), ...ports.slice(0, first)];
  }
}

/** What to listen on for a configured host: `localhost` is every address of that name, as where shards listen themselves. */
async function addressesOf(host: string): Promise<string[]> {
  return host === 'localhost' ? (await lookup(host, { all: true })).map(({ address }) => address) : [host];
}

/** A connection to a shard, which has taken it; null when it does not in `takeMs`. */
function enter(port: number, line: string, takeMs: number): Promise<Socket | null> {
  return new Promise((resolve) => {
    const shard = connect({ host: ENTRY_HOST, port, allowHalfOpen: true, noDelay: true });
    const refused = (): void => {
      shard.destroy();
      resolve(null);
    };
    const answered = (): void => {
      const answer: Buffer | null = shard.read(1);
      if (answer === null) return;
      if (!isTaken(answer)) return refused();
      for (const event of ['close', 'end', 'timeout']) shard.off(event, refused);
      shard.off('readable', answered);
      shard.setTimeout(0);
      resolve(shard);
    };
    shard.on('error', () => undefined);
    for (const event of ['close', 'end', 'timeout']) shard.on(event, refused);
    shard.on('readable', answered);
    shard.setTimeout(takeMs);
    shard.write(line);
  });
}
