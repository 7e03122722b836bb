/** Counts what is answered while the measuring window is open. */
import { Latencies } from './latencies.ts';
import type { Answer } from './connection.ts';

export class Window {
  readonly latencies = new Latencies();
  readonly sendDelays = new Latencies();
  readonly frameLatencies = new Latencies();
  readonly errorKinds: Record<string, number> = {};
  isOpen = false;
  units = 0;
  answerBytes = 0;
  errors = 0;
  frames = 0;

  answered(answer: Answer, ms: number, units: number): void {
    this.latencies.add(ms);
    this.units += units;
    this.answerBytes += answer.bytes;
  }

  failed(kind: string): void {
    this.errors++;
    this.errorKinds[kind] = (this.errorKinds[kind] ?? 0) + 1;
  }
}

export function isSuccess(answer: Answer): boolean {
  return answer.status >= 200 && answer.status < 300;
}

/** What a refused request is counted under: its status and the error's code. */
export function errorKind(answer: Answer): string {
  return `${answer.status} ${/"error":"([^"]*)"/.exec(answer.text)?.[1] ?? answer.text.slice(0, 60)}`;
}
