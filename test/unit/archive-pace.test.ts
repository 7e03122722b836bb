/** How many rows are trimmed at a time, and when none are. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TRIM_ROWS_AT_ONCE, TrimPace } from '../../src/archive/pace.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Works that end when they are told to; `begun` in the order in which they began. */
class Works {
  readonly begun: string[] = [];
  readonly results: Promise<'done' | 'failed'>[] = [];
  private readonly ends = new Map<string, (error: Error | null) => void>();
  private readonly pace: TrimPace;

  constructor(pace: TrimPace) {
    this.pace = pace;
  }

  add(name: string, rows: number): void {
    this.results.push(
      this.pace
        .run(rows, () => {
          this.begun.push(name);
          return new Promise<void>((resolve, reject) => this.ends.set(name, (error) => (error === null ? resolve() : reject(error))));
        })
        .then(() => 'done', () => 'failed'),
    );
  }

  async end(name: string, error: Error | null = null): Promise<void> {
    this.ends.get(name)?.(error);
    await turn();
  }
}

test('rows under way at a time are bounded; what waits goes on in turn, also after a failure', async () => {
  const works = new Works(new TrimPace(() => 0));
  const half = TRIM_ROWS_AT_ONCE / 2;
  for (const name of ['a', 'b', 'c', 'd']) works.add(name, half);
  await turn();
  assert.deepEqual(works.begun, ['a', 'b']);
  await works.end('b', new Error('no leader any more'));
  assert.deepEqual(works.begun, ['a', 'b', 'c']);
  await works.end('a');
  assert.deepEqual(works.begun, ['a', 'b', 'c', 'd']);
  await works.end('c');
  await works.end('d');
  assert.deepEqual(await Promise.all(works.results), ['done', 'failed', 'done', 'done']);
});

test('a few rows do not overtake many that wait, and more than the bound go alone', async () => {
  const works = new Works(new TrimPace(() => 0));
  works.add('small', 1);
  works.add('huge', TRIM_ROWS_AT_ONCE * 2);
  works.add('late', 1);
  await turn();
  assert.deepEqual(works.begun, ['small']);
  await works.end('small');
  assert.deepEqual(works.begun, ['small', 'huge']);
  await works.end('huge');
  assert.deepEqual(works.begun, ['small', 'huge', 'late']);
  await works.end('late');
  await Promise.all(works.results);
});

test('nothing to trim waits for nothing', async () => {
  const works = new Works(new TrimPace(() => 100));
  works.add('trims', 1);
  works.add('marks only', 0);
  await turn();
  assert.deepEqual(works.begun, ['marks only']);
  await works.end('marks only');
  while (!works.begun.includes('trims')) await turn();
  await works.end('trims');
  await Promise.all(works.results);
});

test('trimming waits while the disk has many files to tidy up, and not for ever', async () => {
  let looks = 0;
  let files = 6;
  const pace = new TrimPace(() => {
    looks++;
    if (looks === 3) files = 5;
    return files;
  });
  assert.equal(await pace.run(1, () => Promise.resolve(looks)), 3);
  files = 6;
  looks = 100;
  assert.equal(await pace.run(1, () => Promise.resolve(files)), 6);
  assert.ok(looks > 110, 'it looked again and again before it went on');
});
