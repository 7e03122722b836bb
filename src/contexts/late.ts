/**
 * Settling a manual window after messages whose calls have left it or lost parts of it: the policy cuts nothing, and the
 * window may be long, so only the units that the new messages touch are read. cut.ts does the same for the policies that
 * keep windows short, in one go with their cut.
 */
import { leaveTogether } from './cut.ts';
import type { CutInput, Settled } from './cut.ts';
import { Reach } from './reach.ts';
import { REPLACEMENT_SPAN } from './rows.ts';
import { strip } from './units.ts';

export interface LateInput extends CutInput {
  /** The log's newest before the append: what lies above has been added to the window's sums in full. */
  readonly lastSeqBefore: number;
  /** Seqs of this append that answer calls which skip_parts may have taken out. */
  readonly doubtful: readonly number[];
}

/** The window without the late results and all they are tied to, and without what skip_parts leaves nothing of. */
export function settleLate(input: LateInput): Settled {
  const { source, window, lastSeq, leadingCount, version, late, doubtful, lastSeqBefore } = input;
  const reach = new Reach(source, window, lastSeq);
  for (const seq of late) reach.take(seq);
  for (const seq of doubtful) reach.take(seq);
  reach.complete();
  const items = reach.items();
  strip(items, window.stripped, leadingCount);
  const left = leaveTogether(items, late);

  const shown = new Set<number>();
  for (const item of items) if (!item.hidden && !item.gone) shown.add(item.unit);
  let { tokens, count } = window;
  const out: number[] = [];
  const outOfReplacement: number[] = [];
  for (const item of items) {
    // Late results are in the sums as they came, everything older as it is shown.
    const counted = item.place > lastSeqBefore ? { tokens: item.row.tokens, count: 1 } : { tokens: item.tokens, count: item.hidden ? 0 : 1 };
    tokens += (item.gone ? 0 : item.tokens) - counted.tokens;
    count += (item.gone || item.hidden ? 0 : 1) - counted.count;
    // What is hidden because its call was would be shown again once that call has gone, so it goes by name.
    if (!item.gone && !(item.place > lastSeqBefore && !shown.has(item.unit))) continue;
    if (item.place > 0) out.push(item.place);
    else outOfReplacement.push(-item.place % REPLACEMENT_SPAN);
  }
  return {
    window: {
      ...window,
      tokens,
      count,
      pinned: window.pinned.filter((seq) => !out.includes(seq)),
      excluded: union(window.excluded, out.filter((seq) => seq >= window.firstSeq)),
      replacementExcluded: union(window.replacementExcluded, outOfReplacement),
      stableSinceVersion: left.length > 0 ? version : window.stableSinceVersion,
    },
    kind: left.length > 0 ? 'late_result' : 'recount',
    late: left,
  };
}

/** Both, ascending; they have none in common. */
function union(a: readonly number[], b: readonly number[]): readonly number[] {
  return b.length === 0 ? a : [...a, ...b].sort((x, y) => x - y);
}
