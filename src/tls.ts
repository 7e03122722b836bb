/**
 * The TLS of one node: its certificate, key and authority, checked against each other before they are used and taken
 * anew while the node runs; the server that clients and peers connect to; what connections to other nodes are made
 * with; and which calls a connection may make without a certificate. A pair that cannot be used never takes the place
 * of one that can.
 */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { IncomingMessage, RequestListener, Server, ServerOptions } from 'node:http';
import { createServer } from 'node:https';
import type { Server as TlsServer } from 'node:https';
import { isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import { createSecureContext, TLSSocket } from 'node:tls';
import type { SecureContext } from 'node:tls';
import type { TlsConfig } from './config.ts';
import { refuseUpgrade } from './cluster/links.ts';
import type { Audience, ServerTls } from './http/ports.ts';
import type { Logger } from './log.ts';

/** The files are read this often; they are small, and their contents, unlike their times, cannot deceive. */
const WATCH_MS = 10_000;
/** Certificates between one and its authority. */
const CHAIN_MAX = 8;
const CLIENT_AUTH_OID = '1.3.6.1.5.5.7.3.2';
const DAY_MS = 86_400_000;
const EXPIRES_SOON_MS = 14 * DAY_MS;

/** Files that cannot be used. The message is one line for the operator. */
export class TlsError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'TlsError';
  }
}

/** The files as they were read, PEM. */
interface Texts {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer | null;
}

/** Files that belong together, ready for use. */
interface Loaded {
  readonly texts: Texts;
  readonly context: SecureContext;
  readonly certificate: X509Certificate;
}

export interface TlsHooks {
  readonly logger: Logger;
  /** host:port at which other nodes reach this one; null where there are none. */
  readonly reachedAt: string | null;
  /** Milliseconds between looks at the files. */
  readonly watchMs?: number;
}

export class NodeTls implements ServerTls {
  private readonly config: TlsConfig;
  private readonly hooks: TlsHooks;
  private readonly servers = new Set<TlsServer>();
  private readonly timer: NodeJS.Timeout;
  private loaded: Loaded;
  /** Why the files of now were not taken; logged when it changes. */
  private refused: string | null = null;
  private reading: Promise<void> | null = null;

  /** Throws TlsError, one line for the operator, when the files cannot be used. */
  static async open(config: TlsConfig, hooks: TlsHooks): Promise<NodeTls> {
    return new NodeTls(config, hooks, await load(config));
  }

  private constructor(config: TlsConfig, hooks: TlsHooks, loaded: Loaded) {
    this.config = config;
    this.hooks = hooks;
    this.loaded = loaded;
    this.tell(loaded, 'tls');
    this.timer = setInterval(() => void this.reload(), hooks.watchMs ?? WATCH_MS);
    this.timer.unref();
  }

  close(): void {
    clearInterval(this.timer);
    this.servers.clear();
  }

  /** The certificate that is shown now. */
  get certificate(): X509Certificate {
    return this.loaded.certificate;
  }

  /** What a connection to another node is made with, now. */
  peer(): { readonly secureContext: SecureContext } {
    return { secureContext: this.loaded.context };
  }

  /** A server of HTTPS whose new connections show what is loaded when they are made. */
  createServer(options: ServerOptions, handler: RequestListener): Server {
    const server = createServer({ ...options, ...this.serverContext(this.loaded), ...this.clientCertificates() }, handler);
    this.servers.add(server);
    server.once('close', () => this.servers.delete(server));
    return server;
  }

