/**
 * The state machine's vocabulary: what a command carries in, which rows a context is made of, what comes out.
 * Pure: no clock, no IO, no JSON parsing after the edge. Everything apply needs to decide is in the command.
 * Text from clients is kept as the bytes that came in (`…Text`: UTF-8 JSON text) and never re-encoded.
 */
import type { ContextHeads } from './heads.ts';
import type { KeyMemory } from './keys.ts';

/** What a part is to tool integrity. `both`: a call that carries its own result (AI SDK tool parts). */
export const PartRole = { none: 0, call: 1, result: 2, both: 3 } as const;
export type PartRole = (typeof PartRole)[keyof typeof PartRole];

/** What a message's role means to windows. `other` is any role not listed. */
export const RoleKind = { other: 0, system: 1, user: 2, assistant: 3, tool: 4 } as const;
export type RoleKind = (typeof RoleKind)[keyof typeof RoleKind];

/** One element of a message's `parts` array, described at the edge so that apply never parses JSON. */
export interface PartInfo {
  /** Byte offsets of the element's JSON text within `partsText`: [start, end). */
  readonly start: number;
  readonly end: number;
  /** The part's `type`. */
  readonly kind: string;
  readonly role: PartRole;
  /** Call id for call, result and both; '' otherwise. */
  readonly callId: string;
  /** Estimated tokens of this part alone. */
  readonly tokens: number;
}

/** A validated message on its way in. */
export interface NewMessage {
  /** JSON string literal of the role, quotes included ("system" and "developer" have roleKind system). */
  readonly roleText: Uint8Array;
  readonly roleKind: RoleKind;
  /** JSON string literal of the client's id, or empty. */
  readonly idText: Uint8Array;
  /** JSON array text, verbatim. */
  readonly partsText: Uint8Array;
  /** JSON object text, verbatim; `{}` when absent. */
  readonly metadataText: Uint8Array;
  readonly parts: readonly PartInfo[];
  /** The client's `token_count` when tokensGiven, else the sum of the parts' estimates. */
  readonly tokens: number;
  readonly tokensGiven: boolean;
}

export type Strategy = 'last_n' | 'skip_parts' | 'manual';

/** A complete, validated policy; defaults are filled in at the edge. */
export interface Policy {
  readonly strategy: Strategy;
  /** Messages beyond which compaction is due; ignored by manual. */
  readonly limit: number;
  /** Part type prefixes that skip_parts removes. */
  readonly skipKinds: readonly string[];
  /** Share of token_budget a compaction cuts to; at most trigger_ratio. */
  readonly targetRatio: number;
  /** Keep leading system messages and a compaction's replacement until everything else is gone. */
  readonly pin: boolean;
}

/** Settings of a context: written by `put`, read by appends and windows. Raising any of them raises configRevision. */
export interface ContextConfig {
  readonly tokenBudget: number;
  readonly triggerRatio: number;
  readonly policy: Policy;
  /** JSON object text. */
  readonly metadataText: Uint8Array;
  /** Model name for token estimates; '' for the server's default. */
  readonly model: string;
  /** 0: lives for ever. */
  readonly ttlSeconds: number;
}

export type ContextStatus = 'active' | 'tombstoned';

/** `purged`: what is left of a context that was erased. For readers there is none; the id is never used again. */
export type HeaderStatus = ContextStatus | 'purged';

/**
 * One run of skip_parts: log messages below `before` are shown without parts whose kind starts with one of `kinds`.
 * `through` is the last seq there was when it ran: a result up to there can still save its call (a pair goes only
 * whole), a later one arrives for a call that has left and goes too.
 */
export interface Stripped {
  readonly before: number;
  readonly through: number;
  readonly kinds: readonly string[];
}

/** The window as stored: not the messages but where they are. Deterministic from log, config history and compactions. */
export interface WindowState {
  /** Version of the compaction whose replacement rows lead the window; 0 for none. */
  readonly replacementVersion: number;
  /** Rows stored by that compaction: positions 0 … replacementCount - 1. */
  readonly replacementCount: number;
  /** Its positions still in the window are those >= replacementFirst, less replacementExcluded (ascending). */
  readonly replacementFirst: number;
  readonly replacementExcluded: readonly number[];
  /** Live messages are those with seq >= firstSeq, less `excluded`, plus the `pinned` ones below it. */
  readonly firstSeq: number;
  /** Seqs below firstSeq that stay (leading system messages, early members of a kept unit), ascending. */
  readonly pinned: readonly number[];
  /** Seqs at or above firstSeq that left with the unit they belong to (e.g. a late result of a dropped call), ascending. */
  readonly excluded: readonly number[];
  /** What skip_parts took out; the oldest run first. */
  readonly stripped: readonly Stripped[];
  /** Sum over the stored window. */
  readonly tokens: number;
  /** Messages in the stored window, replacement included. */
  readonly count: number;
  /** Version at which the window's prefix last changed (compaction of any kind); appends keep it. */
  readonly stableSinceVersion: number;
}

