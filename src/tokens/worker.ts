/**
 * The token worker: builds rank tables (shared with the main thread) and counts texts too long for the event loop.
 * Requests are answered in order; one that fails is answered with the reason and harms no other.
 */
import { parentPort } from 'node:worker_threads';
import type { TiktokenBPE } from 'js-tiktoken/lite';
import { Encoding } from '../contexts/tokens.ts';
import { buildRankTable } from '../contexts/tokens-table.ts';
import type { EncodingName } from './models.ts';

/** Pieces remembered per generation; the worker sees rare, long texts, so fewer than the main thread. */
const CACHE_ENTRIES = 8192;

/** `texts` is empty where only the table is wanted. */
export interface CountRequest {
  readonly id: number;
  readonly encoding: EncodingName;
  readonly texts: readonly string[];
}

/** The `table` is sent once per encoding, with the first answer that needed it. */
export interface CountAnswer {
  readonly id: number;
  readonly counts: readonly number[];
  readonly table: { readonly encoding: EncodingName; readonly pattern: string; readonly buffer: SharedArrayBuffer } | null;
  readonly failure: string | null;
}

const IMPORTS: Readonly<Record<EncodingName, () => Promise<{ readonly default: TiktokenBPE }>>> = {
  o200k_base: () => import('js-tiktoken/ranks/o200k_base'),
  cl100k_base: () => import('js-tiktoken/ranks/cl100k_base'),
  p50k_base: () => import('js-tiktoken/ranks/p50k_base'),
  p50k_edit: () => import('js-tiktoken/ranks/p50k_edit'),
  r50k_base: () => import('js-tiktoken/ranks/r50k_base'),
  gpt2: () => import('js-tiktoken/ranks/gpt2'),
};

const port = parentPort;
if (port === null) throw new Error('src/tokens/worker.ts runs only as a worker thread');

const encodings = new Map<EncodingName, Encoding>();
/** One request after the other: an encoding being imported makes later requests wait, not overtake. */
let queue: Promise<void> = Promise.resolve();

port.on('message', (request: CountRequest) => {
  queue = queue.then(() => answer(request)).then((done) => port.postMessage(done));
});

async function answer(request: CountRequest): Promise<CountAnswer> {
  try {
    let table: CountAnswer['table'] = null;
    let encoding = encodings.get(request.encoding);
    if (encoding === undefined) {
      const { default: ranks } = await IMPORTS[request.encoding]();
      const buffers: SharedArrayBuffer[] = [];
      const built = buildRankTable(ranks.bpe_ranks, (bytes) => {
        const buffer = new SharedArrayBuffer(bytes);
        buffers.push(buffer);
        return buffer;
      });
      encoding = new Encoding(ranks.pat_str, built, CACHE_ENTRIES);
      encodings.set(request.encoding, encoding);
      const [buffer] = buffers;
      if (buffer !== undefined) table = { encoding: request.encoding, pattern: ranks.pat_str, buffer };
    }
    const counts: number[] = [];
    for (const text of request.texts) counts.push(encoding.count(text));
    return { id: request.id, counts, table, failure: null };
  } catch (error) {
    return { id: request.id, counts: [], table: null, failure: error instanceof Error ? error.message : String(error) };
  }
}
