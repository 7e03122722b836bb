/**
 * The wire of the spikes: a frame holds runs of records of one kind, `u8 kind, u32 count, records`. Nothing is checked:
 * a spike shows what the shape of the work costs, and is no store.
 */

export interface Entry {
  /** Number of the entry with the node that took it in. */
  readonly index: number;
  /** Place in its context; assigned by that node. */
  readonly seq: number;
  readonly context: string;
  readonly body: Buffer;
}

/** A request of a client for another node. */
export interface Forward {
  readonly request: number;
  readonly context: string;
  readonly body: Buffer;
}

export interface Answered {
  readonly request: number;
  readonly seq: number;
}

/** What a frame is made of; the lists go out in this order. */
export interface Frame {
  readonly entries: Entry[];
  readonly acks: number[];
  readonly commits: number[];
  readonly forwards: Forward[];
  readonly answers: Answered[];
}

export const emptyFrame = (): Frame => ({ entries: [], acks: [], commits: [], forwards: [], answers: [] });

export function isEmpty(frame: Frame): boolean {
  return frame.entries.length + frame.acks.length + frame.commits.length + frame.forwards.length + frame.answers.length === 0;
}

const HEAD_BYTES = 20;
const ENTRY_BYTES = 18;
const FORWARD_BYTES = 14;
const NUMBER_BYTES = 8;
const ANSWER_BYTES = 12;

export function encodeFrame(frame: Frame): Buffer {
  const { entries, acks, commits, forwards, answers } = frame;
  let bytes = HEAD_BYTES + NUMBER_BYTES * (acks.length + commits.length) + ANSWER_BYTES * answers.length;
  for (const { context, body } of entries) bytes += ENTRY_BYTES + context.length + body.length;
  for (const { context, body } of forwards) bytes += FORWARD_BYTES + context.length + body.length;
  const out = Buffer.allocUnsafe(bytes);
  let at = 0;
  for (const list of [entries, acks, commits, forwards, answers]) at = out.writeUInt32LE(list.length, at);
  for (const { index, seq, context, body } of entries) {
    out.writeDoubleLE(index, at);
    out.writeUInt32LE(seq, at + 8);
    at = writeText(out, at + 12, context, body);
  }
  for (const index of acks) at = out.writeDoubleLE(index, at);
  for (const index of commits) at = out.writeDoubleLE(index, at);
  for (const { request, context, body } of forwards) at = writeText(out, out.writeDoubleLE(request, at), context, body);
  for (const { request, seq } of answers) at = out.writeUInt32LE(seq, out.writeDoubleLE(request, at));
  return out;
}

function writeText(out: Buffer, at: number, context: string, body: Buffer): number {
  out.writeUInt16LE(context.length, at);
  out.writeUInt32LE(body.length, at + 2);
  const from = at + 6 + out.write(context, at + 6, 'latin1');
  return from + body.copy(out, from);
}

/** Bodies are slices of `bytes`. */
export function decodeFrame(bytes: Buffer): Frame {
  const [entries, acks, commits, forwards, answers] = [0, 4, 8, 12, 16].map((at) => bytes.readUInt32LE(at));
  let at = HEAD_BYTES;
  const text = (): { context: string; body: Buffer } => {
    const contextEnd = at + 6 + bytes.readUInt16LE(at);
    const bodyEnd = contextEnd + bytes.readUInt32LE(at + 2);
    const read = { context: bytes.toString('latin1', at + 6, contextEnd), body: bytes.subarray(contextEnd, bodyEnd) };
    at = bodyEnd;
    return read;
  };
  const number = (): number => {
    const value = bytes.readDoubleLE(at);
    at += NUMBER_BYTES;
    return value;
  };
  const small = (): number => {
    const value = bytes.readUInt32LE(at);
    at += 4;
    return value;
  };
  const frame = emptyFrame();
  for (let i = entries ?? 0; i > 0; i--) frame.entries.push({ index: number(), seq: small(), ...text() });
  for (let i = acks ?? 0; i > 0; i--) frame.acks.push(number());
  for (let i = commits ?? 0; i > 0; i--) frame.commits.push(number());
  for (let i = forwards ?? 0; i > 0; i--) frame.forwards.push({ request: number(), ...text() });
  for (let i = answers ?? 0; i > 0; i--) frame.answers.push({ request: number(), seq: small() });
  return frame;
}
