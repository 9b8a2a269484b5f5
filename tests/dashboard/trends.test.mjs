import assert from "node:assert/strict";
import { test } from "node:test";

import { spark } from "../../services/gateway/dashboard/components/spark.js";
import { initialState, reduce } from "../../services/gateway/dashboard/store.js";
import { SPAN_S, prependHistory } from "../../services/gateway/dashboard/trends.js";

const device = (at, fields) => ({ "n.gpu": { node: "n", device: "gpu", sampled_at: at, ...fields } });
const send = (state, type, data) => reduce(state, { type, data });

test("every sample of a device adds a point, and old points are dropped", () => {
  let state = send(initialState, "snapshot", { devices: device(1000, { power_w: 10, temperature_c: null }) });
  state = send(state, "delta", { devices: device(1001, { power_w: 20, temperature_c: null }) });
  assert.deepEqual(state.trends["n.gpu"].power_w, [[1000, 10], [1001, 20]]);
  assert.equal(state.trends["n.gpu"].temperature_c, undefined, "a sensor without a value has no line");
  state = send(state, "delta", { devices: device(1000 + SPAN_S, { power_w: 30 }) });
  assert.deepEqual(state.trends["n.gpu"].power_w.map(([, watts]) => watts), [20, 30]);
});

test("a repeated sample is one point, and a removed device has no line", () => {
  let state = send(initialState, "snapshot", { devices: device(1000, { power_w: 10 }) });
  state = send(state, "delta", { devices: device(1000, { power_w: 10 }) });
  assert.equal(state.trends["n.gpu"].power_w.length, 1);
  state = send(state, "delta", { devices: { "n.gpu": null } });
  assert.deepEqual(state.trends, {});
});

test("activity is stored by instance", () => {
  const activity = { i1: { instance: "i1", sampled_at: 5, completion_tokens_per_s: 40 } };
  const state = send(initialState, "delta", { activity });
  assert.deepEqual(state.trends.i1.completion_tokens_per_s, [[5, 40]]);
});

test("history is prepended and never replaces points", () => {
  const trends = { "n.gpu": { utilization_pct: [[1015, 50]] } };
  const labels = { node: "n", device: "gpu" };
  const series = [{ name: "yard_device_utilization_ratio", labels, avg: [0.1, null, 0.3, 0.4] }];
  const next = prependHistory(trends, { since: 990, step_s: 10, series });
  assert.deepEqual(next["n.gpu"].utilization_pct, [[995, 10], [1015, 50]]);
  const unknown = prependHistory(trends, { since: 0, step_s: 10, series: [{ name: "yard_other", labels, avg: [1] }] });
  assert.deepEqual(unknown, trends);
});

test("a sparkline needs two points, stays in its box, and has a label", () => {
  assert.equal(spark("Heat", [[1, 50]], { now: 1, spanS: 300 }), "");
  const drawn = String(spark("Heat", [[100, 0], [250, 50], [400, 900]], { now: 400, spanS: 300, top: 100 }));
  assert.match(drawn, /aria-label="Heat, the last 5 minutes"/);
  const points = drawn.match(/points="([^"]*)"/)[1].split(" ").map((pair) => pair.split(",").map(Number));
  assert.deepEqual(points.map(([x]) => x), [0, 60, 120]);
  for (const [, y] of points) assert.ok(y >= 0 && y <= 22);
});
