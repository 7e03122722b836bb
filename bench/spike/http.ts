/** The HTTP side of the spikes: bare node:http, the body parsed as JSON once, the answer from a template. */
import { createServer } from 'node:http';
import type { Server, ServerResponse } from 'node:http';

const PATH_START = '/v1/contexts/'.length;
const PATH_END = '/messages'.length;

/** `append` gets each POST; anything else (contexts being created) is answered at once. */
export function serveAppends(append: (context: string, body: Buffer, response: ServerResponse) => void): Server {
  return createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const [first] = chunks;
      if (request.method !== 'POST' || first === undefined) {
        response.writeHead(200, { 'content-length': 2 }).end('{}');
        return;
      }
      const body = chunks.length === 1 ? first : Buffer.concat(chunks);
      JSON.parse(body.toString('latin1'));
      append(request.url?.slice(PATH_START, -PATH_END) ?? '', body, response);
    });
  });
}

export function answer(response: ServerResponse, seq: number): void {
  const text = `{"seq":${seq},"version":${seq},"token_estimate":1}`;
  response.writeHead(201, { 'content-type': 'application/json', 'content-length': text.length }).end(text);
}
