/**
 * The archive's marks and what follows from them. A context is pending while the archive lacks messages, a state or
 * settings of it; the row `unarchived` lists it, so that whoever archives finds the backlog in the state itself and
 * never in a queue that a crash could lose. It is there with or without an archive: one turned on later finds all.
 *
 * What is archived may be trimmed: messages leave hot storage from the oldest on. What the window holds stays, as do
 * the newest `tailKeep`; nothing that apply or the window of today reads is ever in the archive alone.
 */
import { answer, refuse } from './outcome.ts';
import { encodeHeader } from './rows.ts';
import type { ArchiveAck, Command, ContextHeader, Outcome, Rows, WindowState, Write } from './types.ts';

/** Contexts in one command. */
export const ACKS_MAX = 1000;
/** Messages that one command trims, of all its contexts together; what is left stays listed and comes with a next ack. */
export const TRIM_ROWS_MAX = 512;

const LISTED = new Uint8Array([1]);

/** Whether the archive lacks anything of the context. */
export function isPending(header: ContextHeader): boolean {
  return header.archivedSeq < header.lastSeq || header.archivedVersion < header.version || header.archivedRevision < header.configRevision;
}

/** The newest message that may be trimmed now; at most trimmedSeq when there is nothing to trim. */
export function trimmableTo(header: ContextHeader, tailKeep: number): number {
  return Math.min(header.archivedSeq, header.lastSeq - tailKeep, header.window.firstSeq - 1);
}

/** The row that lists a context. */
export function listing(context: string): Write {
  return { table: 'unarchived', context, key: '', value: LISTED };
}

/** Deletes pinned messages that a cut let go and that lie in the trimmed part, where they had stayed for the window alone. */
export function trimUnpinned(context: string, before: ContextHeader, window: WindowState): Write[] {
  const writes: Write[] = [];
  // Growth alone keeps the list as it is.
  if (before.window.pinned === window.pinned) return writes;
  const pinned = new Set(window.pinned);
  for (const seq of before.window.pinned) {
    if (seq > before.trimmedSeq) break;
    if (!pinned.has(seq)) writes.push({ table: 'message', context, key: seq, value: null });
  }
  return writes;
}

type AckArchived = Extract<Command, { readonly type: 'ack_archived' }>;

/** Raises marks and trims. Neither is a change of the conversation: version and updatedAt stay. Unknown contexts are passed over. */
export function ackArchived(rows: Rows, command: AckArchived): Outcome {
  const { acks, tailKeep } = command;
  if (acks.length === 0 || acks.length > ACKS_MAX) return refuse('invalid_command');
  const headers = new Map<string, ContextHeader>();
  const writes: Write[] = [];
  let left = TRIM_ROWS_MAX;
  for (const ack of acks) {
    const before = headers.get(ack.context) ?? rows.header(ack.context);
    if (before === undefined || before.status === 'purged') continue;
    const marked = withMarks(before, ack);
    const to = Math.min(trimmableTo(marked, tailKeep), marked.trimmedSeq + left);
    const next = to > marked.trimmedSeq ? { ...marked, trimmedSeq: to } : marked;
    left -= next.trimmedSeq - before.trimmedSeq;
    const pinned = new Set(next.window.pinned);
    for (let seq = before.trimmedSeq + 1; seq <= next.trimmedSeq; seq++) {
      if (!pinned.has(seq)) writes.push({ table: 'message', context: ack.context, key: seq, value: null });
    }
    const list = isPending(next) || trimmableTo(next, tailKeep) > next.trimmedSeq;
    if (list !== (rows.get('unarchived', ack.context, '') !== undefined)) writes.push(list ? listing(ack.context) : { ...listing(ack.context), value: null });
    if (next === before) continue;
    writes.push({ table: 'header', context: ack.context, key: '', value: encodeHeader(next) });
    headers.set(ack.context, next);
  }
  const reply = { ok: true, type: 'ack_archived' } as const;
  return writes.length === 0 ? answer(reply) : { reply, events: [], writes, header: null, config: null, headers };
}

/** About how many messages a command with `acks` trims, of contexts whose headers are as `headerOf` says. */
export function trimmedBy(headerOf: (context: string) => ContextHeader | undefined, acks: readonly ArchiveAck[], tailKeep: number): number {
  let rows = 0;
  for (const ack of acks) {
    const header = headerOf(ack.context);
    if (header === undefined || header.status === 'purged') continue;
    rows += Math.max(0, trimmableTo(withMarks(header, ack), tailKeep) - header.trimmedSeq);
    if (rows >= TRIM_ROWS_MAX) return TRIM_ROWS_MAX;
  }
  return rows;
}

/** The same header where no mark moves. */
function withMarks(header: ContextHeader, ack: ArchiveAck): ContextHeader {
  const archivedSeq = Math.max(header.archivedSeq, Math.min(ack.upto, header.lastSeq));
  const archivedVersion = Math.max(header.archivedVersion, Math.min(ack.version, header.version));
  const archivedRevision = Math.max(header.archivedRevision, Math.min(ack.configRevision, header.configRevision));
  if (archivedSeq === header.archivedSeq && archivedVersion === header.archivedVersion && archivedRevision === header.archivedRevision) return header;
  return { ...header, archivedSeq, archivedVersion, archivedRevision };
}
