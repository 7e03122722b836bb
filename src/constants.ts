/**
 * Hard settings: values that are baked into stored data. Changing one makes existing disks unreadable,
 * so none of them is configurable. Soft settings live in config.ts.
 */

/** Data groups. A context's group is a fixed hash of its id modulo this, so it can never change. */
export const GROUP_COUNT = 256;
/** The Raft group that holds nodes, placement and format versions; it stands beside the data groups. */
export const TOPOLOGY_GROUP = 256;
/** Layout of the LevelDB keys and values. A disk with a higher one stops the program. */
export const DISK_FORMAT = 1;
/** Frames between nodes: the newest that this version speaks, and the oldest that it still understands. */
export const WIRE_FORMAT = 1;
export const WIRE_FORMAT_MIN = 1;
/** Commands inside log entries. */
export { COMMAND_FORMAT } from './contexts/commands.ts';
