/**
 * What the operating system says of processes and of the machine: CPU time, bytes written, memory, cache flushes of the
 * disk. Read from /proc, so Linux only; elsewhere every figure is null.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';

/** Sums over some processes and everything they started, since each began. */
export interface ProcessSample {
  readonly cpuSeconds: number;
  /** Bytes handed to the disk, not to the page cache. */
  readonly writtenBytes: number;
  readonly residentBytes: number;
}

export interface MachineSample {
  /** CPU seconds in use since boot, kernel threads included; waiting for the disk is none. */
  readonly busySeconds: number;
  /** Cache flushes that the disk completed since boot; null where it does not say. */
  readonly flushes: number | null;
}

const TICKS_PER_SECOND = 100;
const PAGE_BYTES = 4096;

export const hasProc = process.platform === 'linux';

interface Stat {
  readonly parent: number;
  readonly ticks: number;
  readonly residentPages: number;
}

/** Fields of /proc/PID/stat after the name, which may hold spaces: state is the first, see proc(5). */
function statOf(pid: number): Stat | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ').map(Number);
    const at = (index: number): number => fields[index] ?? 0;
    // User and system time, of its own and of children that are gone.
    return { parent: at(1), ticks: at(11) + at(12) + at(13) + at(14), residentPages: at(21) };
  } catch {
    return null; // It ended between the listing and the read.
  }
}

function writtenBytesOf(pid: number): number {
  try {
    return Number(/^write_bytes: (\d+)/m.exec(readFileSync(`/proc/${pid}/io`, 'latin1'))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

/** Sums over `roots` and their living descendants; null where there is no /proc or nothing to look at. */
export function sampleProcesses(roots: readonly number[]): ProcessSample | null {
  if (!hasProc || roots.length === 0) return null;
  const stats = new Map<number, Stat>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = statOf(Number(name));
    if (stat !== null) stats.set(Number(name), stat);
  }
  const members = new Set(roots);
  // Parents may be listed after their children, so again until nothing is added.
  for (let before = -1; before !== members.size; ) {
    before = members.size;
    for (const [pid, { parent }] of stats) if (members.has(parent)) members.add(pid);
  }
  let ticks = 0;
  let pages = 0;
  let writtenBytes = 0;
  for (const pid of members) {
    ticks += stats.get(pid)?.ticks ?? 0;
    pages += stats.get(pid)?.residentPages ?? 0;
    writtenBytes += writtenBytesOf(pid);
  }
  return { cpuSeconds: ticks / TICKS_PER_SECOND, writtenBytes, residentBytes: pages * PAGE_BYTES };
}

/** The whole machine, and the disk that holds `directory`. */
export function sampleMachine(directory: string): MachineSample | null {
  if (!hasProc) return null;
  const [cpu = ''] = readFileSync('/proc/stat', 'latin1').split('\n');
  // user nice system idle iowait irq softirq steal
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = cpu.trim().split(/\s+/).slice(1).map(Number);
  return { busySeconds: (user + nice + system + irq + softirq) / TICKS_PER_SECOND, flushes: flushesOf(directory) };
}

function flushesOf(directory: string): number | null {
  try {
    const { dev } = statSync(directory);
    const major = (dev >> 8) & 0xfff;
    const minor = (dev & 0xff) | ((dev >> 12) & 0xfff00);
    for (const line of readFileSync('/proc/diskstats', 'latin1').split('\n')) {
      const fields = line.trim().split(/\s+/);
      if (Number(fields[0]) === major && Number(fields[1]) === minor && fields[18] !== undefined) return Number(fields[18]);
    }
    return null;
  } catch {
    return null;
  }
}

/** Whether `directory` lies on a disk in memory, where syncing is free and every figure of a durable store is worthless. */
export function isInMemory(directory: string): boolean {
  if (!hasProc) return false;
  const { dev } = statSync(directory);
  const device = `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & 0xfff00)}`;
  return readFileSync('/proc/self/mountinfo', 'latin1')
    .split('\n')
    .some((line) => line.split(' ')[2] === device && / - (tmpfs|ramfs) /.test(line));
}
