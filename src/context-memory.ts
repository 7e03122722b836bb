/**
 * What a node keeps in memory of the contexts it applies commands to: headers and settings, heads of messages and
 * idempotency keys. All of it is what the rows say and bounded, so that an idle context costs nothing; `clear` is for
 * state that was replaced as a whole.
 *
 * Headers and settings are kept twice: decoded of the contexts that were used last, and as their rows of many more. Rows
 * take a tenth of the memory, and to decode one a twentieth of the time that LevelDB takes to find it; and LevelDB sorts a
 * file anew once it was looked into in vain often enough, which costs several times what the reads themselves do.
 */
import { BoundedContexts } from './contexts/bounded.ts';
import { MessageHeads } from './contexts/heads.ts';
import { keepKeys } from './contexts/idempotency.ts';
import { KeyMemory } from './contexts/keys.ts';
import { decodeConfig, decodeHeader } from './contexts/rows.ts';
import type { Command, ContextConfig, ContextHeader, Outcome } from './contexts/types.ts';
import { RecentBlocks } from './message-blocks.ts';
import { RowMemory } from './row-memory.ts';
import type { KeptRow } from './row-memory.ts';

/** Of decoded headers, and of decoded settings: about. */
const DECODED_BYTES_MAX = 16 * 1024 * 1024;
/** Of rows: those of a million contexts with ids of 32 characters. */
const ROWS_BYTES_MAX = 160 * 1024 * 1024;
/** A decoded row without its lists and texts, and its place in memory: about what the runtime takes for them. */
const DECODED_ROW_BYTES = 640;
/** Of a context that is not there. */
const ABSENT_BYTES = 128;

export interface ContextMemoryOptions {
  readonly decodedBytesMax: number;
  readonly rowsBytesMax: number;
  /** See RowMemory. */
  readonly rowSlabBytes: number;
}

export class ContextMemory {
  readonly heads = new MessageHeads();
  readonly keys = new KeyMemory();
  readonly recentBlocks = new RecentBlocks();
  /** null: there is no such context. */
  private readonly headers: BoundedContexts<ContextHeader | null>;
  private readonly configs: BoundedContexts<ContextConfig>;
  private readonly rows: RowMemory;

  constructor({ decodedBytesMax = DECODED_BYTES_MAX, rowsBytesMax = ROWS_BYTES_MAX, rowSlabBytes }: Partial<ContextMemoryOptions> = {}) {
    this.headers = new BoundedContexts<ContextHeader | null>(decodedBytesMax, headerBytes);
    this.configs = new BoundedContexts<ContextConfig>(decodedBytesMax, configBytes);
    this.rows = new RowMemory(rowsBytesMax, rowSlabBytes);
  }

  /** null: there is no such context; undefined: storage has to say. */
  header(context: string): ContextHeader | null | undefined {
    return this.known(context, 'header', this.headers, decodeHeader);
  }

  /** undefined: storage has to say. */
  config(context: string): ContextConfig | undefined {
    return this.known(context, 'config', this.configs, decodeConfig);
  }

  /** What storage said; null: there is no such context. */
  readHeader(context: string, header: ContextHeader | null, row: Uint8Array | null): void {
    this.headers.keep(context, header);
    if (row !== null) this.rows.keep(context, 'header', row);
  }

  readConfig(context: string, config: ContextConfig, row: Uint8Array): void {
    this.configs.keep(context, config);
    this.rows.keep(context, 'config', row);
  }

  /** `command` was applied, and this came of it. */
  applied(command: Command, { header, headers, config, writes }: Outcome): void {
    const { context } = command;
    for (const { table, context: written, value } of writes) {
      if (table === 'header' || table === 'config') this.rows.keep(written, table, value);
    }
    if (headers !== undefined) for (const [other, changed] of headers) this.headers.keep(other, changed);
    if (header === null) return;
    this.headers.keep(context, header);
    if (header.status === 'purged') {
      this.configs.delete(context);
      this.heads.delete(context);
      this.keys.delete(context);
      this.recentBlocks.clear();
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
    this.rows.clear();
    this.heads.clear();
    this.keys.clear();
    this.recentBlocks.clear();
  }

  /** What is kept decoded, or else decoded from its row and kept. */
  private known<T>(context: string, table: KeptRow, kept: BoundedContexts<T>, decode: (row: Uint8Array) => T | null): T | undefined {
    const found = kept.get(context);
    if (found !== undefined) return found;
    const row = this.rows.get(context, table);
    const decoded = row === undefined ? null : decode(row);
    if (decoded === null) return undefined;
    kept.keep(context, decoded);
    return decoded;
  }
}

function headerBytes(header: ContextHeader | null): number {
  if (header === null) return ABSENT_BYTES;
  const { window } = header;
  return DECODED_ROW_BYTES + 8 * (window.pinned.length + window.excluded.length + window.replacementExcluded.length);
}

function configBytes({ metadataText }: ContextConfig): number {
  return DECODED_ROW_BYTES + metadataText.length;
}
