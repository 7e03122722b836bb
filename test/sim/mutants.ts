/** Deliberately broken variants; the checks must notice each. */
export const MUTANTS = ['skip-sync', 'count-before-sync', 'vote-twice', 'wiped-votes', 'older-generation', 'remove-early', 'found-from-absence'] as const;
export type Mutant = (typeof MUTANTS)[number];
