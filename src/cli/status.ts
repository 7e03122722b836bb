/** `cluster status`: the answer of GET /v1/cluster for people. Decodes what it shows and ignores what it does not know. */
import { CliError, ExitCode } from './client.ts';
import { table } from './table.ts';

/** Groups named one by one, and rows of changes and damage shown; the rest is counted. */
const NAMED_MAX = 10;
const ROWS_MAX = 20;

export interface ClusterNode {
  readonly id: string;
  readonly address: string;
  readonly state: string;
  readonly reason: string | null;
  readonly groups: number;
  readonly leaders: number;
}

export interface ClusterGroup {
  readonly id: number;
  readonly leader: string | null;
  readonly replicas: readonly string[];
  readonly state: string;
}

export interface ClusterStatus {
  /** null: the node belongs to no cluster yet. */
  readonly clusterId: string | null;
  readonly coordinator: string | null;
  readonly nodes: readonly ClusterNode[];
  readonly groups: readonly ClusterGroup[];
  /** Replicas on their way into a group or out of it, and those that took themselves out, as the node names them. */
  readonly moves: readonly Row[];
  readonly damaged: readonly Row[];
  /** What should be done and cannot be, one line each. */
  readonly waiting: readonly string[];
}

type Row = Readonly<Record<string, unknown>>;

/** Throws CliError `refused` for an answer of another shape. */
export function decodeStatus(value: unknown): ClusterStatus {
  const body = objectOf(value, 'cluster');
  return {
    clusterId: textOrNull(body['cluster_id']),
    coordinator: textOrNull(body['coordinator']),
    nodes: listOf(body['nodes'], 'nodes').map((entry, i) => {
      const node = objectOf(entry, `nodes[${i}]`);
      return {
        id: textOf(node['id'], `nodes[${i}].id`),
        address: textOf(node['address'], `nodes[${i}].address`),
        state: textOf(node['state'], `nodes[${i}].state`),
        reason: textOrNull(node['reason']),
        groups: countOf(node['groups'], `nodes[${i}].groups`),
        leaders: countOf(node['leaders'], `nodes[${i}].leaders`),
      };
    }),
    groups: listOf(body['groups'], 'groups').map((entry, i) => {
      const group = objectOf(entry, `groups[${i}]`);
      return {
        id: countOf(group['id'], `groups[${i}].id`),
        leader: textOrNull(group['leader']),
        replicas: listOf(group['replicas'], `groups[${i}].replicas`).map((replica) => textOf(replica, `groups[${i}].replicas`)),
        state: textOf(group['state'], `groups[${i}].state`),
      };
    }),
    moves: rowsOf(body['moves'], 'moves'),
    damaged: rowsOf(body['damaged'], 'damaged'),
    waiting: body['waiting'] === undefined ? [] : listOf(body['waiting'], 'waiting').map((line, i) => textOf(line, `waiting[${i}]`)),
  };
}

/** Lines for a terminal: a summary, the nodes, and what is not as it should be. */
export function renderStatus(status: ClusterStatus): string {
  const { clusterId, coordinator, nodes, groups, moves, damaged, waiting } = status;
  if (clusterId === null) return 'The node belongs to no cluster yet; GET /health/ready says what it waits for.\n';
  const leaderless = groups.filter((group) => group.leader === null);
  const out = [
    `Cluster ${clusterId}, coordinator ${coordinator ?? '-'}: ${counted(nodes.length, 'node')}, ${counted(groups.length, 'group')}, ${leaderless.length} without a leader, ${counted(moves.length, 'move')} under way`,
    '',
    table(['NODE', 'ADDRESS', 'STATE', 'GROUPS', 'LEADERS'], nodes.map((node) => [node.id, node.address, node.state, String(node.groups), String(node.leaders)]), [3, 4]),
  ];
  for (const { id, reason } of nodes) if (reason !== null) out.push('', `${id}: ${reason}`);
  if (leaderless.length > 0) out.push('', `Without a leader: ${named(leaderless.map((group) => group.id))}`);
  if (damaged.length > 0) out.push('', 'Damaged:', '', rows(damaged));
  if (moves.length > 0) out.push('', 'Under way:', '', rows(moves));
  if (waiting.length > 0) out.push('', 'Waiting:', ...waiting.map((line) => `  ${line}`));
  return `${out.join('\n')}\n`;
}

/** A column for each field that any of them has, in the node's order. */
function rows(all: readonly Row[]): string {
  const columns = [...new Set(all.flatMap((row) => Object.keys(row)))];
  const lines = table(columns.map((column) => column.toUpperCase()), all.slice(0, ROWS_MAX).map((row) => columns.map((column) => shown(row[column]))), []);
  return all.length > ROWS_MAX ? `${lines}\nand ${all.length - ROWS_MAX} more` : lines;
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

function named(ids: readonly number[]): string {
  const first = ids.slice(0, NAMED_MAX).join(', ');
  return ids.length > NAMED_MAX ? `${first} and ${ids.length - NAMED_MAX} more` : first;
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return '-';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

function objectOf(value: unknown, path: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed(path, 'an object');
  return { ...value };
}

function listOf(value: unknown, path: string): readonly unknown[] {
  if (!Array.isArray(value)) throw malformed(path, 'a list');
  return value;
}

/** Absent: none. */
function rowsOf(value: unknown, path: string): readonly Row[] {
  return value === undefined ? [] : listOf(value, path).map((row, i) => objectOf(row, `${path}[${i}]`));
}

function textOf(value: unknown, path: string): string {
  if (typeof value !== 'string') throw malformed(path, 'a string');
  return value;
}

function textOrNull(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null;
}

function countOf(value: unknown, path: string): number {
  if (typeof value !== 'number') throw malformed(path, 'a number');
  return value;
}

function malformed(path: string, expected: string): CliError {
  return new CliError(ExitCode.refused, `the answer of GET /v1/cluster is not understood: ${path} should be ${expected}`);
}
