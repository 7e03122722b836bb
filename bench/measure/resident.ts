/** Resident memory of one process, from /proc. */
import { readFileSync } from 'node:fs';

/** MiB; 0 for a process that is gone. */
export function residentMegabytes(pid: number): number {
  try {
    return Math.round(Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0) / 1024);
  } catch {
    return 0;
  }
}
