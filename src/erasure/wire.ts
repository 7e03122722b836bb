/** What the leader of a group asks the nodes that hold a replica of it, and their answers, as JSON. */

/** What must be gone: everything about the contexts, and the group's log up to an entry behind all that is about them. */
export interface Trace {
  readonly group: number;
  /** All commands about the contexts that carry content are at or below this index. */
  readonly upTo: number;
  /** At least one. */
  readonly contexts: readonly string[];
}

/**
 * `applied`: has the replica durably applied everything up to `upTo`? `clean`: is every trace gone from its files? The
 * question also starts the work, so it is asked until the answer is yes, and only once all replicas have applied.
 */
export interface ErasureQuestion extends Trace {
  readonly ask: 'applied' | 'clean';
}

const decoder = new TextDecoder();
const encoder = new TextEncoder();

export function encodeQuestion(question: ErasureQuestion): Uint8Array {
  return encoder.encode(JSON.stringify(question));
}

/** null for what is no question that this version knows. */
export function decodeQuestion(bytes: Uint8Array): ErasureQuestion | null {
  const value = parsed(bytes);
  if (typeof value !== 'object' || value === null || !('ask' in value) || !('group' in value) || !('upTo' in value) || !('contexts' in value)) return null;
  const { ask, group, upTo, contexts } = value;
  if ((ask !== 'applied' && ask !== 'clean') || !isCount(group) || !isCount(upTo) || !Array.isArray(contexts)) return null;
  const names = contexts.filter((context): context is string => typeof context === 'string');
  return names.length === 0 || names.length !== contexts.length ? null : { ask, group, upTo, contexts: names };
}

export function encodeAnswer(isSo: boolean): Uint8Array {
  return encoder.encode(JSON.stringify({ is_so: isSo }));
}

/** Anything but a clear yes is a no. */
export function decodeAnswer(bytes: Uint8Array): boolean {
  const value = parsed(bytes);
  return typeof value === 'object' && value !== null && 'is_so' in value && value.is_so === true;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && typeof value === 'number' && value >= 0;
}

function parsed(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(decoder.decode(bytes));
  } catch {
    return null;
  }
}
