/**
 * One connection of a client, forwarded to a shard byte for byte. Owns that either side learns how the other one left,
 * and that nothing is kept of a connection that both are done with. What is under way is bounded by the buffers of the
 * two sockets: a side that does not read stops the other one's sending.
 */
import type { Socket } from 'node:net';

export class Forwarding {
  private readonly client: Socket;
  private readonly shard: Socket;
  private readonly lingerMs: number;
  private isFinishing = false;

  /**
   * Both sockets stay half open until they are ended from both ends. `lingerMs`: what a client may take to leave, or to
   * read on, after the shard has left. `onGone` is called once both are closed.
   */
  constructor(client: Socket, shard: Socket, { lingerMs, onGone }: { lingerMs: number; onGone: () => void }) {
    this.client = client;
    this.shard = shard;
    this.lingerMs = lingerMs;
    let open = 2;
    const gone = (): void => {
      if (--open === 0) onGone();
    };
    client.once('close', (hadError) => {
      // A shard is told of a reset, so that it stops what it does for nobody.
      if (hadError) shard.resetAndDestroy();
      else shard.destroySoon();
      gone();
    });
    shard.once('close', (hadError) => {
      if (hadError) this.leaveClient();
      gone();
    });
    // An error is followed by the close that says so.
    for (const socket of [client, shard]) socket.on('error', () => undefined);
    client.once('finish', () => (this.isFinishing ? client.destroy() : this.limitClient()));
    client.pipe(shard);
    shard.pipe(client);
  }

  /** The process is to end: gone as soon as the client has been sent what the shard said last. */
  finish(): void {
    this.isFinishing = true;
    if (this.client.writableFinished) this.client.destroy();
  }

  /** Ends it at once. */
  cut(): void {
    this.client.destroy();
    this.shard.destroy();
  }

  /**
   * The shard is gone for good. What it said before is sent still, often the reason: a shard that answers a request
   * without reading it to its end resets the connection with that.
   */
  private leaveClient(): void {
    this.client.destroySoon();
    this.limitClient();
  }

  /** A client that neither leaves nor reads would keep its connection for ever. */
  private limitClient(): void {
    this.client.setTimeout(this.lingerMs, () => this.client.destroy());
  }
}
