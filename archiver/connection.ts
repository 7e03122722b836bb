/**
 * Connections to Postgres: their settings, and nothing about when to open one. A statement is bounded twice: by the
 * server, and by the driver for a server that has gone silent, whose connection is then given up.
 */
import pg from 'pg';
import type { ClientConfig } from 'pg';

const CONNECT_MS = 5000;
const SILENCE_MS = 5000;

export function connectionSettings(url: string, options: { readonly role: 'writer' | 'reader'; readonly statementMs: number }): ClientConfig {
  return {
    connectionString: url,
    application_name: `fastpaca-archive-${options.role}`,
    connectionTimeoutMillis: CONNECT_MS,
    statement_timeout: options.statementMs,
    query_timeout: options.statementMs + SILENCE_MS,
    keepAlive: true,
  };
}

/** One connection that is opened when it is first needed and again after it was dropped. */
export class LazyClient {
  private readonly settings: ClientConfig;
  private client: pg.Client | null = null;
  private opening: pg.Client | null = null;
  private closed = false;

  constructor(settings: ClientConfig) {
    this.settings = settings;
  }

  /** The open connection. `prepare` runs once on each new one. Throws what connecting or preparing threw. */
  async get(prepare: (client: pg.Client) => Promise<void>): Promise<pg.Client> {
    if (this.client !== null) return this.client;
    const client = new pg.Client(this.settings);
    // Without a listener a connection that breaks while idle would end the process.
    client.on('error', () => this.drop(client));
    this.opening = client;
    try {
      if (this.closed) throw new Error('the archiver is closed');
      await client.connect();
      await prepare(client);
    } catch (error) {
      this.drop(client);
      throw error;
    } finally {
      this.opening = null;
    }
    this.client = client;
    return client;
  }

  /** Gives the connection up, also in the middle of a statement. */
  drop(client: pg.Client | null = this.client): void {
    if (client === null) return;
    if (this.client === client) this.client = null;
    client.end().catch(() => undefined);
  }

  close(): void {
    this.closed = true;
    this.drop(this.opening);
    this.drop();
  }
}
