/**
 * Deadlines of requests in flight: a timing wheel (Varghese & Lauck, 1987), so that a request costs two pointer writes
 * and no timer. It owns no timer either: whoever owns it calls `advance`.
 */

const SLOTS = 1024;
/** A deadline is met up to this much late. */
const SLOT_MS = 50;

/** Something that waits; a node of the wheel's lists. */
export class Deadline {
  /** Called once if the deadline passes before `cancel`. */
  readonly expired: (() => void) | null;
  slotAt = 0;
  prev: Deadline = this;
  next: Deadline = this;

  constructor(expired: (() => void) | null) {
    this.expired = expired;
  }
}

export class TimeoutWheel {
  readonly #slots: Deadline[] = Array.from({ length: SLOTS }, () => new Deadline(null));
  #at: number;
  #size = 0;

  constructor(nowMs: number) {
    this.#at = Math.floor(nowMs / SLOT_MS);
  }

  /** Deadlines waiting. */
  get size(): number {
    return this.#size;
  }

  add(deadline: Deadline, nowMs: number, timeoutMs: number): void {
    deadline.slotAt = Math.max(this.#at + 1, Math.ceil((nowMs + timeoutMs) / SLOT_MS));
    const head = this.#slots[deadline.slotAt % SLOTS];
    if (head === undefined) return;
    deadline.prev = head.prev;
    deadline.next = head;
    head.prev.next = deadline;
    head.prev = deadline;
    this.#size += 1;
  }

  /** Takes a deadline out; nothing happens when it is not in. */
  cancel(deadline: Deadline): void {
    if (deadline.next === deadline) return;
    deadline.prev.next = deadline.next;
    deadline.next.prev = deadline.prev;
    deadline.prev = deadline;
    deadline.next = deadline;
    this.#size -= 1;
  }

  /** Expires every deadline at or before `nowMs`. Expired callbacks may add and cancel. */
  advance(nowMs: number): void {
    const target = Math.floor(nowMs / SLOT_MS);
    // After a long sleep every slot is visited once, not once for each turn of the wheel.
    const from = Math.max(this.#at + 1, target - SLOTS + 1);
    if (target <= this.#at) return;
    this.#at = target;
    if (this.#size === 0) return;
    for (let slot = from; slot <= target; slot++) this.#expire(slot % SLOTS, target);
  }

  #expire(slot: number, target: number): void {
    const head = this.#slots[slot];
    if (head === undefined) return;
    const due: Deadline[] = [];
    for (let item = head.next; item !== head; item = item.next) if (item.slotAt <= target) due.push(item);
    for (const item of due) {
      // An earlier callback may have cancelled it.
      if (item.next === item) continue;
      this.cancel(item);
      item.expired?.();
    }
  }
}