  /**
   * Why a connection may not make such a call, or null. Nodes show a certificate of FASTPACA_TLS_CA where it is set;
   * clients where FASTPACA_TLS_CLIENT_AUTH says so; probes, which cannot, never.
   */
  refusal(socket: Duplex, audience: Audience): string | null {
    const { ca, clientAuth } = this.config;
    if (ca === null || audience === 'probe' || (audience === 'client' && clientAuth === 'none')) return null;
    if (!(socket instanceof TLSSocket)) return 'This connection is not encrypted.';
    if (socket.authorized) return null;
    const shown = socket.getPeerX509Certificate() !== undefined;
    return shown ? `The certificate of this connection is not one of FASTPACA_TLS_CA (${String(socket.authorizationError)}).` : 'This connection shows no certificate of FASTPACA_TLS_CA.';
  }

  /** Whether an upgrade is one between nodes and shows no certificate of the authority: it has been answered then. */
  refusesUpgrade(request: IncomingMessage, socket: Duplex): boolean {
    // Upgrades of clients pass the router, which asks by itself.
    const refusal = (request.url ?? '').startsWith('/_peer') ? this.refusal(socket, 'peer') : null;
    if (refusal === null) return false;
    socket.on('error', () => socket.destroy());
    refuseUpgrade(socket, 401, 'unauthorized', refusal);
    return true;
  }

  /** Reads the files and takes them if they have changed and can be used. Never rejects; calls at once share one look. */
  reload(): Promise<void> {
    this.reading ??= this.read().finally(() => {
      this.reading = null;
    });
    return this.reading;
  }

  private async read(): Promise<void> {
    try {
      const texts = await readTexts(this.config);
      if (isSame(texts, this.loaded.texts)) {
        this.refused = null;
        return;
      }
      const loaded = check(this.config, texts);
      for (const server of this.servers) server.setSecureContext(this.serverContext(loaded));
      this.loaded = loaded;
      this.refused = null;
      this.tell(loaded, 'tls_renewed');
    } catch (error) {
      if (!(error instanceof TlsError)) throw error;
      if (this.refused === error.message) return;
      this.refused = error.message;
      this.hooks.logger.error({ type: 'tls_refused', reason: error.message }, `the certificate in use stays, because the files cannot be used: ${error.message}`);
    }
  }

  private serverContext({ texts: { cert, key, ca } }: Loaded): { cert: Buffer; key: Buffer; ca?: Buffer } {
    return { cert, key, ...(ca === null ? {} : { ca }) };
  }

  /** Asked of everyone where there is an authority; who may go without one is decided call by call (refusal). */
  private clientCertificates(): { requestCert: boolean; rejectUnauthorized: boolean } {
    return { requestCert: this.config.ca !== null, rejectUnauthorized: false };
  }

  private tell({ certificate }: Loaded, type: 'tls' | 'tls_renewed'): void {
    const { logger } = this.hooks;
    const expiresAt = certificate.validToDate;
    const fields = { subject: certificate.subject.replaceAll('\n', ', '), names: certificate.subjectAltName ?? '', expires_at: expiresAt.toISOString() };
    logger.info({ type, ...fields }, type === 'tls' ? 'serving over TLS' : 'a new certificate is in use');
    const problem = this.hooks.reachedAt === null ? null : nameProblem(certificate, this.hooks.reachedAt);
    if (problem !== null) logger.warn({ type: 'tls_name', ...fields }, problem);
    if (expiresAt.getTime() < Date.now() + EXPIRES_SOON_MS) logger.warn({ type: 'tls_expires', ...fields }, `the certificate of FASTPACA_TLS_CERT ends at ${expiresAt.toISOString()}`);
  }
}

/** Why other nodes would not trust this certificate at `address` (host:port), in one line; null if they would. */
export function nameProblem(certificate: X509Certificate, address: string): string | null {
  const host = address.slice(0, address.lastIndexOf(':')).replace(/^\[(.*)\]$/, '$1');
  const found = isIP(host) === 0 ? certificate.checkHost(host) : certificate.checkIP(host);
  if (found !== undefined) return null;
  return `the certificate of FASTPACA_TLS_CERT is not for '${host}', at which other nodes reach this one (it is for ${certificate.subjectAltName ?? 'nobody'})`;
}

