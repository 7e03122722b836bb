/** The command line of the server: what it is asked to do. Settings come from the environment alone (config.ts). */
import { parseArgs } from 'node:util';
import { SHARDS_MAX } from './cluster/seat.ts';

export type Invocation =
  | { readonly do: 'start' | 'check' | 'help' | 'version' }
  | { readonly do: 'restore'; readonly directory: string }
  | { readonly do: 'reshard'; readonly shards: number; readonly checkOnly: boolean }
  | { readonly do: 'refuse'; readonly reason: string };

export const USAGE = `Usage: node src/main.ts [--check | --restore DIR | --reshard N [--check] | --help | --version]

Starts one node of Fastpaca Context Store. It is configured by environment variables;
fastpaca.example.env lists them all.

  --check    look at the configuration, the data directory and the TLS files, say what
             would stop a start, one line for each problem, and exit with 0 or 1
  --restore DIR
             make a new cluster of one data directory, when the others are lost for good;
             its node is the only member, others join with empty directories. Needs no
             configuration. Keep a copy of DIR: docs/operations/restore.md
  --reshard N
             divide the data directory (FASTPACA_RAFT_DATA_DIR) into N shards, 1 for none,
             with everything in it. Only while every node of the cluster is stopped, and on
             each of them: docs/operations/reshard.md. With --check: say what would stop
             it and what would come out, and change nothing
  --help     print this
  --version  print the version
`;

/** Reads what follows the program's name. */
export function readArguments(argv: readonly string[]): Invocation {
  try {
    const { values } = parseArgs({
      args: [...argv],
      strict: true,
      options: { check: { type: 'boolean' }, restore: { type: 'string' }, reshard: { type: 'string' }, help: { type: 'boolean', short: 'h' }, version: { type: 'boolean' } },
    });
    if (values.help === true) return { do: 'help' };
    if (values.version === true) return { do: 'version' };
    if (values.reshard !== undefined) {
      const shards = /^\d{1,2}$/.test(values.reshard) ? Number(values.reshard) : 0;
      if (values.restore !== undefined || shards < 1 || shards > SHARDS_MAX) return { do: 'refuse', reason: `--reshard wants a number of shards from 1 to ${SHARDS_MAX} and nothing but --check besides; --help lists what is known` };
      return { do: 'reshard', shards, checkOnly: values.check === true };
    }
    if (values.restore !== undefined) {
      if (values.check === true || values.restore === '') return { do: 'refuse', reason: '--restore wants a directory and nothing else; --help lists what is known' };
      return { do: 'restore', directory: values.restore };
    }
    return { do: values.check === true ? 'check' : 'start' };
  } catch (error) {
    // parseArgs explains at length; its first sentence says what is wrong.
    const reason = error instanceof Error ? (error.message.split(/\. |\n/)[0] ?? '') : String(error);
    return { do: 'refuse', reason: `${reason}; --help lists what is known` };
  }
}
