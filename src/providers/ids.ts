/** Ids and names of calls that every provider accepts. */
import { hash } from 'node:crypto';

/** OpenAI's bound; Anthropic and the AI SDK have none that is lower. */
export const ID_UNITS_MAX = 40;
/** OpenAI's bound on a tool's name; Anthropic's has been the same. */
export const NAME_UNITS_MAX = 64;

const ID = /^[a-zA-Z0-9_-]{1,40}$/;
const NAME = /^[a-zA-Z0-9_-]{1,64}$/;
const HASH_UNITS = 16;

/**
 * Gives the calls of one answer their ids, in order. A valid id that no earlier call has stays as it is; one that is
 * too long or holds other characters keeps its start and gets a hash; a reused one gets `_2`, `_3` …
 * An id depends only on the calls before it, so that it stays while the window grows.
 */
export class CallIds {
  readonly #taken = new Set<string>();
  /** Next suffix to try, so that an id that is reused all the time costs no more each time. */
  readonly #next = new Map<string, number>();

  /** The id of the next call. */
  issue(id: string): string {
    const base = ID.test(id) ? id : shorten(id);
    let issued = base;
    for (let n = this.#next.get(base) ?? 2; this.#taken.has(issued); n++) {
      const suffix = `_${n}`;
      issued = base.slice(0, ID_UNITS_MAX - suffix.length) + suffix;
      this.#next.set(base, n + 1);
    }
    this.#taken.add(issued);
    return issued;
  }
}

function shorten(id: string): string {
  const safe = id.slice(0, ID_UNITS_MAX - HASH_UNITS - 1).replace(/[^a-zA-Z0-9_-]/g, '_');
  return `${safe}_${hash('sha256', id, 'hex').slice(0, HASH_UNITS)}`;
}

/** A tool's name as OpenAI and Anthropic accept it: other characters become `_`, what is too long is cut. */
export function toolName(name: string): string {
  return NAME.test(name) ? name : name.slice(0, NAME_UNITS_MAX).replace(/[^a-zA-Z0-9_-]/g, '_');
}
