/**
 * The simulation as a test: seeds without a violation, and broken variants that do not get away.
 * SIM_SEEDS shrinks it for a quick look or grows it for a long night; SIM_FROM moves on to other seeds.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { runFarm } from './farm.ts';
import { MUTANTS } from './mutants.ts';

const SEEDS = Number(process.env['SIM_SEEDS'] ?? 2000);
const FROM = Number(process.env['SIM_FROM'] ?? 1);
const MUTANT_SEEDS = 1000;

describe('simulated clusters', () => {
  it(`keep every promise over ${SEEDS} seeds of faults, and settle when the faults stop`, async () => {
    const { findings, seeds, acks, repeated, faults } = await runFarm({ from: FROM, seeds: SEEDS });
    assert.equal(findings.length, 0, findings.slice(0, 10).map(({ seed, violation }) => `${violation}\n  repeat: npm run sim -- --seed ${seed}`).join('\n'));
    assert.equal(seeds, SEEDS);
    // A run in which nothing happens proves nothing.
    assert.ok(acks > 50 * SEEDS, `only ${acks} proposals were acknowledged`);
    if (SEEDS < 100) return;
    assert.ok(repeated > 0);
    for (const fault of ['crashes', 'cuts', 'partitions', 'resets', 'transfers', 'wipes', 'rots', 'rollbacks', 'joins', 'drains', 'removals', 'changes', 'refused', 'dropped', 'duplicated']) {
      assert.ok((faults[fault] ?? 0) > 0, `no ${fault} happened`);
    }
  });

  for (const mutant of MUTANTS) {
    it(`are caught when broken: ${mutant}`, async () => {
      const { findings } = await runFarm({ from: FROM, seeds: MUTANT_SEEDS, mutant, stopAtViolation: true });
      assert.ok(findings.length > 0, `${mutant} went unnoticed over ${MUTANT_SEEDS} seeds`);
    });
  }
});
