/**
 * The node's log: pino JSON lines on standard output. Every line carries `type` (what happened, a fixed word) and
 * `node`; lines about one thing carry `context_id`, `seq`, `group`. Message content is never logged.
 */
import { pino } from 'pino';
import type { DestinationStream, Logger as PinoLogger } from 'pino';
import type { LogLevel } from './config.ts';

export type LogFields = Readonly<{ type: string } & Record<string, unknown>>;

/** What modules log through. `fields.type` names the event; `err` is an Error, logged with its stack. */
export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
}

/** The log of a process, whose node may learn its name only while it starts. */
export interface NodeLogger extends Logger {
  /** Lines carry this `node` from now on. */
  setNode(name: string): void;
}

/** Opens the log. `node`: as configured, or null; `shard`: which one writes, of a node that has several. `destination` replaces standard output (tests). */
export function createLogger(options: { level: LogLevel; node: string | null; shard?: number }, destination?: DestinationStream): NodeLogger {
  let node: { node?: string } = options.node === null ? {} : { node: options.node };
  const settings = {
    level: options.level,
    base: options.shard === undefined ? {} : { shard: options.shard },
    // A fresh object for each line: pino merges the line's fields into it.
    mixin: () => ({ ...node }),
    timestamp: (): string => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: (label: string) => ({ level: label }) },
    messageKey: 'message',
  };
  // A thread's process.stdout passes through the main thread: its last lines, which matter most, would be lost.
  const written = destination ?? (options.shard === undefined ? undefined : pino.destination({ fd: 1, sync: true }));
  const logger: PinoLogger = written === undefined ? pino(settings) : pino(settings, written);
  return {
    debug: (fields, message) => logger.debug(fields, message),
    info: (fields, message) => logger.info(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    error: (fields, message) => logger.error(fields, message),
    setNode(name) {
      node = { node: name };
    },
  };
}

/** Links and founding say what happened in words; the log wants a fixed `type` too, and its `node` is this one. */
export function linkLog(logger: Logger, type: 'peer' | 'founding'): { info(fields: object, message: string): void; warn(fields: object, message: string): void } {
  const told = (fields: object): LogFields => {
    const { node, ...rest } = { node: undefined, ...fields };
    return node === undefined ? { type, ...rest } : { type, peer: node, ...rest };
  };
  return {
    info: (fields, message) => logger.info(told(fields), message),
    warn: (fields, message) => logger.warn(told(fields), message),
  };
}
