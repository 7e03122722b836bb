/** Reads what a running node says of itself at GET /metrics. */

export interface NodeMetrics {
  /** Synced storage batches since the start. */
  readonly syncs: number;
  /** Milliseconds spent in them. */
  readonly syncMs: number;
  /** Messages acknowledged through this node. */
  readonly appended: number;
  /** Longest and 99th percentile delay of the event loop, ms, since the scrape before; without the interval of its sampling. */
  readonly loopLagMaxMs: number;
  readonly loopLagP99Ms: number;
  readonly levelZeroFiles: number;
  /** Messages that left hot storage by commands of this node. */
  readonly trimmed: number;
}

/** Sum of a metric over its labels; 0 when it is not there. */
function sumOf(text: string, name: string): number {
  let sum = 0;
  for (const [, value] of text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))) sum += Number(value);
  return sum;
}

/** Asks every node at once. Throws where one does not answer. */
export async function scrape(urls: readonly string[]): Promise<NodeMetrics[]> {
  return Promise.all(
    urls.map(async (url) => {
      const response = await fetch(`${url}/metrics`);
      const text = await response.text();
      if (!response.ok) throw new Error(`${url}/metrics answered ${response.status}`);
      return {
        syncs: sumOf(text, 'fastpaca_fsync_duration_ms_count'),
        syncMs: sumOf(text, 'fastpaca_fsync_duration_ms_sum'),
        appended: sumOf(text, 'fastpaca_messages_append_total'),
        loopLagMaxMs: sumOf(text, 'nodejs_eventloop_lag_max_seconds') * 1000,
        loopLagP99Ms: sumOf(text, 'nodejs_eventloop_lag_p99_seconds') * 1000,
        levelZeroFiles: sumOf(text, 'fastpaca_storage_level0_files'),
        trimmed: sumOf(text, 'fastpaca_archive_trimmed_total'),
      };
    }),
  );
}