/** Reads and checks the files; the certificate, for further questions. Throws TlsError. */
export async function readCertificate(config: TlsConfig): Promise<X509Certificate> {
  return (await load(config)).certificate;
}

async function load(config: TlsConfig): Promise<Loaded> {
  return check(config, await readTexts(config));
}

async function readTexts(config: TlsConfig): Promise<Texts> {
  const [cert, key, ca] = await Promise.all([
    readText('FASTPACA_TLS_CERT', config.cert),
    readText('FASTPACA_TLS_KEY', config.key),
    config.ca === null ? null : readText('FASTPACA_TLS_CA', config.ca),
  ]);
  return { cert, key, ca };
}

async function readText(variable: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new TlsError(`${variable}: cannot read ${path}: ${messageOf(error)}`);
  }
}

/** Holds the files against each other and the clock. Throws TlsError. */
function check(config: TlsConfig, texts: Texts): Loaded {
  const [certificate, ...chain] = certificatesOf(texts.cert, 'FASTPACA_TLS_CERT', config.cert);
  if (certificate === undefined) throw new TlsError(`FASTPACA_TLS_CERT: ${config.cert} holds no certificate`);
  if (certificate.validToDate.getTime() <= Date.now()) throw new TlsError(`FASTPACA_TLS_CERT: the certificate in ${config.cert} ended at ${certificate.validToDate.toISOString()}`);
  if (texts.ca !== null) {
    const authorities = certificatesOf(texts.ca, 'FASTPACA_TLS_CA', config.ca ?? '');
    if (authorities.length === 0) throw new TlsError(`FASTPACA_TLS_CA: ${config.ca} holds no certificate`);
    if (!isIssued(certificate, chain, authorities)) throw new TlsError(`FASTPACA_TLS_CERT: no authority in FASTPACA_TLS_CA (${config.ca}) has issued the certificate in ${config.cert}`);
    const usages: readonly string[] | undefined = certificate.keyUsage;
    if (usages !== undefined && !usages.includes(CLIENT_AUTH_OID)) {
      throw new TlsError(`FASTPACA_TLS_CERT: the certificate in ${config.cert} is not for clients (extended key usage clientAuth), which a node is to its peers`);
    }
  }
  return { texts, certificate, context: contextOf(config, texts) };
}

function contextOf(config: TlsConfig, { cert, key, ca }: Texts): SecureContext {
  try {
    return createSecureContext({ cert, key, ...(ca === null ? {} : { ca }) });
  } catch (error) {
    throw new TlsError(`FASTPACA_TLS_KEY: ${config.key} is not the key of the certificate in ${config.cert} (${messageOf(error)})`);
  }
}

function certificatesOf(pem: Buffer, variable: string, path: string): X509Certificate[] {
  const blocks = pem.toString('latin1').match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g) ?? [];
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch (error) {
    throw new TlsError(`${variable}: ${path} holds a certificate that cannot be read (${messageOf(error)})`);
  }
}

/** Whether the chain leads from the certificate to an authority. What TLS demands beyond that is its own business. */
function isIssued(certificate: X509Certificate, chain: readonly X509Certificate[], authorities: readonly X509Certificate[]): boolean {
  let current = certificate;
  for (let step = 0; step < CHAIN_MAX; step++) {
    const of = (issuer: X509Certificate): boolean => current.checkIssued(issuer) && current.verify(issuer.publicKey);
    if (authorities.some((authority) => authority.fingerprint256 === current.fingerprint256 || of(authority))) return true;
    const next = chain.find((candidate) => candidate.fingerprint256 !== current.fingerprint256 && of(candidate));
    if (next === undefined) return false;
    current = next;
  }
  return false;
}

function isSame(a: Texts, b: Texts): boolean {
  return a.cert.equals(b.cert) && a.key.equals(b.key) && (a.ca === null ? b.ca === null : b.ca !== null && a.ca.equals(b.ca));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
