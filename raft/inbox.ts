/**
 * The parts of one received frame, collected before anything acts on them, so that a frame that turns out malformed
 * halfway has had no effect. Reused for every frame.
 */
import type { GroupId, Message } from './types.ts';
import type { FrameSink, ListName } from './wire.ts';

export class Inbox implements FrameSink {
  /** Group of the message at the same position in `messages`. */
  groups: GroupId[] = [];
  messages: Message[] = [];
  lists: { readonly name: ListName; readonly items: readonly number[] }[] = [];
  uses: ListName[] = [];
  acks: ListName[] = [];
  needs: ListName[] = [];

  clear(): void {
    this.groups.length = 0;
    this.messages.length = 0;
    this.lists.length = 0;
    this.uses.length = 0;
    this.acks.length = 0;
    this.needs.length = 0;
  }

  message(group: GroupId, message: Message): void {
    this.groups.push(group);
    this.messages.push(message);
  }

  list(name: ListName, items: readonly number[]): void {
    this.lists.push({ name, items });
  }

  listUse(name: ListName): void {
    this.uses.push(name);
  }

  listAck(name: ListName): void {
    this.acks.push(name);
  }

  listNeed(name: ListName): void {
    this.needs.push(name);
  }
}
