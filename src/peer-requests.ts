/** What is asked of this node by others over their links, and by the other shards of this very node: each request to its part. */
import type { NodeStatus } from './cluster/peer-status.ts';
import { encodeStatus } from './cluster/peer-status.ts';
import type { Membership } from './cluster/membership.ts';
import { RequestKind } from './cluster/ports.ts';
import type { Router } from './cluster/router.ts';
import type { NodeErasure } from './erasure/node-erasure.ts';
import type { Listing } from './listing/listing.ts';
import type { Logger } from './log.ts';
import type { Store } from './store.ts';

export interface AskedParts {
  readonly router: Router;
  readonly store: Store;
  readonly listing: Listing;
  readonly erasure: NodeErasure;
  readonly membership: Membership;
  readonly status: () => NodeStatus;
  readonly logger: Logger;
}

type Reply = (answer: Uint8Array) => void;

/** A peer is answered from what this node has; it goes on to the next host by itself. */
export function answerPeer(parts: AskedParts, kind: RequestKind, body: Uint8Array, reply: Reply): void {
  switch (kind) {
    case RequestKind.propose:
      return parts.router.answerPropose(body, reply);
    case RequestKind.read:
      return orNothing(parts, 'read', parts.store.answerRead(body), reply);
    case RequestKind.list:
      return orNothing(parts, 'list', parts.listing.answer(body), reply);
    case RequestKind.erase:
      return reply(parts.erasure.answer(body));
    case RequestKind.status:
      return reply(encodeStatus(parts.status()));
    case RequestKind.topology:
    case RequestKind.compare:
      return reply(parts.membership.answerPeer(kind, body));
  }
}

/** A sibling is answered like a client: from wherever the answer is to be had. */
export function answerSibling(parts: AskedParts, tag: number, body: Uint8Array, reply: Reply): void {
  switch (tag) {
    case RequestKind.propose:
      return parts.router.answerSibling(body, reply);
    case RequestKind.read:
      return orNothing(parts, 'read', parts.store.answerSibling(body), reply);
    case RequestKind.list:
      return orNothing(parts, 'list', parts.listing.answerSibling(body), reply);
    default:
      throw new RangeError(`no sibling asks ${tag}`);
  }
}

function orNothing({ logger }: AskedParts, what: 'read' | 'list', answer: Promise<Uint8Array>, reply: Reply): void {
  answer.then(reply, (error: unknown) => {
    logger.error({ type: `${what}_failed`, err: error }, `a ${what === 'read' ? 'read' : 'listing'} for another node failed in a way that is a bug`);
    // An answer that says nothing: the asking node goes on to the next host.
    reply(new Uint8Array());
  });
}
