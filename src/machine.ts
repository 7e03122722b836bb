/**
 * The replicated state machine as Raft sees it: decode -> apply -> rows into storage -> reply and events.
 * Owns the bounded caches of decoded headers and configs and the rolling hash of applied state. What a command means
 * is src/contexts/ (conversations) and cluster/topology.ts (group 256).
 */
import { crc32 } from 'node:zlib';
import type { StateMachine } from '../raft/ports.ts';
import type { ConfState, Entry, GroupId, SnapshotMeta } from '../raft/types.ts';
import { apply } from './contexts/apply.ts';
import { decodeCommand, stampOf } from './contexts/commands.ts';
import { decodeConfig, decodeHeader } from './contexts/rows.ts';
import type { ContextConfig, ContextEvent, ContextHeader, Reply, RowKey, Rows, Table } from './contexts/types.ts';
import { applyTopology, decodeTopology, decodeTopologyCommand, encodeTopology, type Topology } from './cluster/topology.ts';
import { groupOf } from './cluster/placement.ts';
import { TOPOLOGY_GROUP } from './constants.ts';
import type { Storage } from './storage/store.ts';

/** Decoded headers (and as many configs) kept in memory; an idle context costs nothing. */
const CACHED_CONTEXTS_MAX = 20_000;

/** Where the topology table lives among group 256's rows. */
export const TOPOLOGY_ROW = { table: 'config', context: 'topology', key: '' } as const;

export interface MachineEvents {
  /** Something changed in a context; called in log order on every replica, after the rows are readable. */
  onEvent(group: GroupId, event: ContextEvent): void;
  onTopology(topology: Topology): void;
}

/** Least recently used first: a Map keeps insertion order, a hit moves the entry to the end. */
class RecentlyUsed<T> {
  private readonly entries = new Map<string, T>();

  get(key: string): T | undefined {
    const value = this.entries.get(key);
    if (value === undefined) return undefined;
    this.entries.delete(key);
    this.entries.set(key, value);
    return value;
  }

  set(key: string, value: T): void {
    this.entries.delete(key);
    this.entries.set(key, value);
    if (this.entries.size <= CACHED_CONTEXTS_MAX) return;
    const oldest = this.entries.keys().next();
    if (!oldest.done) this.entries.delete(oldest.value);
  }

  clear(): void {
    this.entries.clear();
  }
}

/** Rows of one group, current to the last applied entry, with decoded headers and configs cached. */
class GroupRows implements Rows {
  private readonly storage: Storage;
  private readonly group: GroupId;
  private readonly headers: RecentlyUsed<ContextHeader>;
  private readonly configs: RecentlyUsed<ContextConfig>;

  constructor(storage: Storage, group: GroupId, headers: RecentlyUsed<ContextHeader>, configs: RecentlyUsed<ContextConfig>) {
    this.storage = storage;
    this.group = group;
    this.headers = headers;
    this.configs = configs;
  }

  header(context: string): ContextHeader | undefined {
    const cached = this.headers.get(context);
    if (cached !== undefined) return cached;
    const row = this.storage.get(this.group, 'header', context, '');
    if (row === undefined) return undefined;
    const header = decodeHeader(row);
    // It passed its checksum, so this program wrote it: serving on would hide a bug.
    if (header === null) throw new Error('a header row does not decode');
    this.headers.set(context, header);
    return header;
  }

  config(context: string): ContextConfig | undefined {
    const cached = this.configs.get(context);
    if (cached !== undefined) return cached;
    const row = this.storage.get(this.group, 'config', context, '');
    if (row === undefined) return undefined;
    const config = decodeConfig(row);
    // It passed its checksum, so this program wrote it: serving on would hide a bug.
    if (config === null) throw new Error('a config row does not decode');
    this.configs.set(context, config);
    return config;
  }

  get(table: Table, context: string, key: RowKey): Uint8Array | undefined {
    return this.storage.get(this.group, table, context, key);
  }
}

export class Machine implements StateMachine {
  private readonly storage: Storage;
  private readonly events: MachineEvents;
  private readonly headers = new RecentlyUsed<ContextHeader>();
  private readonly configs = new RecentlyUsed<ContextConfig>();
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

  /** The topology table as applied here; null before founding. */
  topology(): Topology | null {
    if (this.topologyTable === null) {
      const row = this.storage.get(TOPOLOGY_GROUP, TOPOLOGY_ROW.table, TOPOLOGY_ROW.context, TOPOLOGY_ROW.key);
      if (row !== undefined) this.topologyTable = decodeTopology(row);
    }
    return this.topologyTable;
  }

  apply(group: GroupId, entry: Entry): unknown {
    // A new leader's no-op.
    if (entry.data.length === 0) return null;
    return group === TOPOLOGY_GROUP ? this.applyTopology(entry) : this.applyCommand(group, entry);
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
    this.headers.clear();
    this.configs.clear();
  }

  private rows(group: GroupId): GroupRows {
    let rows = this.groupRows.get(group);
    if (rows === undefined) {
      rows = new GroupRows(this.storage, group, this.headers, this.configs);
      this.groupRows.set(group, rows);
    }
    return rows;
  }

  private applyCommand(group: GroupId, entry: Entry): Reply {
    const command = decodeCommand(entry.data);
    if (command === null) return { ok: false, code: 'invalid_command' };
    const rows = this.rows(group);
    // Time never runs backwards within a context, whoever's clock stamped the command.
    const stamp = Math.max(rows.header(command.context)?.updatedAt ?? 0, stampOf(entry.data));
    const outcome = apply(rows, stamp, command);
    let hash = crc32(entry.data, this.storage.stateHash(group));
    for (const write of outcome.writes) {
      this.storage.put(group, write);
      // Message rows repeat the command's bytes; all other rows are decisions, and those must agree.
      if (write.table !== 'message' && write.value !== null) hash = crc32(write.value, hash);
    }
    this.storage.setStateHash(group, hash);
    if (outcome.header !== null) this.headers.set(command.context, outcome.header);
    if (outcome.config !== null) this.configs.set(command.context, outcome.config);
    for (const event of outcome.events) this.events.onEvent(group, event);
    return outcome.reply;
  }

  private applyTopology(entry: Entry): unknown {
    const command = decodeTopologyCommand(entry.data);
    const current = this.topology();
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
