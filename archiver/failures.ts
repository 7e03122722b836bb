/**
 * What a failed statement means. Three kinds matter: the data of some row (find the row, go on), the archive itself
 * (it belongs to another cluster, is not migrated: a person must act), and everything else (Postgres is down, slow,
 * full, restarting: try again later).
 */

/** The archive cannot be used until somebody changes something. The message is one line for the operator. */
export class ArchiveSetupError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'ArchiveSetupError';
  }
}

/** SQLSTATE, or '' for what did not come from the server. */
export function sqlState(error: unknown): string {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return '';
  return /^[0-9A-Z]{5}$/.test(error.code) && !error.code.startsWith('E') ? error.code : '';
}

/** Class 22: a value is not valid; class 54: a value is beyond a limit of Postgres. */
export function isDataError(error: unknown): boolean {
  const state = sqlState(error);
  return state.startsWith('22') || state.startsWith('54');
}

/** The statement ran into a timeout, the server's or the driver's. */
export function isTimeout(error: unknown): boolean {
  return sqlState(error) === '57014' || (error instanceof Error && error.message === 'Query read timeout');
}

/** For log lines and answers: never with the connection URL, which holds a password. */
export function describe(error: unknown): string {
  const state = sqlState(error);
  if (error instanceof AggregateError) return error.errors.map(describe).join(', ');
  const message = error instanceof Error ? error.message : String(error);
  return state === '' ? message : `${message} (SQLSTATE ${state})`;
}