/** Who may compact just now: a summariser that asked first. */
export interface Claim {
  /** Random bytes stamped by the proposer; whoever shows them holds the claim. */
  readonly token: Uint8Array;
  /** Milliseconds since the epoch; the claim is live while stamps are below it. */
  readonly expiresAt: number;
}

/** Counters of a context; rewritten by every change, so it stays small. */
export interface ContextHeader {
  readonly status: HeaderStatus;
  readonly version: number;
  readonly configRevision: number;
  readonly lastSeq: number;
  /** The log opens with this many system messages (counted up to LEADING_MAX): the ones that may be pinned. */
  readonly leadingCount: number;
  /** What the archive has confirmed: messages up to archivedSeq; state and compactions up to archivedVersion; settings up to archivedRevision (-1: none). */
  readonly archivedSeq: number;
  readonly archivedVersion: number;
  readonly archivedRevision: number;
  /** Messages up to here are only in the archive, but for the window's pinned ones. At most archivedSeq, below window.firstSeq. */
  readonly trimmedSeq: number;
  /** Milliseconds since the epoch, from the stamps of commands. */
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly window: WindowState;
  /** Keyed writes so far, and the oldest still remembered: the bounds of the idempotency ring. */
  readonly keyedNewest: number;
  readonly keyedOldest: number;
  /** Cuts so far, numbered from 1: the `cut` rows. */
  readonly cutCount: number;
  /** Windows can be told from this version on: 0, or where a context of an older format began to keep cuts. */
  readonly historyFrom: number;
  /** What a counted token costs at the provider, in 1/1024 (see usage.ts). */
  readonly calibration: number;
  readonly claim: Claim | null;
}

/**
 * The tables a context's rows live in. `key` is a number (seq, version, ring position; sorted big-endian), a string,
 * or '' where a context has one row. src/storage/keys.ts turns them into bytes.
 */
export type Table =
  | 'config' // key ''
  | 'header' // key ''
  | 'message' // key seq
  | 'replacement' // key: replacementVersion * 2^20 + position
  | 'compaction' // key version
  | 'openCall' // key: call id. Where its calls are that have no result yet, and the one answered last
  | 'keyed' // key: idempotency key. Digest of the body, first answer
  | 'keyedRing' // key: ring position. The idempotency key, for expiry
  | 'cut' // key: number of the cut, from 1. What changed the window other than by growing, and what it was before
  | 'revision' // key: config revision. The settings that shape windows, and the version from which they were in force
  | 'answers' // key: answersKey(place). Where a message's calls were answered from afar
  | 'unarchived' // key ''. The archive is behind, or there is something to trim (archive.ts)
  | 'expiring' // key ''. The context has a ttl
  | 'purging'; // key ''. The context was purged, and not all traces of it are gone yet (purge.ts)
export type RowKey = number | string;

/** Names a row of one context. */
export interface RowRef {
  readonly table: Table;
  readonly key: RowKey;
}

export interface Write {
  readonly table: Table;
  readonly context: string;
  readonly key: RowKey;
  /** null deletes. */
  readonly value: Uint8Array | null;
}

/** What apply and windows read. Implemented by machine.ts over storage; always current, overlay included. */
export interface Rows {
  config(context: string): ContextConfig | undefined;
  header(context: string): ContextHeader | undefined;
  get(table: Table, context: string, key: RowKey): Uint8Array | undefined;
  /** Heads of the context's messages, from memory, for a cut of its window; absent where none are kept. */
  heads?(context: string): ContextHeads;
  /** Idempotency keys in memory; absent where none are kept. */
  readonly keys?: KeyMemory;
}

export type Command =
  | {
      readonly type: 'put';
      readonly context: string;
      /** Present fields replace, absent stay (or default on creation). */
      readonly settings: Partial<ContextConfig>;
      /** Compare-and-set on config_revision for read-modify-write callers; -1: unconditional. */
      readonly ifConfigRevision: number;
      /** true: fail with context_not_found instead of creating. */
      readonly mustExist: boolean;
    }
  | {
      readonly type: 'append';
      readonly context: string;
      readonly messages: readonly NewMessage[];
      /** -1: unconditional. */
      readonly ifVersion: number;
      /** null when the client sent no Idempotency-Key. `digest`: 16 bytes over the request body. */
      readonly idempotency: { readonly key: string; readonly digest: Uint8Array } | null;
      /** The model the parts were counted for: must equal the context's, else the reply is `model_mismatch`. */
      readonly model: string;
    }
  | {
      readonly type: 'compact';
      readonly context: string;
      readonly replacement: readonly NewMessage[];
      readonly ifVersion: number;
      /** 0: nothing of the log stays in the window. */
      readonly keepFromSeq: number;
      /** Token of the claim under which the replacement was made; absent without one. */
      readonly claim?: Uint8Array;
    }
  | {
      /** Asks for the sole right to compact; with the token that holds it already, extends it. */
      readonly type: 'claim';
      readonly context: string;
      /** 0 gives the claim back. */
      readonly ttlSeconds: number;
      /** CLAIM_TOKEN_BYTES random bytes made by the proposer. */
      readonly token: Uint8Array;
    }
  | {
      /** What the provider counted for the window of `version`. */
      readonly type: 'usage';
      readonly context: string;
      readonly version: number;
      readonly inputTokens: number;
    }
  | { readonly type: 'tombstone'; readonly context: string }
  | {
      /** What is durably in the archive, for contexts of one group. */
      readonly type: 'ack_archived';
      /** Of the first of `acks`: where the command goes. */
      readonly context: string;
      readonly acks: readonly ArchiveAck[];
      /** The newest messages that stay in hot storage whatever is archived. */
      readonly tailKeep: number;
    }
  /** Ends the context for everybody, at once and for good; what it held goes with `purge_step`s. */
  | { readonly type: 'purge'; readonly context: string }
  /** Deletes rows of a purged context, which the proposer has found; at most PURGE_STEP_ROWS_MAX. */
  | { readonly type: 'purge_step'; readonly context: string; readonly rows: readonly RowRef[] }
  /** Nothing of the context is left on any replica. */
  | { readonly type: 'purge_done'; readonly context: string }
  /** Purges the context if its ttl has passed since its last write; else nothing. */
  | { readonly type: 'expire'; readonly context: string };

