/** Recent samples of devices and instances as [time, value] points. Pure. */

export const SPAN_S = 300;

/** Field of a device or an instance -> the metric with its history, and the factor from metric to field. */
export const DEVICE_TRENDS = {
  memory_used_bytes: { metric: "yard_device_memory_used_bytes", factor: 1 },
  utilization_pct: { metric: "yard_device_utilization_ratio", factor: 100 },
  temperature_c: { metric: "yard_device_temperature_celsius", factor: 1 },
  power_w: { metric: "yard_device_power_watts", factor: 1 },
};
export const ACTIVITY_TRENDS = {
  prompt_tokens_per_s: { metric: "yard_instance_prompt_tokens_per_second", factor: 1 },
  completion_tokens_per_s: { metric: "yard_instance_completion_tokens_per_second", factor: 1 },
};
const ALL = { ...DEVICE_TRENDS, ...ACTIVITY_TRENDS };

export const METRICS = Object.values(ALL).map(({ metric }) => metric);

/** `samples`: the newest sample by key, null for a removed one. */
export function appendSamples(trends, samples, fields) {
  const next = { ...trends };
  for (const [key, sample] of Object.entries(samples)) {
    if (sample === null) delete next[key];
    else next[key] = extendLines(next[key] ?? {}, sample, fields);
  }
  return next;
}

function extendLines(lines, sample, fields) {
  const at = sample.sampled_at;
  const next = { ...lines };
  for (const field of Object.keys(fields)) {
    const value = sample[field];
    const line = next[field] ?? [];
    if (typeof value !== "number" || (line.length > 0 && line.at(-1)[0] >= at)) continue;
    next[field] = [...line.filter(([time]) => time > at - SPAN_S), [at, value]];
  }
  return next;
}

/** Adds the points of a `metrics.query` reply that are older than the known ones. */
export function prependHistory(trends, { since, step_s: stepS, series }) {
  const next = { ...trends };
  for (const { name, labels, avg } of series) {
    const key = labels.instance_id ?? `${labels.node}.${labels.device}`;
    const [field, { factor }] = Object.entries(ALL).find(([, { metric }]) => metric === name) ?? [null, {}];
    if (field === null || !next[key]) continue;
    const line = next[key][field] ?? [];
    const first = line[0]?.[0] ?? Infinity;
    const older = avg.flatMap((value, index) => {
      const at = since + (index + 0.5) * stepS;
      return value === null || at >= first ? [] : [[at, value * factor]];
    });
    next[key] = { ...next[key], [field]: [...older, ...line] };
  }
  return next;
}
