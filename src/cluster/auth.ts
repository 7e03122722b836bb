/**
 * The keys that nodes of one cluster recognise each other by (API.md, peer authentication). Configured cluster secrets
 * come first, else keys derived from the API keys, else the key that founding minted. Without any of them a node that
 * is not founded yet accepts everyone: founding is open then, and `openFounding` says so for a warning.
 *
 * A node presents every key that it has, and one in common is enough: whatever the order in which nodes learn a new key
 * and forget an old one, two whose lists overlap reach each other.
 */
import { createHash, hkdfSync, timingSafeEqual } from 'node:crypto';

const KEY_BYTES = 32;
const HKDF_INFO = 'fastpaca peer link';
/** What an HTTP header value may carry, visible ASCII and inner spaces, but for the comma between keys. */
const HEADER_SAFE = /^(?=[^,]+$)[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/;
/** Keys looked at in one header. */
const PRESENTED_MAX = 16;

export interface PeerKeyConfig {
  readonly clusterSecrets: readonly string[];
  readonly apiKeys: readonly string[];
  /** Told of each header that is not accepted. */
  readonly onRefused?: () => void;
}

/** A cluster secret that cannot be used as it is. */
export class PeerKeyError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'PeerKeyError';
  }
}

export class PeerKeys {
  readonly #configured: readonly string[];
  readonly #configuredHashes: readonly Buffer[];
  readonly #onRefused: () => void;
  #minted: string | null = null;
  #founded = false;

  /** Throws PeerKeyError when a secret cannot travel in an HTTP header. */
  constructor(config: PeerKeyConfig) {
    for (const secret of config.clusterSecrets) {
      if (!HEADER_SAFE.test(secret)) {
        throw new PeerKeyError('FASTPACA_CLUSTER_SECRET: each secret must be visible ASCII without commas, and without spaces at its ends');
      }
    }
    this.#configured = config.clusterSecrets.length > 0 ? config.clusterSecrets : config.apiKeys.map(deriveKey);
    this.#configuredHashes = this.#configured.map(hashOf);
    this.#onRefused = config.onRefused ?? (() => undefined);
  }

  /** The founding record was promised: from now on its key is presented, but not yet demanded. */
  promised(mintedKey: string): void {
    this.#minted = mintedKey;
  }

  /** The founding record was committed: from now on a key is demanded of everyone. */
  founded(mintedKey: string): void {
    this.#minted = mintedKey;
    this.#founded = true;
  }

  /** True while anyone is accepted: nothing configured and not founded. */
  get openFounding(): boolean {
    return this.#configured.length === 0 && !this.#founded;
  }

  /** Headers to send to a peer: `{}` while there is no key to present. */
  headers(): Record<string, string> {
    const keys = this.#configured.length > 0 ? this.#configured : this.#minted === null ? [] : [this.#minted];
    return keys.length === 0 ? {} : { authorization: `Bearer ${keys.join(',')}` };
  }

  /** Judges an Authorization header in time that does not depend on how close a wrong key is. */
  accepts(authorization: string | undefined): boolean {
    if (this.openFounding) return true;
    const presented = bearerOf(authorization).split(',', PRESENTED_MAX).map(hashOf);
    const accepted = this.#configuredHashes.length > 0 ? this.#configuredHashes : this.#minted === null ? [] : [hashOf(this.#minted)];
    let match = false;
    for (const key of accepted) for (const one of presented) match = timingSafeEqual(key, one) || match;
    if (!match) this.#onRefused();
    return match;
  }
}

/** HKDF-SHA256 (RFC 5869) of an API key: a leaked peer key does not give away the API key. */
function deriveKey(apiKey: string): string {
  return Buffer.from(hkdfSync('sha256', apiKey, '', HKDF_INFO, KEY_BYTES)).toString('hex');
}

/** Hashing first gives timingSafeEqual two inputs of one length, whatever was presented. */
function hashOf(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}

function bearerOf(authorization: string | undefined): string {
  const match = /^Bearer +(.*)$/i.exec(authorization ?? '');
  return match?.[1] ?? '';
}
