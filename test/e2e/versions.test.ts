/**
 * Two versions in one cluster. The later one is made here: a copy of the sources that speaks a higher wire and command
 * format, with a field, a frame and a request that this version has never heard of.
 */
import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { call, ClusterProcesses, type NodeProcess, until } from './processes.ts';
import { assertNothingLost, createContexts, Writers } from './retrying.ts';

const root = join(import.meta.dirname, '../..');

/** Replaces `from`, which must be there, in a file of the copy. */
async function edit(dir: string, path: string, from: string | RegExp, to: string): Promise<void> {
  const file = join(dir, path);
  const text = await readFile(file, 'utf8');
  const edited = text.replace(from, to);
  assert.notEqual(edited, text, `${path} no longer holds ${String(from)}`);
  await writeFile(file, edited);
}

/** A build to be changed by `edit`; resolves to its directory. */
async function copyOfSources(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'fastpaca-later-'));
  for (const folder of ['src', 'raft', 'archiver', 'package.json']) await cp(join(root, folder), join(dir, folder), { recursive: true });
  await symlink(join(root, 'node_modules'), join(dir, 'node_modules'));
  return dir;
}

async function laterBuild(): Promise<string> {
  const dir = await copyOfSources();
  await edit(dir, 'src/constants.ts', 'export const WIRE_FORMAT = 1;', 'export const WIRE_FORMAT = 2;');
  const commands = 'src/contexts/commands.ts';
  await edit(dir, commands, 'export const COMMAND_FORMAT = 1;', 'export const COMMAND_FORMAT = 2;');
  // A new last field of every command, which a reader of format 1 would take for garbage.
  await edit(dir, commands, '  return writer.done();', `  if (format >= 2) writer.string('said by format 2');\n  return writer.done();`);
  await edit(dir, commands, '  return reader.ok && reader.atEnd', `  if (formatOf(bytes) >= 2 && reader.string() !== 'said by format 2') return null;\n  return reader.ok && reader.atEnd`);
  // A request that nobody knew before, made at once; a frame that nobody knew, sent only once the table has wire format 2.
  const status = 'src/cluster/peer-status.ts';
  await edit(dir, status, '  ask(timeoutMs: number): void {', `  ask(timeoutMs: number): void {\n    for (const node of this.network.up()) this.network.request(node, 250 as never, NOTHING, timeoutMs, (failure) => console.log(JSON.stringify({ type: 'unheard', node, failure })));`);
  await edit(dir, 'src/cluster/link.ts', '  sendBeat(beat: Beat): void {', `  sendBeat(beat: Beat): void {\n    if (this.#state === 'up' && this.#owner.wireFormat() >= 2) this.#ws.send(Buffer.from([200, 1, 2, 3]));`);
  await edit(dir, 'src/cluster/link.ts', '  readonly wheel: TimeoutWheel;', '  readonly wheel: TimeoutWheel;\n  wireFormat(): number;');
  await edit(dir, 'src/cluster/link.ts', '      case FrameKind.refused:\n        return this.#refused(frame);\n      default:\n        throw new FrameError(`kind ${frame[0]} on', `      case 200 as never:\n        return void console.log(JSON.stringify({ type: 'later_frame' }));\n      case FrameKind.refused:\n        return this.#refused(frame);\n      default:\n        throw new FrameError(\`kind \${frame[0]} on`);
  await edit(dir, 'src/cluster/links.ts', '      wheel: this.#wheel,', '      wheel: this.#wheel,\n      wireFormat: () => options.wireFormatInUse?.() ?? 0,');
  return dir;
}

async function formats(node: NodeProcess): Promise<unknown> {
  return (await call(`${node.url}/v1/cluster`)).json['formats'];
}

describe('a later version', () => {
  let cluster: ClusterProcesses;
  let later: string;
  before(async () => {
    later = await laterBuild();
    cluster = await ClusterProcesses.start(3);
  });
  after(async () => {
    await cluster.stop();
    await rm(later, { recursive: true, force: true });
  });

  test('joins node by node without a loss, uses what is new only when all speak it, and then the older one is refused', async (t) => {
    const writers = new Writers(
      cluster.nodes.map((node) => node.url),
      await createContexts(cluster.node(0).url, 'versions', 16),
    );
    t.after(() => writers.stop());
    for (const [i, node] of cluster.nodes.entries()) {
      const before = writers.count;
      await until('appends to flow', () => writers.count > before + 50);
      assert.deepEqual(await formats(node), { disk: 1, wire: 1, command: 1 }, 'a member speaks less');
      assert.deepEqual(await node.kill('SIGTERM'), { code: 0, signal: null });
      node.start({}, join(later, 'src/main.ts'));
      await node.ready();
      const after = writers.count;
      await until('appends to flow through both versions', () => writers.count > after + 50);
      assert.ok(cluster.nodes.every((other) => other.running));
      if (i > 0) continue;
      const log = () => readFile(node.logFile, 'utf8');
      // Peers are asked once a second.
      await until('a request that the others do not know to be answered as such', async () => /"type":"unheard".*"failure":"remote_error"/.test(await log()));
      assert.doesNotMatch(await log(), /later_frame|broken frame/);
    }
    for (const node of cluster.nodes) {
      await until('the formats to be raised', async () => JSON.stringify(await formats(node)) === JSON.stringify({ disk: 1, wire: 2, command: 2 }));
    }
    const raised = writers.count;
    await until('appends to flow in the new format', () => writers.count > raised + 100);
    await until('frames of the new format', async () => /later_frame/.test(await readFile(cluster.node(1).logFile, 'utf8')));
    const old = cluster.node(2);
    await old.kill('SIGTERM');
    old.start();
    assert.deepEqual(await old.exited(), { code: 2, signal: null });
    assert.match(await old.logTail(), /the cluster uses wire format 2, this program speaks up to 1: run the version that the other nodes run, or a later one/);
    old.start({}, join(later, 'src/main.ts'));
    await cluster.ready();
    await writers.stop();
    assert.deepEqual(writers.totals().failures, []);
    assert.deepEqual(writers.staleReads, []);
    for (const { url } of cluster.nodes) await assertNothingLost(writers, url);
  });
});

describe('a disk that a later version wrote', () => {
  test('stops the program with a clear line', async () => {
    const dir = await copyOfSources();
    const cluster = await ClusterProcesses.create(1);
    const node = cluster.node(0);
    try {
      await edit(dir, 'src/constants.ts', 'export const DISK_FORMAT = 1;', 'export const DISK_FORMAT = 2;');
      node.start({}, join(dir, 'src/main.ts'));
      await node.ready();
      await node.kill('SIGTERM');
      node.start();
      assert.deepEqual(await node.exited(), { code: 2, signal: null });
      assert.match(await node.logTail(), /is in disk format 2, this program reads format 1: run the version that wrote it, or a later one/);
    } finally {
      await cluster.stop();
      await rm(dir, { recursive: true, force: true });
    }
  });
});
