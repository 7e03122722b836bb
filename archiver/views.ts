/**
 * Views for analysts. The tool views find calls and results in every layout that the server pairs; a test holds the
 * table below to the server's own, part by part. Only messages whose `parts` jsonb could hold are seen.
 */

interface Rule {
  readonly types: readonly string[];
  readonly kind: 'call' | 'result';
  /** Fields that may hold the call id; the first non-empty string counts. */
  readonly ids: readonly string[];
}

const RULES: readonly Rule[] = [
  // OpenAI chat, Responses, Anthropic, hand-made layouts, AI SDK model messages.
  { types: ['function', 'custom', 'mcp_approval_request', 'server_tool_use', 'mcp_tool_use'], kind: 'call', ids: ['id'] },
  { types: ['function_call', 'custom_tool_call', 'computer_call', 'local_shell_call', 'shell_call', 'apply_patch_call'], kind: 'call', ids: ['call_id', 'id'] },
  { types: ['function_call_output', 'custom_tool_call_output', 'computer_call_output', 'shell_call_output', 'apply_patch_call_output'], kind: 'result', ids: ['call_id'] },
  { types: ['local_shell_call_output'], kind: 'result', ids: ['call_id', 'id'] },
  { types: ['mcp_approval_response'], kind: 'result', ids: ['approval_request_id'] },
  { types: ['tool_use'], kind: 'call', ids: ['id', 'tool_use_id'] },
  { types: ['tool_call'], kind: 'call', ids: ['toolCallId', 'tool_call_id', 'tool_use_id', 'call_id', 'id'] },
  { types: ['tool_result'], kind: 'result', ids: ['toolCallId', 'tool_call_id', 'tool_use_id', 'call_id', 'id'] },
  { types: ['tool-call'], kind: 'call', ids: ['toolCallId'] },
  { types: ['tool-result', 'tool-error'], kind: 'result', ids: ['toolCallId'] },
  { types: ['tool-approval-request'], kind: 'call', ids: ['approvalId'] },
  { types: ['tool-approval-response'], kind: 'result', ids: ['approvalId'] },
];

const quoted = (texts: readonly string[]): string => texts.map((text) => `'${text}'`).join(', ');
const field = (name: string): string => `fastpaca_string(part, '${name}')`;
const firstOf = (ids: readonly string[]): string => (ids.length === 1 ? field(ids[0] ?? '') : `coalesce(${ids.map(field).join(', ')})`);
const LISTED = quoted(RULES.flatMap(({ types }) => types));
const IS_LISTED = `type IN (${LISTED})`;
/** Anthropic's server and MCP tools; AI SDK UI messages, where one part is the call and then also its outcome. */
const IS_SERVER_RESULT = `type LIKE '%\\_tool\\_result'`;
const IS_UI = `(type LIKE 'tool-%' OR type = 'dynamic-tool')`;
const UI_ANSWERED = `(part ? 'output' OR jsonb_typeof(part->'errorText') = 'string' OR coalesce(fastpaca_string(part, 'state'), '') LIKE 'output-%')`;

const CALL_ID = `CASE ${RULES.map(({ types, ids }) => `WHEN type IN (${quoted(types)}) THEN ${firstOf(ids)}`).join('\n      ')}
      WHEN ${IS_SERVER_RESULT} THEN ${field('tool_use_id')}
      WHEN ${IS_UI} THEN ${field('toolCallId')} END`;
const KIND = `CASE ${RULES.map(({ types, kind }) => `WHEN type IN (${quoted(types)}) THEN '${kind}'`).join('\n      ')}
      WHEN ${IS_SERVER_RESULT} THEN 'result'
      WHEN ${IS_UI} THEN CASE WHEN ${UI_ANSWERED} THEN 'both' ELSE 'call' END END`;

/** A part that no rule gives an id may still name the call it answers, as OpenAI's chat tool messages do. */
const MAY_ANSWER = `(${IS_LISTED} OR NOT (${IS_SERVER_RESULT} OR ${IS_UI}))`;

const NAME = `coalesce(
      fastpaca_string(part, 'name'), fastpaca_string(part, 'toolName'), fastpaca_string(part, 'tool_name'),
      fastpaca_string(part->'function', 'name'), fastpaca_string(part->'custom', 'name'),
      CASE WHEN ${IS_LISTED} THEN CASE WHEN type LIKE '%\\_call' THEN left(type, -5) END WHEN type LIKE 'tool-%' THEN substr(type, 6) END)`;

/** How each layout says that a tool failed; the last two lines are what tools themselves make of it. */
const IS_ERROR = `(
      type = 'tool-error'
      OR part->>'is_error' = 'true' OR part->>'isError' = 'true'
      OR part->>'state' IN ('output-error', 'output-denied') OR jsonb_typeof(part->'errorText') = 'string'
      OR part->>'status' IN ('failed', 'error', 'incomplete')
      OR part#>>'{output,type}' IN ('error-text', 'error-json', 'execution-denied') OR part#>>'{output,isError}' = 'true'
      OR part#>>'{content,type}' LIKE '%\\_error'
      OR jsonb_path_exists(part, '$.output[*].outcome.exit_code ? (@ != 0)')
      OR coalesce(part->'error', part#>'{output,error}', 'null') NOT IN ('null', 'false', '""')
      OR coalesce(part->>'output', part->>'content', part->>'text') ~* '^\\s*error\\y')`;

