/** Formats in the table: raised only to what every member speaks, never lowered, and the same for founders of all versions. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { isSaid, OWN_FORMATS, raisable, tooOldFor, type Formats } from '../../src/cluster/formats.ts';
import { decodeTopologyCommand, encodeTopologyCommand } from '../../src/cluster/topology-codec.ts';
import { applyTopology, foundingTopology, type Topology, type TopologyCommand } from '../../src/cluster/topology.ts';

const NAMES = ['a', 'b', 'c'];
const founded = (): Topology => foundingTopology({ clusterId: 'x', members: NAMES.map((name) => ({ name, storeId: `store-${name}`, address: `${name}:1` })), mintedKey: '00' });
const formats = (wire: number, command: number): Formats => ({ disk: 1, wire, command });
const speaks = (name: string, said: Formats): TopologyCommand => ({ type: 'speaks', name, storeId: `store-${name}`, formats: said });

function apply(topology: Topology, ...commands: TopologyCommand[]): Topology {
  return commands.reduce((table, command) => {
    const decoded = decodeTopologyCommand(encodeTopologyCommand(command));
    assert.deepEqual(decoded, command);
    const { topology: next, reply } = applyTopology(table, command);
    assert.ok(reply.ok, JSON.stringify(reply));
    return next;
  }, topology);
}

describe('formats', () => {
  it('are those of the first version at founding, whatever the founders speak', () => {
    assert.deepEqual(founded().formats, formats(1, 1));
    assert.equal(raisable(founded()), null);
  });

  it('are raised once the last member speaks more, each on its own', () => {
    let table = apply(founded(), speaks('a', formats(2, 3)), speaks('b', formats(2, 2)));
    assert.equal(raisable(table), null, 'c has not said that it speaks more');
    table = apply(table, speaks('c', formats(1, 2)));
    assert.deepEqual(raisable(table), formats(1, 2));
    table = apply(table, { type: 'formats', ifEpoch: table.epoch, formats: formats(1, 2) });
    assert.deepEqual(table.formats, formats(1, 2));
    assert.equal(raisable(table), null);
  });

  it('are never lowered, nor raised beyond a member or on an outdated table', () => {
    const table = apply(founded(), ...NAMES.map((name) => speaks(name, formats(2, 2))));
    const raised = apply(table, { type: 'formats', ifEpoch: table.epoch, formats: formats(2, 2) });
    const code = (from: Topology, command: TopologyCommand): unknown => applyTopology(from, command).reply;
    assert.deepEqual(code(table, { type: 'formats', ifEpoch: table.epoch, formats: formats(3, 2) }), { ok: false, code: 'invalid_command' });
    assert.deepEqual(code(raised, { type: 'formats', ifEpoch: raised.epoch, formats: formats(1, 2) }), { ok: false, code: 'invalid_command' });
    assert.deepEqual(code(table, { type: 'formats', ifEpoch: table.epoch - 1, formats: formats(2, 2) }), { ok: false, code: 'stale_epoch' });
    assert.equal(raisable(apply(raised, speaks('a', formats(1, 1)))), null, 'a member that speaks less lowers nothing');
  });

  it('of a member are forgotten with its disk: what comes in its place may be older', () => {
    const table = apply(founded(), ...NAMES.map((name) => speaks(name, formats(2, 2))), { type: 'join', name: 'c', storeId: 'store-new', address: 'c:1' });
    assert.equal(raisable(table), null);
  });

  it('that a program does not speak refuse it with a line that says what to run', () => {
    assert.equal(tooOldFor(OWN_FORMATS), null);
    assert.match(tooOldFor({ ...OWN_FORMATS, command: OWN_FORMATS.command + 1 }) ?? '', /uses command format \d+, this program speaks up to \d+: run the version/);
    const node = founded().nodes[0];
    assert.ok(node !== undefined && isSaid(node), 'a program of the first version has nothing to say');
  });
});
