/**
 * The replicas of this node, made and removed as the table says. A new one starts empty and takes a snapshot first; one
 * that the table has no more is stopped at once and its rows go a little later. Owns the memory of which numbers were
 * ever alive here: what was here once and is not any more is damage, and never comes back under its old number, since
 * it would have forgotten its votes.
 */
import type { RaftHost } from '../../raft/host.ts';
import type { GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { TOPOLOGY_GROUP } from '../constants.ts';
import type { Logger } from '../log.ts';
import { DamageError } from '../storage/checksum.ts';
import type { NewGroup, Storage } from '../storage/store.ts';
import { countAt, encodeDocument, listAt, objectAt, parseDocument } from './hello.ts';
import type { NodeFacts } from './ports.ts';
import { foundingConf, placedOn, type Topology } from './topology.ts';
import { encodeTopology } from './topology-codec.ts';

export const REPLICAS_FACT = 'replicas';
/** Readers that began before a replica was stopped end within this time; then its rows go. */
const GRACE_MS = 6000;

export interface ReplicasOptions {
  readonly self: NodeId;
  readonly storage: Storage;
  readonly host: RaftHost;
  /** The row that the table is kept in. */
  readonly tableRow: { readonly table: 'config'; readonly context: string; readonly key: '' };
  /** A replica stopped serving: forget what is cached of the group, end what is streamed from it. */
  readonly onRemoved: (group: GroupId) => void;
  readonly logger: Logger;
  readonly fatal: (error: Error) => void;
}

/** Why a replica of this node is out, in words. */
export interface DamagedHere {
  readonly group: GroupId;
  readonly replica: ReplicaId;
  readonly reason: string;
}

export class Replicas {
  private readonly options: ReplicasOptions;
  /** Highest replica number that ever lived here, by group. */
  private highest: number[] | null = null;
  private topology: Topology | null = null;
  /** Groups whose new replica is remembered and not on disk yet: it is no more missing than it was ever alive. */
  private readonly making = new Set<GroupId>();
  /** Groups whose replica was stopped, and when. */
  private readonly stoppedAt = new Map<GroupId, number>();
  private running: Promise<void> = Promise.resolve();
  private wanted = false;
  private closed = false;
  private timer: NodeJS.Timeout | null = null;

  constructor(options: ReplicasOptions) {
    this.options = options;
  }

  /** True once this directory has had replicas; one that has not may be founded. */
  static areKnown({ facts, storage }: { facts: NodeFacts; storage: Storage }): boolean {
    return facts.get(REPLICAS_FACT) !== undefined || storage.groups().length > 0;
  }

  /** Makes the replicas that a founding member starts from: sound ones, with the founding membership and table. */
  async found(topology: Topology): Promise<void> {
    const { storage, self, tableRow } = this.options;
    const founded = topology.groups.flatMap((placement, group): NewGroup[] => {
      const placed = placedOn(topology, group, self);
      if (placed === undefined) return [];
      const rows = group === TOPOLOGY_GROUP ? [{ ...tableRow, value: encodeTopology(topology) }] : [];
      return [{ group, replica: placed.id, conf: foundingConf(placement), index: 1, term: 1, rows }];
    });
    await storage.createGroups(founded);
  }

  /** Takes up what the disk holds, makes what the table adds, and runs it all. Resolves when everything runs. */
  async open(topology: Topology): Promise<void> {
    const { storage, self } = this.options;
    this.highest = readHighest(storage.facts);
    if (this.highest === null) {
      // Written for the first time: by founding, or by a version that kept no such record. What the table has here now
      // was alive here then.
      this.highest = topology.groups.map((_, group) => placedOn(topology, group, self)?.id ?? 0);
      for (const { group, replica } of storage.groups()) this.highest[group] = Math.max(this.highest[group] ?? 0, replica);
      if (storage.groups().length === 0) this.highest.fill(0);
      await this.remember();
    }
    for (const { group, damaged } of storage.groups()) {
      if (damaged !== null) this.options.logger.error({ type: 'damage', group, reason: damaged }, `group ${group}: the replica on this node is damaged and stays out: ${damaged}`);
    }
    this.follow(topology);
    await this.running;
  }

  /** Brings this node in line with `topology`, which is no older than the last one. */
  follow(topology: Topology): void {
    this.topology = topology;
    if (this.highest === null || this.wanted || this.closed) return;
    this.wanted = true;
    this.running = this.running.then(() => this.step()).catch((error: unknown) => {
      // A write that failed stops the node by itself.
      if (!this.closed) this.options.fatal(error instanceof Error ? error : new Error(String(error)));
    });
  }

  /** Replicas that the table has here and that cannot serve: each is to be replaced by one with a new number. */
  damaged(): DamagedHere[] {
    const { topology, highest } = this;
    if (topology === null || highest === null) return [];
    const { storage, self } = this.options;
    const damaged: DamagedHere[] = [];
    // Ten times a second, on an idle node too.
    for (let group = 0; group < topology.groups.length; group++) {
      const placed = placedOn(topology, group, self);
      if (placed === undefined || placed.phase === 'leaving' || storage.isSound(group, placed.id)) continue;
      // Not made yet.
      if (placed.id > (highest[group] ?? 0) || this.making.has(group)) continue;
      const info = storage.groups().find((stored) => stored.group === group);
      damaged.push({ group, replica: placed.id, reason: info?.damaged ?? 'its rows are gone' });
    }
    return damaged;
  }

  async close(): Promise<void> {
    this.closed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    await this.running;
  }

  private async step(): Promise<void> {
    this.wanted = false;
    const { topology, highest } = this;
    if (topology === null || highest === null || this.closed) return;
    const { storage, self, host } = this.options;
    const stored = new Map(storage.groups().map((info) => [info.group, info]));
    const fresh: NewGroup[] = [];
    const stopped: GroupId[] = [];
    for (const [group, placement] of topology.groups.entries()) {
      const placed = placedOn(topology, group, self);
      const info = stored.get(group);
      const isNew = placed !== undefined && placed.phase !== 'leaving' && placed.id > (highest[group] ?? 0);
      if (info === undefined) {
        if (isNew) fresh.push({ group, replica: placed.id, conf: NO_CONF, index: 0, term: 0 });
        continue;
      }
      // A number that the table has not heard of yet: it is behind what made the replica.
      const isAhead = info.replica >= placement.nextReplica;
      const isPlaced = placed?.id === info.replica;
      if (isPlaced || isAhead || (info.replica === 0 && placed !== undefined && !isNew)) {
        if (isPlaced && info.damaged === null) this.run(group, info.replica);
        continue;
      }
      this.stop(group, info.replica);
      // Rows of a replica that was out already are read by nobody.
      const since = this.stoppedAt.get(group) ?? 0;
      if (isNew || info.damaged !== null || performance.now() - since >= GRACE_MS) stopped.push(group);
      else this.wakeLater();
      if (isNew) fresh.push({ group, replica: placed.id, conf: NO_CONF, index: 0, term: 0 });
    }
    for (const group of stopped) {
      this.stoppedAt.delete(group);
      await storage.deleteGroup(group);
    }
    if (fresh.length === 0) return;
    // Durable before they are made: one that is found missing later was alive, and must not begin anew.
    for (const { group, replica } of fresh) {
      highest[group] = replica;
      this.making.add(group);
    }
    await this.remember();
    await storage.createGroups(fresh);
    this.making.clear();
    if (this.closed) return;
    for (const { group, replica } of fresh) this.run(group, replica);
    this.options.logger.info({ type: 'replicas_made', groups: fresh.map(({ group }) => group), hosted: host.groups().length }, `${fresh.length} new replicas wait for their snapshots`);
  }

  private run(group: GroupId, replica: ReplicaId): void {
    const { host } = this.options;
    if (host.status(group) !== undefined) return;
    try {
      host.addGroup(group, replica);
    } catch (error) {
      // Found while opening; it is marked and logged by onDamage.
      if (!(error instanceof DamageError)) throw error;
    }
  }

  private stop(group: GroupId, replica: ReplicaId): void {
    if (this.stoppedAt.has(group)) return;
    this.stoppedAt.set(group, performance.now());
    this.options.host.removeGroup(group);
    this.options.onRemoved(group);
    this.options.logger.info({ type: 'replica_removed', group, replica }, `group ${group}: replica ${replica} left its group and this node`);
  }

  private wakeLater(): void {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      if (this.topology !== null) this.follow(this.topology);
    }, GRACE_MS);
    this.timer.unref();
  }

  private remember(): Promise<void> {
    return writeHighest(this.options.storage.facts, this.highest ?? []);
  }
}

const NO_CONF = { voters: [], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };

/** Keeps the highest replica number that ever lived here, by group; resolves when synced. */
export function writeHighest(facts: NodeFacts, highest: readonly number[]): Promise<void> {
  return facts.put(REPLICAS_FACT, encodeDocument({ version: 1, highest }));
}

/** What writeHighest kept; null where it never did. Throws DocumentError. */
export function readHighest(facts: Pick<NodeFacts, 'get'>): number[] | null {
  const bytes = facts.get(REPLICAS_FACT);
  if (bytes === undefined) return null;
  const fields = objectAt(parseDocument(bytes, REPLICAS_FACT), REPLICAS_FACT);
  countAt(fields, 'version');
  return listAt(fields, 'highest').map((value, group) => countAt({ [group]: value }, String(group)));
}
