/**
 * Process entry. All that is loaded is compiled under the engine's flags and then kept: so flags and cache come first, and
 * the program (program.ts) after them.
 */
import { enableCompileCache } from 'node:module';
import { fileURLToPath } from 'node:url';
import { tuneEngine } from './engine.ts';

/** Beside the packages, so that nobody who could not change the program could change this. */
const COMPILE_CACHE = fileURLToPath(new URL('../node_modules/.cache/compile', import.meta.url));

tuneEngine();
// What is compiled once need not be again: a start takes a third less. With NODE_COMPILE_CACHE, which counts before this, this
// file is covered too, and the compiler never loaded. Where the directory cannot be written, the start goes on without.
enableCompileCache(COMPILE_CACHE);
await import('./program.ts');
