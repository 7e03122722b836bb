/**
 * How much of every prompt repeats the one before, and so comes out of the provider's prompt cache:
 *
 *   npm run bench:prefix -- [FILE.jsonl] [--budgets 8000,32000] [--seed 1] [--windows 20]
 *
 * Plays conversations against the state machine (apply and project over rows in memory, no server) and reads the window
 * before every assistant message. A prompt repeats the previous one as far as its messages are byte for byte the same,
 * from the first on. The first prompt of a conversation repeats nothing.
 *
 * Long chats (synthetic, and the file's conversations one after the other in one context) are measured from where they
 * have outgrown the budget, for until then any window only grows. Prints markdown tables for
 * docs/usage/context-management.md.
 */
import { parseArgs } from 'node:util';
import { rowParts } from '../src/contexts/rows.ts';
import { RoleKind } from '../src/contexts/types.ts';
import type { ContextConfig, NewMessage } from '../src/contexts/types.ts';
import type { Projection, ProjectionElement } from '../src/contexts/project.ts';
import { MemoryRows, append, compact, policy, put } from '../test/unit/contexts-fixture.ts';
import { CHAT_KINDS, chatsOf, joined, message, synthetic } from './chats.ts';
import type { Chat } from './chats.ts';

/** What a model is sent, one message after the other. */
interface Prompt {
  /** Each message's bytes (role, and the parts shown) as a number that stands for them. */
  readonly texts: readonly number[];
  readonly tokens: readonly number[];
}

/** One way to choose prompts. */
interface Contender {
  readonly name: string;
  /** A prompt source for one conversation. */
  start(budget: number): Source;
}

interface Source {
  take(next: NewMessage): void;
  /** What the model is sent now. */
  prompt(): Prompt;
}

interface Tally {
  prompts: number;
  tokens: number;
  repeated: number;
  /** Sum over prompts of the budget's share that is used. */
  filled: number;
}

/** A client that compacts keeps this share of the budget of live messages behind its summary. */
const KEPT_SHARE = 0.3;
const SUMMARY = message('user', [{ type: 'text', text: 'Summary of the conversation so far: '.concat('the customer asked for this and the assistant did that. '.repeat(30)) }]);

/** Bytes -> the number that stands for them. */
const numbers = new Map<string, number>();

function numberOf(bytes: string): number {
  const known = numbers.get(bytes);
  if (known !== undefined) return known;
  numbers.set(bytes, numbers.size);
  return numbers.size - 1;
}

/** Role and parts of a message as it is shown, byte for byte. */
function bytesOf({ row, kept }: ProjectionElement): string {
  const { bytes, roleStart, roleEnd, partsStart, partsEnd } = row;
  const text = (start: number, end: number): string => Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('latin1');
  const role = text(roleStart, roleEnd);
  if (kept === null) return role + text(partsStart, partsEnd);
  const parts = rowParts(row);
  return role + kept.map((index) => text(partsStart + (parts[index]?.start ?? 0), partsStart + (parts[index]?.end ?? 0))).join();
}

/** The server's window under a policy that cuts by itself. */
function server(name: string, settings: Partial<ContextConfig>): Contender {
  return { name, start: (budget) => new Server({ tokenBudget: budget, ...settings }) };
}

class Server implements Source {
  readonly rows: MemoryRows;
  /** By the message and what is shown of it, so that bytes are compared once and not at every prompt. */
  readonly #known: Map<string, number>;

  constructor(settings: Partial<ContextConfig>) {
    this.rows = new MemoryRows();
    this.rows.run(put(settings));
    this.#known = new Map();
  }

  take(next: NewMessage): void {
    this.rows.run(append([next]));
  }

  prompt(): Prompt {
    return this.promptOf(this.rows.window());
  }

  promptOf({ elements }: Projection): Prompt {
    return { texts: elements.map((element) => this.#number(element)), tokens: elements.map(({ tokens }) => tokens) };
  }

  #number(element: ProjectionElement): number {
    const key = `${element.row.version}.${element.position} ${element.kept?.join() ?? 'all'}`;
    const known = this.#known.get(key) ?? numberOf(bytesOf(element));
    this.#known.set(key, known);
    return known;
  }
}

/** A `manual` window whose client compacts when told to: the system prompt, a summary, and the newest whole turns. */
class Compacting extends Server {
  readonly #system: NewMessage[] = [];
  /** Of the log: the tokens, and whether a turn begins there. */
  readonly #log: { readonly tokens: number; readonly beginsTurn: boolean }[] = [];
  readonly #budget: number;

  constructor(budget: number) {
    super({ tokenBudget: budget, policy: policy({ strategy: 'manual' }) });
    this.#budget = budget;
  }

