/**
 * The seams inside src/cluster: who this node is, how it talks to its peers. links.ts implements PeerNetwork over ws;
 * founding.ts decides once who the first members are; topology.ts and coordinator.ts build on both.
 */
import type { SecureContext } from 'node:tls';

/** This node, as its data directory knows it. `generation` and `nonce` change at every open (fsynced before use). */
export interface NodeIdentity {
  readonly name: string;
  /** Random, minted with the data directory. */
  readonly storeId: string;
  /** '' until founded or joined. */
  readonly clusterId: string;
  readonly generation: number;
  readonly nonce: string;
}

/** Another node as it introduced itself in an authenticated handshake. */
export interface PeerInfo {
  readonly name: string;
  readonly storeId: string;
  readonly clusterId: string;
  readonly generation: number;
  readonly nonce: string;
  /** host:port it wants to be reached at. */
  readonly address: string;
  readonly wireFormat: number;
}

/** Small synced key-value facts about this node itself (identity, promises, peers' generations). storage/ implements it. */
export interface NodeFacts {
  get(key: string): Uint8Array | undefined;
  /** Resolves when synced. */
  put(key: string, value: Uint8Array): Promise<void>;
}

/** What founding agrees on; written by every founding member before it counts itself founded. */
export interface FoundingRecord {
  readonly clusterId: string;
  /** In byte order of name. */
  readonly members: readonly { readonly name: string; readonly storeId: string; readonly address: string }[];
  /** Hex key that members without a configured secret authenticate with afterwards. */
  readonly mintedKey: string;
  /** The cluster under whose id the archive has this one's conversations. Absent: itself; another one once it was resharded. */
  readonly archivedAs?: string;
}

/** Request kinds multiplexed over a peer link; the body is opaque to the link. */
export const RequestKind = {
  /** Propose an encoded command: body group u16, command. Answer: JSON outcome. */
  propose: 1,
  /** A store verb for a node that hosts no replica of the group: JSON in, verb answer out. */
  read: 2,
  /** Change to the topology group, JSON. */
  topology: 3,
  /** How the node's disk is and what it leads: no body; the answer is peer-status.ts'. */
  status: 4,
  /** A page of the contexts of some groups, for a listing on another node: JSON in, src/listing/wire.ts out. */
  list: 5,
  /** Whether a replica there has applied, and holds no trace any more, of what is to be erased: src/erasure/wire.ts. */
  erase: 6,
  /** What the state of a replica there was at some index, or that it is not the others': comparison.ts. */
  compare: 7,
} as const;
export type RequestKind = (typeof RequestKind)[keyof typeof RequestKind];

/** 'link_down': certainly not delivered. 'lost': sent, the link broke or time ran out before an answer. */
export type RequestFailure = 'link_down' | 'lost' | 'remote_error';

/** What a TLS connection to another node is made with. */
export interface PeerTls {
  readonly secureContext: SecureContext;
}

/** Asked at every connection, so that a renewed certificate counts from the next one on. */
export type PeerTlsSource = () => PeerTls;

/** Why another node, or whoever took itself for one, was turned away here: the values of a metric's label. */
export const PEER_REFUSALS = [
  // Before the handshake: no key, no certificate of the authority, this node is out or not in a cluster.
  'unauthorized', 'certificate', 'stepped_back', 'not_founded',
  // In the handshake.
  'other_cluster', 'version', 'stale', 'store_changed', 'removed', 'rolled_back', 'duplicate', 'unproven', 'failed',
  // At any time: bytes that are no frame or document, and those beyond the bounds.
  'malformed', 'too_large',
] as const;
export type PeerRefusal = (typeof PEER_REFUSALS)[number];

export interface PeerNetwork {
  /** Best effort; false when there is no link or its buffer bound is reached. Raft frames go out at once. */
  send(node: string, frame: Uint8Array): boolean;
  bufferedBytes(node: string): number;
  /**
   * One request, one answer, correlated by id; requests made in one turn of the event loop share a frame.
   * `done` is called exactly once.
   */
  request(node: string, kind: RequestKind, body: Uint8Array, timeoutMs: number, done: (failure: RequestFailure | null, answer: Uint8Array | null) => void): void;
  isUp(node: string): boolean;
  /** Names of peers with a live, authenticated link. */
  up(): readonly string[];
}

/** Traces of commands, where they are wanted. Every span is ended exactly once. */
export interface CommandTraces {
  /** A command of a caller on this node sets out for its leader. */
  propose(group: number): ProposeSpan;
  /** A command has come to its leader, this node. `parent`: ProposeSpan.context of the node it came from. */
  lead(group: number, parent: Uint8Array): LeadSpan;
}

export interface ProposeSpan {
  /** What travels with the command, at most 255 bytes; null if this one is not traced. */
  readonly context: Uint8Array | null;
  end(outcome: string): void;
}

export interface LeadSpan {
  /** Told in the turn in which the command was applied, if it was. */
  end(outcome: string): void;
}

export interface PeerEvents {
  onFrame(from: string, frame: Uint8Array): void;
  /** Answer by calling `reply` once, now or later; throwing answers remote_error. */
  onRequest(from: string, kind: RequestKind, body: Uint8Array, reply: (answer: Uint8Array) => void): void;
  onUp(peer: PeerInfo): void;
  onDown(node: string): void;
}
