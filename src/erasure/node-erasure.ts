/**
 * Erasure as the parts of a node use it: finishing purges and ending contexts whose ttl is over, for the groups led
 * here; cleaning this node's own replicas for whoever leads them. Owns only how these are put together.
 */
import type { RaftHost } from '../../raft/host.ts';
import type { GroupId, NodeId, ReplicaId } from '../../raft/types.ts';
import { RequestKind, type PeerNetwork } from '../cluster/ports.ts';
import type { Router } from '../cluster/router.ts';
import { GROUP_COUNT } from '../constants.ts';
import type { Logger } from '../log.ts';
import type { Storage } from '../storage/store.ts';
import { Cleaner } from './cleaner.ts';
import { Erasure } from './erasure.ts';
import { Expiry } from './expiry.ts';
import { decodeAnswer, decodeQuestion, encodeAnswer, encodeQuestion, type ErasureQuestion } from './wire.ts';

/** An answer to a question is a look at what is known: it takes no longer than the way. */
const ASK_MS = 2000;

export interface NodeErasureOptions {
  readonly self: NodeId;
  readonly host: RaftHost;
  readonly storage: Storage;
  readonly router: Router;
  readonly network: PeerNetwork;
  /** The node of a replica; undefined while it is not known. */
  readonly nodeOf: (group: GroupId, replica: ReplicaId) => NodeId | undefined;
  /** Erases a context in the archive; null where the archive is off. */
  readonly archive: { erase(context: string): Promise<{ readonly ok: boolean }> } | null;
  readonly logger: Logger;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Pauses, for tests. */
  readonly againMs?: number;
  readonly lapMs?: number;
}

export class NodeErasure {
  private readonly options: NodeErasureOptions;
  private readonly cleaner: Cleaner;
  private readonly erasure: Erasure;
  private readonly expiry: Expiry;

  constructor(options: NodeErasureOptions) {
    const { host, storage, router, archive, logger, now, againMs, lapMs } = options;
    this.options = options;
    const applied = (group: GroupId): number => host.status(group)?.applied ?? 0;
    const propose = (group: GroupId, command: Uint8Array): Promise<unknown> => router.propose(group, command, 'essential');
    this.cleaner = new Cleaner({ host, storage, logger });
    this.erasure = new Erasure({
      rows: storage,
      leads: (group) => host.isLeader(group),
      barrier: (group) => router.barrier(group),
      applied,
      propose,
      replicas: (group) => this.replicas(group),
      ask: (node, question) => this.ask(node, question),
      eraseArchived: archive === null ? null : async (context) => (await archive.erase(context)).ok,
      logger,
      ...(againMs === undefined ? {} : { againMs }),
    });
    const led = (): GroupId[] => host.groups().filter((group) => group < GROUP_COUNT && host.isLeader(group));
    this.expiry = new Expiry({ rows: storage, led, applied, propose, logger, now, ...(lapMs === undefined ? {} : { lapMs }) });
  }

  open(): void {
    this.expiry.open();
  }

  async close(): Promise<void> {
    await Promise.all([this.expiry.close(), this.erasure.close(), this.cleaner.close()]);
  }

  /** This node leads the group from now on, or leads it and has just applied a purge there. Returns at once. */
  look(group: GroupId): void {
    if (group < GROUP_COUNT && this.options.host.isLeader(group)) this.erasure.look(group);
  }

  /** Answers RequestKind.erase of the group's leader. */
  answer(body: Uint8Array): Uint8Array {
    const question = decodeQuestion(body);
    return encodeAnswer(question !== null && this.cleaner.answer(question));
  }

  /** All members, also those that join or leave just now: whoever holds a replica holds the content. */
  private replicas(group: GroupId): NodeId[] | null {
    const conf = this.options.host.status(group)?.conf;
    if (conf === undefined) return null;
    const nodes = new Set<NodeId>();
    for (const replica of [...conf.voters, ...conf.votersOutgoing, ...conf.learners, ...conf.learnersNext]) {
      const node = this.options.nodeOf(group, replica);
      if (node === undefined) return null;
      nodes.add(node);
    }
    return [...nodes];
  }

  private ask(node: NodeId, question: ErasureQuestion): Promise<boolean> {
    if (node === this.options.self) return Promise.resolve(this.cleaner.answer(question));
    return new Promise((resolve) => {
      this.options.network.request(node, RequestKind.erase, encodeQuestion(question), ASK_MS, (failure, answer) => resolve(failure === null && answer !== null && decodeAnswer(answer)));
    });
  }
}
