/**
 * What `npm run replay` replays: a JSONL file of conversations {id, metadata?, messages: [{role, parts, metadata?, …}]}.
 * Texts are kept as the bytes of the file, so that reading back can be compared byte for byte.
 */
import { readFile } from 'node:fs/promises';
import { JsonScanner } from '../src/ingest/scanner.ts';

/** Deeper than the server's default limit: the server is to judge, not this tool. */
const DEPTH_MAX = 1000;
const NEWLINE = 0x0a;

export interface ReplayMessage {
  readonly role: Buffer;
  readonly parts: Buffer;
  readonly metadata: Buffer;
  /** Members sent with it, in the file's own bytes. */
  readonly body: Buffer;
}

export interface Conversation {
  readonly id: string;
  /** JSON object text. */
  readonly metadata: Buffer;
  readonly messages: readonly ReplayMessage[];
}

/** A problem with the file that its reader can fix; the message says where. */
export class ReplayFileError extends Error {}

/** Members of a message that the API takes; others in the file are left out. */
const SENT = ['role', 'parts', 'metadata', 'token_count', 'id'];

/** Reads and checks the whole file. Throws ReplayFileError naming the file, and the line where one is bad. */
export async function readConversations(file: string): Promise<Conversation[]> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw new ReplayFileError(`Cannot read ${file}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const conversations: Conversation[] = [];
  const ids = new Map<string, number>();
  for (let start = 0, line = 1; start < bytes.length; line++) {
    const newline = bytes.indexOf(NEWLINE, start);
    const end = newline === -1 ? bytes.length : newline;
    const text = bytes.subarray(start, end);
    start = end + 1;
    if (text.toString().trim() === '') continue;
    try {
      const conversation = parseLine(text, `line-${line}`);
      // A file may hold an id twice; each line is a conversation of its own all the same.
      const uses = (ids.get(conversation.id) ?? 0) + 1;
      ids.set(conversation.id, uses);
      conversations.push(uses === 1 ? conversation : { ...conversation, id: `${conversation.id}#${uses}` });
    } catch (error) {
      throw new ReplayFileError(`${file}, line ${line}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  if (conversations.length === 0) throw new ReplayFileError(`${file} holds no conversation. Expected one JSON object a line.`);
  return conversations;
}

function parseLine(text: Buffer, fallbackId: string): Conversation {
  const value: unknown = JSON.parse(text.toString('utf8'));
  if (!isObject(value)) throw new Error('expected a JSON object');
  const id = value['id'] ?? fallbackId;
  if (typeof id !== 'string' || id === '') throw new Error('"id" must be a non-empty string');
  if (value['metadata'] !== undefined && !isObject(value['metadata'])) throw new Error('"metadata" must be an object');
  if (!Array.isArray(value['messages'])) throw new Error('"messages" must be a list');
  value['messages'].forEach((message: unknown, i) => {
    if (!isObject(message)) throw new Error(`messages[${i}] must be an object`);
    if (typeof message['role'] !== 'string') throw new Error(`messages[${i}].role must be a string`);
    if (!Array.isArray(message['parts'])) throw new Error(`messages[${i}].parts must be a list`);
  });
  const scanner = new JsonScanner(text, DEPTH_MAX);
  const messages: ReplayMessage[] = [];
  let metadata = Buffer.from('{}');
  scanner.peek();
  scanner.open();
  while (scanner.nextMember()) {
    const key = scanner.key();
    if (key === 'messages') messages.push(...scanMessages(scanner, replayMessage));
    else if (key === 'metadata') metadata = Buffer.from(scanValue(scanner));
    else scanner.skipValue();
  }
  return { id, metadata, messages };
}

/** Members of one JSON object, each the bytes of its value. */
export type Members = ReadonlyMap<string, Buffer>;

/** Scans the array at the scanner: one `make` per object in it. */
export function scanMessages<T>(scanner: JsonScanner, make: (members: Members) => T): T[] {
  const made: T[] = [];
  scanner.open();
  while (scanner.nextElement()) {
    const members = new Map<string, Buffer>();
    scanner.open();
    while (scanner.nextMember()) members.set(scanner.key(), scanValue(scanner));
    made.push(make(members));
  }
  return made;
}

/** Bytes of the value at the scanner, which moves behind it. */
export function scanValue(scanner: JsonScanner): Buffer {
  const start = scanner.position;
  scanner.skipValue();
  return scanner.bytes.subarray(start, scanner.position);
}

function replayMessage(members: Members): ReplayMessage {
  const pieces: Buffer[] = [];
  for (const name of SENT) {
    const value = members.get(name);
    if (value !== undefined) pieces.push(Buffer.from(`${pieces.length === 0 ? '' : ','}"${name}":`), value);
  }
  const empty = Buffer.alloc(0);
  return {
    role: members.get('role') ?? empty,
    parts: members.get('parts') ?? empty,
    metadata: members.get('metadata') ?? Buffer.from('{}'),
    body: Buffer.concat([Buffer.from('{"message":{'), ...pieces, Buffer.from('}}')]),
  };
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
