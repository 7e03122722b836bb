/**
 * The replicated state machine as Raft sees it: decode -> apply -> rows into storage -> reply and events.
 * Owns the rolling hash of applied state. What a command means is src/contexts/ (conversations) and cluster/topology.ts
 * (group 256).
 */
import { crc32 } from 'node:zlib';
import type { StateMachine } from '../raft/ports.ts';
import type { ConfState, Entry, GroupId, SnapshotMeta } from '../raft/types.ts';
import { apply } from './contexts/apply.ts';
import { COMMAND_FORMAT, decodeCommand, formatOf, stampOf } from './contexts/commands.ts';
import type { ContextHeads } from './contexts/heads.ts';
import type { KeyMemory } from './contexts/keys.ts';
import { decodeConfig, decodeHeader, replacementKey } from './contexts/rows.ts';
import type { Command, ContextConfig, ContextEvent, ContextHeader, Reply, RowKey, Rows, Table } from './contexts/types.ts';
import { applyTopology, type Topology } from './cluster/topology.ts';
import { decodeTopology, decodeTopologyCommand, encodeTopology } from './cluster/topology-codec.ts';
import { ContextMemory } from './context-memory.ts';
import { groupOf } from './cluster/placement.ts';
import { TOPOLOGY_GROUP } from './constants.ts';
import { blockHolds, endsOfSpan, endsSpan, isBlock, openBlock, storedWrites } from './message-blocks.ts';
import { MessageTexts } from './message-texts.ts';
import { commandBytes, unpackCommand } from './packing.ts';
import { DamageError } from './storage/checksum.ts';
import type { Storage } from './storage/store.ts';

/** Where the topology table lives among group 256's rows. */
export const TOPOLOGY_ROW = { table: 'config', context: 'topology', key: '' } as const;

export interface MachineEvents {
  /** Something changed in a context; called in log order on every replica, after the rows are readable. */
  onEvent(group: GroupId, event: ContextEvent): void;
  /** A snapshot took the place of the group's state: what changed in between was told to nobody. */
  onRestored(group: GroupId): void;
  onTopology(topology: Topology): void;
  /** A row that must be there is not: the replica must stop voting and serving before this returns. */
  onDamage(group: GroupId, reason: string): void;
}

/** Rows of one group, current to the last applied entry, with decoded headers and configs cached. */
class GroupRows implements Rows {
  private readonly storage: Storage;
  private readonly group: GroupId;
  private readonly memory: ContextMemory;
  private readonly onDamage: MachineEvents['onDamage'];

  constructor(storage: Storage, group: GroupId, memory: ContextMemory, onDamage: MachineEvents['onDamage']) {
    this.storage = storage;
    this.group = group;
    this.memory = memory;
    this.onDamage = onDamage;
  }

  get keys(): KeyMemory {
    return this.memory.keys;
  }

  heads(context: string): ContextHeads {
    return this.memory.heads.forCut(context);
  }

  header(context: string): ContextHeader | undefined {
    const cached = this.memory.header(context);
    if (cached !== undefined) return cached ?? undefined;
    const row = this.storage.get(this.group, 'header', context, '');
    if (row === undefined) {
      // They are written together: one alone would let a command found the context anew, here and on no other replica.
      if (this.storage.get(this.group, 'config', context, '') !== undefined) throw this.missing('header', context, '');
      this.memory.readHeader(context, null, null);
      return undefined;
    }
    const header = decodeHeader(row);
    // It passed its checksum, so this program wrote it: serving on would hide a bug.
    if (header === null) throw new Error('a header row does not decode');
    this.memory.readHeader(context, header, row);
    return header;
  }

  config(context: string): ContextConfig | undefined {
    const cached = this.memory.config(context);
    if (cached !== undefined) return cached;
    if (this.memory.header(context) === null) return undefined;
    const row = this.storage.get(this.group, 'config', context, '');
    if (row === undefined) {
      const header = this.header(context);
      if (header !== undefined && header.status !== 'purged') throw this.missing('config', context, '');
      return undefined;
    }
    const config = decodeConfig(row);
    // It passed its checksum, so this program wrote it: serving on would hide a bug.
    if (config === null) throw new Error('a config row does not decode');
    this.memory.readConfig(context, config, row);
    return config;
  }

