/** The last minutes of devices and instances, as points of time and value. Pure. */

export const SPAN_S = 300;

/** Field of a device or an instance -> the metric that tells its past, and how one follows from the other. */
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

/** `samples`: by key, the newest of each, null for one that is gone. */
export function follow(trends, samples, fields) {
  const next = { ...trends };
  for (const [key, sample] of Object.entries(samples)) {
    if (sample === null) delete next[key];
    else next[key] = grown(next[key] ?? {}, sample, fields);
  }
  return next;
}

function grown(lines, sample, fields) {
  const at = sample.sampled_at;
  const next = { ...lines };
  for (const field of Object.keys(fields)) {
    const value = sample[field];
    const line = next[field] ?? [];
    if (typeof value !== "number" || (line.length > 0 && line.at(-1)[0] >= at)) continue;
    next[field] = [...line.filter(([then]) => then > at - SPAN_S), [at, value]];
  }
  return next;
}

/** What an answer of `metrics.query` says of the time before the points that are there. */
export function withPast(trends, { since, step_s: stepS, series }) {
  const next = { ...trends };
  for (const { name, labels, avg } of series) {
    const key = labels.instance_id ?? `${labels.node}.${labels.device}`;
    const [field, { factor }] = Object.entries(ALL).find(([, { metric }]) => metric === name) ?? [null, {}];
    if (field === null || !next[key]) continue;
    const line = next[key][field] ?? [];
    const first = line[0]?.[0] ?? Infinity;
    const past = avg.flatMap((value, index) => {
      const at = since + (index + 0.5) * stepS;
      return value === null || at >= first ? [] : [[at, value * factor]];
    });
    next[key] = { ...next[key], [field]: [...past, ...line] };
  }
  return next;
}
