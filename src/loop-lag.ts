/**
 * How late the event loop is, under the names of prom-client's own figures. Those are taken by a timer of their own,
 * which would wake an idle node as often as Raft does; here the node's ticker tells how late it was.
 */
import { createHistogram } from 'node:perf_hooks';
import { Gauge } from 'prom-client';
import type { Registry } from 'prom-client';

const NS_IN_MS = 1e6;
const NS_IN_S = 1e9;

export class LoopLag {
  readonly #lag = createHistogram();
  #lastMs = 0;

  /** `ms`: how much later than due a timer ran. */
  readonly note = (ms: number): void => {
    this.#lastMs = ms;
    this.#lag.record(Math.max(1, Math.round(ms * NS_IN_MS)));
  };

  /** Adds the figures to `registry`; all but the first are of the time since the scrape before, and 0 where nothing was noted. */
  export(registry: Registry): void {
    const registers = [registry];
    const gauge = (name: string, help: string, aggregator: 'average' | 'min' | 'max'): Gauge => new Gauge({ name: `nodejs_eventloop_lag_${name}`, help, registers, aggregator });
    const min = gauge('min_seconds', 'The minimum recorded event loop delay.', 'min');
    const max = gauge('max_seconds', 'The maximum recorded event loop delay.', 'max');
    const mean = gauge('mean_seconds', 'The mean of the recorded event loop delays.', 'average');
    const stddev = gauge('stddev_seconds', 'The standard deviation of the recorded event loop delays.', 'average');
    const p50 = gauge('p50_seconds', 'The 50th percentile of the recorded event loop delays.', 'average');
    const p90 = gauge('p90_seconds', 'The 90th percentile of the recorded event loop delays.', 'average');
    const p99 = gauge('p99_seconds', 'The 99th percentile of the recorded event loop delays.', 'average');
    const sample = (): void => {
      const lag = this.#lag;
      const seconds = (ns: number): number => (lag.count === 0 ? 0 : ns / NS_IN_S);
      min.set(seconds(lag.min));
      max.set(seconds(lag.max));
      mean.set(seconds(lag.mean));
      stddev.set(seconds(lag.stddev));
      p50.set(seconds(lag.percentile(50)));
      p90.set(seconds(lag.percentile(90)));
      p99.set(seconds(lag.percentile(99)));
      lag.reset();
    };
    const lastSeconds = (): number => this.#lastMs / 1000;
    // One metric's `collect` sets them all: each scrape begins the next period once.
    new Gauge({
      name: 'nodejs_eventloop_lag_seconds',
      help: 'Lag of event loop in seconds.',
      registers,
      aggregator: 'average',
      collect() {
        sample();
        this.set(lastSeconds());
      },
    });
  }
}
