/**
 * Reads and runs a golden script: `# prose`, `> command`, and under each command the trace it produced. Running a
 * script returns it with the trace of this run, to be compared with or to replace the old one.
 */
import { ConfChangeType } from '../../raft/types.ts';
import type { ConfChange, ConfState, ProposeResult, ReplicaId } from '../../raft/types.ts';
import { Cluster } from './cluster.ts';
import type { Limits } from './cluster.ts';
import { describeConf } from './describe.ts';

const encoder = new TextEncoder();
const LIMITS: Limits = {
  messageBytesMax: 4096,
  inflightMessagesMax: 16,
  inflightBytesMax: 65536,
  uncommittedBytesMax: 65536,
  committedBytesMax: 65536,
};

export function runScript(source: string): string {
  const output: string[] = [];
  const script = new Script();
  for (const line of source.split('\n')) {
    if (line.startsWith('#')) {
      if (output.length > 0 && !output.at(-1)?.startsWith('#')) output.push('');
      output.push(line);
    } else if (line.startsWith('> ')) {
      output.push(line, ...script.run(line.slice(2).trim()).map((traced) => (traced === '' ? '' : `  ${traced}`)));
    }
  }
  return `${output.join('\n')}\n`;
}

type Command = (args: readonly string[]) => void;

class Script {
  #cluster = new Cluster([], confOf([], []), LIMITS);

  readonly #commands: Readonly<Record<string, Command>> = {
    nodes: (args) => this.#nodes(args),
    join: ([id]) => this.#cluster.add(number(id), confOf([], [])),
    campaign: ([id]) => this.#cluster.raft(number(id)).campaign(),
    'campaign-within': ([id, ticks]) => this.#cluster.raft(number(id)).campaignWithin(number(ticks)),
    propose: ([id, ...values]) => this.#note(this.#cluster.raft(number(id)).propose(values.map((value) => bytesOf(value)))),
    conf: ([id, ...steps]) => this.#note(this.#cluster.raft(number(id)).proposeConfChange(changeOf(steps))),
    read: ([id]) => this.#cluster.read(number(id)),
    transfer: ([id, to]) => this.#cluster.note(String(this.#cluster.raft(number(id)).transferLeadership(number(to)))),
    forget: ([id]) => this.#cluster.raft(number(id)).forgetLeader(),
    unreachable: ([id, peer]) => this.#cluster.raft(number(id)).reportUnreachable(number(peer)),
    tick: ([id, count]) => this.#tick([number(id)], number(count ?? '1')),
    run: (args) => this.#run(args),
    process: (ids) => ids.forEach((id) => this.#cluster.process(number(id))),
    deliver: () => this.#cluster.deliver(),
    drop: () => this.#cluster.dropAll(),
    stabilize: () => this.#cluster.stabilize(),
    cut: (links) => links.forEach((link) => this.#cut(link)),
    heal: () => this.#cluster.heal(),
    stall: ([id]) => this.#stall(number(id), true),
    write: ([id]) => this.#cluster.completeWrite(number(id)),
    resume: ([id]) => this.#stall(number(id), false),
    crash: ([id]) => this.#cluster.crash(number(id)),
    restart: ([id]) => this.#cluster.restart(number(id)),
    compact: ([id, first]) => this.#compact(number(id), number(first)),
    status: (ids) => (ids.length > 0 ? ids.map(number) : this.#cluster.ids()).forEach((id) => this.#status(id)),
  };

  run(line: string): readonly string[] {
    const [name = '', ...args] = line.split(/ +/);
    const quiet = args.at(-1) === 'quietly';
    const command = this.#commands[name];
    if (command === undefined) throw new Error(`unknown command: ${line}`);
    this.#cluster.quiet = quiet;
    command(quiet ? args.slice(0, -1) : args);
    return this.#cluster.trace.splice(0);
  }

  /** `nodes 3`, `nodes 3 learners 1`, with limits as `inflightMessagesMax=2`. */
  #nodes(args: readonly string[]): void {
    const limits: Record<keyof Limits, number> = { ...LIMITS };
    for (const [name, value] of args.filter((arg) => arg.includes('=')).map((arg) => arg.split('='))) {
      const key = (['messageBytesMax', 'inflightMessagesMax', 'inflightBytesMax', 'uncommittedBytesMax', 'committedBytesMax'] as const).find((known) => known === name);
      if (key === undefined) throw new Error(`unknown limit: ${name}`);
      limits[key] = number(value);
    }
    const learners = args[1] === 'learners' ? number(args[2]) : 0;
    const ids = Array.from({ length: number(args[0]) }, (_, at) => at + 1);
    const conf = confOf(ids.slice(0, ids.length - learners), ids.slice(ids.length - learners));
    this.#cluster = new Cluster(ids, conf, limits);
    // Every story begins with followers of nobody in term 0: not worth a line each.
    this.#cluster.trace.length = 0;
  }

  #tick(ids: readonly ReplicaId[], count: number): void {
    for (let tick = 0; tick < count; tick++) {
      for (const id of ids) this.#cluster.raft(id).tick();
    }
  }