  override take(next: NewMessage): void {
    super.take(next);
    if (this.#log.length === this.#system.length && next.roleKind === RoleKind.system) this.#system.push(next);
    this.#log.push({ tokens: next.tokens, beginsTurn: next.roleKind === RoleKind.user });
  }

  override prompt(): Prompt {
    const window = this.rows.window();
    if (!window.needsCompaction) return this.promptOf(window);
    let keepFromSeq = this.#log.length + 1;
    let kept = 0;
    for (let seq = this.#log.length; seq > this.#system.length; seq--) {
      const entry = this.#log[seq - 1];
      kept += entry?.tokens ?? 0;
      if (entry?.beginsTurn === true && (kept <= this.#budget * KEPT_SHARE || keepFromSeq > this.#log.length)) keepFromSeq = seq;
      if (kept > this.#budget * KEPT_SHARE && keepFromSeq <= this.#log.length) break;
    }
    this.rows.run(compact([...this.#system, SUMMARY], { keepFromSeq }));
    return super.prompt();
  }
}

/** What applications write by hand: the system prompt and the last messages that fit. */
class ByHand implements Source {
  readonly #system: NewMessage[] = [];
  readonly #rest: NewMessage[] = [];
  readonly #budget: number;

  constructor(budget: number) {
    this.#budget = budget;
  }

  take(next: NewMessage): void {
    if (this.#rest.length === 0 && next.roleKind === RoleKind.system) this.#system.push(next);
    else this.#rest.push(next);
  }

  prompt(): Prompt {
    let left = this.#budget;
    for (const { tokens } of this.#system) left -= tokens;
    let from = this.#rest.length;
    for (; from > 0; from--) {
      left -= this.#rest[from - 1]?.tokens ?? 0;
      if (left < 0 && from < this.#rest.length) break;
    }
    const shown = [...this.#system, ...this.#rest.slice(from)];
    return { texts: shown.map((m) => numberOf(Buffer.from(m.roleText).toString('latin1') + Buffer.from(m.partsText).toString('latin1'))), tokens: shown.map((m) => m.tokens) };
  }
}

const CONTENDERS: readonly Contender[] = [
  { name: 'by hand: the last messages that fit', start: (budget) => new ByHand(budget) },
  server('`last_n`, sliding: target 0.7 = trigger', { triggerRatio: 0.7, policy: policy({ targetRatio: 0.7 }) }),
  server('`last_n`, the default: 0.7 → 0.5', { triggerRatio: 0.7, policy: policy() }),
  server('`last_n` 0.7 → 0.35', { triggerRatio: 0.7, policy: policy({ targetRatio: 0.35 }) }),
  server('`last_n` 1 → 0.5', { triggerRatio: 1, policy: policy() }),
  server('`last_n` 1 → 0.3', { triggerRatio: 1, policy: policy({ targetRatio: 0.3 }) }),
  server('`skip_parts` 0.7 → 0.5', { triggerRatio: 0.7, policy: policy({ strategy: 'skip_parts', skipKinds: ['tool', 'reasoning'] }) }),
  server('`skip_parts` 1 → 0.3', { triggerRatio: 1, policy: policy({ strategy: 'skip_parts', skipKinds: ['tool', 'reasoning'], targetRatio: 0.3 }) }),
  { name: `\`manual\` 0.7, a client compacts to ${KEPT_SHARE}`, start: (budget) => new Compacting(budget) },
];

/** Plays a chat; counts prompts once the log has outgrown `fromTokens`. */
function play(chat: Chat, contender: Contender, { budget, fromTokens }: { budget: number; fromTokens: number }, tally: Tally): void {
  const source = contender.start(budget);
  let previous: Prompt = { texts: [], tokens: [] };
  let log = 0;
  for (const next of chat.messages) {
    if (next.roleKind === RoleKind.assistant && log > 0) {
      const prompt = source.prompt();
      if (log >= fromTokens) add(prompt, previous, budget, tally);
      previous = prompt;
    }
    source.take(next);
    log += next.tokens;
  }
}

function add(prompt: Prompt, previous: Prompt, budget: number, tally: Tally): void {
  let same = 0;
  while (same < prompt.texts.length && prompt.texts[same] === previous.texts[same]) same++;
  let total = 0;
  prompt.tokens.forEach((tokens, i) => {
    total += tokens;
    if (i < same) tally.repeated += tokens;
  });
  tally.prompts++;
  tally.tokens += total;
  tally.filled += total / budget;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { budgets: { type: 'string', default: '8000,32000' }, seed: { type: 'string', default: '1' }, windows: { type: 'string', default: '20' } },
});
const file = positionals[0] ?? 'samples/conversations.jsonl';
const chats = await chatsOf(file);
const seed = Number(values.seed);
const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;

process.stdout.write(`Prompt tokens that repeat the previous prompt's prefix / average share of the budget filled. Seed ${seed}.\n`);
for (const budget of values.budgets.split(',').map(Number)) {
  const long = [...CHAT_KINDS.map((kind) => synthetic(kind, Number(values.windows) * budget, seed)), joined(chats)].map((chat) => ({ name: chat.name, chats: [chat], fromTokens: budget }));
  // The file may be too short to outgrow the budget even in one piece.
  const outgrown = long.filter(({ chats: [chat] }) => (chat?.messages ?? []).reduce((sum, { tokens }) => sum + tokens, 0) > 2 * budget);
  const columns = [...outgrown, { name: 'file', chats, fromTokens: 0 }];
  const counts = new Map<string, number>();
  const lines: string[] = [];
  for (const contender of CONTENDERS) {
    const all: Tally = { prompts: 0, tokens: 0, repeated: 0, filled: 0 };
    const cells: string[] = [];
    for (const column of columns) {
      const tally: Tally = { prompts: 0, tokens: 0, repeated: 0, filled: 0 };
      for (const chat of column.chats) play(chat, contender, { budget, fromTokens: column.fromTokens }, tally);
      counts.set(column.name, tally.prompts);
      cells.push(`${percent(tally.repeated / tally.tokens)} / ${percent(tally.filled / tally.prompts)}`);
      if (column.fromTokens === 0) continue;
      all.tokens += tally.tokens;
      all.repeated += tally.repeated;
    }
    lines.push(`| ${[contender.name, percent(all.repeated / all.tokens), ...cells].join(' | ')} |`);
    process.stderr.write(`${budget}: ${lines.at(-1)}\n`);
  }
  const heads = columns.map(({ name }) => `${name} (${(counts.get(name) ?? 0).toLocaleString('en')} prompts)`);
  process.stdout.write(`\nBudget ${budget.toLocaleString('en')}\n\n| Window | all long chats | ${heads.join(' | ')} |\n|---|--:|${'--:|'.repeat(heads.length)}\n${lines.join('\n')}\n`);
}
