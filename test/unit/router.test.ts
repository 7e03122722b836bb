/** Router over real Raft hosts: a command is applied once or said to be unknown, reads are current, nobody waits for ever. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { RequestKind } from '../../src/cluster/ports.ts';
import { encodeCommand } from '../../src/contexts/commands.ts';
import { ApiError } from '../../src/errors.ts';
import { GROUP, Mesh, type MeshNode, until } from './mesh.ts';

const put = (context = 'c'): Uint8Array => encodeCommand({ type: 'put', context, settings: {}, ifConfigRevision: -1, mustExist: false });
const append = (): Uint8Array =>
  encodeCommand({
    type: 'append',
    context: 'c',
    messages: [{ roleText: Buffer.from('"user"'), roleKind: 2, idText: new Uint8Array(), partsText: Buffer.from('[]'), metadataText: Buffer.from('{}'), parts: [], tokens: 1, tokensGiven: true }],
    ifVersion: -1,
    idempotency: null,
    model: '',
  });

function refusal(code: string, outcome: string): (error: unknown) => boolean {
  return (error) => error instanceof ApiError && error.code === code && error.fields['outcome'] === outcome;
}

describe('router', () => {
  let mesh: Mesh;
  afterEach(() => mesh.close());

  const lastSeq = (node: MeshNode): number => node.machine.rowsOf('c').header('c')?.lastSeq ?? 0;
  const others = (node: MeshNode): MeshNode[] => [...mesh.nodes.values()].filter((other) => other !== node);

  it('takes a command on any node, with a replica of the group or without', async () => {
    mesh = await Mesh.start(5, { groups: [GROUP] });
    assert.equal(mesh.strangers(GROUP).length, 2);
    const replies = [];
    for (const node of mesh.nodes.values()) replies.push(await node.router.propose(GROUP, put(), 'normal'));
    assert.deepEqual(replies, [true, false, false, false, false].map((created) => ({ ok: true, type: 'put', created })));
  });

  it('is sent on at most a few times by a node without a replica, and remembers where the leader was', async () => {
    mesh = await Mesh.start(5, { groups: [GROUP] });
    const [stranger] = mesh.strangers(GROUP);
    assert.ok(stranger);
    await stranger.router.propose(GROUP, put(), 'normal');
    const asked = mesh.requests.length;
    assert.ok(asked <= 2, `${asked} requests`);
    await stranger.router.propose(GROUP, put(), 'normal');
    assert.equal(mesh.requests.length, asked + 1);
  });

  it('goes past a host that knows no leader, though it is the one it heard of last', async () => {
    mesh = await Mesh.start(5, { groups: [GROUP], timeoutMs: 3000 });
    const [stranger] = mesh.strangers(GROUP);
    assert.ok(stranger);
    await stranger.router.propose(GROUP, put(), 'normal');
    const lonely = await mesh.leader(GROUP);
    // Cut off from its followers, not from the stranger.
    for (const name of mesh.hosts(GROUP)) if (name !== lonely.name) mesh.cut(lonely.name, name);
    await until('the others to follow another leader', () => mesh.hosts(GROUP).some((name) => name !== lonely.name && mesh.node(name).host.isLeader(GROUP)));
    await until('the old leader to notice', () => !lonely.host.isLeader(GROUP));
    assert.deepEqual(await stranger.router.propose(GROUP, put(), 'normal'), { ok: true, type: 'put', created: false });
  });

  it('says unknown when the answer of the leader is lost, and does not try again by itself', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP], timeoutMs: 400 });
    const leader = await mesh.leader(GROUP);
    const [follower] = others(leader);
    assert.ok(follower);
    await leader.router.propose(GROUP, put(), 'normal');
    mesh.fate = (_from, _to, kind) => (kind === RequestKind.propose ? 'lose answer' : 'deliver');
    await assert.rejects(follower.router.propose(GROUP, append(), 'normal'), refusal('timeout', 'unknown'));
    mesh.fate = () => 'deliver';
    assert.equal(await follower.router.barrier(GROUP), true);
    assert.equal(lastSeq(follower), 1, 'it was applied, and once');
  });

  it('says not applied where no leader can be reached, and nothing is applied later', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP], timeoutMs: 400 });
    const leader = await mesh.leader(GROUP);
    await leader.router.propose(GROUP, put(), 'normal');
    const [follower] = others(leader);
    assert.ok(follower);
    mesh.cut(follower.name);
    follower.host.peerDown(leader.name);
    await assert.rejects(follower.router.propose(GROUP, append(), 'normal'), refusal('raft_unavailable', 'not_applied'));
    await assert.rejects(follower.router.barrier(GROUP), refusal('raft_unavailable', 'not_applied'));
    mesh.heal();
    await until('the follower to be back', () => follower.host.leader(GROUP) !== 0);
    await follower.router.barrier(GROUP);
    assert.equal(lastSeq(follower), 0);
    assert.equal(follower.router.pending, 0);
  });

  it('applies a command once, or never, while leaderships move under it', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP] });
    const nodes = [...mesh.nodes.values()];
    await nodes[0]?.router.propose(GROUP, put(), 'normal');
    let applied = 0;
    let unknown = 0;
    const writers = nodes.map(async (node) => {
      for (let i = 0; i < 120; i++) {
        try {
          await node.router.propose(GROUP, append(), 'normal');
          applied++;
        } catch (error) {
          assert.ok(error instanceof ApiError);
          if (error.fields['outcome'] === 'unknown') unknown++;
        }
      }
    });
    let writing = true;
    const mover = (async () => {
      while (writing) {
        const leader = await mesh.leader(GROUP);
        const target = leader.host.status(GROUP)?.progress.find((progress) => progress.active);
        if (target !== undefined) leader.host.transferLeadership(GROUP, target.replica);
        await until('another leader', () => !writing || !leader.host.isLeader(GROUP), 2000).catch(() => undefined);
      }
    })();
    await Promise.all(writers);
    writing = false;
    await mover;
    const [node] = nodes;
    assert.ok(node);
    await node.router.barrier(GROUP);
    const seq = lastSeq(node);
    assert.ok(seq >= applied && seq <= applied + unknown, `${applied} acknowledged, ${unknown} unknown, ${seq} applied`);
    assert.ok(applied > 300);
    assert.equal(node.router.pending, 0);
  });

  it('a barrier holds everything acknowledged anywhere before, on every replica', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP] });
    const nodes = [...mesh.nodes.values()];
    await nodes[0]?.router.propose(GROUP, put(), 'normal');
    for (let i = 1; i <= 30; i++) {
      await nodes[i % 3]?.router.propose(GROUP, append(), 'normal');
      const reader = nodes[(i + 1) % 3];
      assert.ok(reader);
      assert.equal(await reader.router.barrier(GROUP), true);
      assert.ok(lastSeq(reader) >= i);
    }
  });

  it('tells a reader at once that the replica it waits on was taken out', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP], timeoutMs: 20_000 });
    const leader = await mesh.leader(GROUP);
    const [follower] = others(leader);
    assert.ok(follower);
    mesh.cut(follower.name);
    const waiting = follower.router.barrier(GROUP);
    setImmediate(() => follower.host.removeGroup(GROUP));
    const started = performance.now();
    assert.equal(await waiting, false);
    assert.equal(await follower.router.barrier(GROUP), false);
    assert.ok(performance.now() - started < 5000);
    // And writes through it go to the others.
    mesh.heal();
    assert.deepEqual(await follower.router.propose(GROUP, put(), 'normal'), { ok: true, type: 'put', created: true });
  });

  it('a disk that is low speaks for the group only where it leads, and never against what frees space', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP] });
    const leader = await mesh.leader(GROUP);
    for (const node of others(leader)) node.isLowOnSpace = true;
    for (const node of mesh.nodes.values()) await node.router.propose(GROUP, put(), 'normal');
    // Asked by mistake, a follower sends the caller on.
    const [follower, second] = others(leader);
    assert.ok(follower && second);
    const answer = await new Promise<string>((resolve) => {
      const body = new Uint8Array([GROUP >> 8, GROUP & 255, 0, ...put()]);
      follower.router.answerPropose(body, (bytes) => resolve(Buffer.from(bytes).toString()));
    });
    assert.match(answer, new RegExp(`"not_leader","leaderNode":"${leader.name}"`));
    leader.isLowOnSpace = true;
    for (const node of mesh.nodes.values()) await assert.rejects(node.router.propose(GROUP, put(), 'normal'), refusal('read_only', 'not_applied'));
    await second.router.propose(GROUP, encodeCommand({ type: 'tombstone', context: 'c' }), 'essential');
  });

  it('a leader takes no command in a format that the table does not have yet; the proposer asks again', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP], timeoutMs: 300 });
    await mesh.leader(GROUP);
    for (const node of mesh.nodes.values()) {
      const later = put();
      later[0] = 2;
      await assert.rejects(node.router.propose(GROUP, later, 'normal'), refusal('raft_unavailable', 'not_applied'));
      await node.router.propose(GROUP, put(), 'normal');
    }
  });

  it('an answer that is no answer leaves the outcome unknown', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP] });
    const leader = await mesh.leader(GROUP);
    const [follower] = others(leader);
    assert.ok(follower);
    for (const text of ['', '{', '7', '{"status":"perhaps"}']) {
      leader.answering = (_kind, _body, reply) => reply(Buffer.from(text));
      await assert.rejects(follower.router.propose(GROUP, put(), 'normal'), refusal('timeout', 'unknown'), text);
    }
    leader.answering = (_kind, _body, reply) => reply(Buffer.from('{"status":"unknown","reason":"its own reason"}'));
    await assert.rejects(follower.router.propose(GROUP, put(), 'normal'), /its own reason/);
  });

  it('answers whoever waits when it closes, at once', async () => {
    mesh = await Mesh.start(3, { groups: [GROUP], timeoutMs: 60_000 });
    const leader = await mesh.leader(GROUP);
    const [follower] = others(leader);
    assert.ok(follower);
    mesh.cut(follower.name);
    follower.host.peerDown(leader.name);
    const calls = [follower.router.propose(GROUP, put(), 'normal'), follower.router.barrier(GROUP)];
    await until('both to wait', () => follower.router.pending === 2);
    follower.router.close();
    for (const outcome of await Promise.allSettled(calls)) assert.ok(outcome.status === 'rejected' && refusal('raft_unavailable', 'not_applied')(outcome.reason));
    assert.equal(follower.router.pending, 0);
  });

});
