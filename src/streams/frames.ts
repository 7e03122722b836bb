/**
 * What travels on a stream: frames, and batches of them as the bytes of each transport. A batch is encoded at most once
 * per transport and shared by every subscriber, so that a change costs one encoding however many listen.
 * Owns the shapes on the wire; what is sent to whom is hub.ts.
 */
import type { MessageRow } from '../contexts/rows.ts';
import { renderMessage } from '../render.ts';

export type FrameKind = 'message' | 'compaction' | 'context' | 'tombstoned' | 'purged' | 'reset' | 'gap';

export interface Frame {
  readonly kind: FrameKind;
  /** The version a reader has processed once it has this frame and all others of the version. */
  readonly version: number;
  readonly json: Buffer;
}

/**
 * `text`: WebSocket text frames. `sse`: server-sent events. `peer`: between nodes, binary WebSocket frames of
 * flags u8, version f64, JSON (see decodePeerFrame).
 */
export type Encoding = 'text' | 'sse' | 'peer';

export const PING: Buffer = Buffer.from('{"type":"ping"}');
export const PONG: Buffer = Buffer.from('{"type":"pong"}');
/** A comment: it keeps proxies from closing an idle connection, and readers never see it. */
export const SSE_PING: Buffer = Buffer.from(': ping\n\n');

const CLOSE_BRACE = Buffer.from('}');

export function messageFrame(seq: number, row: MessageRow): Frame {
  const pieces: Uint8Array[] = [Buffer.from(`{"type":"message","version":${row.version},"seq":${seq},"message":`)];
  renderMessage(pieces, seq, row, null, row.tokens);
  pieces.push(CLOSE_BRACE);
  return { kind: 'message', version: row.version, json: Buffer.concat(pieces) };
}

/** A message as the archive returns it: its JSON is there already. */
export function archivedFrame(seq: number, version: number, body: Uint8Array): Frame {
  const head = Buffer.from(`{"type":"message","version":${version},"seq":${seq},"message":`);
  return { kind: 'message', version, json: Buffer.concat([head, body, CLOSE_BRACE]) };
}

export function compactionFrame(version: number, fromSeq: number, toSeq: number): Frame {
  return { kind: 'compaction', version, json: Buffer.from(`{"type":"compaction","version":${version},"range":{"from_seq":${fromSeq},"to_seq":${toSeq}}}`) };
}

export function contextFrame(version: number, needsCompaction: boolean, usedTokens: number): Frame {
  return { kind: 'context', version, json: Buffer.from(`{"type":"context","version":${version},"needs_compaction":${needsCompaction},"used_tokens":${usedTokens}}`) };
}

export function tombstonedFrame(version: number): Frame {
  return { kind: 'tombstoned', version, json: Buffer.from(`{"type":"tombstoned","version":${version}}`) };
}

/** The context was erased: there is none any more. */
export function purgedFrame(version: number): Frame {
  return { kind: 'purged', version, json: Buffer.from(`{"type":"purged","version":${version}}`) };
}

/** The reader's cursor is none of this log: it goes on from `version`. */
export function resetFrame(version: number): Frame {
  return { kind: 'reset', version, json: Buffer.from(`{"type":"reset","version":${version}}`) };
}

/** Versions from `expected` to before `actual` cannot be had any more. */
export function gapFrame(expected: number, actual: number): Frame {
  return { kind: 'gap', version: expected - 1, json: Buffer.from(`{"type":"gap","expected":${expected},"actual":${actual}}`) };
}

/** Frames that go out together, in order. A version is never spread over two batches. */
export class Batch {
  readonly frames: readonly Frame[];
  /** Version of the first message, compaction, tombstone or purge; 0 when there is only news about the window. */
  readonly firstChange: number;
  readonly lastVersion: number;
  /** The context has ended, and the stream with it. */
  readonly isEnd: boolean;
  private readonly encoded = new Map<string, Buffer>();

  /** `frames`: at least one, in the order of their versions. */
  constructor(frames: readonly Frame[]) {
    this.frames = frames;
    let firstChange = 0;
    for (const { kind, version } of frames) if (firstChange === 0 && isChange(kind)) firstChange = version;
    this.firstChange = firstChange;
    const last = frames[frames.length - 1];
    this.lastVersion = last?.version ?? 0;
    this.isEnd = last?.kind === 'tombstoned' || last?.kind === 'purged';
  }

