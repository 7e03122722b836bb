/**
 * What a node keeps in memory of the contexts it applies commands to: decoded headers and settings, heads of messages and
 * idempotency keys. All of it is what the rows say and bounded, so that an idle context costs nothing; `clear` is for
 * state that was replaced as a whole.
 */
import { MessageHeads } from './contexts/heads.ts';
import { keepKeys } from './contexts/idempotency.ts';
import { KeyMemory } from './contexts/keys.ts';
import type { Command, ContextConfig, ContextHeader, Outcome } from './contexts/types.ts';

/** Of decoded headers, and of configs: about. */
const CACHED_BYTES_MAX = 32 * 1024 * 1024;
/** A decoded row without its lists and texts, and its place in the cache: about what the runtime takes for them. */
const CACHED_ROW_BYTES = 640;
/** Of a context that is not there. */
const ABSENT_BYTES = 128;

interface Cached<T> {
  value: T;
  bytes: number;
  /** Since the hand last passed. */
  used: boolean;
}

/**
 * Bounded in bytes, by second chances: a hit marks the entry; who makes room takes the oldest entry that was not hit
 * since it was last passed over. To keep the order of use itself would cost each hit a deletion and an insertion.
 */
class RecentlyUsed<T> {
  private readonly entries = new Map<string, Cached<T>>();
  private readonly bytesOf: (value: T) => number;
  private bytes = 0;

  constructor(bytesOf: (value: T) => number) {
    this.bytesOf = bytesOf;
  }

  get(key: string): T | undefined {
    const entry = this.entries.get(key);
    if (entry === undefined) return undefined;
    entry.used = true;
    return entry.value;
  }

  set(key: string, value: T): void {
    const bytes = this.bytesOf(value);
    const entry = this.entries.get(key);
    this.bytes += bytes - (entry?.bytes ?? 0);
    if (entry === undefined) {
      this.entries.set(key, { value, bytes, used: false });
    } else {
      entry.value = value;
      entry.bytes = bytes;
      entry.used = true;
    }
    if (this.bytes > CACHED_BYTES_MAX) this.makeRoom();
  }

  clear(): void {
    this.entries.clear();
    this.bytes = 0;
  }

  delete(key: string): void {
    const entry = this.entries.get(key);
    if (entry === undefined) return;
    this.entries.delete(key);
    this.bytes -= entry.bytes;
  }

  /** Visits what it puts back once more, unmarked: it ends. */
  private makeRoom(): void {
    for (const [key, entry] of this.entries) {
      if (this.bytes <= CACHED_BYTES_MAX) return;
      this.entries.delete(key);
      if (entry.used) {
        entry.used = false;
        this.entries.set(key, entry);
      } else {
        this.bytes -= entry.bytes;
      }
    }
  }
}

function headerBytes(header: ContextHeader | null): number {
  if (header === null) return ABSENT_BYTES;
  const { window } = header;
  return CACHED_ROW_BYTES + 8 * (window.pinned.length + window.excluded.length + window.replacementExcluded.length);
}

function configBytes({ metadataText }: ContextConfig): number {
  return CACHED_ROW_BYTES + metadataText.length;
}

export class ContextMemory {
  /** null: there is no such context. */
  readonly headers = new RecentlyUsed<ContextHeader | null>(headerBytes);
  readonly configs = new RecentlyUsed(configBytes);
  readonly heads = new MessageHeads();
  readonly keys = new KeyMemory();

  /** `command` was applied, and this came of it. */
  applied(command: Command, { header, headers, config, writes }: Outcome): void {
    const { context } = command;
    if (headers !== undefined) for (const [other, changed] of headers) this.headers.set(other, changed);
    if (header === null) return;
    this.headers.set(context, header);
    if (header.status === 'purged') {
      this.configs.delete(context);
      this.heads.delete(context);
      this.keys.delete(context);
      return;
    }
    // Copied: its metadata is a view into the bytes of a whole frame.
    if (config !== null) this.configs.set(context, { ...config, metadataText: config.metadataText.slice() });
    this.heads.applied(context, header.window.firstSeq, writes);
    if (command.type === 'append' && command.idempotency !== null) keepKeys(this.keys, context, writes);
  }

  clear(): void {
    this.headers.clear();
    this.configs.clear();
    this.heads.clear();
    this.keys.clear();
  }
}
