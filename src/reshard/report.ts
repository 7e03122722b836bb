/** What `--reshard` tells the operator: how far it has come, what came of it, and what to do next. */
import type { Progress, Resharded } from './reshard.ts';

/** Between two lines about progress: a small directory is done before the first. */
const LINE_MS = 2000;

/** Lines for `write` from progress, none too often; `nowMs` only goes forward. */
export function progressLines(write: (line: string) => void, nowMs: () => number): (progress: Progress) => void {
  let saidMs = nowMs();
  return ({ doing, groups, ofGroups, rows, bytes }) => {
    if (nowMs() - saidMs < LINE_MS) return;
    saidMs = nowMs();
    write(`${doing}: ${groups} of ${ofGroups} groups, ${rows} rows, ${size(bytes)}\n`);
  };
}

/** The whole report; its last line says what was done. */
export function reshardReport(resharded: Resharded): string {
  const { dataDir } = resharded;
  switch (resharded.outcome) {
    case 'same': {
      const finished = resharded.wasInterrupted ? 'What was interrupted before is finished now.\n' : '';
      return `${finished}${dataDir} is ${shards(resharded.shards)}: nothing to do\n`;
    }
    case 'checked': {
      const { node, from, to, others } = resharded;
      return [
        ...clusters(resharded.clusterIds),
        '',
        ...(others.length === 0 ? [] : [`Each other node (${others.map((name) => `'${name}'`).join(', ')}) must tell the same ids with --reshard ${to} --check, before --reshard ${to} is run on any of them.`, '']),
        `${dataDir} of node '${node}' can be resharded from ${from} to ${to} (1: not divided); nothing was changed`,
        '',
      ].join('\n');
    }
    case 'done': {
      const { node, from, to, others, damaged, groups, rows, bytes } = resharded;
      return [
        ...damaged.map(({ group, reason }) => `group ${group} is damaged here and stays out until it is made anew from other nodes: ${reason}`),
        ...(damaged.length === 0 ? [] : ['']),
        ...clusters(resharded.clusterIds),
        '',
        'Next:',
        ...(others.length === 0
          ? [`  1. Start node '${node}' with FASTPACA_SHARDS=${to}.`]
          : [
              `  1. Run --reshard ${to} on ${others.map((name) => `'${name}'`).join(', ')} too, before any node is started. Each must tell the same ids as above.`,
              `  2. Start all nodes with FASTPACA_SHARDS=${to}.`,
            ]),
        '',
        `resharded ${dataDir} of node '${node}' from ${from} to ${to} (1: not divided): ${groups} groups, ${rows} rows, ${size(bytes)}`,
        '',
      ].join('\n');
    }
  }
}

function clusters(ids: readonly string[]): string[] {
  return ids.length === 1 ? [`cluster  ${ids[0]}`] : ['cluster', ...ids.map((id, index) => `  shard ${index}  ${id}`)];
}

function shards(count: number): string {
  return count === 1 ? 'not divided already' : `divided into ${count} shards already`;
}

function size(bytes: number): string {
  return bytes < 10 * 1024 * 1024 ? `${bytes} bytes` : `${Math.round(bytes / 1024 / 1024)} MiB`;
}
