/**
 * A message on its way into the archive and back. The archive holds what clients read (the body) and, so that windows
 * of older versions can still be told, what else the message's row holds (the head); row = head + the body's texts.
 */
import { decodeMessageRow, messageTextLengths } from '../contexts/rows.ts';
import { messageRow, renderMessage } from '../render.ts';

/** A message as the archive holds it. */
export interface ColdMessage {
  readonly seq: number;
  readonly version: number;
  /** The message as the API returns it, byte for byte. */
  readonly body: Uint8Array;
  readonly rowHead: Uint8Array;
}

/** What of a stored message goes into the archive: `body` and `rowHead`, and what is there for analysts. */
export interface MessageParts {
  readonly version: number;
  readonly stampMs: number;
  readonly tokens: number;
  readonly roleText: Uint8Array;
  readonly idText: Uint8Array;
  readonly partsText: Uint8Array;
  readonly metadataText: Uint8Array;
  readonly body: Uint8Array;
  readonly rowHead: Uint8Array;
}

/** Takes a stored message apart. The texts are views of `bytes`. */
export function takeApart(seq: number, bytes: Uint8Array): MessageParts {
  const row = messageRow(bytes);
  const body: Uint8Array[] = [];
  renderMessage(body, seq, row, null, row.tokens);
  return {
    version: row.version,
    stampMs: row.stampMs,
    tokens: row.tokens,
    roleText: bytes.subarray(row.roleStart, row.roleEnd),
    idText: bytes.subarray(row.idStart, row.idEnd),
    partsText: bytes.subarray(row.partsStart, row.partsEnd),
    metadataText: bytes.subarray(row.metadataStart, row.metadataEnd),
    body: Buffer.concat(body),
    rowHead: bytes.subarray(0, row.roleStart),
  };
}

/** The row of an archived message, byte for byte as it was stored here. */
export function putTogether({ seq, version, body, rowHead }: ColdMessage): Uint8Array {
  const lengths = messageTextLengths(rowHead);
  if (lengths === null) throw new Error(`message ${seq} came back from the archive with a head that is none`);
  const text = new Texts(body);
  text.skip(`{"seq":${seq},"version":${version},`);
  const id = lengths.id === 0 ? NOTHING : text.after('"id":', lengths.id);
  const role = text.after(lengths.id === 0 ? '"role":' : ',"role":', lengths.role);
  const parts = text.after(',"parts":', lengths.parts);
  // Between parts and metadata stands the count, the one field whose length the head does not say.
  text.skip(',"token_count":');
  text.skipDigits();
  const metadata = text.after(',"metadata":', lengths.metadata);
  const row = Buffer.concat([rowHead, role, id, parts, metadata]);
  if (!text.matched || decodeMessageRow(row) === null) throw new Error(`message ${seq} came back from the archive in a form that this version does not know`);
  return row;
}

const NOTHING = new Uint8Array(0);
const ZERO = 0x30;
const NINE = 0x39;

/** Walks over a body, from one known name to the next. */
class Texts {
  /** Everything was where it must be. */
  matched = true;
  private readonly body: Uint8Array;
  private at = 0;

  constructor(body: Uint8Array) {
    this.body = body;
  }

  skip(name: string): void {
    for (let i = 0; i < name.length; i++) if (this.body[this.at + i] !== name.charCodeAt(i)) this.matched = false;
    this.at += name.length;
  }

  skipDigits(): void {
    for (;;) {
      const digit = this.body[this.at] ?? 0;
      if (digit < ZERO || digit > NINE) return;
      this.at++;
    }
  }

  /** The `length` bytes behind `name`. */
  after(name: string, length: number): Uint8Array {
    this.skip(name);
    this.at += length;
    return this.body.subarray(this.at - length, this.at);
  }
}
