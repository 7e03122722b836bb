/** Outcomes that change nothing. */
import type { Outcome, Reply } from './types.ts';

/** A reply without effects. */
export function answer(reply: Reply): Outcome {
  return { reply, events: [], writes: [], header: null, config: null };
}

/** A refusal that needs no further fields. */
export function refuse(code: 'context_not_found' | 'context_tombstoned' | 'context_purged' | 'idempotency_conflict' | 'invalid_command'): Outcome {
  return answer({ ok: false, code });
}