  get(table: Table, context: string, key: RowKey): Uint8Array | undefined {
    if (table === 'message' && typeof key === 'number') return this.message(context, key);
    const row = this.storage.get(this.group, table, context, key);
    if (row === undefined && this.mustExist(table, context, key)) throw this.missing(table, context, key);
    return row;
  }

  /** See message-blocks.ts for where a message may be. */
  private message(context: string, seq: number): Uint8Array | undefined {
    const { recentBlocks } = this.memory;
    const latest = recentBlocks.fromLatest(context, seq);
    if (latest !== undefined) return this.mustExist('message', context, seq) ? latest : undefined;
    const row = this.storage.get(this.group, 'message', context, seq);
    if (row !== undefined && !endsSpan(seq)) return row;
    if (!this.mustExist('message', context, seq)) return undefined;
    if (row !== undefined && !isBlock(row)) return row;
    const recent = recentBlocks.get(context, seq);
    if (recent !== undefined) return recent;
    for (const end of endsOfSpan(seq)) {
      const stored = end === seq ? row : this.storage.get(this.group, 'message', context, end);
      if (stored === undefined || !blockHolds(stored, seq)) continue;
      recentBlocks.keep(context, end, openBlock(stored));
      return recentBlocks.get(context, seq);
    }
    throw this.missing('message', context, seq);
  }

  /**
   * A window passes over messages that are gone, so a row that a disk lost would make this replica cut another window
   * than the others, and nobody would know. Whatever the header says is there, is there.
   */
  private mustExist(table: Table, context: string, key: RowKey): boolean {
    if (typeof key !== 'number') return false;
    const header = this.header(context);
    if (header === undefined) return false;
    switch (table) {
      case 'message':
        return (key > header.trimmedSeq && key <= header.lastSeq) || header.window.pinned.includes(key);
      case 'replacement': {
        const position = key - replacementKey(header.window.replacementVersion, 0);
        return header.window.replacementVersion > 0 && position >= 0 && position < header.window.replacementCount;
      }
      default:
        return false;
    }
  }

  private missing(table: Table, context: string, key: RowKey): DamageError {
    const reason = `row ${JSON.stringify({ table, context, key })} of group ${this.group} is missing`;
    this.onDamage(this.group, reason);
    return new DamageError(this.group, reason);
  }
}

export class Machine implements StateMachine {
  /** Messages of what `rowsOf` gives, for reads. */
  readonly texts = new MessageTexts();
  private readonly storage: Storage;
  private readonly events: MachineEvents;
  private readonly memory = new ContextMemory();
  private readonly groupRows = new Map<GroupId, GroupRows>();
  private topologyTable: Topology | null = null;

  constructor(storage: Storage, events: MachineEvents) {
    this.storage = storage;
    this.events = events;
  }

  /** Rows of the context's group, for reads. */
  rowsOf(context: string): Rows {
    return this.rows(groupOf(context));
  }

  /** The topology table as applied here; null before founding, and where this node's copy of it is damaged. */
  topology(): Topology | null {
    if (this.topologyTable !== null) return this.topologyTable;
    const replica = this.storage.groups().find((info) => info.group === TOPOLOGY_GROUP);
    if (replica === undefined || replica.damaged !== null) return null;
    try {
      return this.storedTopology();
    } catch (error) {
      // Marked by now; the node goes on with what founding said, its other groups are sound.
      if (error instanceof DamageError) return null;
      throw error;
    }
  }

  apply(group: GroupId, entry: Entry): unknown {
    // A new leader's no-op.
    if (entry.data.length === 0) return null;
    return group === TOPOLOGY_GROUP ? this.applyTopology(entry) : this.applyCommand(group, entry);
  }

  bytesOf({ data }: Entry): number {
    return commandBytes(data);
  }

