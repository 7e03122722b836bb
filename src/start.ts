/**
 * Starting: why a node cannot, and the data directory as the configuration wants it. What is built on it is node.ts.
 */
import type { GroupId } from '../raft/types.ts';
import type { Config } from './config.ts';
import { openReborn } from './cluster/rebirth.ts';
import type { Logger } from './log.ts';
import { Storage } from './storage/store.ts';

const SCRUB_ROWS_PER_SECOND = 1000;
/** Applied state waits this long, so that rows that change often are written once for many changes. */
const STATE_FLUSH_MS = 500;

/** The node cannot start; the message is one line for the operator. */
export class StartError extends Error {}

/** Opens the data directory, a new store in it if its node was found to have lost the old one's right to vote. Throws StartError. */
export async function openStorage(config: Config, logger: Logger, hooks: { onError: (error: Error) => void; onDamage: (group: GroupId, reason: string) => void; onSynced: (ms: number) => void }): Promise<Storage> {
  const options = {
    ...hooks,
    freeSoftBytes: config.diskSoftFreeBytes,
    freeHardBytes: config.diskHardFreeBytes,
    ballastBytes: config.ballastBytes,
    stateFlushMs: STATE_FLUSH_MS,
    scrubRowsPerSecond: SCRUB_ROWS_PER_SECOND,
  };
  try {
    return await openReborn(config.dataDir, {
      open: () => Storage.open(config.dataDir, options),
      prepare: (directory) => Storage.open(directory),
      onSetAside: (path, reason) => logger.warn({ type: 'set_aside', path, reason }, `the former data of this node was set aside in ${path} and is not used again: it joins its cluster anew, with an empty store`),
    });
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : '';
    throw new StartError(`cannot open the data directory ${config.dataDir}: ${error instanceof Error ? error.message : String(error)}${cause}`);
  }
}
