/**
 * Ports for the servers that tests start. A server that is down must find its port free when it comes back, so ports lie
 * below those that the system gives to outgoing connections and to whoever asks for any, and each test process takes
 * its own out of a block that no other has: it listens on the first port of the block for as long as it runs.
 */
import { once } from 'node:events';
import { createServer, type Server } from 'node:net';

const FIRST = 10_000;
const BLOCKS = 220;
const BLOCK_PORTS = 100;

let blockEnd = 0;
let next = 0;
let leased: Promise<void> | null = null;

/** A port nobody listens on, given to nobody else; `count`: the first of so many in a row. */
export async function freePort(count = 1): Promise<number> {
  for (;;) {
    while (next + count > blockEnd) {
      leased ??= leaseBlock().finally(() => void (leased = null));
      await leased;
    }
    const port = next;
    next += count;
    const free = await Promise.all(Array.from({ length: count }, (_, i) => isFree(port + i)));
    if (free.every(Boolean)) return port;
  }
}

async function leaseBlock(): Promise<void> {
  for (;;) {
    const start = FIRST + BLOCK_PORTS * Math.floor(Math.random() * BLOCKS);
    const holder = await listens(start);
    if (holder === null) continue;
    holder.unref();
    next = start + 1;
    blockEnd = start + BLOCK_PORTS;
    return;
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = await listens(port);
  if (server === null) return false;
  await new Promise((resolve) => server.close(resolve));
  return true;
}

/** Null where somebody else listens. */
async function listens(port: number): Promise<Server | null> {
  const server = createServer().listen(port, '127.0.0.1');
  try {
    await once(server, 'listening');
  } catch {
    return null;
  }
  return server;
}
