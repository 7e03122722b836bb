/**
 * The bare spike: about the least that the shape of an append can cost. HTTP, one LevelDB batch, one frame to each of two
 * followers, 201 when it is synced here and on one of them. One node takes every request. No elections, no recovery, no
 * state, no reads: a ceiling, not a store.
 *
 *   node bench/spike/bare.ts ME DIRECTORY PORT PORT PORT      (ME 0 takes requests; start it last)
 */
import type { ServerResponse } from 'node:http';
import { WebSocket, WebSocketServer } from 'ws';
import { messageRow, openDb } from './disk.ts';
import type { Db } from './disk.ts';
import { decodeFrame, emptyFrame, encodeFrame } from './frames.ts';
import type { Entry } from './frames.ts';
import { answer, serveAppends } from './http.ts';

/** Rounds on their way at once: waiting makes rounds larger and an append cheaper. */
const ROUNDS_MAX = 8;
const SOCKET = { perMessageDeflate: false, skipUTF8Validation: true };

interface Round {
  readonly entries: readonly Entry[];
  readonly responses: readonly ServerResponse[];
  /** Disks that hold it. */
  synced: number;
  isSyncedHere: boolean;
}

async function lead(db: Db, port: number, followers: readonly number[]): Promise<void> {
  const seqs = new Map<string, number>();
  const rounds = new Map<number, Round>();
  let entries: Entry[] = [];
  let responses: ServerResponse[] = [];
  let isScheduled = false;
  let roundNumber = 0;

  const links = await Promise.all(
    followers.map(
      (follower) =>
        new Promise<WebSocket>((resolve, reject) => {
          const link = new WebSocket(`ws://127.0.0.1:${follower}`, SOCKET);
          link.once('open', () => resolve(link)).once('error', reject);
          link.on('message', (data) => decodeFrame(data as Buffer).acks.forEach((number) => synced(number, false)));
        }),
    ),
  );

  function schedule(): void {
    if (isScheduled || entries.length === 0 || rounds.size >= ROUNDS_MAX) return;
    isScheduled = true;
    setImmediate(flush);
  }

  function flush(): void {
    isScheduled = false;
    const number = roundNumber++;
    const round: Round = { entries, responses, synced: 0, isSyncedHere: false };
    entries = [];
    responses = [];
    rounds.set(number, round);
    // The number of a round rides as the only acknowledgement of its frame.
    const frame = encodeFrame({ ...emptyFrame(), entries: [...round.entries], acks: [number] });
    for (const link of links) link.send(frame);
    const rows = round.entries.map(({ context, seq, body }) => messageRow(context, seq, body));
    void db.batch(rows, { sync: true }).then(() => synced(number, true));
  }

  function synced(number: number, isHere: boolean): void {
    const round = rounds.get(number);
    if (round === undefined) return;
    round.synced++;
    round.isSyncedHere ||= isHere;
    if (round.synced < 2 || !round.isSyncedHere) return;
    rounds.delete(number);
    round.responses.forEach((response, i) => answer(response, round.entries[i]?.seq ?? 0));
    schedule();
  }

  serveAppends((context, body, response) => {
    const seq = (seqs.get(context) ?? 0) + 1;
    seqs.set(context, seq);
    entries.push({ index: 0, seq, context, body });
    responses.push(response);
    schedule();
  }).listen(port, '127.0.0.1');
}

function follow(db: Db, port: number): void {
  const server = new WebSocketServer({ port, host: '127.0.0.1', ...SOCKET });
  server.on('connection', (link) => {
    link.on('message', (data) => {
      const { entries, acks } = decodeFrame(data as Buffer);
      const rows = entries.map(({ context, seq, body }) => messageRow(context, seq, body));
      void db.batch(rows, { sync: true }).then(() => link.send(encodeFrame({ ...emptyFrame(), acks })));
    });
  });
}

const [me = '', directory = '', ...ports] = process.argv.slice(2);
const db = await openDb(directory);
const [port = 0, ...followers] = ports.map(Number);
if (me === '0') await lead(db, port, followers);
else follow(db, Number(ports[Number(me)]));