  /** The batch as the transport sends it; empty when all it holds are messages and none are wanted. */
  encode(encoding: Encoding, withMessages: boolean): Buffer {
    const name = withMessages ? encoding : `${encoding} without messages`;
    let bytes = this.encoded.get(name);
    if (bytes === undefined) {
      bytes = this.encodeFrames(encoding, withMessages);
      this.encoded.set(name, bytes);
    }
    return bytes;
  }

  private encodeFrames(encoding: Encoding, withMessages: boolean): Buffer {
    const out: Uint8Array[] = [];
    for (const [i, { kind, version, json }] of this.frames.entries()) {
      if (kind === 'message' && !withMessages) continue;
      // A reader that resumes at an id must have seen all of its version.
      const isLast = this.frames[i + 1]?.version !== version && kind !== 'gap';
      encodeFrame(out, encoding, json, { version, isLast });
    }
    return Buffer.concat(out);
  }
}

function isChange(kind: FrameKind): boolean {
  return kind === 'message' || kind === 'compaction' || kind === 'tombstoned' || kind === 'purged';
}

/** Appends one frame as the transport sends it. `isLast`: nothing else of its version follows, a reader may resume there. */
export function encodeFrame(out: Uint8Array[], encoding: Encoding, json: Buffer, at: { readonly version: number; readonly isLast: boolean }): void {
  switch (encoding) {
    case 'text':
      out.push(webSocketHeader(OPCODE_TEXT, json.length), json);
      return;
    case 'peer': {
      const head = Buffer.allocUnsafe(PEER_HEAD_BYTES);
      head[0] = at.isLast ? 1 : 0;
      head.writeDoubleBE(at.version, 1);
      out.push(webSocketHeader(OPCODE_BINARY, PEER_HEAD_BYTES + json.length), head, json);
      return;
    }
    case 'sse':
      if (at.isLast) out.push(Buffer.from(`id: ${at.version}\n`));
      out.push(SSE_DATA);
      pushSseLines(out, json);
      out.push(SSE_END);
      return;
  }
}

const SSE_DATA = Buffer.from('data: ');
const SSE_LINE = Buffer.from('\ndata: ');
const SSE_END = Buffer.from('\n\n');
const LF = 0x0a;
const CR = 0x0d;

/** Clients' JSON comes back with its own white space, and a line break in it would end the event's field. */
function pushSseLines(out: Uint8Array[], json: Buffer): void {
  if (!json.includes(LF) && !json.includes(CR)) {
    out.push(json);
    return;
  }
  let start = 0;
  for (let i = 0; i < json.length; i++) {
    if (json[i] !== LF && json[i] !== CR) continue;
    out.push(json.subarray(start, i), SSE_LINE);
    start = i + 1;
  }
  out.push(json.subarray(start));
}

const OPCODE_TEXT = 1;
const OPCODE_BINARY = 2;
const FINAL = 0x80;

/** RFC 6455 §5.2, one whole unmasked frame: what a server sends. */
function webSocketHeader(opcode: number, length: number): Buffer {
  if (length < 126) return Buffer.from([FINAL | opcode, length]);
  if (length < 65_536) {
    const header = Buffer.allocUnsafe(4);
    header[0] = FINAL | opcode;
    header[1] = 126;
    header.writeUInt16BE(length, 2);
    return header;
  }
  const header = Buffer.alloc(10);
  header[0] = FINAL | opcode;
  header[1] = 127;
  header.writeUInt32BE(Math.floor(length / 2 ** 32), 2);
  header.writeUInt32BE(length % 2 ** 32, 6);
  return header;
}

/** A WebSocket text frame around `json`. */
export function textFrame(json: Buffer): Buffer {
  return Buffer.concat([webSocketHeader(OPCODE_TEXT, json.length), json]);
}

const PEER_HEAD_BYTES = 9;

/** What another node sent as `peer`; null for something else. */
export function decodePeerFrame(bytes: Buffer): { json: Buffer; version: number; isLast: boolean } | null {
  if (bytes.length <= PEER_HEAD_BYTES) return null;
  return { isLast: bytes[0] === 1, version: bytes.readDoubleBE(1), json: bytes.subarray(PEER_HEAD_BYTES) };
}
