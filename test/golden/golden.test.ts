/** Runs every story in this directory and holds its trace to the recorded one. UPDATE_GOLDEN=1 records anew. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runScript } from './script.ts';

const directory = import.meta.dirname;
const update = process.env['UPDATE_GOLDEN'] === '1';

for (const name of readdirSync(directory).filter((file) => file.endsWith('.txt')).sort()) {
  test(`golden: ${name.slice(0, -4)}`, () => {
    const path = join(directory, name);
    const recorded = readFileSync(path, 'utf8');
    const actual = runScript(recorded);
    if (update) writeFileSync(path, actual);
    else assert.equal(actual, recorded);
  });
}
