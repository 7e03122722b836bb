/**
 * Batches into Postgres: one statement, one round trip, one transaction each, and any number of times. Owns the writing
 * connection. Knows nothing of when to flush and when to try again (archiver.ts).
 *
 * The row in `contexts` is the lock of a context: every batch writes it first, in byte order of ids, so two writers
 * (an old leader and a new one) take turns, never deadlock, and neither can bring back what was purged meanwhile.
 */
import type { Client } from 'pg';
import { bytesArray, float8Array, int8Array } from './arrays.ts';
import { describe, isDataError } from './failures.ts';
import { isJsonbText, textOf, textOfLiteral } from './json.ts';
import type { ArchiveCompaction, ArchiveContext, ArchiveMessage } from './ports.ts';

/** One context's share of a batch. */
export interface BatchEntry {
  readonly context: string;
  readonly state: ArchiveContext;
  readonly messages: readonly ArchiveMessage[];
  readonly compactions: readonly ArchiveCompaction[];
}

export interface BatchResult {
  readonly rowsInserted: number;
  readonly bytesInserted: number;
  /** Messages whose parts or metadata Postgres takes no jsonb of. */
  readonly jsonRefused: number;
  /** Contexts that are not in the archive as the batch has them, and why; nothing of these may be acknowledged. */
  readonly rejected: ReadonlyMap<string, string>;
}

/** Columns of `contexts` that follow the newest state, with the type of their array. */
const STATE_COLUMNS = ['status', 'version', 'config_revision', 'last_seq', 'token_budget', 'trigger_ratio', 'policy', 'model', 'metadata', 'window_tokens', 'created_at', 'updated_at'] as const;
/** A context's history is one line, so the two counters order its states. */
const IS_NEWER = '(excluded.version, excluded.config_revision) >= (c.version, c.config_revision)';

const INSERT = `
WITH touched AS (
  INSERT INTO contexts AS c (id, ${STATE_COLUMNS.join(', ')}, tombstoned_at)
  SELECT id, status, version, config_revision, last_seq, token_budget, trigger_ratio, policy::jsonb, model, metadata::jsonb, window_tokens,
    to_timestamp(created_ms / 1000.0), to_timestamp(updated_ms / 1000.0), CASE status WHEN 'tombstoned' THEN to_timestamp(updated_ms / 1000.0) END
  FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::float8[], $8::text[], $9::text[], $10::text[], $11::int8[], $12::int8[], $13::int8[])
    AS s(id, status, version, config_revision, last_seq, token_budget, trigger_ratio, policy, model, metadata, window_tokens, created_ms, updated_ms)
  ON CONFLICT (id) DO UPDATE SET
    ${STATE_COLUMNS.map((column) => `${column} = CASE WHEN ${IS_NEWER} THEN excluded.${column} ELSE c.${column} END`).join(',\n    ')},
    tombstoned_at = coalesce(c.tombstoned_at, excluded.tombstoned_at)
  WHERE c.status <> 'purged'
  RETURNING c.id
), compacted AS (
  INSERT INTO compactions (context_id, version, compacted_at, from_seq, to_seq, replacement_count, messages_before, messages_after, tokens_before, tokens_after)
  SELECT k.context_id, k.version, to_timestamp(k.stamp_ms / 1000.0), k.from_seq, k.to_seq, k.replacement_count, k.messages_before, k.messages_after, k.tokens_before, k.tokens_after
  FROM unnest($14::text[], $15::int8[], $16::int8[], $17::int8[], $18::int8[], $19::int8[], $20::int8[], $21::int8[], $22::int8[], $23::int8[])
    AS k(context_id, version, stamp_ms, from_seq, to_seq, replacement_count, messages_before, messages_after, tokens_before, tokens_after)
  JOIN touched ON touched.id = k.context_id
  ON CONFLICT DO NOTHING
), inserted AS (
  INSERT INTO messages (context_id, seq, version, inserted_at, token_count, role, id, parts, metadata, body, row_head)
  SELECT m.context_id, m.seq, m.version, to_timestamp(m.stamp_ms / 1000.0), m.token_count, m.role, m.id, m.parts::jsonb, m.metadata::jsonb, m.body, m.row_head
  FROM unnest($24::text[], $25::int8[], $26::int8[], $27::int8[], $28::int8[], $29::text[], $30::text[], $31::text[], $32::text[], $33::bytea[], $34::bytea[])
    AS m(context_id, seq, version, stamp_ms, token_count, role, id, parts, metadata, body, row_head)
  JOIN touched ON touched.id = m.context_id
  ON CONFLICT DO NOTHING
  RETURNING octet_length(body) AS bytes
)
SELECT (SELECT count(*) FROM touched)::int AS contexts, (SELECT count(*) FROM inserted)::int AS rows, (SELECT coalesce(sum(bytes), 0) FROM inserted)::float8 AS bytes,
  -- What is acknowledged is trimmed: it must be on Postgres's disk, whatever the role's default says.
  CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END AS durable`;

