/**
 * Where things are in the body of an append or a compact: one pass of the scanner that notes the byte spans of the
 * messages and of what is stored verbatim, and remembers the first field that is unknown or given twice. What the
 * values are is messages.ts' matter.
 */
import { JsonScanner } from './scanner.ts';

/** A field that must not be there. Raised only once the body is known to be JSON at all. */
export interface FieldProblem {
  readonly path: string;
  readonly message: string;
}

/** Byte spans of one message object. A span that is absent, or not of the expected kind, is 0..0. */
export class MessageSpans {
  start = 0;
  end = 0;
  roleStart = 0;
  roleEnd = 0;
  idStart = 0;
  idEnd = 0;
  partsStart = 0;
  partsEnd = 0;
  metadataStart = 0;
  metadataEnd = 0;
  /** Start and end of each element of `parts`, in turn. */
  readonly partBounds: number[] = [];
}

/** What each kind of body holds: the member with the messages, and the scalars allowed next to it. */
export type EnvelopeKind = 'append' | 'compact';
const FIELDS: Readonly<Record<EnvelopeKind, readonly string[]>> = {
  append: ['message', 'messages', 'if_version'],
  compact: ['replacement', 'if_version', 'keep_from_seq', 'claim'],
};

const MESSAGE_FIELDS = ['role', 'parts', 'metadata', 'token_count', 'id', 'seq', 'version', 'inserted_at'] as const;

export interface Envelope {
  readonly messages: readonly MessageSpans[];
  readonly problem: FieldProblem | null;
}

/**
 * Scans a request body. At most `messagesMax + 1` messages are described, so that one too many is seen without
 * describing all of a hostile list.
 * Throws ApiError invalid_json where the text cannot be followed and payload_too_large past the depth limit.
 */
export function scanEnvelope(body: Buffer, kind: EnvelopeKind, options: { depthMax: number; messagesMax: number; partsMax: number }): Envelope {
  const scanner = new JsonScanner(body, options.depthMax);
  const walk = new EnvelopeWalk(scanner, options.messagesMax, options.partsMax);
  if (scanner.peekIsObject()) walk.top(FIELDS[kind]);
  else scanner.skipValue();
  scanner.end();
  return walk;
}

class EnvelopeWalk implements Envelope {
  readonly messages: MessageSpans[] = [];
  problem: FieldProblem | null = null;
  readonly #scanner: JsonScanner;
  readonly #messagesMax: number;
  readonly #partsMax: number;

  constructor(scanner: JsonScanner, messagesMax: number, partsMax: number) {
    this.#scanner = scanner;
    this.#messagesMax = messagesMax;
    this.#partsMax = partsMax;
  }

  top(fields: readonly string[]): void {
    const scanner = this.#scanner;
    let seen = 0;
    scanner.open();
    while (scanner.nextMember()) {
      const field = this.#field(fields, seen, '');
      if (field >= 0) seen |= 1 << field;
      const name = field >= 0 ? fields[field] : undefined;
      if (name === 'message' && scanner.peekIsObject()) this.#message('message');
      else if ((name === 'messages' || name === 'replacement') && scanner.peekIsArray()) this.#list(name);
      else scanner.skipValue();
    }
  }

  #list(name: string): void {
    const scanner = this.#scanner;
    let index = 0;
    scanner.open();
    while (scanner.nextElement()) {
      // A non-object still takes its place, so that spans and parsed values stay index for index.
      if (index > this.#messagesMax) scanner.skipValue();
      else if (scanner.peekIsObject()) this.#message(`${name}[${index}]`);
      else {
        this.messages.push(new MessageSpans());
        scanner.skipValue();
      }
      index += 1;
    }
  }

  #message(path: string): void {
    const scanner = this.#scanner;
    const spans = new MessageSpans();
    spans.start = scanner.position;
    let seen = 0;
    scanner.open();
    while (scanner.nextMember()) {
      const field = this.#field(MESSAGE_FIELDS, seen, path);
      if (field >= 0) seen |= 1 << field;
      const start = scanner.position;
      if (field === 1 && scanner.peekIsArray()) this.#parts(spans);
      else scanner.skipValue();
      const end = scanner.position;
      switch (field) {
        case 0:
          spans.roleStart = start;
          spans.roleEnd = end;
          break;
        case 1:
          spans.partsStart = start;
          spans.partsEnd = end;
          break;
        case 2:
          spans.metadataStart = start;
          spans.metadataEnd = end;
          break;
        case 4:
          spans.idStart = start;
          spans.idEnd = end;
          break;
        default:
          break;
      }
    }
    spans.end = scanner.position;
    this.messages.push(spans);
  }

  #parts(spans: MessageSpans): void {
    const scanner = this.#scanner;
    const bounds = spans.partBounds;
    const boundsMax = 2 * this.#partsMax;
    scanner.open();
    while (scanner.nextElement()) {
      const start = scanner.position;
      scanner.skipValue();
      if (bounds.length <= boundsMax) bounds.push(start, scanner.position);
    }
  }

  /** Index of the last key in `fields`, or -1; notes the first unknown or repeated field. */
  #field(fields: readonly string[], seen: number, path: string): number {
    const scanner = this.#scanner;
    let found = -1;
    for (let i = 0; i < fields.length; i++) {
      if (scanner.keyIs(fields[i] as string)) {
        found = i;
        break;
      }
    }
    if (found === -1 && scanner.keyHasEscape()) found = fields.indexOf(scanner.key());
    if (this.problem === null) {
      if (found === -1) {
        const name = scanner.key();
        this.problem = { path: join(path, name), message: `Unknown field "${name}". Allowed here: ${fields.join(', ')}.` };
      } else if ((seen & (1 << found)) !== 0) {
        const name = fields[found] as string;
        this.problem = { path: join(path, name), message: `Field "${name}" is given twice. Send it once.` };
      }
    }
    return found;
  }
}

function join(path: string, name: string): string {
  return path === '' ? name : `${path}.${name}`;
}
