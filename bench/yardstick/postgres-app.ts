/**
 * What a team writes instead: a web app in front of Postgres that counts tokens and appends in one statement.
 *
 *   node bench/yardstick/postgres-app.ts PORT DATABASE_URL
 */
import fastify from 'fastify';
import { getEncoding } from 'js-tiktoken';
import pg from 'pg';

const CONNECTIONS = 20;

const SCHEMA = `
CREATE TABLE contexts (
  id text PRIMARY KEY, last_seq bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0,
  token_count bigint NOT NULL DEFAULT 0, updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE messages (
  context_id text NOT NULL REFERENCES contexts (id), seq bigint NOT NULL, role text NOT NULL, parts jsonb NOT NULL,
  token_count integer NOT NULL, inserted_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (context_id, seq))`;

const CREATE = 'INSERT INTO contexts (id) VALUES ($1) ON CONFLICT DO NOTHING';

const APPEND = `
WITH context AS (
  UPDATE contexts SET last_seq = last_seq + 1, version = version + 1, token_count = token_count + $4, updated_at = now()
  WHERE id = $1 RETURNING last_seq, version)
INSERT INTO messages (context_id, seq, role, parts, token_count)
SELECT $1, last_seq, $2, $3, $4 FROM context RETURNING seq, (SELECT version FROM context)`;

interface Append {
  readonly Params: { readonly id: string };
  readonly Body: { readonly message: { readonly role: string; readonly parts: readonly { readonly type: string; readonly text?: string }[] } };
}

const BODY_SCHEMA = {
  type: 'object',
  required: ['message'],
  properties: {
    message: {
      type: 'object',
      required: ['role', 'parts'],
      properties: {
        role: { type: 'string', minLength: 1 },
        parts: { type: 'array', items: { type: 'object', required: ['type'], properties: { type: { type: 'string' }, text: { type: 'string' } } } },
      },
    },
  },
};

const [port = '', connectionString = ''] = process.argv.slice(2);
const pool = new pg.Pool({ connectionString, max: CONNECTIONS });
await pool.query(SCHEMA);
const encoding = getEncoding('o200k_base');
const app = fastify();

app.put<Append>('/v1/contexts/:id', async (request, reply) => {
  await pool.query({ name: 'create', text: CREATE, values: [request.params.id] });
  return reply.code(201).send({});
});

app.post<Append>('/v1/contexts/:id/messages', { schema: { body: BODY_SCHEMA } }, async (request, reply) => {
  const { role, parts } = request.body.message;
  let tokens = 0;
  for (const { text } of parts) if (text !== undefined) tokens += encoding.encode(text).length;
  const { rows } = await pool.query<{ seq: string; version: string }>({ name: 'append', text: APPEND, values: [request.params.id, role, JSON.stringify(parts), tokens] });
  const [row] = rows;
  if (row === undefined) return reply.code(404).send({ error: 'context_not_found' });
  return reply.code(201).send({ seq: Number(row.seq), version: Number(row.version), token_estimate: tokens });
});

await app.listen({ port: Number(port), host: '127.0.0.1' });