export const VIEWS = `
CREATE FUNCTION fastpaca_string(object jsonb, key text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT CASE WHEN jsonb_typeof(object->key) = 'string' THEN nullif(object->>key, '') END $$;
COMMENT ON FUNCTION fastpaca_string IS 'The field when it is a non-empty string';

CREATE VIEW usage_daily AS
SELECT (inserted_at AT TIME ZONE 'UTC')::date AS day, context_id, role, count(*) AS messages, sum(token_count)::bigint AS tokens
FROM messages GROUP BY 1, 2, 3;
COMMENT ON VIEW usage_daily IS 'Messages and tokens by UTC day, context and role';

CREATE VIEW conversations AS
SELECT c.id, c.status, c.model, c.metadata, c.created_at, c.updated_at, m.messages, m.tokens, m.user_messages,
  m.first_message_at, m.last_message_at, m.last_message_at - m.first_message_at AS duration
FROM contexts c JOIN (
  SELECT context_id, count(*) AS messages, sum(token_count)::bigint AS tokens, count(*) FILTER (WHERE role = 'user') AS user_messages,
    min(inserted_at) AS first_message_at, max(inserted_at) AS last_message_at
  FROM messages GROUP BY context_id) m ON m.context_id = c.id;
COMMENT ON VIEW conversations IS 'Contexts with what their archived messages sum up to';

CREATE VIEW tool_parts AS
SELECT context_id, seq, inserted_at, role, ordinal, type, kind, call_id, name, is_error, part
FROM (
  SELECT context_id, seq, inserted_at, role, ordinal, part, type, rule_id,
    CASE WHEN rule_id IS NOT NULL THEN ${KIND} WHEN answered_id IS NOT NULL THEN 'result' END AS kind,
    coalesce(rule_id, answered_id) AS call_id, ${NAME} AS name, ${IS_ERROR} AS is_error
  FROM (
    SELECT context_id, seq, inserted_at, role, ordinal, part, type, ${CALL_ID} AS rule_id,
      CASE WHEN ${MAY_ANSWER} THEN ${field('tool_call_id')} END AS answered_id
    FROM (
      SELECT m.context_id, m.seq, m.inserted_at, m.role, p.ordinal, p.part, p.part->>'type' AS type
      FROM messages m CROSS JOIN LATERAL jsonb_array_elements(m.parts) WITH ORDINALITY AS p(part, ordinal)
      WHERE p.part->>'type' NOT IN ('text', 'reasoning', 'thinking') OR p.part ? 'tool_call_id') AS typed
  ) AS identified
  WHERE rule_id IS NOT NULL OR answered_id IS NOT NULL
) AS classified;
COMMENT ON VIEW tool_parts IS 'Parts that are tool calls, results, or both in one';

CREATE VIEW tool_calls AS
WITH running AS (
  SELECT *, sum(CASE kind WHEN 'call' THEN 1 ELSE -1 END) OVER by_id AS open
  FROM tool_parts WHERE kind <> 'both'
  WINDOW by_id AS (PARTITION BY context_id, call_id ORDER BY seq, ordinal ROWS UNBOUNDED PRECEDING)
), clamped AS (
  -- A result without an open call takes nothing away: unanswered calls of an id are the sum above its lowest point.
  SELECT *, open - least(0, min(open) OVER (PARTITION BY context_id, call_id ORDER BY seq, ordinal ROWS UNBOUNDED PRECEDING)) AS depth
  FROM running
), levelled AS (
  SELECT *, CASE kind WHEN 'call' THEN depth ELSE coalesce(lag(depth) OVER (PARTITION BY context_id, call_id ORDER BY seq, ordinal), 0) END AS level
  FROM clamped
), paired AS (
  -- On one level calls and results alternate, so the nearest earlier unanswered call of a result is the one before it.
  SELECT *, lead(seq) OVER next_one AS next_seq, lead(kind) OVER next_one AS next_kind, lead(inserted_at) OVER next_one AS next_at,
    lead(is_error) OVER next_one AS next_error
  FROM levelled WHERE level > 0
  WINDOW next_one AS (PARTITION BY context_id, call_id, level ORDER BY seq, ordinal)
)
SELECT context_id, seq, ordinal, call_id, coalesce(name, 'unnamed') AS name, inserted_at AS called_at, part AS call,
  CASE WHEN next_kind = 'result' THEN next_seq END AS result_seq,
  CASE WHEN next_kind = 'result' THEN next_at END AS answered_at,
  CASE WHEN next_kind = 'result' THEN coalesce(next_error, false) END AS is_error,
  CASE WHEN next_kind = 'result' THEN next_at - inserted_at END AS latency
FROM paired WHERE kind = 'call'
UNION ALL
SELECT context_id, seq, ordinal, call_id, coalesce(name, 'unnamed'), inserted_at, part, seq, inserted_at, coalesce(is_error, false), NULL
FROM tool_parts WHERE kind = 'both';
COMMENT ON VIEW tool_calls IS 'Calls with the result that answers each. latency is NULL where call and result are one part';

CREATE VIEW tool_call_stats AS
SELECT name, count(*) AS calls, count(result_seq) AS answered, count(*) FILTER (WHERE is_error) AS errors,
  round(count(*) FILTER (WHERE is_error)::numeric / nullif(count(result_seq), 0), 4) AS error_rate,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY latency) AS latency_p50,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY latency) AS latency_p95
FROM tool_calls GROUP BY name;
COMMENT ON VIEW tool_call_stats IS 'Tools by name: how often, how often in vain, how long';`;
