/**
 * What one shard of a resharded directory knows of itself and of others: taken over from the shards that there were, so
 * that nothing is forgotten that a node must remember (which replica numbers lived here, how far its peers had come), or
 * computed anew. Owns the list of all facts: one that it does not know is not dropped silently.
 */
import { PROMISE_FACT } from '../cluster/founding.ts';
import { encodeDocument } from '../cluster/hello.ts';
import { asFormer, BEATS_FACT, FOUNDED_FACT, IDENTITY_FACT, inheritIdentity, LINEAGE_MAX, writeFounded } from '../cluster/identity.ts';
import { TABLE_FACT, writeTable } from '../cluster/joining.ts';
import { inheritMemories, PEERS_FACT } from '../cluster/ledger.ts';
import type { FoundingRecord, NodeFacts } from '../cluster/ports.ts';
import { INHERITANCE_FACT } from '../cluster/rebirth.ts';
import { readHighest, REPLICAS_FACT, writeHighest } from '../cluster/replicas.ts';
import { owns, shardOf, type Seat } from '../cluster/seat.ts';
import { STEPPED_BACK_FACT } from '../cluster/standing.ts';
import { placedOn, type Topology } from '../cluster/topology.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';

const KNOWN: ReadonlySet<string> = new Set([IDENTITY_FACT, BEATS_FACT, FOUNDED_FACT, PROMISE_FACT, TABLE_FACT, REPLICAS_FACT, PEERS_FACT, STEPPED_BACK_FACT, INHERITANCE_FACT]);

type Stored = ReadonlyMap<string, Uint8Array>;

/** The name of a fact that nobody here knows what to do with; null if there is none. */
export function unknownFact(facts: Stored): string | null {
  return [...facts.keys()].find((name) => !KNOWN.has(name)) ?? null;
}

export interface ShardFacts {
  /** Of the shards that there were, in order. */
  readonly former: readonly Stored[];
  readonly node: string;
  readonly seat: Seat;
  readonly record: FoundingRecord;
  readonly table: Topology;
}

/** Writes all facts of a new shard; durable when it resolves. Throws IdentityError, DocumentError. */
export async function writeShardFacts(facts: NodeFacts, { former, node, seat, record, table }: ShardFacts): Promise<void> {
  const storeId = record.members.find(({ name }) => name === node)?.storeId;
  if (storeId === undefined) throw new RangeError(`node '${node}' is no member of the resharded cluster`);
  const opens = Math.floor(LINEAGE_MAX / former.length);
  const selves = former.flatMap((stored) => asFormer(stored, opens) ?? []);
  await inheritIdentity(facts, { name: node, storeId, former: selves });
  await facts.put(PROMISE_FACT, encodeDocument(record));
  await writeFounded(facts, record);
  await writeTable(facts, table);
  await writeHighest(facts, highestHere({ former, node, seat, table }));
  await inheritMemories(facts, former);
}

/** By group, the highest replica number that ever lived here; of the table's own group, which begins anew, the one that does. */
function highestHere({ former, node, seat, table }: Omit<ShardFacts, 'record'>): number[] {
  const stored = former.map((facts) => readHighest(facts));
  return table.groups.map((_, group) => {
    const placed = placedOn(table, group, node)?.id ?? 0;
    if (group === TOPOLOGY_GROUP) return placed;
    return owns(seat, group) ? (stored[shardOf(group, former.length)]?.[group] ?? placed) : 0;
  });
}
