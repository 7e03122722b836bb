/**
 * Settings over time: one row a config revision with what shapes windows. Metadata is left out, so that a context whose
 * metadata changes often keeps a few bytes a change.
 */
import { Reader, Writer } from './bytes.ts';
import { readPolicy, writePolicy } from './policies.ts';
import type { ContextConfig, ContextHeader, Policy, Rows, Write } from './types.ts';

export interface Revision {
  readonly revision: number;
  /** The context's version when it took effect: it shaped windows from there to the version of the next revision. */
  readonly sinceVersion: number;
  readonly tokenBudget: number;
  readonly triggerRatio: number;
  readonly policy: Policy;
  readonly model: string;
  readonly calibration: number;
}

const FORMAT = 1;

/** What a context's settings are as of `header`. */
export function revisionOf(header: ContextHeader, config: ContextConfig): Revision {
  const { configRevision: revision, version: sinceVersion, calibration } = header;
  const { tokenBudget, triggerRatio, policy, model } = config;
  return { revision, sinceVersion, tokenBudget, triggerRatio, policy, model, calibration };
}

export function encodeRevision(revision: Revision): Uint8Array {
  const writer = new Writer(64);
  writer.byte(FORMAT);
  writer.uint(revision.revision);
  writer.uint(revision.sinceVersion);
  writer.uint(revision.tokenBudget);
  writer.double(revision.triggerRatio);
  writePolicy(writer, revision.policy);
  writer.string(revision.model);
  writer.uint(revision.calibration);
  return writer.done();
}

export function decodeRevision(bytes: Uint8Array): Revision | null {
  const reader = new Reader(bytes);
  if (reader.byte() !== FORMAT) return null;
  const revision = {
    revision: reader.uint(),
    sinceVersion: reader.uint(),
    tokenBudget: reader.uint(),
    triggerRatio: reader.double(),
    policy: readPolicy(reader),
    model: reader.string(),
    calibration: reader.uint(),
  };
  return reader.ok && reader.atEnd ? revision : null;
}

/** The row of a context's new settings; where an older format kept none of its last ones, that too. */
export function revisionWrites(rows: Rows, context: string, last: Revision | null, next: Revision): Write[] {
  const write = (revision: Revision): Write => ({ table: 'revision', context, key: revision.revision, value: encodeRevision(revision) });
  if (last === null || rows.get('revision', context, last.revision) !== undefined) return [write(next)];
  return [write(last), write(next)];
}

/**
 * The settings in force at `version`: where they changed while it was the newest, the last of them. A context made
 * before revisions were kept has none for its first settings; those of the oldest kept stand for them.
 */
export function revisionAt(rows: Rows, context: string, version: number): Revision | null {
  const header = rows.header(context);
  const config = rows.config(context);
  if (header === undefined || config === undefined) return null;
  const at = (revision: number): Revision | null => {
    const row = rows.get('revision', context, revision);
    return row === undefined ? null : decodeRevision(row);
  };
  // The newest revision whose sinceVersion is not above `version`; they rise together.
  let low = 0;
  let high = header.configRevision;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if ((at(middle)?.sinceVersion ?? 0) <= version) low = middle;
    else high = middle - 1;
  }
  return at(low) ?? revisionOf(header, config);
}
