/**
 * What a node keeps in memory of the contexts it applies commands to: decoded headers and settings, heads of messages and
 * idempotency keys. All of it is what the rows say and bounded, so that an idle context costs nothing; `clear` is for
 * state that was replaced as a whole.
 */
import { BoundedContexts } from './contexts/bounded.ts';
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
  readonly headers = new BoundedContexts<ContextHeader | null>(CACHED_BYTES_MAX, headerBytes);
  readonly configs = new BoundedContexts(CACHED_BYTES_MAX, configBytes);
  readonly heads = new MessageHeads();
  readonly keys = new KeyMemory();

  /** `command` was applied, and this came of it. */
  applied(command: Command, { header, headers, config, writes }: Outcome): void {
    const { context } = command;
    if (headers !== undefined) for (const [other, changed] of headers) this.headers.keep(other, changed);
    if (header === null) return;
    this.headers.keep(context, header);
    if (header.status === 'purged') {
      this.configs.delete(context);
      this.heads.delete(context);
      this.keys.delete(context);
      return;
    }
    // Copied: its metadata is a view into the bytes of a whole frame.
    if (config !== null) this.configs.keep(context, { ...config, metadataText: config.metadataText.slice() });
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
