/**
 * What the nodes tell each other once a second, beside Raft: how their disks are and which groups they lead. Owns the
 * last answer of each peer; a leader needs the disks of its followers (DESIGN: marks), the cluster page the leaders of
 * groups that have no replica here.
 */
import type { GroupId, NodeId } from '../../raft/types.ts';
import { RequestKind, type PeerNetwork } from './ports.ts';

export interface NodeStatus {
  readonly space: 'ok' | 'soft' | 'hard';
  /** Its syncs take so long that it should lead nothing. */
  readonly slow: boolean;
  readonly leads: readonly GroupId[];
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
    return { space, slow: 'slow' in value && value.slow === true, leads: leads.filter((group): group is number => Number.isSafeInteger(group)) };
  } catch {
    return null;
  }
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
    if (status !== undefined) this.known.set(node, { ...status, leads: [] });
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
