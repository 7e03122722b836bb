/**
 * The window's messages -> turns in which every result stands with its call, whatever order they were stored in.
 *
 * 1. A part goes by what it is: calls and reasoning are the assistant's wherever they stand, results go to their call,
 *    anything else speaks for its message's role.
 * 2. A result goes to the call that the log paired it with. Without that call in the window it becomes text.
 * 3. Calls share a turn while none of them is answered: parallel calls, in one message or in several. What the
 *    assistant says in the same message after an answer starts a turn, as does an AI SDK `step-start`.
 * 4. A message is one turn otherwise; one that nothing is left of is none.
 */
import { replacementKey, rowLinks, rowParts } from '../contexts/rows.ts';
import type { MessageRow, Place } from '../contexts/rows.ts';
import type { ProjectionElement } from '../contexts/project.ts';
import { PartRole, RoleKind } from '../contexts/types.ts';
import { textContent } from './conversation.ts';
import type { AssistantTurn, Call, Content, ReasoningContent, SystemTurn, Turn, UserTurn } from './conversation.ts';
import { readContent } from './content.ts';
import type { StoredPart } from './content.ts';
import { isObject, stringOf } from './json.ts';
import { readCall, readOutput } from './tools.ts';

/** What the renderer needs of a window's message; a projection's elements are such. */
export type WindowElement = Pick<ProjectionElement, 'source' | 'seq' | 'position' | 'row' | 'kept'>;

/** `tool`: a tool's message; what is no result in it is told to the model as the user, and labelled. */
type Speaker = 'system' | 'user' | 'assistant' | 'tool';

/** Roles that clients use besides the four; any other speaks as the user. */
const ASSISTANTS: ReadonlySet<string> = new Set(['model', 'ai', 'bot']);

interface AssistantHome {
  readonly turn: AssistantTurn;
  /**
   * `open`: anything may join. `told`: a call in it came with its own result, so that what is said next was said after
   * that, while a call next to it was made in parallel. `closed`: a result has come, or a step has ended.
   */
  state: 'open' | 'told' | 'closed';
  calls: number;
}

/** A call and the turn that holds it. */
interface PlacedCall {
  readonly call: Call;
  readonly home: AssistantHome;
}

/** The turns of a window. Deterministic; a message appended later changes earlier turns only by answering their calls. */
export function arrange(elements: readonly WindowElement[]): readonly Turn[] {
  const arranger = new Arranger();
  for (const element of elements) arranger.add(element);
  arranger.finish();
  return arranger.turns;
}

class Arranger {
  readonly turns: Turn[] = [];
  /** Calls by the message and the part that made them. */
  readonly #calls = new Map<Place, Map<number, PlacedCall>>();
  /** The newest call of an id, and the id of the call that an approval is about. */
  readonly #newest = new Map<string, Call>();
  readonly #approvals = new Map<string, string>();
  readonly #denials: { readonly call: Call; readonly reason: string }[] = [];
  /** The assistant's turn, while it is the last one. */
  #home: AssistantHome | null = null;
  /** Turns begun by the message at work, which its later parts join. */
  #user: UserTurn | null = null;
  #system: SystemTurn | null = null;
  #ownsHome = false;

  add({ source, seq, position, row, kept }: WindowElement): void {
    this.#user = null;
    this.#system = null;
    this.#ownsHome = false;
    const place = source === 'message' ? seq : -replacementKey(row.version, position);
    const speaker = speakerOf(row);
    const links = rowLinks(row);
    const infos = rowParts(row);
    // Links and kept indices ascend with the parts, so one pass finds them.
    let link = 0;
    let shown = 0;
    for (const [index, info] of infos.entries()) {
      while (link < links.length && (links[link]?.part ?? 0) < index) link += 1;
      while (kept !== null && shown < kept.length && (kept[shown] ?? 0) < index) shown += 1;
      if (kept !== null && kept[shown] !== index) continue;
      const part = storedPart(row, info.start, info.end);
      switch (info.role) {
        case PartRole.none:
          this.#say(speaker, part);
          break;
        case PartRole.call:
          if (isApproval(part.kind)) this.#approvals.set(info.callId, stringOf(part.value, 'toolCallId'));
          else this.#call(readCall(part, info.callId), { place, index });
          break;
        case PartRole.both:
          this.#callWithResult(part, info.callId, { place, index });
          break;
        case PartRole.result: {
          const target = links[link]?.part === index ? links[link] : undefined;
          if (isApproval(part.kind)) this.#decide(part, info.callId);
          else this.#answer(part, target === undefined ? undefined : this.#calls.get(target.target)?.get(target.targetPart));
        }
      }
    }
  }

