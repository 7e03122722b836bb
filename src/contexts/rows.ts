/**
 * Rows as bytes: what the state machine stores. A message row ends with the client's own texts, at offsets that
 * decoding finds without parsing them, so that answers splice the very bytes that came in.
 * Every row begins with its format; decoding is total and gives null for what is not such a row.
 */
import { Reader, Writer } from './bytes.ts';
import { readWindowState, windowSizeHint, writeWindow } from './descriptor.ts';
import { beginsTurn, readParts, roleKindOf, writeParts } from './parts.ts';
import { CALIBRATION_ONE, readPolicy, writePolicy } from './policies.ts';
import { PartRole } from './types.ts';
import type { Claim, ContextConfig, ContextHeader, HeaderStatus, NewMessage, PartInfo, RoleKind } from './types.ts';

const FORMAT = 1;
/** Since 2: the window's sums after each message, and whether it calls. */
const MESSAGE_FORMAT = 2;
/** Since 2: cuts, calibration, claim. Since 3: what the archive has confirmed besides messages, and what was trimmed. */
const HEADER_FORMAT = 3;
/** Codes are stored: append only. */
const STATUSES: readonly HeaderStatus[] = ['active', 'tombstoned', 'purged'];
const NO_BYTES = new Uint8Array(0);

/** Replacement rows are keyed by version and position; a compaction has at most this many. */
export const REPLACEMENT_SPAN = 2 ** 20;

/** The row key of the replacement message at `position` (0-based) of the compaction that made `version`. */
export function replacementKey(version: number, position: number): number {
  return version * REPLACEMENT_SPAN + position;
}

/**
 * Where a message stands: its seq for one of the log, minus its row key for one of a replacement. One number, so that
 * calls and results may be in either.
 */
export type Place = number;

/** A result part and the call part it answers. */
export interface Link {
  /** Index of the result part in its own message. */
  readonly part: number;
  /** The message with the call, and the call part's index in it. */
  readonly target: Place;
  readonly targetPart: number;
}

/** A stored message. Offsets are into `bytes`; the four texts lie one behind the other, each [start, end). */
export interface MessageRow {
  readonly bytes: Uint8Array;
  /** Version that added it; for a replacement message the version of its compaction. */
  readonly version: number;
  /** Milliseconds since the epoch: `inserted_at`. */
  readonly stampMs: number;
  readonly tokens: number;
  readonly tokensGiven: boolean;
  readonly roleKind: RoleKind;
  /** See parts.ts: a user's message that does more than answer calls. */
  readonly beginsTurn: boolean;
  /** It holds a call that others may answer. */
  readonly calls: boolean;
  /** The stored window's sums once it had grown by this message, before any cut; -1 where an older format has none. */
  readonly windowTokens: number;
  readonly windowCount: number;
  /** Number of results that answer a call elsewhere or here. */
  readonly linkCount: number;
  readonly linksStart: number;
  readonly tableStart: number;
  readonly roleStart: number;
  readonly roleEnd: number;
  /** An empty id text: the client gave none. */
  readonly idStart: number;
  readonly idEnd: number;
  readonly partsStart: number;
  readonly partsEnd: number;
  readonly metadataStart: number;
  readonly metadataEnd: number;
}

const GIVEN = 8;
const BEGINS_TURN = 16;
const CALLS = 32;

/** What a message row holds besides the message itself. */
export interface StoredWith {
  readonly version: number;
  readonly stampMs: number;
  readonly links: readonly Link[];
  /** See MessageRow; zeros for a replacement message. */
  readonly windowTokens: number;
  readonly windowCount: number;
}

export function encodeMessageRow(message: NewMessage, stored: StoredWith): Uint8Array {
  const { roleText, idText, partsText, metadataText } = message;
  const textLength = roleText.length + idText.length + partsText.length + metadataText.length;
  const writer = new Writer(64 + textLength + message.parts.length * 24 + stored.links.length * 16);
  writer.byte(MESSAGE_FORMAT);
  const turn = beginsTurn(message.roleKind, message.parts) ? BEGINS_TURN : 0;
  writer.byte(message.roleKind | (message.tokensGiven ? GIVEN : 0) | turn | (calls(message.parts) ? CALLS : 0));
  writer.uint(stored.version);
  writer.uint(stored.stampMs);
  writer.uint(message.tokens);
  writer.uint(stored.windowTokens);
  writer.uint(stored.windowCount);
  writer.uint(stored.links.length);
  for (const link of stored.links) {
    // The low bit says which of the two kinds of place this is.
    writer.uint(link.part * 2 + (link.target < 0 ? 1 : 0));
    writer.uint(Math.abs(link.target));
    writer.uint(link.targetPart);
  }
  // Texts come last; the part table between links and texts is read only where parts matter.
  writer.uint(roleText.length);
  writer.uint(idText.length);
  writer.uint(partsText.length);
  writer.uint(metadataText.length);
  writeParts(writer, message.parts);
  writer.raw(roleText);
  writer.raw(idText);
  writer.raw(partsText);
  writer.raw(metadataText);
  return writer.done();
}

