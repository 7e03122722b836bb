/** Whose state counts as the odd one out, and what the replicas of a group are told: never more than a majority proves. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { EntryType } from '../../raft/types.ts';
import { foundingConf, foundingTopology } from '../../src/cluster/topology.ts';
import { judge, StateComparison } from '../../src/cluster/comparison.ts';
import type { Logger } from '../../src/log.ts';
import { Storage } from '../../src/storage/store.ts';

const GROUP = 7;
const VOTERS = [1, 2, 3];
const mark = (index: number, hash: number): { index: number; hash: number } => ({ index, hash });
const marks = (...known: { index: number; hash: number }[][]): Map<number, { index: number; hash: number }[]> => new Map(known.map((list, i) => [i + 1, list]));

describe('judging the states of replicas', () => {
  it('finds the one that differs from a majority of the voters, at an index that all know', () => {
    assert.deepEqual(judge(marks([mark(70, 9), mark(64, 5)], [mark(66, 1), mark(64, 5)], [mark(64, 6)]), VOTERS), { type: 'odd', index: 64, hash: 5, replicas: [3] });
    assert.deepEqual(judge(marks([mark(64, 6)], [mark(64, 5)], [mark(64, 5)]), VOTERS), { type: 'odd', index: 64, hash: 5, replicas: [1] });
  });

  it('prefers the latest of the indexes that most know', () => {
    assert.deepEqual(judge(marks([mark(70, 1), mark(64, 5)], [mark(70, 1), mark(64, 5)], [mark(70, 1), mark(64, 5)]), VOTERS), { type: 'equal', index: 70, replicas: 3 });
  });

  it('decides nothing without a majority, and knows nothing of one alone', () => {
    assert.deepEqual(judge(marks([mark(64, 5)], [mark(64, 6)]), VOTERS), { type: 'undecided', index: 64, replicas: [1, 2] });
    assert.deepEqual(judge(marks([mark(64, 5)], [mark(64, 6)], [mark(64, 7)]), VOTERS), { type: 'undecided', index: 64, replicas: [1, 2, 3] });
    assert.deepEqual(judge(marks([mark(65, 5)], [mark(64, 6)]), VOTERS), { type: 'unknown' });
    // Two of five agree, and a learner with them: no majority of the voters.
    assert.equal(judge(marks([mark(64, 5)], [mark(64, 5)], [mark(64, 6)], [mark(64, 5)]), [1, 2, 3, 5, 6]).type, 'undecided');
  });

  it('condemns a learner that differs', () => {
    assert.deepEqual(judge(marks([mark(64, 5)], [mark(64, 5)], [mark(64, 5)], [mark(64, 6)]), VOTERS), { type: 'odd', index: 64, hash: 5, replicas: [4] });
  });
});

describe('comparing replicas', () => {
  let root = '';
  let nodes: { storage: Storage; comparison: StateComparison; damaged: string[]; log: string[] }[] = [];
  let down = new Set<string>();

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'comparison-'));
    down = new Set();
    const members = ['a', 'b', 'c'].map((name) => ({ name, storeId: `store-${name}`, address: `${name}:1` }));
    const placement = foundingTopology({ clusterId: 'x', members, mintedKey: 'k' }).groups[GROUP];
    assert.ok(placement !== undefined);
    const names = placement.replicas.map(({ node }) => node);
    nodes = [];
    for (const [i, name] of names.entries()) {
      const damaged: string[] = [];
      const log: string[] = [];
      const storage = await Storage.open(join(root, name), { onDamage: (group, reason) => damaged.push(`${group}: ${reason}`) });
      await storage.createGroup(GROUP, { replica: i + 1, conf: foundingConf(placement), index: 1, term: 1 });
      // What is applied is in the log.
      const entries = Array.from({ length: 199 }, (_, n) => ({ index: n + 2, term: 1, type: EntryType.normal, data: Buffer.from([1]) }));
      await new Promise<void>((resolve, reject) => storage.write([{ group: GROUP, hardState: null, entries, snapshot: null, compactTo: 0 }], (error) => (error === null ? resolve() : reject(error))));
      const keep = (_fields: object, line: string): void => void log.push(line);
      const logger: Logger = { debug: () => undefined, info: () => undefined, warn: keep, error: keep };
      const comparison = new StateComparison({
        host: {
          groups: () => [GROUP],
          isLeader: () => i === 0,
          status: () => ({ id: i + 1, role: i === 0 ? 'leader' : 'follower', term: 1, vote: 1, leader: 1, commit: 1, applied: 1, lastIndex: 1, firstIndex: 1, conf: foundingConf(placement), progress: [2, 3].map((replica) => ({ replica, match: 1, next: 2, state: 'replicate', active: true, learner: false })), proposalsWaiting: 0, readsWaiting: 0, backlog: 0, fetchingSnapshot: false }),
        },
        storage,
        network: {
          isUp: (node) => !down.has(node),
          request: (node, _kind, body, _timeoutMs, done) => done(null, nodes[names.indexOf(node)]?.comparison.answer(body) ?? null),
        },
        nodeOf: (_group, replica) => names[replica - 1],
        logger,
      });
      nodes.push({ storage, comparison, damaged, log });
    }
  });

  afterEach(async () => {
    for (const { storage } of nodes) await storage.close();
    await rm(root, { recursive: true });
  });

  const at = (i: number): (typeof nodes)[number] => {
    const node = nodes[i];
    assert.ok(node !== undefined);
    return node;
  };

  /** As the host does when it applied entries 2 to `index`; `odd` from entry 3 on. */
  function apply(i: number, index: number, isOdd = false): void {
    const { storage } = at(i);
    for (let next = 2; next <= index; next++) {
      storage.setStateHash(GROUP, next * 3 + (isOdd && next > 2 ? 1 : 0));
      storage.setApplied(GROUP, { index: next, term: 1, conf: null });
    }
  }

  it('finds replicas equal that are at different indexes, and asks no more until they move', () => {
    apply(0, 200);
    apply(1, 130);
    apply(2, 140);
    at(0).comparison.round();
    assert.deepEqual(at(0).comparison.stats, { comparisons: 1, mismatches: 0 });
    apply(1, 200);
    apply(2, 200);
    at(0).comparison.round();
    at(0).comparison.round();
    assert.deepEqual(at(0).comparison.stats, { comparisons: 2, mismatches: 0 });
    assert.deepEqual(nodes.flatMap(({ damaged }) => damaged), []);
  });

  it('takes out a follower that differs from the majority, and nobody else', () => {
    apply(0, 70);
    apply(1, 70, true);
    apply(2, 66);
    at(0).comparison.round();
    assert.deepEqual(nodes.map(({ damaged }) => damaged), [[], [`${GROUP}: its state differs from that of the majority at index 64`], []]);
    assert.equal(at(1).storage.stateMarks(GROUP), null);
    assert.equal(at(0).comparison.stats.mismatches, 1);
  });

  it('takes out the leader when it is the odd one', () => {
    apply(0, 5, true);
    apply(1, 5);
    apply(2, 5);
    at(0).comparison.round();
    assert.deepEqual(nodes.map(({ damaged }) => damaged.length), [1, 0, 0]);
  });

  it('only tells when one is away and the other two differ, until a majority answers', () => {
    apply(0, 5, true);
    apply(1, 5);
    apply(2, 5);
    down.add('c');
    at(0).comparison.round();
    at(0).comparison.round();
    assert.deepEqual(nodes.flatMap(({ damaged }) => damaged), []);
    assert.deepEqual(at(0).comparison.undecided(), [`group ${GROUP}: the states of replicas 1 and 2 differ, and no majority says which is right`]);
    assert.equal(at(0).log.length, 1, 'told once');
    down.clear();
    at(0).comparison.round();
    assert.deepEqual([at(0).damaged.length, at(0).comparison.undecided()], [1, []]);
  });

  it('is not moved by requests that are none, of another replica, or about a hash that is its own', () => {
    apply(1, 5);
    const { comparison, damaged } = at(1);
    const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
    for (const body of [new Uint8Array(0), encode(null), encode({ group: GROUP }), encode({ group: 9, replica: 2, odd: null }), encode({ group: GROUP, replica: 3, odd: mark(5, 1) }), encode({ group: GROUP, replica: 2, odd: mark(5, 15) }), encode({ group: GROUP, replica: 2, odd: mark(4711, 1) })]) {
      assert.equal(comparison.answer(body).length, 0);
    }
    assert.deepEqual(damaged, []);
    assert.ok(comparison.answer(encode({ group: GROUP, replica: 2, odd: null })).length > 0);
  });
});
