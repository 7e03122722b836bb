/**
 * Commands as bytes: the payload of a log entry. The time is at a fixed place, so that the leader which proposes a
 * command can stamp it without encoding it again. Decoding copies no text and is total: bytes that are not a command
 * of a known format give null, which every replica answers in the same way.
 *
 *   byte 0      format
 *   byte 1      command type
 *   bytes 2-9   stamp, milliseconds since the epoch, big-endian double
 *   the rest    by type; integers, strings and byte strings as in bytes.ts
 */
import { Reader, Writer } from './bytes.ts';
import { readParts, roleKindOf, writeParts } from './parts.ts';
import { readPolicy, writePolicy } from './policies.ts';
import type { ArchiveAck, Command, ContextConfig, NewMessage, RowRef, Table } from './types.ts';

/** The newest format of commands that this version writes and reads, and the oldest. */
export const COMMAND_FORMAT = 1;
export const COMMAND_FORMAT_MIN = 1;
const TYPE_CODES: Readonly<Record<Command['type'], number>> = { put: 1, append: 2, compact: 3, tombstone: 4, claim: 5, usage: 6, ack_archived: 8, purge: 9, purge_step: 10, purge_done: 11, expire: 12 };
/** A compact that shows a claim: the claim, then what a compact holds. */
const CLAIMED_COMPACT = 7;
/** A command that was compressed for the log: unpacked (src/packing.ts) before it is decoded. */
export const PACKED_COMMAND = 13;
/**
 * The tables whose rows a purge removes step by step; codes are positions, in log entries: append only. The others go
 * with the purge itself, which rewrites the header.
 */
export const ERASED_TABLES: readonly Table[] = ['message', 'replacement', 'compaction', 'openCall', 'keyed', 'keyedRing', 'cut', 'revision', 'answers'];
const STAMP_AT = 2;
/** Where what a type holds begins. */
export const BODY_AT = 10;

/** Sets the stamp of an encoded command (milliseconds since the epoch). */
export function setStamp(bytes: Uint8Array, stampMs: number): void {
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).setFloat64(STAMP_AT, stampMs);
}

/** The stamp of an encoded command; 0 where there is none or it is no time. */
export function stampOf(bytes: Uint8Array): number {
  if (bytes.length < BODY_AT) return 0;
  const stampMs = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getFloat64(STAMP_AT);
  return Number.isSafeInteger(stampMs) && stampMs > 0 ? stampMs : 0;
}

/**
 * The format of an encoded command. One above COMMAND_FORMAT was written by a later version: whoever meets it in the log
 * cannot go on, because its replicas of that version can.
 */
export function formatOf(bytes: Uint8Array): number {
  return bytes[0] ?? 0;
}

/** What kind of command it is, as a code. */
export function typeCodeOf(bytes: Uint8Array): number {
  return bytes[1] ?? 0;
}

/**
 * Encodes a command, stamped 0 until setStamp. Strings with lone surrogates are stored with U+FFFD in their place.
 * `format`: the highest that all members of the cluster read.
 */
