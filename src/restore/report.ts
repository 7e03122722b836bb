/** What `--restore` tells the operator: what came back, what did not, what nobody can know, and what to do next. */
import { dirname } from 'node:path';
import { table } from '../cli/table.ts';
import type { Restored, RestoredGroup } from './restore.ts';

type Kept = Extract<RestoredGroup, { kept: object }>;

/** The whole report, ending in a line end. */
export function report(restored: Restored): string {
  const kept = restored.groups.filter((group): group is Kept => group.kept !== null);
  const empty = restored.groups.flatMap((group) => (group.kept === null ? [group] : []));
  return [
    `${restored.directory} is restored: node '${restored.node}' is the one member of the new cluster ${restored.clusterId}.`,
    `It was a store of cluster ${restored.former.clusterId}, whose other nodes are refused from now on.`,
    '',
    ...totals(kept, empty.length),
    ...damage(kept, empty, restored.tableReason),
    '',
    ...missing(kept),
    '',
    ...next(restored),
    '',
  ].join('\n');
}

function totals(kept: readonly Kept[], empty: number): string[] {
  const sum = (of: (group: Kept['kept']) => number): number => kept.reduce((total, group) => total + of(group.kept), 0);
  const newest = Math.max(0, ...kept.map((group) => group.kept.newestAt));
  const unapplied = sum((group) => group.unapplied.length);
  return [
    `groups    ${kept.length} restored, ${empty} begun empty`,
    `contexts  ${sum((group) => group.contexts)}, which were given ${sum((group) => group.messages)} messages`,
    `newest    ${time(newest)}`,
    ...(unapplied === 0 ? [] : [`log       ${unapplied} entries are applied when the node starts: they may have been acknowledged, or not`]),
  ];
}

function damage(kept: readonly Kept[], empty: readonly { readonly group: number; readonly reason: string }[], tableReason: string | null): string[] {
  const lines = [
    ...empty.map(({ group, reason }) => `  group ${group} begins empty, all its contexts are lost: ${reason}`),
    ...kept.flatMap(({ group, kept: { damagedFrom, record } }) => (damagedFrom === null ? [] : [`  group ${group} lost its entries ${damagedFrom} to ${record.lastIndex}: its log is damaged`])),
    ...(tableReason === null ? [] : [`  the table of the cluster was made anew, no context is concerned: ${tableReason}`]),
  ];
  return lines.length === 0 ? [] : ['', 'Lost with this directory:', ...lines];
}

/** A write is acknowledged by a majority that need not include this directory: what others had beyond it, nobody knows. */
function missing(kept: readonly Kept[]): string[] {
  const doubtful = kept.filter((group) => group.doubt !== null);
  if (doubtful.length === 0) return ['Nothing was acknowledged without this directory: no write up to the moment it was copied is missing.'];
  const rows = doubtful.map(({ group, kept: { record, unapplied, contexts, newestAt }, doubt }) => {
    const last = unapplied.at(-1) ?? { index: record.appliedIndex, term: record.appliedTerm };
    return [String(group), String(last.index), String(last.term), String(contexts), time(newestAt), doubt ?? ''];
  });
  return [
    'What may be missing: a write is acknowledged once a majority of its group has it, and that can be the other nodes alone.',
    'Of each group below nothing is known from behind its last entry on; whatever was acknowledged there is lost.',
    '',
    table(['GROUP', 'LAST ENTRY', 'TERM', 'CONTEXTS', 'NEWEST WRITE', 'WHY'], rows, [0, 1, 2, 3]),
  ];
}

function next({ directory, shard, node, clusterId, former }: Restored): string[] {
  const start = shard === null ? `Start node '${node}' with FASTPACA_RAFT_DATA_DIR=${directory}` : `Restore the directories of its other shards too, then start node '${node}' with FASTPACA_RAFT_DATA_DIR=${dirname(directory)}`;
  return [
    'Next:',
    `  1. ${start}, and look at what it holds.`,
    '  2. Start the other nodes with empty data directories, the same FASTPACA_CLUSTER_SECRET and this node as seed.',
    // Of a divided node the first shard stands for all towards the archive.
    ...(shard === null || shard === 0
      ? [
          '  3. With the archive: once you are sure that it is of the same conversations, let the new cluster have it:',
          `     UPDATE fastpaca_archive SET cluster_id = '${clusterId}' WHERE cluster_id = '${former.archivedAs}';`,
        ]
      : []),
  ];
}

function time(ms: number): string {
  return ms === 0 ? 'none' : new Date(ms).toISOString();
}
