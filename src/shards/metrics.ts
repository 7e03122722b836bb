/**
 * How figures of several shards make one of their node. Most add up; some speak of the process or the machine, and every
 * shard says the same; of some the worst counts.
 */
import type { MetricObject } from 'prom-client';

type Rule = 'first' | 'min' | 'max';

/** What neither adds up nor has a rule of its own (prom-client's own metrics bring theirs). */
const RULES: Readonly<Record<string, Rule>> = {
  // Groups and peers are counted by each shard, and each shard has a link to every peer.
  fastpaca_peers_up: 'min',
  fastpaca_tls_certificate_expires_seconds: 'min',
  fastpaca_storage_level0_files: 'max',
  fastpaca_disk_free_bytes: 'min',
};

/** The same metrics, each saying how it is aggregated. Throws RangeError for what are none. */
export function mergeMetrics(metrics: unknown): MetricObject[] {
  if (!isMetrics(metrics)) throw new RangeError('these are no metrics');
  return metrics.map((metric) => {
    const rule = RULES[metric.name] ?? (metric.name.startsWith('process_') ? 'first' : null);
    return rule === null ? metric : { ...metric, aggregator: rule };
  });
}

function isMetrics(value: unknown): value is MetricObject[] {
  return Array.isArray(value) && value.every((metric: unknown) => typeof metric === 'object' && metric !== null && 'name' in metric && 'values' in metric);
}
