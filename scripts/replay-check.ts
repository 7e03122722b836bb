/**
 * Reading a replayed conversation back and telling what became of it: nothing lost, nothing changed, nothing twice.
 */
import { JsonScanner } from '../src/ingest/scanner.ts';
import type { ReplayClient } from './replay-client.ts';
import { scanMessages, scanValue } from './replay-file.ts';
import type { Members, ReplayMessage } from './replay-file.ts';

const PAGE = 500;
const DEPTH_MAX = 1000;

export interface ReadMessage {
  readonly seq: number;
  readonly role: Buffer;
  readonly parts: Buffer;
  readonly metadata: Buffer;
}

export interface Comparison {
  readonly lost: number;
  readonly changed: number;
  readonly repeated: number;
  /** The first difference, in words; null when there is none. */
  readonly first: string | null;
}

/** Reads all messages of a context in pages, starting at the given node. Throws where an answer is not a page. */
export async function readBack(client: ReplayClient, path: string, node: number): Promise<ReadMessage[]> {
  const messages: ReadMessage[] = [];
  let from: number | null = 1;
  while (from !== null) {
    const answer = await client.call({ method: 'GET', path: `${path}/messages?from_seq=${from}&limit=${PAGE}`, body: null, idempotencyKey: null }, node);
    if (answer.status !== 200) throw new Error(`reading back answered ${answer.status} ${answer.body.toString('utf8').slice(0, 200)}`);
    const page = scanPage(answer.body);
    messages.push(...page.messages);
    if (page.nextSeq !== null && page.nextSeq <= from) throw new Error(`next_seq ${page.nextSeq} does not go on from ${from}`);
    from = page.nextSeq;
  }
  return messages;
}

function scanPage(body: Buffer): { messages: ReadMessage[]; nextSeq: number | null } {
  JSON.parse(body.toString('utf8'));
  const scanner = new JsonScanner(body, DEPTH_MAX);
  let messages: ReadMessage[] = [];
  let nextSeq: number | null = null;
  if (!scanner.peekIsObject()) throw new Error('a page must be an object');
  scanner.open();
  while (scanner.nextMember()) {
    const key = scanner.key();
    if (key === 'messages' && scanner.peekIsArray()) messages = scanMessages(scanner, readMessage);
    else if (key === 'next_seq') {
      const text = scanValue(scanner).toString();
      nextSeq = text === 'null' ? null : Number(text);
    } else scanner.skipValue();
  }
  return { messages, nextSeq };
}

function readMessage(members: Members): ReadMessage {
  const empty = Buffer.alloc(0);
  return {
    seq: Number(members.get('seq')?.toString() ?? Number.NaN),
    role: members.get('role') ?? empty,
    parts: members.get('parts') ?? empty,
    metadata: members.get('metadata') ?? empty,
  };
}

/**
 * Compares what was acknowledged with what is there. `unknown` is a message sent without ever an answer: it may be
 * there, as the last one, or not.
 */
export function compare(acknowledged: readonly ReplayMessage[], found: readonly ReadMessage[], unknown: ReplayMessage | null): Comparison {
  let lost = 0;
  let changed = 0;
  let repeated = 0;
  let first: string | null = null;
  const note = (what: string): void => {
    first ??= what;
  };
  let due = 0;
  let at = 0;
  while (at < found.length) {
    const have = found[at];
    if (have === undefined) break;
    if (have.seq !== at + 1) note(`position ${at + 1} has seq ${have.seq}`);
    const wanted = acknowledged[due];
    const before = acknowledged[due - 1];
    const after = acknowledged[due + 1];
    if (wanted !== undefined && same(wanted, have)) {
      if (have.seq !== at + 1) changed += 1;
      due += 1;
      at += 1;
    } else if (wanted === undefined && at === found.length - 1 && unknown !== null && same(unknown, have)) {
      at += 1;
    } else if (wanted === undefined || (before !== undefined && same(before, have))) {
      note(`message ${due} is there again as seq ${have.seq}`);
      repeated += 1;
      at += 1;
    } else if (after !== undefined && same(after, have)) {
      note(`message ${due + 1} is missing`);
      lost += 1;
      due += 1;
    } else {
      note(`message ${due + 1} differs: sent ${excerpt(wanted.parts)}, read ${excerpt(have.parts)}`);
      changed += 1;
      due += 1;
      at += 1;
    }
  }
  if (due < acknowledged.length) note(`the last ${acknowledged.length - due} messages are missing`);
  return { lost: lost + acknowledged.length - due, changed, repeated, first };
}

function same(sent: ReplayMessage, read: ReadMessage): boolean {
  return sent.parts.equals(read.parts) && sent.metadata.equals(read.metadata) && sent.role.equals(read.role);
}

function excerpt(text: Buffer): string {
  return text.length <= 120 ? text.toString('utf8') : `${text.toString('utf8', 0, 120)}…`;
}
