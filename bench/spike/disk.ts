/** The disk side of the spikes: one LevelDB, synced batches, keys as the store has them: log, message, header rows. */
import { ClassicLevel } from 'classic-level';

export type Db = ClassicLevel<Buffer, Buffer>;
export interface Put {
  readonly type: 'put';
  readonly key: Buffer;
  readonly value: Buffer;
}

const LOG = 1;
const MESSAGE = 2;
const HEADER_BYTES = 96;

export async function openDb(directory: string): Promise<Db> {
  const db: Db = new ClassicLevel(directory, { keyEncoding: 'buffer', valueEncoding: 'buffer', compression: false, writeBufferSize: 32 * 1024 * 1024 });
  await db.open();
  return db;
}

export function logRow(owner: number, index: number, value: Buffer): Put {
  const key = Buffer.allocUnsafe(11);
  key[0] = LOG;
  key.writeUInt16BE(owner, 1);
  key.writeDoubleBE(index, 3);
  return { type: 'put', key, value };
}

export function messageRow(context: string, seq: number, value: Buffer): Put {
  const key = Buffer.allocUnsafe(9 + context.length);
  key[0] = MESSAGE;
  key.write(context, 1, 'latin1');
  key.writeDoubleBE(seq, 1 + context.length);
  return { type: 'put', key, value };
}

/** A context's header, written again with each message. */
export function headerRow(context: string): Put {
  return messageRow(context, 0, Buffer.allocUnsafe(HEADER_BYTES));
}
