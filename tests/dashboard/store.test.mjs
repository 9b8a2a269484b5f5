import assert from "node:assert/strict";
import { test } from "node:test";

import { initialState, LOG_LINES, reduce } from "../../services/gateway/dashboard/store.js";
import { view as top } from "../../services/gateway/dashboard/views/top.js";

const run = (state, ...messages) =>
  messages.reduce((current, [type, data]) => reduce(current, { type, data }), state);

const snapshot = (data) => ["snapshot", { models: {}, instances: {}, nodes: {}, devices: {}, downloads: {}, ...data }];

test("a snapshot replaces all buckets", () => {
  const before = run(initialState, snapshot({ models: { old: { name: "old" } }, devices: { "n.cpu": {} } }));
  const after = run(before, snapshot({ models: { new: { name: "new" } } }));
  assert.deepEqual(Object.keys(after.models), ["new"]);
  assert.deepEqual(after.devices, {});
  assert.equal(after.loaded, true);
});

test("a delta adds, changes and, with null, removes records", () => {
  const state = run(
    initialState,
    snapshot({ instances: { a: { busy: 0 }, b: { busy: 0 } } }),
    ["delta", { instances: { a: { busy: 1 }, b: null, c: { busy: 2 } } }],
  );
  assert.deepEqual(state.instances, { a: { busy: 1 }, c: { busy: 2 } });
});

test("a delta keeps other buckets identical, so their panels are not painted again", () => {
  const before = run(initialState, snapshot({ models: { m: { name: "m" } } }));
  const after = run(before, ["delta", { downloads: { d: {} } }]);
  assert.equal(after.models, before.models);
  assert.notEqual(after.downloads, before.downloads);
});

test("the reducer changes nothing in place", () => {
  const before = Object.freeze(run(initialState, snapshot({ models: Object.freeze({ m: {} }) })));
  run(before, ["delta", { models: { m: null } }], ["tick", { now: 5 }], ["pending", { name: "x" }]);
  assert.deepEqual(before.models, { m: {} });
  assert.deepEqual(before.pending, {});
});

test("a key named __proto__ is an ordinary key", () => {
  const state = run(initialState, ["delta", JSON.parse('{"models": {"__proto__": {"name": "evil"}}}')]);
  assert.equal({}.name, undefined);
  assert.equal(Object.values(state.models)[0].name, "evil");
});

test("messages of unknown type change nothing", () => {
  for (const type of ["queue", "constructor", "toString", undefined]) {
    assert.equal(reduce(initialState, { type, data: {} }), initialState);
  }
});

test("only the newest lines of the chosen log are retained, each with its own id", () => {
  const lines = (n) => Array.from({ length: n }, (_, index) => ({ at: index, text: `line ${index}` }));
  const chosen = run(initialState, ["logs", { instance: "a" }]);
  assert.equal(run(chosen, ["log", { instance: "b", lines: lines(1) }]), chosen);
  const full = run(chosen, ["log", { instance: "a", lines: lines(LOG_LINES) }], ["log", { instance: "a", lines: lines(5) }]);
  assert.equal(full.logs.lines.length, LOG_LINES);
  assert.equal(full.logs.lines.at(-1).text, "line 4");
  assert.equal(new Set(full.logs.lines.map((line) => line.id)).size, LOG_LINES);
});

test("another log starts empty and follows; a new connection clears the lines", () => {
  const reading = run(initialState, ["logs", { instance: "a" }], ["log", { instance: "a", lines: [{ at: 1, text: "x" }] }], ["follow", { follow: false }]);
  assert.deepEqual(run(reading, ["logs", { instance: "b" }]).logs.lines, []);
  assert.equal(run(reading, ["logs", { instance: "b" }]).logs.follow, true);
  const reopened = run(reading, ["connection", { status: "open" }]);
  assert.deepEqual([reopened.logs.instance, reopened.logs.lines], ["a", []]);
});

test("a new connection status clears the fields of the last one", () => {
  const state = run(initialState, ["connection", { status: "waiting", retryAt: 9 }], ["connection", { status: "open" }]);
  assert.deepEqual(state.connection, { status: "open", retryAt: null, refused: false, broker: true });
});

test("a command is pending until it is settled", () => {
  const state = run(initialState, ["pending", { name: "start demo" }]);
  assert.ok(state.pending["start demo"]);
  assert.deepEqual(run(state, ["settled", { name: "start demo" }]).pending, {});
});

test("the same toast is shown once, the newest four stay, and one can be dismissed", () => {
  const toasts = ["a", "b", "a", "c", "d", "e"].map((text, id) => ["toast", { id, tone: "bad", text }]);
  const state = run(initialState, ...toasts);
  assert.deepEqual(state.toasts.map((toast) => toast.text), ["a", "c", "d", "e"]);
  assert.equal(run(state, ["dismiss", { id: 5 }]).toasts.length, 3);
});

test("a conversation streams into its last turn and ends", () => {
  const state = run(
    initialState,
    ["chatSend", { text: "hi", model: "demo" }],
    ["chatNote", { note: "2nd in line" }],
    ["chatDelta", { text: "Hel" }],
    ["chatDelta", { text: "lo" }],
    ["chatEnd", { stats: "2 tokens" }],
  );
  const turn = state.chat.turns.at(-1);
  assert.deepEqual([turn.text, turn.note, turn.stats, state.chat.busy], ["Hello", null, "2 tokens", false]);
});

test("without a broker the page shows that its state is stale", () => {
  const open = reduce(initialState, { type: "connection", data: { status: "open" } });
  const withoutBroker = reduce(open, { type: "broker", data: { connected: false } });
  assert.match(String(top({ ...open, loaded: true })), /Live/);
  assert.match(String(top({ ...withoutBroker, loaded: true })), /broker is unreachable/);
  assert.match(String(top(reduce(withoutBroker, { type: "broker", data: { connected: true } }))), /Live/);
  assert.ok(reduce(withoutBroker, { type: "connection", data: { status: "open" } }).connection.broker, "a new connection resets the broker state");
});