  /** A denied call that nothing else was recorded for was answered by the denial. */
  finish(): void {
    for (const { call, reason } of this.#denials) if (call.outputs.length === 0) call.outputs.push({ form: 'denied', reason });
  }

  #say(speaker: Speaker, part: StoredPart): void {
    switch (part.kind) {
      case 'step-start':
        this.#ownsHome = false;
        if (this.#home !== null) this.#home.state = 'closed';
        return;
      case 'mcp_call':
        // A Responses item with its own outcome; its id pairs it with nothing.
        this.#callWithResult(part, stringOf(part.value, 'id'), null);
        return;
      case 'message': {
        // A Responses item: a message of its own inside a part.
        const content = part.value['content'];
        if (!Array.isArray(content) || !content.every(isObject)) break;
        const role = stringOf(part.value, 'role');
        const as = role === '' ? speaker : speakerNamed(role);
        for (const value of content) this.#content(as, readContent({ kind: stringOf(value, 'type'), value, text: JSON.stringify(value) }));
        return;
      }
    }
    this.#content(speaker, readContent(part));
  }

  #content(speaker: Speaker, reading: readonly (Content | ReasoningContent)[]): void {
    for (const item of reading) {
      if (item.type === 'reasoning' || speaker === 'assistant') this.#assistantTurn().items.push(item);
      else if (speaker === 'tool' && item.type === 'text') this.#userTurn().content.push(textContent(`[tool message without its call] ${item.text}`));
      else if (speaker !== 'system' || item.type === 'media') this.#userTurn().content.push(item);
      else this.#systemTurn().texts.push(item.text);
    }
  }

  #call(call: Call, at: { readonly place: Place; readonly index: number } | null): PlacedCall {
    const home = this.#homeOfCall();
    home.turn.items.push(call);
    home.calls += 1;
    this.#user = null;
    this.#system = null;
    this.#ownsHome = true;
    const placed = { call, home };
    this.#newest.set(call.id, call);
    if (at === null) return placed;
    const calls = this.#calls.get(at.place);
    if (calls === undefined) this.#calls.set(at.place, new Map([[at.index, placed]]));
    else calls.set(at.index, placed);
    return placed;
  }

  #callWithResult(part: StoredPart, id: string, at: { readonly place: Place; readonly index: number } | null): void {
    const { call, home } = this.#call(readCall(part, id), at);
    call.outputs.push(readOutput(part));
    home.state = 'told';
  }

  #answer(part: StoredPart, found: PlacedCall | undefined): void {
    if (found === undefined) {
      this.#userTurn().content.push(textContent(`[tool result without its call] ${part.text}`));
      return;
    }
    found.call.outputs.push(readOutput(part));
    found.home.state = 'closed';
  }

  #decide({ value }: StoredPart, approvalId: string): void {
    const call = this.#newest.get(this.#approvals.get(approvalId) ?? '');
    if (call !== undefined && value['approved'] === false) this.#denials.push({ call, reason: stringOf(value, 'reason') });
  }

  #homeOfCall(): AssistantHome {
    const home = this.#home;
    if (home === null || home.state === 'closed') return this.#beginAssistant();
    const joins = home.state === 'told' ? this.#ownsHome : this.#ownsHome || home.calls > 0;
    return joins ? home : this.#beginAssistant();
  }

  #assistantTurn(): AssistantTurn {
    const home = this.#home;
    return (home !== null && this.#ownsHome && home.state === 'open' ? home : this.#beginAssistant()).turn;
  }

  #beginAssistant(): AssistantHome {
    const home: AssistantHome = { turn: { role: 'assistant', items: [] }, state: 'open', calls: 0 };
    this.turns.push(home.turn);
    this.#home = home;
    this.#user = null;
    this.#system = null;
    this.#ownsHome = true;
    return home;
  }

  #userTurn(): UserTurn {
    if (this.#user === null) {
      this.#system = null;
      this.#user = { role: 'user', content: [] };
      this.#begin(this.#user);
    }
    return this.#user;
  }

  #systemTurn(): SystemTurn {
    if (this.#system === null) {
      this.#user = null;
      this.#system = { role: 'system', texts: [] };
      this.#begin(this.#system);
    }
    return this.#system;
  }

  #begin(turn: Turn): void {
    this.turns.push(turn);
    this.#home = null;
    this.#ownsHome = false;
  }
}

/** Approvals say whether a call may run. What came of it is in its result. */
function isApproval(kind: string): boolean {
  return kind === 'tool-approval-request' || kind === 'tool-approval-response' || kind === 'mcp_approval_request' || kind === 'mcp_approval_response';
}

function storedPart(row: MessageRow, start: number, end: number): StoredPart {
  const text = textOf(row.bytes, row.partsStart + start, row.partsStart + end);
  const value: unknown = JSON.parse(text);
  // Parts were checked to be objects when they came in.
  if (!isObject(value)) throw new Error('a stored part is not an object');
  return { kind: stringOf(value, 'type'), value, text };
}

function speakerOf(row: MessageRow): Speaker {
  switch (row.roleKind) {
    case RoleKind.system:
      return 'system';
    case RoleKind.assistant:
      return 'assistant';
    case RoleKind.user:
      return 'user';
    case RoleKind.tool:
      return 'tool';
    case RoleKind.other:
      return speakerNamed(String(JSON.parse(textOf(row.bytes, row.roleStart, row.roleEnd))));
  }
}

function speakerNamed(role: string): Speaker {
  if (role === 'system' || role === 'developer') return 'system';
  // OpenAI's old name for tool messages.
  if (role === 'tool' || role === 'function') return 'tool';
  return role === 'assistant' || ASSISTANTS.has(role) ? 'assistant' : 'user';
}

function textOf(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('utf8');
}
