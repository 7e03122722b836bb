/**
 * A data directory that its peers remember better than it does itself never takes part again; its node does, with a new
 * one. At the next open the old store is set aside, not deleted, and an empty one takes its place that knows only what
 * it needs to join the same cluster as a node whose disk was replaced: its name, the cluster and its key, where the
 * members are. Owns the order of these steps on disk, any of which a crash may interrupt.
 */
import { access, mkdir, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Storage } from '../storage/store.ts';
import { encodeDocument, listAt, objectAt, parseDocument, stringAt, stringOf, textAt } from './hello.ts';
import { openIdentity, readFounded, storedIdentity } from './identity.ts';
import { readTable } from './joining.ts';
import type { NodeFacts } from './ports.ts';
import { isForGood, readSteppedBack } from './standing.ts';

export const INHERITANCE_FACT = 'rebirth/inheritance';
/** The store of a data directory, as Storage.open names it. */
const LIVE = 'db';
const SET_ASIDE = 'db.set-aside';
/** A directory of its own, in which the next store is made before it goes live. */
const NEXT = 'db.next';

/** What a new store is given of the one that it takes the place of. */
export interface Inheritance {
  /** The only cluster it may join; empty: the old store had forgotten even that. */
  readonly clusterId: string;
  /** The key that founding minted, or empty; the configured ones are not kept. */
  readonly mintedKey: string;
  /** host:port of the other members, for a node that was given no seeds. */
  readonly addresses: readonly string[];
  /** Why the old store was set aside. */
  readonly reason: string;
}

export interface RebirthOptions {
  /** Opens the store of the node, empty or not. */
  readonly open: () => Promise<Storage>;
  /** Opens an empty store elsewhere, to prepare it. */
  readonly prepare: (directory: string) => Promise<Storage>;
  /** Told where the former store is now, and why. */
  readonly onSetAside: (path: string, reason: string) => void;
}

/** What this store was given when it took another's place, or null. Such a store only ever joins. Throws DocumentError. */
export function readInheritance(facts: Pick<NodeFacts, 'get'>): Inheritance | null {
  const bytes = facts.get(INHERITANCE_FACT);
  if (bytes === undefined) return null;
  const fields = objectAt(parseDocument(bytes, INHERITANCE_FACT), INHERITANCE_FACT);
  return {
    clusterId: stringAt(fields, 'clusterId'),
    mintedKey: stringAt(fields, 'mintedKey'),
    addresses: listAt(fields, 'addresses').map((address, i) => stringOf(address, `addresses[${i}]`)),
    reason: textAt(fields, 'reason'),
  };
}

/**
 * Opens the store of a data directory. One that stepped back for good is set aside first (one that was set aside before
 * is deleted then), and an empty one is opened in its place.
 */
export async function openReborn(directory: string, { open, prepare, onSetAside }: RebirthOptions): Promise<Storage> {
  await finish(directory);
  const storage = await open();
  let name: string | null;
  let inheritance: Inheritance | null;
  try {
    inheritance = inheritanceOf(storage.facts);
    name = storedIdentity(storage.facts)?.name ?? null;
  } catch (error) {
    await storage.close();
    throw error;
  }
  if (inheritance === null) return storage;
  await storage.close();
  // First: while a store is being prepared there is none set aside, so that finish() knows a prepared one from half of one.
  await rm(join(directory, SET_ASIDE), { recursive: true, force: true });
  await rm(join(directory, NEXT), { recursive: true, force: true });
  await mkdir(join(directory, NEXT), { recursive: true });
  const next = await prepare(join(directory, NEXT));
  try {
    await openIdentity(next.facts, name);
    await next.facts.put(INHERITANCE_FACT, encodeDocument(inheritance));
  } finally {
    await next.close();
  }
  await syncDirectory(directory);
  await rename(join(directory, LIVE), join(directory, SET_ASIDE));
  await syncDirectory(directory);
  await finish(directory);
  onSetAside(join(directory, SET_ASIDE), inheritance.reason);
  return open();
}

/** What the store that comes next is given, or null while this one is good for something. */
function inheritanceOf(facts: NodeFacts): Inheritance | null {
  const mark = readSteppedBack(facts);
  if (mark === null || !isForGood(mark)) return null;
  const record = readFounded(facts);
  const name = storedIdentity(facts)?.name;
  const members = readTable(facts)?.nodes.filter(({ state }) => state !== 'removed') ?? record?.members ?? [];
  return {
    clusterId: record?.clusterId ?? '',
    mintedKey: record?.mintedKey ?? '',
    addresses: members.filter((member) => member.name !== name).map(({ address }) => address),
    reason: mark.reason,
  };
}

/** Between its two renames openReborn leaves no live store, and the next one is complete. */
async function finish(directory: string): Promise<void> {
  if (!(await exists(directory, LIVE)) && (await exists(directory, SET_ASIDE)) && (await exists(directory, NEXT, LIVE))) {
    await rename(join(directory, NEXT, LIVE), join(directory, LIVE));
    await syncDirectory(directory);
  }
  if (await exists(directory, LIVE)) await rm(join(directory, NEXT), { recursive: true, force: true });
}

function exists(...path: string[]): Promise<boolean> {
  return access(join(...path)).then(() => true, () => false);
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
