/** The stored window as bytes: the same in headers and in the records of cuts. */
import type { Reader, Writer } from './bytes.ts';
import type { Stripped, WindowState } from './types.ts';

/** Of a context without messages. */
export const EMPTY_WINDOW: WindowState = {
  replacementVersion: 0,
  replacementCount: 0,
  replacementFirst: 0,
  replacementExcluded: [],
  firstSeq: 1,
  pinned: [],
  excluded: [],
  stripped: [],
  tokens: 0,
  count: 0,
  stableSinceVersion: 0,
};

/** A close guess of the bytes that writeWindow makes. */
export function windowSizeHint(window: WindowState): number {
  return 48 + (window.pinned.length + window.excluded.length + window.replacementExcluded.length) * 2;
}

export function writeWindow(writer: Writer, window: WindowState): void {
  writer.uint(window.replacementVersion);
  writer.uint(window.replacementCount);
  writer.uint(window.replacementFirst);
  writer.ascending(window.replacementExcluded);
  writer.uint(window.firstSeq);
  writer.ascending(window.pinned);
  writer.ascending(window.excluded);
  writer.uint(window.tokens);
  writer.uint(window.count);
  writer.uint(window.stableSinceVersion);
  writer.uint(window.stripped.length);
  for (const run of window.stripped) {
    writer.uint(run.before);
    writer.uint(run.through);
    writer.uint(run.kinds.length);
    for (const kind of run.kinds) writer.string(kind);
  }
}

/** Meaningless unless the reader is still ok afterwards. */
export function readWindowState(reader: Reader): WindowState {
  return {
    replacementVersion: reader.uint(),
    replacementCount: reader.uint(),
    replacementFirst: reader.uint(),
    replacementExcluded: reader.ascending(),
    firstSeq: reader.uint(),
    pinned: reader.ascending(),
    excluded: reader.ascending(),
    tokens: reader.uint(),
    count: reader.uint(),
    stableSinceVersion: reader.uint(),
    stripped: readStripped(reader),
  };
}

function readStripped(reader: Reader): Stripped[] {
  const count = reader.count();
  const stripped: Stripped[] = [];
  for (let i = 0; i < count && reader.ok; i++) {
    const before = reader.uint();
    const through = reader.uint();
    const kinds: string[] = [];
    for (let left = reader.count(); left > 0 && reader.ok; left--) kinds.push(reader.string());
    stripped.push({ before, through, kinds });
  }
  return stripped;
}
