/**
 * How a node with an empty disk becomes a member of a founded cluster: the documents that travel, and the copy of the
 * table that a node keeps for the time when its replica of the table cannot be read. Who is admitted is membership.ts'
 * to say, when a node asks is founding.ts'.
 */
import { DocumentError, decodeFoundingRecord, objectAt, textAt } from './hello.ts';
import type { FoundingRecord, NodeFacts } from './ports.ts';
import type { Topology } from './topology.ts';
import { decodeTopology, encodeTopology } from './topology-codec.ts';

export const JOIN_PATH = '/_peer/join';
export const TABLE_FACT = 'topology/copy';
/** A node's name and address are keys of tables that every node holds. */
const NAME_LENGTH_MAX = 256;

/** What a node says of itself that wants to join. */
export interface JoinRequest {
  readonly name: string;
  readonly storeId: string;
  /** host:port at which peers reach it. */
  readonly address: string;
}

/** What it is given: the cluster's record with its key, and the table with itself in it. */
export interface Admission {
  readonly record: FoundingRecord;
  readonly table: Topology;
}

/** Throws DocumentError. */
export function decodeJoinRequest(value: unknown): JoinRequest {
  const fields = objectAt(value, 'body');
  const request = { name: textAt(fields, 'name'), storeId: textAt(fields, 'storeId'), address: textAt(fields, 'address') };
  for (const text of Object.values(request)) if (text.length > NAME_LENGTH_MAX) throw new DocumentError('name, storeId, address', `at most ${NAME_LENGTH_MAX} characters`);
  return request;
}

/** The JSON body of an admission. */
export function admissionBody({ record, table }: Admission): object {
  return { record, table: Buffer.from(encodeTopology(table)).toString('base64') };
}

/** Throws DocumentError. */
export function decodeAdmission(value: unknown): Admission {
  const fields = objectAt(value, 'answer');
  const bytes = Buffer.from(textAt(fields, 'table'), 'base64');
  try {
    return { record: decodeFoundingRecord(fields['record']), table: decodeTopology(bytes) };
  } catch (error) {
    if (error instanceof DocumentError) throw error;
    throw new DocumentError('table', 'a topology table');
  }
}

/** The copy of the table that this node kept last, or null. */
export function readTable(facts: Pick<NodeFacts, 'get'>): Topology | null {
  const bytes = facts.get(TABLE_FACT);
  return bytes === undefined ? null : decodeTopology(bytes);
}

/** Keeps a copy of the table; resolves when synced. */
export function writeTable(facts: NodeFacts, table: Topology): Promise<void> {
  return facts.put(TABLE_FACT, encodeTopology(table));
}
