/** Readiness over real hosts: it comes when every replica has caught up, stays through one sick group, goes when the node is cut off. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { Coordinator } from '../../src/cluster/coordinator.ts';
import { TOPOLOGY_GROUP } from '../../src/constants.ts';
import type { Logger } from '../../src/log.ts';
import { GROUP, Mesh, type MeshNode, until } from './mesh.ts';

const SILENT: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

describe('readiness', () => {
  let mesh: Mesh;
  afterEach(() => mesh.close());

  it('waits for a leader in every group, names those without, and then stays', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP, GROUP + 1, TOPOLOGY_GROUP] });
    const [first, second] = [...mesh.nodes.values()];
    assert.ok(first && second);
    assert.deepEqual(first.health.ready().reason, 'the groups are being opened');
    first.health.open();
    await until('it to be ready', () => first.health.ready().ready);
    mesh.cut(second.name);
    for (const node of [first, second]) node.host.peerDown(node === first ? second.name : first.name);
    second.health.open();
    const { ready, status, reason } = second.health.ready();
    assert.deepEqual([ready, status], [false, 'starting']);
    assert.match(reason ?? '', new RegExp(`^3 groups have no leader or are catching up \\(${GROUP}, ${GROUP + 1}, ${TOPOLOGY_GROUP}\\)$`));
    mesh.heal();
    await until('the second to be ready', () => second.health.ready().ready);
  });

  it('does not hang on a replica that damage takes out, nor on a node of which nothing is left', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP, TOPOLOGY_GROUP] });
    const [first, second, third] = [...mesh.nodes.values()];
    assert.ok(first && second && third);
    mesh.cut(first.name);
    first.host.peerDown(second.name);
    first.host.peerDown(third.name);
    first.health.open();
    assert.equal(first.health.ready().ready, false);
    for (const group of [GROUP, TOPOLOGY_GROUP]) first.host.removeGroup(group);
    await until('it to be ready', () => first.health.ready().ready);
    for (const group of [GROUP, TOPOLOGY_GROUP]) second.host.removeGroup(group);
    second.health.open();
    assert.equal(second.health.ready().ready, true, 'everything is forwarded, nothing is awaited');
  });

  it('asks a silent leader once, not once for every look', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP, TOPOLOGY_GROUP] });
    const node = mesh.node('node-1');
    const questions: ((index: number) => void)[] = [];
    const { host } = node;
    const readIndex = host.readIndex.bind(host);
    let looks = 0;
    host.readIndex = (_group, done) => void questions.push(done);
    host.groups = () => [GROUP, TOPOLOGY_GROUP];
    // Counts the looks: every one asks the host about each group.
    const status = host.status.bind(host);
    host.status = (group) => (looks++, status(group));
    node.health.open();
    await until('some looks', () => looks > 10);
    assert.equal(questions.length, 2);
    host.readIndex = readIndex;
    for (const answer of questions) answer(-1);
    await until('it to be ready', () => node.health.ready().ready);
  });

  it('goes when the majority of the topology is out of reach, and comes back with it', async () => {
    mesh = await Mesh.start(3, { groups: [TOPOLOGY_GROUP] });
    const [first] = [...mesh.nodes.values()];
    assert.ok(first);
    first.health.open();
    await until('it to be ready', () => first.health.ready().ready);
    mesh.cut(first.name);
    await until('it to notice', () => first.health.ready().status === 'cut_off', 30_000);
    mesh.heal();
    await until('it to be back', () => first.health.ready().ready);
    first.health.drain();
    assert.equal(first.health.ready().status, 'draining');
  });
});

describe('coordinator', () => {
  let mesh: Mesh;
  const coordinators = new Map<MeshNode, Coordinator>();
  afterEach(async () => {
    for (const coordinator of coordinators.values()) coordinator.close();
    coordinators.clear();
    await mesh.close();
  });

  const coordinate = (node: MeshNode): Coordinator => {
    const coordinator = new Coordinator({
      identity: { name: node.name, storeId: node.name.replace('node', 'store'), clusterId: 'cluster', generation: 1, nonce: '' },
      address: mesh.topology.nodes.find(({ name }) => name === node.name)?.address ?? '',
      host: node.host,
      network: node.network,
      router: node.router,
      topology: () => mesh.topology,
      isClockTrusted: () => true,
      isSlow: () => false,
      logger: SILENT,
    });
    coordinators.set(node, coordinator);
    return coordinator;
  };
  const groups = [0, 1, 2, 3, 4, 5, 6, 7];
  const ledBy = (node: MeshNode): number[] => groups.filter((group) => node.host.isLeader(group));
  const isSpread = (): boolean => groups.every((group) => mesh.running(mesh.topology.groups[group]?.preferred ?? '')?.host.isLeader(group));

  it('moves leaders to where they are wanted, and not back to a node that just handed them over', async () => {
    mesh = await Mesh.start(3, { groups });
    for (const node of mesh.nodes.values()) coordinate(node);
    await until('leaders to be where they are preferred', isSpread, 40_000);
    const leaving = mesh.node('node-2');
    const coordinator = coordinators.get(leaving);
    assert.ok(ledBy(leaving).length > 0 && coordinator !== undefined);
    await until('it to lead nothing', () => coordinator.handOver() === 0);
    // Its link stays up while it finishes its requests: several rounds of the others.
    for (let look = 0; look < 60; look++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      assert.deepEqual(ledBy(leaving), [], `after ${look * 50} ms`);
    }
  });

  it('gives a node that was away its leaderships back', async () => {
    mesh = await Mesh.start(3, { groups });
    for (const node of mesh.nodes.values()) coordinate(node);
    await until('leaders to be where they are preferred', isSpread, 40_000);
    coordinators.get(mesh.node('node-2'))?.close();
    await mesh.stop('node-2');
    for (const group of groups) await mesh.leader(group);
    // Long enough for the others to have looked once.
    await until('a look', async () => (await new Promise((resolve) => setTimeout(resolve, 600)), true));
    coordinate(await mesh.open('node-2'));
    const started = performance.now();
    await until('leaders to be where they are preferred', isSpread, 40_000);
    assert.ok(performance.now() - started < 8000);
  });
});
