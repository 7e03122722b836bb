/** A client of streams for tests and measurements: keeps what it was sent, reconnects where it is told to. */
import { once } from 'node:events';
import { request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { WebSocket } from 'ws';
import { until } from './processes.ts';

export interface StreamFrame {
  readonly type: string;
  readonly version: number;
  readonly seq?: number;
  readonly message?: { readonly seq: number; readonly version: number; readonly role: string; readonly parts: readonly { readonly text?: string }[] };
  readonly range?: { readonly from_seq: number; readonly to_seq: number };
  readonly needs_compaction?: boolean;
  readonly used_tokens?: number;
  readonly expected?: number;
  readonly actual?: number;
}

export function streamUrl(base: string, id: string, query = ''): string {
  return `${base.replace(/^http/, 'ws')}/v1/contexts/${encodeURIComponent(id)}/stream${query}`;
}

/** One WebSocket to a stream; frames other than pings are kept as text and parsed. */
export class StreamClient {
  readonly ws: WebSocket;
  readonly texts: string[] = [];
  readonly frames: StreamFrame[] = [];
  pings = 0;
  closed: { code: number; reason: string } | null = null;

  private constructor(ws: WebSocket) {
    this.ws = ws;
    ws.on('message', (data) => {
      const text = String(data);
      const frame = JSON.parse(text) as StreamFrame;
      if (frame.type === 'ping') {
        this.pings++;
        ws.send('{"type":"pong"}');
        return;
      }
      this.texts.push(text);
      this.frames.push(frame);
    });
    ws.on('close', (code, reason) => {
      this.closed = { code, reason: reason.toString() };
    });
    ws.on('error', () => undefined);
  }

  /** Resolves when the stream is open; throws when it is refused. */
  static async open(url: string, headers: Record<string, string> = {}): Promise<StreamClient> {
    const ws = new WebSocket(url, { headers, perMessageDeflate: false });
    const client = new StreamClient(ws);
    await once(ws, 'open');
    return client;
  }

  of(type: string): StreamFrame[] {
    return this.frames.filter((frame) => frame.type === type);
  }

  async count(frames: number, ms = 30_000): Promise<void> {
    await until(`${frames} frames (there are ${this.frames.length}: ${this.frames.slice(-3).map((frame) => frame.type).join()})`, () => this.frames.length >= frames, ms);
  }

  async end(): Promise<{ code: number; reason: string }> {
    await until('the stream to be closed', () => this.closed !== null, 30_000);
    return this.closed ?? { code: 0, reason: '' };
  }

  close(): void {
    this.ws.terminate();
  }
}

export interface Refusal {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly json: Record<string, unknown>;
}

/** How an upgrade is refused: status, headers and JSON body. Throws when it is accepted. */
export async function refusal(url: string, headers: Record<string, string> = {}): Promise<Refusal> {
  const target = url.replace(/^ws/, 'http');
  const handshake = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'MDEyMzQ1Njc4OWFiY2RlZg==' };
  const sent = request(target, { headers: { ...handshake, ...headers } });
  sent.end();
  const accepted = once(sent, 'upgrade').then(([, socket]) => {
    (socket as { destroy(): void }).destroy();
    throw new Error('the upgrade was accepted');
  });
  const answered = once(sent, 'response').then(async ([response]) => {
    const message = response as IncomingMessage;
    const chunks: Buffer[] = [];
    for await (const chunk of message) chunks.push(chunk as Buffer);
    return { status: message.statusCode ?? 0, headers: message.headers, json: JSON.parse(Buffer.concat(chunks).toString()) as Record<string, unknown> };
  });
  accepted.catch(() => undefined);
  return Promise.race([answered, accepted]);
}

export interface SseEvent {
  readonly id: string | null;
  readonly data: string;
}

/** A reader of server-sent events over one answer. */
export class SseClient {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly events: SseEvent[] = [];
  isOver = false;
  private readonly response: IncomingMessage;

  private constructor(response: IncomingMessage) {
    this.response = response;
    this.status = response.statusCode ?? 0;
    this.headers = response.headers;
    let rest = '';
    response.setEncoding('utf8');
    response.on('data', (chunk: string) => {
      rest += chunk;
      for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
        this.take(rest.slice(0, end));
        rest = rest.slice(end + 2);
      }
    });
    response.on('error', () => undefined);
    response.on('close', () => {
      this.isOver = true;
    });
  }

  static async open(url: string, headers: Record<string, string> = {}): Promise<SseClient> {
    const sent = request(url, { headers: { accept: 'text/event-stream', ...headers }, agent: false });
    sent.end();
    const [response] = (await once(sent, 'response')) as [IncomingMessage];
    return new SseClient(response);
  }

  close(): void {
    this.response.destroy();
  }

  private take(block: string): void {
    const data: string[] = [];
    let id: string | null = null;
    for (const line of block.split('\n')) {
      if (line.startsWith('data: ')) data.push(line.slice(6));
      if (line.startsWith('id: ')) id = line.slice(4);
    }
    if (data.length > 0) this.events.push({ id, data: data.join('\n') });
  }
}
