/**
 * A whole range of messages as lines of JSON, slice by slice, at the pace of whoever takes them. The end is fixed with
 * the first slice; messages never change, so what follows need not be read at that moment. Owns the order of slices
 * and how consistent each must be; reads.ts makes them.
 */
import type { Consistency, ExportApi, MessageExport, MessagesQuery, ReadAnswer } from './http/ports.ts';
import { decodeSlice, type SliceQuery } from './reads.ts';

/** Store.slice: `isHere` says that this node's own replica can go on with the export. */
export type ReadSlice = (id: string, query: SliceQuery, consistency: Consistency) => Promise<ReadAnswer & { isHere: boolean }>;

export class MessageExporter implements ExportApi {
  private readonly read: ReadSlice;

  constructor(read: ReadSlice) {
    this.read = read;
  }

  async open(id: string, query: Omit<MessagesQuery, 'limit'>, consistency: Consistency): Promise<MessageExport> {
    const first = await this.read(id, { ...query, lastSeq: null }, consistency);
    return { appliedIndex: first.appliedIndex, slices: this.slices(id, first, consistency) };
  }

  private async *slices(id: string, first: ReadAnswer & { isHere: boolean }, consistency: Consistency): AsyncGenerator<Buffer> {
    let answer = first;
    for (;;) {
      const { lastSeq, nextSeq, lines } = decodeSlice(answer.body);
      if (lines.length > 0) yield lines;
      if (nextSeq === null) return;
      // A local slice is read in one go without waiting for anything: the others get their turn here.
      await new Promise<void>((resolve) => setImmediate(resolve));
      // The replica here holds all up to lastSeq already; another node asked in its stead may be behind.
      answer = await this.read(id, { fromSeq: nextSeq, toSeq: null, afterVersion: null, lastSeq }, answer.isHere ? 'stale' : consistency);
    }
  }
}