export function encodeCommand(command: Command, format: number = COMMAND_FORMAT_MIN): Uint8Array {
  const writer = new Writer(encodedSizeHint(command));
  writer.byte(Math.min(format, COMMAND_FORMAT));
  writer.byte(command.type === 'compact' && command.claim !== undefined ? CLAIMED_COMPACT : TYPE_CODES[command.type]);
  writer.double(0);
  writer.string(command.context);
  switch (command.type) {
    case 'put':
      writer.uint(command.ifConfigRevision + 1);
      writer.byte(command.mustExist ? 1 : 0);
      writeSettings(writer, command.settings);
      break;
    case 'append':
      writer.uint(command.ifVersion + 1);
      writer.string(command.model);
      writer.byte(command.idempotency === null ? 0 : 1);
      if (command.idempotency !== null) {
        writer.string(command.idempotency.key);
        writer.bytes(command.idempotency.digest);
      }
      writeMessages(writer, command.messages);
      break;
    case 'compact':
      if (command.claim !== undefined) writer.bytes(command.claim);
      writer.uint(command.ifVersion + 1);
      writer.uint(command.keepFromSeq);
      writeMessages(writer, command.replacement);
      break;
    case 'claim':
      writer.uint(command.ttlSeconds);
      writer.bytes(command.token);
      break;
    case 'usage':
      writer.uint(command.version);
      writer.uint(command.inputTokens);
      break;
    case 'ack_archived':
      writer.uint(command.tailKeep);
      writer.uint(command.acks.length);
      for (const { context, upto, version, configRevision } of command.acks) {
        writer.string(context);
        writer.uint(upto);
        writer.uint(version);
        writer.uint(configRevision);
      }
      break;
    case 'purge_step':
      writer.uint(command.rows.length);
      for (const { table, key } of command.rows) {
        writer.byte(ERASED_TABLES.indexOf(table) * 2 + (typeof key === 'number' ? 1 : 0));
        if (typeof key === 'number') writer.uint(key);
        else writer.string(key);
      }
      break;
    case 'tombstone':
    case 'purge':
    case 'purge_done':
    case 'expire':
      break;
  }
  return writer.done();
}

/** The command in `bytes`; its texts are views into them. null for anything that is not exactly one command. */
export function decodeCommand(bytes: Uint8Array): Command | null {
  if (bytes.length < BODY_AT || formatOf(bytes) < COMMAND_FORMAT_MIN || formatOf(bytes) > COMMAND_FORMAT) return null;
  const reader = new Reader(bytes, BODY_AT);
  const context = reader.string();
  const command = decodeBody(reader, typeCodeOf(bytes), context);
  return reader.ok && reader.atEnd ? command : null;
}

function decodeBody(reader: Reader, type: number, context: string): Command | null {
  switch (type) {
    case TYPE_CODES.put: {
      const ifConfigRevision = reader.uint() - 1;
      const mustExist = reader.byte() !== 0;
      return { type: 'put', context, ifConfigRevision, mustExist, settings: readSettings(reader) };
    }
    case TYPE_CODES.append: {
      const ifVersion = reader.uint() - 1;
      const model = reader.string();
      const keyed = reader.byte() !== 0;
      const idempotency = keyed ? { key: reader.string(), digest: reader.bytes() } : null;
      return { type: 'append', context, ifVersion, model, idempotency, messages: readMessages(reader) };
    }
    case TYPE_CODES.compact:
      return readCompact(reader, context);
    case CLAIMED_COMPACT: {
      const claim = reader.bytes();
      return { ...readCompact(reader, context), claim };
    }
    case TYPE_CODES.claim:
      return { type: 'claim', context, ttlSeconds: reader.uint(), token: reader.bytes() };
    case TYPE_CODES.usage:
      return { type: 'usage', context, version: reader.uint(), inputTokens: reader.uint() };
    case TYPE_CODES.tombstone:
      return { type: 'tombstone', context };
    case TYPE_CODES.ack_archived:
      return { type: 'ack_archived', context, tailKeep: reader.uint(), acks: readAcks(reader) };
    case TYPE_CODES.purge:
      return { type: 'purge', context };
    case TYPE_CODES.purge_step: {
      const rows = readRowRefs(reader);
      return rows === null ? null : { type: 'purge_step', context, rows };
    }
    case TYPE_CODES.purge_done:
      return { type: 'purge_done', context };
    case TYPE_CODES.expire:
      return { type: 'expire', context };
    default:
      return null;
  }
}

function readCompact(reader: Reader, context: string): Extract<Command, { readonly type: 'compact' }> {
  const ifVersion = reader.uint() - 1;
  const keepFromSeq = reader.uint();
  return { type: 'compact', context, ifVersion, keepFromSeq, replacement: readMessages(reader) };
}

function readAcks(reader: Reader): ArchiveAck[] {
  const count = reader.count();
  const acks: ArchiveAck[] = [];
  for (let i = 0; i < count && reader.ok; i++) acks.push({ context: reader.string(), upto: reader.uint(), version: reader.uint(), configRevision: reader.uint() });
  return acks;
}

