/** The results that are kept under docs/: one entry for each scenario, replaced when it is measured again. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import type { ProbeFigure } from '../probes.ts';
import type { Ratio, Row } from './summary.ts';

export interface Entry {
  readonly name: string;
  readonly title: string;
  /** Day of the measurement. */
  readonly date: string;
  /** Arguments of `npm run bench --` that repeat it. */
  readonly command: string;
  readonly machine: string;
  readonly runs: number;
  readonly seconds: number;
  readonly rows: readonly Row[];
  readonly ratios: readonly Ratio[];
  readonly figures: readonly ProbeFigure[];
}

export function machineName(): string {
  const [cpu] = cpus();
  return `${cpus().length} cores (${cpu?.model.trim() ?? 'unknown'}), ${Math.round(totalmem() / 1024 ** 3)} GiB, Linux ${release()}, Node ${process.versions.node}`;
}

/** Entries of the file, in its order; none where there is no file. */
export function readEntries(file: string): Entry[] {
  // Written by this program, and reviewed with the page.
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Entry[]) : [];
}

/** Puts new entries in place of those of the same scenarios; `order` is that of all scenarios. */
export function mergeEntries(kept: readonly Entry[], measured: readonly Entry[], order: readonly string[]): Entry[] {
  const byName = new Map([...kept, ...measured].map((entry) => [entry.name, entry]));
  return order.flatMap((name) => byName.get(name) ?? []);
}

export function writeEntries(file: string, entries: readonly Entry[]): void {
  const digits = (_key: string, value: unknown): unknown => (typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value);
  // One line for each scenario's row, so that a change shows what moved.
  writeFileSync(file, `${JSON.stringify(entries, digits, 1)}\n`);
}