/** Asked only when fewer rows went in than were sent: are those there already, byte for byte? */
const VERIFY = `
SELECT i.context_id, min(i.seq)::float8 AS seq FROM unnest($1::text[], $2::int8[], $3::bytea[]) AS i(context_id, seq, body)
LEFT JOIN messages m ON m.context_id = i.context_id AND m.seq = i.seq
WHERE m.body IS DISTINCT FROM i.body GROUP BY i.context_id`;
const PURGED = `SELECT id FROM contexts WHERE id = ANY($1::text[]) AND status = 'purged'`;

/** The mutable sum over the pieces of a batch. */
interface Tally {
  rowsInserted: number;
  bytesInserted: number;
  jsonRefused: number;
  readonly rejected: Map<string, string>;
}

/** Puts a batch into the archive. Throws what Postgres threw unless it concerns the data of single rows. */
export async function writeBatch(client: Client, batch: readonly BatchEntry[]): Promise<BatchResult> {
  const tally: Tally = { rowsInserted: 0, bytesInserted: 0, jsonRefused: 0, rejected: new Map() };
  const sorted = [...batch].sort((a, b) => Buffer.compare(Buffer.from(a.context), Buffer.from(b.context)));
  await write(client, sorted, tally);
  return tally;
}

/** Which jsonb columns an attempt fills. */
interface Json {
  readonly messages: boolean;
  readonly contexts: boolean;
}
const ALL_JSON: Json = { messages: true, contexts: true };
/** For one message whose row was refused: what else to try, the most first. */
const LESS_JSON: readonly Json[] = [
  { messages: false, contexts: true },
  { messages: true, contexts: false },
  { messages: false, contexts: false },
];

/** Writes entries; halves them when some row's data is refused, until that row stands alone and goes without jsonb. */
async function write(client: Client, entries: readonly BatchEntry[], tally: Tally): Promise<void> {
  const refusal = await tryInsert(client, entries, ALL_JSON, tally);
  if (refusal === null) return;
  const halves = split(entries);
  if (halves !== null) {
    for (const half of halves) await write(client, half, tally);
    return;
  }
  for (const json of LESS_JSON) if ((await tryInsert(client, entries, json, tally)) === null) return;
  for (const { context } of entries) tally.rejected.set(context, refusal);
}

/** null: written. Otherwise why Postgres refuses the data. */
async function tryInsert(client: Client, entries: readonly BatchEntry[], json: Json, tally: Tally): Promise<string | null> {
  try {
    await insert(client, entries, json, tally);
    return null;
  } catch (error) {
    if (isDataError(error)) return describe(error);
    throw error;
  }
}

function split(entries: readonly BatchEntry[]): [BatchEntry[], BatchEntry[]] | null {
  if (entries.length > 1) {
    const middle = entries.length >> 1;
    return [entries.slice(0, middle), entries.slice(middle)];
  }
  const only = entries[0];
  if (only === undefined || only.messages.length < 2) return null;
  const middle = only.messages.length >> 1;
  return [[{ ...only, messages: only.messages.slice(0, middle), compactions: [] }], [{ ...only, messages: only.messages.slice(middle) }]];
}

async function insert(client: Client, entries: readonly BatchEntry[], json: Json, tally: Tally): Promise<void> {
  const messages = columnsOfMessages(entries, json.messages);
  const { rows } = await client.query<{ contexts: number; rows: number; bytes: number }>(INSERT, [
    ...parametersOfContexts(entries, json.contexts),
    ...parametersOfCompactions(entries),
    messages.ids,
    int8Array(messages.seqs),
    int8Array(messages.versions),
    int8Array(messages.stamps),
    int8Array(messages.tokens),
    bytesArray('text', messages.roles),
    bytesArray('text', messages.clientIds),
    bytesArray('text', messages.parts),
    bytesArray('text', messages.metadata),
    messages.bodies,
    messages.rowHeads,
  ]);
  const [done] = rows;
  if (done === undefined) throw new Error('the archive answered an insert without a row');
  tally.rowsInserted += done.rows;
  tally.bytesInserted += done.bytes;
  tally.jsonRefused += messages.refused;
  if (done.contexts < entries.length) await findPurged(client, entries, tally);
  if (done.rows < messages.seqs.length) await verify(client, messages, tally);
}

/** Rows that were there already are what a repeated flush leaves; rows with other bytes must never pass for archived. */
async function verify(client: Client, messages: MessageColumns, tally: Tally): Promise<void> {
  const { rows } = await client.query<{ context_id: string; seq: number }>(VERIFY, [messages.ids, int8Array(messages.seqs), messages.bodies]);
  for (const { context_id: context, seq } of rows) {
    if (!tally.rejected.has(context)) tally.rejected.set(context, `message ${seq} is in the archive with other bytes, or is missing from it`);
  }
}

