/** The measured part of docs/benchmarks.md: everything between two markers is written anew from the kept results. */
import { readFileSync, writeFileSync } from 'node:fs';
import { probeTable, ratioTable, rowTable } from './markdown.ts';
import type { Entry } from './results.ts';

const START = '<!-- measured: written by npm run bench -- --write -->';
const END = '<!-- end of measured -->';

/** What one scenario looks like, on the page and on the terminal. */
export function section({ title, rows, ratios, figures }: Pick<Entry, 'title' | 'rows' | 'ratios' | 'figures'>): string {
  const parts = [`### ${title}`];
  if (rows.length > 0) parts.push(rowTable(rows, 'speed'));
  if (ratios.length > 0) parts.push('Within the same runs, median of the ratios (least–greatest):', ratioTable(ratios));
  if (rows.length > 0) parts.push('<details><summary>What it takes</summary>', rowTable(rows, 'cost'), '</details>');
  if (figures.length > 0) parts.push(probeTable(figures));
  return parts.join('\n\n');
}

function sourceOf({ command, date, machine, runs, seconds }: Entry): string {
  return `${date}, ${machine}; medians of ${runs} ${runs === 1 ? 'run' : 'runs'} of ${seconds} s. \`npm run bench -- ${command}\``;
}

/** Throws where the page has lost its markers. */
export function writePage(file: string, entries: readonly Entry[]): void {
  const page = readFileSync(file, 'utf8');
  const [from, to] = [page.indexOf(START), page.indexOf(END)];
  if (from < 0 || to < from) throw new Error(`${file} lacks the markers ${START} and ${END}`);
  const body = entries.map((entry) => `${section(entry)}\n\n${sourceOf(entry)}`).join('\n\n');
  writeFileSync(file, `${page.slice(0, from + START.length)}\n\n${body}\n\n${page.slice(to)}`);
}
