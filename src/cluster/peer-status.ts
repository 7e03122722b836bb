/**
 * What the nodes tell each other once a second, beside Raft: how their disks are, which groups they lead, whom they
 * hear, which of their replicas are out. Owns the last answer of each peer; a leader needs the disks of its followers
 * (DESIGN: marks), the cluster page the leaders of groups that have no replica here, the coordinator all the rest.
 */
import type { GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { RequestKind, type PeerNetwork } from './ports.ts';

export interface NodeStatus {
  readonly space: 'ok' | 'soft' | 'hard';
  /** Its syncs take so long that it should lead nothing. */
  readonly slow: boolean;
  readonly leads: readonly GroupId[];
  /** Nodes with a live link to it. */
  readonly up: readonly NodeId[];
  /** Its replicas that cannot serve and are to be replaced. */
  readonly damaged: readonly DamagedStatus[];
  /** Nodes that it refuses or that refuse it. */
  readonly refused: readonly RefusedStatus[];
}

export interface DamagedStatus {
  readonly group: GroupId;
  readonly replica: ReplicaId;
  readonly reason: string;
}

export interface RefusedStatus {
  readonly node: NodeId;
  readonly reason: string;
}

const NOTHING = new Uint8Array();
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Answers RequestKind.status. */
export function encodeStatus(status: NodeStatus): Uint8Array {
  return encoder.encode(JSON.stringify(status));
}

function decodeStatus(bytes: Uint8Array): NodeStatus | null {
  try {
    const value: unknown = JSON.parse(decoder.decode(bytes));
    if (typeof value !== 'object' || value === null || !('space' in value) || !('leads' in value)) return null;
    const { space, leads } = value;
    if ((space !== 'ok' && space !== 'soft' && space !== 'hard') || !Array.isArray(leads)) return null;
    const { slow, up, damaged, refused }: Partial<Record<string, unknown>> = { ...value };
    return {
      space,
      slow: slow === true,
      leads: leads.filter((group): group is number => Number.isSafeInteger(group)),
      // A node of an earlier version does not say.
      up: entriesOf(up).filter((name) => typeof name === 'string'),
      damaged: entriesOf(damaged).filter(isDamaged),
      refused: entriesOf(refused).filter(isRefused),
    };
  } catch {
    return null;
  }
}

function entriesOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function isDamaged(value: unknown): value is DamagedStatus {
  if (typeof value !== 'object' || value === null) return false;
  const { group, replica, reason }: Partial<Record<string, unknown>> = { ...value };
  return Number.isSafeInteger(group) && Number.isSafeInteger(replica) && typeof reason === 'string';
}

function isRefused(value: unknown): value is RefusedStatus {
  if (typeof value !== 'object' || value === null) return false;
  const { node, reason }: Partial<Record<string, unknown>> = { ...value };
  return typeof node === 'string' && typeof reason === 'string';
}

export class PeerStatuses {
  private readonly network: PeerNetwork;
  private readonly known = new Map<NodeId, NodeStatus>();

  constructor(network: PeerNetwork) {
    this.network = network;
  }

  /** Asks every linked peer anew; one that does not answer, or in a form unknown here, counts as it last did. */
  ask(timeoutMs: number): void {
    for (const node of this.network.up()) {
      this.network.request(node, RequestKind.status, NOTHING, timeoutMs, (failure, answer) => {
        const status = failure === null && answer !== null ? decodeStatus(answer) : null;
        if (status !== null) this.known.set(node, status);
      });
    }
  }

  /** The node leads nothing any more as far as this one can tell; what its disk was like stays known. */
  lost(node: NodeId): void {
    const status = this.known.get(node);
    if (status !== undefined) this.known.set(node, { ...status, leads: [], up: [], refused: [] });
  }

  /** What linked peers said last, by node. */
  linked(): ReadonlyMap<NodeId, NodeStatus> {
    return new Map([...this.known].filter(([node]) => this.network.isUp(node)));
  }

  /** True while the node's disk is below a mark. */
  isLow(node: NodeId): boolean {
    return (this.known.get(node)?.space ?? 'ok') !== 'ok';
  }

  /** True while the node's disk hangs, as it said last. */
  isSlow(node: NodeId): boolean {
    return this.known.get(node)?.slow ?? false;
  }

  /** The node that said last that it leads the group. */
  leaderOf(group: GroupId): NodeId | null {
    for (const [node, { leads }] of this.known) if (leads.includes(group)) return node;
    return null;
  }
}
