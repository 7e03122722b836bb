/**
 * How HTTP connections to other nodes are made, with and without TLS. Links and relayed streams are WebSockets and take
 * the same PeerTls by themselves.
 */
import { isIP } from 'node:net';
import { buildConnector } from 'undici';
import type { PeerTlsSource } from './ports.ts';

/**
 * A connector for undici's `connect`. With TLS every connection asks for the certificate of the moment, and the other
 * node's must carry `serverName`, or the host that is connected to where that is null. Sessions are not resumed: a
 * resumed one would not be verified against the authority of now.
 */
export function peerConnector(tls: PeerTlsSource | null, timeoutMs: number, serverName: string | null = null): buildConnector.connector {
  if (tls === null) return buildConnector({ timeout: timeoutMs });
  return (options, done) => {
    // Names only (RFC 6066 §3); an address is checked against the addresses of the certificate.
    const named = serverName === null || isIP(serverName) !== 0 ? options : { ...options, servername: serverName };
    buildConnector({ timeout: timeoutMs, maxCachedSessions: 0, allowH2: false, ...tls() })(named, done);
  };
}