  applyConf(_group: GroupId, _entry: Entry, _conf: ConfState, _context: Uint8Array): void {
    // Membership lives in Raft's own rows; placement follows through topology commands.
  }

  restored(group: GroupId, _meta: SnapshotMeta): void {
    if (group === TOPOLOGY_GROUP) {
      this.topologyTable = null;
      const topology = this.topology();
      if (topology !== null) this.events.onTopology(topology);
      return;
    }
    // The caches are shared by all groups; a snapshot is rare enough to drop them all.
    this.memory.clear();
    this.texts.clear();
    this.events.onRestored(group);
  }

  /** The group has no replica here any more, or another one soon: what is known of its rows is forgotten. */
  forget(group: GroupId): void {
    this.groupRows.delete(group);
    this.memory.clear();
    this.texts.clear();
    if (group === TOPOLOGY_GROUP) this.topologyTable = null;
  }

  private storedTopology(): Topology | null {
    const row = this.storage.get(TOPOLOGY_GROUP, TOPOLOGY_ROW.table, TOPOLOGY_ROW.context, TOPOLOGY_ROW.key);
    if (row !== undefined) this.topologyTable = decodeTopology(row);
    return this.topologyTable;
  }

  private rows(group: GroupId): GroupRows {
    let rows = this.groupRows.get(group);
    if (rows === undefined) {
      rows = new GroupRows(this.storage, group, this.memory, this.events.onDamage);
      this.groupRows.set(group, rows);
    }
    return rows;
  }

  private applyCommand(group: GroupId, entry: Entry): Reply {
    if (formatOf(entry.data) > COMMAND_FORMAT) {
      // Other replicas can read it: any answer here would be another one than theirs.
      throw new Error(`group ${group}: entry ${entry.index} is in command format ${formatOf(entry.data)}, this program reads up to ${COMMAND_FORMAT}: run the version that wrote it, or a later one`);
    }
    const plain = unpackCommand(entry.data);
    const command = plain === null ? null : decodeCommand(plain);
    if (command === null || !staysWithin(group, command)) return { ok: false, code: 'invalid_command' };
    const rows = this.rows(group);
    // Time never runs backwards within a context, whoever's clock stamped the command.
    const stamp = Math.max(rows.header(command.context)?.updatedAt ?? 0, stampOf(entry.data));
    const outcome = apply(rows, stamp, command);
    let hash = crc32(entry.data, this.storage.stateHash(group));
    const headerAfter = (context: string): ContextHeader | undefined => outcome.headers?.get(context) ?? (context === command.context ? outcome.header : null) ?? rows.header(context);
    for (const write of storedWrites(outcome.writes, headerAfter)) this.storage.put(group, write);
    for (const write of outcome.writes) {
      // Message rows repeat the command's bytes; all other rows are decisions, and those must agree.
      if (write.table !== 'message' && write.value !== null) hash = crc32(write.value, hash);
    }
    this.storage.setStateHash(group, hash);
    this.memory.applied(command, outcome);
    if (outcome.header?.status === 'purged') this.texts.delete(command.context);
    for (const event of outcome.events) this.events.onEvent(group, event);
    return outcome.reply;
  }

  private applyTopology(entry: Entry): unknown {
    const command = decodeTopologyCommand(entry.data);
    const current = this.topologyTable ?? this.storedTopology();
    if (command === null || current === null) return { ok: false, code: 'invalid_command' };
    const { topology, reply } = applyTopology(current, command);
    if (topology !== current) {
      this.topologyTable = topology;
      this.storage.put(TOPOLOGY_GROUP, { ...TOPOLOGY_ROW, value: encodeTopology(topology) });
      this.events.onTopology(topology);
    }
    return reply;
  }
}

/** A command about several contexts: all must be this group's, or replicas that cache another's headers would differ from those that do not. */
function staysWithin(group: GroupId, command: Command): boolean {
  return command.type !== 'ack_archived' || command.acks.every(({ context }) => groupOf(context) === group);
}