/** null where a table is none that a step may touch. */
function readRowRefs(reader: Reader): RowRef[] | null {
  const count = reader.count();
  const rows: RowRef[] = [];
  for (let i = 0; i < count && reader.ok; i++) {
    const head = reader.byte();
    const table = ERASED_TABLES[head >> 1];
    if (table === undefined) return null;
    rows.push({ table, key: head % 2 === 1 ? reader.uint() : reader.string() });
  }
  return rows;
}

function writeMessages(writer: Writer, messages: readonly NewMessage[]): void {
  writer.uint(messages.length);
  for (const message of messages) {
    writer.byte(message.roleKind | (message.tokensGiven ? 8 : 0));
    writer.uint(message.tokens);
    writeParts(writer, message.parts);
    writer.bytes(message.roleText);
    writer.bytes(message.idText);
    writer.bytes(message.partsText);
    writer.bytes(message.metadataText);
  }
}

function readMessages(reader: Reader): NewMessage[] {
  const count = reader.count();
  const messages: NewMessage[] = [];
  for (let i = 0; i < count && reader.ok; i++) {
    const flags = reader.byte();
    const tokens = reader.uint();
    const parts = readParts(reader);
    messages.push({
      roleText: reader.bytes(),
      roleKind: roleKindOf(flags & 7),
      idText: reader.bytes(),
      partsText: reader.bytes(),
      metadataText: reader.bytes(),
      parts,
      tokens,
      tokensGiven: (flags & 8) !== 0,
    });
  }
  return messages;
}

const HAS_BUDGET = 1;
const HAS_RATIO = 2;
const HAS_POLICY = 4;
const HAS_METADATA = 8;
const HAS_MODEL = 16;
const HAS_TTL = 32;

/** Settings that are absent take no bytes: a mask says which follow. */
function writeSettings(writer: Writer, settings: Partial<ContextConfig>): void {
  const { tokenBudget, triggerRatio, policy, metadataText, model, ttlSeconds } = settings;
  writer.byte(
    (tokenBudget === undefined ? 0 : HAS_BUDGET) |
      (triggerRatio === undefined ? 0 : HAS_RATIO) |
      (policy === undefined ? 0 : HAS_POLICY) |
      (metadataText === undefined ? 0 : HAS_METADATA) |
      (model === undefined ? 0 : HAS_MODEL) |
      (ttlSeconds === undefined ? 0 : HAS_TTL),
  );
  if (tokenBudget !== undefined) writer.uint(tokenBudget);
  if (triggerRatio !== undefined) writer.double(triggerRatio);
  if (policy !== undefined) writePolicy(writer, policy);
  if (metadataText !== undefined) writer.bytes(metadataText);
  if (model !== undefined) writer.string(model);
  if (ttlSeconds !== undefined) writer.uint(ttlSeconds);
}

function readSettings(reader: Reader): Partial<ContextConfig> {
  const mask = reader.byte();
  return {
    ...(mask & HAS_BUDGET ? { tokenBudget: reader.uint() } : null),
    ...(mask & HAS_RATIO ? { triggerRatio: reader.double() } : null),
    ...(mask & HAS_POLICY ? { policy: readPolicy(reader) } : null),
    ...(mask & HAS_METADATA ? { metadataText: reader.bytes() } : null),
    ...(mask & HAS_MODEL ? { model: reader.string() } : null),
    ...(mask & HAS_TTL ? { ttlSeconds: reader.uint() } : null),
  };
}

/** A close upper guess, so that encoding rarely grows its buffer. */
function encodedSizeHint(command: Command): number {
  let size = 96 + command.context.length;
  const messages = command.type === 'append' ? command.messages : command.type === 'compact' ? command.replacement : [];
  for (const message of messages) {
    size += message.partsText.length + message.metadataText.length + message.roleText.length + message.idText.length + 32;
    size += message.parts.length * 24;
    for (const part of message.parts) size += part.callId.length;
  }
  return size;
}
