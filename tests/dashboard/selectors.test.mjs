import assert from "node:assert/strict";
import { test } from "node:test";

import { conversation, readChunk } from "../../services/gateway/dashboard/chat.js";
import { chatModel, firingAlerts, modelStatus, nodesWithDevices, sortedDownloads, summary } from "../../services/gateway/dashboard/selectors.js";
import { initialState } from "../../services/gateway/dashboard/store.js";

const model = (name, more = {}) => ({ name, aliases: [], mode: "chat", ...more });
const instance = (id, state, more = {}) =>
  ({ instance: id, model: "m", state, changed_at: 1, slots: 4, busy: 1, ...more });
const withInstances = (...instances) =>
  ({ ...initialState, models: { m: model("m") }, instances: Object.fromEntries(instances.map((i) => [i.instance, i])) });

test("a model has the status of its best instance", () => {
  const stateOf = (...instances) => modelStatus(withInstances(...instances), "m").state;
  assert.equal(stateOf(), "stopped");
  assert.equal(stateOf(instance("a", "stopped")), "stopped");
  assert.equal(stateOf(instance("a", "failed")), "failed");
  assert.equal(stateOf(instance("a", "failed", { changed_at: 9 }), instance("b", "loading")), "loading");
  assert.equal(stateOf(instance("a", "draining"), instance("b", "ready")), "ready");
  assert.equal(stateOf(instance("a", "failed"), instance("b", "stopped", { changed_at: 9 })), "stopped");
});

test("slots are summed over ready instances", () => {
  const status = modelStatus(withInstances(instance("a", "ready"), instance("b", "ready", { busy: 3 })), "m");
  assert.deepEqual([status.busy, status.slots], [4, 8]);
});

test("the chat model is the chosen one, then demo, by name or alias, then a ready one", () => {
  const models = { x: model("a"), y: model("zoo", { aliases: ["demo"] }), z: model("e", { mode: "embedding" }) };
  const state = { ...initialState, models };
  assert.equal(chatModel(state), "zoo");
  assert.equal(chatModel({ ...state, chat: { ...state.chat, model: "a" } }), "a");
  assert.equal(chatModel({ ...state, chat: { ...state.chat, model: "gone" } }), "zoo");
  assert.equal(chatModel({ ...withInstances(instance("a", "ready")), models: { x: model("a"), m: model("m") } }), "m");
  assert.equal(chatModel(initialState), null);
});

test("running downloads come first, newest first", () => {
  const downloads = { a: { state: "failed", created_at: 9 }, b: { state: "queued", created_at: 1 }, c: { state: "transferring", created_at: 2 } };
  assert.deepEqual(sortedDownloads({ downloads }).map((d) => d.created_at), [2, 1, 9]);
});

test("a device without a node record is shown, and GPUs come first", () => {
  const devices = {
    "n.cpu": { node: "n", device: "cpu", kind: "cpu", name: "A" }, "n.g": { node: "n", device: "g", kind: "gpu", name: "Z" },
  };
  const [entry] = nodesWithDevices({ nodes: {}, devices });
  assert.deepEqual([entry.name, entry.node, entry.devices.map((d) => d.kind)], ["n", null, ["gpu", "cpu"]]);
});

test("the summary counts models by status", () => {
  const counts = summary(withInstances(instance("a", "ready"), instance("b", "failed", { model: "gone" })));
  assert.deepEqual([counts.models, counts.ready, counts.failed, counts.busy, counts.slots], [1, 1, 0, 1, 4]);
});

test("turns without an answer are not sent again", () => {
  const turns = [
    { role: "user", text: "one" }, { role: "assistant", text: "" },
    { role: "user", text: "two" }, { role: "assistant", text: "answer" },
  ];
  assert.deepEqual(conversation(turns, "three"), [
    { role: "user", content: "two" }, { role: "assistant", content: "answer" }, { role: "user", content: "three" },
  ]);
});

test("a chunk may have text, thinking, a token count, an error, or none of them", () => {
  assert.equal(readChunk({ choices: [{ delta: { content: "a" } }] }).text, "a");
  assert.equal(readChunk({ choices: [{ delta: { reasoning_content: "b" } }] }).thinking, "b");
  assert.equal(readChunk({ choices: [], usage: { completion_tokens: 3 } }).tokens, 3);
  assert.equal(readChunk({ error: { message: "broke" } }).error, "broke");
  assert.deepEqual(readChunk({}), { text: "", thinking: "", tokens: null, error: null });
});

test("firing alerts are sorted by severity, silenced ones apart", () => {
  const alert = (id, severity, more = {}) => ({ alert: id, severity, state: "firing", since: 1, ...more });
  const alerts = [
    alert("a", "info"),
    alert("b", "critical"),
    alert("c", "warning"),
    alert("d", "warning", { since: 2 }),
    alert("e", "critical", { silenced: "s" }),
    alert("f", "critical", { state: "pending" }),
    alert("g", "critical", { state: "resolved" }),
  ];
  const state = { ...initialState, alert_states: Object.fromEntries(alerts.map((record) => [record.alert, record])) };
  const { active, silenced } = firingAlerts(state);
  assert.deepEqual(active.map(({ alert }) => alert), ["b", "d", "c", "a"]);
  assert.deepEqual(silenced.map(({ alert }) => alert), ["e"]);
});