function calls(parts: readonly PartInfo[]): boolean {
  for (const part of parts) if (part.role === PartRole.call) return true;
  return false;
}

/** Reads format 1 too; there any message may call. */
export function decodeMessageRow(bytes: Uint8Array): MessageRow | null {
  return decodeRow(bytes, true);
}

/** A message row of which only what comes before its texts (up to `roleStart`) is here: the offsets of those lie behind its bytes. */
export function decodeMessageHead(head: Uint8Array): MessageRow | null {
  return decodeRow(head, false);
}

function decodeRow(bytes: Uint8Array, hasTexts: boolean): MessageRow | null {
  const reader = new Reader(bytes);
  const format = reader.byte();
  const older = format === FORMAT;
  const flags = reader.byte();
  const version = reader.uint();
  const stampMs = reader.uint();
  const tokens = reader.uint();
  const windowTokens = older ? -1 : reader.uint();
  const windowCount = older ? -1 : reader.uint();
  const linkCount = reader.count();
  const linksStart = reader.at;
  for (let i = 0; i < linkCount && reader.ok; i++) {
    reader.uint();
    reader.uint();
    reader.uint();
  }
  const roleLength = reader.uint();
  const idLength = reader.uint();
  const partsLength = reader.uint();
  const metadataLength = reader.uint();
  const tableStart = reader.at;
  // From the end, so that the table need not be read to find what follows it.
  const end = hasTexts ? bytes.length : bytes.length + roleLength + idLength + partsLength + metadataLength;
  const metadataStart = end - metadataLength;
  const partsStart = metadataStart - partsLength;
  const idStart = partsStart - idLength;
  const roleStart = idStart - roleLength;
  if (!reader.ok || (!older && format !== MESSAGE_FORMAT) || roleStart < tableStart) return null;
  return {
    bytes,
    version,
    stampMs,
    tokens,
    tokensGiven: (flags & GIVEN) !== 0,
    roleKind: roleKindOf(flags & 7),
    beginsTurn: (flags & BEGINS_TURN) !== 0,
    calls: older || (flags & CALLS) !== 0,
    windowTokens,
    windowCount,
    linkCount,
    linksStart,
    tableStart,
    roleStart,
    roleEnd: idStart,
    idStart,
    idEnd: partsStart,
    partsStart,
    partsEnd: metadataStart,
    metadataStart,
    metadataEnd: end,
  };
}

/** Lengths in bytes of the texts that end a message row, from what comes before them alone; null where that is no such head. */
export function messageTextLengths(head: Uint8Array): { readonly role: number; readonly id: number; readonly parts: number; readonly metadata: number } | null {
  const reader = new Reader(head);
  const format = reader.byte();
  reader.byte();
  // Version, stamp, tokens; since format 2 the window's sums.
  for (let i = format === FORMAT ? 3 : 5; i > 0; i--) reader.uint();
  for (let i = reader.count() * 3; i > 0 && reader.ok; i--) reader.uint();
  const lengths = { role: reader.uint(), id: reader.uint(), parts: reader.uint(), metadata: reader.uint() };
  return reader.ok && (format === FORMAT || format === MESSAGE_FORMAT) ? lengths : null;
}

const NO_LINKS: readonly Link[] = [];

/** Which calls the results of this message answer. */
export function rowLinks(row: MessageRow): readonly Link[] {
  if (row.linkCount === 0) return NO_LINKS;
  const reader = new Reader(row.bytes, row.linksStart);
  const links: Link[] = [];
  for (let i = 0; i < row.linkCount; i++) {
    const head = reader.uint();
    const place = reader.uint();
    links.push({ part: Math.floor(head / 2), target: head % 2 === 1 ? -place : place, targetPart: reader.uint() });
  }
  return links;
}

/** The part table; offsets in it are relative to the parts text (`partsStart`). */
export function rowParts(row: MessageRow): PartInfo[] {
  const reader = new Reader(row.bytes, row.tableStart, row.roleStart);
  const parts = readParts(reader);
  return reader.ok ? parts : [];
}

export function encodeConfig(config: ContextConfig): Uint8Array {
  const writer = new Writer(96 + config.metadataText.length);
  writer.byte(FORMAT);
  writer.uint(config.tokenBudget);
  writer.double(config.triggerRatio);
  writePolicy(writer, config.policy);
  writer.bytes(config.metadataText);
  writer.string(config.model);
  writer.uint(config.ttlSeconds);
  return writer.done();
}

