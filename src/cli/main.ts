#!/usr/bin/env node
/** `fastpaca`: the command line for operators. Reads the process' arguments and environment, and ends it. */
import { CliError } from './client.ts';
import { run } from './command.ts';

try {
  await run(process.argv.slice(2), process.env, (text) => process.stdout.write(text));
} catch (error) {
  if (!(error instanceof CliError)) throw error;
  process.stderr.write(`fastpaca: ${error.message}\n`);
  process.exitCode = error.exitCode;
}
