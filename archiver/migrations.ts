/**
 * The archive's schema, by numbered steps. Names are unqualified: the first schema of the connection's search_path
 * holds them. Steps are append-only and additive (nothing is dropped or renamed), so that during a rolling upgrade
 * nodes of the version before go on writing to a schema that is one ahead of them.
 */
import type { Client } from 'pg';
import { ArchiveSetupError } from './failures.ts';
import { VIEWS } from './views.ts';

/** Any fixed number that no other program is likely to lock. */
const LOCK_KEY = 7_310_579_205_118_464;

/** COLLATE "C": byte order is faster, and an index in it survives an upgrade of the system's locales. */
const TABLES = `
CREATE TABLE contexts (
  id text COLLATE "C" PRIMARY KEY,
  status text NOT NULL CHECK (status IN ('active', 'tombstoned', 'purged')),
  version bigint NOT NULL,
  config_revision bigint NOT NULL,
  last_seq bigint NOT NULL,
  token_budget bigint,
  trigger_ratio double precision,
  policy jsonb,
  model text,
  metadata jsonb,
  window_tokens bigint,
  created_at timestamptz,
  updated_at timestamptz,
  tombstoned_at timestamptz
) WITH (fillfactor = 75);
COMMENT ON TABLE contexts IS 'One row a context, as of its last flush';
COMMENT ON COLUMN contexts.metadata IS 'NULL where jsonb cannot hold it';

CREATE TABLE messages (
  seq bigint NOT NULL,
  version bigint NOT NULL,
  inserted_at timestamptz NOT NULL,
  token_count bigint NOT NULL,
  context_id text COLLATE "C" NOT NULL,
  role text,
  id text,
  parts jsonb,
  metadata jsonb,
  body bytea NOT NULL,
  row_head bytea NOT NULL,
  PRIMARY KEY (context_id, seq)
);
CREATE INDEX messages_context_inserted ON messages (context_id, inserted_at);
CREATE INDEX messages_inserted ON messages USING brin (inserted_at);
COMMENT ON COLUMN messages.body IS 'The message as the API returns it, byte for byte';
COMMENT ON COLUMN messages.row_head IS 'What windows of older versions need besides the body. Not for analysis';
COMMENT ON COLUMN messages.id IS 'The client''s own id of the message';
COMMENT ON COLUMN messages.parts IS 'For analysis. NULL where jsonb cannot hold it; the body has it all the same';

CREATE TABLE compactions (
  context_id text COLLATE "C" NOT NULL,
  version bigint NOT NULL,
  compacted_at timestamptz NOT NULL,
  from_seq bigint NOT NULL,
  to_seq bigint NOT NULL,
  replacement_count bigint NOT NULL,
  messages_before bigint NOT NULL,
  messages_after bigint NOT NULL,
  tokens_before bigint NOT NULL,
  tokens_after bigint NOT NULL,
  PRIMARY KEY (context_id, version)
);

CREATE TABLE fastpaca_archive (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  cluster_id text NOT NULL,
  claimed_at timestamptz NOT NULL DEFAULT now()
)`;

interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sql: string;
}

const MIGRATIONS: readonly Migration[] = [
  { version: 1, name: 'tables', sql: TABLES },
  { version: 2, name: 'views', sql: VIEWS },
];

export const SCHEMA_VERSION = MIGRATIONS.length;

/**
 * Brings the schema up to date (`migrate`) or checks that it is, and claims the archive for the cluster. Any number of
 * nodes may do so at once: an advisory lock lets one go first. Throws ArchiveSetupError when a person must act.
 */
export async function prepareArchive(client: Client, options: { readonly migrate: boolean; readonly clusterId: string }): Promise<void> {
  const encoding = await client.query<{ server_encoding: string }>('SHOW server_encoding');
  if (encoding.rows[0]?.server_encoding !== 'UTF8') {
    throw new ArchiveSetupError(`the archive's database has the encoding ${encoding.rows[0]?.server_encoding}; create one with ENCODING 'UTF8'`);
  }
  await client.query('BEGIN');
  try {
    // Released with the transaction, whatever happens to this node. One that waits too long for it tries again later.
    await client.query('SELECT pg_advisory_xact_lock($1)', [LOCK_KEY]);
    if (options.migrate) await migrate(client);
    else await checkVersion(client);
    await claim(client, options.clusterId);
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined);
    throw error;
  }
}

async function migrate(client: Client): Promise<void> {
  await client.query('CREATE TABLE IF NOT EXISTS fastpaca_migrations (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())');
  const current = await schemaVersion(client);
  for (const { version, name, sql } of MIGRATIONS) {
    if (version <= current) continue;
    await client.query(sql);
    await client.query('INSERT INTO fastpaca_migrations (version, name) VALUES ($1, $2)', [version, name]);
  }
}

async function checkVersion(client: Client): Promise<void> {
  const found = await client.query<{ there: boolean }>(`SELECT to_regclass('fastpaca_migrations') IS NOT NULL AS there`);
  const current = found.rows[0]?.there === true ? await schemaVersion(client) : 0;
  if (current < SCHEMA_VERSION) {
    throw new ArchiveSetupError(`the archive's schema has version ${current} and this program needs ${SCHEMA_VERSION}; start one node with MIGRATE_ON_BOOT=true`);
  }
}

async function schemaVersion(client: Client): Promise<number> {
  const { rows } = await client.query<{ version: number }>('SELECT coalesce(max(version), 0) AS version FROM fastpaca_migrations');
  return rows[0]?.version ?? 0;
}

/** Two clusters in one archive would each take the other's rows for their own and trim what was never archived. */
async function claim(client: Client, clusterId: string): Promise<void> {
  await client.query('INSERT INTO fastpaca_archive (cluster_id) VALUES ($1) ON CONFLICT DO NOTHING', [clusterId]);
  const { rows } = await client.query<{ cluster_id: string }>('SELECT cluster_id FROM fastpaca_archive');
  if (rows[0]?.cluster_id !== clusterId) {
    throw new ArchiveSetupError(`the archive belongs to cluster ${rows[0]?.cluster_id} and this is ${clusterId}; give each cluster a database or schema of its own`);
  }
}
