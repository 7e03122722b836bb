/**
 * host:port at which peers reach this node where FASTPACA_ADVERTISE does not say: asked of the machine once, at start.
 * A node that listens on every address is known to itself by none of them; the seeds tell which network its peers are in.
 */
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';

export interface OwnAddressOptions {
  readonly advertise: string | null;
  readonly host: string;
  readonly port: number;
  /** host:port each. */
  readonly clusterSeeds: readonly string[];
}

const LOOKUP_MS = 3000;
const ROUTE_MS = 1000;

/**
 * What is advertised, or the address that is listened on, where that is one. Otherwise, in this order: a seed that is this
 * node; the address from which packets to a seed leave; the first address of the machine that is not its loopback.
 * Never rejects: without a network or without seeds it is 127.0.0.1.
 */
export async function ownAddress({ advertise, host, port, clusterSeeds }: OwnAddressOptions): Promise<string> {
  if (advertise !== null) return advertise;
  if (host !== '0.0.0.0' && host !== '::') return joined(host, port);
  if (clusterSeeds.length === 0) return joined('127.0.0.1', port);
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  const seeds = (await Promise.all(clusterSeeds.map(expand))).flat();
  const self = seeds.find((seed) => seed.port === port && own.some(({ address }) => address === seed.address));
  if (self !== undefined) return joined(self.address, port);
  for (const { address } of seeds) {
    const source = await sourceTowards(address);
    if (source !== null) return joined(source, port);
  }
  return joined(own.find(({ internal, family }) => !internal && family === 'IPv4')?.address ?? '127.0.0.1', port);
}

/** The addresses that a seed stands for now; none when its name is not known yet. */
async function expand(seed: string): Promise<{ address: string; port: number }[]> {
  const at = seed.lastIndexOf(':');
  const late = new Promise<never[]>((resolve) => setTimeout(resolve, LOOKUP_MS, []).unref());
  const found = lookup(seed.slice(0, at).replace(/^\[(.*)\]$/, '$1'), { all: true }).catch(() => []);
  return (await Promise.race([found, late])).map(({ address }) => ({ address, port: Number(seed.slice(at + 1)) }));
}

/** A connected datagram socket has the address that routing chose; nothing is sent. Null where there is no route. */
async function sourceTowards(address: string): Promise<string | null> {
  const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
  try {
    socket.connect(9, address);
    await once(socket, 'connect', { signal: AbortSignal.timeout(ROUTE_MS) });
    return socket.address().address;
  } catch {
    return null;
  } finally {
    socket.close();
  }
}

function joined(host: string, port: number): string {
  return `${isIPv6(host) ? `[${host}]` : host}:${port}`;
}
