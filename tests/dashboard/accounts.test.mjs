import assert from "node:assert/strict";
import { test } from "node:test";

import { initialState, reduce } from "../../services/gateway/dashboard/store.js";
import { view } from "../../services/gateway/dashboard/views/accounts.js";

const sums = { prompt_tokens: 10, completion_tokens: 5, cost: "1.5", requests: 2 };
const week = {
  rows: [{ ...sums, at: 86400, model: "<a>" }],
  total: sums,
  buckets: [0, 86400],
  tz: "UTC",
  currency: "EUR",
};

test("usage is shown by model and day, and a day without requests is a dash", () => {
  const state = reduce(initialState, { type: "week", data: week });
  const text = String(view(state));
  assert.match(text, /&lt;a&gt;/);
  assert.match(text, /2 · 15 tok<br>1\.50 EUR/);
  assert.match(text, /<td class="muted">–<\/td>/);
  assert.match(text, /1\.50 EUR in a week/);
});

test("an exhausted budget shows that requests are refused", () => {
  const budget = {
    budget: "b", unit: "money", used: "20", limit: "20", ratio: 1, level: "exhausted", action: "refuse",
    period: "month", key: "k", model: null,
  };
  const state = reduce(initialState, { type: "delta", data: { spending: { b: budget } } });
  assert.match(String(view(state)), /used up: refused until it ends/);
  assert.match(String(view(initialState)), /Waiting for the yard/, "unknown usage is not shown as none");
  const nothing = reduce(initialState, { type: "week", data: { ...week, rows: [] } });
  assert.match(String(view(nothing)), /No requests in the last week/);
});
