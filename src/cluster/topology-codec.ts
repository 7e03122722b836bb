/**
 * The topology table and its commands as bytes: JSON, because both are small, rare and read by people who look for a
 * fault. Owns the forms only; what they mean is topology.ts.
 */
import { GROUP_COUNT } from '../constants.ts';
import type { PlacedReplica, Placement, Topology, TopologyCommand } from './topology.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The table as it is stored and sent. Settled replicas, nearly all, leave their phase out. */
export function encodeTopology(topology: Topology): Uint8Array {
  const groups = topology.groups.map((placement) => ({
    ...placement,
    replicas: placement.replicas.map((replica) => (replica.phase === 'settled' ? { id: replica.id, node: replica.node, voter: replica.voter } : replica)),
  }));
  return encoder.encode(JSON.stringify({ ...topology, groups }));
}

/** Reads a table that this program wrote, checksummed; anything else is a bug and throws. */
export function decodeTopology(row: Uint8Array): Topology {
  const value: unknown = JSON.parse(decoder.decode(row));
  if (!isStored(value)) throw new Error('the topology row does not hold a topology table');
  const groups = value.groups.map((placement): Placement => ({
    ...placement,
    replicas: placement.replicas.map((replica): PlacedReplica => ({ ...replica, phase: replica.phase ?? 'settled' })),
  }));
  // Tables of the first version know neither.
  return { ...value, revision: value.revision ?? value.epoch, retired: value.retired ?? [], groups };
}

type Stored<T, Optional extends keyof T> = Omit<T, Optional> & { readonly [K in Optional]?: T[K] };

interface StoredTopology extends Stored<Omit<Topology, 'groups'>, 'revision' | 'retired'> {
  readonly groups: readonly (Omit<Placement, 'replicas'> & { readonly replicas: readonly Stored<PlacedReplica, 'phase'>[] })[];
}

function isStored(value: unknown): value is StoredTopology {
  if (typeof value !== 'object' || value === null || !('epoch' in value) || !('nodes' in value) || !('groups' in value)) return false;
  return Array.isArray(value.groups) && value.groups.length === GROUP_COUNT + 1 && value.groups.every((group: unknown) => hasLists(group, 'replicas'));
}

export function encodeTopologyCommand(command: TopologyCommand): Uint8Array {
  return encoder.encode(JSON.stringify(command));
}

/** null for anything that is not a command: apply must be total, and the bytes came through a peer. */
export function decodeTopologyCommand(data: Uint8Array): TopologyCommand | null {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(data));
  } catch {
    return null;
  }
  return isCommand(value) ? value : null;
}

function isCommand(value: unknown): value is TopologyCommand {
  if (!isFields(value)) return false;
  switch (value['type']) {
    case 'coordinator':
      return isCount(value['ifEpoch']) && isText(value['name']);
    case 'address':
    case 'join':
      return isText(value['name']) && isText(value['storeId']) && isText(value['address']);
    case 'speaks':
      return isText(value['name']) && isText(value['storeId']) && isFormats(value['formats']);
    case 'formats':
      return isCount(value['ifEpoch']) && isFormats(value['formats']);
    case 'drain':
      return isText(value['name']) && typeof value['drain'] === 'boolean';
    case 'remove':
      return isText(value['name']) && typeof value['lost'] === 'boolean';
    case 'place':
      return (
        isCount(value['ifEpoch']) &&
        isList(value['moves'], (move) => isCount(move['group']) && isNull(move['remove'], isCount) && isNull(move['add'], isText)) &&
        isList(value['roles'], isRole) &&
        isList(value['preferred'], (entry) => isCount(entry['group']) && isText(entry['node']))
      );
    case 'settled':
      return isList(value['groups'], (entry) => isCount(entry['group']) && isList(entry['members'], isRole) && Array.isArray(entry['gone']) && entry['gone'].every(isCount));
    default:
      return false;
  }
}

const isRole = (entry: Fields): boolean => isCount(entry['id']) && typeof entry['voter'] === 'boolean';

const isFormats = (value: unknown): boolean => isFields(value) && isCount(value['disk']) && isCount(value['wire']) && isCount(value['command']);

type Fields = Readonly<Record<string, unknown>>;

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function hasLists(value: unknown, key: string): boolean {
  return isFields(value) && Array.isArray(value[key]);
}

function isList(value: unknown, isEntry: (entry: Fields) => boolean): boolean {
  return Array.isArray(value) && value.every((entry: unknown) => isFields(entry) && isEntry(entry));
}

function isNull(value: unknown, isElse: (value: unknown) => boolean): boolean {
  return value === null || isElse(value);
}

function isCount(value: unknown): boolean {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function isText(value: unknown): boolean {
  return typeof value === 'string' && value !== '';
}
