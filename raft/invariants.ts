/**
 * The properties that make Raft correct, by number, and the assertion that guards them in production.
 * raft/README.md says for each what enforces it. A broken one throws: a replica that no longer knows what is true
 * must stop rather than serve on.
 */

export const INVARIANTS = {
  I1: 'election safety: a term has at most one leader',
  I2: 'leader append-only: a leader never overwrites or removes entries of its own log',
  I3: 'log matching: entries are contiguous and their terms never decrease',
  I4: 'leader completeness: a leader holds every committed entry, so nobody acknowledges past its log',
  I5: 'state machine safety: committed entries are handed out once, in order, without a hole',
  I6: 'the term never decreases',
  I7: 'the vote never changes within a term',
  I8: 'the commit index never decreases and never passes the last entry',
  I9: 'the applied index never decreases and never passes the commit index',
  I10: 'a committed entry is never truncated',
  I11: 'at most one membership change is in the log unapplied, for as long as a leader proposes',
  I12: 'only what is durable on this replica is vouched for or applied: applied <= stable <= handed out <= last',
  I13: 'a leader commits by counting replicas only entries of its own term',
  I14: 'a configuration has a voter in each of its halves',
  I15: 'compaction never passes the applied index',
} as const;

export type InvariantId = keyof typeof INVARIANTS;

/** A broken invariant: state is no longer trustworthy and the process must stop. */
export class InvariantError extends Error {
  readonly invariant: InvariantId;

  constructor(invariant: InvariantId, detail: string) {
    super(`invariant ${invariant} broken (${INVARIANTS[invariant]}): ${detail}`);
    this.name = 'InvariantError';
    this.invariant = invariant;
  }
}

/**
 * Throws InvariantError unless `condition`. `left` and `right` are the two numbers that were compared; they are
 * formatted only on failure, so that an assertion on the hot path costs one branch.
 */
export function invariant(condition: boolean, id: InvariantId, left = 0, right = 0): asserts condition {
  if (!condition) throw new InvariantError(id, `${left} against ${right}`);
}