  /** `run 5`: five ticks of every live replica, each followed by everything it sets off. */
  #run([count]: readonly string[]): void {
    for (let tick = 0; tick < number(count ?? '1'); tick++) {
      this.#tick(this.#cluster.ids().filter((id) => this.#cluster.node(id).up), 1);
      this.#cluster.stabilize();
    }
  }

  #cut(link: string): void {
    const both = /^(\d+)-(\d+)$/.exec(link);
    const oneWay = /^(\d+)>(\d+)$/.exec(link);
    if (both !== null) {
      this.#cluster.cut(number(both[1]), number(both[2]));
      this.#cluster.cut(number(both[2]), number(both[1]));
    } else if (oneWay !== null) {
      this.#cluster.cut(number(oneWay[1]), number(oneWay[2]));
    } else {
      throw new Error(`not a link: ${link}`);
    }
  }

  #stall(id: ReplicaId, held: boolean): void {
    this.#cluster.node(id).held = held;
  }

  #compact(id: ReplicaId, firstIndex: number): void {
    this.#cluster.node(id).disk.compactTo(firstIndex);
    this.#cluster.raft(id).compactedTo(firstIndex);
  }

  #note(result: ProposeResult): void {
    this.#cluster.note(result.ok ? `accepted as ${result.term}/${result.index}` : `refused: ${result.reason}`);
  }

  #status(id: ReplicaId): void {
    const node = this.#cluster.node(id);
    if (!node.up) {
      this.#cluster.note(`${id} is down`);
      return;
    }
    const { role, term, leader, commit, applied, firstIndex, lastIndex, conf, progress } = node.raft.status();
    this.#cluster.note(`${id} ${role} term ${term} leader ${leader} log ${firstIndex}..${lastIndex} commit ${commit} applied ${applied} [${node.state.join(' ')}] ${describeConf(conf)}`);
    for (const { replica, match, next, state, learner } of progress) {
      this.#cluster.note(`  sees ${replica}${learner ? ' (learner)' : ''} ${state} match ${match} next ${next}`);
    }
  }
}

function number(word: string | undefined): number {
  const value = Number(word);
  if (!Number.isSafeInteger(value)) throw new Error(`not a number: ${word}`);
  return value;
}

/** `x` is itself; `x*100` is a hundred bytes. */
function bytesOf(value: string): Uint8Array {
  const [text = '', times = '1'] = value.split('*');
  return encoder.encode(text.repeat(number(times)));
}

/** `voter:4 remove:1 joint auto-leave`, or `leave`. */
function changeOf(words: readonly string[]): ConfChange {
  const types = { voter: ConfChangeType.addVoter, learner: ConfChangeType.addLearner, remove: ConfChangeType.remove };
  const changes: { type: ConfChangeType; replica: ReplicaId }[] = [];
  for (const word of words.filter((candidate) => candidate.includes(':'))) {
    const [name, id] = word.split(':');
    if (name !== 'voter' && name !== 'learner' && name !== 'remove') throw new Error(`unknown change: ${word}`);
    changes.push({ type: types[name], replica: number(id) });
  }
  return { changes, joint: words.includes('joint'), autoLeave: words.includes('auto-leave'), context: new Uint8Array(0) };
}

function confOf(voters: readonly ReplicaId[], learners: readonly ReplicaId[]): ConfState {
  return { voters, votersOutgoing: [], learners, learnersNext: [], autoLeave: false };
}
