/** Placement and the topology table: the same answer on every node, evenly spread, and changed only on the epoch it was seen at. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { groupOf, rendezvous, spreadLeaders, successorRank, topologyVoterCount } from '../../src/cluster/placement.ts';
import { decodeTopology, decodeTopologyCommand, encodeTopology, encodeTopologyCommand } from '../../src/cluster/topology-codec.ts';
import { applyTopology, foundingConf, foundingTopology, replicaOn, type Topology, type TopologyCommand } from '../../src/cluster/topology.ts';
import { GROUP_COUNT, TOPOLOGY_GROUP } from '../../src/constants.ts';

function founded(size: number): Topology {
  const members = Array.from({ length: size }, (_, i) => ({ name: `node-${i + 1}`, storeId: `store-${i + 1}`, address: `10.0.0.${i + 1}:4000` }));
  return foundingTopology({ clusterId: 'cluster', members, mintedKey: '00' });
}

function counts(names: readonly string[]): number[] {
  const found = new Map<string, number>();
  for (const name of names) found.set(name, (found.get(name) ?? 0) + 1);
  return [...found.values()];
}

describe('placement', () => {
  it("a context's group is the CRC-32 of its id's UTF-8 modulo 256, for ever", () => {
    const ids = ['c', 'chat-1', 'ü', '会話', ' ', 'x'.repeat(256)];
    assert.deepEqual(ids.map(groupOf), ids.map(crc));
    // The check value of CRC-32/ISO-HDLC is cbf43926.
    assert.equal(groupOf('123456789'), 0x26);
  });

  it('rendezvous moves only what the new node takes', () => {
    const names = ['a', 'b', 'c', 'd', 'e'];
    for (let group = 0; group < 64; group++) {
      const before = rendezvous(names, group, 3);
      assert.deepEqual(rendezvous([...names].reverse(), group, 3), before, 'the order of the names says nothing');
      const after = rendezvous([...names, 'f'], group, 3);
      assert.deepEqual(after.filter((name) => name !== 'f'), before.slice(0, after.includes('f') ? 2 : 3));
    }
  });

  for (const size of [1, 2, 3, 4, 5, 9]) {
    it(`${size} nodes: replicas and leaders are spread, every leader hosts its group`, () => {
      const { groups } = founded(size);
      assert.equal(groups.length, GROUP_COUNT + 1);
      const data = groups.slice(0, GROUP_COUNT);
      for (const [group, { replicas, preferred, nextReplica }] of groups.entries()) {
        assert.equal(replicas.length, group === TOPOLOGY_GROUP ? size : Math.min(3, size));
        assert.equal(new Set(replicas.map(({ node }) => node)).size, replicas.length);
        assert.deepEqual(replicas.map(({ id }) => id), replicas.map((_, i) => i + 1));
        assert.equal(nextReplica, replicas.length + 1);
        assert.ok(replicas.some(({ node, voter }) => node === preferred && voter));
      }
      const leaders = counts(groups.map(({ preferred }) => preferred));
      assert.equal(leaders.length, size);
      assert.ok(Math.max(...leaders) - Math.min(...leaders) <= Math.max(2, size), `${leaders}`);
      const hosted = counts(data.flatMap(({ replicas }) => replicas.map(({ node }) => node)));
      assert.ok(Math.max(...hosted) < Math.min(...hosted) * 1.6, `${hosted}`);
    });
  }

  it('the topology group has 1, 2, 3, 3, 5, 5 voters, everyone else learns', () => {
    assert.deepEqual([1, 2, 3, 4, 5, 9].map(topologyVoterCount), [1, 2, 3, 3, 5, 5]);
    const placement = founded(9).groups[TOPOLOGY_GROUP];
    assert.ok(placement !== undefined);
    const { voters, learners } = foundingConf(placement);
    assert.deepEqual([voters.length, learners.length], [5, 4]);
  });

  it('leaders go to the host with the fewest', () => {
    assert.deepEqual(spreadLeaders([['a', 'b'], ['a', 'b'], ['a', 'c'], ['b', 'c']]), ['a', 'b', 'c', 'b']);
    assert.deepEqual(spreadLeaders([['a', 'b'], ['a', 'b']]), ['a', 'b']);
  });

  it('each heir has one place in the line, and the first place goes round with the group', () => {
    const hosts = ['c', 'a', 'b'];
    for (let group = 0; group < 6; group++) assert.deepEqual(['b', 'c'].map((node) => successorRank(hosts, group, 'a', node)).sort(), [0, 1]);
    assert.notEqual(successorRank(hosts, 0, 'a', 'b'), successorRank(hosts, 1, 'a', 'b'));
    assert.equal(successorRank(hosts, 5, 'a', 'stranger'), 2);
  });
});

describe('topology', () => {
  it('survives its row', () => {
    const topology = founded(5);
    assert.deepEqual(decodeTopology(encodeTopology(topology)), topology);
    for (const row of ['{}', 'null', '{"epoch":1,"groups":[]}']) assert.throws(() => decodeTopology(Buffer.from(row)), row);
  });

  it('refuses what was decided on an older table, and leaves it as it was', () => {
    const first = founded(3);
    const { topology: second, reply } = applyTopology(first, { type: 'coordinator', ifEpoch: 1, name: 'node-2' });
    assert.deepEqual(reply, { ok: true, epoch: 2 });
    assert.equal(second.coordinator, 'node-2');
    for (const command of [
      { type: 'coordinator', ifEpoch: 1, name: 'node-3' },
      { type: 'place', ifEpoch: 1, moves: [], roles: [], preferred: [{ group: 0, node: 'node-1' }] },
    ] as const) {
      const outcome = applyTopology(second, command);
      assert.deepEqual(outcome.reply, { ok: false, code: 'stale_epoch' });
      assert.equal(outcome.topology, second);
    }
  });

  it('takes no coordinator, address or leader that is none of its members', () => {
    const topology = founded(5);
    const refused: [TopologyCommand, string][] = [
      [{ type: 'coordinator', ifEpoch: 1, name: 'node-6' }, 'unknown_node'],
      [{ type: 'address', name: 'node-6', storeId: 'store-6', address: 'x:1' }, 'unknown_node'],
      [{ type: 'address', name: 'node-1', storeId: 'another disk', address: 'x:1' }, 'unknown_node'],
      // node-1 hosts not every group of a cluster of five.
      [{ type: 'place', ifEpoch: 1, moves: [], roles: [], preferred: topology.groups.map((_, group) => ({ group, node: 'node-1' })) }, 'invalid_command'],
    ];
    for (const [command, code] of refused) assert.deepEqual(applyTopology(topology, command), { topology, reply: { ok: false, code } });
  });

  it('an address changes without outdating placement decisions', () => {
    const { topology } = applyTopology(founded(3), { type: 'address', name: 'node-2', storeId: 'store-2', address: 'x:1' });
    assert.equal(topology.epoch, 1);
    assert.deepEqual(topology.nodes.map(({ address }) => address), ['10.0.0.1:4000', 'x:1', '10.0.0.3:4000']);
  });

  it('reads its own commands and nothing else', () => {
    const commands: TopologyCommand[] = [
      { type: 'coordinator', ifEpoch: 3, name: 'a' },
      { type: 'address', name: 'a', storeId: 's', address: 'x:1' },
      { type: 'join', name: 'a', storeId: 's', address: 'x:1' },
      { type: 'drain', name: 'a', drain: true },
      { type: 'remove', name: 'a', lost: false },
      { type: 'place', ifEpoch: 3, moves: [{ group: 1, remove: 2, add: null }, { group: 1, remove: null, add: 'a' }], roles: [{ id: 4, voter: true }], preferred: [{ group: 0, node: 'a' }] },
      { type: 'settled', groups: [{ group: 1, members: [{ id: 4, voter: true }], gone: [1, 2] }] },
    ];
    for (const command of commands) assert.deepEqual(decodeTopologyCommand(encodeTopologyCommand(command)), command);
    const strange = ['', '{', 'null', '7', '{}', '{"type":"raze"}', '{"type":"coordinator","name":"a"}', '{"type":"address","name":"a"}', '{"type":"place","ifEpoch":1,"moves":[],"roles":[],"preferred":["a"]}', '{"type":"place","ifEpoch":1,"moves":[{"group":1}],"roles":[],"preferred":[]}', '{"type":"settled","groups":[{"group":1,"members":[],"gone":["1"]}]}', '{"type":"drain","name":"a"}'];
    for (const text of strange) assert.equal(decodeTopologyCommand(Buffer.from(text)), null, text);
  });

  it('knows which replica a node has', () => {
    const topology = founded(5);
    for (const [group, { replicas }] of topology.groups.entries()) {
      for (const { name } of topology.nodes) assert.equal(replicaOn(topology, group, name), replicas.find(({ node }) => node === name)?.id);
    }
    assert.equal(replicaOn(topology, 999, 'node-1'), undefined);
  });
});

/** Bit by bit, by the definition. */
function crc(id: string): number {
  let value = 0xffffffff;
  for (const byte of Buffer.from(id)) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value & 1) === 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  }
  return ((value ^ 0xffffffff) >>> 0) % 256;
}