/** What the archive has of one context. Each mark moves up only, and never beyond what there is. */
export interface ArchiveAck {
  readonly context: string;
  /** All messages up to here; 0 says nothing about messages. */
  readonly upto: number;
  /** The state, and compactions, up to this version. Says nothing about messages. */
  readonly version: number;
  readonly configRevision: number;
}

/** The answer to a command, before it becomes HTTP. Survives JSON: it travels between nodes. */
export type Reply =
  | { readonly ok: true; readonly type: 'put'; readonly created: boolean }
  | {
      readonly ok: true;
      readonly type: 'append';
      readonly firstSeq: number;
      readonly firstVersion: number;
      readonly tokens: readonly number[];
      readonly replayed: boolean;
    }
  | { readonly ok: true; readonly type: 'compact'; readonly version: number }
  | { readonly ok: true; readonly type: 'tombstone' }
  | { readonly ok: true; readonly type: 'ack_archived' }
  | { readonly ok: true; readonly type: 'purge'; /** Every trace is gone. */ readonly complete: boolean }
  | { readonly ok: true; readonly type: 'purge_step' | 'purge_done' }
  | { readonly ok: true; readonly type: 'expire'; readonly purged: boolean }
  | { readonly ok: true; readonly type: 'claim'; /** 0: given back. */ readonly expiresAt: number }
  | { readonly ok: true; readonly type: 'usage'; /** In 1/1024. */ readonly calibration: number; readonly changed: boolean }
  | { readonly ok: false; readonly code: 'context_not_found' | 'context_tombstoned' | 'context_purged' | 'idempotency_conflict' | 'invalid_command' }
  | { readonly ok: false; readonly code: 'conflict'; readonly expected: number; readonly found: number }
  | { readonly ok: false; readonly code: 'revision_conflict'; readonly expected: number; readonly found: number }
  | { readonly ok: false; readonly code: 'invalid_keep_from_seq'; readonly lastSeq: number }
  | { readonly ok: false; readonly code: 'model_mismatch'; readonly model: string }
  | { readonly ok: false; readonly code: 'claim_held'; /** Milliseconds since the epoch. */ readonly expiresAt: number }
  /** The claim shown was used, given back, or followed by another. */
  | { readonly ok: false; readonly code: 'claim_lost'; readonly version: number }
  /** No window can be told for the version asked for: it lies ahead, or before `from`. */
  | { readonly ok: false; readonly code: 'version_not_kept'; readonly from: number; readonly version: number };

/** What changed, for streams and metrics; who acts on it is wired in node.ts. */
export type ContextEvent =
  | { readonly type: 'message'; readonly context: string; readonly seq: number; readonly version: number; readonly tokens: number; readonly roleKind: RoleKind }
  | { readonly type: 'context'; readonly context: string; readonly version: number; readonly needsCompaction: boolean; readonly usedTokens: number; /** Present where this change made it so. */ readonly turnedDue?: { readonly tokenBudget: number } }
  | { readonly type: 'compaction'; readonly context: string; readonly version: number; readonly fromSeq: number; readonly toSeq: number }
  | { readonly type: 'tombstoned'; readonly context: string; readonly version: number }
  /** From now on there is no such context: whoever keeps anything of it forgets it. */
  | { readonly type: 'purged'; readonly context: string; readonly version: number };

export interface Outcome {
  readonly reply: Reply;
  readonly events: readonly ContextEvent[];
  readonly writes: readonly Write[];
  /** Decoded form of a header/config row in `writes`, so that caches need not decode it again. */
  readonly header: ContextHeader | null;
  readonly config: ContextConfig | null;
  /** The same for a command about several contexts; absent for all others. */
  readonly headers?: ReadonlyMap<string, ContextHeader>;
}