async function findPurged(client: Client, entries: readonly BatchEntry[], tally: Tally): Promise<void> {
  const ids = bytesArray('text', entries.map(({ context }) => Buffer.from(context)));
  const { rows } = await client.query<{ id: string }>(PURGED, [ids]);
  for (const { id } of rows) tally.rejected.set(id, 'it was purged');
}

interface MessageColumns {
  readonly ids: Buffer;
  readonly bodies: Buffer;
  readonly rowHeads: Buffer;
  readonly seqs: readonly number[];
  readonly versions: readonly number[];
  readonly stamps: readonly number[];
  readonly tokens: readonly number[];
  readonly roles: readonly (Uint8Array | null)[];
  readonly clientIds: readonly (Uint8Array | null)[];
  readonly parts: readonly (Uint8Array | null)[];
  readonly metadata: readonly (Uint8Array | null)[];
  /** Messages without their jsonb. */
  readonly refused: number;
}

function columnsOfMessages(entries: readonly BatchEntry[], withJson: boolean): MessageColumns {
  const ids: Uint8Array[] = [];
  const bodies: Uint8Array[] = [];
  const rowHeads: Uint8Array[] = [];
  const seqs: number[] = [];
  const versions: number[] = [];
  const stamps: number[] = [];
  const tokens: number[] = [];
  const roles: (Uint8Array | null)[] = [];
  const clientIds: (Uint8Array | null)[] = [];
  const parts: (Uint8Array | null)[] = [];
  const metadata: (Uint8Array | null)[] = [];
  let refused = 0;
  for (const entry of entries) {
    const id = Buffer.from(entry.context);
    for (const message of entry.messages) {
      ids.push(id);
      bodies.push(message.body);
      rowHeads.push(message.rowHead);
      seqs.push(message.seq);
      versions.push(message.version);
      stamps.push(message.stampMs);
      tokens.push(message.tokens);
      roles.push(textOfLiteral(message.roleText));
      clientIds.push(textOfLiteral(message.idText));
      const partsFit = withJson && isJsonbText(message.partsText);
      const metadataFits = withJson && isJsonbText(message.metadataText);
      parts.push(partsFit ? message.partsText : null);
      metadata.push(metadataFits ? message.metadataText : null);
      if (!partsFit || !metadataFits) refused++;
    }
  }
  return { ids: bytesArray('text', ids), bodies: bytesArray('bytea', bodies), rowHeads: bytesArray('bytea', rowHeads), seqs, versions, stamps, tokens, roles, clientIds, parts, metadata, refused };
}

function parametersOfContexts(entries: readonly BatchEntry[], withJson: boolean): Buffer[] {
  const texts = (of: (entry: BatchEntry) => Uint8Array | null): Buffer => bytesArray('text', entries.map(of));
  const integers = (of: (state: ArchiveContext) => number): Buffer => int8Array(entries.map(({ state }) => of(state)));
  const json = (text: Uint8Array): Uint8Array | null => (withJson && isJsonbText(text) ? text : null);
  return [
    texts(({ context }) => Buffer.from(context)),
    texts(({ state }) => Buffer.from(state.status)),
    integers((state) => state.version),
    integers((state) => state.configRevision),
    integers((state) => state.lastSeq),
    integers((state) => state.tokenBudget),
    float8Array(entries.map(({ state }) => state.triggerRatio)),
    texts(({ state }) => json(Buffer.from(state.policyText))),
    texts(({ state }) => (state.model === '' ? null : textOf(state.model))),
    texts(({ state }) => json(state.metadataText)),
    integers((state) => state.windowTokens),
    integers((state) => state.createdAtMs),
    integers((state) => state.updatedAtMs),
  ];
}

function parametersOfCompactions(entries: readonly BatchEntry[]): Buffer[] {
  const ids: Uint8Array[] = [];
  const all: ArchiveCompaction[] = [];
  for (const { context, compactions } of entries) {
    for (const compaction of compactions) {
      ids.push(Buffer.from(context));
      all.push(compaction);
    }
  }
  const integers = (of: (compaction: ArchiveCompaction) => number): Buffer => int8Array(all.map(of));
  return [
    bytesArray('text', ids),
    integers((compaction) => compaction.version),
    integers((compaction) => compaction.stampMs),
    integers((compaction) => compaction.fromSeq),
    integers((compaction) => compaction.toSeq),
    integers((compaction) => compaction.replacementCount),
    integers((compaction) => compaction.countBefore),
    integers((compaction) => compaction.countAfter),
    integers((compaction) => compaction.tokensBefore),
    integers((compaction) => compaction.tokensAfter),
  ];
}
