/**
 * Asks the node on this machine whether it is alive: exit code 0 or 1, and a line that says why. For the image's
 * HEALTHCHECK, which has no curl. Alive, not ready: a node that waits for its peers is healthy, and to restart it helps nobody.
 */
import { request as plain } from 'node:http';
import { request as secure } from 'node:https';

const TIMEOUT_MS = 2500;

const listens = process.env['FASTPACA_HOST'] ?? '';
const host = ['', '0.0.0.0', '::'].includes(listens) ? '127.0.0.1' : listens;
const port = process.env['PORT'] || '4000';
const isTls = (process.env['FASTPACA_TLS_CERT'] ?? '') !== '';

const options = { host, port, path: '/health/live', timeout: TIMEOUT_MS };
// The certificate names the node as others know it, not the loopback address; who else would answer here is not the question.
const call = isTls ? secure({ ...options, rejectUnauthorized: false }) : plain(options);
call.on('response', (answer) => {
  answer.resume();
  end(answer.statusCode === 200 ? 0 : 1, `HTTP ${answer.statusCode}`);
});
call.on('timeout', () => call.destroy(new Error(`no answer within ${TIMEOUT_MS} ms`)));
call.on('error', (error) => end(1, error.message));
call.end();

function end(code: number, why: string): void {
  console[code === 0 ? 'log' : 'error'](`${host}:${port}: ${why}`);
  process.exitCode = code;
}
