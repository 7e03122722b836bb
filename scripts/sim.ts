/**
 * The deterministic simulation from the command line.
 *   npm run sim -- --seeds 2000 [--from 1]     many seeds, on all cores
 *   npm run sim -- --seed 17                   one seed, with everything that happens
 *   ... --mutant skip-sync                     with a deliberately broken variant; exits 0 if it was caught
 */
import { parseArgs } from 'node:util';
import type { FarmSummary } from '../test/sim/farm.ts';
import { runFarm } from '../test/sim/farm.ts';
import type { Mutant } from '../test/sim/mutants.ts';
import { MUTANTS } from '../test/sim/mutants.ts';
import { runSeed } from '../test/sim/run.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string', default: '2000' },
    from: { type: 'string', default: '1' },
    mutant: { type: 'string' },
  },
});
const mutant = mutantNamed(values.mutant);
process.exitCode = values.seed === undefined ? await many() : one(Number(values.seed));

function mutantNamed(name: string | undefined): Mutant | undefined {
  const found = MUTANTS.find((each) => each === name);
  if (name !== undefined && found === undefined) throw new Error(`no mutant ${name}; there are ${MUTANTS.join(', ')}`);
  return found;
}

function one(seed: number): number {
  const result = runSeed({ seed, mutant, trace: (line) => process.stdout.write(`${line}\n`) });
  process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
  return result.violation === null ? 0 : 1;
}

async function many(): Promise<number> {
  const seeds = Number(values.seeds);
  const started = performance.now();
  const summary = await runFarm({
    from: Number(values.from), seeds, mutant, stopAtViolation: mutant !== undefined,
    onProgress: (done) => {
      if (process.stderr.isTTY && done % 20 === 0) process.stderr.write(`\r${done}/${seeds}`);
    },
  });
  if (process.stderr.isTTY) process.stderr.write('\r');
  for (const { seed, violation } of summary.findings) {
    process.stdout.write(`seed ${seed}: ${violation}\n  repeat: npm run sim -- --seed ${seed}${mutant === undefined ? '' : ` --mutant ${mutant}`}\n`);
  }
  process.stdout.write(`${describe(summary)}, ${((performance.now() - started) / 1000).toFixed(1)} s\n`);
  return (summary.findings.length > 0) === (mutant !== undefined) ? 0 : 1;
}

function describe({ seeds, steps, acks, reads, repeated, convergeTicksMax, faults, findings }: FarmSummary): string {
  const injected = Object.entries(faults).sort().map(([fault, count]) => `${fault} ${count}`).join(', ');
  return `${seeds} seeds, ${steps} steps, ${acks} acknowledged, ${reads} linearizable reads, ${findings.length} violations; ` +
    `${repeated} seeds repeated; converged within ${convergeTicksMax} ticks; faults: ${injected}`;
}