export function decodeConfig(bytes: Uint8Array): ContextConfig | null {
  const reader = new Reader(bytes);
  if (reader.byte() !== FORMAT) return null;
  const config = {
    tokenBudget: reader.uint(),
    triggerRatio: reader.double(),
    policy: readPolicy(reader),
    metadataText: reader.bytes(),
    model: reader.string(),
    ttlSeconds: reader.uint(),
  };
  return reader.ok && reader.atEnd ? config : null;
}

export function encodeHeader(header: ContextHeader): Uint8Array {
  const writer = new Writer(80 + windowSizeHint(header.window));
  writer.byte(HEADER_FORMAT);
  writer.byte(STATUSES.indexOf(header.status));
  writer.uint(header.version);
  writer.uint(header.configRevision);
  writer.uint(header.lastSeq);
  writer.uint(header.leadingCount);
  writer.uint(header.archivedSeq);
  writer.uint(header.createdAt);
  writer.uint(header.updatedAt);
  writer.uint(header.keyedNewest);
  writer.uint(header.keyedOldest);
  writeWindow(writer, header.window);
  writer.uint(header.cutCount);
  writer.uint(header.historyFrom);
  writer.uint(header.calibration);
  // No token is empty, so that an empty one says: no claim.
  writer.bytes(header.claim?.token ?? NO_BYTES);
  if (header.claim !== null) writer.uint(header.claim.expiresAt);
  writer.uint(header.archivedVersion);
  writer.uint(header.archivedRevision + 1);
  writer.uint(header.trimmedSeq);
  return writer.done();
}

/** Reads formats 1 and 2 too: what 1 did not know yet starts at the version it was last written; to 2 nothing was archived. */
export function decodeHeader(bytes: Uint8Array): ContextHeader | null {
  const reader = new Reader(bytes);
  const format = reader.byte();
  if (format < FORMAT || format > HEADER_FORMAT) return null;
  const status = STATUSES[reader.byte()];
  const version = reader.uint();
  const configRevision = reader.uint();
  const lastSeq = reader.uint();
  const leadingCount = reader.uint();
  const archivedSeq = reader.uint();
  const createdAt = reader.uint();
  const updatedAt = reader.uint();
  const keyedNewest = reader.uint();
  const keyedOldest = reader.uint();
  const window = readWindowState(reader);
  const older = format === FORMAT;
  const cutCount = older ? 0 : reader.uint();
  const historyFrom = older ? version : reader.uint();
  const calibration = older ? CALIBRATION_ONE : reader.uint();
  const claim = older ? null : readClaim(reader);
  const marked = format === HEADER_FORMAT;
  const archivedVersion = marked ? reader.uint() : 0;
  const archivedRevision = marked ? reader.uint() - 1 : -1;
  const trimmedSeq = marked ? reader.uint() : 0;
  if (!reader.ok || !reader.atEnd || calibration === 0 || status === undefined) return null;
  return {
    status,
    version,
    configRevision,
    lastSeq,
    leadingCount,
    archivedSeq,
    archivedVersion,
    archivedRevision,
    trimmedSeq,
    createdAt,
    updatedAt,
    window,
    keyedNewest,
    keyedOldest,
    cutCount,
    historyFrom,
    calibration,
    claim,
  };
}

function readClaim(reader: Reader): Claim | null {
  const token = reader.bytes();
  // Copied: a cached header must not hold on to the bytes of a whole log entry.
  return token.length === 0 ? null : { token: token.slice(), expiresAt: reader.uint() };
}

/** The record of one `compact` call, kept for ever. Automatic compaction leaves none. */
export interface CompactionRecord {
  readonly version: number;
  readonly stampMs: number;
  /** The log messages that the replacement stands for; both 0 when there were none. */
  readonly fromSeq: number;
  readonly toSeq: number;
  readonly replacementCount: number;
  /** Messages and tokens of the stored window before and after. */
  readonly countBefore: number;
  readonly countAfter: number;
  readonly tokensBefore: number;
  readonly tokensAfter: number;
}

export function encodeCompaction(record: CompactionRecord): Uint8Array {
  const writer = new Writer(48);
  writer.byte(FORMAT);
  writer.uint(record.version);
  writer.uint(record.stampMs);
  writer.uint(record.fromSeq);
  writer.uint(record.toSeq);
  writer.uint(record.replacementCount);
  writer.uint(record.countBefore);
  writer.uint(record.countAfter);
  writer.uint(record.tokensBefore);
  writer.uint(record.tokensAfter);
  return writer.done();
}

export function decodeCompaction(bytes: Uint8Array): CompactionRecord | null {
  const reader = new Reader(bytes);
  if (reader.byte() !== FORMAT) return null;
  const record = {
    version: reader.uint(),
    stampMs: reader.uint(),
    fromSeq: reader.uint(),
    toSeq: reader.uint(),
    replacementCount: reader.uint(),
    countBefore: reader.uint(),
    countAfter: reader.uint(),
    tokensBefore: reader.uint(),
    tokensAfter: reader.uint(),
  };
  return reader.ok && reader.atEnd ? record : null;
}
