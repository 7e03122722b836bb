/**
 * Which versions of the formats a cluster uses, so that two versions of the program can live in it while it is
 * upgraded: each node says in the table what it speaks, and the leader of the table raises what is used to the highest
 * that every member speaks. Nothing is ever lowered: a program that speaks less is refused from then on.
 *
 * A new kind or field of a command, of a table command, of a frame or of a stored row comes with a higher format, and
 * is used only once the table has it.
 */
import { COMMAND_FORMAT, DISK_FORMAT, WIRE_FORMAT } from '../constants.ts';
import type { Topology, TopologyNode } from './topology.ts';

export interface Formats {
  readonly disk: number;
  readonly wire: number;
  readonly command: number;
}

/** What this program speaks. */
export const OWN_FORMATS: Formats = { disk: DISK_FORMAT, wire: WIRE_FORMAT, command: COMMAND_FORMAT };
/** What every cluster begins with, whatever its founders speak: a table made by different versions must be the same. */
export const FOUNDING_FORMATS: Formats = { disk: 1, wire: 1, command: 1 };

/** What a member speaks as far as the table knows. */
function spokenBy(node: TopologyNode): Formats {
  return node.formats ?? FOUNDING_FORMATS;
}

function same(a: Formats, b: Formats): boolean {
  return a.disk === b.disk && a.wire === b.wire && a.command === b.command;
}

/** True once the table has what this node speaks. */
export function isSaid(node: TopologyNode): boolean {
  return same(spokenBy(node), OWN_FORMATS);
}

/** The highest that every member speaks, never lower than what is used. */
function highest({ nodes, formats }: Topology): Formats {
  const members = nodes.filter((node) => node.state !== 'removed').map(spokenBy);
  const lowest = (kind: keyof Formats): number => Math.max(formats[kind], Math.min(...members.map((spoken) => spoken[kind])));
  return { disk: lowest('disk'), wire: lowest('wire'), command: lowest('command') };
}

/** What the formats in use could be raised to now, or null. */
export function raisable(topology: Topology): Formats | null {
  const next = highest(topology);
  return same(next, topology.formats) ? null : next;
}

/** True if the table may say that these formats are used. */
export function mayRaise(topology: Topology, formats: Formats): boolean {
  const bound = highest(topology);
  const fits = (kind: keyof Formats): boolean => formats[kind] >= topology.formats[kind] && formats[kind] <= bound[kind];
  return fits('disk') && fits('wire') && fits('command');
}

/** Why this program is too old for a cluster that uses `formats`: a line for the operator; null if it is not. */
export function tooOldFor(formats: Formats): string | null {
  for (const kind of ['disk', 'wire', 'command'] as const) {
    if (formats[kind] > OWN_FORMATS[kind]) {
      return `the cluster uses ${kind} format ${formats[kind]}, this program speaks up to ${OWN_FORMATS[kind]}: run the version that the other nodes run, or a later one`;
    }
  }
  return null;
}
